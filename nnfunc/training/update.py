"""The update of one step: the gradient, the optimizer, and the guard against values that are not finite."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nnfunc import check
from nnfunc.base import Array, Key, Params, PyTree, Watch, fold, match_dtype, varying_axes, widen
from nnfunc.optimizers import Optimizer
from nnfunc.sums import sum_all
from nnfunc.training.gradients import gradient_of
from nnfunc.training.several_models import JointOptimizer
from nnfunc.training.task import Task
from nnfunc.training.train_state import TrainState
from nnfunc.vector_norm import global_norm


class Values(NamedTuple):
    """The part of a train state that an update changes, under the same names."""

    params: Params
    model_state: PyTree
    opt_state: PyTree
    average: PyTree


class StepInputs(NamedTuple):
    """What an update reads. scale: the factor of the learning rate. running: whether the run has not diverged."""

    batch: PyTree
    key: Key
    step: Array
    scale: Array | None
    running: Array
    watcher: Watch | None


def step_inputs(
    state: TrainState, batch: PyTree, key: Key, running: Array, watcher: Watch | None = None
) -> tuple[Values, StepInputs]:
    """What the update of a step starts from and reads.

    state: before the step.
    batch: as the objective takes it.
    key: the step's.
    running, watcher: of `StepInputs`.
    """
    old = Values(state.params, state.model_state, state.opt_state, state.average)
    return old, StepInputs(batch, key, state.step, _learning_rate_scale(state), running, watcher)


class Updated(NamedTuple):
    """The result of one update. finite: whether its loss, gradient and new parameters are."""

    new: Values
    metrics: dict[str, Any]
    finite: Array
    grads: PyTree
    activations: Any


class Turn(NamedTuple):
    """The turn of one objective. name: of its model. old, new: the values of all models before and after it."""

    name: str
    old: Values
    new: Values
    key: Key
    result: Updated


def update_values(
    task: Task, old: Values, inputs: StepInputs, whole: Callable[[Params], Params] = lambda params: params
) -> Updated:
    """One update by the gradient of the task's objective, which keeps the old values if it is not finite.

    whole: as for `gradient_of`.
    """
    batch, key, step, scale, running, watcher = inputs
    result = gradient_of(task, step, watcher, whole)(old.params, old.model_state, batch, key)
    norm = global_norm(result.grads)
    metrics: dict[str, Any] = {"loss": result.loss, **result.metrics, "gradient_norm": norm}
    metrics |= _learning_rate_metric(task.optimizer, step, scale)

    def update():
        # for optimizers that ask
        extra = {"value": result.loss, "grad": result.grads, "gradient_norm": norm}
        extra |= {} if scale is None else {"rate_scale": scale}
        with jax.numpy_dtype_promotion("standard"):  # optax's own optimizers fail under "strict"
            updates, opt = task.optimizer.update(result.grads, old.opt_state, old.params, **extra)
        params = optax.apply_updates(old.params, updates)
        opt = jax.tree.map(match_dtype, opt, old.opt_state)
        return Values(params, result.model_state, opt, _new_average(task, old, params, result.model_state, step))

    finite = jnp.isfinite(result.loss) & jnp.isfinite(norm)
    new, finite = _update_if_finite(finite, running, update, old)
    return Updated(new, metrics, finite, result.grads, result.activations)


def _new_average(task: Task, old: Values, params: Params, model_state: PyTree, step: Array) -> PyTree:
    if task.average is None:
        return old.average
    average = task.average.update(old.average, (params, model_state), step)
    return jax.tree.map(match_dtype, average, old.average)


def alternating_turns(task: Task, old: Values, inputs: StepInputs) -> Iterator[Turn]:
    """The updates of the objectives that take turns, one after the other, each from the values that the last one left.

    task: with an AlternatingObjectives.
    old: before the step.
    inputs: of the step. An update that is not finite, and those after it, keep the values.
    """
    new, finite = old, jnp.asarray(True)
    for name, objective in task.objective.parts:
        if name not in new.params:
            problem = f"the model {name!r} has an objective, and no parameters to train."
            check.fail("build", problem, hint="Give the objective to the model that it should train.")
        part = task._replace(objective=objective, optimizer=task.optimizer.parts[name], average=None)
        whole = lambda params, others=new.params, name=name: others | {name: params}
        values = Values(new.params[name], new.model_state, new.opt_state[name], ())
        of_turn = inputs._replace(key=fold(inputs.key, name), running=inputs.running & finite)
        result = update_values(part, values, of_turn, whole)
        before = new
        new = new._replace(
            params=whole(result.new.params),
            model_state=result.new.model_state,
            opt_state=new.opt_state | {name: result.new.opt_state},
        )
        finite &= result.finite
        yield Turn(name, before, new, of_turn.key, result)


def alternating_update(task: Task, old: Values, inputs: StepInputs) -> Updated:
    """The updates of the objectives that take turns; all keep the old values if one of them is not finite."""
    new, finite, metrics, activations = old, jnp.asarray(True), {}, {}
    grads = jax.tree.map(jnp.zeros_like, old.params)
    for turn in alternating_turns(task, old, inputs):
        new, result = turn.new, turn.result
        finite &= result.finite
        grads[turn.name] = result.grads
        metrics |= {f"{turn.name}_{metric}": value for metric, value in result.metrics.items()}
        activations |= result.activations
    metrics["loss"] = sum(metrics[f"{name}_loss"] for name, _ in task.objective.parts)
    metrics["gradient_norm"] = global_norm(grads)
    new = new._replace(average=_new_average(task, old, new.params, new.model_state, inputs.step))
    new = jax.tree.map(lambda new, old: jnp.where(finite & inputs.running, new, old), new, old)
    return Updated(new, metrics, finite, grads, activations)


def _learning_rate_scale(state: TrainState) -> Array | None:
    """The factor of the learning rate, or None without one."""
    scales = [] if isinstance(state.rate_scale, tuple) else [state.rate_scale]
    scales += [] if state.plateau == () else [state.plateau.value]
    return None if not scales else jnp.stack([jnp.asarray(s, jnp.float32) for s in scales]).prod()


def _learning_rate_metric(optimizer: Optimizer, step: Array, scale: Array | None) -> dict[str, Array]:
    """The learning rate, if the optimizer has one; of several, by the names of their models."""
    if isinstance(optimizer, JointOptimizer):
        rates = {name: _learning_rate_metric(one, step, scale) for name, one in optimizer.parts.items()}
        return {f"{name}_{metric}": value for name, one in rates.items() for metric, value in one.items()}
    rate = getattr(optimizer, "learning_rate", None)
    if rate is None:
        return {}
    rate = jnp.asarray(rate(step) if callable(rate) else rate).astype(jnp.float32)
    return {"learning_rate": rate if scale is None else rate * scale}


def _update_if_finite(finite: Array, running: Array, update: Callable[[], Values], old: Values) -> tuple[Values, Array]:
    """update() of the old values if the step is finite, else the old values.

    If only the new parameters are not finite, they alone, and their average, stay as they were. On
    CPU the update is a branch, which XLA runs in place; selecting the result costs a copy of
    everything, a tenth of the step of an MLP. On a GPU a branch would wait for its condition.
    """

    def checked_update() -> tuple[Values, Array]:
        new = update()
        sums = [jnp.isfinite(sum_all(widen(leaf))) for leaf in jax.tree.leaves(new.params)]
        params_finite = jnp.stack(sums).all() if sums else jnp.asarray(True)
        keep = lambda new, old: jax.tree.map(lambda new, old: jnp.where(params_finite, new, old), new, old)
        return new._replace(params=keep(new.params, old.params), average=keep(new.average, old.average)), params_finite

    if axes := varying_axes(finite):  # inside shard_map every device has to decide alike
        finite = jax.lax.psum((~finite).astype(jnp.int32), axes) == 0
    healthy = finite & running
    if jax.default_backend() == "cpu" and not axes:
        return jax.lax.cond(healthy, checked_update, lambda: (old, finite))
    new, params_finite = checked_update()
    new = jax.tree.map(lambda new, old: jnp.where(healthy, new, old), new, old)
    return new, finite & (params_finite | ~running)
