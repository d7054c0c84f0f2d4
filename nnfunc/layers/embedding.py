"""Tables of learned vectors."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, initializers
from nnfunc.base import Initializer, Model, canonicalize, widen
from nnfunc.layers.conv.conv import build_conv
from nnfunc.layers.sliding_windows import Size, parse_windows


def embedding(
    num_embeddings: int,
    dim: int,
    *,
    padding_index: int | None = None,
    weight_init: Initializer = initializers.normal(0.02),
) -> Model:
    """The learned vector of each id: `y = weight[x]`.

    An id outside [0, num_embeddings) gives NaN, so that a run with a wrong vocabulary stops instead of
    learning nonsense.

    num_embeddings: the number of ids, at least 1.
    dim: the length of a vector, at least 1.
    padding_index: the id of padding, whose vector begins as zeros and has no gradient, so that no optimizer moves
        it; None, the default, is no id.
    weight_init: of the table; its standard deviation of 0.02 is that of GPT-2 and BERT.
    Shapes: x [...] integers -> y [..., dim]; weight [num_embeddings, dim].
    Raises: TypeError when x does not hold integers.

    >>> model = nf.embedding(10, 4)
    >>> model.apply(model.init(jax.random.key(0)), jnp.array([[1, 2, 3]])).shape
    (1, 3, 4)
    """
    check.size("embedding", num_embeddings=num_embeddings, dim=dim)
    if padding_index is not None:
        check.size("embedding", 0, num_embeddings - 1, padding_index=padding_index)

    def init(key):
        weight = weight_init(key, (num_embeddings, dim))
        return {"weight": weight if padding_index is None else weight.at[padding_index].set(0)}

    def apply(params, x):
        check.integers("embedding", "They are ids; floats go through nf.linear.", x=x)
        ids = canonicalize(x)
        ids = ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids  # int8 cannot hold num_embeddings
        ids = jnp.where(ids < 0, num_embeddings, ids)  # negative ids would count from the end
        table = jnp.asarray(params["weight"])
        vectors = widen(table).at[ids].get(mode="fill", fill_value=jnp.nan)  # whose gradients add up in float32
        if padding_index is not None:
            is_padding = (ids == padding_index)[..., None]
            vectors = jnp.where(is_padding, jax.lax.stop_gradient(vectors), vectors)
        return vectors.astype(table.dtype)

    return Model(init, apply)


def patch_embedding(
    patch: Size,
    in_dim: int,
    dim: int,
    *,
    bias: bool = True,
    dims: int = 2,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Model:
    """A linear map of each patch of an image: `conv` with stride = kernel = patch, positions in one axis.

    patch: the size of a patch, one number for all spatial axes or one for each.
    in_dim: the channels of x.
    dim: the width of y.
    bias: whether to add one.
    dims: the number of spatial axes, 1, 2 or 3; the length of `patch` where it has several numbers.
    weight_init, bias_init: the initializers.
    Shapes: x [..., height, width, in_dim] -> y [..., height / patch * width / patch, dim], row by row; weight
    [*patch, in_dim, dim] as that of `conv`, bias [dim].
    Raises: ValueError when the patches do not cover the image exactly.
    Source: Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1.

    >>> model = nf.patch_embedding(7, 1, 64)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 28, 28, 1))).shape
    (5, 16, 64)
    """
    where = "patch_embedding"
    check.size(where, in_dim=in_dim, dim=dim)
    win = parse_windows(where, patch, None, "valid", 1, dims, argument="patch")
    conv = build_conv(where, in_dim, dim, win, 1, bias, weight_init, bias_init)

    def apply(params, x):
        spatial = np.shape(x)[-win.dims - 1 : -1]
        if any(n % p for n, p in zip(spatial, win.size, strict=False)):
            expected = f"patches of {win.size} should cover the image exactly"
            check.fail(where, expected=expected, actual=f"spatial sizes {spatial}", hint="Pad or resize it first.")
        y = conv.apply(params, x)
        lead, patches = y.shape[: -win.dims - 1], math.prod(y.shape[-win.dims - 1 : -1])
        return y.reshape(*lead, patches, dim)  # [..., patches, dim]

    return Model(conv.init, apply)
