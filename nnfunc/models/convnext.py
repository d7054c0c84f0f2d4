"""ConvNeXt: a convolutional network with the proportions of a Transformer."""

from collections.abc import Sequence

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.activations import gelu
from nnfunc.base import Layer, Model, Scalar
from nnfunc.combinators import serial, wire
from nnfunc.layers.conv.conv import conv, depthwise_conv
from nnfunc.layers.dropout import drop_path as drop_path_layer
from nnfunc.layers.global_pool import global_avg_pool
from nnfunc.layers.linear import linear, scale
from nnfunc.layers.norm import layer_norm
from nnfunc.models.cnn import for_images, stage_sizes
from nnfunc.stacked_layers import repeat

__all__ = ["convnext", "convnext_small", "convnext_tiny"]

_EPS = 1e-6
_init = initializers.normal(0.02)  # cut at 100 deviations in the authors' code, which is not at all


def convnext(
    classes: int | None,
    *,
    in_dim: int = 3,
    depths: Sequence[int] = (3, 3, 9, 3),
    widths: Sequence[int] = (96, 192, 384, 768),
    patch: int = 4,
    kernel: int = 7,
    drop_path: Scalar | None = None,
    layer_scale: Scalar = 1e-6,
    eps: Scalar = 1e-6,
) -> Model:
    """Stem of patches, stages of ConvNeXt blocks, mean over positions, layer norm, linear.

    A block is x + drop_path(scale(down(gelu(up(norm(spatial(x))))))): a depthwise convolution, layer
    norm, linear maps to four times the width and back, a learned factor for each channel. Between
    stages: layer norm, a 2x2 convolution of stride 2. The stem: a convolution on patches, layer norm.
    classes: of the head; None leaves it out, and y is the norm of the mean.
    in_dim: the channels of the images.
    depths, widths: blocks and width of each stage.
    patch: side and stride of the stem's patches.
    kernel: side of the depthwise convolutions, odd.
    drop_path: the rate of the last block, in [0, 1]; it rises in a line from 0 at the first.
    layer_scale: where the learned factors start.
    eps: that of the norm before the head, above 0; 1e-12 in the files of transformers, 1e-6 of all other norms.
    Shapes: x [..., height, width, in_dim] -> logits [..., classes], or [..., widths[-1]]; the blocks of a stage are
    stacked, `stage_1/blocks/body/up/weight` [n, 96, 384]. Weights start normal with deviation 0.02.
    Raises: ValueError when the images are smaller than patch * 2 ** (stages - 1).
    Source: Liu et al. 2022, arXiv:2201.03545; the architecture is that of torchvision's convnext.py.

    >>> model = nf.convnext(10, depths=[1, 2], widths=[4, 8], patch=2)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 16, 16, 3))).shape
    (5, 10)
    """
    sizes = {} if classes is None else {"classes": classes}
    check.size("convnext", in_dim=in_dim, patch=patch, kernel=kernel, **sizes)
    depths, widths = stage_sizes("convnext", depths=depths, widths=widths)
    if kernel % 2 == 0:
        check.fail("convnext", expected="kernel should be odd, to keep the size", actual=kernel)
    if drop_path is not None:
        check.number("convnext", 0, 1, drop_path=drop_path)

    def patches(before, after, size):
        return conv(before, after, size, stride=size, padding="valid", weight_init=_init)

    def block(dim):
        body = serial(
            spatial=depthwise_conv(dim, kernel, padding=kernel // 2, weight_init=_init),
            norm=layer_norm(dim, eps=_EPS),
            up=linear(dim, 4 * dim, weight_init=_init),
            act=gelu,
            down=linear(4 * dim, dim, weight_init=_init),
            scale=scale(dim, initial=layer_scale),
        )
        drop = {} if drop_path is None else {"drop": rising_drop_path(drop_path, sum(depths))}

        def flow(net, pair):
            x, index = pair  # of the block among all blocks, which sets its rate
            y = net.body(x)
            y = net.drop((y, index)) if drop else y
            return x + y, index + 1

        return wire(flow, body=body, **drop)

    def stage(blocks, before):
        """x -> x: the blocks take and return x with the index of the next block among all."""

        def flow(net, x):
            x = net.down(x) if before else x
            return net.blocks((x, jnp.asarray(sum(depths[:before]), jnp.int32)))[0]

        down = {}
        if before:
            norm = layer_norm(widths[before - 1], eps=_EPS)
            down["down"] = serial(norm=norm, conv=patches(widths[before - 1], widths[before], 2))
        return wire(flow, **down, blocks=repeat(block(widths[before]), blocks))

    stem = serial(patches=patches(in_dim, widths[0], patch), norm=layer_norm(widths[0], eps=_EPS))
    layers: dict[str, Layer] = {"stem": stem}
    layers |= {f"stage_{i + 1}": stage(blocks, i) for i, blocks in enumerate(depths)}
    head = {} if classes is None else {"head": linear(widths[-1], classes, weight_init=_init)}
    return for_images(
        "convnext",
        None,
        patch * 2 ** (len(depths) - 1),
        in_dim=in_dim,
        **layers,
        mean=global_avg_pool(),
        norm=layer_norm(widths[-1], eps=eps),
        **head,
    )


def convnext_tiny(
    classes: int = 1000, *, in_dim: int = 3, drop_path: Scalar | None = 0.1, layer_scale: Scalar = 1e-6
) -> Model:
    """ConvNeXt-T: `convnext` with 3, 3, 9, 3 blocks. 28,589,128 parameters at 1000 classes.

    drop_path: 0.1 is that of its training on ImageNet-1k.
    classes, in_dim, layer_scale: as in `convnext`.
    Shapes: x [..., height, width, in_dim], at least 32 x 32 -> logits [..., classes].

    >>> model = nf.convnext_tiny(classes=10)
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    27827818
    """
    return convnext(classes, in_dim=in_dim, drop_path=drop_path, layer_scale=layer_scale)


def convnext_small(
    classes: int = 1000, *, in_dim: int = 3, drop_path: Scalar | None = 0.4, layer_scale: Scalar = 1e-6
) -> Model:
    """ConvNeXt-S: `convnext` with 3, 3, 27, 3 blocks. 50,223,688 parameters at 1000 classes.

    drop_path: 0.4 is that of its training on ImageNet-1k. Otherwise as `convnext_tiny`.
    classes, in_dim, layer_scale: as in `convnext`.

    >>> model = nf.convnext_small(classes=10)
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    49462378
    """
    return convnext(classes, in_dim=in_dim, depths=(3, 3, 27, 3), drop_path=drop_path, layer_scale=layer_scale)


def rising_drop_path(rate: Scalar, blocks: int) -> Model:
    """drop_path for (x, index of the block) -> x: the rate is 0 in the first block and `rate` in the last."""

    def forward(params, pair, ctx):
        x, index = pair
        fraction = index.astype(jnp.float32) / max(blocks - 1, 1)
        return drop_path_layer(jnp.asarray(rate, jnp.float32) * fraction).forward(params, x, ctx)

    return Model(lambda key: {}, forward=forward)
