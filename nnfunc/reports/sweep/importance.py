"""How much of the score each hyperparameter explains, by a random forest."""

import math
from typing import Any, NamedTuple

import numpy as np

from nnfunc.reports.sweep.axes import Axis
from nnfunc.reports.sweep.report_data import SweepData, build_sweep_data
from nnfunc.sweeps.result import Result

TREES, FOLDS, SHUFFLES = 100, 5, 5
MIN_SETTINGS = 5  # with a score, one for each fold
ENOUGH_SETTINGS, GOOD_R2 = 12, 0.3  # below these, importances mean nothing


class Importance(NamedTuple):
    """The importance of each hyperparameter, the largest first.

    names: of the hyperparameters.
    values: the drop in R2 when a name's values are shuffled, as a share of all drops: they add up to 1, or are all
        0.
    deviations: the standard deviations over folds and shuffles.
    r2: the fraction of the variance of held-out scores that the forest explains.
    settings: how many were used.
    """

    names: list[str]
    values: np.ndarray
    deviations: np.ndarray
    r2: float
    settings: int

    @property
    def is_meaningful(self) -> bool:
        """Whether there are enough settings, and the forest predicts held-out ones."""
        return self.settings >= ENOUGH_SETTINGS and self.r2 >= GOOD_R2


def importance(result: Result) -> Importance | None:
    """The permutation importance of each hyperparameter that varies in a sweep.

    A random forest is fitted to four of five folds of the settings. In the fifth fold the values of one
    name are shuffled: the drop in R2, as a share of all drops, is the name's importance, 0 for one that does not
    matter.
    Logarithmic axes and scores enter as logarithms, categories one-hot. A setting's score is the mean
    over its seeds, clipped to the score axis of the plots. Settings without a score are left out. The
    same result always gives the same importances. Names that vary together share their importance, so
    each may look unimportant.
    result: of `nf.sweep`. Returns None where nothing varies, fewer than five settings have scores, or all scores
        are equal.
    Raises: ModuleNotFoundError without scikit-learn, which `nnfunc[programs]` installs.
    Source: Breiman 2001, Random Forests, Machine Learning 45, section 10; on names that vary together Strobl et al.
    2008, BMC Bioinformatics 9:307.

    >>> def build(h):
    ...     optimizer = nf.optimizers.sgd(h["rate"], weight_decay=h["decay"])
    ...     return nf.Task(nf.linear(1, 1), nf.regression(), optimizer)
    >>> x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    >>> data = nf.data.arrays((x, 3 * x), batch_size=8)
    >>> space = {"rate": nf.uniform(0.01, 0.5), "decay": nf.uniform(0.0, 1e-6)}
    >>> result = nf.sweep(build, space, data, steps=20, trials=32, execution="vmap", key=jax.random.key(0))
    >>> found = importance(result)
    >>> found.names, found.is_meaningful
    (['rate', 'decay'], True)
    """
    return compute_importance(build_sweep_data(result))


def compute_importance(data: SweepData) -> Importance | None:
    """`importance` of a sweep's data."""
    means = data.mean_scores()
    has_score = np.isfinite(means)
    axes = [axis._replace(positions=axis.positions[:: data.seeds][has_score]) for axis in data.axes]
    axes = [axis for axis in axes if np.ptp(axis.positions) > 0] if has_score.any() else []
    scores = np.log10(means[has_score]) if data.score_axis.scale == "log" else means[has_score]
    scores = np.clip(scores, data.score_axis.low, data.score_axis.high)
    if not axes or len(scores) < MIN_SETTINGS:
        return None
    variance = np.var(scores)
    if variance < 1e-12 * max(1e-12, np.mean(scores**2)):
        return None
    drops, errors = _cross_validate(axes, scores)
    means = np.maximum(drops.mean(axis=1), 0)  # below 0 by chance
    total = means.sum() or 1.0
    values, deviations = means / total, drops.std(axis=1) / total
    order = np.argsort(-values, kind="stable")
    names = [axes[i].name for i in order]
    r2 = 1 - float(np.mean(errors)) / float(variance)
    return Importance(names, values[order], deviations[order], r2, len(scores))


def _cross_validate(axes: list[Axis], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much shuffling increases the squared error [names, folds * shuffles], and the errors [settings]."""
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    x = np.stack([axis.positions for axis in axes], axis=1)  # [settings, names]
    errors, drops, weights = np.zeros(len(scores)), [], []
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(x):
        forest = _build_forest(axes).fit(x[train], scores[train])
        errors[test] = (forest.predict(x[test]) - scores[test]) ** 2
        permuted: Any = permutation_importance(
            forest, x[test], scores[test], scoring="neg_mean_squared_error", n_repeats=SHUFFLES, random_state=0
        )
        drops.append(permuted.importances)
        weights.append(len(test))
    mean = math.fsum(weights) / len(weights)
    weighted = [drop * weight / mean for drop, weight in zip(drops, weights, strict=True)]
    return np.concatenate(weighted, axis=1), errors


def _build_forest(axes: list[Axis]) -> Any:
    """A forest over the names. Categories are encoded inside it, so that they are shuffled as a whole."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    categories = [i for i, axis in enumerate(axes) if axis.scale == "categories"]
    encoder = OneHotEncoder(handle_unknown="ignore")
    columns = ColumnTransformer([("categories", encoder, categories)], remainder="passthrough")
    return make_pipeline(columns, RandomForestRegressor(TREES, random_state=0))
