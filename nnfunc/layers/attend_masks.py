"""Which places attention may look at, and what is added to its scores."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc.base import Array, Scalar


def distance(q: Array, k: Array, start: Scalar | None) -> Array:
    """How far each query stands behind each key, [time, source] integers."""
    shape = (q.shape[-3], k.shape[-3])
    first = shape[1] - shape[0] if start is None else jnp.asarray(start).astype(jnp.int32)
    rows, columns = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
    return rows + first - columns


def added_scores(
    q: Array, k: Array, bias: Array | None, slopes: Array | None, start: Scalar | None
) -> Array | None:
    """What is added to the scores, broadcastable to them."""
    dtype = wide(q)
    added = None if bias is None else jnp.asarray(bias, dtype)
    if slopes is not None:
        apart = jnp.abs(distance(q, k, start)).astype(dtype)
        fall = -jnp.asarray(slopes, dtype)[:, None, None] * apart
        added = fall if added is None else added + fall
    return added


def allowed_places(q: Array, k: Array, wanted: dict[str, Any]) -> Array | None:
    """Where attending is allowed, broadcastable to the scores; None when everywhere."""
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
        places = jnp.arange(k.shape[-3], dtype=jnp.int32)
        parts.append(places < jnp.asarray(lengths).astype(jnp.int32)[..., None, None, None])
    if mask is not None:
        parts.append(for_heads(mask, q))
    allowed = parts[0] if parts else None
    for part in parts[1:]:
        allowed = allowed & part
    return allowed


def for_heads(mask: Array, q: Array) -> Array:
    """A mask with an axis for the heads."""
    return mask if mask.ndim == q.ndim else jnp.expand_dims(mask, -3)


def some(allowed: Array) -> Array:
    """Whether a query may attend to anything, broadcastable to [..., time, heads, dim]."""
    found = allowed.any(-1, keepdims=True)
    return jnp.swapaxes(found[None] if found.ndim == 2 else found, -3, -2)


def flat(x: Array | None, q: Array) -> Array | None:
    """What broadcasts to [..., heads, time, source], with its leading axes as one."""
    if x is None:
        return None
    missing = q.ndim - x.ndim
    x = x.reshape(*(1,) * missing, *x.shape)
    if math.prod(x.shape[:-3]) != 1:
        x = jnp.broadcast_to(x, (*q.shape[:-3], *x.shape[-3:]))
    return x.reshape(-1, *x.shape[-3:])


def wide(x: Array) -> Any:
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32
