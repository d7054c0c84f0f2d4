"""Tables with named columns: CSV or Parquet files, or data frames of pandas or polars."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnfunc import check
from nnfunc.data.dataset import warn_if_coarse_in_float32
from nnfunc.data.fingerprint import fold_ids
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.row_split import assign_rows
from nnfunc.data.sources.columns import check_columns, parse_class_labels, parse_numbers, read_columns
from nnfunc.data.splits import Splits

__all__ = ["table"]

WHERE = "data.table"
BLOCK = 1 << 16  # rows


def table(
    source: str | Path | Any,
    *,
    label: str,
    columns: Sequence[str] | None = None,
    task: Literal["classification", "regression"] = "classification",
    separator: str = ",",
    validation: float = 0.1,
    test: float = 0.2,
    standardise: bool = True,
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """A table with columns of numbers as x [n, columns], and the column `label` as y.

    source: a .csv file (UTF-8, gzip or not) whose first line names the columns, a .parquet file (with
    pyarrow), a data frame of pandas or polars, or a table of pyarrow. Numbers may have exponents, as 1e-3;
    blank lines are skipped, dates are refused. label: its distinct values are the classes, `splits.names`, in
    numerical or alphabetical order. 1 and 1.0 are the same class. Values that pandas treats as missing (None,
    NaN, NA, null, but not none) are refused. columns: the columns of x in this order, by default all but the
    label. task: "classification", or "regression" for a label of numbers, y [n, 1]. separator: of the columns
    of a CSV file, one character. validation, test: below 1 fractions of the rows, from 1 on numbers of rows, 0
    for none; split at random, stratified by class, and always the same. standardise: x becomes (x - mean) / std
    of each column of the training rows, computed in float64 and stored in float32, so that seconds since 1970
    keep their precision. preprocessing: of an earlier run (`splits.preprocessing`), which fixes columns, means,
    classes, and the split of each row; new rows are in none.
    Raises: FileNotFoundError; ModuleNotFoundError without pyarrow; ValueError, with line and column, for a
    value that is missing or not a number, or a class that `preprocessing` does not have.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "pets.csv")
    >>> _ = file.write_text("weight,height,kind\\n" + "4,30,cat\\n30,60,dog\\n" * 10)
    >>> splits = table(file, label="kind")
    >>> splits.train[0].shape, splits.names
    ((14, 2), ('cat', 'dog'))
    """
    if preprocessing is not None:
        preprocessing.check_factory(WHERE)
        facts = preprocessing.facts
        label, columns, task = facts["label"], facts["columns"], facts["task"]
    check.choice(WHERE, ("classification", "regression"), task=task)
    only = None if columns is None else {label, *columns}
    texts = [label] if task == "classification" else []
    name, source_columns, describe_row = read_columns(source, separator, only, texts)
    check_columns(name, [label, *(columns or ())], source_columns)
    if columns is not None and (not columns or label in columns or len(set(columns)) < len(columns)):
        check.fail(WHERE, expected="columns should be distinct names without the label", actual=columns)
    columns = list(columns) if columns is not None else [c for c in source_columns if c != label]
    if not columns:
        check.fail(WHERE, f"{name} should have columns other than the label, {label!r}, but has none.")
    values = source_columns[label]
    if task == "regression":
        names, y = None, parse_numbers(name, label, values, describe_row).astype(np.float64, copy=False)
        warn_if_coarse_in_float32(f"{name}: column {label!r}", y)
        ids, y = fold_ids(np.zeros(len(y), np.uint64), y), y[:, None].astype(np.float32)
    else:
        names = None if preprocessing is None else preprocessing.names
        y, names = parse_class_labels(name, label, values, describe_row, names)
        ids = y.astype(np.uint64)

    for column in columns:
        stored = source_columns[column]
        values = parse_numbers(name, column, stored, describe_row)
        fold_ids(ids, values)
        if not (isinstance(stored, np.ndarray) and stored.dtype.kind in "fiub"):  # else it may need less memory
            source_columns[column] = values
    cuts, rows = assign_rows(WHERE, ids, y, preprocessing, stratify=names is not None, validation=validation, test=test)
    del ids, values
    scaling = None if preprocessing is None else preprocessing.facts.get("standardise")
    if preprocessing is None and standardise:
        train = cuts["train"]
        scaling = _scaling(source_columns[column][train].astype(np.float64) for column in columns)
        del train
    elif scaling is None:
        for column in columns:
            warn_if_coarse_in_float32(f"{name}: column {column!r}", np.asarray(source_columns[column]))
    parts = []
    for part in ("train", "validation", "test"):
        at = cuts.pop(part, None)
        if at is None:
            parts.append(None)
            continue
        x = np.empty((len(at), len(columns)), np.float32)
        for i, column in enumerate(columns):
            mean, std = (scaling["mean"][i], scaling["std"][i]) if scaling else (0.0, 1.0)
            _fill(x[:, i], source_columns[column], at, mean, std)
        parts.append((x, y[at] if names is None else y[at].astype(np.int32)))
    facts = {
        "label": label,
        "columns": columns,
        "task": task,
        "separator": separator,
        "names": None if names is None else list(names),
        "standardise": scaling,
        "dtype": "float32",
        "classes": None if names is None else len(names),
        "shape": [len(columns)],
    }
    record = Preprocessing("table", facts, rows=rows)
    return Splits(*parts, classes=record.classes, names=record.names, preprocessing=record)


def _fill(x: np.ndarray, values: np.ndarray, at: np.ndarray, mean: float, std: float) -> None:
    """x = (values[at] - mean) / std, in float64, block by block to save memory."""
    for start in range(0, len(at), BLOCK):
        block = slice(start, start + BLOCK)
        x[block] = (values[at[block]].astype(np.float64) - mean) / std


def _scaling(columns: Iterable[np.ndarray]) -> dict[str, list[float]]:
    """Mean and standard deviation of each column; the value and 1 for a constant column."""
    pairs = [
        (float(column[0]), 1.0) if np.ptp(column) == 0 else (float(column.mean()), float(column.std()))
        for column in columns
    ]
    return {"mean": [mean for mean, _ in pairs], "std": [std for _, std in pairs]}
