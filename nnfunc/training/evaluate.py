"""Loss and metrics of a model on data that it was not trained on."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check, device_memory
from nnfunc.base import Array, Key, Params, PyTree, indexed_keys, resolve_state
from nnfunc.data.check_arrays import prepare_arrays
from nnfunc.data.dataset import Data
from nnfunc.data.eval_batches import EvalBatch, eval_batches
from nnfunc.data.stream import Stream
from nnfunc.training.gradients import bind_model, objective_values
from nnfunc.training.objectives import Totals, call_objective, draws_numbers
from nnfunc.training.task import Task, cache_calls, join_models
from nnfunc.training.task_metrics import metric_totals, metrics_of_batches
from nnfunc.training.train_state import TrainState, eval_params


def evaluate(
    task: Task,
    params: Params | TrainState,
    arrays: PyTree,
    *,
    state: PyTree | None = None,
    transform: Any = None,
    batch_size: int = 128,
    draws: int = 1,
) -> dict[str, float]:
    """Loss and metrics of the task's objective, as means over all examples, each counted once.

    There is no dropout, and an objective that draws random numbers draws the same ones for every batch,
    each time. The means of nnfunc's objectives are taken over the whole split: weighted by class, and
    without what they ignore; NaN where no example counts. The last batch is padded with examples that do
    not count, so one program serves all. Means of your own objective are weighted by the sizes of its
    batches, of which the last may be smaller.

    task: with the model and the objective.
    params: the whole train state, of which the averaged parameters are used if the task averages, and the step; or
        the model's parameters (then the step is 0).
    arrays: what the objective takes as a batch, such as (x, labels), with leading axis n.
    state: the model's running statistics, with plain parameters.
    transform: that of the data set, applied to each batch.
    batch_size: examples at once, at least 1; it sets the memory.
    draws: how many random draws the values of an objective with a parameter named key are averaged over, at least
        1; one after the other, in the memory of one.
    Raises: ValueError when the model keeps state and none is given, there are no examples, or draws is above 1 for
    an objective that draws nothing.

    >>> task = nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(0.1))
    >>> params = {"weight": jnp.ones((1, 1)), "bias": jnp.zeros(1)}
    >>> nf.evaluate(task, params, (jnp.ones((3, 1)), jnp.zeros((3, 1))))
    {'loss': 1.0, 'mae': 1.0}
    """
    hint = "Inside, call task.objective(lambda x: task.model.apply(params, x), batch) instead."
    check.on_host("evaluate", hint, params=params, arrays=arrays, state=state)
    step: Any = 0
    if isinstance(params, TrainState):
        step = params.step
        params, state = eval_params(task, params)
    if isinstance(arrays, Data):
        expected, hint = "arrays should be examples", "Pass one of its splits, such as data.validation."
        check.fail("evaluate", expected=expected, actual="a data set", hint=hint, exc_type=TypeError)
    state = resolve_state(join_models(task).model, state, "evaluate")
    check.size("evaluate", batch_size=batch_size, draws=draws)
    parts = task.objective.values() if isinstance(task.objective, Mapping) else [task.objective]
    if draws > 1 and not any(map(draws_numbers, parts)):
        hint = "Add a parameter named key to the objective."
        check.fail("evaluate", expected="draws should be 1 for an objective without a key", actual=draws, hint=hint)
    tree = prepare_arrays("data.arrays", "train", arrays)
    size = min(batch_size, jax.tree.leaves(tree)[0].shape[0])
    totals = _cached_totals(
        *(tuple(part.items()) if isinstance(part, Mapping) else part for part in task[:2]), task.metrics, draws
    )
    args = (params, state, step)
    batches = eval_batches(tree, size, transform, padded=can_mask(task.objective))
    return mean_metrics(lambda batch: totals(*args, batch), check_batches_fit("evaluate", totals, args, batches))


def _jit_totals(model: Any, objective: Any, metrics: tuple[str, ...], draws: int) -> Any:
    """The jitted totals of a batch.

    model, objective: those of the task, a dict as the tuple of its items.

    metrics, draws: of the task and of `evaluate`.
    """
    several = isinstance(model, tuple) and not callable(model[0])
    model, objective = (dict(part) if several and isinstance(part, tuple) else part for part in (model, objective))
    task = join_models(Task(model, objective, None, metrics=metrics))

    def totals(params: Params, state: PyTree, step: Any, batch: EvalBatch) -> Totals:
        of_key = lambda key: batch_totals(task, params, state, batch.batch(), batch.mask(), step=step, key=key)
        if draws == 1:
            return of_key(None)
        sums = jax.lax.map(of_key, indexed_keys(jax.random.key(0), draws))
        return jax.tree.map(lambda leaf: leaf.mean(0), sums)

    return jax.jit(totals)


_cached_totals = cache_calls(_jit_totals, 8)


def can_mask(objective: Any) -> bool:
    """Whether the objective can leave examples of a batch out, as those of nnfunc can."""
    return getattr(objective, "totals", None) is not None


def batch_totals(
    task: Task,
    params: Params,
    state: PyTree,
    batch: PyTree,
    mask: Array | None = None,
    *,
    step: Any = 0,
    key: Key | None = None,
) -> Totals:
    """(sum, weight) of the loss and each metric of one batch in evaluation mode; they add up over batches.

    Of the task's metrics by name, the totals of `task_metrics`.

    task: with the model and the objective.
    params, state: of the model.
    batch: what the objective takes.
    mask [batch]: False for examples that do not count; without effect on an objective that knows no masks, all of
        whose examples count (`can_mask`).
    step: the 0-based step, for objectives that read it.
    key: for objectives that draw; None for the key of every evaluation.
    """
    predict = bind_model(task, params, state)
    outputs: list[Any] = []
    if task.metrics:
        predict.on_output = outputs.append
    if can_mask(task.objective):
        totals = call_objective(task.objective.totals, predict, batch, mask, key=key, step=step)  # pyright: ignore
    else:
        size = jnp.float32(jax.tree.leaves(batch)[0].shape[0])
        loss, metrics = objective_values(task, predict, batch, key=key, step=step)
        values = {"loss": loss, **metrics}
        totals = {name: (jnp.asarray(value).astype(jnp.float32) * size, size) for name, value in values.items()}
    totals = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(jnp.float32), totals)
    return totals | (metric_totals(task.objective, task.metrics, outputs, batch, mask) if task.metrics else {})


def check_batches_fit(
    where: str, totals: Any, args: tuple[Any, ...], batches: Iterable[EvalBatch]
) -> Iterator[EvalBatch]:
    """The batches; refused when the compiled `totals(*args, batch)` needs more memory than there is.

    where: the function that refuses.
    totals: jitted.
    args: passed to it before the batch.
    batches: at least one.
    """
    rest = iter(batches)
    first = next(rest)
    size = jax.tree.leaves(first)[0].shape[0]
    program, hint = f"an evaluation of {size} examples at once", "Make its batch_size smaller."
    device_memory.compile_checked(where, totals, program, hint, *args, first)
    return itertools.chain([first], rest)


def mean_metrics(totals: Callable[[EvalBatch], Totals], batches: Iterable[EvalBatch]) -> dict[str, float]:
    """The means over all examples, each counted once.

    totals: batch -> the sums and weights of the batch.
    batches: at least one.
    """
    parts: list[Totals] = []
    for batch in batches:
        parts.append(totals(batch))
        jax.block_until_ready(parts[-2:-1])  # or all batches would wait on the device at once
    return metrics_of_batches(jax.device_get(parts))


def eval_batch_size(data: Data | Stream, accumulate: int = 1, parts: int = 1) -> int:
    """How many examples an evaluation takes at once: by default as many as the forward pass of a step.

    So it needs no more memory than training. It is the same for all splits, which share a program.
    data: the data set.
    accumulate: that of the task.
    parts: over how many devices a batch is divided; of more than a batch that they divide each would compute all.
    """
    size = data.eval_batch_size or max(1, data.batch_size // accumulate)
    splits = [tree for tree in (data.validation, data.test) if tree is not None]
    size = min(size, max((jax.tree.leaves(x)[0].shape[0] for x in splits), default=size))
    return -(-size // parts) * parts


def split_batches(task: Task, data: Data | Stream, name: str = "validation", *, parts: int = 1) -> Iterator[EvalBatch]:
    """The batches in which the task is evaluated on a split.

    task: with its objective and accumulation.
    data: the data set.
    name: "validation" or "test".
    parts: as for `eval_batch_size`.
    """
    size, padded = eval_batch_size(data, task.accumulate, parts), can_mask(task.objective)
    return eval_batches(getattr(data, name), size, data.transform, padded=padded)
