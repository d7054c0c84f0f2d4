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
Parameters have no such name: `blocks/act/weight`. A number in their patterns that no path has is a layer too,
after the name of the `repeat`: `blocks/3/**` is layer 3 of all leaves below blocks. These leaves are at least
two, and the size of their first axis is the same. For a `repeat` within a `repeat` each has a number:
`stages/1/blocks/3/**`.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations_with_replacement, product
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Params, PyTree
from nnfunc.calls import explain_calls
from nnfunc.errors import PatternError

__all__ = [
    "LayerMask",
    "Leaves",
    "fill_missing",
    "flatten",
    "is_matrix",
    "keep_where",
    "leaves_mask",
    "mask",
    "match_layers",
    "match_params",
    "matches",
    "select",
    "unflatten",
    "values_by_pattern",
    "where_on",
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

    patterns: one or several.
    paths: the paths to choose from.
    where: the name for the error.
    by_name: those of the paths that only a pattern with their last name matches.
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
            if any(re.fullmatch(r"-\d+", name) for name in pattern.split("/")):
                hint = "; layers are counted from 0, and the last of n is n - 1, not -1."
            hint = hint or check.nearest(pattern, paths)
            _refuse(where, pattern, f"should match at least one path, got none{hint}")
    return [path for path in paths if any(matches_path(pattern, path) for pattern in patterns)]


def _refuse(where: str, pattern: str, problem: str) -> NoReturn:
    error = PatternError(f"the pattern {pattern!r} {problem}", where=where)
    error.pattern = pattern
    raise error


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


LayerMask = bool | np.ndarray
"""A whole leaf or none of it, or which of its layers: booleans that broadcast to its shape."""


def match_params(patterns: str | Sequence[str], leaves: Mapping[str, Any], *, where: str) -> dict[str, LayerMask]:
    """Whether each parameter matches at least one of the patterns, by path; of a stacked one, which layers.

    patterns: one or several.
    leaves: the parameters by path.
    where: the name for the error.
    Raises: ValueError when a pattern matches nothing, or a number in it is not a layer.

    >>> leaves = {"blocks/bias": jnp.ones((3, 2)), "blocks/weight": jnp.ones((3, 2, 2)), "head": jnp.ones(2)}
    >>> on = match_params("blocks/1/bias", leaves, where="freeze")
    >>> on["blocks/bias"][:, 0].tolist(), on["blocks/weight"], on["head"]
    ([False, True, False], False, False)
    """
    result: dict[str, LayerMask] = dict.fromkeys(leaves, False)
    for pattern in as_patterns(patterns, where=where):
        for path, on in _match_pattern(pattern, leaves, where).items():
            result[path] = _simplify(np.logical_or(result[path], on))
    return result


def _match_pattern(pattern: str, leaves: Mapping[str, Any], where: str) -> dict[str, LayerMask]:
    """The parameters that a pattern matches: as it is written, or else with its numbers as layers."""
    if not any(map(str.isdigit, pattern.split("/"))) or any(matches(pattern, path) for path in leaves):
        return dict.fromkeys(select(pattern, leaves, where=where), True)
    matched, problems = {}, []
    for path, leaf in leaves.items():
        for stacks, layers in _stacks(pattern, path):
            axes = range(len(layers))
            problem = max(_layer_problem(stacks, axis, layers[axis], leaves) for axis in axes)
            if problem[0] == 0:
                on = np.zeros([*np.shape(leaf)[: len(layers)], *[1] * (np.ndim(leaf) - len(layers))], bool)
                on[tuple(slice(None) if layer is None else layer for layer in layers)] = True
                matched[path] = on
                break
            problems.append(problem)
    if problems and not matched:
        _refuse(where, pattern, f"should match a layer, got none: {max(problems)[1]}.")
    return matched or dict.fromkeys(select(pattern, leaves, where=where), True)


def _stacks(pattern: str, path: str) -> Iterator[tuple[list[str], tuple[int | None, ...]]]:
    """Each reading in which a pattern matches a path: where repeats may be, and the layer of each, None for all."""
    names, parts = path.split("/"), pattern.split("/")
    every = str(10**9)  # a layer number that stands for all, where a `*` is the axis of a repeat
    variants = list(product(*(("*", every) if part == "*" else (part,) for part in parts)))
    most = sum(part == "*" or part.isdigit() for part in parts)
    literal = sum(map(str.isdigit, names))  # numbers that may be names
    for count in range(1, 1 + most):
        numbered = [v for v in variants if count <= sum(map(str.isdigit, v)) <= count + literal]
        for ends in combinations_with_replacement(range(len(names)), count):
            starred = "/".join(part for i, name in enumerate(names) for part in (*["*"] * ends.count(i), name))
            for variant in numbered:
                layers = match_layers("/".join(variant), starred) or ()
                if len(layers) == count:
                    picked = tuple(None if layer == int(every) else layer for _, layer in layers)
                    yield ["".join(f"{name}/" for name in names[:end]) for end in ends], picked


def _layer_problem(stacks: list[str], axis: int, layer: int | None, leaves: Mapping[str, Any]) -> tuple[int, str]:
    """Why the leaves below stacks[axis] have no such layer, after the rank of the reason; (0, "") if they have."""

    def common_size(stack: str, axis: int) -> int:
        """The size of the axis of all leaves below; 0 if they differ."""
        shapes = [np.shape(leaf) for path, leaf in leaves.items() if path.startswith(stack)]
        sizes = {shape[axis] if len(shape) > axis else 0 for shape in shapes}
        return sizes.pop() if len(sizes) == 1 else 0

    stack, size = stacks[axis], common_size(stacks[axis], axis)
    name = repr(stack[:-1]) if stack else "the model"
    below = [path.removeprefix(stack).split("/")[0] for path in leaves if path.startswith(stack)]
    if not size:
        return 1, f"the leaves below {name} do not have the same first axis of layers"
    if any(map(str.isdigit, below)):
        return 1, f"the numbers below {name} are names of layers, not indices of a repeat"
    if len(below) < 2:
        return 2, f"{name} has one leaf, so it is not clear whether its first axis counts layers"
    if layer is not None and layer >= size:
        return 4, f"{name} has {size} layers, 0 to {size - 1}"
    if axis and stack == stacks[axis - 1] and not common_size(stack, axis + 1):
        shapes = [np.shape(leaf) for path, leaf in leaves.items() if path.startswith(stack)]
        if min(map(len, shapes)) == axis + 1:
            return 2, f"{name} has a leaf of {axis + 1} axes, so it is not clear whether the last counts layers"
    if axis == len(stacks) - 1 and common_size(stack, axis + 1):
        start = stacks[axis - 1] if axis else ""
        names = stack.removeprefix(start).split("/")[:-2]
        parents = [start + "/".join(names[:n]) + "/" for n in range(1, len(names) + 1)]
        for outer in (repr(parent[:-1]) for parent in parents if common_size(parent, axis)):
            return 3, f"both {outer} and {name} may be a repeat; write the number after {outer}, or one after each"
    return 0, ""


def _simplify(on: np.ndarray) -> LayerMask:
    """True or False where all layers agree."""
    return bool(on.all()) if on.all() or not on.any() else on


def where_on(on: LayerMask, new: Any, old: Any) -> Any:
    """`new` where the mask of a leaf is true, else `old`.

    on: the mask of a leaf.
    new, old: arrays of its shape, or numbers.

    >>> where_on(True, 1.0, None), where_on(np.array([[False], [True]]), jnp.ones((2, 1)), 0.0).tolist()
    (1.0, [[0.0], [1.0]])
    """
    return jnp.where(on, new, old) if np.ndim(on) else new if on else old


def mask(tree: PyTree, patterns: str | Sequence[str], *, where: str = "mask") -> PyTree:
    """A tree of booleans in the shape of `tree`: True where the path of the leaf matches a pattern.

    A leaf of which a pattern with a number picks some layers has an array, which broadcasts to its shape.
    tree: any pytree.
    patterns: one or several.
    where: the name for the error.
    Raises: ValueError when a pattern matches no leaf.

    >>> mask({"head": {"weight": 1, "bias": 2}}, "**/weight")
    {'head': {'bias': False, 'weight': True}}
    """
    matched = match_params(patterns, flatten(tree), where=where)
    return jax.tree.map_with_path(lambda keys, leaf: matched[path_of(keys)], tree)


Leaves = str | tuple[str, ...] | Callable[[Params], PyTree]
"""Some of the parameters: "matrices", path patterns, or a function params -> tree of booleans."""


def leaves_mask(where: str, params: Params, leaves: Leaves, *, by_layer: bool = False) -> PyTree:
    """A tree of Python booleans in the shape of params: True for the chosen leaves.

    where: the name for the error.
    params: the tree.
    leaves: "matrices", patterns or a function of params.
    by_layer: whether patterns may pick single layers, as in `mask`.
    Raises: ValueError when a pattern matches no leaf.

    >>> leaves_mask("decay_on", {"norm": {"scale": 1}, "up": {"weight": 2}}, "matrices")
    {'norm': {'scale': False}, 'up': {'weight': True}}
    """
    if callable(leaves):
        return leaves(params)
    if leaves == "matrices":
        return jax.tree.map_with_path(lambda keys, leaf: is_matrix(path_of(keys), leaf), params)
    chosen = mask(params, leaves, where=where)
    parts = [path for path, on in flatten(chosen).items() if np.ndim(on)]
    if parts and not by_layer:
        check.fail(where, expected="patterns should match whole leaves here", actual=f"some layers of {parts[0]}")
    return chosen


def is_matrix(path: str, leaf: Array) -> bool:
    """Whether the leaf at `path` holds weights, by its name, or, where that is a number, by its shape.

    >>> nf.paths.is_matrix("head/weight", jnp.ones((2, 3))), nf.paths.is_matrix("head/bias", jnp.ones(3))
    (True, False)
    """
    *parents, name = path.split("/")
    if name in ("down", "up") and parents and not parents[-1].isdigit():
        name = parents[-1]
    if name.isdigit() or not name:
        return np.ndim(leaf) >= 2
    return not {"weight", "kernel", "embedding"}.isdisjoint(name.split("_"))


def values_by_pattern(
    where: str, params: Params, values: Mapping[str, Any], other: Any, *, other_layers: Any = 0
) -> PyTree:
    """The value of each leaf: that of the first pattern that matches its path, or `other`.

    A value is a number, or an array with one number for each layer. Where layers of a leaf differ, its value is an
    array that broadcasts to its shape.
    The order is that of the dict as written. JAX sorts a dict by its keys whenever it goes through a
    transformation: write it inside of `build`, with numbers from hypers.

    where: the name for the error.
    params: the tree.
    values: a value for each pattern.
    other: for other leaves.
    other_layers: for the layers that no pattern matches of a leaf in which one matches a layer.
    Raises: ValueError when a pattern matches no leaf, or only leaves that earlier patterns match, or an array has
    another number than layers.

    >>> values_by_pattern("rates", {"head": {"bias": 1, "weight": 2}}, {"**/bias": 0.5}, 1.0)
    {'head': {'bias': 0.5, 'weight': 1.0}}
    """
    leaves = flatten(params)
    undecided: dict[str, LayerMask] = dict.fromkeys(leaves, True)
    decided: dict[str, dict[str, LayerMask]] = {path: {} for path in leaves}
    for pattern in values:
        fitting = {path: on for path, on in match_params(pattern, leaves, where=where).items() if np.any(on)}
        new = {path: _simplify(np.logical_and(on, undecided[path])) for path, on in fitting.items()}
        if not any(map(np.any, new.values())):
            before = next(iter(decided[next(iter(fitting))]))
            problem = f"should decide at least one leaf, got none: {before!r}, which is before it, fits them."
            _refuse(where, pattern, f"{problem} Put it first.")
        for path, on in new.items():
            decided[path] |= {pattern: on} if np.any(on) else {}
            undecided[path] = _simplify(np.logical_and(undecided[path], np.logical_not(on)))

    def value(keys: Any, leaf: Any) -> Any:
        path, result = path_of(keys), other_layers
        for pattern, on in decided[path].items():
            result = where_on(on, _by_layer(where, path, values[pattern], leaf), result)
        return result if decided[path] else other

    return jax.tree.map_with_path(value, params)


def _by_layer(where: str, path: str, value: Any, leaf: Any) -> Any:
    """A number as it is; an array of one number for each layer so that it broadcasts to the leaf's shape."""
    if not np.ndim(value):
        return value
    if np.shape(value) != np.shape(leaf)[:1]:
        expected = f"{path} should have one number, or one for each of its layers"
        check.fail(where, expected=expected, actual=f"shape {np.shape(value)} for parameters of shape {np.shape(leaf)}")
    return value.reshape(-1, *[1] * (np.ndim(leaf) - 1))


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
