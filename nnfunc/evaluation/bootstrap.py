"""Intervals of metrics by the bootstrap: the metrics of examples drawn again with replacement."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.evaluation.held_out import HeldOut
from nnfunc.evaluation.held_out_metrics import metric_names_of, row_weights
from nnfunc.evaluation.named_metrics import NamedMetric, find_metric
from nnfunc.evaluation.ranking import Ranking
from nnfunc.evaluation.readings import Reading

_CHUNK = 1 << 17  # numbers of one batch of resamples, which should fit into a processor's cache


def bootstrap(
    held_out: HeldOut, names: Sequence[str] | None = None, n: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """The interval (low, high) of each metric over resamples of the examples, whole sequences at a time.

    The percentiles of the metric of n resamples, each of as many examples as there are, drawn with replacement.
    held_out: outputs and targets.
    names: of metrics; None for those of the type.
    n: at least 1.
    seed: of the draws, at least 0.
    level: the fraction of the resamples inside of the interval, in (0, 1).
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
    samplers = list(_samplers(reading, weight, [name for name in names if name != "calibration_error"], count))
    values: dict[str, list[np.ndarray]] = {name: [] for name in names}
    random, step = np.random.default_rng(seed), max(1, _CHUNK // np.size(held_out.output))
    for start in range(0, n, step):
        draws = _draw(random, min(step, n - start), count)
        for sampler in samplers:
            with np.errstate(all="ignore"):
                for name, sample in sampler(draws).items():
                    values[name].append(sample)
    ends = [50 * (1 - level), 50 * (1 + level)]
    return {name: _interval(np.concatenate(parts or [np.full(1, np.nan)]), ends) for name, parts in values.items()}


def _draw(random: np.random.Generator, resamples: int, count: int) -> np.ndarray:
    """[resamples, count], how often each of the examples is drawn."""
    index = random.integers(0, count, (resamples, count)) + count * np.arange(resamples)[:, None]
    return np.bincount(index.ravel(), minlength=resamples * count).reshape(resamples, count).astype(np.float64)


def _interval(values: np.ndarray, ends: list[float]) -> tuple[float, float]:
    finite = values[~np.isnan(values)]
    low, high = np.percentile(finite, ends) if len(finite) else (np.nan, np.nan)
    return float(low), float(high)


Sampler = Callable[[np.ndarray], dict[str, np.ndarray]]
"""draws [resamples, examples], how often each example was drawn -> the metrics of each resample."""


def _samplers(reading: Reading, weight: np.ndarray, names: Sequence[str], count: int) -> Iterator[Sampler]:
    """One for all metrics of the same rows. weight: [rows]. count: of the examples."""
    groups: dict[Any, dict[str, NamedMetric]] = {}
    for name in names:
        metric = find_metric("bootstrap", reading.output_type, name)
        groups.setdefault(metric.rows, {})[name] = metric
    for rows, metrics in groups.items():
        if rows is None:
            yield partial(_sample_ranking, Ranking.of(reading), weight, list(metrics))
        else:
            yield partial(_sample_sums, *_sums_by_example(rows, reading, weight, count), metrics)


def _sample_ranking(ranking: Ranking, weight: np.ndarray, names: list[str], draws: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of each resample of ranked rows of these weights."""
    return ranking.means(names, np.repeat(draws, len(weight) // draws.shape[1], axis=1) * weight)


def _sums_by_example(
    rows: Any, reading: Reading, weight: np.ndarray, count: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(sums by name [examples, ...], weights [examples]) over the positions of each example."""
    with np.errstate(all="ignore"):
        parts = rows(np, reading)

    def by_example(part: np.ndarray) -> np.ndarray:
        spread = weight.reshape(-1, *(1,) * (part.ndim - 1))
        return np.where(spread > 0, part * spread, 0).reshape(count, reading.positions, *part.shape[1:]).sum(1)

    sums = {name: by_example(part) if name != "pivot" else part for name, part in parts.items()}
    return sums, by_example(np.ones(len(weight)))


def _sample_sums(
    sums: dict[str, np.ndarray], weights: np.ndarray, metrics: dict[str, NamedMetric], draws: np.ndarray
) -> dict[str, np.ndarray]:
    """The metrics of each resample of examples with these sums and weights."""
    total = draws @ weights
    totals = {name: np.tensordot(draws, part, 1) if name != "pivot" else part for name, part in sums.items()}
    counted = np.where(total > 0, total, 1)
    values = {name: metric.value(np, totals, counted) for name, metric in metrics.items() if metric.value is not None}
    return {name: np.where(total > 0, value, np.nan) for name, value in values.items()}
