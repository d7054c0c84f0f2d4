"""What the columns of a table are: numbers, categories, dates, texts, or nothing to learn from."""

import csv
import gzip
import math
import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnfunc import check
from nnfunc.data.sources.column_store import StringColumn
from nnfunc.data.sources.columns import CODE, is_missing, read_columns
from nnfunc.data.sources.number_style import NumberStyle, guess_styles
from nnfunc.data.sources.table_cells import parse_dates

LABELS = ("label", "target", "class", "y", "outcome", "output", "category", "kind", "species")
DATE_FORMATS = (None, "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%Y/%m/%d", "%Y%m%d")
ID = re.compile(r"(.*[_ ])?(id|index|nr|no|key)|unnamed.*", re.IGNORECASE)
TEXT_LENGTH = 4  # mean number of words, from which on strings are texts
PLAIN, FLOAT32 = NumberStyle(), 3e38
SAMPLE = 1 << 23  # bytes of a table that are looked at
CATEGORIES = 1000  # the most categories of a column


class Column(NamedTuple):
    """A column of a table.

    type: "number", "category", "date", "text", or "none" for what cannot be learned from.
    missing: how many values are missing.
    distinct: how many different ones there are.
    reason: of "none", or the format of dates.
    counts: how often each value occurs, if there are few.
    """

    type: str
    missing: int
    distinct: int
    reason: str = ""
    counts: Mapping[str, int] = {}


def guess_separator(file: Path) -> str:
    """The separator of a CSV file: the one that cuts its first lines into most columns of one number."""
    if file.suffix.lower() in (".parquet", ".pq", ".jsonl", ".ndjson"):
        return ","
    opened = gzip.open(file) if file.suffix == ".gz" else open(file, "rb")  # noqa: SIM115
    with opened as stream:
        lines = stream.read(1 << 16).decode("utf-8-sig", "replace").splitlines()[:50]
    widths = {}
    for separator in ",;\t|":
        rows = [len(row) for row in csv.reader(lines[:-1] or lines, delimiter=separator) if row]
        widths[separator] = rows[0] if rows and len(set(rows)) == 1 else 1
    return max(widths, key=lambda separator: widths[separator])


def look_at_first_rows(file: Path, separator: str) -> tuple[dict[str, Column], int, NumberStyle, bool]:
    """The columns as of `look_at_columns`, and whether they are only those of the first rows, of a large file.

    file, separator: as for `look_at_columns`.
    """
    is_text = file.suffix.lower() not in (".gz", ".parquet", ".pq")
    if is_text and file.stat().st_size > SAMPLE:
        with open(file, "rb") as stream:
            lines = stream.read(SAMPLE).splitlines(keepends=True)[:-1]
        quotes = accumulate(line.count(b'"') for line in lines)
        whole = [i for i, count in enumerate(quotes, 1) if count % 2 == 0]  # other lines end inside of a text
        lines = lines[: whole[-1] if whole else 0]
        with suppress(ValueError), tempfile.TemporaryDirectory() as folder:  # an error names the whole file
            part = Path(folder, file.name)
            part.write_bytes(b"".join(lines))
            columns, rows, style = look_at_columns(part, separator)
            constant = [name for name, column in columns.items() if column.distinct < 2]  # the rows may be sorted
            exact = look_at_columns(file, separator, constant)[0] if constant else {}
            return columns | exact, rows, style, True
    return *look_at_columns(file, separator), False


def look_at_columns(
    file: Path, separator: str, only: Collection[str] | None = None
) -> tuple[dict[str, Column], int, NumberStyle]:
    """({name: column}, the number of rows, how numbers are written) of a table.

    file: a table.
    separator: of a CSV file.
    only: the names of the columns to look at, None for all.
    """
    _, columns, _ = read_columns(file, separator, only, texts=None)  # 007 is no number
    columns = {name: values for name, values in columns.items() if only is None or name in only}
    count = len(next(iter(columns.values())))
    texts = [values.distinct for values in columns.values() if isinstance(values, StringColumn)]
    styles = guess_styles([word.strip() for word in distinct if not is_missing(word)] for distinct in texts)
    style = styles[0] if len(styles) == 1 else PLAIN
    return {name: _look(name, values, count, styles) for name, values in columns.items()}, count, style


def _look(name: str, values: Any, rows: int, styles: Sequence[NumberStyle]) -> Column:
    if isinstance(values, np.ndarray) and values.dtype.kind == "M":
        return Column("date", int(np.isnat(values).sum()), len(np.unique(values)))
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        return _look_at_numbers(name, values, rows)
    strings = values if isinstance(values, StringColumn) else StringColumn.from_strings(map(str, values))
    every = np.bincount(strings.codes, minlength=len(strings.distinct)).tolist()
    counts = {word: n for word, n in zip(strings.distinct, every, strict=True) if not is_missing(word)}
    missing = rows - sum(counts.values())
    present = StringColumn.from_strings(word.strip() for word in counts)
    table = counts if len(counts) <= 50 else {}
    if len(counts) < 2:
        return Column("none", missing, len(counts), "always the same" if counts else "empty", table)
    style = styles[0] if len(styles) == 1 else PLAIN
    plain = {word: style.plain(word.strip()) for word in counts}
    if not any(CODE.match(word) for word in present.distinct) and None not in plain.values():
        of_word = {word: float(number or "nan") for word, number in plain.items()}
        if max(map(abs, of_word.values())) < FLOAT32:
            numbers = np.array([of_word.get(word, math.nan) for word in strings.distinct])[strings.codes]
            return _look_at_numbers(name, numbers, rows)
    if len(styles) > 1 and all(style.plain(word) is not None for style in styles for word in present.distinct):
        marks = " or ".join(", ".join(f'{key} = "{mark}"' for key, mark in s.facts().items()) for s in styles)
        return Column("none", missing, len(counts), f"ambiguous numbers: add {marks}", table)
    for date_format in DATE_FORMATS:
        if _parses(lambda form=date_format: parse_dates("", name, present, date_format=form)):
            return Column("date", missing, len(counts), date_format or "", table)
    mean_length = sum(n * len(word.split()) for word, n in counts.items()) / sum(counts.values())
    if mean_length >= TEXT_LENGTH:
        return Column("text", missing, len(counts))
    if len(counts) > CATEGORIES or len(counts) > max(20, (rows - missing) // 2):
        return Column("none", missing, len(counts), "mostly distinct words", table)
    return Column("category", missing, len(counts), "", table)


def _look_at_numbers(name: str, values: np.ndarray, rows: int) -> Column:
    present = values[~np.isnan(values)] if values.dtype.kind == "f" else values
    missing = rows - len(present)
    distinct, counts = np.unique(present, return_counts=True)
    table = {f"{value:g}": int(n) for value, n in zip(distinct, counts, strict=True)} if len(distinct) <= 50 else {}
    if len(distinct) < 2:
        return Column("none", missing, len(distinct), "always the same" if len(distinct) else "empty", table)
    is_id = ID.fullmatch(name) or (np.diff(present.astype(np.float64)) == 1).all()
    if is_id and len(distinct) == rows and np.array_equal(distinct, np.trunc(distinct)):
        return Column("none", missing, len(distinct), "a number for each row", table)
    return Column("number", missing, len(distinct), "", table)


def _parses(parse: Any) -> bool:
    try:
        parse()
    except ValueError:
        return False
    return True


def check_column(columns: Mapping[str, Column], name: str) -> None:
    """Refuse a name that is no column."""
    if name not in columns:
        check.fail("new", f"there is no column {name!r}{check.nearest(name, columns)}")


def find_label(columns: Mapping[str, Column], label: str | None) -> str:
    """The column to predict: `label`, or one with the name of a label, or the last one that may be."""
    if label is not None:
        check_column(columns, label)
        return label
    possible = [name for name, column in columns.items() if column.type in ("number", "category")]
    if not possible:
        problem = "no column can be a label: none has numbers, or few enough different words."
        check.fail("new", problem, hint="Name it: --label COLUMN.")
    named = [name for name in possible if name.lower() in LABELS]
    return (named or possible[-1:])[0]
