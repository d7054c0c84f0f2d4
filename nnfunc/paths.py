"""One pattern language over the paths of parameters and taps: freeze, decay, taps, sharding.

A path is names joined by slashes, such as `blocks/attend/query/weight`. In a pattern `*` stands for
any characters within one name and `**` for any number of whole names:

    head/bias            that one            blocks/*/act     one name between
    **/bias              every bias          blocks/**        all below blocks
    hidden_*/weight      hidden_0, hidden_1, ...

The matrices among the parameters (`is_matrix`) are the leaves whose last name has the word weight,
kernel or embedding in it, and so neither biases nor the scales of norms; so are the two parts of such a
leaf's adapter, weight/down and weight/up (`nf.lora`). Shapes cannot tell them: inside `repeat` a bias
has an axis of layers before its own. Leaves without names, those of lists, count from two axes on.

Inside `repeat` and `ensemble` the layers share one path, in which `*` is the name of the stacked axis:
the taps of a repeated block are `blocks/*/act`, and `blocks/3/act` is that of its layer 3, counted from 0.
Parameters have no such name: `blocks/act/weight`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Params, PyTree
from nnfunc.calls import explain_calls

__all__ = [
    "Leaves",
    "fill_missing",
    "flatten",
    "is_matrix",
    "keep_where",
    "leaves_mask",
    "mask",
    "match_layers",
    "matches",
    "select",
    "unflatten",
    "values_by_pattern",
]


def matches(pattern: str, path: str) -> bool:
    """Whether the pattern matches the whole path.

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
            text += one_name.join(re.escape(part) for part in name.split("*")) + ("" if last else "/")
    return re.compile(text)


def match_layers(pattern: str, path: str, by_name: bool = False) -> tuple[tuple[int, int], ...] | None:
    """The layers that a pattern picks from the stacked axes of a path: (axis, layer) each; None without a match.

    by_name: whether the pattern has to end with the last name of the path, written out.

    >>> match_layers("blocks/3/act", "blocks/*/act"), match_layers("**/act", "blocks/*/act")
    (((0, 3),), ())
    """
    if by_name and pattern.rpartition("/")[2] != path.rpartition("/")[2]:
        return None
    if not any(name.isdigit() for name in pattern.split("/")):
        return () if matches(pattern, path) else None
    names, parts = path.split("/"), pattern.split("/")

    def match(i: int, j: int) -> tuple[tuple[int, int], ...] | None:
        if i == len(parts):
            return () if j == len(names) else None
        if parts[i] == "**":
            ends = range(j + (i == len(parts) - 1), len(names) + 1)
            return next((picked for end in ends if (picked := match(i + 1, end)) is not None), None)
        if j == len(names):
            return None
        rest = match(i + 1, j + 1)
        if rest is not None and names[j] == "*" and parts[i].isdigit():
            return ((names[:j].count("*"), int(parts[i])), *rest)
        return rest if matches(parts[i], names[j]) else None

    return match(0, 0)


def select(
    patterns: str | Sequence[str], paths: Iterable[str], *, where: str, by_name: Collection[str] = ()
) -> list[str]:
    """The paths that match at least one of the patterns, in the order of `paths`.

    patterns: one or several. paths: the paths to choose from. where: the name for the error. by_name: those of
    the paths that only a pattern with their last name matches.
    Raises: ValueError when a pattern matches none of them, naming the nearest paths.

    >>> select("**/bias", ["body/weight", "body/bias"], where="freeze")
    ['body/bias']
    """
    patterns, paths = as_patterns(patterns, where=where), list(paths)

    def matches_path(pattern: str, path: str) -> bool:
        return match_layers(pattern, path, path in by_name) is not None

    for pattern in patterns:
        if not any(matches_path(pattern, path) for path in paths):
            below = [path for path in paths if path.startswith(pattern.rstrip("/") + "/")]
            hint = f"; for all below it write {pattern.rstrip('/') + '/**'!r}." if below else None
            hint = hint or check.nearest(pattern, paths)
            check.fail(where, f"the pattern {pattern!r} should match at least one path, got none{hint}")
    return [path for path in paths if any(matches_path(pattern, path) for pattern in patterns)]


def as_patterns(patterns: str | Sequence[str], *, where: str) -> tuple[str, ...]:
    """One pattern or several, as a tuple of strings."""
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    for pattern in patterns:
        if not isinstance(pattern, str) or not pattern:
            expected = "a pattern should be a path such as 'head/*'"
            check.fail(where, expected=expected, actual=check.describe(pattern), exc_type=TypeError)
    return patterns


def flatten(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by path, in the tree's order.

    >>> flatten({"head": {"weight": 1, "bias": 2}})
    {'head/bias': 2, 'head/weight': 1}
    """
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {path_of(keys): leaf for keys, leaf in leaves}


def path_of(keys: Sequence[Any]) -> str:
    """The path of one of JAX's key tuples: dict keys, field names and indices, joined by slashes."""
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
    """A tree of booleans in the shape of `tree`: True where the path of the leaf matches a pattern.

    tree: any pytree. patterns: one or several. where: the name for the error.
    Raises: ValueError when a pattern matches no leaf.

    >>> mask({"head": {"weight": 1, "bias": 2}}, "**/weight")
    {'head': {'bias': False, 'weight': True}}
    """
    selected = set(select(patterns, flatten(tree), where=where))
    return jax.tree.map_with_path(lambda keys, leaf: path_of(keys) in selected, tree)


Leaves = str | tuple[str, ...] | Callable[[Params], PyTree]
"""Some of the parameters: "matrices", path patterns, or a function params -> tree of booleans."""


def leaves_mask(where: str, params: Params, leaves: Leaves) -> PyTree:
    """A tree of Python booleans in the shape of params: True for the chosen leaves.

    where: the name for the error. params: the tree. leaves: "matrices", patterns or a function of params.
    Raises: ValueError when a pattern matches no leaf.

    >>> leaves_mask("decay_on", {"norm": {"scale": 1}, "up": {"weight": 2}}, "matrices")
    {'norm': {'scale': False}, 'up': {'weight': True}}
    """
    if callable(leaves):
        return leaves(params)
    if leaves == "matrices":
        return jax.tree.map_with_path(lambda keys, leaf: is_matrix(path_of(keys), leaf), params)
    return mask(params, leaves, where=where)


def is_matrix(path: str, leaf: Array) -> bool:
    """Whether the leaf at `path` holds weights, by its name, or, where that is a number, by its shape.

    >>> nf.paths.is_matrix("head/weight", jnp.ones((2, 3))), nf.paths.is_matrix("head/bias", jnp.ones(3))
    (True, False)
    """
    *parents, name = path.split("/")
    if name in ("down", "up") and parents and not parents[-1].isdigit():
        name = parents[-1]
    if name.isdigit() or not name:
        return jnp.ndim(leaf) >= 2
    return not {"weight", "kernel", "embedding"}.isdisjoint(name.split("_"))


def values_by_pattern(where: str, params: Params, values: Mapping[str, Any], other: Any) -> PyTree:
    """The value of each leaf: that of the first pattern that matches its path, or `other`.

    The order is that of the dict as written. JAX sorts a dict by its keys whenever it goes through a
    transformation: write it inside of `build`, with numbers from hypers.

    where: the name for the error. params: the tree. values: a value for each pattern. other: for other leaves.
    Raises: ValueError when a pattern matches no leaf, or only leaves that earlier patterns match.

    >>> values_by_pattern("rates", {"head": {"bias": 1, "weight": 2}}, {"**/bias": 0.5}, 1.0)
    {'head': {'bias': 0.5, 'weight': 1.0}}
    """
    leaves = flatten(params)
    decided: dict[str, str] = {}
    for pattern in values:
        fitting = select(pattern, leaves, where=where)
        new = [path for path in fitting if path not in decided]
        if not new:
            before = decided[fitting[0]]
            problem = f"the pattern {pattern!r} should decide at least one leaf, got none"
            check.fail(where, f"{problem}: {before!r}, which is before it, fits them. Put it first.")
        decided |= dict.fromkeys(new, pattern)
    value = {path: values[pattern] for path, pattern in decided.items()}
    return jax.tree.map_with_path(lambda keys, leaf: value.get(path_of(keys), other), params)


def keep_where(tree: PyTree, keep: PyTree) -> PyTree:
    """The tree with None, in which JAX sees no leaf, where `keep` is False.

    >>> keep_where({"a": 1, "b": 2}, {"a": True, "b": False})
    {'a': 1, 'b': None}
    """
    return jax.tree.map(lambda on, leaf: leaf if on else None, keep, tree)


def fill_missing(like: PyTree, *parts: PyTree) -> PyTree:
    """One tree from the parts that `keep_where` returned; zeros in the shape of `like` where none has a leaf.

    >>> fill_missing({"a": jnp.ones(2), "b": jnp.ones(1)}, {"a": None, "b": jnp.ones(1)})["a"].tolist()
    [0.0, 0.0]
    """

    def fill(leaf, *others):
        return next((other for other in others if other is not None), jnp.zeros_like(leaf))

    return jax.tree.map(fill, like, *parts)


explain_calls(__name__)
