"""The multi-layer perceptron."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

from nnfunc import check, initializers
from nnfunc.base import Array, Initializer, Model, Scalar, as_model
from nnfunc.combinators import serial
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.feed_forward import elementwise
from nnfunc.layers.linear import linear
from nnfunc.layers.norm import batch_norm, layer_norm, rms_norm

__all__ = ["mlp"]

_NORMS = {"batch": batch_norm, "layer": layer_norm, "rms": rms_norm}


def mlp(
    widths: Sequence[int],
    *,
    activation: str | Model | Callable[[Array], Array] = "relu",
    dropout: Scalar | None = None,
    norm: Literal["batch", "layer", "rms"] | None = None,
    weight_init: Initializer | None = None,
    gain: Scalar = 1.0,
) -> Model:
    """Linear maps with an activation between them: widths[0] -> ... -> widths[-1].

    Each hidden layer is linear, norm, activation, dropout, where norm and dropout are left out when
    None; the last is linear. A linear map before batch norm has no bias.
    Paths: `hidden_0/linear/weight`, ..., `head/weight`.
    Shapes: x [..., widths[0]] -> y [..., widths[-1]].
    activation: a function, the name of one of `nf.activations`, or a model such as `nf.prelu()`.
    norm: "batch", "layer" or "rms"; None, the default, for none.
    dropout: the rate, in [0, 1].
    weight_init: by default the one for the activation (`nf.initializers.init_for`).
    gain: a factor on every initial weight.
    Raises: ValueError when there are fewer than two widths or a name is unknown.

    >>> model = nf.mlp([64, 32, 10], dropout=0.1)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 64))).shape
    (5, 10)
    """
    if isinstance(widths, int) or len(widths) < 2:
        expected = "widths should be at least those of the input and the output, such as [64, 10]"
        check.fail("mlp", expected=expected, actual=widths)
    check.size("mlp", **{f"widths[{i}]": width for i, width in enumerate(widths)})
    check.number("mlp", gain=gain)
    if isinstance(activation, str) or (callable(activation) and not isinstance(activation, Model)):
        act = elementwise("mlp", activation, "The glu family halves it: make such a block with nf.serial.")
    else:
        act = as_model(activation, where="mlp: activation")
    if norm is not None:
        check.choice("mlp", _NORMS, norm=norm)
    scaled = initializers.scaled(weight_init or activation_init(activation), gain)

    def hidden(in_dim, out_dim):
        bias = norm != "batch"  # batch norm would subtract it again
        layers = {"linear": linear(in_dim, out_dim, bias=bias, weight_init=scaled)}
        layers |= {"norm": _NORMS[norm](out_dim)} if norm else {}
        layers |= {"act": act}
        return serial(**layers, **({"drop": dropout_layer(dropout)} if dropout is not None else {}))

    head_init = initializers.scaled(weight_init or initializers.lecun_normal, gain)
    pairs = list(pairwise(widths))
    layers = {f"hidden_{i}": hidden(*pair) for i, pair in enumerate(pairs[:-1])}
    return serial(**layers, head=linear(*pairs[-1], weight_init=head_init))


def activation_init(activation: Any) -> Initializer:
    """The initializer of `init_for` for a known activation; He's for another function or model."""
    try:
        return initializers.init_for(activation)
    except ValueError:
        if isinstance(activation, str):
            raise
        return initializers.he_normal
