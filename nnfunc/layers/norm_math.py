"""The arithmetic of norms: vectors scaled to mean 0 and variance 1, with short derivatives."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from nnfunc.base import Array, Scalar


def range_scale(x: Array, axes: tuple[int, ...]) -> Array:
    """One over a power of two near the largest value over the axes: their squares then stay in range.

    As a power of two it changes no bit of what is normalized, and no derivative depends on it. In
    float32 it ends at 2^60, where eps is still in range.
    """
    info = jnp.finfo(x.dtype)
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0))
    power = jax.lax.reduce_precision(top, info.nexp, 0)
    return 1 / jnp.clip(power, 2.0 ** (-info.maxexp * 15 // 32), 2.0 ** (info.maxexp * 3 // 4))


def with_short_jvp(
    normalize: Callable[[Array, Array], tuple[Array, Array]], has_mean: bool
) -> Callable[[Array, Array], Array]:
    """The function (x, eps) -> y of `normalize(x, eps) -> (y, factor)`, y = (x - mean) * factor.

    The derivative needs y and factor only, which are computed once and stored:
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


def standardize(x: Array, axes: tuple[int, ...], eps: Scalar) -> tuple[Array, Array, Array, Array]:
    """x with mean 0 and variance 1 over the axes, the factor of that, and the mean and variance."""
    scale = range_scale(x, axes)
    x = x * scale
    mean = jnp.mean(x, axis=axes, keepdims=True)
    var = jnp.mean(jnp.square(x - mean), axis=axes, keepdims=True)
    # Where all values are equal and large, eps underflows: the floor avoids 0 times infinity.
    small = jnp.maximum(jnp.asarray(eps, x.dtype) * scale * scale, jnp.finfo(x.dtype).tiny)
    factor = inverse_root(var, small)
    return (x - mean) * factor, factor * scale, mean / scale, var / scale / scale


@partial(with_short_jvp, has_mean=True)
def standardize_vectors(x: Array, eps: Array) -> tuple[Array, Array]:
    y, factor, *_ = standardize(x, (-1,), eps)
    return y, factor


@partial(with_short_jvp, has_mean=False)
def normalize_rms(x: Array, eps: Array) -> tuple[Array, Array]:
    scale = range_scale(x, (-1,))
    x = x * scale
    factor = inverse_root(jnp.mean(jnp.square(x), axis=-1, keepdims=True), eps * scale * scale)
    return x * factor, factor * scale


def inverse_root(square: Array, eps: Scalar) -> Array:
    """1 / sqrt(square + eps). The derivative of rsqrt has a third power, which underflows from 1e13."""
    return 1 / jnp.sqrt(square + jnp.asarray(eps, square.dtype))
