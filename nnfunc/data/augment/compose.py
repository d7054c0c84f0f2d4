"""Augmentations of augmentations: `chain` and `sometimes`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, Scalar, fold
from nnfunc.data.augment.augmentation import Augmentation, as_scalar, make_augmentation
from nnfunc.data.augment.mixup_cutmix import to_soft_labels

Augment = Callable[[Key, PyTree], PyTree]
"""(key, batch) -> batch: an Augmentation or any function."""


def chain(*augments: Augment) -> Augmentation:
    """Apply augmentations in order, each with another key; without any, the batch is unchanged.

    augments: functions (key, batch) -> batch.

    >>> augment = nf.augment.chain(nf.augment.shift(1), nf.augment.flip())
    >>> augment(jax.random.key(0), jnp.ones((2, 4, 4, 1))).shape
    (2, 4, 4, 1)
    """
    for augment in augments:
        _callable("chain", augment)
    return make_augmentation("chain", _chain, augments=augments)


def sometimes(augment: Augment, rate: Scalar = 0.5) -> Augmentation:
    """Apply an augmentation to each example with probability `rate`; the others are unchanged.

    augment: keeps shapes and dtypes; if it returns soft labels, as `mixup` does, the labels of the other examples
        become soft too. It runs on the whole batch, so this saves no time.
    rate: in [0, 1].
    Raises: ValueError when the augmentation changes the shape of x.

    >>> augment = nf.augment.sometimes(nf.augment.brightness(1.0), 0.5)
    >>> y = augment(jax.random.key(0), jnp.zeros((1000, 1, 1, 1)))
    >>> 450 < int((y == 0).sum()) < 550
    True
    """
    _callable("sometimes", augment)
    check.number("sometimes", 0, 1, rate=rate)
    return make_augmentation("sometimes", _sometimes, augment=augment, rate=rate)


def _chain(key: Key, batch: PyTree, *, augments: tuple[Augment, ...]) -> PyTree:
    for index, augment in enumerate(augments):
        batch = augment(fold(key, index), batch)
    return batch


def _sometimes(key: Key, batch: PyTree, *, augment: Augment, rate: Any) -> PyTree:
    changed = augment(fold(key, "augment"), batch)
    if jax.tree.structure(changed) != jax.tree.structure(batch):
        expected = f"the augmentation should keep the batch's structure, {jax.tree.structure(batch)}"
        check.fail("sometimes", expected=expected, actual=jax.tree.structure(changed))
    count = jax.tree.leaves(batch)[0].shape[0]
    is_changed = jax.random.uniform(fold(key, "acts"), (count,), jnp.float32) < as_scalar(rate)

    def pick(new: Array, old: Array) -> Array:
        new, old = jnp.asarray(new), jnp.asarray(old)
        if old.ndim == 1 and new.ndim == 2 and new.dtype != old.dtype:
            old = to_soft_labels("sometimes", old, new.shape[1])
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            expected = f"the augmentation should keep shape and dtype, {old.dtype}{list(old.shape)}"
            check.fail("sometimes", expected=expected, actual=f"{new.dtype}{list(new.shape)}")
        return jnp.where(is_changed.reshape(count, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(pick, changed, batch)


def _callable(where: str, augment: Any) -> None:
    if not callable(augment):
        expected = "each augmentation should be a function (key, batch) -> batch"
        check.fail(where, expected=expected, actual=check.describe(augment), exc_type=TypeError)
