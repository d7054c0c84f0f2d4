"""The cache of keys and values that attention keeps in its state while a sequence is generated."""

from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Context


def check_cache(ctx: Context, x: Array, causal: bool, context_dim: int | None) -> None:
    """Raise unless attention over x can be cached: it is causal, and the cache has room for x.

    ctx: with `cache`, the number of positions, while a sequence is generated.
    x: [..., time, dim].
    causal, context_dim: those of the layer; the keys of a context are cached whole.
    """
    if (ctx.cache is None and not ctx.state) or context_dim is not None:
        return
    if not causal:
        expected = "generation should use causal=True, because later tokens are unknown"
        check.fail("attention", expected=expected, actual="causal=False")
    time = x.shape[-2]
    if ctx.cache is not None and time > ctx.cache:
        hint = "Choose a cache that holds the prompt and all new tokens."
        check.fail("attention", expected=f"the cache should hold {time} positions", actual=ctx.cache, hint=hint)


def update_cache(ctx: Context, k: Array, v: Array, context_dim: int | None) -> tuple[Array, Array, Any]:
    """The keys and values to attend to, and the new state.

    ctx: its state holds those of earlier calls.
    k, v: of this call, [..., time, kv_heads, head_dim].
    context_dim: that of the layer, None for self-attention.
    """
    if ctx.state:
        position, new = ctx.state["position"], k.shape[-3]
        capacity = ctx.state["key"].shape[-3]
        k = jnp.where(position + new <= capacity, k, jnp.nan)  # rather than write over the last ones
        insert = jax.lax.dynamic_update_slice_in_dim
        k = insert(ctx.state["key"], k, position, k.ndim - 3)
        v = insert(ctx.state["value"], v, position, v.ndim - 3)
        return k, v, {"key": k, "value": v, "position": position + new}
    if ctx.cache is None:
        return k, v, {}
    if context_dim is not None:
        return k, v, {"key": k, "value": v}
    padding = [(0, 0)] * k.ndim
    padding[-3] = (0, ctx.cache - k.shape[-3])
    position = jnp.asarray(k.shape[-3], jnp.int32)
    return k, v, {"key": jnp.pad(k, padding), "value": jnp.pad(v, padding), "position": position}
