"""Checks of the arrays of a data set: dtypes, lengths, values, labels and tokens."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import PyTree


def check_batch_size(where: str, batch_size: int, size: int) -> None:
    """Refuse a batch_size above `size`, the number of training examples. where: begins the message of the error."""
    if batch_size > size:
        expected = f"batch_size should be at most the number of training examples, {size}"
        check.fail(where, expected=expected, actual=batch_size, hint="Lower batch_size, or add data.")


def check_labels(where: str, y: Any, classes: int) -> None:
    """Refuse labels that are not integers in [0, classes); the error has their count and the first of them.

    where: begins the message.
    y: labels of any shape; traced ones are not checked.
    classes: at least 1.

    >>> check_labels("my data", np.array([0, 1, 3]), 3)
    Traceback (most recent call last):
    nnfunc.errors.InvalidValueError: my data: labels should be in [0, 3), got 3 at example 2, the first of 1 ...
    """
    check.size(where, classes=classes)
    check.integers(where, "Turn names into numbers with np.unique(names, return_inverse=True).", labels=y)
    check.unmasked(where, labels=y)
    if check.is_traced(y):
        return
    y = np.asarray(y)
    outside = np.argwhere((y < 0) | (y >= classes))
    if len(outside):
        first = tuple(outside[0])
        index = f"example {first[0]}" + (f", at {list(map(int, first[1:]))}" if first[1:] else "")
        actual = f"{y[first]} at {index}, the first of {len(outside)} such labels among {y.size}"
        hint = f"Count from 0, or set classes to {y.max() + 1}."
        check.fail(where, expected=f"labels should be in [0, {classes})", actual=actual, hint=hint)


def prepare_arrays(where: str, name: str, tree: PyTree, *, values: bool = True, same_length: bool = True) -> PyTree:
    """The arrays of a tree as NumPy or JAX arrays of equal length, in dtypes that the device has.

    where, name: the function and the argument, for messages.
    tree: of arrays [n, ...].
    values: whether to check that the values are finite.
    same_length: whether to check that the first axes have the same length.
    Raises: ValueError, TypeError.
    """
    leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
    if not leaves:
        check.fail(where, expected=f"{name} should hold arrays", actual=check.describe(tree), exc_type=TypeError)
    paths = [f"{name}{jax.tree_util.keystr(path)}" for path, _ in leaves]
    prepared = [_prepare_array(where, path, leaf, values) for path, (_, leaf) in zip(paths, leaves, strict=True)]
    if same_length and len({leaf.shape[0] for leaf in prepared}) > 1:
        lengths = ", ".join(f"{path}: {leaf.shape[0]}" for path, leaf in zip(paths, prepared, strict=True))
        hint = "The first axis of every array counts the examples."
        check.fail(where, expected=f"all arrays of {name} should have the same length", actual=lengths, hint=hint)
    return jax.tree.unflatten(treedef, prepared)


def _prepare_array(where: str, path: str, leaf: Any, values: bool) -> Any:
    if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
        hint = "Turn lists into arrays first: np.asarray(values)."
        expected = f"{path} should be an array"
        check.fail(where, expected=expected, actual=check.describe(leaf), hint=hint, exc_type=TypeError)
    if len(leaf.shape) == 0:
        check.fail(where, expected=f"{path} should have a first axis, of the examples", actual="shape ()")
    if leaf.shape[0] == 0:
        expected, hint = f"{path} should have at least one example", "Was everything filtered out?"
        check.fail(where, expected=expected, actual=f"shape {tuple(leaf.shape)}", hint=hint)
    if not isinstance(leaf, jax.Array):
        leaf = as_numpy(where, path, leaf)
    elif check.is_traced(leaf) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    check.numeric(where, leaf, path)
    return _check_values(where, path, leaf) if values else leaf


def as_numpy(where: str, name: str, array: Any) -> np.ndarray:
    """An array as a NumPy array in native byte order; masked values are refused.

    where, name: the function and the argument, for messages.
    array: of NumPy, JAX, pandas, torch, ...
    """
    check.unmasked(where, **{name: array})
    array = np.asarray(array)  # also pandas and torch; a memory-mapped file stays one
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _check_values(where: str, path: str, leaf: Any) -> Any:
    """The leaf in the dtype that it will have on the device, where every value has to be finite."""
    values = np.asarray(leaf)
    with np.errstate(over="ignore"):
        converted = values.astype(jax.dtypes.canonicalize_dtype(values.dtype), copy=False)
    if jnp.issubdtype(converted.dtype, jnp.inexact):
        bad = ~np.isfinite(converted)
        expected = f"{path} should be finite as {converted.dtype}"
        hint = "Fill or drop NaN and infinity first, for example with np.nan_to_num."
    elif converted.dtype == values.dtype:
        return leaf
    else:
        bad = converted != values
        expected, hint = f"{path} should fit {converted.dtype}", "Switch jax_enable_x64 on, or count from 0."
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        actual = f"{values[first]} at index {list(first)}, the first of {bad.sum()} such values among {bad.size}"
        check.fail(where, expected=expected, actual=actual, hint=hint)
    return converted if isinstance(leaf, np.ndarray) else leaf


def warn_if_coarse_in_float32(name: str, values: np.ndarray) -> None:
    """Warn about float64 columns whose values differ by less than float32 can represent at their size.

    name: of the values, for the message.
    values: [n, ...]; each column is checked.
    """
    if values.dtype != np.float64 or len(values) == 0:
        return
    low, high = values.min(0), values.max(0)
    step = np.spacing(np.maximum(abs(low), abs(high)).astype(np.float32)).astype(np.float64)
    if ((high > low) & (high - low < 256 * step)).any():
        problem = f"{name}: float32 has fewer than 256 values between the smallest and the largest value."
        warnings.warn(f"{problem} Subtract the mean or the first value.", stacklevel=3)


def check_like_train(where: str, name: str, tree: PyTree, train: PyTree) -> None:
    """A split has the structure, shapes and dtypes of the training arrays; only the length may differ."""
    expected, actual = jax.tree.structure(train), jax.tree.structure(tree)
    if expected != actual:
        check.fail(where, expected=f"{name} should have the structure of train, {expected}", actual=actual)
    for leaf, train_leaf in zip(jax.tree.leaves(tree), jax.tree.leaves(train), strict=True):
        if (leaf.shape[1:], leaf.dtype) != (train_leaf.shape[1:], train_leaf.dtype):
            problem = f"{name} should have train's shapes after the first axis, and its dtypes"
            check.fail(where, expected=f"{problem}: {_form(train_leaf)}", actual=_form(leaf))


def _form(x: Any) -> str:
    return f"{x.dtype}[{', '.join(map(str, ('n', *x.shape[1:])))}]"


def select_labels(where: str, name: str, tree: PyTree) -> Any:
    """The labels of a split: the last array of its pair (x, y).

    where: begins the error.
    name: of the split.
    tree: its arrays.
    Raises: ValueError for a tree that is no pair.
    """
    last = tree[-1] if isinstance(tree, tuple | list) and len(tree) > 1 else None
    if last is None or not hasattr(last, "dtype"):
        expected = f"with classes, {name} should be a pair (x, y) of inputs and labels"
        hint = "Drop classes, and check the labels with nf.data.check_labels."
        check.fail(where, expected=expected, actual=type(tree).__name__, hint=hint)
    return last


def check_tokens(where: str, name: str, tree: PyTree, window: int) -> None:
    """The tokens of a split with a window: [tokens] to train on, [n, window] in the other splits."""
    check.size(where, low=2, window=window)
    check.integers(where, **{name: tree})
    if name != "train":
        if tree.ndim != 2 or tree.shape[1] != window:
            expected = f"{name} should be rows of tokens, [n, {window}]"
            check.fail(where, expected=expected, actual=f"shape {tuple(tree.shape)}")
    elif tree.ndim != 1:
        check.fail(where, expected="train should be one row of tokens", actual=f"shape {tuple(tree.shape)}")
    elif len(tree) < window:
        expected = f"train should hold at least {window} tokens"
        check.fail(where, expected=expected, actual=len(tree), hint="Use more text, or a smaller block_size.")
