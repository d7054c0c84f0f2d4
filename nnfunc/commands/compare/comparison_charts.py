"""The charts of a comparison."""

from typing import Any

import numpy as np

from nnfunc.commands.compare.comparison_plan import ComparisonPlan
from nnfunc.commands.compare.comparison_table import headline_metric, mean_over_seeds, results_of
from nnfunc.reports.charts import Chart, lines, shorten
from nnfunc.reports.palette import COLOURS


def result_chart(plan: ComparisonPlan, results: list[dict[str, Any]]) -> Chart:
    """The test metric of each model: a point for each seed, and the mean with its interval.

    plan: of the comparison.
    results: of its runs.
    """
    metric = headline_metric(results)
    factor, suffix = (100, ", %") if metric == "accuracy" else (1, "")
    columns: dict[str, list[Any]] = {name: [] for name in ("model", "variant", "seed", "value", "mean", "low", "high")}
    for variant in plan.variants:
        for model in plan.models:
            runs = results_of(results, model, variant)
            values = [run["test"][metric] * factor for run in runs]
            mean, half = mean_over_seeds(values)
            high = mean + (half or 0)
            high = min(high, 100) if factor == 100 else high  # no accuracy above 100 %
            for run, value in zip(runs, values, strict=True):
                row = (model, variant or "all", run["seed"], value, mean, mean - (half or 0), high)
                for column, entry in zip(columns.values(), row, strict=True):
                    column.append(entry)
    for name in ("value", "mean", "low", "high"):
        columns[name] = shorten(columns[name])
    names = list(dict.fromkeys(columns["variant"]))
    legend = None if len(names) < 2 else {"title": None, "orient": "bottom"}
    number = {"type": "quantitative", "title": f"test {metric}{suffix}", "scale": {"zero": False}}
    tips = [{"field": name} for name in columns]
    encoding = {
        "x": {"field": "model", "type": "nominal", "sort": None, "title": None, "axis": {"labelAngle": -20}},
        "xOffset": {"field": "variant", "sort": None},
        "color": {"field": "variant", "scale": {"domain": names, "range": COLOURS[: len(names)]}, "legend": legend},
        "tooltip": tips,
    }
    ends = {"y": {"field": "low"} | number, "y2": {"field": "high"}}
    layers = [
        {"mark": {"type": "rule", "strokeWidth": 2}, "encoding": ends},
        {"mark": {"type": "tick", "thickness": 3, "size": 20}, "encoding": {"y": {"field": "mean"} | number}},
        {
            "mark": {"type": "point", "size": 26, "fillOpacity": 0.6, "filled": True},
            "encoding": {"y": {"field": "value"} | number},
        },
    ]
    spec = {"width": "container", "height": 260, "encoding": encoding, "layer": layers}
    title = f"test {metric}{suffix}: every seed, and the mean with its 95 % interval"
    return Chart("results", title, title, spec, columns)


def curve_charts(plan: ComparisonPlan, results: list[dict[str, Any]]) -> list[Chart]:
    """The validation metric over steps and over seconds, as means over the seeds.

    plan: of the comparison.
    results: of its runs.
    """
    metric = headline_metric(results)
    metric = metric if metric in results[0]["curve"] else "loss"
    as_error = metric == "accuracy"
    by_x: dict[str, dict[str, list[Any]]] = {x: {"series": [], x: [], "value": []} for x in ("step", "seconds")}
    for model in plan.models:
        for variant in plan.variants:
            runs = results_of(results, model, variant)
            steps = np.asarray(runs[0]["curve"]["step"])
            values = np.mean([r["curve"][metric] for r in runs], 0)
            values = 100 * (1 - values) if as_error else values
            seconds = steps * np.median([r["seconds_per_step"] for r in runs])
            for x, positions in (("step", steps), ("seconds", seconds)):
                by_x[x]["series"] += [f"{model}, {variant}" if variant else model] * len(steps)
                by_x[x][x] += shorten(positions)
                by_x[x]["value"] += shorten(values)
    names = list(dict.fromkeys(by_x["step"]["series"]))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    title = "validation error, %" if as_error else f"validation {metric}"
    scale = {"seconds": {"scale": {"type": "log", "nice": False}}}
    return [
        lines(
            f"curve-{x}",
            f"{title}, over {x}",
            data,
            colours,
            x=x,
            log=min(data["value"]) > 0,
            x_scale=scale.get(x),
            height=260,
        )
        for x, data in by_x.items()
    ]
