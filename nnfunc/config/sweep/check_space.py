"""A check of the space of a sweep: every option is tried in a config, or the ends where there are many.

An option is invalid when it is so with every value of the other settings that is tried. Invalid combinations, such
as a long warm-up in a short run, are left to the sweep, which refuses their trials one by one.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from nnfunc import check
from nnfunc.config.sweep.distributions import ALMOST_ONE, SpaceValue
from nnfunc.sweeps.space import Distribution

_TRIES = 6
_FEW = 16

Attempt = Callable[[dict[str, Any]], list[Any]]
"""The function settings -> problems of their config."""


def check_space(space: Mapping[str, SpaceValue], attempt: Attempt) -> list[Any]:
    """The problems of the space, and of the tables that it changes, each once.

    space: key -> options or distribution.
    attempt: finds the problems of some settings.

    >>> even = lambda settings: [f"{v} is odd." for v in settings.values() if v % 2]
    >>> check_space({"a": [0, 1, 2], "b": [4, 6]}, even)
    ['1 is odd.']
    """
    settings = [_spread_settings(space, index) for index in range(_TRIES if space else 1)]
    settings.sort(key=lambda one: bool(attempt(one)))  # those without problems come first
    base, *others = settings
    problems = attempt(base)
    base_fails = bool(problems)
    for path, values in space.items():
        for option in test_values(values):
            refused = attempt(base | {path: option})
            if refused and (base_fails or all(attempt(other | {path: option}) for other in others)):
                problems = problems + refused
                if isinstance(values, Distribution):
                    break  # the other end would say the same with another number
    first: dict[str, Any] = {}
    for problem in problems:
        first.setdefault(_without_value(str(problem)), problem)
    return list(first.values())


def test_values(value: SpaceValue) -> list[Any]:
    """All options, or where there are many the least and the greatest number; the ends of a distribution.

    value: of a space.

    >>> test_values([*range(100), "many"])
    [0, 99, 'many']
    """
    if isinstance(value, Distribution):
        if value.options is None:
            return [value.at(0.0), value.at(ALMOST_ONE)]
        if not value.options[_FEW:]:
            return list(value.options)
        return [value.options[0], value.options[-1]]
    if len(value) <= _FEW:
        return value
    ends, rest = [], []
    for number_type in (int, float):
        numbers = [v for v in value if type(v) is number_type and v == v]
        ends += [min(numbers), max(numbers)] if numbers else []
    rest = [v for v in value if not check.is_plain(v) or v != v]
    return [*ends, *{repr(v): v for v in rest}.values()]


def first_value(value: SpaceValue) -> Any:
    """The first option, or the low end of a distribution. value: of a space."""
    return value.at(0.0) if isinstance(value, Distribution) else value[0]


def _spread_settings(space: Mapping[str, SpaceValue], index: int) -> dict[str, Any]:
    """One of a few settings that are far apart; index 0 has the first option of every key."""
    quantiles = [index * math.sqrt(2) * (i + 1) % 1 for i in range(len(space))]
    return {
        path: values.at(u) if isinstance(values, Distribution) else values[int(u * len(values))]
        for (path, values), u in zip(space.items(), quantiles, strict=True)
    }


def _without_value(line: str) -> str:
    """The problem without the value that was tried, for an unknown key, which is the same for all values."""
    return line.partition(", got ")[0] if "has no such key" in line else line
