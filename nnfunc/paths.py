"""One pattern language over the paths of parameters and taps: freeze, decay, taps, sharding.

A path is names joined by slashes, such as `blocks/attend/query/weight`. In a pattern `*` stands for
any characters within one name and `**` for any number of whole names:

    head/bias            that one            blocks/*/act     one name between
    **/bias              every bias          blocks/**        all below blocks
    hidden_*/weight      hidden_0, hidden_1, ...

Inside `repeat` and `ensemble` the layers share one path, in which `*` is the name of the stacked axis:
the taps of a repeated block are `blocks/*/act`. Parameters have no such name: `blocks/act/weight`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax

from nnfunc import check
from nnfunc.base import PyTree

__all__ = ["flatten", "mask", "matches", "select", "unflatten"]


def matches(pattern: str, path: str) -> bool:
    """Whether the whole path fits the pattern.

    >>> matches("blocks/**/bias", "blocks/attend/query/bias"), matches("*/bias", "a/b/bias")
    (True, False)
    """
    return _compiled(pattern).fullmatch(path) is not None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    one_name = r"[^/]*"
    text = ""
    for i, name in enumerate(pattern.split("/")):
        last = pattern.count("/") == i
        if name == "**":
            text += ".*" if last else "(?:.*/)?"
        else:
            text += one_name.join(re.escape(part) for part in name.split("*")) + (
                "" if last else "/"
            )
    return re.compile(text)


def select(patterns: str | Sequence[str], paths: Iterable[str], *, where: str) -> list[str]:
    """The paths that fit at least one of the patterns, in their own order.

    Raises: ValueError when a pattern fits none of them, naming the nearest paths.

    >>> select("**/bias", ["body/weight", "body/bias"], where="freeze")
    ['body/bias']
    """
    patterns, paths = as_patterns(patterns, where=where), list(paths)
    for pattern in patterns:
        if not any(matches(pattern, path) for path in paths):
            below = [path for path in paths if path.startswith(pattern.rstrip("/") + "/")]
            hint = f"; for all below it write {pattern.rstrip('/') + '/**'!r}." if below else None
            hint = hint or check.nearest(pattern, paths)
            check.fail(
                where, f"the pattern {pattern!r} should match at least one path, got none{hint}"
            )
    return [path for path in paths if any(matches(pattern, path) for pattern in patterns)]


def as_patterns(patterns: str | Sequence[str], *, where: str) -> tuple[str, ...]:
    """One pattern or several, as a tuple of strings."""
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern:
            got = check.describe(pattern)
            check.fail(
                where, f"a pattern should be a path such as 'head/*', got {got}.", kind=TypeError
            )
    return patterns


def flatten(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by path, in the tree's order.

    >>> flatten({"head": {"weight": 1, "bias": 2}})
    {'head/bias': 2, 'head/weight': 1}
    """
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {path_of(keys): leaf for keys, leaf in leaves}


def path_of(keys: Sequence[Any]) -> str:
    """The path of one of JAX's key tuples: dict keys, field names and places, joined by slashes."""
    names = [getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in keys]
    return "/".join(map(str, names))


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts from leaves by path; the inverse of `flatten` for nested dicts.

    >>> unflatten({"head/bias": 2, "head/weight": 1})
    {'head': {'bias': 2, 'weight': 1}}
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def mask(tree: PyTree, patterns: str | Sequence[str], *, where: str = "mask") -> PyTree:
    """A tree of booleans in the shape of `tree`: True where the leaf's path fits a pattern.

    Raises: ValueError when a pattern fits no leaf.

    >>> mask({"head": {"weight": 1, "bias": 2}}, "**/weight")
    {'head': {'bias': False, 'weight': True}}
    """
    chosen = set(select(patterns, flatten(tree), where=where))
    return jax.tree.map_with_path(lambda keys, leaf: path_of(keys) in chosen, tree)
