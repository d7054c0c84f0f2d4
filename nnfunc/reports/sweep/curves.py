"""The learning curves of all trials of a sweep in one figure."""

from typing import Any

import numpy as np

from nnfunc.reports.figures import ACCENTS, ALERT, HIGH, LOW, TRAIN, VALIDATION, escape_label, make_figure
from nnfunc.reports.sweep.axes import axis_limits
from nnfunc.reports.sweep.report_data import SweepData
from nnfunc.sweeps.result import Result

__all__ = ["plot_curves"]

COLORS = (VALIDATION, ACCENTS[0], "#3a9a5b", *ACCENTS[1:3])  # of the best settings


def plot_curves(data: SweepData, result: Result) -> Any:
    """A Figure: the metric that ranks, and the training loss, of all trials in result over the steps.

    The best settings are in colour, with the mean over seeds as a thick line. A cross marks the last
    finite value of a diverged trial, a dot the end of one that a search stopped. data: of the same result.
    """
    names = list(dict.fromkeys(name for name in (data.rank, "train/loss") if name in result.curves))
    figure, panels = make_figure(len(names), columns=len(names), height=4, xlabel="step")
    for panel, name in zip(panels, names, strict=True):
        steps = result.steps[name.partition("/")[0]]
        curves = np.asarray(result.curves[name], np.float64).clip(-HIGH, HIGH)
        _plot_panel(panel, data, steps, curves, data.mode if name == data.rank else "min")
        panel.set_title(name.replace("/", " ").replace("_", " "), fontsize=10, loc="left")
    handles, labels = panels[0].get_legend_handles_labels()
    best = min(len(data.ranked), len(COLORS))  # drawn last to first
    handles, labels = (entries[:best][::-1] + entries[best:] for entries in (handles, labels))
    figure.legend(handles, labels, loc="outside lower left", fontsize=8, frameon=False)
    return figure


def _plot_panel(panel: Any, data: SweepData, steps: np.ndarray, curves: np.ndarray, mode: str) -> None:
    """One metric. curves: [trials, reports]."""
    from matplotlib.collections import LineCollection

    low, high = _set_limits(panel, curves[~data.diverged] if not data.diverged.all() else curves, mode)
    clipped = curves.clip(low, high)
    alpha = float(np.clip(20 / len(curves), 0.12, 0.6))
    lines = [np.stack([steps, curve], axis=1)[np.isfinite(curve)] for curve in clipped]  # each [reports, 2]
    panel.add_collection(LineCollection(lines, colors=TRAIN, linewidths=0.8, alpha=alpha))
    marker = None if any(len(line) > 1 for line in lines) else "o"
    for rank, trials in reversed(list(enumerate(data.ranked[: len(COLORS)]))):
        mean = clipped[trials].mean(axis=0)
        is_known = np.isfinite(mean)  # trials may report at different steps
        style: dict[str, Any] = {"color": COLORS[rank], "marker": marker}
        label = escape_label(f"{rank + 1}. {data.describe(trials[0])}", 140)
        panel.plot(steps[is_known], mean[is_known], lw=2, zorder=4, label=label, **style)
        if len(trials) > 1:
            panel.plot(steps[is_known], clipped[trials][:, is_known].T, lw=0.8, alpha=0.5, zorder=3, **style)
    for mask, label, style in (
        (data.stopped, "stopped early", {"marker": "o", "color": "#5c6770", "s": 7, "lw": 0}),
        (data.diverged, "diverged", {"marker": "x", "color": ALERT, "s": 26, "lw": 1}),
    ):
        ends = [lines[trial][-1] for trial in np.flatnonzero(mask) if len(lines[trial])]
        if ends:
            panel.scatter(*np.stack(ends, axis=1), alpha=0.7, zorder=5, label=label, **style)
    panel.margins(x=0.02)
    panel.autoscale_view()


def _set_limits(panel: Any, curves: np.ndarray, mode: str) -> tuple[float, float]:
    """Set the scale and the limits of the y axis, without a few far values, and return the limits."""
    known = curves[np.isfinite(curves)]
    if not len(known):
        return -np.inf, np.inf
    if mode == "min" and known.min() > LOW and known.max() > 20 * known.min():
        panel.set_yscale("log")
        low, high = axis_limits(np.log10(known), mode)
        pad = 0.04 * (high - low)
        panel.set_ylim(10 ** (low - pad), 10 ** (high + pad))
        return 10**low, 10**high
    low, high = axis_limits(known, mode)
    pad = 0.05 * (high - low) or 0.05 * abs(low) or 0.5
    panel.set_ylim(low - pad, high + pad)
    return low, high
