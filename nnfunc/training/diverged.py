"""When a loss or gradient stops being finite: stop, and say at which step and in which layer."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import paths
from nnfunc.base import Context, Key, Params, PyTree, Watch, as_model, fold
from nnfunc.training.gradient import loss_and_metrics
from nnfunc.training.task import Task

__all__ = ["Diverged", "first_not_finite"]


class Diverged(FloatingPointError):
    """A loss, its gradient or the parameters are not finite.

    step: the first such step (0-based). layer: where it began. state: the train state just before
    that step's update.
    """

    def __init__(self, what: str, step: int, layer: str, state: Any):
        cure = "Try a smaller learning rate, clipping (clip=1.0) or a longer warm-up."
        super().__init__(f"training diverged: {what}. It began in {layer}. {cure}")
        self.step, self.layer, self.state = step, layer, state


def first_not_finite(
    task: Task, params: Params, model_state: PyTree, batch: PyTree, key: Key | None
) -> str:
    """Where the first value that is not finite comes from, in words, for one batch.

    With a key it is a training batch, without one a held-out batch. It looks at the batch, the
    parameters, every layer's result in the order of computation, the loss, and the gradients from
    the last layer back.
    """
    for what, tree in (("the batch", batch), ("the parameters", params)):
        bad = [path for path, leaf in paths.flatten(tree).items() if not _finite(leaf)]
        if bad:
            return f"{what}, before any layer ({bad[0] or 'x'})"
    order, taps = _every_tap(task, params, model_state, batch, key)
    inner = [path for path in order if not any(p.startswith(f"{path}/") for p in order)]
    for path in [*inner, *order]:
        bad = [leaf for leaf in jax.tree.leaves(taps[path]) if not _finite(leaf)]
        if bad:
            return f"the forward pass of layer {path}{_place(path, bad[0])}"

    def loss_of(params):
        train = key is not None
        return loss_and_metrics(task, params, model_state, batch, key=key, train=train)[0]

    loss, grads = jax.jit(jax.value_and_grad(loss_of))(params)
    if not _finite(loss):
        return f"the loss itself: every layer's result is finite, the loss is {float(loss)}"
    leaves = paths.flatten(grads)
    bad = [path for path, leaf in leaves.items() if not _finite(leaf)]
    for layer in reversed(inner):  # the backward pass begins at the last layer
        plain = layer.replace("*/", "")
        hit = [path for path in bad if path.startswith(f"{plain}/")]
        if hit:
            return f"the backward pass of layer {layer} (the gradient of {hit[0]})"
    if bad:
        return f"the backward pass (the gradient of {bad[0]})"
    with np.errstate(over="ignore"):
        norm = np.sqrt(sum(np.square(np.asarray(g, np.float32)).sum() for g in leaves.values()))
    if _finite(norm):
        return "the update: the gradient is finite, the parameters after it are not"
    return "the norm of the gradient, whose square is too large for float32"


def _every_tap(
    task: Task, params: Params, model_state: PyTree, batch: PyTree, key: Key | None
) -> tuple[list[str], dict[str, PyTree]]:
    """The result of every layer, and their order."""
    watch = Watch()
    ctx = Context(key=key, train=key is not None, state=model_state, capture=("**",), watch=watch)
    model = as_model(task.model)

    def run(batch):
        taps: dict[str, PyTree] = {}

        def predict(x):
            y, out = model.forward(params, x, replace(ctx, key=fold(key, "predict")))
            taps.update(out.taps)
            return y

        task.objective(predict, batch)
        return taps

    taps = jax.device_get(jax.jit(run)(batch))
    return list(watch.seen), taps


def _finite(leaf: Any) -> bool:
    if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return True
    return bool(np.isfinite(np.asarray(leaf, np.float64)).all())


def _place(path: str, leaf: Any) -> str:
    """Which of the stacked layers it is, when the path goes through `repeat`."""
    if "*" not in path.split("/"):
        return ""
    whole = np.asarray(leaf, np.float64).reshape(leaf.shape[0], -1)
    return f" (number {int(np.argmin(np.isfinite(whole).all(axis=1)))} of {leaf.shape[0]})"
