"""Euclidean norms that are right over the whole range of their dtype: of 1e20 and 1e-25 in float32 too.

The root of a plain sum of squares is infinite from 1.8e19 on and 0 below 1e-23, because the squares are.
Here such values are divided by a power of two first, which rounds nothing.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.base import Array, DType, PyTree, is_partitioned, widen
from nnfunc.sums import sum_all


def vector_norm(x: Array, axes: Sequence[int] | None = None, *, keepdims: bool = False) -> Array:
    """sqrt(sum x**2) over the axes, all of them by default, in float32 at least.

    x: floats of any shape.
    axes: those to sum over.
    keepdims: whether they stay, with size 1.
    Shapes: x [...] -> [...] without the axes.
    The gradient at 0 is 0. An infinite value makes the norm infinite, NaN makes it NaN. Values below 1.2e-38 may
    count as 0, as everywhere in float32 on CPU.

    >>> [float(vector_norm(x * jnp.array([3.0, 4.0]))) for x in (1.0, 2.0**90, 0.0)]
    [5.0, 6.189700196426901e+27, 0.0]
    """
    axes = tuple(range(np.ndim(x))) if axes is None else tuple(axes)
    x, power = rescale(x, axes)
    norm = power * _root(jnp.sum(jnp.square(x), axes, keepdims=True))
    return norm if keepdims else jnp.squeeze(norm, axes)


def rescale(x: Array, axes: Sequence[int]) -> tuple[Array, Array]:
    """(x / power, power): values whose squares stay in range, and a power of two, with `axes` of size 1."""
    x = _opaque(widen(x))
    power = power_of_two(jnp.max(jnp.abs(x), axes, keepdims=True, initial=0))
    return x / power, power


def global_norm(tree: PyTree) -> Array:
    """The norm of all leaves of the tree together, as of one vector; 0 without leaves. See `vector_norm`.

    Ordinary values are read once; only norms below 2**-40 or above 2**40 need a second pass.

    >>> float(global_norm({"bias": jnp.array([3.0]), "weight": jnp.array([[0.0, 4.0]])}))
    5.0
    """
    leaves = [widen(leaf) for leaf in jax.tree.leaves(tree)]
    dtype = max((leaf.dtype for leaf in leaves), key=lambda dtype: dtype.itemsize, default=jnp.dtype(jnp.float32))
    leaves = [leaf.astype(dtype) for leaf in leaves]

    def norm(power, leaves):
        squares = [sum_all(jnp.square(leaf / power)) for leaf in leaves]
        return power * _root(sum(squares, start=jnp.zeros((), dtype)))

    plain = norm(jnp.ones((), dtype), leaves)
    power = power_of_two(plain)
    if is_partitioned():  # one round of communication for all three
        large, small = (norm(jnp.asarray(p, dtype), _opaque(leaves)) for p in (_shift(dtype), 1 / _shift(dtype)))
        return jnp.where(power == 1, plain, jnp.where(power > 1, large, small))
    if jax.default_backend() != "cpu":  # a branch would wait for its condition
        return jnp.where(power == 1, plain, norm(power, _opaque(leaves)))
    return jax.lax.cond(power == 1, lambda: plain, lambda: norm(power, _opaque(leaves)))


def _opaque(x: PyTree) -> PyTree:
    """x behind a barrier of the optimizer, which turns (x / p)**2 of constants into x**2 / p**2."""
    return jax.lax.optimization_barrier(x)


def power_of_two(size: Array) -> Array:
    """The divisor: in float32 2**66 where the size is above 2**40, 2**-66 below 2**-40, else 1."""
    most, shift = 2.0 ** (int(jnp.finfo(size.dtype).maxexp) * 20 // 64), _shift(size.dtype)
    power = jnp.where(size > most, shift, jnp.where(size < 1 / most, 1 / shift, 1.0))
    return jax.lax.stop_gradient(power.astype(size.dtype))


def _shift(dtype: DType) -> float:
    return 2.0 ** (int(jnp.finfo(dtype).maxexp) * 33 // 64)


def _root(total: Array) -> Array:
    """The root with a finite slope at 0; NaN stays."""
    return jnp.where(total > 0, jnp.sqrt(jnp.where(total > 0, total, 1)), 0 * total)
