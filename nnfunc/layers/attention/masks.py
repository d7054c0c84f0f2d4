"""The positions that attention may read, and the biases of its scores."""

import math
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import broadcast_to_rank

from nnfunc.base import Array, Key, Scalar, wide_dtype


class AttendOptions(NamedTuple):
    """The optional arguments of `attend`, checked; dropout: the key that it draws from."""

    mask: Array | None = None
    bias: Array | None = None
    causal: bool = False
    window: Scalar | None = None
    lengths: Array | None = None
    slopes: Array | None = None
    start: Scalar | None = None
    scale: Scalar | None = None
    soft_cap: Scalar | None = None
    dropout: Key | None = None


def distance(q: Array, k: Array, start: Scalar | None) -> Array:
    """The position of each query minus that of each key, [time, source] integers."""
    shape = (q.shape[-3], k.shape[-3])
    first = shape[1] - shape[0] if start is None else jnp.asarray(start).astype(jnp.int32)
    rows, columns = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return rows + first - columns


def score_bias(q: Array, k: Array, options: AttendOptions) -> Array | None:
    """The terms to add to the scores, broadcastable to them; None without any."""
    dtype = wide_dtype(q)
    total = None if options.bias is None else jnp.asarray(options.bias, dtype)
    if options.slopes is not None:
        steps = jnp.abs(distance(q, k, options.start)).astype(dtype)
        slopes = -jnp.asarray(options.slopes, dtype)[:, None, None]
        alibi = broadcast_to_rank(slopes * steps[None], q.ndim)  # [..., heads, time, source]
        total = alibi if total is None else broadcast_to_rank(total, q.ndim) + alibi
    return total if total is None else broadcast_to_rank(total, q.ndim)


def allowed_positions(q: Array, k: Array, options: AttendOptions) -> Array | None:
    """Where attending is allowed, of the rank of the scores and broadcastable to them; None for everywhere."""
    causal, window = options.causal, options.window
    parts = []
    if causal or window is not None:
        steps = distance(q, k, options.start)
    if causal:
        parts.append(steps >= 0)
    if window is not None:
        near = (steps if causal else jnp.abs(steps)).astype(jnp.float32)
        parts.append(near < jnp.asarray(window, jnp.float32))
    if options.lengths is not None:
        parts.append(_before(options.lengths, k.shape[-3])[..., None, None, :])
    if options.mask is not None:
        parts.append(with_head_axis(options.mask, q))
    parts = [broadcast_to_rank(part, q.ndim) for part in parts]
    return reduce(jnp.logical_and, parts) if parts else None


def _before(lengths: Array, count: int) -> Array:
    """Which of `count` positions lie before the lengths: [...] -> [..., count]."""
    ends = jnp.asarray(lengths).astype(jnp.int32)[..., None]
    positions = jnp.arange(count, dtype=jnp.int32).reshape((1,) * (ends.ndim - 1) + (count,))  # [1, ..., count]
    return positions < ends


def zero_nonfinite(q: Array, k: Array, v: Array, allowed: Array) -> tuple[Array, Array, Array, Array]:
    """q, k and v with 0 for every value that is not finite, and the results that must be NaN for it.

    Excluded keys take part in the products all the same, and 0 * NaN is NaN, in gradients too.
    Shapes: the last result is [..., time, heads, 1]: queries that are not finite, or may see a key that is not.
    """
    q_finite, k_finite, v_finite = (jnp.isfinite(x).all(-1) for x in (q, k, v))
    bad = jnp.repeat(~(k_finite & v_finite), q.shape[-2] // max(k.shape[-2], 1), axis=-1)  # [..., source, heads]
    bad_keys = jnp.swapaxes(bad, -1, -2)[..., None, :]  # [..., heads, 1, source]
    bad_queries = jnp.swapaxes(~q_finite, -1, -2)[..., None]  # [..., heads, time, 1]
    bad_pairs = bad_keys | bad_queries
    nan_rows = jnp.swapaxes((allowed & bad_pairs).any(-1), -1, -2)[..., None]  # [..., time, heads, 1]
    q, k, v = (jnp.where(jnp.isfinite(x), x, 0) for x in (q, k, v))
    return q, k, v, nan_rows


def zero_nonfinite_padding(x: Array, mask: Any, lengths: Any) -> Array:
    """x [..., source, dim], with 0 for values that are not finite at positions that no query may see.

    So no NaN of the padding reaches the gradients of layers that compute each position by itself.
    A mask or lengths that do not fit x are left to the checks of `attend`.
    """
    parts = []
    if mask is not None and getattr(mask, "dtype", None) == np.bool_ and mask.ndim > 1:
        parts.append(mask.any((-3, -2) if mask.ndim > x.ndim else -2))
    if hasattr(lengths, "dtype") and jnp.issubdtype(lengths.dtype, jnp.integer):
        parts.append(_before(lengths, x.shape[-2]))
    for part in parts:
        sizes = zip(reversed(part.shape), reversed(x.shape[:-1]), strict=False)
        if part.ndim >= x.ndim or any(size not in (1, full) for size, full in sizes):
            continue
        visible = broadcast_to_rank(part, x.ndim - 1)[..., None]
        x = jnp.where(visible | jnp.isfinite(x), x, 0)
    return x


def with_head_axis(mask: Array, q: Array) -> Array:
    """The mask with an axis for the heads, [..., 1 or heads, time, source]."""
    return mask if mask.ndim == q.ndim else jnp.expand_dims(mask, -3)


def any_allowed(allowed: Array) -> Array:
    """Whether each query may attend to anything, broadcastable to [..., time, heads, dim]."""
    return jnp.swapaxes(allowed.any(-1, keepdims=True), -3, -2)  # [..., time, heads, 1]


def flatten_leading(x: Array | None, q: Array) -> Array | None:
    """x, which broadcasts to [..., heads, time, source], with its leading axes as one."""
    if x is None:
        return None
    x = x.reshape(*(1,) * (q.ndim - x.ndim), *x.shape)  # [..., heads, time, source]
    if math.prod(x.shape[:-3]) != 1:
        x = jnp.broadcast_to(x, (*q.shape[:-3], *x.shape[-3:]))
    return x.reshape(-1, *x.shape[-3:])  # [batch, heads, time, source]
