"""The area under the ROC curve and the average precision, of many weightings of the same rows at once.

They equal scikit-learn's. Its functions sort the rows anew for each class and each resample of a bootstrap, and take
longer than the training of a small model when they are called after every evaluation.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from nnfunc.evaluation.readings import CLASSES, Reading


class Ranking(NamedTuple):
    """Rows by descending probability, for each class or label; all [rows, columns].

    order: of the rows.
    hit: whether the class or label is the truth.
    first, last: the position of the first and the last row with the same probability.
    missing: where the probability is NaN, which has no rank.
    """

    order: np.ndarray
    hit: np.ndarray
    first: np.ndarray
    last: np.ndarray
    missing: np.ndarray

    @staticmethod
    def of(reading: Reading) -> "Ranking":
        """The ranking of each class against the rest, or of each label. reading: of classes or answers."""
        probability, truth = reading.probability, reading.target
        if reading.output_type in CLASSES:
            truth = truth[:, None] == np.arange(probability.shape[1])
        order = np.argsort(-probability, axis=0, kind="stable")
        ranked = np.take_along_axis(probability, order, axis=0)
        position = np.broadcast_to(np.arange(len(order))[:, None], order.shape)
        differs = np.ones((len(order) + 1, order.shape[1]), bool)
        differs[1:-1] = ranked[1:] != ranked[:-1]
        if differs.all():  # no ties
            first = last = position
        else:
            first = np.maximum.accumulate(np.where(differs[:-1], position, 0), axis=0)
            last = np.minimum.accumulate(np.where(differs[1:], position, len(order))[::-1], axis=0)[::-1]
        return Ranking(order, np.take_along_axis(truth > 0, order, axis=0), first, last, np.isnan(ranked))

    def scores(self, names: Sequence[str], weights: np.ndarray) -> dict[str, np.ndarray]:
        """{name: [weightings, columns]}, NaN where a class or label always or never occurs, or a row lacks a rank.

        names: of "roc_auc" and "average_precision".
        weights: [weightings, rows], at least 0.
        """
        ranked = weights[:, self.order]  # [weightings, rows, columns]
        hits = ranked * self.hit
        start = np.zeros((len(weights), 1, self.order.shape[1]))
        true = np.concatenate([start, np.cumsum(hits, axis=1)], axis=1)  # before each row, and at the end
        total, true_sum = ranked.sum(1), true[:, -1]
        has_ties = self.first is not self.last
        until = np.take_along_axis(true, self.last[None] + 1, axis=1) if has_ties else true[:, 1:]
        scores: dict[str, np.ndarray] = {}
        with np.errstate(all="ignore"):
            if "average_precision" in names:
                rows = np.cumsum(ranked, axis=1)
                rows = np.take_along_axis(rows, self.last[None], axis=1) if has_ties else rows
                scores["average_precision"] = (hits * (until / np.maximum(rows, 1e-300))).sum(1) / true_sum
            if "roc_auc" in names:
                before = np.take_along_axis(true, self.first[None], axis=1) if has_ties else true[:, :-1]
                above = (before + until) / 2  # equal scores count half
                scores["roc_auc"] = ((ranked - hits) * above).sum(1) / (true_sum * (total - true_sum))
        tiny = 1e-12 * total  # of rounding
        defined = (true_sum > tiny) & (total - true_sum > tiny) & ~self._lacks(weights)
        return {name: np.where(defined, score, np.nan) for name, score in scores.items()}

    def _lacks(self, weights: np.ndarray) -> np.ndarray:
        """[weightings, columns], whether a row that counts has no probability. weights: as for `scores`."""
        if not self.missing.any():
            return np.zeros((len(weights), self.order.shape[1]), bool)
        return np.any((weights[:, self.order] > 0) & self.missing, axis=1)

    def means(self, names: Sequence[str], weights: np.ndarray) -> dict[str, np.ndarray]:
        """{name: [weightings]}, the mean over the columns with both answers; NaN without one. See `scores`.

        A row that counts and has no probability makes it NaN.
        """
        lacks, means = self._lacks(weights).any(1), {}
        for name, scores in self.scores(names, weights).items():
            defined = ~np.isnan(scores)
            mean = np.where(defined, scores, 0).sum(1) / np.maximum(defined.sum(1), 1)
            means[name] = np.where(defined.any(1) & ~lacks, mean, np.nan)
        return means
