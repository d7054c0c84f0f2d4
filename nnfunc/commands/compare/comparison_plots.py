"""The plots of a comparison."""

from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.commands.compare.comparison_plan import ComparisonPlan
from nnfunc.commands.compare.comparison_table import headline_metric, mean_over_seeds, results_of
from nnfunc.reports.figures import COLOURS, TITLE, make_figure, save_figure

__all__ = ["plot_curves", "plot_results"]


def plot_results(path: Path, plan: ComparisonPlan, results: list[dict[str, Any]]) -> None:
    """Plot the test metric: one column per model, a point per seed, and the mean with its interval.

    path: of the PNG file. plan: of the comparison. results: of its runs.
    """
    metric = headline_metric(results)
    factor, suffix = (100, ", %") if metric == "accuracy" else (1, "")
    figure, (axis,) = make_figure(1, columns=1, height=4, width=1.1 * len(plan.models) + 3)
    offset = 0.5 / len(plan.variants)
    for v, variant in enumerate(plan.variants):
        colour = COLOURS[v % len(COLOURS)]
        for m, model in enumerate(plan.models):
            values = [r["test"][metric] * factor for r in results_of(results, model, variant)]
            mean, half = mean_over_seeds(values)
            half = half or 0
            upper = min(half, 100 - mean) if factor == 100 else half  # no accuracy above 100 %
            x = m + (v - (len(plan.variants) - 1) / 2) * offset
            style: dict[str, Any] = {"color": colour, "marker": "_", "ms": 14, "mew": 2, "capsize": 4}
            axis.errorbar(x, mean, [[half], [upper]], label=variant if m == 0 and variant else None, **style)
            axis.plot(np.full(len(values), x + offset / 4), values, ".", color=colour, alpha=0.6)
    axis.set_xticks(range(len(plan.models)), plan.models)
    axis.set_title(f"test {metric}{suffix}, every seed and the mean's 95 % interval", **TITLE)
    if len(plan.variants) > 1:
        axis.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def plot_curves(path: Path, plan: ComparisonPlan, results: list[dict[str, Any]]) -> None:
    """Plot the validation metric over steps and over seconds, as means over the seeds.

    path: of the PNG file. plan: of the comparison. results: of its runs.
    """
    from matplotlib.ticker import LogFormatter

    metric = headline_metric(results)
    metric = metric if metric in results[0]["curve"] else "loss"
    as_error = metric == "accuracy"
    figure, axes = make_figure(2, columns=2, height=4)
    for m, model in enumerate(plan.models):
        for v, variant in enumerate(plan.variants):
            runs = results_of(results, model, variant)
            steps = np.asarray(runs[0]["curve"]["step"])
            values = np.mean([r["curve"][metric] for r in runs], 0)
            values = 100 * (1 - values) if as_error else values
            seconds = steps * np.median([r["seconds_per_step"] for r in runs])
            style = {"color": COLOURS[m % len(COLOURS)], "ls": ("-", "--", ":", "-.")[v % 4], "lw": 1.6}
            axes[0].plot(steps, values, label=f"{model}, {variant}" if variant else model, **style)
            axes[1].plot(seconds, values, **style)
    for axis, label in zip(axes, ("steps", "seconds of training"), strict=True):
        if as_error or metric == "loss":
            axis.set_yscale("log")
        if as_error:
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False))
        axis.set_xlabel(label, fontsize=9)
    axes[1].set_xscale("log")
    axes[1].xaxis.set_major_formatter("{x:g}")
    axes[0].set_title("validation error, %" if as_error else f"validation {metric}", **TITLE)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    save_figure(figure, path)
