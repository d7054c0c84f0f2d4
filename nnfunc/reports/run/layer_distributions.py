"""Distributions over time of weights, gradients and activations: bands of quantiles, in groups that unfold."""

import html

import numpy as np

from nnfunc.check import counted
from nnfunc.display import html_table
from nnfunc.reports.charts import Chart, bands, shorten, thin
from nnfunc.reports.html_page import render_charts
from nnfunc.reports.palette import COLOURS
from nnfunc.runs import metrics_log
from nnfunc.runs.metrics_log import Histograms, Row

SOURCES = (
    ("parameters", "weight_histogram", "weights", COLOURS[0]),
    ("parameters", "gradient_histogram", "gradients", COLOURS[1]),
    ("activations", "histogram", "activations", COLOURS[2]),
)
QUANTILES = {"1%": 0.01, "5%": 0.05, "25%": 0.25, "median": 0.5, "75%": 0.75, "95%": 0.95, "99%": 0.99}
BANDS = (("1%", "99%"), ("5%", "95%"), ("25%", "75%"))
POINTS, COLUMNS = 9000, 60  # of all charts, so that the page stays below 2 MB, and of one
PAGES = 20


def distribution_charts(rows: list[Row]) -> dict[str, list[Chart]]:
    """{group of layers: a chart for each of their weights, gradients and activations in the `rows`}."""
    layers = [
        (path, title, colour, histograms)
        for part, name, title, colour in SOURCES
        for path, histograms in metrics_log.layer_histograms(rows, part, name).items()
    ]
    columns = int(np.clip(POINTS // max(len(layers), 1), 6, COLUMNS))
    order = {path: i for i, path in enumerate(dict.fromkeys(path for path, *_ in layers))}
    layers.sort(key=lambda layer: (metrics_log.natural_order(_group(layer[0])), order[layer[0]]))
    groups: dict[str, list[Chart]] = {}
    for path, title, colour, histograms in layers:
        chart = bands(f"{title}-{path}", f"{path}: {title}", _columns(histograms, columns), BANDS, colour=colour)
        groups.setdefault(_group(path), []).append(chart)
    return groups


def render_distributions(groups: dict[str, list[Chart]]) -> str:
    """The HTML of the charts: about `PAGES` parts that unfold; "" without any. groups: of `distribution_charts`."""
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
    summary = f"<summary>{html.escape(title)} <i>{counted(len(charts), 'chart')}</i></summary>"
    rows = [
        ["layer", *charts[0].data],
        *([chart.title, *(str(column[-1]) for column in chart.data.values())] for chart in charts),
    ]
    content = render_charts(charts, layout="small", table=f'<div class="wide">{html_table(rows)}</div>')
    return f"<details{' open' * is_open}>{summary}{content}</details>"


def _group(path: str) -> str:
    """The group of a layer: its first name, with the number of a repeated block."""
    first, *rest = path.split("/")
    return f"{first}/{rest[0]}" if rest and rest[0].isdecimal() else first


def _columns(histograms: Histograms, columns: int) -> dict[str, list]:
    """The quantiles of some steps, with the least and the greatest value."""
    some = Histograms(*(column[thin(len(histograms.steps), columns)] for column in histograms))
    values = {"least": some.low, **dict(zip(QUANTILES, _quantiles(some).T, strict=True)), "greatest": some.high}
    return {"step": some.steps.tolist()} | {name: shorten(column, 4) for name, column in values.items()}


def _quantiles(histograms: Histograms) -> np.ndarray:
    """The `QUANTILES` of each step [steps, quantiles], linear within a bin."""
    bins = histograms.counts.shape[1]
    below = np.cumsum(np.pad(histograms.counts, ((0, 0), (1, 0))), axis=1)  # [steps, bins + 1]
    position = [np.interp(np.array([*QUANTILES.values()]) * row[-1], row, np.arange(bins + 1)) / bins for row in below]
    return histograms.low[:, None] + np.stack(position) * (histograms.high - histograms.low)[:, None]
