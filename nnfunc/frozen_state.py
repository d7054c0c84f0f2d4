"""State that holds what never changes, such as the base of adapters, and says so.

It is a dict like the state of any layer. Averages leave its entry "base" as it is.
"""

from typing import Any

import jax

from nnfunc.base import PyTree

__all__ = ["FrozenState", "contains_frozen", "is_frozen"]


class FrozenState(dict[str, Any]):
    """{"base": what stays, ...}: a dict, and a kind of its own to jax.tree."""


def contains_frozen(tree: PyTree) -> bool:
    """Whether there is a Held anywhere in the tree.

    >>> holds({"head": Held(base=1)}), holds({"head": {"base": 1}})
    (True, False)
    """
    return any(is_frozen(node) for node in jax.tree.leaves(tree, is_leaf=is_frozen))


def is_frozen(node: Any) -> bool:
    """Whether a node of a tree is a Held."""
    return isinstance(node, FrozenState)


def _with_keys(held: FrozenState) -> tuple[tuple[tuple[Any, Any], ...], tuple[str, ...]]:
    names = tuple(sorted(held))
    return tuple((jax.tree_util.DictKey(name), held[name]) for name in names), names


def _flat(held: FrozenState) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    names = tuple(sorted(held))
    return tuple(held[name] for name in names), names


def _made(names: tuple[str, ...], values: Any) -> FrozenState:
    return FrozenState(zip(names, values, strict=True))


jax.tree_util.register_pytree_with_keys(FrozenState, _with_keys, _made, _flat)
