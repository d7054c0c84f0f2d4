"""The batches of an evaluation, all of one size, so that one compiled program serves every split."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.base import Array, PyTree
from nnfunc.data.dataset import Transform, count_examples, take


@dataclass(frozen=True, eq=False)
class EvalBatch:
    """Examples of a split, not transformed yet; `batch` and `mask` are for use under jit.

    examples: leaves [batch_size, ...].
    count: the first so many are examples of the split; the others are padding, copies of the last one.
    transform: that of the data set.
    """

    examples: PyTree
    count: Any
    transform: Transform | None = None

    def batch(self) -> PyTree:
        """The transformed batch."""
        return self.examples if self.transform is None else self.transform(self.examples)

    def mask(self) -> Array:
        """[batch_size] booleans: False for padding."""
        return jnp.arange(count_examples(self.examples), dtype=jnp.int32) < self.count


jax.tree_util.register_dataclass(EvalBatch, data_fields=["examples", "count"], meta_fields=["transform"])


def eval_batches(
    tree: PyTree, batch_size: int, transform: Transform | None = None, *, padded: bool = True
) -> Iterator[EvalBatch]:
    """Every example of the arrays once, in order.

    tree: of arrays [n, ...].
    batch_size: at least 1.
    transform: that of the data set.
    padded: whether the last batch is padded to batch_size. Otherwise the batches have `even_batch_size` examples,
        and the last one is smaller if that does not divide n.
    """
    size = count_examples(tree)
    width = batch_size if padded else even_batch_size(size, batch_size)
    for start in range(0, size, width):
        count = min(width, size - start)
        at = np.minimum(np.arange(start, start + (width if padded else count)), size - 1)
        if isinstance(jax.tree.leaves(tree)[0], np.ndarray):  # gathered on the host
            examples = jax.tree.map(lambda x, at=at: np.asarray(x[at]), tree)
        else:
            examples = _take(tree, at.astype(np.int32))
        yield EvalBatch(examples, np.int32(count), transform)


def _add_leaves(first: PyTree, second: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, first, second)


def eval_total(
    function: Callable[[PyTree, Array], PyTree],
    tree: PyTree,
    batch_size: int,
    transform: Transform | None = None,
    add: Callable[[PyTree, PyTree], PyTree] = _add_leaves,
) -> PyTree:
    """The sum of function(batch, mask) over the batches of `eval_batches`, as one loop, for use under jit.

    function: (batch, mask [batch_size]) -> pytree of arrays to add.
    tree, batch_size, transform: as for `eval_batches`.
    add: two results -> that of both batches; zeros are that of none.
    """
    size = count_examples(tree)

    def evaluate(start):
        at = start + jnp.arange(batch_size, dtype=jnp.int32)
        examples = take(tree, jnp.minimum(at, size - 1))
        batch = EvalBatch(examples, size - start, transform)
        return jax.tree.map(jnp.asarray, function(batch.batch(), batch.mask()))

    def add_batch(sums, start):
        return add(sums, evaluate(start)), None

    if size <= batch_size:
        return evaluate(jnp.int32(0))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(evaluate, jnp.int32(0)))
    return jax.lax.scan(add_batch, zeros, jnp.arange(0, size, batch_size, dtype=jnp.int32))[0]


def even_batch_size(size: int, most: int) -> int:
    """The largest batch size in (most / 2, most] that divides a split of `size` examples; most if none does."""
    most = min(size, most)
    return next((width for width in range(most, most // 2, -1) if size % width == 0), most)


_take = jax.jit(take)
