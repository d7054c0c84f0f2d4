"""The least loss that a batch has, whatever the model: found by moving the outputs themselves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.debug.probe import Probe, loss_of_outputs, rows_differ

__all__ = ["LossFloors", "estimate_floors"]

MOST = 1 << 21  # outputs of more numbers are left alone
STEPS = 300


class LossFloors(NamedTuple):
    """The least losses. free: of any outputs, such as the entropy of smoothed labels. tied: of
    outputs that are equal where the model's input is. constant: of one output for all. conflict: two
    examples that are equal and should have different outputs, or None.
    """

    free: float
    tied: float
    constant: float
    conflict: tuple[int, int] | None = None
    causal: bool = False


def estimate_floors(look: Probe) -> LossFloors | None:
    """The floors of a look's batch; None where the outputs are not one array of moderate size."""
    y = look.y
    if y is None or len(look.evaluation["outputs"]) > 1 or y.size > MOST or y.shape[0] != look.size:
        return None
    ids, causal = _ids(look)
    lead = ids.shape
    flat = y.reshape(*lead, *y.shape[len(lead) :])
    count = ids.size
    indices = np.stack([np.arange(count), ids.reshape(-1), np.zeros(count, int)])

    def loss_of(free, index, params, state, batch):
        outputs = free.reshape(count, *flat.shape[len(lead) :])[index].reshape(y.shape)
        return loss_of_outputs(look.task, params, state, batch, [outputs])

    def least(index, rate, *args):
        def one(carry, step):
            free, mean, square, best = carry
            loss, grad = jax.value_and_grad(loss_of)(free, index, *args)
            mean, square = 0.9 * mean + 0.1 * grad, 0.99 * square + 0.01 * grad**2
            t = step + 1.0
            size = jnp.sqrt(square / (1 - 0.99**t)) + 1e-12
            now = rate * (1 - step / STEPS)
            free = free - now * (mean / (1 - 0.9**t)) / size
            return (free, mean, square, jnp.fmin(best, loss)), None

        zeros = jnp.zeros(y.shape, jnp.float32)
        carry = (zeros, zeros, zeros, jnp.full((), jnp.inf, jnp.float32))
        return jax.lax.scan(one, carry, jnp.arange(STEPS, dtype=jnp.float32))[0][3]

    rates = jnp.asarray([0.1, 1.0, 10.0, 1000.0])
    fixed = (look.params, look.state, look.batch)
    every = jax.vmap(jax.vmap(least, (None, 0, *[None] * 3)), (0, None, *[None] * 3))
    found = np.asarray(jax.jit(every)(jnp.asarray(indices), rates, *fixed)).min(axis=1)
    free, tied, constant = (float(value) for value in found)
    pair = None if causal else _equal_pair(look, ids)
    return LossFloors(free, max(free, tied), max(free, constant), pair, causal)


def _ids(look: Probe) -> tuple[np.ndarray, bool]:
    """Equal numbers where the outputs have to be equal: [batch], or [batch, time] of causal models."""
    x = look.x
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    leaves = [leaf for leaf in leaves if leaf.shape[:1] == (look.size,)]
    if len(leaves) == 1 and _causal(look, leaves[0]):
        tokens, ids = leaves[0], []
        before = np.zeros(look.size, int)
        for t in range(tokens.shape[1]):
            pairs = np.stack([before, tokens[:, t]], axis=1)
            before = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1)
            ids.append(before + t * look.size)
        return np.stack(ids, axis=1), True
    rows = [b"".join(np.ascontiguousarray(leaf[i]).tobytes() for leaf in leaves) for i in range(look.size)]
    first = {row: i for i, row in reversed(list(enumerate(rows)))}
    return np.asarray([first[row] for row in rows]), False


def _causal(look: Probe, x: np.ndarray) -> bool:
    """Whether x is a sequence of tokens, and earlier outputs do not look at the last one."""
    y = look.y
    if y is None or x.ndim != 2 or not np.issubdtype(x.dtype, np.integer) or y.shape[:2] != x.shape:
        return False
    if x.shape[1] < 2 or jax.tree.structure(look.x) != jax.tree.structure(0):
        return False
    other = x.copy()
    other[:, -1] = np.roll(x[:, -1], 1)
    one, two = (look.forward(look.perturbed, tokens)[0][:, :-1] for tokens in (x, other))
    return not rows_differ(one, two)


def _equal_pair(look: Probe, ids: np.ndarray) -> tuple[int, int] | None:
    """Two examples with equal inputs in a batch that is not equal otherwise."""
    batch = [np.asarray(leaf) for leaf in jax.tree.leaves(look.batch)]
    for i, first in enumerate(ids.tolist()):
        if first != i and any(np.any(leaf[i] != leaf[first]) for leaf in batch):
            return first, i
    return None
