"""The loss and the accuracy of logits against class indices or probabilities of classes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, losses, metrics
from nnfunc.base import Array, PyTree, Scalar
from nnfunc.training.objectives.objective import Totals
from nnfunc.training.objectives.objective_totals import example_mask, input_and_target, masked_total


def is_soft(logits: Array, labels: Any) -> bool:
    """Whether labels are probabilities of classes: floats with as many axes as the logits."""
    floats = jnp.issubdtype(getattr(labels, "dtype", np.int32), jnp.floating)
    return floats and np.ndim(labels) == np.ndim(logits)


def cross_entropy_totals(
    where: str,
    logits: Array,
    labels: Any,
    mask: Array | None,
    *,
    label_smoothing: Scalar,
    ignore_index: int | None,
    weight: Any = None,
) -> Totals:
    """Cross-entropy and accuracy against class indices, or against probabilities of classes."""
    options = {"label_smoothing": label_smoothing, "weight": weight}
    if not is_soft(logits, labels):
        loss = losses.cross_entropy(logits, labels, ignore_index=ignore_index, **options)
        return label_totals(where, loss, logits, labels, mask, ignore_index=ignore_index, weight=weight)
    loss = losses.cross_entropy_dense(logits, labels, **options)
    counted = example_mask(where, mask, loss.shape)
    example_weight = None
    if weight is not None:
        table = jax.lax.broadcast_to_rank(jnp.asarray(weight, loss.dtype), labels.ndim)
        example_weight = (labels.astype(loss.dtype) * table).sum(-1)
    accuracy = metrics.accuracy(logits, labels.argmax(-1))
    return {"loss": masked_total(loss, counted, example_weight), "accuracy": masked_total(accuracy, counted)}


def label_totals(
    where: str, loss: Array, logits: Array, labels: Any, mask: Array | None, *, ignore_index: int | None, weight: Any
) -> Totals:
    """The totals of losses that are weighted already, by the weight of each label."""
    counted = example_mask(where, mask, loss.shape)
    ids = check.as_int32(where, labels=labels)
    if ignore_index is not None:
        counted = counted & (ids != jnp.asarray(ignore_index, jnp.int32))
    example_weight = None
    if weight is not None:
        table = jnp.asarray(weight, loss.dtype)
        check.shape(where, logits.shape[-1:], "It is one number a class.", weight=table)
        # [..., classes]
        classes = jax.lax.broadcast_to_rank(jnp.arange(len(table), dtype=jnp.int32), ids.ndim + 1)
        hit = ids[..., None] == classes
        example_weight = jnp.where(hit, jax.lax.broadcast_to_rank(table, ids.ndim + 1), 0).sum(-1)
    accuracy = metrics.accuracy(logits, ids)
    return {"loss": masked_total(loss, counted, example_weight), "accuracy": masked_total(accuracy, counted)}


def label_check(where: str, soft: bool = True, ignore_index: int | None = None) -> Callable[[Any, PyTree], None]:
    """The check that every label is a class of the model, or, if soft, probabilities of all classes."""
    if ignore_index is not None:
        check.number(where, -(2**31), 2**31 - 1, ignore_index=ignore_index)

    def inspect(y, arrays):
        _, labels = input_and_target(where, arrays)
        if soft and is_soft(y, labels):
            return _check_soft_labels(where, y.shape[-1], np.asarray(labels))
        check.integers(where, "They are class indices.", labels=labels)
        classes, values = y.shape[-1], np.asarray(labels)
        wrong = np.flatnonzero(((values < 0) | (values >= classes)) & (values != ignore_index))
        if wrong.size:
            index, value = int(wrong[0]), values.reshape(-1)[wrong[0]]
            expected = f"labels should be in [0, {classes}), one of the model's {classes} outputs"
            check.fail(where, expected=expected, actual=f"{value} at index {index} ({wrong.size} such labels)")

    return inspect


def _check_soft_labels(where: str, classes: int, labels: np.ndarray) -> None:
    if labels.shape[-1] != classes:
        expected = f"soft labels should be probabilities of the model's {classes} outputs"
        check.fail(where, expected=expected, actual=f"shape {labels.shape}")
    values = labels.reshape(-1, classes).astype(np.float32)
    valid = (values >= 0).all(1) & (abs(values.sum(1) - 1) < 1e-2)
    if not valid.all():
        index = int(np.flatnonzero(~valid)[0])
        expected = "soft labels should be at least 0 and add up to 1"
        check.fail(where, expected=expected, actual=f"{values[index]} at index {index} ({(~valid).sum()} such labels)")
