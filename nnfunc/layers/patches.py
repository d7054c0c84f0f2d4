"""Images as sequences of patches."""

import math

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Initializer, Model
from nnfunc.layers.conv import convolution
from nnfunc.layers.windows import Size, windows

__all__ = ["patch_embedding"]


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
