"""The best state of a trial, where a search keeps that rather than the last one."""

import math

from nnfunc.sweeps.checkpoints import peak_name
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.trial_state import Peak

__all__ = ["note_peak", "settle"]


def note_peak(engine: Engine, trial: int, share: float) -> None:
    """Keep the state of a trial at a share of its run, if it has never been better."""
    track, cost = engine.tracks[trial], engine.cost(trial, share)
    if cost < (math.inf if track.peak is None else track.peak.cost):
        step = track.kind.stop_at(share)
        here = track.step == step  # otherwise it was taken up where it came to later
        track.peak = Peak(step, cost, track.carry if here else None)
        if here:
            engine.unsaved_peaks.add(trial)


def settle(engine: Engine) -> None:
    """Read the best states that were saved before; one that is lost is run again."""
    for trial, track in engine.tracks.items():
        peak = track.peak
        if peak is None or peak.carry is not None:
            continue
        saved = engine.read(trial, peak_name(trial))
        if saved is not None and saved.step == peak.step:
            track.peak = peak._replace(carry=saved.carry)
            continue
        ended = track.carry, track.step, track.figures
        track.carry, track.step, track.figures = None, 0, {}
        try:
            engine.run(track.kind, track.group, [trial], peak.step, together=False)
            track.peak = peak._replace(carry=track.carry)
        finally:
            track.carry, track.step, track.figures = ended
        engine.unsaved_peaks.add(trial)
