"""Augmentations of pixel values: `cutout`, `brightness`, `contrast` and `noise`."""

from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, Scalar, fold
from nnfunc.data.augment.augmentation import (
    Augmentation,
    Fill,
    Shape,
    apply_in_floats,
    apply_to_images,
    apply_to_inputs,
    as_scalar,
    check_fill,
    draw_uniform,
    fill_values,
    make_augmentation,
)


def cutout(size: Scalar, *, count: int = 1, fill: Fill = 0.0, shape: Shape = None) -> Augmentation:
    """Fill `count` boxes at random positions of each image, with sides of `size` times those of the image.

    The center of a box is uniform in the image, so a box near the edge is cut off. Shapes, fill and shape:
    as for `nf.augment.shift`.
    size: in [0, 1].
    count: at least 0.
    Source: DeVries and Taylor 2017, arXiv:1708.04552, section 3.

    >>> y = nf.augment.cutout(0.5)(jax.random.key(0), jnp.ones((1, 4, 4, 1)))
    >>> bool((y == 0).any()), float(y.sum()) >= 12
    (True, True)
    """
    check.number("cutout", 0, 1, size=size)
    check.size("cutout", 0, count=count)
    fill = check_fill("cutout", fill)
    return make_augmentation("cutout", _cutout, size=size, count=count, fill=fill, shape=shape)


def brightness(amount: Scalar, *, shape: Shape = None) -> Augmentation:
    """Add one number, uniform in [-amount, amount], to all pixels of an image.

    Shapes and shape: as for `nf.augment.shift`.
    amount: at least 0, in the scale of x; for uint8 a fraction of 255, and the result is clipped to [0, 255].
        Floats are not clipped: they may be normalised.
    Source: tf.image.random_brightness.

    >>> y = nf.augment.brightness(0.1)(jax.random.key(0), jnp.zeros((2, 2, 2, 1)))
    >>> bool((abs(y) <= 0.1).all()), len(set(y.ravel().tolist()))
    (True, 2)
    """
    check.number("brightness", 0, open_high=True, amount=amount)
    return make_augmentation("brightness", _brightness, amount=amount, shape=shape)


def contrast(amount: Scalar, *, shape: Shape = None) -> Augmentation:
    """Scale the contrast of each image by a factor uniform in [1 - amount, 1 + amount].

    y = mean + factor * (x - mean), with the mean of each image and channel. Shapes and shape: as for
    `nf.augment.shift`.
    amount: in [0, 1]. uint8 is clipped to [0, 255].
    Source: tf.image.random_contrast(lower=1 - amount, upper=1 + amount).

    >>> y = nf.augment.contrast(1.0)(jax.random.key(0), jnp.array([0.0, 2.0]).reshape(1, 1, 2, 1))
    >>> round(float(y.mean()), 6)
    1.0
    """
    check.number("contrast", 0, 1, amount=amount)
    return make_augmentation("contrast", _contrast, amount=amount, shape=shape)


def noise(std: Scalar) -> Augmentation:
    """Add normal noise of standard deviation `std` to every number of x.

    Shapes: x [batch, ...], floats or uint8.
    std: at least 0, in the scale of x; for uint8 a fraction of 255, and the result is rounded and clipped to [0,
        255].

    >>> y = nf.augment.noise(0.1)(jax.random.key(0), jnp.zeros((1000, 2)))
    >>> round(float(y.std()), 2)
    0.1
    """
    check.number("noise", 0, open_high=True, std=std)
    return make_augmentation("noise", _noise, std=std)


def _cutout(key: Key, batch: PyTree, *, size: Any, count: int, fill: Any, shape: Any) -> PyTree:
    def masked(x: Array) -> Array:
        length = jnp.broadcast_to(as_scalar(size), (len(x), count))
        rows, columns = draw_boxes(key, x, length)
        covered = (rows[..., :, None] & columns[..., None, :]).any(1)  # [batch, height, width]
        return jnp.where(covered[..., None], fill_values("cutout", fill, x), x)

    return apply_to_images("cutout", masked, batch, shape)


def _brightness(key: Key, batch: PyTree, *, amount: Any, shape: Any) -> PyTree:
    def brightened(x: Array, white: float) -> Array:
        return x + ((2 * draw_uniform(key, x, 1, 1, 1) - 1) * as_scalar(amount) * white).astype(x.dtype)

    return apply_to_images("brightness", lambda x: apply_in_floats("brightness", x, brightened), batch, shape)


def _contrast(key: Key, batch: PyTree, *, amount: Any, shape: Any) -> PyTree:
    def scaled(x: Array, white: float) -> Array:
        change = ((2 * draw_uniform(key, x, 1, 1, 1) - 1) * as_scalar(amount)).astype(x.dtype)
        return x + change * (x - x.mean((1, 2), keepdims=True))  # exactly x where change is 0

    return apply_to_images("contrast", lambda x: apply_in_floats("contrast", x, scaled), batch, shape)


def _noise(key: Key, batch: PyTree, *, std: Any) -> PyTree:
    def noisy(x: Array, white: float) -> Array:
        normal = jax.random.normal(key, (x.size,), jnp.float32)  # flat: a third of the time on CPU
        return x + (normal.reshape(x.shape) * (as_scalar(std) * white)).astype(x.dtype)

    return apply_to_inputs(lambda x: apply_in_floats("noise", x, noisy), batch)


def draw_boxes(key: Key, x: Array, length: Array) -> tuple[Array, Array]:
    """(rows, columns) that boxes with centers uniform in the image cover.

    key: random.
    x: images [batch, height, width, channels].
    length: [batch, count], the sides of the boxes as fractions of those of the image. Returns: booleans [batch,
        count, height] and [batch, count, width], True for pixels whose center is inside; all False for a length of
        0.
    """

    def span(name: str, side: int) -> Array:
        center = draw_uniform(fold(key, name), x, length.shape[1], 1) * side
        half = length[..., None] * (side / 2)
        pixel = jnp.arange(side, dtype=jnp.float32)[None, None] + 0.5
        return (pixel >= center - half) & (pixel < center + half)

    return span("row", x.shape[1]), span("column", x.shape[2])
