"""The curves of a run, by matplotlib."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.runs import metrics_log
from nnfunc.runs.diagnostics import UPDATE
from nnfunc.runs.metrics_log import Row

__all__ = ["plot_curves", "plot_speed"]

TRAIN, HELD_OUT, LINE = "#8a96a3", "#1f5fbf", "#c23b4b"
EVENTS = ("#d9782d", "#a24fb0", "#2aa3a3", "#9a8a2a", "#c23b4b")
LOW, HIGH = 1e-45, 1e39  # a little more than float32 holds
FIRST = ("loss", "accuracy", "learning_rate", "gradient_norm")
SPEED = {  # how each is shown: factor and title
    "examples_per_second": (1, "examples per second"),
    "tokens_per_second": (1, "tokens per second"),
    "memory_mb": (1, "memory, MB"),
    "flops_per_second": (1e-9, "GFLOP per second"),
    "utilisation": (100, "utilisation of the peak, %"),
}


def plot_curves(rows: list[Row], path: Path, best: int | None = None) -> None:
    """Draw the metrics over the steps: training and held-out ones, learning rate, gradient norm.

    best: the step of the best checkpoint, marked by a dotted line. Events, such as a rollback, are
    dashed lines through every panel.
    """
    known = {*metrics_log.names(rows, "train"), *metrics_log.names(rows, "validation")} - set(SPEED)
    names = [n for n in FIRST if n in known] + sorted(known - set(FIRST))
    updates = metrics_log.layers(rows, "parameters", "update_ratio")
    count = len(names) + bool(updates.paths)
    figure, axes = _figure(count, columns=2, height=3.1)
    events = metrics_log.events(rows)
    for name, axis in zip(names, axes, strict=False):
        _panel(axis, rows, name, best)
        _events(axis, events)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(frameon=False, fontsize=8)
    if updates.paths:
        _updates(axes[len(names)], updates)
        _events(axes[len(names)], events)
        axes[len(names)].legend(frameon=False, fontsize=8)
    temporary = path.with_name("curves.tmp.png")
    figure.savefig(temporary)
    temporary.replace(path)


def plot_speed(rows: list[Row]) -> bytes | None:
    """A PNG of throughput, memory and utilisation; None when the rows hold none of them."""
    known = metrics_log.names(rows, "train")
    names = [name for name in SPEED if name in known]
    if not names:
        return None
    figure, axes = _figure(len(names), columns=3, height=2.2)
    events = metrics_log.events(rows)
    for name, axis in zip(names, axes, strict=False):
        factor, title = SPEED[name]
        steps, values = _drawable(rows, "train", name)
        axis.plot(steps, factor * values, color=HELD_OUT, lw=1.2, marker=_marker(steps))
        axis.set_ylim(0, max(1.15 * factor * float(values.max()), 1e-12))
        axis.set_title(title, fontsize=9, loc="left")
        _events(axis, events)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _panel(axis: Any, rows: list[Row], name: str, best: int | None) -> None:
    """One figure over the steps."""
    lowest, highest, held_out = np.inf, -np.inf, False
    for split, colour, width in (("train", TRAIN, 1.2), ("validation", HELD_OUT, 1.8)):
        steps, values = _drawable(rows, split, name)
        if len(steps):
            label = None if name in ("learning_rate", "gradient_norm") else split
            axis.plot(steps, values, color=colour, lw=width, marker=_marker(steps), label=label)
            lowest, highest = min(lowest, values.min()), max(highest, values.max())
            held_out |= split == "validation"
    if held_out and best is not None:
        axis.axvline(best, color=HELD_OUT, lw=0.9, ls=":", label="best checkpoint")
    if name in ("loss", "gradient_norm") and lowest > LOW and highest > 20 * lowest:
        axis.set_yscale("log")
    axis.set_title(name.replace("_", " "), fontsize=10, loc="left")


def _drawable(rows: list[Row], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A series, huge values cut to what matplotlib has room for."""
    steps, values = metrics_log.series(rows, split, name)
    return steps, values.clip(-HIGH, HIGH)


def _updates(axis: Any, updates: metrics_log.Layers) -> None:
    """The sizes of the updates: the median of the layers, where most lie, and the usual size."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of columns that hold nothing
        low, middle, high = np.nanquantile(updates.values.clip(0, HIGH), (0.1, 0.5, 0.9), axis=0)
    fine = (low > LOW) & np.isfinite(high)
    steps = updates.steps[fine]
    axis.fill_between(steps, low[fine], high[fine], color=HELD_OUT, alpha=0.18, lw=0, label="four fifths")
    marker = _marker(steps)
    axis.plot(steps, middle[fine], color=HELD_OUT, lw=1.6, marker=marker, label="median layer")
    axis.axhline(UPDATE, color=LINE, lw=1, ls="--", label=f"{UPDATE:g}")
    axis.set_yscale("log")
    axis.set_title("update-to-weight ratio of the layers", fontsize=10, loc="left")


def _events(axis: Any, events: list[metrics_log.Event]) -> None:
    """A dashed line for each event, one colour a kind."""
    kinds = list(dict.fromkeys(event.name for event in events))
    for event in events[:200]:
        place = kinds.index(event.name)
        first = event is next(e for e in events if e.name == event.name)
        label = _plain(event.name) if first and place < len(EVENTS) else None
        colour = EVENTS[min(place, len(EVENTS) - 1)]
        axis.axvline(event.step, color=colour, lw=1, ls="--", alpha=0.8, label=label, zorder=1)


def _plain(text: str) -> str:
    """A label that is drawn as it is: without mathematics, not hidden by a first underscore."""
    return text[:40].replace("$", r"\$").lstrip("_") or "event"


def _marker(steps: np.ndarray) -> str | None:
    return "o" if len(steps) < 3 else None


def _figure(count: int, *, columns: int, height: float) -> tuple[Any, np.ndarray]:
    """A figure with so many panels, in rows."""
    from matplotlib.figure import Figure

    lines = max(-(-count // columns), 1)
    figure = Figure(figsize=(10, height * lines), dpi=110, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for place, axis in enumerate(axes):
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.25, lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_visible(place < count)
    return figure, axes
