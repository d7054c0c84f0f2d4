"""The pictures of a sweep's settings and scores, by matplotlib."""

import io
import warnings
from typing import Any

import numpy as np

from nnfunc.reports.run.run_plots import EVENTS, HELD_OUT, LINE, TRAIN
from nnfunc.reports.sweep.axes import Axis
from nnfunc.reports.sweep.report_data import Sheet

__all__ = ["figure", "jitter", "mark", "palette", "parallel", "plain", "png", "room", "slices"]

BEST = EVENTS[0]
WIDTH = 10  # inches, of every picture


def parallel(own: Sheet, axes: list[Axis]) -> Any:
    """A matplotlib Figure: a line a run through its values to its score, purple for the better.

    Diverged runs are red and end beyond the worst score; those that a search gave up are grey, for
    their scores are from fewer steps.
    """
    from matplotlib.collections import LineCollection

    picture, (panel,) = figure(1, columns=1, height=4.4)
    panel.set_axis_off()
    lanes = [*axes, own.score]
    shares: Any = np.stack([_spread(one) for one in lanes], axis=1)  # [trials, lanes]
    beyond = -0.12 if own.mode == "max" else 1.12
    shares[own.diverged, -1] = beyond
    drawn = np.isfinite(shares).all(axis=1)
    order = np.argsort(_merit(own), kind="stable")
    order = order[drawn[order]]
    across = np.broadcast_to(np.arange(len(lanes)), shares.shape)
    lines = np.stack([across, shares], axis=2)[order]
    faint = float(np.clip(25 / max(len(order), 1), 0.22, 0.85))
    colours = palette()(np.clip(_merit(own)[order], 0, 1))
    colours[own.short[order]] = _rgba(TRAIN)
    colours[own.diverged[order]] = _rgba(LINE)
    colours[:, 3] = np.where(own.diverged[order], min(faint, 0.5), faint)
    panel.add_collection(LineCollection(list(lines), colors=colours, linewidths=1.1))
    for trials in own.ranked[:1]:
        panel.plot(across[trials].T, shares[trials].T, color=BEST, lw=2.4, zorder=3)
    for place, one in enumerate(lanes):
        _lane(panel, place, one, len(lanes))
    if own.diverged.any():
        panel.text(len(lanes) - 0.96, beyond, "diverged", color=LINE, fontsize=8, va="center")
    panel.set_xlim(-0.35, len(lanes) - 0.6)
    panel.set_ylim(-0.16, 1.24)
    return picture


def slices(own: Sheet, axes: list[Axis]) -> Any:
    """A Figure: the score of every run over each name, with medians where its values are few."""
    picture, panels = figure(len(axes), columns=min(3, len(axes)), height=2.8)
    size = 22 if len(own.scores) < 100 else 9
    worse = own.score.low if own.mode == "max" else own.score.high
    scores = np.clip(own.score.places, own.score.low, own.score.high)
    best = np.isin(np.arange(len(scores)), own.ranked[0] if own.ranked else [])
    for panel, one in zip(panels, axes, strict=False):
        x = one.places + jitter(len(scores)) * room(one)
        usual = ~(own.stopped | best | own.diverged)
        dots: dict[str, Any] = {"s": size, "lw": 0}
        panel.scatter(x[usual], scores[usual], color=HELD_OUT, alpha=0.5, label="a run", **dots)
        if own.stopped.any():
            label = "stopped early"
            panel.scatter(x[own.stopped], scores[own.stopped], color=TRAIN, alpha=0.5, label=label, **dots)
        if own.diverged.any():
            ends = np.full(own.diverged.sum(), worse)
            panel.scatter(x[own.diverged], ends, s=24, marker="x", lw=1, color=LINE, label="diverged")
        if best.any():
            panel.scatter(x[best], scores[best], s=48, color=BEST, lw=0, label="the best", zorder=3)
        for place in one.groups:
            here = scores[(one.places == place) & np.isfinite(scores) & ~own.short]
            if len(here) > 1:
                ends = place - 1.6 * room(one), place + 1.6 * room(one)
                label = "median" if place == one.groups[-1] else None
                panel.plot(ends, 2 * [np.median(here)], color="#222", lw=1.8, label=label)
        mark(panel.xaxis, one, most=6)
        mark(panel.yaxis, own.score, most=6)
        panel.set_xlabel(plain(one.name, 40), fontsize=9)
    panels[0].set_title(own.score.name, fontsize=10, loc="left")
    _legend(picture, panels)
    return picture


def figure(count: int, *, columns: int, height: float) -> tuple[Any, np.ndarray]:
    """A Figure with so many panels in rows, and the panels; those to spare are not seen."""
    from matplotlib.figure import Figure

    lines = -(-count // columns)
    picture = Figure(figsize=(WIDTH, height * lines), dpi=110, layout="constrained")
    panels = picture.subplots(lines, columns, squeeze=False).ravel()
    for place, panel in enumerate(panels):
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25, lw=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_visible(place < count)
    return picture, panels


def png(picture: Any) -> bytes:
    """A Figure as a PNG."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font does not have
        picture.savefig(file, format="png")
    return file.getvalue()


def plain(words: str, most: int) -> str:
    """A label that is drawn as it is: without mathematics, not hidden by a first underscore."""
    cut = words if len(words) <= most else words[: most - 1] + "…"
    return cut.replace("$", r"\$").lstrip("_") or "…"


def _legend(picture: Any, panels: Any) -> None:
    """One legend below all panels, of what any of them has."""
    found = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    picture.legend(found.values(), found, loc="outside lower center", ncols=len(found) or 1, frameon=False, fontsize=8)


def _lane(panel: Any, place: int, one: Axis, lanes: int) -> None:
    """An upright axis with its ticks and its name."""
    panel.plot([place, place], [0, 1], color="#444", lw=1, zorder=2)
    letters = max(9, round(105 / (lanes + 0.3)))
    box = {"boxstyle": "square,pad=0.1", "fc": "#ffffffc8", "lw": 0}
    kept = range(0, len(one.ticks), max(1, -(-len(one.ticks) // 12)))
    for at in kept:
        share = (one.ticks[at] - one.low) / (one.high - one.low)
        panel.plot([place - 0.012, place], [share, share], color="#444", lw=1, zorder=2)
        panel.text(
            place - 0.025,
            share,
            plain(one.labels[at], min(letters, 16)),
            fontsize=8,
            zorder=4,
            ha="right",
            va="center",
            bbox=box,
        )
    words = "\n".join(plain(line, letters) for line in _in_two(one.name, letters))
    panel.text(place, 1.18, words, fontsize=9, ha="center", va="bottom", weight="bold")


def _in_two(name: str, letters: int) -> list[str]:
    """A name that is too long in two lines, cut where a part of it ends."""
    if len(name) <= letters:
        return [name]
    ends = [at + 1 for at, letter in enumerate(name[:letters]) if letter in " ._-/"]
    at = ends[-1] if ends else letters
    return [name[:at], name[at:]]


def mark(axis: Any, one: Axis, most: int) -> None:
    """The ticks and limits of a panel's axis."""
    step = max(1, -(-len(one.ticks) // most))
    wide = max((len(label) for label in one.labels), default=1)
    letters = 16 if axis.axis_name == "y" else max(5, 44 // max(len(one.ticks[::step]), 1))
    turned = axis.axis_name == "x" and wide > letters
    labels = [plain(label, 16) for label in one.labels[::step]]
    axis.set_ticks(one.ticks[::step], labels=labels)
    if turned:
        axis.set_tick_params(labelrotation=25)
        for label in axis.get_ticklabels():
            label.set_horizontalalignment("right")
    named = one.kind in ("levels", "categories")
    pad = 0.5 if named else max(0.05 * (one.high - one.low), 1.8 * room(one))
    ends = (one.low - pad, one.high + pad)
    axis.axes.set_xlim(ends) if axis.axis_name == "x" else axis.axes.set_ylim(ends)


def _merit(own: Sheet) -> np.ndarray:
    """[trials] in [0, 1], 1 for the best; less than 0 where there is no score."""
    shares = own.score.shares if own.mode == "max" else 1 - own.score.shares
    return np.where(np.isfinite(shares), shares, -1)


def _spread(one: Axis) -> np.ndarray:
    """Shares, those of categories a little apart, so that lines do not hide each other."""
    named = one.kind in ("levels", "categories")
    wide = 0.12 / len(one.ticks) if named else 0
    return one.shares + wide * jitter(len(one.places))


def room(one: Axis) -> float:
    """How far runs with the same value are drawn apart, in places."""
    if one.kind in ("levels", "categories"):
        return 0.18
    groups = one.groups
    return 0.1 * float(np.diff(groups).min()) if len(groups) > 1 else 0.0


def jitter(count: int, other: int = 0) -> np.ndarray:
    """[count] in [-1, 1), evenly filled, the same always."""
    ratio = (0.6180339887, 0.7548776662)[other]
    return 2 * ((np.arange(count) * ratio) % 1) - 1


def palette(mode: str = "max") -> Any:
    """Dark for the best; the palest part of the colours is left out."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    colours = colormaps["viridis"](np.linspace(0.0, 0.93, 128))
    return ListedColormap(colours if mode == "min" else colours[::-1])


def _rgba(colour: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgba

    return to_rgba(colour)
