"""The loss of a batch under a task, and its gradient: whole, in micro-batches, or sharpness-aware."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc import check, paths
from nnfunc.base import Array, Context, Key, Model, Params, PyTree, Scalar, Watch, as_model, fold, match_state
from nnfunc.training import layer_stats
from nnfunc.training.task import Task
from nnfunc.vector_norm import global_norm

__all__ = ["Bound", "Seen", "bound", "evaluation", "gradient_of", "loss_and_metrics"]


class Bound:
    """A model bound to its parameters for one step: `predict(x) -> y`.

    It hands the model's state from one call to the next, and each call draws fresh masks; calls
    inside a transformation of the objective's own share one mask and cannot change state.
    """

    def __init__(self, model: Model, params: Params, ctx: Context):
        self.model, self.params, self.ctx = model, params, ctx
        self.taps: dict[str, PyTree] = {}
        self._calls = 0

    def __call__(self, x: PyTree) -> PyTree:
        key = fold(self.ctx.key, "predict", self._calls)
        y, out = self.model.forward(self.params, x, replace(self.ctx, key=key))
        self.ctx = replace(self.ctx, state=out.state)
        self.taps |= out.taps
        self._calls += 1
        return y


class Seen(NamedTuple):
    """What one gradient gives. activations: statistics of every layer's result, when asked for."""

    loss: Array
    metrics: dict[str, Array]
    model_state: PyTree
    grads: PyTree
    activations: Any


Gradient = Callable[[Params, PyTree, PyTree, Key], Seen]
"""(params, model state, batch, key) -> Seen."""


def gradient_of(task: Task, watch: Watch | None = None) -> Gradient:
    """The gradient that the task asks for. watch: with one, the layers' results are looked at."""

    def gradient(params, model_state, batch, key):
        def loss_of(params):
            params = _fixed(params, getattr(task.optimizer, "frozen", ()))
            predict = bound(task, params, model_state, key, True, watch)
            loss, metrics = _of(task, predict, batch)
            seen = {} if watch is None else layer_stats.activations(predict.taps, watch)
            return loss, (metrics, predict.ctx.state, seen)

        made, grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        loss, (metrics, state, seen) = made
        return Seen(loss, metrics, match_state(state, model_state), grads, seen)

    whole: Gradient = gradient
    if task.accumulate > 1:
        whole = _accumulated(whole, task.accumulate)
    return whole if task.sharpness is None else _sharpness_aware(whole, task.sharpness)


def _fixed(params: Params, frozen: tuple[str, ...]) -> Params:
    """The parameters, those that never move without a gradient: the program does not compute it."""
    if not frozen:
        return params
    still = paths.mask(params, frozen, where="freeze")
    return jax.tree.map(lambda on, leaf: jax.lax.stop_gradient(leaf) if on else leaf, still, params)


def _accumulated(gradient: Gradient, count: int) -> Gradient:
    """The mean over `count` equal parts of the batch, one after the other.

    Metrics are means over the parts; the layers' results are looked at in the first one.
    """

    def split(leaf):
        if jnp.ndim(leaf) == 0:  # belongs to no example
            return jnp.broadcast_to(leaf, (count,))
        if jnp.shape(leaf)[0] % count:
            wanted = f"accumulate should divide the batch of {jnp.shape(leaf)[0]} examples"
            check.fail("train", f"{wanted}, got {count}.")
        return jnp.asarray(leaf).reshape(count, -1, *jnp.shape(leaf)[1:])

    def whole(params, model_state, batch, key):
        parts = jax.tree.map(split, batch)

        def part(model_state, i):
            own = jax.tree.map(lambda leaf: leaf[i], parts)
            seen = gradient(params, model_state, own, jax.random.fold_in(key, i))
            return seen._replace(metrics=jax.tree.map(_float, seen.metrics))

        def add(i, carry):
            total, model_state, first = carry
            seen = part(model_state, i)
            first = jax.tree.map(lambda a, b: jnp.where(i == 0, b, a), first, seen.activations)
            total = jax.tree.map(jnp.add, total, _summed(seen))
            return total, seen.model_state, first

        shapes = jax.eval_shape(part, model_state, jnp.zeros((), jnp.int32))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        start = (_summed(zeros), model_state, zeros.activations)
        total, model_state, first = jax.lax.fori_loop(0, count, add, start)
        mean = jax.tree.map(lambda leaf: leaf / count, total)
        return mean._replace(model_state=model_state, activations=first)

    return whole


def _summed(seen: Seen) -> Seen:
    """What is added up over micro-batches."""
    return seen._replace(model_state=(), activations=())


def _float(value: Array) -> Array:
    """A metric as it can be averaged: counts are floats then."""
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)


def _sharpness_aware(gradient: Gradient, radius: Scalar) -> Gradient:
    """The gradient at the point `radius` uphill: Foret et al. 2021, arXiv:2010.01412, algorithm 1."""

    def uphill(params, model_state, batch, key):
        first = gradient(params, model_state, batch, key)
        norm = global_norm(first.grads)
        far = jnp.asarray(radius, norm.dtype) / jnp.where(norm > 0, norm, 1)

        def climb(param, grad):
            return param + (far * grad.astype(far.dtype)).astype(param.dtype)

        above = jax.tree.map(climb, params, first.grads)
        return first._replace(grads=gradient(above, model_state, batch, key).grads)

    return uphill


def loss_and_metrics(
    task: Task, params: Params, model_state: PyTree, batch: PyTree, *, key: Key | None, train: bool
) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
    """The objective of one batch: loss, (metrics, new model state)."""
    predict = bound(task, params, model_state, key, train, None)
    loss, metrics = _of(task, predict, batch)
    return loss, (metrics, predict.ctx.state)


def evaluation(task: Task, params: Params, model_state: PyTree) -> Bound:
    """The model as an objective sees it in an evaluation."""
    return bound(task, params, model_state, None, False, None)


def bound(task: Task, params: Params, state: PyTree, key: Key | None, train: bool, watch: Watch | None) -> Bound:
    """The model bound to its parameters and state, as the objective sees it."""
    capture = () if watch is None else ("**",)
    ctx = Context(key=key, train=train, state=state, capture=capture, watch=watch)
    return Bound(as_model(task.model), params, ctx)


def _of(task: Task, predict: Bound, batch: PyTree) -> tuple[Array, dict[str, Array]]:
    """The loss and the metrics, each one number."""
    returned = task.objective(predict, batch)
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], dict):
        wanted = "(loss, metrics), metrics being a dict such as {}"
        got = check.describe(returned)
        check.fail("objective", f"it should return {wanted}, got {got}.", exc_type=TypeError)
    loss, metrics = returned
    taken = sorted({"loss", "gradient_norm", "learning_rate"} & set(metrics))
    if taken:
        check.fail("objective", f"its metrics should have names of their own, got {taken[0]!r}.")
    for name, value in {"loss": loss, **metrics}.items():
        if not (check.is_plain(value) or hasattr(value, "dtype")):
            got = check.describe(value)
            check.fail("objective", f"{name} should be one number, got {got}.", exc_type=TypeError)
        if jnp.shape(value) != ():
            cure = "Take the mean over the batch."
            check.fail("objective", f"{name} should be one number, got shape {jnp.shape(value)}. {cure}")
    return loss, {k: jnp.asarray(v) for k, v in metrics.items()}
