"""The result of a sweep, from the states of its trials."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.base import Key
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.result import Result


def collect(engine: Engine, key: Key, seconds: float, *, complete: bool) -> Result:
    """The result of an engine. key: of the sweep. seconds: that it took. complete: whether it ended by itself."""
    states, count = engine.states, len(engine.specs)
    reported: dict[str, set[int]] = {"train": set()}
    names: dict[str, None] = {}  # in the order of the reports
    for state in states.values():
        for name, values in state.metrics.items():
            names[name] = None
            reported.setdefault(name.partition("/")[0], set()).update(values)
    steps = {split: np.asarray(sorted(reported[split]), np.int64) for split in sorted(reported)}
    curves = {}
    for name in names:
        split_steps = steps[name.partition("/")[0]]
        curves[name] = np.full((count, len(split_steps)), np.nan, np.float32)
        for trial, state in states.items():
            values = state.metrics.get(name, {})
            curves[name][trial, np.searchsorted(split_steps, list(values))] = list(values.values())

    diverged, scores, best_at = {}, np.full(count, math.nan), {}
    carries: dict[int, Any] = {m: t.carry for m, t in states.items() if t.carry is not None}
    for trial, state in states.items():
        values = state.metrics.get(engine.rank_of(state), {})
        invalid = [step for step in sorted(values) if not math.isfinite(values[step])]
        if state.diverged and state.carry is not None:
            diverged[trial] = int(state.carry.state.diverged_at)
        elif invalid and invalid[-1] == max(values):  # only on the validation split
            diverged[trial] = invalid[0]
        elif values:
            scores[trial] = values[max(values)]
            if complete and state.best_step is not None and state.best_carry is not None:
                best_at[trial], carries[trial] = state.best_step, state.best_carry
                scores[trial] = values[state.best_step]
    is_typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return Result(
        hypers=[spec.settings for spec in engine.specs],
        metric=engine.metric,
        seeds=engine.draws.runs,
        plan=engine.plan(),
        steps=steps,
        curves=curves,
        scores=scores,
        diverged=dict(sorted(diverged.items())),
        refused=dict(sorted(engine.refused.items())),
        stopped_at={m: t.step for m, t in states.items() if t.stop_reason is not None},
        ranks_last={m for m, t in states.items() if t.ranks_last},
        seed=[spec.seed for spec in engine.specs],
        lineage=engine.lineage,
        complete=complete,
        seconds=seconds,
        best_at=best_at,
        _carries=carries,
        _impl=str(jax.random.key_impl(key)) if is_typed else None,
        _specs=list(engine.specs),
    )
