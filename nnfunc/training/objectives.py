"""What a model is to achieve: functions `(predict, batch) -> (loss, metrics)`.

Those given here are means over what counts: over examples, by their classes' weights, without ignored
labels. They also tell each mean's sum and weight (`Objective.totals`), which add up over batches of any
sizes, as an evaluation wants them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, losses, metrics
from nnfunc.base import Array, PyTree, Scalar

__all__ = ["Objective", "classification", "language_modelling", "regression"]

Totals = dict[str, tuple[Array, Array]]
"""{"loss": (sum, weight), metric: (sum, weight), ...}: they add up over batches."""


@dataclass(frozen=True)
class Objective:
    """A function (predict, batch) -> (loss, metrics), and a look at the data before the run.

    inspect(y, arrays): y is the shape and type of the model's output, arrays the whole data set;
    it raises ValueError when they do not fit. logits: whether y is that, over its last axis.
    totals(predict, batch, mask) -> {"loss": (sum, weight), metric: (sum, weight), ...}, whose ratios
    the function gives; for evaluations, which add them up over batches. mask [batch] holds booleans,
    False for examples that do not count and may hold anything; None counts all. Without it, the means
    of batches are weighed by their sizes.
    """

    function: Callable[[Any, PyTree], tuple[Array, dict[str, Array]]]
    inspect: Callable[[Any, PyTree], None] | None = None
    logits: bool = False
    totals: Callable[[Any, PyTree, Array | None], Totals] | None = None

    def __call__(self, predict: Any, batch: PyTree) -> tuple[Array, dict[str, Array]]:
        return self.function(predict, batch)


def _objective(
    totals: Callable[[Any, PyTree, Array | None], Totals], inspect: Any = None, logits: bool = False
) -> Objective:
    """The objective of means that are sum / weight, and 0 where nothing counts."""

    def function(predict, batch):
        means = {
            name: total / jnp.where(weight == 0, 1, weight)
            for name, (total, weight) in totals(predict, batch, None).items()
        }
        return means.pop("loss"), means

    return Objective(function, inspect, logits, totals)


def classification(
    *,
    label_smoothing: Scalar | None = None,
    gamma: Scalar | None = None,
    weight: Array | Sequence[Scalar] | None = None,
    ignore_index: int | None = None,
) -> Objective:
    """Cross-entropy of logits [batch, classes] against labels [batch], and the accuracy.

    Batches are pairs (x, labels); labels may also be soft, floats [batch, classes] that add up to 1, as
    `nf.augment.mixup` makes them. label_smoothing: the share of the target spread over all classes, in
    [0, 1]; None is 0. gamma: with it, the focal loss of that exponent (without smoothing, and of whole
    labels: it knows no shares).
    weight: one factor a class, at least 0. The loss is sum(w * loss) / sum(w) over the batch, w the
    weight of each example's label, so that multiplying all of them by 2 changes nothing; in soft labels
    w is their mean by the shares. For a plain mean write an objective of your own with
    `nf.losses.cross_entropy(..., weight=...)`. Evaluation sums both over the whole split.
    ignore_index: the label of examples, or of places of [batch, ...], that count in nothing. A batch in which
    nothing counts has a loss of 0, and a gradient of 0.
    Metrics: accuracy, each example counted once; of soft labels, that of their likeliest class.
    Source: torch.nn.functional.cross_entropy, which divides by sum(w) for whole labels only.
    """
    where = "classification"
    label_smoothing = 0.0 if label_smoothing is None else label_smoothing
    check.number(where, 0, 1, label_smoothing=label_smoothing)
    if weight is not None:
        check.at_least_0(where, weight=weight)
    if gamma is not None and not (check.is_plain(label_smoothing) and label_smoothing == 0):
        wanted = "label_smoothing should be 0 together with gamma: the focal loss has none"
        got = label_smoothing if check.is_plain(label_smoothing) else "one that a sweep or a schedule gives"
        check.fail(where, f"{wanted}, got {got}.")

    def totals(predict, batch, mask):
        x, labels = pair(where, batch)
        logits = predict(x)
        if gamma is None:
            return _judged(
                where, logits, labels, mask, ignore_index, label_smoothing=label_smoothing, class_weight=weight
            )
        if _soft(logits, labels):
            wanted = "labels should be class numbers together with gamma: focal loss knows no shares"
            got = check.describe(labels)
            check.fail(where, f"{wanted}, got {got}. Leave out gamma, or what mixes them.")
        loss = losses.focal(logits, labels, gamma=gamma, alpha=weight, ignore_index=ignore_index)
        return _of_labels(where, loss, logits, labels, mask, ignore_index, weight)

    inspect = _labels_fit(where, soft=gamma is None, ignore_index=ignore_index)
    return _objective(totals, inspect, logits=True)


def regression(loss: Literal["mse", "mae", "huber"] = "mse", *, delta: Scalar = 1.0) -> Objective:
    """The mean error of predictions against targets of the same shape.

    Batches are pairs (x, target). loss: "mse" (squared), "mae" (absolute), "huber" (with delta).
    Metrics: mae.
    """
    check.choice("regression", ("mse", "mae", "huber"), loss=loss)

    def totals(predict, batch, mask):
        x, target = pair("regression", batch)
        y = predict(x)
        absolute = losses.mae(y, target)
        if loss == "huber":
            value = losses.huber(y, target, delta=delta)
        else:
            value = absolute if loss == "mae" else losses.mse(y, target)
        counted = _counted("regression", mask, value.shape)
        return {"loss": _total(value, counted), "mae": _total(absolute, counted)}

    return _objective(totals)


def language_modelling(*, label_smoothing: Scalar = 0.0, ignore_index: int | None = None) -> Objective:
    """Cross-entropy of logits [batch, time, vocab_size] against the next tokens [batch, time].

    Batches are pairs (tokens, next tokens); the latter may also be soft, floats [batch, time,
    vocabulary] that add up to 1, such as a teacher's. The loss is in nats a token; accuracy is that of
    the likeliest token.
    label_smoothing: the share of the target spread over all tokens, in [0, 1]. ignore_index: the token, such as
    padding, that does not count as a next token, in loss and accuracy, in training and evaluation:
    both are means over the tokens that count. It may stand outside of the vocabulary, as -100 does. A
    batch in which nothing counts has a loss of 0, and a gradient of 0.
    Source: ignore_index of torch.nn.functional.cross_entropy.
    """
    where = "language_modelling"
    check.number(where, 0, 1, label_smoothing=label_smoothing)

    def totals(predict, batch, mask):
        tokens, following = pair(where, batch)
        return _judged(where, predict(tokens), following, mask, ignore_index, label_smoothing=label_smoothing)

    return _objective(totals, _labels_fit(where, ignore_index=ignore_index), logits=True)


def pair(where: str, batch: PyTree) -> tuple[PyTree, Any]:
    """The two parts of a batch (x, target)."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = check.describe(batch)
        check.fail(where, f"a batch should be a pair (x, target), got {got}.", exc_type=TypeError)
    return batch[0], batch[1]


def _soft(logits: Array, labels: Any) -> bool:
    """Whether labels are shares of classes: floats with as many axes as the logits."""
    floats = jnp.issubdtype(getattr(labels, "dtype", np.int32), jnp.floating)
    return floats and np.ndim(labels) == np.ndim(logits)


def _judged(
    where: str,
    logits: Array,
    labels: Any,
    mask: Array | None,
    ignore_index: int | None,
    *,
    label_smoothing: Scalar,
    class_weight: Any = None,
) -> Totals:
    """Cross-entropy and accuracy against class numbers, or against shares of classes."""
    settings = {"label_smoothing": label_smoothing, "weight": class_weight}
    if not _soft(logits, labels):
        loss = losses.cross_entropy(logits, labels, ignore_index=ignore_index, **settings)
        return _of_labels(where, loss, logits, labels, mask, ignore_index, class_weight)
    loss = losses.cross_entropy_dense(logits, labels, **settings)
    counted = _counted(where, mask, loss.shape)
    weight = None
    if class_weight is not None:
        table = jax.lax.broadcast_to_rank(jnp.asarray(class_weight, loss.dtype), labels.ndim)
        weight = (labels.astype(loss.dtype) * table).sum(-1)
    accuracy = metrics.accuracy(logits, labels.argmax(-1))
    return {"loss": _total(loss, counted, weight), "accuracy": _total(accuracy, counted)}


def _of_labels(
    where: str, loss: Array, logits: Array, labels: Any, mask: Array | None, ignore_index: int | None, class_weight: Any
) -> Totals:
    """The totals of losses that are weighed already, by the weight of each label."""
    counted = _counted(where, mask, loss.shape)
    ids = check.as_int32(where, labels=labels)
    if ignore_index is not None:
        counted = counted & (ids != jnp.asarray(ignore_index, jnp.int32))
    weight = None
    if class_weight is not None:
        table = jnp.asarray(class_weight, loss.dtype)
        check.shape(where, logits.shape[-1:], "It is one number a class.", weight=table)
        # [..., classes]
        classes = jax.lax.broadcast_to_rank(jnp.arange(len(table), dtype=jnp.int32), ids.ndim + 1)
        hit = ids[..., None] == classes
        weight = jnp.where(hit, jax.lax.broadcast_to_rank(table, ids.ndim + 1), 0).sum(-1)
    accuracy = metrics.accuracy(logits, ids)
    return {"loss": _total(loss, counted, weight), "accuracy": _total(accuracy, counted)}


def _counted(where: str, mask: Array | None, shape: tuple[int, ...]) -> Array:
    """Which of the values in this shape count: those of the examples that the mask counts."""
    if mask is None:
        return jnp.ones(shape, bool)
    check.shape(where, shape[:1], mask=mask)
    return jnp.broadcast_to(mask.reshape(-1, *(1,) * (len(shape) - 1)), shape)


def _total(values: Array, counted: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """(sum, weight) of the values that count; each counts as much as any other without a weight."""
    weight = jnp.ones_like(values) if weight is None else weight
    return jnp.where(counted, values, 0).sum(), jnp.where(counted, weight, 0).sum()


def _labels_fit(where: str, soft: bool = True, ignore_index: int | None = None) -> Callable[[Any, PyTree], None]:
    """Every label is a class that the model has an output for, or, if soft, shares of all of them."""
    if ignore_index is not None:
        check.number(where, -(2**31), 2**31 - 1, ignore_index=ignore_index)

    def inspect(y, arrays):
        _, labels = pair(where, arrays)
        if soft and _soft(y, labels):
            return _shares_fit(where, y.shape[-1], np.asarray(labels))
        check.integers(where, "They are class numbers.", labels=labels)
        classes, values = y.shape[-1], np.asarray(labels)
        wrong = np.flatnonzero(((values < 0) | (values >= classes)) & (values != ignore_index))
        if wrong.size:
            at, value = int(wrong[0]), values.reshape(-1)[wrong[0]]
            wanted = f"labels should be in [0, {classes}), one of the model's {classes} outputs"
            check.fail(where, f"{wanted}, got {value} at place {at} ({wrong.size} such labels).")

    return inspect


def _shares_fit(where: str, classes: int, labels: np.ndarray) -> None:
    if labels.shape[-1] != classes:
        wanted = f"soft labels should be shares of the model's {classes} outputs"
        check.fail(where, f"{wanted}, got shape {labels.shape}.")
    values = labels.reshape(-1, classes).astype(np.float32)
    fine = (values >= 0).all(1) & (abs(values.sum(1) - 1) < 1e-2)
    if not fine.all():
        at = int(np.flatnonzero(~fine)[0])
        wanted = "soft labels should be at least 0 and add up to 1"
        check.fail(where, f"{wanted}, got {values[at]} at place {at} ({(~fine).sum()} such labels).")
