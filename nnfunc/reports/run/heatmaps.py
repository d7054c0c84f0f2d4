"""Heat maps of the layers over time."""

import html
import math
from typing import NamedTuple

import numpy as np

from nnfunc.reports import inline_images
from nnfunc.runs import metrics_log
from nnfunc.runs.diagnostics import UPDATE
from nnfunc.runs.metrics_log import Layers, Row

__all__ = ["render_heatmaps"]


class LayerMetric(NamedTuple):
    """A figure that layers have. palette: one of matplotlib's."""

    part: str
    name: str
    title: str
    log: bool
    palette: str
    words: str


KINDS = (
    LayerMetric("parameters", "gradient_norm", "Gradient norm", True, "viridis", "of each parameter"),
    LayerMetric(
        "parameters",
        "update_ratio",
        "Update-to-weight ratio",
        True,
        "coolwarm",
        "norm of a step's change over the weight's norm; grey is about 1e-3, the usual size",
    ),
    LayerMetric("parameters", "weight_norm", "Weight norm", True, "viridis", "of each parameter"),
    LayerMetric(
        "activations",
        "deviation",
        "Activation deviation",
        True,
        "viridis",
        "standard deviation of what a layer returns",
    ),
    LayerMetric(
        "activations", "saturated", "Saturation", False, "magma", "share of values at the flat ends of the activation"
    ),
    LayerMetric(
        "activations", "dead", "Dead fraction", False, "magma", "share of units that are zero for every example"
    ),
)
COLUMNS = 160
MANY = 60


def render_heatmaps(rows: list[Row]) -> str:
    """The HTML of all heat maps that the rows have values for, "" when there are none."""
    return "\n".join(_map(kind, own) for kind in KINDS if (own := metrics_log.layers(rows, kind.part, kind.name)).paths)


def _map(kind: LayerMetric, own: Layers) -> str:
    """One heat map: the scale, then names, picture and last values; of many layers first the whole."""
    low, high = _limits(kind, own.values)
    columns = inline_images.spaced_indices(len(own.steps), COLUMNS)
    places = inline_images.palette_indices(own.values[:, columns], low, high, log=kind.log)
    count, address = (len(own.paths), inline_images.palette_png_url(places, inline_images.build_palette(kind.palette)))
    words = f"{kind.title} of {count} layers over time"
    picture = f'<img alt="{words}" style="--rows:{count}" src="{address}">'
    values = "".join(f"<i>{_short(value, kind)}</i>" for value in own.values[:, -1])
    size = " small" if count > 24 else ""
    parts = f'<div class="names">{_names(own.paths)}</div>{picture}<div class="last">{values}</div>'
    whole = each = f'<div class="map{size}">{parts}</div>'
    axis = _steps(own.steps)
    if count > MANY:
        some = [own.paths[i] for i in inline_images.spaced_indices(count, 11)]
        parts = f'<div class="names">{_names(some)}</div>{picture}<div class="last"></div>'
        head = f"<summary>{count} layers one by one</summary>"
        size = " huge" if count > 600 else ""
        whole = f'<div class="map whole{size}">{parts}</div>{axis}<details>{head}{each}{axis}</details>'
        axis = ""
    title = f"<figcaption><b>{kind.title}</b> {kind.words}</figcaption>"
    return f"<figure>{title}{_scale(kind, low, high)}{whole}{axis}</figure>"


def _names(paths: list[str]) -> str:
    return "".join(f'<i title="{name}">{name}</i>' for name in map(html.escape, paths))


def _steps(steps: np.ndarray) -> str:
    """The steps below a picture: the first, the middle one, the last."""
    chosen = dict.fromkeys([steps[0], steps[len(steps) // 2], steps[-1]])
    ends = "".join(f"<i>{step:,}</i>" for step in chosen)
    return f'<div class="axis"><span></span><div>{ends}</div><span>last</span></div>'


def _scale(kind: LayerMetric, low: float, high: float) -> str:
    """The colours with the values at their ends and in the middle."""
    bar = inline_images.palette_png_url(np.arange(1, 64)[None], inline_images.build_palette(kind.palette))
    middle = math.sqrt(low * high) if kind.log else (low + high) / 2
    words = "".join(f"<i>{_short(value, kind)}</i>" for value in (low, middle, high))
    mark = '<u title="about 1e-3"></u>' if kind.name == "update_ratio" else ""
    return f'<div class="scale"><div><img alt="" src="{bar}">{mark}</div><div>{words}</div></div>'


def _limits(kind: LayerMetric, values: np.ndarray) -> tuple[float, float]:
    """The values at the ends of the colours."""
    known = values[np.isfinite(values) & ((values > 0) | (not kind.log))]
    if not kind.log:
        return 0.0, 1.0
    if not len(known):
        return 0.1, 10.0
    low, high = np.quantile(np.log10(known), (0.01, 0.99))
    if kind.name == "update_ratio":  # the usual size is in the middle
        middle = math.log10(UPDATE)
        half = min(max(abs(low - middle), abs(high - middle), 1.0), 3.0)
        return 10 ** (middle - half), 10 ** (middle + half)
    middle, half = (low + high) / 2, max((high - low) / 2, 0.15)
    return float(10 ** max(middle - half, -300)), float(10 ** min(middle + half, 300))


def _short(value: float, kind: LayerMetric) -> str:
    """A value in few characters."""
    if not math.isfinite(value):
        return "&ndash;"
    if not kind.log:
        return f"{value:.0%}"
    if 0.01 <= value < 1000:
        return f"{value:.3g}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
