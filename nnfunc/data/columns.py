"""Columns by their names, read from a CSV or Parquet file or a data frame, and turned into numbers."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.data.files import damaged, given, read

__all__ = ["class_labels", "known", "numbers", "read_columns"]

WHERE = "data.table"
MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}


def read_columns(source: Any, separator: str) -> tuple[str, dict[str, Any], int | None]:
    """What to call the table, its columns, and the line of the first row (None: rows are counted)."""
    if not isinstance(source, str | Path):
        if not hasattr(source, "columns"):
            wanted = "source should be a file or a data frame"
            check.fail(WHERE, f"{wanted}, got {check.describe(source)}.", kind=TypeError)
        return "the frame", {str(c): source[c].to_numpy() for c in source.columns}, None
    file = given(WHERE, source)
    if file.suffix.lower() in (".parquet", ".pq"):
        return str(file), _parquet(file), None
    return str(file), _csv(file, separator), 2


def _csv(file: Path, separator: str) -> dict[str, list[str]]:
    if len(separator) != 1:
        check.fail(WHERE, f"separator should be one character, got {separator!r}.")
    try:
        text = read(WHERE, file).decode("utf-8-sig")
        rows = [
            row
            for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        ]
    except (UnicodeDecodeError, csv.Error, TypeError) as error:
        damaged(WHERE, file, f"it is not CSV in UTF-8 ({error})")
    while rows and not rows[-1]:
        rows.pop()
    if len(rows) < 2:
        damaged(WHERE, file, f"it should have a line of names and rows, but has {len(rows)} lines")
    head = [word.strip() for word in rows[0]]
    if all(_number(word) is not None for word in head):
        problem = f"its first line should name the columns, but holds numbers: {head[:4]}"
        damaged(WHERE, file, problem, "Put a line of names before it.")
    twice = {word for word in head if head.count(word) > 1}
    if twice:
        damaged(WHERE, file, f"it has more than one column {min(twice)!r}", "Rename one.")
    for place, row in enumerate(rows):
        if len(row) != len(head):
            cure = f"The separator is {separator!r}; is it the right one?"
            problem = f"line {place + 1} should have {len(head)} values, but has {len(row)}"
            damaged(WHERE, file, problem, cure)
    return {
        word: list(values) for word, values in zip(head, zip(*rows[1:], strict=True), strict=True)
    }


def _parquet(file: Path) -> dict[str, Any]:
    try:
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        cure = 'Install it: pip install "nnfunc[data]".'
        problem = f"pyarrow, which reads Parquet files, is not installed. {cure}"
        check.fail(WHERE, problem, kind=ModuleNotFoundError)
    try:
        whole = parquet.read_table(file)
        found = {str(c): whole[c].to_numpy(zero_copy_only=False) for c in whole.column_names}
    except Exception as error:  # a damaged file fails in any way at all
        damaged(WHERE, file, f"it cannot be read as Parquet ({' '.join(str(error).split())})")
    if not found or whole.num_rows == 0:
        damaged(WHERE, file, "it should have columns and rows, but has none")
    return found


def known(name: str, wanted: list[str], found: dict[str, Any]) -> None:
    for word in wanted:
        if word not in found:
            check.fail(WHERE, f"{name} has no column {word!r}{check.nearest(word, found)}")


def _place(row: int, first: int | None) -> str:
    return f"row {row}" if first is None else f"line {row + first}"


def numbers(name: str, column: str, values: Any, first: int | None) -> np.ndarray:
    """A column as float64 [n], every one of them finite."""
    try:
        found = np.asarray(values).astype(np.float64)
    except (ValueError, TypeError):
        found = np.array([math.nan if (n := _number(v)) is None else n for v in values])
    with np.errstate(over="ignore"):
        wrong = np.flatnonzero(~np.isfinite(found.astype(np.float32)))
    if len(wrong):
        where, value = _place(int(wrong[0]), first), values[wrong[0]]
        count = f"; {len(wrong)} such" if len(wrong) > 1 else ""
        if str(value).strip().lower() in MISSING or value is None:
            problem = f"a value is missing at {where} of column {column!r}{count}"
            damaged(WHERE, name, problem, "Fill it in, drop the row, or leave the column out.")
        problem = (
            f"{where} of column {column!r} should hold a number, got {str(value)[:60]!r}{count}"
        )
        cure = "Turn it into numbers, or leave the column out with columns = [...]."
        damaged(WHERE, name, problem, cure)
    return found


def class_labels(
    name: str, label: str, values: Any, first: int | None, names: tuple[str, ...] | None = None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(class numbers [n] int32, the classes' names). names: the only ones that there may be."""
    words = [str(value).strip() for value in values]
    for row, word in enumerate(words):
        if word.lower() in MISSING - {"none", "?"}:
            problem = f"the label is missing at {_place(row, first)} of column {label!r}"
            damaged(WHERE, name, problem, "Fill it in, or drop the row.")
    if names is not None:
        return _labels_among(name, label, words, first, names), names
    numeric = {word: _number(word) for word in set(words)}
    if all(number is not None for number in numeric.values()):
        order = sorted(numeric, key=lambda word: (numeric[word], word))
    else:
        order = sorted(numeric)
    if len(order) < 2:
        damaged(WHERE, name, f"column {label!r} should hold classes, but is {order[0]!r} throughout",
                "Is it the right label?")  # fmt: skip
    most = max(2, len(words) // 2)
    if len(order) > most:
        problem = f"column {label!r} holds {len(order)} different values in {len(words)} rows"
        cure = 'That is no set of classes; for numbers to predict: task = "regression".'
        damaged(WHERE, name, problem, cure)
    at = {word: place for place, word in enumerate(order)}
    return np.array([at[word] for word in words], np.int32), tuple(order)


def _labels_among(
    name: str, label: str, words: list[str], first: int | None, names: tuple[str, ...]
) -> np.ndarray:
    """Class numbers [n] int32 by names that are known; 1.0 is the class 1."""
    index = {word: i for i, word in enumerate(names)}
    values = {number: i for i, word in enumerate(names) if (number := _number(word)) is not None}
    codes = {
        word: index.get(word, None if (n := _number(word)) is None else values.get(n))
        for word in set(words)
    }
    for row, word in enumerate(words):
        if codes[word] is None:
            problem = f"{_place(row, first)} of column {label!r} has the class {word[:60]!r}"
            hint = "Take it out, or train anew."
            damaged(WHERE, name, f"{problem}, which the run has not: {', '.join(names)}", hint)
    return np.array([codes[word] for word in words], np.int32)


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        return None
