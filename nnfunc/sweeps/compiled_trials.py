"""The jitted functions that run the trials of a group, one at a time or many side by side.

Trials side by side share one step counter. With a counter for each, every schedule would be computed for
each trial, and both sides of every branch on the step.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from nnfunc.base import Array, Key, PyTree
from nnfunc.data.dataset import Data
from nnfunc.data.eval_batches import eval_total, even_batch_size
from nnfunc.sweeps.grouping import Group, static_key, varies
from nnfunc.sweeps.trials_mesh import TRIALS_AXIS, TrialsMesh
from nnfunc.training.compiled import Carry, RunFunctions, run_functions
from nnfunc.training.evaluate import can_mask, eval_batch_size
from nnfunc.training.task import Build, cache_calls
from nnfunc.training.task_metrics import add_totals, mean_of_totals
from nnfunc.training.train_state import TrainState

TRIALS: Any = Carry(TrainState._make(None if name == "step" else 0 for name in TrainState._fields), 0)  # pyright: ignore
"""Which parts of a carry have an axis of trials."""


class CompiledTrials(NamedTuple):
    """The jitted functions of one trial, or of several along a leading axis of everything but the step.

    init: (numbers, key, data) -> Carry.
    run_steps: (n, fresh, carry, numbers, data) -> (Carry, metrics), n steps in one dispatch, and the means of the
        metrics since the last call with fresh=True.
    step: the same for n = 1, without a loop.
    evaluate: (carry, numbers, data) -> (Carry, metrics) of the validation split.
    vmapped: whether there is an axis of trials.
    timings: shapes -> what was measured; see `Job.timings`.
    warm: the shapes for which all functions are compiled.
    """

    init: Callable[[Any, Key, Any], Carry]
    run_steps: Callable[..., tuple[Carry, dict[str, Array]]]
    step: Callable[..., tuple[Carry, dict[str, Array]]]
    evaluate: Callable[[Carry, Any, Any], tuple[Carry, dict[str, Array]]]
    vmapped: bool
    timings: dict[Any, dict[str, float]]
    warm: set[Any]


def compile_trials(
    build: Build, group: Group, vmapped: bool, devices: int = 1, on: TrialsMesh | None = None
) -> CompiledTrials:
    """The jitted functions of a group, cached: other numbers compile nothing.

    build: of the trials.
    group: the trials.
    vmapped: whether there is an axis of trials.
    devices: how many devices the axis of trials is sharded over; none waits for another.
    on: a mesh with that many `trials`, each of which is divided over its other axes.
    """
    axes = tuple(0 if varies(number) else None for number in group.numbers) if vmapped else None
    return _cached_compile(build, group.leaves, group.treedef, axes, devices, on, static_key(group.leaves))


def _compile(
    build: Build, static: Any, treedef: Any, axes: Any, devices: int, on: TrialsMesh | None, cache_key: Any
) -> CompiledTrials:
    on = on or TrialsMesh.of_trials(devices)
    functions = run_functions(build, static, treedef, placement=on.placement() if axes is not None else None)

    def one(carry, numbers, data):
        return functions.step(carry, numbers[:-1], data if numbers[-1] is None else replace(data, seed=numbers[-1]))

    def init(numbers, key, data):
        return functions.init(numbers[:-1], key, data)

    evaluate, axes_list = _make_evaluate(functions), list[int | None](axes or ())
    if axes is not None:
        one = jax.vmap(one, in_axes=(TRIALS, axes_list, None), out_axes=TRIALS)
        evaluate = jax.vmap(evaluate, in_axes=(TRIALS, axes_list, None), out_axes=(TRIALS, 0))
        init = _init_each(init, axes_list)

    def run_steps(n, fresh, carry, numbers, data):
        carry = carry._replace(meter=carry.meter.begin(fresh))
        carry = jax.lax.fori_loop(0, n, lambda i, carry: one(carry, numbers, data), carry)
        return carry, carry.meter.means()

    def step(n, fresh, carry, numbers, data):
        carry = one(carry._replace(meter=carry.meter.begin(fresh)), numbers, data)
        return carry, carry.meter.means()

    if axes is not None and on.size > 1:
        spread = lambda function, *in_axes, out: _shard(function, in_axes, out, on)
        init = spread(init, axes_list, 0, None, out=TRIALS)
        run_steps = spread(run_steps, None, None, TRIALS, axes_list, None, out=(TRIALS, 0))
        step = spread(step, None, None, TRIALS, axes_list, None, out=(TRIALS, 0))
        evaluate = spread(evaluate, TRIALS, axes_list, None, out=(TRIALS, 0))

    return CompiledTrials(
        jax.jit(init),
        jax.jit(run_steps, donate_argnums=2),
        jax.jit(step, donate_argnums=2),
        jax.jit(evaluate, donate_argnums=0),
        axes is not None,
        {},
        set(),
    )


_cached_compile = cache_calls(_compile, 64)


def _shard(function: Callable[..., Any], in_axes: Any, out: Any, on: TrialsMesh) -> Callable[..., Any]:
    """The function with the axis of trials sharded over devices, which exchange nothing between trials."""
    spec = lambda axis: PartitionSpec() if axis is None else PartitionSpec(TRIALS_AXIS)
    specs = lambda tree: jax.tree.map(spec, tree, is_leaf=lambda axis: axis is None)
    inside, outside = specs(in_axes), specs(out)
    names = {TRIALS_AXIS}  # the compiler divides over the others
    return jax.shard_map(
        function, mesh=on.mesh(), in_specs=inside, out_specs=outside, axis_names=names, check_vma=False
    )


def replicate(tree: PyTree, devices: int, on: TrialsMesh | None = None) -> PyTree:
    """The arrays of a tree on each device of an execution; otherwise every call copies them there.

    devices, on: as for `compile_trials`.
    """
    return jax.device_put(tree, NamedSharding((on or TrialsMesh.of_trials(devices)).mesh(), PartitionSpec()))


def _init_each(init: Callable[..., Carry], axes: list[int | None]) -> Callable[..., Carry]:
    """init of all trials, one after another: random draws side by side take seconds to compile."""

    def init_all(numbers, keys, data):
        def init_one(arguments):
            key, varied = arguments
            return init([v if a == 0 else n for v, a, n in zip(varied, axes, numbers, strict=True)], key, data)

        varied = [n if a == 0 else None for n, a in zip(numbers, axes, strict=True)]
        carry = jax.lax.map(init_one, (keys, varied))
        return carry._replace(state=carry.state._replace(step=jnp.zeros((), jnp.int32)))

    return init_all


def _make_evaluate(functions: RunFunctions) -> Callable[[Carry, Any, Data], tuple[Carry, dict[str, Array]]]:
    def evaluate(carry, numbers, data):
        numbers = numbers[:-1]
        task = functions.build_task(numbers, carry.state.step)
        placement = functions.placement
        size = eval_batch_size(data, task.accumulate, 1 if placement is None else placement.batch_parts)

        def totals(batch: PyTree, mask: Array | None = None) -> Any:
            return functions.eval_totals(carry.state, numbers, batch, mask)

        if can_mask(task.objective):
            sums = eval_total(totals, data.validation, size, data.transform, partial(add_totals, xp=jnp))
        else:
            count = jax.tree.leaves(data.validation)[0].shape[0]
            sums = data.total(totals, "validation", even_batch_size(count, size))
        metrics = mean_of_totals(sums, jnp)
        carry = functions.observe(carry, numbers, metrics)
        finite = carry.state.diverged_at < 0
        return carry, {name: jnp.where(finite, f, jnp.nan) for name, f in metrics.items()}

    return evaluate
