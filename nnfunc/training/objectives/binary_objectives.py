"""Objectives of answers that are yes or no: one for each row, or one for each of several labels."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from nnfunc import check, losses, metrics
from nnfunc.base import Array, PyTree, Scalar
from nnfunc.training.objectives.objective import Objective
from nnfunc.training.objectives.objective_totals import (
    example_mask,
    input_and_target,
    masked_total,
    mean_objective,
    refuse_smoothing,
)


def binary(*, pos_weight: Scalar = 1.0, label_smoothing: Scalar = 0.0, gamma: Scalar | None = None) -> Objective:
    """Cross-entropy of one logit for each row, [batch] or [batch, 1], against targets 0 or 1, and the accuracy.

    Batches are pairs (x, target); targets are [batch] or [batch, 1], of any type, between 0 and 1.
    pos_weight: the factor of positive targets, at least 0; negatives / positives balances the two, and shifts the
        predicted probabilities.
    label_smoothing: the fraction of the target spread over both answers, in [0, 1].
    gamma: with it, the focal loss of that exponent, at least 0, without smoothing; pos_weight is then the ratio of
        its alpha to 1 - alpha.
    Metrics: accuracy, at a probability of 1/2.
    Raises: ValueError for numbers out of range, smoothing together with gamma, outputs that are not one logit for
    each row, and targets outside of [0, 1].
    Source: the convention of torch.nn.functional.binary_cross_entropy_with_logits; Lin et al. 2017,
    arXiv:1708.02002.

    >>> task = nf.Task(nf.linear(2, 1), nf.binary(pos_weight=3.0), nf.optimizers.sgd(0.1))
    >>> params = task.model.init(jax.random.key(0))
    >>> sorted(nf.evaluate(task, params, (np.ones((4, 2), np.float32), np.arange(4) % 2)))
    ['accuracy', 'loss']
    """
    where = "binary"
    check.number(where, 0, pos_weight=pos_weight)
    check.number(where, 0, 1, label_smoothing=label_smoothing)
    if gamma is not None:
        check.number(where, 0, gamma=gamma)
        refuse_smoothing(where, label_smoothing)

    def totals(predict, batch, mask):
        x, target = input_and_target(where, batch)
        logits = predict(x)
        _check_one_logit(where, logits, target)
        logits, target = jnp.reshape(logits, -1), jnp.reshape(jnp.asarray(target), -1)  # [batch]
        if gamma is None:
            options: dict[str, Any] = {"pos_weight": pos_weight, "label_smoothing": label_smoothing}
            loss = losses.binary_cross_entropy_with_logits(logits, target, **options)
        else:
            loss = losses.binary_focal(logits, target, gamma=gamma)
            truth = target.astype(loss.dtype)
            loss = loss * (truth * jnp.asarray(pos_weight).astype(loss.dtype) + (1 - truth))
        return _answer_totals(where, loss, logits, target, mask)

    def inspect(y, arrays):
        _check_one_logit(where, y, input_and_target(where, arrays)[1])
        _check_answers(where, arrays)

    return mean_objective(totals, inspect, "binary")


def multilabel(*, pos_weight: Scalar | Sequence[Scalar] = 1.0, label_smoothing: Scalar = 0.0) -> Objective:
    """Cross-entropy of logits [batch, labels] against targets 0 or 1 for each label, and the accuracy.

    Batches are pairs (x, targets [batch, labels]); targets are of any type, between 0 and 1. The loss is the mean over
    examples and labels.
    pos_weight: the factor of positive targets, at least 0: one number, or one for each label.
    label_smoothing: the fraction of the target spread over both answers, in [0, 1].
    Metrics: accuracy, the fraction of single answers that are right at a probability of 1/2.
    Raises: ValueError for numbers out of range, and targets of another shape or outside of [0, 1].
    Source: torch.nn.functional.binary_cross_entropy_with_logits.

    >>> task = nf.Task(nf.linear(2, 3), nf.multilabel(), nf.optimizers.sgd(0.1))
    >>> params = task.model.init(jax.random.key(0))
    >>> sorted(nf.evaluate(task, params, (np.ones((4, 2), np.float32), np.eye(4, 3, dtype=np.float32))))
    ['accuracy', 'loss']
    """
    where = "multilabel"
    check.number(where, 0, 1, label_smoothing=label_smoothing)
    check.at_least_0(where, pos_weight=pos_weight)

    def totals(predict, batch, mask):
        x, target = input_and_target(where, batch)
        logits = predict(x)
        check.same_shape(where, logits=logits, target=target)
        options: dict[str, Any] = {"pos_weight": pos_weight, "label_smoothing": label_smoothing}
        loss = losses.binary_cross_entropy_with_logits(logits, target, **options)
        return _answer_totals(where, loss, logits, target, mask)

    return mean_objective(totals, _targets_check(where), "labels")


def _answer_totals(where: str, loss: Array, logits: Array, target: Any, mask: Array | None) -> Any:
    counted = example_mask(where, mask, loss.shape)
    accuracy = metrics.binary_accuracy(logits, target)
    return {"loss": masked_total(loss, counted), "accuracy": masked_total(accuracy, counted)}


def _check_one_logit(where: str, logits: Any, target: Any) -> None:
    if np.ndim(logits) not in (1, 2) or np.shape(logits)[1:] not in ((), (1,)):
        expected, hint = (
            "the model should have one output, a logit",
            "For two classes with a logit each: classification.",
        )
        check.fail(where, expected=expected, actual=f"outputs of shape {np.shape(logits)}", hint=hint)
    if np.shape(target)[1:] not in ((), (1,)):
        check.fail(where, expected="targets should be [batch] or [batch, 1]", actual=f"shape {np.shape(target)}")


def _targets_check(where: str) -> Callable[[Any, PyTree], None]:
    def inspect(y, arrays):
        _, target = input_and_target(where, arrays)
        check.shape(where, y.shape[1:], "One for each label.", targets=np.zeros(np.shape(target)[1:], bool))
        _check_answers(where, arrays)

    return inspect


def _check_answers(where: str, arrays: PyTree) -> None:
    """Check that every target is between 0 and 1."""
    target = np.asarray(input_and_target(where, arrays)[1])
    wrong = np.argwhere(~((target >= 0) & (target <= 1)))
    if len(wrong):
        index = tuple(int(i) for i in wrong[0])
        actual = f"{target[index]} at index {index[0] if len(index) == 1 else index} ({len(wrong)} such targets)"
        check.fail(where, expected="targets should be 0 or 1, or a probability", actual=actual)
