"""The functions of a run: one step, many steps, the totals of an evaluation batch; pure, or jitted.

Each jitted one is one XLA program with the state donated; the data set and the hyperparameters are
arguments, so neither becomes a constant of the program and new numbers never recompile.
"""

import time
from collections.abc import Callable, Collection, Hashable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import tuning
from nnfunc.base import Array, divide_examples, fold, to_device
from nnfunc.data.dataset import Data
from nnfunc.data.eval_batches import EvalBatch
from nnfunc.distributed.placement import Placement
from nnfunc.training.evaluate import batch_totals
from nnfunc.training.objectives import Totals
from nnfunc.training.step import Trainer, partition_task, trainer
from nnfunc.training.task import Build, Task, build_task, cache_calls
from nnfunc.training.train_state import TrainState, eval_params

T = TypeVar("T")


@dataclass(frozen=True)
class Meter:
    """The metrics since the last report, in one vector: every leaf of a loop carry costs some time in each step.

    values [..., names + 1]: the sums over the steps, of the learning rate the last value, and the count of steps.
    names: of the metrics.
    """

    values: Array
    names: tuple[str, ...]

    @staticmethod
    def zeros(names: Iterable[str]) -> "Meter":
        """The meter before the first step."""
        names = tuple(sorted(names))
        return Meter(jnp.zeros(len(names) + 1, jnp.float32), names)

    def add(self, metrics: dict[str, Array], running: Array) -> "Meter":
        """The meter after one more step, which counts if `running`."""
        values = jnp.stack([*(metrics[name].astype(jnp.float32) for name in self.names), jnp.float32(1)])
        added = values + self.values * np.asarray([*(name != "learning_rate" for name in self.names), 1], np.float32)
        return replace(self, values=jnp.where(running, added, self.values))

    def begin(self, fresh: Array | bool) -> "Meter":
        """The meter before the next step, which forgets the steps before it if `fresh`."""
        if fresh is False:
            return self
        return replace(self, values=jnp.where(fresh, jnp.zeros_like(self.values), self.values))

    @property
    def count(self) -> Any:
        """The steps in it."""
        return self.values[..., -1]

    def means(self) -> dict[str, Any]:
        """The means over the steps, and the last learning rate; NaN without a step."""
        columns = {name: self.values[..., i] for i, name in enumerate(self.names)}
        return {name: value if name == "learning_rate" else value / self.count for name, value in columns.items()}


jax.tree_util.register_dataclass(Meter, data_fields=["values"], meta_fields=["names"])


class Carry(NamedTuple):
    """The loop carry: the train state, and the metrics since the last report."""

    state: TrainState
    meter: Meter


class RunFunctions(NamedTuple):
    """The functions of one run, pure (`run_functions`) or jitted (`compiled_functions`).

    trainer: the training pair.
    init: (numbers, key, data, start=None) -> Carry; start: the (params, model state) that the run begins from, None
        for new ones.
    step: (carry, numbers, data, fresh=False) -> Carry; with `fresh` the meter forgets the steps before it.
    steps: (n, carry, numbers, data, fresh=False) -> Carry, n steps in one dispatch.
    watched_step: (carry, numbers, data, fresh=False) -> (Carry, layers), a step with the statistics of every layer.
    eval_totals: sums and weights in evaluation mode, pure of (state, numbers, batch, mask=None), jitted of (state,
        numbers, EvalBatch).
    observe: (carry, numbers, metrics) -> Carry, lets reduce_on_plateau see the validation metrics.
    build_task: (numbers, step=0) -> Task.
    placement: of the arrays on a mesh, None without one.
    flags: False and True on its devices, for `fresh`; from the host they would be sent in every dispatch.
    notes: what runs on a data set have shown; see `once`. The jitted functions donate the carry.
    """

    trainer: Trainer
    init: Callable[..., Carry]
    step: Callable[..., Carry]
    steps: Callable[..., Carry]
    watched_step: Callable[..., tuple[Carry, Any]]
    eval_totals: Callable[..., Totals]
    observe: Callable[[Carry, Any, dict[str, Any]], Carry]
    build_task: Callable[..., Task]
    placement: Placement | None
    flags: tuple[Any, Any]
    notes: WeakKeyDictionary[Any, dict[Any, Any]]

    def once(self, data: Any, name: Hashable, numbers: Any, compute: Callable[[], T]) -> T:
        """compute(), of the first run on this data set: for what depends on the shapes of its arguments alone.

        data: of the run; of streams, whose batches may have other values each time, nothing is remembered.
        name: of what is computed.
        numbers: of `split_hypers`, whose shapes count.
        """
        if not isinstance(data, Data):
            return compute()
        notes = self.notes.setdefault(data, {})
        key = name, tuple(tuning.pins().items()), *(None if n is None else (n.shape, n.dtype) for n in numbers)
        if key not in notes:
            notes[key] = compute()
        return notes[key]


def split_hypers(hypers: Any, static_names: Collection[str] = ()) -> tuple[Any, tuple[Any, ...], Any]:
    """(numbers, static, treedef): the floats of hypers as arrays, to be traced, and the other leaves.

    hypers: a pytree of numbers.
    static_names: names in a dict of hypers whose floats are static too.
    """
    items, treedef = jax.tree_util.tree_flatten_with_path(hypers)
    leaves = [leaf for _, leaf in items]
    traced = [
        not (path and getattr(path[0], "key", None) in static_names)
        and (isinstance(leaf, float | jax.Array) or hasattr(leaf, "dtype"))
        for path, leaf in items
    ]
    numbers = [to_device(leaf) if t else None for leaf, t in zip(leaves, traced, strict=True)]
    # a float that Python holds is weakly typed; an array in a sweep is not: make both the same
    numbers = [n if n is None else jax.lax.convert_element_type(n, n.dtype) for n in numbers]
    static = tuple(None if t else leaf for leaf, t in zip(leaves, traced, strict=True))
    return numbers, static, treedef


def run_functions(
    build: Build, static: tuple[Any, ...], treedef: Any, rate_scale: bool = False, placement: Placement | None = None
) -> RunFunctions:
    """The pure functions that train the task of hypers that `split_hypers` took apart.

    build: hypers -> Task.
    static, treedef: of `split_hypers`.
    rate_scale: as for `trainer`.
    placement: of the arrays on a mesh, None without one.
    """

    def build_from(numbers, step=0):
        leaves = [s if n is None else n for n, s in zip(numbers, static, strict=True)]
        return build_task(build, jax.tree.unflatten(treedef, leaves), step)

    pair = trainer(build_from, rate_scale=rate_scale, mesh=placement)

    def batch_of(state, data):
        key = jax.random.fold_in(state.key, state.step)
        return data.batch(state.step, key=fold(key, "augment"))

    def init(numbers, key, data, start=None):
        params, model_state = start or (None, None)
        state = pair.init(numbers, key, params=params, state=model_state)
        shapes = jax.eval_shape(lambda s: pair.step(numbers, s, batch_of(s, data))[1], state)
        return Carry(state, Meter.zeros(shapes))

    def step(carry, numbers, data, fresh=False):
        return watched_step(carry, numbers, data, fresh, watch=False)[0]

    def steps(n, carry, numbers, data, fresh=False):
        carry = carry._replace(meter=carry.meter.begin(fresh))
        return jax.lax.fori_loop(0, n, lambda i, carry: step(carry, numbers, data), carry)

    def watched_step(carry, numbers, data, fresh=False, watch=True):
        state, meter = carry.state, carry.meter.begin(fresh)
        state, metrics = pair.step(numbers, state, batch_of(state, data), watch=watch)
        layers = metrics.pop("layers", None)
        return Carry(state, meter.add(metrics, state.diverged_at < 0)), layers

    def eval_totals(state, numbers, batch, mask=None):
        with nullcontext() if placement is None else placement.tracing():
            task = partition_task(build_from(numbers, state.step), placement)
            batch = divide_examples(batch)
            return batch_totals(task, *eval_params(task, state), batch, mask, step=state.step)

    def observe(carry, numbers, metrics):
        return carry._replace(state=pair.observe(numbers, carry.state, metrics))

    functions = (init, step, steps, watched_step, eval_totals, observe, build_from)
    return RunFunctions(pair, *functions, placement, (False, True), WeakKeyDictionary())


def _compile(
    build: Build,
    static: tuple[Any, ...],
    treedef: Any,
    rate_scale: bool,
    placement: Placement | None,
    types: tuple[type, ...],
) -> RunFunctions:
    pure = run_functions(build, static, treedef, rate_scale, placement)

    def eval_totals(state: TrainState, numbers: Any, batch: EvalBatch) -> Totals:
        return pure.eval_totals(state, numbers, batch.batch(), batch.mask())

    flags = jnp.asarray(False), jnp.asarray(True)
    return pure._replace(
        flags=flags if placement is None else placement.whole(flags),
        init=jax.jit(pure.init),
        step=jax.jit(pure.step, donate_argnums=0),
        steps=jax.jit(pure.steps, donate_argnums=1),
        watched_step=jax.jit(pure.watched_step, donate_argnums=0),
        eval_totals=jax.jit(eval_totals),
        observe=jax.jit(pure.observe, donate_argnums=0),
    )


_cached_compile = cache_calls(_compile, 32)


def compiled_functions(
    build: Build, static: tuple[Any, ...], treedef: Any, rate_scale: bool = False, placement: Placement | None = None
) -> RunFunctions:
    """The jitted functions of a build; they are cached, so that other numbers compile nothing.

    build: hypers -> Task.
    static, treedef: of `split_hypers`.
    rate_scale, placement: as for `run_functions`.
    """
    types = tuple(map(type, static))  # 1 and True are equal, and not the same
    return _cached_compile(build, static, treedef, rate_scale, placement, types)


def choose_loop(
    compiled: RunFunctions, carry: Carry, numbers: Any, feed_data: Any, data: Any, steps: int
) -> Literal["step", "scan"]:
    """Whether one step a dispatch ("step") or many ("scan") is faster.

    A run that takes under 20 seconds is not worth a second compilation: it runs step by step. A copy of
    the carry is used here; the run itself has not begun.

    compiled: the functions of the run.
    carry: its loop carry.
    numbers, feed_data: passed to the functions.
    data: the data set, for which the times are remembered.
    steps: how many the run has.
    """

    def seconds_per_step(loop):
        run = lambda: jax.block_until_ready(run_some_steps(compiled, loop, carry, numbers, feed_data))
        run()
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) / SOME

    by_step_seconds = compiled.once(data, "seconds of a step", numbers, lambda: seconds_per_step("step"))
    if by_step_seconds * steps < 20:
        return "step"
    by_scan_seconds = compiled.once(data, "seconds of a scanned step", numbers, lambda: seconds_per_step("scan"))
    return "scan" if by_scan_seconds < 0.9 * by_step_seconds else "step"


SOME = 3
"""The steps of `run_some_steps`."""


def run_some_steps(compiled: RunFunctions, loop: str, carry: Carry, numbers: Any, feed_data: Any) -> Carry:
    """The carry three steps later, for a measurement.

    compiled, carry, numbers, feed_data: as for `choose_loop`.

    loop: "step" for one step a dispatch, "scan" for all.
    """
    copied = _copied(carry)
    if loop == "scan":
        return compiled.steps(np.int32(SOME), copied, numbers, feed_data, compiled.flags[False])
    for _ in range(SOME):
        copied = compiled.step(copied, numbers, feed_data, compiled.flags[False])
    return copied


_copied = jax.jit(lambda carry: jax.tree.map(jnp.copy, carry))
