"""Reads `metrics.jsonl` of a run, which may be damaged, cut short, or still growing.

There is one rule for damage, that of `parse_row`: a line that is not a row is skipped, and a value that
should be a number and is not becomes None. The other functions take such rows and never raise.
"""

import json
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnfunc import documents

Row = dict[str, Any]
HEAD = ("split", "step", "seconds")
LAYER_TABLES = ("parameters", "activations")
"""The tables of a row of layers: {path: {statistic: number or histogram}}."""
NOT_NUMBERS = {"layers": LAYER_TABLES, "event": ("event", "message")}
"""Split -> the fields of its rows that do not hold a number."""
LAYERS_FORM = {name: {str: {str: object}} for name in LAYER_TABLES}
MAX_BYTES = 2**32


def to_float(value: Any) -> float:
    """The value of a field as a float; NaN if it is not a number.

    value: anything that JSON can hold.

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
    """The row in a line of the file; None if the line is not a row.

    line: JSON, a table with a split and a step; a row of layers also has its two tables. A field that should be a
        number and is not becomes None.

    >>> parse_row('{"split": "train", "step": 10, "loss": "high"}')
    {'split': 'train', 'step': 10, 'loss': None}
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("split"), str):
        return None
    step, split = to_float(row.get("step")), row["split"]
    if not 0 <= step < 2**53 or (split == "layers" and documents.find_mismatch(row, LAYERS_FORM)):
        return None
    texts = ("split", *NOT_NUMBERS.get(split, ()))
    return {name: value if name in texts else _number(value) for name, value in row.items()} | {"step": int(step)}


def _number(value: Any) -> Any:
    return value if isinstance(value, float) or math.isfinite(to_float(value)) else None


def read_rows(path: Path, *, without: tuple[str, ...] = ()) -> list[Row]:
    """The rows of a file; [] if it cannot be read.

    path: of metrics.jsonl.
    without: splits to skip.
    """
    try:
        content = documents.read_bytes(path, MAX_BYTES)
    except (OSError, ValueError):
        return []
    return parse_rows(content.split(b"\n"), without)


def parse_rows(lines: Iterable[bytes], without: tuple[str, ...] = ()) -> list[Row]:
    """The rows in lines of the file, in their order; lines that are not rows are skipped.

    lines: of JSON.
    without: splits to skip.
    """
    prefixes = tuple(f'{{"split": "{name}"'.encode() for name in without)  # saves parsing the long rows of layers
    result = (parse_row(line) for line in lines if line.strip() and not line.startswith(prefixes))
    return [row for row in result if row is not None and row["split"] not in without]


def metric_names(rows: list[Row], split: str) -> list[str]:
    """The names of a split's metrics that have a finite value, in the order of their first rows.

    rows: of metrics.jsonl.
    split: "train" or "validation".
    """
    known = {}
    for row in rows:
        if row["split"] == split:
            known |= {name: None for name, value in row.items() if name not in HEAD and math.isfinite(to_float(value))}
    return list(known)


def metric_series(rows: list[Row], split: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of a metric where it is finite; a repeated step has its later value.

    rows: of metrics.jsonl.
    split: "train" or "validation".
    name: of the metric.
    """
    result = {}
    for row in rows:
        if row["split"] == split and math.isfinite(value := to_float(row.get(name))):
            result[row["step"]] = value
    steps = sorted(result)
    return np.asarray(steps, np.int64), np.asarray([result[step] for step in steps], np.float64)


def steps_per_second(rows: list[Row], *, over: int = 10) -> float:
    """Steps per second over the last training rows; NaN while there are fewer than two.

    rows: of metrics.jsonl.
    over: the number of intervals between rows, at most.
    """
    times: list[tuple[int, float]] = []  # (step, seconds), the latest first
    for row in reversed(rows):
        seconds = to_float(row.get("seconds"))
        if row["split"] != "train" or not math.isfinite(seconds):
            continue
        if times and (row["step"] >= times[-1][0] or seconds >= times[-1][1]):
            break  # a resumed run: the clock starts again
        times.append((row["step"], seconds))
        if len(times) > over:
            break
    if len(times) < 2:
        return math.nan
    return (times[0][0] - times[-1][0]) / (times[0][1] - times[-1][1])


def training_seconds(rows: list[Row]) -> float:
    """Seconds of training, summed over all processes that trained the run. rows: of metrics.jsonl."""
    total = before = 0.0
    for row in rows:
        seconds = to_float(row.get("seconds"))
        if math.isfinite(seconds) and seconds >= 0:
            total += seconds - before if seconds >= before else seconds
            before = seconds
    return total


class Event(NamedTuple):
    """An event at a step. name: such as "rollback". message: a sentence about it."""

    step: int
    name: str
    message: str


def event_rows(rows: list[Row]) -> list[Event]:
    """The events, in the order of the file. rows: of metrics.jsonl."""
    return [
        Event(row["step"], str(row.get("event") or "event"), str(row.get("message") or ""))
        for row in rows
        if row["split"] == "event"
    ]


class LayerSeries(NamedTuple):
    """A statistic of every layer over the steps.

    paths: of the layers.
    steps: [steps].
    values: [paths, steps], NaN where there is none.
    """

    paths: list[str]
    steps: np.ndarray
    values: np.ndarray


def layer_series(rows: list[Row], part: str, name: str) -> LayerSeries:
    """A statistic of every layer; values that are not finite are left out.

    rows: of metrics.jsonl.
    part: "parameters" or "activations".
    name: such as "gradient_norm" or "dead".
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
    """The histograms of one layer over the steps.

    steps: [steps].
    low, high: [steps], the range of the bins.
    counts: [steps, bins].
    """

    steps: np.ndarray
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray


def layer_histograms(rows: list[Row], part: str, name: str) -> dict[str, Histograms]:
    """The histograms of every layer, {path: histograms}, those with the layer's last number of bins.

    rows, part, name: as for `layer_series`.
    """
    paths, steps, values = _collect(rows, part, name, parse_histogram)
    result = {}
    for path in paths:
        histograms = {step: values[path, step] for step in steps if (path, step) in values}
        *_, (_, _, last_counts) = histograms.values()
        histograms = {step: h for step, h in histograms.items() if len(h[2]) == len(last_counts)}
        columns = [np.asarray(column, np.float64) for column in zip(*histograms.values(), strict=True)]
        result[path] = Histograms(np.asarray([*histograms], np.int64), *columns)
    return result


def parse_histogram(entry: Any) -> tuple[float, float, np.ndarray] | None:
    """(low, high, counts) of a histogram; None if the entry is no histogram or counts nothing.

    entry: of a layer in a row, [low, high, [count, ...]].
    """
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
    is_valid = math.isfinite(high - low) and (counts >= 0).all() and 0 < counts.sum() < math.inf
    return (low, high, counts) if is_valid else None


def _collect(rows: list[Row], part: str, name: str, read: Any) -> tuple[dict, dict, dict]:
    """({path: index}, {step: index}, {(path, step): result of `read`}) of the entries that have a result."""
    all_paths: dict[str, None] = {}  # in the order of the rows
    result = {}
    for row in rows:
        table = row.get(part) if row["split"] == "layers" else None
        for path, entry in table.items() if isinstance(table, dict) else ():
            all_paths[path] = None
            if isinstance(entry, dict) and (value := read(entry.get(name))) is not None:
                result[path, row["step"]] = value
    with_values = {path for path, _ in result}
    paths = [path for path in all_paths if path in with_values]
    paths = sorted(paths, key=natural_order) if paths == sorted(paths) else paths
    steps = sorted({step for _, step in result})
    return ({path: i for i, path in enumerate(paths)}, {step: i for i, step in enumerate(steps)}, result)


def natural_order(path: str) -> list[tuple[bool, int, str]]:
    """The sort key of a layer's path that puts blocks/2 before blocks/10. path: of the layer."""
    parts = re.split(r"(\d+)", path)
    return [(p.isdecimal(), int(p) if p.isdecimal() and len(p) < 19 else 0, p) for p in parts]
