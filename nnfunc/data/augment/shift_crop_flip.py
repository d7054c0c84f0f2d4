"""Augmentations that move whole pixels: `shift`, `crop` and `flip`."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, Scalar
from nnfunc.data.augment.augmentation import (
    Augmentation,
    Fill,
    Shape,
    apply_to_images,
    as_scalar,
    check_fill,
    draw_uniform,
    fill_values,
    make_augmentation,
)

Mode = Literal["constant", "reflect", "edge"]


def shift(pixels: Scalar, *, fill: Fill = 0.0, shape: Shape = None) -> Augmentation:
    """Shift each image by up to `pixels` vertically and horizontally, uniformly at random.

    Shapes: x [batch, height, width, channels], in a batch (x, y) or alone.
    pixels: at least 0, rounded to an integer.
    fill: the value of pixels outside the image, one number or one for each channel.
    shape: (height, width, channels), for images in another layout.

    >>> x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1].set(1.0)
    >>> float(nf.augment.shift(1)(jax.random.key(0), x).sum())
    1.0
    """
    check.number("shift", 0, open_high=True, pixels=pixels)
    return make_augmentation("shift", _shift, pixels=pixels, fill=check_fill("shift", fill), shape=shape)


def crop(padding: Scalar, *, mode: Mode = "constant", fill: Fill = 0.0, shape: Shape = None) -> Augmentation:
    """Pad each image by `padding` pixels on every side, and crop it to its size at a random position.

    Shapes, fill and shape: as for `shift`, which equals the mode "constant".
    padding: at least 0, rounded to an integer.
    mode: of `numpy.pad`, "constant" (fill), "edge" (the nearest pixel) or "reflect" (the image mirrored at its
        outermost pixel).
    Source: He et al. 2015, arXiv:1512.03385, section 4.2 (padding 4 for CIFAR-10).

    >>> x = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> {tuple(nf.augment.crop(1, mode="edge")(jax.random.key(i), x).ravel().tolist())
    ...  for i in range(9)} == {(0.0, 0.0, 1.0), (0.0, 1.0, 2.0), (1.0, 2.0, 2.0)}
    True
    """
    check.number("crop", 0, open_high=True, padding=padding)
    check.choice("crop", ("constant", "reflect", "edge"), mode=mode)
    fill = check_fill("crop", fill)
    return make_augmentation("crop", _crop, padding=padding, mode=mode, fill=fill, shape=shape)


def flip(rate: Scalar = 0.5, *, vertical: bool = False, shape: Shape = None) -> Augmentation:
    """Flip each image from left to right, with probability `rate`.

    Shapes and shape: as for `shift`.
    rate: in [0, 1].
    vertical: flip upside down instead; for both: chain(flip(), flip(vertical=True)).

    >>> x = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> {tuple(nf.augment.flip()(jax.random.key(i), x).ravel().tolist()) for i in range(8)} == {
    ...     (0.0, 1.0, 2.0), (2.0, 1.0, 0.0)}
    True
    """
    check.number("flip", 0, 1, rate=rate)
    return make_augmentation("flip", _flip, rate=rate, vertical=bool(vertical), shape=shape)


def _shift(key: Key, batch: PyTree, *, pixels: Any, fill: Any, shape: Any) -> PyTree:
    return apply_to_images("shift", lambda x: _shifted("shift", key, x, pixels, "constant", fill), batch, shape)


def _crop(key: Key, batch: PyTree, *, padding: Any, mode: Mode, fill: Any, shape: Any) -> PyTree:
    return apply_to_images("crop", lambda x: _shifted("crop", key, x, padding, mode, fill), batch, shape)


def _flip(key: Key, batch: PyTree, *, rate: Any, vertical: bool, shape: Any) -> PyTree:
    def flipped(x: Array) -> Array:
        is_flipped = draw_uniform(key, x, 1, 1, 1) < as_scalar(rate)
        return jnp.where(is_flipped, x[:, ::-1] if vertical else x[:, :, ::-1], x)

    return apply_to_images("flip", flipped, batch, shape)


def _shifted(where: str, key: Key, x: Array, limit: Any, mode: Mode, fill: tuple[Any, ...]) -> Array:
    """Each image shifted by up to `limit` pixels, with padding of the given mode.

    With a Python number it pads and slices once. A traced limit cannot set the size of the padding, so the
    images are shifted along one axis after the other, by at most their side.
    """
    outside = fill_values(where, fill, x)
    if check.is_plain(limit):
        pad = round(float(limit))
        if pad <= min(x.shape[1:3]):
            if pad == 0:
                return x
            corner = jax.random.randint(key, (len(x), 2), 0, 2 * pad + 1, jnp.int32)
            padded = _padded(x, (0, pad, pad, 0), mode, outside)

            def crop_at(image: Array, at: Array) -> Array:
                return jax.lax.dynamic_slice(image, (*at, jnp.zeros_like(at[0])), x.shape[1:])

            return jax.vmap(crop_at)(padded, corner)
        pad = jnp.asarray(pad, jnp.int32)
    else:
        pad = jnp.maximum(jnp.round(as_scalar(limit)), 0).astype(jnp.int32)
    offset = jax.random.randint(key, (len(x), 2), 0, 2 * pad + 1, jnp.int32) - pad
    for axis in (1, 2):
        x = _shifted_along(x, axis, offset[:, axis - 1], mode, outside)
    return x


def _shifted_along(x: Array, axis: int, offset: Array, mode: Mode, outside: Array) -> Array:
    """Each image shifted along one axis, by its offset [batch] in pixels."""
    side = x.shape[axis]
    if mode == "reflect":
        pad, start = side - 1, (offset + side - 1) % max(2 * (side - 1), 1)
    else:
        pad, start = side, jnp.clip(offset, -side, side) + side
    padded = jnp.pad(x, [(pad, pad) if i == axis else (0, 0) for i in range(4)], mode=mode)
    shifted = jax.vmap(lambda image, at: jax.lax.dynamic_slice_in_dim(image, at, side, axis - 1))(padded, start)
    if mode != "constant":
        return shifted
    index = offset[:, None] + jnp.arange(side, dtype=offset.dtype)  # jnp.where is the fastest fill
    shape = [1 if i not in (0, axis) else size for i, size in enumerate(x.shape)]
    return jnp.where(((index >= 0) & (index < side)).reshape(shape), shifted, outside)


def _padded(x: Array, pads: tuple[int, ...], mode: Mode, outside: Array) -> Array:
    """x with `pads` more pixels at both ends of each axis."""
    if mode != "constant":
        return jnp.pad(x, [(pad, pad) for pad in pads], mode=mode)
    shape = [side + 2 * pad for side, pad in zip(x.shape, pads, strict=True)]
    return jax.lax.dynamic_update_slice(jnp.broadcast_to(outside, shape), x, pads)
