"""State with an entry that never changes: the base parameters of adapters.

It is a dict like the state of any layer. Averages leave its entry "base" as it is.
"""

from typing import Any

import jax

from nnfunc.base import PyTree


class FrozenState(dict[str, Any]):
    """{"base": the entry that never changes, ...}: a dict with a separate node type in jax.tree."""


def contains_frozen(tree: PyTree) -> bool:
    """Whether the tree has a FrozenState anywhere.

    >>> contains_frozen({"head": FrozenState(base=1)}), contains_frozen({"head": {"base": 1}})
    (True, False)
    """
    return any(is_frozen(node) for node in jax.tree.leaves(tree, is_leaf=is_frozen))


def is_frozen(node: Any) -> bool:
    """Whether a node of a tree is a FrozenState."""
    return isinstance(node, FrozenState)


def _with_keys(state: FrozenState) -> tuple[tuple[tuple[Any, Any], ...], tuple[str, ...]]:
    names = tuple(sorted(state))
    return tuple((jax.tree_util.DictKey(name), state[name]) for name in names), names


def _flatten(state: FrozenState) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    names = tuple(sorted(state))
    return tuple(state[name] for name in names), names


def _unflatten(names: tuple[str, ...], values: Any) -> FrozenState:
    return FrozenState(zip(names, values, strict=True))


jax.tree_util.register_pytree_with_keys(FrozenState, _with_keys, _unflatten, _flatten)
