"""The first value that is not finite: at which step, and in which layer, it came up."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import paths
from nnfunc.base import Context, Key, Nudge, Params, Patch, PyTree, Watch, as_model, fold
from nnfunc.errors import NnfuncError
from nnfunc.training.gradients import BoundModel, gradient_of, objective_values, stop_frozen, uphill
from nnfunc.training.several_models import AlternatingObjectives
from nnfunc.training.task import Task, training_batch
from nnfunc.training.train_state import TrainState
from nnfunc.training.update import alternating_turns, step_inputs
from nnfunc.vector_norm import global_norm

Phase = Literal["batch", "parameters", "forward", "loss", "backward", "update"]


class Fault(NamedTuple):
    """The origin of the first value that is not finite; as text, its message.

    phase: "batch" and "parameters" (before any layer), "forward" and "backward" (the layer at path), "loss" (the
        objective), "update" (the optimizer).
    path: of the layer, in which a layer of a `repeat` has its number, such as blocks/3/act; of the array, for batch
        and parameters; "" for loss and update.
    message: a sentence.
    trial, step: if they are known.
    """

    phase: Phase
    path: str
    message: str
    trial: int | None = None
    step: int | None = None

    def __str__(self) -> str:
        return self.message


class Diverged(NnfuncError, FloatingPointError):
    """A loss, its gradient or the parameters are not finite.

    problem: which values are not finite.
    step: the first such step (0-based).
    layer: the origin, as text. fault: the origin as a Fault, if it
    is known.
    state: the train state just before that step's update.
    """

    def __init__(self, problem: str, step: int, layer: Fault | str, state: Any):
        hint = "Try a smaller learning rate, clipping (clip=1.0) or a longer warm-up."
        super().__init__(f"training diverged: {problem}. It began in {layer}.", hint=hint)
        self.step, self.layer, self.state = step, str(layer), state
        self.fault = layer._replace(step=step) if isinstance(layer, Fault) else None


def find_step_fault(task: Task, state: TrainState, batch_at: Callable[..., PyTree]) -> Fault:
    """The origin of what made a run diverge at the step `state.diverged_at`.

    task: that of this step.
    state: a train state that has diverged; it holds the parameters from before.
    batch_at: (step, key=) -> the batch of the data set at a step.
    """
    step = int(state.diverged_at)
    key = jax.random.fold_in(state.key, step)
    batch = training_batch(task, batch_at(step, key=fold(key, "augment")), key)
    if isinstance(task.objective, AlternatingObjectives):
        return _in_turns(task, state, batch, key, step)._replace(step=step)
    return find_non_finite(task, state.params, state.model_state, batch, key, step)._replace(step=step)


def _in_turns(task: Task, state: TrainState, batch: PyTree, key: Key, step: int) -> Fault:
    """The fault in a step of objectives that take turns: in the first turn that is not finite."""

    def run(state: TrainState, batch: PyTree, key: Key) -> list[tuple[Any, ...]]:
        old, inputs = step_inputs(state._replace(step=jnp.int32(step)), batch, key, jnp.asarray(True))
        turns = alternating_turns(task, old, inputs)
        return [(turn.old.params, turn.old.model_state, turn.key, turn.result.finite) for turn in turns]

    objectives, turns = task.objective.parts, jax.jit(run)(state, batch, key)
    failed = next((i for i, (*_, finite) in enumerate(turns) if not finite), len(turns) - 1)
    (name, objective), (params, model_state, turn_key, _) = objectives[failed], turns[failed]
    part = task._replace(objective=objective, optimizer=task.optimizer.only(name))
    fault = find_non_finite(part, params, model_state, batch, turn_key, step)
    return fault._replace(message=f"{fault.message}, in the turn of the model {name!r}")


def find_non_finite(
    task: Task, params: Params, model_state: PyTree, batch: PyTree, key: Key | None, step: int = 0
) -> Fault:
    """The origin of the first value that is not finite, for one batch.

    It looks at the batch, the parameters, every layer's output in the order of computation, the loss, and
    the gradients from the last layer back: of every layer's output, and of the parameters. A training
    batch is treated as the step treats it: in the micro-batches of `accumulate`, and with `sharpness` at
    the parameters uphill too.
    task: the task.
    params, model_state: before the step.
    batch: as the objective takes it.
    key: the step's key for a training batch, None for one of an evaluation.
    step: 0-based.
    """
    accumulated = task.accumulate > 1 and _divides(task.accumulate, batch)
    if key is not None and (accumulated or task.sharpness is not None) and _is_finite(params):
        count = task.accumulate if accumulated else 1
        fault = _in_step(task, count, params, model_state, batch, key, step)
        if fault is not None:
            return fault
    return _in_batch(task, params, model_state, batch, key, step)


def _divides(count: int, batch: PyTree) -> bool:
    return all(np.shape(leaf)[0] % count == 0 for leaf in jax.tree.leaves(batch))


def _in_step(
    task: Task, count: int, params: Params, model_state: PyTree, batch: PyTree, key: Key, step: int
) -> Fault | None:
    """The fault in the gradients that make up a step, as `gradient_of` computes them; None without one."""
    gradient = jax.jit(gradient_of(task._replace(accumulate=1, sharpness=None), step))

    def mean_gradient(params: Params) -> tuple[Fault | None, Params]:
        state, total = model_state, None
        for i in range(count):
            part, part_key, position = batch, key, ""
            if count > 1:
                part = jax.tree.map(lambda leaf: np.split(np.asarray(leaf), count)[i], batch)  # noqa: B023
                part_key, position = jax.random.fold_in(key, i), f", in micro-batch {i + 1} of {count}"
            result = gradient(params, state, part, part_key)
            if not _is_finite((result.loss, result.grads)):
                fault = _in_batch(task, params, state, part, part_key, step)
                return fault._replace(message=fault.message + position), params
            total = result.grads if total is None else jax.tree.map(jnp.add, total, result.grads)
            state = result.model_state
        return None, jax.tree.map(lambda leaf: (leaf / count).astype(leaf.dtype), total)

    fault, grads = mean_gradient(params)
    if fault is not None or task.sharpness is None:
        return fault
    fault, _ = mean_gradient(uphill(params, grads, task.sharpness))
    position = f", at the parameters uphill (sharpness = {float(task.sharpness):g}); all is finite below"
    return None if fault is None else fault._replace(message=fault.message + position)


def _in_batch(task: Task, params: Params, model_state: PyTree, batch: PyTree, key: Key | None, step: int) -> Fault:
    """The fault in one batch, in one piece and at these parameters."""
    inputs: tuple[tuple[Phase, str, PyTree], ...] = (
        ("batch", "the batch", batch),
        ("parameters", "the parameters", params),
    )
    for phase, name, tree in inputs:
        bad = [path for path, leaf in paths.flatten(tree).items() if not _is_finite(leaf)]
        if bad:
            return Fault(phase, bad[0], f"{name}, before any layer ({bad[0] or 'x'})")
    order, taps, hidden = _capture_taps(task, params, model_state, batch, key, step)
    innermost = [path for path in order if not any(p.startswith(f"{path}/") for p in order)]
    indices = ordered_taps(innermost, taps)
    for index in [*indices, *ordered_taps(order, taps)]:
        if not _is_finite(_tap_leaves(taps, *index)):
            return Fault("forward", numbered_path(*index), f"the forward pass of {_describe_layer(taps, *index)}")

    float_taps = {path: taps[path] for path in innermost if _is_floating(taps[path])}
    loss, grads, tap_grads = _gradients(task, params, model_state, batch, key, step, float_taps)
    if not _is_finite(loss):
        looked_at = " outside of jax.vmap, jax.lax.scan and the like" if hidden else ""
        message = f"the loss itself: every layer's result{looked_at} is finite, the loss is {float(loss)}"
        return Fault("loss", "", message)
    return _backward(indices, taps, grads, tap_grads)


def _backward(indices: list["TapIndex"], taps: dict[str, PyTree], grads: Params, tap_grads: dict[str, PyTree]) -> Fault:
    """The first gradient on the way back that is not finite, or the fault after all of them."""
    leaves = paths.flatten(grads)
    bad = [path for path, leaf in leaves.items() if not _is_finite(leaf)]
    last = -1  # the last index whose output has a gradient that is not finite
    for i, (path, numbers) in enumerate(indices):
        if path in tap_grads and not _is_finite(_tap_leaves(tap_grads, path, numbers)):
            last = i
    if last == len(indices) - 1 and last >= 0:
        path = numbered_path(*indices[last])
        message = f"the backward pass of the loss (the gradient of the result of layer {path})"
        return Fault("loss", "", message)
    for i in range(len(indices) - 1, last, -1):  # parameters of a layer after which all gradients are finite
        path, numbers = indices[i]
        for leaf in bad:
            inside = leaf.startswith(path.replace("*/", "") + "/")
            if inside and not _is_finite(_tap_leaves({path: leaves[leaf]}, path, numbers)):
                message = f"the backward pass of {_describe_layer(taps, path, numbers)}, the gradient of {leaf}"
                return Fault("backward", numbered_path(path, numbers), message)
    if last >= 0:
        message = f"the backward pass of {_describe_layer(taps, *indices[last + 1])}, the gradient of its input"
        return Fault("backward", numbered_path(*indices[last + 1]), message)
    if bad:
        return Fault("backward", bad[0], f"the backward pass (the gradient of {bad[0]})")
    if _is_finite(global_norm(leaves)):
        message = "the update: the gradient is finite, the parameters after it are not"
        return Fault("update", "", message)
    return Fault("backward", "", "the norm of the gradient, which is too large for float32")


TapIndex = tuple[str, tuple[int, ...]]
"""The path of a tap, and a number for each `*` in it."""


def ordered_taps(order: Sequence[str], taps: dict[str, PyTree]) -> list[TapIndex]:
    """The index of every output of every layer in the order of computation, those of a `repeat` one by one.

    order: the paths in the order of computation.
    taps: the outputs by path.
    """
    first: dict[str, int] = {}
    ranked = []
    for i, path in enumerate(order):
        names = path.split("/")
        stars = [j for j, name in enumerate(names) if name == "*"]
        starts = [first.setdefault("/".join(names[:j]), i) for j in stars]
        shape = np.shape(jax.tree.leaves(taps[path])[0])[: len(stars)] if stars else ()
        for numbers in np.ndindex(*shape):
            rank = [n for pair in zip(starts, numbers, strict=True) for n in pair]
            ranked.append(([*rank, i], (path, tuple(numbers))))
    return [index for _, index in sorted(ranked, key=lambda pair: pair[0])]


def numbered_path(path: str, numbers: tuple[int, ...]) -> str:
    """The path with a number instead of each star."""
    rest = iter(numbers)
    return "/".join(str(next(rest)) if name == "*" else name for name in path.split("/"))


def _describe_layer(taps: dict[str, PyTree], path: str, numbers: tuple[int, ...]) -> str:
    if not numbers:
        return f"layer {path}"
    count = np.shape(jax.tree.leaves(taps[path])[0])[0]
    return f"layer {path} (number {numbers[0]} of {count}: {numbered_path(path, numbers)})"


def _tap_leaves(taps: dict[str, PyTree], path: str, numbers: tuple[int, ...]) -> list[Any]:
    return [np.asarray(leaf)[numbers] for leaf in jax.tree.leaves(taps[path])]


def _capture_taps(
    task: Task, params: Params, model_state: PyTree, batch: PyTree, key: Key | None, step: int
) -> tuple[list[str], dict[str, PyTree], bool]:
    """The paths of all layers in the order of computation, their outputs, and whether some could not leave a trace."""
    watch = Watch()
    ctx = Context(key=key, train=key is not None, state=model_state, capture=("**",), watch=watch)

    def run(batch):
        predict = BoundModel(as_model(task.model), params, ctx)
        objective_values(task, predict, batch, key=key, step=step)
        return predict.taps

    taps = jax.device_get(jax.jit(run)(batch))
    hidden = any(path not in taps for path, by_name in watch.paths.items() if not by_name)
    return [path for path in watch.paths if path in taps], taps, hidden


def _gradients(
    task: Task, params: Params, model_state: PyTree, batch: PyTree, key: Key | None, step: int, taps: dict[str, PyTree]
) -> tuple[Any, Params, dict[str, PyTree]]:
    """The loss, and its gradients with respect to the parameters and to every layer's output."""
    nudges = jax.tree.map(lambda leaf: np.zeros_like(leaf), taps)

    def loss_of(params, nudges):
        patch = tuple(Patch(path, Nudge(by)) for path, by in nudges.items())
        ctx = Context(key=key, train=key is not None, state=model_state, patch=patch)
        predict = BoundModel(as_model(task.model), stop_frozen(params, task.optimizer), ctx)
        return objective_values(task, predict, batch, key=key, step=step)[0]

    loss, (grads, tap_grads) = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1)))(params, nudges)
    return jax.device_get((loss, grads, tap_grads))


def _is_floating(tree: PyTree) -> bool:
    return all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(tree))


def _is_finite(tree: PyTree) -> bool:
    return all(
        bool(np.isfinite(np.asarray(leaf, np.float64)).all())
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    )
