"""Histograms over time of weights, gradients and activations: a small image per layer, in groups that unfold."""

import html
from typing import NamedTuple

import numpy as np

from nnfunc.check import counted
from nnfunc.reports.charts import thin
from nnfunc.reports.inline_images import fading_palette, palette_png_url
from nnfunc.runs import metrics_log
from nnfunc.runs.metrics_log import Histograms, Row

SOURCES = (
    ("parameters", "weight_histogram", "weights", fading_palette(47, 111, 208)),
    ("parameters", "gradient_histogram", "gradients", fading_palette(217, 120, 45)),
    ("activations", "histogram", "activations", fading_palette(58, 154, 91)),
)
BINS = 40
PAGES = 20


class LayerHistograms(NamedTuple):
    """The histograms over time of a layer. path: of the layer. title: such as "weights". palette: of the image."""

    path: str
    title: str
    palette: np.ndarray
    histograms: Histograms


def render_histograms(rows: list[Row]) -> str:
    """The HTML of the histograms in the `rows`: cards by groups of layers, which unfold; "" without any."""
    layers = [
        LayerHistograms(path, title, palette, histograms)
        for part, name, title, palette in SOURCES
        for path, histograms in metrics_log.layer_histograms(rows, part, name).items()
    ]
    if not layers:
        return ""
    columns = int(np.clip(9000 // len(layers), 6, 100))  # so that the file stays below 2 MB
    order = {path: i for i, path in enumerate(dict.fromkeys(layer.path for layer in layers))}
    layers.sort(key=lambda layer: (metrics_log.natural_order(_group(layer.path)), order[layer.path]))
    groups: dict[str, list[str]] = {}
    for layer in layers:
        groups.setdefault(_group(layer.path), []).append(_render_card(layer, columns))
    pages: list[tuple[list[str], list[str]]] = []
    for name, cards in groups.items():
        if not pages or len(pages[-1][1]) + len(cards) > max(24, len(layers) // PAGES):
            pages.append(([], []))
        pages[-1][0].append(name)
        pages[-1][1].extend(cards)
    return "\n".join(_render_page(*page, is_open=i == 0) for i, page in enumerate(pages))


def _render_page(names: list[str], cards: list[str], *, is_open: bool) -> str:
    """Some groups that unfold together."""
    title = ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"
    summary = f"<summary>{html.escape(title)} <i>{counted(len(cards), 'histogram')}</i></summary>"
    return f'<details{" open" * is_open}>{summary}<div class="grid">{"".join(cards)}</div></details>'


def _group(path: str) -> str:
    """The group of a layer: its first name, with the number of a repeated block."""
    first, *rest = path.split("/")
    return f"{first}/{rest[0]}" if rest and rest[0].isdecimal() else first


def _render_card(layer: LayerHistograms, columns: int) -> str:
    """The image of one layer: time to the right, values upwards."""
    steps = layer.histograms.steps
    histograms = Histograms(*(column[thin(len(steps), columns)] for column in layer.histograms))
    low, high = _range(histograms)
    fractions = _rebin(histograms, np.linspace(low, high, BINS + 1))
    shades = np.sqrt(fractions / np.maximum(fractions.max(axis=1, keepdims=True), 1e-12))
    url = palette_png_url(np.round(15 * shades.T[::-1]), layer.palette)  # [bins, steps]
    name = html.escape(layer.path)
    return (
        f'<div class="hist"><b title="{name}">{name}</b><span>{layer.title}</span>'
        f'<div class="axis"><div><i>{high:.2g}</i><i>{low:.2g}</i></div>'
        f'<img alt="{layer.title} of {name} over time" src="{url}"></div>'
        f'<div class="ends"><i>{steps[0]:,}</i><i>{steps[-1]:,}</i></div></div>'
    )


def _rebin(histograms: Histograms, edges: np.ndarray) -> np.ndarray:
    """The fraction of each step's values between common edges [steps, bins]."""
    bins = histograms.counts.shape[1]
    low = histograms.low[:, None]
    min_width = 1e-6 * np.maximum(np.abs(low), 1e-30)  # of the histogram of a constant
    width = np.maximum(histograms.high[:, None] - low, min_width)
    fractions = histograms.counts / histograms.counts.sum(axis=1, keepdims=True)
    below = np.cumsum(np.pad(fractions, ((0, 0), (1, 0))), axis=1)  # [steps, bins + 1]
    position = np.clip((edges - low) / width, 0, 1) * bins  # [steps, edges]
    index = np.minimum(position.astype(int), bins - 1)
    part = np.take_along_axis(fractions, index, axis=1) * (position - index)
    return np.diff(np.take_along_axis(below, index, axis=1) + part, axis=1)


def _range(histograms: Histograms) -> tuple[float, float]:
    """The range of nearly all values of all steps, without a few outliers that would compress the rest."""
    low, high = float(histograms.low.min()), float(histograms.high.max())
    high = high if high > low else low + 1e-6 * max(abs(low), 1e-30)
    edges = np.linspace(low, high, 513)
    below = np.cumsum(_rebin(histograms, edges).mean(axis=0))
    inside = np.flatnonzero((below > 0.002) & (below < 0.998))
    first, last = (inside[0], inside[-1] + 2) if len(inside) else (0, 512)
    return float(edges[first]), float(edges[min(max(last, first + 1), 512)])
