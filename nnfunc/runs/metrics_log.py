"""Reads `metrics.jsonl` of a run without trusting its content.

The file may be cut short, grow meanwhile, come from an older or newer version, or be damaged: a line
that is not a row is skipped, a value that is not a number is NaN, and no function raises for content.
"""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnfunc import documents

__all__ = [
    "Event",
    "Histograms",
    "LayerSeries",
    "event_rows",
    "last_value",
    "layer_histograms",
    "layer_series",
    "metric_names",
    "metric_series",
    "natural_order",
    "parse_row",
    "read_rows",
    "rows_to_resume",
    "steps_per_second",
    "to_float",
    "training_seconds",
]

Row = dict[str, Any]
HEAD = ("split", "step", "seconds")
LARGEST = 2**32  # bytes of a file


def to_float(value: Any) -> float:
    """The value as a float; NaN if it is not a number. value: of a row.

    >>> to_float(3), to_float("3"), to_float(True), to_float(None)
    (3.0, nan, nan, nan)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def parse_row(line: str | bytes) -> Row | None:
    """The row of a line, a dictionary with a split and a step; None for anything else. line: of the file."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("split"), str):
        return None
    step = to_float(row.get("step"))
    if not 0 <= step < 2**53:
        return None
    return row | {"step": int(step)}


def read_rows(path: Path, *, without: tuple[str, ...] = ()) -> list[Row]:
    """The rows of a file, none if it does not exist. path: of metrics.jsonl. without: splits to skip."""
    try:
        content = documents.read_bytes(path, LARGEST)
    except (OSError, ValueError):
        return []
    return parse_rows(content.split(b"\n"), without)


def rows_to_resume(path: Path) -> list[Row]:
    """The rows of a file that a run continues from: complete ones, in which only numbers are values.

    path: of metrics.jsonl.
    """
    return [{name: _plain(row, name) for name in row} for row in read_rows(path) if _complete(row)]


def _complete(row: Row) -> bool:
    """Whether a row of layers has the two tables that it needs; other rows need none."""
    if row["split"] != "layers":
        return True
    form = {str: {str: object}}
    return not documents.find_mismatch(row, {"parameters": form, "activations": form})


def _plain(row: Row, name: str) -> Any:
    """A value of a row; None if it should be a number and is not."""
    tables = {"layers": ("parameters", "activations"), "event": ("event", "message")}
    value = row[name]
    if name in ("split", "step") or name in tables.get(row["split"], ()):
        return value
    return value if math.isfinite(to_float(value)) else None


def parse_rows(lines: Iterable[bytes], without: tuple[str, ...] = ()) -> list[Row]:
    """The rows of lines, in their order, without lines that are not rows.

    lines: of the file. without: splits to skip.
    """
    skipped = tuple(f'{{"split": "{name}"'.encode() for name in without)  # long lines, not parsed
    result = (parse_row(line) for line in lines if line.strip() and not line.startswith(skipped))
    return [row for row in result if row is not None and row["split"] not in without]


def metric_names(rows: list[Row], split: str) -> list[str]:
    """The names of the metrics of a split, in the order of their first rows. rows: of the file. split: its name."""
    known = {}
    for row in rows:
        if row["split"] == split:
            known |= {name: None for name, value in row.items() if name not in HEAD and math.isfinite(to_float(value))}
    return list(known)


def metric_series(rows: list[Row], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of a metric where it is finite; of a repeated step, the later value.

    rows: of the file. split: "train" or "validation". name: of the metric.
    """
    result = {}
    for row in rows:
        if row["split"] == split and math.isfinite(value := to_float(row.get(name))):
            result[row["step"]] = value
    steps = sorted(result)
    return np.asarray(steps, np.int64), np.asarray([result[step] for step in steps], np.float64)


def last_value(rows: list[Row], split: str, name: str) -> float:
    """The last finite value of a metric, NaN if there is none. rows, split, name: as for `metric_series`."""
    _, values = metric_series(rows, split, name)
    return float(values[-1]) if len(values) else math.nan


def steps_per_second(rows: list[Row], *, over: int = 10) -> float:
    """Steps per second over the last training rows, NaN while unknown. rows: of the file. over: how many rows."""
    seen: list[tuple[int, float]] = []
    for row in reversed(rows):
        seconds = to_float(row.get("seconds"))
        if row["split"] != "train" or not math.isfinite(seconds):
            continue
        if seen and (row["step"] >= seen[-1][0] or seconds >= seen[-1][1]):
            break  # before it the clock of another process ran
        seen.append((row["step"], seconds))
        if len(seen) > over:
            break
    if len(seen) < 2:
        return math.nan
    return (seen[0][0] - seen[-1][0]) / (seen[0][1] - seen[-1][1])


def training_seconds(rows: list[Row]) -> float:
    """Seconds of training, summed over all processes that trained the run. rows: of the file."""
    total = before = 0.0
    for row in rows:
        seconds = to_float(row.get("seconds"))
        if math.isfinite(seconds) and seconds >= 0:
            total += seconds - before if seconds >= before else seconds
            before = seconds
    return total


class Event(NamedTuple):
    """An event at a step. name: such as "rollback". message: about it."""

    step: int
    name: str
    message: str


def event_rows(rows: list[Row]) -> list[Event]:
    """The events in the order of the file. rows: of the file."""
    return [
        Event(row["step"], str(row.get("event") or "event"), str(row.get("message") or ""))
        for row in rows
        if row["split"] == "event"
    ]


class LayerSeries(NamedTuple):
    """A statistic of every layer over the steps: values [paths, steps], NaN where it is missing."""

    paths: list[str]
    steps: np.ndarray
    values: np.ndarray


def layer_series(rows: list[Row], part: str, name: str) -> LayerSeries:
    """A statistic of every layer, where it is finite.

    rows: of the file. part: "parameters" or "activations". name: such as "gradient_norm" or "dead".
    """

    def finite(entry: Any) -> float | None:
        value = to_float(entry)
        return value if math.isfinite(value) else None

    paths, steps, result = _collect(rows, part, name, finite)
    values = np.full((len(paths), len(steps)), np.nan)
    for (path, step), value in result.items():
        values[paths[path], steps[step]] = value
    return LayerSeries(list(paths), np.asarray(list(steps), np.int64), values)


class Histograms(NamedTuple):
    """Counts over time of one layer: low, high [steps]; counts [steps, bins]."""

    steps: np.ndarray
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray


def layer_histograms(rows: list[Row], part: str, name: str) -> dict[str, Histograms]:
    """The histograms of every layer; all of one layer have the same number of bins.

    rows, part, name: as for `layer_series`.
    """
    paths, steps, matches = _collect(rows, part, name, parse_histogram)
    result = {}
    for path in paths:
        own = [(step, matches[path, step]) for step in steps if (path, step) in matches]
        bins = len(own[-1][1][2])
        own = [(step, h) for step, h in own if len(h[2]) == bins]
        columns = [np.asarray([h[i] for _, h in own], np.float64) for i in range(3)]
        result[path] = Histograms(np.asarray([step for step, _ in own], np.int64), *columns)
    return result


def parse_histogram(entry: Any) -> tuple[float, float, np.ndarray] | None:
    """(low, high, counts) of a histogram; None if it is not one, or empty. entry: of a row."""
    if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], list):
        return None
    low, high = to_float(entry[0]), to_float(entry[1])
    try:
        counts = np.asarray(entry[2])
    except ValueError:  # lists of different lengths
        return None
    if counts.dtype.kind not in "iuf" or counts.ndim != 1 or not low <= high < math.inf:
        return None
    counts = counts.astype(np.float64)
    fine = math.isfinite(high - low) and (counts >= 0).all() and 0 < counts.sum() < math.inf
    return (low, high, counts) if fine else None


def _collect(rows: list[Row], part: str, name: str, read: Any) -> tuple[dict, dict, dict]:
    """The indices of paths and of steps, and the result of `read` for each entry that has one."""
    seen: dict[str, bool] = {}  # whether a path has a value in any row; in the order of the rows
    result = {}
    for row in rows:
        entries = row.get(part) if row["split"] == "layers" else None
        for path, entry in entries.items() if isinstance(entries, dict) else ():
            seen.setdefault(path, False)
            if isinstance(entry, dict) and (value := read(entry.get(name))) is not None:
                result[path, row["step"]] = value
                seen[path] = True
    paths = [path for path, known in seen.items() if known]
    paths = sorted(paths, key=natural_order) if paths == sorted(paths) else paths
    steps = sorted({step for _, step in result})
    return ({path: i for i, path in enumerate(paths)}, {step: i for i, step in enumerate(steps)}, result)


def natural_order(path: str) -> list[tuple[bool, int, str]]:
    """A sort key that puts blocks/2 before blocks/10. path: of a layer."""
    parts = re.split(r"(\d+)", path)
    return [(p.isdecimal(), int(p) if p.isdecimal() and len(p) < 19 else 0, p) for p in parts]
