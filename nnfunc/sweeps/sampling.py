"""The settings of a sweep, drawn from its space by a method."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Key, fold
from nnfunc.sweeps.grouping import static_key
from nnfunc.sweeps.space import Space

METHODS = ("random", "grid", "sobol", "latin", "list")
TRIES = 1000
"""How often a setting that the constraint refuses is drawn again."""
MAX_TRIALS = 1_000_000
"""The most trials of a sweep: each takes kilobytes of host memory before it runs."""
COLUMNS = ("trial", "setting", "runs", "refused", "diverged", "diverged_at", "stopped", "stopped_at", "best_at")
"""Columns of a table that are not settings."""

Constraint = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Draws:
    """The source of the settings of a sweep.

    space, method, key, constraint: as for `nf.sweep`.
    trials: the number of settings.
    runs: of each setting.
    distinct: whether a setting that was drawn before is drawn again, because equal ones train alike.
    """

    space: Any
    method: str
    trials: int | None
    key: Key
    constraint: Constraint | None = None
    runs: int = 1
    distinct: bool = False

    def rows(self) -> list[dict[str, Any]]:
        """The settings, name -> plain value, with floats for integers in a name that has both.

        A drawn value depends on its name and the index of the setting only: more trials, or another name in
        the space, change no other value. (Sobol points and Latin hypercubes are drawn as a whole.)
        Raises: ValueError for spaces that are empty, contradictory or do not fit the method.
        """
        check.choice("sweep", METHODS, method=self.method)
        if self.trials is not None:
            check.size("sweep", 1, MAX_TRIALS, trials=self.trials)
        rows = self._settings(fold(self.key, "space"))
        for name in rows[0]:
            if name in COLUMNS or "/" in name or (name == "seed" and self.runs > 1):
                problem = f"{name!r} is a column of the table already, so the space cannot have this name."
                check.fail("sweep", problem, hint="Use another name.")
        mixed = {name for name in rows[0] if {type(row[name]) for row in rows} == {int, float}}
        return [{n: float(v) if n in mixed else v for n, v in row.items()} for row in rows]

    def _settings(self, key: Key) -> list[dict[str, Any]]:
        space, method = self.space, self.method
        if isinstance(space, list | tuple) or method == "list":
            return self._select("list", _check_list(space))
        if isinstance(space, Mapping):
            parsed = Space(space)
            if method == "grid":
                return self._select("grid", _grid(parsed))
            trials = _check_trials(self.trials, parsed)
            if method == "random":
                return self._draw(_random(parsed, trials, key), trials)
            return self._draw(_fill(parsed, method, trials, key), trials, TRIES * trials)
        if not callable(space):
            expected = "space should be a dict name -> values, a list of dicts or a function key -> dict"
            check.fail("sweep", expected=expected, actual=check.describe(space), exc_type=TypeError)
        rows = self._draw(_propose(space, key), _check_trials(self.trials))
        _check_names(rows)
        return rows

    def _draw(self, draw: "Draw", trials: int, tries: int = TRIES) -> list[dict[str, Any]]:
        """The first setting that is allowed, for each index."""
        rows, keys = [], set()
        for index in range(trials):
            for attempt in range(tries):
                values = draw(index, attempt)
                key = _setting_key(values) if self.distinct else index
                if key not in keys and satisfies(self.constraint, values):
                    keys.add(key)
                    rows.append(values)
                    break
            else:
                if self.distinct and self.constraint is None:
                    expected = f"trials should be at most the number of different settings, about {index}"
                    hint = "To run each setting several times, use seeds."
                    check.fail("sweep", expected=expected, actual=trials, hint=hint)
                problem = f"the constraint refused {TRIES} draws in a row for {trials - index} of {trials} settings."
                check.fail("sweep", problem, hint="It excludes nearly the whole space: loosen one of them.")
        return rows

    def _select(self, what: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The settings of a list or a grid that the constraint allows."""
        allowed = [values for values in rows if satisfies(self.constraint, values)]
        if not allowed:
            check.fail("sweep", f"the constraint refuses all {len(rows)} settings of the {what}.")
        if self.trials is not None and self.trials != len(allowed):
            expected = f"trials should be the number of settings of the {what}, {len(allowed)}"
            check.fail("sweep", expected=expected, actual=self.trials, hint="Leave trials out.")
        if repeated := len(allowed) - len({_setting_key(values) for values in allowed}):
            problem = f"{repeated} of {len(allowed)} settings repeat earlier ones."
            check.fail("sweep", problem, hint="Leave them out; to run each setting several times, use seeds.")
        return allowed

    @property
    def varied(self) -> dict[str, Sequence[Any] | None]:
        """The names that are drawn from more than one value, and their options, None where they cannot be counted."""
        if not isinstance(self.space, Mapping):
            return {}
        options = {name: d.options for name, d in Space(self.space).distributions.items()}
        return {n: values for n, values in options.items() if values is None or len(values) > 1}

    @property
    def derives(self) -> bool:
        """Whether the constraint, or functions in the space, read the values, besides build."""
        has_functions = isinstance(self.space, Mapping) and any(map(callable, self.space.values()))
        return has_functions or self.constraint is not None


def satisfies(constraint: Constraint | None, values: dict[str, Any]) -> bool:
    """Whether a setting satisfies the constraint. constraint: None for no constraint. values: of the setting."""
    if constraint is None:
        return True
    try:
        return bool(constraint(values))
    except KeyError as error:
        if error.args and error.args[0] in values:
            raise
        near = check.nearest(str(error.args[0]), list(values))
        check.fail("sweep", f"the constraint reads {error.args[0]!r}, which is not a name of the space{near}")


Draw = Callable[[int, int], dict[str, Any]]
"""(index of the setting, attempt) -> values."""


def _check_trials(trials: int | None, space: Space | None = None) -> int:
    if trials is not None:
        return trials
    options = [d.options for d in space.distributions.values()] if space is not None else [None]
    counts = [len(values) for values in options if values is not None]
    hint = f"For all {math.prod(counts)} combinations: method='grid'." if len(counts) == len(options) else ""
    check.fail("sweep", expected="trials should be the number of settings to draw", actual=None, hint=hint)


@jax.jit
def _uniforms(key: Key, indices: Array, attempt: Array) -> Array:
    """[indices] numbers in [0, 1), each of which depends on its index and the attempt only."""

    def draw(index):
        return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, index), attempt))

    return jax.vmap(draw)(indices)


def _random(space: Space, trials: int, key: Key) -> Draw:
    indices = np.arange(trials, dtype=np.uint32)

    @functools.cache
    def uniforms(attempt: int) -> dict[str, np.ndarray]:
        return {
            name: np.asarray(_uniforms(fold(key, name), indices, np.uint32(attempt)), np.float64)
            for name in space.distributions
        }

    def draw(index: int, attempt: int) -> dict[str, Any]:
        point = uniforms(attempt)
        return space.complete({name: d.at(float(point[name][index])) for name, d in space.distributions.items()})

    return draw


def _fill(space: Space, method: str, trials: int, key: Key) -> Draw:
    """Draws the points of a sequence that fills the space, one after another; names in alphabetical order."""
    names = sorted(space.distributions)
    if not names:
        check.fail("sweep", "all values of the space are fixed, so there is nothing to draw.")
    points = _points(method, len(names), trials, key)

    def draw(index: int, attempt: int) -> dict[str, Any]:
        point = next(points)
        return space.complete({n: space.distributions[n].at(float(u)) for n, u in zip(names, point, strict=True)})

    return draw


def _points(method: str, dim: int, trials: int, key: Key) -> Iterator[np.ndarray]:
    from scipy.stats import qmc

    name = "Sobol" if method == "sobol" else "LatinHypercube"
    generator = np.random.default_rng(np.asarray(jax.random.key_data(fold(key, name))).tolist())
    engine: Any = getattr(qmc, name)(dim, seed=generator)
    power = max(1, math.ceil(math.log2(trials)))
    for batch in itertools.count():  # Sobol points are balanced at powers of two
        yield from engine.random_base2(power + max(0, batch - 1)) if name == "Sobol" else engine.random(trials)


def _propose(propose: Callable[[Key], Any], key: Key) -> Draw:
    def draw(index: int, attempt: int) -> dict[str, Any]:
        values = propose(fold(fold(key, index), "try", attempt))
        if not isinstance(values, Mapping) or not values:
            expected, actual = "a function as space should return a dict", check.describe(values)
            check.fail("sweep", expected=expected, actual=actual, exc_type=TypeError)
        return dict(values)

    return draw


def _grid(space: Space) -> list[dict[str, Any]]:
    for name, distribution in space.distributions.items():
        if distribution.options is None:
            expected = f"{name} should have values that can be counted, for method='grid'"
            hint = "Use a list, such as np.geomspace(1e-4, 1e-1, 4)."
            check.fail("sweep", expected=expected, actual=distribution.name, hint=hint)
    options = [d.options or () for d in space.distributions.values()]
    count = math.prod(map(len, options))
    if count > MAX_TRIALS:
        expected, hint = f"a grid should have at most {MAX_TRIALS:,} settings", "Use fewer values, or method='random'."
        check.fail("sweep", expected=expected, actual=f"{count:,}", hint=hint)
    return [space.complete(dict(zip(space.distributions, row, strict=True))) for row in itertools.product(*options)]


def _check_list(space: Any) -> list[dict[str, Any]]:
    if not isinstance(space, list | tuple) or not all(isinstance(h, Mapping) for h in space):
        expected, actual = "space should be a list of dicts, for method='list' or a list", check.describe(space)
        check.fail("sweep", expected=expected, actual=actual, exc_type=TypeError)
    if not space:
        check.fail("sweep", "the space is empty: a list without settings.")
    rows = [dict(values) for values in space]
    _check_names(rows)
    return rows


def _check_names(rows: list[dict[str, Any]]) -> None:
    for index, values in enumerate(rows):
        if odd := sorted(map(str, set(values) ^ set(rows[0]))):
            problem = f"all settings should have the same names, but settings 0 and {index} differ in {odd}."
            check.fail("sweep", problem)


def _setting_key(values: dict[str, Any]) -> Any:
    """A hashable that is equal for equal settings."""
    return tuple((name, static_key([values[name]])) for name in sorted(values))
