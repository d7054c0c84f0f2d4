"""What the laws compare: trees of values and of types, and one number of many."""

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import paths
from nnfunc.base import Array, PyTree, widen


def fail(law: str, problem: str, cause: Exception | None = None) -> NoReturn:
    """Raise the AssertionError of a law. problem: a sentence. cause: the exception behind it."""
    raise AssertionError(f"{law}: {problem}") from cause


def near(law: str, what: str, actual: PyTree, expected: PyTree, tolerance: float = 2e-5) -> None:
    """Same structure, shapes and dtypes, and values that differ by at most tolerance * max(1, largest).

    law, what: what the message names.
    actual, expected: pytrees of arrays.
    """
    if leaf_types(actual) != leaf_types(expected):
        fail(law, f"{what}: dtypes or shapes differ, {leaf_types(actual)} and {leaf_types(expected)}")
    for path, value in paths.flatten(expected).items():
        one, other = (np.asarray(v, np.float64) for v in (paths.flatten(actual)[path], value))
        same = np.isfinite(one) == np.isfinite(other)
        scale = max(1.0, float(np.max(np.abs(other[np.isfinite(other)]), initial=0.0)))
        apart = np.where(np.isfinite(one) & np.isfinite(other), np.abs(one - other), 0.0)
        np.copyto(apart, np.inf, where=~same)
        if apart.size and apart.max() > tolerance * scale:
            at = np.unravel_index(int(apart.argmax()), apart.shape)
            where = f"{path or 'the value'}{list(map(int, at))}"
            fail(law, f"{what}: {where} is {one[at]:.7g}, expected {other[at]:.7g}")


def leaf_types(tree: PyTree) -> dict[str, str]:
    """The path, dtype and shape of every leaf of tree: they must agree before values are compared."""
    leaves = paths.flatten(tree)
    return {p: f"{jax.dtypes.result_type(v)}{list(np.shape(v))}" for p, v in leaves.items()}


def traced_dtypes(points: Iterable[Any]) -> list[Callable[[tuple[Any, ...]], Any]]:
    """Functions from the values of a number to the dtype to trace them in: int32 for integers, then float for all.

    points: trees of Python numbers, one for each set of values.
    """
    is_integer = lambda value: isinstance(value, int) and not isinstance(value, bool)
    exact = lambda values: jnp.int32 if all(map(is_integer, values)) else jnp.result_type(float)
    has_integers = any(map(is_integer, jax.tree.leaves(list(points))))
    return [exact, lambda values: jnp.result_type(float)] if has_integers else [exact]


def floats_of(tree: PyTree) -> tuple[list[Array], Callable[[list[Array]], Any]]:
    """The float leaves of a tree, and the function that puts others in their place."""
    leaves, treedef = jax.tree.flatten(tree)
    at = [i for i, v in enumerate(leaves) if jnp.issubdtype(jax.dtypes.result_type(v), jnp.floating)]

    def join(floats):
        new = list(leaves)
        for i, leaf in zip(at, floats, strict=True):
            new[i] = leaf
        return jax.tree.unflatten(treedef, new)

    return [jnp.asarray(leaves[i]) for i in at], join


def weighed(y: PyTree) -> Array:
    """One number of y in which every float counts differently."""
    floats, _ = floats_of(y)
    wide = [widen(leaf) for leaf in floats]
    sums = [jnp.sum(v * jnp.cos(jnp.arange(v.size, dtype=v.dtype)).reshape(v.shape)) for v in wide]
    return sum(sums[1:], sums[0]) if sums else jnp.zeros(())


def two(x: PyTree) -> PyTree:
    """x and a different example of the same shape, along a new leading axis."""
    return jax.tree.map(lambda leaf: jnp.stack([leaf, jnp.flip(leaf)]), x)
