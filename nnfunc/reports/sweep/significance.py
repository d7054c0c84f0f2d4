"""Whether seeds tell two settings apart."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["LEVEL", "Comparison", "compare_settings"]

LEVEL = 0.05
"""A p-value below this says that the settings differ."""


class Comparison(NamedTuple):
    """test: its name, with how many runs it saw. p: two-sided. difference: mean of one less other."""

    test: str
    p: float
    difference: float

    @property
    def differ(self) -> bool:
        return self.p < LEVEL


def compare_settings(
    one: np.ndarray, other: np.ndarray, seeds: Sequence[int], other_seeds: Sequence[int]
) -> Comparison:
    """Student's t-test of two settings, by the scores of their runs, [runs] each, and their seeds.

    Runs of one seed begin alike and see the same batches, so they are compared in pairs where two
    seeds or more are shared; else by Welch's test. p is not a number where there are too few.

    >>> one, other = np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.1, 3.2])
    >>> result = compare_settings(one, other, [0, 1, 2], [0, 1, 2])
    >>> result.test, round(result.p, 3)
    ('paired t-test over 3 seeds', 0.057)
    """
    from scipy import stats

    found: Any

    at = {seed: i for i, seed in enumerate(other_seeds)}
    pairs = [(i, at[seed]) for i, seed in enumerate(seeds) if seed in at]
    difference = float(np.mean(one) - np.mean(other))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are nearly or all equal
        if len(pairs) > 1:
            left, right = (column for column in zip(*pairs, strict=True))
            apart = one[list(left)] - other[list(right)]
            found = stats.ttest_1samp(apart, 0.0)
            p = float(found.pvalue) if apart.any() else 1.0
            return Comparison(f"paired t-test over {len(pairs)} seeds", p, float(apart.mean()))
        found = stats.ttest_ind(one, other, equal_var=False)
    test = f"Welch's t-test over {len(one)} and {len(other)} runs"
    return Comparison(test, float(found.pvalue), difference)
