"""Early stopping of the trials of a sweep."""

import math
from collections.abc import Callable

from nnfunc import check
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.peaks import load_peaks, update_peak

__all__ = ["patience"]


def patience(evaluations: int = 3, *, threshold: float = 0.0, warmup: float = 0.0) -> Callable[[Engine], None]:
    """Early stopping: end each trial whose figure has not improved for some evaluations in a row.

    evaluations: how many, in [1, ...). threshold: better is by more than this, in the figure's
    units, at least 0. warmup: the share of the steps, in [0, 1), before which none is ended. Every
    trial, whether it was ended or ran on, ranks by its best evaluation, and its state is that of
    there: the last one is past the best by design. That is one more state a trial in memory.
    Raises: ValueError for numbers out of range.

    >>> search = nf.sweeps.patience(5, warmup=0.1)    # nf.sweep(..., search=search)
    """
    check.size("patience", evaluations=evaluations)
    check.number("patience", 0, threshold=threshold)
    check.number("patience", 0, 1, warmup=warmup)

    def search(engine: Engine) -> None:
        engine.begin()
        best, waited = {}, {}
        for fraction in engine.fractions():
            engine.advance(engine.trials, fraction)
            for trial in engine.trials:
                update_peak(engine, trial, fraction)
                cost = engine.cost(trial, fraction)
                if cost < best.get(trial, math.inf) - (threshold if trial in best else 0):
                    best[trial], waited[trial] = cost, 0
                else:
                    waited[trial] = waited.get(trial, 0) + 1
                if waited[trial] >= evaluations and fraction >= warmup and fraction < 1:
                    engine.stop(trial, "no better for a while", ranks_last=False)
        load_peaks(engine)

    return search
