"""Normalization: batch, layer, group, instance, RMS. Channels are the last axis.

All compute in float32 (float64 for float64 inputs) and return the dtype of x; their parameters stay in full
precision inside `precision`. Variances are means of squared differences from the mean, of values that are
scaled where their squares would leave the range of float32: inputs of 1e20 are normalized like others, and so
are those of 1e-25 with an eps of 0. The running variance of batch norm is at most 3e38, so that evaluation after
training on values above 2e19 gives zeros, as in PyTorch. Layer norm and RMS norm store only the normalized
vectors for their derivatives.
"""

import math
from typing import Literal

import jax.numpy as jnp
from jax.lax import broadcast_to_rank

from nnfunc import check
from nnfunc.base import Array, Model, Out, Scalar, widen
from nnfunc.layers.norm_math import inverse_root, normalize_rms, standardize
from nnfunc.sums import spread_over_rows

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
    The running variance is unbiased, n / (n - 1) times that of the batch.

    dim: the channels, the last axis of x. momentum: the weight of the new batch, in [0, 1]. eps: added to the
    variance, at least 0. affine: whether there are scale and bias. convention: where books differ,
    "pytorch": running = (1 - momentum) * running + momentum * batch (Keras calls 1 - momentum the momentum);
    "paper": the plain mean over all batches so far, without momentum.
    Shapes: x [..., dim] -> y [..., dim]; scale, bias [dim]; state mean, var [dim], and count [].
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
            expected, hint = f"its state should hold {sorted(names)}", "Make one with model.init_state()."
            check.fail("batch_norm", expected=expected, actual=sorted(state), hint=hint)
        wide = widen(x)
        if not ctx.train:
            mean, var = (broadcast_to_rank(state[name].astype(wide.dtype), wide.ndim) for name in ("mean", "var"))
            return _affine((wide - mean) * inverse_root(var, eps), params, x), Out(state)
        axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1])
        if count < 2:
            expected = "training needs at least two values a channel"
            hint = "Use a larger batch, or layer_norm."
            check.fail("batch_norm", expected=expected, actual=f"shape {x.shape}", hint=hint)
        normal, _, mean, var = standardize(wide, axes, eps)
        batch = {"mean": mean.reshape(dim), "var": var.reshape(dim) * (count / (count - 1))}
        weight = momentum
        if convention == "paper":
            batches = state["count"] + 1
            weight = 1 / batches.astype(wide.dtype)
        new = {k: _toward(state[k], batch[k], weight) for k in ("mean", "var")}
        new |= {"count": batches} if convention == "paper" else {}
        return _affine(normal, params, x), Out(new)

    init = _affine_init(dim, affine, bias=True)
    return Model(init, forward=forward, init_state=init_state)


def layer_norm(dim: int, *, eps: Scalar = 1e-5, affine: bool = True, bias: bool = True) -> Model:
    """Each vector of channels to mean 0 and variance 1, then `scale * x + bias`.

    dim: the last axis of x. eps: added to the variance, at least 0. affine: whether there is a scale, and with
    bias a bias. bias: without it only the scale, as in some language models.
    Shapes: x [..., dim] -> y [..., dim]; scale, bias [dim].
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
        return _affine(standardize(wide, (x.ndim - 1,), eps).y, params, x)

    return Model(_affine_init(dim, affine, bias), apply, full_precision=True)


def rms_norm(dim: int, *, eps: Scalar = 1e-6, affine: bool = True) -> Model:
    """Each vector of channels to a root mean square of 1: `scale * x / sqrt(mean(x^2) + eps)`.

    dim: the last axis of x. eps: added to the mean square, at least 0. affine: whether there is a scale.
    Shapes: x [..., dim] -> y [..., dim]; scale [dim].
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
        return _affine(normalize_rms(wide, jnp.asarray(eps, wide.dtype)), params, x)

    return Model(_affine_init(dim, affine, bias=False), apply, full_precision=True)


def group_norm(groups: int, dim: int, *, eps: Scalar = 1e-5, affine: bool = True, spatial: int | None = None) -> Model:
    """Each example's groups of channels to mean 0 and variance 1, then `scale * x + bias`.

    The statistics run over the channels of a group and the spatial axes.

    groups: their number, a divisor of dim. dim: the last axis of x. eps: added to the variance, at least 0.
    affine: whether there are scale and bias. spatial: the number of spatial axes before the last; by default
    all axes between the first (the batch) and the last.
    Shapes: x [batch, ..., dim] -> y of the same shape; scale, bias [dim].
    Source: Wu and He 2018, arXiv:1803.08494.

    >>> model = nf.group_norm(2, 4, affine=False)
    >>> model.apply({}, jnp.array([[1.0, 3.0, 10.0, 30.0]])).round(2)
    Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    check.size("group_norm", groups=groups, dim=dim)
    check.number("group_norm", 0, eps=eps)
    if dim % groups:
        check.fail("group_norm", expected="groups should divide dim", actual=f"{groups} and {dim}")

    def apply(params, x):
        check.last_axis("group_norm", x, dim=dim)
        least = 2 if spatial is None else spatial + 1
        if x.ndim < least:
            hint = "For one example without a batch axis give spatial=."
            check.fail("group_norm", expected=f"x should have at least {least} axes", actual=x.shape, hint=hint)
        reduced = x.ndim - 2 if spatial is None else spatial
        grouped = widen(x).reshape(*x.shape[:-1], groups, dim // groups)  # [batch, ..., groups, dim / groups]
        axes = (*range(x.ndim - 1 - reduced, x.ndim - 1), x.ndim)
        return _affine(standardize(grouped, axes, eps).y.reshape(x.shape), params, x)

    return Model(_affine_init(dim, affine, bias=True), apply, full_precision=True)


def instance_norm(dim: int, *, eps: Scalar = 1e-5, affine: bool = True, spatial: int | None = None) -> Model:
    """Each example's channels to mean 0 and variance 1 over the spatial axes: a group a channel.

    dim, eps, affine, spatial: as in `group_norm`, with a group for each channel.
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
            expected = "x should have a spatial axis, as [batch, ..., dim]"
            check.fail("instance_norm", expected=expected, actual=f"shape {x.shape}")
        return grouped.apply(params, x)

    return Model(grouped.init, apply, full_precision=True)


def _affine(normal: Array, params: dict, x: Array) -> Array:
    if "scale" in params:
        normal = normal * spread_over_rows(params["scale"].astype(normal.dtype), normal.shape)
    if "bias" in params:
        normal = normal + spread_over_rows(params["bias"].astype(normal.dtype), normal.shape)
    return normal.astype(x.dtype)


def _affine_init(dim: int, affine: bool, bias: bool):
    def init(key):
        params = {"scale": jnp.ones(dim, jnp.float32)} if affine else {}
        return params | {"bias": jnp.zeros(dim, jnp.float32)} if affine and bias else params

    return init


def _toward(old: Array, new: Array, weight: Scalar) -> Array:
    return old + jnp.asarray(weight, old.dtype) * (new.astype(old.dtype) - old)
