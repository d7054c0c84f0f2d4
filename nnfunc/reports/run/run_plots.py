"""The curves of a run, drawn by matplotlib."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.reports.figures import (
    ACCENTS,
    ALERT,
    HIGH,
    LOW,
    TITLE,
    TRAIN,
    VALIDATION,
    escape_label,
    make_figure,
    png_bytes,
    save_figure,
)
from nnfunc.runs import metrics_log
from nnfunc.runs.diagnostics import UPDATE
from nnfunc.runs.metrics_log import Row

__all__ = ["plot_curves", "plot_speed"]

FIRST = ("loss", "accuracy", "learning_rate", "gradient_norm")
SPEED = {  # name -> (factor, title)
    "examples_per_second": (1, "examples per second"),
    "tokens_per_second": (1, "tokens per second"),
    "memory_mb": (1, "memory (MB)"),
    "flops_per_second": (1e-9, "GFLOP per second"),
    "utilisation": (100, "utilisation (% of the peak)"),
}


def plot_curves(rows: list[Row], path: Path, best: int | None = None) -> None:
    """Plot the metrics in rows over the steps: of training and validation, learning rate, gradient norm.

    path: the PNG to write. best: the step of the best checkpoint, marked by a dotted line. Events, such
    as a rollback, are dashed lines in every panel.
    """
    known = {*metrics_log.metric_names(rows, "train"), *metrics_log.metric_names(rows, "validation")} - set(SPEED)
    names = [name for name in FIRST if name in known] + sorted(known - set(FIRST))
    updates = metrics_log.layer_series(rows, "parameters", "update_ratio")
    count = len(names) + bool(updates.paths)
    figure, panels = make_figure(count, columns=2, height=3.1, xlabel="step")
    for name, panel in zip(names, panels, strict=False):
        _plot_metric(panel, rows, name, best)
    if updates.paths:
        _plot_updates(panels[len(names)], updates)
    events = metrics_log.event_rows(rows)
    for panel in panels[:count]:
        _mark_events(panel, events)
        if panel.get_legend_handles_labels()[1]:
            panel.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def plot_speed(rows: list[Row]) -> bytes | None:
    """A PNG of throughput, memory and utilisation; None when the rows have none of them."""
    known = metrics_log.metric_names(rows, "train")
    names = [name for name in SPEED if name in known]
    if not names:
        return None
    figure, panels = make_figure(len(names), columns=3, height=2.2, xlabel="step")
    events = metrics_log.event_rows(rows)
    for name, panel in zip(names, panels, strict=False):
        factor, title = SPEED[name]
        steps, values = _series(rows, "train", name)
        panel.plot(steps, factor * values, color=VALIDATION, lw=1.2, marker=_marker(steps))
        panel.set_ylim(0, max(1.15 * factor * float(values.max()), 1e-12))
        panel.set_title(title, fontsize=9, loc="left")
        _mark_events(panel, events)
    return png_bytes(figure)


def _plot_metric(panel: Any, rows: list[Row], name: str, best: int | None) -> None:
    """One metric of both splits over the steps."""
    lowest, highest, has_validation = np.inf, -np.inf, False
    for split, color, width in (("train", TRAIN, 1.2), ("validation", VALIDATION, 1.8)):
        steps, values = _series(rows, split, name)
        if len(steps):
            label = None if name in ("learning_rate", "gradient_norm") else split
            panel.plot(steps, values, color=color, lw=width, marker=_marker(steps), label=label)
            lowest, highest = min(lowest, values.min()), max(highest, values.max())
            has_validation |= split == "validation"
    if has_validation and best is not None:
        panel.axvline(best, color=VALIDATION, lw=0.9, ls=":", label="best checkpoint")
    if name in ("loss", "gradient_norm") and lowest > LOW and highest > 20 * lowest:
        panel.set_yscale("log")
    panel.set_title(name.replace("_", " "), **TITLE)


def _series(rows: list[Row], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and values of a metric, clipped to what matplotlib can draw."""
    steps, values = metrics_log.metric_series(rows, split, name)
    return steps, values.clip(-HIGH, HIGH)


def _plot_updates(panel: Any, updates: metrics_log.LayerSeries) -> None:
    """The update-to-weight ratios: the median of the layers, the range of most, and the usual size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of steps without a value
        low, middle, high = np.nanquantile(updates.values.clip(0, HIGH), (0.1, 0.5, 0.9), axis=0)
    is_drawable = (low > LOW) & np.isfinite(high)
    steps, low, middle, high = (array[is_drawable] for array in (updates.steps, low, middle, high))
    panel.fill_between(steps, low, high, color=VALIDATION, alpha=0.18, lw=0, label="80 % of the layers")
    panel.plot(steps, middle, color=VALIDATION, lw=1.6, marker=_marker(steps), label="median layer")
    panel.axhline(UPDATE, color=ALERT, lw=1, ls="--", label=f"usual size, {UPDATE:g}")
    panel.set_yscale("log")
    panel.set_title("update-to-weight ratio of the layers", **TITLE)


def _mark_events(panel: Any, events: list[metrics_log.Event]) -> None:
    """A dashed line for each event, in the colour of its name."""
    names = list(dict.fromkeys(event.name for event in events))
    labels = {name: escape_label(name) for name in names[: len(ACCENTS)]}
    for event in events[:200]:
        color = ACCENTS[min(names.index(event.name), len(ACCENTS) - 1)]
        label = labels.pop(event.name, None)  # once for each name
        panel.axvline(event.step, color=color, lw=1, ls="--", alpha=0.8, label=label, zorder=1)


def _marker(steps: np.ndarray) -> str | None:
    return "o" if len(steps) < 3 else None
