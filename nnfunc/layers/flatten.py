"""Changes of shape; plain functions, for use between layers."""

import math

from nnfunc import check
from nnfunc.base import Array


def flatten(x: Array, *, start: int = 1) -> Array:
    """All axes from `start` on become one: images [batch, 28, 28] become [batch, 784].

    x: any array.
    start: the first axis to join, 1 by default, which keeps the batch axis.

    Raises: ValueError when x has fewer than `start` axes.

    >>> nf.flatten(jnp.ones((2, 3, 4))).shape
    (2, 12)
    """
    if x.ndim < start:
        check.fail("flatten", expected=f"x should have at least {start} axes", actual=f"shape {x.shape}")
    return x.reshape(*x.shape[:start], math.prod(x.shape[start:]))  # [..., features]
