"""The functions of a run: one step, many steps, the totals of an evaluation batch; pure, or jitted.

Each jitted one is one XLA program with the state donated; the data set and the hyperparameters are
arguments, so neither becomes a constant of the program and new numbers never recompile.
"""

import time
from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc.base import Array, fold
from nnfunc.data.eval_batches import EvalBatch
from nnfunc.training.evaluate import batch_totals
from nnfunc.training.objectives import Totals
from nnfunc.training.step import Trainer, TrainState, eval_params, trainer
from nnfunc.training.task import Build, Task, build_task, cache_calls

__all__ = ["Carry", "Meter", "RunFunctions", "choose_loop", "compiled_functions", "run_functions", "split_hypers"]


class Meter(NamedTuple):
    """The sums of the metrics since the last report, their count, and the last values."""

    total: dict[str, Array]
    last: dict[str, Array]
    count: Array


class Carry(NamedTuple):
    """The loop carry: the train state, and the metrics since the last report."""

    state: TrainState
    meter: Meter


class RunFunctions(NamedTuple):
    """The functions of one run, pure (`run_functions`) or jitted (`compiled_functions`).

    trainer: the training pair. init: (numbers, key, data, start=None) -> Carry; start: the (params, model
    state) that the run begins from, None for new ones. step: (carry, numbers, data) -> Carry. steps: (n,
    carry, numbers, data) -> Carry, n steps in one dispatch. watched_step: (carry, numbers, data) ->
    (Carry, layers), a step with the statistics of every layer. eval_totals: sums and weights in evaluation
    mode, pure of (state, numbers, batch, mask=None), jitted of (state, numbers, EvalBatch). observe: (carry,
    numbers, metrics) -> Carry, lets reduce_on_plateau see the validation metrics. build_task: (numbers,
    step=0) -> Task. The jitted functions donate the carry.
    """

    trainer: Trainer
    init: Callable[..., Carry]
    step: Callable[[Carry, Any, Any], Carry]
    steps: Callable[[Array, Carry, Any, Any], Carry]
    watched_step: Callable[[Carry, Any, Any], tuple[Carry, Any]]
    eval_totals: Callable[..., Totals]
    observe: Callable[[Carry, Any, dict[str, Any]], Carry]
    build_task: Callable[..., Task]


def split_hypers(hypers: Any, static_names: Collection[str] = ()) -> tuple[Any, tuple[Any, ...], Any]:
    """(numbers, static, treedef): the floats of hypers as arrays, to be traced, and the other leaves.

    hypers: a pytree of numbers. static_names: names in a dict of hypers whose floats are static too.
    """
    items, treedef = jax.tree_util.tree_flatten_with_path(hypers)
    leaves = [leaf for _, leaf in items]
    traced = [
        not (path and getattr(path[0], "key", None) in static_names)
        and (isinstance(leaf, float | jax.Array) or hasattr(leaf, "dtype"))
        for path, leaf in items
    ]
    numbers = [jnp.asarray(leaf) if t else None for leaf, t in zip(leaves, traced, strict=True)]
    # a float that Python holds is weakly typed; an array in a sweep is not: make both the same
    numbers = [n if n is None else jax.lax.convert_element_type(n, n.dtype) for n in numbers]
    static = tuple(None if t else leaf for leaf, t in zip(leaves, traced, strict=True))
    return numbers, static, treedef


def run_functions(build: Build, static: tuple[Any, ...], treedef: Any, rate_scale: bool = False) -> RunFunctions:
    """The pure functions that train the task of hypers that `split_hypers` took apart.

    build: hypers -> Task. static, treedef: of `split_hypers`. rate_scale: as for `trainer`.
    """

    def build_from(numbers, step=0):
        leaves = [s if n is None else n for n, s in zip(numbers, static, strict=True)]
        return build_task(build, jax.tree.unflatten(treedef, leaves), step)

    pair = trainer(build_from, rate_scale=rate_scale)

    def batch_of(state, data):
        key = jax.random.fold_in(state.key, state.step)
        return data.batch(state.step, key=fold(key, "augment"))

    def init(numbers, key, data, start=None):
        params, model_state = start or (None, None)
        state = pair.init(numbers, key, params=params, state=model_state)
        shapes = jax.eval_shape(lambda s: pair.step(numbers, s, batch_of(s, data))[1], state)
        zeros = jax.tree.map(lambda leaf: jnp.zeros((), jnp.float32), shapes)
        return Carry(state, Meter(zeros, dict(zeros), jnp.zeros((), jnp.int32)))

    def step(carry, numbers, data):
        return watched_step(carry, numbers, data, watch=False)[0]

    def steps(n, carry, numbers, data):
        return jax.lax.fori_loop(0, n, lambda i, carry: step(carry, numbers, data), carry)

    def watched_step(carry, numbers, data, watch=True):
        state, meter = carry
        state, metrics = pair.step(numbers, state, batch_of(state, data), watch=watch)
        layers = metrics.pop("layers", None)
        running = state.diverged_at < 0
        metrics = jax.tree.map(lambda value: value.astype(jnp.float32), metrics)
        total = {name: meter.total[name] + jnp.where(running, metrics[name], 0) for name in metrics}
        last = {name: jnp.where(running, metrics[name], meter.last[name]) for name in metrics}
        return Carry(state, Meter(total, last, meter.count + running.astype(jnp.int32))), layers

    def eval_totals(state, numbers, batch, mask=None):
        task = build_from(numbers, state.step)
        return batch_totals(task, *eval_params(task, state), batch, mask, step=state.step)

    def observe(carry, numbers, metrics):
        return carry._replace(state=pair.observe(numbers, carry.state, metrics))

    return RunFunctions(pair, init, step, steps, watched_step, eval_totals, observe, build_from)


def _compile(
    build: Build, static: tuple[Any, ...], treedef: Any, rate_scale: bool, types: tuple[type, ...]
) -> RunFunctions:
    pure = run_functions(build, static, treedef, rate_scale)

    def eval_totals(state: TrainState, numbers: Any, batch: EvalBatch) -> Totals:
        return pure.eval_totals(state, numbers, batch.batch(), batch.mask())

    return pure._replace(
        init=jax.jit(pure.init),
        step=jax.jit(pure.step, donate_argnums=0),
        steps=jax.jit(pure.steps, donate_argnums=1),
        watched_step=jax.jit(pure.watched_step, donate_argnums=0),
        eval_totals=jax.jit(eval_totals),
        observe=jax.jit(pure.observe, donate_argnums=0),
    )


_cached_compile = cache_calls(_compile, 32)


def compiled_functions(build: Build, static: tuple[Any, ...], treedef: Any, rate_scale: bool = False) -> RunFunctions:
    """The jitted functions of a build; they are cached, so that other numbers compile nothing.

    build: hypers -> Task. static, treedef: of `split_hypers`. rate_scale: as for `trainer`.
    """
    types = tuple(map(type, static))  # 1 and True are equal, and not the same
    return _cached_compile(build, static, treedef, rate_scale, types)


def choose_loop(compiled: RunFunctions, carry: Carry, numbers: Any, data: Any, steps: int) -> Literal["step", "scan"]:
    """Whether one step a dispatch ("step") or many ("scan") is faster.

    A run that takes under 20 seconds is not worth a second compilation: it runs step by step. A copy of
    the carry is used here; the run itself has not begun.

    compiled: the functions of the run. carry: its loop carry. numbers, data: passed to the functions.
    steps: how many the run has.
    """

    def seconds_per_step(run):
        jax.block_until_ready(run())
        start = time.perf_counter()
        jax.block_until_ready(run())
        return (time.perf_counter() - start) / count

    def by_step():
        copy = jax.tree.map(jnp.copy, carry)
        for _ in range(count):
            copy = compiled.step(copy, numbers, data)
        return copy

    def by_scan():
        return compiled.steps(jnp.asarray(count), jax.tree.map(jnp.copy, carry), numbers, data)

    count = 3
    by_step_seconds = seconds_per_step(by_step)
    if by_step_seconds * steps < 20:
        return "step"
    return "scan" if seconds_per_step(by_scan) < 0.9 * by_step_seconds else "step"
