"""Backpropagation through a multi-layer perceptron, written out with the chain rule.

A network of L layers maps the rows of x, one row per example, to the rows of y = z^L:

    a^0 = x,    z^l = a^(l-1) W^l + b^l,    a^l = f(z^l)    for l = 1 ... L, without f at the last

C is the mean loss over the n rows, and delta^l = dC/dz^l is its derivative by the pre-activations of layer l.
Three uses of the chain rule give every gradient, from the last layer to the first:

    delta^L = dC/dy                                  the derivative of the loss
    delta^l = (delta^(l+1) (W^(l+1))^T) * f'(z^l)    back through one layer; * is elementwise
    dC/dW^l = (a^(l-1))^T delta^l,    dC/db^l = the sum of delta^l over the rows

Books that write an example as a column, and W^l as [out, in], have the transpose:
delta^l = ((W^(l+1))^T delta^(l+1)) * f'(z^l),    dC/dW^l = delta^l (a^(l-1))^T.
The backward pass has twice as many matrix products as the forward one, and it reads a^(l-1) and z^l of each
layer: these are stored, so training needs more memory than prediction.

The parameters are those of `nf.mlp` without norm, and the gradients equal those of `jax.grad` to rounding.
Source: Rumelhart, Hinton and Williams 1986, Nature 323; with this notation Nielsen, Neural Networks and
Deep Learning, chapter 2 (BP1 to BP4); also Goodfellow et al., Deep Learning, section 6.5.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax.scipy.special import erfc

from nnfunc import check
from nnfunc.base import Array, Params
from nnfunc.calls import explain_calls

__all__ = ["ACTIVATIONS", "Activation", "LayerInputs", "backward", "forward", "gradients", "loss_delta"]


class Activation(NamedTuple):
    """An elementwise function f, and its derivative f'."""

    f: Callable[[Array], Array]
    derivative: Callable[[Array], Array]


class LayerInputs(NamedTuple):
    """What the backward pass reads of layer l.

    a: its input a^(l-1), [n, width].
    z: the pre-activations z^l.
    """

    a: Array
    z: Array


def _sigmoid(z: Array) -> Array:
    return 0.5 * (1 + jnp.tanh(0.5 * z))  # is 1 / (1 + exp(-z)), and never overflows


def _normal_cdf(z: Array) -> Array:
    return 0.5 * erfc(-z / math.sqrt(2))


def _normal_pdf(z: Array) -> Array:
    return jnp.exp(-0.5 * jnp.square(z)) / math.sqrt(2 * math.pi)


ACTIVATIONS = {
    "identity": Activation(lambda z: z, jnp.ones_like),
    "sigmoid": Activation(_sigmoid, lambda z: _sigmoid(z) * _sigmoid(-z)),
    "tanh": Activation(jnp.tanh, lambda z: 1 - jnp.square(jnp.tanh(z))),
    "relu": Activation(lambda z: jnp.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    "elu": Activation(
        lambda z: jnp.where(z > 0, z, jnp.expm1(jnp.minimum(z, 0))), lambda z: jnp.exp(jnp.minimum(z, 0))
    ),
    "gelu": Activation(lambda z: z * _normal_cdf(z), lambda z: _normal_cdf(z) + z * _normal_pdf(z)),
    "silu": Activation(lambda z: z * _sigmoid(z), lambda z: _sigmoid(z) * (1 + z * _sigmoid(-z))),
    "softplus": Activation(lambda z: jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z))), _sigmoid),
    "softsign": Activation(lambda z: z / (1 + jnp.abs(z)), lambda z: (1 + jnp.abs(z)) ** -2),
}
"""The functions with their derivatives, by the names of `nf.activations`."""


def gradients(
    params: Params,
    x: Array,
    target: Array,
    *,
    activation: str | Activation = "relu",
    loss: Literal["cross_entropy", "mse"] = "cross_entropy",
) -> Params:
    """dC/dparams in the layout of params; C is the mean of `nf.losses.cross_entropy` or `nf.losses.mse`.

    params: of an `nf.mlp`.
    activation: a name of ACTIVATIONS, or an Activation.
    loss: "cross_entropy" or "mse".
    Shapes: x [..., in]; target [...] class indices for cross_entropy, [..., out] for mse.
    Raises: ValueError when params are not those of an `nf.mlp` of linear layers and activations.

    >>> params = nf.mlp([4, 8, 3]).init(jax.random.key(0))
    >>> grads = nf.backprop.gradients(params, jnp.ones((2, 4)), jnp.array([0, 2]))
    >>> grads["hidden_0"]["linear"]["weight"].shape, float(abs(grads["head"]["bias"].sum()).round(6))
    ((4, 8), 0.0)
    """
    y, saved = forward(params, x, activation=activation)
    return backward(params, saved, loss_delta(y, target, loss), activation=activation)


def forward(params: Params, x: Array, *, activation: str | Activation = "relu") -> tuple[Array, list[LayerInputs]]:
    """z^l = a^(l-1) W^l + b^l and a^l = f(z^l), layer by layer: y = z^L, and the `LayerInputs` of each layer.

    params: of an `nf.mlp`.
    activation: a name of ACTIVATIONS, or an Activation.
    Shapes: x [..., in] -> y [..., out].

    >>> model = nf.mlp([3, 4, 2])
    >>> y, saved = nf.backprop.forward(model.init(jax.random.key(0)), jnp.ones((5, 3)))
    >>> y.shape, len(saved)
    ((5, 2), 2)
    """
    layers, f = _layers(params), _activation(activation).f
    check.last_axis("backprop", x, in_dim=layers[0]["weight"].shape[0])
    a, saved = x.reshape(-1, x.shape[-1]), []
    for layer in layers:
        z = a @ layer["weight"] + layer["bias"]
        saved.append(LayerInputs(a, z))
        a = f(z)
    return z.reshape(*x.shape[:-1], z.shape[-1]), saved


def loss_delta(y: Array, target: Array, loss: str = "cross_entropy") -> Array:
    """delta^L = dC/dy of the mean loss over n examples; the shape of y.

    cross_entropy: (softmax(y) - onehot(target)) / n.    mse: 2 (y - target) / (n * out).
    y, target, loss: as in `gradients`, of which y is the output of the network.

    >>> nf.backprop.loss_delta(jnp.zeros((1, 2)), jnp.array([1])).tolist()
    [[0.5, -0.5]]
    """
    check.choice("backprop", ("cross_entropy", "mse"), loss=loss)
    if loss == "mse":
        check.same_shape("backprop", y=y, target=target)
        return 2 * (y - target) / y.size
    check.integers("backprop", target=target)
    check.shape("backprop", y.shape[:-1], target=target)
    e = jnp.exp(y - y.max(-1, keepdims=True))  # subtracting the maximum changes no ratio, and avoids overflow
    softmax = e / e.sum(-1, keepdims=True)
    onehot = (target[..., None] == jnp.arange(y.shape[-1])).astype(y.dtype)
    return (softmax - onehot) / target.size


def backward(
    params: Params, saved: list[LayerInputs], delta: Array, *, activation: str | Activation = "relu"
) -> Params:
    """The gradients of all weights and biases, from delta^L = dC/dy back to the first layer.

    params: as for `forward`.
    saved: the second result of `forward`.
    delta: the gradient of the loss with respect to y, such as `loss_delta` gives.
    activation: that of `forward`.
    Shapes: delta [..., out], as y; the result has the layout and shapes of params.

    >>> model = nf.mlp([3, 4, 2])
    >>> params, x = model.init(jax.random.key(0)), jnp.ones((5, 3))
    >>> y, saved = nf.backprop.forward(params, x)
    >>> grads = nf.backprop.backward(params, saved, jnp.ones_like(y))
    >>> jax.tree.map(np.shape, grads) == jax.tree.map(np.shape, params)
    True
    """
    layers, derivative = _layers(params), _activation(activation).derivative
    delta = delta.reshape(-1, delta.shape[-1])
    grads = []
    for l in reversed(range(len(layers))):  # noqa: E741  the letter of the formulas
        grads.append({"weight": saved[l].a.T @ delta, "bias": delta.sum(0)})
        if l > 0:
            delta = (delta @ layers[l]["weight"].T) * derivative(saved[l - 1].z)
    head, *hidden = grads
    return {f"hidden_{i}": {"linear": g} for i, g in enumerate(reversed(hidden))} | {"head": head}


def _layers(params: Params) -> list[dict[str, Array]]:
    """[{"weight": W^1, "bias": b^1}, ...] of the parameters of an mlp."""
    names = [f"hidden_{i}" for i in range(len(params) - 1)]
    known = set(params) == {*names, "head"} and all(set(params[n]) == {"linear"} for n in names)
    if not known:
        expected = "params should be those of nf.mlp without norm (hidden_0/linear, ..., head)"
        check.fail("backprop", expected=expected, actual=sorted(params))
    return [params[name]["linear"] for name in names] + [params["head"]]


def _activation(activation: str | Activation) -> Activation:
    if isinstance(activation, Activation):
        return activation
    check.choice("backprop", ACTIVATIONS, activation=activation)
    return ACTIVATIONS[activation]


explain_calls(__name__)
