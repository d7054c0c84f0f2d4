"""Pooling to a fixed output size: over whole images, or over windows that adapt to the image."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Model, widen
from nnfunc.layers.sliding_windows import Size, flatten_batch, per_axis


def global_avg_pool(dims: int = 2) -> Model:
    """The mean over the spatial axes. Shapes: x [..., *spatial, channels] -> y [..., channels].

    dims: the number of spatial axes, at least 1. The mean of integers is float32.

    >>> nf.global_avg_pool().apply({}, jnp.ones((5, 7, 7, 64))).shape
    (5, 64)
    """
    return _global("global_avg_pool", dims, _mean)


def global_max_pool(dims: int = 2) -> Model:
    """The largest value over the spatial axes.

    dims: the number of spatial axes, at least 1.

    Shapes: x [..., *spatial, channels] -> y [..., channels].
    Of equal values the first one, row by row, takes the gradient; NaN is the largest.

    >>> nf.global_max_pool().apply({}, jnp.arange(8.0).reshape(2, 2, 2))
    Array([6., 7.], dtype=float32)
    """
    return _global("global_max_pool", dims, _largest)


def adaptive_avg_pool(out: Size, *, dims: int = 2) -> Model:
    """The means of `out` windows along each spatial axis, whatever its size n.

    Window i reaches from floor(i * n / out) to before ceil((i + 1) * n / out): all of one size where
    out divides n, otherwise uneven and overlapping.
    out: one number for all axes or one for each, whose number is then dims.
    dims: the number of spatial axes.
    Shapes: x [..., *spatial, channels] -> y [..., *out, channels].
    Source: PyTorch's AdaptiveAvgPool1d, 2d and 3d.

    >>> nf.adaptive_avg_pool((1, 2)).apply({}, jnp.arange(3.0).reshape(1, 3, 1))[0, :, 0]
    Array([0.5, 1.5], dtype=float32)
    """
    return _adaptive("adaptive_avg_pool", out, dims, _mean)


def adaptive_max_pool(out: Size, *, dims: int = 2) -> Model:
    """The largest values of the windows of `adaptive_avg_pool`.

    out, dims, shapes: as there. Of equal values the first one, row by row, takes the gradient; NaN is the largest.

    >>> nf.adaptive_max_pool((1, 2)).apply({}, jnp.arange(3.0).reshape(1, 3, 1))[0, :, 0]
    Array([1., 2.], dtype=float32)
    """
    return _adaptive("adaptive_max_pool", out, dims, _largest)


Reduce = Callable[[Array, int], Array]
"""(x, axis) -> x without that axis."""


def _global(where: str, dims: int, reduce: Reduce) -> Model:
    check.size(where, dims=dims)

    def apply(params, x):
        flat, lead = flatten_batch(where, x, dims, integers=True)
        _not_empty(where, flat.shape[1:-1])
        flat = flat.reshape(*lead, math.prod(flat.shape[1:-1]), flat.shape[-1])  # [..., positions, channels]
        return reduce(flat, -2)

    return Model(lambda key: {}, apply, name=where)


def _adaptive(where: str, out: Size, dims: int, reduce: Reduce) -> Model:
    dims = len(out) if isinstance(out, Sequence) else dims
    check.size(where, dims=dims)
    sizes = per_axis(where, "out", out, dims)

    def apply(params, x):
        y, lead = flatten_batch(where, x, dims, integers=True)
        _not_empty(where, y.shape[1:-1])
        for axis in reversed(range(1, dims + 1)):
            y = _windows_along(y, axis, sizes[axis - 1], reduce)
        return y.reshape(*lead, *y.shape[1:])  # [..., *out, channels]

    return Model(lambda key: {}, apply, name=where)


def _windows_along(x: Array, axis: int, out: int, reduce: Reduce) -> Array:
    n = x.shape[axis]
    if n % out == 0:
        x = x.reshape(*x.shape[:axis], out, n // out, *x.shape[axis + 1 :])  # [..., out, n / out, ...]
        return reduce(x, axis + 1)
    parts = [(i * n // out, -((i + 1) * n // -out)) for i in range(out)]
    windows = [jax.lax.slice_in_dim(x, start, stop, axis=axis) for start, stop in parts]
    return jnp.stack([reduce(window, axis) for window in windows], axis)


def _not_empty(where: str, spatial: Sequence[int]) -> None:
    if 0 in spatial:
        check.fail(where, expected="x should have no empty spatial axis", actual=f"spatial sizes {tuple(spatial)}")


def _mean(x: Array, axis: int) -> Array:
    return jnp.mean(x if jnp.issubdtype(x.dtype, jnp.floating) else widen(x), axis)


def _largest(x: Array, axis: int) -> Array:
    return _first_largest(jnp.moveaxis(x, axis, -2))  # [..., windows, channels]


@jax.custom_jvp
def _first_largest(x: Array) -> Array:
    """The largest along the axis before the last; of equal values the first takes the gradient."""
    return jnp.max(x, -2)


@_first_largest.defjvp
def _first_largest_jvp(primals, tangents):
    ((x,), (dx,)) = primals, tangents
    indices = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 2)
    chosen = indices == jnp.argmax(x, -2, keepdims=True).astype(jnp.int32)
    return _first_largest(x), jnp.sum(jnp.where(chosen, dx, jnp.zeros_like(dx)), -2)
