"""The encoder-decoder Transformer."""

import math
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Layer, Model, Scalar
from nnfunc.combinators import tie, wire
from nnfunc.layers.attention.layer import attention
from nnfunc.layers.attention.positions import learned_positions, sinusoidal_positions
from nnfunc.layers.attention.relative_bias import relative_bias
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.embedding import embedding
from nnfunc.layers.feed_forward import feed_forward
from nnfunc.layers.linear import bias as bias_layer
from nnfunc.layers.linear import linear
from nnfunc.models.transformer import TransformerInput, attention_padding, make_norm, transformer_block
from nnfunc.stacked_layers import repeat

__all__ = ["Seq2SeqInput", "seq2seq"]


class Seq2SeqInput(NamedTuple):
    """The x of `nf.seq2seq`: source and target, source alone, or memory and target.

    source: integers [..., time] in [0, vocab_size).
    target: what the decoder reads, integers [..., steps] in [0, target_vocab_size), a start token first.
    memory: the output of the encoder, [..., time, dim], in place of source.
    source_mask: [..., time], True or 1 where source or memory has a token.
    source_lengths: integers [...], its number of tokens.
    target_mask, target_lengths: those of the target.
    A pytree like any tuple, so `jax.vmap` and `jax.jit` take it as it is.

    >>> model = nf.seq2seq(20, dim=16, layers=2, heads=2)
    >>> x = nf.Seq2SeqInput(jnp.array([[1, 2, 3]]), target=jnp.array([[0, 4]]))
    >>> model.apply(model.init(jax.random.key(0)), x).shape
    (1, 2, 20)
    """

    source: Array | None = None
    target: Array | None = None
    memory: Array | None = None
    source_mask: Array | None = None
    source_lengths: Array | None = None
    target_mask: Array | None = None
    target_lengths: Array | None = None


def seq2seq(
    vocab_size: int,
    *,
    dim: int,
    layers: int,
    heads: int,
    hidden: int | None = None,
    head_dim: int | None = None,
    target_vocab_size: int | None = None,
    tied: bool | Literal["tables"] = True,
    order: Literal["pre", "post"] = "post",
    norm: Literal["layer", "rms"] = "layer",
    activation: str = "relu",
    bias: bool = True,
    scale: Scalar | None = None,
    block_size: int | None = None,
    buckets: int | None = None,
    max_distance: Scalar = 128,
    embedding_scale: Scalar | None = None,
    embedding_norm: bool = False,
    head_scale: Scalar | None = None,
    logit_bias: bool = False,
    final_norm: bool | None = None,
    decoder_layers: int | None = None,
    output: Literal["tokens", "hidden"] = "tokens",
    dropout: Scalar | None = None,
    eps: Scalar | None = None,
) -> Model:
    """The Transformer: an encoder of the source, a decoder that reads it and predicts the target.

    x is an `nf.Seq2SeqInput`. Source and target give logits. Source alone gives memory, the output of the
    encoder; memory and target give the same logits, so that a source is encoded once. While a sequence is
    generated, the decoder keeps its keys and values in the state. The target begins with a start token, and
    position t predicts token t + 1.
    order: where the norms are (see `transformer_block`).
    norm: "layer" or "rms".
    final_norm: whether encoder and decoder end with one, by default with "pre"; torch.nn.Transformer has it with
        "post" too.
    tied: one table, times sqrt(dim), is that of source and target and, transposed, the head, as in the paper; with
        "tables" the head has one of its own; otherwise three, and target_vocab_size may differ.
    hidden: 4 * dim by default.
    head_dim: the width of a head, dim / heads by default.
    block_size: with it, positions are learned tables of that length, otherwise sinusoidal.
    buckets: with it, a multiple of 4, positions are relative, as in T5: encoder and decoder have a learned bias of
        the scores of each head for as many ranges of distances, of which the last begins at max_distance, above
        buckets / 2.
    embedding_scale: the factor of the tables in place of sqrt(dim).
    embedding_norm: a norm after the positions.
    head_scale: a factor before the head.
    logit_bias: a bias of the logits.
    decoder_layers: the blocks of the decoder, layers by default; 0 leaves the decoder out, so that x is a source
        alone. BART has embedding_scale=1, embedding_norm and logit_bias.
    output: "tokens" gives the logits of the next token, "hidden" the state of every token of the target, [...,
        steps, dim], without a head.
    bias: of all layers and norms.
    scale: of the scores, above 0, by default head_dim^(-1/2). T5 has order="pre", norm="rms", bias=False, scale=1,
        buckets=32, embedding_scale=1 and head_scale=dim^(-1/2), its version 1.1 tied="tables",
        activation="geglu_tanh" and no head_scale.
    dropout: the rate, in [0, 1], of embeddings, attention weights and branches.
    eps: that of the norm.
    vocab_size: ids of the source.
    layers, heads: blocks of the encoder and of the decoder, attention heads of a block.
    activation: of the perceptron, a name of `nf.activations` or a gated one as in `nf.feed_forward`; the paper's is
        "relu".
    Paths: `encoder/tokens/weight`, `encoder/blocks/attend/...`, `decoder/blocks/cross/...`, ...,
    `decoder/head/weight` unless tied; with buckets `encoder/relative/weight` and `decoder/relative/weight`.
    Shapes: source [..., time], target [..., steps] integers -> logits [..., steps, target_vocab_size]; memory [...,
    time, dim].
    Raises: ValueError when tied and the vocabularies differ, or when x has other parts than these; TypeError when x
    is no `nf.Seq2SeqInput`.
    Source: Vaswani et al. 2017, arXiv:1706.03762; Raffel et al. 2020, arXiv:1910.10683, for T5.

    >>> model = nf.seq2seq(20, dim=16, layers=2, heads=2)
    >>> params = model.init(jax.random.key(0))
    >>> memory = model.apply(params, nf.Seq2SeqInput(jnp.array([[1, 2, 3]])))
    >>> model.apply(params, nf.Seq2SeqInput(memory=memory, target=jnp.array([[0, 4]]))).shape
    (1, 2, 20)
    """
    check.size("seq2seq", vocab_size=vocab_size, dim=dim, layers=layers)
    decoder_layers = layers if decoder_layers is None else decoder_layers
    check.size("seq2seq", 0, decoder_layers=decoder_layers)
    check.choice("seq2seq", ("tokens", "hidden"), output=output)
    target_vocab_size = vocab_size if target_vocab_size is None else target_vocab_size
    check.size("seq2seq", target_vocab_size=target_vocab_size)
    if tied and target_vocab_size != vocab_size:
        expected = f"target_vocab_size should be that of the source, {vocab_size}, when tied"
        check.fail("seq2seq", expected=expected, actual=target_vocab_size, hint="Set tied=False.")
    if not isinstance(tied, bool):
        check.choice("seq2seq", ("tables",), tied=tied)
    if buckets is not None and block_size is not None:
        expected = "block_size should be left out with buckets, because positions are relative"
        check.fail("seq2seq", expected=expected, actual=block_size)
    table = initializers.normal(dim**-0.5)
    drop = {"drop": dropout_layer(dropout)} if dropout is not None else {}
    ends_with_norm = order == "pre" if final_norm is None else final_norm
    final = {"norm": make_norm("seq2seq", norm, dim, eps, bias)} if ends_with_norm else {}
    attention_options = {"head_dim": head_dim, "bias": bias, "scale": scale, "dropout": dropout}

    def block(causal: bool) -> Model:
        cross = attention(dim, heads, context_dim=dim, **attention_options) if causal else None
        return transformer_block(
            dim,
            attention(dim, heads, causal=causal, **attention_options),
            feed_forward(dim, hidden or 4 * dim, activation=activation, bias=bias),
            cross=cross,
            order=order,
            norm=norm,
            eps=eps,
            bias=bias,
            dropout=dropout,
        )

    def embedding_layers(count: int) -> dict[str, Layer]:
        wide = math.sqrt(dim) if embedding_scale is None else embedding_scale
        norm_layer = {"embedding_norm": make_norm("seq2seq", norm, dim, eps, bias)} if embedding_norm else {}
        positions = {}
        if buckets is None:
            positions["positions"] = learned_positions(block_size, dim) if block_size else sinusoidal_positions(dim)
        return {
            "tokens": embedding(count, dim, weight_init=table),
            "scale": lambda x: x * jnp.asarray(wide, x.dtype),
            **positions,
            **norm_layer,
            **drop,
        }

    def stack(count: int, depth: int, *, causal: bool, **head: Layer) -> Model:
        before, after = embedding_layers(count), {**final, **head}
        relative = {}
        if buckets is not None:
            options = {"buckets": buckets, "max_distance": max_distance, "weight_init": table}
            relative = {"relative": relative_bias(heads, causal=causal, **options)}

        def flow(net, x):
            y = x.x
            for name in before:
                y = net[name](y)
            added = net.relative(y) if relative else None
            y = net.blocks(x._replace(x=y, bias=added)).x
            for name in after:
                y = net[name](y)
            return y

        return wire(flow, **before, **relative, blocks=repeat(block(causal), depth), **after)

    encoder = _without_cache(stack(vocab_size, layers, causal=False))

    def encode(net, x):
        padding = attention_padding("source_", x.source_mask, x.source_lengths, x.source.shape[-1])
        return net.encoder(TransformerInput(x.source, **padding))

    if not decoder_layers:
        return wire(lambda net, x: encode(net, _check_input(x, decoder=False)), encoder=encoder)
    head: dict[str, Layer] = {}
    if output == "tokens":
        head |= {} if head_scale is None else {"shrink": lambda x: x * jnp.asarray(head_scale, x.dtype)}
        head |= {"head": linear(dim, target_vocab_size, bias=False, weight_init=table)}
        head |= {"shift": bias_layer(target_vocab_size)} if logit_bias else {}
    decoder = stack(target_vocab_size, decoder_layers, causal=True, **head)

    def flow(net, x):
        inputs: Any = _check_input(x)
        _, target, memory = inputs[:3]
        if memory is None:
            memory = encode(net, inputs)
        if target is None:
            return memory
        check.last_axis("seq2seq: memory", memory, dim=dim)
        source_padding = attention_padding("source_", inputs.source_mask, inputs.source_lengths, memory.shape[-2])
        padding = attention_padding("target_", inputs.target_mask, inputs.target_lengths, target.shape[-1])
        context = {"context": memory, **{f"context_{name}": value for name, value in source_padding.items()}}
        return net.decoder(TransformerInput(target, **padding, **context))

    model = wire(flow, encoder=encoder, decoder=decoder)
    shared: dict[str, Any] = {"decoder/tokens/weight": "encoder/tokens/weight"}
    if tied is True and output == "tokens":
        shared["decoder/head/weight"] = ("encoder/tokens/weight", jnp.transpose)
    return tie(model, shared) if tied else model


def _without_cache(model: Model) -> Model:
    """The model without a cache: it always sees its whole input at once."""

    def forward(params, x, ctx):
        return model.forward(params, x, replace(ctx, cache=None))

    return model.replace(forward=forward)


def _check_input(x: Any, *, decoder: bool = True) -> Seq2SeqInput:
    """x, checked. decoder: whether the model has one."""
    if not isinstance(x, Seq2SeqInput):
        hint = "Write nf.Seq2SeqInput(source=..., target=...)."
        actual = f"a dict with {sorted(x)}" if isinstance(x, dict) else check.describe(x)
        check.fail("seq2seq", expected="x should be an nf.Seq2SeqInput", actual=actual, hint=hint, exc_type=TypeError)
    names = [name for name, value in x._asdict().items() if value is not None]
    if ("source" in names) == ("memory" in names) or ("memory" in names and "target" not in names):
        expected = "x should have source, or source and target, or memory and target"
        check.fail("seq2seq", expected=expected, actual=f"an nf.Seq2SeqInput with {names}")
    if not decoder and {"target", "memory"} & {*names}:
        expected = "x should have source alone, because decoder_layers is 0"
        check.fail("seq2seq", expected=expected, actual=f"an nf.Seq2SeqInput with {names}")
    for name in {"source", "target"} & {*names}:
        ids = getattr(x, name)
        check.integers(f"seq2seq: {name}", **{name: ids})
        if ids.ndim < 1:
            check.fail("seq2seq", expected=f"{name} should be [..., time]", actual=f"shape {ids.shape}")
    return x
