"""The charts of held-out data: the confusion matrix, curves of probabilities, predictions and residuals."""

import math
from typing import Any

import numpy as np

from nnfunc import evaluation
from nnfunc.evaluation import HeldOut
from nnfunc.evaluation.readings import ANSWERS
from nnfunc.reports.charts import Chart, heatmap, lines, scatter, shorten, thin
from nnfunc.reports.palette import COLOURS, TRAIN, VALIDATION

MAX_CURVES, MAX_OUTPUTS, POINTS = 8, 4, 2000
ZERO_TO_ONE = {"scale": {"domain": [0, 1]}}
CURVES = (  # of `evaluation.curves`: name, title, x, y
    ("precision_recall", "precision over recall", "recall", "precision"),
    ("roc", "true over false positive rate (ROC)", "false_positive_rate", "true_positive_rate"),
)


def confusion_chart(counts: np.ndarray, names: list[str]) -> Chart:
    """The confusion matrix. counts: [truths, predictions]. names: of the classes."""
    fraction = counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)
    data = {"x": names, "y": names, "value": shorten(counts.ravel()), "share": shorten(fraction.ravel(), 3)}
    return heatmap(
        "confusion",
        "Truth by row, prediction by column; the colour is the share of the row",
        data,
        colour={
            "field": "share",
            "scale": {"scheme": "viridis", "domain": [0, 1]},
            "legend": {"title": None, "orient": "top", "format": ".0%", "gradientLength": 180, "gradientThickness": 8},
        },
        x={"title": "prediction", "sort": None, "axis": {"labelAngle": -30, "labelLimit": 90}},
        y={"title": "truth"},
        tooltip=[
            {"field": "y", "type": "nominal", "title": "truth"},
            {"field": "x", "type": "nominal", "title": "prediction"},
            {"field": "value", "type": "quantitative", "title": "count"},
            {"field": "share", "type": "quantitative", "title": "share", "format": ".1%"},
        ],
        step=40 if len(names) <= 4 else 26 if len(names) <= 12 else 18,
        width=60 * len(names) if len(names) <= 4 else None,  # nearly square
    )


def curve_charts(held_out: HeldOut) -> list[Chart]:
    """The precision-recall, ROC and calibration curves of classes and answers."""
    if held_out.output_type not in ("classes", *ANSWERS):
        return []
    curves = evaluation.curves(held_out)
    charts = []
    for key, title, x, y in CURVES:
        tables = curves[key]
        data: dict[str, list[Any]] = {"series": [], x: [], "value": []}
        for table in tables[:MAX_CURVES]:
            data["series"] += [str(table["name"])] * len(table[x])
            data[x] += shorten(table[x])
            data["value"] += shorten(table[y])
        if tables:
            title += f", {MAX_CURVES} of {len(tables)} classes" * (len(tables) > MAX_CURVES)
            colours = dict(zip([str(table["name"]) for table in tables], COLOURS, strict=False))
            y_scale = ZERO_TO_ONE | {"title": y.replace("_", " ")}
            charts.append(lines(f"curve-{key}", title, data, colours, x=x, x_scale=ZERO_TO_ONE, y=y_scale, height=240))
    bins = curves["calibration"][0] if curves["calibration"] else {"probability": []}
    return [*charts, _calibration_chart(bins)] if len(bins["probability"]) else charts


def _calibration_chart(bins: dict[str, Any]) -> Chart:
    """How often what is predicted with a probability comes true; on the diagonal as often as predicted."""
    data = {"series": ["bin"] * len(bins["probability"]), "probability": shorten(bins["probability"])}
    data |= {"value": shorten(bins["frequency"]), "about": [f"{count:,.0f} rows" for count in bins["count"]]}
    ends = {"x": {"field": "a", "type": "quantitative"}, "y": {"field": "b", "type": "quantitative"}}
    diagonal = {
        "data": {"values": [{"a": 0, "b": 0}, {"a": 1, "b": 1}]},
        "mark": {"type": "line", "strokeDash": [4, 4], "color": TRAIN},
        "encoding": ends | {"detail": None, "color": {"value": TRAIN}},
    }
    return lines(
        "calibration",
        "calibration: frequency over predicted probability",
        data,
        {"bin": VALIDATION},
        x="probability",
        x_scale=ZERO_TO_ONE,
        y=ZERO_TO_ONE | {"title": "frequency"},
        height=240,
        extra=[diagonal],
    )


def number_charts(held_out: HeldOut) -> list[Chart]:
    """Predictions against targets, and residuals, of the first outputs."""
    reading, charts = held_out.reading(), []
    rows = thin(len(reading.target), POINTS)
    names = [held_out.row_name(row // reading.positions).removeprefix("row ") for row in rows.tolist()]
    count = reading.target.shape[1]
    for output in range(min(count, MAX_OUTPUTS)):
        suffix = f" of output {output}" if count > 1 else ""
        target, prediction = reading.target[:, output], reading.prediction[:, output]
        charts += _residual_charts(output, suffix, rows, names, target, prediction)
    return charts


def _residual_charts(
    output: int, suffix: str, rows: np.ndarray, names: list[str], target: np.ndarray, prediction: np.ndarray
) -> list[Chart]:
    """The charts of one output. rows, names: of those that are drawn as points."""
    residual = prediction - target
    data: dict[str, Any] = {"row": names, "target": shorten(target[rows]), "prediction": shorten(prediction[rows])}
    data["residual"] = shorten(residual[rows])
    number = {"type": "quantitative", "scale": {"zero": False}}
    tips = [{"field": name, "type": "nominal" if name == "row" else "quantitative"} for name in data]
    axis = {name: {"field": name, "title": name} | number for name in ("target", "prediction", "residual")}
    dashed = {"strokeDash": [4, 4], "color": TRAIN}
    ends = [float(min(target.min(), prediction.min())), float(max(target.max(), prediction.max()))]
    line = {"data": {"values": [{"target": end, "prediction": end} for end in ends]}, "mark": {"type": "line"} | dashed}
    zero: dict[str, Any] = {"data": {"values": [{"residual": 0}]}, "mark": {"type": "rule"} | dashed}
    zero["encoding"] = {"x": None}
    title = f"prediction over target{suffix}"
    fit = scatter(f"fit{output}", title, data, x=axis["target"], y=axis["prediction"], tooltip=tips, extra=[line])
    title = f"residual over prediction{suffix}"
    x, y = axis["prediction"], axis["residual"]
    cloud = scatter(f"residual{output}", title, data, x=x, y=y, tooltip=tips, extra=[zero])
    counts, edges = np.histogram(residual, bins=min(40, max(8, int(math.sqrt(len(residual))))))
    bins = {"low": shorten(edges[:-1]), "high": shorten(edges[1:]), "count": counts.tolist()}
    encoding = {
        "x": {"field": "low", "type": "quantitative", "bin": "binned", "title": "residual"},
        "x2": {"field": "high"},
        "y": {"field": "count", "type": "quantitative"},
        "tooltip": [{"field": name, "type": "quantitative"} for name in bins],
    }
    spec = {"width": "container", "height": 220, "mark": {"type": "bar", "color": VALIDATION}, "encoding": encoding}
    title = f"residuals{suffix}"
    return [fit, cloud, Chart(f"residuals{output}", title, f"{title}: a histogram", spec, bins)]
