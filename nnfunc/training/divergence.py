"""When a loss or gradient stops being finite: stop, and say at which step and in which layer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import paths
from nnfunc.base import Context, Key, Nudge, Params, PyTree, Watch, as_model, fold
from nnfunc.errors import NnfuncError
from nnfunc.training.gradients import gradient_of, loss_and_metrics
from nnfunc.training.task import Task
from nnfunc.vector_norm import global_norm

__all__ = ["Diverged", "Fault", "first_not_finite", "ordered_places"]

Phase = Literal["batch", "parameters", "forward", "loss", "backward", "update"]


class Fault(NamedTuple):
    """Where the first value that is not finite comes from; as text, its words.

    phase: "batch" and "parameters" (before any layer), "forward" and "backward" (the layer at path),
    "loss" (the objective), "update" (the optimizer). path: of the layer, in which a layer of a
    `repeat` has its number, such as blocks/3/act; of the array, for batch and parameters; "" for
    loss and update. member, step: where they are known.
    """

    phase: Phase
    path: str
    words: str
    member: int | None = None
    step: int | None = None

    def __str__(self) -> str:
        return self.words


class Diverged(NnfuncError, FloatingPointError):
    """A loss, its gradient or the parameters are not finite.

    step: the first such step (0-based). layer: where it began, in words. fault: the same as a Fault,
    where it is known. state: the train state just before that step's update.
    """

    def __init__(self, what: str, step: int, layer: Fault | str, state: Any):
        hint = "Try a smaller learning rate, clipping (clip=1.0) or a longer warm-up."
        super().__init__(f"training diverged: {what}. It began in {layer}.", hint=hint)
        self.step, self.layer, self.state = step, str(layer), state
        self.fault = layer._replace(step=step) if isinstance(layer, Fault) else None


def first_not_finite(task: Task, params: Params, model_state: PyTree, batch: PyTree, key: Key | None) -> Fault:
    """Where the first value that is not finite comes from, for one batch.

    With a key it is a training batch, without one a held-out batch. It looks at the batch, the
    parameters, every layer's result in the order of computation, the loss, and the gradients from
    the last layer back: of every layer's result, and of the parameters. A training batch it looks at
    as the step does: in the micro-batches of `accumulate`, and with `sharpness` also uphill.
    """
    accumulated = task.accumulate > 1 and _divides(task.accumulate, batch)
    if key is not None and (accumulated or task.sharpness is not None) and _finite(params):
        count = task.accumulate if accumulated else 1
        fault = _in_steps(task, count, params, model_state, batch, key)
        if fault is not None:
            return fault
    return _in_batch(task, params, model_state, batch, key)


def _divides(count: int, batch: PyTree) -> bool:
    return all(jnp.shape(leaf)[0] % count == 0 for leaf in jax.tree.leaves(batch))


def _in_steps(task: Task, count: int, params: Params, model_state: PyTree, batch: PyTree, key: Key) -> Fault | None:
    """The fault in the gradients that make up a step, as `gradient_of` takes them; None without one."""
    gradient = jax.jit(gradient_of(task._replace(accumulate=1, sharpness=None)))

    def mean(params: Params) -> tuple[Fault | None, Params]:
        state, total = model_state, None
        for i in range(count):
            part, own, words = batch, key, ""
            if count > 1:
                part = jax.tree.map(lambda leaf: np.split(np.asarray(leaf), count)[i], batch)  # noqa: B023
                own, words = jax.random.fold_in(key, i), f", in micro-batch {i + 1} of {count}"
            seen = gradient(params, state, part, own)
            if not _finite((seen.loss, seen.grads)):
                fault = _in_batch(task, params, state, part, own)
                return fault._replace(words=fault.words + words), params
            total = seen.grads if total is None else jax.tree.map(jnp.add, total, seen.grads)
            state = seen.model_state
        return None, jax.tree.map(lambda leaf: (leaf / count).astype(leaf.dtype), total)

    fault, grads = mean(params)
    if fault is not None or task.sharpness is None:
        return fault
    norm = global_norm(grads)
    far = jnp.asarray(task.sharpness, norm.dtype) / jnp.where(norm > 0, norm, 1)
    above = jax.tree.map(lambda p, g: p + (far * g.astype(far.dtype)).astype(p.dtype), params, grads)
    fault, _ = mean(above)
    where = f", at the parameters uphill (sharpness = {float(task.sharpness):g}); all is finite below"
    return None if fault is None else fault._replace(words=fault.words + where)


def _in_batch(task: Task, params: Params, model_state: PyTree, batch: PyTree, key: Key | None) -> Fault:
    """The same of one batch, at once and at these parameters."""
    whole: tuple[tuple[Phase, str, PyTree], ...] = (
        ("batch", "the batch", batch),
        ("parameters", "the parameters", params),
    )
    for phase, what, tree in whole:
        bad = [path for path, leaf in paths.flatten(tree).items() if not _finite(leaf)]
        if bad:
            return Fault(phase, bad[0], f"{what}, before any layer ({bad[0] or 'x'})")
    order, taps = _every_tap(task, params, model_state, batch, key)
    inner = [path for path in order if not any(p.startswith(f"{path}/") for p in order)]
    places = ordered_places(inner, taps)
    for place in [*places, *ordered_places(order, taps)]:
        if not _finite(_at(taps, *place)):
            return Fault("forward", numbered(*place), f"the forward pass of {_words(taps, *place)}")

    of_taps = {path: taps[path] for path in inner if _floats(taps[path])}
    loss, grads, cotangents = _gradients(task, params, model_state, batch, key, of_taps)
    if not _finite(loss):
        words = f"the loss itself: every layer's result is finite, the loss is {float(loss)}"
        return Fault("loss", "", words)
    return _backward(places, taps, grads, cotangents)


def _backward(places: list["Place"], taps: dict[str, PyTree], grads: Params, cotangents: dict[str, PyTree]) -> Fault:
    """Where the gradients stop being finite on the way back, or what comes after them."""
    leaves = paths.flatten(grads)
    bad = [path for path, leaf in leaves.items() if not _finite(leaf)]
    last = -1  # the last place whose result has a gradient that is not finite
    for i, (path, at) in enumerate(places):
        if path in cotangents and not _finite(_at(cotangents, path, at)):
            last = i
    if last == len(places) - 1 and last >= 0:
        path = numbered(*places[last])
        words = f"the backward pass of the loss (the gradient of the result of layer {path})"
        return Fault("loss", "", words)
    for i in range(len(places) - 1, last, -1):  # a layer's own parameters, with all behind it well
        path, at = places[i]
        for leaf in bad:
            inside = leaf.startswith(path.replace("*/", "") + "/")
            if inside and not _finite(_at({path: leaves[leaf]}, path, at)):
                words = f"the backward pass of {_words(taps, path, at)}, the gradient of {leaf}"
                return Fault("backward", numbered(path, at), words)
    if last >= 0:
        words = f"the backward pass of {_words(taps, *places[last + 1])}, the gradient of its input"
        return Fault("backward", numbered(*places[last + 1]), words)
    if bad:
        return Fault("backward", bad[0], f"the backward pass (the gradient of {bad[0]})")
    if _finite(global_norm(leaves)):
        words = "the update: the gradient is finite, the parameters after it are not"
        return Fault("update", "", words)
    words = "the norm of the gradient, which is too large for float32"
    return Fault("backward", "", words)


Place = tuple[str, tuple[int, ...]]
"""The path of a tap, and a number for each `*` in it."""


def ordered_places(order: Sequence[str], taps: dict[str, PyTree]) -> list[Place]:
    """Every layer's every result in the order of computation, those of a `repeat` one by one."""
    first: dict[str, int] = {}
    found = []
    for i, path in enumerate(order):
        names = path.split("/")
        stars = [j for j, name in enumerate(names) if name == "*"]
        starts = [first.setdefault("/".join(names[:j]), i) for j in stars]
        shape = jnp.shape(jax.tree.leaves(taps[path])[0])[: len(stars)] if stars else ()
        for at in np.ndindex(*shape):
            rank = [n for pair in zip(starts, at, strict=True) for n in pair]
            found.append(([*rank, i], (path, tuple(at))))
    return [place for _, place in sorted(found, key=lambda pair: pair[0])]


def numbered(path: str, at: tuple[int, ...]) -> str:
    """The path with its numbers in the place of its stars."""
    numbers = iter(at)
    return "/".join(str(next(numbers)) if name == "*" else name for name in path.split("/"))


def _words(taps: dict[str, PyTree], path: str, at: tuple[int, ...]) -> str:
    if not at:
        return f"layer {path}"
    of = jnp.shape(jax.tree.leaves(taps[path])[0])[0]
    return f"layer {path} (number {at[0]} of {of}: {numbered(path, at)})"


def _at(taps: dict[str, PyTree], path: str, at: tuple[int, ...]) -> list[Any]:
    return [np.asarray(leaf)[at] for leaf in jax.tree.leaves(taps[path])]


def _every_tap(
    task: Task, params: Params, model_state: PyTree, batch: PyTree, key: Key | None
) -> tuple[list[str], dict[str, PyTree]]:
    """The result of every layer, and their order."""
    watch = Watch()
    ctx = Context(key=key, train=key is not None, state=model_state, capture=("**",), watch=watch)

    def run(batch):
        taps: dict[str, PyTree] = {}
        task.objective(_predict(task, params, ctx, taps), batch)
        return taps

    taps = jax.device_get(jax.jit(run)(batch))
    return [path for path in watch.paths if path in taps], taps


def _gradients(
    task: Task, params: Params, model_state: PyTree, batch: PyTree, key: Key | None, taps: dict[str, PyTree]
) -> tuple[Any, Params, dict[str, PyTree]]:
    """The loss, and its gradients with respect to the parameters and to every layer's result."""
    nudges = jax.tree.map(lambda leaf: np.zeros_like(leaf), taps)

    def loss_of(params, nudges):
        patch = {path: Nudge(by) for path, by in nudges.items()}
        ctx = Context(key=key, train=key is not None, state=model_state, patch=patch)
        nudged = task._replace(objective=lambda _, batch: task.objective(_predict(task, params, ctx, {}), batch))
        return loss_and_metrics(nudged, params, model_state, batch, key=key, train=key is not None)[0]

    loss, (grads, cotangents) = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1)))(params, nudges)
    return jax.device_get((loss, grads, cotangents))


def _predict(task: Task, params: Params, ctx: Context, taps: dict[str, PyTree]) -> Any:
    """predict(x), which writes the captured values into taps."""
    model = as_model(task.model)

    def predict(x):
        y, out = model.forward(params, x, replace(ctx, key=fold(ctx.key, "predict")))
        taps.update(out.taps)
        return y

    return predict


def _floats(tree: PyTree) -> bool:
    return all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(tree))


def _finite(tree: PyTree) -> bool:
    return all(
        bool(np.isfinite(np.asarray(leaf, np.float64)).all())
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    )
