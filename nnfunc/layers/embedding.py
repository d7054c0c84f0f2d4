"""Tables of learned vectors."""

import math

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Initializer, Model, canonical
from nnfunc.layers.conv.conv import convolution
from nnfunc.layers.linear import wide
from nnfunc.layers.windows import Size, windows

__all__ = ["embedding", "patch_embedding"]


def embedding(count: int, dim: int, *, weight_init: Initializer = initializers.normal(0.02)) -> Model:
    """The learned vector of each id: `y = weight[x]`.

    An id outside [0, count) gives NaN, so that a run with a wrong vocabulary stops instead of
    learning nonsense. The initial deviation 0.02 is that of GPT-2 and BERT.
    Shapes: x [...] integers -> y [..., dim]; weight [count, dim].
    Raises: TypeError when x is not of an integer type.

    >>> model = nf.embedding(10, 4)
    >>> model.apply(model.init(jax.random.key(0)), jnp.array([[1, 2, 3]])).shape
    (1, 3, 4)
    """
    check.size("embedding", count=count, dim=dim)

    def init(key):
        return {"weight": weight_init(key, (count, dim))}

    def apply(params, x):
        check.integers("embedding", "They are ids; numbers go through nf.linear.", x=x)
        ids = canonical(x)
        ids = ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids  # int8 cannot hold count
        ids = jnp.where(ids < 0, count, ids)  # negative ids would count from the end
        table = jnp.asarray(params["weight"])  # its gradient, a sum over places, in float32 at least
        return wide(table).at[ids].get(mode="fill", fill_value=jnp.nan).astype(table.dtype)

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
    """A linear map of each patch of an image: `conv` with stride = kernel = patch, places in one axis.

    Shapes: x [..., height, width, in_dim] -> y [..., height / patch * width / patch, dim], row by row;
    weight [*patch, in_dim, dim] as that of `conv`, bias [dim]. One or three spatial axes with dims.
    patch: one number for all spatial axes or one for each.
    Raises: ValueError when the patches do not cover the image exactly.
    Source: Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1.

    >>> model = nf.patch_embedding(7, 1, 64)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 28, 28, 1))).shape
    (5, 16, 64)
    """
    where = "patch_embedding"
    check.size(where, in_dim=in_dim, dim=dim)
    win = windows(where, patch, None, "valid", 1, dims, what="patch")
    whole = convolution(where, in_dim, dim, win, 1, bias, weight_init, bias_init)

    def apply(params, x):
        spatial = jnp.shape(x)[-win.dims - 1 : -1]
        if any(n % p for n, p in zip(spatial, win.size, strict=False)):
            wanted = f"patches of {win.size} should cover the image exactly"
            check.fail(where, f"{wanted}, got spatial sizes {spatial}. Pad or resize it first.")
        y = whole.apply(params, x)
        places = y.shape[-win.dims - 1 : -1]
        return y.reshape(*y.shape[: -win.dims - 1], math.prod(places), dim)

    return Model(whole.init, apply)
