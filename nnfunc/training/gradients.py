"""The loss of a batch under a task and its gradient: of the whole batch, of micro-batches, or sharpness-aware."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, paths
from nnfunc.base import (
    Array,
    Context,
    Key,
    Model,
    Params,
    PyTree,
    Scalar,
    Watch,
    as_model,
    check_unchanged_state,
    divide_examples,
    fold,
    match_state,
    trace_state,
    vary_like,
    varying_axes,
)
from nnfunc.combinators import Net
from nnfunc.training import layer_stats
from nnfunc.training.objectives import call_objective, check_result
from nnfunc.training.several_models import JointModel, JointOptimizer
from nnfunc.training.task import Task
from nnfunc.vector_norm import global_norm

RESERVED_NAMES = {"loss", "gradient_norm", "learning_rate", "split", "step", "seconds"}
"""The names of other columns beside the objective's metrics."""


class BoundModel:
    """A model bound to its parameters for one step: `predict(x) -> y`, of several models `predict.name(x)`.

    `predict(x, t)` passes the tuple (x, t).

    The model's state is passed on from one call to the next, and each call draws new masks. Calls
    inside a transformation in the objective share one mask, report no activations, and cannot change the
    state: in training a model that keeps state raises an error there.
    model: the model.
    params: its parameters.
    ctx: what its layers may read: key, state, training or evaluation, and the values to capture.
    """

    def __init__(self, model: Model, params: Params, ctx: Context):
        self.model, self.params, self.ctx = model, params, ctx
        self.taps: dict[str, PyTree] = {}
        self.on_output: Any = None  # called with each output
        self._calls = 0
        self._trace = trace_state()
        self._net = None
        if isinstance(model, JointModel):
            self._net = BoundNet(self, model.parts, params, replace(ctx, key=fold(ctx.key, "predict")))

    def __repr__(self) -> str:
        return f"<predict of {self.model.name}>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"predict has no attribute {name!r}")
        if self._net is None:
            hint = f"{check.nearest(name, ('model', 'params', 'ctx', 'taps'))} The model is called as predict(x)."
            if isinstance(self.params, dict) and name in self.params:
                hint = f"; write predict(x), or predict.params[{name!r}] for its parameters."
            raise AttributeError(f"objective: predict has no attribute {name!r}{hint}")
        return self._net[name]

    __getitem__ = __getattr__

    def __call__(self, x: PyTree, *others: PyTree) -> PyTree:
        if others and x is self.params:
            hint = "Call predict(x); with other parameters predict.model.apply(params, x)."
            check.fail("objective", "predict has its parameters already.", hint=hint, exc_type=TypeError)
        x = (x, *others) if others else x
        ctx = replace(self.ctx, key=fold(self.ctx.key, "predict", self._calls))
        if trace_state() != self._trace:  # no value may leave the trace
            y, out = self.model.forward(self.params, x, replace(ctx, capture=()))
            check_unchanged_state(self.model.name, out.state, ctx)
            self._calls += 1
            return y
        y, out = self.model.forward(self.params, x, ctx)
        self.ctx = replace(self.ctx, state=out.state)
        self.taps |= out.taps
        self._calls += 1
        if self.on_output is not None:
            self.on_output(y)
        return y


def _refuse_tree(*_: Any) -> Any:
    problem = "predict is the model with its parameters, and no tree of arrays."
    hint = "Call predict(x); the parameters are predict.params, as in model.apply(predict.params, x)."
    check.fail("objective", problem, hint=hint, exc_type=TypeError)


jax.tree_util.register_pytree_node(BoundModel, _refuse_tree, _refuse_tree)  # where params are expected


class BoundNet(Net):
    """The models of a task for a BoundModel, which has the state and the taps after each call."""

    __slots__ = ("_predict",)
    _owner, _part = "predict", "model"

    def __init__(self, predict: BoundModel, children: Mapping[str, Model], params: Params, ctx: Context):
        super().__init__(children, params, ctx)
        self._predict = predict

    def _call(self, name: str, x: PyTree) -> PyTree:
        y, out = super()._call(name, x), self._out()
        self._predict.ctx = replace(self._predict.ctx, state=out.state)
        self._predict.taps |= out.taps
        return y


class Gradients(NamedTuple):
    """The result of one gradient. activations: statistics of every layer's output, if they were asked for."""

    loss: Array
    metrics: dict[str, Array]
    model_state: PyTree
    grads: PyTree
    activations: Any


GradientFunction = Callable[[Params, PyTree, PyTree, Key], Gradients]
"""(params, model state, batch, key) -> Gradients."""


def gradient_of(
    task: Task, step: Any, watch: Watch | None = None, whole: Callable[[Params], Params] = lambda params: params
) -> GradientFunction:
    """The function that computes the gradient of a task.

    task: with its accumulation and sharpness.
    step: the 0-based step, for objectives that read it.
    watch: with one, statistics of every layer's output are computed too.
    whole: the parameters of the model, of those by which the gradient is taken.
    """

    def gradient(params, model_state, batch, key):
        def loss_of(params):
            params = stop_frozen(params, task.optimizer)
            predict = bind_model(task, whole(params), model_state, key=key, train=True, watch=watch)
            loss, metrics = objective_values(task, predict, batch, key=key, step=step)
            activations = {} if watch is None else layer_stats.activation_stats(predict.taps, watch)
            return loss, (metrics, predict.ctx.state, activations)

        (loss, (metrics, new_state, activations)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        new_state = jax.tree.map(_mean_over_devices, match_state(new_state, model_state), model_state)
        return Gradients(loss, metrics, new_state, grads, activations)

    function = gradient if task.accumulate == 1 else _accumulated(gradient, task.accumulate)
    return function if task.sharpness is None else _sharpness_aware(function, task.sharpness)


def _mean_over_devices(new: Array, old: Array) -> Array:
    """Statistics of the batch of each device inside `jax.shard_map`: one for all, where there was one before."""
    axes = tuple(axis for axis in varying_axes(new) if axis not in varying_axes(old))
    return jax.lax.pmean(new, axes) if axes and jnp.issubdtype(new.dtype, jnp.floating) else new


def stop_frozen(params: Params, optimizer: Any) -> Params:
    """The parameters; those that never move get no gradient, so the program does not compute it.

    params: of the model.
    optimizer: that of the task, which knows what is frozen.
    """
    if isinstance(optimizer, JointOptimizer):
        still = jax.lax.stop_gradient
        part = lambda name, leaves: stop_frozen(leaves, optimizer.parts[name])
        return {k: part(k, v) if k in optimizer.parts else jax.tree.map(still, v) for k, v in params.items()}
    frozen = getattr(optimizer, "frozen", ())
    if not frozen:
        return params
    mask = paths.mask(params, frozen, where="freeze")
    return jax.tree.map(lambda on, leaf: paths.where_on(on, jax.lax.stop_gradient(leaf), leaf), mask, params)


def _accumulated(gradient: GradientFunction, count: int) -> GradientFunction:
    """The mean over `count` micro-batches of equal size, one after the other.

    Metrics are means over the micro-batches; activation statistics are those of the first one.
    """

    def split(leaf):
        if np.ndim(leaf) == 0:  # belongs to no example
            return jnp.broadcast_to(leaf, (count,))
        size = np.shape(leaf)[0]
        if size % count:
            check.fail("train", expected=f"accumulate should divide the batch of {size} examples", actual=count)
        return jnp.asarray(leaf).reshape(count, -1, *np.shape(leaf)[1:])  # [count, batch / count, ...]

    def accumulated(params, model_state, batch, key):
        lengths = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batch) if np.ndim(leaf)}
        if len(lengths) > 1:
            problem = f"accumulate = {count} divides the examples of a batch, and its arrays have first axes of"
            hint = "Leave accumulate out for graphs, which count as one example."
            check.fail("train", f"{problem} {' and '.join(map(str, sorted(lengths)))}.", hint=hint)
        micro_batches = jax.tree.map(split, batch)

        def of_micro_batch(model_state, i):
            batch = divide_examples(jax.tree.map(lambda leaf: leaf[i], micro_batches))
            result = gradient(params, model_state, batch, jax.random.fold_in(key, i))
            return result._replace(metrics=jax.tree.map(_as_float, result.metrics))

        def add(i, carry):
            total, model_state, first = carry
            result = of_micro_batch(model_state, i)
            first = jax.tree.map(lambda a, b: jnp.where(i == 0, b, a), first, result.activations)
            total = jax.tree.map(jnp.add, total, _summands(result))
            return total, result.model_state, first

        shapes = jax.eval_shape(of_micro_batch, model_state, jnp.zeros((), jnp.int32))
        zeros = jax.tree.map(lambda s: vary_like(jnp.zeros(s.shape, s.dtype), s), shapes)
        start = (_summands(zeros), model_state, zeros.activations)
        total, model_state, first = jax.lax.fori_loop(0, count, add, start)
        mean = jax.tree.map(lambda leaf: leaf / count, total)
        return mean._replace(model_state=model_state, activations=first)

    return accumulated


def _summands(result: Gradients) -> Gradients:
    """The part of the result that is summed over micro-batches."""
    return result._replace(model_state=(), activations=())


def _as_float(value: Array) -> Array:
    """A metric whose mean can be taken: a count becomes a float."""
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)


def _sharpness_aware(gradient: GradientFunction, radius: Scalar) -> GradientFunction:
    """The gradient at the point `radius` uphill: Foret et al. 2021, arXiv:2010.01412, algorithm 1."""

    def sharpness_aware(params, model_state, batch, key):
        first = gradient(params, model_state, batch, key)
        above = uphill(params, first.grads, radius)
        return first._replace(grads=gradient(above, model_state, batch, key).grads)

    return sharpness_aware


def uphill(params: Params, grads: PyTree, radius: Scalar) -> Params:
    """The parameters at the distance `radius` in the direction of the gradient."""
    norm = global_norm(grads)
    distance = jnp.asarray(radius, norm.dtype) / jnp.where(norm > 0, norm, 1)

    def climb(param, grad):
        return param + (distance * grad.astype(distance.dtype)).astype(param.dtype)

    return jax.tree.map(climb, params, grads)


def loss_and_metrics(
    task: Task, params: Params, model_state: PyTree, batch: PyTree, *, key: Key | None, train: bool, step: Any = 0
) -> tuple[Array, tuple[dict[str, Array], PyTree]]:
    """The objective of one batch: loss, (metrics, new model state).

    task: whose model and objective are called.
    params, model_state: those of the model.
    batch: what the objective takes.
    key: the step's key, None without randomness.
    train: training or evaluation mode.
    step: the 0-based step, for objectives that read it.
    """
    predict = bind_model(task, params, model_state, key=key, train=train)
    loss, metrics = objective_values(task, predict, batch, key=key, step=step)
    return loss, (metrics, predict.ctx.state)


def bind_model(
    task: Task,
    params: Params,
    state: PyTree,
    *,
    key: Key | None = None,
    train: bool = False,
    watch: Watch | None = None,
) -> BoundModel:
    """The model bound to its parameters and state, as the objective calls it; by default in evaluation mode.

    task: whose model it is.
    params, state: those of the model.
    key: the step's key, None without randomness.
    train: training mode.
    watch: with one, every layer's output is captured.
    """
    capture = () if watch is None else ("**",)
    ctx = Context(key=key, train=train, state=state, capture=capture, watch=watch)
    return BoundModel(as_model(task.model), params, ctx)


def objective_values(
    task: Task, predict: Any, batch: PyTree, *, key: Key | None = None, step: Any = 0
) -> tuple[Array, dict[str, Array]]:
    """The loss and the metrics of the task's objective, each checked to be one number.

    task: whose objective it is.
    predict: the bound model.
    batch: what the objective takes.
    key: the step's key, None in an evaluation.
    step: the 0-based step.
    """
    loss, metrics = check_result(call_objective(task.objective, predict, batch, key=key, step=step))
    reserved = sorted(RESERVED_NAMES & set(metrics))
    if reserved:
        expected = f"metrics should have other names than {', '.join(sorted(RESERVED_NAMES))}"
        check.fail("objective", expected=expected, actual=repr(reserved[0]))
    for name, value in {"loss": loss, **metrics}.items():
        expected = f"{name} should be one number"
        if not (check.is_plain(value) or hasattr(value, "dtype")):
            check.fail("objective", expected=expected, actual=check.describe(value), exc_type=TypeError)
        if np.shape(value) != ():
            hint = "Take the mean over the batch."
            check.fail("objective", expected=expected, actual=f"shape {np.shape(value)}", hint=hint)
    if not jnp.issubdtype(jax.dtypes.result_type(loss), jnp.floating):
        hint = "Counts and argmax have no gradient: report them as metrics."
        actual = jax.dtypes.result_type(loss)
        check.fail("objective", expected="loss should be a float", actual=actual, hint=hint, exc_type=TypeError)
    return loss, {name: jnp.asarray(value) for name, value in metrics.items()}
