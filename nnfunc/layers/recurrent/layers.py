"""Recurrent layers over time: RNN, GRU and LSTM, in many layers and both directions."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Initializer, Model, Out, Params, PyTree, Scalar, fold
from nnfunc.combinators import wire
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.linear import matmul_rows
from nnfunc.layers.recurrent.cells import Activation, Cell, Reset, gru_of, lstm_of, rnn_of
from nnfunc.layers.recurrent.scan import scan_time

__all__ = ["gru", "lstm", "rnn"]


def rnn(
    in_dim: int,
    dim: int,
    *,
    layers: int = 1,
    activation: Activation = "tanh",
    bidirectional: bool = False,
    reverse: bool = False,
    dropout: Scalar | None = None,
    bias: bool = True,
    return_carry: bool = False,
    weight_init: Initializer = initializers.lecun_normal,
    recurrent_init: Initializer = initializers.orthogonal,
) -> Model:
    """The simple recurrent network over time: `nf.rnn_cell` at every step, as PyTorch's RNN.

    Shapes: x [..., time, in_dim] -> y [..., time, dim], or [..., time, 2 * dim] of both directions.
    Lengths, carries and the other arguments are those of `nf.lstm`; the carry of a layer is h.

    >>> model = nf.rnn(3, 5, layers=2, activation="relu")
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((4, 7, 3))).shape
    (4, 7, 5)
    """

    def cell(wide):
        return rnn_of("rnn", wide, dim, activation, bias, weight_init, recurrent_init)

    return _stack("rnn", cell, in_dim, dim, layers, bidirectional, reverse, dropout, return_carry)


def gru(
    in_dim: int,
    dim: int,
    *,
    layers: int = 1,
    reset: Reset = "after",
    bidirectional: bool = False,
    reverse: bool = False,
    dropout: Scalar | None = None,
    bias: bool = True,
    return_carry: bool = False,
    weight_init: Initializer = initializers.lecun_normal,
    recurrent_init: Initializer = initializers.orthogonal,
) -> Model:
    """The gated recurrent unit over time: `nf.gru_cell` at every step, as PyTorch's GRU.

    Shapes: x [..., time, in_dim] -> y [..., time, dim], or [..., time, 2 * dim] of both directions.
    Lengths, carries and the other arguments are those of `nf.lstm`; the carry of a layer is h.

    >>> model = nf.gru(3, 5, bidirectional=True)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((4, 7, 3))).shape
    (4, 7, 10)
    """

    def cell(wide):
        return gru_of("gru", wide, dim, reset, bias, weight_init, recurrent_init)

    return _stack("gru", cell, in_dim, dim, layers, bidirectional, reverse, dropout, return_carry)


def lstm(
    in_dim: int,
    dim: int,
    *,
    layers: int = 1,
    bidirectional: bool = False,
    reverse: bool = False,
    dropout: Scalar | None = None,
    forget_bias: Scalar = 1.0,
    peepholes: bool = False,
    bias: bool = True,
    return_carry: bool = False,
    weight_init: Initializer = initializers.lecun_normal,
    recurrent_init: Initializer = initializers.orthogonal,
) -> Model:
    """Long short-term memory over time: `nf.lstm_cell` at every step, as PyTorch's LSTM.

    Shapes: x [..., time, in_dim] -> y [..., time, dim], or [..., time, 2 * dim] of both directions.
    x may be a dict {"x": ..., "lengths": ..., "carry": ...} with one or both of the last two.
    lengths [...] integers: how many steps of each sequence count. What follows is not looked at: y is
    0 there, the last carry is that of the last real step, and the backward direction starts at it.
    carry: where to start, {"layer_0": (h, c), ...} with h and c [..., dim], or, of both directions,
    {"layer_0": {"forward": (h, c), "backward": (h, c)}, ...}; zeros when it is not given.
    return_carry: give (y, carry after the last step) instead of y.
    reverse: from the last step to the first. bidirectional: a second set of parameters does so, and
    the two outputs are joined, forward first. dropout: the rate, in [0, 1], between layers (not after
    the last). Paths: `layer_0/weight`, or `layer_0/forward/weight` and `layer_0/backward/weight`.
    The product of the input is calculated for all steps at once. While a sequence is generated, the
    carry is the cache.
    Raises: ValueError when a shape does not fit, or when a layer that looks ahead is to generate.

    >>> model = nf.lstm(3, 5, return_carry=True)
    >>> params = model.init(jax.random.key(0))
    >>> y, carry = model.apply(params, {"x": jnp.ones((2, 7, 3)), "lengths": jnp.array([7, 4])})
    >>> h, c = carry["layer_0"]
    >>> y.shape, bool((y[1, 3] == h[1]).all()), bool((y[1, 4:] == 0).all())
    ((2, 7, 5), True, True)
    """

    def cell(wide):
        return lstm_of("lstm", wide, dim, forget_bias, peepholes, bias, weight_init, recurrent_init)

    return _stack("lstm", cell, in_dim, dim, layers, bidirectional, reverse, dropout, return_carry)


def _stack(
    name: str,
    cell: Callable[[int], Cell],
    in_dim: int,
    dim: int,
    layers: int,
    bidirectional: bool,
    reverse: bool,
    dropout: Scalar | None,
    return_carry: bool,
) -> Model:
    """One layer after another, with dropout between them."""
    check.size(name, in_dim=in_dim, dim=dim, layers=layers)
    if bidirectional and reverse:
        check.fail(name, "reverse should be left out with bidirectional, which has both, got both.")
    widths = [in_dim] + [dim * (2 if bidirectional else 1)] * (layers - 1)
    children = {f"layer_{i}": _layer(cell(wide), bidirectional, reverse) for i, wide in enumerate(widths)}
    names = list(children)
    if dropout is not None:
        children |= {f"drop_{i}": dropout_layer(dropout) for i in range(layers - 1)}

    def flow(net, x):
        inputs = _inputs(name, x, names)
        x, carry, last = inputs["x"], inputs.get("carry"), {}
        for i, layer in enumerate(names):
            own = {"x": x, "lengths": inputs.get("lengths"), "carry": carry and carry[layer]}
            x, last[layer] = net[layer](own)
            x = net[f"drop_{i}"](x) if f"drop_{i}" in children else x
        return (x, last) if return_carry else x

    model = wire(flow, **children)
    return Model(model.init, forward=model.forward, init_state=model.init_state, name=name)


def _inputs(where: str, x: PyTree, names: Sequence[str]) -> dict[str, Any]:
    """x as a dict, its parts checked as far as they do not depend on the cell."""
    inputs = x if isinstance(x, dict) else {"x": x}
    for part in inputs:
        check.choice(where, ("x", "lengths", "carry"), **{"each name in x": part})
    if "x" not in inputs:
        check.fail(where, f"x should be an array or a dict with 'x', got {sorted(inputs)}.")
    check.floating(where, x=inputs["x"])
    shape = inputs["x"].shape
    if len(shape) < 2:
        check.fail(where, f"x should be [..., time, in_dim], got shape {shape}.")
    if "lengths" in inputs:
        check.integers(where, lengths=inputs["lengths"])
        cure = "One integer for each sequence."
        check.shape(where, shape[:-2], cure, lengths=inputs["lengths"])
        check.within(where, 0, shape[-2], lengths=inputs["lengths"])
    carry = inputs.get("carry")
    if carry is not None and (not isinstance(carry, dict) or sorted(carry) != sorted(names)):
        got = sorted(carry) if isinstance(carry, dict) else check.describe(carry)
        check.fail(where, f"carry should be a dict with {names}, got {got}.")
    return inputs


def _layer(cell: Cell, bidirectional: bool, reverse: bool) -> Model:
    """One layer: {"x", "lengths", "carry"} -> (y, carry after the last step)."""
    ways = {"forward": False, "backward": True} if bidirectional else {"": reverse}
    where = cell.name

    def init(key):
        if not bidirectional:
            return cell.init(key)
        return {way: cell.init(fold(key, way)) for way in ways}

    def forward(params, inputs, ctx):
        x, lengths, start = inputs["x"], inputs["lengths"], inputs["carry"]
        params = ctx.cast(params)
        if ctx.cache is not None and any(ways.values()):
            cure = "Use one without bidirectional and reverse."
            check.fail(where, f"a layer that generates should look back only, got another. {cure}")
        start = ctx.state.get("carry", start) if ctx.cache is not None else start
        if not bidirectional:
            y, last = _over(cell, params, x, lengths, start, reverse)
        else:
            if start is not None and (not isinstance(start, dict) or sorted(start) != sorted(ways)):
                wanted = "the carry of both directions should be a dict with 'forward', 'backward'"
                check.fail(where, f"{wanted}, got {check.describe(start)}.", exc_type=TypeError)
            made = {way: _over(cell, params[way], x, lengths, start and start[way], back) for way, back in ways.items()}
            y = jnp.concatenate([made["forward"][0], made["backward"][0]], axis=-1)
            last = {way: carry for way, (_, carry) in made.items()}
        return (y, last), Out(ctx.state if ctx.cache is None else {"carry": last})

    return Model(init, forward=forward, name=where)


def _over(
    cell: Cell, params: Params, x: Array, lengths: Array | None, carry: PyTree, reverse: bool
) -> tuple[Array, PyTree]:
    """One direction of one layer. Inside, time is first and all other axes are one."""
    cell.check(cell.name, params, x)
    *lead, steps, _ = x.shape
    batch = math.prod(lead)
    dtype = jnp.promote_types(x.dtype, params["weight"].dtype)  # that of every step
    start = cell.flat(cell.name, carry, lead, dtype)
    x, mask = jnp.moveaxis(x, -2, 0).reshape(steps, batch, cell.in_dim), None
    if lengths is not None:
        places = jnp.arange(steps, dtype=jnp.int32)[:, None]
        real = (places < lengths.astype(jnp.int32).reshape(1, batch))[..., None]
        x = jnp.where(real, x, 0)  # whatever stands there, NaN too
        mask = jnp.broadcast_to(real, (steps, batch, cell.dim))
    pre = matmul_rows(x, params["weight"])
    y, last = scan_time(cell.kind, cell.weights(params), pre, start, mask, reverse=reverse)
    y = y if mask is None else jnp.where(mask, y, 0)
    y = jnp.moveaxis(y.reshape(steps, *lead, cell.dim), 0, -2)
    return y, cell.shaped(last, lead)
