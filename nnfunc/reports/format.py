"""The formats of numbers in reports, tables and progress bars."""

from collections.abc import Iterable, Mapping
from typing import Any

PERCENTAGES = ("accuracy",)


def sort_names(names: Iterable[str]) -> list[str]:
    """The `names` of metrics: loss, accuracy, then the others by name."""
    return sorted(names, key=lambda name: (name != "loss", name != "accuracy", name))


def sort_metrics(metrics: dict[str, float]) -> list[tuple[str, float]]:
    """The names and values of the `metrics`, in the order of `sort_names`."""
    return [(name, metrics[name]) for name in sort_names(metrics)]


def format_metric(name: str, value: float) -> str:
    """The value of the metric `name`: an accuracy in percent, others with 4 digits."""
    return f"{value:.2%}" if name in PERCENTAGES else f"{value:.4g}"


def format_labelled(label: str, value: float, name: str | None = None) -> str:
    """A label and the value of the metric `name`, by default the label itself."""
    return f"{label} {format_metric(name or label, value)}"


def format_settings(settings: Mapping[str, Any]) -> str:
    """The settings in one line: schedule.peak=0.0123 seed=3."""
    text = lambda value: f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(f"{name}={text(value)}" for name, value in settings.items())
