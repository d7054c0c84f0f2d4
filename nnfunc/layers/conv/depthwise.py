"""Depthwise convolution as shifted multiply-adds, for CPU: each channel is one vector lane."""

import math
from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from nnfunc.base import Array, Shape, vary_like, widen
from nnfunc.layers.conv.channels_last import reverse
from nnfunc.layers.sliding_windows import pad, shifted_copies

Pads = tuple[tuple[int, int], ...]


def depthwise(x: Array, weight: Array, stride: Shape, dilation: Shape, pads: Pads) -> Array:
    """x [batch, *spatial, dim], weight [*kernel, 1, out] -> [batch, *windows, out], out = n * dim.

    stride, dilation, pads: for each spatial axis.
    """
    dim, out_dim = x.shape[-1], weight.shape[-1]
    if dim != out_dim:
        x = jnp.broadcast_to(x[..., None], (*x.shape, out_dim // dim))
        x = x.reshape(*x.shape[:-2], out_dim)  # [batch, *spatial, out]
    return _depthwise(pad(x, pads), weight, stride, dilation)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _depthwise(x: Array, weight: Array, stride: Shape, dilation: Shape) -> Array:
    """One copy of x for each element of the kernel, times its weights, added in one pass in float32."""
    copies = shifted_copies(x, weight.shape[:-2], stride, dilation)
    weights = widen(weight.reshape(len(copies), *(1,) * (x.ndim - 1), weight.shape[-1]))  # [copies, 1, ..., 1, dim]
    terms = [widen(copy) * each for copy, each in zip(copies, weights, strict=True)]
    return reduce(jnp.add, terms).astype(x.dtype)


@partial(_depthwise.defjvp, symbolic_zeros=True)
def _jvp(stride, dilation, primals, tangents):
    (x, weight), (dx, dweight) = primals, tangents
    return reverse(
        _depthwise(x, weight, stride, dilation),
        (dx, lambda dy: _input_gradient(dy, weight, x.shape, stride, dilation)),
        (dweight, lambda dy: _weight_gradient(dy, x, weight.shape, stride, dilation)),
    )


def _input_gradient(dy: Array, weight: Array, shape: Shape, stride: Shape, dilation: Shape) -> Array:
    """The same of dy, dilated by the stride, with the flipped kernel."""
    config = [(0, 0, 0)]
    for n, out, k, s, d in zip(shape[1:], dy.shape[1:], weight.shape, stride, dilation, strict=False):
        span, spread = (k - 1) * d + 1, (out - 1) * s + 1
        config.append((span - 1, n - spread, s - 1))
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), [*config[: dy.ndim - 1], (0, 0, 0)])
    dims = range(dy.ndim - 2)
    return _depthwise(dy, jnp.flip(weight, dims), (1,) * len(dims), dilation)


def _weight_gradient(dy: Array, x: Array, shape: Shape, stride: Shape, dilation: Shape) -> Array:
    """The sum over positions of the window of x there times dy, a row of positions at a time.

    The windows of a few examples are added up in a loop over rows, elementwise; the sum over examples
    comes last. Sums over all positions at once, one for each weight, take several times as long.
    """
    if not dy.size:  # no examples
        return jnp.zeros(shape, x.dtype)
    *kernel, _, dim = shape
    batch, *outer, width = dy.shape[:-1]
    fit = (n for n in range(1, batch + 1) if n == 1 or n * math.prod(shape) <= 2**16)
    some = max((n for n in fit if batch % n == 0), default=1)
    pieces = math.ceil(width / 32)
    piece = math.ceil(width / pieces)
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    long = (piece * pieces - 1) * stride[-1] + span[-1]
    x = pad(x, [*((0, 0),) * len(outer), (0, max(long - x.shape[-2], 0))])
    dy = pad(dy, [*((0, 0),) * len(outer), (0, piece * pieces - width)])
    counts = (batch // some, *outer, pieces)
    dy = dy.reshape(batch // some, some, *outer, pieces, piece, dim)
    dy = jnp.moveaxis(dy, 1, -3)  # [batch / some, *outer, pieces, some, piece, dim]
    dy = dy.reshape(math.prod(counts), some, piece, dim)  # [rows, some, piece, dim]
    steps = [some, *stride[:-1], piece * stride[-1]]
    sizes = (some, *span[:-1], (piece - 1) * stride[-1] + span[-1], dim)
    thin = (slice(None), *(slice(None, None, d) for d in dilation[:-1]))
    indices = tuple(range(1, len(kernel)))

    @partial(jax.checkpoint, prevent_cse=False)  # or transposing would store every window of x
    def row(total, inputs):
        at, dy = inputs
        where = jnp.unravel_index(at, counts)
        start = [index * step for index, step in zip(where, steps, strict=True)]
        rows = lax.dynamic_slice(x, (*start, jnp.zeros_like(at)), sizes)[thin]
        for t in range(piece):
            first = t * stride[-1]
            window = lax.slice_in_dim(rows, first, first + span[-1], dilation[-1], axis=len(kernel))
            total = total + widen(window) * widen(jnp.expand_dims(dy[:, t : t + 1], indices))
        return total, None

    zero = vary_like(widen(jnp.zeros((some, *kernel, dim), dy.dtype)), (x, dy))
    total, _ = lax.scan(row, zero, (jnp.arange(math.prod(counts)), dy))
    return total.sum(0).reshape(shape).astype(x.dtype)  # [some, *kernel, dim] -> [*kernel, 1, dim]
