"""Recurrent cells, one time step each: `(params, (carry, x)) -> (carry, y)`.

A `Cell` holds the sizes, names and arithmetic of one step, for cells and for the layers over time in `layers.py`.
In the parameters the gates are joined, in the order of PyTorch.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Initializer, Key, Model, Params, PyTree, Scalar, fold, vary_like
from nnfunc.layers.linear import INIT_HINT, matmul_rows
from nnfunc.layers.recurrent.cell_math import GRU, LSTM, PROJECTED_LSTM, RNN, Carry, CellMath, Weights

Activation = Literal["tanh", "relu"]
Reset = Literal["after", "before"]


class Cell(NamedTuple):
    """One step of a recurrent layer: sizes, initial parameters, and the arithmetic in `cell_math`.

    out_dim: the width of h, dim without a projection.
    """

    name: str
    cell_math: CellMath
    in_dim: int
    dim: int
    out_dim: int
    init: Callable[[Key], Params]

    def check(self, where: str, params: Params, x: Array) -> None:
        """x and the weights have the sizes of this cell."""
        gates_dim = len(self.cell_math.gates) * self.dim
        check.last_axis(where, x, in_dim=self.in_dim)
        check.shape(where, (self.in_dim, gates_dim), INIT_HINT, weight=params["weight"])
        check.shape(where, (self.out_dim, gates_dim), INIT_HINT, recurrent_weight=params["recurrent_weight"])
        if "projection" in params:
            check.shape(where, (self.dim, self.out_dim), INIT_HINT, projection=params["projection"])

    def weights(self, params: Params) -> Weights:
        """The weights of a step, by the names in `cell_math`; vectors are [1, dim]."""
        weight = params["recurrent_weight"]
        weights = {name: params[name] for name in ("bias", "projection") if name in params}
        if "recurrent_bias" in params:
            weights["recurrent_bias"] = params["recurrent_bias"][None]
        if "peephole" in params:
            peepholes = jnp.split(params["peephole"][None], 3, -1)
            weights |= {f"peephole_{gate}": peephole for gate, peephole in zip("ifo", peepholes, strict=True)}
        if self.cell_math is not GRU["before"]:
            return weights | {"recurrent": weight}
        cut = 2 * self.dim
        return weights | {"recurrent": weight[:, :cut], "candidate": weight[:, cut:]}

    def flatten_carry(self, where: str, carry: PyTree, lead: Sequence[int], dtype: Any) -> Carry:
        """The carry as arrays [batch, dim]; zeros for None."""
        batch, dims = math.prod(lead), (self.out_dim, self.dim)[: self.cell_math.carries]
        if carry is None:
            return tuple(jnp.zeros((batch, dim), dtype) for dim in dims)
        parts: dict[str, Any] = {"h": carry}
        if self.cell_math.carries == 2:
            if not isinstance(carry, tuple | list) or len(carry) != 2:
                actual = check.describe(carry)
                check.fail(where, expected="the carry should be a pair (h, c)", actual=actual, exc_type=TypeError)
            parts = {"h": carry[0], "c": carry[1]}
        check.floating(where, "", **parts)
        for (name, part), dim in zip(parts.items(), dims, strict=True):
            check.shape(where, (*lead, dim), "The carry is [..., dim].", **{name: part})
        # [batch, dim] each
        return tuple(part.astype(dtype).reshape(batch, dim) for part, dim in zip(parts.values(), dims, strict=True))

    def unflatten_carry(self, carry: Carry, lead: Sequence[int]) -> PyTree:
        """The carry as the user sees it: h [..., dim], or the pair (h, c)."""
        parts = [part.reshape(*lead, part.shape[-1]) for part in carry]  # [..., dim]
        return tuple(parts) if len(parts) > 1 else parts[0]


def build_rnn(
    name: str, in_dim: int, dim: int, activation: str, bias: bool, weight_init: Initializer, recurrent_init: Initializer
) -> Cell:
    check.size(name, in_dim=in_dim, dim=dim)
    check.choice(name, RNN, activation=activation)
    return _build_cell(name, RNN[activation], in_dim, dim, bias, weight_init, recurrent_init)


def build_gru(
    name: str, in_dim: int, dim: int, reset: str, bias: bool, weight_init: Initializer, recurrent_init: Initializer
) -> Cell:
    check.size(name, in_dim=in_dim, dim=dim)
    check.choice(name, GRU, reset=reset)
    inner = bias and reset == "after"
    more = {"recurrent_bias": lambda: jnp.zeros(dim, jnp.float32)} if inner else {}
    return _build_cell(name, GRU[reset], in_dim, dim, bias, weight_init, recurrent_init, more)


def build_lstm(
    name: str,
    in_dim: int,
    dim: int,
    forget_bias: Scalar,
    peepholes: bool,
    bias: bool,
    weight_init: Initializer,
    recurrent_init: Initializer,
    proj_dim: int | None = None,
) -> Cell:
    check.size(name, in_dim=in_dim, dim=dim)
    check.number(name, forget_bias=forget_bias)
    more = {"peephole": lambda: jnp.zeros(3 * dim, jnp.float32)} if peepholes else {}
    if bias:
        forget = lambda: jnp.asarray(forget_bias).astype(jnp.float32)
        more["bias"] = lambda: jnp.zeros(4 * dim, jnp.float32).at[dim : 2 * dim].set(forget())
    if proj_dim is None:
        return _build_cell(name, LSTM, in_dim, dim, bias, weight_init, recurrent_init, more)
    check.size(name, proj_dim=proj_dim)
    return _build_cell(name, PROJECTED_LSTM, in_dim, dim, bias, weight_init, recurrent_init, more, proj_dim)


def _build_cell(
    name: str,
    cell_math: CellMath,
    in_dim: int,
    dim: int,
    bias: bool,
    weight_init: Initializer,
    recurrent_init: Initializer,
    more: dict[str, Callable[[], Array]] | None = None,
    proj_dim: int | None = None,
) -> Cell:
    out_dim = dim if proj_dim is None else proj_dim

    def each_gate(key, init, shape):
        return jnp.concatenate([init(fold(key, gate), shape) for gate in cell_math.gates], axis=-1)

    def init(key):
        params = {
            "weight": each_gate(fold(key, "weight"), weight_init, (in_dim, dim)),
            "recurrent_weight": each_gate(fold(key, "recurrent"), recurrent_init, (out_dim, dim)),
        }
        if proj_dim is not None:
            params["projection"] = weight_init(fold(key, "projection"), (dim, out_dim))
        if bias:
            params["bias"] = jnp.zeros(len(cell_math.gates) * dim, jnp.float32)
        return params | {part: make() for part, make in (more or {}).items()}

    return Cell(name, cell_math, in_dim, dim, out_dim, init)


def _model(cell: Cell) -> Model:
    """One step as a model: (params, (carry, x)) -> (carry, y)."""

    def apply(params, x):
        if not isinstance(x, tuple | list) or len(x) != 2:
            expected = "x should be a pair (carry, x), with None for a carry of zeros"
            check.fail(cell.name, expected=expected, actual=check.describe(x), exc_type=TypeError)
        carry, x = x
        cell.check(cell.name, params, x)
        lead = x.shape[:-1]
        before = cell.flatten_carry(cell.name, carry, lead, jnp.promote_types(x.dtype, params["weight"].dtype))
        pre = matmul_rows(x.reshape(math.prod(lead), cell.in_dim), params["weight"])  # [batch, gates * dim]
        after = cell.cell_math.step(cell.weights(params), pre, before)[0]
        return cell.unflatten_carry(after, lead), after[0].reshape(*lead, cell.out_dim)  # [..., dim]

    return Model(cell.init, apply, name=cell.name)


def rnn_cell(
    in_dim: int,
    dim: int,
    *,
    activation: Activation = "tanh",
    bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    recurrent_init: Initializer = initializers.orthogonal,
) -> Model:
    """One step of the simple recurrent network: `h' = activation(x W + h U + b)`, and y is h'.

    Shapes: (carry h [..., dim], x [..., in_dim]) -> (carry, y [..., dim]); a carry of None is zeros.
    weight W [in_dim, dim], recurrent_weight U [dim, dim], bias [dim]. PyTorch's are their transposes,
    and the sum of its two biases.
    in_dim, dim: the widths of x and of the carry.
    activation: "tanh" or "relu".
    bias: whether to add one.
    weight_init, recurrent_init: of W and U, gate by gate.
    Source: Elman 1990, Cognitive Science 14.

    >>> cell = nf.rnn_cell(3, 2)
    >>> carry, y = cell.apply(cell.init(jax.random.key(0)), (None, jnp.ones((4, 3))))
    >>> y.shape
    (4, 2)
    """
    return _model(build_rnn("rnn_cell", in_dim, dim, activation, bias, weight_init, recurrent_init))


def gru_cell(
    in_dim: int,
    dim: int,
    *,
    reset: Reset = "after",
    bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    recurrent_init: Initializer = initializers.orthogonal,
) -> Model:
    """One step of the gated recurrent unit; y is the carry h'.

    r, z = sigmoid(x W + h U + b);  h' = (1 - z) n + z h, where books differ about n.
    reset: "after", the default because PyTorch has it, or "before":
    reset "after": n = tanh(x W_n + b_n + r (h U_n + recurrent_bias)), as PyTorch and cuDNN; reset "before": n =
    tanh(x W_n + b_n + (r h) U_n), the paper's.
    Shapes: (carry h [..., dim], x [..., in_dim]) -> (carry, y [..., dim]); a carry of None is zeros. weight
    [in_dim, 3 * dim], recurrent_weight [dim, 3 * dim], bias [3 * dim], gates in the order r, z, n; recurrent_bias
    [dim] with "after". PyTorch's biases of r and z are two, here their sum.
    in_dim, dim: the widths of x and of the carry.
    bias: whether to add one.
    weight_init, recurrent_init: of W and U, gate by gate.
    Source: Cho et al. 2014, arXiv:1406.1078, section 2.3 ("before"; in version 1 of Chung et al., arXiv:1412.3555,
    z and 1 - z are exchanged).

    >>> cell = nf.gru_cell(3, 2)
    >>> carry, y = cell.apply(cell.init(jax.random.key(0)), (None, jnp.ones((4, 3))))
    >>> carry.shape, y.shape
    ((4, 2), (4, 2))
    """
    return _model(build_gru("gru_cell", in_dim, dim, reset, bias, weight_init, recurrent_init))


def lstm_cell(
    in_dim: int,
    dim: int,
    *,
    proj_dim: int | None = None,
    forget_bias: Scalar = 1.0,
    peepholes: bool = False,
    bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    recurrent_init: Initializer = initializers.orthogonal,
) -> Model:
    """One step of long short-term memory; the carry is the pair (h, c), and y is h'.

    i, f, o = sigmoid(x W + h U + b), g = tanh(x W_g + h U_g + b_g);  c' = f c + i g;  h' = o tanh(c')
    With peepholes i and f also see c, and o sees c', each weighed by a vector (0 at first).
    Shapes: (carry (h, c), both [..., dim], x [..., in_dim]) -> (carry, y [..., dim]); a carry of None
    is zeros. weight [in_dim, 4 * dim], recurrent_weight [dim, 4 * dim], bias [4 * dim], gates in the
    order i, f, g, o; peephole [3 * dim] for i, f, o. PyTorch's bias is two, here their sum.
    in_dim, dim: the widths of x and of the carry.
    proj_dim: with it, h' = (o tanh(c')) P has this width, with projection P [dim, proj_dim], and recurrent_weight
        is [proj_dim, 4 * dim]; None, the default, is no projection.
    forget_bias: the initial bias of f; with 1 the cell remembers at first, PyTorch starts near 0.
    peepholes: whether the gates see c.
    bias: whether to add one.
    weight_init, recurrent_init: of W and U, gate by gate.
    Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000 for f and its bias; Gers et al. 2002, JMLR 3, for
    peepholes; Jozefowicz et al. 2015 for the bias of 1; Sak et al. 2014, arXiv:1402.1128, for the projection.

    >>> cell = nf.lstm_cell(3, 2)
    >>> (h, c), y = cell.apply(cell.init(jax.random.key(0)), (None, jnp.ones((4, 3))))
    >>> h.shape, c.shape
    ((4, 2), (4, 2))
    """
    cell = build_lstm("lstm_cell", in_dim, dim, forget_bias, peepholes, bias, weight_init, recurrent_init, proj_dim)
    return _model(cell)


def initial_carry(model: Model, params: Params, x: Array) -> PyTree:
    """A carry of zeros for a cell, or for a recurrent layer with return_carry=True, that fits x.

    model: the cell or layer.
    params: its parameters.
    x: an input; only its shape and dtype count.
    Shapes: x [..., in_dim] for a cell, [..., time, in_dim] for a layer.

    >>> cell = nf.lstm_cell(3, 2)
    >>> h, c = nf.initial_carry(cell, cell.init(jax.random.key(0)), jnp.ones((4, 3)))
    >>> h.tolist()
    [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """
    if model.name.endswith("_cell"):
        carry = jax.eval_shape(lambda p, x: model.apply(p, (None, x))[0], params, x)
    else:
        result = jax.eval_shape(model.apply, params, x)
        if not isinstance(result, tuple):
            expected = "the layer should have return_carry=True"
            check.fail("initial_carry", expected=expected, actual=f"one that returns {check.describe(result)}")
        carry = result[1]
    return vary_like(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry), (params, x))
