"""Heat maps of the layers over time."""

import math
from typing import Any, NamedTuple

import numpy as np

from nnfunc.reports.charts import Chart, heatmap, shorten, thin
from nnfunc.reports.palette import BETTER, WORSE
from nnfunc.runs import metrics_log
from nnfunc.runs.diagnostics import UPDATE
from nnfunc.runs.metrics_log import LayerSeries, Row


class LayerMetric(NamedTuple):
    """A metric of layers.

    part, name: its keys in a row of metrics.jsonl.
    title, description: for the caption.
    colours: a scheme of Vega or the colours of the ends and the middle.
    log: whether the colours are on a logarithmic scale.
    """

    part: str
    name: str
    title: str
    description: str
    colours: str | list[str] = "viridis"
    log: bool = True


METRICS = (
    LayerMetric("parameters", "gradient_norm", "Gradient norm", "that of each parameter"),
    LayerMetric(
        "parameters",
        "update_ratio",
        "Update-to-weight ratio",
        "norm of a step's update over the norm of the weights; grey is about 1e-3, a usual size",
        [BETTER, "#a9adb1", WORSE],
    ),
    LayerMetric("parameters", "weight_norm", "Weight norm", "that of each parameter"),
    LayerMetric("activations", "deviation", "Activation deviation", "standard deviation of each layer's output"),
    LayerMetric(
        "activations", "saturated", "Saturation", "fraction of values at the ends of the activation", "magma", False
    ),
    LayerMetric("activations", "dead", "Dead fraction", "fraction of units that are always 0", "magma", False),
)
COLUMNS, CELLS = 160, 10_000


def heatmap_charts(rows: list[Row]) -> list[Chart]:
    """A heat map of each metric of layers in the rows."""
    layers = [(metric, metrics_log.layer_series(rows, metric.part, metric.name)) for metric in METRICS]
    return [_heatmap(metric, values) for metric, values in layers if values.paths]


def _heatmap(metric: LayerMetric, layers: LayerSeries) -> Chart:
    """One cell for each layer and some of the steps; missing values are empty."""
    low, high = _limits(metric, layers.values)
    count = len(layers.paths)
    columns = thin(len(layers.steps), min(COLUMNS, max(CELLS // count, 2)))
    values = layers.values[:, columns]
    data: dict[str, Any] = {
        "x": shorten(layers.steps[columns]),
        "y": layers.paths,
        "value": shorten(values.ravel(), 4),
        "shade": shorten(np.clip(values, low, high).ravel(), 4),
    }
    domain = [low, math.sqrt(low * high), high] if isinstance(metric.colours, list) else [low, high]
    scale = {"type": "log" if metric.log else "linear", "domain": domain}
    scale |= {"range": metric.colours} if isinstance(metric.colours, list) else {"scheme": metric.colours}
    number = ".3~g" if metric.log else ".0%"
    legend = {"title": None, "orient": "top", "gradientLength": 220, "gradientThickness": 8, "format": number}
    ticks = [data["x"][i] for i in thin(len(columns), 6)]
    axis = {"values": ticks, "labelAngle": 0, "title": "step", "ticks": True}
    return heatmap(
        f"layers-{metric.name}",
        f"{metric.title}: {metric.description}",
        data,
        colour={"field": "shade", "scale": scale, "legend": legend},
        x={"axis": axis},
        y={"title": None, "axis": {"labelLimit": 190, "labelFontSize": 10 if count < 25 else 9, "ticks": False}},
        tooltip=[
            {"field": "y", "type": "nominal", "title": "layer"},
            {"field": "x", "type": "quantitative", "title": "step"},
            {"field": "value", "type": "quantitative", "title": metric.title.lower(), "format": ".4~g"},
        ],
        step=18 if count < 25 else 12,
    )


def _limits(metric: LayerMetric, values: np.ndarray) -> tuple[float, float]:
    """The values of the first and the last colour."""
    if not metric.log:
        return 0.0, 1.0
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return 0.1, 10.0
    low, high = np.quantile(np.log10(positive), (0.01, 0.99))
    if metric.name == "update_ratio":  # the usual size is in the middle
        middle = math.log10(UPDATE)
        half = min(max(abs(low - middle), abs(high - middle), 1.0), 3.0)
    else:
        middle, half = (low + high) / 2, max((high - low) / 2, 0.15)
    return float(10 ** max(middle - half, -300)), float(10 ** min(middle + half, 300))
