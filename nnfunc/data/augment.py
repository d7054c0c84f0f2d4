"""Augmentations, each a function (key, batch) -> batch that changes x and leaves the labels.

They are plain values: equal ones are the same to `jax.jit`, so that data loaded twice compiles once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, fold

__all__ = ["augmentation", "chain", "flip", "shift"]


def shift(
    pixels: int, *, fill: float | Sequence[float] = 0.0, shape: Sequence[int] | None = None
) -> "Shift":
    """Move each image by up to `pixels` up or down and left or right, each move equally likely.

    Shapes: x [batch, height, width, channels], in the batch (x, y) or alone. pixels: at least 0.
    fill: what comes in from outside, one value or one for each channel. shape: (height, width,
    channels), for x whose images are laid out otherwise.

    >>> x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1].set(1.0)
    >>> float(shift(1)(jax.random.key(0), x).sum())
    1.0
    """
    check.size("shift", 0, pixels=pixels)
    fills = tuple(float(f) for f in np.atleast_1d(fill))
    return Shift(pixels, fills, _shape("shift", shape))


def flip(*, shape: Sequence[int] | None = None) -> "Flip":
    """Mirror each image left to right, with probability 1/2. Shapes and `shape` as for `shift`.

    >>> x = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> {tuple(flip()(jax.random.key(i), x).ravel().tolist()) for i in range(8)} == {
    ...     (0.0, 1.0, 2.0), (2.0, 1.0, 0.0)}
    True
    """
    return Flip(_shape("flip", shape))


def chain(*augments: Any) -> "Chain":
    """One augmentation after the other, each with a key of its own.

    >>> chain(shift(1), flip())(jax.random.key(0), jnp.ones((2, 4, 4, 1))).shape
    (2, 4, 4, 1)
    """
    return Chain(augments)


def augmentation(
    pixels: int, flips: bool, fill: Sequence[float], shape: Sequence[int] | None
) -> Any:
    """What a data set's `shift` and `flip` ask for, or None."""
    flipped = [flip(shape=shape)] if flips else []
    found = [*flipped, *([shift(pixels, fill=fill, shape=shape)] if pixels else [])]
    return found[0] if len(found) == 1 else chain(*found) if found else None


@dataclass(frozen=True)
class Shift:
    """See `shift`."""

    pixels: int
    fill: tuple[float, ...] = (0.0,)
    shape: tuple[int, ...] | None = None

    def __call__(self, key: Key, batch: PyTree) -> PyTree:
        def moved(x: Array) -> Array:
            pad, fill = self.pixels, jnp.asarray(self.fill, x.dtype)
            corner = jax.random.randint(key, (len(x), 2), 0, 2 * pad + 1)
            wide = (x.shape[0], x.shape[1] + 2 * pad, x.shape[2] + 2 * pad, x.shape[3])
            padded = jax.lax.dynamic_update_slice(jnp.broadcast_to(fill, wide), x, (0, pad, pad, 0))

            def window(image: Array, at: Array) -> Array:
                return jax.lax.dynamic_slice(image, (at[0], at[1], 0), x.shape[1:])

            return jax.vmap(window)(padded, corner)

        return _images("shift", moved, batch, self.shape)


@dataclass(frozen=True)
class Flip:
    """See `flip`."""

    shape: tuple[int, ...] | None = None

    def __call__(self, key: Key, batch: PyTree) -> PyTree:
        def mirrored(x: Array) -> Array:
            turn = jax.random.bernoulli(key, 0.5, (len(x), 1, 1, 1))
            return jnp.where(turn, x[:, :, ::-1], x)

        return _images("flip", mirrored, batch, self.shape)


@dataclass(frozen=True)
class Chain:
    """See `chain`."""

    augments: tuple[Any, ...]

    def __call__(self, key: Key, batch: PyTree) -> PyTree:
        for place, augment in enumerate(self.augments):
            batch = augment(fold(key, place), batch)
        return batch


def _images(where: str, change: Any, batch: PyTree, shape: tuple[int, ...] | None) -> PyTree:
    """The batch with x, seen as images, changed."""
    x = batch[0] if isinstance(batch, tuple) else batch
    images = x if shape is None else x.reshape(-1, *shape)
    if images.ndim != 4:
        wanted = "x should be images [batch, height, width, channels]"
        check.fail(where, f"{wanted}, got shape {tuple(x.shape)}. Give their shape=(...).")
    x = change(images).reshape(x.shape)
    return (x, *batch[1:]) if isinstance(batch, tuple) else x


def _shape(where: str, shape: Sequence[int] | None) -> tuple[int, ...] | None:
    if shape is not None and len(shape) != 3:
        check.fail(where, f"shape should be (height, width, channels), got {tuple(shape)}.")
    return None if shape is None else tuple(shape)
