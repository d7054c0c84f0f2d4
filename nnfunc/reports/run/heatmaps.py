"""Heat maps of the layers over time."""

import html
import math
from typing import NamedTuple

import numpy as np

from nnfunc.reports.inline_images import build_palette, palette_indices, palette_png_url, spaced_indices
from nnfunc.runs import metrics_log
from nnfunc.runs.diagnostics import UPDATE
from nnfunc.runs.metrics_log import LayerSeries, Row

__all__ = ["render_heatmaps"]


class LayerMetric(NamedTuple):
    """A metric of layers.

    part, name: its keys in a row of metrics.jsonl. title, description: for the caption. palette: a colour map
    of matplotlib. log: whether the colours are on a logarithmic scale.
    """

    part: str
    name: str
    title: str
    description: str
    palette: str = "viridis"
    log: bool = True


METRICS = (
    LayerMetric("parameters", "gradient_norm", "Gradient norm", "of each parameter"),
    LayerMetric(
        "parameters",
        "update_ratio",
        "Update-to-weight ratio",
        "norm of a step's update over the norm of the weights; grey is about 1e-3, a usual size",
        "coolwarm",
    ),
    LayerMetric("parameters", "weight_norm", "Weight norm", "of each parameter"),
    LayerMetric("activations", "deviation", "Activation deviation", "standard deviation of each layer's output"),
    LayerMetric(
        "activations", "saturated", "Saturation", "fraction of values at the ends of the activation", "magma", False
    ),
    LayerMetric("activations", "dead", "Dead fraction", "fraction of units that are always 0", "magma", False),
)
COLUMNS = 160
MAX_LAYERS = 60  # the names of more layers are collapsed


def render_heatmaps(rows: list[Row]) -> str:
    """The HTML of the heat maps of all metrics in the `rows`; "" without any."""
    layers = [(metric, metrics_log.layer_series(rows, metric.part, metric.name)) for metric in METRICS]
    return "\n".join(_render_heatmap(metric, values) for metric, values in layers if values.paths)


def _render_heatmap(metric: LayerMetric, layers: LayerSeries) -> str:
    """The scale, then names, image and last values; for many layers, an overview before that."""
    low, high = _limits(metric, layers.values)
    columns = spaced_indices(len(layers.steps), COLUMNS)
    indices = palette_indices(layers.values[:, columns], low, high, log=metric.log)
    count, url = len(layers.paths), palette_png_url(indices, build_palette(metric.palette))
    image = f'<img alt="{metric.title} of {count} layers over time" style="--rows:{count}" src="{url}">'
    last = "".join(f"<i>{_short(value, metric)}</i>" for value in layers.values[:, -1])
    size = " small" if count > 24 else ""
    content = f'<div class="map{size}">{_row(layers.paths, image, last)}</div>{_time_axis(layers.steps)}'
    if count > MAX_LAYERS:
        some = [layers.paths[i] for i in spaced_indices(count, 11)]
        size = " huge" if count > 600 else ""
        overview = f'<div class="map whole{size}">{_row(some, image, "")}</div>{_time_axis(layers.steps)}'
        content = f"{overview}<details><summary>{count} layers one by one</summary>{content}</details>"
    caption = f"<figcaption><b>{metric.title}</b> {metric.description}</figcaption>"
    return f"<figure>{caption}{_scale(metric, low, high)}{content}</figure>"


def _row(paths: list[str], image: str, last: str) -> str:
    names = "".join(f'<i title="{name}">{name}</i>' for name in map(html.escape, paths))
    return f'<div class="names">{names}</div>{image}<div class="last">{last}</div>'


def _time_axis(steps: np.ndarray) -> str:
    """The first, the middle and the last step below an image."""
    ticks = dict.fromkeys([steps[0], steps[len(steps) // 2], steps[-1]])
    labels = "".join(f"<i>{step:,}</i>" for step in ticks)
    return f'<div class="axis"><span></span><div>{labels}</div><span>last</span></div>'


def _scale(metric: LayerMetric, low: float, high: float) -> str:
    """The colours, with the values at their ends and in the middle."""
    url = palette_png_url(np.arange(1, 64)[None], build_palette(metric.palette))
    middle = math.sqrt(low * high) if metric.log else (low + high) / 2
    labels = "".join(f"<i>{_short(value, metric)}</i>" for value in (low, middle, high))
    mark = '<u title="about 1e-3"></u>' if metric.name == "update_ratio" else ""
    return f'<div class="scale"><div><img alt="" src="{url}">{mark}</div><div>{labels}</div></div>'


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


def _short(value: float, metric: LayerMetric) -> str:
    """A value in few characters."""
    if not math.isfinite(value):
        return "-"
    if not metric.log:
        return f"{value:.0%}"
    if 0.01 <= value < 1000:
        return f"{value:.3g}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
