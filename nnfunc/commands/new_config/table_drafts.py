"""Drafts of configs for tables: rows to classify or to estimate a number from, and time series."""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnfunc import check, data
from nnfunc.commands.new_config.draft import Draft, Note, arguments_of, choose_steps, training_tables
from nnfunc.commands.new_config.table_columns import (
    Column,
    check_column,
    find_label,
    guess_separator,
    look_at_columns,
    look_at_first_rows,
)
from nnfunc.data.dataset import count_examples

RARE = 0.1  # the fraction of the rarest class below which accuracy says little
TIMES = ("time", "date", "day", "month", "t", "step")
VALUES = ("value", "y", "sales", "target")


def draft_table(file: Path, *, label: str | None = None, text: str | None = None, time: str | None = None) -> Draft:
    """A config for a table.

    file: .csv, .parquet or .jsonl.
    label: the column to predict, several with commas between, or None to guess it.
    text: a column of texts.
    time: the column whose latest rows are the test split.
    """
    separator = guess_separator(file)
    columns, rows, style, is_part = look_at_first_rows(file, separator)
    for name in filter(None, (text, time)):
        check_column(columns, name)
    labels = [label] if label in columns or label is None else [name.strip() for name in label.split(",")]
    labels = [find_label(columns, name) for name in labels]
    sampled = rows
    if is_part:  # classes and missing labels are those of all rows
        exact, rows, _ = look_at_columns(file, separator, labels)
        columns |= exact
    targets = [columns[name] for name in labels]
    regression = all(target.type == "number" and target.distinct > max(20, math.isqrt(rows)) for target in targets)
    columns |= {text: columns[text]._replace(type="text")} if text else {}
    inputs = {name: column for name, column in columns.items() if name not in (*labels, time)}
    by_type = {
        column_type: [n for n, c in inputs.items() if c.type == column_type]
        for column_type in ("category", "date", "text", "none")
    }
    used = [name for name in inputs if name not in by_type["none"]]
    if not used:
        check.fail("new", f"{file} should have columns to learn from, beside the label {labels[0]!r}.")
    described = _describe_label(targets[0], regression) if len(labels) == 1 else "each 0 or 1, or each a number"
    options: dict[str, Any] = {"name": "table", "source": str(file)}
    options["label"] = Note(labels[0] if len(labels) == 1 else labels, described)
    if by_type["none"]:
        reasons = ", ".join(f"{name} ({inputs[name].reason})" for name in by_type["none"][:4])
        options["columns"] = Note(used, f"without {reasons}")
    options |= {"task": "regression"} if regression else {}
    options |= ({"separator": separator} if separator != "," else {}) | style.facts()
    if unlabelled := max(target.missing for target in targets):
        options["drop_unlabelled"] = Note(True, f"the label of {check.counted(unlabelled, 'row')} is missing")
    for key, column_type, comment in (
        ("categorical", "category", "a learned vector for each category"),
        ("dates", "date", "become year, month, day, weekday, ..."),
        ("texts", "text", "become weights of their words"),
    ):
        if by_type[column_type]:
            options[key] = Note(by_type[column_type], comment)
    dated = [*by_type["date"], *([time] if time else [])]
    formats = {columns[name].reason for name in dated if columns[name].type == "date"} - {""}
    if len(formats) == 1:
        options["date_format"] = formats.pop()
    missing = [name for name in used if inputs[name].missing and inputs[name].type in ("number", "date")]
    if missing or is_part:
        where = f"in {', '.join(missing[:4])}" if missing else "after the first rows, if any"
        options["impute"] = Note("median", f"some are missing {where}")
    if regression:
        options["scale_target"] = Note(True, "predictions are still in the units of the file")
    options |= {"time": Note(time, "the latest rows are the test split")} if time else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows without a label, which a comment counts
        splits = data.table(**arguments_of(options))
    size, steps, comment = choose_steps(count_examples(splits.train), 40)
    other = "" if time else "at random, or with time = COLUMN the latest rows, or group = COLUMN"
    options |= {"batch_size": size, "validation": 0.1, "test": Note(0.2, other) if other else 0.2}
    several = len(labels) > 1
    counts = targets[0].counts
    rare = not regression and (several or (bool(counts) and min(counts.values()) < RARE * rows))
    # of two classes the second is positive
    binary = (
        rare
        and not several
        and splits.classes == 2
        and counts.get((splits.names or ("", ""))[1]) == min(counts.values())
    )
    outputs = len(labels) if regression or several else 1 if binary else splits.classes or 2
    x = splits.train[0]
    if isinstance(x, dict):
        model = {"name": "table_model", "outputs": outputs, "hidden": [64, 32], "dropout": 0.1}
    else:
        model = {"name": "mlp", "widths": [x.shape[1], 64, 32, outputs], "dropout": 0.1}
    tables: dict[str, Any] = {"data": options, "model": model}
    objective = {"name": "multilabel" if several else "binary" if binary else "classification"}
    tables["objective"] = {"name": "regression", "loss": "mse"} if regression else objective
    if rare:
        why = "means over the labels" if several else "a class is rare, so accuracy says little"
        names = ["average_precision", "roc_auc", "f1"] if binary else ["f1", "roc_auc"]
        tables["task"] = {"metrics": Note(names, why)} | ({"threshold": "f1"} if binary else {})
    # the F1 of a rare class is often 0, and equal, in the first evaluations
    ranking = "max average_precision" if binary else "max roc_auc"
    best = "min loss" if regression else ranking if rare else "max accuracy"
    tables |= training_tables(steps, comment, peak=3e-3, weight_decay=1e-2, best=best)
    facts = [f"{rows:,} rows, {len(used)} inputs: " + ", ".join(_counts(inputs, used))]
    facts += [f"columns have the types of the first {sampled:,} rows"] * is_part
    return Draft(f"Predict {check.join_names(labels, 3)} from {file.name}", facts, tables)


def _describe_label(column: Column, regression: bool) -> str:
    if regression:
        return f"a number, {column.distinct:,} different values"
    if not column.counts:
        return f"{column.distinct:,} classes"
    common = sorted(column.counts.items(), key=lambda item: -item[1])[:5]
    more = f", and {len(column.counts) - 5} more" if len(column.counts) > 5 else ""
    return f"{len(column.counts)} classes: " + ", ".join(f"{name} ({n:,})" for name, n in common) + more


def _counts(inputs: Mapping[str, Column], used: Sequence[str]) -> list[str]:
    types = {"number": "numbers", "category": "categories", "date": "dates", "text": "texts"}
    counts = Counter(inputs[name].type for name in used)
    return [f"{counts[one]} {several if counts[one] > 1 else one}" for one, several in types.items() if counts[one]]


def draft_forecasting(file: Path, *, label: str | None = None, time: str | None = None) -> Draft:
    """A config for time series: a column of times, and one for each series, or those of series and values."""
    separator = guess_separator(file)
    columns, rows, style = look_at_columns(file, separator)
    times = [n for n, c in columns.items() if c.type == "date" or n.lower() in TIMES] if time is None else [time]
    if not times:
        problem = (
            f"{file} should have a column of times, such as 2026-11-30, but has {check.join_names(list(columns))}."
        )
        check.fail("new", problem, hint="Name it: --time COLUMN.")
    time = times[0]
    check_column(columns, time)
    numbers = [n for n, c in columns.items() if c.type == "number" and n != time]
    groups = [n for n, c in columns.items() if c.type == "category" and n != time and c.distinct * 10 <= rows]
    options: dict[str, Any] = {"name": "forecasting", "source": str(file), "time": time}
    options |= ({"separator": separator} if separator != "," else {}) | style.facts()
    length = columns[time].distinct
    if groups or label or len(numbers) == 1:
        value = label or next((n for n in numbers if n.lower() in VALUES), numbers[-1] if numbers else "")
        if value not in columns:
            check.fail("new", f"{file} should have a column of values{check.nearest(value, columns)}")
        options["value"] = value
        options |= {"series": groups[0]} if groups else {}
        known = [name for name in numbers if name != value]
        options |= {"covariates": Note([], f"those known in advance: {', '.join(known[:4])}?")} if known else {}
        what = f"{columns[groups[0]].distinct:,} series" if groups else "1 series"
    else:
        what = f"{len(numbers)} series: {check.join_names(numbers, 5)}"
    horizon = max(1, min(14, length // 20))
    context = max(1, min(4 * horizon, length // 4))
    options |= {
        "context": Note(context, "a forecast reads so many values"),
        "horizon": Note(horizon, "and predicts so many; season = 7 compares it with the week before"),
    }
    splits = data.forecasting(**arguments_of(options))
    x, y = splits.train
    size, steps, comment = choose_steps(len(x), 30)
    options |= {"batch_size": size, "validation": 0.1, "test": Note(0.2, "the fraction of the times, at the end")}
    tables: dict[str, Any] = {"data": options}
    tables["model"] = {"name": "mlp", "widths": [x.shape[1], 64, 64, y.shape[1]], "dropout": 0.1}
    tables["objective"] = {"name": "regression", "loss": Note("mae", "or mse, huber, quantile")}
    tables |= training_tables(steps, comment, peak=2e-3, weight_decay=1e-2, best="min loss")
    return Draft(f"Forecast {file.name}", [f"{length:,} times of {what}"], tables)
