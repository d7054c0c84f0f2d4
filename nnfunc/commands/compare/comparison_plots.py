"""The plots of a comparison."""

from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.commands.compare import comparison_table
from nnfunc.commands.compare.comparison_plan import Plan

__all__ = ["curves", "results"]

COLOURS = ("#1f5fbf", "#d9782d", "#3a9a5b", "#a24fb0", "#6b7580", "#c23b4b", "#2aa3a3", "#9a8a2a")


def results(path: Path, plan: Plan, results: list[dict[str, Any]]) -> None:
    """One column a model: each seed a point, the mean with its interval, variants side by side."""
    metric = comparison_table.metric_of(results)
    factor, unit = _unit(metric, results)
    figure, axis = _figure(1.1 * len(plan.models) + 3, 4)
    wide = 0.5 / len(plan.variants)
    for v, variant in enumerate(plan.variants):
        colour = COLOURS[v % len(COLOURS)]
        for m, model in enumerate(plan.models):
            own = [r for r in results if (r["model"], r["variant"]) == (model, variant)]
            values = [r["test"][metric] * factor for r in own]
            at = m + (v - (len(plan.variants) - 1) / 2) * wide
            found = comparison_table.mean(values)
            half = found.half or 0
            ends = [half, min(half, factor - found.value) if factor == 100 else half]
            axis.errorbar(
                at,
                found.value,
                np.reshape(ends, (2, 1)),
                color=colour,
                marker="_",
                ms=14,
                mew=2,
                capsize=4,
                label=variant if m == 0 and variant else None,
            )
            axis.plot(np.full(len(values), at + wide / 4), values, ".", color=colour, alpha=0.6)
    axis.set_xticks(range(len(plan.models)), plan.models)
    axis.set_title(f"test {metric}{unit}, every seed and the mean's 95 % interval", **_TITLE)
    if len(plan.variants) > 1:
        axis.legend(frameon=False, fontsize=9)
    _save(figure, path)


def curves(path: Path, plan: Plan, results: list[dict[str, Any]]) -> None:
    """The validation figure over steps and over seconds, as means over the seeds."""
    from matplotlib.ticker import LogFormatter

    metric = comparison_table.metric_of(results)
    metric = metric if metric in results[0]["curve"] else "loss"
    share = metric == "accuracy"
    figure, axes = _figure(10, 4, columns=2)
    for m, model in enumerate(plan.models):
        for v, variant in enumerate(plan.variants):
            own = [r for r in results if (r["model"], r["variant"]) == (model, variant)]
            steps = np.asarray(own[0]["curve"]["step"])
            values = np.mean([r["curve"][metric] for r in own], 0)
            values = 100 * (1 - values) if share else values
            pace = np.median([r["seconds_per_step"] for r in own])
            style = {"color": COLOURS[m % len(COLOURS)], "ls": ("-", "--", ":", "-.")[v % 4]}
            label = f"{model}, {variant}" if variant else model
            axes[0].plot(steps, values, lw=1.6, label=label, **style)
            axes[1].plot(steps * pace, values, lw=1.6, **style)
    for axis, over in zip(axes, ("steps", "seconds of training"), strict=True):
        if share or metric == "loss":
            axis.set_yscale("log")
        if share:
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
        axis.set_xlabel(over, fontsize=9)
    axes[1].set_xscale("log")
    axes[1].xaxis.set_major_formatter("{x:g}")
    axes[0].set_title("validation error, %" if share else f"validation {metric}", **_TITLE)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    _save(figure, path)


_TITLE: dict[str, Any] = {"fontsize": 10, "loc": "left"}


def _unit(metric: str, results: list[dict[str, Any]]) -> tuple[float, str]:
    return (100, ", %") if metric == "accuracy" else (1, "")


def _figure(wide: float, high: float, columns: int = 1) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(wide, high), dpi=110, layout="constrained")
    axes = figure.subplots(1, columns)
    for axis in np.atleast_1d(axes):
        axis.grid(alpha=0.25, lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=9)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    temporary = path.with_name(f"{path.stem}.tmp.png")
    figure.savefig(temporary)
    temporary.replace(path)
