"""Intervals of metrics by the bootstrap: the metrics of examples drawn again with replacement."""

from collections.abc import Callable, Sequence

import numpy as np

from nnfunc import check
from nnfunc.evaluation.held_out import HeldOut
from nnfunc.evaluation.held_out_metrics import metric_names_of, row_weights
from nnfunc.evaluation.named_metrics import Sums, find_metric
from nnfunc.evaluation.ranking import Ranking
from nnfunc.evaluation.readings import Reading

__all__ = ["bootstrap"]

_CHUNK = 1 << 22  # numbers of one batch of resamples


def bootstrap(
    held_out: HeldOut, names: Sequence[str] | None = None, n: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """The interval (low, high) of each metric over resamples of the examples, whole sequences at a time.

    The percentiles of the metric of n resamples, each of as many examples as there are, drawn with replacement.
    held_out: outputs and targets. names: of metrics; None for those of the kind. n: at least 1. seed: of the draws, at
    least 0. level: the fraction of the resamples inside of the interval, in (0, 1).
    The calibration error gets (NaN, NaN): the bins of a resample are noisier, which makes all of its errors larger.
    Source: Efron 1979; the percentile interval of Efron and Tibshirani 1993, chapter 13.

    >>> held_out = HeldOut("values", np.arange(100.0), np.arange(100.0) + 1.0)
    >>> bootstrap(held_out, ["mae"])
    {'mae': (1.0, 1.0)}
    """
    check.size("bootstrap", n=n)
    check.number("bootstrap", 0, 1, open_low=True, level=level)
    reading = held_out.reading()
    weight = row_weights(held_out, reading)
    count = len(held_out.target)
    names = metric_names_of(held_out) if names is None else names
    samplers = {name: _sampler(reading, weight, name, count) for name in names if name != "calibration_error"}
    values: dict[str, list[np.ndarray]] = {name: [] for name in names}
    random, step = np.random.default_rng(seed), max(1, _CHUNK // np.size(held_out.output))
    for start in range(0, n, step):
        draws = random.multinomial(count, np.full(count, 1 / count), min(step, n - start)).astype(np.float64)
        for name, sampler in samplers.items():
            with np.errstate(all="ignore"):
                values[name].append(sampler(draws))
    ends = [50 * (1 - level), 50 * (1 + level)]
    return {name: _interval(np.concatenate(parts or [np.full(1, np.nan)]), ends) for name, parts in values.items()}


def _interval(values: np.ndarray, ends: list[float]) -> tuple[float, float]:
    finite = values[~np.isnan(values)]
    low, high = np.percentile(finite, ends) if len(finite) else (np.nan, np.nan)
    return float(low), float(high)


def _sampler(reading: Reading, weight: np.ndarray, name: str, count: int) -> Callable[[np.ndarray], np.ndarray]:
    """draws [resamples, examples], how often each example was drawn -> the metric of each resample."""
    metric = find_metric("bootstrap", reading.kind, name)
    if metric.rows is None:
        ranking = Ranking.of(reading)
        return lambda draws: ranking.means(name, np.repeat(draws, reading.positions, axis=1) * weight)
    with np.errstate(all="ignore"):
        rows = metric.rows(np, reading)
    pivot = rows.pop("pivot", None)

    def by_example(part: np.ndarray) -> np.ndarray:
        spread = weight.reshape(-1, *(1,) * (part.ndim - 1))
        return np.where(spread > 0, part * spread, 0).reshape(count, reading.positions, *part.shape[1:]).sum(1)

    sums = {key: by_example(part) for key, part in rows.items()}
    weights = by_example(np.ones(len(weight)))

    def sample(draws: np.ndarray) -> np.ndarray:
        totals = {key: np.tensordot(draws, part, 1) for key, part in sums.items()}
        each = draws @ weights
        pick = lambda i: Sums({key: total[i] for key, total in totals.items()}, each[i], pivot, reading.kind, name)
        return np.array([pick(i).value() for i in range(len(draws))])

    return sample
