"""The learning curves of a sweep's trials in one picture."""

from typing import Any

import numpy as np

from nnfunc.reports.run.run_plots import EVENTS, HELD_OUT, HIGH, LINE, LOW, TRAIN
from nnfunc.reports.sweep.axes import limits, text
from nnfunc.reports.sweep.report_data import Sheet
from nnfunc.reports.sweep.sweep_plots import figure, plain
from nnfunc.sweeps.result import Result

__all__ = ["curves", "named"]

STRONG = 5  # settings with a colour and a name
COLOURS = (HELD_OUT, EVENTS[0], "#3a9a5b", EVENTS[1], EVENTS[2])


def curves(own: Sheet, result: Result) -> Any:
    """A matplotlib Figure: the figure that ranks, and the training loss, of all trials over steps.

    All are faint; the best settings are strong, with seeds as means. A cross stands where a diverged
    trial was last a number, a dot where a search stopped one.
    """
    names = list(dict.fromkeys(n for n in (own.rank, "train/loss") if n in result.curves))
    picture, panels = figure(len(names), columns=len(names), height=4)
    for panel, name in zip(panels, names, strict=True):
        steps = result.steps[name.partition("/")[0]]
        curve = np.asarray(result.curves[name], np.float64).clip(-HIGH, HIGH)
        _panel(panel, own, steps, curve, own.mode if name == own.rank else "min")
        panel.set_title(name.replace("/", " ").replace("_", " "), fontsize=10, loc="left")
        panel.set_xlabel("step", fontsize=8)
    handles, labels = panels[0].get_legend_handles_labels()
    best = min(len(own.ranked), STRONG)
    order = [*reversed(range(best)), *range(best, len(labels))]
    picture.legend(
        [handles[at] for at in order], [labels[at] for at in order], loc="outside lower left", fontsize=8, frameon=False
    )
    return picture


def named(own: Sheet, trial: int) -> str:
    """The values of a trial that vary, in words.

    They are all its values where nothing varies.
    """
    names = [one.name for one in own.axes] or list(own.fixed)
    return ", ".join(f"{name}={text(own.hypers[trial].get(name), 24, 4)}" for name in names)


def _panel(panel: Any, own: Sheet, steps: np.ndarray, curve: np.ndarray, mode: str) -> None:
    """curve: [trials, reports] of one figure."""
    from matplotlib.collections import LineCollection

    low, high = _limits(panel, curve[~own.diverged] if not own.diverged.all() else curve, mode)
    shown = curve.clip(low, high)
    over = np.broadcast_to(steps, curve.shape)
    faint = float(np.clip(20 / len(curve), 0.12, 0.6))
    lines = [np.stack([x, y], axis=1)[np.isfinite(y)] for x, y in zip(over, shown, strict=True)]
    panel.add_collection(LineCollection(lines, colors=TRAIN, linewidths=0.8, alpha=faint))
    several = any(np.isfinite(row).sum() > 1 for row in curve)
    for place, trials in reversed(list(enumerate(own.ranked[:STRONG]))):
        middle = shown[trials].mean(axis=0)
        drawn = np.isfinite(middle)  # trials may report at steps of their own
        style: dict[str, Any] = {"color": COLOURS[place], "marker": None if several else "o"}
        label = plain(f"{place + 1}. {named(own, trials[0])}", 140)
        panel.plot(steps[drawn], middle[drawn], lw=2, zorder=4, label=label, **style)
        if len(trials) > 1:
            panel.plot(steps[drawn], shown[trials][:, drawn].T, lw=0.8, alpha=0.5, zorder=3, **style)
    for marked, marker, colour, label in (
        (own.stopped, "o", "#5c6770", "stopped early"),
        (own.diverged, "x", LINE, "diverged"),
    ):
        ends = [line[-1] for line in (lines[m] for m in np.flatnonzero(marked)) if len(line)]
        if ends:
            x, y = np.stack(ends, axis=1)
            size, lw = (26, 1) if marker == "x" else (7, 0)
            panel.scatter(x, y, s=size, marker=marker, color=colour, lw=lw, alpha=0.7, zorder=5, label=label)
    panel.margins(x=0.02)
    panel.autoscale_view()


def _limits(panel: Any, curve: np.ndarray, mode: str) -> tuple[float, float]:
    """Set the scale and the ends of the upright axis, and give them: a few wild values do not count."""
    known = curve[np.isfinite(curve)]
    if not len(known):
        return -np.inf, np.inf
    if mode == "min" and known.min() > LOW and known.max() > 20 * known.min():
        panel.set_yscale("log")
        low, high = limits(np.log10(known), mode)
        pad = 0.04 * (high - low)
        panel.set_ylim(10 ** (low - pad), 10 ** (high + pad))
        return 10**low, 10**high
    low, high = limits(known, mode)
    pad = 0.05 * (high - low) or 0.05 * abs(low) or 0.5
    panel.set_ylim(low - pad, high + pad)
    return low, high
