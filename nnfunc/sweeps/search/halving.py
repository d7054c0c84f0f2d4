"""Searches that stop the worse trials early: successive halving and Hyperband."""

import math
from collections.abc import Callable

from nnfunc import check
from nnfunc.sweeps.engine import Engine


def halving(eta: float = 3.0, *, rungs: int | None = None) -> Callable[[Engine], None]:
    """Successive halving: run all settings for a few steps, keep the best 1 / eta, run those eta times as far.

    eta: above 1.
    rungs: the number of selections, at least 1; by default as many as leave one setting, or as the number of
        evaluations of a run allows. Settings are selected at steps / eta, steps / eta**2 and so on, at the nearest
        evaluation (evaluate_every); with seeds, by their mean score. Stopped settings stay in the table, below all
        that ran further. The others run on in narrower batches.
    Raises: ValueError when eta or rungs is out of range.
    Source: Jamieson and Talwalkar 2016, arXiv:1502.07943.

    >>> def build(h):
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    >>> data = nf.data.arrays((x, 3 * x), batch_size=8, validation=(x, 3 * x))
    >>> result = nf.sweep(build, {"rate": nf.log_uniform(1e-4, 1.0)}, data, steps=90, trials=9,
    ...                   search=nf.sweeps.halving(eta=3), key=jax.random.key(0))
    >>> sorted(result.stopped_at.values()), result.best in result.stopped_at
    ([9, 9, 9, 9, 9, 9, 27, 27], False)
    """
    check.number("halving", 1, open_low=True, eta=eta)
    if rungs is not None:
        check.size("halving", rungs=rungs)

    def search(engine: Engine) -> None:
        engine.begin()
        _bracket(engine, list(engine.trials_by_setting), eta, rungs)

    return search


def hyperband(eta: float = 3.0, *, brackets: int | None = None) -> Callable[[Engine], None]:
    """Hyperband: several successive halvings, from one that selects early and often to one that never does.

    So a setting that improves slowly is not always stopped. As in the paper, a bracket with s selections begins
    with eta**s / (s + 1) of the settings, relative to the others.
    eta: above 1.
    brackets: the number of halvings, at least 1; by default as many as the evaluations of a run and the trials
        allow.
    Raises: ValueError when eta or brackets is out of range.
    Source: Li et al. 2018, arXiv:1603.06560.

    >>> search = nf.sweeps.hyperband(3, brackets=2)    # nf.sweep(..., search=search)
    """
    check.number("hyperband", 1, open_low=True, eta=eta)
    if brackets is not None:
        check.size("hyperband", brackets=brackets)

    def search(engine: Engine) -> None:
        engine.begin()
        settings = list(engine.trials_by_setting)
        max_rungs = _rungs(engine, len(settings), eta) if brackets is None else brackets - 1
        sizes = [eta**s / (s + 1) for s in range(max_rungs, -1, -1)]
        first = 0
        for index, (s, size) in enumerate(zip(range(max_rungs, -1, -1), sizes, strict=True)):
            count = round(size / sum(sizes[index:]) * (len(settings) - first))
            count = len(settings) - first if s == 0 else max(1, count)
            if bracket := settings[first : first + count]:
                _bracket(engine, bracket, eta, s)
            first += count

    return search


def _bracket(engine: Engine, settings: list[list[int]], eta: float, rungs: int | None) -> None:
    """Successive halving of some settings, each the trials of its runs."""
    count = _rungs(engine, len(settings), eta) if rungs is None else rungs
    for rung in range(count, 0, -1):
        fraction = eta**-rung
        engine.advance([m for setting in settings for m in setting], fraction)
        settings.sort(
            key=lambda setting: engine.setting_cost(setting, fraction)
        )  # stable: ties stay in the order of being drawn
        keep = max(1, round(len(settings) / eta))
        for setting in settings[keep:]:
            for trial in setting:
                engine.stop(trial, f"not among the best at {fraction:.3g} of its steps", ranks_last=True)
        settings = settings[:keep]
    engine.advance(m for setting in settings for m in setting)


def _rungs(engine: Engine, settings: int, eta: float) -> int:
    """The number of selections that leave one setting, the first not much before the first evaluation."""
    log = lambda number: math.log(number) / math.log(eta)
    first = 1 / engine.fractions()[0]
    return max(0, min(math.floor(log(settings) + 1e-9), round(log(first))))
