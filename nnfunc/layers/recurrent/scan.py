"""The loop over time of a recurrent layer, plain and fast, with one value.

The fast form saves the factors of the derivative in the forward loop, and takes `h_before @ d_weight`
out of the loop of the derivative, so that the transpose of that loop leaves the gradient of the
recurrent weight to one product over all steps at its end. It is a custom_jvp, so forward mode and
second derivatives work as they do in the plain form.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import tuning
from nnfunc.base import Array, vary_like
from nnfunc.layers.recurrent.cell_math import Carry, CellMath, Saved, Weights


def scan_time(
    cell_math: CellMath,
    weights: Weights,
    pre: Array,
    carry: Carry,
    mask: Array | None = None,
    *,
    reverse: bool = False,
    fast: bool | None = None,
    name: str = "recurrence",
) -> tuple[Array, Carry]:
    """The outputs h of every step, and the carry after the last.

    Where mask is False the carry stays as it was.
    reverse: from the last step to the first.
    fast: which form; by default the one that was measured, or else is quicker on this platform.
    name: of the cell.
    Shapes: pre [time, batch, gates * dim], carry [batch, dim] each, mask [time, batch, 1].
    """
    if not pre.shape[0]:  # without jit JAX has no scan over nothing
        return jnp.zeros((0, *carry[0].shape), carry[0].dtype), carry
    weights, pre, carry = vary_like((weights, pre, carry), (weights, pre, carry))
    if fast is not None or pre.shape[0] == 1:
        return FORMS["fast" if fast and pre.shape[0] > 1 else "plain"](cell_math, reverse, weights, pre, carry, mask)
    default = "fast" if tuning.platform() == "cpu" else "plain"
    dim = carry[0].shape[-1]
    key = f"{name} {pre.dtype} {tuning.join_sizes(pre.shape)}, carry {dim}{'' if mask is None else ', masked'}"
    shape = None if mask is None else mask.shape

    def run(pre, weights, carry, mask):
        return FORMS[tuning.choose(key, default, FORMS)](cell_math, reverse, weights, pre, carry, mask)

    timed = lambda pre, weights, carry: run(pre, weights, carry, None if shape is None else jnp.ones(shape, bool))
    pre = tuning.record(key, default, FORMS, timed, pre, weights, carry, cost=math.prod(pre.shape) * dim)
    return run(pre, weights, carry, mask)


def _masked(mask: Array | None, new: Carry, old: Carry) -> Carry:
    if mask is None:
        return new
    return tuple(jnp.where(mask, a, b) for a, b in zip(new, old, strict=True))


def _plain(
    cell_math: CellMath, reverse: bool, weights: Weights, pre: Array, carry: Carry, mask: Array | None
) -> tuple[Array, Carry]:
    def step(carry, inputs):
        pre, mask = inputs
        new = _masked(mask, cell_math.step(weights, pre, carry)[0], carry)
        return new, new[0]

    carry, y = jax.lax.scan(step, carry, (pre, mask), reverse=reverse)
    return y, carry


def _saving(
    cell_math: CellMath, reverse: bool, weights: Weights, pre: Array, carry: Carry, mask: Array | None
) -> tuple[Carry, Carry, Saved]:
    """The last carry, the carries after every step, and the factors of the derivative."""

    def step(carry, inputs):
        pre, mask = inputs
        new, saved = cell_math.step(weights, pre, carry)
        new = _masked(mask, new, carry)
        return new, (new, Saved(jnp.concatenate(saved.gates, -1), saved.more))

    last, (after, saved) = jax.lax.scan(step, carry, (pre, mask), reverse=reverse)
    return last, after, saved


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _saving_into_pre(
    cell_math: CellMath, reverse: bool, weights: Weights, pre: Array, carry: Carry, mask: Array | None
) -> tuple[Carry, Carry, Saved]:
    """The same, with the factors of the gates written over pre: fewer and smaller arrays to fill.

    The last gate first: its factor depends on every part of pre, so that all of pre has been read
    before. Otherwise XLA would copy the whole buffer at every step; a test looks for such copies.
    """

    def step(state, inputs):
        carry, buffer = state
        t, mask = inputs
        pre = jax.lax.dynamic_index_in_dim(buffer, t, 0, keepdims=False)
        new, saved = cell_math.step(weights, pre, carry)
        new = _masked(mask, new, carry)
        for i, gate in reversed(list(enumerate(saved.gates))):
            buffer = jax.lax.dynamic_update_slice(buffer, gate[None], (t, 0, i * gate.shape[-1]))
        return (new, buffer), (new, saved.more)

    steps = jnp.arange(pre.shape[0])
    state, (after, more) = jax.lax.scan(step, (carry, pre), (steps, mask), reverse=reverse)
    return state[0], after, Saved(state[1], more)


@_saving_into_pre.defjvp
def _saving_jvp(cell_math: CellMath, reverse: bool, primals: Any, tangents: Any) -> Any:
    """Of the other form: transposed, writing in place would copy the whole buffer at every step."""
    mask = primals[3]

    def saving(weights, pre, carry):
        return _saving(cell_math, reverse, weights, pre, carry, mask)

    return jax.jvp(saving, primals[:3], tangents[:3])


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _fast(
    cell_math: CellMath, reverse: bool, weights: Weights, pre: Array, carry: Carry, mask: Array | None
) -> tuple[Array, Carry]:
    return _plain(cell_math, reverse, weights, pre, carry, mask)


@_fast.defjvp
def _fast_jvp(cell_math: CellMath, reverse: bool, primals: Any, tangents: Any) -> Any:
    weights, pre, carry, mask = primals
    d_weights, d_pre, d_carry, _ = tangents
    saving = _saving_into_pre if len(cell_math.gates) > 1 else _saving
    last, after, saved = saving(cell_math, reverse, weights, pre, carry, mask)
    before = tuple(
        jnp.concatenate([all_[1:], first[None]] if reverse else [first[None], all_[:-1]])
        for all_, first in zip(after, carry, strict=True)
    )
    source = cell_math.source(weights, d_weights, d_pre, before, after, saved)

    def follow(d_carry, inputs):
        source, saved, mask = inputs
        new = _masked(mask, cell_math.follow(weights, saved, source, d_carry), d_carry)
        return new, new[0]

    d_last, d_y = jax.lax.scan(follow, d_carry, (source, saved, mask), reverse=reverse)
    return (after[0], last), (d_y, d_last)


FORMS: dict[str, Callable[..., tuple[Array, Carry]]] = {"fast": _fast, "plain": _plain}
