"""Pooling over windows: the largest value, the mean, the p-norm of each; channels are last.

Each axis is pooled by itself, one after the other, which gives the same and takes fewer steps.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jax import lax

from nnfunc import check, tuning
from nnfunc.base import Array, DType, Model, Scalar, wide_dtype, widen
from nnfunc.layers.sliding_windows import Size, Windows, flatten_batch, pad, parse_windows

Padding = Literal["same", "valid"] | int | Sequence[int | Sequence[int]]


def max_pool(
    window: Size,
    stride: Size | None = None,
    *,
    padding: Padding = "valid",
    dilation: Size = 1,
    ceil_mode: bool = False,
    dims: int = 2,
) -> Model:
    """The largest value of each window, channel by channel.

    Shapes: x [..., *spatial, channels] -> y [..., *windows, channels], with `dims` spatial axes.
    Of equal largest values the first one, row by row, takes the whole gradient, as in PyTorch. A window with a
    NaN gives NaN.

    window, stride, dilation: one number for all axes or one for each, whose number is then dims; stride is the
        window by default.
    padding: as in `conv`, with values that are never the largest; none by default, as in PyTorch.
    ceil_mode: whether a last window that reaches over the end counts too, as in PyTorch: the number of windows is
        rounded up.
    dims: the number of spatial axes, 1, 2 or 3. x may hold integers; so does y.
    Raises: ValueError when no window fits, or the padding is not smaller than the window.

    >>> nf.max_pool(2).apply({}, jnp.ones((5, 28, 28, 3))).shape
    (5, 14, 14, 3)
    """
    win = _windows("max_pool", window, stride, padding, dilation, dims, ceil_mode)

    def apply(params, x):
        flat, lead = flatten_batch("max_pool", x, win.dims, integers=True)
        flat = pad(flat, win.pads(flat.shape[1:-1]), _smallest(flat))
        whole = _use_reduce_window(tuning.platform(), win)
        y = _largest_of_windows(flat, win) if whole else _largest_by_axes(flat, win)
        return y.reshape(*lead, *y.shape[1:])  # [..., *windows, channels]

    return Model(_none, apply)


def avg_pool(
    window: Size,
    stride: Size | None = None,
    *,
    padding: Padding = "valid",
    dilation: Size = 1,
    count_padding: bool = True,
    ceil_mode: bool = False,
    divisor_override: Scalar | None = None,
    dims: int = 2,
) -> Model:
    """The mean of each window, channel by channel.

    window, stride, padding, dilation, ceil_mode, dims, shapes: as in `max_pool`. The mean of integers is float32.
    count_padding: whether the zeros of the padding count as values, which is PyTorch's default (count_include_pad);
        otherwise the mean is that of the values inside, which is TensorFlow's. What ceil_mode adds never counts.
    divisor_override: above 0, what the sum of each window is divided by; None, the default, is the number of
        values.

    >>> nf.avg_pool(2).apply({}, jnp.arange(4.0).reshape(2, 2, 1))
    Array([[[1.5]]], dtype=float32)
    """
    win = _windows("avg_pool", window, stride, padding, dilation, dims, ceil_mode)
    if divisor_override is not None:
        check.number("avg_pool", 0, open_low=True, divisor_override=divisor_override)

    def apply(params, x):
        flat, lead = flatten_batch("avg_pool", x, win.dims, integers=True)
        y = _totals(widen(flat), win)
        count = divisor_override
        if count is None:
            whole = count_padding and not ceil_mode
            count = math.prod(win.size) if whole else _counts(win, flat.shape[1:-1], count_padding)[None]
        y = (y / jnp.asarray(count, y.dtype)).astype(_float_dtype(x))
        return y.reshape(*lead, *y.shape[1:])  # [..., *windows, channels]

    return Model(_none, apply)


def lp_pool(
    window: Size,
    stride: Size | None = None,
    *,
    p: Scalar = 2.0,
    padding: Padding = "valid",
    dilation: Size = 1,
    ceil_mode: bool = False,
    dims: int = 2,
) -> Model:
    """The p-norm of each window, channel by channel: `(sum |x|^p)^(1/p)`.

    p = 1 is the sum of absolute values, and a large p approaches the largest one. The gradient at a window
    of zeros is 0.
    window, stride, padding, dilation, ceil_mode, dims, shapes: as in `max_pool`, padded with zeros. The norm of
        integers is float32.
    p: at least 1.
    In ceil_mode the sum of a window that reaches over the end is scaled up to that of a whole one, as in PyTorch.
    PyTorch's LPPool takes x^p, which for odd p differs where x is negative.

    >>> nf.lp_pool(2).apply({}, jnp.array([[3.0, 0.0], [0.0, 4.0]])[..., None])
    Array([[[5.]]], dtype=float32)
    """
    win = _windows("lp_pool", window, stride, padding, dilation, dims, ceil_mode)
    check.number("lp_pool", 1, open_high=True, p=p)

    def apply(params, x):
        flat, lead = flatten_batch("lp_pool", x, win.dims, integers=True)
        norm = pad(jnp.abs(widen(flat)), win.pads(flat.shape[1:-1]))
        power = jnp.asarray(p).astype(norm.dtype)
        for axis in reversed(range(win.dims)):
            norm = _norm_of(_along(norm, win, axis), power)
        if ceil_mode:
            ratio = jnp.asarray(math.prod(win.size) / _counts(win, flat.shape[1:-1], True)[None], norm.dtype)
            norm = norm * ratio ** (1 / power)
        return norm.reshape(*lead, *norm.shape[1:]).astype(_float_dtype(x))  # [..., *windows, channels]

    return Model(_none, apply)


def _float_dtype(x: Array) -> DType:
    """The dtype of results that are no integers."""
    return x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else wide_dtype(x)


def _smallest(x: Array) -> Any:
    """What is never larger than a value of x."""
    return -math.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min


def _none(key):
    return {}


def _windows(
    where: str, window: Size, stride: Size | None, padding: Padding, dilation: Size, dims: int, ceil: bool = False
) -> Windows:
    win = parse_windows(where, window, stride, padding, dilation, dims, ("same", "valid"), "window", ceil)
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
        x, np.asarray(_smallest(x), x.dtype), lax.max, (1, *win.size, 1), (1, *win.stride, 1), "VALID"
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
        size, strides, dilation, padding = [1] * x.ndim, [1] * x.ndim, [1] * x.ndim, [(0, 0)] * x.ndim
        size[axis + 1], strides[axis + 1] = win.size[axis], win.stride[axis]
        dilation[axis + 1], padding[axis + 1] = win.dilation[axis], pads[axis]
        zero = np.zeros((), x.dtype)
        x = lax.reduce_window(x, zero, lax.add, size, strides, padding, window_dilation=dilation)
    return x


def _counts(win: Windows, spatial: Sequence[int], padded: bool) -> np.ndarray:
    """How many values of each window are inside of x, or, if padded, of x and its padding: [*windows, 1]."""
    counts = np.ones((), int)
    pads = replace(win, ceil=False).pads(spatial)
    for n, out, k, s, d, (before, after) in zip(
        spatial, win.out(spatial), win.size, win.stride, win.dilation, pads, strict=True
    ):
        index = np.arange(out)[:, None] * s - before + np.arange(k) * d  # [windows, window]
        low, high = (-before, n + after) if padded else (0, n)
        counts = counts[..., None] * ((index >= low) & (index < high)).sum(1)
    return counts[..., None]
