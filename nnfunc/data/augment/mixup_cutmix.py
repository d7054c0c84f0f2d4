"""Augmentations that mix pairs of examples and their labels: `mixup` and `cutmix`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, Scalar, fold
from nnfunc.data.augment.augmentation import (
    Augmentation,
    Shape,
    apply_in_floats,
    apply_to_inputs,
    as_images,
    as_scalar,
    get_inputs,
    make_augmentation,
    replace_inputs,
    replace_item,
)
from nnfunc.data.augment.color_noise import draw_boxes


def mixup(alpha: Scalar, classes: int) -> Augmentation:
    """Interpolate each example with another one of the batch, and their labels in the same proportion.

    x = weight * x + (1 - weight) * other x, y likewise; weight ~ Beta(alpha, alpha), one for each example.
    The other examples are a permutation of the batch.

    Shapes: a batch (x, y), x [batch, ...] uint8 or floats, y labels [batch] or soft labels [batch, classes]
    -> x of the same shape and dtype, y soft labels [batch, classes] in float32.
    alpha: at least 0; at 0 nothing is mixed, and labels only become soft.
    classes: the number of classes, at least 1. A label that is not in [0, classes) gives NaN.
    Source: Zhang et al. 2018, arXiv:1710.09412, section 2; here with a weight for each example instead of one for
    the batch.

    >>> x, y = nf.augment.mixup(0.4, classes=3)(jax.random.key(0), (jnp.eye(3), jnp.arange(3)))
    >>> bool(jnp.allclose(x, y, atol=1e-6)), round(float(y.sum()), 4)
    (True, 3.0)
    """
    check.number("mixup", 0, open_high=True, alpha=alpha)
    check.size("mixup", classes=classes)
    return make_augmentation("mixup", _mixup, alpha=alpha, classes=int(classes))


def cutmix(alpha: Scalar, classes: int, *, shape: Shape = None) -> Augmentation:
    """Paste a box of another image of the batch into each image, and mix their labels by its area.

    The center of the box is uniform in the image, and its area a fraction 1 - Beta(alpha, alpha) of the
    image, before it is cut off at the edges. The labels are mixed by the number of pasted pixels.

    Shapes: a batch (x, y), x [batch, height, width, channels] of any dtype, y labels [batch] or soft labels
    [batch, classes] -> x of the same shape and dtype, y soft labels [batch, classes] in float32.
    alpha: at least 0; at 0 nothing is pasted, and labels only become soft.
    classes: the number of classes, at least 1.
    A label that is not in [0, classes) gives NaN.
    shape: as for `nf.augment.shift`.
    Source: Yun et al. 2019, arXiv:1905.04899, section 3 and appendix A; here with a box for each image instead of
    one for the batch.

    >>> x = jnp.broadcast_to(jnp.arange(2.0)[:, None, None, None], (2, 8, 8, 1))
    >>> mixed, y = nf.augment.cutmix(1.0, classes=2)(jax.random.key(1), (x, jnp.arange(2)))
    >>> bool((mixed.mean((1, 2, 3)) == y[:, 1]).all())
    True
    """
    check.number("cutmix", 0, open_high=True, alpha=alpha)
    check.size("cutmix", classes=classes)
    return make_augmentation("cutmix", _cutmix, alpha=alpha, classes=int(classes), shape=shape)


def _mixup(key: Key, batch: PyTree, *, alpha: Any, classes: int) -> PyTree:
    x, labels = _pair("mixup", batch, classes)
    count = labels.shape[0]
    other = jax.random.permutation(fold(key, "other"), count)
    weight = 1 - draw_symmetric_beta(fold(key, "share"), alpha, count)  # of the other example

    def mixed(x: Array) -> Array:
        return apply_in_floats("mixup", x, lambda x, white: _interpolate(x, x[other], weight))

    return replace_item(replace_item(batch, 0, apply_to_inputs(mixed, x)), 1, mixed(labels))


def _cutmix(key: Key, batch: PyTree, *, alpha: Any, classes: int, shape: Any) -> PyTree:
    x, labels = _pair("cutmix", batch, classes)
    images = as_images("cutmix", get_inputs(x), shape)
    count, height, width = images.shape[:3]
    other = jax.random.permutation(fold(key, "other"), count)
    length = jnp.sqrt(1 - draw_symmetric_beta(fold(key, "share"), alpha, count))[:, None]
    rows, columns = (part[:, 0] for part in draw_boxes(fold(key, "box"), images, length))
    pasted = (rows.sum(1) * columns.sum(1)).astype(labels.dtype) / (height * width)
    box = rows[:, :, None, None] & columns[:, None, :, None]
    images = jnp.where(box, images[other], images)
    y = _interpolate(labels, labels[other], pasted)
    x = replace_inputs(x, images.reshape(get_inputs(x).shape))
    return replace_item(replace_item(batch, 0, x), 1, y)


def _interpolate(x: Array, other: Array, weight: Array) -> Array:
    """(1 - weight) * x + weight * other, with a weight [batch]; exactly x where it is 0."""
    weight = weight.astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))  # [batch, 1, ...]
    return jnp.where(weight > 0, x + weight * (other - x), x)


def draw_symmetric_beta(key: Key, alpha: Scalar, count: int) -> Array:
    """[count] draws of Beta(alpha, alpha) in float32, 1 where alpha is 0.

    It needs no loop and no rejection, unlike jax.random.beta: with U, V uniform,
    T = sqrt(2 a (U ** (-1/a) - 1)) cos(2 pi V) has Student's t-distribution with 2 a degrees of
    freedom, and 1/2 + T / (2 sqrt(2 a + T^2)) is Beta(a, a).
    Source: Bailey 1994, Mathematics of Computation 62; Devroye 1996, "Random variate generation in one
    line of code", section on the symmetric beta.
    """
    alpha = as_scalar(alpha)
    u, v = jax.random.uniform(key, (2, count), jnp.float32)
    rate = 1 / jnp.where(alpha > 0, alpha, 1)
    above = jnp.expm1(jnp.minimum(-jnp.log1p(-u) * rate, 80))  # 1 - u is above 0, u may be 0
    cos = jnp.cos(2 * np.pi * v)
    square = above * cos * cos  # T^2 / 2 a
    beta = 0.5 + 0.5 * jnp.sign(cos) * jnp.sqrt(square / (1 + square))
    return jnp.where(alpha > 0, beta, 1)


def to_soft_labels(where: str, y: Any, classes: int) -> Array:
    """Labels as class probabilities [batch, classes] in float32.

    where: begins the message of an error.
    y: labels [batch], or soft labels [batch, classes], which are returned unchanged.
    classes: the number of classes.
    """
    y = jnp.asarray(y)
    if y.ndim == 2 and y.shape[1] == classes and jnp.issubdtype(y.dtype, jnp.floating):
        return y
    if y.ndim != 1 or not jnp.issubdtype(y.dtype, jnp.integer):
        expected = f"y should be labels [batch], or class probabilities [batch, {classes}] in floats"
        check.fail(where, expected=expected, actual=check.describe(y))
    check.within(where, 0, classes - 1, "Set classes to the number of classes.", labels=y)
    valid = (y >= 0) & (y < classes)
    return jnp.where(valid[:, None], jax.nn.one_hot(y, classes, dtype=jnp.float32), jnp.nan)


def _pair(where: str, batch: PyTree, classes: int) -> tuple[PyTree, Array]:
    """x and the soft labels of a batch."""
    if not isinstance(batch, tuple | list) or len(batch) != 2 or not hasattr(batch[1], "dtype"):
        expected = "a batch should be a pair (x, labels)"
        check.fail(where, expected=expected, actual=check.describe(batch), exc_type=TypeError)
    return batch[0], to_soft_labels(where, batch[1], classes)
