"""Objectives: functions `(predict, batch) -> (loss, metrics)`.

The objectives of this module are means over the examples that count: weighted by class, and without
ignored labels. They also give the sum and the weight of each mean (`Objective.totals`), which an
evaluation adds up over batches of any sizes.
"""

import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, losses, metrics
from nnfunc.base import Array, Key, PyTree, Scalar, fold, named_parameters
from nnfunc.calls import Described, factory_hint

__all__ = [
    "Objective",
    "ObjectiveFunction",
    "call_objective",
    "check_objective",
    "check_result",
    "classification",
    "draws_numbers",
    "language_modelling",
    "regression",
]

Totals = dict[str, tuple[Array, Array]]
"""{"loss": (sum, weight), metric: (sum, weight), ...}: they add up over batches."""
ObjectiveFunction = Callable[..., tuple[Array, dict[str, Array]]]
"""(predict, batch) -> (loss, metrics), with parameters named `key` and `step` where it reads them."""


@dataclass(frozen=True, repr=False)
class Objective(Described):
    """An objective with a check of the data before the run, and totals for evaluations.

    function: (predict, batch) -> (loss, metrics). inspect: (y, arrays) -> None; y is the shape and dtype
    of the model's output, arrays the whole data set; it raises ValueError when they do not fit. logits:
    whether y are logits, classes on the last axis. totals: (predict, batch, mask) -> {"loss": (sum,
    weight), metric: (sum, weight), ...}, whose ratios are the values of function; an evaluation adds them
    up over batches. mask [batch] holds booleans, False for examples that do not count and may hold
    anything; None counts all. Without totals the means of batches are weighted by their sizes.
    function and totals are also passed key and step if they have parameters of these names.
    """

    function: ObjectiveFunction
    inspect: Callable[[Any, PyTree], None] | None = None
    logits: bool = False
    totals: Callable[..., Totals] | None = None

    def __repr__(self) -> str:
        return super().__repr__() if self.factory_call else f"Objective({check.short_repr(self.function)})"

    def __call__(self, predict: Any, batch: PyTree, **arguments: Any) -> tuple[Array, dict[str, Array]]:
        return self.function(predict, batch, **arguments)


def _parameters(objective: Any) -> Collection[str]:
    """The names of the parameters of the function that an objective is made of."""
    while isinstance(objective, Objective):
        objective = objective.function
    return named_parameters(objective)


def draws_numbers(objective: Any) -> bool:
    """Whether an objective has a parameter named key, and so may draw random numbers."""
    return "key" in _parameters(objective)


def call_objective(function: Any, predict: Any, batch: PyTree, *args: Any, key: Key | None, step: Any) -> Any:
    """function(predict, batch, *args), with `key` and `step` if it has parameters of these names.

    function: an objective, or its totals. predict, batch, args: passed to it. key: the step's key, of
    which the objective gets a key of its own, so that the model's masks stay the same; None in an
    evaluation, where it always gets the same key. step: the 0-based step.
    """
    names = _parameters(function)
    arguments: dict[str, Any] = {}
    if "key" in names:
        arguments["key"] = fold(jax.random.key(0) if key is None else key, "objective")
    if "step" in names:
        arguments["step"] = jnp.asarray(step, jnp.int32)
    return function(predict, batch, *args, **arguments)


def check_result(result: Any) -> tuple[Any, dict[str, Any]]:
    """The (loss, metrics) that an objective returned. Raises: TypeError for anything else."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        expected = "it should return (loss, metrics), metrics being a dict such as {}"
        check.fail("objective", expected=expected, actual=check.describe(result), exc_type=TypeError)
    return result


def check_objective(where: str, objective: Any) -> None:
    """Refuse an objective that cannot be called as (predict, batch), with key and step by name.

    where: the function that refuses. objective: what a Task was given.
    """
    expected = "the objective should be a function (predict, batch) -> (loss, metrics), such as nf.classification()"
    hint = factory_hint(objective, Objective)
    if not callable(objective) or hint:
        check.fail(where, expected=expected, actual=check.describe(objective), hint=hint, exc_type=TypeError)
    function = objective
    while isinstance(function, Objective):
        function = function.function
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a builtin without a signature
        return
    arguments = {name: None for name in ("key", "step") if name in _parameters(function)}
    try:
        signature.bind(None, None, **arguments)
    except TypeError:
        hint = "Beside predict and batch it may have parameters named key and step."
        check.fail(where, expected=expected, actual=f"parameters {signature}", hint=hint, exc_type=TypeError)


def _mean_objective(totals: Callable[..., Totals], inspect: Any = None, logits: bool = False) -> Objective:
    """The objective of means that are sum / weight, and 0 where no example counts."""

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
    `nf.augment.mixup` makes them.
    label_smoothing: the fraction of the target spread over all classes, in [0, 1]; None is 0. gamma: with
    it, the focal loss of that exponent (without smoothing, and of class indices only).
    weight: one factor a class, at least 0. The loss is sum(w * loss) / sum(w) over the batch, w the
    weight of each example's label, so that multiplying all of them by 2 changes nothing; for soft labels
    w is the mean of the weights under the label's probabilities. For a plain mean write an objective with
    `nf.losses.cross_entropy`. Evaluation sums both over the whole split.
    ignore_index: the label of examples, or of positions of [batch, ...], that are left out of every mean.
    A batch without any other has a loss of 0, and a gradient of 0.
    Metrics: accuracy, each example counted once; for soft labels, that of their most probable class.
    Raises: ValueError for smoothing together with gamma, and for labels that are not classes of the model.
    Source: torch.nn.functional.cross_entropy, which divides by sum(w) for class indices only.

    >>> task = nf.Task(nf.linear(2, 3), nf.classification(label_smoothing=0.1), nf.optimizers.sgd(0.1))
    >>> params = task.model.init(jax.random.key(0))
    >>> sorted(nf.evaluate(task, params, (np.ones((4, 2), np.float32), np.arange(4) % 3)))
    ['accuracy', 'loss']
    """
    where = "classification"
    label_smoothing = 0.0 if label_smoothing is None else label_smoothing
    check.number(where, 0, 1, label_smoothing=label_smoothing)
    if weight is not None:
        check.at_least_0(where, weight=weight)
    if gamma is not None and not (check.is_plain(label_smoothing) and label_smoothing == 0):
        expected = "label_smoothing should be 0 together with gamma: the focal loss has none"
        traced = "one that a sweep or a schedule gives"
        check.fail(where, expected=expected, actual=label_smoothing if check.is_plain(label_smoothing) else traced)

    def totals(predict, batch, mask):
        x, labels = input_and_target(where, batch)
        logits = predict(x)
        options = {"weight": weight, "ignore_index": ignore_index}
        if gamma is None:
            return _cross_entropy_totals(where, logits, labels, mask, label_smoothing=label_smoothing, **options)
        if _is_soft(logits, labels):
            expected = "labels should be class indices together with gamma: the focal loss takes no probabilities"
            check.fail(where, expected=expected, actual=check.describe(labels), hint="Remove gamma, or mixup.")
        loss = losses.focal(logits, labels, gamma=gamma, alpha=weight, ignore_index=ignore_index)
        return _label_totals(where, loss, logits, labels, mask, **options)

    return _mean_objective(totals, _label_check(where, soft=gamma is None, ignore_index=ignore_index), logits=True)


def regression(loss: Literal["mse", "mae", "huber"] = "mse", *, delta: Scalar = 1.0) -> Objective:
    """The mean error of predictions against targets of the same shape.

    Batches are pairs (x, target). Metrics: mae.
    loss: "mse" (squared), "mae" (absolute), "huber" (squared up to delta, then linear). delta: of huber,
    above 0.

    >>> task = nf.Task(nf.linear(2, 1), nf.regression("huber"), nf.optimizers.sgd(0.1))
    >>> params = task.model.init(jax.random.key(0))
    >>> sorted(nf.evaluate(task, params, (np.ones((4, 2), np.float32), np.ones((4, 1), np.float32))))
    ['loss', 'mae']
    """
    where = "regression"
    check.choice(where, ("mse", "mae", "huber"), loss=loss)

    def totals(predict, batch, mask):
        x, target = input_and_target(where, batch)
        y = predict(x)
        options = {"delta": delta} if loss == "huber" else {}
        value = getattr(losses, loss)(y, target, **options)  # before mae, for its errors
        absolute = losses.mae(y, target)
        counted = _example_mask(where, mask, value.shape)
        return {"loss": _masked_total(value, counted), "mae": _masked_total(absolute, counted)}

    return _mean_objective(totals)


def language_modelling(*, label_smoothing: Scalar = 0.0, ignore_index: int | None = None) -> Objective:
    """Cross-entropy of logits [batch, time, vocab_size] against the next tokens [batch, time].

    Batches are pairs (tokens, next tokens); the latter may also be soft, floats [batch, time, vocab_size]
    that add up to 1, such as a teacher's. The loss is in nats a token; accuracy is that of the most
    probable token.
    label_smoothing: the fraction of the target spread over all tokens, in [0, 1]. ignore_index: the token,
    such as padding, that is left out as a next token, in loss and accuracy, in training and evaluation:
    both are means over the other tokens. It may lie outside of the vocabulary, as -100 does. A batch
    without any other token has a loss of 0, and a gradient of 0.
    Raises: ValueError for tokens that are not in the model's vocabulary.
    Source: ignore_index of torch.nn.functional.cross_entropy.

    >>> model = nf.rnn_lm(5, dim=4)
    >>> task = nf.Task(model, nf.language_modelling(), nf.optimizers.sgd(0.1))
    >>> tokens = np.arange(8).reshape(2, 4) % 5
    >>> sorted(nf.evaluate(task, model.init(jax.random.key(0)), (tokens, tokens)))
    ['accuracy', 'loss']
    """
    where = "language_modelling"
    check.number(where, 0, 1, label_smoothing=label_smoothing)

    def totals(predict, batch, mask):
        tokens, labels = input_and_target(where, batch)
        options = {"label_smoothing": label_smoothing, "ignore_index": ignore_index}
        return _cross_entropy_totals(where, predict(tokens), labels, mask, **options)

    return _mean_objective(totals, _label_check(where, ignore_index=ignore_index), logits=True)


def input_and_target(where: str, batch: PyTree) -> tuple[PyTree, Any]:
    """The two parts of a batch (x, target)."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        expected = "a batch should be a pair (x, target)"
        check.fail(where, expected=expected, actual=check.describe(batch), exc_type=TypeError)
    return batch[0], batch[1]


def _is_soft(logits: Array, labels: Any) -> bool:
    """Whether labels are probabilities of classes: floats with as many axes as the logits."""
    floats = jnp.issubdtype(getattr(labels, "dtype", np.int32), jnp.floating)
    return floats and np.ndim(labels) == np.ndim(logits)


def _cross_entropy_totals(
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
    if not _is_soft(logits, labels):
        loss = losses.cross_entropy(logits, labels, ignore_index=ignore_index, **options)
        return _label_totals(where, loss, logits, labels, mask, ignore_index=ignore_index, weight=weight)
    loss = losses.cross_entropy_dense(logits, labels, **options)
    counted = _example_mask(where, mask, loss.shape)
    example_weight = None
    if weight is not None:
        table = jax.lax.broadcast_to_rank(jnp.asarray(weight, loss.dtype), labels.ndim)
        example_weight = (labels.astype(loss.dtype) * table).sum(-1)
    accuracy = metrics.accuracy(logits, labels.argmax(-1))
    return {"loss": _masked_total(loss, counted, example_weight), "accuracy": _masked_total(accuracy, counted)}


def _label_totals(
    where: str, loss: Array, logits: Array, labels: Any, mask: Array | None, *, ignore_index: int | None, weight: Any
) -> Totals:
    """The totals of losses that are weighted already, by the weight of each label."""
    counted = _example_mask(where, mask, loss.shape)
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
    return {"loss": _masked_total(loss, counted, example_weight), "accuracy": _masked_total(accuracy, counted)}


def _example_mask(where: str, mask: Array | None, shape: tuple[int, ...]) -> Array:
    """Which of the values in this shape count: those of the examples in the mask."""
    if mask is None:
        return jnp.ones(shape, bool)
    check.shape(where, shape[:1], mask=mask)
    return jnp.broadcast_to(mask.reshape(-1, *(1,) * (len(shape) - 1)), shape)  # from [batch, 1, ...]


def _masked_total(values: Array, counted: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """(sum, weight) of the values that count; without weight each has the weight 1."""
    weight = jnp.ones_like(values) if weight is None else weight
    return jnp.where(counted, values, 0).sum(), jnp.where(counted, weight, 0).sum()


def _label_check(where: str, soft: bool = True, ignore_index: int | None = None) -> Callable[[Any, PyTree], None]:
    """The check that every label is a class of the model, or, if soft, probabilities of all classes."""
    if ignore_index is not None:
        check.number(where, -(2**31), 2**31 - 1, ignore_index=ignore_index)

    def inspect(y, arrays):
        _, labels = input_and_target(where, arrays)
        if soft and _is_soft(y, labels):
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
