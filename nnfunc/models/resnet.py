"""Residual networks: those for ImageNet, those for CIFAR, and the general one behind both."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Layer, Model, Scalar, as_model
from nnfunc.combinators import serial, wire
from nnfunc.layers.conv.conv import conv
from nnfunc.layers.global_pool import global_avg_pool
from nnfunc.layers.linear import linear
from nnfunc.layers.norm import batch_norm
from nnfunc.layers.pool import max_pool
from nnfunc.models.cnn import Activation, activation_layer, for_images, stage_sizes
from nnfunc.stacked_layers import repeat

__all__ = ["cifar_resnet", "resnet", "resnet18", "resnet34", "resnet50"]

_EXPANSION = {"basic": 1, "bottleneck": 4}
_fan_out = initializers.variance_scaling(2.0, "fan_out", "normal")


def resnet(
    classes: int | None,
    *,
    depths: Sequence[int],
    widths: Sequence[int] = (64, 128, 256, 512),
    block: Literal["basic", "bottleneck"] = "basic",
    in_dim: int = 3,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    shortcut: Literal["projection", "pad"] = "projection",
    activation: Activation = "relu",
    momentum: Scalar = 0.1,
    last_scale: Scalar = 1.0,
    norm: Callable[[int], Layer] | None = None,
) -> Model:
    """A residual network: stem, stages of blocks `act(shortcut(x) + body(x))`, mean, linear.

    block "basic": two 3x3 convolutions to the stage's width; "bottleneck": 1x1, 3x3 and a 1x1 to four
    times the width, with the stride on the 3x3 (version 1.5). Each convolution is followed by a norm.
    stem "imagenet": a 7x7 convolution of stride 2, norm, activation, 3x3 max pooling of stride 2;
    "cifar": a 3x3 convolution of stride 1, norm, activation. Stages after the first halve the image.
    shortcut: where the shape changes, "projection" is a 1x1 convolution and a norm (the paper's option B), "pad"
        takes every second position and adds channels of zeros after the others (option A).
    classes: of the head; None leaves it out, and y is the mean over positions.
    depths, widths: blocks and width of each stage.
    momentum: of the batch norms.
    last_scale: the initial scale of each body's last norm; at 0 every block starts as its shortcut.
    norm: dim -> a layer in place of batch norm, such as `lambda dim: nf.group_norm(8, dim, spatial=2)`.
    Shapes: x [..., height, width, in_dim] of any size -> logits [..., classes], or means [..., channels]. A stage
    is its `first` block, where that changes the shape, and the equal ones in `rest`, stacked:
    `stage_2/first/body/conv_1/weight` [3, 3, 64, 128], `stage_2/rest/body/conv_1/weight` [n, 3, 3, 128, 128].
    Convolutions start with variance 2 / fan_out.
    Source: He et al. 2015, arXiv:1512.03385; last_scale 0: Goyal et al. 2017, arXiv:1706.02677.

    >>> model = nf.resnet(10, depths=[1, 2], widths=[4, 8])
    >>> params, state = model.init(jax.random.key(0)), model.init_state()
    >>> model.apply(params, jnp.ones((5, 32, 32, 3)), state=state).shape
    (5, 10)
    """
    check.size("resnet", in_dim=in_dim, **({} if classes is None else {"classes": classes}))
    depths, widths = stage_sizes("resnet", depths=depths, widths=widths)
    check.choice("resnet", _EXPANSION, block=block)
    check.choice("resnet", ("imagenet", "cifar"), stem=stem)
    check.choice("resnet", ("projection", "pad"), shortcut=shortcut)
    check.number("resnet", last_scale=last_scale)
    act = activation_layer("resnet", activation)
    normal = norm or partial(batch_norm, momentum=momentum)
    convolve = partial(conv, bias=False, weight_init=_fan_out)

    def change(in_dim, out_dim, stride):
        """The shortcut of a block, where it is not x itself."""
        if shortcut == "pad":
            return {"shortcut": partial(pad, out_dim=out_dim, stride=stride)}
        projection = convolve(in_dim, out_dim, 1, stride=stride, padding=0)
        return {"shortcut": serial(conv=projection, norm=normal(out_dim))}

    def one(in_dim, width, stride=1):
        out_dim = width * _EXPANSION[block]
        shape = {
            "basic": [(in_dim, width, 3, stride), (width, width, 3, 1)],
            "bottleneck": [(in_dim, width, 1, 1), (width, width, 3, stride), (width, out_dim, 1, 1)],
        }[block]
        layers: dict[str, Layer] = {}
        for i, (before, after, kernel, step) in enumerate(shape, 1):
            padding = kernel // 2  # the same on both sides, as in PyTorch
            layers[f"conv_{i}"] = convolve(before, after, kernel, stride=step, padding=padding)
            layers[f"norm_{i}"] = normal(after)
            layers |= {f"act_{i}": act} if i < len(shape) else {}
        last = f"norm_{len(shape)}"
        layers[last] = scaled_at_first(layers[last], last_scale)
        same = stride == 1 and in_dim == out_dim
        return residual_block(serial(**layers), act, **({} if same else change(in_dim, out_dim, stride)))

    def stage(in_dim, width, depth, stride):
        out_dim = width * _EXPANSION[block]
        first = {} if stride == 1 and in_dim == out_dim else {"first": one(in_dim, width, stride)}
        equal = depth - len(first)
        rest = {"rest": repeat(one(out_dim, width), equal)} if equal else {}
        return serial(**first, **rest)

    kernel, stride = {"imagenet": (7, 2), "cifar": (3, 1)}[stem]
    start: dict[str, Layer] = {
        "conv": convolve(in_dim, widths[0], kernel, stride=stride, padding=kernel // 2),
        "norm": normal(widths[0]),
        "act": act,
    }
    if stem == "imagenet":
        start["pool"] = max_pool(3, stride=2, padding=1)
    layers: dict[str, Layer] = {"stem": serial(**start)}
    dim = widths[0]
    for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        layers[f"stage_{i + 1}"] = stage(dim, width, depth, stride=2 if i else 1)
        dim = width * _EXPANSION[block]
    head = {} if classes is None else {"head": linear(dim, classes)}
    return for_images("resnet", None, in_dim=in_dim, **layers, mean=global_avg_pool(), **head)


def resnet18(classes: int = 1000, *, in_dim: int = 3, momentum: Scalar = 0.1, last_scale: Scalar = 1.0) -> Model:
    """ResNet-18: basic blocks, 2 in each of four stages. 11,689,512 parameters at 1000 classes.

    The architecture, and the initial variances, of torchvision's resnet.py; `resnet` has the rest.
    classes, in_dim: outputs and image channels.
    momentum, last_scale: as in `resnet`.
    Shapes: x [..., height, width, in_dim], made for 224 x 224 -> logits [..., classes].

    >>> model = nf.resnet18(classes=10)
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    11181642
    """
    return resnet(classes, depths=[2, 2, 2, 2], in_dim=in_dim, momentum=momentum, last_scale=last_scale)


def resnet34(classes: int = 1000, *, in_dim: int = 3, momentum: Scalar = 0.1, last_scale: Scalar = 1.0) -> Model:
    """ResNet-34: basic blocks, 3, 4, 6 and 3 in a stage. 21,797,672 parameters at 1000 classes.

    Otherwise as `resnet18`.
    classes, in_dim: outputs and image channels.
    momentum, last_scale: as in `resnet`.

    >>> model = nf.resnet34(classes=10)
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    21289802
    """
    return resnet(classes, depths=[3, 4, 6, 3], in_dim=in_dim, momentum=momentum, last_scale=last_scale)


def resnet50(classes: int = 1000, *, in_dim: int = 3, momentum: Scalar = 0.1, last_scale: Scalar = 1.0) -> Model:
    """ResNet-50: bottleneck blocks, 3, 4, 6 and 3 in a stage. 25,557,032 parameters at 1000 classes.

    The stride is on the 3x3 convolution, as in torchvision's (version 1.5). Otherwise as `resnet18`.
    classes, in_dim: outputs and image channels.
    momentum, last_scale: as in `resnet`.

    >>> model = nf.resnet50(classes=10)
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    23528522
    """
    return resnet(
        classes, depths=[3, 4, 6, 3], block="bottleneck", in_dim=in_dim, momentum=momentum, last_scale=last_scale
    )


def cifar_resnet(
    classes: int = 10,
    *,
    depth: int = 20,
    in_dim: int = 3,
    width: int = 16,
    shortcut: Literal["pad", "projection"] = "pad",
    momentum: Scalar = 0.1,
    last_scale: Scalar = 1.0,
) -> Model:
    """The residual network for small images: three stages of (depth - 2) / 6 basic blocks.

    The widths are width, 2 width and 4 width, after a 3x3 convolution; no pooling before the mean.
    classes, in_dim: outputs and image channels.
    width: that of the first stage.
    depth: 6 n + 2, in the paper 20, 32, 44, 56, 110: the convolutions and the last linear layer.
    shortcut: "pad", without parameters (option A, the paper's for CIFAR), or "projection" (option B).
    momentum: that of the batch norms, in [0, 1].
    last_scale: the initial scale of the last norm of each block.
    Shapes: x [..., height, width, in_dim] -> logits [..., classes]. 269,722 parameters at depth 20, 1,727,962 at
    110. `resnet` describes the rest.
    Source: He et al. 2015, arXiv:1512.03385, section 4.2.

    >>> model = nf.cifar_resnet(depth=8, width=4)
    >>> params, state = model.init(jax.random.key(0)), model.init_state()
    >>> model.apply(params, jnp.ones((5, 32, 32, 3)), state=state).shape
    (5, 10)
    """
    check.size("cifar_resnet", depth=depth, width=width)
    if depth < 8 or depth % 6 != 2:
        below = max(8, depth - (depth - 2) % 6)
        nearest = f"{below}" if below >= depth else f"{below}, {below + 6}"
        expected = "depth should be 6 n + 2, at least 8"
        check.fail("cifar_resnet", expected=expected, actual=depth, hint=f"The nearest: {nearest}.")
    return resnet(
        classes,
        depths=[(depth - 2) // 6] * 3,
        widths=[width, 2 * width, 4 * width],
        in_dim=in_dim,
        stem="cifar",
        shortcut=shortcut,
        momentum=momentum,
        last_scale=last_scale,
    )


def residual_block(body: Layer, act: Layer, **shortcut: Layer) -> Model:
    """`act(shortcut(x) + body(x))`; without a shortcut it is x itself."""

    def flow(net, x):
        return net.act(net.body(x) + (net.shortcut(x) if shortcut else x))

    return wire(flow, body=body, **shortcut, act=act)


def pad(x: Array, out_dim: int, stride: int) -> Array:
    """Every stride-th position, with channels of zeros after the others: a shortcut without parameters."""
    if x.shape[-1] > out_dim:
        expected, actual = "shortcut='pad' should not reduce the channels", f"{x.shape[-1]} to {out_dim} channels"
        check.fail("resnet", expected=expected, actual=actual, hint="Use shortcut='projection'.")
    x = x[..., ::stride, ::stride, :]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, out_dim - x.shape[-1])])


def scaled_at_first(norm: Layer, factor: Scalar) -> Model:
    """The norm with its initial scale times factor; a norm without a scale is not changed."""
    layer = as_model(norm, where="resnet: norm")

    def init(key):
        params = layer.init(key)
        if "scale" not in params:
            return params
        return params | {"scale": params["scale"] * jnp.asarray(factor, params["scale"].dtype)}

    return layer.replace(init=init)
