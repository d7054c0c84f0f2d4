"""The options of a sweep: the keys of the table [sweep], and the flags, that are not settings."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

from nnfunc.config.config_errors import (
    COMMAND_LINE,
    ProblemList,
    describe,
    error_parts,
    nearest_hint,
    printable,
    to_one_line,
)
from nnfunc.config.sweep.search_methods import SEARCHES, parse_search
from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.sampling import MAX_TRIALS
from nnfunc.sweeps.strategy import EXECUTIONS
from nnfunc.sweeps.sweep import Method

Parts = dict[str, str]
"""What is wrong with a value, as arguments of `ProblemList.add`; empty when nothing is."""


class Option(NamedTuple):
    """An option of a sweep.

    check: of its value.
    type: the values that it takes.
    default: in words, or as TOML.
    meaning: of the option.
    example: of TOML.
    range: of its numbers, "" for others.
    """

    check: Callable[[Any], Parts]
    type: str
    default: str
    meaning: str
    example: str
    range: str = ""


def _count(default: str, meaning: str, example: int) -> Option:
    limits = f"1 to {MAX_TRIALS:,}"

    def check(value: Any) -> Parts:
        if type(value) is int and 0 < value <= MAX_TRIALS:
            return {}
        return {"expected": f"should be an integer from {limits}", "actual": describe(value)}

    return Option(check, "an integer", default, meaning, str(example), limits)


def _choice(names: Sequence[str], default: str, meaning: str, example: str) -> Option:
    value_type = f"one of {', '.join(map(repr, names))}"

    def check(value: Any) -> Parts:
        if value in names:
            return {}
        expected = f"should be {value_type}"
        return {"expected": expected, "actual": describe(value), "hint": nearest_hint(value, names)}

    return Option(check, value_type, default, meaning, f'"{example}"')


def _check_best(value: Any) -> Parts:
    if BestMetric.find(value) is not None:
        return {}
    return {"expected": "should be such as 'min loss' or 'max accuracy'", "actual": describe(value)}


def _check_search(value: Any) -> Parts:
    if not isinstance(value, str | dict):
        return {"expected": f"should be a name or a table, such as {_SEARCH}", "actual": describe(value)}
    try:
        parse_search(value)
    except (ValueError, TypeError) as error:
        expected, actual, _ = error_parts(error)
        return {"text": to_one_line(error).removeprefix("search: "), "expected": expected, "actual": actual}
    return {}


METHODS = tuple(name for name in get_args(Method) if name != "list")  # a config has no list of settings
_SEARCH = '{ name = "halving", eta = 4 }'

OPTIONS = {
    "trials": _count("all combinations of lists", "The number of runs; with seeds a multiple of them.", 64),
    "method": _choice(
        METHODS,
        '"random"; "grid" for lists alone without trials',
        "How settings are drawn; grid is all combinations, sobol and latin fill the space evenly.",
        "sobol",
    ),
    "seeds": _count("1", "The number of runs of each setting, for means and intervals.", 3),
    "best": Option(
        _check_best,
        'text: "min" or "max" and a metric',
        'that of train.best, or "min loss"',
        "The metric that ranks the trials: its last value on the validation split.",
        '"max accuracy"',
    ),
    "search": Option(
        _check_search,
        f"one of {', '.join(map(repr, SEARCHES))}, or a table of this name and its arguments",
        '"patience" with train.patience, or "everything"',
        "Decides how far each trial runs.",
        _SEARCH,
    ),
    "chunk": _count("as many as fit the memory", "The largest number of trials to run side by side.", 16),
    "execution": _choice(
        EXECUTIONS,
        '"auto"',
        "How trials run: side by side, one after another, from threads or over devices; auto measures.",
        "threads",
    ),
}


def check_options(file_options: Mapping[str, Any], flags: Mapping[str, Any], problems: ProblemList) -> dict[str, Any]:
    """The options of a sweep.

    file_options: of the table [sweep].
    flags: of the command line, which replace those of the file; None stands for a flag that is absent.
    problems: takes the problems.
    """
    for source, prefix, options in ((problems.file, "sweep.", file_options), (COMMAND_LINE, "--", flags)):
        for name, value in options.items():
            if value is None:
                continue
            unknown = {"text": "is not an option", "hint": nearest_hint(name, OPTIONS, list_names=True)}
            if parts := OPTIONS[name].check(value) if name in OPTIONS else unknown:
                problems.add(f"{prefix}{printable(name)}", **parts, source=source)
    return dict(file_options) | {name: value for name, value in flags.items() if value is not None}
