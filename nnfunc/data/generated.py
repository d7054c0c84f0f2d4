"""Data that is computed instead of stored: every batch is a function of a key."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Key, PyTree, Scalar, fold_in, named_parameters, to_device
from nnfunc.data import shuffle
from nnfunc.data.check_arrays import prepare_arrays
from nnfunc.data.dataset import Data, GatheredBatch, Transform


@dataclass(frozen=True, eq=False, repr=False)
class GeneratedData(Data):
    """A data set whose training batches are computed: `batch(step)` calls `function`. `generated` makes one.

    function: (key) -> batch, or (key, step) -> batch. The other fields are those of `Data`; arrays is one batch,
        and `size` the number of its examples.
    """

    function: Callable[..., PyTree] = lambda key: ()

    def batch(self, step: Scalar, *, key: Key | None = None) -> PyTree:
        """The batch of a 0-based step; it depends on the seed and the step alone.

        step: 0-based, may be traced.
        key: for `augment`, by default derived from seed and step.
        """
        arrays = _call(self.function, self.seed, shuffle.as_uint32(step))
        arrays = jax.tree.map(lambda leaf: leaf[: self.batch_size], arrays)  # all, unless a tool asks for fewer
        return GatheredBatch(arrays, self.seed, self.transform, self.augment).batch(step, key=key)

    def sample(self, size: int = 1024) -> PyTree:
        """The arrays of the first batches, of at least `size` examples in all, but of no more than 64 batches."""
        steps = jnp.arange(min(64, -(-size // self.batch_size)), dtype=jnp.uint32)
        batches = jax.jit(lambda steps: jax.lax.map(lambda step: _call(self.function, self.seed, step), steps))(steps)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batches)


jax.tree_util.register_dataclass(
    GeneratedData,
    data_fields=["arrays", "validation", "test", "seed"],
    meta_fields=[
        "batch_size",
        "classes",
        "transform",
        "augment",
        "window",
        "codec",
        "image_shape",
        "eval_batch_size",
        "function",
    ],
    drop_fields=["preprocessing"],
)


def generated(
    function: Callable[..., PyTree],
    *,
    validation: PyTree = None,
    test: PyTree = None,
    seed: Scalar = 0,
    classes: int | None = None,
    transform: Transform | None = None,
) -> GeneratedData:
    """A data set whose batches are computed in the training step, such as samples of a distribution or a task.

    function: (key) -> batch, or with a parameter named step also the 0-based step; a pure function of JAX that
        returns arrays, or a pytree of them, whose first axis is the examples. Every step has a key of its own,
        `fold_in(key(seed), step)`, so a batch is the same for the same seed and step, alone and in a sweep.
    validation, test: pytrees of arrays as a batch is, or None.
    seed: in [0, 2**32), may be traced.
    classes: the number of classes of the labels, or None.
    transform: batch -> batch, after every batch.
    Raises: TypeError when function is no function, or returns no arrays.

    >>> data = generated(lambda key: jax.random.normal(key, (4, 2)))
    >>> data.batch(0).shape, bool((data.batch(0) == data.batch(0)).all()), bool((data.batch(0) == data.batch(1)).any())
    ((4, 2), True, False)
    """
    where = "data.generated"
    if not callable(function):
        expected = "function should be a function (key) -> batch"
        check.fail(where, expected=expected, actual=check.describe(function), exc_type=TypeError)
    check.number(where, 0, 2**32 - 1, seed=seed)
    sample = jax.jit(lambda seed: _call(function, seed, jnp.zeros((), jnp.uint32)))(shuffle.as_uint32(seed))
    sample = prepare_arrays(where, "the batch", sample)
    held_out = {"validation": validation, "test": test}
    held_out = {
        name: None if tree is None else jax.tree.map(to_device, prepare_arrays(where, name, tree))
        for name, tree in held_out.items()
    }
    return GeneratedData(
        sample,
        **held_out,
        seed=shuffle.as_uint32(seed),
        batch_size=jax.tree.leaves(sample)[0].shape[0],
        classes=classes,
        transform=transform,
        function=function,
    )


def _call(function: Callable[..., PyTree], seed: Any, step: Any) -> PyTree:
    key = fold_in(jax.random.key(seed), step)
    return function(key, step=step.astype(jnp.int32)) if "step" in named_parameters(function) else function(key)
