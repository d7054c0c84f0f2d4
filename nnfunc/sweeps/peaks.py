"""The best state of a trial, where a search keeps that rather than the last one."""

import math

from nnfunc.sweeps.checkpoints import peak_name
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.trial_state import Peak

__all__ = ["load_peaks", "update_peak"]


def update_peak(engine: Engine, trial: int, fraction: float) -> None:
    """Keep the state of a trial at a share of its run, if it has never been better."""
    state, cost = engine.states[trial], engine.cost(trial, fraction)
    if cost < (math.inf if state.peak is None else state.peak.cost):
        step = state.program.stop_at(fraction)
        at_peak = state.step == step  # otherwise it was taken up where it came to later
        state.peak = Peak(step, cost, state.carry if at_peak else None)
        if at_peak:
            engine.unsaved_peaks.add(trial)


def load_peaks(engine: Engine) -> None:
    """Read the best states that were saved before; one that is lost is run again."""
    for trial, state in engine.states.items():
        peak = state.peak
        if peak is None or peak.carry is not None:
            continue
        saved = engine.read(trial, peak_name(trial))
        if saved is not None and saved.step == peak.step:
            state.peak = peak._replace(carry=saved.carry)
            continue
        ended = state.carry, state.step, state.metrics
        state.carry, state.step, state.metrics = None, 0, {}
        try:
            engine.run(state.program, state.group, [trial], peak.step, together=False)
            state.peak = peak._replace(carry=state.carry)
        finally:
            state.carry, state.step, state.metrics = ended
        engine.unsaved_peaks.add(trial)
