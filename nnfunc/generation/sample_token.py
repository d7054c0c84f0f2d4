"""The next token, given the logits."""

from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Key, Scalar

__all__ = ["draw"]


def draw(
    logits: Array,
    key: Key | None = None,
    *,
    temperature: Scalar | None = None,
    top_k: int | None = None,
    top_p: Scalar | None = None,
) -> Array:
    """One id of probability `softmax(logits / temperature)`, cut to the likeliest.

    key: without one, the likeliest id, the first of equals; numbers for drawing are refused then.
    temperature: in [0, inf], by default 1; 0 gives the likeliest, inf a uniform choice. top_k: only the
    k likeliest. top_p: in [0, 1], only the smallest set of the likeliest (after top_k) whose
    probabilities sum to at least top_p; one id always remains. Of equals at the edge the first ones
    are kept. The noise belongs to the ids, so that a cut which removes nothing changes nothing.
    A NaN is never drawn; where all logits are NaN the id is -1. -inf is never drawn unless all are.
    Shapes: logits [..., vocab_size] -> [...] int32.
    Source: top-p is the nucleus of Holtzman et al. 2020, arXiv:1904.09751, section 3.1.

    >>> nf.generation.draw(jnp.array([[0.0, 2.0, 1.0]]))
    Array([1], dtype=int32)
    """
    check.floating("draw", logits=logits)
    check_numbers("draw", key, temperature, top_k, top_p)
    if logits.dtype.itemsize < 4:
        logits = logits.astype(jnp.float32)
    void = jnp.isnan(logits).all(-1)
    logits = jnp.nan_to_num(logits, nan=-jnp.inf, posinf=None, neginf=-jnp.inf)
    likeliest = jnp.argmax(logits, -1).astype(jnp.int32)
    if key is None:
        return jnp.where(void, -1, likeliest)
    heat = jnp.asarray(1.0 if temperature is None else temperature, logits.dtype)
    below = logits - logits.max(-1, keepdims=True)  # in [-inf, 0], NaN where all are -inf
    below = jnp.where(jnp.isfinite(below), below / jnp.where(heat > 0, heat, 1), -jnp.inf)
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    if top_k is None and top_p is None:
        drawn = jnp.argmax(below + noise, -1).astype(jnp.int32)
    else:
        most = min(top_k or logits.shape[-1], logits.shape[-1])
        below, order = jax.lax.top_k(below, most)  # of equals the first comes first
        if top_p is not None:
            share = jax.nn.softmax(below, axis=-1)
            before = jnp.cumsum(share, -1) - share
            # 1 keeps all, though the sum may reach it early by rounding
            edge = jnp.asarray(top_p, logits.dtype)
            kept = (before < edge) | (edge >= 1)
            below = jnp.where(kept.at[..., 0].set(True), below, -jnp.inf)
        place = jnp.argmax(below + jnp.take_along_axis(noise, order, -1), -1)
        drawn = jnp.take_along_axis(order, place[..., None], -1)[..., 0]
    drawn = jnp.where(heat > 0, drawn, likeliest)
    return jnp.where(void, -1, drawn)


def check_numbers(where: str, key: Any, temperature: Any, top_k: Any, top_p: Any) -> None:
    """The numbers for drawing are in their ranges, and there is a key to draw with."""
    if temperature is not None:
        check.number(where, 0, temperature=temperature)
    if top_k is not None:
        check.size(where, top_k=top_k)
    if top_p is not None:
        check.number(where, 0, 1, top_p=top_p)
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    idle = [name for name, value in given.items() if value is not None]
    greedy = idle == ["temperature"] and check.is_plain(temperature) and temperature == 0
    if key is None and idle and not greedy:
        check.fail(
            where,
            expected=f"{' and '.join(idle)} should come with a random key",
            actual="none",
            hint="Give key=jax.random.key(0), or leave them out to take the likeliest token.",
        )
