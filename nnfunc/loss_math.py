"""What the losses share: their inputs, checked and in the dtype to compute in, and arithmetic that stays finite."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Scalar, widen


def like(x: Array, *values: Any) -> tuple[Array, ...]:
    """The values, numbers or arrays of any type, in the type of x."""
    # at once: as integers of JAX, NumPy's 2**32 + 1 would be 1
    return tuple(jnp.asarray(value, x.dtype) for value in values)


def at_least(x: Array, low: Scalar) -> Array:
    """max(x, low) with a gradient of 1 below `low` too, where that of clipping is 0."""
    return x + jax.lax.stop_gradient(jnp.where(x < low, low - x, 0))


def smallest_divisor(x: Any) -> float:
    """The smallest number that 1 may be divided by in the dtype of x: 3e-5 in float16, which ends at 65504."""
    return 2 / float(jnp.finfo(jnp.asarray(x).dtype).max)


def absolute(x: Array) -> Array:
    """|x| with a slope of 0 at 0; that of jnp.abs is 1 there."""
    return x * jnp.sign(x)


def product(weight: Array, x: Array) -> Array:
    """weight * x, with 0 * inf = 0: an impossible class costs nothing where its weight is 0.

    Where x is infinite the slope is the weight; the weight itself has none, rather than NaN.
    """
    endless = jnp.isinf(x) & (weight != 0)
    bounded = weight * jnp.where(jnp.isinf(x), 0, x)
    return jnp.where(endless, jax.lax.stop_gradient(weight) * x, bounded)


def nan_unless(valid: Array, value: Array) -> Array:
    """The value where it is valid, else NaN; `jax.debug_nans` then finds no NaN that is not used."""
    return jnp.where(valid, value, 0) / valid.astype(value.dtype)


def class_inputs(
    where: str, logits: Any, labels: Any, ignore_index: Any, *, name: str = "logits"
) -> tuple[Array, Array, Array, Array | None]:
    """(logits, hit, valid, ignored): hit [..., classes] marks the label, valid that it is a class.

    Comparing with every class fuses into the sums around it; gathering scatters in the gradient.
    name: of the logits, for errors.
    """
    check.floating(where, **{name: logits})
    labels = check.as_int32(where, "For distributions as targets: cross_entropy_dense.", labels=labels)
    check_classes(where, logits, name)
    check.labels_shape(where, logits, labels)
    logits = widen(logits)
    ignored = None
    if ignore_index is not None:
        check.number(where, -(2**31), 2**31 - 1, ignore_index=ignore_index)
        ignored = labels == jnp.asarray(ignore_index).astype(labels.dtype)
        logits = jnp.where(ignored[..., None], 0, logits)
    classes = jnp.arange(logits.shape[-1], dtype=labels.dtype)
    hit = labels[..., None] == jax.lax.broadcast_to_rank(classes, logits.ndim)
    return logits, hit, (labels >= 0) & (labels < logits.shape[-1]), ignored


def check_classes(where: str, logits: Any, name: str = "logits") -> None:
    """The logits have an axis of classes, with at least one."""
    if not np.shape(logits)[-1:] > (0,):
        expected = f"{name} should have an axis of classes, with at least one"
        check.fail(where, expected=expected, actual=f"shape {np.shape(logits)}")


def mask_invalid(loss: Array, valid: Array, ignored: Array | None) -> Array:
    """NaN where the label is no class, 0 where it is ignored."""
    if ignored is None:
        return nan_unless(valid, loss)
    return jnp.where(ignored, 0, nan_unless(valid | ignored, loss))


def class_weights(where: str, weight: Any, logits: Array, *, name: str = "weight") -> Array:
    """One factor per class, [classes], in the type and with the rank of the logits."""
    weight = jnp.asarray(weight).astype(logits.dtype)
    check.shape(where, logits.shape[-1:], "It is one number per class.", **{name: weight})
    return jax.lax.broadcast_to_rank(weight, logits.ndim)


def distribution_inputs(where: str, logits: Any, probabilities: Any) -> tuple[Array, Array]:
    """(logits, probabilities), of one shape, in the dtype to compute in."""
    check.floating(where, logits=logits)
    check.floating(where, "For class indices: cross_entropy.", probabilities=probabilities)
    check.same_shape(where, logits=logits, probabilities=probabilities)
    check_classes(where, logits)
    logits = widen(logits)
    return logits, like(logits, probabilities)[0]


def binary_inputs(where: str, logits: Any, target: Any) -> tuple[Array, Array, Array]:
    """(logits, target, valid), of one shape; valid marks the targets in [0, 1]."""
    check.floating(where, logits=logits)
    check.same_shape(where, logits=logits, target=target)
    x = widen(logits)
    (t,) = like(x, target)
    return x, t, (t >= 0) & (t <= 1)


def difference(where: str, prediction: Any, target: Any) -> Array:
    """prediction - target, both floats of one shape."""
    check.floating(where, prediction=prediction, target=target)
    hint, shapes = "Nothing is broadcast.", (np.shape(prediction), np.shape(target))
    for names, one, other in ((("prediction", "target"), *shapes), (("target", "prediction"), *reversed(shapes))):
        if one == (*other, 1):
            hint += f" Take its last axis away: {names[0]}[..., 0]; or add one: {names[1]}[..., None]."
    check.same_shape(where, hint, prediction=prediction, target=target)
    prediction = widen(prediction)
    return prediction - like(prediction, target)[0]


def vector_inputs(where: str, **vectors: Any) -> tuple[Array, ...]:
    """The named vectors, floats [..., features] of one shape, in the dtype to compute in."""
    check.floating(where, **vectors)
    check.same_shape(where, **vectors)
    first = next(iter(vectors.values()))
    if np.ndim(first) < 1:
        check.fail(where, expected=f"{next(iter(vectors))} should have an axis of features", actual="shape ()")
    return like(widen(first), *vectors.values())


def log_softmax(logits: Array) -> tuple[Array, Array]:
    """(shifted, total): the log-probabilities are shifted - total[..., None]."""
    shifted = _less(logits, jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    return shifted, jnp.log(jnp.exp(shifted).sum(-1))


@jax.custom_jvp
def _less(logits: Array, largest: Array) -> Array:
    """logits - largest, which is 0 for the largest, be it infinite; the slope by the logits is 1."""
    certain = largest == jnp.inf
    others = jnp.where(logits == jnp.inf, 0.0, -jnp.inf)
    return jnp.where(certain, others, logits - jnp.where(certain, 0, largest))


@_less.defjvp
def _less_jvp(primals, tangents):
    return _less(*primals), tangents[0]
