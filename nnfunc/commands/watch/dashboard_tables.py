"""The tables of the dashboard: the metrics with their curves, and the layers, the worst first."""

import math
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nnfunc.commands.watch.sparkline import sparkline
from nnfunc.reports.format import format_metric, sort_names
from nnfunc.runs import diagnostics, metrics_log, status

THROUGHPUT = {  # name: (label, factor, format)
    "examples_per_second": ("examples/s", 1, ",.0f"),
    "tokens_per_second": ("tokens/s", 1, ",.0f"),
    "memory_mb": ("memory, MB", 1, ",.0f"),
    "flops_per_second": ("GFLOP/s", 1e-9, ",.3g"),
    "utilisation": ("utilisation", 1, ".1%"),
}
OPTIMIZATION = {"learning_rate": ("learning rate", 1, ".3g"), "gradient_norm": ("gradient norm", 1, ".3g")}
HEADERS = {"gradient_norm": "gradient", "update_ratio": "update", "weight_norm": "weight"}


def metrics_table(view: Any, width: int, *, curve_height: int, ascii_only: bool) -> RenderableType:
    """Loss, accuracy and up to three other metrics, with the last value, the best value and the curve of each.

    view: a RunView.
    width: of the table.
    curve_height: lines of a metric's curve; with 1, measures of speed that repeat another are dropped.
    ascii_only: draw the curves in ASCII.
    """
    rows = view.rows
    table = Table.grid(padding=(0, 2, 0, 0))
    for is_number, style in ((False, "dim"), (False, "dim"), (True, ""), (True, "dim"), (False, "")):
        table.add_column(no_wrap=True, justify="right" if is_number else "left", style=style)
    table.add_row("", "", "now", "best", "[dim]over the steps[/]")

    def curve(steps: np.ndarray, values: np.ndarray, colour: str, height: int) -> Text:
        room, last = max(width - 15 - 7 - 12 - 12, 8), max(view.steps, 1)
        return Text(sparkline(steps, values, width=room, last=last, height=height, ascii_only=ascii_only), colour)

    train_names = metrics_log.metric_names(rows, "train")
    names = {*train_names, *metrics_log.metric_names(rows, "validation")} - {*THROUGHPUT, *OPTIMIZATION}
    for name in sort_names(names)[: 3 + len(names & {"loss", "accuracy"})]:
        best = np.max if status.metric_mode(name, view.config) == "max" else np.min
        for split, label, colour in (("train", "train", "default"), ("validation", "val", "cyan")):
            steps, values = metrics_log.metric_series(rows, split, name)
            if not len(values):
                continue
            title = name.replace("_", " ")[:15] if split == "train" or name not in train_names else ""
            now = Text(format_metric(name, float(values[-1])), "bold")
            best_text = format_metric(name, float(best(values)))
            table.add_row(title, label, now, best_text, curve(steps, values, colour, curve_height))
    repeated = {"examples_per_second"} if "tokens_per_second" in train_names else set()
    repeated |= {"flops_per_second"} if "utilisation" in train_names else set()
    for name, (label, factor, form) in (OPTIMIZATION | THROUGHPUT).items():
        steps, values = metrics_log.metric_series(rows, "train", name)
        if not len(values) or (curve_height == 1 and name in repeated):
            continue
        colour = "green" if name in THROUGHPUT else "magenta"
        table.add_row(label, "", format(factor * float(values[-1]), form), "", curve(steps, values, colour, 1))
    return table


def layers_table(
    part: str,
    paths: list[str],
    values: np.ndarray,
    columns: tuple[str, ...],
    width: int,
    *,
    total: int,
    ascii_only: bool = False,
) -> RenderableType:
    """The statistics of the layers, with unusual values in colour.

    part: "parameters" or "activations".
    paths: of the layers to show.
    values: [layers, columns], NaN where unknown.
    columns: the names of the statistics.
    width: of the table.
    total: the number of layers.
    ascii_only: shorten paths in ASCII.
    """
    known = [i for i in range(len(columns)) if np.isfinite(values[:, i]).any()]
    table = Table.grid(padding=(0, 2, 0, 0))
    path_width = min(max(width - 11 * len(known) - 2, 12), max(max(map(len, paths)), len(part) + 12))
    table.add_column(no_wrap=True, width=path_width)
    for _ in known:
        table.add_column(no_wrap=True, justify="right", width=9)
    title = f"{part} {len(paths)} of {total}" if total > len(paths) else part
    headers = [HEADERS.get(columns[i], columns[i]) for i in known]
    table.add_row(Text(title, "dim"), *(Text(header, "dim") for header in headers))
    has_gradients = "gradient_norm" in columns and 0 in known
    median_gradient = float(np.nanmedian(values[:, columns.index("gradient_norm")])) if has_gradients else math.nan
    for path, row in zip(paths, values, strict=False):
        cells = [_cell(columns[i], float(row[i]), path, median_gradient) for i in known]
        table.add_row(_shorten(path, path_width, ascii_only), *cells)
    return Group(Text(), table)


def _cell(name: str, value: float, path: str, median_gradient: float) -> Text:
    """A value, in colour where `diagnostics` has a finding about it."""
    if not math.isfinite(value):
        return Text("-", "dim")
    text = f"{value:.0%}" if name in ("dead", "saturated") else f"{value:.2g}"
    low, high = {
        "update_ratio": (diagnostics.UPDATE / diagnostics.DECADE, diagnostics.UPDATE * diagnostics.DECADE),
        "gradient_norm": (median_gradient / diagnostics.GRADIENT_FACTOR, median_gradient * diagnostics.GRADIENT_FACTOR),
        "deviation": (diagnostics.SMALL_DEVIATION, diagnostics.LARGE_DEVIATION),
        "dead": (-1, diagnostics.DEAD),
        "saturated": (-1, diagnostics.SATURATED),
    }.get(name, (-math.inf, math.inf))
    is_bias_update = name == "update_ratio" and path.rsplit("/", 1)[-1] == "bias"  # no rule of thumb holds for it
    return Text(text, "yellow" if not is_bias_update and (value < low or value > high) else "default")


def _shorten(path: str, width: int, ascii_only: bool) -> Text:
    """A path without its middle where it is too long: both ends tell layers apart."""
    if len(path) <= width:
        return Text(path)
    head = width // 3
    return Text(f"{path[:head]}{'~' if ascii_only else '…'}{path[head + 1 - width :]}")
