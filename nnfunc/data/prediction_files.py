"""Files of rows to predict, read piece by piece: tables, numbers, texts and image files."""

import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from nnfunc import check
from nnfunc.data.download import check_unpacked_size, fail_damaged, fail_unreadable, file_size, find_text_problem
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.class_folders import IMAGES, ClassFolders
from nnfunc.data.sources.columns import read_columns
from nnfunc.data.sources.csv_reader import csv_rows, long_fields
from nnfunc.data.sources.npz import load_npy
from nnfunc.data.sources.number_style import NumberStyle
from nnfunc.data.sources.text_classification import FOLDERS as TEXTS
from nnfunc.errors import NnfuncError

WHERE = "predict"
STDIN = "-"
"""The path that stands for standard input."""
PARQUET = (".parquet", ".pq")
JSON_LINES = (".jsonl", ".ndjson")
FILES_AT_ONCE = 256
HINT = "Correct the line, or take it out."


class FileColumns(dict[str, Any]):
    """Columns [n] by name, as in a file.

    source: the name of the file, for messages.
    describe_row: row -> its position in the file, such as "line 7".
    """

    def __init__(self, columns: Mapping[str, Any], source: str, describe_row: Callable[[int], str]):
        super().__init__(columns)
        self.source, self.describe_row = source, describe_row


@dataclass(frozen=True)
class Piece:
    """Some rows of the inputs.

    rows: for `load_inputs`.
    columns: the values of the file by column, to keep beside the predictions; of images "file", their names.
    done: the part of the input that is read, in [0, 1], or None if that is unknown.
    """

    rows: Any
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    done: float | None = None


def table_columns(preprocessing: Preprocessing) -> list[str] | None:
    """The names of the columns that a run reads from a table; None if it reads no tables."""
    facts = preprocessing.facts
    if preprocessing.factory == "text_classification":
        return [facts["text"]]
    if preprocessing.factory == "forecasting":
        return [name for name in (facts["time"], facts["series"], facts["value"], *facts["covariates"]) if name]
    return facts["columns"] if preprocessing.factory == "table" else None


def read_pieces(preprocessing: Preprocessing, paths: Sequence[str | Path], limit: int | None = None) -> Iterator[Piece]:
    """The rows of files in their order.

    preprocessing: of the run.
    paths: files, folders of images or texts, or "-" for standard input, which has CSV, JSON lines, a text on each
        line or, for images, a name of a file on each line.
    limit: the most rows of a piece, None for all of a file; .npy files, sentences and series are one piece.
    Raises: FileNotFoundError; ValueError, with the line, for a file that cannot be read.
    """
    has_images = "image" in preprocessing.facts
    folders = IMAGES if has_images else TEXTS if preprocessing.factory == "text_classification" else None
    names = [name for path in paths for name in (_lines() if has_images and str(path) == STDIN else [path])]
    for path in names:
        _check_exists(path)
    count = 0
    for are_files, group in groupby(names, lambda path: _is_example(path, folders)):
        group = list(group)
        if not are_files or folders is None:
            for path in group:
                for piece in _file_pieces(preprocessing, path, limit):
                    yield piece if len(names) == 1 else Piece(piece.rows, piece.columns, count / len(names))
                count += 1
            continue
        files = [file for path in group for file in _example_files(path, folders)]
        step = FILES_AT_ONCE if limit is None else min(limit, FILES_AT_ONCE)
        for start in range(0, len(files), step):
            part = files[start : start + step]
            done = (count + len(group) * (start + len(part)) / len(files)) / len(names)
            yield Piece(part, {"file": [str(file) for file in part]}, done)
        count += len(group)


def _lines() -> list[str]:
    return [line for line in sys.stdin.read().splitlines() if line.strip()]


def _is_example(path: str | Path, folders: ClassFolders | None) -> bool:
    """Whether a path is a file that is one example, such as an image, or a folder of them."""
    if folders is None or str(path) == STDIN:
        return False
    return Path(path).is_dir() or Path(path).suffix.lower() in folders.endings


def _example_files(path: str | Path, folders: ClassFolders) -> list[Path]:
    path = Path(path)
    _check_exists(path)
    if not path.is_dir():
        return [path] if path.suffix.lower() in folders.endings else []
    files = sorted(folders.find(path))
    if not files:
        check.fail(WHERE, f"{path} should contain {folders.what}, but has none.")
    return files


def image_files(path: str | Path) -> list[Path]:
    """The image files of a `path`, a file or a folder; [] for a file with another ending."""
    return _example_files(path, IMAGES)


def _check_exists(path: str | Path) -> None:
    path = Path(path)
    if str(path) != STDIN and not path.exists():
        near = check.nearest(str(path), [str(p) for p in path.parent.glob("*") if p.is_file()])
        check.fail("", f"The input {path} does not exist{near}", exc_type=FileNotFoundError)


def _file_pieces(preprocessing: Preprocessing, path: str | Path, limit: int | None) -> Iterator[Piece]:
    """The pieces of one file with any number of examples."""
    name = "standard input" if str(path) == STDIN else str(path)
    suffix = Path(name.lower().removesuffix(".gz")).suffix
    columns, is_tagging = table_columns(preprocessing), preprocessing.factory == "tagging"
    limit = None if preprocessing.factory == "forecasting" else limit
    try:
        if str(path) == STDIN:
            stream: Any = sys.stdin.buffer
            is_json = stream.peek(1).lstrip()[:1] in (b"{", b"[")
            is_text = is_tagging or preprocessing.factory == "text_classification"
            text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
            read = _json_pieces if is_json and not is_tagging else _text_pieces if is_text else _csv_pieces
            try:
                yield from read(preprocessing, name, text, None, limit)
            finally:
                text.detach()  # or standard input would be closed
        elif is_tagging:
            yield Piece(Path(path), done=1.0)
        elif suffix == ".npy":
            yield Piece(load_npy(WHERE, Path(path)), done=1.0)
        elif suffix in PARQUET and columns:
            yield from _parquet_pieces(Path(path), limit)
        elif suffix == ".csv" or suffix in JSON_LINES:
            size = file_size(WHERE, Path(path))
            is_packed = name.lower().endswith(".gz")
            with open(path, "rb") as raw, gzip.open(raw) if is_packed else nullcontext(raw) as stream:
                position = lambda: raw.tell() / max(size, 1)
                read = _json_pieces if suffix in JSON_LINES else _csv_pieces
                with io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:  # pyright: ignore[reportArgumentType]
                    yield from read(preprocessing, name, text, position, limit)
        else:
            formats = [".csv", ".jsonl", ".npy"] + ([".parquet"] if columns else [])
            form = f"{', '.join(formats[:-1])} or {formats[-1]} file"
            form += ", an image or a folder of images" if "image" in preprocessing.facts else ""
            check.fail(WHERE, expected=f"the input should be a {form}", actual=path)
    except UnicodeDecodeError as error:
        trouble = find_text_problem(Path(path).read_bytes()) if str(path) != STDIN and suffix == ".csv" else None
        fail_damaged(WHERE, name, *(trouble or (f"it should be text in UTF-8 ({error.reason})",)))
    except (EOFError, OSError) as error:
        if isinstance(error, NnfuncError):
            raise
        fail_unreadable(WHERE, name, "it cannot be read", error)


Position = Callable[[], float] | None


def _text_pieces(
    preprocessing: Preprocessing, name: str, text: TextIO, position: Position, limit: int | None
) -> Iterator[Piece]:
    """The pieces of standard input with a text on each line: a text to classify, or the words of a sentence."""
    numbered = ((number, line.strip()) for number, line in enumerate(text, 1) if line.strip())
    while block := list(islice(numbered, limit)):
        lines = [line for _, line in block]
        if preprocessing.factory == "tagging":
            yield Piece([line.split() for line in lines])
        else:
            columns = {preprocessing.facts["text"]: lines}
            yield Piece(FileColumns(columns, name, _describe_line([number for number, _ in block])), columns)


def _csv_pieces(
    preprocessing: Preprocessing, name: str, text: TextIO, position: Position, limit: int | None
) -> Iterator[Piece]:
    """The pieces of a CSV file, with or without a line of names."""
    separator, columns = preprocessing.facts.get("separator", ","), table_columns(preprocessing)
    rows = csv_rows(WHERE, name, text, separator)
    with long_fields():
        block = list(islice(rows, 1))
    if not block:
        check.fail(WHERE, expected=f"{name} should have at least one example", actual="no rows")
    line, head = block[0]
    names: list[str] | None = [word.strip() for word in head]
    style = NumberStyle.of(preprocessing.facts)
    read = lambda row: [style.plain(word.strip()) or word for word in row] if style.facts() else row
    if all(_is_number(word) for word in read(head)) and set(names) != set(
        columns or ()
    ):  # columns may be named 0, 1, 2
        names = None
    if names is not None:
        block = []
        twice = next((word for i, word in enumerate(names) if word in names[:i]), None)
        if twice is not None:
            fail_damaged(WHERE, name, f"it has more than one column {twice!r}", "Rename one.")
        if columns is None:
            actual = f"a first line with names, such as {next(word for word in names if not _is_number(word))!r}"
            hint = "Remove that line: the columns of the run have no names."
            check.fail(WHERE, expected=f"{name} should have rows of numbers", actual=actual, hint=hint)
    count = 0
    while True:
        with long_fields():
            block += islice(rows, None if limit is None else limit - len(block))
        if not block:
            break
        count += len(block)
        for line, row in block:
            if len(row) != len(head):
                hint = f"The separator is {separator!r}; is it the right one?"
                fail_damaged(WHERE, name, f"line {line} should have {len(head)} values, but has {len(row)}", hint)
        done = None if position is None else position()
        lines = [line for line, _ in block]
        if names is None:
            yield Piece(_number_rows(name, lines, [read(row) for _, row in block]), done=done)
        else:
            columns = dict(zip(names, map(list, zip(*(row for _, row in block), strict=True)), strict=True))
            yield Piece(FileColumns(columns, name, _describe_line(lines)), columns, done)
        block = []
    if not count:
        fail_damaged(WHERE, name, "it should have a line of names and rows, but has only names")


def _describe_line(lines: Sequence[int]) -> Callable[[int], str]:
    return lambda row: f"line {lines[row]}"


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return not word.strip()
    return True


def _number_rows(name: str, lines: Sequence[int], rows: Sequence[Sequence[Any]]) -> np.ndarray:
    """[n, columns] float64 of rows without names, all finite."""
    try:
        values = np.array(rows, np.float64)
    except (ValueError, TypeError):
        values = np.array([[float("nan")]])
    if values.ndim == 2 and np.isfinite(values).all():
        return values
    for line, row in zip(lines, rows, strict=True):
        for i, value in enumerate(row):
            try:
                is_finite = np.isfinite(float(value))
            except (ValueError, TypeError):
                is_finite = False
            if not is_finite:
                problem = f"line {line} of column {i + 1} should hold a finite number, got {str(value)[:60]!r}"
                fail_damaged(WHERE, name, problem, HINT)
    return values


def _json_pieces(
    preprocessing: Preprocessing, name: str, text: TextIO, position: Position, limit: int | None
) -> Iterator[Piece]:
    """The pieces of a file with a JSON value on each line: tables by column, or lists of numbers."""
    numbered = ((number, line) for number, line in enumerate(text, 1) if line.strip())
    count, known = 0, set()
    while block := list(islice(numbered, limit)):
        count += len(block)
        rows = []
        for line, content in block:
            try:
                rows.append(json.loads(content))
            except (ValueError, RecursionError) as error:
                reason = str(error).split(": line")[0]
                fail_damaged(WHERE, name, f"line {line} is not JSON ({reason})", "Write one JSON value a line.")
        lines, done = [line for line, _ in block], None if position is None else position()
        expected: type = type(rows[0])
        for line, row in zip(lines, rows, strict=True):
            if not isinstance(row, dict | list) or type(row) is not expected:
                form = "a table {...} of columns" if table_columns(preprocessing) else "a list of numbers"
                fail_damaged(WHERE, name, f"line {line} should be {form}, got {check.describe(row)}", HINT)
        if expected is list:
            yield Piece(_nested_rows(name, lines, rows), done=done)
            continue
        known.update(*rows)
        absent = [name for name in table_columns(preprocessing) or () if name not in known]
        if absent:  # a later piece may have the column: then its values are missing here
            rest = list(numbered)
            known |= {name for name in absent if any(f'"{name}"' in content for _, content in rest)}
            numbered = iter(rest)
        keys = dict.fromkeys([*(key for row in rows for key in row), *sorted(known)])
        columns = {key: [row.get(key) for row in rows] for key in keys}
        yield Piece(FileColumns(columns, name, _describe_line(lines)), columns, done)
    if not count:
        check.fail(WHERE, expected=f"{name} should have at least one example", actual="no rows")


def _nested_rows(name: str, lines: Sequence[int], rows: Sequence[Any]) -> np.ndarray:
    """[n, ...] of nested lists of numbers."""
    shapes = []
    for line, row in zip(lines, rows, strict=True):
        try:
            value = np.array(row)
        except ValueError:
            value = np.array("ragged")
        if value.dtype.kind not in "fiub":
            fail_damaged(WHERE, name, f"line {line} should be a list of numbers, got {check.describe(row)}", HINT)
        shapes.append(value.shape)
        if value.shape != shapes[0]:
            fail_damaged(
                WHERE, name, f"line {line} should have shape {shapes[0]}, as the first, got {value.shape}", HINT
            )
    return np.array(rows)


def _parquet_pieces(file: Path, limit: int | None) -> Iterator[Piece]:
    """The pieces of a Parquet file, by its row groups."""
    check.package(WHERE, "pyarrow", "nnfunc[data]")
    import pyarrow as arrow  # pyright: ignore[reportMissingImports]
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    size = file_size(WHERE, file)
    try:
        with parquet.ParquetFile(file) as opened:
            total, first = opened.metadata.num_rows, 0
            if not total:
                check.fail(WHERE, expected=f"{file} should have at least one example", actual="no rows")
            if limit is None:  # all rows are in memory at once
                check_unpacked_size(WHERE, file, size, 32 * total * opened.metadata.num_columns)
            for batch in opened.iter_batches(batch_size=limit or total):
                frame = arrow.Table.from_batches([batch])
                columns = read_columns(frame, ",")[1]
                values = {name: frame[name].to_pylist() for name in frame.column_names}
                describe = lambda row, first=first: f"row {first + row}"
                first += len(batch)
                yield Piece(FileColumns(columns, str(file), describe), values, first / total)
    except arrow.ArrowException as error:
        if isinstance(error, NnfuncError):
            raise
        fail_unreadable(WHERE, file, "it cannot be read as Parquet", error)
