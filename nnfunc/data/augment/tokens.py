"""Augmentations of sequences: `token_dropout` and `random_windows`."""

from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, Scalar
from nnfunc.data.augment.augmentation import (
    Augmentation,
    apply_to_inputs,
    as_scalar,
    get_inputs,
    make_augmentation,
    replace_inputs,
    replace_item,
)


def token_dropout(rate: Scalar, token: int = 0) -> Augmentation:
    """Replace each token of x by `token`, with probability `rate`.

    Only x changes: the targets of a pair (tokens, next tokens) stay as they are.
    Shapes: x [batch, time] integers, alone, in (x, y), or the first field of an input such as `nf.BertInput`.
    rate: in [0, 1].
    token: at least 0, such as the id of an unknown or mask token.
    Source: Iyyer et al. 2015 (word dropout); Bowman et al. 2016, arXiv:1511.06349, section 3.1.

    >>> nf.augment.token_dropout(0.5, 9)(jax.random.key(0), jnp.arange(6)[None]).tolist()
    [[0, 1, 9, 9, 4, 9]]
    """
    check.number("token_dropout", 0, 1, rate=rate)
    check.size("token_dropout", 0, token=token)
    return make_augmentation("token_dropout", _token_dropout, rate=rate, token=int(token))


def random_windows(length: int) -> Augmentation:
    """Crop each example to `length` consecutive steps, from a random position.

    Shapes: x [batch, time, ...] -> [batch, length, ...]. y is cropped at the same positions if it has a
    value for each step: [batch, time] integers or [batch, time, ...]; labels [batch] and soft labels do not
    change. With x as an `nf.RecurrentInput` the windows contain as many valid steps as possible, and
    lengths is the number of valid steps in each.
    length: in [1, time]; at time nothing changes.
    Raises: ValueError when the sequences are shorter than length.

    >>> x = jnp.arange(5)[None]
    >>> a, b = nf.augment.random_windows(3)(jax.random.key(0), (x, x + 1))
    >>> a.shape, (b - a).tolist()
    ((1, 3), [[1, 1, 1]])
    """
    check.size("random_windows", length=length)
    return make_augmentation("random_windows", _random_windows, length=int(length))


def _token_dropout(key: Key, batch: PyTree, *, rate: Any, token: int) -> PyTree:
    def dropped(x: Array) -> Array:
        check.integers("token_dropout", "x should hold the ids of tokens.", x=x)
        drop = jax.random.uniform(key, (x.size,), jnp.float32).reshape(x.shape) < as_scalar(rate)
        return jnp.where(drop, jnp.asarray(token, x.dtype), x)

    return apply_to_inputs(dropped, batch)


def _random_windows(key: Key, batch: PyTree, *, length: int) -> PyTree:
    x = get_inputs(batch)
    if x.ndim < 2 or x.shape[1] < length:
        expected = f"x should be sequences [batch, time, ...] of at least {length} steps"
        check.fail("random_windows", expected=expected, actual=f"shape {tuple(x.shape)}")
    last = jnp.full(x.shape[:1], x.shape[1] - length, jnp.int32)  # the last start
    is_pair = isinstance(batch, tuple | list) and not hasattr(batch, "lengths")
    inputs: Any = batch[0] if is_pair else batch
    lengths = inputs.get("lengths") if isinstance(inputs, dict) else getattr(inputs, "lengths", None)
    if lengths is not None:
        check.integers("random_windows", lengths=lengths)
        check.shape("random_windows", x.shape[:1], lengths=lengths)
        lengths = jnp.asarray(lengths)
        last = jnp.clip(lengths.astype(jnp.int32) - length, 0, last)
        shorter = {"lengths": jnp.minimum(lengths, jnp.asarray(length, lengths.dtype))}
        inputs = inputs | shorter if isinstance(inputs, dict) else inputs._replace(**shorter)
    start = jax.random.randint(key, x.shape[:1], 0, last + 1, jnp.int32)
    inputs = replace_inputs(inputs, _crop(x, start, length))
    if not is_pair:
        return inputs
    batch = replace_item(batch, 0, inputs)
    for index, y in enumerate(batch[1:], 1):
        is_stepwise = hasattr(y, "dtype") and y.shape[:2] == x.shape[:2]
        if is_stepwise and not (y.ndim == 2 and jnp.issubdtype(y.dtype, jnp.floating)):  # soft labels
            batch = replace_item(batch, index, _crop(jnp.asarray(y), start, length))
    return batch


def _crop(x: Array, start: Array, length: int) -> Array:
    return jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(row, at, length))(x, start)
