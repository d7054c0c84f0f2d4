"""What data sets of images have in common: how an image is laid out, and how pixels become floats."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, PyTree
from nnfunc.data.augment import augmentation
from nnfunc.data.splits import Splits, cut

__all__ = ["Layout", "Normalise", "image_splits"]

Layout = Literal["image", "flat", "rows"]
"""[height, width, channels], [height * width * channels], or [height, width * channels]."""


@dataclass(frozen=True)
class Normalise:
    """The batch (x, y), or x alone, with x as floats: (x / scale - mean) / std.

    mean, std: one number, or one for each channel; the last axis of x holds the channels, once or
    many times over. Equal ones compile one program.

    >>> Normalise((0.5,), (0.25,))(jnp.array([[0, 255]], jnp.uint8)).tolist()
    [[-2.0, 2.0]]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __call__(self, batch: PyTree) -> PyTree:
        if isinstance(batch, tuple):
            return self._floats(batch[0]), *batch[1:]
        return self._floats(batch)

    def _floats(self, x: Array) -> Array:
        dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
        times = max(1, x.shape[-1] // len(self.mean)) if len(self.mean) > 1 else 1
        std, mean = np.tile(self.std, times), np.tile(self.mean, times)
        factor, offset = (1 / (self.scale * std)).astype(dtype), (mean / std).astype(dtype)
        return x.astype(dtype) * factor - offset  # one multiplication and one addition


def image_splits(
    where: str, parts: Sequence[Any], *, layout: str, names: Sequence[str],
    mean: Sequence[float], std: Sequence[float], validation: float = 0,
    shuffle_pixels: bool = False, shuffle_seed: int = 0, shift: int = 0, flip: bool = False,
) -> Splits:  # fmt: skip
    """(train, validation, test) of uint8 images [n, height, width, channels] as `Splits`.

    validation: how much of train to cut off by class, where there is no such part.
    """
    check.choice(where, ("image", "flat", "rows"), layout=layout)
    check.size(where, 0, shift=shift, shuffle_seed=shuffle_seed)
    train, held, test = parts
    shape = train[0].shape[1:]
    if shuffle_pixels and (shift or flip):
        problem = "shift and flip move neighbours together, which shuffled pixels are not"
        check.fail(where, f"{problem}. Leave out shuffle_pixels, or shift and flip.")
    if shift >= min(shape[:2]):
        check.fail(where, f"shift should be below the image's side, {min(shape[:2])}, got {shift}.")
    if held is None and validation:
        train, held = cut(where, *train, stratify=True, validation=validation)

    def ready(part: Any) -> Any:
        if part is None:
            return None
        x = _shuffled(part[0], shuffle_seed) if shuffle_pixels else part[0]
        return laid_out(x, layout), part[1]

    fill = tuple(-m / s for m, s in zip(mean, std, strict=True))  # what black becomes
    augment = augmentation(shift, flip, fill, None if layout == "image" else shape)
    normalise = Normalise(tuple(mean), tuple(std))
    return Splits(
        ready(train), ready(held), ready(test), len(names), tuple(names), normalise, augment,
        image_shape=None if layout == "image" or shuffle_pixels else shape,
    )  # fmt: skip


def laid_out(x: np.ndarray, layout: str) -> np.ndarray:
    """Images [n, height, width, channels] in a layout."""
    count, height = x.shape[:2]
    if layout == "image":
        return x
    return x.reshape(count, -1) if layout == "flat" else x.reshape(count, height, -1)


def _shuffled(x: np.ndarray, seed: int) -> np.ndarray:
    """The pixels of every image in one and the same other order; channels stay together."""
    count, height, width, channels = x.shape
    order = np.random.RandomState(seed).permutation(height * width)
    return np.take(x.reshape(count, -1, channels), order, axis=1).reshape(x.shape)
