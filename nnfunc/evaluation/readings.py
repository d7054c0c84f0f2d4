"""How raw outputs and targets are read, by their type: classes, probabilities, values, and which rows count."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from nnfunc import check

CLASSES = ("classes", "tokens", "tags")
ANSWERS = ("binary", "labels")
NUMBERS = ("values", "quantiles", "deviation", "counts")
"""The values of `Objective.output_type`, by what the outputs say: one of several classes, yes or no, numbers."""


class Reading(NamedTuple):
    """Outputs and targets as rows: examples, or their positions.

    output_type: of the outputs.
    target: labels [rows], answers [rows, labels] of 0 and 1, or numbers [rows, outputs].
    prediction: the same of the model; a row of logits with a NaN has the class -1.
    counted: [rows], 1.0 for rows that count, else 0.0.
    log_probability, probability: [rows, classes] of classes, [rows, labels] of answers, else None.
    deviation: [rows, outputs] of type "deviation".
    low, high: [rows, outputs], the outer quantiles.
    positions: rows for each example.
    log_no: [rows, labels] of answers, the logarithm of the probability of no.
    names: of tags, or None.
    """

    output_type: str
    target: Any
    prediction: Any
    counted: Any
    log_probability: Any = None
    probability: Any = None
    deviation: Any = None
    low: Any = None
    high: Any = None
    positions: int = 1
    log_no: Any = None
    names: tuple[str, ...] | None = None


def read(
    xp: Any, output_type: str, output: Any, target: Any, threshold: Any = None, names: tuple[str, ...] | None = None
) -> Reading:
    """The reading of outputs and targets.

    xp: numpy, which computes in float64, or jax.numpy, in at least float32.
    output_type: a value of `Objective.output_type`.
    output, target: [n, ...].
    threshold: the probability from which on an answer is yes, one number or one for each label; None for logits
        above 0.
    names: of the classes or tags, for metrics that read them.
    Raises: ValueError for a type without a reading, and outputs whose shape does not fit the targets.
    """
    dtype = np.float64 if xp is np else np.float32
    if output_type == "deviation" and isinstance(output, tuple | list):
        output = xp.concatenate([xp.reshape(xp.asarray(part), (len(part), -1)) for part in output], axis=1)
    output = xp.asarray(output)
    output = output.astype(np.promote_types(output.dtype, dtype))
    target = xp.asarray(target)
    if output_type in CLASSES:
        return _read_classes(xp, output_type, output, target)._replace(names=names)
    if output_type in ANSWERS:
        return _read_answers(xp, output_type, output, target, threshold)
    if output_type in NUMBERS:
        return _read_numbers(xp, output_type, output, target)
    hint = "Give the objective an output_type of nnfunc.training.objectives.OUTPUT_TYPES."
    return check.fail("metrics", f"outputs of the type {output_type!r} have no metrics by name.", hint=hint)


def mark_ignored(target: Any, output_type: str, ignore_index: int | None) -> Any:
    """The labels, with -100 for those that do not count; probabilities of classes, and other targets, as they are.

    target: [n, ...], NumPy's or JAX's, of any type.
    output_type: of the outputs.
    ignore_index: `Objective.ignore_index`.
    """
    if output_type not in CLASSES or ignore_index is None or not np.issubdtype(target.dtype, np.integer):
        return target
    if isinstance(target, np.ndarray):
        target = target.astype(np.int64)  # a small type would wrap -100 into a class
        return np.where(target == ignore_index, -100, target)
    target = check.as_int32("metrics", labels=target)
    return jnp.where(target == jnp.asarray(ignore_index, jnp.int32), -100, target)


def _read_classes(xp: Any, output_type: str, logits: Any, target: Any) -> Reading:
    classes = logits.shape[-1]
    if target.ndim == logits.ndim:  # probabilities of the classes
        target = xp.argmax(target, -1)
    _check_size(output_type, logits, target.shape, classes)
    positions = int(np.prod(logits.shape[1:-1]))
    logits, target = xp.reshape(logits, (-1, classes)), xp.reshape(target, -1).astype(np.int32)
    top = xp.max(logits, axis=-1, keepdims=True)
    shifted = logits - top
    log_probability = shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))
    prediction = xp.where(xp.isnan(top[:, 0]), -1, xp.argmax(logits, axis=-1).astype(np.int32))
    counted = ((target >= 0) & (target < classes)).astype(logits.dtype)
    return Reading(
        output_type, target, prediction, counted, log_probability, xp.exp(log_probability), positions=positions
    )


def _read_answers(xp: Any, output_type: str, logits: Any, target: Any, threshold: Any) -> Reading:
    labels = 1 if output_type == "binary" else logits.shape[-1]
    _check_size(output_type, logits, target.shape, 1)
    logits, target = xp.reshape(logits, (-1, labels)), xp.reshape(target, (-1, labels)).astype(logits.dtype)
    counted = xp.all((target >= 0) & (target <= 1), axis=-1).astype(logits.dtype)
    target = (target > 0.5).astype(logits.dtype)
    log_probability, log_no = -_softplus(xp, -logits), -_softplus(xp, logits)
    probability = xp.exp(log_probability)
    if threshold is None:
        prediction = (logits > 0).astype(logits.dtype)
    else:
        level = xp.reshape(xp.asarray(threshold).astype(logits.dtype), (1, -1))
        prediction = (probability >= level).astype(logits.dtype)
    return Reading(output_type, target, prediction, counted, log_probability, probability, log_no=log_no)


def _softplus(xp: Any, x: Any) -> Any:
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


def _read_numbers(xp: Any, output_type: str, output: Any, target: Any) -> Reading:
    target = target.astype(output.dtype)
    target = xp.reshape(target, (len(target), -1))  # [n, outputs]
    counted = xp.ones(len(target), output.dtype)
    if output_type == "quantiles":
        count = output.size // max(target.size, 1)
        _check_size(output_type, output, target.shape, max(count, 1))
        output = xp.reshape(output, (*target.shape, count))
        low, high = output[..., 0], output[..., -1]
        return Reading(output_type, target, output[..., count // 2], counted, low=low, high=high)
    if output_type == "deviation":
        _check_size(output_type, output, target.shape, 2)
        output = xp.reshape(output, (len(target), -1))
        outputs = target.shape[1]
        return Reading(output_type, target, output[:, :outputs], counted, deviation=xp.exp(output[:, outputs:]))
    _check_size(output_type, output, target.shape, 1)
    prediction = xp.reshape(output, target.shape)
    return Reading(output_type, target, xp.exp(prediction) if output_type == "counts" else prediction, counted)


def _check_size(output_type: str, output: Any, shape: tuple[int, ...], numbers: int) -> None:
    """Refuse outputs that have not so many numbers for each number of the target, of this shape."""
    if np.prod(output.shape) != np.prod(shape) * numbers or output.shape[:1] != tuple(shape[:1]):
        expected = f"outputs of the type {output_type!r} should have {check.counted(numbers, 'number')} for each target"
        check.fail("metrics", expected=expected, actual=f"outputs {output.shape} and targets {tuple(shape)}")
