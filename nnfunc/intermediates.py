"""Look inside a model: capture the values that its layers compute, or replace them.

The result of every named child of every combinator has a path: `blocks/*/act`, `head`. In `repeat` and
`ensemble` all layers share one path, and their values come stacked along a leading axis.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nnfunc import check, paths
from nnfunc.base import Context, Key, Layer, Model, Params, PyTree, Watch, as_model, canonicalize, fold, resolve_state

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
        return y, out.taps

    return captured


def patch(model: Layer, values: Mapping[str, Any]) -> Model:
    """The model with the values at some paths replaced. It can be differentiated with respect to them.

    model: any layer. values: arrays of the same shapes and dtypes, by the paths that `capture` returns.
    Raises: ValueError when a path is not one of the model's, or a value has another shape or type.

    >>> model = nf.serial(act=jax.nn.relu, double=lambda x: 2 * x)
    >>> nf.patch(model, {"act": jnp.array([5.0])}).apply({}, jnp.array([1.0]))
    Array([10.], dtype=float32)
    """
    model = as_model(model, where="patch")

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
            if path not in watch.paths:
                known = check.nearest(path, watch.paths)
                check.fail("patch", f"{path!r} should be the path of a value{known}")
        return y, out

    return Model(model.init, forward=forward, init_state=model.init_state, name=model.name)
