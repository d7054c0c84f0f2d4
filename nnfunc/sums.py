"""Sums over axes, and values spread over axes, each the gradient of the other.

Where XLA's own sums are slow, both are matrix products with ones, so that gradients are fast as well. They are slow
with the flag that avoids a fault of jaxlib 0.10.2 on CPUs: see docs/log.md, 2026-11-29.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import tuning, xla_flags
from nnfunc.base import Array, is_partitioned

KEY = "sums"
"""The key of the choice: one for all shapes, because a sum and its gradient have to fit each other."""
FORMS = "products", "plain"


def by_products() -> bool:
    """Whether sums are computed as products: on one CPU, as measured, or with the flag that replaces YNNPACK's sums.

    Not in a program that is divided over devices: there their reshapes would move whole arrays between devices.
    """
    if tuning.platform() != "cpu" or is_partitioned():
        return False
    return tuning.choose(KEY, default_form(), FORMS) == FORMS[0]


def default_form() -> str:
    """The form of sums without a measurement."""
    return FORMS[0] if _flagged() else FORMS[1]


def record(function: Callable[[Array], Array], x: Array) -> Array:
    """x, after `tuning.record` of how the choice can be timed. function: of x, with sums over its axes."""
    if tuning.platform() != "cpu" or is_partitioned():
        return x
    return tuning.record(KEY, default_form(), FORMS, function, x, cost=x.size)


@functools.cache
def _flagged() -> bool:
    fault = xla_flags.known_fault()
    return fault is not None and fault.flag == xla_flags.NO_REDUCE and xla_flags.is_set(fault.flag)


def sum_over(x: Array, axes: tuple[int, ...]) -> Array:
    """The sum over the axes, which keep the size 1.

    x: floats.
    axes: 0 or more neighbours, as numbers from 0, and perhaps the last axis.

    >>> sum_over(jnp.array([[1.0, 2.0], [3.0, 6.0]]), (0,)).tolist()
    [[4.0, 8.0]]
    """
    rows, last = [axis for axis in axes if axis != x.ndim - 1], x.ndim - 1 in axes
    if not by_products():
        return jnp.sum(x, axis=axes, keepdims=True)
    if not rows:
        return _product(x, jnp.ones((x.shape[-1], 1), x.dtype)) if last else x
    before, after = x.shape[: rows[0]], x.shape[rows[-1] + 1 :]
    count = math.prod(x.shape[axis] for axis in rows)
    flat = x.reshape(*before, count, math.prod(after))
    total = _product(jnp.ones((1, count), x.dtype), flat)  # [..., 1, after]
    total = total.reshape(*before, *(1 for _ in rows), *after)
    return jnp.sum(total, axis=-1, keepdims=True) if last else total


def mean_over(x: Array, axes: tuple[int, ...]) -> Array:
    """The mean over the axes, which keep the size 1. x, axes: as for `sum_over`."""
    return sum_over(x, axes) / math.prod(x.shape[axis] for axis in axes)


def spread_over(v: Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """v, whose axes have the size 1, repeated along them. The gradient of v is the sum over the axes.

    v: floats of as many axes as the shape.
    axes: as for `sum_over`.
    shape: that of the result.

    >>> spread_over(jnp.array([[1.0, 2.0]]), (0,), (2, 2)).tolist()
    [[1.0, 2.0], [1.0, 2.0]]
    """
    rows = [axis for axis in axes if axis != len(shape) - 1]
    if not by_products() or (rows and len(rows) < len(axes)):
        return jnp.broadcast_to(v, shape)
    if not rows:
        return _product(v, jnp.ones((1, shape[-1]), v.dtype))
    before, after = shape[: rows[0]], math.prod(shape[rows[-1] + 1 :])
    count = math.prod(shape[axis] for axis in rows)
    flat = _product(jnp.ones((count, 1), v.dtype), v.reshape(*before, 1, after))  # [..., count, after]
    return flat.reshape(shape)


def spread_over_rows(v: Array, shape: tuple[int, ...]) -> Array:
    """v [dim] in every row of an array of a shape [..., dim]; see `spread_over`."""
    if len(shape) < 2:
        return v
    return spread_over(v.reshape(*(1 for _ in shape[:-1]), -1), tuple(range(len(shape) - 1)), shape)


def sum_all(x: Array) -> Array:
    """The sum of all numbers.

    >>> float(sum_all(jnp.ones((2, 3))))
    6.0
    """
    if x.ndim < 2 or not by_products():
        return jnp.sum(x)
    return jnp.sum(_product(x.reshape(-1, x.shape[-1]), jnp.ones((x.shape[-1], 1), x.dtype)))


def without_sums(policy: Callable[..., Any]) -> Callable[..., Any]:
    """A policy of `jax.checkpoint` that saves what `policy` does, but no sum that is computed as a product.

    policy: such as `jax.checkpoint_policies.checkpoint_dots`.
    """

    def save(primitive, *avals, **params):
        if by_products() and primitive.name == "dot_general" and is_sum(avals, params["dimension_numbers"]):
            return False
        return policy(primitive, *avals, **params)

    return save


def is_sum(avals: Sequence[Any], dimension_numbers: Any) -> bool:
    """Whether a product of two matrices has one of a single row or column, as the products here have.

    avals: the types of its two operands.
    dimension_numbers: those of its `dot_general`.
    """
    contracted, batched = dimension_numbers
    sizes = {math.prod(avals[0].shape[axis] for axis in contracted[0])}
    for aval, axes, batch in zip(avals, contracted, batched, strict=True):
        sizes.add(math.prod(size for axis, size in enumerate(aval.shape) if axis not in (*axes, *batch)))
    return 1 in sizes


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
