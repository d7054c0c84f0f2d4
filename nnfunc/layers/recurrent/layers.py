"""Recurrent layers over time: RNN, GRU and LSTM, in many layers and both directions."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Initializer, Model, Out, Params, PyTree, Scalar, fold
from nnfunc.combinators import wire
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.linear import matmul_rows
from nnfunc.layers.recurrent.cells import Activation, Cell, Reset, build_gru, build_lstm, build_rnn
from nnfunc.layers.recurrent.scan import scan_time


class RecurrentInput(NamedTuple):
    """The x of `nf.lstm`, `nf.gru`, `nf.rnn` and `nf.rnn_classifier` with its lengths and the carry to start from.

    x: [..., time, in_dim].
    lengths: integers [...], the number of steps of each sequence that count; None for all. Later steps are ignored:
        y is 0 there, the last carry is that of the last real step, and the backward direction starts at it.
    carry: the carry to start from, None for zeros: {"layer_0": h, ...} with h [..., dim], for `nf.lstm` {"layer_0":
        (h, c), ...}; of both directions {"layer_0": {"forward": h, "backward": h}, ...}.
    A pytree like any tuple, so `jax.vmap` and `jax.jit` take it as it is.

    >>> model = nf.gru(3, 4)
    >>> x = nf.RecurrentInput(jnp.ones((2, 5, 3)), lengths=jnp.array([5, 2]))
    >>> model.apply(model.init(jax.random.key(0)), x).shape
    (2, 5, 4)
    """

    x: Array
    lengths: Array | None = None
    carry: PyTree = None


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
    The carry of a layer is h.
    activation: "tanh" or "relu".
    in_dim, dim, layers, bidirectional, reverse, dropout, bias, return_carry, weight_init, recurrent_init, and
    `nf.RecurrentInput` with lengths and a carry: as in `nf.lstm`.

    >>> model = nf.rnn(3, 5, layers=2, activation="relu")
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((4, 7, 3))).shape
    (4, 7, 5)
    """

    def cell(in_dim):
        return build_rnn("rnn", in_dim, dim, activation, bias, weight_init, recurrent_init)

    return _build_layers("rnn", cell, in_dim, dim, layers, bidirectional, reverse, dropout, return_carry)


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
    The carry of a layer is h.
    reset: "after" or "before", as in `nf.gru_cell`.
    in_dim, dim, layers, bidirectional, reverse, dropout, bias, return_carry, weight_init, recurrent_init, and
    `nf.RecurrentInput` with lengths and a carry: as in `nf.lstm`.

    >>> model = nf.gru(3, 5, bidirectional=True)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((4, 7, 3))).shape
    (4, 7, 10)
    """

    def cell(in_dim):
        return build_gru("gru", in_dim, dim, reset, bias, weight_init, recurrent_init)

    return _build_layers("gru", cell, in_dim, dim, layers, bidirectional, reverse, dropout, return_carry)


def lstm(
    in_dim: int,
    dim: int,
    *,
    layers: int = 1,
    bidirectional: bool = False,
    reverse: bool = False,
    proj_dim: int | None = None,
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
    x may be an `nf.RecurrentInput` with lengths and the carry to start from.
    in_dim, dim: the widths of x and of the carry.
    layers: their number, at least 1.
    proj_dim: the width of h, and so of y, in place of dim, as in `nf.lstm_cell`.
    return_carry: return (y, carry after the last step) instead of y.
    reverse: run from the last step to the first.
    bidirectional: a second set of parameters does so, and the two outputs are joined, forward first.
    dropout: the rate, in [0, 1], between layers (not after the last); None is off.
    forget_bias, peepholes, bias, weight_init, recurrent_init: as in `nf.lstm_cell`.
    Paths: `layer_0/weight`, or `layer_0/forward/weight` and `layer_0/backward/weight`.
    The product of the input is computed for all steps at once. While a sequence is generated, the carry is the
    cache.
    Raises: ValueError when a shape does not fit, or when a layer that runs backward is to generate.

    >>> model = nf.lstm(3, 5, return_carry=True)
    >>> params = model.init(jax.random.key(0))
    >>> y, carry = model.apply(params, nf.RecurrentInput(jnp.ones((2, 7, 3)), jnp.array([7, 4])))
    >>> h, c = carry["layer_0"]
    >>> y.shape, bool((y[1, 3] == h[1]).all()), bool((y[1, 4:] == 0).all())
    ((2, 7, 5), True, True)
    """

    def cell(in_dim):
        return build_lstm("lstm", in_dim, dim, forget_bias, peepholes, bias, weight_init, recurrent_init, proj_dim)

    if proj_dim is not None:
        check.size("lstm", proj_dim=proj_dim)
    out_dim = dim if proj_dim is None else proj_dim
    return _build_layers("lstm", cell, in_dim, out_dim, layers, bidirectional, reverse, dropout, return_carry)


def _build_layers(
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
        check.fail(name, expected="only one of reverse and bidirectional should be set", actual="both")
    widths = [in_dim] + [dim * (2 if bidirectional else 1)] * (layers - 1)
    children = {f"layer_{i}": _layer(cell(wide), bidirectional, reverse) for i, wide in enumerate(widths)}
    names = list(children)
    if dropout is not None:
        children |= {f"drop_{i}": dropout_layer(dropout) for i in range(layers - 1)}

    def flow(net, x):
        inputs = _check_input(name, x, names)
        x, lengths, carry = inputs
        last = {}
        for i, layer in enumerate(names):
            x, last[layer] = net[layer](RecurrentInput(x, lengths, carry and carry[layer]))
            x = net[f"drop_{i}"](x) if f"drop_{i}" in children else x
        return (x, last) if return_carry else x

    model = wire(flow, **children)
    return model.replace(name=name)


def _check_input(where: str, x: PyTree, names: Sequence[str]) -> RecurrentInput:
    """x as a RecurrentInput, with the checks that do not depend on the cell. names: of the layers."""
    inputs = check.model_input(where, x, RecurrentInput)
    x, lengths, carry = inputs
    check.floating(where, x=x)
    shape = x.shape
    if len(shape) < 2:
        check.fail(where, expected="x should be [..., time, in_dim]", actual=f"shape {shape}")
    if lengths is not None:
        check.integers(where, lengths=lengths)
        check.shape(where, shape[:-2], "One integer for each sequence.", lengths=lengths)
        check.within(where, 0, shape[-2], lengths=lengths)
    if carry is not None and (not isinstance(carry, dict) or sorted(carry) != sorted(names)):
        actual = sorted(carry) if isinstance(carry, dict) else check.describe(carry)
        check.fail(where, expected=f"carry should be a dict with {names}", actual=actual)
    return inputs


def _layer(cell: Cell, bidirectional: bool, reverse: bool) -> Model:
    """One layer: a RecurrentInput with the carry of this layer -> (y, carry after the last step)."""
    directions = {"forward": False, "backward": True} if bidirectional else {"": reverse}
    where = cell.name

    def init(key):
        if not bidirectional:
            return cell.init(key)
        return {name: cell.init(fold(key, name)) for name in directions}

    def forward(params, inputs, ctx):
        x, lengths, start = inputs
        params = ctx.cast(params)
        if ctx.cache is not None and any(directions.values()):
            expected, actual = "a layer that generates should run forward only", "bidirectional or reverse"
            check.fail(where, expected=expected, actual=actual)
        start = ctx.state.get("carry", start) if ctx.cache is not None else start
        if not bidirectional:
            y, last = _run_direction(cell, params, x, lengths, start, reverse)
        else:
            if start is not None and (not isinstance(start, dict) or sorted(start) != sorted(directions)):
                expected = "the carry of both directions should be a dict with 'forward', 'backward'"
                check.fail(where, expected=expected, actual=check.describe(start), exc_type=TypeError)
            results = {
                name: _run_direction(cell, params[name], x, lengths, start and start[name], backward)
                for name, backward in directions.items()
            }
            y = jnp.concatenate([results["forward"][0], results["backward"][0]], axis=-1)
            last = {name: carry for name, (_, carry) in results.items()}
        return (y, last), Out(ctx.state if ctx.cache is None else {"carry": last})

    return Model(init, forward=forward, name=where)


def _run_direction(
    cell: Cell, params: Params, x: Array, lengths: Array | None, carry: PyTree, reverse: bool
) -> tuple[Array, PyTree]:
    """One direction of one layer, computed as [time, batch, dim]."""
    cell.check(cell.name, params, x)
    *lead, steps, _ = x.shape
    batch = math.prod(lead)
    dtype = jnp.promote_types(x.dtype, params["weight"].dtype)  # that of every step
    start = cell.flatten_carry(cell.name, carry, lead, dtype)
    x = jnp.moveaxis(x, -2, 0)  # [time, ..., in_dim]
    x, mask = x.reshape(steps, batch, cell.in_dim), None  # [time, batch, in_dim]
    if lengths is not None:
        times = jnp.arange(steps, dtype=jnp.int32)[:, None]
        real = (times < lengths.astype(jnp.int32).reshape(1, batch))[..., None]  # [time, batch, 1]
        x = jnp.where(real, x, 0)  # the padding may hold NaN
        mask = jnp.broadcast_to(real, (steps, batch, cell.dim)) if cell.out_dim == cell.dim else real
    pre = matmul_rows(x, params["weight"])
    y, last = scan_time(cell.cell_math, cell.weights(params), pre, start, mask, reverse=reverse, name=cell.name)
    y = y if mask is None else jnp.where(mask, y, 0)
    y = jnp.moveaxis(y.reshape(steps, *lead, cell.out_dim), 0, -2)  # [..., time, dim]
    return y, cell.unflatten_carry(last, lead)
