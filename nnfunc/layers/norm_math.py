"""The arithmetic of norms: vectors scaled to mean 0 and variance 1, with short derivatives."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from nnfunc import sums
from nnfunc.base import Array, Scalar, vary_like
from nnfunc.sums import mean_over, spread_over


def range_scale(x: Array, axes: tuple[int, ...]) -> Array:
    """One over a power of two near the largest value over the axes: their squares then stay in range.

    As a power of two it changes no bit of what is normalized, and no derivative depends on it. In
    float32 it ends at 2^60, where eps is still in range.
    """
    info = jnp.finfo(x.dtype)
    top = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0))
    power = jax.lax.reduce_precision(top, info.nexp, 0)
    return 1 / jnp.clip(power, 2.0 ** (-info.maxexp * 15 // 32), 2.0 ** (info.maxexp * 3 // 4))


class Normalized(NamedTuple):
    """(x - mean) * factor over some axes, and the mean and the variance, which keep these axes with the size 1."""

    y: Array
    factor: Array
    mean: Array
    var: Array


def standardize(x: Array, axes: tuple[int, ...], eps: Scalar) -> Normalized:
    """x with mean 0 and variance 1 over the axes: of their variance plus eps."""
    x = sums.record(lambda x: standardize(x, axes, 1e-5).y, x)
    return _normalizer(axes, True)(x, jnp.asarray(eps, x.dtype))


def normalize_rms(x: Array, eps: Array) -> Array:
    """x with a mean square of 1 over the last axis: of the mean square plus eps."""
    x = sums.record(lambda x: normalize_rms(x, jnp.asarray(1e-5, x.dtype)), x)
    return _normalizer((x.ndim - 1,), False)(x, eps).y


@functools.cache
def _normalizer(axes: tuple[int, ...], centered: bool) -> Callable[[Array, Array], Normalized]:
    """The function (x, eps) -> Normalized, with a short derivative.

    centered: whether the mean is subtracted.

    The derivative needs y and factor only, which are computed once and stored:
    dy = factor * (dx - mean(dx)) - y * mean(y * factor * dx) - y * factor^2 / 2 * deps,
    without mean(dx) when nothing is subtracted. A jvp rule of plain JAX, so all higher derivatives work.
    """
    mean_of = functools.partial(mean_over, axes=axes)

    def moments(x, scale):
        x = x * scale
        mean = mean_of(x) if centered else jnp.zeros_like(scale)
        return scale, mean, mean_of(jnp.square(x - mean))

    def moments_in_range(x, eps):
        """The moments of x times a scale with which its squares are in range: 1 where they are without."""
        if not sums.by_products():  # the largest value is cheap
            return moments(x, range_scale(x, axes))
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        plain = moments(x, vary_like(jnp.ones(shape, x.dtype), x))
        end = 2.0 ** (jnp.finfo(x.dtype).maxexp // 2)
        in_range = (plain[2] < end).all() & ((eps > 1 / end) | (plain[2] > 1 / end).all())
        return jax.lax.cond(in_range, lambda: plain, lambda: moments(x, range_scale(x, axes)))

    def normalize(x, eps):
        scale, mean, var = moments_in_range(x, eps)
        # Where all values are equal and large, eps underflows: the floor avoids 0 times infinity.
        small = jnp.maximum(eps * scale * scale, jnp.finfo(x.dtype).tiny) if centered else eps * scale * scale
        factor = inverse_root(var, small)
        return Normalized((x * scale - mean) * factor, factor * scale, mean / scale, var / scale / scale)

    def rule(primals, tangents):
        (x, eps), (dx, deps) = primals, tangents
        result = normalize(x, eps)
        y, factor, mean, var = result
        spread = lambda value: spread_over(value, axes, x.shape)
        dy, dmean, dvar = jnp.zeros_like(y), jnp.zeros_like(mean), jnp.zeros_like(var)
        dfactor = dvar
        if not isinstance(dx, SymbolicZero):
            change = factor * dx
            along = mean_of(y * change)
            dmean = mean_of(change)
            dy = change - y * spread(along)
            dy = dy - spread(dmean) if centered else dy
            dfactor = -factor * along
            dvar, dmean = 2 * along / factor / factor, dmean / factor
        if not isinstance(deps, SymbolicZero):
            dfactor = dfactor - 0.5 * factor * factor * factor * deps
            dy = dy - 0.5 * y * factor * factor * deps
        return result, Normalized(dy, dfactor, dmean, dvar)

    function = jax.custom_jvp(normalize)
    function.defjvp(rule, symbolic_zeros=True)
    return function


def inverse_root(square: Array, eps: Scalar) -> Array:
    """1 / sqrt(square + eps). The derivative of rsqrt has a third power, which underflows from 1e13."""
    return 1 / jnp.sqrt(square + jnp.asarray(eps, square.dtype))
