"""Runs as a table: in the terminal, and as CSV."""

import csv
import io
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nnfunc import check
from nnfunc.commands.list_runs.collect_runs import Entry
from nnfunc.commands.watch.dashboard import COLOURS, clock
from nnfunc.reports.format import format_metric
from nnfunc.runs import status

__all__ = ["as_csv", "differing", "metrics_of", "show", "sorted_by", "value"]

COLUMNS: dict[str, Callable[[Entry], Any]] = {
    "name": lambda e: e.name,
    "model": lambda e: e.model or None,
    "parameters": lambda e: e.parameters,
    "steps": lambda e: e.steps,
    "state": lambda e: e.state,
    "seconds": lambda e: e.seconds,
}
FIGURES = ("best", "last", "test")


def sorted_by(entries: list[Entry], key: str | None) -> list[Entry]:
    """The entries by a column, by best, last or test, by a metric, or by a setting; unknown last.

    Raises: ValueError naming the nearest keys when there is no such one.
    """
    if key is None or not entries:
        return entries
    metrics, settings = metrics_of(entries), {name for e in entries for name in e.settings}
    if key in COLUMNS:
        read = COLUMNS[key]
    elif key in FIGURES:
        read = lambda e: _better(e, getattr(e, key).get(e.metric), e.metric)
    elif key in metrics:
        read = lambda e: _better(e, e.best.get(key, e.test.get(key)), key)
    elif key in settings:
        read = lambda e: e.settings.get(key)
    else:
        known = [*COLUMNS, *FIGURES, *metrics, *sorted(settings)]
        check.fail("runs", f"sort should be a column, got {key!r}{check.nearest(key, known)}")
    return sorted(entries, key=lambda e: _order(read(e)))


def _better(entry: Entry, value: float | None, metric: str) -> float | None:
    """A figure such that the better one is the smaller one."""
    more = status.mode_of(metric, {"train": {"best": f"{entry.mode} {entry.metric}"}}) == "max"
    return None if value is None else -value if more else value


def _order(value: Any) -> tuple[int, float, str]:
    """Numbers first, then words, what is not known last."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return (2, 0.0, "") if value is None else (1, 0.0, str(value))
    return (2, 0.0, "") if math.isnan(value) else (0, float(value), "")


def metrics_of(entries: list[Entry]) -> list[str]:
    """The metrics that some run has, loss and accuracy first."""
    known = {name for e in entries for part in (e.best, e.last, e.test) for name in part}
    first = [name for name in ("loss", "accuracy") if name in known]
    return first + sorted(known - set(first))


def differing(entries: list[Entry]) -> list[str]:
    """The settings that are not the same in all runs; not those that have columns of their own."""
    readable = [e.settings for e in entries if e.settings]
    names = dict.fromkeys(name for settings in readable for name in settings)
    own = {"model.name", "train.steps"}
    return [name for name in names if name not in own and len({repr(settings.get(name)) for settings in readable}) > 1]


class Column(NamedTuple):
    """A column of the terminal's table. right: numbers; keep: those kept where room is short last."""

    title: str
    cell: Callable[[Entry], Any]
    right: bool = True
    keep: int = 9


SHOWN = (
    Column("model", lambda e: e.model, right=False, keep=2),
    Column("params", lambda e: "" if e.parameters is None else f"{e.parameters:,}", keep=1),
    Column("steps", lambda e: _steps(e), keep=5),
    Column("state", lambda e: Text(e.state, COLOURS.get(e.state, "dim")), right=False),
    Column("best val", lambda e: _figures(e, e.best)),
    Column("last val", lambda e: _figures(e, e.last), keep=3),
    Column("test", lambda e: _figures(e, e.test)),
    Column("time", lambda e: clock(e.seconds) if e.seconds > 0 else "", keep=4),
)


def show(entries: list[Entry], console: Console) -> None:
    """Print the table; what all runs have in common is said once, below it.

    Where the terminal is too narrow, the settings that differ are a table of their own, and the
    least columns are left out, which is said too.
    """
    listed = [e for e in entries if e.state != "no run"]
    runs = [e for e in listed if e.state != "sweep"]
    names = differing(runs)
    short, words, columns = _short(names), [], []
    for column in SHOWN:
        values, of_runs = ({str(column.cell(e)) for e in part} for part in (listed, runs))
        if column.title in ("model", "params") and len(runs) > 1 and len(of_runs) == 1:
            words += [f"all: {column.title} {value}" for value in of_runs if value]
        elif column.title == "state" or values - {""}:
            columns.append(column)
    settings = Column("settings that differ", lambda e: _settings(e, names, short), right=False)
    told = bool(names) or any(e.note for e in entries)
    name = min(max(_widths(Column("run", lambda e: e.name), entries), 12), 30)

    def room() -> int:
        return console.width - name - sum(_widths(column, entries) + 2 for column in columns)

    beside = told and room() >= 26
    left_out = []
    while room() < 0 and len(columns) > 1:
        least = min(columns, key=lambda column: column.keep)
        columns.remove(least)
        left_out.append(least.title)
    _print([*columns, settings] if beside else columns, entries, name, console)
    if told and not beside:
        _print([settings], [e for e in entries if str(settings.cell(e))], name, console)
    if left_out:
        words.append(f"left out for want of room: {', '.join(left_out)} (--csv has them)")
    if words:
        console.print(Text("; ".join(words), "dim"))


def _print(columns: list[Column], entries: list[Entry], name: int, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    table.add_column("run", overflow="fold", width=name)
    for column in columns:
        wraps = column.title.startswith("settings")
        justify = "right" if column.right else "left"
        table.add_column(column.title, justify=justify, overflow="fold", no_wrap=not wraps)
    for e in entries:
        table.add_row(Text(e.name), *(column.cell(e) for column in columns))
    console.print(table)
    console.print()


def _widths(column: Column, entries: list[Entry]) -> int:
    """The width of a column that is not wrapped."""
    lines = [line for e in entries for line in str(column.cell(e)).split("\n")]
    return max(map(cell_len, [column.title, *lines]))


def _steps(entry: Entry) -> str:
    """Steps done, and of how many where some are missing."""
    if not entry.total or entry.steps >= entry.total:
        return f"{entry.steps:,}" if entry.steps else ""
    return f"{entry.steps:,}/{entry.total:,}"


def _figures(entry: Entry, values: dict[str, float]) -> str:
    """The metric of the best checkpoint, and loss and accuracy, one below the other."""
    names = [name for name in dict.fromkeys(("loss", "accuracy", entry.metric)) if name in values]
    names = names or list(values)[:1]
    plain = ("loss", "accuracy")
    words = [format_metric(n, values[n]) if n in plain else f"{n} {format_metric(n, values[n])}" for n in names]
    return "\n".join(words)


def _settings(entry: Entry, names: list[str], short: dict[str, str]) -> Text:
    """The settings that differ, and what is wrong with the run."""
    own = [name for name in names if name in entry.settings]
    text = Text("  ".join(f"{short[name]}={value(entry.settings[name])}" for name in own))
    if entry.note:
        text.append("\n" if own else "").append(entry.note, COLOURS.get(entry.state, "dim"))
    return text


def value(value: Any) -> str:
    """A setting in few characters; CSV has the whole."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:60]


def _short(names: list[str]) -> dict[str, str]:
    """The last part of each name, or the whole where that is not one setting's alone."""
    last = [name.rsplit(".", 1)[-1] for name in names]
    return {n: part if last.count(part) == 1 else n for n, part in zip(names, last, strict=True)}


def as_csv(entries: list[Entry]) -> str:
    """One line a run, one column a figure and a setting that differs; numbers in full."""
    metrics, names = metrics_of(entries), differing(entries)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    figures = [f"{part}_{metric}" for part in FIGURES for metric in metrics]
    head = ["name", "state", "model", "parameters", "steps", "total_steps", "seconds", "best_step"]
    writer.writerow([*head, *figures, *names, "note"])
    for e in entries:
        seconds = e.seconds if math.isfinite(e.seconds) else None
        row = [e.name, e.state, e.model, e.parameters, e.steps, e.total or None, seconds, e.best_step]
        row += [getattr(e, part).get(metric) for part in FIGURES for metric in metrics]
        writer.writerow([*row, *(e.settings.get(name) for name in names), e.note])
    return file.getvalue()
