"""Copies of a layer with parameters of their own, stacked along a leading axis: in a row, or on the same input."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, paths, tuning
from nnfunc.base import Context, Layer, Model, Patch, PyTree, as_model, indexed_keys, runs_eagerly, vary_like, vmap_keys
from nnfunc.rematerialization import gathering, recomputed
from nnfunc.taps import check_same_shapes, match_stack, tap


def repeat(block: Layer, n: int, *, unroll: int = 1) -> Model:
    """The block n times in a row, each with its own parameters, stacked along a leading axis.

    It runs as one `lax.scan`, so compile time does not grow with n. Layer i has the key `fold_in(key, i)`. Outside of
    jit a block that reads values, as to print them, runs layer by layer.
    Taps inside are named `*/act`, the outputs of the layers `*`; they come stacked, [n, ...].

    block: the layer.
    n: the number of copies, at least 1.
    unroll: the number of copies written out in each step of the loop, at least 1; it changes speed only, not
        parameters, keys, taps or checkpoints. With 1, the default, all of up to 16 copies are written out where
        `nnfunc tune` has measured that this is faster.
    Shapes: the block keeps the shape and type of x; every parameter [...] becomes [n, ...].
    Raises: ValueError when the block changes the shape of its input.

    >>> deep = nf.repeat(nf.residual(nf.linear(4, 4)), 100)
    >>> deep.init(jax.random.key(0))["body"]["weight"].shape
    (100, 4, 4)
    """
    block = as_model(block, where="repeat")
    check.size("repeat", n=n, unroll=unroll)

    init, init_state = _copies(block, n)

    def forward(params, x, ctx):
        inner, patches = _layer_context(ctx, n)
        _check_stacked("repeat", params, n)
        if ctx.watch is not None:
            ctx.watch.repeats.append(ctx.path)

        def layer(x, inputs, inner=inner):
            params, key, state, patch, index = inputs
            patch = _join_patches(patch, inner.patch)
            ctx = replace(inner, key=key, state=state, patch=patch, layer=(*inner.layer, index))
            run = gathering(block, ctx)
            x = x if ctx.partition is None else ctx.partition.between(x)
            run = run if ctx.remat is None else recomputed(run, ctx.remat)
            return tap(ctx, "/".join(ctx.path), *run(params, x, ctx))

        def checked_layer(x, inputs):
            y, out = layer(x, inputs)
            hint = "For layers of different shapes use serial."
            check_same_shapes("repeat", "the block's output", y, "its input", x, hint)
            return y, out

        keys = None if ctx.key is None else indexed_keys(ctx.key, n)
        inputs = (params, keys, ctx.state, patches, jnp.arange(n, dtype=jnp.int32))

        def run(x):
            x = vary_like(x, (params, keys, ctx.state, ctx.patch))
            if ctx.compute is None:
                unwatched = replace(inner, watch=None)
                x = _widen_carry(lambda x, inputs: layer(x, inputs, unwatched)[0], x, inputs)
            return jax.lax.scan(checked_layer, x, inputs, length=n, unroll=_unrolled(block, n, unroll, x))

        try:
            return run(x)
        except (TypeError, AttributeError, IndexError) as error:
            if not runs_eagerly(error, x, inputs):
                raise
        with jax.disable_jit():  # one layer after another, for one that reads its values, as to print them
            return run(x)

    return Model(init, forward=forward, init_state=init_state, name="repeat", parts={"*": block})


def _unrolled(block: Model, n: int, unroll: int, x: PyTree) -> int:
    """How many of the n blocks are written out in each step of the loop: all where that was measured as faster."""
    leaves = jax.tree.leaves(x)
    if unroll == 1 and 1 < n <= 16 and leaves:
        key = f"{n} blocks {block.name} {leaves[0].dtype} {tuning.join_sizes(np.shape(leaves[0]))}"
        return n if tuning.choose(key, "scanned", ("scanned", "unrolled")) == "unrolled" else 1
    return min(unroll, n)


def ensemble(model: Layer, n: int) -> Model:
    """n copies of the model with separate parameters on the same x: results [n, ...].

    Copy i has the key `fold_in(key, i)`. `serial(ensemble(model, 5), lambda y: y.mean(0))` averages.

    model: the layer to copy.
    n: the number of copies, at least 1.

    >>> models = nf.ensemble(nf.linear(4, 2), 5)
    >>> models.apply(models.init(jax.random.key(0)), jnp.ones((3, 4))).shape
    (5, 3, 2)
    """
    model = as_model(model, where="ensemble")
    check.size("ensemble", n=n)

    init, init_state = _copies(model, n)

    def forward(params, x, ctx):
        inner, patches = _layer_context(ctx, n)
        _check_stacked("ensemble", params, n)

        def run_copy(key, params, state, patch, index):
            patch = _join_patches(patch, inner.patch)
            copy = replace(inner, key=key, state=state, patch=patch, layer=(*inner.layer, index))
            return tap(copy, "/".join(copy.path), *model.forward(params, x, copy))

        inputs = (params, ctx.state, patches, jnp.arange(n, dtype=jnp.int32))
        keys = None if ctx.key is None else indexed_keys(ctx.key, n)
        try:
            if keys is None:
                return jax.vmap(partial(run_copy, None), axis_size=n)(*inputs)
            return vmap_keys(run_copy, keys, *inputs)
        except (TypeError, AttributeError, IndexError) as error:
            if not runs_eagerly(error, x, keys, inputs):
                raise
        # one copy after another, for a layer that reads its values, as to print them
        copies = [run_copy(*jax.tree.map(lambda leaf, i=i: leaf[i], (keys, *inputs))) for i in range(n)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *copies)

    return Model(init, forward=forward, init_state=init_state, name="ensemble", parts={"*": model})


def _copies(model: Model, n: int) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """init and init_state of n copies of the model, stacked; copy i has the key fold_in(key, i)."""

    def init(key):
        return jax.lax.map(lambda i: model.init(jax.random.fold_in(key, i)), jnp.arange(n))

    def init_state(key=None):
        if key is not None and model.draws_state:
            return jax.lax.map(lambda i: model.init_state(jax.random.fold_in(key, i)), jnp.arange(n))
        one = jax.tree.map(jnp.asarray, model.init_state(key))
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), one)

    return init, init_state


def _widen_carry(layer: Callable[..., PyTree], x: PyTree, stacked: PyTree) -> PyTree:
    """x of half precision in the dtype of layer(x), because a loop must keep its dtypes."""

    def is_half(leaf):
        return jax.dtypes.result_type(leaf) in (jnp.float16, jnp.bfloat16)

    if not any(map(is_half, jax.tree.leaves(x))):
        return x
    y = jax.eval_shape(layer, x, jax.tree.map(lambda leaf: leaf[0], stacked))
    if jax.tree.structure(y) != jax.tree.structure(x):
        return x

    def widen(leaf, like):
        return leaf.astype(like.dtype) if is_half(leaf) and like.dtype == jnp.float32 else leaf

    return jax.tree.map(widen, x, y)


def _layer_context(ctx: Context, n: int) -> tuple[Context, tuple[Patch | None, ...]]:
    """The context inside a stacked axis, and its patches that are split among the layers, None for the others."""
    inner = replace(ctx, path=(*ctx.path, "*"), sizes=(*ctx.sizes, n), key=None, state={})
    start = "/".join(inner.path)

    def is_stacked(path: str) -> bool:
        names = path.split("/")
        head = "/".join(names[: len(inner.path)])
        return names[len(inner.path) - 1 : len(inner.path)] == ["*"] and match_stack(head, start)

    stacked = tuple(patch if is_stacked(patch.path) else None for patch in ctx.patch)
    _check_stacked("patch", {patch.path: patch.value for patch in stacked if patch is not None}, n)
    return inner, stacked


def _join_patches(stacked: tuple[Patch | None, ...], patches: tuple[Patch, ...]) -> tuple[Patch, ...]:
    """The patches in their order, those of a stacked axis for one layer."""
    return tuple(whole if one is None else one for one, whole in zip(stacked, patches, strict=True))


def _check_stacked(where: str, tree: PyTree, n: int) -> None:
    for path, leaf in paths.flatten(tree).items():
        if np.ndim(leaf) < 1 or np.shape(leaf)[0] != n:
            expected = f"{path} should have a leading axis of {n}, one entry for each layer"
            check.fail(where, expected=expected, actual=f"shape {np.shape(leaf)}")
