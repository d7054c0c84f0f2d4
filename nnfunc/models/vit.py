"""The Vision Transformer."""

import math
from typing import Literal

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Model, Scalar
from nnfunc.combinators import wire
from nnfunc.layers.attention.layer import attention
from nnfunc.layers.attention.positions import learned_positions
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.embedding import patch_embedding
from nnfunc.layers.feed_forward import feed_forward
from nnfunc.layers.linear import linear
from nnfunc.layers.norm import layer_norm
from nnfunc.models.transformer import transformer_block
from nnfunc.stacked_layers import repeat

__all__ = ["vit"]


def vit(
    classes: int | None,
    *,
    image_size: int | tuple[int, int],
    patch: int | tuple[int, int],
    in_dim: int = 3,
    dim: int,
    layers: int,
    heads: int,
    hidden: int | None = None,
    pool: Literal["class", "mean", "distilled"] = "class",
    activation: str = "gelu",
    pre_norm: bool = False,
    patch_bias: bool = True,
    head_bias: bool = True,
    dropout: Scalar | None = None,
    drop_path: Scalar | None = None,
    eps: Scalar = 1e-6,
    unroll: int = 1,
) -> Model:
    """ViT: patches as tokens, learned positions, pre-norm blocks, norm, linear head.

    classes: of the head; None leaves it out, and y is the normalized state of every token, those before the patches
        included.
    pool: the head reads the state of a learned class token put before the patches, or the mean over the patches
        (then there is no class token). "distilled": a second token after the first has a head of its own, and the
        logits are the mean of both (DeiT).
    activation: of the perceptron, a name of `nf.activations`.
    pre_norm: a norm before the blocks, as in the image tower of CLIP, whose activation is "quick_gelu".
    patch_bias, head_bias: biases of the first and the last linear map; CLIP has neither.
    image_size, patch: a number, or (height, width).
    hidden: units of the perceptron, 4 * dim by default.
    dropout: the rate of the embedding, of the attention weights and of each branch.
    drop_path: that of whole branches; both in [0, 1].
    unroll: that of `nf.repeat`.
    in_dim: the channels of the images.
    eps: that of the norms, above 0.
    layers, heads, dim: blocks, attention heads of a block, width.
    Initial weights are normal of deviation 0.02, truncated at 2 deviations.
    Paths: `patches/weight`, `token/weight`, `positions/weight`, `blocks/attend/...`, `blocks/mlp/...`,
    `norm/scale`, `head/weight`.
    Shapes: x [..., height, width, in_dim] -> logits [..., classes], or states [..., tokens, dim] without a head.
    Raises: ValueError when the patch does not divide the image, or x has another size.
    Source: Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1; eps and initial values are those of its code and
    of timm.

    >>> model = nf.vit(10, image_size=28, patch=7, in_dim=1, dim=16, layers=2, heads=2)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((3, 28, 28, 1))).shape
    (3, 10)
    """
    check.size("vit", in_dim=in_dim, dim=dim, layers=layers, **({} if classes is None else {"classes": classes}))
    check.choice("vit", ("class", "mean", "distilled"), pool=pool)
    size, count = grid("vit", image_size, patch)
    normal = initializers.truncated_normal(0.02)
    attend = attention(dim, heads, dropout=dropout, weight_init=normal)
    mlp = feed_forward(dim, hidden or 4 * dim, activation=activation, weight_init=normal)
    block = transformer_block(dim, attend, mlp, eps=eps, dropout=dropout, drop_path=drop_path)
    token = {"token": _class_token(dim)} if pool != "mean" else {}
    second = {"second_token": _class_token(dim)} if pool == "distilled" else {}
    head, second_head = {}, {}
    if classes is not None:
        logits = linear(dim, classes, bias=head_bias, weight_init=normal)
        head, second_head = {"head": logits}, {"second_head": logits} if second else {}
    first_norm = {"pre_norm": layer_norm(dim, eps=eps)} if pre_norm else {}
    drop = {"drop": dropout_layer(dropout)} if dropout is not None else {}

    def flow(net, x):
        check_image("vit", x, size, in_dim)
        y = net.patches(x)
        y = net.second_token(y) if second else y
        y = net.positions(net.token(y) if token else y)
        y = net.drop(y) if drop else y
        y = net.norm(net.blocks(net.pre_norm(y) if pre_norm else y))
        if not head:
            return y
        if second:
            return (net.head(y[..., 0, :]) + net.second_head(y[..., 1, :])) / 2
        return net.head(y[..., 0, :] if token else y.mean(-2))

    return wire(
        flow,
        patches=patch_embedding(patch, in_dim, dim, bias=patch_bias),
        **second,
        **token,
        positions=learned_positions(count + len(token) + len(second), dim, weight_init=normal),
        **drop,
        **first_norm,
        blocks=repeat(block, layers, unroll=unroll),
        norm=layer_norm(dim, eps=eps),
        **head,
        **second_head,
    )


def _class_token(dim: int) -> Model:
    """A learned vector put before the sequence: [..., time, dim] -> [..., 1 + time, dim]."""

    def init(key):
        return {"weight": initializers.normal(0.02)(key, (dim,))}

    def apply(params, x):
        token = jnp.broadcast_to(params["weight"], (*x.shape[:-2], 1, dim))
        return jnp.concatenate([token, x], axis=-2)

    return Model(init, apply)


def grid(where: str, image_size: int | tuple[int, int], patch: int | tuple[int, int]) -> tuple[tuple[int, int], int]:
    """(height, width) of the image, and how many patches cover it."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    high, wide = (patch, patch) if isinstance(patch, int) else patch
    check.size(where, image_height=height, image_width=width, patch_height=high, patch_width=wide)
    if height % high or width % wide:
        expected = f"patches of {(high, wide)} should cover the image exactly"
        check.fail(where, expected=expected, actual=f"image_size {(height, width)}")
    return (height, width), math.prod((height // high, width // wide))


def check_image(where: str, x: Array, size: tuple[int, int], in_dim: int) -> None:
    """x is [..., height, width, in_dim] of the size that the model was made for."""
    check.last_axis(where, x, in_dim=in_dim)
    if x.shape[-3:-1] != size:
        expected = f"x should be [..., {size[0]}, {size[1]}, {in_dim}], the image_size"
        hint = "Resize it, or make a model of its size."
        check.fail(where, expected=expected, actual=f"shape {x.shape}", hint=hint)
