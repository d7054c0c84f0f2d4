"""Low-rank adapters: most parameters of a model stay fixed, and small corrections of some are trained."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, initializers, paths
from nnfunc.base import (
    Array,
    Layer,
    Model,
    Out,
    Params,
    PyTree,
    Scalar,
    as_model,
    fold,
    indexed_keys,
    vmap_keys,
    wide_dtype,
)
from nnfunc.frozen_state import FrozenState
from nnfunc.paths import Leaves, is_matrix, leaves_mask


class Adapted(Model):
    """A Model with `merge(adapters, base)`, the parameters of the model inside."""

    __slots__ = ("merge",)
    merge: Callable[[Params, Params], Params]


def lora(
    model: Layer,
    base: Params,
    on: Leaves = "**/query/weight",
    *,
    rank: int,
    alpha: Scalar = 8.0,
    stacked: Leaves = (),
    train: Leaves = (),
    state: PyTree | None = None,
) -> Model:
    """The model with trained parameters `base`, of which only low-rank corrections are trained.

    Each chosen weight becomes `weight + alpha / rank * down @ up`. down is drawn (LeCun normal), up
    is zero, so that the model begins as it was. The parameters are the adapters, by the paths
    of the weights: {"blocks": {"query": {"weight": {"down": ..., "up": ...}}}}, and the leaves that train names,
    by their paths. What is not trained is state: {"base": base}, and "model", the state of the model inside,
    where it has one. The averages of `nf.averages` leave the base out.
    Shapes: weight [in, out]: down [in, rank], up [rank, out]. Weights [n, in, out] of a `repeat` have
    n adapters: down [n, in, rank], up [n, rank, out]; so have the taps of a kernel [width, in, out].
    Of kernels of four and more axes all but the last count as in.
    stacked: leaves whose first axis is layers, whatever their axes, such as the kernels of a repeat.
    model: the layer to adapt.
    base: its trained parameters.
    on: path patterns, "matrices" or a function params -> tree of booleans; by default the query weights.
        "blocks/3/query/weight" is that of one layer of a `repeat`; the adapters are those of the chosen layers.
    rank: at least 1.
    alpha: the strength of the corrections, whatever their rank.
    train: the leaves that are trained fully, from base on, such as "head/**"; by default none. Of
        "blocks/3/norm/**" the parameters are the rows of that layer.
    state: of the model inside, with which base was trained, such as running statistics; by default a fresh one.
    Raises: ValueError when a pattern matches nothing, or a leaf that is no matrix by name and shape, or when a leaf
    has an adapter and is trained fully.
    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; defaults of PEFT's LoraConfig.

    >>> model = nf.mlp([4, 8, 2])
    >>> base = model.init(jax.random.key(0))
    >>> adapted = nf.lora(model, base, "**/weight", rank=1)
    >>> params, state, x = adapted.init(jax.random.key(1)), adapted.init_state(), jnp.ones((3, 4))
    >>> bool((adapted.apply(params, x, state=state) == model.apply(base, x)).all())  # the base is in the state
    True
    >>> sum(leaf.size for leaf in jax.tree.leaves(params))
    22
    >>> merged = nf.merge_lora(adapted, params, state)  # of a run, nf.merge_lora(adapted, s.params, s.model_state)
    >>> model.apply(merged, x).shape
    (3, 2)
    """
    model = as_model(model, where="lora")
    check.size("lora", rank=rank)
    check.number("lora", alpha=alpha)
    fully = paths.flatten(leaves_mask("lora: train", base, train, by_layer=True))
    weights = _weights(base, on, stacked, fully)
    trained_layers = {path: _layers("lora: train", path, on) for path, on in fully.items() if np.any(on)}
    fixed_on = {path: trained_layers.get(path, ()) is not None for path in fully}
    rest = paths.keep_where(base, jax.tree.map_with_path(lambda keys, _: fixed_on[paths.path_of(keys)], base))

    def init(key):
        leaves = paths.flatten(base)
        params = {path: jnp.array(_pick(leaves[path], layers)) for path, layers in trained_layers.items()}
        for path, (batch, layers) in weights.items():
            shape, leaf_key = np.shape(leaves[path]), reduce(fold, path.split("/"), key)
            into, out = math.prod(shape[len(batch) : -1]), shape[-1]
            dtype = wide_dtype(leaves[path])

            def down(key, into=into, dtype=dtype):
                return initializers.lecun_normal(key, (into, rank), dtype)

            for size in batch:
                down = _stack(down, size)
            first, up = down(leaf_key), jnp.zeros((*batch, rank, out), dtype)
            params[f"{path}/down"], params[f"{path}/up"] = _pick(first, layers), _pick(up, layers)
        return paths.unflatten(params)

    def init_state(key=None):
        # copies, as a train step uses up its state
        inside = model.init_state(key) if state is None else jax.tree.map(jnp.array, state)
        return _state(jax.tree.map(jnp.array, rest), inside)

    needed = {*trained_layers, *(f"{path}/{part}" for path in weights for part in ("down", "up"))}

    def merge(params, fixed):
        trained = paths.flatten(params)
        if set(trained) != needed:
            wrong = sorted(set(trained) ^ needed)[0]
            expected = "its params should be those that its init makes"
            check.fail("lora", expected=expected, actual=f"a difference at {wrong!r}")
        leaves = paths.flatten(fixed)

        def merged(keys, _):
            path = paths.path_of(keys)
            if path in weights:
                parts = (trained[f"{path}/{part}"] for part in ("down", "up"))
                return _merged(leaves[path], *parts, alpha, weights[path].layers)
            return _put(leaves.get(path), trained[path], trained_layers[path]) if path in trained else leaves[path]

        return jax.tree.map_with_path(merged, base)

    def forward(params, x, ctx):
        fixed = ctx.state.get("base", base)
        inside = replace(ctx, state=ctx.state.get("model", {}))
        y, out = model.forward(merge(params, fixed), x, inside)
        new = _state(fixed, out.state)
        # the node type of the input: the carry of a loop must keep it
        node_type = type(ctx.state) if ctx.state else FrozenState
        return y, Out(node_type(new), out.taps)

    adapted = Adapted(init, forward=forward, init_state=init_state, name="lora", full_precision=True)
    adapted.merge = merge
    return adapted


def merge_lora(model: Model, params: Params, state: PyTree | None = None) -> Params:
    """The parameters of the model inside: base and adapters in one, for use without `lora`.

    model: the result of `lora`.
    params: its adapters.
    state: its state, or None for the base of its init_state().
    Raises: TypeError when the model is not a result of `lora`.

    >>> model = nf.linear(4, 2)
    >>> adapted = nf.lora(model, model.init(jax.random.key(0)), "weight", rank=1)
    >>> params, x = adapted.init(jax.random.key(1)), jnp.ones((3, 4))
    >>> state = adapted.init_state()
    >>> merged = nf.merge_lora(adapted, params, state)
    >>> bool((model.apply(merged, x) == adapted.apply(params, x, state=state)).all())
    True
    """
    if not isinstance(model, Adapted):
        expected = "model should be the result of nf.lora itself, not a model around it"
        check.fail("merge_lora", expected=expected, actual=check.describe(model), exc_type=TypeError)
    state = model.init_state() if state is None else state
    if not isinstance(state, dict) or "base" not in state:
        actual = sorted(state) if isinstance(state, dict) else check.describe(state)
        check.fail("merge_lora", expected='state should hold "base", as model.init_state() does', actual=actual)
    return model.merge(params, state["base"])


class _Weight(NamedTuple):
    """A weight with adapters. batch: its axes of layers. layers: those with adapters, None for all."""

    batch: tuple[int, ...]
    layers: tuple[int, ...] | None


def _weights(base: Params, on: Leaves, stacked: Leaves, fully: dict[str, bool]) -> dict[str, _Weight]:
    """The weights with adapters, by path. fully: whether a leaf is trained fully, by path."""
    leaves = paths.flatten(base)
    picked = paths.flatten(leaves_mask("lora: on", base, on, by_layer=True))
    layers = paths.flatten(leaves_mask("lora: stacked", base, stacked))
    weights = {}
    for path, leaf in leaves.items():
        if not np.any(picked[path]):
            continue
        shape, some = np.shape(leaf), np.ndim(picked[path]) > 0
        first = 1 if layers[path] or some or len(shape) == 3 else 0
        if not is_matrix(path, leaf) or len(shape) - first < 2:
            expected = f"{path} should be a matrix, called weight, kernel or embedding"
            hint = "Name the weights alone, such as '**/weight'."
            check.fail("lora: on", expected=expected, actual=f"shape {tuple(shape)}", hint=hint)
        if np.any(fully[path]):
            expected, hint = f"{path} should have an adapter or be trained fully", "Leave it out of on= or train=."
            check.fail("lora: train", expected=expected, actual="both", hint=hint)
        check.floating("lora: base", **{path: leaf})
        weights[path] = _Weight(tuple(shape[:first]), _layers("lora: on", path, picked[path]))
    if not weights:
        check.fail("lora: on", expected="it should choose at least one weight", actual=f"none of {list(leaves)}")
    return weights


def _layers(where: str, path: str, on: paths.LayerMask) -> tuple[int, ...] | None:
    """The layers of a mask that is true somewhere; None for all."""
    if np.ndim(on) == 0:
        return None
    if np.shape(on)[1:2] > (1,):
        expected = "a pattern should pick layers of one repeat"
        check.fail(where, expected=expected, actual=f"layers of a repeat within another in {path}")
    return tuple(np.flatnonzero(on).tolist())


def _pick(x: Array, layers: tuple[int, ...] | None) -> Array:
    return x if layers is None else x[np.array(layers)]


def _put(whole: Any, part: Array, layers: tuple[int, ...] | None) -> Array:
    """The array with `part` in place of some layers."""
    return part if layers is None else whole.at[np.array(layers)].set(part)


# one program when called alone too: op by op, the last bits would differ from those in a model
@partial(jax.jit, static_argnames="layers")
def _merged(whole: Array, down: Array, up: Array, alpha: Scalar, layers: tuple[int, ...] | None) -> Array:
    weight = _pick(whole, layers)
    dtype = jnp.promote_types(wide_dtype(weight), down.dtype)
    down, up = down.astype(dtype), up.astype(dtype)
    scale = jnp.asarray(alpha, dtype) / down.shape[-1]
    change = scale * (down @ up)  # [..., in_dim, out_dim], with one axis for the kernel and channels of a convolution
    merged = (weight.astype(dtype) + change.reshape(weight.shape)).astype(weight.dtype)
    return _put(whole, merged, layers)


def _state(base: Params, inside: PyTree) -> dict[str, Any]:
    return FrozenState(base=base, model=inside) if jax.tree.leaves(inside) else FrozenState(base=base)


def _stack(draw: Any, n: int) -> Any:
    """The same for n layers, layer i with the key `fold_in(key, i)`, as in `repeat`."""
    return lambda key: vmap_keys(draw, indexed_keys(key, n))
