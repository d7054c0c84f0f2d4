"""From the trials of an engine to the arrays of a result."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.base import Key
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.result import Result
from nnfunc.sweeps.trial_state import Track

__all__ = ["collected"]


def collected(engine: Engine, key: Key, seconds: float, *, complete: bool) -> Result:
    """What the trials have come to. key: of the sweep."""
    tracks, count = engine.tracks, len(engine.specs)
    names = list(dict.fromkeys(name for t in tracks.values() for name in t.figures))
    steps = {split: _steps(tracks, split) for split in ("train", "validation")}
    steps = {split: at for split, at in steps.items() if at.size or split == "train"}
    curves = {}
    for name in names:
        at = steps[name.partition("/")[0]]
        places = {int(step): place for place, step in enumerate(at)}
        curve = np.full((count, len(at)), np.nan, np.float32)
        for trial, track in tracks.items():
            for step, value in track.figures.get(name, {}).items():
                curve[trial, places[step]] = value
        curves[name] = curve

    diverged, scores, best_at = {}, np.full(count, math.nan), {}
    carries = {m: t.carry for m, t in tracks.items() if t.carry is not None}
    for trial, track in tracks.items():
        known = track.figures.get(engine.rank_of(track), {})
        broken = [step for step in sorted(known) if not math.isfinite(known[step])]
        if track.diverged and track.carry is not None:
            diverged[trial] = int(track.carry.state.diverged_at)
        elif known and broken and broken[-1] == max(known):  # of held-out examples alone
            diverged[trial] = broken[0]
        elif known:
            scores[trial] = known[max(known)]
            if complete and track.peak is not None and track.peak.carry is not None:
                best_at[trial], carries[trial] = track.peak.step, track.peak.carry
                scores[trial] = known[track.peak.step]
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return Result(
        hypers=[spec.settings for spec in engine.specs],
        metric=engine.figure,
        seeds=engine.draws.runs,
        plan=engine.plan(),
        steps=steps,
        curves=curves,
        scores=scores,
        diverged=dict(sorted(diverged.items())),
        refused=dict(sorted(engine.refused.items())),
        stopped_at={m: t.step for m, t in tracks.items() if t.left is not None},
        ranks_last={m for m, t in tracks.items() if t.behind},
        seed=[spec.seed for spec in engine.specs],
        lineage=engine.lineage,
        complete=complete,
        seconds=seconds,
        best_at=best_at,
        _carries=carries,
        _impl=str(jax.random.key_impl(key)) if typed else None,
        _specs=list(engine.specs),
    )


def _steps(tracks: dict[int, Track], split: str) -> np.ndarray:
    found: Any = {
        step
        for t in tracks.values()
        for name, curve in t.figures.items()
        if name.startswith(f"{split}/")
        for step in curve
    }
    return np.asarray(sorted(found), np.int64)
