"""Distributions of hyperparameters, each a function of a number in [0, 1), and spaces of them.

Random draws, Sobol points and Latin hypercubes are therefore drawn alike.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nnfunc import check
from nnfunc.base import Model


class Distribution(NamedTuple):
    """The distribution of a value.

    at: u -> value, for u in [0, 1), the inverse of the cumulative distribution function.
    options: all values, for a grid; None where they cannot be counted.
    name: how errors call it.
    low, high: the range of numbers, None for other values.
    log: whether the logarithm is uniform.
    """

    at: Callable[[float], Any]
    options: Sequence[Any] | None
    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False

    def __repr__(self) -> str:
        return self.name


def uniform(low: float, high: float) -> Distribution:
    """The uniform distribution of a number between low and high.

    low, high: finite, low <= high.
    Raises: ValueError when they are not.

    >>> nf.uniform(0.0, 0.5).at(0.5)
    0.25
    """
    _ends("uniform", low, high)
    return Distribution(lambda u: round_float32(low + u * (high - low)), None, f"uniform({low:g}, {high:g})", low, high)


def log_uniform(low: float, high: float) -> Distribution:
    """The distribution of a number whose logarithm is uniform: every decade is equally likely.

    low, high: finite, 0 < low <= high.
    Raises: ValueError when they are not.

    >>> nf.log_uniform(1e-4, 1.0).at(0.5)
    0.01
    """
    _ends("log_uniform", low, high)
    if low <= 0:
        check.fail("log_uniform", expected="low should be above 0", actual=low)
    ratio = math.log(high / low)
    name = f"log_uniform({low:g}, {high:g})"
    return Distribution(lambda u: round_float32(low * math.exp(u * ratio)), None, name, low, high, True)


def int_uniform(low: int, high: int) -> Distribution:
    """The uniform distribution of an integer from low to high, both included.

    low, high: from -2**31 to 2**31 - 1, low <= high.
    Raises: TypeError when they are not integers; ValueError when they are out of range.

    >>> dice = nf.int_uniform(1, 6)
    >>> dice.at(0.0), dice.at(0.999)
    (1, 6)
    """
    for name, value in {"low": low, "high": high}.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            expected, actual = f"{name} should be an integer", check.describe(value)
            check.fail("int_uniform", expected=expected, actual=actual, exc_type=TypeError)
        if not -(2**31) <= value < 2**31:
            check.fail("int_uniform", expected=f"{name} should be from -2**31 to 2**31 - 1", actual=value)
    check.ordered("int_uniform", low=low, high=high)
    options = range(int(low), int(high) + 1)
    return Distribution(_pick(options), options, f"int_uniform({low}, {high})", low, high)


def choice(options: Sequence[Any] | np.ndarray) -> Distribution:
    """The uniform distribution over options of any types. A list in a space means the same.

    options: a list, a tuple, a range or an array with at least one value.
    Raises: ValueError when it is empty; TypeError when it has no order, as a set.

    >>> nf.choice(["relu", "tanh"]).at(0.7)
    'tanh'
    """
    if isinstance(options, str) or not isinstance(options, Sequence | np.ndarray):
        actual = check.describe(options)
        check.fail("choice", expected="options should be a list", actual=actual, exc_type=TypeError)
    known = options.tolist() if isinstance(options, np.ndarray) else list(options)
    known = [v.item() if isinstance(v, np.generic) else v for v in known]
    if {type(value) for value in known} == {int, float}:
        known = [float(value) for value in known]
    if not known:
        check.fail("choice", expected="options should have at least one value", actual="none")
    listed = check.join_names([*map(check.short_repr, known)], 6)
    return Distribution(_pick(known), known, f"choice of {listed}")


def round_float32(value: float) -> float:
    """The nearest float32, as the shortest decimal: tables show the value that ran. value: any float."""
    return float(str(np.float32(value)))


def _pick(options: Sequence[Any]) -> Callable[[float], Any]:
    return lambda u: options[min(int(u * len(options)), len(options) - 1)]


def _ends(where: str, low: Any, high: Any) -> None:
    for name, value in {"low": low, "high": high}.items():
        if not check.is_plain(value) or not math.isfinite(value):
            exc_type = ValueError if check.is_plain(value) else TypeError
            expected = f"{name} should be a finite number"
            check.fail(where, expected=expected, actual=check.describe(value), exc_type=exc_type)
    check.ordered(where, low=low, high=high)


class Space:
    """A space of settings: distributions, functions of other values, and fixed values.

    space: name -> a list, range, array or distribution; a function of the other values; or a fixed value.
    """

    def __init__(self, space: Mapping[str, Any]):
        if not space:
            check.fail("sweep", "the space is empty.", hint="Give at least one name, such as lr=[...].")
        self.order = list(space)
        self.distributions: dict[str, Distribution] = {}
        self.derived: dict[str, Callable[[Any], Any]] = {}
        self.fixed: dict[str, Any] = {}
        for name, value in space.items():
            if not isinstance(name, str):
                expected, actual = "names of the space should be strings", check.describe(name)
                check.fail("sweep", expected=expected, actual=actual)
            if isinstance(value, Distribution):
                self.distributions[name] = value
            elif isinstance(value, list | range | np.ndarray):
                if not len(value):
                    check.fail("sweep", expected=f"{name} should have at least one value", actual="none")
                self.distributions[name] = choice(value)
            elif callable(value) and not isinstance(value, Model):
                self.derived[name] = value
            else:
                self.fixed[name] = value

    def complete(self, sampled: dict[str, Any]) -> dict[str, Any]:
        """All values of one setting. sampled: name -> value of each distribution."""
        values = _Values({**self.fixed, **sampled}, self.derived)
        return {name: values[name] for name in self.order}


class _Values(dict[str, Any]):
    """The values of one setting. Those that depend on others are computed when they are read."""

    def __init__(self, known: dict[str, Any], derived: dict[str, Callable[..., Any]]):
        super().__init__(known)
        self.derived, self.pending = derived, []

    def __missing__(self, name: str) -> Any:
        if name not in self.derived:
            near = check.nearest(str(name), [*self, *self.derived])
            reader = f"the function of {self.pending[-1]!r}" if self.pending else "a function of the space"
            check.fail("sweep", f"{reader} reads {name!r}, which is not a name of the space{near}")
        if name in self.pending:
            cycle = " -> ".join([*self.pending[self.pending.index(name) :], name])
            check.fail("sweep", f"values of the space depend on each other in a cycle: {cycle}.")
        self.pending.append(name)
        try:
            self[name] = self.derived[name](self)
        except TypeError as error:
            error.add_note(
                "A function in a space computes a value from the other values, h -> value. To make the function "
                f"itself the value of {name!r}, put it into a list."
            )
            raise
        self.pending.pop()
        return self[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self or name in self.derived else default
