"""The decoder Transformer of Llama."""

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Model, Scalar
from nnfunc.combinators import repeat, serial, tie
from nnfunc.layers.attention.layer import attention
from nnfunc.layers.embedding import embedding
from nnfunc.layers.feed_forward import feed_forward
from nnfunc.layers.linear import linear
from nnfunc.layers.norm import rms_norm
from nnfunc.models.transformer import transformer_block

__all__ = ["llama"]


def llama(
    vocab_size: int,
    *,
    dim: int,
    layers: int,
    heads: int,
    kv_heads: int | None = None,
    hidden: int | None = None,
    rotary_base: Scalar = 10000.0,
    window: Scalar | None = None,
    eps: Scalar = 1e-5,
    dropout: Scalar | None = None,
    tied: bool = False,
    mlp: Model | None = None,
    unroll: int = 1,
) -> Model:
    """Llama: pre-norm blocks with RMS norm, rotary positions, grouped queries and SwiGLU; no biases.

    kv_heads: heads of keys and values, each shared by heads / kv_heads queries; heads by default.
    hidden: units of the perceptron; by default 8/3 of dim, up to a multiple of 8, as many parameters
    as a plain one of 4 * dim has.
    rotary_base: 10000 in Llama 2, 500000 in Llama 3. window: how many positions, itself among them,
    a token sees (Mistral); by default all before it. eps: 1e-6 in the first Llama. dropout: the rate,
    in [0, 1], of attention weights and branches; Llama has none. tied: the head is the table of
    tokens, transposed. mlp: another layer in place of the perceptron; `nf.mixture_of_experts(dim, hidden, 8,
    activation="swiglu", bias=False)` makes Mixtral. unroll: that of `nf.repeat`.
    layers, heads, dim: blocks, query heads of a block, width.
    Initial weights are normal of deviation 0.02. Rotary pairs are (i, i + head_dim / 2), as in the
    weights of Hugging Face.
    Paths: `tokens/weight`, `blocks/attend/query/weight`, ..., `blocks/mlp/gate/weight`, `norm/scale`,
    `head/weight`.
    Shapes: x [..., time] integers in [0, vocab_size) -> logits [..., time, vocab_size].
    Source: Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288.

    >>> model = nf.llama(65, dim=16, layers=2, heads=4, kv_heads=2, hidden=40)
    >>> model.apply(model.init(jax.random.key(0)), jnp.array([[1, 2, 3]])).shape
    (1, 3, 65)
    """
    check.size("llama", vocab_size=vocab_size, dim=dim, layers=layers)
    hidden = -(-8 * dim // 24) * 8 if hidden is None else hidden
    check.size("llama", hidden=hidden)
    normal = initializers.normal(0.02)
    attend = attention(
        dim,
        heads,
        kv_heads=kv_heads,
        causal=True,
        window=window,
        positions="rotary",
        rotary_base=rotary_base,
        dropout=dropout,
        bias=False,
        weight_init=normal,
    )
    mlp = mlp or feed_forward(dim, hidden, activation="swiglu", bias=False, weight_init=normal)
    block = transformer_block(dim, attend, mlp, norm="rms", eps=eps, dropout=dropout)
    model = serial(
        tokens=embedding(vocab_size, dim, weight_init=normal),
        blocks=repeat(block, layers, unroll=unroll),
        norm=rms_norm(dim, eps=eps),
        head=linear(dim, vocab_size, bias=False, weight_init=normal),
    )
    return tie(model, {"head/weight": ("tokens/weight", jnp.transpose)}) if tied else model
