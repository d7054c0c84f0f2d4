"""Models of padded sequences of tokens: a classifier of texts and a tagger of words."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Layer, Model, Scalar, canonicalize, widen
from nnfunc.combinators import wire
from nnfunc.layers.attention.layer import attention
from nnfunc.layers.attention.positions import learned_positions
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.embedding import embedding
from nnfunc.layers.feed_forward import feed_forward
from nnfunc.layers.linear import linear
from nnfunc.layers.norm import layer_norm
from nnfunc.layers.recurrent.layers import RecurrentInput, lstm
from nnfunc.models.transformer import TransformerInput, transformer_block
from nnfunc.stacked_layers import repeat

__all__ = ["tagger", "text_classifier"]

PADDING = 0  # the id of padding, as `nf.data.text_classification` and `nf.data.tagging` write it


def text_classifier(
    vocab_size: int,
    classes: int,
    *,
    body: Literal["bag", "lstm", "transformer"] = "bag",
    dim: int = 64,
    layers: int = 1,
    heads: int = 4,
    block_size: int = 512,
    pairs: int = 0,
    dropout: Scalar | None = None,
) -> Model:
    """Vectors of the tokens, a body, the mean over the tokens that are not padding, and a linear head.

    vocab_size: the number of token ids, padding included.
    classes: their number.
    body: "bag" has no layers and ignores the order, as fastText; "lstm" is `nf.lstm` in both directions;
        "transformer" is learned positions and blocks as those of `nf.vit`.
    dim: the width of a vector, and of the body, of each direction for "lstm".
    layers: of the body.
    heads: of attention, of "transformer" only.
    block_size: the most tokens, of "transformer" only.
    pairs: with "bag", the size of a second table, of vectors of pairs of neighbours, which share them by a hash; 0
        for none.
    dropout: the rate, in [0, 1], of the vectors, inside the body and before the head.
    Shapes: x [..., time] integers in [0, vocab_size), 0 for padding at the end -> logits [..., classes]. A text
    without tokens has the vector 0.
    Paths: `tokens/weight`, `pairs/weight`, `body/...`, `head/weight`, `head/bias`.
    Source: Joulin et al. 2016, arXiv:1607.01759, for "bag" and pairs.

    >>> model = nf.text_classifier(100, 3, body="lstm", dim=8)
    >>> model.apply(model.init(jax.random.key(0)), jnp.array([[5, 7, 9], [6, 0, 0]])).shape
    (2, 3)
    """
    where = "text_classifier"
    check.choice(where, ("bag", "lstm", "transformer"), body=body)
    check.size(where, 0, pairs=pairs)
    if pairs and body != "bag":
        expected = "pairs should be 0 unless body is 'bag', which ignores the order of tokens"
        check.fail(where, expected=expected, actual=f"{pairs} with {body!r}")
    children, encode, width = _encoder(where, vocab_size, body, dim, layers, heads, block_size, dropout)

    children |= {"pairs": embedding(pairs, dim)} if pairs else {}

    def flow(net, x):
        check.integers(where, "They are token ids.", x=x)
        real = x != PADDING  # [..., time]
        vectors = net.tokens(x)
        if pairs:
            first, second = (canonicalize(part).astype(jnp.uint32) for part in (x[..., :-1], x[..., 1:]))
            at = (first * np.uint32(0x9E3779B1) + second * np.uint32(0x85EBCA6B)) % np.uint32(pairs)
            vectors = jnp.concatenate([vectors, net.pairs(at.astype(jnp.int32))], axis=-2)
            real = jnp.concatenate([real, real[..., 1:]], axis=-1)  # padding is at the end
        y = encode(net, vectors, real)
        total = widen(jnp.where(real[..., None], y, 0)).sum(-2)
        count = jnp.maximum(real.sum(-1, keepdims=True), 1)  # without a token the mean is 0
        mean = (total / count.astype(total.dtype)).astype(y.dtype)
        return net.head(net.last_drop(mean) if "last_drop" in children else mean)

    return wire(flow, **children, head=linear(width, classes)).replace(name=where)


def tagger(
    vocab_size: int,
    classes: int,
    *,
    body: Literal["lstm", "transformer"] = "lstm",
    dim: int = 64,
    layers: int = 1,
    heads: int = 4,
    block_size: int = 512,
    dropout: Scalar | None = None,
) -> Model:
    """Logits of a tag for each word: the sum of the vectors of a word's features, a body, and a linear head.

    The features of a word are ids of one table, such as the word, its prefixes and its suffixes, from which the tag
    of an unknown word can be told.
    vocab_size: the number of ids, padding included.
    classes: the number of tags.
    body, dim, layers, heads, block_size, dropout: as for `nf.text_classifier`.
    Shapes: x [..., time, features] integers in [0, vocab_size) -> logits [..., time, classes]. 0 is padding: of
    words at the end of a sentence, and of features that a word lacks, never of the first one.
    Paths: `tokens/weight`, `body/...`, `head/weight`, `head/bias`.
    Source: Huang et al. 2015, arXiv:1508.01991, for the body in both directions; Bojanowski et al. 2017,
    arXiv:1607.04606, for words as sums of their parts.

    >>> model = nf.tagger(100, 5, dim=8)
    >>> model.apply(model.init(jax.random.key(0)), jnp.array([[[5, 30], [7, 31], [0, 0]]])).shape
    (1, 3, 5)
    """
    where = "tagger"
    check.choice(where, ("lstm", "transformer"), body=body)
    children, encode, width = _encoder(where, vocab_size, body, dim, layers, heads, block_size, dropout)

    def flow(net, x):
        check.integers(where, "They are ids of features.", x=x)
        if x.ndim < 2:
            check.fail(where, expected="x should be [..., time, features]", actual=f"shape {x.shape}")
        vectors = jnp.where((x != PADDING)[..., None], net.tokens(x), 0)  # [..., time, features, dim]
        y = encode(net, vectors.sum(-2), x[..., 0] != PADDING)
        return net.head(net.last_drop(y) if "last_drop" in children else y)

    return wire(flow, **children, head=linear(width, classes)).replace(name=where)


def _encoder(
    where: str, vocab_size: int, body: str, dim: int, layers: int, heads: int, block_size: int, dropout: Scalar | None
) -> tuple[dict[str, Layer], Any, int]:
    """(the children, (net, vectors [..., time, dim], real [..., time]) -> [..., time, width], the width)."""
    check.size(where, vocab_size=vocab_size, dim=dim, layers=layers, heads=heads, block_size=block_size)
    children: dict[str, Layer] = {"tokens": embedding(vocab_size, dim)}
    if dropout is not None:
        children |= {"drop": dropout_layer(dropout), "last_drop": dropout_layer(dropout)}
    if body == "lstm":
        children["body"] = lstm(dim, dim, layers=layers, bidirectional=True, dropout=dropout)
    elif body == "transformer":
        block = transformer_block(
            dim, attention(dim, heads, dropout=dropout), feed_forward(dim, 4 * dim), dropout=dropout
        )
        children |= {"positions": learned_positions(block_size, dim), "body": repeat(block, layers)}
        children["norm"] = layer_norm(dim)

    def encode(net: Any, y: Array, real: Array) -> Array:
        y = net.drop(y) if dropout is not None else y
        lengths = real.sum(-1).astype(jnp.int32)
        if body == "lstm":
            return net.body(RecurrentInput(y, lengths))
        if body == "transformer":
            return net.norm(net.body(TransformerInput(net.positions(y), lengths=lengths)).x)
        return y

    return children, encode, 2 * dim if body == "lstm" else dim
