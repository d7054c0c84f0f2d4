"""What a value of a sweep may be drawn from: every distribution is a function of a number in [0, 1).

So random draws, Sobol points and Latin hypercubes all go through the same few lines.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnfunc import check

__all__ = ["Distribution", "Space", "as_distribution", "choice", "int_uniform", "log_uniform", "uniform"]


class Distribution(NamedTuple):
    """What a value is drawn from.

    at(u) -> value, for u in [0, 1): the inverse of the cumulative distribution. options: every value
    there is, for a grid, or None where they cannot be counted. name: in words. low, high: the ends of
    what is a number between them; log: whether its logarithm is uniform.
    """

    at: Callable[[float], Any]
    options: Sequence[Any] | None
    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False


def uniform(low: float, high: float) -> Distribution:
    """A number between low and high, each as likely as any other.

    Raises: ValueError when low is above high or one of them is not finite.

    >>> nf.uniform(0.0, 0.5).at(0.5)
    0.25
    """
    _ends("uniform", low, high)
    return Distribution(lambda u: round_float32(low + u * (high - low)), None, f"uniform({low:g}, {high:g})", low, high)


def log_uniform(low: float, high: float) -> Distribution:
    """A positive number whose logarithm is uniform: each decade between low and high is as likely.

    Raises: ValueError when not 0 < low <= high, or high is not finite.

    >>> nf.log_uniform(1e-4, 1.0).at(0.5)
    0.01
    """
    _ends("log_uniform", low, high)
    if low <= 0:
        check.fail("log_uniform", f"low should be above 0, got {low}.")
    ratio = math.log(high / low)
    name = f"log_uniform({low:g}, {high:g})"
    return Distribution(lambda u: round_float32(low * math.exp(u * ratio)), None, name, low, high, True)


def int_uniform(low: int, high: int) -> Distribution:
    """An integer from low to high, both of which belong to it.

    Raises: TypeError when they are not integers; ValueError when low is above high.

    >>> dice = nf.int_uniform(1, 6)
    >>> dice.at(0.0), dice.at(0.999)
    (1, 6)
    """
    for name, value in {"low": low, "high": high}.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            actual = check.describe(value)
            check.fail("int_uniform", f"{name} should be an integer, got {actual}.", exc_type=TypeError)
    check.ordered("int_uniform", low=low, high=high)
    for end in (low, high):
        check.number("int_uniform", -(2**31), 2**31 - 1, end=end)
    options = range(int(low), int(high) + 1)
    return Distribution(_pick(options), options, f"int_uniform({low}, {high})", low, high)


def choice(options: Sequence[Any] | np.ndarray) -> Distribution:
    """One of the options, each as likely: numbers, strings, functions, tuples, anything.

    A list in a space means the same; choice is for those who want to say so.
    Raises: ValueError when there are none; TypeError when they have no order, as a set.

    >>> nf.choice(["relu", "tanh"]).at(0.7)
    'tanh'
    """
    if isinstance(options, str) or not isinstance(options, Sequence | np.ndarray):
        actual = check.describe(options)
        check.fail("choice", f"options should be a list, got {actual}.", exc_type=TypeError)
    known = options.tolist() if isinstance(options, np.ndarray) else list(options)
    known = [v.item() if isinstance(v, np.generic) else v for v in known]
    if {type(value) for value in known} == {int, float}:
        known = [float(value) for value in known]
    if not known:
        check.fail("choice", "options should hold at least one value, got none.")
    return Distribution(_pick(known), known, f"one of {len(known)}")


def as_distribution(name: str, value: Any) -> Distribution | None:
    """The distribution that an entry of a space stands for, or None where it is a fixed value."""
    if isinstance(value, Distribution):
        return value
    if isinstance(value, list | range | np.ndarray):
        if not len(value):
            check.fail("sweep", f"the space of {name!r} is empty. Give at least one value.")
        return choice(value)
    return None


def round_float32(value: float) -> float:
    """The number that float32 holds, in its shortest writing: a table then reads as it ran."""
    return float(str(np.float32(value)))


def _pick(options: Sequence[Any]) -> Callable[[float], Any]:
    return lambda u: options[min(int(u * len(options)), len(options) - 1)]


def _ends(where: str, low: Any, high: Any) -> None:
    for name, value in {"low": low, "high": high}.items():
        if not check.is_plain(value) or not math.isfinite(value):
            actual = check.describe(value)
            exc_type = ValueError if check.is_plain(value) else TypeError
            check.fail(where, f"{name} should be a finite number, got {actual}.", exc_type=exc_type)
    check.ordered(where, low=low, high=high)


class Space:
    """A dict of entries in three kinds: drawn, fixed, and functions of the other values."""

    def __init__(self, space: Mapping[str, Any]):
        if not space:
            check.fail("sweep", "the space is empty. Give at least one name, such as lr=[...].")
        self.order = list(space)
        for name in space:
            if not isinstance(name, str):
                actual = check.describe(name)
                check.fail("sweep", f"names of the space should be words, got {actual}.")
        distributions = {name: as_distribution(name, value) for name, value in space.items()}
        self.distributions: dict[str, Distribution] = {n: d for n, d in distributions.items() if d is not None}
        rest = {name: value for name, value in space.items() if distributions[name] is None}
        self.derived = {n: v for n, v in rest.items() if callable(v)}
        self.fixed = {n: v for n, v in rest.items() if not callable(v)}

    def complete(self, sampled: dict[str, Any]) -> dict[str, Any]:
        """All values of one setting, those that are functions of others worked out."""
        values = _Values({**self.fixed, **sampled}, self.derived)
        return {name: values[name] for name in self.order}


class _Values(dict[str, Any]):
    """The values of one setting; those that depend on others are worked out when asked for."""

    def __init__(self, known: dict[str, Any], derived: dict[str, Callable[..., Any]]):
        super().__init__(known)
        self.derived, self.pending = derived, []

    def __missing__(self, name: str) -> Any:
        if name not in self.derived:
            known = check.nearest(str(name), [*self, *self.derived])
            who = f"the function of {self.pending[-1]!r}" if self.pending else "a function of the space"
            check.fail("sweep", f"{who} reads {name!r}, which the space does not hold{known}")
        if name in self.pending:
            ring = " -> ".join([*self.pending[self.pending.index(name) :], name])
            check.fail("sweep", f"values depend on each other in a ring: {ring}.")
        self.pending.append(name)
        try:
            self[name] = self.derived[name](self)
        except TypeError as error:
            error.add_note(
                f"A function in a space is one of the other values, h -> value. To give {name!r} the "
                "function itself, put it into a list."
            )
            raise
        self.pending.pop()
        return self[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value, worked out if need be; default where there is no such name."""
        return self[name] if name in self or name in self.derived else default
