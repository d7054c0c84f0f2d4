"""The metrics by name, as sums over rows, which add up over batches, or exact ones of all rows at once."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc import check
from nnfunc.evaluation.entities import count_entities
from nnfunc.evaluation.readings import ANSWERS, CLASSES, NUMBERS, Reading

BINS = 15
"""The number of bins of the calibration error."""
_SMALLEST = 2.220446049250313e-16  # the smallest divisor of a relative error, as in scikit-learn


class NamedMetric(NamedTuple):
    """A metric by name: streaming, from sums over rows, or exact.

    rows: (xp, reading) -> arrays by name [rows, ...], which are summed; None for one of `Ranking.scores`, which
        needs all rows at once.
    value: (xp, sums, weight) -> the metrics [...] of sums [..., *outputs] over rows of these weights [...].
    mode: "max" where higher
    is better, else "min".
    outputs: the types of outputs that have it.
    """

    rows: Callable[[Any, Reading], dict[str, Any]] | None
    value: Callable[[Any, Any, Any], Any] | None
    mode: str
    outputs: tuple[str, ...]

    @property
    def is_exact(self) -> bool:
        """Whether it is one of all rows at once, in NumPy."""
        return self.rows is None

    @property
    def has_pivot(self) -> bool:
        """Whether its sums have a pivot, with which they cannot just be added."""
        return self.rows is _pivot_rows


@dataclass(frozen=True, eq=False)
class Sums:
    """Weighted sums over rows of a streaming metric, which add up over batches; a pytree.

    values: arrays by name.
    weight: the sum of the weights.
    pivot: what was subtracted from targets before they were squared, and the power of two that they were divided
        by; None for metrics that need none.
    output_type: of the outputs.
    name: of the metric.
    """

    values: dict[str, Any]
    weight: Any
    pivot: Any
    output_type: str
    name: str

    def add(self, other: "Sums", xp: Any = np) -> "Sums":
        """The sums of the rows of both; zeros are those of no rows. other: of the same metric. xp: numpy, or jax's."""
        first, second, pivot = self.values, other.values, self.pivot
        if pivot is not None:
            start = xp.where(self.weight > 0, self.pivot[0], other.pivot[0])
            pivot = start, xp.maximum(self.pivot[1], other.pivot[1])  # a power of 0 is that of no rows
            first, second = (_shift(xp, sums, pivot) for sums in (self, other))
        values = {name: part + second[name] for name, part in first.items()}
        return replace(self, values=values, weight=self.weight + other.weight, pivot=pivot)

    def value(self, xp: Any = np) -> Any:
        """The value of the metric; NaN without a row that counts. xp: numpy, or jax's."""
        metric = find_metric("metrics", self.output_type, self.name)
        assert metric.value is not None
        counted = xp.where(self.weight > 0, self.weight, 1)
        sums = self.values if self.pivot is None else self.values | {"pivot": self.pivot}
        return xp.where(self.weight > 0, metric.value(xp, sums, counted), np.nan)


jax.tree_util.register_dataclass(Sums, data_fields=["values", "weight", "pivot"], meta_fields=["output_type", "name"])


def row_sums(xp: Any, name: str, reading: Reading, weight: Any) -> Sums:
    """The sums of a streaming metric over rows.

    xp: numpy, or jax's.
    name: of the metric.
    reading: the rows.
    weight: [rows], 0 for those to leave out.
    """
    metric = find_metric("metrics", reading.output_type, name)
    assert metric.rows is not None
    if metric.has_pivot:  # rows that are left out have no influence on it
        counted = xp.reshape(weight > 0, (-1, *(1,) * (reading.target.ndim - 1)))
        target, prediction = (xp.where(counted, x, 0) for x in (reading.target, reading.prediction))
        reading = reading._replace(target=target, prediction=prediction)
    rows = metric.rows(xp, reading)
    values = {part: _weighted(xp, values, weight) for part, values in rows.items() if part != "pivot"}
    return Sums(values, xp.sum(weight), rows.get("pivot"), reading.output_type, name)


def _weighted(xp: Any, rows: Any, weight: Any) -> Any:
    spread = xp.reshape(weight, (-1, *(1,) * (rows.ndim - 1)))
    return xp.sum(xp.where(spread > 0, rows * spread, 0), axis=0)  # no product of matrices, which a GPU would round


def _shift(xp: Any, sums: Sums, pivot: Any) -> dict[str, Any]:
    """The sums with another pivot."""
    start, power = pivot[0], xp.where(pivot[1] > 0, pivot[1], 1)
    by, ratio = (sums.pivot[0] - start) / power, sums.pivot[1] / power
    total, square = sums.values["sum"] * ratio, sums.values["square"] * ratio**2
    moved = {"sum": total + sums.weight * by, "square": square + 2 * by * total + sums.weight * by * by}
    return moved | {"residual": sums.values["residual"] * ratio**2}


@lru_cache(maxsize=1024)
def find_metric(where: str, output_type: str, name: str) -> NamedMetric:
    """The metric of this name.

    where: begins the error.
    output_type: of the outputs, a value of `Objective.output_type`.
    name: of the metric.
    Raises: ValueError for a name that is no metric, or no metric of these outputs, with those that are.
    """
    top = re.fullmatch(r"top([1-9]\d*)_accuracy", name) if isinstance(name, str) else None
    if top and output_type in CLASSES:
        return NamedMetric(partial(_top_rows, count=int(top[1])), _mean, "max", CLASSES)
    metric = _METRICS.get(name) if isinstance(name, str) else None
    variants = [metric] if isinstance(metric, NamedMetric) else metric or []
    for variant in variants:
        if output_type in variant.outputs:
            return variant
    names = metric_names(output_type)
    if not names:
        check.fail(
            where, f"the objective has outputs of no known type, so it has no metrics by name, such as {name!r}."
        )
    expected = f"metrics should be names of metrics of outputs of the type {output_type!r}"
    near = check.nearest(str(name), names).removeprefix("; ")
    hint = near if near.startswith("did") else f"They are {', '.join(names)}."
    return check.fail(where, expected=expected, actual=repr(name), hint=hint)


def metric_names(output_type: str) -> list[str]:
    """The names of the metrics of outputs of a type, a value of `Objective.output_type`."""
    names = [
        name
        for name, metric in _METRICS.items()
        if any(output_type in variant.outputs for variant in ([metric] if isinstance(metric, NamedMetric) else metric))
    ]
    return names + (["top5_accuracy"] if output_type in CLASSES else [])


def default_names(output_type: str, classes: int = 0) -> list[str]:
    """The names of the metrics that a report shows. output_type: of the outputs. classes: their number, of classes."""
    names = _DEFAULTS.get(output_type, "").split()
    return names + (["top5_accuracy"] if output_type == "classes" and classes > 10 else [])


_DEFAULTS = {
    "classes": "accuracy balanced_accuracy precision recall f1 f1_weighted roc_auc average_precision log_loss brier "
    "calibration_error",
    "binary": "accuracy balanced_accuracy precision recall f1 roc_auc average_precision log_loss brier "
    "calibration_error",
    "labels": "accuracy subset_accuracy precision recall f1 f1_micro roc_auc average_precision log_loss brier "
    "calibration_error",
    "values": "mae rmse r2 mape",
    "quantiles": "mae rmse r2 mape coverage",
    "deviation": "nll mae rmse r2 mape coverage",
    "counts": "poisson_deviance mae rmse r2",
    "tokens": "accuracy log_loss perplexity bits_per_token",
    "tags": "accuracy balanced_accuracy precision recall f1 f1_micro log_loss",
}


def _mean(xp: Any, sums: Any, weight: Any) -> Any:
    """The mean over rows and then over outputs."""
    return _mean_outputs(xp, _over(sums["value"], weight), weight)


def _over(sums: Any, weight: Any) -> Any:
    """The sums [..., *outputs] divided by their weights [...]."""
    return sums / weight.reshape(weight.shape + (1,) * (sums.ndim - weight.ndim))


def _mean_outputs(xp: Any, values: Any, weight: Any) -> Any:
    """The mean of values [..., *outputs] over the outputs. weight: [...]."""
    return xp.mean(values, axis=tuple(range(weight.ndim, values.ndim))) if values.ndim > weight.ndim else values


def _mean_of(
    rows: Callable[[Any, Reading], Any], outputs: tuple[str, ...], mode: str = "min", finish: Any = None
) -> NamedMetric:
    """The metric that is the mean of the rows, each value of the means finished by a function (xp, means)."""
    if finish is None:
        return NamedMetric(_as_rows(rows), _mean, mode, outputs)
    value = lambda xp, sums, weight: _mean_outputs(xp, finish(xp, _over(sums["value"], weight)), weight)
    return NamedMetric(_as_rows(rows), value, mode, outputs)


@lru_cache
def _as_rows(rows: Callable[[Any, Reading], Any]) -> Callable[[Any, Reading], dict[str, Any]]:
    """The rows of a mean; metrics that are different functions of the same mean share them."""
    return lambda xp, reading: {"value": rows(xp, reading)}


def _one_hot(xp: Any, index: Any, count: int, dtype: Any) -> Any:
    return (index[:, None] == xp.arange(count, dtype=np.int32)[None, :]).astype(dtype)


def _of_label(xp: Any, reading: Reading, values: Any) -> Any:
    """[rows], the values [rows, classes] of the true class; 0 where that is no class."""
    hit = _one_hot(xp, reading.target, values.shape[-1], bool)
    return xp.sum(xp.where(hit, values, 0), axis=-1)


def _hits(xp: Any, reading: Reading) -> Any:
    """[rows], or [rows, labels]: 1.0 where the prediction is right."""
    return (reading.prediction == reading.target).astype(reading.counted.dtype)


def _top_rows(xp: Any, reading: Reading, count: int) -> dict[str, Any]:
    """Whether the true class is among the most probable ones; among equal ones the first counts as the largest."""
    values = reading.log_probability
    of_label = _of_label(xp, reading, values)[:, None]
    classes = xp.arange(values.shape[-1], dtype=np.int32)[None, :]
    label = reading.target[:, None]
    ahead = xp.sum((values > of_label) | ((values == of_label) & (classes < label)), axis=-1)
    return {"value": ((ahead < count) & (reading.prediction >= 0)).astype(values.dtype)}


def _nll(xp: Any, reading: Reading) -> Any:
    """Minus the log-probability of the truth: [rows], or [rows, labels]."""
    if reading.output_type in CLASSES:
        return -_of_label(xp, reading, reading.log_probability)
    return -xp.where(reading.target > 0, reading.log_probability, reading.log_no)


def _brier(xp: Any, reading: Reading) -> Any:
    if reading.output_type not in CLASSES:
        return xp.square(reading.probability - reading.target)
    classes = reading.probability.shape[-1]
    hit = _one_hot(xp, reading.target, classes, reading.probability.dtype)
    square = xp.sum(xp.square(reading.probability - hit), axis=-1)
    return square / 2 if classes == 2 else square  # as in scikit-learn


def _calibration_rows(xp: Any, reading: Reading) -> dict[str, Any]:
    """By bins: of classes the confidence and whether it is right, of answers the probability and the truth."""
    if reading.output_type in CLASSES:
        probability, truth = xp.max(reading.probability, axis=-1), _hits(xp, reading)
    else:
        probability, truth = reading.probability, reading.target
    index = xp.clip(xp.ceil(xp.nan_to_num(probability) * BINS).astype(np.int32) - 1, 0, BINS - 1)
    inside = (index[..., None] == xp.arange(BINS, dtype=np.int32).reshape((1,) * index.ndim + (-1,))).astype(
        probability.dtype
    )
    return {"count": inside, "confidence": inside * probability[..., None], "truth": inside * truth[..., None]}


def _calibration_value(xp: Any, sums: Any, weight: Any) -> Any:
    gap = xp.sum(xp.abs(sums["truth"] - sums["confidence"]), axis=-1)
    return _mean_outputs(xp, _over(gap, weight), weight)


def _count_rows(xp: Any, reading: Reading) -> dict[str, Any]:
    """For each class, or label: correct predictions, predictions and truths. Of binary answers, no and then yes."""
    if reading.output_type in CLASSES:
        classes = reading.probability.shape[-1]
        dtype = reading.probability.dtype
        predicted, true = (_one_hot(xp, ids, classes, dtype) for ids in (reading.prediction, reading.target))
    else:
        predicted, true = reading.prediction, reading.target
        if reading.output_type == "binary":
            predicted, true = (xp.concatenate([1 - part, part], axis=-1) for part in (predicted, true))
    return {"hit": predicted * true, "predicted": predicted, "true": true}


def _ratio(xp: Any, numerator: Any, denominator: Any) -> Any:
    """0 where the denominator is 0, as scikit-learn's zero_division=0."""
    return xp.where(denominator > 0, numerator / xp.where(denominator > 0, denominator, 1), 0)


_SCORES = {
    "precision": lambda counts: (counts["hit"], counts["predicted"]),
    "recall": lambda counts: (counts["hit"], counts["true"]),
    "f1": lambda counts: (2 * counts["hit"], counts["predicted"] + counts["true"]),
}
"""Counts by class -> the numerator and the denominator of a score."""


def _score(xp: Any, counts: Any, weight: Any, score: str, average: str) -> Any:
    """A score of counts by class, averaged: "macro", "micro", "weighted" by truths, "last" for that of yes."""
    del weight
    if average == "micro":
        counts = {name: xp.sum(part, axis=-1) for name, part in counts.items()}
    values = _ratio(xp, *_SCORES[score](counts))
    if average == "macro":
        return xp.mean(values, axis=-1)
    if average == "weighted":
        return _ratio(xp, xp.sum(values * counts["true"], axis=-1), xp.sum(counts["true"], axis=-1))
    return values[..., -1] if average == "last" else values


def _entity_score(xp: Any, counts: Any, weight: Any, score: str) -> Any:
    """A score of entities, all types together. counts: of `count_entities`."""
    del weight
    return _ratio(xp, *_SCORES[score](counts))


def _balanced(xp: Any, counts: Any, weight: Any) -> Any:
    """The mean recall of the classes that occur; of several labels the mean of each label's."""
    del weight
    occurs = counts["true"] > 0
    recalls = xp.where(occurs, counts["hit"] / xp.where(occurs, counts["true"], 1), 0)
    return xp.sum(recalls, axis=-1) / xp.sum(occurs, axis=-1)


def _scores(score: str) -> dict[str, Any]:
    """The variants of a score by name: macro, or that of yes for binary answers; micro; weighted."""

    def metric(average: str, outputs: tuple[str, ...]) -> NamedMetric:
        return NamedMetric(_count_rows, partial(_score, score=score, average=average), "max", outputs)

    several = ("classes", "tags", "labels")
    entity = NamedMetric(count_entities, partial(_entity_score, score=score), "max", ("tags",))
    variants: dict[str, Any] = {
        f"entity_{score}": entity,
        score: [metric("macro", several), metric("last", ("binary",))],
    }
    return variants | {f"{score}_{name}": metric(name, (*several, "binary")) for name in ("macro", "micro", "weighted")}


def _pivot_rows(xp: Any, reading: Reading) -> dict[str, Any]:
    """Targets from the first one on: squares of large numbers would lose their variance, or overflow."""
    pivot = reading.target[0]
    shifted, error = reading.target - pivot[None], reading.target - reading.prediction
    sizes = (xp.max(xp.where(xp.isfinite(x), xp.abs(x), 0), axis=0) for x in (shifted, error))
    largest, exponents = xp.maximum(*sizes), np.finfo(reading.target.dtype).maxexp
    most, shift = 2.0 ** (exponents * 20 // 64), 2.0 ** (exponents * 33 // 64)  # as in vector_norm
    power = xp.where(largest > most, shift, xp.where((largest > 0) & (largest < 1 / most), 1 / shift, 1.0))
    shifted, error = shifted / power[None], error / power[None]
    return {"sum": shifted, "square": xp.square(shifted), "residual": xp.square(error), "pivot": (pivot, power)}


def _r2_value(xp: Any, sums: Any, weight: Any) -> Any:
    around = xp.maximum(sums["square"] - _over(xp.square(sums["sum"]), weight), 0)
    explained = 1 - sums["residual"] / xp.where(around > 0, around, 1)
    constant = xp.where(sums["residual"] == 0, 1.0, 0.0)
    return xp.mean(xp.where(around > 0, explained, constant), axis=-1)


def _squared_error(xp: Any, sums: Any, weight: Any) -> Any:
    power = sums["pivot"][1]
    return xp.mean(_over(sums["residual"], weight) * power * power, axis=-1)


def _root_squared_error(xp: Any, sums: Any, weight: Any) -> Any:
    return xp.mean(xp.sqrt(_over(sums["residual"], weight)) * sums["pivot"][1], axis=-1)


def _error(xp: Any, reading: Reading) -> Any:
    return xp.abs(reading.target - reading.prediction)


def _gaussian(xp: Any, reading: Reading) -> Any:
    error = (reading.target - reading.prediction) / reading.deviation
    return xp.log(reading.deviation) + xp.square(error) / 2 + float(np.log(2 * np.pi) / 2)


def _covered(xp: Any, reading: Reading) -> Any:
    """1.0 where the target is between the outer quantiles, or in the central 90 % of the normal distribution."""
    low, high = reading.low, reading.high
    if reading.output_type == "deviation":
        reach = 1.6448536269514722 * reading.deviation
        low, high = reading.prediction - reach, reading.prediction + reach
    return ((reading.target >= low) & (reading.target <= high)).astype(reading.counted.dtype)


def _deviance(xp: Any, reading: Reading) -> Any:
    target, rate = reading.target, reading.prediction
    ratio = xp.where(target > 0, target, 1) / xp.where(target > 0, rate, 1)
    return 2 * (xp.where(target > 0, target * xp.log(ratio), 0) - target + rate)


_POINTS = ("classes", "tags")
_METRICS: dict[str, Any] = {
    "accuracy": _mean_of(_hits, CLASSES + ANSWERS, "max"),
    "subset_accuracy": _mean_of(lambda xp, r: xp.prod(_hits(xp, r), axis=-1), ("labels",), "max"),
    "balanced_accuracy": NamedMetric(_count_rows, _balanced, "max", (*_POINTS, "binary")),
    **_scores("precision"),
    **_scores("recall"),
    **_scores("f1"),
    "roc_auc": NamedMetric(None, None, "max", ("classes", *ANSWERS)),
    "average_precision": NamedMetric(None, None, "max", ("classes", *ANSWERS)),
    "log_loss": _mean_of(_nll, CLASSES + ANSWERS),
    "brier": _mean_of(_brier, _POINTS + ANSWERS),
    "calibration_error": NamedMetric(_calibration_rows, _calibration_value, "min", _POINTS + ANSWERS),
    "perplexity": _mean_of(_nll, ("tokens",), finish=lambda xp, mean: xp.exp(mean)),
    "bits_per_token": _mean_of(_nll, ("tokens",), finish=lambda xp, mean: mean / float(np.log(2))),
    "bits_per_character": _mean_of(_nll, ("tokens",), finish=lambda xp, mean: mean / float(np.log(2))),
    "mae": _mean_of(_error, NUMBERS),
    "mse": NamedMetric(_pivot_rows, _squared_error, "min", NUMBERS),
    "rmse": NamedMetric(_pivot_rows, _root_squared_error, "min", NUMBERS),
    "r2": NamedMetric(_pivot_rows, _r2_value, "max", NUMBERS),
    "mape": _mean_of(lambda xp, r: _error(xp, r) / xp.maximum(xp.abs(r.target), _SMALLEST), NUMBERS),
    "nll": _mean_of(_gaussian, ("deviation",)),
    "coverage": _mean_of(_covered, ("quantiles", "deviation"), "max"),
    "poisson_deviance": _mean_of(_deviance, ("counts",)),
}
