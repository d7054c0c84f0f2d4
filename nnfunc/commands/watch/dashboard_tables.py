"""The tables of the dashboard: the figures with their curves, and the layers, the worst first."""

import math
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nnfunc.commands.watch.sparkline import spark
from nnfunc.reports.format import format_metric
from nnfunc.runs import diagnostics, metrics_log, status

__all__ = ["figures_table", "layers_table"]

SPEED = {  # name: label, factor, form
    "examples_per_second": ("examples/s", 1, ",.0f"),
    "tokens_per_second": ("tokens/s", 1, ",.0f"),
    "memory_mb": ("memory, MB", 1, ",.0f"),
    "flops_per_second": ("GFLOP/s", 1e-9, ",.3g"),
    "utilisation": ("utilisation", 1, ".1%"),
}
ALONE = ("learning_rate", "gradient_norm")
HEADS = {"gradient_norm": "gradient", "update_ratio": "update", "weight_norm": "weight"}


def figures_table(view: Any, width: int, *, tall: int, plain: bool) -> RenderableType:
    """Every figure: its last value, its best one, its curve. tall: lines of the curves of metrics."""
    rows, last = view.rows, max(view.steps, 1)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, justify="right", style="dim")
    table.add_column(no_wrap=True)
    room = max(width - 15 - 7 - 12 - 12, 8)
    table.add_row("", "", "now", "best", "[dim]over the steps[/]")
    for name in _metrics(rows):
        mode = status.mode_of(name, view.config)
        for split, word, colour in (("train", "train", "default"), ("validation", "val", "cyan")):
            steps, values = metrics_log.series(rows, split, name)
            if not len(values):
                continue
            best = f"{format_metric(name, float(values.max() if mode == 'max' else values.min()))}"
            curve = spark(steps, values, width=room, last=last, height=tall, plain=plain)
            label = _label(name) if word == "train" or not _has(rows, "train", name) else ""
            now = Text(format_metric(name, float(values[-1])), "bold")
            table.add_row(label, word, now, best, Text(curve, colour))
    known = set(metrics_log.names(rows, "train"))
    spare = {"examples_per_second"} if "tokens_per_second" in known else set()
    spare |= {"flops_per_second"} if "utilisation" in known else set()
    for name in (*ALONE, *SPEED):
        if tall == 1 and name in spare:  # says the same as another
            continue
        steps, values = metrics_log.series(rows, "train", name)
        if len(values):
            label, factor, form = SPEED.get(name, (_label(name), 1, ".3g"))
            curve = spark(steps, values, width=room, last=last, plain=plain)
            now = format(factor * float(values[-1]), form)
            table.add_row(label, "", now, "", Text(curve, "green" if name in SPEED else "magenta"))
    return table


def _label(name: str) -> str:
    return name.replace("_", " ")[:15]


def _has(rows: list[metrics_log.Row], split: str, name: str) -> bool:
    return bool(len(metrics_log.series(rows, split, name)[0]))


def _metrics(rows: list[metrics_log.Row]) -> list[str]:
    """Loss and accuracy, then up to three others."""
    known = {*metrics_log.names(rows, "train"), *metrics_log.names(rows, "validation")}
    known -= {*SPEED, *ALONE}
    first = [name for name in ("loss", "accuracy") if name in known]
    return first + sorted(known - set(first))[:3]


def layers_table(
    kind: str,
    paths: list[str],
    values: np.ndarray,
    columns: tuple[str, ...],
    width: int,
    *,
    of: int,
    plain: bool = False,
) -> RenderableType:
    """The layers of one kind, values that are far from usual in colour. of: how many there are."""
    known = [i for i in range(len(columns)) if np.isfinite(values[:, i]).any()]
    table = Table.grid(padding=(0, 2, 0, 0))
    room = max(width - 11 * len(known) - 2, 12)
    longest = max(max(map(len, paths)), len(kind) + 12)
    table.add_column(no_wrap=True, width=min(room, longest))
    for _ in known:
        table.add_column(no_wrap=True, justify="right", width=9)
    more = f" {len(paths)} of {of}" if of > len(paths) else ""
    heads = [HEADS.get(columns[i], columns[i]) for i in known]
    table.add_row(Text(f"{kind}{more}", "dim"), *(Text(head, "dim") for head in heads))
    gradients = values[:, columns.index("gradient_norm")] if "gradient_norm" in columns else None
    middle = float(np.nanmedian(gradients)) if gradients is not None and known[:1] == [0] else math.nan
    for path, row in zip(paths, values, strict=False):
        cells = [_cell(columns[i], float(row[i]), path, middle) for i in known]
        table.add_row(_short(path, min(room, longest), plain), *cells)
    return Group(Text(), table)


def _cell(name: str, value: float, path: str, middle: float) -> Text:
    """A value, in colour where `findings` would name it."""
    if not math.isfinite(value):
        return Text("-", "dim")
    form = f"{value:.0%}" if name in ("dead", "saturated") else f"{value:.2g}"
    low, high = {
        "update_ratio": (diagnostics.UPDATE / diagnostics.DECADE, diagnostics.UPDATE * diagnostics.DECADE),
        "gradient_norm": (middle / diagnostics.VANISHING, middle * diagnostics.EXPLODING),
        "deviation": (diagnostics.QUIET, diagnostics.LOUD),
        "dead": (-1, diagnostics.DEAD),
        "saturated": (-1, diagnostics.SATURATED),
    }.get(name, (-math.inf, math.inf))
    plain = name == "update_ratio" and path.rsplit("/", 1)[-1] == "bias"
    return Text(form, "yellow" if not plain and (value < low or value > high) else "default")


def _short(path: str, width: int, plain: bool) -> Text:
    """A path without its middle where it is too long: both its ends set it apart."""
    if len(path) <= width:
        return Text(path)
    head = width // 3
    return Text(f"{path[:head]}{'~' if plain else '…'}{path[head + 1 - width :]}")
