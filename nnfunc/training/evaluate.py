"""A model's figures on data it was not trained on."""

from collections.abc import Iterable
from typing import Any

import jax

from nnfunc import check
from nnfunc.base import Params, PyTree, as_model
from nnfunc.data.arrays import Data
from nnfunc.data.arrays import arrays as make_data
from nnfunc.training.gradient import loss_and_metrics
from nnfunc.training.step import TrainState, evaluated
from nnfunc.training.task import Task, kept

__all__ = ["evaluate"]


def evaluate(
    task: Task,
    params: Params | TrainState,
    arrays: PyTree,
    *,
    state: PyTree | None = None,
    transform: Any = None,
    batch_size: int = 1024,
) -> dict[str, float]:
    """Loss and metrics of the task's objective, as means over all examples, each counted once.

    params: the whole train state, of which the averaged parameters are taken where the task averages;
    or the model's parameters, and then state, its running statistics, where it has any. arrays: what
    the objective takes as a batch, such as (x, labels), with leading axis n. transform: the data set's,
    applied to each batch. No dropout.
    Raises: ValueError when the model keeps state and none is given, or there are no examples.

    >>> task = nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(0.1))
    >>> params = {"weight": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    >>> nf.evaluate(task, params, (jnp.ones((3, 1)), jnp.zeros((3, 1))))
    {'loss': 1.0, 'mae': 1.0}
    """
    hint = "Inside, call task.objective(lambda x: task.model.apply(params, x), batch) instead."
    check.on_host("evaluate", hint, params=params, arrays=arrays, state=state)
    if isinstance(params, TrainState):
        params, state = evaluated(task, params)
    if isinstance(arrays, Data):
        cure = "Give one of its splits, such as data.validation."
        check.fail("evaluate", f"arrays should be examples, got a data set. {cure}", kind=TypeError)
    fresh = as_model(task.model).init_state()
    if state is None and fresh:
        cure = "Give the whole train state, or state=state.model_state."
        check.fail("evaluate", f"the model keeps state, {sorted(fresh)}, and needs it. {cure}")
    parts = make_data(arrays, 1, transform=transform).split("train", batch_size)
    figures = _compiled(task.model, task.objective)
    state = fresh if state is None else state
    return weighted(lambda batch: figures(params, state, batch), parts)


def _jitted(model: Any, objective: Any) -> Any:
    """The jitted figures of a batch."""
    task = Task(model, objective, None)
    return jax.jit(lambda params, state, batch: batch_figures(task, params, state, batch))


_compiled = kept(_jitted, 8)


def batch_figures(task: Task, params: Params, state: PyTree, batch: PyTree) -> dict[str, Any]:
    """Loss and metrics of one batch in evaluation mode."""
    loss, (metrics, _) = loss_and_metrics(task, params, state, batch, key=None, train=False)
    return {"loss": loss, **metrics}


def weighted(figures: Any, batches: Iterable[PyTree]) -> dict[str, float]:
    """The mean over all examples of what `figures(batch)` gives as means of batches."""
    parts = [(jax.tree.leaves(batch)[0].shape[0], figures(batch)) for batch in batches]
    sizes, fetched = [size for size, _ in parts], jax.device_get([part for _, part in parts])
    rows = list(zip(sizes, fetched, strict=True))
    names = fetched[0]
    return {name: sum(n * float(row[name]) for n, row in rows) / sum(sizes) for name in names}
