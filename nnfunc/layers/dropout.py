"""Dropout and its variants. A key switches them on; without one they change nothing (law 2)."""

import math

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Key, Layer, Model, Params, PyTree, Scalar, as_model, indexed_keys, vmap_keys


def dropout(rate: Scalar, *, shared: tuple[int, ...] = ()) -> Model:
    """Each value becomes 0 with probability `rate`; the rest are divided by 1 - rate (inverted).

    rate: the fraction dropped, in [0, 1].
    shared: axes along which one draw is shared, for instance (1, 2) to drop whole channels of images [batch,
        height, width, channels]; by default none.
    Shapes: x [...] -> y [...].
    Source: Srivastava et al. 2014, JMLR 15.

    >>> model = nf.dropout(0.5)
    >>> model.apply({}, jnp.ones(4)), model.apply({}, jnp.ones(4), key=jax.random.key(1))
    (Array([1., 1., 1., 1.], dtype=float32), Array([2., 0., 0., 0.], dtype=float32))
    """
    check.number("dropout", 0, 1, rate=rate)

    def apply(params, x, *, key=None):
        check.floating("dropout", x=x)
        if key is None:
            return x
        keep, scale = _draw(key, rate, _shared_shape("dropout", x.shape, shared))
        return jnp.where(keep, x * scale.astype(x.dtype), 0)

    return Model(lambda key: {}, apply)


def drop_path(rate: Scalar) -> Model:
    """Each example becomes 0 as a whole with probability `rate`: stochastic depth, at a branch's end.

    rate: in [0, 1]; the other examples are divided by 1 - rate.
    Shapes: x [batch, ...] -> y of the same shape.
    Source: Huang et al. 2016, arXiv:1603.09382.

    >>> block = nf.residual(nf.serial(nf.linear(4, 4), nf.drop_path(0.1)))
    """
    check.number("drop_path", 0, 1, rate=rate)

    def apply(params, x, *, key=None):
        check.floating("drop_path", x=x)
        if key is None:
            return x
        if x.ndim < 1:
            check.fail("drop_path", expected="x should have a batch axis", actual="a single number")
        keep, scale = _draw(key, rate, (x.shape[0],) + (1,) * (x.ndim - 1))
        return jnp.where(keep, x * scale.astype(x.dtype), 0)

    return Model(lambda key: {}, apply)


def alpha_dropout(rate: Scalar) -> Model:
    """Dropout for SELU networks: dropped values become SELU's lower limit, mean and variance stay.

    rate: in [0, 1]; at 1 everything is 0. Shapes: x [...] -> y [...].
    Source: Klambauer et al. 2017, arXiv:1706.02515, section 2.

    >>> nf.alpha_dropout(0.1).apply({}, jnp.ones(3))
    Array([1., 1., 1.], dtype=float32)
    """
    check.number("alpha_dropout", 0, 1, rate=rate)
    low = -1.7580993408473766  # -lambda * alpha of SELU

    def apply(params, x, *, key=None):
        check.floating("alpha_dropout", x=x)
        if key is None:
            return x
        keep, scale = _draw(key, rate, x.shape)
        dropped = jnp.asarray(rate, jnp.float32)
        safe = jnp.where(dropped < 1, scale, 1)  # the square root has no derivative at 0
        factor = jnp.sqrt(safe / (1 + dropped * low**2))
        shift = -factor * dropped * low
        y = factor.astype(x.dtype) * jnp.where(keep, x, low) + shift.astype(x.dtype)
        return jnp.where(dropped < 1, y, 0)

    return Model(lambda key: {}, apply)


def mc_dropout(
    model: Layer, params: Params, x: PyTree, *, key: Key, samples: int = 32, state: PyTree | None = None
) -> tuple[PyTree, PyTree]:
    """Mean and standard deviation of y over `samples` dropout masks: MC dropout.

    The deviation is that of the population (divided by samples, not by samples - 1); both have the shape of y.

    model, params, x, state: as in `model.apply`; state is required where the model keeps some.
    key: a random key; draw i has the key `fold_in(key, i)`.
    samples: at least 2.
    Source: Gal and Ghahramani 2016, arXiv:1506.02142.

    >>> model = nf.serial(nf.dropout(0.5), nf.linear(4, 1))
    >>> params = model.init(jax.random.key(0))
    >>> mean, deviation = nf.mc_dropout(model, params, jnp.ones((2, 4)), key=jax.random.key(1))
    >>> mean.shape, bool((deviation > 0).all())
    ((2, 1), True)
    """
    model = as_model(model, where="mc_dropout")
    check.size("mc_dropout", 2, samples=samples)
    check.key("mc_dropout", key)

    def draw(key):
        return model.apply(params, x, key=key, state=state)

    ys = vmap_keys(draw, indexed_keys(key, samples))
    return jax.tree.map(lambda y: y.mean(axis=0), ys), jax.tree.map(lambda y: y.std(axis=0), ys)


def _draw(key: Key, rate: Scalar, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Which values to keep, and the factor to multiply them by; both are safe at rate 1."""
    keep_rate = 1 - jnp.asarray(rate, jnp.float32)
    scale = jnp.where(keep_rate > 0, 1 / jnp.where(keep_rate > 0, keep_rate, 1), 0)
    flat = jax.random.uniform(key, (math.prod(shape),), jnp.float32)  # a third of the time of an image
    return flat.reshape(shape) < keep_rate, scale  # [shape], []


def _shared_shape(where: str, shape: tuple[int, ...], shared: tuple[int, ...]) -> tuple[int, ...]:
    for axis in shared:
        if not -len(shape) <= axis < len(shape):
            check.fail(where, expected="each shared axis should be one of x's", actual=f"{axis} for shape {shape}")
    axes = {axis % len(shape) for axis in shared}
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape))
