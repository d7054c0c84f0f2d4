"""The result of an evaluation as tables for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from nnfunc.reports.format import format_metric

MOST_CLASSES = 20  # rows of a table by class
MOST_COLUMNS = 12  # of a confusion matrix
MOST_EXAMPLES = 8  # of the worst


def print_tables(console: Console, result: Mapping[str, Any]) -> None:
    """Print the tables of an evaluation.

    console: to print on.
    result: of `evaluate_run.evaluation_result`.
    """
    sections: list[tuple[str, RenderableType | None]] = [
        ("", _metrics(result)),
        ("By class", _by_class(result["per_class"])),
        ("Confusion: rows are true classes, columns predictions", _confusion(console, result)),
        ("Calibration: predicted probabilities and observed frequencies", _calibration(result["calibration"])),
        ("The worst examples", _worst(result["worst"])),
    ]
    for title, table in sections:
        if table is not None:
            console.print()
            if title:
                console.print(Text(title, "bold"))
            console.print(table)


def _table(*columns: str) -> Table:
    """A table whose first column is on the left, and whose others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", overflow="fold")
    return table


def _number(name: str, value: Any) -> str:
    return "" if value is None else "-" if value != value else format_metric(name, value)


def _metrics(result: Mapping[str, Any]) -> Table:
    interval, baseline = "95 % interval", f"always {result['baseline_answer']}" if result["baseline_answer"] else ""
    table = _table("metric", "value", interval, *([baseline] if baseline else []))
    for name, row in result["metrics"].items():
        low, high = row["low"], row["high"]
        ends = "" if low is None or low != low else f"{_number(name, low)} to {_number(name, high)}"
        worse = row["baseline"] is not None and row["better"] is False
        value = Text(_number(name, row["value"]), "red" if worse else "bold")
        table.add_row(name, value, ends, *([_number(name, row["baseline"])] if baseline else []))
    return table


def _by_class(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    if not rows:
        return None
    names = [name for name in rows[0] if name != "class"]
    labels = {"average_precision": "AP", "roc_auc": "AUC"}
    table = _table("class", *(labels.get(name, name) for name in names))
    for row in rows[:MOST_CLASSES]:
        counts = ("support", "predicted")
        values = [f"{row[name]:,.0f}" if name in counts else _number(name, row[name]) for name in names]
        table.add_row(str(row["class"]), *values)
    if len(rows) > MOST_CLASSES:
        table.add_row(Text(f"and {len(rows) - MOST_CLASSES} more", "dim"))
    return table


def _confusion(console: Console, result: Mapping[str, Any]) -> Table | None:
    counts: Any = np.asarray(result["confusion"]) if result["confusion"] is not None else np.zeros(0)
    if counts.ndim != 2:
        return None
    names = [row["class"] for row in result["per_class"]]
    width = max(map(len, names)) + sum(max(len(name), len(f"{counts.max():,.0f}")) + 2 for name in names)
    if len(names) > MOST_COLUMNS or width > console.width - 2:
        return _confused_pairs(counts, names)
    table = _table("", *names)
    for true, row in enumerate(counts.tolist()):
        styles = ["bold green" if true == index else "red" if count else "dim" for index, count in enumerate(row)]
        table.add_row(names[true], *(Text(f"{n:,.0f}", style) for n, style in zip(row, styles, strict=True)))
    return table


def _confused_pairs(counts: Any, names: Sequence[str]) -> Table | None:
    """The most frequent mistakes, for a matrix that is too wide."""
    mistakes = counts - np.diag(np.diag(counts))
    order: list[int] = np.argsort(-mistakes, axis=None, kind="stable")[:10].tolist()
    table = _table("true class", "predicted", "examples", "of the class")
    for true, predicted in (divmod(index, len(names)) for index in order):
        if count := mistakes[true, predicted]:
            table.add_row(names[true], names[predicted], f"{count:,.0f}", f"{count / counts[true].sum():.1%}")
    return table if table.row_count else None


def _calibration(bins: Sequence[Mapping[str, Any]]) -> Table | None:
    if not bins:
        return None
    table = _table("predicted", "observed", "difference", "examples", "")
    table.columns[4].justify = "left"
    for row in bins:
        gap = f"{row['frequency'] - row['probability']:+.1%}"
        bar = Text("█" * round(20 * row["frequency"]), "cyan")
        table.add_row(f"{row['probability']:.1%}", f"{row['frequency']:.1%}", gap, f"{row['count']:,.0f}", bar)
    return table


def _worst(rows: Sequence[Mapping[str, Any]]) -> Table | None:
    if not rows:
        return None
    rows = [{key: row[key] for key in row if key != "row" or "example" not in row} for row in rows[:MOST_EXAMPLES]]
    table = _table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    return table
