"""Moves by whole pixels: `shift`, `crop` and `flip`. No pixel changes its value."""

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

__all__ = ["crop", "flip", "shift"]

Mode = Literal["constant", "reflect", "edge"]


def shift(pixels: Scalar, *, fill: Fill = 0.0, shape: Shape = None) -> Augmentation:
    """Move each image by up to `pixels` up or down and left or right, each move equally likely.

    Shapes: x [batch, height, width, channels], in the batch (x, y) or alone. pixels: at least 0,
    rounded to an integer. fill: the value of pixels from outside, one or one for each channel.
    shape: (height, width, channels), for x that holds images in another layout.

    >>> x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1].set(1.0)
    >>> float(nf.augment.shift(1)(jax.random.key(0), x).sum())
    1.0
    """
    check.number("shift", 0, open_high=True, pixels=pixels)
    return make_augmentation("shift", _shift, pixels=pixels, fill=check_fill("shift", fill), shape=shape)


def crop(padding: Scalar, *, mode: Mode = "constant", fill: Fill = 0.0, shape: Shape = None) -> Augmentation:
    """Pad each image by `padding` pixels on every side, and cut its old size out at a random place.

    Shapes, fill and shape: as for `shift`, which is the mode "constant". padding: at least 0, rounded
    to an integer. mode: what the padding holds, "constant" (fill), "edge" (the nearest pixel) or
    "reflect" (the image mirrored at its outermost pixel), as in `numpy.pad`.
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
    """Mirror each image left to right, with probability `rate`; vertical: upside down instead.

    Shapes and `shape`: as for `shift`. rate: in [0, 1]. For both: chain(flip(), flip(vertical=True)).

    >>> x = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> {tuple(nf.augment.flip()(jax.random.key(i), x).ravel().tolist()) for i in range(8)} == {
    ...     (0.0, 1.0, 2.0), (2.0, 1.0, 0.0)}
    True
    """
    check.number("flip", 0, 1, rate=rate)
    return make_augmentation("flip", _flip, rate=rate, vertical=bool(vertical), shape=shape)


def _shift(key: Key, batch: PyTree, *, pixels: Any, fill: Any, shape: Any) -> PyTree:
    def moved(x: Array) -> Array:
        return _cut("shift", key, x, pixels, "constant", fill)

    return apply_to_images("shift", moved, batch, shape)


def _crop(key: Key, batch: PyTree, *, padding: Any, mode: Mode, fill: Any, shape: Any) -> PyTree:
    def moved(x: Array) -> Array:
        return _cut("crop", key, x, padding, mode, fill)

    return apply_to_images("crop", moved, batch, shape)


def _flip(key: Key, batch: PyTree, *, rate: Any, vertical: bool, shape: Any) -> PyTree:
    def mirrored(x: Array) -> Array:
        turn = draw_uniform(key, x, 1, 1, 1) < as_scalar(rate)
        return jnp.where(turn, x[:, ::-1] if vertical else x[:, :, ::-1], x)

    return apply_to_images("flip", mirrored, batch, shape)


def _cut(where: str, key: Key, x: Array, reach: Any, mode: Mode, fill: tuple[Any, ...]) -> Array:
    """Each image moved by up to `reach`; what is outside of it is as `mode` says.

    A plain reach pads once and cuts once. A traced one, whose padding has no size yet, moves along one
    axis and then the other, within an image's side on either hand: nothing lies farther out.
    """
    outside = fill_values(where, fill, x)
    if check.is_plain(reach):
        pad = round(float(reach))
        if pad <= min(x.shape[1:3]):
            if pad == 0:
                return x
            corner = jax.random.randint(key, (len(x), 2), 0, 2 * pad + 1, jnp.int32)
            wide = _padded(x, (0, pad, pad, 0), mode, outside)

            def window(image: Array, at: Array) -> Array:
                return jax.lax.dynamic_slice(image, (*at, jnp.zeros_like(at[0])), x.shape[1:])

            return jax.vmap(window)(wide, corner)
        pad = jnp.asarray(pad, jnp.int32)
    else:
        pad = jnp.maximum(jnp.round(as_scalar(reach)), 0).astype(jnp.int32)
    move = jax.random.randint(key, (len(x), 2), 0, 2 * pad + 1, jnp.int32) - pad
    for axis in (1, 2):
        x = _along(x, axis, move[:, axis - 1], mode, outside)
    return x


def _along(x: Array, axis: int, move: Array, mode: Mode, outside: Array) -> Array:
    """Each image moved along one axis, by any integer of pixels."""
    side = x.shape[axis]
    if mode == "reflect":
        pad, start = side - 1, (move + side - 1) % max(2 * (side - 1), 1)
    else:
        pad, start = side, jnp.clip(move, -side, side) + side
    widths = [(pad, pad) if place == axis else (0, 0) for place in range(4)]
    wide = jnp.pad(x, widths, mode=mode)

    def window(image: Array, at: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(image, at, side, axis - 1)

    moved = jax.vmap(window)(wide, start)
    if mode != "constant":
        return moved
    index = move[:, None] + jnp.arange(side, dtype=move.dtype)  # jnp.where is the quickest fill
    shape = [1 if other not in (0, axis) else size for other, size in enumerate(x.shape)]
    return jnp.where(((index >= 0) & (index < side)).reshape(shape), moved, outside)


def _padded(x: Array, pads: tuple[int, ...], mode: Mode, outside: Array) -> Array:
    """x with that many more pixels at both ends of each axis."""
    if mode != "constant":
        return jnp.pad(x, [(pad, pad) for pad in pads], mode=mode)
    shape = [side + 2 * pad for side, pad in zip(x.shape, pads, strict=True)]
    return jax.lax.dynamic_update_slice(jnp.broadcast_to(outside, shape), x, pads)
