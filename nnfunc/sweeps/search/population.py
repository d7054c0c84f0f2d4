"""Population based training: the worst go on from copies of the best, with their numbers changed."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import fold
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.grouping import is_same
from nnfunc.sweeps.sampling import satisfies
from nnfunc.sweeps.space import Distribution, Space, round_float32

__all__ = ["population"]


def population(
    *, rounds: int = 10, quantile: float = 0.25, factor: float = 1.25, resample: float = 0.25
) -> Callable[[Engine], None]:
    """Population based training: trials copy the weights of better ones, and change their numbers.

    After each of `rounds` equal parts of the run but the last, at the nearest evaluation (there are no
    more rounds than evaluations), a trial of the worst
    quantile takes over all that one of the best has learned, its optimizer's state too, and its
    numbers, each multiplied or divided by `factor`, or with probability `resample` drawn anew. A
    number stays between the ends of its distribution; an option of a list moves to a neighbour. Only
    what the programs take as arguments changes; trials of a group (see `nf.sweep_plan`) copy among
    themselves. One that diverged is among the worst, so it is brought back. All run as the same
    compiled program from the first round to the last.
    `Result.lineage` has a row for each copy: step, trial, source, and the settings from there on.
    Raises: ValueError when not 0 < quantile <= 0.5, 1 < factor, rounds is below 2, resample is not in
    [0, 1], a space is no dict, or there are seeds.
    Source: Jaderberg et al. 2017, arXiv:1711.09846 (truncation selection, perturb and resample).

    >>> search = nf.sweeps.population(rounds=5)    # nf.sweep(..., search=search)
    """
    check.size("population", 2, rounds=rounds)
    check.number("population", 0, 0.5, open_low=True, quantile=quantile)
    check.number("population", 1, open_low=True, factor=factor)
    check.number("population", 0, 1, resample=resample)

    def search(engine: Engine) -> None:
        space = engine.draws.space
        if not isinstance(space, dict):
            expected = "a dict of lists and distributions, within which numbers are changed"
            check.fail("population", f"space should be {expected}, got {check.describe(space)}.")
        if engine.draws.runs > 1:
            check.fail("population", "trials learn from each other, so seeds should be left out.")
        engine.begin()
        own, every = Space(space), engine.fractions()
        nearest = lambda fraction: min(every, key=lambda known: (abs(known - fraction), known))
        fractions = sorted({nearest(number / rounds) for number in range(1, rounds)} - {1.0})
        for number, fraction in enumerate(fractions, start=1):
            engine.advance(engine.states, fraction, together=True)
            for trials in _groups(engine):
                _exploit(engine, own, trials, fraction, number)
        engine.advance(engine.states, together=True)

    def _exploit(engine: Engine, space: Space, trials: list[int], fraction: float, number: int) -> None:
        order = sorted(trials, key=lambda trial: engine.cost(trial, fraction))
        count = min(len(order) // 2, max(1, math.floor(quantile * len(order))))
        best = [m for m in order[:count] if math.isfinite(engine.cost(m, fraction))]
        failed = [m for m in order[count:] if not math.isfinite(engine.cost(m, fraction))]
        worst = sorted({*order[len(order) - count :], *failed})
        for trial in worst if best else ():
            key = np.asarray(jax.random.key_data(fold(fold(engine.draws.key, "population", number), "m", trial)))
            draw = np.random.default_rng(key.tolist())
            source = best[int(draw.integers(len(best)))]
            traced = engine.traced(source)
            before, current = engine.specs[source].settings, engine.specs[trial].settings
            sampled = {n: before[n] if n in traced else current[n] for n in space.distributions}
            for name in sorted(set(sampled) & traced):
                sampled[name] = _explored(space.distributions[name], sampled[name], draw, factor, resample)
            settings = space.complete(sampled)
            shaped = [n for n in settings if n not in traced and not is_same(settings[n], current[n])]
            if shaped or not satisfies(engine.draws.constraint, settings):
                settings = {n: before[n] if n in traced else current[n] for n in settings}
            engine.replace(trial, source, settings, fraction)

    return search


def _groups(engine: Engine) -> list[list[int]]:
    return [list(group.trials) for _, group in engine.groups if len(group.trials) > 1]


def _explored(distribution: Distribution, value: Any, draw: np.random.Generator, factor: float, resample: float) -> Any:
    """Another value near the old one, or one drawn anew."""
    fresh, up, u = draw.random() < resample, draw.random() < 0.5, float(draw.random())
    low, high = distribution.low, distribution.high
    unbounded = low is None or high is None
    if fresh or (unbounded and distribution.options is None):  # of the caller's own: only `at` is known
        return distribution.at(u)
    if unbounded:  # a list: a neighbour of what it was
        options = list(distribution.options or ())
        at = next(i for i, o in enumerate(options) if is_same(o, value)) + (1 if up else -1)
        return options[min(max(at, 0), len(options) - 1)]
    moved = value * factor if up else value / factor
    if distribution.options is not None:  # integers move by one at least
        moved = max(round(moved), value + 1) if up else min(round(moved), value - 1)
        return int(min(max(moved, low), high))
    return round_float32(min(max(moved, low), high))
