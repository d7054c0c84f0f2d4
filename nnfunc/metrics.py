"""Metrics: values per example, and streaming metrics that accumulate over many batches.

Per example: functions such as `accuracy(logits, labels)`, one number for each example, as losses are.

Streaming: a `Metric(init, update, compute)`, plain functions that work inside jit and scan:

    metric = nf.metrics.collect(accuracy=nf.metrics.mean(nf.metrics.accuracy), f1=nf.metrics.f1(10))
    state = metric.init()
    for x, labels, mask in batches:                       # mask: False for the rows of padding
        state = metric.update(state, model.apply(params, x), labels, mask)
    print(metric.compute(state))                          # {"accuracy": ..., "f1": ...}

However the examples are cut into batches, the result is that of all at once, to rounding: counts
are integers (uint32, so up to 4.29e9 examples), and sums keep their rounding errors.
mask holds booleans, for the leading axes of the target; masked examples may hold anything, NaN
too. Elsewhere NaN is not hidden: a NaN loss or prediction makes a mean NaN, and a row of logits with a
NaN is never correct. The mean over no examples is NaN.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from nnfunc import check, losses
from nnfunc.base import Array, PyTree, canonicalize_arguments
from nnfunc.calls import explain_calls
from nnfunc.vector_norm import power_of_two

__all__ = [
    "Metric",
    "accuracy",
    "binary_accuracy",
    "calibration",
    "collect",
    "confusion",
    "f1",
    "mean",
    "perplexity",
    "precision",
    "r2",
    "recall",
    "top_k",
    "top_k_accuracy",
]

Average = Literal["macro", "micro", "weighted", "none"]


class Metric(NamedTuple):
    """A streaming metric, three pure functions over a state of arrays.

    init() -> state of no examples. update(state, prediction, target, mask=None) -> state with those
    of one batch added; mask [...] booleans, True for the examples that count. compute(state) -> the
    value.
    """

    init: Callable[[], PyTree]
    update: Callable[..., PyTree]
    compute: Callable[[PyTree], PyTree]


@canonicalize_arguments
def accuracy(logits: Array, labels: Array) -> Array:
    """1.0 where the largest logit is that of the true class, else 0.0; its mean is the accuracy.

    Among equal logits the first counts as the largest. A row with a NaN is wrong, and so is a label
    outside [0, classes).
    Shapes: logits [..., classes], labels [...] integers -> [...] float32.
    Raises: ValueError when labels.shape is not logits.shape[:-1]; TypeError when labels are not
    integers.

    >>> nf.metrics.accuracy(jnp.array([[1.0, 2.0], [1.0, 2.0]]), jnp.array([1, 0])).tolist()
    [1.0, 0.0]
    """
    labels = _labels("accuracy", logits, labels)
    correct = (_predicted(logits) == labels) & (labels >= 0)
    return correct.astype(jnp.float32)


@canonicalize_arguments
def top_k_accuracy(logits: Array, labels: Array, *, k: int = 5) -> Array:
    """1.0 where the true class is among the k largest logits, else 0.0.

    Among equal logits the first counts as the largest, so a model with equal logits for all classes
    is no better than chance. A row with a NaN is wrong, and so is a label outside [0, classes).
    Shapes: logits [..., classes], labels [...] integers -> [...] float32.
    Raises: ValueError when labels.shape is not logits.shape[:-1] or k is above the number of
    classes.

    >>> nf.metrics.top_k_accuracy(jnp.array([[1.0, 3.0, 2.0]]), jnp.array([2]), k=2).tolist()
    [1.0]
    """
    check.size("top_k_accuracy", k=k)
    labels = _labels("top_k_accuracy", logits, labels)[..., None]
    logits = jnp.asarray(logits)
    if k > logits.shape[-1]:
        expected = f"k should be at most the number of classes, {logits.shape[-1]}"
        check.fail("top_k_accuracy", expected=expected, actual=k)
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    classes = classes.reshape((1,) * (logits.ndim - 1) + classes.shape)
    hit = classes == labels
    of_label = jnp.where(hit, logits, 0).sum(-1, keepdims=True)
    ahead = ((logits > of_label) | ((logits == of_label) & (classes < labels))).sum(-1)
    correct = hit.any(-1) & ~jnp.isnan(logits).any(-1) & (ahead < k)
    return correct.astype(jnp.float32)


@canonicalize_arguments
def binary_accuracy(logits: Array, target: Array) -> Array:
    """1.0 where the logit is above 0 exactly when the target is above 1/2, else 0.0. NaN is wrong.

    Shapes: logits [...], target [...] 0 or 1 of any type -> [...] float32.
    Raises: ValueError when the shapes differ.

    >>> nf.metrics.binary_accuracy(jnp.array([0.3, 2.0]), jnp.array([0, 1])).tolist()
    [0.0, 1.0]
    """
    check.floating("binary_accuracy", logits=logits)
    check.same_shape("binary_accuracy", logits=logits, target=target)
    logits, target = jnp.asarray(logits), jnp.asarray(target, jnp.float32)
    known = ~jnp.isnan(logits) & ~jnp.isnan(target)
    return (((logits > 0) == (target > 0.5)) & known).astype(jnp.float32)


class Sum(NamedTuple):
    """A sum and its rounding error, so that millions of float32 values add up almost exactly."""

    total: Array
    error: Array

    @classmethod
    def zeros(cls, *shape: int) -> "Sum":
        return cls(jnp.zeros(shape), jnp.zeros(shape))

    def add(self, value: Array) -> "Sum":
        """Knuth's TwoSum: `total + value` and its exact rounding error."""
        value = value.astype(self.total.dtype)
        total = self.total + value
        saved = total - value
        return Sum(total, self.error + ((self.total - saved) + (value - (total - saved))))

    def times(self, power: Array) -> "Sum":
        """Both times a power of two, which rounds nothing."""
        return Sum(self.total * power, self.error * power)

    def value(self) -> Array:
        return jnp.where(jnp.isfinite(self.total), self.total + self.error, self.total)


class Mean(NamedTuple):
    """The state of `mean`: a sum, and the number of values in it."""

    sum: Sum
    count: Array


def mean(values: Callable[[Array, Array], Array]) -> Metric:
    """The mean over all examples of a loss or metric per example; mean(accuracy), mean(losses.mse).

    values: (prediction, target) -> values [...]; give further arguments by functools.partial.

    >>> metric = nf.metrics.mean(nf.losses.mae)
    >>> state = metric.update(metric.init(), jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0]))
    >>> state = metric.update(state, jnp.array([6.0]), jnp.array([0.0]))
    >>> float(metric.compute(state))
    3.0
    """

    def init():
        return Mean(Sum.zeros(), jnp.zeros((), jnp.uint32))

    @canonicalize_arguments
    def update(state, prediction, target, mask=None):
        return _add_values(state, jnp.asarray(values(prediction, target)), mask)

    def compute(state):
        total = state.sum.value()
        return total / state.count.astype(total.dtype)

    return Metric(init, update, compute)


def top_k(k: int = 5) -> Metric:
    """The fraction of examples whose true class is among the k largest logits; see `top_k_accuracy`.

    >>> metric = nf.metrics.top_k(2)
    >>> logits = jnp.array([[1.0, 3.0, 2.0], [1.0, 3.0, 2.0]])
    >>> float(metric.compute(metric.update(metric.init(), logits, jnp.array([2, 0]))))
    0.5
    """
    check.size("top_k", k=k)
    return mean(partial(top_k_accuracy, k=k))


def perplexity(*, ignore_index: int | None = None) -> Metric:
    """exp of the mean cross-entropy: the number of equally likely tokens that the model chooses among.

    update takes logits [..., classes] and labels [...].
    ignore_index: the label of positions that do not count. A label outside [0, classes) makes it NaN.

    >>> metric = nf.metrics.perplexity()
    >>> state = metric.update(metric.init(), jnp.zeros((2, 3, 8)), jnp.ones((2, 3), jnp.int32))
    >>> round(float(metric.compute(state)), 4)
    8.0
    """
    average = mean(losses.cross_entropy)

    @canonicalize_arguments
    def update(state, prediction, target, mask=None):
        nats = losses.cross_entropy(prediction, target, ignore_index=ignore_index)
        counted = _spread("perplexity", mask, nats.shape)
        if ignore_index is not None:
            labels = check.as_int32("perplexity", labels=target)
            counted = counted & (labels != jnp.asarray(ignore_index).astype(labels.dtype))
        return _add_values(state, nats, counted)

    return Metric(average.init, update, lambda state: jnp.exp(average.compute(state)))


class Variances(NamedTuple):
    """The state of `r2`: sums of squares about the prediction, and about the running mean."""

    count: Array
    mean: Array
    power: Array  # what values are divided by before they are squared; 0 before the first
    residual: Sum
    around_mean: Sum


def r2(outputs: int | None = None) -> Metric:
    """Coefficient of determination: the fraction of the target's variance that is explained.

    R2 = 1 - sum (target - prediction)^2 / sum (target - mean target)^2: 1 is perfect, 0 no better
    than the mean, and it can be negative. For a constant target 1 if met exactly, else 0. NaN below
    2 values.

    update takes prediction [...] and target [...] of one shape; mask [...], for the leading axes or
    all.
    outputs: without it all numbers count as one output; with it, the size of the last axis, R2 is the mean over the
        R2 of each.
    Source: sklearn.metrics.r2_score; the running variance is Chan et al. 1983.

    >>> metric = nf.metrics.r2()
    >>> state = metric.update(metric.init(), jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 2.0, 3.0]))
    >>> float(metric.compute(state))
    0.5
    """
    if outputs is not None:
        check.size("r2", outputs=outputs)
    sizes = () if outputs is None else (outputs,)

    def init():
        count = jnp.zeros(sizes, jnp.uint32)
        mean, power = jnp.zeros(sizes), jnp.zeros(sizes)
        return Variances(count, mean, power, Sum.zeros(*sizes), Sum.zeros(*sizes))

    @canonicalize_arguments
    def update(state, prediction, target, mask=None):
        check.floating("r2", prediction=prediction, target=target)
        check.same_shape("r2", "Nothing is broadcast.", prediction=prediction, target=target)
        if outputs is not None:
            check.shape("r2", (*np.shape(target)[:-1], outputs), target=target)
        dtype = state.mean.dtype
        mask = _spread("r2", mask, np.shape(target)).reshape(-1, *sizes)
        prediction, target = (jnp.asarray(x).astype(dtype).reshape(-1, *sizes) for x in (prediction, target))

        target, prediction = (jnp.where(mask, x, 0) for x in (target, prediction))
        largest = jnp.maximum(jnp.abs(target), jnp.abs(prediction)).max(0, initial=0)
        power = jnp.maximum(state.power, power_of_two(largest))
        before = state.count.astype(dtype)
        earlier = state.power / power
        target, prediction = target / power[None], prediction / power[None]

        def total(values):
            return jnp.where(mask, values, 0).sum(0)

        # Measured from one of its values, a constant target has a variance of exactly 0.
        pivot = jnp.where(mask, target, -jnp.inf).max(0, initial=-jnp.inf)
        pivot = jnp.where(jnp.isfinite(pivot), pivot, 0)
        added = mask.sum(0, dtype=jnp.uint32)
        new = added.astype(dtype)
        shift = total(target - pivot[None]) / jnp.maximum(new, 1)
        fraction = new / jnp.maximum(before + new, 1)
        step = pivot + shift - state.mean / power
        around = total(jnp.square(target - (pivot + shift)[None]))
        around += before * fraction * jnp.square(step)
        return Variances(
            state.count + added,
            state.mean + fraction * step * power,
            power,
            state.residual.times(earlier**2).add(total(jnp.square(target - prediction))),
            state.around_mean.times(earlier**2).add(around),
        )

    def compute(state):
        residual, around = state.residual.value(), state.around_mean.value()
        varies = around != 0
        explained = 1 - residual / jnp.where(varies, around, 1)
        constant = jnp.where(residual == 0, 1, residual * 0)
        score = jnp.where(varies, explained, constant)
        return losses.nan_unless(state.count >= 2, score).mean()

    return Metric(init, update, compute)


def confusion(classes: int) -> Metric:
    """The confusion matrix: counts of examples, [true class, predicted class].

    update takes labels [...] and either logits [..., classes] or predicted classes [...]. A row of
    logits with a NaN, and a label or prediction outside [0, classes), is in no cell.

    >>> metric = nf.metrics.confusion(2)
    >>> state = metric.update(metric.init(), jnp.array([0, 1, 1]), jnp.array([0, 0, 1]))
    >>> metric.compute(state).tolist()
    [[1, 1], [0, 1]]
    """
    check.size("confusion", classes=classes)
    none = classes  # one more row and column, for labels and predictions that are no class

    def init():
        return jnp.zeros((classes + 1, classes + 1), jnp.uint32)

    @canonicalize_arguments
    def update(state, prediction, target, mask=None):
        labels = check.as_int32("confusion", labels=target)
        if jnp.issubdtype(jnp.asarray(prediction).dtype, jnp.integer):
            check.same_shape("confusion", prediction=prediction, labels=target)
            predicted = check.as_int32("confusion", prediction=prediction)
        else:
            check.shape("confusion", (*labels.shape, classes), logits=prediction)
            check.floating("confusion", logits=prediction)
            predicted = _predicted(prediction)
        mask = _spread("confusion", mask, labels.shape)
        row, column = (jnp.where((x >= 0) & (x < classes), x, none) for x in (labels, predicted))
        return state.at[row, column].add(mask.astype(jnp.uint32))

    return Metric(init, update, lambda state: state[:classes, :classes])


def precision(classes: int, *, average: Average = "macro") -> Metric:
    """The fraction of the examples predicted to be of a class that are of it: tp / (tp + fp).

    average: as in `f1`, and so is what update takes.
    classes: how many there are, at least 1.

    >>> metric = nf.metrics.precision(2, average="none")
    >>> state = metric.update(metric.init(), jnp.array([0, 1, 1]), jnp.array([0, 0, 1]))
    >>> metric.compute(state).tolist()
    [1.0, 0.5]
    """
    return _score("precision", classes, average, lambda tp, predicted, true: (tp, predicted))


def recall(classes: int, *, average: Average = "macro") -> Metric:
    """The fraction of the examples of a class that are predicted to be of it: tp / (tp + fn).

    average: as in `f1`, and so is what update takes.
    classes: how many there are, at least 1.

    >>> metric = nf.metrics.recall(2, average="none")
    >>> state = metric.update(metric.init(), jnp.array([0, 1, 1]), jnp.array([0, 0, 1]))
    >>> metric.compute(state).tolist()
    [0.5, 1.0]
    """
    return _score("recall", classes, average, lambda tp, predicted, true: (tp, true))


def f1(classes: int, *, average: Average = "macro") -> Metric:
    """The harmonic mean of precision and recall, 2 tp / (2 tp + fp + fn).

    update takes labels [...] and either logits [..., classes] or predicted classes [...]. A row of
    logits with a NaN is missed by its class; a label outside [0, classes) makes the score NaN.
    average: "macro", the mean over classes; "weighted", by how many examples each has; "micro", from the counts of
        all classes; "none", one score for each class, [classes]. A class that neither occurs nor is predicted
        scores 0.
    Source: sklearn.metrics.f1_score with labels=range(classes), zero_division=0.

    >>> metric = nf.metrics.f1(2, average="none")
    >>> state = metric.update(metric.init(), jnp.array([0, 1, 1]), jnp.array([0, 0, 1]))
    >>> [round(float(score), 4) for score in metric.compute(state)]
    [0.6667, 0.6667]
    """
    return _score("f1", classes, average, lambda tp, predicted, true: (2 * tp, predicted + true))


class Bins(NamedTuple):
    """The state of `calibration`, each [bins]."""

    count: Array
    correct: Array
    confidence: Sum


def calibration(bins: int = 15) -> Metric:
    """Expected calibration error: how far, on average, confidence is from accuracy; in [0, 1].

    Examples fall into equal bins ((b - 1) / bins, b / bins] by confidence, the largest probability;
    error = sum over bins of (fraction of examples in it) * |its accuracy - its mean confidence|.

    update takes logits [..., classes] and labels [...].
    bins: their number, at least 1.
    Source: Guo et al. 2017, arXiv:1706.04599, equation 3.

    >>> metric = nf.metrics.calibration(bins=10)
    >>> logits = jnp.log(jnp.array([[0.8, 0.2], [0.8, 0.2]]))         # 80 % sure, half right
    >>> state = metric.update(metric.init(), logits, jnp.array([0, 1]))
    >>> round(float(metric.compute(state)), 4)
    0.3
    """
    check.size("calibration", bins=bins)

    def init():
        return Bins(jnp.zeros(bins, jnp.uint32), jnp.zeros(bins, jnp.uint32), Sum.zeros(bins))

    @canonicalize_arguments
    def update(state, prediction, target, mask=None):
        correct = accuracy(prediction, target)[..., None] > 0
        logits = jnp.asarray(prediction).astype(state.confidence.total.dtype)
        # The largest probability: that of its class
        confidence = jnp.exp(-losses.cross_entropy(logits, jnp.argmax(logits, -1)))[..., None]
        index = jnp.ceil(jnp.nan_to_num(confidence) * bins).astype(jnp.int32) - 1
        bin_ = jnp.arange(bins, dtype=jnp.int32).reshape((1,) * (index.ndim - 1) + (bins,))
        inside = jnp.clip(index, 0, bins - 1) == bin_
        inside = inside & _spread("calibration", mask, correct.shape[:-1])[..., None]
        axes = tuple(range(inside.ndim - 1))
        return Bins(
            state.count + inside.sum(axes, dtype=jnp.uint32),
            state.correct + (inside & correct).sum(axes, dtype=jnp.uint32),
            state.confidence.add(jnp.where(inside, confidence, 0).sum(axes)),
        )

    def compute(state):
        confidence = state.confidence.value()
        gaps = jnp.abs(state.correct.astype(confidence.dtype) - confidence)
        return gaps.sum() / state.count.sum().astype(confidence.dtype)

    return Metric(init, update, compute)


def collect(**metrics: Metric) -> Metric:
    """Several metrics as one: compute gives a dict of their values, by name.

    Raises: TypeError when one of them is not a streaming metric.

    >>> metric = nf.metrics.collect(mae=nf.metrics.mean(nf.losses.mae), r2=nf.metrics.r2())
    >>> state = metric.update(metric.init(), jnp.array([1.0, 2.0, 4.0]), jnp.array([1.0, 2.0, 3.0]))
    >>> {name: round(float(value), 4) for name, value in metric.compute(state).items()}
    {'mae': 0.3333, 'r2': 0.5}
    """
    for name, metric in metrics.items():
        if not isinstance(metric, Metric):
            hint = "For a function of each example: nf.metrics.mean(function)."
            expected, actual = f"{name} should be a Metric", check.describe(metric)
            check.fail("collect", expected=expected, actual=actual, hint=hint, exc_type=TypeError)

    def init():
        return {name: metric.init() for name, metric in metrics.items()}

    @canonicalize_arguments
    def update(state, prediction, target, mask=None):
        return {name: metric.update(state[name], prediction, target, mask) for name, metric in metrics.items()}

    def compute(state):
        return {name: metric.compute(state[name]) for name, metric in metrics.items()}

    return Metric(init, update, compute)


def _score(where: str, classes: int, average: Average, parts: Callable[..., tuple[Array, Array]]) -> Metric:
    """A score of each class, `numerator / denominator` of its counts, and an average of them."""
    check.size(where, classes=classes)
    check.choice(where, ("macro", "micro", "weighted", "none"), average=average)
    counts = confusion(classes)

    def compute(state):
        dtype = jnp.zeros(()).dtype
        tp = jnp.diagonal(state)[:classes]
        predicted, true = state.sum(0)[:classes], state.sum(1)[:classes]
        if average == "micro":
            tp, predicted, true = tp.sum(), predicted.sum(), true.sum()
        tp, predicted, true = (count.astype(dtype) for count in (tp, predicted, true))
        numerator, denominator = parts(tp, predicted, true)
        score = numerator / jnp.maximum(denominator, 1)
        if average == "macro":
            score = score.mean()
        elif average == "weighted":
            score = (score * true).sum() / jnp.maximum(true.sum(), 1)
        strange = state[classes].sum() > 0  # labels that are no class
        return losses.nan_unless(~strange & (state.sum() != 0), score)

    return Metric(counts.init, counts.update, compute)


def _add_values(state: Mean, values: Array, mask: Any) -> Mean:
    mask = _spread("mean", mask, values.shape)
    values = values.astype(state.sum.total.dtype)
    total = jnp.where(mask, values, 0).sum()
    return Mean(state.sum.add(total), state.count + mask.sum(dtype=jnp.uint32))


def _spread(where: str, mask: Any, shape: tuple[int, ...]) -> Array:
    """The mask of the leading axes, for every axis of shape; all True without a mask."""
    if mask is None:
        return jnp.ones(shape, bool)
    if getattr(mask, "dtype", None) != np.bool_:
        check.fail(where, expected="mask should hold booleans", actual=check.describe(mask), exc_type=TypeError)
    mask = jnp.asarray(mask)
    check.shape(where, shape[: mask.ndim], "It is that of the target.", mask=mask)
    return jnp.broadcast_to(mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim)), shape)


def _labels(where: str, logits: Any, labels: Any) -> Array:
    """The labels as int32, where they fit the logits."""
    check.floating(where, logits=logits)
    labels = check.as_int32(where, labels=labels)
    if np.ndim(logits) < 1:
        check.fail(where, expected="logits should have an axis of classes", actual="shape ()")
    check.labels_shape(where, logits, labels)
    return labels


def _predicted(logits: Any) -> Array:
    """The class of the largest logit; -1 where there is a NaN, which argmax would rank first."""
    logits = jnp.asarray(logits)
    return jnp.where(jnp.isnan(logits.max(-1)), -1, jnp.argmax(logits, axis=-1).astype(jnp.int32))


explain_calls(__name__)
