"""The labels of a table, its scaled targets, and the column that its rows are split by."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from nnfunc.data.download import fail_damaged
from nnfunc.data.fingerprint import fold_ids
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.row_split import SplitRows
from nnfunc.data.sources.column_store import StringColumn
from nnfunc.data.sources.columns import WHERE, DescribeRow, is_missing, parse_class_labels, parse_numbers
from nnfunc.data.sources.table_cells import parse_flags, parse_order, parse_strings
from nnfunc.data.splits import cut_in_order


def read_labels(
    name: str,
    labels: list[str],
    task: str,
    columns: dict[str, Any],
    describe_row: DescribeRow,
    preprocessing: Preprocessing | None,
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """(y: classes [n], flags [n, labels] or numbers [n, labels]; the names of classes or labels).

    name: of the table.
    labels: the columns of the labels.
    task: "classification" or "regression".
    columns, describe_row: of `read_columns`.
    preprocessing: of an earlier run, or None.
    """
    if task == "classification" and len(labels) == 1:
        names = None if preprocessing is None else preprocessing.names
        y, names = parse_class_labels(name, labels[0], columns[labels[0]], describe_row, names)
        return y, names
    parse = parse_numbers if task == "regression" else parse_flags
    parsed = [parse(name, label, columns[label], describe_row) for label in labels]
    names = None if task == "regression" else tuple(labels)
    if len(parsed) == 1:
        return np.asarray(parsed[0], np.float64)[:, None], names
    return np.stack(parsed, axis=1, dtype=np.float64, casting="unsafe"), names


def label_ids(y: np.ndarray) -> np.ndarray:
    """uint64 [n]: an id of each row's labels. y: of `read_labels`."""
    if y.ndim == 1:
        return y.astype(np.uint64)
    ids = np.zeros(len(y), np.uint64)
    for values in y.T:
        fold_ids(ids, values)
    return ids


def read_order(
    name: str,
    group: str | None,
    time: str | None,
    date_format: str | None,
    columns: dict[str, Any],
    describe_row: DescribeRow,
) -> tuple[Callable[..., Any], np.ndarray | StringColumn] | None:
    """((**fractions) -> the indices of each split by group or by time, the values of that column); None without either.

    name: of the table.
    group, time: their columns, or None.
    date_format: of time.
    columns, describe_row: of `read_columns`.
    """
    column = group or time
    if column is None:
        return None
    if group is None:
        values = ranks = parse_order(name, column, columns[column], describe_row, date_format)
    else:
        values = parse_strings(name, column, columns[column])
        if "" in values.distinct:
            row = describe_row(int((values.codes == values.distinct.index("")).argmax()))
            fail_damaged(
                WHERE, name, f"a value is missing at {row} of column {column!r}", "Fill it in, or drop the row."
            )
        # RandomState's random numbers never change; the groups' order does not depend on that of the rows
        shuffled = np.random.RandomState(0).permutation(len(values.distinct))
        ranks = shuffled[np.argsort(np.argsort(values.distinct))][values.codes]
    return partial(cut_in_order, WHERE, column, ranks), values


def labelled_rows(columns: dict[str, Any], labels: list[str]) -> np.ndarray:
    """The indices of the rows all of whose labels are there. columns: of the table. labels: of their names."""
    missing = np.zeros(len(columns[labels[0]]), bool)
    for label in labels:
        values = columns[label]
        if isinstance(values, StringColumn):
            missing |= np.array([is_missing(word) for word in values.distinct])[values.codes]
        elif values.dtype.kind == "f":
            missing |= np.isnan(values)
        elif values.dtype.kind not in "iub":  # such as objects of a data frame
            missing |= np.array([is_missing(value) for value in values])
    return np.flatnonzero(~missing)


def take_rows(columns: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Some rows of columns. columns: by name, None for those that are not used. rows: their indices."""
    strings = lambda values: StringColumn.from_strings(values.distinct[code] for code in values.codes[rows])
    take = lambda values: strings(values) if isinstance(values, StringColumn) else values[rows]
    return {name: None if values is None else take(values) for name, values in columns.items()}


def check_log(name: str, labels: list[str], y: np.ndarray, describe_row: DescribeRow) -> None:
    """Refuse targets that have no log(1 + y). name, labels, describe_row: as for `read_labels`. y: [n, labels]."""
    wrong = np.argwhere(y <= -1)
    if len(wrong):
        row, column = wrong[0]
        problem = f"{describe_row(int(row))} of column {labels[column]!r} should be above -1, got {y[row, column]:g}"
        fail_damaged(WHERE, name, problem, "log_target takes log(1 + y): leave it out.")


def fit_scaling(columns: Iterable[np.ndarray], rows: SplitRows) -> dict[str, list[float]]:
    """Mean and standard deviation of each of the columns in float64; the value and 1 for a constant column.

    rows: those that count.
    """
    pairs = [_moments(column, rows) for column in columns]
    return {"mean": [mean for mean, _ in pairs], "std": [std for _, std in pairs]}


def _moments(column: np.ndarray, rows: SplitRows) -> tuple[float, float]:
    """Mean and standard deviation, block by block to save memory."""

    def blocks() -> Iterator[np.ndarray]:
        return (column[indices].astype(np.float64) for _, indices in rows.blocks() if len(indices))

    first = next(blocks())[0]
    if all((block == first).all() for block in blocks()):
        return float(first), 1.0
    mean = math.fsum(block.sum() for block in blocks()) / len(rows)
    return mean, math.sqrt(math.fsum(np.square(block - mean).sum() for block in blocks()) / len(rows))


def fit_target(y: np.ndarray, rows: SplitRows, *, scale: bool, log: bool) -> dict[str, Any]:
    """`Preprocessing.facts["target"]`, of which mean and std are 0 and 1 without scale.

    y: [n, labels].
    rows: of the training.
    scale, log: whether to scale them, and whether to take log(1 + y) before.
    """
    columns = (np.log1p(column) if log else column for column in y.T)
    scaling = fit_scaling(columns, rows) if scale else {"mean": [0.0] * y.shape[1], "std": [1.0] * y.shape[1]}
    return scaling | {"log": log}
