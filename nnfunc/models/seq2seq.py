"""The encoder-decoder Transformer."""

import math
from dataclasses import replace
from typing import Literal

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Layer, Model, Scalar
from nnfunc.combinators import repeat, tie, wire
from nnfunc.layers.attention.layer import attention
from nnfunc.layers.attention.positions import learned_positions, sinusoidal_positions
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.embedding import embedding
from nnfunc.layers.feed_forward import feed_forward
from nnfunc.layers.linear import linear
from nnfunc.models.transformer import make_norm, padding, transformer_block

__all__ = ["seq2seq"]

NAMES = ("source", "source_mask", "source_lengths", "memory", "target", "target_mask", "target_lengths")


def seq2seq(
    vocab_size: int,
    *,
    dim: int,
    layers: int,
    heads: int,
    hidden: int | None = None,
    target_vocab_size: int | None = None,
    tied: bool = True,
    order: Literal["pre", "post"] = "post",
    norm: Literal["layer", "rms"] = "layer",
    activation: str = "relu",
    block_size: int | None = None,
    dropout: Scalar | None = None,
    eps: Scalar | None = None,
) -> Model:
    """The Transformer: an encoder of the source, a decoder that reads it and predicts the target.

    x is a dict: source and target give logits; source alone gives memory, the encoder's output, which
    is ordinary data; memory and target give logits again. So a source is encoded once, and while a
    sequence is generated the decoder keeps its keys and values in the state. Optional: source_mask
    (true where there is a token) or source_lengths, wherever source or memory is given, and
    target_mask or target_lengths. The target is what the decoder reads, a start token first; place
    t predicts token t + 1.
    order: where the norms are (see `transformer_block`); with "pre" encoder and decoder end with one.
    tied: one table, times sqrt(dim), is that of source and target and, transposed, the head, as in
    the paper; otherwise three, and target_vocab_size may differ. hidden: 4 * dim by default.
    block_size: with it, positions are learned tables of that length, otherwise sinusoidal.
    dropout: the rate, in [0, 1], of embeddings, attention weights and branches. eps: that of the norm.
    vocab_size: ids of the source. layers, heads: blocks of the encoder and of the decoder, attention heads of
    a block. activation: of the perceptron, a name of `nf.activations`; the paper's is "relu".
    Paths: `encoder/tokens/weight`, `encoder/blocks/attend/...`, `decoder/blocks/cross/...`, ...,
    `decoder/head/weight` unless tied.
    Shapes: source [..., time], target [..., steps] integers -> logits [..., steps, target_vocab_size];
    memory [..., time, dim].
    Raises: ValueError when tied and the vocabularies differ.
    Source: Vaswani et al. 2017, arXiv:1706.03762.

    >>> model = nf.seq2seq(20, dim=16, layers=2, heads=2)
    >>> params = model.init(jax.random.key(0))
    >>> memory = model.apply(params, {"source": jnp.array([[1, 2, 3]])})
    >>> model.apply(params, {"memory": memory, "target": jnp.array([[0, 4]])}).shape
    (1, 2, 20)
    """
    check.size("seq2seq", vocab_size=vocab_size, dim=dim, layers=layers)
    words = vocab_size if target_vocab_size is None else target_vocab_size
    check.size("seq2seq", target_vocab_size=words)
    if tied and words != vocab_size:
        check.fail(
            "seq2seq",
            expected=f"target_vocab_size should be that of the source, {vocab_size}, when tied",
            actual=words,
            hint="Set tied=False.",
        )
    table = initializers.normal(dim**-0.5)
    drop = {"drop": dropout_layer(dropout)} if dropout is not None else {}
    final = {"norm": make_norm("seq2seq", norm, dim, eps)} if order == "pre" else {}

    def block(causal: bool) -> Model:
        cross = attention(dim, heads, context_dim=dim, dropout=dropout) if causal else None
        return transformer_block(
            dim,
            attention(dim, heads, causal=causal, dropout=dropout),
            feed_forward(dim, hidden or 4 * dim, activation=activation),
            cross=cross,
            order=order,
            norm=norm,
            eps=eps,
            dropout=dropout,
        )

    def embedded(count: int) -> dict[str, Layer]:
        wide = math.sqrt(dim)
        place = learned_positions(block_size, dim) if block_size else sinusoidal_positions(dim)
        return {
            "tokens": embedding(count, dim, weight_init=table),
            "scale": lambda x: x * jnp.asarray(wide, x.dtype),
            "positions": place,
            **drop,
        }

    def stack(count: int, *, causal: bool, **head: Layer) -> Model:
        before, after = embedded(count), {**final, **head}

        def flow(net, x):
            y = x["x"]
            for name in before:
                y = net[name](y)
            y = net.blocks({**x, "x": y})["x"]
            for name in after:
                y = net[name](y)
            return y

        return wire(flow, **before, blocks=repeat(block(causal), layers), **after)

    encoder = stack(vocab_size, causal=False)
    head = linear(dim, words, bias=False, weight_init=table)
    decoder = stack(words, causal=True, head=head)

    def flow(net, x):
        _check_names(x)
        if "memory" in x:
            memory = x["memory"]
        else:
            about = padding(x, "source_mask", "source_lengths", x["source"].shape[-1])
            memory = net.encoder({"x": x["source"], **about})
        if "target" not in x:
            return memory
        check.last_axis("seq2seq: memory", memory, dim=dim)
        seen = padding(x, "source_mask", "source_lengths", memory.shape[-2])
        own = padding(x, "target_mask", "target_lengths", x["target"].shape[-1])
        context = {"context": memory, **{f"context_{name}": value for name, value in seen.items()}}
        return net.decoder({"x": x["target"], **own, **context})

    model = wire(flow, encoder=_whole(encoder), decoder=decoder)
    shared = {
        "decoder/tokens/weight": "encoder/tokens/weight",
        "decoder/head/weight": ("encoder/tokens/weight", jnp.transpose),
    }
    return tie(model, shared) if tied else model


def _whole(model: Model) -> Model:
    """The model without a cache: it always sees its whole input at once."""

    def forward(params, x, ctx):
        return model.forward(params, x, replace(ctx, cache=None))

    return Model(model.init, forward=forward, init_state=model.init_state, name=model.name)


def _check_names(x: dict) -> None:
    wanted = "a dict with source, and target, or memory and target"
    if not isinstance(x, dict):
        got = check.describe(x)
        check.fail("seq2seq", f"x should be {wanted}, got {got}.", exc_type=TypeError)
    for name in x:
        if name not in NAMES:
            known = check.nearest(name, NAMES)
            check.fail("seq2seq", f"x should hold {', '.join(NAMES)}, got {name!r}{known}")
    if ("source" in x) == ("memory" in x) or ("memory" in x and "target" not in x):
        check.fail("seq2seq", f"x should be {wanted}, got a dict with {sorted(x)}.")
    for name in {"source", "target"} & set(x):
        check.integers(f"seq2seq: {name}", **{name: x[name]})
        if x[name].ndim < 1:
            check.fail("seq2seq", expected=f"{name} should be [..., time]", actual=f"shape {x[name].shape}")
