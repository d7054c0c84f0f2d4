"""The batches of an evaluation: all of one size, so that one program serves every split."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.base import Array, PyTree

__all__ = ["EvalBatch", "eval_batches", "eval_total", "even_batch_size"]

Transform = Callable[[PyTree], PyTree] | None


@dataclass(frozen=True, eq=False)
class EvalBatch:
    """Examples of a split, not transformed yet; `batch` and `mask` are for use under jit.

    examples: leaves [batch_size, ...]. count: how many of them count, which are the first; the others
    are copies of the last one. transform: that of the data set.
    """

    examples: PyTree
    count: Any
    transform: Transform = None

    def batch(self) -> PyTree:
        """The transformed batch."""
        return self.examples if self.transform is None else self.transform(self.examples)

    def mask(self) -> Array:
        """[batch_size] booleans: which examples count."""
        return jnp.arange(_size(self.examples), dtype=jnp.int32) < self.count


jax.tree_util.register_dataclass(EvalBatch, data_fields=["examples", "count"], meta_fields=["transform"])


def eval_batches(
    tree: PyTree, batch_size: int, transform: Transform = None, *, padded: bool = True
) -> Iterator[EvalBatch]:
    """Every example of the arrays once, in order.

    padded: whether the last batch is filled up to batch_size. Otherwise the batches are of
    `even_batch_size`, and the last one is smaller if that does not divide the split.
    """
    size = _size(tree)
    width = batch_size if padded else even_batch_size(size, batch_size)
    for start in range(0, size, width):
        count = min(width, size - start)
        at = np.arange(start, start + (width if padded else count))
        yield EvalBatch(_taken(tree, np.minimum(at, size - 1)), np.int32(count), transform)


def eval_total(
    function: Callable[[PyTree, Array], PyTree], tree: PyTree, batch_size: int, transform: Transform = None
) -> PyTree:
    """The sum of function(batch, mask) over the batches of `eval_batches`, as one loop: for jit."""
    size = _size(tree)

    def of(start):
        at = start + jnp.arange(batch_size, dtype=jnp.int32)
        examples = _gathered(tree, jnp.minimum(at, size - 1))
        batch = EvalBatch(examples, size - start, transform)
        return jax.tree.map(jnp.asarray, function(batch.batch(), batch.mask()))

    def add(sums, start):
        return jax.tree.map(jnp.add, sums, of(start)), None

    if size <= batch_size:
        return of(jnp.int32(0))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(of, jnp.int32(0)))
    return jax.lax.scan(add, zeros, jnp.arange(0, size, batch_size, dtype=jnp.int32))[0]


def even_batch_size(size: int, most: int) -> int:
    """A batch size, from most / 2 to most, that divides a split of `size`; most where none does."""
    most = min(size, most)
    return next((width for width in range(most, most // 2, -1) if size % width == 0), most)


def _size(tree: PyTree) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


def _taken(tree: PyTree, at: np.ndarray) -> PyTree:
    """The examples at the given places; of what lies on the host, gathered there."""
    if isinstance(jax.tree.leaves(tree)[0], np.ndarray):
        return jax.tree.map(lambda x: np.asarray(x[at]), tree)
    return _gather(tree, at.astype(np.int32))


def _gathered(tree: PyTree, at: Array) -> PyTree:
    return jax.tree.map(lambda x: x.at[at].get(mode="promise_in_bounds"), tree)


_gather = jax.jit(_gathered)
