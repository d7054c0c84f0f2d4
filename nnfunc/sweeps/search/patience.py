"""Early stopping of the trials of a sweep."""

import math
from collections.abc import Callable

from nnfunc import check
from nnfunc.sweeps.engine import Engine


def patience(evaluations: int = 3, *, threshold: float = 0.0, warmup: float = 0.0) -> Callable[[Engine], None]:
    """Early stopping: stop each trial whose metric has not improved for some evaluations in a row.

    Every trial, stopped or not, ranks by its best evaluation and keeps the state of that evaluation, because the
    last one is past the best by design. That needs memory for one more state of each trial.
    evaluations: how many, at least 1.
    threshold: the least improvement that counts, in units of the metric, at least 0.
    warmup: the fraction of the steps, in [0, 1], before which no trial is stopped.
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
                engine.update_best(trial, fraction)
                cost = engine.cost(trial, fraction)
                if cost < best.get(trial, math.inf) - (threshold if trial in best else 0):
                    best[trial], waited[trial] = cost, 0
                else:
                    waited[trial] = waited.get(trial, 0) + 1
                if waited[trial] >= evaluations and fraction >= warmup and fraction < 1:
                    engine.stop(trial, f"no improvement in {evaluations} evaluations", ranks_last=False)
        engine.load_best()

    return search
