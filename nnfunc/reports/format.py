"""How numbers are written in reports, tables and progress bars."""

from collections.abc import Mapping
from typing import Any

__all__ = ["format_clock", "format_labelled", "format_metric", "format_settings", "sort_metrics"]

SHARES = ("accuracy",)


def sort_metrics(metrics: dict[str, float]) -> list[tuple[str, float]]:
    """The figures with the loss first, then by name."""
    return sorted(metrics.items(), key=lambda item: (item[0] != "loss", item[0]))


def format_metric(name: str, value: float) -> str:
    """A figure in words: shares in percent."""
    return f"{value:.2%}" if name in SHARES else f"{value:.4g}"


def format_labelled(label: str, value: float, name: str | None = None) -> str:
    """A figure with its label."""
    return f"{label} {format_metric(name or label, value)}"


def format_clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def format_settings(settings: Mapping[str, Any]) -> str:
    """Settings in one line: schedule.peak=0.0123 seed=3."""
    short = lambda v: f"{v:.4g}" if isinstance(v, float) else str(v)
    return " ".join(f"{name}={short(value)}" for name, value in settings.items())
