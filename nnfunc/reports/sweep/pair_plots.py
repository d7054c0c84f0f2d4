"""Heat maps of the score over each two hyperparameters."""

from typing import Any

import numpy as np

from nnfunc.reports.run.run_plots import LINE, TRAIN
from nnfunc.reports.sweep.axes import Axis
from nnfunc.reports.sweep.report_data import Sheet
from nnfunc.reports.sweep.sweep_plots import figure, jitter, mark, palette, plain, room

__all__ = ["pairs"]


def pairs(own: Sheet, axes: list[Axis]) -> Any:
    """A Figure: the median score in cells of the values of each two names, runs as dots.

    Those that a search gave up are grey dots and in no median, unless it gave up all that has a score.
    """
    from matplotlib.colors import Normalize

    both = [(a, b) for at, a in enumerate(axes) for b in axes[at + 1 :]]
    columns = min(3, len(both))
    picture, panels = figure(len(both), columns=columns, height=2.9 if columns > 1 else 4)
    scores = np.clip(own.score.places, own.score.low, own.score.high)
    known = np.isfinite(scores)
    short = own.short & known if (known & ~own.short).any() else np.zeros_like(known)
    known &= ~short
    bins = int(np.clip(np.sqrt(known.sum() / 3), 3, 10))
    size, faint = (8, 0.6) if len(scores) < 100 else (4, 0.4) if len(scores) < 400 else (2, 0.25)
    ends = Normalize(own.score.low, own.score.high)
    mesh: Any = None
    for panel, (a, b) in zip(panels, both, strict=False):
        across, up = _edges(a, bins), _edges(b, bins)
        cells = _medians(a.places[known], b.places[known], scores[known], across, up)
        mesh = panel.pcolormesh(across, up, cells.T, cmap=palette(own.mode), norm=ends)
        x, y = (one.places + jitter(len(scores), at) * room(one) for at, one in enumerate((a, b)))
        panel.scatter(x[known], y[known], s=size, lw=0, color="#000", alpha=faint)
        panel.scatter(x[short], y[short], s=size, lw=0, color=TRAIN, alpha=faint)
        panel.scatter(x[own.diverged], y[own.diverged], s=3 * size, marker="x", lw=0.8, color=LINE, alpha=0.8)
        panel.grid(False)
        mark(panel.xaxis, a, most=5)
        mark(panel.yaxis, b, most=6)
        panel.set_xlim(across[0], across[-1])
        panel.set_ylim(up[0], up[-1])
        panel.set_xlabel(plain(a.name, 40), fontsize=9)
        panel.set_ylabel(plain(b.name, 40), fontsize=9)
    shown = [panel for panel in panels if panel.get_visible()]
    bar = picture.colorbar(mesh, ax=shown, shrink=min(1.0, 1.6 / len(panels) * columns), aspect=30)
    bar.set_ticks(own.score.ticks, labels=own.score.labels)
    bar.ax.tick_params(labelsize=8)
    bar.set_label(own.score.name, fontsize=9)
    return picture


def _edges(one: Axis, bins: int) -> np.ndarray:
    """Between which places the cells of a heat map lie."""
    groups = one.groups
    if one.kind in ("levels", "categories"):
        return np.arange(len(one.ticks) + 1) - 0.5
    if 1 < len(groups) <= bins:
        middles = (groups[1:] + groups[:-1]) / 2
        first, last = groups[1] - groups[0], groups[-1] - groups[-2]
        return np.concatenate([[groups[0] - first / 2], middles, [groups[-1] + last / 2]])
    return np.linspace(one.low, one.high, bins + 1)


def _medians(x: np.ndarray, y: np.ndarray, values: np.ndarray, across: Any, up: Any) -> np.ndarray:
    """[across, up]: the median of the values in each cell, not a number in empty ones."""
    column = np.clip(np.searchsorted(across, x, "right") - 1, 0, len(across) - 2)
    row = np.clip(np.searchsorted(up, y, "right") - 1, 0, len(up) - 2)
    cells = np.full((len(across) - 1, len(up) - 1), np.nan)
    for i, j in {*zip(column.tolist(), row.tolist(), strict=True)}:
        cells[i, j] = np.median(values[(column == i) & (row == j)])
    return cells
