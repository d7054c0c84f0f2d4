"""Plots of a sweep's settings and scores, and what they share."""

from typing import Any

import numpy as np

from nnfunc.reports.figures import ACCENTS, ALERT, TRAIN, VALIDATION, escape_label, make_figure
from nnfunc.reports.sweep.axes import Axis
from nnfunc.reports.sweep.report_data import SweepData

__all__ = ["build_color_map", "jitter", "jitter_width", "plot_parallel", "plot_slices", "set_ticks"]

BEST = ACCENTS[0]


def plot_parallel(data: SweepData, axes: list[Axis]) -> Any:
    """A Figure of parallel coordinates: one line for each trial in data through its values on
    the axes to its score.

    Better scores are purple. Diverged trials are red and end beyond the worst score. Trials that a search
    stopped for good are grey, because their scores are from fewer steps.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba

    figure, (panel,) = make_figure(1, columns=1, height=4.4)
    panel.set_axis_off()
    axes = [*axes, data.score_axis]
    y: Any = np.stack([_spread(axis) for axis in axes], axis=1)  # [trials, axes]
    beyond_worst = -0.12 if data.mode == "max" else 1.12
    y[data.diverged, -1] = beyond_worst
    x = np.broadcast_to(np.arange(len(axes)), y.shape)
    merit = data.score_axis.fractions if data.mode == "max" else 1 - data.score_axis.fractions
    merit = np.where(np.isfinite(merit), merit, -1)  # 1 for the best
    order = np.argsort(merit, kind="stable")
    order = order[np.isfinite(y).all(axis=1)[order]]
    lines = np.stack([x, y], axis=2)[order]  # [trials, axes, 2]
    alpha = float(np.clip(25 / max(len(order), 1), 0.22, 0.85))
    colors = build_color_map()(np.clip(merit[order], 0, 1))
    colors[data.ranks_last[order]] = to_rgba(TRAIN)
    colors[data.diverged[order]] = to_rgba(ALERT)
    colors[:, 3] = np.where(data.diverged[order], min(alpha, 0.5), alpha)
    panel.add_collection(LineCollection(list(lines), colors=colors, linewidths=1.1))
    for trials in data.ranked[:1]:
        panel.plot(x[trials].T, y[trials].T, color=BEST, lw=2.4, zorder=3)
    for i, axis in enumerate(axes):
        _draw_axis(panel, i, axis, len(axes))
    if data.diverged.any():
        panel.text(len(axes) - 0.96, beyond_worst, "diverged", color=ALERT, fontsize=8, va="center")
    panel.set_xlim(-0.35, len(axes) - 0.6)
    panel.set_ylim(-0.16, 1.24)
    return figure


def plot_slices(data: SweepData, axes: list[Axis]) -> Any:
    """A Figure: the score of every trial in data over each of the axes, with medians where values are few."""
    figure, panels = make_figure(len(axes), columns=min(3, len(axes)), height=2.8)
    size = 22 if len(data.scores) < 100 else 9
    score_axis = data.score_axis
    worst = score_axis.low if data.mode == "max" else score_axis.high
    scores = np.clip(score_axis.positions, score_axis.low, score_axis.high)
    y = np.where(data.diverged, worst, scores)
    is_best = np.isin(np.arange(len(scores)), data.ranked[0] if data.ranked else [])
    series = (
        ("run", ~(data.stopped | is_best | data.diverged), {"color": VALIDATION, "alpha": 0.5, "s": size, "lw": 0}),
        ("stopped early", data.stopped, {"color": TRAIN, "alpha": 0.5, "s": size, "lw": 0}),
        ("diverged", data.diverged, {"color": ALERT, "marker": "x", "s": 24, "lw": 1}),
        ("best", is_best, {"color": BEST, "s": 48, "lw": 0, "zorder": 3}),
    )
    for panel, axis in zip(panels, axes, strict=False):
        x = axis.positions + jitter(len(scores)) * jitter_width(axis)
        for label, mask, style in series:
            if mask.any():
                panel.scatter(x[mask], y[mask], label=label, **style)
        for group in axis.groups:
            in_group = scores[(axis.positions == group) & np.isfinite(scores) & ~data.ranks_last]
            if len(in_group) > 1:
                ends = group - 1.6 * jitter_width(axis), group + 1.6 * jitter_width(axis)
                panel.plot(ends, 2 * [np.median(in_group)], color="#222", lw=1.8, label="median")
        set_ticks(panel.xaxis, axis, limit=6)
        set_ticks(panel.yaxis, score_axis, limit=6)
        panel.set_xlabel(escape_label(axis.name), fontsize=9)
    panels[0].set_title(score_axis.name, fontsize=10, loc="left")
    handles = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    return figure


def set_ticks(matplotlib_axis: Any, axis: Axis, limit: int) -> None:
    """Set at most `limit` ticks, and the limits, of matplotlib_axis, the x or y axis of a panel, to those of axis."""
    step = max(1, -(-len(axis.ticks) // limit))
    labels = [escape_label(label, 16) for label in axis.labels[::step]]
    is_x = matplotlib_axis.axis_name == "x"
    matplotlib_axis.set_ticks(axis.ticks[::step], labels=labels)
    if is_x and max(map(len, axis.labels), default=1) > max(5, 44 // max(len(labels), 1)):
        matplotlib_axis.set_tick_params(labelrotation=25)
        for label in matplotlib_axis.get_ticklabels():
            label.set_horizontalalignment("right")
    pad = 0.5 if axis.is_discrete else max(0.05 * (axis.high - axis.low), 1.8 * jitter_width(axis))
    (matplotlib_axis.axes.set_xlim if is_x else matplotlib_axis.axes.set_ylim)(axis.low - pad, axis.high + pad)


def jitter_width(axis: Axis) -> float:
    """How far trials with the same value are drawn apart on an axis."""
    if axis.is_discrete:
        return 0.18
    groups = axis.groups
    return 0.1 * float(np.diff(groups).min()) if len(groups) > 1 else 0.0


def jitter(count: int, sequence: int = 0) -> np.ndarray:
    """[count] evenly distributed numbers in [-1, 1), always the same. sequence: 0 or 1."""
    ratio = (0.6180339887, 0.7548776662)[sequence]
    return 2 * ((np.arange(count) * ratio) % 1) - 1


def build_color_map(mode: str = "max") -> Any:
    """viridis without its palest part, dark for the best scores. mode: "min" or "max" is best."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    colors = colormaps["viridis"](np.linspace(0.0, 0.93, 128))
    return ListedColormap(colors if mode == "min" else colors[::-1])


def _spread(axis: Axis) -> np.ndarray:
    """Fractions along the axis; those of discrete values a little apart, so that lines stay visible."""
    width = 0.12 / len(axis.ticks) if axis.is_discrete else 0
    return axis.fractions + width * jitter(len(axis.positions))


def _draw_axis(panel: Any, x: int, axis: Axis, count: int) -> None:
    """One of `count` upright axes, with its ticks and its name."""
    panel.plot([x, x], [0, 1], color="#444", lw=1, zorder=2)
    max_letters = max(9, round(105 / (count + 0.3)))
    text_style = {"ha": "right", "va": "center", "fontsize": 8, "zorder": 4}
    box = {"boxstyle": "square,pad=0.1", "fc": "#ffffffc8", "lw": 0}
    for i in range(0, len(axis.ticks), max(1, -(-len(axis.ticks) // 12))):
        y = (axis.ticks[i] - axis.low) / (axis.high - axis.low)
        panel.plot([x - 0.012, x], [y, y], color="#444", lw=1, zorder=2)
        panel.text(x - 0.025, y, escape_label(axis.labels[i], min(max_letters, 16)), bbox=box, **text_style)
    name = "\n".join(escape_label(line, max_letters) for line in _split_name(axis.name, max_letters))
    panel.text(x, 1.18, name, fontsize=9, ha="center", va="bottom", weight="bold")


def _split_name(name: str, max_letters: int) -> list[str]:
    """The name in one line, or in two if it is too long, broken after a separator."""
    if len(name) <= max_letters:
        return [name]
    breaks = [i + 1 for i, letter in enumerate(name[:max_letters]) if letter in " ._-/"]
    end = breaks[-1] if breaks else max_letters
    return [name[:end], name[end:]]
