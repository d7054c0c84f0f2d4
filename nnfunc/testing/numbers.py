"""Law 1 for any function: every number may be traced."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc.base import PyTree
from nnfunc.testing.comparing import fail, near, traced_dtypes

FIRST = "the first values"


def check_numbers(
    function: Callable[..., PyTree], numbers: Mapping[str, tuple[Any, Any]], *args: Any, tolerance: float = 2e-5
) -> None:
    """A vmap of `function(*args, **numbers)` over values equals runs with Python numbers.

    numbers: {name: (value, another value)}, a value being a number or a tuple of numbers. Each is moved alone, the
        others keep their first values. Integers are tried as traced integers and as traced floats. The function
        returns any pytree of arrays.
    Raises: AssertionError.
    tolerance: the allowed difference, as a fraction of the largest value.

    >>> check_numbers(lambda x, slope: jnp.where(x > 0, x, slope * x), {"slope": (0.1, 0.2)},
    ...               jnp.array([-1.0, 1.0]))
    """
    moves = {name: {name: values[1]} for name, values in numbers.items()}
    check_moves(function, numbers, moves, args, tolerance)


def check_moves(
    function: Callable[..., PyTree],
    numbers: Mapping[str, tuple[Any, Any]],
    moves: Mapping[str, Mapping[str, Any]],
    args: tuple[Any, ...],
    tolerance: float,
    known: PyTree | None = None,
) -> None:
    """check_numbers, with the moves away from the first values named; known: the result of those.

    function, numbers, args, tolerance: as in `check_numbers`.
    """
    law = "every number may be traced"
    first = {name: values[0] for name, values in numbers.items()}
    points, moved = [first, *({**first, **move} for move in moves.values())], [FIRST, *moves]
    run = lambda point: jax.jit(lambda *args: function(*args, **point))(*args)
    alone = [run(first) if known is None else known, *map(run, points[1:])]
    for dtype_of in traced_dtypes(points):
        stacked = jax.tree.map(lambda *values, dtype_of=dtype_of: jnp.asarray(values, dtype_of(values)), *points)
        try:
            together = jax.jit(jax.vmap(lambda n: function(*args, **n)))(stacked)
        except Exception as error:
            fail(law, f"with {', '.join(numbers)} traced it raised {type(error).__name__}: {error}", error)
        for i, (name, one) in enumerate(zip(moved, alone, strict=True)):
            row = jax.tree.map(lambda leaf, i=i: leaf[i], together)
            near(law, f"vmap over {name} against a run with Python numbers", row, one, tolerance)
