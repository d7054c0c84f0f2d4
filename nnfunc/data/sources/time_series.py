"""Time series of a table, each with its times in equal steps."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from nnfunc import check
from nnfunc.data.download import fail_damaged
from nnfunc.data.sources.columns import check_columns, is_missing, parse_numbers, read_columns, to_strings
from nnfunc.data.sources.number_style import NumberStyle

UNITS = {"day": 24 * 60 * 60, "hour": 60 * 60, "minute": 60, "second": 1}


class Series(NamedTuple):
    """One series in the order of time.

    times: int64 [total].
    values: float64 [known], those of the first times.
    covariates: float64 [total, k].
    """

    times: np.ndarray
    values: np.ndarray
    covariates: np.ndarray


def read_table(where: str, source: Any, facts: dict[str, Any]) -> tuple[str, dict[str, Series]]:
    """(the name of the table, its series by name).

    where: begins the message of an error. source, and time, value, series, covariates, separator, decimal and
        thousands in `facts`: as for `nf.data.forecasting`.
    facts: takes the resolution and the step of the times, or has them.
    Raises: ValueError, with file and line.
    """
    time, value, series, covariates = (facts[key] for key in ("time", "value", "series", "covariates"))
    columns = [time, *([value] if value else []), *([series] if series else []), *covariates]
    if len(set(columns)) < len(columns):
        check.fail(where, expected="time, value, series and covariates should be different columns", actual=columns)
    texts, style = [time, *([series] if series else [])], NumberStyle.of(facts)
    only = set(columns) if value else None
    read = None if style.facts() else texts
    name, result, describe_row = read_columns(source, facts["separator"], only, read, where=where)
    check_columns(name, columns, result, where=where)
    result = style.convert(where, name, result, set(result) - set(texts), describe_row)
    times = _parse_times(where, name, time, result[time], describe_row, facts)
    known = np.empty((len(times), len(covariates)))
    for i, column in enumerate(covariates):
        known[:, i] = parse_numbers(name, column, result[column], describe_row, where=where)
    groups = {key: np.arange(len(times)) for key in ([value] if value else [c for c in result if c not in columns])}
    if series:
        ids = to_strings(name, series, result[series], describe_row, where=where).stripped()
        groups = {key: np.flatnonzero(ids.codes == code) for code, key in enumerate(ids.distinct)}
        if lost := next((key for key in groups if is_missing(key)), None):
            problem = f"the series is missing at {describe_row(int(groups[lost][0]))} of column {series!r}"
            fail_damaged(where, name, problem, "Fill it in, or drop the row.")
    if not groups:
        check.fail(where, f"{name} should have columns of series beside {', '.join(map(repr, columns))}, but has none.")
    groups = {key: at[np.argsort(times[at], kind="stable")] for key, at in groups.items()}
    _check_steps(where, name, groups, times, lambda row: f"{result[time][row]} at {describe_row(row)}", facts)
    values = {
        column: parse_numbers(name, column, result[column], describe_row, allow_missing=True, where=where)
        for column in ([value] if value else groups)
    }
    table = {}
    for key, at in groups.items():
        one = values[value or key][at].astype(np.float64)
        present = np.flatnonzero(~np.isnan(one))
        if not len(present):
            fail_damaged(where, name, f"series {key!r} should have values, but has none", "Leave it out.")
        gap = np.flatnonzero(np.isnan(one[present[0] : present[-1]]))
        if len(gap):
            problem = f"a value is missing at {describe_row(int(at[present[0] + gap[0]]))} of column {value or key!r}"
            fail_damaged(where, name, problem, "Fill it in; only the first and last rows of a series may lack values.")
        at = at[present[0] :]
        table[key] = Series(times[at], one[present[0] : present[-1] + 1], known[at])
    return name, table


def _parse_times(
    where: str, name: str, column: str, values: Any, describe_row: Callable[[int], str], facts: dict[str, Any]
) -> np.ndarray:
    """int64 [n], in the resolution of the facts: integers, seconds, or months."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuM":
        is_date, missing = values.dtype.kind == "M", np.isnat(values) if values.dtype.kind == "M" else np.zeros(0, bool)
        if missing.any():
            problem = f"the time is missing at {describe_row(int(missing.argmax()))} of column {column!r}"
            fail_damaged(where, name, problem, "Fill it in, or drop the row.")
        times = values.astype("datetime64[s]").astype(np.int64) if is_date else values.astype(np.int64)
    else:
        text = to_strings(name, column, values, describe_row, where=where).stripped()
        parsed = [_parse_time(word) for word in text.distinct]
        is_date = any(time is not None and time[1] for time in parsed)
        for code, time in enumerate(parsed):
            if time is None or time[1] != is_date:
                row = int((text.codes == code).argmax())
                problem = f"{describe_row(row)} of column {column!r} should hold {'a date' if is_date else 'a time'}"
                hint = "A time is an integer, or an ISO date such as 2026-11-30 or 2026-11-30T06:00."
                fail_damaged(where, name, f"{problem}, got {text.distinct[code][:60]!r}", hint)
        times = np.array([time[0] for time in parsed if time is not None], np.int64)[text.codes]
    resolution = "integer"
    if is_date:
        month_ends, months = (_months(times + shift) for shift in (UNITS["day"], 0))
        is_end = months is None and month_ends is not None and (times + UNITS["day"]).max() % UNITS["day"] == 0
        counted = month_ends if is_end else months
        resolution, times = ("second", times) if counted is None else ("month", counted)
    expected = facts.setdefault("resolution", resolution)
    if resolution != expected:
        check.fail(
            where, expected=f"{name} should have times in the unit of the run, {expected}s", actual=f"{resolution}s"
        )
    return times


def _parse_time(word: str) -> tuple[int, bool] | None:
    """(an integer, False), (seconds since 1970, True), or None."""
    try:
        if word.lstrip("+-").isdecimal() and word.isascii():
            return (int(word), False) if len(word) < 18 else None
        date = datetime.fromisoformat(f"{word}-01" if len(word) == 7 else word)
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()), True
    except (ValueError, OverflowError):
        return None


def _months(seconds: np.ndarray) -> np.ndarray | None:
    """The months of times that are all at the same distance from the beginning of their month, else None."""
    dates = seconds.astype("datetime64[s]")
    months = dates.astype("datetime64[M]")
    distance = dates - months.astype("datetime64[s]")
    return months.astype(np.int64) if (distance == distance[0]).all() and len(np.unique(months)) > 1 else None


def _check_steps(
    where: str,
    name: str,
    groups: dict[str, np.ndarray],
    times: np.ndarray,
    describe_time: Callable[[int], str],
    facts: dict[str, Any],
) -> None:
    """Refuse times that are repeated or missing. The step is the most frequent one, or that of the run."""
    steps = {key: np.diff(times[at]) for key, at in groups.items()}
    every, counts = np.unique(np.concatenate([*steps.values()]), return_counts=True)
    counts[every == 0] = 0
    step = facts.setdefault("step", int(every[counts.argmax()]) if len(every) else 1)
    for key, at in groups.items():
        wrong = np.flatnonzero(steps[key] != step)
        if len(wrong):
            before, after = (describe_time(int(at[wrong[0] + i])) for i in (0, 1))
            if steps[key][wrong[0]] == 0:
                problem = f"series {key!r} has the time {after} again, after {before}"
                fail_damaged(where, name, problem, "Drop one, or name the column of the series: series = ...")
            problem = f"series {key!r} steps from {before} to {after}, and should step by {_step_text(facts)}"
            hint = "Fill in the missing rows; or number the times, if a gap has no meaning."
            fail_damaged(where, name, problem, hint)


def format_time(time: int, facts: Mapping[str, Any]) -> str:
    """A time as text, such as 2026-11-30. time: in the resolution of the facts. facts: of `read_table`."""
    resolution, step = facts["resolution"], facts["step"]
    if resolution == "integer":
        return str(int(time))
    if resolution == "month":
        return str(np.datetime64(int(time), "M"))
    has_days = not (time % UNITS["day"] or step % UNITS["day"])
    return str(np.datetime64(int(time), "s").astype("datetime64[D]" if has_days else "datetime64[s]"))


def _step_text(facts: dict[str, Any]) -> str:
    step, resolution = facts["step"], facts["resolution"]
    if resolution == "integer":
        return f"{step}"
    for word, seconds in UNITS.items() if resolution == "second" else ():
        if step % seconds == 0:
            return check.counted(step // seconds, word)
    return check.counted(step, resolution)
