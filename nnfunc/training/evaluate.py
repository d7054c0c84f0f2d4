"""A model's figures on data it was not trained on."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check, device_memory
from nnfunc.base import Array, Params, PyTree, as_model
from nnfunc.data.dataset import Data, prepare_arrays
from nnfunc.data.eval_batches import EvalBatch, eval_batches
from nnfunc.data.stream import Stream
from nnfunc.training.gradients import evaluation, loss_and_metrics
from nnfunc.training.objectives import Totals
from nnfunc.training.step import TrainState, evaluated
from nnfunc.training.task import Task, kept

__all__ = ["batch_totals", "can_mask", "eval_size", "evaluate", "fitting_batches", "held_out", "mean_metrics"]


def evaluate(
    task: Task,
    params: Params | TrainState,
    arrays: PyTree,
    *,
    state: PyTree | None = None,
    transform: Any = None,
    batch_size: int = 128,
) -> dict[str, float]:
    """Loss and metrics of the task's objective, as means over all examples, each counted once.

    The means are those of nnfunc's objectives over the whole split: by the weights of classes, and
    without what they ignore; NaN where nothing counts. The last batch is filled up with examples that
    do not count, so one program serves all. Means of an objective of your own are weighed by the sizes
    of their batches, of which the last may be smaller.

    params: the whole train state, of which the averaged parameters are taken where the task averages;
    or the model's parameters, and then state, its running statistics, where it has any. arrays: what
    the objective takes as a batch, such as (x, labels), with leading axis n. transform: the data set's,
    applied to each batch. batch_size: examples at once, which sets the memory. No dropout.
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
        check.fail("evaluate", f"arrays should be examples, got a data set. {cure}", exc_type=TypeError)
    fresh = as_model(task.model).init_state()
    if state is None and fresh:
        cure = "Give the whole train state, or state=state.model_state."
        check.fail("evaluate", f"the model keeps state, {sorted(fresh)}, and needs it. {cure}")
    check.size("evaluate", batch_size=batch_size)
    tree = prepare_arrays("data.arrays", "train", arrays)
    size = min(batch_size, jax.tree.leaves(tree)[0].shape[0])
    totals = _compiled(task.model, task.objective)
    state = fresh if state is None else state
    batches = eval_batches(tree, size, transform, padded=can_mask(task.objective))
    batches = fitting_batches("evaluate", totals, (params, state), batches)
    return mean_metrics(lambda batch: totals(params, state, batch), batches)


def _jitted(model: Any, objective: Any) -> Any:
    """The jitted totals of a batch."""
    task = Task(model, objective, None)
    return jax.jit(lambda params, state, batch: batch_totals(task, params, state, batch.batch(), batch.mask()))


_compiled = kept(_jitted, 8)


def can_mask(objective: Any) -> bool:
    """Whether the objective can leave examples of a batch out, as those of nnfunc can."""
    return getattr(objective, "totals", None) is not None


def batch_figures(task: Task, params: Params, state: PyTree, batch: PyTree) -> dict[str, Any]:
    """Loss and metrics of one batch in evaluation mode."""
    loss, (metrics, _) = loss_and_metrics(task, params, state, batch, key=None, train=False)
    return {"loss": loss, **metrics}


def batch_totals(task: Task, params: Params, state: PyTree, batch: PyTree, mask: Array | None = None) -> Totals:
    """(sum, weight) of the loss and each metric of one batch, which add up over batches.

    mask [batch]: False for examples that do not count; without effect on an objective that knows no
    masks, whose batches hold nothing else (`can_mask`).
    """
    if can_mask(task.objective):
        totals = task.objective.totals(evaluation(task, params, state), batch, mask)  # pyright: ignore
    else:
        size = jnp.float32(jax.tree.leaves(batch)[0].shape[0])
        figures = batch_figures(task, params, state, batch)
        scaled = lambda value: jnp.asarray(value).astype(jnp.float32) * size
        totals = {name: (scaled(value), size) for name, value in figures.items()}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.float32), totals)


def fitting_batches(
    where: str, totals: Any, args: tuple[Any, ...], batches: Iterable[EvalBatch]
) -> Iterator[EvalBatch]:
    """The batches; refused when the compiled `totals(*args, batch)` needs more memory than there is."""
    rest = iter(batches)
    first = next(rest)
    size = jax.tree.leaves(first)[0].shape[0]
    what, hint = f"an evaluation of {size} examples at once", "Make its batch_size smaller."
    device_memory.compiled(where, totals, what, hint, *args, first)
    return itertools.chain([first], rest)


def mean_metrics(totals: Callable[[EvalBatch], Totals], batches: Iterable[EvalBatch]) -> dict[str, float]:
    """The means over all examples, each counted once, of what `totals(batch)` gives as sums."""
    parts: list[Totals] = []
    for batch in batches:
        parts.append(totals(batch))
        jax.block_until_ready(parts[-2:-1])  # or all batches would wait on the device at once
    fetched = jax.device_get(parts)
    return {name: _mean(*(sum(float(part[name][i]) for part in fetched) for i in (0, 1))) for name in parts[0]}


def _mean(total: float, weight: float) -> float:
    return total / weight if weight else math.nan


def eval_size(data: Data | Stream, accumulate: int = 1) -> int:
    """How many examples an evaluation takes at once: by default as many as a step's forward pass.

    So it needs no more memory than training. It is the same for the splits, which share a program.
    """
    size = data.eval_batch_size or max(1, data.batch_size // accumulate)
    splits = [tree for tree in (data.validation, data.test) if tree is not None]
    return min(size, max((jax.tree.leaves(x)[0].shape[0] for x in splits), default=size))


def held_out(task: Task, data: Data | Stream, name: str = "validation") -> Iterator[EvalBatch]:
    """The batches in which the task is evaluated on a split."""
    size, padded = eval_size(data, task.accumulate), can_mask(task.objective)
    return eval_batches(getattr(data, name), size, data.transform, padded=padded)
