"""The encoder Transformer of BERT."""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from nnfunc import activations, check, initializers
from nnfunc.base import Array, Model, Scalar
from nnfunc.combinators import serial, tie, wire
from nnfunc.layers.attention.layer import attention
from nnfunc.layers.attention.masks import zero_nonfinite_padding
from nnfunc.layers.attention.positions import learned_positions
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.embedding import embedding
from nnfunc.layers.feed_forward import feed_forward
from nnfunc.layers.linear import bias, linear
from nnfunc.layers.norm import layer_norm
from nnfunc.models.transformer import TransformerInput, attention_padding, transformer_block
from nnfunc.stacked_layers import repeat

__all__ = ["BertInput", "bert"]


class BertInput(NamedTuple):
    """The ids of `nf.bert` with their types and their padding.

    ids: integers [..., time] in [0, vocab_size).
    types: the segment of each token, integers [..., time] in [0, types); None, the default, is 0.
    mask: [..., time], True or 1 where there is a token.
    lengths: integers [...], the number of tokens of each sequence; one of the two is enough.
    positions: of the tokens, integers [..., time]; None, the default, counts from 0, padding included.
    A pytree like any tuple, so `jax.vmap` and `jax.jit` take it as it is.

    >>> model = nf.bert(65, block_size=8, layers=1, heads=2, dim=4)
    >>> x = nf.BertInput(jnp.array([[1, 2, 3], [4, 0, 0]]), lengths=jnp.array([3, 1]))
    >>> model.apply(model.init(jax.random.key(0)), x).shape
    (2, 3, 4)
    """

    ids: Array
    types: Array | None = None
    mask: Array | None = None
    lengths: Array | None = None
    positions: Array | None = None


def bert(
    vocab_size: int,
    *,
    block_size: int,
    layers: int,
    heads: int,
    dim: int,
    hidden: int | None = None,
    types: int = 2,
    output: Literal["hidden", "pooled", "tokens", "classes", "token_classes", "spans"] = "hidden",
    classes: int = 2,
    dropout: Scalar | None = None,
    activation: str = "gelu",
    pool_activation: str = "tanh",
    padding_index: int | None = None,
    eps: Scalar = 1e-12,
    unroll: int = 1,
) -> Model:
    """BERT: tables of tokens, positions and types, norm, post-norm blocks that see both directions.

    x: ids, or an `nf.BertInput` with types, and with mask or lengths, so that no token attends to padding.
    padding_index: the id that is padding where x has no mask and no lengths, None for no such id; 0 in BERT, 1 in
        RoBERTa.
    output: "hidden" gives the states of the last block. "pooled": `tanh(linear(state of the first token))`, the
        pooler of published models. "tokens": the masked language model's logits, `bias(table^T
        norm(gelu(linear(state))))`. "classes": logits of the whole sequence, `linear(dropout(tanh(linear(state of
        the first token))))`.
    pool_activation: another name of `nf.activations` in place of "tanh", "relu" in DistilBERT. "token_classes":
        logits of each token, `linear(dropout(state))`, as for names in a text. "spans": two logits of each token,
        `linear(state)`, that an answer starts there and that it ends there.
    types: the number of segments; with 0 there is no table of them.
    hidden: units of the perceptron, 4 * dim by default.
    dropout: the rate, in [0, 1], of the embedding, of the attention weights and of each branch.
    unroll: that of `nf.repeat`.
    vocab_size: the number of token ids.
    block_size: the longest sequence.
    eps: that of the norms, above 0.
    layers, heads, dim: blocks, attention heads of a block, width.
    activation: of the perceptron, a name of `nf.activations`; BERT's is the exact "gelu".
    Initial weights are normal of deviation 0.02, truncated at 2 deviations.
    Paths: `tokens/weight`, `positions/weight`, `types/weight`, `norm/scale`, `blocks/attend/...`, `blocks/mlp/...`,
    and below `head` those of the output.
    Shapes: ids [..., time] with time at most block_size -> y [..., time, dim], [..., dim] if pooled, [..., time,
    vocab_size], [..., classes], [..., time, classes] or [..., time, 2].
    Source: Devlin et al. 2019, arXiv:1810.04805, and its code, for eps and the heads.

    >>> model = nf.bert(65, block_size=8, layers=2, heads=2, dim=16, output="classes", classes=3)
    >>> x = nf.BertInput(jnp.array([[1, 2, 3], [4, 5, 0]]), lengths=jnp.array([3, 2]))
    >>> model.apply(model.init(jax.random.key(0)), x).shape
    (2, 3)
    """
    check.size("bert", vocab_size=vocab_size, layers=layers, classes=classes)
    check.size("bert", 0, types=types)
    if padding_index is not None:
        check.size("bert", 0, vocab_size - 1, padding_index=padding_index)
    check.choice("bert", ("hidden", "pooled", "tokens", "classes", "token_classes", "spans"), output=output)
    normal = initializers.truncated_normal(0.02)
    attend = attention(dim, heads, dropout=dropout, weight_init=normal)
    mlp = feed_forward(dim, hidden or 4 * dim, activation=activation, weight_init=normal)
    block = transformer_block(dim, attend, mlp, order="post", eps=eps, dropout=dropout)
    drop = {"drop": dropout_layer(dropout)} if dropout is not None else {}
    pooled = {
        "first": lambda x: x[..., 0, :],
        "linear": linear(dim, dim, weight_init=normal),
        "act": activations.by_name(pool_activation),
    }
    head_layers = {
        "pooled": lambda: serial(**pooled),
        "tokens": lambda: serial(
            linear=linear(dim, dim, weight_init=normal),
            act=activations.by_name(activation),
            norm=layer_norm(dim, eps=eps),
            logits=linear(dim, vocab_size, bias=False),
            shift=bias(vocab_size),
        ),
        "classes": lambda: serial(**pooled, **drop, logits=linear(dim, classes, weight_init=normal)),
        "token_classes": lambda: serial(**drop, logits=linear(dim, classes, weight_init=normal)),
        "spans": lambda: serial(logits=linear(dim, 2, weight_init=normal)),
    }
    head = {} if output == "hidden" else {"head": head_layers[output]()}
    segments = {"types": embedding(types, dim, weight_init=normal)} if types else {}

    def flow(net, x):
        ids, types, mask, lengths, positions = _check_input(x)
        if types is not None and not segments:
            check.fail("bert", expected="x should have no types, because the model has no table", actual="some")
        if padding_index is not None and mask is None and lengths is None:
            mask = ids != padding_index
        y = net.tokens(ids)
        y = net.positions(y if positions is None else (y, positions))
        if segments:
            y = y + net.types(jnp.zeros(ids.shape, jnp.int32) if types is None else types)
        masks = attention_padding("", mask, lengths, ids.shape[-1])
        y = net.norm(zero_nonfinite_padding(y, **masks))
        y = net.drop(y) if drop else y
        padded = mask is not None or lengths is not None
        y = net.blocks(TransformerInput(y, **masks)).x if padded else net.blocks(y)
        return net.head(y) if head else y

    model = wire(
        flow,
        tokens=embedding(vocab_size, dim, weight_init=normal),
        positions=learned_positions(block_size, dim, weight_init=normal),
        **segments,
        norm=layer_norm(dim, eps=eps),
        **drop,
        blocks=repeat(block, layers, unroll=unroll),
        **head,
    )
    if output != "tokens":
        return model
    return tie(model, {"head/logits/weight": ("tokens/weight", jnp.transpose)})


def _check_input(x: Any) -> BertInput:
    """x as a BertInput, its ids and types checked."""
    inputs = check.model_input("bert", x, BertInput)
    check.integers("bert", ids=inputs.ids)
    if inputs.ids.ndim < 1:
        check.fail("bert", expected="ids should be [..., time]", actual=f"shape {inputs.ids.shape}")
    if inputs.types is not None:
        check.same_shape("bert", types=inputs.types, ids=inputs.ids)
    return inputs
