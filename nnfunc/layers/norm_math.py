"""What norms are made of: vectors brought to mean 0 and variance 1, with short derivatives."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from nnfunc.base import Array, Scalar


def in_range(x: Array, axes: tuple[int, ...]) -> Array:
    """One over a power of two near the largest value over the axes: their squares then stay in range.

    As a power of two it changes no bit of what is normalized, and no derivative depends on it. In
    float32 it ends at 2^60, where eps is still in range.
    """
    info = jnp.finfo(x.dtype)
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0))
    power = jax.lax.reduce_precision(top, info.nexp, 0)
    return 1 / jnp.clip(power, 2.0 ** (-info.maxexp * 15 // 32), 2.0 ** (info.maxexp * 3 // 4))


def keeping(
    normalize: Callable[[Array, Array], tuple[Array, Array]], has_mean: bool
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
            dy = dy - jnp.mean(change, axis=-1, keepdims=True) if has_mean else dy
        if not isinstance(deps, SymbolicZero):
            dy = dy - 0.5 * y * factor * factor * deps
        return y, dy

    function.defjvp(rule, symbolic_zeros=True)
    return function


def centred(x: Array, axes: tuple[int, ...], eps: Scalar) -> tuple[Array, Array, Array, Array]:
    """x with mean 0 and variance 1 over the axes, the factor of that, and the mean and variance."""
    scale = in_range(x, axes)
    x = x * scale
    mean = jnp.mean(x, axis=axes, keepdims=True)
    var = jnp.mean(jnp.square(x - mean), axis=axes, keepdims=True)
    # Of values that are all the same, large ones leave nothing of eps: 0 times infinity is no answer.
    small = jnp.maximum(jnp.asarray(eps, x.dtype) * scale * scale, jnp.finfo(x.dtype).tiny)
    factor = one_over(var, small)
    return (x - mean) * factor, factor * scale, mean / scale, var / scale / scale


@partial(keeping, has_mean=True)
def to_mean_and_variance(x: Array, eps: Array) -> tuple[Array, Array]:
    y, factor, *_ = centred(x, (-1,), eps)
    return y, factor


@partial(keeping, has_mean=False)
def to_mean_square(x: Array, eps: Array) -> tuple[Array, Array]:
    scale = in_range(x, (-1,))
    x = x * scale
    factor = one_over(jnp.mean(jnp.square(x), axis=-1, keepdims=True), eps * scale * scale)
    return x * factor, factor * scale


def one_over(square: Array, eps: Scalar) -> Array:
    """1 / sqrt(square + eps). The derivative of rsqrt has a third power, which underflows from 1e13."""
    return 1 / jnp.sqrt(square + jnp.asarray(eps, square.dtype))
