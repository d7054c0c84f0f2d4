"""Recurrent cells, one time step each: `(params, (carry, x)) -> (carry, y)`.

What the cells and the layers over time in `recurrent.py` share is a `Cell`: sizes, names and the
arithmetic of one step. In the parameters the gates stand side by side, in the order of PyTorch.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Initializer, Key, Model, Params, PyTree, Scalar, fold
from nnfunc.layers.linear import INIT_HINT, matmul_rows
from nnfunc.layers.recurrent.cell_math import GRU, LSTM, RNN, Carry, Kind, Weights

__all__ = ["gru_cell", "initial_carry", "lstm_cell", "rnn_cell"]

Activation = Literal["tanh", "relu"]
Reset = Literal["after", "before"]


class Cell(NamedTuple):
    """One step of a recurrent layer: sizes, initial parameters, and the arithmetic in `kind`."""

    name: str
    kind: Kind
    in_dim: int
    dim: int
    init: Callable[[Key], Params]

    def check(self, where: str, params: Params, x: Array) -> None:
        """x and the weights have the sizes of this cell."""
        wide = len(self.kind.gates) * self.dim
        check.last_axis(where, x, in_dim=self.in_dim)
        check.shape(where, (self.in_dim, wide), INIT_HINT, weight=params["weight"])
        check.shape(where, (self.dim, wide), INIT_HINT, recurrent_weight=params["recurrent_weight"])

    def weights(self, params: Params) -> Weights:
        """What a step multiplies and adds, in the names of `recurrent_kinds`; vectors are [1, dim]."""
        weight = params["recurrent_weight"]
        made = {"bias": params["bias"]} if "bias" in params else {}
        if "recurrent_bias" in params:
            made["recurrent_bias"] = params["recurrent_bias"][None]
        if "peephole" in params:
            look = jnp.split(params["peephole"][None], 3, -1)
            made |= {f"peephole_{gate}": own for gate, own in zip("ifo", look, strict=True)}
        if self.kind is not GRU["before"]:
            return made | {"recurrent": weight}
        cut = 2 * self.dim
        return made | {"recurrent": weight[:, :cut], "candidate": weight[:, cut:]}

    def flat(self, where: str, carry: PyTree, lead: Sequence[int], dtype: Any) -> Carry:
        """The carry as arrays [batch, dim]; zeros for None."""
        shape = (math.prod(lead), self.dim)
        if carry is None:
            return (jnp.zeros(shape, dtype),) * self.kind.carries
        parts: dict[str, Any] = {"h": carry}
        if self.kind.carries == 2:
            if not isinstance(carry, tuple | list) or len(carry) != 2:
                got = check.describe(carry)
                wanted = "the carry should be a pair (h, c)"
                check.fail(where, f"{wanted}, got {got}.", exc_type=TypeError)
            parts = {"h": carry[0], "c": carry[1]}
        check.floating(where, "", **parts)
        check.shape(where, (*lead, self.dim), "The carry is [..., dim].", **parts)
        return tuple(part.astype(dtype).reshape(shape) for part in parts.values())

    def shaped(self, carry: Carry, lead: Sequence[int]) -> PyTree:
        """The carry as the user sees it: h [..., dim], or the pair (h, c)."""
        parts = [part.reshape(*lead, self.dim) for part in carry]
        return tuple(parts) if len(parts) > 1 else parts[0]


def rnn_of(
    name: str, in_dim: int, dim: int, activation: str, bias: bool, weight_init: Initializer, recurrent_init: Initializer
) -> Cell:
    check.size(name, in_dim=in_dim, dim=dim)
    check.choice(name, RNN, activation=activation)
    return _cell_of(name, RNN[activation], in_dim, dim, bias, weight_init, recurrent_init)


def gru_of(
    name: str, in_dim: int, dim: int, reset: str, bias: bool, weight_init: Initializer, recurrent_init: Initializer
) -> Cell:
    check.size(name, in_dim=in_dim, dim=dim)
    check.choice(name, GRU, reset=reset)
    inner = bias and reset == "after"
    more = {"recurrent_bias": lambda: jnp.zeros(dim, jnp.float32)} if inner else {}
    return _cell_of(name, GRU[reset], in_dim, dim, bias, weight_init, recurrent_init, more)


def lstm_of(
    name: str,
    in_dim: int,
    dim: int,
    forget_bias: Scalar,
    peepholes: bool,
    bias: bool,
    weight_init: Initializer,
    recurrent_init: Initializer,
) -> Cell:
    check.size(name, in_dim=in_dim, dim=dim)
    check.number(name, forget_bias=forget_bias)
    more = {"peephole": lambda: jnp.zeros(3 * dim, jnp.float32)} if peepholes else {}
    if bias:
        forget = lambda: jnp.asarray(forget_bias).astype(jnp.float32)
        more["bias"] = lambda: jnp.zeros(4 * dim, jnp.float32).at[dim : 2 * dim].set(forget())
    return _cell_of(name, LSTM, in_dim, dim, bias, weight_init, recurrent_init, more)


def _cell_of(
    name: str,
    kind: Kind,
    in_dim: int,
    dim: int,
    bias: bool,
    weight_init: Initializer,
    recurrent_init: Initializer,
    more: dict[str, Callable[[], Array]] | None = None,
) -> Cell:
    def each_gate(key, init, shape):
        return jnp.concatenate([init(fold(key, gate), shape) for gate in kind.gates], axis=-1)

    def init(key):
        params = {
            "weight": each_gate(fold(key, "weight"), weight_init, (in_dim, dim)),
            "recurrent_weight": each_gate(fold(key, "recurrent"), recurrent_init, (dim, dim)),
        }
        if bias:
            params["bias"] = jnp.zeros(len(kind.gates) * dim, jnp.float32)
        return params | {part: make() for part, make in (more or {}).items()}

    return Cell(name, kind, in_dim, dim, init)


def _model(cell: Cell) -> Model:
    """One step as a model: (params, (carry, x)) -> (carry, y)."""

    def apply(params, x):
        if not isinstance(x, tuple | list) or len(x) != 2:
            got = check.describe(x)
            wanted = "x should be a pair (carry, x), with None for a carry of zeros"
            check.fail(cell.name, f"{wanted}, got {got}.", exc_type=TypeError)
        carry, x = x
        cell.check(cell.name, params, x)
        lead = x.shape[:-1]
        before = cell.flat(cell.name, carry, lead, jnp.promote_types(x.dtype, params["weight"].dtype))
        pre = matmul_rows(x.reshape(math.prod(lead), cell.in_dim), params["weight"])
        after = cell.kind.step(cell.weights(params), pre, before)[0]
        return cell.shaped(after, lead), after[0].reshape(*lead, cell.dim)

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
    Source: Elman 1990, Cognitive Science 14.

    >>> cell = nf.rnn_cell(3, 2)
    >>> carry, y = cell.apply(cell.init(jax.random.key(0)), (None, jnp.ones((4, 3))))
    >>> y.shape
    (4, 2)
    """
    return _model(rnn_of("rnn_cell", in_dim, dim, activation, bias, weight_init, recurrent_init))


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

    r, z = sigmoid(x W + h U + b);  h' = (1 - z) n + z h, where books differ about n:
    reset "after": n = tanh(x W_n + b_n + r (h U_n + recurrent_bias)), as PyTorch and cuDNN;
    reset "before": n = tanh(x W_n + b_n + (r h) U_n), the paper's.
    Shapes: (carry h [..., dim], x [..., in_dim]) -> (carry, y [..., dim]); a carry of None is zeros.
    weight [in_dim, 3 * dim], recurrent_weight [dim, 3 * dim], bias [3 * dim], gates in the order
    r, z, n; recurrent_bias [dim] with "after". PyTorch's biases of r and z are two, here their sum.
    Source: Cho et al. 2014, arXiv:1406.1078, section 2.3 ("before"; in version 1 of Chung et al.,
    arXiv:1412.3555, z and 1 - z are exchanged).

    >>> cell = nf.gru_cell(3, 2)
    >>> carry, y = cell.apply(cell.init(jax.random.key(0)), (None, jnp.ones((4, 3))))
    >>> carry.shape, y.shape
    ((4, 2), (4, 2))
    """
    return _model(gru_of("gru_cell", in_dim, dim, reset, bias, weight_init, recurrent_init))


def lstm_cell(
    in_dim: int,
    dim: int,
    *,
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
    forget_bias: the initial bias of f; 1 remembers at first. PyTorch starts near 0.
    Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000 for f and its bias; Gers et al. 2002,
    JMLR 3, for peepholes; Jozefowicz et al. 2015 for the bias of 1.

    >>> cell = nf.lstm_cell(3, 2)
    >>> (h, c), y = cell.apply(cell.init(jax.random.key(0)), (None, jnp.ones((4, 3))))
    >>> h.shape, c.shape
    ((4, 2), (4, 2))
    """
    cell = lstm_of("lstm_cell", in_dim, dim, forget_bias, peepholes, bias, weight_init, recurrent_init)
    return _model(cell)


def initial_carry(model: Model, params: Params, x: Array) -> PyTree:
    """A carry of zeros for a cell, or for a recurrent layer with return_carry=True, that fits x.

    Shapes: x [..., in_dim] for a cell, [..., time, in_dim] for a layer; only shape and type count.

    >>> cell = nf.lstm_cell(3, 2)
    >>> h, c = nf.initial_carry(cell, cell.init(jax.random.key(0)), jnp.ones((4, 3)))
    >>> h.tolist()
    [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """
    if model.name.endswith("_cell"):
        carry = jax.eval_shape(lambda p, x: model.apply(p, (None, x))[0], params, x)
    else:
        made = jax.eval_shape(model.apply, params, x)
        if not isinstance(made, tuple):
            wanted = "the layer should be made with return_carry=True"
            check.fail("initial_carry", f"{wanted}, got one that gives {check.describe(made)}.")
        carry = made[1]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry)
