"""What norms are made of: vectors brought to mean 0 and variance 1, with short derivatives."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from nnfunc.base import Array, Scalar


def widened(x: Array) -> Array:
    """x in float32, or in float64 when it is."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def moments(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Mean and variance over the axes, which stay with size 1."""
    mean = jnp.mean(x, axis=axes, keepdims=True)
    return mean, jnp.mean(jnp.square(x - mean), axis=axes, keepdims=True)


def keeping(
    normalize: Callable[[Array, Array], tuple[Array, Array]], centred: bool
) -> Callable[[Array, Array], Array]:
    """The function (x, eps) -> y of `normalize(x, eps) -> (y, factor)`, y = (x - mean) * factor.

    The derivative needs y and factor only, which are calculated once and kept:
    dy = factor * (dx - mean(dx)) - y * mean(y * factor * dx) - y * factor^2 / 2 * deps,
    without mean(dx) when y = x * factor. A jvp rule of plain JAX, so all higher derivatives work.
    """

    @jax.custom_jvp
    def function(x, eps):
        return normalize(x, eps)[0]

    def rule(primals, tangents):
        (x, eps), (dx, deps) = primals, tangents
        y, factor = normalize(x, eps)
        dy = jnp.zeros_like(y)
        if not isinstance(dx, SymbolicZero):
            change = factor * dx
            dy = change - y * jnp.mean(y * change, axis=-1, keepdims=True)
            dy = dy - jnp.mean(change, axis=-1, keepdims=True) if centred else dy
        if not isinstance(deps, SymbolicZero):
            dy = dy - 0.5 * y * factor * factor * deps
        return y, dy

    function.defjvp(rule, symbolic_zeros=True)
    return function


@partial(keeping, centred=True)
def to_mean_and_variance(x: Array, eps: Array) -> tuple[Array, Array]:
    mean, var = moments(x, (-1,))
    factor = one_over(var, eps)
    return (x - mean) * factor, factor


@partial(keeping, centred=False)
def to_mean_square(x: Array, eps: Array) -> tuple[Array, Array]:
    factor = one_over(jnp.mean(jnp.square(x), axis=-1, keepdims=True), eps)
    return x * factor, factor


def one_over(square: Array, eps: Scalar) -> Array:
    """1 / sqrt(square + eps). The derivative of rsqrt has a third power, which underflows from 1e13."""
    return 1 / jnp.sqrt(square + jnp.asarray(eps, square.dtype))
