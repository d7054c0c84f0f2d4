"""The decoder Transformer of GPT-2."""

import math

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Model, Scalar
from nnfunc.combinators import tie
from nnfunc.layers.attention.layer import attention
from nnfunc.layers.attention.positions import learned_positions
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.embedding import embedding
from nnfunc.layers.feed_forward import feed_forward
from nnfunc.layers.norm import layer_norm
from nnfunc.models.transformer import DecoderOutput, decoder_head, last_token, token_model, transformer_block
from nnfunc.stacked_layers import repeat

__all__ = ["gpt"]


def gpt(
    vocab_size: int,
    *,
    block_size: int,
    layers: int,
    heads: int,
    dim: int,
    hidden: int | None = None,
    dropout: Scalar | None = None,
    bias: bool = True,
    tied: bool = True,
    activation: str = "gelu_tanh",
    eps: Scalar = 1e-5,
    mlp: Model | None = None,
    output: DecoderOutput = "tokens",
    classes: int = 2,
    padding_index: int | None = None,
    unroll: int = 1,
) -> Model:
    """GPT-2: token and position tables, pre-norm blocks with causal attention, norm, linear head.

    hidden: units of the perceptron, 4 * dim by default.
    dropout: the rate, in [0, 1], of the embedding, of the attention weights and of each branch.
    bias: of all linear maps but the head, and of the norms.
    tied: the head is the table of tokens, transposed.
    activation: GPT-2's is "gelu_tanh", nanoGPT's the exact "gelu".
    mlp: another layer in place of the perceptron, such as `nf.mixture_of_experts`.
    unroll: how many layers are written out in the program, as in `nf.repeat`; with all of them a small model runs
        some 10 % faster on a CPU, and compiles longer.
    output: "tokens" gives the logits of the next token. "hidden": the normalized state of every token, without a
        head. "classes": logits of the whole sequence, a linear map without bias of the state of its last token.
        "token_classes": logits of each token, a linear map with bias.
    classes: their number.
    padding_index: the id that is padding where x has no mask and no lengths, for the last token of "classes"; None
        for no such id.
    layers, heads, dim: blocks, attention heads of a block, width; heads divides dim.
    eps: that of the norms, above 0; 1e-5 is GPT-2's.
    Initial weights are normal of deviation 0.02, those of the last map of each branch 0.02 / sqrt(2 * layers).
    Paths: `tokens/weight`, `positions/weight`, `blocks/attend/query/weight` [layers, dim, dim], ...,
    `blocks/mlp/up/weight`, `norm/scale`, and `head/weight` unless tied.
    Shapes: x [..., time] integers in [0, vocab_size), time at most block_size -> logits [..., time, vocab_size],
    [..., classes] or [..., time, classes], or states [..., time, dim]; or an `nf.TokenInput` with a mask or lengths
    of a padded batch, and positions.
    Source: Radford et al. 2019, "Language models are unsupervised multitask learners", section 2.3, and its code;
    the dropout as in its Hugging Face form and in nanoGPT.

    >>> model = nf.gpt(65, block_size=8, layers=2, heads=2, dim=16)
    >>> model.apply(model.init(jax.random.key(0)), jnp.array([[1, 2, 3]])).shape
    (1, 3, 65)
    """
    check.size("gpt", vocab_size=vocab_size, block_size=block_size, layers=layers, dim=dim)
    normal = initializers.normal(0.02)
    last = initializers.normal(0.02 / math.sqrt(2 * layers))
    attend = attention(dim, heads, causal=True, dropout=dropout, bias=bias, weight_init=normal, out_init=last)
    mlp = mlp or feed_forward(
        dim, hidden or 4 * dim, activation=activation, bias=bias, weight_init=normal, out_init=last
    )
    block = transformer_block(dim, attend, mlp, eps=eps, bias=bias, dropout=dropout)
    drop = {"drop": dropout_layer(dropout)} if dropout is not None else {}
    head = decoder_head("gpt", output, dim, vocab_size, classes, normal)
    if padding_index is not None:
        check.size("gpt", 0, vocab_size - 1, padding_index=padding_index)
    model = token_model(
        "gpt",
        select=last_token(padding_index) if output == "classes" else None,
        tokens=embedding(vocab_size, dim, weight_init=normal),
        positions=learned_positions(block_size, dim, weight_init=normal),
        **drop,
        blocks=repeat(block, layers, unroll=unroll),
        norm=layer_norm(dim, eps=eps, bias=bias),
        **head,
    )
    return tie(model, {"head/weight": ("tokens/weight", jnp.transpose)}) if tied and output == "tokens" else model
