"""Derivatives against finite differences in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.base import Array, PyTree, cast_floating
from nnfunc.testing.comparing import fail, floats_of, near, weighed


def check_gradients(function: Callable[..., PyTree], *args: PyTree, order: int = 2, tolerance: float = 1e-5) -> None:
    """Derivatives of `function(*args)` against finite differences in float64.

    Forward and reverse mode, with respect to every float in args, in three directions.
    order: with 2 also forward over reverse. The floats in args are cast to float64; kinks are to be kept away from.
    tolerance: the allowed difference, as a fraction of the largest derivative.
    Raises: AssertionError.

    >>> check_gradients(jnp.tanh, jnp.array([0.3, -2.0]))
    """
    law = "gradients equal finite differences"
    with jax.enable_x64(True):
        args = cast_floating(args, jnp.float64)
        floats, join = floats_of(args)
        if not floats:
            return
        outputs, forward, reverse, numeric, second = jax.jit(
            lambda floats: jax.vmap(lambda i: _slopes(lambda f: function(*join(f)), floats, i, order))(jnp.arange(3.0))
        )(floats)
        if not np.isfinite(outputs).all():
            fail(law, f"the function's value is not finite: {outputs}")
        scale = float(np.max(np.abs(numeric), initial=1.0))
        for what, actual, expected in (
            ("forward mode against finite differences", forward, numeric),
            ("reverse mode against finite differences", reverse, numeric),
            ("the second derivative (forward over reverse) against differences", *second),
        ):
            near(law, what, actual / scale, expected / scale, tolerance)


def _slopes(function: Any, floats: list[Array], i: Array, order: int) -> tuple[Any, ...]:
    """Value and slopes of a weighted sum of the outputs, in the i-th direction."""

    def value(floats):
        return weighed(function(floats))

    counts = [jnp.arange(leaf.size, dtype=leaf.dtype) for leaf in floats]
    ones = [jnp.cos((i + 1) * n + i).reshape(v.shape) for n, v in zip(counts, floats, strict=True)]
    size = jnp.sqrt(sum(jnp.sum(v**2) for v in ones))
    along = [v / size for v in ones]
    dot = lambda a, b: sum((jnp.sum(p * q) for p, q in zip(a, b, strict=True)), jnp.zeros(()))
    step = 1e-5

    def at(h):
        here = [leaf + h * v for leaf, v in zip(floats, along, strict=True)]
        return jax.jvp(value, (here,), (along,))

    values, slopes = jax.vmap(at)(jnp.array([-step, 0.0, step]))
    numeric = (values[2] - values[0]) / (2 * step)
    if order < 2:
        reverse, second = dot(jax.grad(value)(floats), along), (jnp.zeros(()), jnp.zeros(()))
    else:
        grads, curve = jax.jvp(jax.grad(value), (floats,), (along,))
        reverse = dot(grads, along)
        second = (dot(curve, along), (slopes[2] - slopes[0]) / (2 * step))
    return values[1], slopes[1], reverse, numeric, second
