"""The cells of a column as categories, dates, texts or flags, with errors that name row and column."""

import hashlib
import math
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from nnfunc.data.download import fail_damaged
from nnfunc.data.fingerprint import fold_ids
from nnfunc.data.sources.column_store import StringColumn
from nnfunc.data.sources.columns import (
    WHERE,
    DescribeRow,
    check_values,
    class_name,
    is_missing,
    parse_numbers,
    row_name,
    to_strings,
)

FLAGS = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}


def parse_strings(name: str, column: str, values: Any, *, categories: bool = True, where: str = WHERE) -> StringColumn:
    """A column of categories or texts; a missing cell is "".

    name: of the table.
    column: its name.
    values: the column.
    categories: whether 1 and 1.0 are the same, as in labels, and true and True, as a file and a data frame write
        them.
    where: begins the message of an error, here and below.
    """
    values = to_strings(name, column, check_values(name, column, values, where=where), where=where)
    convert = class_name if categories else str
    named = StringColumn.from_strings("" if is_missing(text) else convert(text.strip()) for text in values.distinct)
    codes = named.codes.astype(np.min_scalar_type(len(named.distinct)))
    return StringColumn(codes[values.codes], named.distinct)


def parse_dates(
    name: str,
    column: str,
    values: Any,
    describe_row: DescribeRow | None = None,
    *,
    date_format: str | None = None,
    allow_missing: bool = False,
    where: str = WHERE,
) -> np.ndarray:
    """A column of dates as seconds since 1970 in UTC, float64 [n]; a missing one is NaN.

    name: of the table.
    column: its name.
    values: the column: dates, datetimes, or texts.
    describe_row: of `read_columns`.
    date_format: of texts, as for `datetime.strptime`; None for ISO 8601.
    allow_missing: whether missing dates are allowed; otherwise they are refused.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        values = check_values(name, column, values, where=where)
        seconds = values.astype("datetime64[us]").astype(np.float64) / 1e6
        seconds[np.isnat(values)] = math.nan
        missing = np.isnan(seconds)
        if missing.any() and not allow_missing:
            _refuse(where, name, column, int(missing.argmax()), None, describe_row, "a date", "")
        return seconds
    example = f"in the format {date_format!r}" if date_format else "such as 2026-11-30"
    hint = "" if date_format else 'For other formats: date_format = "%d.%m.%Y".'
    convert = lambda value: _seconds(value, date_format)
    return _parse(where, name, column, values, describe_row, convert, f"a date {example}", hint, allow_missing)


def parse_flags(name: str, column: str, values: Any, describe_row: DescribeRow | None = None) -> np.ndarray:
    """A column of flags, 0 or 1, as float32 [n]. name, column, values, describe_row: as for `parse_dates`."""
    convert = lambda value: FLAGS.get(class_name(str(value).strip()).lower())
    hint = "With several labels, each is 0 or 1, false or true, no or yes."
    return _parse(WHERE, name, column, values, describe_row, convert, "0 or 1", hint, False).astype(np.float32)


def parse_order(
    name: str, column: str, values: Any, describe_row: DescribeRow | None = None, date_format: str | None = None
) -> np.ndarray:
    """A column that orders the rows, of numbers or dates, as float64 [n].

    name, column, values, describe_row, date_format: as for `parse_dates`.
    """
    first = next((value for value in values if not is_missing(value)), None)
    are_dates = isinstance(values, np.ndarray) and values.dtype.kind == "M"
    if are_dates or _seconds(first, date_format) is not None:
        return parse_dates(name, column, values, describe_row, date_format=date_format)
    return parse_numbers(name, column, values, describe_row)


def fold_column(ids: np.ndarray, values: "np.ndarray | StringColumn") -> np.ndarray:
    """Make the ids of rows also depend on one more column, in place.

    ids: uint64 [n].
    values: numbers, or strings, which count by their text.
    """
    if not isinstance(values, StringColumn):
        return fold_ids(ids, values)
    digests = [hashlib.blake2b(word.encode(), digest_size=8).digest() for word in values.distinct]
    return fold_ids(ids, np.frombuffer(b"".join(digests), np.uint64)[values.codes])


def _seconds(value: Any, date_format: str | None) -> float | None:
    """Seconds since 1970 of a date, None of anything else."""
    try:
        if isinstance(value, str):
            text = value.strip()
            value = datetime.strptime(text, date_format) if date_format else datetime.fromisoformat(text)
        elif isinstance(value, np.datetime64):
            value = value.astype("datetime64[us]").item()
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    return None


def _parse(
    where: str,
    name: str,
    column: str,
    values: Any,
    describe_row: DescribeRow | None,
    convert: Callable[[Any], float | None],
    expected: str,
    hint: str,
    allow_missing: bool,
) -> np.ndarray:
    """convert(cell) of each cell as float64; NaN for missing ones, if they are allowed."""
    values = check_values(name, column, values, where=where)
    cells = values.distinct if isinstance(values, StringColumn) else list(values)
    results = [None if is_missing(cell) else convert(cell) for cell in cells]
    wrong = [
        result is None and not (allow_missing and is_missing(cell)) for cell, result in zip(cells, results, strict=True)
    ]
    numbers = np.array([math.nan if result is None else result for result in results], np.float64)
    flags = np.array(wrong, bool)
    if isinstance(values, StringColumn):
        numbers, flags = numbers[values.codes], flags[values.codes]
    if flags.any():
        row = int(flags.argmax())
        _refuse(where, name, column, row, values[row], describe_row, expected, hint)
    return numbers


def _refuse(
    where: str, name: str, column: str, row: int, value: Any, describe_row: DescribeRow | None, expected: str, hint: str
) -> None:
    position = f"{(describe_row or row_name)(row)} of column {column!r}"
    if is_missing(value):
        hint = "Fill it in, or drop the row."
        fail_damaged(where, name, f"a value is missing at {position}, which should hold {expected}", hint)
    fail_damaged(where, name, f"{position} should hold {expected}, got {str(value)[:60]!r}", hint or "Correct it.")
