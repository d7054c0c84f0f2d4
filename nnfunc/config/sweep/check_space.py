"""Whether what a space holds makes configs: every option is tried, and the ends where there are many.

An option is wrong when no config holds it, whatever the others are. Combinations that are none, such
as a long warm-up in a short run, are left to the sweep, where their trials are refused one by one.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from nnfunc import check
from nnfunc.config.sweep.distributions import ALMOST_ONE, SpaceValue
from nnfunc.sweeps.space import Distribution

__all__ = ["check_space", "first_value", "test_values"]

_TRIES = 6
_FEW = 16

Attempt = Callable[[dict[str, Any]], list[str]]
"""settings -> what is wrong with their config, a line each."""


def check_space(space: Mapping[str, SpaceValue], attempt: Attempt) -> list[str]:
    """What is wrong with the space, or with the tables that it is for.

    >>> even = lambda settings: [f"{v} is odd." for v in settings.values() if v % 2]
    >>> check_space({"a": [0, 1, 2], "b": [4, 6]}, even)
    ['1 is odd.']
    """
    tries = [_setting(space, place) for place in range(_TRIES if space else 1)]
    tries.sort(key=lambda settings: bool(attempt(settings)))  # those that make a config come first
    base, *others = tries
    found = attempt(base)
    hopeless = bool(found)
    for path, value in space.items():
        for option in test_values(value):
            lines = attempt(base | {path: option})
            if lines and (hopeless or all(attempt(o | {path: option}) for o in others)):
                found = found + lines
                if isinstance(value, Distribution):
                    break  # the other end would say the same with another number
    told: dict[str, str] = {}
    for line in found:
        told.setdefault(_gist(line), line)
    return list(told.values())


def test_values(value: SpaceValue) -> list[Any]:
    """Every option, or where there are many the least and the greatest number; of a law the ends.

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
    for kind in (int, float):
        own = [v for v in value if type(v) is kind and v == v]
        ends += [min(own), max(own)] if own else []
    rest = [v for v in value if not check.is_plain(v) or v != v]
    return [*ends, *{repr(v): v for v in rest}.values()]


def first_value(value: SpaceValue) -> Any:
    """One that may be drawn."""
    return value.at(0.0) if isinstance(value, Distribution) else value[0]


def _setting(space: Mapping[str, SpaceValue], place: int) -> dict[str, Any]:
    """One of a few settings that lie far apart; number 0 is the first of every value."""
    units = [place * math.sqrt(2) * (i + 1) % 1 for i in range(len(space))]
    return {
        path: value.at(u) if isinstance(value, Distribution) else value[int(u * len(value))]
        for (path, value), u in zip(space.items(), units, strict=True)
    }


def _gist(line: str) -> str:
    """What tells a mistake from others: of an unknown key, not the value that it was tried with."""
    return line.partition(", got ")[0] if "has no such key" in line else line
