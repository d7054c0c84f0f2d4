"""Columns by their names, read from a CSV or Parquet file or a data frame, and turned into numbers."""

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.data.download import (
    check_unpacked_size,
    decode_utf8,
    fail_damaged,
    fail_unreadable,
    file_ending,
    file_size,
    read_bytes,
    resolve,
)
from nnfunc.data.sources.column_store import StringColumn
from nnfunc.data.sources.csv_reader import EXACT, NUMBER, read_csv
from nnfunc.data.sources.number_style import guess_styles

WHERE = "data.table"
PARQUET, JSON_LINES = (".parquet", ".pq"), (".jsonl", ".ndjson", ".json")
DescribeRow = Callable[[int], str]
"""row -> its position: "line 7" of a CSV file, "row 5" of other tables."""
# What pandas takes for missing, and other ways to write the same; "none" in lower case may be a class.
MISSING = {
    "",
    "#n/a",
    "#n/a n/a",
    "#na",
    "-1.#ind",
    "-1.#qnan",
    "-nan",
    "1.#ind",
    "1.#qnan",
    "<na>",
    "n/a",
    "na",
    "nan",
    "nat",
    "null",
}
BLOCK = 1 << 16  # rows
NO_CELL = (list, tuple, Mapping, set, frozenset, bytes, bytearray, complex, np.ndarray, np.void)
HALF_PAIR = re.compile("[\ud800-\udfff]")
HALF = "half of a surrogate pair, which is no character"
CODE = re.compile(r"[+-]?0[0-9]")


def as_column(values: Any) -> Any:
    """The values of a column as an array [n] or a StringColumn. values: lists of unequal lengths stay as they are."""
    if isinstance(values, StringColumn):
        return values
    try:
        return np.atleast_1d(np.asanyarray(values))
    except ValueError:
        column = np.empty(len(values), object)
        for i, value in enumerate(values):
            column[i] = value
        return column


def read_columns(
    source: Any,
    separator: str,
    only: Collection[str] | None = None,
    texts: Collection[str] | None = (),
    *,
    where: str = WHERE,
) -> tuple[str, dict[str, Any], DescribeRow]:
    """(the name of the table for messages, {name: column}, row -> its position).

    source: a file (CSV, Parquet or JSON lines), a data frame, a dict of columns or a list of dicts.
    separator: of a CSV file.
    only: the names of the columns to read, None for all; the others may be None.
    texts: the columns to read as texts in a CSV file, such as labels, None for all.
    where: begins the message of an error, here and below.
    """
    if isinstance(source, Sequence) and source and all(isinstance(row, Mapping) for row in source):
        source = {key: [row.get(key) for row in source] for key in dict.fromkeys(key for row in source for key in row)}
    if isinstance(source, Mapping):
        columns = {str(key): as_column(values) for key, values in source.items()}
        if len({len(values) for values in columns.values()}) > 1:
            lengths = {key: len(values) for key, values in columns.items()}
            check.fail(where, expected="the columns of the rows should have the same length", actual=lengths)
        return getattr(source, "source", "the table"), columns, getattr(source, "describe_row", row_name)
    if not isinstance(source, str | Path):
        return "the frame", _frame(where, source, only), row_name
    file = resolve(where, source)
    if file.suffix.lower() in PARQUET:
        return str(file), _parquet(where, file, only), row_name
    if file_ending(file) in JSON_LINES:
        columns, lines = read_json_lines(where, file)
        return str(file), columns, lambda row: f"line {lines[row]}"
    columns, describe_row = read_csv(where, file, separator, only, texts)
    return str(file), columns, describe_row


def read_json_lines(where: str, file: Path) -> tuple[dict[str, np.ndarray], list[int]]:
    """({name: values [n] as objects, None where an object has no such key}, the line of each row)."""
    rows, lines = [], []
    for number, line in enumerate(decode_utf8(where, file, read_bytes(where, file)).split("\n"), 1):
        if not line.strip():
            continue
        hint = 'Each line should be an object: {"text": "...", "label": "..."}.'
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            fail_damaged(where, file, f"line {number} is not JSON ({error})", hint)
        if "\\u" in line and (half := HALF_PAIR.search(json.dumps(row, ensure_ascii=False))):
            fail_damaged(where, file, f"line {number} has {ascii(half[0])[1:-1]}, {HALF}", "Take it out.")
        if not isinstance(row, dict):
            fail_damaged(where, file, f"line {number} should be a JSON object, got {check.describe(row)}", hint)
        rows.append(row)
        lines.append(number)
    if not rows:
        fail_damaged(where, file, "it should have a JSON object in each line, but is empty", "Is it the right file?")
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        columns[name] = np.empty(len(rows), object)
        columns[name][:] = [row.get(name) for row in rows]
    return columns, lines


def row_name(row: int) -> str:
    """The position of a row of a table that has no lines. row: its index."""
    return f"row {row}"


def _frame(where: str, source: Any, only: Collection[str] | None) -> dict[str, Any]:
    names = list(getattr(source, "column_names", getattr(source, "columns", ())))
    if not names:
        expected = "source should be a file or a data frame"
        check.fail(where, expected=expected, actual=check.describe(source), exc_type=TypeError)
    result = dict.fromkeys(str(name) for name in names)
    if len(result) < len(names):
        text = [str(name) for name in names]
        word = next(word for word in text if text.count(word) > 1)
        fail_damaged(where, "the frame", f"it has more than one column {word!r}", "Rename one.")
    for name in names:
        if only is None or str(name) in only:
            try:
                result[str(name)] = _plain(source[name])
            except Exception as error:  # a frame of another library may fail in any way at all
                problem = f"column {str(name)!r} of the frame cannot be read"
                hint = "Give a data frame of pandas or polars, or a table of pyarrow."
                text = " ".join(str(error).split())
                check.fail(where, f"{problem} ({text}).", hint=hint, exc_type=TypeError)
    return result


def _plain(column: Any) -> "np.ndarray | StringColumn":
    """A column as a NumPy array; texts of pyarrow once each, with "None" for missing ones."""
    if not type(column).__module__.startswith("pyarrow"):
        return column.to_numpy()
    import pyarrow as arrow  # pyright: ignore[reportMissingImports]

    if isinstance(column, arrow.Array):
        column = arrow.chunked_array([column])
    if arrow.types.is_dictionary(column.type):
        value_type = column.type.value_type
        if not _is_text(value_type):  # NumPy would get another value for each null
            return column.cast(value_type).to_numpy()
    elif _is_text(column.type):
        column = column.dictionary_encode()
    else:
        return column.to_numpy()
    whole = column.unify_dictionaries().combine_chunks()
    distinct = whole.dictionary.cast(arrow.large_string()).to_pylist()
    codes, missing = whole.indices.cast(arrow.int32()), ["None"] if column.null_count else []
    codes = codes.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
    return StringColumn(codes, distinct + missing)


def _is_text(arrow_type: Any) -> bool:
    import pyarrow as arrow  # pyright: ignore[reportMissingImports]

    tests = ("is_string", "is_large_string", "is_binary", "is_large_binary")
    return any(getattr(arrow.types, test)(arrow_type) for test in tests)


def _parquet(where: str, file: Path, only: Collection[str] | None) -> dict[str, Any]:
    check.package(where, "pyarrow", "nnfunc[data]")
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    size = file_size(where, file)
    try:
        with parquet.ParquetFile(file) as opened:
            names = opened.schema_arrow.names
            used = [name for name in dict.fromkeys(names) if only is None or name in only]
            rows = opened.metadata.num_rows
            check_unpacked_size(where, file, size, 8 * rows * len(used) + _unpacked(opened.metadata, used))
            text = [field.name for field in opened.schema_arrow if _is_text(field.type)]
        with parquet.ParquetFile(file, read_dictionary=text) as opened:  # each word once
            whole = opened.read(columns=used)
            result = {name: _plain(whole[name]) for name in used}
    except Exception as error:  # a damaged file fails in any way at all
        fail_unreadable(where, file, "it cannot be read as Parquet", error)
    if not names or rows == 0:
        fail_damaged(where, file, "it should have columns and rows, but has none")
    return dict.fromkeys(names) | result


def _unpacked(metadata: Any, used: Collection[str]) -> int:
    """The bytes of the used columns' pages, unpacked, as the file tells them."""
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    columns = (group.column(i) for group in groups for i in range(group.num_columns))
    return sum(max(0, one.total_uncompressed_size) for one in columns if one.path_in_schema.partition(".")[0] in used)


def check_columns(name: str, expected: list[str], result: dict[str, Any], *, where: str = WHERE) -> None:
    """Refuse a table that lacks columns.

    name: of the table.
    expected: the names.
    result: its columns by name.
    """
    missing = [word for word in expected if word not in result]
    new = [column for column in result if column not in expected]
    if missing and len(result) == 1 and (separator := re.search(r"[,;\t|]", next(iter(result)))):
        hint = f"Its columns seem to have {separator[0]!r} between them; the separator of the data is another one."
        check.fail(where, f"{name} has one column, {next(iter(result))[:60]!r}, but not {_listed(missing)}.", hint=hint)
    if len(missing) == 1:
        hint = check.nearest(missing[0], result)
        check.fail(where, f"{name} has no column {missing[0]!r}{hint}")
    if missing:
        others = f"; columns that it has instead: {_listed(new)}" if new else ""
        check.fail(where, f"{name} has no columns {_listed(missing)}{others}.")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(map(repr, names[:8])) + more


def parse_numbers(
    name: str,
    column: str,
    values: Any,
    describe_row: DescribeRow | None = None,
    *,
    allow_missing: bool = False,
    where: str = WHERE,
) -> np.ndarray:
    """A column of numbers [n], all finite: float64, but a narrower type stays as it is.

    name: of the table.
    column: its name.
    values: the column.
    describe_row: of `read_columns`. Numbers are written as in CSV: 1e-3.
    allow_missing: whether missing values become NaN; otherwise they are refused.
    """
    values = check_values(name, column, values, where=where)
    if isinstance(values, np.ndarray) and values.dtype.kind in "iub":
        return values if values.itemsize < 8 else values.astype(np.float64)
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        result = values if values.itemsize <= 8 else values.astype(np.float64)
    elif isinstance(values, StringColumn):
        result = _numbers_or_nan(values.distinct)[values.codes]
    else:
        result = _numbers_or_nan(values)
    with np.errstate(over="ignore"):
        bad = np.empty(len(result), bool)
        for start in range(0, len(result), BLOCK):  # block by block to save memory
            block = slice(start, start + BLOCK)
            bad[block] = ~np.isfinite(result[block].astype(np.float32))
        wrong = np.flatnonzero(bad)
    if allow_missing:
        wrong = [row for row in map(int, wrong) if not is_missing(values[row])]
    if len(wrong):
        row = int(wrong[0])
        position, value = (describe_row or row_name)(row), values[row]
        count = f"; {len(wrong)} such" if len(wrong) > 1 else ""
        if is_missing(value):
            problem = f"a value is missing at {position} of column {column!r}{count}"
            hint = "Fill it in, or drop the row."
            if where == WHERE:
                hint = 'Fill it in, drop the row, or leave the column out; impute = "median" replaces missing values.'
            fail_damaged(where, name, problem, hint)
        problem = f"{position} of column {column!r} should hold a number, got {str(value)[:60]!r}{count}"
        others = ", name the column in categorical, one_hot, dates or texts," if where == WHERE else ""
        hint = f"Turn it into numbers{others} or leave it out."
        styles = [", ".join(f'{k} = "{mark}"' for k, mark in s.facts().items()) for s in guess_styles([[str(value)]])]
        if any(styles):
            marks = "" if where == "predict" else f", or name their marks: {' or '.join(styles)}"
            hint = f"Write numbers with decimal points alone{marks}."
        fail_damaged(where, name, problem, hint)
    return result


def parse_class_labels(
    name: str,
    label: str,
    values: Any,
    describe_row: DescribeRow | None = None,
    names: tuple[str, ...] | None = None,
    *,
    where: str = WHERE,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """(class numbers [n] in the narrowest unsigned type, the classes' names).

    `1` and `1.0` are one class, 1, but 01 is another; `true` and `True` are one class, True. What pandas takes for
    missing is refused: None, NaN, NaT, and words such as NA, null and None, but not none.
    name: of the table.
    label: the name of the column.
    values: the column.
    describe_row: of `read_columns`.
    names: the only classes that are allowed, None for any.
    """
    values = check_values(name, label, values, where=where)
    text = to_strings(name, label, values, describe_row, where=where).stripped()
    if not len(text):
        fail_damaged(where, name, "it should have rows, but has none", "Is it the right file?")
    classes = {word: class_name(word) for word in text.distinct}

    def position(wrong: Collection[str]) -> str:
        codes = [code for code, word in enumerate(text.distinct) if word in wrong]
        row = int(np.isin(text.codes, codes).argmax())
        return f"{(describe_row or row_name)(row)} of column {label!r}"

    def labels(at: dict[str, int]) -> np.ndarray:
        codes = np.array([at[classes[word]] for word in text.distinct], np.min_scalar_type(len(at)))
        return codes[text.codes]

    if lost := {word for word in classes if is_missing(word)}:
        problem = f"the label is missing at {position(lost)}"
        fail_damaged(where, name, problem, "Fill it in, or drop the row.")
    if names is not None:
        at = {class_name(word): index for index, word in enumerate(names)}
        for word in classes:
            if classes[word] not in at:
                problem = f"{position({word})} has the class {word[:60]!r}"
                hint = "Remove the row, or train a new run."
                fail_damaged(where, name, f"{problem}, which the run does not have; it has {', '.join(names)}", hint)
        return labels(at), names
    numeric = {word: _number(word) for word in classes.values()}
    if all(number is not None for number in numeric.values()):
        order = sorted(numeric, key=lambda word: (numeric[word], word))
    else:
        order = sorted(numeric)
    if len(order) < 2:
        fail_damaged(
            where,
            name,
            f"column {label!r} should hold classes, but is {order[0]!r} throughout",
            "Is it the right label?",
        )
    most = max(2, len(text) // 2)
    if len(order) > most:
        problem = f"column {label!r} holds {len(order)} different values in {len(text)} rows"
        hint = 'Those are too many for classes. To predict numbers: task = "regression".'
        fail_damaged(where, name, problem, hint)
    return labels({word: index for index, word in enumerate(order)}), tuple(order)


def check_values(name: str, column: str, values: Any, *, where: str = WHERE) -> Any:
    """The values of a column, one a row, none behind a mask."""
    check.unmasked(where, **{f"column {column!r} of {name}": values})
    if isinstance(values, np.ndarray) and values.ndim != 1:
        problem = f"column {column!r} should hold one value a row, got shape {values.shape}"
        fail_damaged(where, name, problem, "Make a column of each.")
    return values


def to_strings(
    name: str, column: str, values: Any, describe_row: DescribeRow | None = None, *, where: str = WHERE
) -> StringColumn:
    """A column as strings. A cell that is no text, number, flag or date is refused, such as a list of JSON lines.

    name: of the table.
    column: its name.
    values: the column.
    describe_row: of `read_columns`.
    """
    if isinstance(values, StringColumn):
        return values
    if not isinstance(values, np.ndarray) or values.dtype.kind in "OSVc":
        for row, value in enumerate(values):
            if isinstance(value, NO_CELL):
                problem = f"{(describe_row or row_name)(row)} of column {column!r} should hold a text or a number"
                hint = "Decode bytes to texts; make a column of each part of other values."
                fail_damaged(where, name, f"{problem}, got {check.describe(value)}", hint)
    strings = StringColumn.from_strings(map(str, values))
    for code, text in enumerate(strings.distinct):
        if half := HALF_PAIR.search(text):
            position = (describe_row or row_name)(int((strings.codes == code).argmax()))
            problem = f"{position} of column {column!r} has {ascii(half[0])[1:-1]}, {HALF}"
            fail_damaged(where, name, problem, "Take it out.")
    return strings


def is_missing(value: Any) -> bool:
    """Whether a cell has no value: None, NaN, or a word that pandas takes for missing."""
    word = str(value).strip()
    return word == "None" or word.lower() in MISSING


def class_name(word: str) -> str:
    """The name of a class: a number by its shortest form, and True of true; other words as they are, such as 007."""
    if word.lower() in ("false", "true"):
        return word.capitalize()
    if not NUMBER.fullmatch(word) or CODE.match(word) or not abs(value := float(word)) < EXACT:
        return word
    return f"{value + 0.0:.0f}" if value.is_integer() else repr(value)


def _numbers_or_nan(values: Iterable[Any]) -> np.ndarray:
    numbers = (_number(value) for value in values)
    return np.array([math.nan if number is None else number for number in numbers])


def _number(value: Any) -> float | None:
    """The number that a value is, or None: dates, and texts that no CSV has numbers as, are none."""
    if isinstance(value, str):
        plain = NUMBER.fullmatch(value.strip())
    else:
        plain = isinstance(value, Real | Decimal | np.bool_)
    try:
        is_date = isinstance(value, np.timedelta64)
        return float(value) if plain and not is_date else None
    except (ValueError, OverflowError):
        return None
