"""What `doctor` checks of the loss and the optimizer."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnfunc import paths
from nnfunc.debug.checks.model_checks import is_shift_invariant
from nnfunc.debug.finding import Finding
from nnfunc.debug.first_state import peak_learning_rate, update_at_learning_rate
from nnfunc.debug.probe import Probe
from nnfunc.frozen_state import contains_frozen
from nnfunc.paths import is_matrix
from nnfunc.vector_norm import global_norm

__all__ = ["check_initial_loss", "check_learning_rate", "check_pairing", "check_reduction", "check_weight_decay"]


def check_initial_loss(look: Probe) -> Iterator[Finding]:
    """The loss begins at about that of a model that knows nothing: log(classes), for labels."""
    loss, zeros = float(look.evaluation["loss"]), float(look.evaluation["zeros"])
    if not math.isfinite(zeros):
        return
    implied = f"{zeros:.3g}, the loss of outputs that are all 0"
    y = look.y
    if y is not None and is_shift_invariant(look) and abs(zeros - math.log(y.shape[-1])) < 1e-3 * zeros:
        implied = f"log({y.shape[-1]}) = {zeros:.3g}"
    if loss - zeros > max(abs(zeros), 1.0):
        why = f"It is {loss:.3g} at the start, and should be near {implied}."
        cure = "Make the last layer's first weights smaller, and normalise the inputs and targets."
        yield Finding("warning", "loss", "initial loss too large", why, cure)
    elif zeros > 0.1 and loss < 0.5 * zeros and not contains_frozen(look.state):  # adapters begin trained
        why = f"It is {loss:.3g} before any training, and should be near {implied}."
        cure = "Does the input hold the answer, or were the parameters trained already?"
        yield Finding("warning", "loss", "initial loss too small", why, cure)


def check_pairing(look: Probe) -> Iterator[Finding]:
    """The loss is another one when each example gets the outputs of another.

    At one size of outputs alone that tells nothing: far from all targets huber and mae are straight
    lines, whose mean is the same for every pairing, and a hinge or a clipped loss is flat.
    """
    paired = np.asarray(look.evaluation["paired"], np.float64)  # [ranges, as they are or rolled]
    if look.y is None or len(look.y) < 3 or not np.isfinite(paired).all():
        return
    targets = [leaf for leaf in jax.tree.leaves(look.batch) if len(np.unique(leaf, axis=0)) > 1]
    apart = np.abs(paired[:, 1] - paired[:, 0])
    if len(targets) > 1 and (apart <= 3e-6 * np.maximum(np.abs(paired[:, 0]), 1e-3)).all():
        loss = float(look.evaluation["loss"])
        why = f"It is {loss:.3g}, and stays what it is when each example gets another's outputs."
        cure = "Compare each output with its own label; is the batch averaged too early?"
        yield Finding("error", "loss", "loss ignores the labels", why, cure)


def check_reduction(look: Probe) -> Iterator[Finding]:
    """The loss is a mean over the batch."""
    loss, doubled = float(look.evaluation["loss"]), float(look.evaluation["doubled"])
    if math.isfinite(doubled) and abs(doubled - 2 * loss) < 1e-3 * abs(loss):
        why = f"It is {loss:.3g} for the batch and {doubled:.3g} for the batch twice."
        cure = "Take the mean, or every other batch size needs another learning rate."
        yield Finding("warning", "loss", "loss adds up the batch", why, cure)


def check_learning_rate(look: Probe, build: Callable[..., Any], hypers: Any) -> Iterator[Finding]:
    """One step at the largest learning rate moves the parameters, and does not throw them away."""
    peak, optimizer = peak_learning_rate(build, hypers), look.task.optimizer
    before, grads = look.gradients(look.params)
    params = look.params

    def step(params, grads, before):
        state, told = optimizer.init(params), {"value": before, "grad": grads}
        update = update_at_learning_rate(optimizer, 1.0 if peak is None else peak, 0)
        updates, _ = update(grads, state, params, **told)
        return optax.apply_updates(params, updates), updates

    moved, updates = jax.jit(step)(params, grads, before)
    after = float(look.gradients(moved)[0])
    norms = [float(global_norm(tree)) for tree in (updates, params)]
    share = norms[0] / max(norms[1], 1e-12)
    told = "one step" if peak is None else f"one step at the rate {peak:.2g}"
    moves = f"{told} moves the parameters by {share:.2g} of their size"
    cure = "nf.debug.find_lr (nnfunc find-lr) finds one that fits."
    loss = float(before)
    if not math.isfinite(after) or after > loss + 2 * max(abs(loss), 1.0):
        why = f"{moves.capitalize()} and the loss from {loss:.3g} to {after:.3g}."
        yield Finding("error", "learning rate", "learning rate too large", why, cure)
    elif norms[1] > 0 and share < 1e-6 and global_norm(grads) > 0:
        why = f"{moves.capitalize()}: nothing is learned in thousands of steps."
        yield Finding("error", "learning rate", "learning rate too small", why, cure)


def check_weight_decay(look: Probe) -> Iterator[Finding]:
    """Weight decay, which is seen in updates without a gradient, is for matrices."""
    optimizer = look.task.optimizer
    ones = jax.tree.map(jnp.ones_like, look.params)
    zeros = jax.tree.map(jnp.zeros_like, look.params)

    def update(ones, zeros):
        with jax.numpy_dtype_promotion("standard"):
            told = {"value": jnp.ones(()), "grad": zeros}
            return optimizer.update(zeros, optimizer.init(ones), ones, **told)[0]

    moved = paths.flatten(jax.device_get(jax.jit(update)(ones, zeros)))
    wrong = [path for path, leaf in moved.items() if np.any(leaf) and not is_matrix(path, leaf)]
    if wrong:
        named = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        why = f"{named} shrink without a gradient."
        cure = "Decay matrices alone, as nf.optimizers.adamw does; optax takes a mask."
        yield Finding("warning", wrong[0], "decay on biases and norms", why, cure)
