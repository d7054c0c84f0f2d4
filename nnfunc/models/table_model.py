"""A perceptron for tables, over numbers and the embeddings of categories."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import jax.numpy as jnp
import numpy as np

from nnfunc import check, initializers
from nnfunc.base import Array, DType, Key, Model, Scalar, Shape
from nnfunc.combinators import wire
from nnfunc.layers.dropout import dropout as dropout_layer
from nnfunc.layers.embedding import embedding
from nnfunc.models.mlp import mlp

__all__ = ["embedding_dim", "table_model"]

RESERVED = 2  # the first indices of each column, of an unknown and of a missing category


def embedding_dim(size: int) -> int:
    """The usual length of the embedding of a column: min(600, round(1.6 * size ** 0.56)).

    size: the number of categories.
    Source: `emb_sz_rule` of fastai.tabular.model.

    >>> [embedding_dim(size) for size in (2, 10, 1000)]
    [2, 6, 77]
    """
    check.size("embedding_dim", size=size)
    return min(600, round(1.6 * size**0.56))


def table_model(
    numbers: int,
    categories: Sequence[int],
    outputs: int,
    *,
    hidden: Sequence[int] = (128, 64),
    embedding_dims: Sequence[int] | None = None,
    embedding_dropout: Scalar | None = None,
    activation: str | Model | Callable[[Array], Array] = "relu",
    dropout: Scalar | None = None,
    norm: Literal["batch", "layer", "rms"] | None = None,
) -> Model:
    """A perceptron over the numbers of a row, and a learned vector for each of its categories.

    y = mlp(concat(numbers, embedding_0[categories[0]], embedding_1[categories[1]], ...))

    The vectors of the first two indices of a column, an unknown and a missing category, begin as zeros, so that they
    are neutral if no training row has them; the others are uniform in +-1 / sqrt(dim).
    Paths: `column_0/weight`, ..., `mlp/hidden_0/linear/weight`, ..., `mlp/head/weight`.
    Shapes: x {"numbers": [..., numbers], "categories": integers [..., columns]} -> y [..., outputs]. Without categories
    x may be the numbers alone; without numbers it has none.
    numbers: how many numbers a row has, at least 0.
    categories: how many indices each column of categories has, at least 1. Of a table read by `nf.data.table`, both
        are in `splits.preprocessing.facts`: "shape"[0] and "categories"; a config leaves them out.
    outputs: at least 1: the classes, or the numbers to predict.
    hidden: the widths of the hidden layers.
    embedding_dims: the length of each column's vectors, at least 1; by default `embedding_dim`.
    embedding_dropout: the rate at which the values of vectors are dropped, in [0, 1].
    activation, dropout, norm: as for `nf.mlp`.
    Raises: ValueError when a size is out of its range, or the lengths differ; TypeError for another x.
    Source: Guo and Berkhahn 2016, arXiv:1604.06737; fastai's TabularModel; initial vectors as in Gorishniy et al.
    2021, arXiv:2106.11959.

    >>> model = nf.table_model(2, [5, 12], 3, hidden=[16])
    >>> x = {"numbers": jnp.ones((4, 2)), "categories": jnp.zeros((4, 2), jnp.int32)}
    >>> model.apply(model.init(jax.random.key(0)), x).shape
    (4, 3)
    """
    where = "table_model"
    check.size(where, 0, numbers=numbers)
    check.size(where, outputs=outputs, **{f"categories[{i}]": size for i, size in enumerate(categories)})
    dims = [embedding_dim(size) for size in categories] if embedding_dims is None else list(embedding_dims)
    if len(dims) != len(categories):
        expected = f"embedding_dims should have a length for each of {len(categories)} columns of categories"
        check.fail(where, expected=expected, actual=dims)
    if not numbers and not dims:
        check.fail(where, expected="there should be numbers or categories", actual="neither")
    pairs = zip(categories, dims, strict=True)
    columns = {f"column_{i}": embedding(*pair, weight_init=_initial_vectors) for i, pair in enumerate(pairs)}
    body = mlp([numbers + sum(dims), *hidden, outputs], activation=activation, dropout=dropout, norm=norm)
    layers = columns | {"mlp": body}
    if embedding_dropout is not None:
        layers["drop"] = dropout_layer(embedding_dropout)

    def flow(net, x):
        values, ids = _read_inputs(x, numbers, len(dims))
        vectors = [] if ids is None else [getattr(net, name)(ids[..., i]) for i, name in enumerate(columns)]
        if vectors and embedding_dropout is not None:
            vectors = [net.drop(jnp.concatenate(vectors, axis=-1))]
        parts = [*([] if values is None else [values]), *vectors]
        return net.mlp(parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1))

    return wire(flow, **layers)


def _initial_vectors(key: Key, shape: Shape, dtype: DType = jnp.float32) -> Array:
    limit = shape[1] ** -0.5
    vectors = initializers.uniform(-limit, limit)(key, shape, dtype)
    return vectors.at[:RESERVED].set(0)


def _read_inputs(x: Array | Mapping[str, Array], numbers: int, columns: int) -> tuple[Array | None, Array | None]:
    """The numbers and the categories of x, None where there are none."""
    where = "table_model"
    if not isinstance(x, Mapping):
        x = {"numbers": x}
    expected = {"numbers": numbers, "categories": columns}
    expected = {name: size for name, size in expected.items() if size}
    if x.keys() != expected.keys():
        check.fail(where, expected=f"x should have {' and '.join(expected)}", actual=sorted(x), exc_type=TypeError)
    if numbers:
        check.last_axis(where, x["numbers"], numbers=numbers)
    if columns and np.shape(x["categories"])[-1:] != (columns,):
        text = f"the last axis of categories should be {columns}, one index for each column"
        check.fail(where, expected=text, actual=f"shape {np.shape(x['categories'])}")
    return x.get("numbers"), x.get("categories")
