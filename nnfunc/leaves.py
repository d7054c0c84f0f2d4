"""Some of the parameters: all matrices, those of path patterns, or those that a function picks.

The matrices are the leaves whose last name has the word weight, kernel or embedding in it, and so
neither biases nor the scales of norms; so are the two parts of such a leaf's adapter, weight/down and
weight/up (`nf.lora`). Shapes cannot tell them: inside `repeat` a bias has an axis of
layers before its own. Leaves without names, those of lists, count from two axes on.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check, paths
from nnfunc.base import Array, Params, PyTree

__all__ = ["Leaves", "by_pattern", "chosen", "filled", "is_matrix", "only"]

Leaves = str | tuple[str, ...] | Callable[[Params], PyTree]
"""Some of the parameters: "matrices", path patterns, or a function params -> tree of booleans."""


def chosen(where: str, params: Params, leaves: Leaves) -> PyTree:
    """A tree of Python booleans in the shape of params.

    Raises: ValueError when a pattern fits no leaf.

    >>> chosen("decay_on", {"norm": {"scale": 1}, "up": {"weight": 2}}, "matrices")
    {'norm': {'scale': False}, 'up': {'weight': True}}
    """
    if callable(leaves):
        return leaves(params)
    if leaves == "matrices":
        return jax.tree.map_with_path(
            lambda keys, leaf: is_matrix(paths.path_of(keys), leaf), params
        )
    return paths.mask(params, leaves, where=where)


def is_matrix(path: str, leaf: Array) -> bool:
    """Whether a leaf holds weights, by its name, or, where that is a number, by its shape."""
    *parents, name = path.split("/")
    if name in ("down", "up") and parents and not parents[-1].isdigit():
        name = parents[-1]
    if name.isdigit() or not name:
        return jnp.ndim(leaf) >= 2
    return not {"weight", "kernel", "embedding"}.isdisjoint(name.split("_"))


def by_pattern(where: str, params: Params, values: Mapping[str, Any], other: Any) -> PyTree:
    """Each leaf's value: that of the first pattern that fits its path, or `other`.

    The order is that of the dict as it is written. JAX sorts a dict by its keys whenever it goes
    through a transformation: write it inside of `build`, with numbers from hypers.
    Raises: ValueError when a pattern fits no leaf, or only such that patterns before it decide.

    >>> by_pattern("rates", {"head": {"bias": 1, "weight": 2}}, {"**/bias": 0.5}, 1.0)
    {'head': {'bias': 0.5, 'weight': 1.0}}
    """
    leaves = paths.flatten(params)
    decided: dict[str, str] = {}
    for pattern in values:
        fitting = paths.select(pattern, leaves, where=where)
        mine = [path for path in fitting if path not in decided]
        if not mine:
            before = decided[fitting[0]]
            problem = f"the pattern {pattern!r} should decide at least one leaf, got none"
            check.fail(
                where, f"{problem}: {before!r}, which is before it, fits them. Put it first."
            )
        decided |= dict.fromkeys(mine, pattern)
    value = {path: values[pattern] for path, pattern in decided.items()}
    return jax.tree.map_with_path(lambda keys, leaf: value.get(paths.path_of(keys), other), params)


def only(tree: PyTree, keep: PyTree) -> PyTree:
    """The tree with None, in which JAX sees no leaf, where `keep` is False."""
    return jax.tree.map(lambda on, leaf: leaf if on else None, keep, tree)


def filled(like: PyTree, *parts: PyTree) -> PyTree:
    """One tree of the parts that `only` made; zeros in the shape of `like` where none has a leaf."""

    def fill(leaf, *others):
        return next((other for other in others if other is not None), jnp.zeros_like(leaf))

    return jax.tree.map(fill, like, *parts)
