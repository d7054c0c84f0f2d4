"""Tables with named columns: CSV or Parquet files, or data frames of pandas or polars."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnfunc import check, malloc
from nnfunc.data.check_arrays import warn_if_coarse_in_float32
from nnfunc.data.preprocessing import Preprocessing, scale_targets
from nnfunc.data.row_split import SplitRows, assign_rows
from nnfunc.data.sources.columns import check_columns, parse_numbers, read_columns
from nnfunc.data.sources.examples import repeated_rows
from nnfunc.data.sources.number_style import Decimal, NumberStyle, Thousands
from nnfunc.data.sources.table_cells import fold_column
from nnfunc.data.sources.table_labels import (
    check_log,
    fit_scaling,
    fit_target,
    label_ids,
    labelled_rows,
    read_labels,
    read_order,
    take_rows,
)
from nnfunc.data.splits import Splits
from nnfunc.data.table_features import (
    SPECIAL,
    Cells,
    build_transformer,
    category_sizes,
    encode,
    fit_features,
    parse_cells,
)

WHERE = "data.table"
BLOCK = 1 << 16  # rows


def table(
    source: str | Path | Any,
    *,
    label: str | Sequence[str],
    columns: Sequence[str] | None = None,
    task: Literal["classification", "regression"] = "classification",
    categorical: Sequence[str] = (),
    one_hot: Sequence[str] = (),
    dates: Sequence[str] = (),
    date_format: str | None = None,
    texts: Sequence[str] = (),
    text_features: int = 256,
    impute: Literal["mean", "median"] | None = None,
    standardise: bool | Literal["robust"] = True,
    scale_target: bool = False,
    log_target: bool = False,
    drop_unlabelled: bool = False,
    separator: str = ",",
    decimal: Decimal = ".",
    thousands: Thousands = "",
    validation: float = 0.1,
    test: float = 0.2,
    stratify: bool = True,
    group: str | None = None,
    time: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """A table with named columns as inputs x, and the column `label` as y.

    x is [n, columns] in float32. With `categorical`, it is {"numbers": [n, k], "categories": int32 [n, c]}, which
    `nf.table_model` reads. Everything is fitted to the training rows by scikit-learn, and stored as JSON.

    source: a .csv file (UTF-8, gzip or not) whose first line names the columns, a .parquet file (with pyarrow), a
        data frame of pandas or polars, or a table of pyarrow. Numbers may have exponents, as 1e-3; blank lines are
        skipped.
    label: its distinct values are the classes, `splits.names`, in numerical or alphabetical order. 1 and 1.0 are
        the same class. Values that pandas treats as missing (None, NaN, NA, null, but not none) are refused.
        Several labels are 0 or 1 each: y [n, labels] in float32, and `splits.names` are the labels.
    columns: the inputs in this order, by default all but label, group and time; those that no argument below names
        are numbers.
    task: "classification", or "regression" for numbers, y [n, labels].
    categorical: columns that become indices: 0 is an unknown category, 1 a missing one, then follow those of the
        training rows.
    one_hot: columns that become one number for each category, all 0 for an unknown one.
    dates: columns that become year, month, day, weekday, hour, days since 1970 and whether the date is missing, as
        far as they vary.
    date_format: of dates that are texts, such as "%d.%m.%Y"; by default ISO 8601.
    texts: columns that become the TF-IDF weights of their words.
    text_features: the most words of such a column, of which the most frequent ones count.
    impute: what replaces missing numbers and dates, the "mean" or "median" of the training rows; a column of
        numbers of which some are missing gets another one beside it, of whether they are. None refuses them.
    standardise: x becomes (x - mean) / std of each column of the training rows, computed in float64 and stored in
        float32, so that seconds since 1970 keep their precision; "robust" takes the median and the interquartile
        range instead.
    scale_target: the same for y in a regression.
    log_target: y becomes log(1 + y) before that. `splits.preprocessing.restore_target` undoes both.
    drop_unlabelled: whether rows without a label are left out, with a warning of their number; otherwise they are
        refused.
    separator: of the columns of a CSV file, one character.
    decimal, thousands: the decimal mark of texts that are numbers, and the mark between groups of three digits, ""
        for none; decimal = "," reads 12,5 and refuses 12.5. A run reads its predictions in the same way.
    validation, test: below 1 fractions of the rows, from 1 on numbers of rows, 0 for none; split at random, and
        always the same.
    stratify: whether splits get the same fraction of every class.
    group: a column each of whose values is in one split alone.
    time: a column of numbers or dates; the latest rows are the test split, those before them the validation split,
        and rows of equal time are together.
    preprocessing: of an earlier run (`splits.preprocessing`), which fixes columns, means, classes, and the split of
        each row; new rows are in none.
    Raises: FileNotFoundError; ModuleNotFoundError without pyarrow or scikit-learn; ValueError, with line and
    column, for a value that is missing or not a number, or a class that `preprocessing` does not have.
    Source: scikit-learn's ColumnTransformer of SimpleImputer, StandardScaler, RobustScaler, OneHotEncoder,
    OrdinalEncoder and TfidfVectorizer.

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
        features, group, time, date_format = (facts.get(key) for key in ("features", "group", "time", "date_format"))
        log_target = facts.get("target", {}).get("log", False)
        style = NumberStyle.of(facts)
    else:
        special = {"dates": dates, "one_hot": one_hot, "texts": texts, "categorical": categorical}
        style = NumberStyle(decimal, thousands)
        style.check(WHERE)
        features = _describe_features(special, impute, standardise, date_format, text_features)
        if not isinstance(standardise, bool) and standardise != "robust":
            check.fail(WHERE, expected="standardise should be true, false or 'robust'", actual=repr(standardise))
    check.choice(WHERE, ("classification", "regression"), task=task)
    if (scale_target or log_target) and task != "regression":
        check.fail(WHERE, expected="scale_target and log_target are for task = 'regression'", actual=f"task = {task!r}")
    labels = [label] if isinstance(label, str) else list(label)
    special = {} if features is None else {key: features[key]["columns"] for key in SPECIAL}
    order = [name for name in (group, time) if name is not None]
    named = [*labels, *(columns or ()), *order, *chain(*special.values())]
    only = None if columns is None else set(named)
    strings = [
        *chain(*special.values()),
        *(() if group is None else [group]),
        *(labels if task != "regression" else ()),
    ]
    as_texts = None if style.facts() else strings
    name, source_columns, describe_row = read_columns(source, separator, only, as_texts)
    check_columns(name, named, source_columns)
    columns = _check_roles(name, labels, columns, special, order, source_columns)
    repeats, describe = {}, {"train": describe_row}
    if drop_unlabelled:
        count, used = len(source_columns[labels[0]]), labelled_rows(source_columns, labels)
        if 0 < len(used) < count:  # a table without any label is refused below
            warnings.warn(f"{name}: {count - len(used):,} of {count:,} rows have no label: left out.", stacklevel=2)
            source_columns, repeats = take_rows(source_columns, used), repeated_rows("train", used.tolist(), count)
            describe_row = partial(lambda describe, row: describe(int(used[row])), describe_row)
    numeric = {*columns, *labels, *order} - set(strings)
    source_columns = style.convert(WHERE, name, source_columns, numeric, describe_row)
    y, names = read_labels(name, labels, task, source_columns, describe_row, preprocessing)
    if log_target:
        check_log(name, labels, y, describe_row)

    ordered = read_order(name, group, time, date_format, source_columns, describe_row)
    cells: Cells = {}
    if features is not None:
        others = set(chain(*special.values()))
        features |= {"numbers": features.get("numbers", {"columns": [c for c in columns if c not in others]})}
        cells = parse_cells(name, features, source_columns, describe_row)
    else:
        cells = {column: parse_numbers(name, column, source_columns.pop(column), describe_row) for column in columns}
    source_columns.clear()
    cut = None if ordered is None else ordered[0]

    def row_ids() -> np.ndarray:
        ids = label_ids(y)
        for values in (*(cells[column] for column in columns), *(() if ordered is None else ordered[1:])):
            fold_column(ids, values)
        return ids

    by_class = stratify and names is not None and y.ndim == 1
    fractions = {"validation": validation, "test": test}
    cuts, rows = assign_rows(WHERE, row_ids, y, preprocessing, stratify=by_class, cut=cut, **fractions)
    malloc.return_memory()
    scaling = target = transformer = None
    if preprocessing is not None:
        scaling, target = (preprocessing.facts.get(key) for key in ("standardise", "target"))
    else:
        train: Any = cuts["train"]
        if features is not None:
            features = fit_features(features, cells, train.indices())
        elif standardise:
            scale = _robust_scaling if standardise == "robust" else fit_scaling
            scaling = scale((np.asarray(cells[column]) for column in columns), train)
        if scale_target or log_target:
            target = fit_target(y, train, scale=scale_target, log=log_target)
    if features is not None:
        transformer = build_transformer(features)
    elif scaling is None:
        for column in columns:
            warn_if_coarse_in_float32(f"{name}: column {column!r}", np.asarray(cells[column]))
    if task == "regression" and target is None:
        for i, column in enumerate(labels):
            warn_if_coarse_in_float32(f"{name}: column {column!r}", y[:, i])
    chosen = {part: at for part, at in cuts.items() if at is not None}
    targets = {part: _targets(y, at, target) for part, at in chosen.items()}
    y = y[:0].copy()  # of which x may use the memory
    malloc.return_memory()
    if transformer is not None and features is not None:
        inputs = {part: encode(transformer, features, cells, at.indices()) for part, at in chosen.items()}
    else:
        inputs = _inputs(cells, columns, scaling, chosen)
    parts = [(inputs[part], targets[part]) if part in targets else None for part in ("train", "validation", "test")]
    malloc.return_memory()
    x = inputs["train"]
    numbers = x.get("numbers", np.empty((0, 0))) if isinstance(x, dict) else x
    facts = {
        "label": labels[0] if len(labels) == 1 else labels,
        "columns": columns,
        "task": task,
        "separator": separator,
        "names": None if names is None else list(names),
        "standardise": scaling,
        "dtype": "float32",
        "classes": None if names is None or y.ndim == 2 else len(names),
        "shape": [numbers.shape[1]],
    }
    facts |= {} if features is None else {"features": features, "categories": category_sizes(features)}
    facts |= ({} if target is None else {"target": target}) | style.facts() | ({"repeats": repeats} if repeats else {})
    order_facts = {"group": group, "time": time, "date_format": date_format}
    facts |= {key: value for key, value in order_facts.items() if value is not None}
    record = Preprocessing("table", facts, rows=rows, describe=describe)
    return Splits(*parts, classes=record.classes, names=record.names, preprocessing=record)


def _describe_features(
    special: dict[str, Sequence[str]], impute: str | None, standardise: Any, date_format: str | None, text_features: int
) -> dict[str, Any] | None:
    """The features before they are fitted, None for a table that has numbers alone, without missing ones."""
    if impute is not None:
        check.choice(WHERE, ("mean", "median"), impute=impute)
    check.size(WHERE, text_features=text_features)
    if impute is None and not any(special.values()):
        return None
    features: dict[str, Any] = {key: {"columns": list(columns)} for key, columns in special.items()}
    features["dates"]["format"], features["texts"]["limit"] = date_format, text_features
    scaling = standardise if standardise == "robust" else "standard" if standardise else None
    return features | {"impute": impute, "scaling": scaling}


def _check_roles(
    name: str,
    labels: list[str],
    columns: Sequence[str] | None,
    special: dict[str, list[str]],
    order: list[str],
    source_columns: dict[str, Any],
) -> list[str]:
    """The columns of x; refused when a column has two roles. order: the columns of group and time."""
    chosen = [column for group in special.values() for column in group]
    for column in chosen:
        roles = [key for key, group in special.items() if column in group]
        if chosen.count(column) > 1:
            check.fail(
                WHERE, f"column {column!r} should be in one of {', '.join(special)}, and is in {' and '.join(roles)}"
            )
    if not labels or len(set(labels)) < len(labels):
        check.fail(WHERE, expected="label should be one column or distinct ones", actual=labels)
    if columns is None:
        hidden = {*labels, *order} - set(chosen)
        columns = [column for column in source_columns if column not in hidden]
    columns = list(columns)
    if not columns:
        check.fail(WHERE, f"{name} should have columns other than the label, {labels[0]!r}, but has none.")
    if set(labels) & {*columns, *chosen, *order} or len(set(columns)) < len(columns):
        check.fail(WHERE, expected="columns should be distinct names without the label", actual=columns)
    if outside := [column for column in chosen if column not in columns]:
        check.fail(WHERE, expected=f"columns should contain {outside[0]!r}, as another argument does", actual=columns)
    if len(order) > 1:
        check.fail(WHERE, "the rows are split by group or by time, not by both.")
    return columns


def _robust_scaling(columns: Iterable[np.ndarray], rows: SplitRows) -> dict[str, list[float]]:
    """Median and interquartile range of each column, which is 1 if it is 0, as scikit-learn's RobustScaler has them."""
    training = (_take(column, rows, np.float64) for column in columns)
    quartiles = [np.percentile(column, (25, 50, 75), overwrite_input=True) for column in training]
    return {"mean": [float(q[1]) for q in quartiles], "std": [float(q[2] - q[0]) or 1.0 for q in quartiles]}


def _take(values: np.ndarray, rows: SplitRows, dtype: Any, convert: Callable[[np.ndarray], Any] = np.asarray) -> Any:
    """convert(values[rows]) as an array of a dtype."""
    result = np.empty((len(rows), *values.shape[1:]), dtype)
    for position, block in rows.blocks():
        result[position] = convert(values[block])
    return result


def _targets(y: np.ndarray, rows: SplitRows, target: Mapping[str, Any] | None) -> np.ndarray:
    """The labels of the rows of a split as int32, or their scaled targets as float32."""
    convert = np.asarray if target is None else partial(scale_targets, target=target)
    return _take(y, rows, np.float32 if y.ndim == 2 else np.int32, convert)


def _inputs(
    cells: Cells, columns: Sequence[str], scaling: Mapping[str, Any] | None, splits: Mapping[str, SplitRows]
) -> dict[str, np.ndarray]:
    """x of each split, float32 [rows, columns]: (cells - mean) / std, computed in float64.

    The columns in float64 become float32 in `cells` first, to save memory.
    """
    pairs = [(0.0, 1.0)] * len(columns)
    if scaling is not None:
        pairs = [*zip(scaling["mean"], scaling["std"], strict=True)]
    for i, column in enumerate(columns):
        values, (mean, std) = np.asarray(cells[column]), pairs[i]
        if values.dtype == np.float64:
            cells[column], pairs[i] = _scaled(values, mean, std), (0.0, 1.0)
    del values
    inputs = {part: np.empty((len(rows), len(columns)), np.float32) for part, rows in splits.items()}
    for part, rows in splits.items():
        for position, block in rows.blocks():
            for i, column in enumerate(columns):
                inputs[part][position, i] = _scaled(np.asarray(cells[column])[block], *pairs[i])
    cells.clear()
    return inputs


def _scaled(values: np.ndarray, mean: float, std: float) -> np.ndarray:
    """(values - mean) / std as float32, computed in float64 and block by block."""
    scaled = np.empty(len(values), np.float32)
    for start in range(0, len(values), BLOCK):
        block = slice(start, start + BLOCK)
        scaled[block] = (values[block].astype(np.float64) - mean) / std
    return scaled
