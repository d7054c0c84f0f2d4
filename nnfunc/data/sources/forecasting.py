"""Windows of time series: the next values of each series, from its values so far and known covariates."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnfunc import check
from nnfunc.data.fingerprint import split_fingerprint
from nnfunc.data.preprocessing import PARTS, Preprocessing, restore_targets
from nnfunc.data.sources.number_style import Decimal, NumberStyle, Thousands
from nnfunc.data.sources.time_series import Series, format_time, read_table
from nnfunc.data.splits import Splits

WHERE = "data.forecasting"


def forecasting(
    source: str | Path | Any,
    *,
    time: str,
    context: int,
    horizon: int,
    value: str | None = None,
    series: str | None = None,
    covariates: Sequence[str] = (),
    layout: Literal["flat", "sequence"] = "flat",
    season: int | None = None,
    stride: int = 1,
    separator: str = ",",
    decimal: Decimal = ".",
    thousands: Thousands = "",
    validation: float = 0.1,
    test: float = 0.2,
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """Windows of time series: from `context` values of a series as x, its next `horizon` values as y [n, horizon].

    Each series is scaled to (value - mean) / std, of its values in the time of training, so that all count alike;
    losses and metrics are in this unit, and predictions, reports and evaluations of a run also in the original one. All
    series are split at
    the same times: training windows end before the validation begins, and the values to predict in validation and
    test are in their own time, after a context that may reach back. `preprocessing.facts["baselines"]` has the errors
    of two forecasts without a model: the last value repeated, and with a season the value of one season before.
    source: a .csv, .parquet or .jsonl file, or a data frame, with the rows in any order.
    time: the column of times, integers or ISO dates (2026-11-30, 2026-11-30T06:00, 2026-11), in equal steps; months
        are equal.
    context, horizon: at least 1.
    value: the column of values, for a table with a row for each time and series; without it every other column is a
        series.
    series: the column that names the series of a row; without it there is one.
    covariates: columns of numbers that are known in advance, such as holidays, which are standardised. For a
        prediction the table has them for the next `horizon` times too, in rows without a value.
    layout: "flat", x [n, context + (context + horizon) * covariates], the values and then each covariate over
        context and horizon, for `nf.mlp`; or "sequence", x [n, context, 1 + 2 * covariates], at each time the
        value, the covariates, and the covariates a horizon later, for `nf.rnn_classifier`.
    season: the steps of a season, at most context.
    stride: the steps from one training window to the next, at least 1; windows are stored, so a larger one saves
        memory.
    separator: of a CSV file.
    decimal, thousands: the marks of its numbers, as for a table.
    validation, test: the last times, below 1 a fraction, from 1 on a number of times, 0 for none.
    preprocessing: of an earlier run (`splits.preprocessing`), which fixes scaling and splits; later times are in no
        split.
    Raises: FileNotFoundError; ValueError, with file and line, for times that are missing or repeated, values that
    are missing, and series that are too short.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "sales.csv")
    >>> _ = file.write_text("day,north,south\\n" + "".join(f"{i},{i % 7},{10 + i % 7}\\n" for i in range(100)))
    >>> splits = forecasting(file, time="day", context=14, horizon=7, season=7)
    >>> [part[0].shape for part in splits[:3]], splits.preprocessing.facts["baselines"]["seasonal naive"]["test"]
    ([(100, 14), (8, 14), (28, 14)], {'mae': 0.0, 'rmse': 0.0})
    """
    if preprocessing is None:
        check.size(WHERE, context=context, horizon=horizon)
        check.choice(WHERE, ("flat", "sequence"), layout=layout)
        if season is not None:
            check.size(WHERE, 1, context, season=season)
        if layout == "sequence" and covariates and horizon > context:
            expected = 'horizon should be at most context, for covariates with layout = "sequence"'
            check.fail(WHERE, expected=expected, actual=f"{horizon} and {context}")
        if series is not None and value is None:
            check.fail(WHERE, "series names a column, so value should name the column of the values.")
        facts: dict[str, Any] = {"time": time, "value": value, "series": series, "covariates": list(covariates)}
        style = NumberStyle(decimal, thousands)
        style.check(WHERE)
        facts |= style.facts() | {"separator": separator, "context": context, "horizon": horizon, "layout": layout}
    else:
        preprocessing.check_factory(WHERE)
        facts = dict(preprocessing.facts)
        if not preprocessing.parts:  # other rows to evaluate on: all are in one split
            facts["cuts"] = [np.iinfo(np.int64).max] * 3
    check.size(WHERE, stride=stride)
    check.number(WHERE, 0, **dict[str, Any](validation=validation, test=test))
    name, table = read_table(WHERE, source, facts)
    if preprocessing is None:
        facts["cuts"] = _cuts(name, table, facts, validation=validation, test=test)
        facts |= _scaling(name, table, facts["cuts"][0])
    pieces = [_windows(facts, key, one, stride) for key, one in table.items()]
    splits: dict[str, Any] = {}
    describe: dict[str, Any] = {}
    facts["windows"] = {
        part: {key: len(piece[part][0]) for key, piece in zip(table, pieces, strict=True)} for part in PARTS
    }
    for part in PARTS:
        x, y, first = (np.concatenate([piece[part][i] for piece in pieces]) for i in range(3))
        splits[part] = (x, y) if len(x) else None
        names = window_series(facts, part) or []
        describe[part] = lambda row, names=names, first=first: (
            f"{names[row]} from {format_time(int(first[row]), facts)}"
        )
    if splits["train"] is None:
        expected = f"a series should have {facts['context'] + facts['horizon']} times (context + horizon) to train on"
        longest = max(int((one.times[: len(one.values)] < facts["cuts"][0]).sum()) for one in table.values())
        check.fail(WHERE, expected=f"{name}: {expected}", actual=f"at most {longest}")
    if preprocessing is None:
        facts |= {"dtype": "float32", "shape": list(splits["train"][0].shape[1:])}
        facts["baselines"] = _baselines(splits, facts, season)
    fingerprints = {part: split_fingerprint(*pair) for part, pair in splits.items() if pair is not None}
    facts["cuts"] = facts["cuts"] if preprocessing is None else preprocessing.facts["cuts"]
    return Splits(**splits, preprocessing=Preprocessing("forecasting", facts, fingerprints, describe=describe))


def _cuts(name: str, table: Mapping[str, Series], facts: Mapping[str, Any], **fractions: float) -> list[int]:
    """The times at which validation and test begin, and after which no split has anything."""
    moments = np.unique(np.concatenate([one.times[: len(one.values)] for one in table.values()]))
    total = len(moments)
    counts = [int(f if f >= 1 else f * total + 1e-6) for f in fractions.values()]
    for (part, fraction), count in zip(fractions.items(), counts, strict=True):
        if fraction and count < facts["horizon"]:
            expected = f"{part} should have at least horizon = {facts['horizon']} of the {total} times of {name}"
            check.fail(WHERE, expected=expected, actual=f"{count}, by {part} = {fraction:g}")
    first = total - sum(counts)
    if first < facts["context"] + facts["horizon"]:
        expected = (
            f"{name} should have at least context + horizon = {facts['context'] + facts['horizon']} times to train on"
        )
        actual = f"{max(first, 0)} of {total} times"
        check.fail(WHERE, expected=expected, actual=actual, hint="Use more data, or smaller windows.")
    end = int(moments[-1]) + 1
    return [int(moments[i]) if i < total else end for i in (first, first + counts[0])] + [end]


def _scaling(name: str, table: Mapping[str, Series], cut: int) -> dict[str, Any]:
    """Mean and deviation of each series and each covariate in the times before `cut`."""

    def moments(values: np.ndarray) -> list[float]:
        return [float(values[0]), 1.0] if np.ptp(values) == 0 else [float(values.mean()), float(values.std())]

    scaling = {}
    for key, one in table.items():
        values = one.values[one.times[: len(one.values)] < cut]
        if not len(values):
            problem = f"{name}: series {key!r} begins after the time of training."
            check.fail(WHERE, problem, hint="Leave it out, or make validation and test smaller.")
        scaling[key] = moments(values)
    known = np.concatenate([one.covariates[one.times < cut] for one in table.values()])
    return {"scaling": scaling, "covariate_scaling": [moments(column) for column in known.T]}


def _scale(facts: Mapping[str, Any], key: str, one: Series) -> tuple[np.ndarray, np.ndarray]:
    """(the standardised values [known] and covariates [total, k] of the series `key`), float32."""
    mean, std = facts["scaling"][key]
    values = ((one.values - mean) / std).astype(np.float32)
    means, stds = np.array(facts["covariate_scaling"]).reshape(-1, 2).T
    return values, ((one.covariates - means) / stds).astype(np.float32)


def _windows(facts: Mapping[str, Any], key: str, one: Series, stride: int) -> dict[str, tuple[np.ndarray, ...]]:
    """{split: (x [n, ...], y [n, horizon], the time of the first value to predict [n])} of one series."""
    context, horizon = facts["context"], facts["horizon"]
    values, known = _scale(facts, key, one)
    count = max(0, len(values) - context - horizon + 1)
    starts = np.arange(count)
    first, last = one.times[starts + context], one.times[starts + context + horizon - 1]  # of those to predict
    validation, test, end = facts["cuts"]
    parts = {
        "train": starts[last < validation][::stride],
        "validation": starts[(first >= validation) & (last < test)],
        "test": starts[(first >= test) & (last < end)],
    }
    span = np.arange(context + horizon)

    def window(at: np.ndarray) -> tuple[np.ndarray, ...]:
        rows = at[:, None] + span  # [n, context + horizon]
        return _join(facts, values[rows[:, :context]], known[rows]), values[rows[:, context:]], first[at]

    return {part: window(at) for part, at in parts.items()}


def _join(facts: Mapping[str, Any], values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """x in the layout. values: [n, context]. known: covariates [n, context + horizon, k]."""
    if facts["layout"] == "flat":
        columns = [values, *(known[..., i] for i in range(known.shape[-1]))]
        return np.concatenate(columns, 1)
    now, later = known[:, : facts["context"]], known[:, facts["horizon"] :]
    return np.concatenate([values[..., None], now, later], 2)


def _baselines(splits: Mapping[str, Any], facts: Mapping[str, Any], season: int | None) -> dict[str, Any]:
    """{forecast: {split: {"mae", "rmse"}}} of the last value repeated and of the value one season before."""
    context, steps = facts["context"], np.arange(facts["horizon"])
    lags = {"last value": np.full(len(steps), context - 1)}
    lags |= {} if season is None else {"seasonal naive": context - season + steps % season}
    result: dict[str, Any] = {}
    for name, at in lags.items():
        for part in ("validation", "test"):
            if splits[part] is not None:
                x, y = splits[part]
                error = (x[:, at] if facts["layout"] == "flat" else x[:, at, 0]).astype(np.float64) - y
                values = {"mae": np.abs(error).mean(), "rmse": np.square(error).mean() ** 0.5}
                result.setdefault(name, {})[part] = {key: round(float(value), 6) for key, value in values.items()}
    return result


class SeriesName(str):
    """The name of a series to predict. first_time: that of the first value to predict, as text."""

    first_time: str = ""


def read_series(preprocessing: Preprocessing, source: Any) -> tuple[np.ndarray, list[SeriesName]]:
    """(x [series, ...], the names of the series) to predict the times after the last values.

    preprocessing: of the run.
    source: as for training, with at least `context` values of each series.
    """
    facts = dict(preprocessing.facts)
    name, table = read_table("predict", source, facts)
    context, horizon = facts["context"], facts["horizon"]
    rows, names = [], []
    for key, one in table.items():
        if key not in facts["scaling"]:
            problem = f"{name}: the run has no series {key!r}{check.nearest(key, facts['scaling'])}"
            check.fail("predict", problem, hint="Train with it, or leave it out.")
        last, later = len(one.values), len(one.times) - len(one.values)
        if last < context:
            expected = f"{name}: series {key!r} should have at least context = {context} values"
            check.fail("predict", expected=expected, actual=last)
        if facts["covariates"] and later < horizon:
            expected = f"{name}: series {key!r} should have covariates for {horizon} times after its last value"
            hint = "Add rows with a time and the covariates, and without a value."
            check.fail("predict", expected=expected, actual=later, hint=hint)
        values, known = _scale(facts, key, one)
        known = np.resize(known[last - context : last + horizon], (context + horizon, known.shape[1]))  # or of width 0
        rows.append(_join(facts, values[None, -context:], known[None]))
        names.append(SeriesName(key))
        names[-1].first_time = format_time(one.times[last - 1] + facts["step"], facts)
    return np.concatenate(rows), names


def restore_series(preprocessing: Preprocessing, y: Any, output_type: str, names: Sequence[str]) -> Any:
    """The outputs [series, ...] in the units of the series. output_type: of the objective. names: of the series."""
    mean, std = np.array([preprocessing.facts["scaling"][name] for name in names]).T[..., None]
    target = {"mean": mean, "std": std, "log": False}
    return restore_targets(
        y, target, "values" if output_type == "quantiles" else output_type
    )  # one factor for all of a series


def window_series(facts: Mapping[str, Any], split: str) -> list[str] | None:
    """The series of each window of a split, in their order; None for a run of an older version. facts: of its data."""
    counts = facts.get("windows", {}).get(split)
    return None if counts is None else [name for name, count in counts.items() for _ in range(count)]
