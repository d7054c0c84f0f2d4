"""Weights of a model divided by their norm: per output, or by their largest singular value."""

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check, paths
from nnfunc.base import Array, Layer, Model, Out, Params, PyTree, Scalar, as_model, fold, widen
from nnfunc.paths import Leaves, leaves_mask
from nnfunc.vector_norm import vector_norm


def weight_norm(model: Layer, on: Leaves = "**/weight", *, stacked: Leaves = ()) -> Model:
    """The model with weights of a learned length and a learned direction: `scale * direction / |direction|`.

    The parameter of a chosen weight becomes {"direction": ..., "scale": ...}; the model begins as it was.

    model: the layer.
    on: path patterns, "matrices" or a function params -> tree of booleans; by default all weights.
    stacked: leaves whose first axis is layers, such as the weights of a `repeat`; by default none. Inside of a
        repeat it is not needed: nf.repeat(nf.weight_norm(block), n).
    Shapes: weight [..., out]: direction [..., out], scale [out], a length for each output; stacked weights [n, ...,
    out]: scale [n, out].
    Raises: ValueError when a pattern matches nothing, or a leaf with fewer than two axes.
    Source: Salimans and Kingma 2016, arXiv:1602.07868, section 2; torch.nn.utils.parametrizations.weight_norm.

    >>> model = nf.weight_norm(nf.linear(3, 2), "weight")
    >>> params = model.init(jax.random.key(0))
    >>> sorted(params["weight"]), params["weight"]["scale"].shape
    (['direction', 'scale'], (2,))
    """
    model = as_model(model, where="weight_norm")
    weights = _choose("weight_norm", model, on, stacked)

    def init(key):
        leaves = paths.flatten(model.init(key))
        for path, axes in weights.items():
            direction = leaves.pop(path)
            scale = vector_norm(direction, axes).astype(direction.dtype)
            leaves |= {f"{path}/direction": direction, f"{path}/scale": scale}
        return paths.unflatten(leaves)

    def forward(params, x, ctx):
        def merge(path, axes):
            direction = widen(_part("weight_norm", params, path, "direction"))
            scale = jnp.expand_dims(widen(_part("weight_norm", params, path, "scale")), axes)
            length = vector_norm(direction, axes, keepdims=True)
            return direction * (scale / jnp.where(length > 0, length, 1))

        return model.forward(_replaced(params, {path: merge(path, axes) for path, axes in weights.items()}), x, ctx)

    full = _full_precision(model, weights)
    return Model(init, forward=forward, init_state=_state_of(model), name="weight_norm", full_precision=full)


def spectral_norm(
    model: Layer, on: Leaves = "**/weight", *, steps: int = 1, eps: Scalar = 1e-12, stacked: Leaves = ()
) -> Model:
    """The model with weights divided by their largest singular value, so that no output grows faster than x.

    A weight counts as a matrix [all other axes, out]. Its largest singular value is that of `steps` power iterations
    on a vector of the state, which training improves at each step. The parameters are those of the model.
    state: {"vectors": by path, "model": the state of the model, where it has one}. Because the vectors begin at
    random, `init_state` needs a key; without training, y is only as good as they are.

    model: the layer.
    on: path patterns, "matrices" or a function params -> tree of booleans; by default all weights.
    steps: the power iterations in each step of training, at least 1.
    eps: above 0, the least length of a vector that is divided by its length.
    stacked: leaves whose first axis is layers, as in `weight_norm`.
    Shapes: weight [..., out]: vector [out]; stacked weights [n, ..., out]: vector [n, out].
    Raises: ValueError when a pattern matches nothing, or a leaf with fewer than two axes.
    Source: Miyato et al. 2018, arXiv:1802.05957, algorithm 1; torch.nn.utils.parametrizations.spectral_norm in
    training. Outside of it PyTorch uses a second stored vector, which here follows from the first.

    >>> model = nf.spectral_norm(nf.linear(2, 2, bias=False), "weight")
    >>> params, state = {"weight": jnp.diag(jnp.array([4.0, 1.0]))}, model.init_state(jax.random.key(0))
    >>> for _ in range(20):
    ...     y, state = model.apply_train(params, state, jnp.eye(2))
    >>> y.round(3).tolist()
    [[1.0, 0.0], [0.0, 0.25]]
    """
    model = as_model(model, where="spectral_norm")
    check.size("spectral_norm", steps=steps)
    check.number("spectral_norm", 0, open_low=True, eps=eps)
    weights = _choose("spectral_norm", model, on, stacked)
    shapes = {path: leaf.shape for path, leaf in paths.flatten(_shapes(model)).items()}

    def init_state(key):
        vectors = {}
        for path, axes in weights.items():
            size = [n for axis, n in enumerate(shapes[path]) if axis not in axes]
            vectors[path] = _normalize(jax.random.normal(fold(key, path), size, jnp.float32), eps)
        return _with_model_state(paths.unflatten(vectors), model.init_state(fold(key, "model")))

    def forward(params, x, ctx):
        leaves, vectors = paths.flatten(params), paths.flatten(ctx.state.get("vectors", {}))
        if sorted(vectors) != sorted(weights):
            hint = "Make one with model.init_state(key)."
            expected = "its state should hold the singular vectors of its weights"
            check.fail("spectral_norm", expected=expected, actual=[*vectors], hint=hint)
        normal, new = {}, {}
        for path, axes in weights.items():
            weight, u = widen(leaves[path]), widen(vectors[path])
            u, v = _power_iteration(jax.lax.stop_gradient(weight), u, axes, steps if ctx.train else 0, eps)
            value = (weight * v * jnp.expand_dims(u, axes)).sum((*axes, weight.ndim - 1), keepdims=True)
            normal[path] = weight / jnp.where(value > 0, value, 1)
            new[path] = u if ctx.train else vectors[path]
        inside = replace(ctx, state=ctx.state.get("model", {}))
        y, out = model.forward(_replaced(params, normal), x, inside)
        return y, Out(_with_model_state(paths.unflatten(new), out.state), out.taps)

    full = _full_precision(model, weights)
    return model.replace(forward=forward, init_state=init_state, name="spectral_norm", full_precision=full)


def _power_iteration(weight: Array, u: Array, axes: tuple[int, ...], steps: int, eps: Scalar) -> tuple[Array, Array]:
    """(u, v) after so many steps: u [..., out], and v with the axes of the weight, of which out is 1."""

    def to_v(u):
        return _normalize((weight * jnp.expand_dims(u, axes)).sum(-1, keepdims=True), eps, axes)

    for _ in range(steps):
        u = _normalize((weight * to_v(u)).sum(axes), eps)
    return u, to_v(u)


def _normalize(x: Array, eps: Scalar, axes: tuple[int, ...] = (-1,)) -> Array:
    """The vectors along the axes, with length 1."""
    axes = tuple(axis % x.ndim for axis in axes)
    return x / jnp.maximum(vector_norm(x, axes, keepdims=True), jnp.asarray(eps, x.dtype))


def _choose(where: str, model: Model, on: Leaves, stacked: Leaves) -> dict[str, tuple[int, ...]]:
    """Of each chosen weight the axes that its norm runs over: all but the last, and but that of stacked layers."""
    shapes = _shapes(model)
    chosen = paths.flatten(leaves_mask(f"{where}: on", shapes, on))
    layers = paths.flatten(leaves_mask(f"{where}: stacked", shapes, stacked))
    leaves = {path: leaf.shape for path, leaf in paths.flatten(shapes).items() if chosen[path]}
    if not leaves:
        actual = f"none of {[*chosen]}"
        check.fail(f"{where}: on", expected="it should choose at least one weight", actual=actual)
    for path, shape in leaves.items():
        least = 3 if layers[path] else 2
        if len(shape) < least:
            expected, hint = f"{path} should have at least {least} axes", "Name the weights alone, such as '**/weight'."
            check.fail(f"{where}: on", expected=expected, actual=f"shape {tuple(shape)}", hint=hint)
    return {path: tuple(range(int(layers[path]), len(shape) - 1)) for path, shape in leaves.items()}


def _full_precision(model: Model, weights: Collection[str]) -> bool | tuple[str, ...]:
    """`Model.full_precision` of the model with these weights in float32, too."""
    full = model.full_precision or ()
    return full if isinstance(full, bool) else (*weights, *full)


def _shapes(model: Model) -> PyTree:
    return jax.eval_shape(model.init, jax.random.key(0))


def _part(where: str, params: Params, path: str, name: str) -> Array:
    leaves = paths.flatten(params)
    if f"{path}/{name}" not in leaves:
        expected = f"its params should hold {path}/{name}"
        check.fail(where, expected=expected, actual=[*leaves], hint="Use those that its init returns.")
    return leaves[f"{path}/{name}"]


def _replaced(params: Params, weights: dict[str, Array]) -> Params:
    """The parameters of the model inside: these weights, and all other leaves."""
    inside = tuple(f"{path}/" for path in weights)
    rest = {path: leaf for path, leaf in paths.flatten(params).items() if not path.startswith(inside)}
    return paths.unflatten(rest | weights)


def _state_of(model: Model) -> Callable[..., PyTree]:
    """The init_state of a model, which asks for a key if that of the model does."""
    if model.draws_state:
        return lambda key: model.init_state(key)
    return lambda: model.init_state()


def _with_model_state(vectors: PyTree, inside: PyTree) -> dict[str, Any]:
    return {"vectors": vectors, "model": inside} if jax.tree.leaves(inside) else {"vectors": vectors}
