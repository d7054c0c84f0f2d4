"""Moves between pixels: `affine`, the bilinear map of coordinates, and `rotate` and `scale` by it."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, Scalar
from nnfunc.data.augment.augmentation import (
    Augmentation,
    Fill,
    Shape,
    apply_in_floats,
    apply_to_images,
    as_scalar,
    check_fill,
    draw_uniform,
    fill_values,
    make_augmentation,
)

__all__ = ["affine", "rotate", "scale"]


def affine(x: Array, matrix: Array, offset: Array, *, fill: Fill = 0.0) -> Array:
    """Images seen through an affine map of their coordinates, bilinear between the pixels.

    y[i, j] = x at (row, column) = matrix @ (i, j) + offset; beyond the edge all is `fill`, and up to
    one pixel beyond it the edge fades into the fill.

    Shapes: x [batch, height, width, channels], uint8 or floats; matrix [2, 2], offset [2], or one for
    each image, [batch, 2, 2] and [batch, 2] -> x's. fill: one number or one for each channel.
    Raises: ValueError when the shapes do not fit; TypeError for images of other types.
    Source: scipy.ndimage.affine_transform(order=1, mode="grid-constant", cval=fill).

    >>> x = jnp.array([[1.0, 2.0, 4.0]]).reshape(1, 1, 3, 1)
    >>> y = nf.augment.affine(x, jnp.eye(2), jnp.array([0.0, 0.5]))
    >>> y.ravel().tolist()
    [1.5, 3.0, 2.0]
    """
    outside = check_fill("affine", fill)
    x, matrix, offset = jnp.asarray(x), jnp.asarray(matrix), jnp.asarray(offset)
    if x.ndim != 4:
        expected = "x should be images [batch, height, width, channels]"
        check.fail("affine", expected=expected, actual=f"shape {tuple(x.shape)}")
    lead = x.shape[:1] if matrix.ndim == 3 or offset.ndim == 2 else ()
    check.floating("affine", matrix=matrix, offset=offset)
    for name, value, each in (("matrix", matrix, (2, 2)), ("offset", offset, (2,))):
        if value.shape not in (each, (*lead, *each)):
            expected = f"{name} should have shape {each}, or {(x.shape[0], *each)}"
            check.fail("affine", expected=f"{expected} for {x.shape[0]} images", actual=value.shape)
    matrix = jnp.broadcast_to(matrix, (x.shape[0], 2, 2))
    offset = jnp.broadcast_to(offset.astype(matrix.dtype), (x.shape[0], 2))
    height, width = x.shape[1:3]
    i = np.arange(height).astype(matrix.dtype)[None, :, None]
    j = np.arange(width).astype(matrix.dtype)[None, None]

    def coordinate(row: int) -> Array:
        a, b, c = matrix[:, row, 0], matrix[:, row, 1], offset[:, row]
        return (a[:, None, None] * i + b[:, None, None] * j) + c[:, None, None]

    return _bilinear("affine", x, coordinate(0), coordinate(1), outside)


def rotate(degrees: Scalar, *, fill: Fill = 0.0, shape: Shape = None) -> Augmentation:
    """Turn each image about its middle, by an angle uniform in [-degrees, degrees]; bilinear.

    Shapes, fill and shape: as for `nf.augment.shift`. degrees: in [0, 180].

    >>> x = jnp.eye(3).reshape(1, 3, 3, 1)
    >>> bool((nf.augment.rotate(0)(jax.random.key(0), x) == x).all())
    True
    """
    check.number("rotate", 0, 180, degrees=degrees)
    return make_augmentation("rotate", _rotate, degrees=degrees, fill=check_fill("rotate", fill), shape=shape)


def scale(smallest: Scalar = 0.8, largest: Scalar = 1.25, *, fill: Fill = 0.0, shape: Shape = None) -> Augmentation:
    """Zoom each image about its middle by a factor from smallest to largest; bilinear.

    Shapes, fill and shape: as for `nf.augment.shift`. A factor of 2 shows the middle half at twice its
    size, 1/2 the whole with a border of `fill`; its logarithm is uniform. 0 < smallest <= largest; both
    1 is off.

    >>> x = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> nf.augment.scale(2.0, 2.0)(jax.random.key(0), x).ravel().tolist()
    [0.5, 1.0, 1.5]
    """
    check.number("scale", 0, open_low=True, open_high=True, smallest=smallest, largest=largest)
    check.ordered("scale", smallest=smallest, largest=largest)
    fill = check_fill("scale", fill)
    return make_augmentation("scale", _scale, smallest=smallest, largest=largest, fill=fill, shape=shape)


def _rotate(key: Key, batch: PyTree, *, degrees: Any, fill: Any, shape: Any) -> PyTree:
    def turned(x: Array) -> Array:
        angle = (2 * draw_uniform(key, x) - 1) * (as_scalar(degrees) * (np.pi / 180))
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return _about_middle("rotate", x, ((cos, sin), (-sin, cos)), fill)

    return apply_to_images("rotate", turned, batch, shape)


def _scale(key: Key, batch: PyTree, *, smallest: Any, largest: Any, fill: Any, shape: Any) -> PyTree:
    def zoomed(x: Array) -> Array:
        least, most = jnp.log(as_scalar(smallest)), jnp.log(as_scalar(largest))
        inverse = jnp.exp(-(least + draw_uniform(key, x) * (most - least)))
        zero = jnp.zeros_like(inverse)
        return _about_middle("scale", x, ((inverse, zero), (zero, inverse)), fill)

    return apply_to_images("scale", zoomed, batch, shape)


def _about_middle(where: str, x: Array, matrix: Any, fill: tuple[Any, ...]) -> Array:
    """Each image mapped by its 2 x 2 matrix, given as entries [batch]; the middle stays."""
    middle = [(side - 1) / 2 for side in x.shape[1:3]]
    i = (np.arange(x.shape[1], dtype=np.float32) - np.float32(middle[0]))[None, :, None]
    j = (np.arange(x.shape[2], dtype=np.float32) - np.float32(middle[1]))[None, None]
    (a, b), (c, d) = ((entry[:, None, None] for entry in row) for row in matrix)
    return _bilinear(where, x, a * i + b * j + middle[0], c * i + d * j + middle[1], fill)


def _bilinear(where: str, x: Array, row: Array, column: Array, fill: tuple[Any, ...]) -> Array:
    """x [batch, height, width, channels] at (row, column), each [batch, height, width].

    Four gathers from one flat list of pixels: as quick on CPU as any form tried, and quicker than
    gathers of 2 x 2 blocks. A whole coordinate gives its pixel exactly.
    """
    count, height, width, channels = x.shape
    outside = fill_values(where, fill, x)
    rows, stride = height + 3, width + 3  # one pixel of fill before, two behind
    wide = jnp.broadcast_to(outside, (count, rows, stride, channels))
    wide = wide.at[:, 1 : height + 1, 1 : width + 1].set(x)
    flat = wide.reshape(count * rows * stride, channels)

    def whole(place: Array, side: int) -> tuple[Array, Array]:
        place = jnp.clip(place, -1, side)
        floor = jnp.floor(place)
        return floor.astype(jnp.int32) + 1, (place - floor)[..., None]

    (top, down), (left, right) = whole(row, height), whole(column, width)
    image = np.arange(count, dtype=np.int32)[:, None, None] * np.int32(rows * stride)
    at = image + top * stride + left

    def blended(_: Array, unit: float) -> Array:
        kind = jnp.float32 if x.dtype.itemsize < 4 else x.dtype
        down_, right_ = down.astype(kind), right.astype(kind)

        def pixel(step: int) -> Array:
            return flat.at[at + step].get(mode="promise_in_bounds").astype(kind)

        upper = pixel(0) + right_ * (pixel(1) - pixel(0))
        lower = pixel(stride) + right_ * (pixel(stride + 1) - pixel(stride))
        return upper + down_ * (lower - upper)

    return apply_in_floats(where, x, blended)
