"""The options of a sweep: the keys of the table [sweep], and the flags, that are not settings."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from nnfunc.config.config_errors import (
    COMMAND_LINE,
    ProblemList,
    describe,
    error_parts,
    nearest_hint,
    printable,
    to_one_line,
)
from nnfunc.config.sweep.search_methods import parse_search
from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.sampling import MAX_TRIALS
from nnfunc.sweeps.strategy import EXECUTIONS

Parts = dict[str, str]
"""What is wrong with a value, as arguments of `ProblemList.add`; empty when nothing is."""


def _check_count(value: Any) -> Parts:
    if type(value) is int and 0 < value <= MAX_TRIALS:
        return {}
    return {"expected": f"should be an integer from 1 to {MAX_TRIALS:,}", "actual": describe(value)}


def _check_choice(names: tuple[str, ...], value: Any) -> Parts:
    if value in names:
        return {}
    expected = f"should be one of {', '.join(map(repr, names))}"
    return {"expected": expected, "actual": describe(value), "hint": nearest_hint(value, names)}


def _check_best(value: Any) -> Parts:
    if BestMetric.find(value) is not None:
        return {}
    return {"expected": "should be such as 'min loss' or 'max accuracy'", "actual": describe(value)}


def _check_search(value: Any) -> Parts:
    if not isinstance(value, str | dict):
        example = '{ name = "halving", eta = 4 }'
        return {"expected": f"should be a name or a table, such as {example}", "actual": describe(value)}
    try:
        parse_search(value)
    except (ValueError, TypeError) as error:
        expected, actual, _ = error_parts(error)
        return {"text": to_one_line(error).removeprefix("search: "), "expected": expected, "actual": actual}
    return {}


OPTIONS: dict[str, Callable[[Any], Parts]] = {
    "trials": _check_count,
    "method": partial(_check_choice, ("random", "grid", "sobol", "latin")),
    "seeds": _check_count,
    "best": _check_best,
    "search": _check_search,
    "chunk": _check_count,
    "execution": partial(_check_choice, EXECUTIONS),
}
"""The check of each option's value."""


def check_options(file_options: Mapping[str, Any], flags: Mapping[str, Any], problems: ProblemList) -> dict[str, Any]:
    """The options of a sweep.

    file_options: of the table [sweep]. flags: of the command line, which replace those of the file; None
    stands for a flag that is absent. problems: takes the problems.
    """
    for source, prefix, options in ((problems.file, "sweep.", file_options), (COMMAND_LINE, "--", flags)):
        for name, value in options.items():
            if value is None:
                continue
            unknown = {"text": "is not an option", "hint": nearest_hint(name, OPTIONS, list_names=True)}
            if parts := OPTIONS[name](value) if name in OPTIONS else unknown:
                problems.add(f"{prefix}{printable(name)}", **parts, source=source)
    return dict(file_options) | {name: value for name, value in flags.items() if value is not None}
