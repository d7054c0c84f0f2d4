"""CSV files as columns: numbers as arrays, texts as `StringColumn`, errors with line numbers of the file."""

import contextlib
import csv
import io
import re
import threading
from collections.abc import Callable, Collection, Iterator
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from nnfunc import check
from nnfunc.data.download import fail_damaged, find_text_problem, read_bytes
from nnfunc.data.sources.column_store import ColumnStore

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
BLOCK = 1 << 14  # values that are turned into numbers at a time
QUICK = 1 << 20  # bytes from which on pyarrow's reader is worth its import
WIDE = 2000  # columns up to which it is the faster one, and takes less memory
EXACT = 2**53  # from here on float64 leaves integers out
SETTINGS = threading.Lock()  # the longest field is a setting of Python's for all threads

Columns = dict[str, Any]


def read_csv(
    where: str, file: Path, separator: str, only: Collection[str] | None, texts: Collection[str] | None
) -> tuple[Columns, Callable[[int], str]]:
    """({name: column}, row -> its line in the file, such as "line 7").

    A column of numbers is an array, any other a `StringColumn`; columns that are not in `only` are None.
    Blank lines are skipped, as pandas does. Peak memory is about that of the file and of the columns.
    where: begins the message of an error.
    file: to read.
    separator: between values.
    only: the names of the columns to read, None for all.
    texts: the columns to read as texts, such as labels; None for all.
    """
    if len(separator) != 1 or separator in '"\r\n':
        check.fail(where, expected="separator should be one character", actual=f"{separator!r}")
    data = _data(where, file)
    with long_fields():
        head = _head(where, file, data, separator)
        if only is None and "" in head:
            problem = f"its column {head.index('') + 1} has no name (as pandas writes its index)"
            fail_damaged(where, file, problem, "Name it, or name the columns to use: columns = [...].")
        used = [i for i, name in enumerate(head) if only is None or name in only]
        table = _Table(where, file, data, separator, len(head), used)
        text = {i for i in used if texts is None or head[i] in texts}
        result = table.quick(text)
        while result is None:
            result = table.exact(text)
    if not table.count:
        problem = "it should have a line of names and rows, but has only names"
        fail_damaged(where, file, problem, "Is it the right file?")
    count = table.count
    columns: Columns = dict.fromkeys(head) | {head[i]: result[i] for i in used}

    @cache
    def lines() -> np.ndarray | None:
        """The first line of each row; None where each row has one line, and there are no others but the names."""
        content = read_bytes(where, file)
        if b'"' not in content and content.count(b"\n") + (not content.endswith(b"\n")) == count + 1:
            return None
        with long_fields():
            return np.array([line for line, _ in islice(_rows(where, file, content, separator), 1, None)], np.int64)

    def describe_row(row: int) -> str:
        numbers = lines()
        return f"line {row + 2 if numbers is None or row >= len(numbers) else numbers[row]}"

    return columns, describe_row


def _data(where: str, file: Path) -> bytes:
    data = read_bytes(where, file)
    if trouble := find_text_problem(data):
        fail_damaged(where, file, *trouble)
    if data[:200].lstrip().lower().startswith((b"<!doctype", b"<html")):
        fail_damaged(where, file, "it is a web page, and should be CSV", "Was it the right address?")
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        problem = f"line {line} has a zero byte, a character that no CSV has"
        hint = r"Where it means nothing, take it out: tr -d '\000' < FILE > NEW_FILE."
        fail_damaged(where, file, problem, hint)
    return data


@contextlib.contextmanager
def long_fields() -> Iterator[None]:
    """A field may be as long as its file."""
    with SETTINGS:
        before = csv.field_size_limit((1 << 31) - 1)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _rows(where: str, file: Path, data: bytes, separator: str) -> Iterator[tuple[int, list[str]]]:
    return csv_rows(where, file, io.TextIOWrapper(io.BytesIO(data), "utf-8-sig", newline=""), separator)


def csv_rows(where: str, file: Path | str, text: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(the line in which it begins, its values) of each row, that of the names included.

    where: begins the message of an error.
    file: its name.
    text: of the file.
    separator: between values.
    """
    line = 1
    reader = csv.reader(text, delimiter=separator, strict=True)
    try:
        for row in reader:
            if len(row) > 1 or (row and row[0].strip()):
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        if "unexpected end" in str(error):
            problem = f"line {line} opens a quote that is not closed before the file ends"
        else:
            problem = f"line {line} cannot be cut into values ({error})"
        hint = "Close the quote; one that belongs to a text is written twice."
        fail_damaged(where, file, problem, hint)


def _head(where: str, file: Path, data: bytes, separator: str) -> list[str]:
    """The columns' names."""
    _, row = next(_rows(where, file, data, separator), (0, []))
    head = [word.strip() for word in row]
    if not head:
        fail_damaged(where, file, "it should have a line of names and rows, but is empty", "Is it the right file?")
    if all(NUMBER.fullmatch(word) for word in head):
        problem = f"its first line should name the columns, but holds numbers: {head[:4]}"
        fail_damaged(where, file, problem, "Put a line of names before it.")
    names = set()
    for word in filter(None, head):
        if word in names:
            fail_damaged(where, file, f"it has more than one column {word!r}", "Rename one.")
        names.add(word)
    return head


class _Table:
    """Reads the rows of a CSV file into columns."""

    def __init__(self, where: str, file: Path, data: bytes, separator: str, width: int, used: list[int]):
        self.where, self.file, self.data, self.separator = where, file, data, separator
        self.width, self.used, self.count = width, used, 0

    def quick(self, texts: set[int]) -> dict[int, Any] | None:
        """The columns by pyarrow's reader; None if its result may differ from that of `exact`."""
        simple = 2 <= self.width <= WIDE and self.separator.isascii() and b'"' not in self.data
        if not simple or len(self.data) < QUICK:
            return None
        try:
            import pyarrow as arrow  # pyright: ignore[reportMissingImports]
            from pyarrow import csv as reader  # pyright: ignore[reportMissingImports]
        except ImportError:
            return None
        store, pool = self._store(), arrow.system_memory_pool()
        types = {f"{i}": arrow.string() if i in texts else arrow.float64() for i in self.used}
        try:
            batches = reader.open_csv(
                arrow.BufferReader(self.data),
                reader.ReadOptions(
                    block_size=1 << 18, use_threads=False, skip_rows=1, column_names=[f"{i}" for i in range(self.width)]
                ),
                reader.ParseOptions(delimiter=self.separator, quote_char=False),
                reader.ConvertOptions(column_types=types, include_columns=list(types), null_values=[]),
                memory_pool=pool,
            )
            for batch in batches:
                block = np.empty((len(batch), len(self.used)))
                for at, i in enumerate(self.used):
                    column = batch[f"{i}"]
                    if i in texts:
                        column = column.dictionary_encode()
                        codes = store.encode(at, column.dictionary.to_pylist())
                        block[:, at] = codes[np.asarray(np.from_dlpack(column.indices), np.intp)]
                    else:
                        block[:, at] = np.from_dlpack(column)  # to_numpy would import pandas
                if not _usual(block):
                    return None
                store.add(block)
        except arrow.ArrowException:
            return None
        return self._columns(store)

    def exact(self, texts: set[int]) -> dict[int, Any] | None:
        """The columns by Python's reader; None if more of them are texts, which are then added to `texts`."""
        store, rows = self._store(), _rows(self.where, self.file, self.data, self.separator)
        numeric = [i for i in self.used if i not in texts]
        next(rows)
        while block := list(islice(rows, max(1, BLOCK // self.width))):
            for line, row in block:
                if len(row) != self.width:
                    self._ragged(line, row)
            text = [[row[i] for i in numeric] for _, row in block]
            numbers = _numbers(list(chain.from_iterable(text)))
            if numbers is None:
                columns = zip(numeric, zip(*text, strict=True), strict=True)
                texts |= {i for i, column in columns if _numbers(list(column)) is None}
                return None
            values = np.empty((len(block), len(self.used)))
            values[:, [i not in texts for i in self.used]] = numbers.reshape(len(block), -1)
            for at, i in enumerate(self.used):
                if i in texts:
                    values[:, at] = store.encode(at, [row[i] for _, row in block])
            store.add(values)
        return self._columns(store)

    def _ragged(self, line: int, row: list[str]) -> None:
        if row[0].startswith("#"):
            hint = "Lines of comment cannot be read: take them out."
        elif len(row) == self.width + 1 and not row[-1]:
            hint = f"It ends with {self.separator!r}, and the line of names does not."
        elif any("\n" in word or "\r" in word for word in row):
            hint = "It goes on over several lines: is a quote not closed?"
        else:
            hint = f"The separator is {self.separator!r}; is it the right one?"
        problem = f"line {line} should have {self.width} values, but has {len(row)}"
        fail_damaged(self.where, self.file, problem, hint)

    def _store(self) -> ColumnStore:
        return ColumnStore(len(self.used), 1 + self.data.count(b"\n") + self.data.count(b"\r"))

    def _columns(self, store: ColumnStore) -> dict[int, Any]:
        self.count = store.count
        return {i: store.column(at) for at, i in enumerate(self.used)}


def _numbers(values: list[str]) -> np.ndarray | None:
    """The values as float64, or None if one of them is not a usual number."""
    try:
        numbers = np.fromiter(map(float, values), np.float64, len(values))
    except ValueError:
        return None
    text = "".join(values)  # float() also reads 1_000, and the digits of other scripts
    return numbers if "_" not in text and text.isascii() and _usual(numbers) else None


def _usual(values: np.ndarray) -> bool:
    """Whether all are finite and so small that float64 has every integer; larger ones are read as text."""
    return bool((np.abs(values) < EXACT).all())
