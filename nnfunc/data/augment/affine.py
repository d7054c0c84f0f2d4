"""Bilinear resampling of images: `affine` maps of the coordinates, and `rotate` and `scale`."""

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


def affine(x: Array, matrix: Array, offset: Array, *, fill: Fill = 0.0) -> Array:
    """Resample images by an affine map of their coordinates, with bilinear interpolation.

    y[i, j] = x at (row, column) = matrix @ (i, j) + offset. Outside the image the value is `fill`; within
    one pixel of the edge, image and fill are interpolated.

    Shapes: x [batch, height, width, channels], uint8 or floats; matrix [2, 2], offset [2], or one for
    each image, [batch, 2, 2] and [batch, 2] -> the shape of x.
    fill: one number, or one for each channel.
    Raises: ValueError when the shapes do not fit; TypeError for images of other types.
    Source: scipy.ndimage.affine_transform(order=1, mode="grid-constant", cval=fill).

    >>> x = jnp.array([[1.0, 2.0, 4.0]]).reshape(1, 1, 3, 1)
    >>> y = nf.augment.affine(x, jnp.eye(2), jnp.array([0.0, 0.5]))
    >>> y.ravel().tolist()
    [1.5, 3.0, 2.0]
    """
    fill = check_fill("affine", fill)
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

    return _bilinear("affine", x, coordinate(0), coordinate(1), fill)


def rotate(degrees: Scalar, *, fill: Fill = 0.0, shape: Shape = None) -> Augmentation:
    """Rotate each image about its center, by an angle uniform in [-degrees, degrees]; bilinear.

    Shapes, fill and shape: as for `nf.augment.shift`.
    degrees: in [0, 180].

    >>> x = jnp.eye(3).reshape(1, 3, 3, 1)
    >>> bool((nf.augment.rotate(0)(jax.random.key(0), x) == x).all())
    True
    """
    check.number("rotate", 0, 180, degrees=degrees)
    return make_augmentation("rotate", _rotate, degrees=degrees, fill=check_fill("rotate", fill), shape=shape)


def scale(smallest: Scalar = 0.8, largest: Scalar = 1.25, *, fill: Fill = 0.0, shape: Shape = None) -> Augmentation:
    """Zoom each image about its center, by a factor from smallest to largest; bilinear.

    Shapes, fill and shape: as for `nf.augment.shift`. A factor of 2 shows the central half at twice its
    size, 1/2 the whole image with a border of `fill`; the logarithm of the factor is uniform.
    smallest, largest: 0 < smallest <= largest; with both 1 the images are unchanged.

    >>> x = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> nf.augment.scale(2.0, 2.0)(jax.random.key(0), x).ravel().tolist()
    [0.5, 1.0, 1.5]
    """
    check.number("scale", 0, open_low=True, open_high=True, smallest=smallest, largest=largest)
    check.ordered("scale", smallest=smallest, largest=largest)
    fill = check_fill("scale", fill)
    return make_augmentation("scale", _scale, smallest=smallest, largest=largest, fill=fill, shape=shape)


def _rotate(key: Key, batch: PyTree, *, degrees: Any, fill: Any, shape: Any) -> PyTree:
    def rotated(x: Array) -> Array:
        angle = (2 * draw_uniform(key, x) - 1) * (as_scalar(degrees) * (np.pi / 180))
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return _map_about_center("rotate", x, ((cos, sin), (-sin, cos)), fill)

    return apply_to_images("rotate", rotated, batch, shape)


def _scale(key: Key, batch: PyTree, *, smallest: Any, largest: Any, fill: Any, shape: Any) -> PyTree:
    def zoomed(x: Array) -> Array:
        least, most = jnp.log(as_scalar(smallest)), jnp.log(as_scalar(largest))
        inverse = jnp.exp(-(least + draw_uniform(key, x) * (most - least)))
        zero = jnp.zeros_like(inverse)
        return _map_about_center("scale", x, ((inverse, zero), (zero, inverse)), fill)

    return apply_to_images("scale", zoomed, batch, shape)


def _map_about_center(where: str, x: Array, matrix: Any, fill: tuple[Any, ...]) -> Array:
    """Each image mapped by its 2 x 2 matrix, of entries [batch]; the center does not move."""
    center = [(side - 1) / 2 for side in x.shape[1:3]]
    i = (np.arange(x.shape[1], dtype=np.float32) - np.float32(center[0]))[None, :, None]
    j = (np.arange(x.shape[2], dtype=np.float32) - np.float32(center[1]))[None, None]
    (a, b), (c, d) = ((entry[:, None, None] for entry in row) for row in matrix)
    return _bilinear(where, x, a * i + b * j + center[0], c * i + d * j + center[1], fill)


def _bilinear(where: str, x: Array, row: Array, column: Array, fill: tuple[Any, ...]) -> Array:
    """x [batch, height, width, channels] at (row, column), each [batch, height, width].

    Four gathers from one flat list of pixels are as fast on CPU as any form that was tried, and faster
    than gathers of 2 x 2 blocks. An integer coordinate gives its pixel exactly.
    """
    count, height, width, channels = x.shape
    rows, stride = height + 3, width + 3  # one pixel of fill before the image, two after it
    padded = jnp.broadcast_to(fill_values(where, fill, x), (count, rows, stride, channels))
    padded = padded.at[:, 1 : height + 1, 1 : width + 1].set(x)
    flat = padded.reshape(count * rows * stride, channels)

    def split_coordinate(coordinate: Array, side: int) -> tuple[Array, Array]:
        coordinate = jnp.clip(coordinate, -1, side)
        floor = jnp.floor(coordinate)
        return floor.astype(jnp.int32) + 1, (coordinate - floor)[..., None]

    (upper_row, row_weight), (first_column, column_weight) = (
        split_coordinate(row, height),
        split_coordinate(column, width),
    )
    image = np.arange(count, dtype=np.int32)[:, None, None] * np.int32(rows * stride)
    at = image + upper_row * stride + first_column

    def interpolated(_: Array, white: float) -> Array:
        dtype = jnp.float32 if x.dtype.itemsize < 4 else x.dtype
        down, right = row_weight.astype(dtype), column_weight.astype(dtype)

        def pixel(step: int) -> Array:
            return flat.at[at + step].get(mode="promise_in_bounds").astype(dtype)

        upper = pixel(0) + right * (pixel(1) - pixel(0))
        lower = pixel(stride) + right * (pixel(stride + 1) - pixel(stride))
        return upper + down * (lower - upper)

    return apply_in_floats(where, x, interpolated)
