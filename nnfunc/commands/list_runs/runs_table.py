"""Runs as a table in the terminal, and as CSV."""

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
from nnfunc.commands.list_runs.collect_runs import RunEntry
from nnfunc.commands.watch.dashboard import COLOURS
from nnfunc.durations import format_clock
from nnfunc.reports.format import format_metric, sort_names
from nnfunc.runs import status

SORT_KEYS: dict[str, Callable[[RunEntry], Any]] = {
    "name": lambda e: e.name,
    "model": lambda e: e.model or None,
    "parameters": lambda e: e.parameters,
    "steps": lambda e: e.steps,
    "state": lambda e: e.state,
    "seconds": lambda e: e.seconds,
}
METRIC_COLUMNS = ("best", "last", "test")
MOST_SETTINGS = 12
"""How many differing settings the terminal shows: those that most runs have."""


def sort_runs(entries: list[RunEntry], key: str | None) -> list[RunEntry]:
    """The entries in the order of a key, the best first; those without a value come last.

    entries: of `collect_runs`.
    key: a column; best, last or test; a metric; a setting; or None.
    Raises: ValueError that names the nearest keys when the key is unknown.
    """
    if key is None or not entries:
        return entries
    metrics, settings = metric_names(entries), {name for e in entries for name in e.settings}
    if key in SORT_KEYS:
        read = SORT_KEYS[key]
    elif key in METRIC_COLUMNS:
        read = lambda e: _ascending(e, getattr(e, key).get(e.metric), e.metric)
    elif key in metrics:
        read = lambda e: _ascending(e, e.best.get(key, e.test.get(key)), key)
    elif key in settings:
        read = lambda e: e.settings.get(key)
    else:
        hint = check.nearest(key, [*SORT_KEYS, *METRIC_COLUMNS, *metrics, *sorted(settings)]).removeprefix("; ")
        check.fail("runs", expected="sort should be a column, a metric or a setting", actual=repr(key), hint=hint)
    return sorted(entries, key=lambda e: _sort_key(read(e)))


def _ascending(entry: RunEntry, value: float | None, metric: str) -> float | None:
    """The value of a metric, with its sign changed where larger is better."""
    mode = status.metric_mode(metric, {"train": {"best": f"{entry.mode} {entry.metric}"}})
    return -value if value is not None and mode == "max" else value


def _sort_key(value: Any) -> tuple[int, float, str]:
    """Numbers come first, then text, then missing values."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return 2, 0.0, ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 1, 0.0, str(value)
    return 0, float(value), ""


def metric_names(entries: list[RunEntry]) -> list[str]:
    """The metrics that some entry has, loss and accuracy first. entries: of `collect_runs`."""
    return sort_names({name for e in entries for metrics in (e.best, e.last, e.test) for name in metrics})


def differing_settings(entries: list[RunEntry]) -> list[str]:
    """The names of settings that differ between the entries and have no column.

    entries: of `collect_runs`; those without settings are ignored.
    """
    runs = [e.settings for e in entries if e.settings]
    names = dict.fromkeys(name for settings in runs for name in settings if name not in ("model.name", "train.steps"))
    return [name for name in names if len({repr(settings.get(name)) for settings in runs}) > 1]


class RunsColumn(NamedTuple):
    """A column of the table in the terminal.

    right: align the cells to the right, for numbers.
    priority: in a narrow terminal the columns of lowest priority are dropped first.
    """

    title: str
    cell: Callable[[RunEntry], Any]
    right: bool = True
    priority: int = 9


COLUMNS = (
    RunsColumn("model", lambda e: e.model, right=False, priority=2),
    RunsColumn("params", lambda e: "" if e.parameters is None else f"{e.parameters:,}", priority=1),
    RunsColumn("steps", lambda e: "" if not e.total and not e.steps else steps_text(e), priority=5),
    RunsColumn("state", lambda e: Text(e.state, COLOURS.get(e.state, "dim")), right=False),
    RunsColumn("best val", lambda e: _metrics_cell(e, e.best)),
    RunsColumn("last val", lambda e: _metrics_cell(e, e.last), priority=3),
    RunsColumn("test", lambda e: _metrics_cell(e, e.test)),
    RunsColumn("time", lambda e: format_clock(e.seconds) if e.seconds > 0 else "", priority=4),
)


def print_table(entries: list[RunEntry], console: Console) -> None:
    """Print the table; a model that all runs share is named once, below it.

    In a narrow terminal the differing settings become a second table, and columns of low priority are
    dropped, which the last line says.
    entries: of `collect_runs`.
    console: to print to.
    """
    listed = [e for e in entries if e.state != "no run"]
    runs = [e for e in listed if e.state != "sweep"]
    every = differing_settings(runs)
    names = sorted(every, key=lambda name: -sum(name in e.settings for e in runs))[:MOST_SETTINGS]
    names = every if len(every) <= MOST_SETTINGS else names
    short_names = _short_names(names)
    footer, columns = [], []
    for column in COLUMNS:
        cells, run_cells = ({str(column.cell(e)) for e in part} for part in (listed, runs))
        if column.title in ("model", "params") and len(runs) > 1 and len(run_cells) == 1:
            footer += [f"all: {column.title} {cell}" for cell in run_cells if cell]
        elif column.title == "state" or cells - {""}:
            columns.append(column)
    settings = RunsColumn("differing settings", lambda e: _settings_cell(e, short_names), right=False)
    has_settings = bool(names) or any(e.note for e in entries)
    name_width = min(max(_width(RunsColumn("run", lambda e: e.name), entries), 12), 30)

    def room() -> int:
        return console.width - name_width - sum(_width(column, entries) + 2 for column in columns)

    one_table = has_settings and room() >= 26
    dropped = []
    while room() < 0 and len(columns) > 1:
        column = min(columns, key=lambda column: column.priority)
        columns.remove(column)
        dropped.append(column.title)
    _print_columns([*columns, settings] if one_table else columns, entries, name_width, console)
    if has_settings and not one_table:
        _print_columns([settings], [e for e in entries if str(settings.cell(e))], name_width, console)
    if dropped:
        footer.append(f"the terminal is too narrow for: {', '.join(dropped)} (see --csv)")
    if len(every) > len(names):
        footer.append(f"{len(every) - len(names)} more settings differ (see --csv)")
    if footer:
        console.print(Text("; ".join(footer), "dim"))


def _print_columns(columns: list[RunsColumn], entries: list[RunEntry], name_width: int, console: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="dim")
    table.add_column("run", overflow="fold", width=name_width)
    for column in columns:
        justify, wraps = "right" if column.right else "left", column.title.endswith("settings")
        table.add_column(column.title, justify=justify, overflow="fold", no_wrap=not wraps)
    for e in entries:
        table.add_row(Text(e.name), *(column.cell(e) for column in columns))
    console.print(table)
    console.print()


def _width(column: RunsColumn, entries: list[RunEntry]) -> int:
    lines = [line for e in entries for line in str(column.cell(e)).split("\n")]
    return max(map(cell_len, [column.title, *lines]))


def steps_text(entry: RunEntry) -> str:
    """The steps done, and the total while some are missing. entry: a run."""
    return f"{entry.steps:,}/{entry.total:,}" if entry.steps < entry.total else f"{entry.steps:,}"


def _metrics_cell(entry: RunEntry, metrics: dict[str, float]) -> str:
    """Loss, accuracy and the metric of the best checkpoint, one per line."""
    unlabelled = ("loss", "accuracy")
    names = [name for name in dict.fromkeys((*unlabelled, entry.metric)) if name in metrics] or list(metrics)[:1]
    values = {name: format_metric(name, metrics[name]) for name in names}
    return "\n".join(value if name in unlabelled else f"{name} {value}" for name, value in values.items())


def _settings_cell(entry: RunEntry, short_names: dict[str, str]) -> Text:
    """The differing settings, and the note of the run."""
    known = {short: entry.settings[name] for name, short in short_names.items() if name in entry.settings}
    text = Text("  ".join(f"{name}={setting_text(value)}" for name, value in known.items()))
    if entry.note:
        text.append("\n" if known else "").append(entry.note, COLOURS.get(entry.state, "dim"))
    return text


def setting_text(value: Any) -> str:
    """A setting in at most 60 characters; CSV has it in full. value: of the config."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:60]


def _short_names(names: list[str]) -> dict[str, str]:
    """The last part of each dotted name, or the whole name where two have the same last part."""
    parts = [name.rsplit(".", 1)[-1] for name in names]
    return {name: part if parts.count(part) == 1 else name for name, part in zip(names, parts, strict=True)}


def runs_csv(entries: list[RunEntry]) -> str:
    """CSV with one line per entry and numbers in full precision. entries: of `collect_runs`."""
    metrics, names = metric_names(entries), differing_settings(entries)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    header = ["name", "state", "model", "parameters", "steps", "total_steps", "seconds", "best_step"]
    writer.writerow([*header, *(f"{part}_{metric}" for part in METRIC_COLUMNS for metric in metrics), *names, "note"])
    for e in entries:
        seconds = e.seconds if math.isfinite(e.seconds) else None
        row = [e.name, e.state, e.model, e.parameters, e.steps, e.total or None, seconds, e.best_step]
        row += [getattr(e, part).get(metric) for part in METRIC_COLUMNS for metric in metrics]
        writer.writerow([*row, *(e.settings.get(name) for name in names), e.note])
    return file.getvalue()
