"""A test of whether two settings differ by more than their seeds."""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

LEVEL = 0.05
"""Settings differ when the p-value is below this."""


class Comparison(NamedTuple):
    """test: its name and how many trials it compared. p: two-sided. difference: mean of a minus mean of b."""

    test: str
    p: float
    difference: float

    @property
    def is_significant(self) -> bool:
        return self.p < LEVEL


def compare_settings(a: np.ndarray, b: np.ndarray, a_seeds: Sequence[int], b_seeds: Sequence[int]) -> Comparison:
    """Student's t-test of the scores of two settings.

    Trials of the same seed start with the same parameters and see the same batches, so they are compared
    in pairs when at least two seeds are shared, else by Welch's test. p is NaN where there are too few.
    a, b: the scores of the trials [seeds] of each setting.
    a_seeds, b_seeds: their seeds.

    >>> a, b = np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.1, 3.2])
    >>> result = compare_settings(a, b, [0, 1, 2], [0, 1, 2])
    >>> result.test, round(result.p, 3)
    ('paired t-test over 3 seeds', 0.057)
    """
    from scipy import stats

    index = {seed: i for i, seed in enumerate(b_seeds)}
    pairs = [(i, index[seed]) for i, seed in enumerate(a_seeds) if seed in index]
    test_result: Any
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that are nearly or all equal
        if len(pairs) > 1:
            differences = np.asarray([a[i] - b[j] for i, j in pairs])
            test_result = stats.ttest_1samp(differences, 0.0)
            p = float(test_result.pvalue) if differences.any() else 1.0
            return Comparison(f"paired t-test over {len(pairs)} seeds", p, float(differences.mean()))
        test_result = stats.ttest_ind(a, b, equal_var=False)
    test = f"Welch's t-test over {len(a)} and {len(b)} runs"
    return Comparison(test, float(test_result.pvalue), float(np.mean(a) - np.mean(b)))
