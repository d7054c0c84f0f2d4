"""Transforms of batches: functions batch -> batch that are applied after every gather."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from nnfunc.base import Array, PyTree


def next_tokens(window: Array) -> tuple[Array, Array]:
    """(tokens, the tokens that follow them), int32 [..., block], of windows [..., block + 1].

    window: integer tokens of any dtype, [..., block + 1]. The function is a `transform` for language models.

    >>> x, y = next_tokens(jnp.array([[5, 6, 7]], jnp.uint8))
    >>> x.tolist(), y.tolist()
    ([[5, 6]], [[6, 7]])
    """
    window = window.astype(jnp.int32)
    return window[..., :-1], window[..., 1:]


@dataclass(frozen=True)
class Normalise:
    """The batch (x, y), or x alone, with x as floats: (x / scale - mean) / std.

    mean, std: one number, or one for each channel; the last axis of x is the channels, or a multiple of them.
    scale: the value that becomes 1 before mean and std are applied. Equal transforms compile once. If x holds
        floats, the mean is subtracted first, so that values far from 0 lose no precision.

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
        floats = jnp.issubdtype(x.dtype, jnp.floating)
        dtype = x.dtype if floats else jnp.float32
        times = max(1, x.shape[-1] // len(self.mean)) if len(self.mean) > 1 else 1
        std, mean = np.tile(self.std, times), np.tile(self.mean, times)
        factor, offset = (1 / (self.scale * std)).astype(dtype), (mean / std).astype(dtype)
        if floats:
            return (x - (mean * self.scale).astype(dtype)) * factor
        return x.astype(dtype) * factor - offset  # one multiplication and one addition
