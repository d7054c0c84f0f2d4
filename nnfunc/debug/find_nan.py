"""Where the first value that is not finite comes from: member, step, layer, forward or backward."""

import inspect
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, paths
from nnfunc.base import Key, Model, Params, PyTree, as_model, fold, resolve_state
from nnfunc.debug.first_state import task_at
from nnfunc.debug.nan_interpreter import first_operation
from nnfunc.training.divergence import Fault, Phase, first_not_finite
from nnfunc.training.step import TrainState
from nnfunc.training.task import Task, training_batch

__all__ = ["find_nan", "find_nan_in"]


def find_nan(build: Callable[..., Any], hypers: Any, state: TrainState, data: Any) -> list[Fault]:
    """What made a training run, or members of many, diverge: one Fault each, or [].

    state: a train state of `nf.trainer(build)`'s step, under jit, vmap, scan and fori_loop alike: the
    step latches the first thing that is not finite and keeps the parameters of before, from which
    this finds the layer. With a leading axis of members, as from `jax.vmap(step)`, the arrays of
    hypers that have the same axis are each member's own. data: the data set that the run was given,
    or a function step -> batch.
    Each Fault tells `member` (None without that axis), `step`, `phase` ("forward", "backward",
    "loss", "update", "batch" or "parameters"), the `path` of the layer, and all that in `words`.
    Raises: TypeError when state is no train state.

    >>> def build(h):
    ...     model = nf.serial(up=nf.linear(1, 4), root=jnp.sqrt, head=nf.linear(4, 1))
    ...     return nf.Task(model, nf.regression(), nf.optimizers.sgd(h["rate"]))
    >>> data = nf.data.arrays((np.ones((8, 1), np.float32), np.ones((8, 1), np.float32)), 4)
    >>> init, step = nf.trainer(build)
    >>> hypers = {"rate": 0.1}
    >>> state, _ = step(hypers, init(hypers, jax.random.key(0)), data.batch(0))
    >>> (fault,) = nf.debug.find_nan(build, hypers, state, data)
    >>> fault.step, fault.path, fault.phase
    (0, 'root', 'forward')
    """
    if not hasattr(state, "diverged_at"):
        wanted = "a train state, as nf.trainer's step and nf.train return it"
        got = check.describe(state)
        check.fail("find_nan", f"state should be {wanted}, got {got}.", exc_type=TypeError)
    latched = np.asarray(state.diverged_at)
    if latched.ndim > 1:
        check.fail("find_nan", f"state should have one axis of members at most, got {latched.shape}.")
    if latched.ndim == 0:
        return [_fault(build, hypers, state, data)] if latched >= 0 else []
    count = len(latched)
    found = []
    for member in np.flatnonzero(latched >= 0).tolist():
        own = jax.tree.map(partial(_member, member, count), hypers)
        fault = _fault(build, own, jax.tree.map(itemgetter(member), state), data)
        found.append(fault._replace(member=member, words=f"member {member}: {fault.words}"))
    return found


def _fault(build: Callable[..., Any], hypers: Any, state: TrainState, data: Any) -> Fault:
    step = int(state.diverged_at)
    task = task_at(build, hypers, step)
    key = jax.random.fold_in(state.key, step)
    if hasattr(data, "batch"):
        batch = data.batch(step, key=fold(key, "augment"))
    elif callable(data):
        batch = data(step)
    else:
        wanted = "a data set or a function step -> batch"
        got = check.describe(data)
        check.fail("find_nan", f"data should be {wanted}, got {got}.", exc_type=TypeError)
    batch = training_batch(task, batch, key)
    found = first_not_finite(task, state.params, state.model_state, batch, key)
    return found._replace(step=step, words=f"at step {step}, in {found.words}")


def _member(member: int, count: int, leaf: Any) -> Any:
    return leaf[member] if jnp.ndim(leaf) and jnp.shape(leaf)[0] == count else leaf


def find_nan_in(
    model: Any, params: Params, x: PyTree, *, key: Key | None = None, state: PyTree | None = None
) -> Fault | None:
    """Where the first value of model(params, x) or of its gradient that is not finite comes from.

    model: a Model, an (init, apply) pair, or any function of yours, f(params, x). Of a model the
    Fault tells the layer's path; of a function the operation and your line: path is such as
    "log at mine.py:12 (loss)". The gradient is that of the sum of the results, with respect to the
    parameters and to every layer's result. key, state: as `model.apply` takes them. None when all
    is finite.

    >>> def f(params, x):
    ...     return jnp.log(params["scale"] * x)
    >>> print(nf.debug.find_nan_in(f, {"scale": jnp.array(0.0)}, jnp.ones(3)).path.split(" at ")[0])
    log
    """
    pair = isinstance(model, tuple) and len(model) == 2
    if not isinstance(model, Model) and not pair:
        return _in_function(model, params, x)
    model = as_model(model, where="find_nan_in")

    def summed(predict, batch):
        return _sum(predict(batch)), {}

    task = Task(model, summed, None)
    state = resolve_state(model, state, "find_nan_in")
    found = first_not_finite(task, params, state, x, key)
    return None if found.phase == "update" else found


def _in_function(function: Any, params: Params, x: PyTree) -> Fault | None:
    if not callable(function):
        wanted = "a model or a function f(params, x)"
        got = check.describe(function)
        check.fail("find_nan_in", f"model should be {wanted}, got {got}.", exc_type=TypeError)
    try:
        inspect.signature(function).bind(params, x)
    except (TypeError, ValueError):
        check.fail("find_nan_in", "a function should take two arguments: f(params, x).", exc_type=TypeError)
    given: tuple[tuple[Phase, str, PyTree], ...] = (("parameters", "the parameters", params), ("batch", "x", x))
    for phase, what, tree in given:
        for path, leaf in paths.flatten(tree).items():
            floats = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            if floats and not bool(jnp.isfinite(leaf).all()):
                return Fault(phase, path, f"{what}, before any operation ({path or 'the array'})")
    found = first_operation(function, params, x)
    if found is not None:
        return _told("forward", found)
    gradient = jax.grad(lambda params, x: _sum(function(params, x)), allow_int=True)
    found = first_operation(gradient, params, x)
    return None if found is None else _told("backward", found)


def _told(phase: Phase, found: Any) -> Fault:
    where = f"{found.name} at {found.line}" if found.line else found.name
    path = "/".join((*found.scopes, where))
    turns = f", in turn {', '.join(map(str, found.turns))} of its loop" if found.turns else ""
    return Fault(phase, path, f"the {phase} pass: {path}{turns}")


def _sum(tree: PyTree) -> Any:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum((jnp.sum(leaf.astype(jnp.float32)) for leaf in leaves), start=jnp.zeros((), jnp.float32))
