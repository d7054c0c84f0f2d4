"""Look inside a model: capture the values that its layers compute, or replace them.

The result of every named child of every combinator has a path: `blocks/*/act`, `head`. In `repeat` and
`ensemble` all layers share one path, and their values come stacked along a leading axis.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax

from nnfunc import check, paths
from nnfunc.base import (
    Context,
    Key,
    Layer,
    Model,
    Params,
    PatchFunction,
    PyTree,
    Watch,
    as_model,
    canonicalize,
    fold,
    resolve_state,
)

__all__ = ["capture", "patch"]


def capture(model: Layer, patterns: str | Sequence[str]) -> Callable[..., tuple[PyTree, dict[str, PyTree]]]:
    """A function like apply that also returns the values inside: `y, taps = f(params, x)`.

    taps: {path: value} for every path that matches a pattern; inside `repeat`, values are [n, ...].
    The returned function takes `key` and `state` as apply does, and `train`, whether batch norm uses the
    statistics of the batch, False by default.

    model: any layer. patterns: one or several path patterns (`nf.paths`), such as `blocks/*/act`.
    Raises: ValueError when a pattern fits no path of the model, naming the nearest; or only values that are
    computed inside `jax.vmap`, `jax.lax.scan` and the like of a flow (`wire`), which cannot leave it.

    >>> model = nf.serial(up=nf.linear(4, 8), act=jax.nn.relu, down=nf.linear(8, 1))
    >>> y, taps = nf.capture(model, "act")(model.init(jax.random.key(0)), jnp.ones((3, 4)))
    >>> {path: tap.shape for path, tap in taps.items()}
    {'act': (3, 8)}
    """
    model = as_model(model, where="capture")
    patterns = paths.as_patterns(patterns, where="capture")

    def captured(
        params: Params, x: PyTree, *, key: Key | None = None, state: PyTree | None = None, train: bool = False
    ) -> tuple[PyTree, dict[str, PyTree]]:
        state = resolve_state(model, state, "capture")
        watch = Watch()
        key = fold(key, "apply")  # as apply does
        ctx = Context(key=key, state=state, train=train, capture=patterns, watch=watch)
        params, x = canonicalize((params, x))
        y, out = model.forward(params, x, ctx)
        for pattern in patterns:
            matching = paths.select(pattern, watch.paths, where="capture")
            if all(map(watch.is_hidden, matching)):
                problem = f"{matching[0]} is computed inside a transformation such as jax.vmap or jax.lax.scan"
                hint = "Call the child on all values at once, or put the transformation around the model."
                check.fail("capture", f"{problem}, so its value cannot leave the flow.", hint=hint)
        return y, _pick_layers(patterns, out.taps)

    return captured


def _pick_layers(patterns: Sequence[str], taps: dict[str, PyTree]) -> dict[str, PyTree]:
    """The taps, those of single layers by their own paths."""
    result = {}
    for path, value in taps.items():
        matches = [paths.match_layers(pattern, path) for pattern in patterns]
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

    model: any layer. values: by path,
    an array of the shape and dtype that `capture` returns there, which replaces the value: inside `repeat` that
    of all layers at `blocks/*/act`, [n, ...], of one layer at `blocks/3/act`;
    `nf.Nudge(delta)`, which is added to it;
    or a function whose result replaces it, of the value, and of the `layer` if it has a parameter of this name:
    the index in the surrounding `repeat`, None outside of one, a tuple in nested ones. Here the path is a pattern.
    A patched layer is seen by all that follow it; one at `blocks/*/act` replaces what all layers compute.
    Raises: ValueError when a path is not one of the model's, or a value has another shape or type.

    >>> model = nf.serial(act=jax.nn.relu, double=lambda x: 2 * x)
    >>> nf.patch(model, {"act": jnp.array([5.0])}).apply({}, jnp.array([1.0]))
    Array([10.], dtype=float32)
    >>> deep = nf.repeat(nf.serial(add=lambda x: x + 1), 4)
    >>> float(nf.patch(deep, {"2/add": jnp.negative}).apply({}, jnp.zeros(())))
    -2.0
    """
    model = as_model(model, where="patch")
    values = {path: PatchFunction(value) if callable(value) else value for path, value in values.items()}

    def forward(params, x, ctx):
        patches = {"/".join((*ctx.path, path)): value for path, value in values.items()}
        watch = Watch()
        inside = replace(ctx, patch={**ctx.patch, **patches}, watch=watch)
        try:
            y, out = model.forward(params, x, inside)
        finally:
            if ctx.watch is not None:
                ctx.watch.add(watch)
        for path in patches:
            if all(paths.match_layers(path, other) is None for other in watch.paths):
                known = check.nearest(path, watch.paths)
                check.fail("patch", f"{path!r} should be the path of a value{known}")
        return y, out

    return Model(model.init, forward=forward, init_state=model.init_state, name=model.name)
