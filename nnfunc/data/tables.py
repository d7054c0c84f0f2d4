"""Tables with named columns: CSV, Parquet, or a data frame of pandas or polars."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnfunc import check
from nnfunc.data.columns import class_labels, known, numbers, read_columns
from nnfunc.data.pixels import Normalise
from nnfunc.data.splits import Splits, cut

__all__ = ["table"]

WHERE = "data.table"


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
) -> Splits:
    """A table: x are columns of numbers [n, columns], y is the column named by `label`.

    source: a .csv file (gzip or not) whose first line names the columns, a .parquet file (with
    pyarrow), or a data frame of pandas or polars. label: its distinct values are the classes, in
    numerical or alphabetical order, `splits.names`; in regression it holds numbers, [n, 1].
    columns: the ones to use, in this order; by default all but the label. validation, test: parts of
    the whole below 1, counts of rows from 1 on, 0 for none; cut at random, by class, always the same.
    standardise: every batch has (x - mean) / std of each column, those of the training rows.
    Raises: FileNotFoundError; ModuleNotFoundError without pyarrow; ValueError with line and column
    for a value that is missing or no number.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "pets.csv")
    >>> _ = file.write_text("weight,height,kind\\n" + "4,30,cat\\n30,60,dog\\n" * 10)
    >>> splits = table(file, label="kind")
    >>> splits.train[0].shape, splits.names
    ((14, 2), ('cat', 'dog'))
    """
    check.choice(WHERE, ("classification", "regression"), task=task)
    name, found, first = read_columns(source, separator)
    known(name, [label, *(columns or ())], found)
    if columns is not None and (
        not columns or label in columns or len(set(columns)) < len(columns)
    ):
        check.fail(WHERE, f"columns should be some, each once, without the label, got {columns}.")
    used = list(columns) if columns is not None else [c for c in found if c != label]
    if not used:
        check.fail(WHERE, f"{name} should have columns besides the label, {label!r}, but has none.")
    x = np.stack([numbers(name, c, found[c], first) for c in used], axis=1).astype(np.float32)
    if task == "regression":
        y, names = numbers(name, label, found[label], first)[:, None].astype(np.float32), None
    else:
        y, names = class_labels(name, label, found[label], first)
    train, held, last = cut(
        WHERE, x, y, stratify=names is not None, validation=validation, test=test
    )
    transform = None
    if standardise and train is not None:
        rows = train[0].astype(np.float64)
        std = rows.std(axis=0)
        std[std == 0] = 1.0
        transform = Normalise(tuple(rows.mean(axis=0).tolist()), tuple(std.tolist()), 1.0)
    return Splits(train, held, last, None if names is None else len(names), names, transform)
