"""XLA's convolution and its transpose, with gradients in the order of axes that XLA computes quickly.

XLA for CPU has a quick program only for convolutions with channels last. The gradients that JAX derives have
another order, which XLA changes at the top level of a program, but not in `lax.scan`: there the gradient of a
weight is 50 times slower. So the gradients are written out here, as convolutions with channels last: of dy with
the kernel, and of x with dy as the kernel.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from nnfunc.base import Array, Shape


class ConvPlan(NamedTuple):
    """The static settings of a convolution: stride, dilation and pads (before, after) of each axis, and groups."""

    stride: Shape
    dilation: Shape
    pads: tuple[tuple[int, int], ...]
    groups: int = 1


def plain(x: Array, weight: Array, plan: ConvPlan) -> Array:
    """XLA's convolution, with the gradients that JAX derives. x, weight, plan: as in `direct`."""
    return lax.conv_general_dilated(
        x,
        weight,
        plan.stride,
        plan.pads,
        rhs_dilation=plan.dilation,
        dimension_numbers=_numbers(x),
        feature_group_count=plan.groups,
    )


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def direct(x: Array, weight: Array, plan: ConvPlan) -> Array:
    """x [batch, *spatial, in], weight [*kernel, in, out] -> [batch, *windows, out]; plan: the settings."""
    return plain(x, weight, plan)


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def spread(y: Array, weight: Array, sizes: Shape, plan: ConvPlan) -> Array:
    """The transpose of `direct` with that weight: y [batch, *windows, out] -> [batch, *sizes, in].

    plan: the settings of that convolution.
    """
    return _input_gradient(y, weight, sizes, plan)


@partial(direct.defjvp, symbolic_zeros=True)
def _direct_jvp(plan, primals, tangents):
    (x, weight), (dx, dweight) = primals, tangents
    return reverse(
        direct(x, weight, plan),
        (dx, lambda dy: _input_gradient(dy, weight, x.shape[1:-1], plan)),
        (dweight, lambda dy: _weight_gradient(dy, x, weight.shape, plan)),
    )


@partial(spread.defjvp, symbolic_zeros=True)
def _spread_jvp(sizes, plan, primals, tangents):
    (y, weight), (dy, dweight) = primals, tangents
    return reverse(
        spread(y, weight, sizes, plan),
        (dy, lambda dx: _cropped(dx, weight, plan)),
        (dweight, lambda dx: _weight_gradient(y, dx, weight.shape, plan)),
    )


def reverse(y: Array, *pairs: tuple[Any, Callable[[Array], Array]]) -> tuple[Array, Array]:
    """(y, dy) of a jvp rule, from pairs (tangent of an argument, dy -> gradient of that argument).

    Each gradient, linear in dy, is transposed here; so reverse mode, which transposes again, runs it
    as it is written.
    """
    like, dy = jax.eval_shape(lambda y: y, y), None  # with its mesh axes
    for tangent, gradient in pairs:
        if not isinstance(tangent, SymbolicZero):
            term = jax.linear_transpose(gradient, like)(tangent)[0]
            dy = term if dy is None else dy + term
    return y, jnp.zeros_like(y) if dy is None else dy


def _input_gradient(dy: Array, weight: Array, sizes: Shape, plan: ConvPlan) -> Array:
    """A convolution of dy, dilated by the stride, with the flipped kernel."""
    dims, pads = range(dy.ndim - 2), []
    for axis in dims:
        reach = (weight.shape[axis] - 1) * plan.dilation[axis]
        before = reach - plan.pads[axis][0]
        apart = (dy.shape[axis + 1] - 1) * plan.stride[axis] + 1
        pads.append((before, sizes[axis] + reach - apart - before))
    return lax.conv_general_dilated(
        dy,
        jnp.flip(weight, dims).swapaxes(-1, -2),  # [*kernel, out, in]
        (1,) * len(dims),
        pads,
        lhs_dilation=plan.stride,
        rhs_dilation=plan.dilation,
        dimension_numbers=_numbers(dy),
    )


def _weight_gradient(dy: Array, x: Array, shape: Shape, plan: ConvPlan) -> Array:
    """A convolution of x with dy as its kernel and the batch as its channels."""
    pads, last = [], dy.ndim - 1
    for axis, (k, d, s) in enumerate(zip(shape, plan.dilation, plan.stride, strict=False)):
        before, n = plan.pads[axis][0], x.shape[axis + 1]
        reach = (k - 1) * d + (dy.shape[axis + 1] - 1) * s + 1
        pads.append((before, max(reach - before - n, 0)))
        x = lax.slice_in_dim(x, 0, min(reach - before, n), axis=axis + 1)
    dweight = lax.conv_general_dilated(
        jnp.swapaxes(x, 0, last),  # [in, *spatial, batch]
        jnp.moveaxis(dy, 0, last - 1),  # [*windows, batch, out]
        plan.dilation,
        pads,
        rhs_dilation=plan.stride,
        dimension_numbers=_numbers(dy),
    )  # [in, *kernel, out]
    return jnp.moveaxis(dweight, 0, -2)  # [*kernel, in, out]


def _cropped(x: Array, weight: Array, plan: ConvPlan) -> Array:
    """`plain`, where negative padding cuts x."""
    for axis, (_, after) in enumerate(plan.pads):
        x = lax.slice_in_dim(x, 0, x.shape[axis + 1] + min(after, 0), axis=axis + 1)
    pads = tuple((before, max(after, 0)) for before, after in plan.pads)
    return plain(x, weight, plan._replace(pads=pads))


def _numbers(x: Array) -> tuple[str, str, str]:
    axes = "DHW"[5 - x.ndim :]
    return f"N{axes}C", f"{axes}IO", f"N{axes}C"
