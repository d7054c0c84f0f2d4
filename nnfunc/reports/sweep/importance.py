"""How much of the score each hyperparameter explains, by a random forest."""

import math
from typing import Any, NamedTuple

import numpy as np

from nnfunc.reports.sweep.axes import Axis
from nnfunc.reports.sweep.report_data import Sheet, sheet
from nnfunc.sweeps.result import Result

__all__ = ["Importance", "importance", "of_sheet"]

TREES, FOLDS, SHUFFLES = 100, 5, 5
LEAST = 5  # settings with a score, for a fold each
ENOUGH, GOOD = 12, 0.3  # settings, and R2, below which importances mean nothing


class Importance(NamedTuple):
    """Names, the most important first. values: how far R2 falls when the name's values are shuffled.
    deviations: of that over folds and shuffles. r2: the share of the variance of the scores that the
    forest explains in settings it has not seen. settings: how many it had.
    """

    names: list[str]
    values: np.ndarray
    deviations: np.ndarray
    r2: float
    settings: int

    @property
    def means_something(self) -> bool:
        """Whether there were enough settings, and the forest predicts those that it has not seen."""
        return self.settings >= ENOUGH and self.r2 >= GOOD


def importance(result: Result) -> Importance | None:
    """The permutation importance of each hyperparameter that varies.

    A random forest is fitted to the settings in four of five folds; in the fifth the values of one
    name are shuffled, and the loss in R2 is the name's importance: 0 for one that does not matter.
    Names that vary by decades, and such scores, enter as logarithms, categories one-hot; a setting's
    score is the mean over its seeds, no worse than where the pictures' axis of scores ends.
    Settings without a score, as diverged ones, are left out.
    The same result gives the same values always.
    Two names that vary together share what they explain, so each may look unimportant.
    Returns None where nothing varies, where fewer than five settings have scores, or all the same.
    Raises: ModuleNotFoundError without scikit-learn, which `nnfunc[programs]` brings.
    Source: Breiman 2001, Random Forests, Machine Learning 45, section 10; on names that vary together
    Strobl et al. 2008, BMC Bioinformatics 9:307.

    >>> def build(h):
    ...     optimizer = nf.optimizers.sgd(h["rate"], weight_decay=h["decay"])
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), optimizer)
    >>> x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    >>> data = nf.data.arrays((x, 3 * x), batch_size=8)
    >>> space = {"rate": nf.uniform(0.01, 0.5), "decay": nf.uniform(0.0, 1e-6)}
    >>> result = nf.sweep(build, space, data, steps=20, trials=32, execution="vmap", key=jax.random.key(0))
    >>> found = importance(result)
    >>> found.names, found.means_something
    (['rate', 'decay'], True)
    """
    return of_sheet(sheet(result))


def of_sheet(own: Sheet) -> Importance | None:
    """The same, of a sheet."""
    means = own.means()
    kept = np.isfinite(means)
    axes = [_kept(one, own.seeds, kept) for one in own.axes]
    axes = [one for one in axes if np.ptp(one.places) > 0] if kept.any() else []
    score = np.log10(means[kept]) if own.score.kind == "log" else means[kept]
    score = np.clip(score, own.score.low, own.score.high)
    if not axes or len(score) < LEAST or np.var(score) < 1e-12 * max(1e-12, np.mean(score**2)):
        return None
    drops, errors = _folds(axes, score)
    values = drops.mean(axis=1) / np.var(score)
    deviations = drops.std(axis=1) / np.var(score)
    order = np.argsort(-values, kind="stable")
    r2 = 1 - float(np.mean(errors)) / float(np.var(score))
    names = [axes[at].name for at in order]
    return Importance(names, values[order], deviations[order], r2, len(score))


def _kept(axis: Axis, seeds: int, kept: np.ndarray) -> Axis:
    return axis._replace(places=axis.places[::seeds][kept])


def _folds(axes: list[Axis], score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[names, folds * shuffles], by how much the squared error grows; [settings], the error itself."""
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    x = np.stack([axis.places for axis in axes], axis=1)
    errors, drops, weights = np.zeros(len(score)), [], []
    for fit, held in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        forest = _forest(axes).fit(x[fit], score[fit])
        errors[held] = (forest.predict(x[held]) - score[held]) ** 2
        found: Any = permutation_importance(
            forest, x[held], score[held], scoring="neg_mean_squared_error", n_repeats=SHUFFLES, random_state=0
        )
        drops.append(found.importances)
        weights.append(len(held))
    mean = math.fsum(weights) / len(weights)
    weighted = [drop * weight / mean for drop, weight in zip(drops, weights, strict=True)]
    return np.concatenate(weighted, axis=1), errors


def _forest(axes: list[Axis]) -> Any:
    """A forest over the names: shuffling a column of categories shuffles all that it is made into."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    named = [at for at, axis in enumerate(axes) if axis.kind == "categories"]
    wide = ColumnTransformer([("named", OneHotEncoder(handle_unknown="ignore"), named)], remainder="passthrough")
    return make_pipeline(wide, RandomForestRegressor(TREES, random_state=0))
