"""Files of predictions, written piece by piece: CSV, JSON lines, Parquet and NumPy's format."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from nnfunc import check, documents
from nnfunc.config.config_errors import to_one_line

Columns = Mapping[str, Sequence[Any]]
Write = Callable[[Columns, Any], None]
"""(the columns of some rows, the raw outputs of the model for them) -> None."""
FORMATS = {"csv": (".csv",), "jsonl": (".jsonl", ".ndjson"), "parquet": (".parquet", ".pq"), "npy": (".npy",)}
"""The endings of each format."""


def choose_format(output: Path | None, name: str | None) -> str:
    """The format of the `output`, by its `name` or its ending; CSV for standard output (None)."""
    if name is not None:
        check.choice("predict", tuple(FORMATS), format=name)
    elif output is None:
        return "csv"
    else:
        name = next((name for name, endings in FORMATS.items() if output.suffix.lower() in endings), None)
    if name is None:
        expected = "output should be a .csv, .jsonl, .parquet or .npy file"
        check.fail("predict", expected=expected, actual=output, hint="Or name the format: --format csv.")
    if output is None and name in ("parquet", "npy"):
        check.fail("predict", f"the format {name} needs a file.", hint="Name it: --output FILE.")
    return name


@contextmanager
def open_writer(output: Path | None, format_name: str) -> Iterator[Write]:
    """A function that appends rows to a file; the file appears when the block ends without an error.

    output: the file, None for standard output.
    format_name: a key of FORMATS.
    """
    if output is None:
        yield _row_writer(sys.stdout, format_name)
        sys.stdout.flush()
        return
    target = output.resolve()
    documents.make_parent(target)
    temporary = target if target.exists() and not target.is_file() else target.with_name(f"{target.name}.tmp")
    try:
        if format_name == "parquet":
            with _parquet(temporary) as write:
                yield write
        elif format_name == "npy":
            parts: list[Any] = []
            yield lambda columns, raw: parts.append(raw)
            with open(temporary, "wb") as file:
                np.save(file, np.concatenate(parts))
        else:
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                yield _row_writer(file, format_name)
        if temporary != target:
            temporary.replace(target)
    finally:
        if temporary != target:
            temporary.unlink(missing_ok=True)


def _row_writer(file: IO[str], format_name: str) -> Write:
    writer, state = csv.writer(file, lineterminator="\n"), {"first": True}

    def write_csv(columns: Columns, raw: Any) -> None:
        if state.pop("first", False):
            writer.writerow(columns)
        writer.writerows(zip(*(_texts(name, column) for name, column in columns.items()), strict=True))

    def write_json(columns: Columns, raw: Any) -> None:
        lists = [column.tolist() if isinstance(column, np.ndarray) else column for column in columns.values()]
        for row in zip(*lists, strict=True):
            line = json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False, default=str)
            file.write(f"{line}\n")

    return write_csv if format_name == "csv" else write_json


def _texts(name: str, column: Sequence[Any]) -> Sequence[Any]:
    """A column as CSV has it: probabilities with 6 digits, other floats with 9, lists with spaces between."""
    if isinstance(column, np.ndarray) and column.dtype.kind == "f":
        digits = 6 if re.match(r"p(_|\d|robability)", name) else 9
        return [f"{value:.{digits}g}" for value in column.tolist()]
    return [" ".join(map(str, value)) if isinstance(value, list) else value for value in column]


def _parquet_column(column: Sequence[Any]) -> Any:
    """A column as Parquet has it: "", an empty cell of CSV, is missing."""
    return column if isinstance(column, np.ndarray) else [None if isinstance(x, str) and x == "" else x for x in column]


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    check.package("predict", "pyarrow", "nnfunc[data]")
    import pyarrow as arrow  # pyright: ignore[reportMissingImports]
    from pyarrow import parquet  # pyright: ignore[reportMissingImports]

    writer: Any = None

    def write(columns: Columns, raw: Any) -> None:
        nonlocal writer
        try:
            table = arrow.table({name: _parquet_column(column) for name, column in columns.items()})
            if writer is None:  # a column without values may have texts later
                types = {
                    field.name: arrow.string() if field.type == arrow.null() else field.type for field in table.schema
                }
                writer = parquet.ParquetWriter(path, arrow.schema(types))
            table = table.cast(writer.schema)
        except (arrow.ArrowInvalid, arrow.ArrowTypeError, arrow.ArrowNotImplementedError) as error:
            problem = f"a column of a Parquet file should have values of one type: {to_one_line(error)}."
            check.fail("predict", problem, hint="Write CSV or JSON lines, or keep other columns.")
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
