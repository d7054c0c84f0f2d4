"""Sampling of the next token from logits."""

from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Key, Scalar


def draw(
    logits: Array,
    key: Key | None = None,
    *,
    temperature: Scalar | None = None,
    top_k: int | None = None,
    top_p: Scalar | None = None,
) -> Array:
    """Sample an id with probability `softmax(logits / temperature)`, optionally only among the most likely ids.

    Shapes: logits [..., vocab_size] -> [...] int32.
    key: random; without one the result is the most likely id, the first of equal ones, and the other arguments are
        refused.
    temperature: in [0, inf], by default 1; 0 gives the most likely id, inf a uniform sample.
    top_k: sample only among the k most likely ids.
    top_p: in [0, 1]; sample only among the smallest set of most likely ids (after top_k) whose probabilities sum to
        at least top_p; it has at least one id. Of equal logits the first ones are preferred. The noise depends on
        the id, so top_k and top_p that remove nothing change nothing.
    NaN is never sampled, and -inf only if all logits are; if all logits are NaN the id is -1.
    Source: top-p is the nucleus of Holtzman et al. 2020, arXiv:1904.09751, section 3.1.

    >>> nf.generation.draw(jnp.array([[0.0, 2.0, 1.0]]))
    Array([1], dtype=int32)
    """
    check.floating("draw", logits=logits)
    check_numbers("draw", key, temperature, top_k, top_p)
    if logits.dtype.itemsize < 4:
        logits = logits.astype(jnp.float32)
    all_nan = jnp.isnan(logits).all(-1)
    logits = jnp.nan_to_num(logits, nan=-jnp.inf, posinf=None, neginf=-jnp.inf)
    most_likely = jnp.argmax(logits, -1).astype(jnp.int32)
    if key is None:
        return jnp.where(all_nan, -1, most_likely)
    heat = jnp.asarray(1.0 if temperature is None else temperature, logits.dtype)
    below = logits - logits.max(-1, keepdims=True)  # in [-inf, 0], NaN where all are -inf
    below = jnp.where(jnp.isfinite(below), below / jnp.where(heat > 0, heat, 1), -jnp.inf)
    noise = jax.random.gumbel(key, logits.shape, logits.dtype)
    if top_k is None and top_p is None:
        sample = jnp.argmax(below + noise, -1).astype(jnp.int32)
    else:
        below, order = jax.lax.top_k(below, min(top_k or logits.shape[-1], logits.shape[-1]))
        if top_p is not None:
            fraction = jax.nn.softmax(below, axis=-1)
            before = jnp.cumsum(fraction, -1) - fraction
            # top_p = 1 removes nothing, although the sum may reach 1 early by rounding
            edge = jnp.asarray(top_p, logits.dtype)
            is_candidate = (before < edge) | (edge >= 1)
            below = jnp.where(is_candidate.at[..., 0].set(True), below, -jnp.inf)
        index = jnp.argmax(below + jnp.take_along_axis(noise, order, -1), -1)
        sample = jnp.take_along_axis(order, index[..., None], -1)[..., 0]
    sample = jnp.where(heat > 0, sample, most_likely)
    return jnp.where(all_nan, -1, sample)


def check_numbers(where: str, key: Any, temperature: Any, top_k: Any, top_p: Any) -> None:
    """Check the ranges of the arguments of `draw`, and that there is a key if they are used."""
    if temperature is not None:
        check.number(where, 0, temperature=temperature)
    if top_k is not None:
        check.size(where, top_k=top_k)
    if top_p is not None:
        check.number(where, 0, 1, top_p=top_p)
    values = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    idle = [name for name, value in values.items() if value is not None]
    greedy = idle == ["temperature"] and check.is_plain(temperature) and temperature == 0
    if key is None and idle and not greedy:
        expected = f"{' and '.join(idle)} should be used with a random key"
        hint = "Pass key=jax.random.key(0), or leave them out to get the most likely token."
        check.fail(where, expected=expected, actual="no key", hint=hint)
