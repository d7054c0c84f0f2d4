"""What the debugging tools look at: a task, its data and its first parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, device_memory
from nnfunc.base import Array, Key, Params, PyTree, Scalar, as_model, fold
from nnfunc.data.dataset import Data
from nnfunc.data.stream import Stream
from nnfunc.optimizers import Optimizer
from nnfunc.training.device_feed import check_data
from nnfunc.training.task import Task, built

__all__ = ["find_learning_rate_hyper", "init_params", "peak_learning_rate", "task_at", "without_augmentation"]

STEPS = np.unique(np.geomspace(1, 1e6, 400).astype(np.int32) - 1)


def task_at(build: Callable[..., Any], hypers: Any, step: Any = 0) -> Task:
    """What build(h) or build(h, step) makes of the hypers for one step, its kinds checked."""
    return built(build, hypers, step)


def without_augmentation(data: Any, batch_size: int | None = None) -> Any:
    """The data set without its augmentation, and with batches of another size when one is given."""
    check_data(data)
    assert isinstance(data, Data | Stream)
    size = data.batch_size if batch_size is None else min(batch_size, data.size)
    return dataclasses.replace(data, augment=None, batch_size=size)


def init_params(build: Callable[..., Any], hypers: Any, key: Key) -> tuple[Params, PyTree]:
    """The parameters and the model's state that a run with this key begins with."""
    check.key("debug", key)

    def init(key):
        model = as_model(task_at(build, hypers).model)
        return model.init(fold(key, "init")), jax.tree.map(jnp.asarray, model.init_state())

    device_memory.check_params("debug", jax.eval_shape(init, key))
    return jax.jit(init)(key)


def learning_rates_at(build: Callable[..., Any], hypers: Any, steps: Any) -> Array | None:
    """The learning rates of the steps, or None where the optimizer does not tell."""

    def rate(step):
        known = getattr(task_at(build, hypers, step).optimizer, "learning_rate", None)
        return jnp.full((), jnp.nan) if known is None else jnp.asarray(known(step), jnp.float32)

    rates = jax.vmap(rate)(jnp.asarray(steps, jnp.int32))
    return None if bool(jnp.isnan(rates[0])) else rates


def peak_learning_rate(build: Callable[..., Any], hypers: Any, steps: Any = STEPS) -> float | None:
    """The largest learning rate of the steps, or None where the optimizer does not tell."""
    rates = learning_rates_at(build, hypers, steps)
    return None if rates is None else float(rates.max())


def find_learning_rate_hyper(build: Callable[..., Any], hypers: Any) -> str | None:
    """The hyper that the largest learning rate is proportional to, such as "schedule.peak"."""
    peak = peak_learning_rate(build, hypers)
    if not isinstance(hypers, dict) or not peak:
        return None
    for name, value in hypers.items():
        if not isinstance(value, float) or not value:
            continue
        try:
            larger = peak_learning_rate(build, {**hypers, name: 1.25 * value})
        except ValueError:  # out of that number's range
            continue
        if larger is not None and abs(larger / peak - 1.25) < 1e-3:
            return name
    return None


def update_at_learning_rate(optimizer: Optimizer, rate: Scalar, step: Any) -> Callable[..., Any]:
    """The optimizer's update at another learning rate."""

    def update(grads, state, params, **told):
        own = optimizer.learning_rate(step) if optimizer.learning_rate is not None else 1.0
        own = jnp.asarray(own, jnp.float32)
        factor = jnp.where(own > 0, rate / jnp.where(own > 0, own, 1), 0)
        with jax.numpy_dtype_promotion("standard"):  # optax's own do not run under "strict"
            return optimizer.update(grads, state, params, rate_scale=factor, **told)

    return update
