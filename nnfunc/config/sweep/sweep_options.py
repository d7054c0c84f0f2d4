"""The options of a sweep: what in the table [sweep], or after --, is no path of a setting."""

from collections.abc import Callable, Mapping
from typing import Any

from nnfunc import check
from nnfunc.config.errors import COMMAND_LINE, ProblemList, describe, printable, suggest, to_one_line
from nnfunc.config.sweep.search_methods import parse_search
from nnfunc.sweeps.sampling import MAX_TRIALS
from nnfunc.sweeps.strategy import EXECUTIONS

__all__ = ["OPTIONS", "check_options"]

_METHODS = ("random", "grid", "sobol", "latin")


def _count(value: Any) -> str:
    good = type(value) is int and 0 < value <= MAX_TRIALS
    wanted = f"should be an integer from 1 to {MAX_TRIALS:,}"
    return "" if good else f"{wanted}, got {describe(value)}."


def _method(value: Any) -> str:
    if value in _METHODS:
        return ""
    names = ", ".join(map(repr, _METHODS))
    return f"should be one of {names}, got {describe(value)}{suggest(value, _METHODS)}"


def _best(value: Any) -> str:
    mode, _, metric = value.partition(" ") if isinstance(value, str) else ("", "", "")
    if mode in ("min", "max") and metric.strip():
        return ""
    return f"should be such as 'min loss' or 'max accuracy', got {describe(value)}."


def _search(value: Any) -> str:
    if not isinstance(value, str | dict):
        example = '{ name = "halving", eta = 4 }'
        return f"should be a name or a table, such as {example}, got {describe(value)}."
    try:
        parse_search(value)
    except (ValueError, TypeError) as error:
        return to_one_line(error).removeprefix("search: ")
    return ""


def _execution(value: Any) -> str:
    if value in EXECUTIONS:
        return ""
    names = ", ".join(map(repr, EXECUTIONS))
    return f"should be one of {names}, got {describe(value)}{suggest(value, EXECUTIONS)}"


OPTIONS: dict[str, Callable[[Any], str]] = {
    "trials": _count,
    "method": _method,
    "seeds": _count,
    "best": _best,
    "search": _search,
    "chunk": _count,
    "execution": _execution,
}
"""Of each option what is wrong with a value, in words."""


def check_options(of_file: Mapping[str, Any], of_shell: Mapping[str, Any], mistakes: ProblemList) -> dict[str, Any]:
    """The options that were given, those of the command line before the file's; None is not given."""
    found: dict[str, Any] = {}
    for start, given in ((f"{mistakes.file}: sweep.", of_file), (f"{COMMAND_LINE}: --", of_shell)):
        for name, value in given.items():
            if value is None:
                continue
            known = name in OPTIONS
            problem = OPTIONS[name](value) if known else f"is no option{check.nearest(name, OPTIONS)}"
            if problem:
                mistakes.lines.append(f"{start}{printable(name)}: {problem}")
            found[name] = value
    return found
