"""From the trials of an engine to the arrays of a result."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.base import Key
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.result import Result
from nnfunc.sweeps.trial_state import TrialState

__all__ = ["collect"]


def collect(engine: Engine, key: Key, seconds: float, *, complete: bool) -> Result:
    """What the trials have come to. key: of the sweep."""
    states, count = engine.states, len(engine.specs)
    names = list(dict.fromkeys(name for t in states.values() for name in t.metrics))
    steps = {split: _steps(states, split) for split in ("train", "validation")}
    steps = {split: at for split, at in steps.items() if at.size or split == "train"}
    curves = {}
    for name in names:
        at = steps[name.partition("/")[0]]
        positions = {int(step): position for position, step in enumerate(at)}
        curve = np.full((count, len(at)), np.nan, np.float32)
        for trial, state in states.items():
            for step, value in state.metrics.get(name, {}).items():
                curve[trial, positions[step]] = value
        curves[name] = curve

    diverged, scores, best_at = {}, np.full(count, math.nan), {}
    carries = {m: t.carry for m, t in states.items() if t.carry is not None}
    for trial, state in states.items():
        known = state.metrics.get(engine.rank_of(state), {})
        broken = [step for step in sorted(known) if not math.isfinite(known[step])]
        if state.diverged and state.carry is not None:
            diverged[trial] = int(state.carry.state.diverged_at)
        elif known and broken and broken[-1] == max(known):  # of held-out examples alone
            diverged[trial] = broken[0]
        elif known:
            scores[trial] = known[max(known)]
            if complete and state.peak is not None and state.peak.carry is not None:
                best_at[trial], carries[trial] = state.peak.step, state.peak.carry
                scores[trial] = known[state.peak.step]
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
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
        _impl=str(jax.random.key_impl(key)) if typed else None,
        _specs=list(engine.specs),
    )


def _steps(states: dict[int, TrialState], split: str) -> np.ndarray:
    steps: Any = {
        step
        for t in states.values()
        for name, curve in t.metrics.items()
        if name.startswith(f"{split}/")
        for step in curve
    }
    return np.asarray(sorted(steps), np.int64)
