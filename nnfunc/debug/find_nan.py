"""Where the first NaN or infinity comes from: step, layer, forward or backward pass."""

import inspect
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, paths
from nnfunc.base import Key, Model, Params, PyTree, as_model, resolve_state
from nnfunc.debug.nan_interpreter import Operation, first_operation
from nnfunc.training.divergence import Fault, Phase, find_non_finite, find_step_fault
from nnfunc.training.task import Task, build_task
from nnfunc.training.train_state import TrainState


def find_nan(build: Callable[..., Any], hypers: Any, state: TrainState, data: Any) -> list[Fault]:
    """What made a run, or the trials of a vmapped run, diverge: one Fault for each that did, or [].

    build: as for `nf.train`.
    hypers: as for `nf.train`. Where state has a leading axis of trials, as from `jax.vmap(step)`, arrays of hypers
        with the same leading axis hold one value for each trial.
    state: a train state of `nf.trainer(build)`, whose step may run under jit, vmap, scan and fori_loop.
    The step records the first divergence and keeps the parameters before it; find_nan runs that step again and
    looks at every layer.
    data: the data set of the run, or a function step -> batch.
    A Fault has the `trial` (None without the axis of trials), the `step`, the `phase` ("forward", "backward",
    "loss", "update", "batch" or "parameters"), the `path` of the layer, and a sentence.
    Raises: TypeError when state is not a train state, or data no data set and no function.

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
        expected = "state should be a train state, as nf.trainer's step and nf.train return it"
        check.fail("find_nan", expected=expected, actual=check.describe(state), exc_type=TypeError)
    diverged_at = np.asarray(state.diverged_at)
    if diverged_at.ndim > 1:
        expected = "state should have at most one leading axis, of trials"
        check.fail("find_nan", expected=expected, actual=f"axes of sizes {diverged_at.shape}")
    if diverged_at.ndim == 0:
        return [_find_fault(build, hypers, state, data)] if diverged_at >= 0 else []
    faults = []
    for trial in np.flatnonzero(diverged_at >= 0).tolist():
        trial_hypers = jax.tree.map(partial(_select_trial, trial, len(diverged_at)), hypers)
        fault = _find_fault(build, trial_hypers, jax.tree.map(itemgetter(trial), state), data)
        faults.append(fault._replace(trial=trial, message=f"trial {trial}: {fault.message}"))
    return faults


def _find_fault(build: Callable[..., Any], hypers: Any, state: TrainState, data: Any) -> Fault:
    step = int(state.diverged_at)
    if hasattr(data, "batch"):
        batch_at = data.batch
    elif callable(data):
        batch_at = lambda step, key: data(step)
    else:
        expected = "data should be a data set or a function step -> batch"
        check.fail("find_nan", expected=expected, actual=check.describe(data), exc_type=TypeError)
    fault = find_step_fault(build_task(build, hypers, step), state, batch_at)
    return fault._replace(message=f"at step {step}, in {fault.message}")


def _select_trial(trial: int, count: int, leaf: Any) -> Any:
    return leaf[trial] if np.ndim(leaf) and np.shape(leaf)[0] == count else leaf


def find_nan_in(
    model: Any, params: Params, x: PyTree, *, key: Key | None = None, state: PyTree | None = None
) -> Fault | None:
    """Where the first NaN or infinity of model(params, x), or of its gradient, comes from; None without one.

    The gradient is that of the sum of the outputs, with respect to the parameters and to every layer's
    output.
    model: a Model, an (init, apply) pair, or any function f(params, x). For a model the path of the Fault is that
        of the layer; for a function it names the operation and your line, such as "log at mine.py:12 (loss)".
    params, x: the arguments of the model.
    key, state: as for `model.apply`; a function takes neither.
    Raises: TypeError when model is neither a model nor a function of two arguments.

    >>> def f(params, x):
    ...     return jnp.log(params["scale"] * x)
    >>> print(nf.debug.find_nan_in(f, {"scale": jnp.array(0.0)}, jnp.ones(3)).path.split(" at ")[0])
    log
    """
    is_pair = isinstance(model, tuple) and len(model) == 2
    if not isinstance(model, Model) and not is_pair:
        return _find_in_function(model, params, x)
    model = as_model(model, where="find_nan_in")
    task = Task(model, lambda predict, batch: (_sum_floats(predict(batch)), {}), None)
    fault = find_non_finite(task, params, resolve_state(model, state, "find_nan_in"), x, key)
    return None if fault.phase == "update" else fault


def _find_in_function(function: Any, params: Params, x: PyTree) -> Fault | None:
    if not callable(function):
        expected = "model should be a model or a function f(params, x)"
        check.fail("find_nan_in", expected=expected, actual=check.describe(function), exc_type=TypeError)
    try:
        inspect.signature(function).bind(params, x)
    except (TypeError, ValueError):
        check.fail("find_nan_in", "a function should take two arguments: f(params, x).", exc_type=TypeError)
    arguments: tuple[tuple[Phase, str, PyTree], ...] = (("parameters", "the parameters", params), ("batch", "x", x))
    for phase, name, tree in arguments:
        for path, leaf in paths.flatten(tree).items():
            is_floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
            if is_floating and not bool(jnp.isfinite(leaf).all()):
                return Fault(phase, path, f"{name}, before any operation ({path or 'the array'})")
    operation = first_operation(function, params, x)
    if operation is not None:
        return _describe_operation("forward", operation)
    gradient = jax.grad(lambda params, x: _sum_floats(function(params, x)), allow_int=True)
    operation = first_operation(gradient, params, x)
    return None if operation is None else _describe_operation("backward", operation)


def _describe_operation(phase: Phase, operation: Operation) -> Fault:
    where = f"{operation.name} at {operation.line}" if operation.line else operation.name
    path = "/".join((*operation.scopes, where))
    message = f"the {phase} pass: {path}"
    if operation.iterations:
        message += f", in iteration {', '.join(map(str, operation.iterations))} of its loop"
    return Fault(phase, path, message)


def _sum_floats(tree: PyTree) -> Any:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum((jnp.sum(leaf.astype(jnp.float32)) for leaf in leaves), start=jnp.zeros((), jnp.float32))
