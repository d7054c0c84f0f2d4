"""Heat maps of the score over every pair of hyperparameters."""

from itertools import combinations
from typing import Any

import numpy as np

from nnfunc.reports.figures import ALERT, TRAIN, escape_label, make_figure
from nnfunc.reports.sweep.axes import Axis
from nnfunc.reports.sweep.report_data import SweepData
from nnfunc.reports.sweep.sweep_plots import build_color_map, jitter, jitter_width, set_ticks

__all__ = ["plot_pairs"]


def plot_pairs(data: SweepData, axes: list[Axis]) -> Any:
    """A Figure: the median score in cells of every pair of axes, with the trials in data as dots.

    Trials that a search stopped for good are grey dots and in no median, unless no others have a score.
    """
    from matplotlib.colors import Normalize

    pairs = list(combinations(axes, 2))
    columns = min(3, len(pairs))
    figure, panels = make_figure(len(pairs), columns=columns, height=2.9 if columns > 1 else 4)
    score_axis = data.score_axis
    scores = np.clip(score_axis.positions, score_axis.low, score_axis.high)
    has_score = np.isfinite(scores)
    is_grey = data.ranks_last & has_score if (has_score & ~data.ranks_last).any() else np.zeros_like(has_score)
    has_score &= ~is_grey
    bins = int(np.clip(np.sqrt(has_score.sum() / 3), 3, 10))
    size, alpha = (8, 0.6) if len(scores) < 100 else (4, 0.4) if len(scores) < 400 else (2, 0.25)
    norm = Normalize(score_axis.low, score_axis.high)
    mesh: Any = None
    for panel, (a, b) in zip(panels, pairs, strict=False):
        x_edges, y_edges = _edges(a, bins), _edges(b, bins)
        cells = _cell_medians(a.positions[has_score], b.positions[has_score], scores[has_score], x_edges, y_edges)
        mesh = panel.pcolormesh(x_edges, y_edges, cells.T, cmap=build_color_map(data.mode), norm=norm)
        x, y = (axis.positions + jitter(len(scores), i) * jitter_width(axis) for i, axis in enumerate((a, b)))
        panel.scatter(x[has_score], y[has_score], s=size, lw=0, color="#000", alpha=alpha)
        panel.scatter(x[is_grey], y[is_grey], s=size, lw=0, color=TRAIN, alpha=alpha)
        diverged = data.diverged
        panel.scatter(x[diverged], y[diverged], s=3 * size, marker="x", lw=0.8, color=ALERT, alpha=0.8)
        panel.grid(False)
        set_ticks(panel.xaxis, a, limit=5)
        set_ticks(panel.yaxis, b, limit=6)
        panel.set_xlim(x_edges[0], x_edges[-1])
        panel.set_ylim(y_edges[0], y_edges[-1])
        panel.set_xlabel(escape_label(a.name), fontsize=9)
        panel.set_ylabel(escape_label(b.name), fontsize=9)
    visible = [panel for panel in panels if panel.get_visible()]
    bar = figure.colorbar(mesh, ax=visible, shrink=min(1.0, 1.6 / len(panels) * columns), aspect=30)
    bar.set_ticks(score_axis.ticks, labels=score_axis.labels)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(score_axis.name, fontsize=9)
    return figure


def _edges(axis: Axis, bins: int) -> np.ndarray:
    """The edges of the cells of a heat map along an axis."""
    groups = axis.groups
    if axis.is_discrete:
        return np.arange(len(axis.ticks) + 1) - 0.5
    if 1 < len(groups) <= bins:
        middles = (groups[1:] + groups[:-1]) / 2
        first, last = groups[1] - groups[0], groups[-1] - groups[-2]
        return np.concatenate([[groups[0] - first / 2], middles, [groups[-1] + last / 2]])
    return np.linspace(axis.low, axis.high, bins + 1)


def _cell_medians(x: np.ndarray, y: np.ndarray, values: np.ndarray, x_edges: Any, y_edges: Any) -> np.ndarray:
    """[columns, rows]: the median of the values in each cell, NaN in empty ones."""
    column = np.clip(np.searchsorted(x_edges, x, "right") - 1, 0, len(x_edges) - 2)
    row = np.clip(np.searchsorted(y_edges, y, "right") - 1, 0, len(y_edges) - 2)
    cells = np.full((len(x_edges) - 1, len(y_edges) - 1), np.nan)
    for i, j in {*zip(column.tolist(), row.tolist(), strict=True)}:
        cells[i, j] = np.median(values[(column == i) & (row == j)])
    return cells
