"""doctor's checks of the loss and the optimizer."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnfunc import check, paths
from nnfunc.debug.checks.model_checks import is_shift_invariant
from nnfunc.debug.finding import Finding
from nnfunc.debug.probe import Probe, split_pair
from nnfunc.debug.short_runs import peak_learning_rate, update_at_learning_rate
from nnfunc.frozen_state import contains_frozen
from nnfunc.paths import is_matrix
from nnfunc.vector_norm import global_norm


def check_initial_loss(probe: Probe) -> Iterator[Finding]:
    """The loss starts near that of an untrained model: log(classes) for classification.

    probe: of the task.
    """
    loss, zeros = float(probe.evaluation["loss"]), float(probe.evaluation["zeros"])
    if not math.isfinite(zeros):
        return
    expected = f"{zeros:.3g}, the loss of outputs that are all 0"
    y = probe.y
    if y is not None and is_shift_invariant(probe) and abs(zeros - math.log(y.shape[-1])) < 1e-3 * zeros:
        expected = f"log({y.shape[-1]}) = {zeros:.3g}"
    if loss - zeros > max(1.5 * abs(zeros), 2.0):  # outputs of variance 2, as He's initial weights give, are well
        evidence = f"It is {loss:.3g} at the start, and should be near {expected}."
        hint = "Make the initial weights of the last layer smaller, and normalise inputs and targets."
        yield Finding("warning", "loss", "initial loss too large", evidence, hint)
    elif zeros > 0.1 and loss < 0.5 * zeros and not contains_frozen(probe.state):  # adapters start from a trained model
        evidence = f"It is {loss:.3g} before any training, and should be near {expected}."
        hint = "Does the input contain the label, or are the parameters trained already?"
        yield Finding("warning", "loss", "initial loss too small", evidence, hint)


def check_pairing(probe: Probe) -> Iterator[Finding]:
    """The loss changes when the examples swap their outputs.

    One range of outputs would not show it: far from all targets, huber and mae are straight lines, whose
    mean is the same for every pairing, and a hinge or a clipped loss is flat.
    probe: of the task.
    """
    paired = np.asarray(probe.evaluation["paired"], np.float64)  # [ranges, (in order, rolled)]
    if probe.y is None or len(probe.y) < 3 or not np.isfinite(paired).all():
        return
    parts = [part for part in split_pair(probe.batch) if part is not None]
    parts = parts if len(parts) == 2 else jax.tree.leaves(probe.batch)
    varying = [part for part in parts if any(len(np.unique(leaf, axis=0)) > 1 for leaf in jax.tree.leaves(part))]
    change = np.abs(paired[:, 1] - paired[:, 0])
    if len(varying) > 1 and (change <= 3e-6 * np.maximum(np.abs(paired[:, 0]), 1e-3)).all():
        loss = float(probe.evaluation["loss"])
        evidence = f"It is {loss:.3g}, and does not change when the examples swap their outputs."
        hint = "Compare each output with the label of the same example. Is the batch averaged too early?"
        yield Finding("error", "loss", "loss ignores the labels", evidence, hint)


def check_reduction(probe: Probe) -> Iterator[Finding]:
    """The loss is a mean over the batch.

    probe: of the task.
    """
    loss, doubled = float(probe.evaluation["loss"]), float(probe.evaluation["doubled"])
    if math.isfinite(doubled) and abs(doubled - 2 * loss) < 1e-3 * abs(loss):
        evidence = f"It is {loss:.3g} for the batch, and {doubled:.3g} when every example occurs twice."
        hint = "Take the mean; otherwise each batch size needs another learning rate."
        yield Finding("warning", "loss", "loss sums over the batch", evidence, hint)


def check_learning_rate(probe: Probe, build: Callable[..., Any], hypers: Any) -> Iterator[Finding]:
    """One step at the peak learning rate moves the parameters without ruining them.

    probe: of the task.
    build, hypers: as for `nf.train`.
    """
    peak, optimizer, params = peak_learning_rate(build, hypers), probe.task.optimizer, probe.params
    loss, grads = probe.loss_and_gradients(params)

    def train_step(params, grads, loss):
        update = update_at_learning_rate(optimizer, 1.0 if peak is None else peak, 0)
        updates, _ = update(grads, optimizer.init(params), params, value=loss, grad=grads)
        return optax.apply_updates(params, updates), updates

    new_params, updates = jax.jit(train_step)(params, grads, loss)
    loss, new_loss = float(loss), float(probe.loss_and_gradients(new_params)[0])
    norm = float(global_norm(params))
    ratio = float(global_norm(updates)) / max(norm, 1e-12)
    step = "One step" if peak is None else f"One step at learning rate {peak:.2g}"
    evidence = f"{step} changes the parameters by {ratio:.2g} of their norm"
    hint = "nf.debug.find_lr (nnfunc find-lr) finds one that fits."
    if not math.isfinite(new_loss) or new_loss > loss + 2 * max(abs(loss), 1.0):
        evidence += f" and the loss from {loss:.3g} to {new_loss:.3g}."
        yield Finding("error", "learning rate", "learning rate too large", evidence, hint)
    elif norm > 0 and ratio < 1e-6 and global_norm(grads) > 0:
        evidence += ": thousands of steps learn nothing."
        yield Finding("error", "learning rate", "learning rate too small", evidence, hint)


def check_weight_decay(probe: Probe) -> Iterator[Finding]:
    """Weight decay, which shows as updates without a gradient, applies to matrices alone.

    probe: of the task.
    """
    optimizer = probe.task.optimizer
    ones = jax.tree.map(jnp.ones_like, probe.params)
    zeros = jax.tree.map(jnp.zeros_like, probe.params)

    def update(ones, zeros):
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(zeros, optimizer.init(ones), ones, value=jnp.ones(()), grad=zeros)[0]

    updates = paths.flatten(jax.device_get(jax.jit(update)(ones, zeros)))
    decayed = [path for path, leaf in updates.items() if np.any(leaf) and not is_matrix(path, leaf)]
    if decayed:
        evidence = f"{check.join_names(decayed)} {'shrinks' if len(decayed) == 1 else 'shrink'} without a gradient."
        hint = "Decay matrices alone, as nf.optimizers.adamw does; optax takes a mask."
        yield Finding("warning", decayed[0], "decay on biases and norms", evidence, hint)
