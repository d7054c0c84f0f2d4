"""Search by Optuna: its samplers propose settings, a batch at a time, and are told what came of it."""

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

__all__ = ["SAMPLERS", "optuna"]

SAMPLERS = ("tpe", "cmaes", "gp", "qmc", "random")
"""Names of Optuna's samplers: TPESampler and so on."""
EXTRA = "nnfunc[search]"


def optuna(sampler: str | Callable[[int], Any] = "tpe", *, batch: int = 16) -> Callable[[Engine], None]:
    """Let a sampler of Optuna propose the settings, `batch` at a time, by ask and tell.

    sampler: "tpe" (tree of Parzen estimators, the default), "cmaes" (CMA-ES, for which the package
    cmaes is needed; it moves numbers and draws options at random), "gp" (Gaussian processes, for which
    Optuna needs PyTorch), "qmc", "random"; or a function seed -> sampler. All settings of a batch
    train side by side in the programs of the batches before; with seeds the sampler is told the mean.
    trials: of the sweep, how many there are in all.
    Raises: ModuleNotFoundError without Optuna (the extra `search`) or what the sampler needs;
    ValueError for an unknown sampler, a batch below 1, or a space that is no dict.
    """
    if isinstance(sampler, str):
        check.choice("optuna", SAMPLERS, sampler=sampler)
    check.size("optuna", batch=batch)

    def search(engine: Engine) -> None:
        module = check.package("optuna", "optuna", EXTRA)
        draws = engine.draws
        if not isinstance(draws.space, dict):
            expected = "a dict of lists and distributions"
            hint = "Leave search out to run the settings of a list, or what a function proposes."
            problem = f"space should be {expected}, got {check.describe(draws.space)}"
            check.fail("optuna", f"{problem}. {hint}")
        if draws.trials is None:
            check.fail("optuna", "trials should say how many settings to try, got None.")
        space = Space(draws.space)
        distributions = {name: _distribution(module, d) for name, d in space.distributions.items()}
        key = np.asarray(jax.random.key_data(fold(draws.key, "optuna")))
        seed = int(np.random.default_rng(key.tolist()).integers(2**31))
        with _quiet(module):
            own = _sampler(module, sampler, seed) if isinstance(sampler, str) else sampler(seed)
            study = module.create_study(sampler=own)
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
        problem = f"the constraint refused nearly all of {TRIES} proposals"
        check.fail("optuna", f"{problem}: it contradicts the space. Loosen one of them.")
    first = len(engine.trials_by_setting)
    engine.advance(engine.add(rows))
    for trial, trials in zip(proposals, engine.trials_by_setting[first:], strict=True):
        cost = engine.setting_cost(trials)
        failed = module.trial.TrialState.FAIL
        study.tell(trial, cost) if math.isfinite(cost) else study.tell(trial, state=failed)


def _distribution(module: Any, own: Distribution) -> Any:
    classes = module.distributions
    if own.low is None or own.high is None:
        if own.options is None:  # of the caller's own: what `at` takes is proposed
            return classes.FloatDistribution(0.0, math.nextafter(1.0, 0.0))
        return classes.CategoricalDistribution(range(len(own.options)))
    if own.options is not None:
        return classes.IntDistribution(int(own.low), int(own.high))
    return classes.FloatDistribution(float(own.low), float(own.high), log=own.log)


def _value(own: Distribution, proposed: Any) -> Any:
    """What the sampler proposed, as the space has it: float32, an option."""
    if own.low is None or own.high is None:
        return own.at(proposed) if own.options is None else own.options[proposed]
    return proposed if own.options is not None else round_float32(proposed)


def _sampler(module: Any, name: str, seed: int) -> Any:
    samplers = module.samplers
    if name == "tpe":
        return samplers.TPESampler(seed=seed, constant_liar=True, n_startup_trials=10)
    if name == "cmaes":
        check.package("optuna", "cmaes", EXTRA)
        return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    if name == "gp":
        check.package("optuna", "torch", "torch")  # which Optuna's Gaussian processes are made of
        return samplers.GPSampler(seed=seed)
    if name == "qmc":
        return samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)
    return samplers.RandomSampler(seed=seed)


@contextmanager
def _quiet(module: Any) -> Iterator[None]:
    """Without a line for each trial, and without warnings of what is experimental in Optuna."""
    before = module.logging.get_verbosity()
    module.logging.set_verbosity(module.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=module.exceptions.ExperimentalWarning)
            yield
    finally:
        module.logging.set_verbosity(before)
