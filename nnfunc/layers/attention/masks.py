"""Which places attention may look at, and what is added to its scores."""

import math
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import broadcast_to_rank

from nnfunc.base import Array, Scalar, wide_dtype


def distance(q: Array, k: Array, start: Scalar | None) -> Array:
    """How far each query stands behind each key, [time, source] integers."""
    shape = (q.shape[-3], k.shape[-3])
    first = shape[1] - shape[0] if start is None else jnp.asarray(start).astype(jnp.int32)
    rows, columns = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return rows + first - columns


def added_scores(q: Array, k: Array, bias: Array | None, slopes: Array | None, start: Scalar | None) -> Array | None:
    """What is added to the scores, broadcastable to them."""
    dtype = wide_dtype(q)
    added = None if bias is None else jnp.asarray(bias, dtype)
    if slopes is not None:
        apart = jnp.abs(distance(q, k, start)).astype(dtype)
        fall = broadcast_to_rank(-jnp.asarray(slopes, dtype)[:, None, None] * apart[None], q.ndim)
        added = fall if added is None else broadcast_to_rank(added, q.ndim) + fall
    return added if added is None else broadcast_to_rank(added, q.ndim)


def allowed_places(q: Array, k: Array, wanted: dict[str, Any]) -> Array | None:
    """Where attending is allowed, of the scores' rank, broadcastable to them; None when everywhere."""
    causal, window, lengths, mask = (wanted[n] for n in ("causal", "window", "lengths", "mask"))
    parts = []
    if causal or window is not None:
        apart = distance(q, k, wanted["start"])
    if causal:
        parts.append(apart >= 0)
    if window is not None:
        near = (apart if causal else jnp.abs(apart)).astype(jnp.float32)
        parts.append(near < jnp.asarray(window, jnp.float32))
    if lengths is not None:
        parts.append(_before(lengths, k.shape[-3])[..., None, None, :])
    if mask is not None:
        parts.append(for_heads(mask, q))
    parts = [broadcast_to_rank(part, q.ndim) for part in parts]
    return reduce(jnp.logical_and, parts) if parts else None


def _before(lengths: Array, count: int) -> Array:
    """Which of `count` places stand before the lengths: [...] -> [..., count]."""
    ends = jnp.asarray(lengths).astype(jnp.int32)[..., None]
    return jnp.arange(count, dtype=jnp.int32).reshape((1,) * (ends.ndim - 1) + (count,)) < ends


def finite(q: Array, k: Array, v: Array, allowed: Array) -> tuple[Array, Array, Array, Array]:
    """q, k, v with 0 for what is not finite, and the results that are to be NaN for it.

    What is excluded takes part in the products all the same, and 0 * NaN is NaN, in gradients too.
    Shapes: the results as [..., time, heads, 1]: queries that are not finite, or see what is not.
    """
    whole = [jnp.isfinite(x).all(-1) for x in (q, k, v)]
    bad = jnp.repeat(~(whole[1] & whole[2]), q.shape[-2] // max(k.shape[-2], 1), axis=-1)
    bad = jnp.swapaxes(bad, -1, -2)[..., None, :] | jnp.swapaxes(~whole[0], -1, -2)[..., None]
    spoilt = jnp.swapaxes((allowed & bad).any(-1), -1, -2)[..., None]
    q, k, v = (jnp.where(jnp.isfinite(x), x, 0) for x in (q, k, v))
    return q, k, v, spoilt


def zero_nonfinite_padding(x: Array, mask: Any, lengths: Any) -> Array:
    """x [..., source, dim], with 0 for what is not finite where mask and lengths let nobody look.

    So no NaN of the padding gets into the gradients of what is calculated of every place alone.
    A mask or lengths that do not fit x are left to `attend`.
    """
    parts = []
    if mask is not None and getattr(mask, "dtype", None) == np.bool_ and mask.ndim > 1:
        parts.append(mask.any((-3, -2) if mask.ndim > x.ndim else -2))
    if hasattr(lengths, "dtype") and jnp.issubdtype(lengths.dtype, jnp.integer):
        parts.append(_before(lengths, x.shape[-2]))
    for part in parts:
        sizes = zip(reversed(part.shape), reversed(x.shape[:-1]), strict=False)
        if part.ndim >= x.ndim or any(size not in (1, own) for size, own in sizes):
            continue
        seen = broadcast_to_rank(part, x.ndim - 1)[..., None]
        x = jnp.where(seen | jnp.isfinite(x), x, 0)
    return x


def for_heads(mask: Array, q: Array) -> Array:
    """A mask with an axis for the heads."""
    return mask if mask.ndim == q.ndim else jnp.expand_dims(mask, -3)


def some(allowed: Array) -> Array:
    """Whether a query may attend to anything, broadcastable to [..., time, heads, dim]."""
    return jnp.swapaxes(allowed.any(-1, keepdims=True), -3, -2)


def flat(x: Array | None, q: Array) -> Array | None:
    """What broadcasts to [..., heads, time, source], with its leading axes as one."""
    if x is None:
        return None
    missing = q.ndim - x.ndim
    x = x.reshape(*(1,) * missing, *x.shape)
    if math.prod(x.shape[:-3]) != 1:
        x = jnp.broadcast_to(x, (*q.shape[:-3], *x.shape[-3:]))
    return x.reshape(-1, *x.shape[-3:])
