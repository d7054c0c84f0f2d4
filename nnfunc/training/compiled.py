"""The compiled programs of a run: one step, many steps, the figures of a held-out batch.

Each is one XLA program with the state donated; the data set and the hyperparameters are arguments,
so neither becomes a constant of the program and new numbers never recompile.
"""

import time
from collections.abc import Callable, Collection
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc.base import Array, Key, fold
from nnfunc.data.eval_batches import EvalBatch
from nnfunc.training.evaluate import batch_totals
from nnfunc.training.objectives import Totals
from nnfunc.training.step import Trainer, TrainState, eval_params, trainer
from nnfunc.training.task import Build, build_task, cache_calls

__all__ = ["Carry", "Functions", "Meter", "RunFunctions", "choose_loop", "run_functions", "compiled_functions", "split_hypers"]


class Meter(NamedTuple):
    """What the steps since the last report add up to: sums and a count, and the last values."""

    total: dict[str, Array]
    last: dict[str, Array]
    count: Array


class Carry(NamedTuple):
    """All that goes from step to step."""

    state: TrainState
    meter: Meter


class Functions(NamedTuple):
    """What the programs of one task compute, as pure functions of one run; see `Programs`."""

    trainer: Trainer
    init: Callable[[Any, Key, Any], Carry]
    step: Callable[[Carry, Any, Any], Carry]
    watched_step: Callable[[Carry, Any, Any], tuple[Carry, Any]]
    eval_totals: Callable[..., Totals]
    observe: Callable[[Carry, Any, dict[str, Any]], Carry]
    build_task: Callable[..., Any]


class RunFunctions(NamedTuple):
    """The jitted functions of one task.

    init(numbers, key, data) -> Carry. one(carry, numbers, data) -> Carry: a step.
    many(n, carry, numbers, data) -> Carry: n steps in one dispatch. watched(carry, numbers, data) ->
    (Carry, layers): a step that looks at every layer. totals(state, numbers, batch) -> sums and weights
    of an `EvalBatch` in evaluation mode. observe(carry, numbers, figures) -> Carry: what follows from
    the means. The carry that is handed in is used up.
    """

    trainer: Trainer
    init: Callable[[Any, Key, Any], Carry]
    step: Callable[[Carry, Any, Any], Carry]
    steps: Callable[[Array, Carry, Any, Any], Carry]
    watched_step: Callable[[Carry, Any, Any], tuple[Carry, Any]]
    eval_totals: Callable[[TrainState, Any, EvalBatch], Totals]
    observe: Callable[[Carry, Any, dict[str, float]], Carry]
    build_task: Callable[..., Any]


def split_hypers(hypers: Any, held: Collection[str] = ()) -> tuple[Any, tuple[Any, ...], Any]:
    """The floats of hypers as arrays, to be traced; the rest, which is static; and the structure.

    held: names in a dict of hypers of which the floats are static too.
    """
    found, treedef = jax.tree_util.tree_flatten_with_path(hypers)
    leaves = [leaf for _, leaf in found]
    traced = [
        not (path and getattr(path[0], "key", None) in held)
        and (isinstance(leaf, float | jax.Array) or hasattr(leaf, "dtype"))
        for path, leaf in found
    ]
    numbers = [jnp.asarray(leaf) if t else None for leaf, t in zip(leaves, traced, strict=True)]
    # a float that Python holds is weakly typed; an array in a sweep is not: make both the same
    numbers = [n if n is None else jax.lax.convert_element_type(n, n.dtype) for n in numbers]
    static = tuple(None if t else leaf for leaf, t in zip(leaves, traced, strict=True))
    return numbers, static, treedef


def run_functions(build: Build, static: tuple[Any, ...], treedef: Any, rate_scale: bool = False) -> Functions:
    """The pure functions that train what build makes of hypers that `split_hypers` took apart."""

    def whole(numbers):
        pairs = zip(numbers, static, strict=True)
        return jax.tree.unflatten(treedef, [s if n is None else n for n, s in pairs])

    def own_build(numbers, step):
        return build_task(build, whole(numbers), step)

    pair = trainer(own_build, rate_scale=rate_scale)

    def batch_of(state, data):
        key = jax.random.fold_in(state.key, state.step)
        return data.batch(state.step, key=fold(key, "augment"))

    def init(numbers, key, data):
        state = pair.init(numbers, key)
        shapes = jax.eval_shape(lambda s: pair.step(numbers, s, batch_of(s, data))[1], state)
        zeros = jax.tree.map(lambda leaf: jnp.zeros((), jnp.float32), shapes)
        return Carry(state, Meter(zeros, dict(zeros), jnp.zeros((), jnp.int32)))

    def one(carry, numbers, data):
        return watched(carry, numbers, data, watch=False)[0]

    def watched(carry, numbers, data, watch=True):
        state, meter = carry
        state, metrics = pair.step(numbers, state, batch_of(state, data), watch=watch)
        layers = metrics.pop("layers", None)
        ok = state.diverged_at < 0
        metrics = jax.tree.map(lambda value: value.astype(jnp.float32), metrics)
        total = {name: meter.total[name] + jnp.where(ok, metrics[name], 0) for name in metrics}
        last = {name: jnp.where(ok, metrics[name], meter.last[name]) for name in metrics}
        return Carry(state, Meter(total, last, meter.count + ok.astype(jnp.int32))), layers

    def totals(state, numbers, batch, mask):
        task = own_build(numbers, state.step)
        return batch_totals(task, *eval_params(task, state), batch, mask)

    def observe(carry, numbers, figures):
        return carry._replace(state=pair.observe(numbers, carry.state, figures))

    return Functions(pair, init, one, watched, totals, observe, build_task=lambda numbers, step=0: own_build(numbers, step))


def _made(build: Build, static: tuple[Any, ...], treedef: Any, rate_scale: bool, kinds: tuple[type, ...]) -> RunFunctions:
    own = run_functions(build, static, treedef, rate_scale)

    def many(n, carry, numbers, data):
        return jax.lax.fori_loop(0, n, lambda i, carry: own.step(carry, numbers, data), carry)

    def totals(state, numbers, batch):
        return own.eval_totals(state, numbers, batch.batch(), batch.mask())

    return RunFunctions(
        trainer=own.trainer,
        init=jax.jit(own.init),
        step=jax.jit(own.step, donate_argnums=0),
        steps=jax.jit(many, donate_argnums=1),
        watched_step=jax.jit(own.watched_step, donate_argnums=0),
        eval_totals=jax.jit(totals),
        observe=jax.jit(own.observe, donate_argnums=0),
        build_task=own.build_task,
    )


_kept = cache_calls(_made, 32)


def compiled_functions(build: Build, static: tuple[Any, ...], treedef: Any, rate_scale: bool = False) -> RunFunctions:
    """The programs of a build, kept: the same one with other numbers compiles nothing."""
    kinds = tuple(map(type, static))  # 1 and True are equal, and not the same
    return _kept(build, static, treedef, rate_scale, kinds)


def choose_loop(own: RunFunctions, carry: Carry, numbers: Any, data: Any, steps: int) -> Literal["step", "scan"]:
    """Whether steps are quicker one a dispatch ("step") or many a dispatch ("scan").

    A run that takes under 20 seconds is not worth a second compilation: it goes step by step. The
    steps that are timed here are those of a copy; the run itself has not begun.
    """

    def timed(run):
        jax.block_until_ready(run())
        start = time.perf_counter()
        jax.block_until_ready(run())
        return (time.perf_counter() - start) / count

    def by_step():
        own_carry = jax.tree.map(jnp.copy, carry)
        for _ in range(count):
            own_carry = own.step(own_carry, numbers, data)
        return own_carry

    def by_scan():
        return own.steps(jnp.asarray(count), jax.tree.map(jnp.copy, carry), numbers, data)

    count = 3
    each = timed(by_step)
    if each * steps < 20:
        return "step"
    return "scan" if timed(by_scan) < 0.9 * each else "step"
