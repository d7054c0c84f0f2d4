"""The decoder Transformer of Llama."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Model, Scalar
from nnfunc.combinators import tie
from nnfunc.layers.attention.layer import attention
from nnfunc.layers.attention.rotary_scaling import RotaryScaling
from nnfunc.layers.embedding import embedding
from nnfunc.layers.feed_forward import feed_forward
from nnfunc.layers.mixture_of_experts import mixture_of_experts
from nnfunc.layers.norm import rms_norm
from nnfunc.models.transformer import DecoderOutput, decoder_head, last_token, token_model, transformer_block
from nnfunc.stacked_layers import repeat

__all__ = ["llama"]


def llama(
    vocab_size: int,
    *,
    dim: int,
    layers: int,
    heads: int,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    hidden: int | None = None,
    activation: str = "swiglu",
    rotary_base: Scalar = 10000.0,
    rotary_bases: Sequence[Scalar] | None = None,
    rotary_factors: Sequence[Scalar] | None = None,
    rotary_dim: int | None = None,
    rotary_scaling: RotaryScaling | None = None,
    window: Scalar | None = None,
    windows: Sequence[Scalar] | None = None,
    qkv_bias: bool = False,
    out_bias: bool = False,
    qk_norm: bool = False,
    eps: Scalar = 1e-5,
    post_norm: bool = False,
    scale: Scalar | None = None,
    soft_cap: Scalar | None = None,
    logit_cap: Scalar | None = None,
    embedding_scale: Scalar | None = None,
    dropout: Scalar | None = None,
    tied: bool = False,
    num_experts: int = 0,
    top_k: int = 2,
    mlp: Model | None = None,
    output: DecoderOutput = "tokens",
    classes: int = 2,
    padding_index: int | None = None,
    unroll: int = 1,
) -> Model:
    """Llama: pre-norm blocks with RMS norm, rotary positions, grouped queries and SwiGLU; no biases.

    With other arguments it is Mistral, Mixtral, Qwen, Phi-3 or Gemma; `nf.pretrained` reads the weights of them all.

    kv_heads: heads of keys and values, each shared by heads / kv_heads queries; heads by default.
    head_dim: the width of a head, dim / heads by default.
    hidden: units of the perceptron; by default 8/3 of dim, up to a multiple of 8, as many parameters as a plain one
        of 4 * dim has.
    activation: of the perceptron, as in `nf.feed_forward`; "geglu_tanh" in Gemma.
    rotary_base: 10000 in Llama 2, 500000 in Llama 3.
    rotary_dim: the channels of a head to rotate, all by default.
    rotary_scaling: for longer sequences than those of the first training, as `scaling` in `nf.rotary`; Llama 3.1
        has {"name": "llama3", "factor": 8, "low": 1, "high": 4, "length": 8192}.
    window: how many positions, itself among them, a token sees (Mistral); by default all before it.
    windows, rotary_bases, rotary_factors: a number for each layer in place of window, rotary_base and the factor of
        a linear scaling, infinity for no window (Gemma 2 and 3).
    qkv_bias: whether query, key and value have biases (Qwen2).
    out_bias: whether the result of attention has one.
    qk_norm: RMS norms of each head of query and key (Qwen3).
    post_norm: a second norm after each branch (Gemma 2).
    scale, soft_cap: of the scores, as in `nf.attend`; None, the default, is off (Gemma 2).
    logit_cap: above 0, logits y become cap * tanh(y / cap); None, the default, is off (Gemma 2).
    eps: that of all norms, above 0; 1e-6 in the first Llama.
    embedding_scale: a factor of the embeddings, sqrt(dim) in Gemma; None for 1.
    dropout: the rate, in [0, 1], of attention weights and branches; Llama has none.
    tied: the head is the table of tokens, transposed.
    num_experts: above 0, the number of perceptrons of which each token uses top_k, as in `nf.mixture_of_experts`
        (Mixtral: 8 and 2).
    mlp: another layer in place of the perceptron.
    unroll: that of `nf.repeat`.
    output: "tokens" gives the logits of the next token. "hidden": the normalized state of every token, without a
        head. "classes": logits of the whole sequence, a linear map without bias of the state of its last token.
        "token_classes": logits of each token, a linear map with bias.
    classes: their number.
    padding_index: the id that is padding where x has no mask and no lengths, for the last token of "classes"; None
        for no such id.
    layers, heads, dim: blocks, query heads of a block, width.
    Initial weights are normal of deviation 0.02. Rotary pairs are (i, i + head_dim / 2), as in the weights of
    Hugging Face.
    Paths: `tokens/weight`, `blocks/attend/query/weight`, ..., `blocks/mlp/gate/weight`, `norm/scale`,
    `head/weight`.
    Shapes: x [..., time] integers in [0, vocab_size) -> logits [..., time, vocab_size], [..., classes] or [...,
    time, classes], or states [..., time, dim]; or an `nf.TokenInput` with a mask or lengths of a padded batch, and
    positions.
    Source: Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288.

    >>> model = nf.llama(65, dim=16, layers=2, heads=4, kv_heads=2, hidden=40)
    >>> model.apply(model.init(jax.random.key(0)), jnp.array([[1, 2, 3]])).shape
    (1, 3, 65)
    """
    check.size("llama", vocab_size=vocab_size, dim=dim, layers=layers)
    hidden = -(-8 * dim // 24) * 8 if hidden is None else hidden
    check.size("llama", hidden=hidden)
    check.size("llama", 0, num_experts=num_experts)
    if num_experts and mlp is not None:
        check.fail("llama", expected="mlp should be None with num_experts", actual=repr(mlp))
    if logit_cap is not None:
        check.number("llama", 0, open_low=True, logit_cap=logit_cap)
    normal = initializers.normal(0.02)
    attend = attention(
        dim,
        heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        causal=True,
        window=window,
        windows=windows,
        positions="rotary",
        rotary_base=rotary_base,
        rotary_bases=rotary_bases,
        rotary_factors=rotary_factors,
        rotary_dim=rotary_dim,
        rotary_scaling=rotary_scaling,
        qk_norm=qk_norm,
        scale=scale,
        soft_cap=soft_cap,
        eps=eps,
        dropout=dropout,
        bias=qkv_bias,
        out_bias=out_bias,
        weight_init=normal,
    )
    options: dict[str, Any] = {"activation": activation, "bias": False, "weight_init": normal}
    if num_experts:
        mlp = mixture_of_experts(dim, hidden, num_experts, top_k=top_k, **options)
    mlp = mlp or feed_forward(dim, hidden, **options)
    order = "both" if post_norm else "pre"
    block = transformer_block(dim, attend, mlp, norm="rms", order=order, eps=eps, dropout=dropout)
    scaled = {} if embedding_scale is None else {"scale": lambda x: x * jnp.asarray(embedding_scale, x.dtype)}
    capped = {} if logit_cap is None or output != "tokens" else {"cap": lambda y: soft_capped(y, logit_cap)}
    head = decoder_head("llama", output, dim, vocab_size, classes, normal)
    if padding_index is not None:
        check.size("llama", 0, vocab_size - 1, padding_index=padding_index)
    model = token_model(
        "llama",
        select=last_token(padding_index) if output == "classes" else None,
        tokens=embedding(vocab_size, dim, weight_init=normal),
        **scaled,
        blocks=repeat(block, layers, unroll=unroll),
        norm=rms_norm(dim, eps=eps),
        **head,
        **capped,
    )
    return tie(model, {"head/weight": ("tokens/weight", jnp.transpose)}) if tied and output == "tokens" else model


def soft_capped(y: Array, cap: Scalar) -> Array:
    """cap * tanh(y / cap), which is y near 0 and never above cap."""
    limit = jnp.asarray(cap, y.dtype)
    return limit * jnp.tanh(y / limit)
