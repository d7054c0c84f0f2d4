"""The two-layer perceptron inside a Transformer block, plain or gated."""

from collections.abc import Callable
from functools import cache

import jax

from nnfunc import activations, check, initializers
from nnfunc.base import Array, Initializer, Model, Scalar, function_name
from nnfunc.combinators import wire
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.linear import linear

GATES: dict[str, Callable[[Array], Array]] = {
    "glu": activations.sigmoid,
    "bilinear_glu": activations.identity,
    "reglu": activations.relu,
    "geglu": activations.gelu,
    "geglu_tanh": activations.gelu_tanh,
    "swiglu": activations.silu,
}
"""The function of the gate in each of the gated linear units."""


def feed_forward(
    dim: int,
    hidden: int,
    *,
    activation: str | Callable[[Array], Array] = "gelu",
    bias: bool = True,
    dropout: Scalar | None = None,
    weight_init: Initializer = initializers.lecun_normal,
    out_init: Initializer | None = None,
) -> Model:
    """`y = down(act(up(x)))`, or, with a gated activation, `y = down(up(x) * act(gate(x)))`.

    dim: the width of x and y.
    hidden: the width between the two matrices.
    activation: a function, or the name of one of `nf.activations`; the gated ones ("swiglu", "geglu", "geglu_tanh",
        "reglu", "glu", "bilinear_glu") have a third matrix, `gate`, and usually 2/3 of the hidden width for an
        equal number of parameters.
    bias: of each matrix.
    dropout: the rate of the hidden values, in [0, 1]; None is off.
    weight_init: of `up` and `gate`.
    out_init: of `down`, by default weight_init.
    Shapes: x [..., dim] -> y [..., dim]; up, gate [dim, hidden], down [hidden, dim].
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.3; Shazeer 2020, arXiv:2002.05202, for the gated ones.

    >>> model = nf.feed_forward(4, 16, activation="swiglu", bias=False)
    >>> params = model.init(jax.random.key(0))
    >>> sorted(params), model.apply(params, jnp.ones((2, 3, 4))).shape
    (['down', 'gate', 'up'], (2, 3, 4))
    """
    check.size("feed_forward", dim=dim, hidden=hidden)
    gated, act = resolve_activation("feed_forward", activation)
    children = {"up": linear(dim, hidden, bias=bias, weight_init=weight_init)}
    if gated:
        children["gate"] = linear(dim, hidden, bias=bias, weight_init=weight_init)
    drop = {"drop": dropout_layer(dropout)} if dropout is not None else {}
    down = linear(hidden, dim, bias=bias, weight_init=out_init or weight_init)

    def flow(net, x):
        y = net.up(x) * net.act(net.gate(x)) if gated else net.act(net.up(x))
        return net.down(net.drop(y) if drop else y)

    return wire(flow, **children, act=act, **drop, down=down)


def resolve_activation(where: str, activation: str | Callable[[Array], Array]) -> tuple[bool, Callable[[Array], Array]]:
    """Whether an activation is gated, and the elementwise function of it."""
    if isinstance(activation, str) and activation in GATES:
        return True, GATES[activation]
    return False, elementwise(where, activation, f"The gated ones go by name: {', '.join(map(repr, GATES))}.")


def elementwise(where: str, activation: str | Callable[[Array], Array], hint: str) -> Callable[[Array], Array]:
    """The function of an activation, which should keep the shape. hint: what to do with one that does not."""
    act = activations.by_name(activation) if isinstance(activation, str) else activation
    if not callable(act):
        expected = "activation should be a function x -> y or a name"
        check.fail(where, expected=expected, actual=check.describe(act), exc_type=TypeError)
    keeps_shape = _named_keeps_shape if isinstance(activation, str) else _keeps_shape
    if not keeps_shape(act):
        check.fail(where, expected="the activation should keep the shape", actual=function_name(act), hint=hint)
    return act


def _keeps_shape(act: Callable[[Array], Array]) -> bool:
    return jax.eval_shape(act, jax.ShapeDtypeStruct((1, 2), "float32")).shape == (1, 2)


_named_keeps_shape = cache(_keeps_shape)
"""For those of `nf.activations`: tracing one takes longer than everything else in making an MLP."""
