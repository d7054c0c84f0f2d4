"""The settings of a sweep: what its trials are given, drawn from the space by a method."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Key, fold
from nnfunc.sweeps.grouping import static_key
from nnfunc.sweeps.space import Space

__all__ = ["METHODS", "TRIES", "Draws", "satisfies", "settings"]

METHODS = ("random", "grid", "sobol", "latin", "list")
TRIES = 1000
"""How often a setting is drawn again, at most, when the constraint refuses it."""
MAX_TRIALS = 1_000_000
"""Of one sweep: each takes kilobytes of the host before it runs."""
COLUMNS = ("trial", "setting", "runs", "refused", "diverged", "diverged_at", "stopped", "stopped_at", "best_at")
"""Names that a table has for what is no setting."""

Constraint = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Draws:
    """Where the settings of a sweep come from; the fields are arguments of `nf.sweep`.

    trials: how many settings. runs: how often each is run. distinct: whether a setting that is drawn
    again is drawn anew, for equal ones would train alike.
    """

    space: Any
    method: str
    trials: int | None
    key: Key
    constraint: Constraint | None = None
    runs: int = 1
    distinct: bool = False

    def rows(self) -> list[dict[str, Any]]:
        """The settings."""
        constraint = Distinct(self.constraint) if self.distinct else self.constraint
        sampled = settings(self.space, self.method, self.trials, self.key, constraint)
        for name in sampled[0]:
            if name in COLUMNS or "/" in name or (name == "seed" and self.runs > 1):
                problem = f"the table has a column {name!r} of its own"
                check.fail("sweep", f"{problem}, so the space should call its value otherwise.")
        return unify_numbers(sampled)

    @property
    def varied(self) -> dict[str, Sequence[Any] | None]:
        """The names that are drawn, in which two draws may differ, and the options of each."""
        if not isinstance(self.space, Mapping):
            return {}
        counted = {name: d.options for name, d in Space(self.space).distributions.items()}
        return {n: options for n, options in counted.items() if options is None or len(options) > 1}

    @property
    def derives(self) -> bool:
        """Whether something is made of the values of names besides what build makes of them."""
        parsed = isinstance(self.space, Mapping) and any(map(callable, self.space.values()))
        return parsed or self.constraint is not None


def settings(
    space: Any, method: str, trials: int | None, key: Key, constraint: Constraint | None = None
) -> list[dict[str, Any]]:
    """What each setting is: a list of dicts, one a setting, name -> plain value.

    The draws of a name belong to it and to the place of the setting: more trials, or another name in
    the space, change none of them. (Sobol points and Latin hypercubes are one whole, so there they do.)
    Raises: ValueError for spaces that are empty, contradictory or do not fit the method.
    """
    check.choice("sweep", METHODS, method=method)
    if trials is not None:
        check.size("sweep", 1, MAX_TRIALS, trials=trials)
    key = fold(key, "space")
    if isinstance(space, list | tuple) or method == "list":
        result = _check_list(space, trials, constraint)
    elif isinstance(space, Mapping):
        parsed = Space(space)
        if method == "grid":
            result = _grid(parsed, trials, constraint)
        else:
            draws = {"random": _random, "sobol": _sobol, "latin": _latin}[method]
            count = _trials(trials, parsed)
            result = draws(parsed, count, key, constraint)
    elif callable(space):
        result = _propose(space, _trials(trials, None), key, constraint)
    else:
        expected = "a dict name -> values, a list of dicts or a function key -> dict"
        actual = check.describe(space)
        check.fail("sweep", f"space should be {expected}, got {actual}.", exc_type=TypeError)
    if method == "grid" or isinstance(space, list | tuple):
        _check_duplicates(result)
    return result


def _trials(trials: int | None, space: Space | None) -> int:
    if trials is not None:
        return trials
    every = "" if space is None else _grid_size(space)
    check.fail("sweep", f"trials should say how many settings to draw, got None.{every}")


def _grid_size(space: Space) -> str:
    counts = [d.options for d in space.distributions.values()]
    if any(options is None for options in counts):
        return ""
    count = math.prod(len(options) for options in counts if options is not None)
    return f" For all {count} combinations: method='grid'."


@jax.jit
def _uniforms(key: Key, indices: Array, tries: Array) -> Array:
    """A number in [0, 1) for each place: it belongs to the place and the try."""

    def draw(index):
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, index), tries))

    return jax.vmap(draw)(indices)


def _random(space: Space, trials: int, key: Key, constraint: Constraint | None) -> list[dict[str, Any]]:
    indices = np.arange(trials, dtype=np.uint32)

    @functools.cache
    def uniforms(tries: int) -> dict[str, np.ndarray]:
        return {
            name: np.asarray(_uniforms(fold(key, name), indices, np.uint32(tries)), np.float64)
            for name in space.distributions
        }

    result: list[dict[str, Any]] = []
    for index in range(trials):
        for tries in range(TRIES):
            point = uniforms(tries)
            sampled = {name: d.at(float(point[name][index])) for name, d in space.distributions.items()}
            values = space.complete(sampled)
            if satisfies(constraint, values):
                result.append(values)
                break
        else:
            _give_up(trials - index, trials, constraint)
    return result


def _grid(space: Space, trials: int | None, constraint: Constraint | None) -> list[dict[str, Any]]:
    for name, distribution in space.distributions.items():
        if distribution.options is None:
            hint = "Give a list, such as np.geomspace(1e-4, 1e-1, 4)."
            problem = f"a grid needs values that can be counted, got {distribution.name}"
            check.fail("sweep", f"{problem} for {name!r}. {hint}")
    options = [d.options or () for d in space.distributions.values()]
    count = math.prod(map(len, options))
    if count > MAX_TRIALS:
        check.fail("sweep", f"the grid has {count} settings. Take fewer values, or method='random'.")
    rows = (dict(zip(space.distributions, row, strict=True)) for row in itertools.product(*options))
    return _apply_constraint("grid", list(map(space.complete, rows)), trials, constraint)


def _sobol(space: Space, trials: int, key: Key, constraint: Constraint | None) -> list[dict[str, Any]]:
    def points(engine: Any) -> Iterator[np.ndarray]:
        power = max(1, math.ceil(math.log2(trials)))
        for double in itertools.count():  # in all a power of two, as the sequence wants it
            yield engine.random_base2(power + max(0, double - 1))

    return _sample_points(space, "Sobol", points, trials, key, constraint)


def _latin(space: Space, trials: int, key: Key, constraint: Constraint | None) -> list[dict[str, Any]]:
    def points(engine: Any) -> Iterator[np.ndarray]:
        while True:  # what the constraint refuses is filled up from further hypercubes
            yield engine.random(trials)

    return _sample_points(space, "LatinHypercube", points, trials, key, constraint)


def _sample_points(
    space: Space,
    engine: str,
    points: Callable[[Any], Iterator[np.ndarray]],
    trials: int,
    key: Key,
    constraint: Constraint | None,
) -> list[dict[str, Any]]:
    """Settings at the points of one of scipy's engines, in the order of the names."""
    from scipy.stats import qmc

    names = sorted(space.distributions)
    if not names:
        check.fail("sweep", "every value of the space is fixed: there is nothing to draw.")
    number = np.random.default_rng(np.asarray(jax.random.key_data(fold(key, engine))).tolist())
    result, tried = [], 0
    for batch in points(getattr(qmc, engine)(len(names), seed=number)):
        for row in batch:
            sampled = {name: space.distributions[name].at(float(u)) for name, u in zip(names, row, strict=True)}
            values = space.complete(sampled)
            if satisfies(constraint, values):
                result.append(values)
            if len(result) == trials:
                return result
        tried += len(batch)
        if tried > TRIES * trials:
            break
    _give_up(trials - len(result), trials, constraint)


def _check_list(space: Any, trials: int | None, constraint: Constraint | None) -> list[dict[str, Any]]:
    if not isinstance(space, list | tuple) or not all(isinstance(h, Mapping) for h in space):
        expected = "with method='list' or a list, space should be a list of dicts"
        check.fail("sweep", f"{expected}, got {check.describe(space)}.", exc_type=TypeError)
    if not space:
        check.fail("sweep", "the space is empty: a list of no settings.")
    result = [dict(values) for values in space]
    for index, values in enumerate(result):
        if set(values) != set(result[0]):
            odd = sorted(set(values) ^ set(result[0]))
            check.fail(
                "sweep", f"all settings should hold the same names; number {index} and the first differ in {odd}."
            )
    return _apply_constraint("list", result, trials, constraint)


def _apply_constraint(
    what: str, settings: list[dict[str, Any]], trials: int | None, constraint: Constraint | None
) -> list[dict[str, Any]]:
    """The settings that the constraint allows, which are as many as was said, where it was."""
    result = [values for values in settings if satisfies(constraint, values)]
    if not result:
        check.fail("sweep", f"the constraint refuses all {len(settings)} settings of the {what}.")
    if trials is not None and trials != len(result):
        hint = "Leave trials out."
        check.fail("sweep", f"the {what} has {len(result)} settings, got trials={trials}. {hint}")
    return result


def _propose(
    propose: Callable[[Key], Any], trials: int, key: Key, constraint: Constraint | None
) -> list[dict[str, Any]]:
    result = []
    for index in range(trials):
        for tries in range(TRIES):
            values = propose(fold(fold(key, index), "try", tries))
            if not isinstance(values, Mapping) or not values:
                actual = check.describe(values)
                check.fail("sweep", f"a space that proposes should return a dict, got {actual}.", exc_type=TypeError)
            if result and set(values) != set(result[0]):
                odd = sorted(map(str, set(values) ^ set(result[0])))
                check.fail("sweep", f"all proposals should hold the same names; they differ in {odd}.")
            if satisfies(constraint, dict(values)):
                result.append(dict(values))
                break
        else:
            _give_up(trials - len(result), trials, constraint)
    return result


def satisfies(constraint: Constraint | None, values: dict[str, Any]) -> bool:
    """Whether the constraint, if there is one, wants a setting."""
    if constraint is None:
        return True
    try:
        return bool(constraint(values))
    except KeyError as error:
        if error.args and error.args[0] in values:
            raise
        known = check.nearest(str(error.args[0]), list(values))
        check.fail("sweep", f"the constraint reads {error.args[0]!r}, which no setting holds{known}")


def _give_up(missing: int, trials: int, constraint: Constraint | None) -> NoReturn:
    if isinstance(constraint, Distinct) and constraint.other is None:
        problem = f"trials should be at most the settings that there are, {trials - missing} or so"
        hint = "Equal ones would train alike; to run each several times, ask for seeds."
        check.fail("sweep", f"{problem}, got {trials}. {hint}")
    problem = f"the constraint refused {TRIES} draws in a row for {missing} of {trials} settings"
    check.fail("sweep", f"{problem}: it contradicts the space, or nearly does. Loosen one of them.")


def unify_numbers(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The settings with 0 as 0.0 where others have numbers with a point."""
    mixed = {name for name in rows[0] if {type(row[name]) for row in rows} == {int, float}}
    return [{n: float(v) if n in mixed else v for n, v in row.items()} for row in rows]


def _check_duplicates(result: list[dict[str, Any]]) -> None:
    if (missing := len(result) - len({_setting_key(values) for values in result})) > 0:
        twice = f"{missing} of {len(result)} settings are there already"
        hint = "Leave them out; to run each several times, ask for seeds."
        check.fail("sweep", f"{twice}. {hint}")


def _setting_key(values: dict[str, Any]) -> Any:
    """What equal settings have in common."""
    return tuple((name, static_key([values[name]])) for name in sorted(values))


class Distinct:
    """A constraint that refuses what it has allowed before, or what another one refuses."""

    def __init__(self, other: Constraint | None = None):
        self.other, self.allowed_before = other, set[Any]()

    def __call__(self, values: dict[str, Any]) -> bool:
        key = _setting_key(values)
        if key in self.allowed_before or not satisfies(self.other, values):
            return False
        self.allowed_before.add(key)
        return True
