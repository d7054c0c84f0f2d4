"""The arithmetic of one time step of RNN, GRU and LSTM, and of its derivative.

A `CellMath` works on rows [batch, dim]. `pre` is the product of the input for all gates, `x @ weight`,
computed for all steps at once. The derivative of a step is split in two: `source`, the part that does not depend
on the running derivative of the carry, for all steps at once, and `follow`, which is linear in source and
carry. `step` saves the factors of `follow`; nothing in `follow` may be computed from them alone, or XLA moves it
to a separate loop.

Sigmoids are computed of all gates joined, even where one is not needed: XLA on CPU vectorizes that,
but not a function of part of a slice of `pre` (the step's elementwise part: 1.3 against 4.5 ms).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc.base import Array, widen
from nnfunc.layers.linear import add_bias, matmul_rows

Carry = tuple[Array, ...]
Weights = dict[str, Array]


class Saved(NamedTuple):
    """The factors in the derivative of a step.

    gates: the factors of the gates, each [..., dim], or all of them joined [..., gates * dim].
    more: factors of the carry and other arrays [..., dim].
    """

    gates: Any
    more: tuple[Array, ...] = ()


class CellMath(NamedTuple):
    """The arithmetic of an RNN, a GRU or an LSTM.

    gates: their names, in the order in which weights hold them.
    carries: how many arrays [batch, dim] are carried; the first is the output, which may be projected to another
        width.
    step(weights, pre, carry) -> (carry, saved).
    source(weights, d_weights, d_pre, before, after, saved) -> the contribution of the steps to the derivative of
    the gates; before and after are the carries around each step.
    follow(weights, saved, source, d_carry) -> d_carry after the step. These two get joined gates.
    """

    gates: tuple[str, ...]
    carries: int
    step: Callable[[Weights, Array, Carry], tuple[Carry, Saved]]
    source: Callable[[Weights, Weights, Array, Carry, Carry, Saved], Array]
    follow: Callable[[Weights, Saved, Array, Carry], Carry]


def _parts(x: Array, n: int) -> list[Array]:
    return jnp.split(x, n, axis=-1)


def _join(*parts: Array) -> Array:
    return jnp.concatenate(parts, axis=-1)


def _with_bias(weights: Weights, pre: Array) -> Array:
    """pre + bias, inside the loop, where it is free; before it, it would need a second array like pre."""
    return add_bias(pre, weights["bias"]) if "bias" in weights else pre


# RNN: h' = act(pre + h W)


def _rnn_step(act: str, weights: Weights, pre: Array, carry: Carry) -> tuple[Carry, Saved]:
    pre = _with_bias(weights, pre) + carry[0] @ weights["recurrent"]
    if act == "relu":
        return (jax.nn.relu(pre),), Saved(((pre > 0).astype(pre.dtype),))
    h = jnp.tanh(pre)
    return (h,), Saved((1 - h * h,))


def _rnn_source(weights: Weights, d_weights: Weights, d_pre: Array, before: Carry, after: Carry, saved: Saved) -> Array:
    return _with_bias(d_weights, d_pre) + matmul_rows(before[0], d_weights["recurrent"])


def _rnn_follow(weights: Weights, saved: Saved, source: Array, d_carry: Carry) -> Carry:
    return (saved.gates * (source + d_carry[0] @ weights["recurrent"]),)


# GRU: h' = n + z (h - n), n = tanh(pre_n + r (h W_n + b)) or, before: tanh(pre_n + (r h) W_n)


def _gru_step(weights: Weights, pre: Array, carry: Carry) -> tuple[Carry, Saved]:
    (h,), pre = carry, _with_bias(weights, pre)
    of_h = h @ weights["recurrent"]
    r, z, _ = _parts(jax.nn.sigmoid(pre + of_h), 3)
    inner = _parts(of_h, 3)[2]
    inner = inner + weights["recurrent_bias"] if "recurrent_bias" in weights else inner
    n = jnp.tanh(_parts(pre, 3)[2] + r * inner)
    by_n = (1 - z) * (1 - n * n)
    gates = (by_n * inner * r * (1 - r), (h - n) * z * (1 - z), by_n)
    return (n + z * (h - n),), Saved(gates, (r, z))


def _gru_source(weights: Weights, d_weights: Weights, d_pre: Array, before: Carry, after: Carry, saved: Saved) -> Array:
    of_r, of_z, of_n = _parts(matmul_rows(before[0], d_weights["recurrent"]), 3)
    of_n = add_bias(of_n, d_weights["recurrent_bias"]) if "recurrent_bias" in weights else of_n
    return _with_bias(d_weights, d_pre) + _join(of_r, of_z, saved.more[0] * of_n)


def _gru_follow(weights: Weights, saved: Saved, source: Array, d_carry: Carry) -> Carry:
    (dh,), (r, z) = d_carry, saved.more
    of_r, of_z, of_n = _parts(dh @ weights["recurrent"], 3)
    parts = _parts(saved.gates * (source + _join(of_r, of_z, r * of_n)), 3)
    return (parts[0] + parts[1] + parts[2] + z * dh,)


def _gru_before_step(weights: Weights, pre: Array, carry: Carry) -> tuple[Carry, Saved]:
    (h,), pre = carry, _with_bias(weights, pre)
    dim = h.shape[-1]
    r, z = _parts(jax.nn.sigmoid(pre[..., : 2 * dim] + h @ weights["recurrent"]), 2)
    n = jnp.tanh(pre[..., 2 * dim :] + (r * h) @ weights["candidate"])
    by_n = (1 - z) * (1 - n * n)
    gates = (h * r * (1 - r), (h - n) * z * (1 - z), by_n)
    return (n + z * (h - n),), Saved(gates, (r, z, by_n))


def _gru_before_source(
    weights: Weights, d_weights: Weights, d_pre: Array, before: Carry, after: Carry, saved: Saved
) -> Array:
    (h,), r = before, saved.more[0]
    of_h = matmul_rows(h, d_weights["recurrent"]), matmul_rows(r * h, d_weights["candidate"])
    return _with_bias(d_weights, d_pre) + _join(*of_h)


def _gru_before_follow(weights: Weights, saved: Saved, source: Array, d_carry: Carry) -> Carry:
    (dh,), (r, z, by_n) = d_carry, saved.more
    of_h = _join(dh @ weights["recurrent"], jnp.zeros_like(dh))
    parts = _parts(saved.gates * (source + of_h), 3)
    of_n = (parts[0] + r * dh) @ weights["candidate"]
    return (parts[1] + parts[2] + by_n * of_n + z * dh,)


# LSTM: c' = f c + i g, h' = o tanh(c'); peepholes add p_i c, p_f c and p_o c' to their gates


def _lstm_step(weights: Weights, pre: Array, carry: Carry) -> tuple[Carry, Saved]:
    h, c = carry
    pre = _with_bias(weights, pre) + h @ weights["recurrent"]
    i, f, g, o = _parts(pre, 4)
    if "peephole_i" in weights:
        i, f = i + weights["peephole_i"] * c, f + weights["peephole_f"] * c
        i, f, g = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g)
        new = f * c + i * g
        o = jax.nn.sigmoid(o + weights["peephole_o"] * new)
    else:
        i, f, _, o = _parts(jax.nn.sigmoid(pre), 4)
        g = jnp.tanh(g)
        new = f * c + i * g
    t = jnp.tanh(new)
    gates = (g * i * (1 - i), c * f * (1 - f), i * (1 - g * g), t * o * (1 - o))
    keep, out = f, o * (1 - t * t)
    if "peephole_i" in weights:  # the paths from c to c' and from c' to h' that go through the gates
        keep = keep + gates[0] * weights["peephole_i"] + gates[1] * weights["peephole_f"]
        out = out + gates[3] * weights["peephole_o"]
    return (o * t, new), Saved(gates, (keep, out))


def _lstm_source(
    weights: Weights, d_weights: Weights, d_pre: Array, before: Carry, after: Carry, saved: Saved
) -> Array:
    d = _with_bias(d_weights, d_pre) + matmul_rows(before[0], d_weights["recurrent"])
    if "peephole_i" not in weights:
        return d
    of_i, of_f, of_o = (
        (widen(d_weights[f"peephole_{gate}"])[None] * widen(c)).astype(d.dtype)
        for gate, c in (("i", before[1]), ("f", before[1]), ("o", after[1]))
    )
    return d + _join(of_i, of_f, jnp.zeros_like(of_i), of_o)


def _lstm_follow(weights: Weights, saved: Saved, source: Array, d_carry: Carry) -> Carry:
    (dh, dc), (keep, out) = d_carry, saved.more
    i, f, g, o = _parts(saved.gates * (source + dh @ weights["recurrent"]), 4)
    new = keep * dc + i + f + g
    return o + out * new, new


# LSTM with projection: h' = (o tanh(c')) P


def _projected_step(weights: Weights, pre: Array, carry: Carry) -> tuple[Carry, Saved]:
    (inner, c), (gates, more) = _lstm_step(weights, pre, carry)
    return (inner @ weights["projection"], c), Saved(gates, (*more, inner))


def _projected_source(
    weights: Weights, d_weights: Weights, d_pre: Array, before: Carry, after: Carry, saved: Saved
) -> Array:
    of_gates = _lstm_source(weights, d_weights, d_pre, before, after, saved)
    return _join(of_gates, matmul_rows(saved.more[2], d_weights["projection"]))


def _projected_follow(weights: Weights, saved: Saved, source: Array, d_carry: Carry) -> Carry:
    (*more, inner), projection = saved.more, weights["projection"]
    cut = 4 * inner.shape[-1]
    d_inner, dc = _lstm_follow(weights, Saved(saved.gates, tuple(more)), source[..., :cut], d_carry)
    return d_inner @ projection + source[..., cut:], dc


RNN = {act: CellMath(("h",), 1, partial(_rnn_step, act), _rnn_source, _rnn_follow) for act in ("tanh", "relu")}
GRU = {
    "after": CellMath(("r", "z", "n"), 1, _gru_step, _gru_source, _gru_follow),
    "before": CellMath(("r", "z", "n"), 1, _gru_before_step, _gru_before_source, _gru_before_follow),
}
LSTM = CellMath(("i", "f", "g", "o"), 2, _lstm_step, _lstm_source, _lstm_follow)
PROJECTED_LSTM = CellMath(("i", "f", "g", "o"), 2, _projected_step, _projected_source, _projected_follow)
"""The cells by their option; they are compared by identity, so each exists once."""
