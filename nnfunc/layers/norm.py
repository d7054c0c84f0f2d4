"""Normalization: batch, layer, group, instance, RMS, local response. Channels are the last axis.

All compute in float32 (float64 for float64 inputs) and return the dtype of x; their parameters stay in full
precision inside `precision`. Variances are means of squared differences from the mean, of values that are
scaled where their squares would leave the range of float32: inputs of 1e20 are normalized like others, and so
are those of 1e-25 with an eps of 0. The running variance of batch norm is at most 3e38, so that evaluation after
training on values above 2e19 gives zeros, as in PyTorch. Layer norm and RMS norm store only the normalized
vectors for their derivatives.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.lax import broadcast_to_rank

from nnfunc import check
from nnfunc.base import Array, Model, Out, Scalar, batch_parts, divide_examples, widen
from nnfunc.layers.norm_math import inverse_root, normalize_rms, standardize
from nnfunc.sums import spread_over_rows


def batch_norm(
    dim: int,
    *,
    momentum: Scalar = 0.1,
    eps: Scalar = 1e-5,
    affine: bool = True,
    convention: Literal["pytorch", "paper"] = "pytorch",
    unbiased: bool = True,
    axis: Literal["global", "local"] = "global",
) -> Model:
    """Each channel to mean 0 and variance 1 over the batch, then `scale * x + bias`.

    In training the statistics are those of the batch (all axes but the last), and the running ones
    are updated; otherwise the running ones are used, which start at mean 0 and variance 1.

    dim: the channels, the last axis of x.
    momentum: the weight of the new batch, in [0, 1].
    eps: added to the variance, at least 0.
    affine: whether there are scale and bias.
    convention: where books differ, "pytorch": running = (1 - momentum) * running + momentum * batch (Keras calls 1
        - momentum the momentum); "paper": the plain mean over all batches so far, without momentum.
    unbiased: whether the running variance is n / (n - 1) times that of the batch, as in PyTorch and the paper;
        False, as in TensorFlow and Flax, takes it as it is.
    axis: on a mesh, whether the statistics are of the whole batch, or "local", of the examples of each device,
        which then exchange nothing for them; the running ones are the means over the devices.
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
    check.choice("batch_norm", ("global", "local"), axis=axis)
    names = {"mean", "var", "count"} if convention == "paper" else {"mean", "var"}

    def init_state():
        state = _initial_statistics(dim)
        return state | {"count": jnp.zeros((), jnp.int32)} if convention == "paper" else state

    def forward(params, x, ctx):
        check.last_axis("batch_norm", x, dim=dim)
        state = ctx.state
        if set(state) != names:
            expected, hint = f"its state should hold {sorted(names)}", "Make one with model.init_state()."
            check.fail("batch_norm", expected=expected, actual=sorted(state), hint=hint)
        wide = widen(x)
        if not ctx.train:
            return _from_running(wide, state, eps, params, x), Out(state)
        parts = batch_parts(x.shape[0]) if axis == "local" and x.ndim > 1 else 1
        axes, count = tuple(range(x.ndim - 1)), math.prod(x.shape[:-1]) // parts
        if count < 2:
            expected = "training needs at least two values a channel"
            hint = "Use a larger batch, or layer_norm; jax.vmap(predict) sees one example, predict(x) the batch."
            check.fail("batch_norm", expected=expected, actual=f"shape {x.shape}", hint=hint)
        if parts > 1:
            wide = divide_examples(wide.reshape(parts, -1, *wide.shape[1:]))  # [parts, batch / parts, ..., dim]
            axes = tuple(axis + 1 for axis in axes)
        normal, _, mean, var = standardize(wide, axes, eps)
        normal = normal.reshape(x.shape)  # [batch, ..., dim]
        # [parts, 1, ..., dim] or [1, ..., dim] -> [dim]
        mean, var = (value.reshape(parts, dim).mean(0) if parts > 1 else value.reshape(dim) for value in (mean, var))
        factor = count / (count - 1) if unbiased else 1.0
        batch = {"mean": mean, "var": var * factor}
        weight = momentum
        if convention == "paper":
            batches = state["count"] + 1
            weight = 1 / batches.astype(wide.dtype)
        new = {k: _toward(state[k], batch[k], weight) for k in ("mean", "var")}
        new |= {"count": batches} if convention == "paper" else {}
        return _affine(normal, params, x), Out(new)

    init = _affine_init(dim, affine, bias=True)
    return Model(init, forward=forward, init_state=init_state, full_precision=True)


def layer_norm(dim: int, *, eps: Scalar = 1e-5, affine: bool = True, bias: bool = True) -> Model:
    """Each vector of channels to mean 0 and variance 1, then `scale * x + bias`.

    dim: the last axis of x.
    eps: added to the variance, at least 0.
    affine: whether there is a scale, and with bias a bias.
    bias: without it only the scale, as in some language models.
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

    dim: the last axis of x.
    eps: added to the mean square, at least 0.
    affine: whether there is a scale.
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

    groups: their number, a divisor of dim.
    dim: the last axis of x.
    eps: added to the variance, at least 0.
    affine: whether there are scale and bias.
    spatial: the number of spatial axes before the last; by default all axes between the first (the batch) and the
        last.
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
        y = standardize(grouped, axes, eps).y.reshape(x.shape)  # [batch, ..., dim]
        return _affine(y, params, x)

    return Model(_affine_init(dim, affine, bias=True), apply, full_precision=True)


def instance_norm(
    dim: int,
    *,
    eps: Scalar = 1e-5,
    affine: bool = True,
    spatial: int | None = None,
    running_stats: bool = False,
    momentum: Scalar = 0.1,
) -> Model:
    """Each example's channels to mean 0 and variance 1 over the spatial axes: a group a channel.

    dim, eps, affine, spatial: as in `group_norm`, with a group for each channel.
    running_stats: whether running statistics, the means over the examples of each batch, are kept in training and
        used otherwise, as in `batch_norm`; False, the default, always uses those of each example.
    momentum: the weight of the new batch in them, in [0, 1]. The running variance is unbiased.
    Shapes: x [batch, ..., dim] -> y of the same shape, with at least one spatial axis; state mean, var [dim].
    Raises: ValueError when a channel of an example has fewer than two values while statistics are kept.
    Source: Ulyanov et al. 2016, arXiv:1607.08022; the running statistics of torch.nn.InstanceNorm2d.

    >>> model = nf.instance_norm(1, affine=False)
    >>> model.apply({}, jnp.array([[[1.0], [3.0]]]))[0, :, 0].round(3)
    Array([-1.,  1.], dtype=float32)
    """
    where = "instance_norm"
    check.size(where, dim=dim)
    check.number(where, 0, eps=eps)
    check.number(where, 0, 1, momentum=momentum)
    grouped = group_norm(dim, dim, eps=eps, affine=affine, spatial=spatial)

    def check_axes(x):
        check.last_axis(where, x, dim=dim)
        least = 3 if spatial is None else spatial + 1
        if x.ndim < least or spatial == 0:
            expected = "x should have a spatial axis, as [batch, ..., dim]"
            check.fail(where, expected=expected, actual=f"shape {x.shape}")

    def apply(params, x):
        check_axes(x)
        return grouped.apply(params, x)

    def forward(params, x, ctx):
        check_axes(x)
        state, wide = ctx.state, widen(x)
        if set(state) != {"mean", "var"}:
            hint = "Make one with model.init_state()."
            check.fail(where, expected="its state should hold ['mean', 'var']", actual=sorted(state), hint=hint)
        if not ctx.train:
            return _from_running(wide, state, eps, params, x), Out(state)
        first = 1 if spatial is None else x.ndim - 1 - spatial
        axes, count = tuple(range(first, x.ndim - 1)), math.prod(x.shape[first:-1])
        if count < 2:
            expected = "training needs at least two values a channel of each example"
            check.fail(where, expected=expected, actual=f"shape {x.shape}", hint="Use larger inputs.")
        normal, _, mean, var = standardize(wide, axes, eps)
        batch = {"mean": mean, "var": var * (count / (count - 1))}
        # batch: [batch, 1, ..., dim], of which the mean over examples is [dim]
        new = {k: _toward(state[k], batch[k].reshape(-1, dim).mean(0), momentum) for k in ("mean", "var")}
        return _affine(normal, params, x), Out(new)

    if not running_stats:
        return Model(grouped.init, apply, full_precision=True)
    initial = lambda: _initial_statistics(dim)
    return Model(grouped.init, forward=forward, init_state=initial, full_precision=True)


def local_response_norm(size: int = 5, *, alpha: Scalar = 1e-4, beta: Scalar = 0.75, k: Scalar = 1.0) -> Model:
    """Each channel divided by a power of the mean square of its neighbours.

    y[c] = x[c] / (k + alpha * mean square of x[c - size // 2], ..., x[c + (size - 1) // 2]) ** beta; channels
    beyond the ends count as 0, and the mean is over size.

    size: the number of channels, at least 1.
    alpha: at least 0.
    beta: the power.
    k: at least 0.
    Shapes: x [..., channels] -> y of the same shape.
    Source: Krizhevsky et al. 2012 (AlexNet), section 3.3; torch.nn.LocalResponseNorm, whose alpha is over size.

    >>> model = nf.local_response_norm(1, alpha=3.0, beta=0.5)
    >>> model.apply({}, jnp.array([1.0, -4.0])).round(3).tolist()
    [0.5, -0.571]
    """
    check.size("local_response_norm", size=size)
    check.number("local_response_norm", 0, alpha=alpha, k=k)
    check.number("local_response_norm", beta=beta)

    def apply(params, x):
        check.floating("local_response_norm", x=x)
        if x.ndim < 1:
            check.fail("local_response_norm", expected="x should have an axis of channels", actual="shape ()")
        wide = widen(x)
        ends = [(0, 0)] * (x.ndim - 1) + [(size // 2, (size - 1) // 2)]
        squares = jnp.square(jnp.pad(wide, ends))
        copies = [jax.lax.slice_in_dim(squares, i, i + x.shape[-1], axis=-1) for i in range(size)]
        mean = sum(copies[1:], start=copies[0]) / size
        total = jnp.asarray(k, wide.dtype) + jnp.asarray(alpha, wide.dtype) * mean
        return (wide * total ** -jnp.asarray(beta, wide.dtype)).astype(x.dtype)

    return Model(lambda key: {}, apply)


def _initial_statistics(dim: int) -> dict[str, Array]:
    """The running statistics at first: mean 0, variance 1."""
    return {"mean": jnp.zeros(dim, jnp.float32), "var": jnp.ones(dim, jnp.float32)}


def _from_running(wide: Array, state: dict[str, Array], eps: Scalar, params: dict, x: Array) -> Array:
    """x normalized by the running statistics. wide: x in the dtype to compute in."""
    mean, var = (broadcast_to_rank(state[name].astype(wide.dtype), wide.ndim) for name in ("mean", "var"))
    return _affine((wide - mean) * inverse_root(var, eps), params, x)


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
