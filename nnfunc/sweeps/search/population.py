"""Population based training: the worst trials continue as copies of the best, with other hyperparameters."""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import fold
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.grouping import Group, is_same
from nnfunc.sweeps.sampling import satisfies
from nnfunc.sweeps.space import Distribution, Space, round_float32


def population(
    *, rounds: int = 10, quantile: float = 0.25, factor: float = 1.25, resample: float = 0.25
) -> Callable[[Engine], None]:
    """Population based training: bad trials copy the weights of good ones, and change their hyperparameters.

    The run is divided into equal parts. After each part but the last, at the nearest evaluation, every trial
    of the worst quantile copies the whole train state of one of the best quantile, and its numbers, each
    multiplied or divided by a factor or drawn again. A number stays in the range of its distribution; an option of
    a list moves to a neighbour. Only values that the programs take as arguments change, and only trials of one
    group copy from each other (see `nf.sweep_plan`). A diverged trial counts as one of the worst, so it recovers.
    The same compiled program runs all rounds.
    `Result.lineage` has a row for each copy: step, trial, source, and the settings from there on.
    rounds: the number of parts, at least 2; at most one for each evaluation.
    quantile: in (0, 0.5].
    factor: above 1.
    resample: the probability, in [0, 1], that a number is drawn again.
    Raises: ValueError for numbers out of range, a space that is not a dict, or seeds.
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
            expected, actual = "space should be a dict of lists and distributions", check.describe(space)
            check.fail("population", expected=expected, actual=actual)
        if engine.draws.runs > 1:
            problem = "trials copy from each other, so several seeds of a setting are not independent."
            check.fail("population", problem, hint="Leave seeds out.")
        engine.begin()
        parsed, evaluated = Space(space), engine.fractions()
        nearest = lambda fraction: min(evaluated, key=lambda known: (abs(known - fraction), known))
        fractions = sorted({nearest(number / rounds) for number in range(1, rounds)} - {1.0})
        for number, fraction in enumerate(fractions, start=1):
            engine.advance(engine.states, fraction, together=True)
            for _, group in engine.groups:
                if len(group.trials) > 1:
                    exploit(engine, parsed, group, fraction, number)
        engine.advance(engine.states, together=True)

    def exploit(engine: Engine, space: Space, group: Group, fraction: float, number: int) -> None:
        order, traced = sorted(group.trials, key=lambda trial: engine.cost(trial, fraction)), group.traced
        count = min(len(order) // 2, max(1, math.floor(quantile * len(order))))
        best = [m for m in order[:count] if math.isfinite(engine.cost(m, fraction))]
        failed = [m for m in order[count:] if not math.isfinite(engine.cost(m, fraction))]
        worst = sorted({*order[len(order) - count :], *failed})
        for trial in worst if best else ():
            key = np.asarray(jax.random.key_data(fold(fold(engine.draws.key, "population", number), "m", trial)))
            draw = np.random.default_rng(key.tolist())
            source = best[int(draw.integers(len(best)))]
            before, current = engine.specs[source].settings, engine.specs[trial].settings
            sampled = {n: before[n] if n in traced else current[n] for n in space.distributions}
            for name in sorted(set(sampled) & traced):
                sampled[name] = _explore(space.distributions[name], sampled[name], draw, factor, resample)
            settings = space.complete(sampled)
            static = [n for n in settings if n not in traced and not is_same(settings[n], current[n])]
            if static or not satisfies(engine.draws.constraint, settings):
                settings = {n: before[n] if n in traced else current[n] for n in settings}
            engine.replace(trial, source, settings, fraction)

    return search


def _explore(distribution: Distribution, value: Any, draw: np.random.Generator, factor: float, resample: float) -> Any:
    """A value near the old one, or one that is drawn again."""
    resampled, up, u = draw.random() < resample, draw.random() < 0.5, float(draw.random())
    low, high = distribution.low, distribution.high
    unbounded = low is None or high is None
    if resampled or (unbounded and distribution.options is None):  # a user's distribution has only `at`
        return distribution.at(u)
    if unbounded:  # a list: a neighbour of the old option
        options = list(distribution.options or ())
        at = next(i for i, o in enumerate(options) if is_same(o, value)) + (1 if up else -1)
        return options[min(max(at, 0), len(options) - 1)]
    moved = value * factor if up else value / factor
    if distribution.options is not None:  # integers move by at least 1
        moved = max(round(moved), value + 1) if up else min(round(moved), value - 1)
        return int(min(max(moved, low), high))
    return round_float32(min(max(moved, low), high))
