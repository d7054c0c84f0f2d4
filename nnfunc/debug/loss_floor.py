"""The lowest loss that a batch allows for any model, found by optimizing the outputs themselves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnfunc.debug.probe import Probe, differ, loss_of_outputs

MAX_OUTPUTS = 1 << 21  # numbers; the floors of larger outputs are not estimated
STEPS = 300


class LossFloors(NamedTuple):
    """The lowest losses of a batch.

    free: of any outputs; above 0 with smoothed labels.
    tied: of outputs that are equal where the model's inputs are.
    constant: of one output for all examples.
    conflict: two examples with equal inputs and different targets, or None.
    causal: whether outputs are tied by the tokens before them.
    """

    free: float
    tied: float
    constant: float
    conflict: tuple[int, int] | None = None
    causal: bool = False


def estimate_floors(probe: Probe) -> LossFloors | None:
    """The floors of the probe's batch; None where the outputs are not one array of moderate size."""
    y = probe.y
    if y is None or probe.hides_calls or len(probe.evaluation["outputs"]) > 1:
        return None
    if y.size > MAX_OUTPUTS or y.shape[0] != probe.size:
        return None
    ids, causal = _find_ties(probe)
    count = ids.size
    ties = np.stack([np.arange(count), ids.reshape(-1), np.zeros(count, int)])

    def loss_of(free, tie, params, state, batch):
        outputs = free.reshape(count, *y.shape[ids.ndim :])[tie].reshape(y.shape)  # [batch, (time,) ...]
        return loss_of_outputs(probe.task, params, state, batch, [outputs])

    def minimize(tie, learning_rate, *args):
        adam = optax.adam(lambda step: learning_rate * (1 - step / STEPS), b2=0.99, eps=1e-12)

        def update_step(carry, _):
            free, opt_state, best = carry
            loss, grad = jax.value_and_grad(loss_of)(free, tie, *args)
            with jax.numpy_dtype_promotion("standard"):  # optax's transformations fail under "strict"
                updates, opt_state = adam.update(grad, opt_state)
            return (optax.apply_updates(free, updates), opt_state, jnp.fmin(best, loss)), None

        zeros = jnp.zeros(y.shape, jnp.float32)
        carry = (zeros, adam.init(zeros), jnp.full((), jnp.inf, jnp.float32))
        return jax.lax.scan(update_step, carry, length=STEPS)[0][2]

    rates = jnp.asarray([0.1, 1.0, 10.0, 1000.0])
    args = (probe.params, probe.state, probe.batch)
    minimize_all = jax.vmap(jax.vmap(minimize, (None, 0, *[None] * 3)), (0, None, *[None] * 3))
    losses = np.asarray(jax.jit(minimize_all)(jnp.asarray(ties), rates, *args)).min(axis=1)
    free, tied, constant = (float(loss) for loss in losses)
    conflict = None if causal else _find_conflict(probe, ids)
    return LossFloors(free, max(free, tied), max(free, constant), conflict, causal)


def _find_ties(probe: Probe) -> tuple[np.ndarray, bool]:
    """Ids [batch], or [batch, time] of causal models: outputs with the same id have to be equal."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(probe.x)]
    leaves = [leaf for leaf in leaves if leaf.shape[:1] == (probe.size,)]
    if len(leaves) == 1 and _is_causal(probe, leaves[0]):
        tokens, ids = leaves[0], []
        prefix = np.zeros(probe.size, int)
        for t in range(tokens.shape[1]):
            pairs = np.stack([prefix, tokens[:, t]], axis=1)  # [batch, 2]
            prefix = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
            ids.append(prefix + t * probe.size)
        return np.stack(ids, axis=1), True
    rows = [b"".join(np.ascontiguousarray(leaf[i]).tobytes() for leaf in leaves) for i in range(probe.size)]
    first = {row: i for i, row in reversed(list(enumerate(rows)))}
    return np.asarray([first[row] for row in rows]), False


def _is_causal(probe: Probe, x: np.ndarray) -> bool:
    """Whether x holds sequences of tokens, and no earlier output depends on the last token."""
    y = probe.y
    if y is None or x.ndim != 2 or not np.issubdtype(x.dtype, np.integer) or y.shape[:2] != x.shape:
        return False
    if x.shape[1] < 2 or jax.tree.structure(probe.x) != jax.tree.structure(0):
        return False
    changed = x.copy()
    changed[:, -1] = np.roll(x[:, -1], 1)
    a, b = (probe.forward(probe.perturbed, tokens)[0][:, :-1] for tokens in (x, changed))
    return not differ(a, b)


def _find_conflict(probe: Probe, ids: np.ndarray) -> tuple[int, int] | None:
    """Two examples with equal inputs whose targets differ."""
    batch = [np.asarray(leaf) for leaf in jax.tree.leaves(probe.batch)]
    for i, first in enumerate(ids.tolist()):
        if first != i and any(np.any(leaf[i] != leaf[first]) for leaf in batch):
            return first, i
    return None
