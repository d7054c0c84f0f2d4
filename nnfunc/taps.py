"""Values inside of a model under their paths: they are captured, patched, watched, and named for remat."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, paths
from nnfunc.base import Context, Nudge, Out, Params, PatchFunction, PyTree, Watch


def tap(ctx: Context, path: str, y: PyTree, out: Out, *, by_name: bool = False) -> tuple[PyTree, Out]:
    """y and out, with y patched, captured and stored by `remat` where the context has a pattern for `path`.

    by_name: whether only patterns count that end with the last name of the path.
    """
    if ctx.watch is not None:
        ctx.watch.paths[path] = by_name
    for patch in ctx.patch:
        is_function = isinstance(patch.value, PatchFunction)
        layers = paths.match_layers(patch.path, path, by_name) if is_function else _match_exactly(patch.path, path)
        if layers is not None:
            y = _patched(ctx, path, y, patch.value, layers)
    if ctx.names is not None:
        y = _named(ctx.names, path, y, by_name)
    if any(paths.match_layers(pattern, path, by_name) is not None for pattern in ctx.capture):
        out = Out(out.state, {path: y, **out.taps})
    return y, out


def is_requested(ctx: Context, path: str) -> bool:
    """Whether a pattern asks for a value by its name: `**/weights` for those of attention, `**` does not."""
    if ctx.watch is not None:
        ctx.watch.paths[path] = True
    patterns = (*ctx.capture, *(patch.path for patch in ctx.patch), *(ctx.names or ()))
    return any(paths.match_layers(pattern, path, by_name=True) is not None for pattern in patterns)


def call_watched(
    where: str, patterns: Sequence[str], forward: Callable[..., Any], params: Params, x: PyTree, ctx: Context
) -> tuple[PyTree, Out, Watch]:
    """The results of `forward(params, x, ctx)`, and the record of this call.

    where: the name for the error.
    patterns: of values, relative to the path of the context.
    Raises: ValueError when a pattern matches no value, naming the nearest.
    """
    watch, start = Watch(), len("/".join((*ctx.path, "")))
    try:
        y, out = forward(params, x, replace(ctx, watch=watch))
    finally:
        if ctx.watch is not None:
            ctx.watch.add(watch)
    known = {path[start:]: by_name for path, by_name in watch.paths.items()}
    paths.select(patterns, known, where=where, by_name=[path for path, by_name in known.items() if by_name])
    return y, out, watch


def absolute(ctx: Context, patterns: Iterable[str]) -> tuple[str, ...]:
    """Patterns relative to the path of the context as patterns of whole paths."""
    return tuple("/".join((*ctx.path, pattern)) for pattern in patterns)


SAVED = "nnfunc.saved"


def _named(patterns: tuple[str, ...], path: str, y: PyTree, by_name: bool) -> PyTree:
    """y with the name by which a policy of `jax.checkpoint` stores it: that of its layer, or the one of patterns."""
    from jax.ad_checkpoint import checkpoint_name  # `import jax` does not bring it

    name = SAVED if patterns else path.rpartition("/")[2].partition("@")[0]
    matches = [layers for p in patterns if (layers := paths.match_layers(p, path, by_name)) is not None]
    if any(matches):
        expected, actual = "a pattern should be of all layers of a repeat", f"one of a single layer of {path}"
        hint = "They are one loop, which stores the same of each: write * for the layer, or use nf.serial."
        check.fail("remat", expected=expected, actual=actual, hint=hint)
    if patterns and not matches:
        return y
    return jax.tree.map(lambda leaf: checkpoint_name(leaf, name) if isinstance(leaf, jax.Array) else leaf, y)


def _match_exactly(path: str, other: str) -> tuple[tuple[int, int], ...] | None:
    """As `paths.match_layers`, of a path that is no pattern: `*` is the stacked axis."""
    if not match_stack(path, other):
        return None
    pairs = [pair for pair in zip(path.split("/"), other.split("/"), strict=True) if pair[1] == "*"]
    return tuple((axis, int(name)) for axis, (name, _) in enumerate(pairs) if name != "*")


def _as_float_of(new: Any, like: Any) -> Any:
    """A float in the dtype of another: float32 beside the bfloat16 of `precision`."""
    dtypes = jax.dtypes.result_type(new), jax.dtypes.result_type(like)
    return jnp.asarray(new).astype(dtypes[1]) if all(jnp.issubdtype(d, jnp.floating) for d in dtypes) else new


def _patched(ctx: Context, path: str, y: PyTree, patch: Any, layers: tuple[tuple[int, int], ...]) -> PyTree:
    """y replaced, added to or put through a function, in the given layers of the stacked axes, () for all."""
    if isinstance(patch, Nudge):
        new = _nudged(path, y, patch.delta)
    elif isinstance(patch, PatchFunction):
        new = patch(y, ctx.layer)
        new = jax.tree.map(_as_float_of, new, y) if jax.tree.structure(new) == jax.tree.structure(y) else new
    else:
        new = patch
    check_same_shapes("patch", f"the given value at {path}", new, "the value it replaces", y)
    for axis, index in layers:
        if index >= ctx.sizes[axis]:
            expected = f"{path} should have its layer in [0, {ctx.sizes[axis]})"
            check.fail("patch", expected=expected, actual=index)
        here = ctx.layer[axis] == index
        new = jax.tree.map(lambda a, b, here=here: jnp.where(here, a, b), new, y)
    return new


def _nudged(path: str, y: PyTree, delta: PyTree) -> PyTree:
    """The value plus delta, whose arrays broadcast to those of the value."""
    same = jax.tree.structure(y) == jax.tree.structure(delta)
    for value, change in zip(jax.tree.leaves(y), jax.tree.leaves(delta), strict=True) if same else ():
        sizes = zip(reversed(np.shape(change)), reversed(np.shape(value)), strict=False)
        same &= np.ndim(change) <= np.ndim(value) and all(a in (1, b) for a, b in sizes)
    if not same:
        shapes, actual = (jax.tree.map(lambda leaf: f"{[*np.shape(leaf)]}", tree) for tree in (y, delta))
        hint = f"Its shape is that of the value, or broadcasts to it; nf.capture(model, {path!r}) returns the value."
        check.fail("patch", expected=f"the Nudge at {path} should fit the shape {shapes}", actual=actual, hint=hint)
    return jax.tree.map(lambda value, change: value + _as_float_of(change, value), y, delta)


def match_stack(path: str, stack: str) -> bool:
    """Whether a path, of which some layers may be numbers, leads into this stack."""
    names, stacked = path.split("/"), stack.split("/")
    pairs = zip(names, stacked, strict=False)
    return len(names) == len(stacked) and all(a == b or (b == "*" and a.isdigit()) for a, b in pairs)


def check_same_shapes(
    where: str, actual_name: str, actual: PyTree, expected_name: str, expected: PyTree, hint: str = ""
) -> None:
    """Both trees have the same structure, shapes and dtypes."""

    def describe(tree):
        return jax.tree.map(lambda leaf: f"{jax.dtypes.result_type(leaf)}{list(np.shape(leaf))}", tree)

    if jax.tree.structure(actual) != jax.tree.structure(expected) or describe(actual) != describe(expected):
        expected_text = f"{actual_name} should have the shape and type of {expected_name}, {describe(expected)}"
        check.fail(where, expected=expected_text, actual=describe(actual), hint=hint)
