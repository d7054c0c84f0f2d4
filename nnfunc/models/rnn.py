"""Recurrent models: a classifier of sequences and a language model."""

from typing import Literal

import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Model, PyTree, Scalar, widen
from nnfunc.combinators import serial, tie, wire
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.embedding import embedding
from nnfunc.layers.linear import linear
from nnfunc.layers.recurrent.layers import RecurrentInput, gru, lstm, rnn

__all__ = ["rnn_classifier", "rnn_lm"]

_CELLS = {"lstm": lstm, "gru": gru, "rnn": rnn}


def rnn_classifier(
    in_dim: int,
    classes: int,
    *,
    dim: int = 128,
    cell: Literal["lstm", "gru", "rnn"] = "lstm",
    layers: int = 1,
    bidirectional: bool = False,
    dropout: Scalar | None = None,
    pool: Literal["last", "mean"] = "last",
) -> Model:
    """Recurrent layers over a sequence, and a linear head on their last or their mean output.

    pool: "last" takes the output of the last step, of both directions each at its own last step; "mean" the mean
        over the steps.
    dropout: the rate, in [0, 1], between layers and before the head.
    in_dim, classes: the widths of x and of the logits.
    dim: the width of a layer and direction.
    cell: "lstm", "gru" or "rnn".
    layers: how many are stacked.
    bidirectional: whether a second layer reads the sequence from its end.
    Shapes: x [..., time, in_dim] -> logits [..., classes]; x may be an `nf.RecurrentInput` with lengths: then only
    the real steps count. A sequence of length 0 is one of zeros.
    Paths: `body/layer_0/weight`, ..., `head/weight`.

    >>> model = nf.rnn_classifier(28, 10, dim=32, cell="gru")
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 28, 28))).shape
    (5, 10)
    """
    check.choice("rnn_classifier", _CELLS, cell=cell)
    check.choice("rnn_classifier", ("last", "mean"), pool=pool)
    check.size("rnn_classifier", classes=classes)
    sizes = {"layers": layers, "bidirectional": bidirectional, "dropout": dropout}
    body = _CELLS[cell](in_dim, dim, return_carry=True, **sizes)
    drops = {"drop": dropout_layer(dropout)} if dropout is not None else {}
    head = linear(2 * dim if bidirectional else dim, classes)

    def flow(net, x):
        y, carry = net.body(x)
        if pool == "last":
            top = carry[f"layer_{layers - 1}"]
            outputs = [_output(top[name]) for name in ("forward", "backward")] if bidirectional else [_output(top)]
            y = jnp.concatenate(outputs, axis=-1) if bidirectional else outputs[0]
        else:
            y = _mean(y, x.lengths if isinstance(x, RecurrentInput) else None)
        return net.head(net.drop(y) if drops else y)

    return wire(flow, body=body, **drops, head=head)


def _output(carry: PyTree) -> Array:
    return carry[0] if isinstance(carry, tuple) else carry


def _mean(y: Array, lengths: Array | None) -> Array:
    """Over the real steps; y is 0 at the others."""
    wide = widen(y)
    steps = y.shape[-2] if lengths is None else jnp.asarray(lengths)[..., None]
    count = jnp.maximum(jnp.asarray(steps, wide.dtype), 1)  # without a step the mean is 0
    return (wide.sum(-2) / count).astype(y.dtype)


def rnn_lm(
    vocab_size: int,
    *,
    dim: int,
    cell: Literal["lstm", "gru", "rnn"] = "lstm",
    layers: int = 1,
    embedding_dim: int | None = None,
    dropout: Scalar | None = None,
    tied: bool = False,
) -> Model:
    """A recurrent language model: table of tokens, recurrent layers, linear head.

    embedding_dim: dim by default.
    dropout: the rate, in [0, 1], of the embedding, between layers and before the head.
    tied: the head is the table of tokens, transposed, and has a bias of its own.
    vocab_size: the number of token ids.
    dim: the width of a recurrent layer.
    cell: "lstm", "gru" or "rnn".
    layers: how many are stacked.
    Shapes: x [..., time] integers in [0, vocab_size) -> logits [..., time, vocab_size].
    Paths: `tokens/weight`, `body/layer_0/weight`, ..., `head/weight` (unless tied), `head/bias`.
    Raises: ValueError when tied and embedding_dim is not dim.
    Source: Mikolov et al. 2010 for the model; Zaremba et al. 2014, arXiv:1409.2329, for where dropout stands; Press
    and Wolf 2016, arXiv:1608.05859, for tied weights.

    >>> model = nf.rnn_lm(65, dim=16, layers=2, tied=True)
    >>> model.apply(model.init(jax.random.key(0)), jnp.array([[1, 2, 3]])).shape
    (1, 3, 65)
    """
    check.choice("rnn_lm", _CELLS, cell=cell)
    check.size("rnn_lm", vocab_size=vocab_size, dim=dim)
    wide = dim if embedding_dim is None else embedding_dim
    if tied and wide != dim:
        check.fail("rnn_lm", expected="embedding_dim should be dim when tied", actual=f"{wide} and {dim}")
    drops = {} if dropout is None else {"tokens_drop": dropout_layer(dropout)}
    last = {} if dropout is None else {"drop": dropout_layer(dropout)}
    model = serial(
        tokens=embedding(vocab_size, wide),
        **drops,
        body=_CELLS[cell](wide, dim, layers=layers, dropout=dropout),
        **last,
        head=linear(dim, vocab_size),
    )
    return tie(model, {"head/weight": ("tokens/weight", jnp.transpose)}) if tied else model
