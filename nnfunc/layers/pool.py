"""Pooling over windows: the largest value, the mean, the p-norm of each; channels are last.

Each axis is pooled by itself, one after the other, which gives the same and takes fewer steps.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nnfunc import check
from nnfunc.base import Array, Model, Scalar, widen
from nnfunc.layers.sliding_windows import Size, Windows, flatten_batch, pad, parse_windows

__all__ = ["avg_pool", "lp_pool", "max_pool"]

Padding = Literal["same", "valid"] | int | Sequence[int | Sequence[int]]


def max_pool(
    window: Size, stride: Size | None = None, *, padding: Padding = "valid", dilation: Size = 1, dims: int = 2
) -> Model:
    """The largest value of each window, channel by channel.

    Shapes: x [..., *spatial, channels] -> y [..., *windows, channels], with `dims` spatial axes.
    Of equal largest values the first one, row by row, takes the whole gradient, as in PyTorch. A window with a
    NaN gives NaN.

    window, stride, dilation: one number for all axes or one for each, whose number is then dims; stride is the
    window by default. padding: as in `conv`, with values that are never the largest; none by default, as in
    PyTorch. dims: the number of spatial axes, 1, 2 or 3.
    Raises: ValueError when no window fits, or the padding is not smaller than the window.

    >>> nf.max_pool(2).apply({}, jnp.ones((5, 28, 28, 3))).shape
    (5, 14, 14, 3)
    """
    win = _windows("max_pool", window, stride, padding, dilation, dims)

    def apply(params, x):
        flat, lead = flatten_batch("max_pool", x, win.dims)
        flat = pad(flat, win.pads(flat.shape[1:-1]), -math.inf)
        whole = _use_reduce_window(jax.default_backend(), win)
        y = _largest_of_windows(flat, win) if whole else _largest_by_axes(flat, win)
        return y.reshape(*lead, *y.shape[1:])  # [..., *windows, channels]

    return Model(_none, apply)


def avg_pool(
    window: Size, stride: Size | None = None, *, padding: Padding = "valid", count_padding: bool = True, dims: int = 2
) -> Model:
    """The mean of each window, channel by channel.

    window, stride, padding, dims, shapes: as in `max_pool`.
    count_padding: whether the zeros of the padding count as values, which is PyTorch's default
    (count_include_pad); otherwise the mean is that of the values inside, which is TensorFlow's.

    >>> nf.avg_pool(2).apply({}, jnp.arange(4.0).reshape(2, 2, 1))
    Array([[[1.5]]], dtype=float32)
    """
    win = _windows("avg_pool", window, stride, padding, 1, dims)

    def apply(params, x):
        flat, lead = flatten_batch("avg_pool", x, win.dims)
        y = _totals(widen(flat), win)
        count = math.prod(win.size) if count_padding else _counts(win, flat.shape[1:-1])[None]
        y = (y / jnp.asarray(count, y.dtype)).astype(x.dtype)
        return y.reshape(*lead, *y.shape[1:])  # [..., *windows, channels]

    return Model(_none, apply)


def lp_pool(
    window: Size, stride: Size | None = None, *, p: Scalar = 2.0, padding: Padding = "valid", dims: int = 2
) -> Model:
    """The p-norm of each window, channel by channel: `(sum |x|^p)^(1/p)`.

    p = 1 is the sum of absolute values, and a large p approaches the largest one. The gradient at a window
    of zeros is 0.
    window, stride, padding, dims, shapes: as in `max_pool`, padded with zeros. p: at least 1.
    PyTorch's LPPool takes x^p, which for odd p differs where x is negative.

    >>> nf.lp_pool(2).apply({}, jnp.array([[3.0, 0.0], [0.0, 4.0]])[..., None])
    Array([[[5.]]], dtype=float32)
    """
    win = _windows("lp_pool", window, stride, padding, 1, dims)
    check.number("lp_pool", 1, open_high=True, p=p)

    def apply(params, x):
        flat, lead = flatten_batch("lp_pool", x, win.dims)
        norm = pad(jnp.abs(widen(flat)), win.pads(flat.shape[1:-1]))
        power = jnp.asarray(p).astype(norm.dtype)
        for axis in reversed(range(win.dims)):
            norm = _norm_of(_along(norm, win, axis), power)
        return norm.reshape(*lead, *norm.shape[1:]).astype(x.dtype)  # [..., *windows, channels]

    return Model(_none, apply)


def _none(key):
    return {}


def _windows(where: str, window: Size, stride: Size | None, padding: Padding, dilation: Size, dims: int) -> Windows:
    win = parse_windows(where, window, stride, padding, dilation, dims, ("same", "valid"), "window")
    if not isinstance(win.padding, str):
        for pair, span in zip(win.padding, win.span, strict=True):
            if max(pair) >= span:
                check.fail(where, expected=f"padding should be smaller than the window, {win.span}", actual=win.padding)
    return win


def _use_reduce_window(backend: str, win: Windows) -> bool:
    """Whether XLA's reduce_window computes the largest values: for long windows, and for overlapping ones on
    other platforms than CPU. With dilation it has no gradient.

    Measured on CPU, forward and backward: by axes takes 0.3 to 0.5 of its time, overlapping or not, as little as
    a reshape and jnp.max, which would split the gradient among equal values.
    """
    apart = all(s >= span for s, span in zip(win.stride, win.span, strict=True))
    long = max(win.size) > 32
    return set(win.dilation) == {1} and (long or not (apart or backend == "cpu"))


def _largest_of_windows(x: Array, win: Windows) -> Array:
    return lax.reduce_window(
        x, np.asarray(-math.inf, x.dtype), lax.max, (1, *win.size, 1), (1, *win.stride, 1), "VALID"
    )


def _largest_by_axes(x: Array, win: Windows) -> Array:
    """The last axis first, so that of equal values the first one, row by row, is taken."""
    for axis in reversed(range(win.dims)):
        x = reduce(_larger, _along(x, win, axis))
    return x


def _along(x: Array, win: Windows, axis: int) -> list[Array]:
    """For each element of a window along one axis the value of every window there."""
    k, stride, dilation = win.size[axis], win.stride[axis], win.dilation[axis]
    reach = ((x.shape[axis + 1] - win.span[axis]) // stride) * stride + 1
    starts = range(0, k * dilation, dilation)
    return [lax.slice_in_dim(x, start, start + reach, stride, axis + 1) for start in starts]


def _norm_of(sizes: list[Array], power: Array) -> Array:
    """The p-norm of values that are not negative, scaled by the largest one of each window.

    So powers neither vanish nor overflow, and nothing depends on other windows.
    """
    largest = lax.stop_gradient(reduce(jnp.maximum, sizes))
    safe = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    total = reduce(jnp.add, [(size / safe) ** power for size in sizes])
    empty = largest == 0
    return jnp.where(empty, 0, safe * jnp.where(empty, 1, total) ** (1 / power))


def _larger(a: Array, b: Array) -> Array:
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def _totals(x: Array, win: Windows) -> Array:
    """The sum of each window, with zeros as padding."""
    pads = win.pads(x.shape[1:-1])
    for axis in reversed(range(win.dims)):
        size, strides, padding = [1] * x.ndim, [1] * x.ndim, [(0, 0)] * x.ndim
        size[axis + 1], strides[axis + 1], padding[axis + 1] = win.size[axis], win.stride[axis], pads[axis]
        x = lax.reduce_window(x, np.zeros((), x.dtype), lax.add, size, strides, padding)
    return x


def _counts(win: Windows, spatial: Sequence[int]) -> np.ndarray:
    """How many values of each window are not padding, [*windows, 1]."""
    counts = np.ones((), int)
    for n, out, k, s, (before, _) in zip(
        spatial, win.out(spatial), win.size, win.stride, win.pads(spatial), strict=True
    ):
        start = np.arange(out) * s - before
        counts = counts[..., None] * (np.minimum(start + k, n) - np.maximum(start, 0))
    return counts[..., None]
