"""Normalization: batch, layer, group, instance, RMS. Channels are the last axis.

All compute in float32 (float64 for float64 inputs) and return the type of x; their parameters stay
in full precision inside `precision`. Variances are means of squared differences from the mean, of
values that were scaled where their squares would leave float32: inputs of 1e20 are normalized as
others are, as are those of 1e-25 with an eps of 0. The running variance of batch norm holds no more
than 3e38, so that evaluation after training on values above 2e19 gives zeros, as in PyTorch.
Layer norm and RMS norm keep for their derivatives no more than the normalized vectors.
"""

import math
from typing import Literal

import jax.numpy as jnp
from jax.lax import broadcast_to_rank

from nnfunc import check
from nnfunc.base import Array, Model, Out, Scalar, widen
from nnfunc.layers.norm_math import centred, one_over, to_mean_and_variance, to_mean_square

__all__ = ["batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm"]


def batch_norm(
    dim: int,
    *,
    momentum: Scalar = 0.1,
    eps: Scalar = 1e-5,
    affine: bool = True,
    convention: Literal["pytorch", "paper"] = "pytorch",
) -> Model:
    """Each channel to mean 0 and variance 1 over the batch, then `scale * x + bias`.

    In training the statistics are those of the batch (all axes but the last), and the running ones
    are updated; otherwise the running ones are used, which start at mean 0 and variance 1.
    The running variance is unbiased, n / (n - 1) times the batch's. Where books differ:
    convention "pytorch": running = (1 - momentum) * running + momentum * batch (Keras calls
    1 - momentum the momentum); "paper": the plain mean over all batches so far, without momentum.
    Shapes: x [..., dim] -> y [..., dim]; scale, bias [dim]; state mean, var [dim], and count [].
    momentum in [0, 1], eps at least 0.
    Raises: ValueError when a channel has fewer than two values in training.
    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.

    >>> model = nf.batch_norm(3)
    >>> y = model.apply(model.init(jax.random.key(0)), x := jnp.ones((4, 3)), state=model.init_state())
    >>> bool(jnp.allclose(y, x, atol=1e-4))
    True
    """
    check.size("batch_norm", dim=dim)
    check.number("batch_norm", 0, 1, momentum=momentum)
    check.number("batch_norm", 0, eps=eps)
    check.choice("batch_norm", ("pytorch", "paper"), convention=convention)
    names = {"mean", "var", "count"} if convention == "paper" else {"mean", "var"}

    def init_state():
        state = {"mean": jnp.zeros(dim, jnp.float32), "var": jnp.ones(dim, jnp.float32)}
        return state | {"count": jnp.zeros((), jnp.int32)} if convention == "paper" else state

    def forward(params, x, ctx):
        check.last_axis("batch_norm", x, dim=dim)
        state = ctx.state
        if set(state) != names:
            wanted = f"its state should hold {sorted(names)}, got {sorted(state)}"
            check.fail("batch_norm", f"{wanted}. Make one with model.init_state().")
        wide = widen(x)
        if not ctx.train:
            mean, var = (broadcast_to_rank(state[name].astype(wide.dtype), wide.ndim) for name in ("mean", "var"))
            return _affine((wide - mean) * one_over(var, eps), params, x), Out(state)
        axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
        if count < 2:
            wanted = "training needs at least two values a channel"
            cure = "Use a larger batch, or layer_norm."
            check.fail("batch_norm", f"{wanted}, got shape {x.shape}. {cure}")
        normal, _, mean, var = centred(wide, axes, eps)
        batch = {"mean": mean.reshape(dim), "var": var.reshape(dim) * (count / (count - 1))}
        weight = momentum
        if convention == "paper":
            seen = state["count"] + 1
            weight = 1 / seen.astype(wide.dtype)
        new = {k: _toward(state[k], batch[k], weight) for k in ("mean", "var")}
        new |= {"count": seen} if convention == "paper" else {}
        return _affine(normal, params, x), Out(new)

    init = _affine_init(dim, affine, bias=True)
    return Model(init, forward=forward, init_state=init_state)


def layer_norm(dim: int, *, eps: Scalar = 1e-5, affine: bool = True, bias: bool = True) -> Model:
    """Each vector of channels to mean 0 and variance 1, then `scale * x + bias`.

    Shapes: x [..., dim] -> y [..., dim]; scale, bias [dim]. eps at least 0.
    Source: Ba et al. 2016, arXiv:1607.06450.

    >>> model = nf.layer_norm(4, affine=False)
    >>> model.apply({}, jnp.array([1.0, 1.0, 3.0, 3.0])).round(3)
    Array([-1., -1.,  1.,  1.], dtype=float32)
    """
    check.size("layer_norm", dim=dim)
    check.number("layer_norm", 0, eps=eps)

    def apply(params, x):
        check.last_axis("layer_norm", x, dim=dim)
        wide = widen(x)
        return _affine(to_mean_and_variance(wide, jnp.asarray(eps, wide.dtype)), params, x)

    return Model(_affine_init(dim, affine, bias), apply, full_precision=True)


def rms_norm(dim: int, *, eps: Scalar = 1e-6, affine: bool = True) -> Model:
    """Each vector of channels to a root mean square of 1: `scale * x / sqrt(mean(x^2) + eps)`.

    Shapes: x [..., dim] -> y [..., dim]; scale [dim]. eps at least 0.
    Source: Zhang and Sennrich 2019, arXiv:1910.07467.

    >>> model = nf.rms_norm(2, affine=False)
    >>> model.apply({}, jnp.array([3.0, 4.0])).tolist()
    [0.849, 1.131]
    """
    check.size("rms_norm", dim=dim)
    check.number("rms_norm", 0, eps=eps)

    def apply(params, x):
        check.last_axis("rms_norm", x, dim=dim)
        wide = widen(x)
        return _affine(to_mean_square(wide, jnp.asarray(eps, wide.dtype)), params, x)

    return Model(_affine_init(dim, affine, bias=False), apply, full_precision=True)


def group_norm(groups: int, dim: int, *, eps: Scalar = 1e-5, affine: bool = True, spatial: int | None = None) -> Model:
    """Each example's groups of channels to mean 0 and variance 1, then `scale * x + bias`.

    The statistics run over a group's channels and the spatial axes: the `spatial` ones before the
    last, or, by default, all between the first (the batch) and the last.
    Shapes: x [batch, ..., dim] -> y of the same shape; scale, bias [dim]. groups divides dim.
    Source: Wu and He 2018, arXiv:1803.08494.

    >>> model = nf.group_norm(2, 4, affine=False)
    >>> model.apply({}, jnp.array([[1.0, 3.0, 10.0, 30.0]])).round(2)
    Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    check.size("group_norm", groups=groups, dim=dim)
    check.number("group_norm", 0, eps=eps)
    if dim % groups:
        check.fail("group_norm", f"groups should divide dim, got {groups} and {dim}.")

    def apply(params, x):
        check.last_axis("group_norm", x, dim=dim)
        least = 2 if spatial is None else spatial + 1
        if x.ndim < least:
            cure = "For one example without a batch axis give spatial=."
            check.fail("group_norm", f"x should have at least {least} axes, got {x.shape}. {cure}")
        reduced = x.ndim - 2 if spatial is None else spatial
        grouped = widen(x).reshape(*x.shape[:-1], groups, dim // groups)
        axes = (*range(x.ndim - 1 - reduced, x.ndim - 1), x.ndim)
        return _affine(centred(grouped, axes, eps)[0].reshape(x.shape), params, x)

    return Model(_affine_init(dim, affine, bias=True), apply, full_precision=True)


def instance_norm(dim: int, *, eps: Scalar = 1e-5, affine: bool = True, spatial: int | None = None) -> Model:
    """Each example's channels to mean 0 and variance 1 over the spatial axes: a group a channel.

    Shapes: x [batch, ..., dim] -> y of the same shape, with at least one spatial axis.
    Source: Ulyanov et al. 2016, arXiv:1607.08022.

    >>> model = nf.instance_norm(1, affine=False)
    >>> model.apply({}, jnp.array([[[1.0], [3.0]]]))[0, :, 0].round(3)
    Array([-1.,  1.], dtype=float32)
    """
    check.size("instance_norm", dim=dim)
    check.number("instance_norm", 0, eps=eps)
    grouped = group_norm(dim, dim, eps=eps, affine=affine, spatial=spatial)

    def apply(params, x):
        check.last_axis("instance_norm", x, dim=dim)
        least = 3 if spatial is None else spatial + 1
        if x.ndim < least or spatial == 0:
            wanted = "x should have a spatial axis, as [batch, ..., dim]"
            check.fail("instance_norm", f"{wanted}, got shape {x.shape}.")
        return grouped.apply(params, x)

    return Model(grouped.init, apply, full_precision=True)


def _affine(normal: Array, params: dict, x: Array) -> Array:
    if "scale" in params:
        normal = normal * broadcast_to_rank(params["scale"].astype(normal.dtype), normal.ndim)
    if "bias" in params:
        normal = normal + broadcast_to_rank(params["bias"].astype(normal.dtype), normal.ndim)
    return normal.astype(x.dtype)


def _affine_init(dim: int, affine: bool, bias: bool):
    def init(key):
        params = {"scale": jnp.ones(dim, jnp.float32)} if affine else {}
        return params | {"bias": jnp.zeros(dim, jnp.float32)} if affine and bias else params

    return init


def _toward(old: Array, new: Array, weight: Scalar) -> Array:
    return old + jnp.asarray(weight, old.dtype) * (new.astype(old.dtype) - old)
