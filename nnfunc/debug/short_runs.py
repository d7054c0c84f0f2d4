"""Short runs at constant learning rates, and the learning rate that a task has now."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnfunc.base import Array, Key, Params, PyTree, Scalar
from nnfunc.optimizers import Optimizer
from nnfunc.training.gradients import loss_and_metrics
from nnfunc.training.task import build_task

STEPS = np.unique(np.geomspace(1, 1e6, 400).astype(np.int32) - 1)


def peak_learning_rate(build: Callable[..., Any], hypers: Any) -> float | None:
    """The largest learning rate of the first million steps; None where the optimizer has none to read.

    build, hypers: as for `nf.train`.
    """

    def learning_rate(step):
        schedule = getattr(build_task(build, hypers, step).optimizer, "learning_rate", None)
        return jnp.full((), jnp.nan) if schedule is None else jnp.asarray(schedule(step), jnp.float32)

    rates = jax.vmap(learning_rate)(jnp.asarray(STEPS, jnp.int32))
    return None if bool(jnp.isnan(rates[0])) else float(rates.max())


def find_learning_rate_hyper(build: Callable[..., Any], hypers: Any) -> str | None:
    """The name of the hyper that the peak learning rate is proportional to, such as "schedule.peak".

    build, hypers: as for `nf.train`. None where there is no such hyper.
    """
    peak = peak_learning_rate(build, hypers)
    if not isinstance(hypers, dict) or not peak:
        return None
    for name, value in hypers.items():
        if not isinstance(value, float) or not value:
            continue
        try:
            larger = peak_learning_rate(build, {**hypers, name: 1.25 * value})
        except ValueError:  # 1.25 times the value is out of its range
            continue
        if larger is not None and abs(larger / peak - 1.25) < 1e-3:
            return name
    return None


def update_at_learning_rate(optimizer: Optimizer, learning_rate: Scalar, step: Any) -> Callable[..., Any]:
    """The optimizer's update function, with its updates at `step` rescaled to another learning_rate."""

    def update(grads, state, params, **extra_args):
        current = optimizer.learning_rate(step) if optimizer.learning_rate is not None else 1.0
        current = jnp.asarray(current, jnp.float32)
        factor = jnp.where(current > 0, learning_rate / jnp.where(current > 0, current, 1), 0)
        with jax.numpy_dtype_promotion("standard"):  # optax's transformations fail under "strict"
            return optimizer.update(grads, state, params, rate_scale=factor, **extra_args)

    return update


class ShortRun(NamedTuple):
    """losses: [steps], each before its update.

    params, model_state: after the last update.
    has_gradient: for each leaf of params, whether any step had a gradient other than 0.
    """

    losses: Array
    params: Params
    model_state: PyTree
    has_gradient: PyTree


def short_run(
    build: Callable[..., Any],
    hypers: Any,
    learning_rate: Scalar,
    params: Params,
    model_state: PyTree,
    *,
    steps: int,
    batch_at: Callable[[Array], PyTree],
    key_at: Callable[[Array], Key | None],
) -> ShortRun:
    """Train at a constant learning rate, which may be traced, so that runs can be vmapped.

    build, hypers: as for `nf.train`.
    learning_rate: at least 0.
    params, model_state: to start from.
    steps: how many.
    batch_at, key_at: step -> the batch and the key of a step.
    """

    def train_step(carry, step):
        params, model_state, opt_state = carry
        task = build_task(build, hypers, step)

        def loss_of(params):
            return loss_and_metrics(task, params, model_state, batch_at(step), key=key_at(step), train=True, step=step)

        (loss, (_, new_state)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        update = update_at_learning_rate(task.optimizer, learning_rate, step)
        updates, opt_state = update(grads, opt_state, params, value=loss, grad=grads)
        new_state = jax.tree.map(lambda new, old: new.astype(old.dtype), new_state, model_state)
        nonzero = jax.tree.map(lambda g: jnp.any(g != 0), grads)
        return (optax.apply_updates(params, updates), new_state, opt_state), (loss, nonzero)

    carry = params, model_state, build_task(build, hypers, 0).optimizer.init(params)
    (params, model_state, _), (losses, nonzero) = jax.lax.scan(train_step, carry, jnp.arange(steps))
    return ShortRun(losses, params, model_state, jax.tree.map(lambda leaf: leaf.any(axis=0), nonzero))
