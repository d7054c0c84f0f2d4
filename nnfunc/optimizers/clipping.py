"""Clipping by global norm, by value, adaptively, and by the norm of each unit."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnfunc import check, paths
from nnfunc.base import Array, Params, PyTree, Scalar
from nnfunc.optimizers.optimizer import Optimizer, as_optimizer, checked_at_init, wide_type, wrapped
from nnfunc.paths import Leaves, is_matrix, leaves_mask, where_on
from nnfunc.vector_norm import global_norm, vector_norm


def clip_value(inner: Any, limit: Scalar) -> Optimizer:
    """Every number of the gradients brought into [-limit, limit] before `inner` sees it.

    limit: above 0; inf is off. Infinite and NaN gradients stay as they are, to be seen, where PyTorch makes the
        infinite ones finite.
    Raises: TypeError when inner is no optimizer, ValueError when limit is not above 0.
    Source: PyTorch's clip_grad_value_.

    >>> optimizer = nf.optimizers.clip_value(nf.optimizers.sgd(1.0), 0.5)
    >>> params, grads = {"bias": jnp.ones(2)}, {"bias": jnp.array([0.25, -3.0])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["bias"].tolist()
    [-0.25, 0.5]
    """
    check.number("clip_value", 0, open_low=True, limit=limit)

    def clip(grads, params, number):
        most = number(limit)
        each = lambda grad: jnp.where(jnp.isfinite(grad), jnp.clip(grad, -most, most), grad)
        return jax.tree.map(each, grads)

    return _before("clip_value", inner, clip)


def clip_adaptive(
    inner: Any, limit: Scalar = 0.01, *, eps: Scalar = 1e-3, on: Leaves = "**", stacked: Leaves = ()
) -> Optimizer:
    """Each unit's gradient at most `limit` times as long as the unit's weights, before `inner`.

    gradient *= min(1, limit * max(|weights|, eps) / |gradient|), for each unit separately.
    A unit is a column of a matrix [in, out] or an output channel of a kernel [..., in, out]; a leaf that is
    no matrix, such as a bias, is one unit.
    stacked: the leaves whose first axis is the layers of a `repeat`, such as "blocks/**"; there each layer has
        separate units.
    on: the leaves that are clipped; the paper leaves out the last layer.
    limit: above 0; inf is off. A unit whose gradient's norm is not finite stays as it is.
    Raises: TypeError when inner is no optimizer, ValueError when a number is out of its range or a pattern fits no
    leaf.
    Source: Brock et al. 2021, arXiv:2102.06171, section 4.

    >>> optimizer = nf.optimizers.clip_adaptive(nf.optimizers.sgd(1.0), 0.5)
    >>> params, grads = {"bias": jnp.array([3.0, 4.0])}, {"bias": jnp.array([0.0, 5.0])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> updates["bias"].tolist()
    [0.0, -2.5]
    """
    check.number("clip_adaptive", 0, open_low=True, limit=limit)
    check.number("clip_adaptive", 0, eps=eps)

    def clip(grads, params, number):
        def each(grad, param, on, axes):
            if not np.any(on):
                return grad
            off = jnp.isinf(number(limit))  # inf times 0 would be NaN in gradients
            fraction = jnp.where(off, 1, number(limit))
            weights, size = (vector_norm(x, axes, keepdims=True) for x in (param, grad))
            most = fraction * jnp.maximum(weights, number(eps))
            return where_on(on, jnp.where(off, grad, _shortened(grad, size, most)), grad)

        return jax.tree.map(each, grads, params, *units(params))

    def units(params):
        return _units("clip_adaptive", params, on, stacked)

    return _before("clip_adaptive", inner, clip, units)


def max_norm(inner: Any, limit: Scalar, *, on: Leaves = "matrices", stacked: Leaves = ()) -> Optimizer:
    """After each update, the weights that come into a unit at most `limit` long, to rounding.

    weights *= min(1, limit / |weights|), for each unit separately; units and stacked as in
    `clip_adaptive`.
    inner: the optimizer whose updates are limited.
    on: the leaves that are limited, the matrices by default.
    limit: above 0; inf is off. A wrapper that unfreezes leaves later goes around this one:
        groups(max_norm(adam(1e-3), 3.0), freeze={"body/**": 1000}).
    Raises: TypeError when inner is no optimizer, ValueError when limit is not above 0 or a pattern fits no leaf.
    Source: Srivastava et al. 2014, Dropout, section 5.1; with limits of 3 to 4.

    >>> optimizer = nf.optimizers.max_norm(nf.optimizers.sgd(1.0), 1.0)
    >>> params, grads = {"weight": jnp.ones((2, 1))}, {"weight": jnp.array([[-2.0], [-3.0]])}
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> [round(w, 3) for w in (params["weight"] + updates["weight"])[:, 0].tolist()]
    [0.6, 0.8]
    """
    check.number("max_norm", 0, open_low=True, limit=limit)
    inner = as_optimizer(inner, where="max_norm")

    def update(grads, state, params, extra):
        updates, state = inner.update(grads, state, params, **extra)

        def each(update, param, on, axes):
            if not np.any(on):
                return update
            new, most = param + update, jnp.asarray(limit, wide_type(params))
            size = vector_norm(new, axes, keepdims=True)
            return jnp.where(np.asarray(on) & (size > most), _shortened(new, size, most) - param, update)

        return jax.tree.map(each, updates, params, *units(params)), state

    def units(params):
        return _units("max_norm", params, on, stacked)

    return wrapped("max_norm", inner, checked_at_init(inner.init, units), update)


def _before(
    where: str, inner: Any, change: Callable[[PyTree, Params, Any], PyTree], *checks: Callable[[Params], Any]
) -> Optimizer:
    """The inner optimizer, given change(grads, params, number); number makes arrays of numbers.

    checks: of the parameters, at init.
    """
    inner = as_optimizer(inner, where=where)

    def update(grads, state, params, extra):
        grads = change(grads, params, partial(jnp.asarray, dtype=wide_type(params)))
        extra.pop("gradient_norm", None)  # of the gradients as they came
        return inner.update(grads, state, params, **extra)

    return wrapped(where, inner, checked_at_init(inner.init, *checks), update)


def _units(where: str, params: Params, on: Leaves, stacked: Leaves) -> tuple[PyTree, PyTree]:
    """Which leaves are limited, and the axes of their norms."""
    which = leaves_mask(f"{where}: on", params, on, by_layer=True)
    return which, _norm_axes(f"{where}: stacked", params, stacked)


def _norm_axes(where: str, params: Params, stacked: Leaves) -> PyTree:
    """The axes of each leaf that belong to one unit."""

    def axes(keys, leaf, layers):
        first, last = (1 if layers else 0), np.ndim(leaf)
        units = is_matrix(paths.path_of(keys), leaf) and last - first >= 2
        return tuple(range(first, last - 1 if units else last))

    return jax.tree.map_with_path(axes, params, leaves_mask(where, params, stacked))


def _shortened(x: Array, size: Array, most: Array) -> Array:
    """x, whose norms are `size`, scaled to norms of at most `most`; unchanged where the norm is not finite."""
    over = (size > most) & jnp.isfinite(size)
    return jnp.where(over, x / jnp.where(over, size, 1) * jnp.where(over, most, 1), x)


def clip_global_norm(limit: Array, norm: Array | None) -> optax.GradientTransformation:
    """Gradients whose norm, all of them together, is at most the limit. norm: theirs, where known."""

    def clip(grads, params):
        size = (global_norm(grads) if norm is None else norm).astype(limit.dtype)
        over = size > limit  # the other branch computes no inf / inf, in gradients either
        scale = jnp.where(over, jnp.where(over, limit, 1) / jnp.where(over, size, 1), 1)
        return jax.tree.map(lambda grad: grad * scale, grads)

    return optax.stateless(clip)
