"""The contrastive objective: two augmented views of an example should have similar embeddings."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, Scalar, fold
from nnfunc.training.objectives.objective import Objective
from nnfunc.training.objectives.objective_totals import example_mask, masked_total, mean_objective


def contrastive(augment: Callable[[Key, PyTree], PyTree] | None = None, *, temperature: Scalar = 0.1) -> Objective:
    """NT-Xent: of two augmented views of each example, each should be most similar to the other one.

    loss = -log(exp(s(i, j) / t) / sum over k != i of exp(s(i, k) / t)) for each view i with its partner j, among the
    2 * batch views of a batch; s is the cosine similarity of the embeddings, t the temperature.

    Batches are x, or pairs (x, labels) of a data set for classification, whose labels are not read; the model gives
    embeddings [batch, dim] or [batch, ...]. Evaluations draw the same views every time; the loss depends on the batch
    size, as the other examples of a batch are its negatives.
    augment: (key, batch) -> batch, of `nf.augment`, called twice with different keys; in a config it is the table
        augment.
    temperature: above 0.
    Metrics: accuracy, the fraction of views whose most similar view is their partner.
    Raises: ValueError for a temperature out of range, or without an augmentation.
    Source: Chen et al. 2020, "SimCLR", arXiv:2002.05709, equation 1; van den Oord et al. 2018, arXiv:1807.03748.

    >>> noise = lambda key, batch: (batch[0] + 0.1 * jax.random.normal(key, batch[0].shape), batch[1])
    >>> task = nf.Task(nf.linear(2, 3), nf.contrastive(noise), nf.optimizers.sgd(0.1))
    >>> params = task.model.init(jax.random.key(0))
    >>> sorted(nf.evaluate(task, params, (np.eye(4, 2, dtype=np.float32), np.arange(4))))
    ['accuracy', 'loss']
    """
    where = "contrastive"
    check.number(where, 0, open_low=True, temperature=temperature)
    if augment is None:
        hint = "Pass nf.augment.shift(2), or in a config add augment = { shift = { pixels = 2 } }."
        check.fail(where, "two views of an example need an augmentation, and there is none.", hint=hint)

    def totals(predict, batch, mask, key):
        views = [augment(fold(key, name), batch) for name in ("first", "second")]
        views = [view[0] if isinstance(view, tuple | list) and len(view) == 2 else view for view in views]
        y = predict(jax.tree.map(lambda *parts: jnp.concatenate(parts), *views))  # [2 * batch, ...]
        size = len(y) // 2
        counted = example_mask(where, mask, (size,))
        loss, hit = _nt_xent(y.reshape(2 * size, -1), jnp.tile(counted, 2), temperature)
        return {name: masked_total(value, jnp.tile(counted, 2)) for name, value in (("loss", loss), ("accuracy", hit))}

    objective = mean_objective(totals)

    def function(predict, batch, key):
        sums = totals(predict, batch, None, key)
        means = {name: total / jnp.where(weight == 0, 1, weight) for name, (total, weight) in sums.items()}
        return means.pop("loss"), means

    return Objective(function, objective.inspect, "", totals)


def _nt_xent(embeddings: Array, counted: Array, temperature: Scalar) -> tuple[Array, Array]:
    """The loss of each view, and 1.0 where the partner is its most similar view.

    embeddings: [2 * batch, dim], view i and its partner i + batch.
    counted: [2 * batch], False for padding.
    """
    x = embeddings.astype(jnp.promote_types(embeddings.dtype, jnp.float32))
    x = x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-24))
    count = len(x)
    partner = jnp.roll(jnp.arange(count, dtype=jnp.int32), count // 2)
    other = ~jnp.eye(count, dtype=bool) & counted[None, :]
    similarity = jnp.where(other, x @ x.T / jnp.asarray(temperature).astype(x.dtype), -jnp.inf)
    similarity = jnp.where(counted[:, None], similarity, 0)  # rows of padding stay finite
    of_partner = jnp.take_along_axis(similarity, partner[:, None], axis=1)[:, 0]
    loss = jax.nn.logsumexp(similarity, axis=1) - of_partner
    hit = jnp.argmax(similarity, axis=1).astype(jnp.int32) == partner
    return loss, hit.astype(x.dtype)
