"""Convolutional networks for small images: LeNet-5, and a plain one with stages."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

from nnfunc import activations, check
from nnfunc.base import Array, Layer, Model, Scalar, as_model
from nnfunc.combinators import serial, wire
from nnfunc.layers.conv.conv import conv
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.flatten import flatten
from nnfunc.layers.global_pool import global_avg_pool
from nnfunc.layers.linear import linear
from nnfunc.layers.norm import batch_norm, layer_norm
from nnfunc.layers.pool import avg_pool, max_pool
from nnfunc.models.mlp import activation_init

__all__ = ["cnn", "lenet"]

Activation = str | Model | Callable[[Array], Array]

_NORMS = {"batch": batch_norm, "layer": layer_norm}
_POOLS = {"avg": avg_pool, "max": max_pool}
_flat = partial(flatten, start=-3)  # [..., height, width, channels] -> [..., features]


def lenet(
    classes: int = 10,
    *,
    in_dim: int = 1,
    image_size: int = 28,
    activation: Activation = "tanh",
    pool: Literal["avg", "max"] = "avg",
) -> Model:
    """LeNet-5: two 5x5 convolutions of 6 and 16 channels, each pooled by 2, then 120, 84, classes.

    The first convolution keeps the size, as the paper's does with 28 x 28 digits on a 32 x 32 field.
    Its sparse connections, trainable pooling and radial outputs are left out, as they are today.
    classes, in_dim: outputs and image channels.
    image_size: at least 12.
    pool: "avg", as in the paper, or "max".
    Shapes: x [..., image_size, image_size, in_dim] -> logits [..., classes]. 61,706 parameters at 28.
    activation: a function, the name of one of `nf.activations`, or a model such as `nf.prelu()`.
    Raises: ValueError when image_size is below 12, or x holds images of another size.
    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition", section II.

    >>> model = nf.lenet()
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 28, 28, 1))).shape
    (5, 10)
    """
    check.size("lenet", classes=classes, in_dim=in_dim)
    check.size("lenet", 12, image_size=image_size)
    check.choice("lenet", _POOLS, pool=pool)
    act, init = activation_layer("lenet", activation), activation_init(activation)
    features = 16 * ((image_size // 2 - 4) // 2) ** 2
    return for_images(
        "lenet",
        image_size,
        in_dim=in_dim,
        conv_1=serial(conv=conv(in_dim, 6, 5, weight_init=init), act=act, pool=_POOLS[pool](2)),
        conv_2=serial(conv=conv(6, 16, 5, padding="valid", weight_init=init), act=act, pool=_POOLS[pool](2)),
        flat=_flat,
        hidden_1=serial(linear=linear(features, 120, weight_init=init), act=act),
        hidden_2=serial(linear=linear(120, 84, weight_init=init), act=act),
        head=linear(84, classes),
    )


def cnn(
    classes: int,
    *,
    in_dim: int = 1,
    image_size: int = 28,
    widths: Sequence[int] = (32, 64),
    convs: int = 1,
    kernel: int = 3,
    pool: Literal["max", "avg"] = "max",
    hidden: int = 128,
    head: Literal["flatten", "global"] = "flatten",
    activation: Activation = "relu",
    dropout: Scalar | None = None,
    norm: Literal["batch", "layer"] | None = None,
) -> Model:
    """Stages of convolutions, each pooled by 2, then a hidden layer and the logits.

    Stage i is `convs` times [convolution to widths[i], norm, activation], then pooling. The head
    flattens the last image or takes the mean over its positions, then dropout, linear(hidden),
    activation, dropout, linear(classes). Norm and dropout are left out when None, the hidden
    layer when 0. `hidden` moves the number of parameters in small steps, `widths` in large ones.
    pool: "max" or "avg", of windows of 2 x 2.
    Shapes: x [..., image_size, image_size, in_dim] -> logits [..., classes]. Paths: `stage_1/conv_1/weight`, ...,
    `hidden/linear/weight`, `head/weight`.
    kernel: of every convolution, which keeps the size ("same").
    dropout: the rate, in [0, 1].
    image_size: with head "global" the images may have any size that the stages can halve.
    Raises: ValueError when the images are too small for the stages, or not of image_size.

    >>> model = nf.cnn(10, widths=[8, 16], norm="batch", dropout=0.25)
    >>> params, state = model.init(jax.random.key(0)), model.init_state()
    >>> model.apply(params, jnp.ones((5, 28, 28, 1)), state=state).shape
    (5, 10)
    """
    check.size("cnn", classes=classes, in_dim=in_dim, convs=convs, kernel=kernel)
    check.size("cnn", 0, hidden=hidden)
    (widths,) = stage_sizes("cnn", widths=widths)
    least = 2 ** len(widths)
    stages = f"widths ({len(widths)} stages, each of which halves the image)"
    if isinstance(image_size, int) and image_size < least:
        expected = f"image_size should be at least {least} for these {stages}"
        check.fail("cnn", expected=expected, actual=image_size, hint="Give fewer widths.")
    check.size("cnn", image_size=image_size)
    check.choice("cnn", _POOLS, pool=pool)
    check.choice("cnn", ("flatten", "global"), head=head)
    if norm is not None:
        check.choice("cnn", _NORMS, norm=norm)
    act, init = activation_layer("cnn", activation), activation_init(activation)

    def stage(in_dim, width):
        layers: dict[str, Layer] = {}
        for i, dim in enumerate([in_dim] + [width] * (convs - 1), 1):
            bias = norm != "batch"  # batch norm would subtract it again
            layers[f"conv_{i}"] = conv(dim, width, kernel, bias=bias, weight_init=init)
            layers |= {f"norm_{i}": _NORMS[norm](width)} if norm else {}
            layers[f"act_{i}"] = act
        return serial(**layers, pool=_POOLS[pool](2))

    pairs = enumerate(pairwise([in_dim, *widths]), 1)
    layers: dict[str, Layer] = {f"stage_{i}": stage(*pair) for i, pair in pairs}
    whole = head == "flatten"
    layers |= {"flat": _flat} if whole else {"mean": global_avg_pool()}
    features = widths[-1] * ((image_size // least) ** 2 if whole else 1)
    drop = {} if dropout is None else {"drop": dropout_layer(dropout)}
    if hidden:
        layers["hidden"] = serial(**drop, linear=linear(features, hidden, weight_init=init), act=act)
    layers |= drop
    layers["head"] = linear(hidden or features, classes)
    return for_images("cnn", image_size if whole else None, least, in_dim=in_dim, **layers)


def for_images(where: str, size: int | None, least: int = 1, /, *, in_dim: int, **layers: Layer) -> Model:
    """The layers in a row, for images [..., height, width, in_dim] of size, or at least of least."""
    grey = "" if in_dim == 1 else ", in a model with in_dim=1"
    grey = f"x[..., None]{grey}"

    def flow(net, x):
        check.floating(where, x=x)
        shape = x.shape
        if len(shape) < 3:
            expected = "x should be images [..., height, width, channels]"
            hint = f"For one image without a channel axis: {grey}." if len(shape) == 2 else ""
            if size is not None and shape and shape[-1] in (size**2, 3 * size**2):
                flat = (size, size, shape[-1] // size**2)
                hint = f"Are they flat? Then x.reshape(*x.shape[:-1], {str(flat)[1:-1]})."
            check.fail(where, expected=expected, actual=f"shape {shape}", hint=hint)
        if size is not None and shape[-3:-1] != (size, size):
            expected = f"images should be {size} x {size} (image_size)"
            hint = f"Make it with image_size={shape[-3]}, or resize them."
            if shape[-2:] == (size, size):
                first = len(shape) > 3 and shape[-3] in (1, 3, in_dim)
                hint = "Channels are last: jnp.moveaxis(x, -3, -1)." if first else ""
                hint = hint or f"For images without a channel axis: {grey}."
            elif shape[-2:] == (size, size * in_dim):
                image = (size, size, in_dim)
                hint = f"Are they rows of pixels? x.reshape(*x.shape[:-2], {str(image)[1:-1]})."
            elif shape[-3] != shape[-2]:
                hint = "Resize them."
            check.fail(where, expected=expected, actual=f"shape {shape}", hint=hint)
        if min(shape[-3:-1]) < least:
            expected = f"images should be at least {least} x {least} for its stages"
            check.fail(where, expected=expected, actual=f"shape {shape}", hint="Use fewer stages.")
        for name in layers:
            x = net[name](x)
        return x

    model = wire(flow, **layers)
    return model.replace(name=where)


def stage_sizes(where: str, **lists: Sequence[int]) -> list[list[int]]:
    """The named lists of one integer for each stage, checked: at least 1, and all of one length."""
    for name, values in lists.items():
        if isinstance(values, int | str) or not isinstance(values, Sequence) or not len(values):
            expected = f"{name} should be a list of integers, one for each stage"
            check.fail(where, expected=expected, actual=check.describe(values))
        check.size(where, **{f"{name}[{stage}]": value for stage, value in enumerate(values)})
    result = [list(values) for values in lists.values()]
    if len({len(values) for values in result}) > 1:
        expected = f"{' and '.join(lists)} should have the same length"
        check.fail(where, expected=expected, actual=" and ".join(map(str, result)))
    return result


def activation_layer(where: str, activation: Activation) -> Any:
    """The layer of an activation: a name of `nf.activations`, a function or a model."""
    if isinstance(activation, str):
        return activations.by_name(activation)
    return as_model(activation, where=f"{where}: activation")
