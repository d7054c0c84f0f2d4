"""Histograms over time of weights, gradients and activations: a chart for each layer, in groups that unfold."""

import html
from typing import Any

import numpy as np

from nnfunc.check import counted
from nnfunc.display import html_table
from nnfunc.reports.charts import SHARES, Chart, histograms, shorten, thin
from nnfunc.reports.html_page import render_charts
from nnfunc.reports.palette import COLOURS
from nnfunc.runs import metrics_log
from nnfunc.runs.metrics_log import Histograms, Row

SOURCES = (
    ("parameters", "weight_histogram", "weights", COLOURS[0]),
    ("parameters", "gradient_histogram", "gradients", COLOURS[1]),
    ("activations", "histogram", "activations", COLOURS[2]),
)
POINTS, COLUMNS = 9000, 60  # steps of all charts, so that a page of a hundred blocks stays below 2 MB, and of one chart
PAGES = 20


def histogram_charts(rows: list[Row]) -> dict[str, list[Chart]]:
    """{group of layers: a chart for each of their weights, gradients and activations in the `rows`}."""
    layers = [
        (path, title, colour, layer)
        for part, name, title, colour in SOURCES
        for path, layer in metrics_log.layer_histograms(rows, part, name).items()
    ]
    columns = int(np.clip(POINTS // max(len(layers), 1), 6, COLUMNS))
    paths = dict.fromkeys(path for path, *_ in layers)
    outputs = dict.fromkeys(path for path, title, *_ in layers if title == "activations")  # in the model's order
    groups_order = [*dict.fromkeys(map(_group, [*outputs, *paths]))]
    order = {path: (groups_order.index(_group(path)), i) for i, path in enumerate(paths)}
    layers.sort(key=lambda layer: order[layer[0]])
    groups: dict[str, list[Chart]] = {}
    for i, (path, title, colour, layer) in enumerate(layers):
        chart = histograms(f"histogram-{i}", f"{path}: {title}", _encode(layer, columns), colour=colour)
        groups.setdefault(_group(path), []).append(chart)
    return groups


def render_histograms(groups: dict[str, list[Chart]]) -> str:
    """The HTML of the charts: about `PAGES` parts that unfold; "" without any. groups: of `histogram_charts`."""
    count = sum(map(len, groups.values()))
    parts: list[tuple[list[str], list[Chart]]] = []
    for name, charts in groups.items():
        if not parts or len(parts[-1][1]) + len(charts) > max(24, count // PAGES):
            parts.append(([], []))
        parts[-1][0].append(name)
        parts[-1][1].extend(charts)
    return "\n".join(_render_part(*part, is_open=i == 0) for i, part in enumerate(parts))


def _render_part(names: list[str], charts: list[Chart], *, is_open: bool) -> str:
    """Some groups that unfold together; without JavaScript a table of the last step."""
    title = ", ".join(names) if len(names) < 4 else f"{names[0]} to {names[-1]}"
    summary = f"<summary>{html.escape(title)} <i>{counted(len(charts), 'histogram')}</i></summary>"
    header = ["layer", "step", "minimum", "maximum"]
    rows = [[chart.title, *(str(chart.data[column][-1]) for column in ("step", "low", "high"))] for chart in charts]
    content = render_charts(charts, layout="small", table=f'<div class="wide">{html_table([header, *rows])}</div>')
    return f"<details{' open' * is_open}>{summary}{content}</details>"


def _group(path: str) -> str:
    """The group of a layer: its first name, with the number of a repeated block."""
    first, *rest = path.split("/")
    return f"{first}/{rest[0]}" if rest and rest[0].isdecimal() else first


def _encode(layer: Histograms, columns: int) -> dict[str, Any]:
    """The columns of `charts.histograms`, of so many steps."""
    steps, low, high, counts = (column[thin(len(layer.steps), columns)] for column in layer)
    fractions = counts / counts.sum(axis=1, keepdims=True)
    levels = np.ceil((len(SHARES) - 1) * np.sqrt(fractions) - 0.5).astype(int)  # [steps, bins]
    levels = np.maximum(levels, fractions > 0)  # a single value is visible
    shares = ["".join(SHARES[level] for level in row) for row in levels]
    return {"step": steps.tolist(), "low": shorten(low, 6), "high": shorten(high, 6), "shares": shares}
