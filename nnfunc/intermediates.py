"""Look inside a model: capture the values that its layers compute, or replace them.

The result of every named child of every combinator has a path: `blocks/*/act`, `head`. In `repeat` and
`ensemble` all layers share one path, and their values come stacked along a leading axis.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax

from nnfunc import check, paths
from nnfunc.base import (
    Context,
    Key,
    Layer,
    Model,
    Nudge,
    Out,
    Params,
    Patch,
    PatchFunction,
    PyTree,
    as_model,
    canonicalize,
    fold,
    required_parameters,
    resolve_state,
)
from nnfunc.taps import absolute, call_watched


def capture(model: Layer, patterns: str | Sequence[str]) -> Callable[..., tuple[PyTree, dict[str, PyTree]]]:
    """A function like apply that also returns the values inside: `y, taps = f(params, x)`.

    taps: {path: value} for every path that matches a pattern; inside `repeat`, values are [n, ...].
    `nf.attention` reports its `scores`, `weights` and `heads` only to patterns that end with this name, so
    `**/weights` captures attention weights and `**` does not: usually they are not stored.
    The returned function takes `key` and `state` as apply does, and `train`, whether batch norm uses the
    statistics of the batch, False by default.

    model: any layer.
    patterns: one or several path patterns (`nf.paths`), such as `blocks/*/act`.
    Raises: ValueError when a pattern fits no path of the model, naming the nearest; or only values that are
    computed inside `jax.vmap`, `jax.lax.scan` and the like of a flow (`wire`), which cannot leave it.

    >>> model = nf.serial(up=nf.linear(4, 8), act=jax.nn.relu, down=nf.linear(8, 1))
    >>> y, taps = nf.capture(model, "act")(model.init(jax.random.key(0)), jnp.ones((3, 4)))
    >>> {path: tap.shape for path, tap in taps.items()}
    {'act': (3, 8)}
    """
    model = _tapped("capture", model, patterns)

    def captured(
        params: Params, x: PyTree, *, key: Key | None = None, state: PyTree | None = None, train: bool = False
    ) -> tuple[PyTree, dict[str, PyTree]]:
        state = resolve_state(model, state, "capture")
        ctx = Context(key=fold(key, "apply"), state=state, train=train)  # as apply does
        return model.forward(*canonicalize((params, x)), ctx)[0]

    return captured


def tapped(model: Layer, patterns: str | Sequence[str]) -> Model:
    """The model with y = (y, taps): values inside are part of its result, as `capture` returns them.

    For losses on inner values: `y, taps = predict(x)` in an objective. Parameters, state and random keys are those
    of the model, and so are the paths, also where it is part of a larger one.

    model: any layer.
    patterns: one or several, relative to the model, as in `capture`.
    Raises: ValueError as `capture` does, when the model is called.

    >>> model = nf.tapped(nf.serial(up=nf.linear(4, 8), act=jax.nn.relu, down=nf.linear(8, 1)), "act")
    >>> y, taps = model.apply(model.init(jax.random.key(0)), jnp.ones((3, 4)))
    >>> y.shape, taps["act"].shape
    ((3, 1), (3, 8))
    """
    return _tapped("tapped", model, patterns)


def _tapped(where: str, model: Layer, patterns: str | Sequence[str]) -> Model:
    model, patterns = as_model(model, where=where), paths.as_patterns(patterns, where=where)

    def forward(params, x, ctx):
        inside, start = absolute(ctx, patterns), len("/".join((*ctx.path, "")))
        capturing = replace(ctx, capture=(*ctx.capture, *inside))
        y, out, watch = call_watched(where, patterns, model.forward, params, x, capturing)
        by_name = {path for path, is_named in watch.paths.items() if is_named}
        for pattern in inside if watch.hidden else ():
            matching = paths.select(pattern, watch.paths, where=where, by_name=by_name)
            if all(map(watch.is_hidden, matching)):
                problem = f"{matching[0]} is computed inside a transformation such as jax.vmap or jax.lax.scan"
                hint = "Call the child on all values at once, or put the transformation around the model."
                check.fail(where, f"{problem}, so its value cannot leave the flow.", hint=hint)
        taps = {path[start:]: value for path, value in out.taps.items()}
        taps = _pick_layers(patterns, taps, {path[start:] for path in by_name})
        outer = (path for path in out.taps if _matches_any(ctx.capture, path, path in by_name))
        return (y, taps), Out(out.state, {path: out.taps[path] for path in outer})

    return model.replace(forward=forward)


def _matches_any(patterns: Sequence[str], path: str, by_name: bool) -> bool:
    return any(paths.match_layers(pattern, path, by_name) is not None for pattern in patterns)


def _pick_layers(patterns: Sequence[str], taps: dict[str, PyTree], by_name: Collection[str]) -> dict[str, PyTree]:
    """The taps, those of single layers by their own paths. by_name: as in `paths.select`."""
    result = {}
    for path, value in taps.items():
        matches = [paths.match_layers(pattern, path, path in by_name) for pattern in patterns]
        for layers in dict.fromkeys(layers for layers in matches if layers is not None):
            names, one = path.split("/"), value
            stacked = [i for i, name in enumerate(names) if name == "*"]
            for axis, layer in sorted(layers, reverse=True):
                size = jax.tree.leaves(one)[0].shape[axis]
                if layer >= size:
                    check.fail("capture", expected=f"{path} should have its layer in [0, {size})", actual=layer)
                names[stacked[axis]] = str(layer)
                one = jax.tree.map(lambda leaf, axis=axis, layer=layer: leaf.take(layer, axis), one)
            result["/".join(names)] = one
    return result


def patch(model: Layer, values: Mapping[str, Any]) -> Model:
    """The model with the values at some paths replaced. It can be differentiated with respect to them.

    model: any layer.
    values: by path,
    an array of the shape and dtype that `capture` returns there, which replaces the value: inside `repeat` that of
    all layers at `blocks/*/act`, [n, ...], of one layer at `blocks/3/act`; `nf.Nudge(delta)`, which is added to it;
    or a function whose result replaces it, of the value, and of the `layer` if it has a parameter of this name: the
    index in the surrounding `repeat`, None outside of one, a tuple in nested ones. Here the path is a pattern.
    Where several fit one value, all apply, in the order of the dict.
    A patched layer is seen by all that follow it; one at `blocks/*/act` replaces what all layers compute. Of
    attention the `scores`, `weights` and `heads` can be patched, by paths that end with this name.
    Raises: TypeError when a value is none of these, such as a list; ValueError when a path is not one of the
    model's, or a value has another shape or type.

    >>> model = nf.serial(act=jax.nn.relu, double=lambda x: 2 * x)
    >>> nf.patch(model, {"act": jnp.array([5.0])}).apply({}, jnp.array([1.0]))
    Array([10.], dtype=float32)
    >>> deep = nf.repeat(nf.serial(add=lambda x: x + 1), 4)
    >>> float(nf.patch(deep, {"2/add": jnp.negative}).apply({}, jnp.zeros(())))
    -2.0
    """
    model = as_model(model, where="patch")
    if not isinstance(values, Mapping):
        expected = "values should be a dict by path, such as {'blocks/3/act': value}"
        check.fail("patch", expected=expected, actual=check.describe(values), exc_type=TypeError)
    values = {path: _parse_patch(path, value) for path, value in values.items()}

    def forward(params, x, ctx):
        patches = tuple(map(Patch, absolute(ctx, values), values.values()))
        inside = replace(ctx, patch=(*patches, *ctx.patch))  # those around this model apply to its values
        return call_watched("patch", tuple(values), model.forward, params, x, inside)[:2]

    return model.replace(forward=forward)


def _parse_patch(path: str, value: Any) -> Any:
    """The patch of one path: a function as a PatchFunction, anything else unchanged. Refuses what can be none."""
    expected = f"the value of {path!r} should be an array, an nf.Nudge or a function of the value"
    if isinstance(value, Model | type) or not (callable(value) or _holds_arrays(value)):
        is_list = isinstance(value, list | tuple)
        hint = "Convert it: jnp.asarray(value)." if is_list else ""
        hint = "Write nf.Nudge(delta)." if value is Nudge else hint
        check.fail("patch", expected=expected, actual=check.describe(value), hint=hint, exc_type=TypeError)
    if not callable(value):
        return value
    others = [name for name in required_parameters(value)[1:] if name != "layer"]
    if others:
        expected = f"the function of {path!r} should take the value, and perhaps layer"
        check.fail("patch", expected=expected, actual=f"a parameter {others[0]!r}", exc_type=TypeError)
    return PatchFunction(value)


def _holds_arrays(value: Any) -> bool:
    """Whether a value is an array, a number or a pytree of arrays. Lists of numbers are none."""
    leaves = jax.tree.leaves(value)
    numbers = isinstance(value, list | tuple) and not isinstance(value, Nudge) and all(map(check.is_plain, leaves))
    return bool(leaves) and not numbers and all(check.is_plain(x) or hasattr(x, "dtype") for x in leaves)
