"""The compiled programs that run the trials of a group: one at a time, or many side by side.

Side by side, the count of steps is shared by all trials: were it one for each, everything that
follows a schedule of the step would be computed for each, and both sides of each branch on it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nnfunc.base import Array, Key, PyTree
from nnfunc.data.dataset import Data
from nnfunc.data.eval_batches import eval_total, even_batch_size
from nnfunc.sweeps.grouping import Group, marks
from nnfunc.training.compiled import Carry, Functions, Meter, functions
from nnfunc.training.evaluate import can_mask, eval_size
from nnfunc.training.step import TrainState
from nnfunc.training.task import Build, kept

__all__ = ["Lanes", "everywhere", "lanes"]

TRIALS = Carry(TrainState._make(None if name == "step" else 0 for name in TrainState._fields), Meter._make([0, 0, 0]))
"""Which parts of a carry have an axis of trials."""


class Lanes(NamedTuple):
    """Jitted functions of one trial, or of several on a leading axis of all but the step.

    init(numbers, key, data) -> Carry. leg(n, fresh, carry, numbers, data) -> (Carry, figures): n steps
    in one dispatch, and the means since the last leg that was fresh. step: the same for n = 1, with
    no loop. judge(carry, numbers, data) -> (Carry, figures): of the validation split, and what
    follows from them. wide: whether there is an axis of trials. took: by the shapes of the data, what
    is known of how long things take, see `Job.timings`. warm: the shapes for which all of them were
    compiled.
    """

    init: Callable[[Any, Key, Any], Carry]
    leg: Callable[..., tuple[Carry, dict[str, Array]]]
    step: Callable[..., tuple[Carry, dict[str, Array]]]
    judge: Callable[[Carry, Any, Any], tuple[Carry, dict[str, Array]]]
    wide: bool
    took: dict[Any, dict[str, float]]
    warm: set[Any]


def lanes(build: Build, group: Group, wide: bool, devices: int = 1) -> Lanes:
    """The programs of a group, kept: as for a run alone, other numbers compile nothing.

    devices: over how many the axis of trials is cut; each runs its own, and none waits for another.
    """
    axes = tuple(group.axes()) if wide else None
    return _kept(build, group.leaves, group.treedef, axes, devices, marks(group.leaves))


def _made(build: Build, static: Any, treedef: Any, axes: Any, devices: int, kinds: Any) -> Lanes:
    own = functions(build, static, treedef)

    def one(carry, numbers, data):
        return own.one(carry, numbers[:-1], _ordered(data, numbers[-1]))

    def init(numbers, key, data):
        return own.init(numbers[:-1], key, data)

    judge = _judge(own)
    if axes is not None:
        given = list(axes)
        one = jax.vmap(one, in_axes=(TRIALS, given, None), out_axes=TRIALS)
        judge = jax.vmap(judge, in_axes=(TRIALS, given, None), out_axes=(TRIALS, 0))
        init = _each(init, given)

    def begun(carry, fresh):
        meter = jax.tree.map(lambda leaf: jnp.where(fresh, jnp.zeros_like(leaf), leaf), carry.meter)
        return carry._replace(meter=meter)

    def leg(n, fresh, carry, numbers, data):
        carry = begun(carry, fresh)
        carry = jax.lax.fori_loop(0, n, lambda i, carry: one(carry, numbers, data), carry)
        return carry, _means(carry.meter)

    def step(n, fresh, carry, numbers, data):
        carry = one(begun(carry, fresh), numbers, data)
        return carry, _means(carry.meter)

    if axes is not None and devices > 1:
        given = list(axes)
        spread = lambda function, *places, out: _spread(function, places, out, devices)
        init = spread(init, given, 0, None, out=TRIALS)
        leg = spread(leg, None, None, TRIALS, given, None, out=(TRIALS, 0))
        step = spread(step, None, None, TRIALS, given, None, out=(TRIALS, 0))
        judge = spread(judge, TRIALS, given, None, out=(TRIALS, 0))

    return Lanes(
        jax.jit(init),
        jax.jit(leg, donate_argnums=2),
        jax.jit(step, donate_argnums=2),
        jax.jit(judge, donate_argnums=0),
        axes is not None,
        {},
        set(),
    )


_kept = kept(_made, 64)


def _ordered(data: Data, seed: Any) -> Data:
    """The data in the order of a seed, or in its own."""
    return data if seed is None else replace(data, seed=seed)


def _spread(function: Callable[..., Any], places: Any, out: Any, devices: int) -> Callable[..., Any]:
    """The function with each axis of trials cut over devices, which exchange nothing."""
    mesh = _mesh(devices)
    spec = lambda axis: PartitionSpec() if axis is None else PartitionSpec("trials")
    specs = lambda tree: jax.tree.map(spec, tree, is_leaf=lambda axis: axis is None)
    return jax.shard_map(function, mesh=mesh, in_specs=specs(places), out_specs=specs(out), check_vma=False)


def everywhere(tree: PyTree, devices: int) -> PyTree:
    """The arrays, held by each of the devices: otherwise they are copied at every call."""
    return jax.device_put(tree, NamedSharding(_mesh(devices), PartitionSpec()))


def _mesh(devices: int) -> Mesh:
    own = jax.devices()[:devices]
    return jax.make_mesh((devices,), ("trials",), axis_types=(AxisType.Auto,), devices=own)


def _each(init: Callable[..., Carry], axes: list[int | None]) -> Callable[..., Carry]:
    """init of every trial, one after the other: random draws side by side compile for seconds."""

    def every(numbers, keys, data):
        def of(given):
            key, varied = given
            whole = [v if a == 0 else n for v, a, n in zip(varied, axes, numbers, strict=True)]
            return init(whole, key, data)

        varied = [n if a == 0 else None for n, a in zip(numbers, axes, strict=True)]
        carry = jax.lax.map(of, (keys, varied))
        return carry._replace(state=carry.state._replace(step=jnp.zeros((), jnp.int32)))

    return every


def _judge(own: Functions) -> Callable[[Carry, Any, Data], tuple[Carry, dict[str, Array]]]:
    def judge(carry, numbers, data):
        numbers = numbers[:-1]
        task = own.build(numbers, carry.state.step)
        size = eval_size(data, task.accumulate)

        def totals(batch: PyTree, mask: Array | None = None) -> Any:
            return own.totals(carry.state, numbers, batch, mask)

        if can_mask(task.objective):
            sums = eval_total(totals, data.validation, size, data.transform)
        else:
            count = jax.tree.leaves(data.validation)[0].shape[0]
            sums = data.total(totals, "validation", even_batch_size(count, size))
        figures = {name: total / weight for name, (total, weight) in sums.items()}
        carry = own.observe(carry, numbers, figures)
        going = carry.state.diverged_at < 0
        return carry, {name: jnp.where(going, f, jnp.nan) for name, f in figures.items()}

    return judge


def _means(meter: Meter) -> dict[str, Array]:
    """The means of the interval; of the learning rate its last. Not a number where none was good."""
    count = meter.count.astype(jnp.float32)
    means = {name: total / count for name, total in meter.total.items()}
    return means | {name: meter.last[name] for name in meter.last if name == "learning_rate"}
