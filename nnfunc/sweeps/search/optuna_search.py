"""Search by Optuna: its samplers propose settings in batches and learn from their scores."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import fold
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.sampling import TRIES, satisfies
from nnfunc.sweeps.space import Distribution, Space, round_float32

SAMPLERS = ("tpe", "cmaes", "gp", "qmc", "random")
"""Names of Optuna's samplers: TPESampler and so on."""
EXTRA = "nnfunc[search]"


def optuna(sampler: str | Callable[[int], Any] = "tpe", *, batch: int = 16) -> Callable[[Engine], None]:
    """Search by a sampler of Optuna, by ask and tell.

    The trials of a batch train side by side, in the programs of earlier batches. With seeds the sampler learns
    the mean score. `trials` of `nf.sweep` is the number of runs in all.
    sampler: "tpe" (tree-structured Parzen estimator, the default), "cmaes" (CMA-ES, which needs the package cmaes;
        it samples options independently), "gp" (Gaussian processes, for which Optuna needs PyTorch), "qmc",
        "random"; or a function seed -> sampler.
    batch: how many settings it proposes at a time, at least 1.
    Raises: ModuleNotFoundError without Optuna (the extra `search`) or a package that the sampler needs; ValueError
    for an unknown sampler, a batch below 1, or a space that is not a dict.
    """
    if isinstance(sampler, str):
        check.choice("optuna", SAMPLERS, sampler=sampler)
    check.size("optuna", batch=batch)

    def search(engine: Engine) -> None:
        module = check.package("optuna", "optuna", EXTRA)
        draws = engine.draws
        if not isinstance(draws.space, dict):
            expected, actual = "space should be a dict of lists and distributions", check.describe(draws.space)
            hint = "Leave search out to run the settings of a list or a function."
            check.fail("optuna", expected=expected, actual=actual, hint=hint)
        if draws.trials is None:
            check.fail("optuna", expected="trials should be the number of runs", actual=None)
        space = Space(draws.space)
        distributions = {name: _distribution(module, d) for name, d in space.distributions.items()}
        key = np.asarray(jax.random.key_data(fold(draws.key, "optuna")))
        seed = int(np.random.default_rng(key.tolist()).integers(2**31))
        with _quiet(module):
            built = _sampler(module, sampler, seed) if isinstance(sampler, str) else sampler(seed)
            study = module.create_study(sampler=built)
            while len(engine.trials_by_setting) < draws.trials:
                count = min(batch, draws.trials - len(engine.trials_by_setting))
                _batch(module, study, engine, space, distributions, count)

    return search


def _batch(module: Any, study: Any, engine: Engine, space: Space, distributions: dict[str, Any], count: int) -> None:
    proposals, rows = [], []
    for _ in range(TRIES):
        trial = study.ask(distributions)
        sampled = {n: _value(space.distributions[n], trial.params[n]) for n in space.distributions}
        values = space.complete(sampled)
        if satisfies(engine.draws.constraint, values):
            proposals.append(trial)
            rows.append(values)
        else:
            study.tell(trial, state=module.trial.TrialState.FAIL)
        if len(rows) == count:
            break
    else:
        problem = f"the constraint refused nearly all of {TRIES} proposals."
        check.fail("optuna", problem, hint="It excludes nearly the whole space: loosen one of them.")
    first = len(engine.trials_by_setting)
    engine.advance(engine.add(rows))
    for trial, trials in zip(proposals, engine.trials_by_setting[first:], strict=True):
        cost = engine.setting_cost(trials)
        failed = module.trial.TrialState.FAIL
        study.tell(trial, cost) if math.isfinite(cost) else study.tell(trial, state=failed)


def _distribution(module: Any, distribution: Distribution) -> Any:
    """Optuna's distribution of what `_value` takes."""
    classes, (low, high) = module.distributions, (distribution.low, distribution.high)
    if low is None or high is None:
        if distribution.options is None:  # a user's distribution: the argument of `at`
            return classes.FloatDistribution(0.0, math.nextafter(1.0, 0.0))
        return classes.CategoricalDistribution(range(len(distribution.options)))
    if distribution.options is not None:
        return classes.IntDistribution(int(low), int(high))
    return classes.FloatDistribution(float(low), float(high), log=distribution.log)


def _value(distribution: Distribution, proposed: Any) -> Any:
    """The value for a proposal of the sampler."""
    if distribution.low is None or distribution.high is None:
        return distribution.at(proposed) if distribution.options is None else distribution.options[proposed]
    return proposed if distribution.options is not None else round_float32(proposed)


def _sampler(module: Any, name: str, seed: int) -> Any:
    samplers = module.samplers
    if name == "tpe":
        return samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=10)
    if name == "cmaes":
        check.package("optuna", "cmaes", EXTRA)
        return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    if name == "gp":
        check.package("optuna", "torch", "torch")  # Optuna's Gaussian processes use it
        return samplers.GPSampler(seed=seed)
    if name == "qmc":
        return samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
    return samplers.RandomSampler(seed=seed)


@contextmanager
def _quiet(module: Any) -> Iterator[None]:
    """Turn off Optuna's line for each trial, and its warnings of experimental features."""
    before = module.logging.get_verbosity()
    module.logging.set_verbosity(module.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=module.exceptions.ExperimentalWarning)
            yield
    finally:
        module.logging.set_verbosity(before)
