"""CLIP: a tower for images and one for texts, whose outputs are compared."""

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Layer, Model, Scalar, widen
from nnfunc.combinators import wire
from nnfunc.layers.attention.layer import attention
from nnfunc.layers.attention.positions import learned_positions
from nnfunc.layers.embedding import embedding
from nnfunc.layers.feed_forward import feed_forward
from nnfunc.layers.linear import linear
from nnfunc.layers.norm import layer_norm
from nnfunc.models.transformer import TokenInput, real_tokens, state_at, token_model, transformer_block
from nnfunc.stacked_layers import repeat

__all__ = ["clip", "clip_text"]


def clip_text(
    vocab_size: int,
    *,
    block_size: int,
    layers: int,
    heads: int,
    dim: int,
    out_dim: int | None,
    hidden: int | None = None,
    end: int | None = None,
    activation: str = "quick_gelu",
    eps: Scalar = 1e-5,
) -> Model:
    """The text tower of CLIP: causal pre-norm blocks, norm, and a linear map of the state at the end token.

    Its image tower is `nf.vit(out_dim, pre_norm=True, patch_bias=False, head_bias=False, activation="quick_gelu",
    eps=1e-5, ...)`.

    vocab_size, block_size: token ids, the longest sequence.
    layers, heads, dim: blocks, attention heads of a block, width.
    out_dim: the width of the result; None leaves the map out, and y is the normalized state of every token.
    hidden: units of the perceptron, 4 * dim by default.
    end: the id of the end token, of which the first counts; None, the default, takes the largest id of a sequence,
        as the first published models do.
    activation: of the perceptron, a name of `nf.activations`.
    eps: that of the norms, above 0.
    Paths: `tokens/weight`, `positions/weight`, `blocks/attend/...`, `blocks/mlp/...`, `norm/scale`, `head/weight`.
    Shapes: x [..., time] integers in [0, vocab_size), time at most block_size -> y [..., out_dim], or [..., time,
    dim]; or an `nf.TokenInput` with a mask or lengths of a padded batch, and positions.
    Source: Radford et al. 2021, arXiv:2103.00020, section 2.4, and its code.

    >>> model = nf.clip_text(65, block_size=8, layers=2, heads=2, dim=16, out_dim=4)
    >>> model.apply(model.init(jax.random.key(0)), jnp.array([[1, 2, 64, 0]])).shape
    (1, 4)
    """
    check.size("clip_text", vocab_size=vocab_size, layers=layers, dim=dim)
    head = {}
    if out_dim is not None:
        check.size("clip_text", out_dim=out_dim)
        head["head"] = linear(dim, out_dim, bias=False, weight_init=initializers.normal(dim**-0.5))
    if end is not None:
        check.size("clip_text", 0, vocab_size - 1, end=end)
    normal = initializers.normal(0.02)
    attend = attention(dim, heads, causal=True, weight_init=normal)
    mlp = feed_forward(dim, hidden or 4 * dim, activation=activation, weight_init=normal)

    def end_state(y: Array, x: TokenInput) -> Array:
        mask = real_tokens(x, None)
        ids = x.ids if mask is None else jnp.where(mask, x.ids, -1)
        return state_at(y, jnp.argmax(ids if end is None else ids == end, axis=-1))

    return token_model(
        "clip_text",
        select=end_state,
        tokens=embedding(vocab_size, dim, weight_init=normal),
        positions=learned_positions(block_size, dim, weight_init=initializers.normal(0.01)),
        blocks=repeat(transformer_block(dim, attend, mlp, eps=eps), layers),
        norm=layer_norm(dim, eps=eps),
        **head,
    )


def clip(image: Layer, text: Layer, *, temperature: Scalar = 0.07) -> Model:
    """Scores of every image with every text: the cosine of their vectors, times a learned factor.

    logits[i, j] = exp(scale) * image_i @ text_j / (|image_i| |text_j|); the loss of the paper is the mean of
    cross_entropy over the rows and over the columns, with label i for row i.

    image, text: layers that return vectors of one width, such as `nf.vit` and `nf.clip_text`.
    temperature: above 0; the factor is 1 / temperature at first.
    Shapes: x is a pair (images [images, ...], ids [texts, time]) -> logits [images, texts].
    Source: Radford et al. 2021, arXiv:2103.00020, figure 3.

    >>> sizes = {"image_size": 8, "patch": 4, "dim": 8, "layers": 1, "heads": 2}
    >>> image = nf.vit(4, **sizes, pre_norm=True, patch_bias=False, head_bias=False, activation="quick_gelu")
    >>> model = nf.clip(image, nf.clip_text(65, block_size=8, layers=1, heads=2, dim=8, out_dim=4))
    >>> x = jnp.ones((2, 8, 8, 3)), jnp.array([[1, 2], [3, 4], [5, 6]])
    >>> model.apply(model.init(jax.random.key(0)), x).shape
    (2, 3)
    """
    check.number("clip", 0, open_low=True, temperature=temperature)

    def flow(net, images, ids):
        first, second = normalized(net.image(images)), normalized(net.text(ids))
        if first.shape[-1:] != second.shape[-1:]:
            expected, actual = "image and text should return one width", f"{first.shape} and {second.shape}"
            check.fail("clip", expected=expected, actual=actual)
        return net.factor(first @ second.T)

    def init(key):
        return {"scale": -jnp.log(jnp.asarray(temperature, jnp.float32))}

    def apply(params, x):
        return x * jnp.exp(params["scale"]).astype(x.dtype)

    return wire(flow, image=image, text=text, factor=Model(init, apply))


def normalized(x: Array) -> Array:
    """Each vector at length 1."""
    wide = widen(x)
    return (wide / jnp.sqrt(jnp.sum(wide * wide, axis=-1, keepdims=True))).astype(x.dtype)
