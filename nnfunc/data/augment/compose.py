"""Augmentations made of others: `chain` and `sometimes`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, Scalar, fold
from nnfunc.data.augment.base import Augmentation, as_scalar, make_augmentation
from nnfunc.data.augment.mixup_cutmix import to_soft_labels

__all__ = ["chain", "sometimes"]

Augment = Callable[[Key, PyTree], PyTree]
"""(key, batch) -> batch: an Augmentation, or a function of one's own."""


def chain(*augments: Augment) -> Augmentation:
    """One augmentation after the other, each with a key of its own; none leave the batch as it is.

    >>> augment = nf.augment.chain(nf.augment.shift(1), nf.augment.flip())
    >>> augment(jax.random.key(0), jnp.ones((2, 4, 4, 1))).shape
    (2, 4, 4, 1)
    """
    for augment in augments:
        _callable("chain", augment)
    return make_augmentation("chain", _chain, augments=augments)


def sometimes(augment: Augment, rate: Scalar = 0.5) -> Augmentation:
    """Let an augmentation act on each example with probability `rate`; the others stay as they are.

    rate: in [0, 1]. The augmentation keeps shapes and types; but where it makes soft labels, as `mixup`
    does, those of the others become soft too. It runs on the whole batch, so this saves no time.
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
    for place, augment in enumerate(augments):
        batch = augment(fold(key, place), batch)
    return batch


def _sometimes(key: Key, batch: PyTree, *, augment: Augment, rate: Any) -> PyTree:
    changed = augment(fold(key, "augment"), batch)
    if jax.tree.structure(changed) != jax.tree.structure(batch):
        wanted = f"the augmentation should keep the batch's structure, {jax.tree.structure(batch)}"
        check.fail("sometimes", f"{wanted}, got {jax.tree.structure(changed)}.")
    count = jax.tree.leaves(batch)[0].shape[0]
    acts = jax.random.uniform(fold(key, "acts"), (count,), jnp.float32) < as_scalar(rate)

    def pick(new: Array, old: Array) -> Array:
        new, old = jnp.asarray(new), jnp.asarray(old)
        if old.ndim == 1 and new.ndim == 2 and new.dtype != old.dtype:
            old = to_soft_labels("sometimes", old, new.shape[1])
        if (new.shape, new.dtype) != (old.shape, old.dtype):
            got = f"{old.dtype}{list(old.shape)} that became {new.dtype}{list(new.shape)}"
            check.fail("sometimes", f"the augmentation should keep shapes and types, got {got}.")
        return jnp.where(acts.reshape(count, *[1] * (new.ndim - 1)), new, old)

    return jax.tree.map(pick, changed, batch)


def _callable(where: str, augment: Any) -> None:
    if not callable(augment):
        wanted = "each augmentation should be a function (key, batch) -> batch"
        check.fail(where, f"{wanted}, got {check.describe(augment)}.", exc_type=TypeError)
