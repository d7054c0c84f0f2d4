"""Statistics of every layer in a step: of its output, and of its parameters.

Inside `repeat` the layers share one path, in which `*` is the stacked axis, and every statistic of
theirs is an array with one value a layer; `written_out` gives each a path of its own.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import paths
from nnfunc.base import Array, Params, PyTree, Watch
from nnfunc.vector_norm import vector_norm

BINS = 32
SAMPLE = 4096  # values that a histogram looks at, evenly spread

_ENDS = {
    "tanh": (-0.99, 0.99),
    "soft_sign": (-0.99, 0.99),
    "erf": (-0.99, 0.99),
    "hard_tanh": (-1.0, 1.0),
    "sigmoid": (0.01, 0.99),
    "logistic": (0.01, 0.99),
    "expit": (0.01, 0.99),
    "hard_sigmoid": (0.0, 1.0),
    "relu6": (-jnp.inf, 6.0),
}
"""At or beyond which results an activation function is flat: its derivative is a fiftieth or less."""

_ZERO = {"relu", "relu6", "relu2", "squared_relu"}
"""The activation functions whose unit is dead when it is zero for every example."""


@jax.tree_util.register_pytree_node_class
class OrderedStats(Mapping):
    """A dict that keeps its order through JAX, which sorts the keys of plain ones. items: the content."""

    def __init__(self, items: dict[str, Any]):
        self.content = items

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[str, ...]]:
        return tuple(self.content.values()), tuple(self.content)

    @classmethod
    def tree_unflatten(cls, keys: tuple[str, ...], values: Iterable[Any]) -> "OrderedStats":
        return cls(dict(zip(keys, values, strict=True)))


def activation_stats(taps: dict[str, PyTree], watch: Watch) -> OrderedStats:
    """{path: statistics} of the results of all innermost layers that were captured.

    mean, deviation, histogram [low, high, counts]; saturated, the fraction of values on the flat ends
    of a tanh, sigmoid and the like; dead, the fraction of units (of the last axis) of a relu that are
    zero for the whole batch.
    taps: the outputs by path.
    watch: of the traced call.
    """
    layers = {"/".join(path): child.name for path, child, *_ in watch.calls}
    outer = {"/".join(path.split("/")[:i]) for path in layers for i in range(1, path.count("/") + 1)}
    result = {}
    for path in layers:
        leaves = [leaf for leaf in jax.tree.leaves(taps.get(path)) if _floats(leaf)]
        if path not in outer and leaves:
            stacked = path.split("/").count("*")
            statistics = _over(_activation(layers[path]), stacked)
            result[path] = statistics(jax.lax.stop_gradient(leaves[0]))
    return OrderedStats(result)


def parameter_stats(params: Params, grads: Params, new: Params, watch: Watch) -> OrderedStats:
    """{path: statistics} of all parameters.

    gradient_norm; weight_norm, before the update; update_ratio, the norm of what the update changes
    over the weight's, infinite for weights of norm 0; histograms of the weights and of the gradients.
    params, grads, new: before the step, their gradients, and after it.
    watch: of the traced call.
    """
    plain = {path.replace("*/", ""): path for path in watch.paths}
    grads, new, result = paths.flatten(grads), paths.flatten(new), {}
    for path, weight in paths.flatten(params).items():
        shared = _stacked_path(path, plain)
        statistics = _over(_parameter, shared.split("/").count("*"))
        result[shared] = statistics(weight, grads[path], new[path])
    order = {path: i for i, path in enumerate(watch.paths)}  # of computation
    position = lambda path: order.get(path.rpartition("/")[0], len(order))
    return OrderedStats({path: result[path] for path in sorted(result, key=position)})


def stats_by_layer(layers: Mapping[str, Mapping[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The statistics of a step as plain numbers and lists, one path a layer: `blocks/0/act`.

    layers: {"parameters": ..., "activations": ...} of a step, on the host.
    """
    tables: dict[str, dict[str, Any]] = {}
    for name, result in layers.items():
        tables[name] = {}
        for path, statistics in result.items():
            tables[name] |= _each(path, {k: np.asarray(v, np.float64) for k, v in statistics.items()})
    return tables


def _each(path: str, statistics: dict[str, np.ndarray]) -> dict[str, Any]:
    if "*" not in path.split("/"):
        return {path: {name: _plain(name, value) for name, value in statistics.items()}}
    rows = {}
    for i in range(len(next(iter(statistics.values())))):
        inner = {name: value[i] for name, value in statistics.items()}
        rows |= _each(path.replace("*", str(i), 1), inner)
    return rows


def _plain(name: str, value: np.ndarray) -> Any:
    if not name.endswith("histogram"):
        return float(f"{float(value):.6g}") if np.isfinite(value) else None
    low, high, *counts = value.tolist()
    return [float(f"{low:.6g}"), float(f"{high:.6g}"), [int(n) for n in counts]]


def _stacked_path(path: str, plain: dict[str, str]) -> str:
    """The path of a parameter with a `*` for each axis of layers that it begins with."""
    names = path.split("/")
    for end in range(len(names) - 1, 0, -1):
        start = "/".join(names[:end])
        if start in plain:
            return "/".join([plain[start], *names[end:]])
    return path


def _over(statistics: Any, axes: int) -> Any:
    """The statistics, mapped over so many leading axes."""
    for _ in range(axes):
        statistics = jax.vmap(statistics)
    return statistics


def _activation(layer: str) -> Any:
    def statistics(y: Array) -> dict[str, Array]:
        y = y.astype(jnp.float32)
        mean = y.mean()
        values = {"mean": mean, "deviation": vector_norm(y - mean) / math.sqrt(y.size or 1)}
        if layer in _ENDS:
            low, high = _ENDS[layer]
            values["saturated"] = ((y <= low) | (y >= high)).astype(jnp.float32).mean()
        if layer in _ZERO and y.ndim > 1:
            off = jnp.all(y <= 0, axis=tuple(range(y.ndim - 1)))
            values["dead"] = off.astype(jnp.float32).mean()
        return values | {"histogram": _histogram(y)}

    return statistics


def _parameter(weight: Array, grad: Array, new: Array) -> dict[str, Array]:
    weight, grad, new = (leaf.astype(jnp.float32) for leaf in (weight, grad, new))
    size, change = vector_norm(weight), vector_norm(new - weight)
    return {
        "gradient_norm": vector_norm(grad),
        "weight_norm": size,
        "update_ratio": jnp.where(size > 0, change / jnp.where(size > 0, size, 1), jnp.inf),
        "weight_histogram": _histogram(weight),
        "gradient_histogram": _histogram(grad),
    }


def _histogram(x: Array) -> Array:
    """[2 + BINS]: the least and the greatest value, and the number of values in each bin between."""
    flat = x.reshape(-1) if x.size else jnp.zeros(1)
    stride = -(-flat.size // SAMPLE)
    while math.gcd(stride, flat.size) > 1:  # a stride that divides a row would look at some columns alone
        stride += 1
    flat = flat[::stride]
    low, high = flat.min(), flat.max()
    width = jnp.where(high > low, high - low, 1)
    bins = jnp.clip(jnp.floor((flat - low) / width * BINS), 0, BINS - 1)
    counts = (bins[:, None] == jnp.arange(BINS, dtype=bins.dtype)[None]).sum(0)
    return jnp.concatenate([jnp.stack([low, high]), counts.astype(jnp.float32)])


def _floats(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
