"""In-memory data as a pure function of the step: on the device, gathered in the epoch's order.

`Data` is a pytree, so pass it to a jitted function as an argument: `jax.jit(step)(state, data)`,
with `data.batch(step)` inside. Data that a jitted function closes over becomes a constant of its
program.
"""

import dataclasses
import math
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, Scalar
from nnfunc.data import shuffle

__all__ = ["Data", "arrays", "as_numpy", "check_labels", "prepare_arrays", "take", "warn_if_coarse_in_float32"]

Transform = Callable[[PyTree], PyTree]
"""batch -> batch."""
Augment = Callable[[Key, PyTree], PyTree]
"""(key, batch) -> batch."""


@dataclass(frozen=True, eq=False)
class Data:
    """A data set: `batch(step)` is the same for the same seed and step. Made by `arrays`.

    arrays, validation, test: pytrees of arrays whose leading axis is the examples; the last two
    may be None. seed: of the order, may be traced. batch_size: examples a step. classes: how many
    the labels count, or None. transform, augment and window: see `arrays`. codec: what turns the
    tokens into text and back, or None. image_shape: (height, width, channels) of images that x lays
    out otherwise, or None. learned: as in `Splits`, or None; transformations of JAX drop it.
    eval_batch_size: examples that an evaluation takes at once; None for as many as a step does.
    """

    arrays: PyTree
    validation: PyTree = None
    test: PyTree = None
    seed: Scalar = 0
    batch_size: int = 1
    classes: int | None = None
    transform: Transform | None = None
    augment: Augment | None = None
    window: int | None = None
    codec: Any = None
    image_shape: tuple[int, int, int] | None = None
    preprocessing: Any = None
    eval_batch_size: int | None = None

    @property
    def size(self) -> int:
        """The number of training examples; with a window, of places where one may begin."""
        return _size(self.arrays) - (self.window or 1) + 1

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every example has come at least once: size / batch_size, rounded up."""
        return math.ceil(self.size / self.batch_size)

    def batch(self, step: Scalar, *, key: Key | None = None) -> PyTree:
        """The training batch of a 0-based step, transformed and augmented: leaves [batch_size, ...].

        key: what `augment` draws from; by default it belongs to seed and step, as the order does.

        >>> data = arrays(np.arange(6.0, dtype=np.float32), batch_size=3)
        >>> float(data.batch(0).sum() + data.batch(1).sum())  # every example once an epoch
        15.0
        """
        at = shuffle.indices(self.seed, step, self.batch_size, self.size)
        batch = self._transformed(take(self.arrays, at, self.window))
        if self.augment is None:
            return batch
        if key is None:
            own = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(b"augment"))
            key = jax.random.fold_in(own, shuffle.as_uint32(step))
        return self.augment(key, batch)

    def split(self, name: str = "validation", batch_size: int | None = None) -> Iterator[PyTree]:
        """Every example of a split once, in order, in batches of batch_size and a smaller last one.

        The batches are transformed, never augmented. name: "train", "validation" or "test". With a
        window, the training examples are the windows end to end, each sharing one token with the next.
        Raises: ValueError when there is no such split.

        >>> data = arrays(jnp.zeros(4), batch_size=2, validation=jnp.zeros(5))
        >>> [len(batch) for batch in data.split("validation")]
        [2, 2, 1]
        """
        tree, stride = self._named(name)
        size = _count(tree, stride)
        width = self._width(batch_size, size)
        for start in range(0, size, width):
            stop = min(start + width, size)
            if stride:
                part = _end_to_end(tree[start * stride : stop * stride + 1], stop - start, stride)
            else:
                part = jax.tree.map(lambda x, a=start, b=stop: x[a:b], tree)
            yield self._transformed(part)

    def total(
        self, function: Callable[[PyTree], PyTree], name: str = "validation", batch_size: int | None = None
    ) -> PyTree:
        """The sum of function(batch) over the batches of `split`, as one loop: for use under jit.

        function: batch -> pytree of arrays that add up, such as summed losses and counts; it also
        meets the smaller last batch, so no example is counted twice.
        Raises: ValueError when there is no such split.

        >>> data = arrays(jnp.zeros(4), batch_size=2, validation=jnp.ones(5))
        >>> float(data.total(jnp.sum))
        5.0
        """
        tree, stride = self._named(name)
        size = _count(tree, stride)
        width = self._width(batch_size, size)
        whole = size // width

        def of(start: Any, count: int) -> PyTree:
            if stride:
                part = jax.lax.dynamic_slice_in_dim(tree, start * stride, count * stride + 1)
                part = _end_to_end(part, count, stride)
            else:
                part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, count), tree)
            return jax.tree.map(jnp.asarray, function(self._transformed(part)))

        def add(sums: PyTree, start: Array) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, sums, of(start, width)), None

        starts = jnp.arange(1, whole, dtype=jnp.int32) * np.int32(width)
        sums = of(0, width)
        if whole > 1:  # without jit JAX has no scan over nothing
            sums, _ = jax.lax.scan(add, sums, starts)
        if size % width:
            sums = jax.tree.map(jnp.add, sums, of(whole * width, size % width))
        return sums

    def for_training(self) -> "Data":
        """Only what `batch` reads: fewer arrays to hand to the jitted step."""
        return dataclasses.replace(self, validation=None, test=None, codec=None)

    def _transformed(self, batch: PyTree) -> PyTree:
        return batch if self.transform is None else self.transform(batch)

    def _width(self, batch_size: int | None, size: int) -> int:
        if batch_size is not None:
            check.size("data.split", batch_size=batch_size)
        return min(self.batch_size if batch_size is None else batch_size, size)

    def _named(self, name: str) -> tuple[PyTree, int]:
        """The arrays of a split, and how far apart its windows begin: 0 for whole examples."""
        check.choice("data.split", ["train", "validation", "test"], name=name)
        tree = self.arrays if name == "train" else getattr(self, name)
        if tree is None:
            cure = f"Give one: nf.data.arrays(..., {name}=(x, y)); nf.data.split cuts one off."
            check.fail("data.split", f"this data set has no {name} split. {cure}")
        return tree, self.window - 1 if self.window and name == "train" else 0


jax.tree_util.register_dataclass(
    Data,
    data_fields=["arrays", "validation", "test", "seed"],
    meta_fields=["batch_size", "classes", "transform", "augment", "window", "codec", "image_shape", "eval_batch_size"],
    drop_fields=["preprocessing"],
)


def arrays(
    train: PyTree,
    batch_size: int = 128,
    *,
    validation: PyTree = None,
    test: PyTree = None,
    seed: Scalar = 0,
    classes: int | None = None,
    transform: Transform | None = None,
    augment: Augment | None = None,
    window: int | None = None,
    codec: Any = None,
) -> Data:
    """In-memory arrays as a data set, checked and put on the device once.

    train, validation, test: arrays or pytrees of them, such as (x, y), whose leading axis is the
    examples; types stay as they are (uint8 stays uint8), but 64 bits become JAX's 32 unless x64 is
    on, with a warning where float64 values lie too close together for that. batch_size: in [1, number
    of training examples]. seed: of the order, an integer in [0, 2**32), may be traced. classes:
    when given, the last of each tuple holds labels, integers in [0, classes). transform: batch ->
    batch, after every gather, such as uint8 images to floats. augment: (key, batch) -> batch, then, on
    training batches only.
    window: when given, train is one array [tokens] of integers in [0, classes), and an example is
    `window` of them in a row from any place; the other splits hold such rows, [n, window]. codec:
    carried along as `data.codec`.
    Raises: ValueError or TypeError, before anything runs, when data is empty, of different
    lengths, not finite, or not of numbers, when labels are out of range, or the batch larger than
    the data.

    >>> data = arrays((np.zeros((10, 3), np.float32), np.arange(10) % 2), batch_size=4, classes=2)
    >>> x, y = data.batch(0)
    >>> x.shape, y.shape, data.steps_per_epoch
    ((4, 3), (4,), 3)
    """
    where = "data.arrays"
    given = {"train": train, "validation": validation, "test": test}
    good = {name: prepare_arrays(where, name, tree) for name, tree in given.items() if tree is not None}
    if "train" not in good:
        check.fail(where, "there are no training arrays, got None.", exc_type=TypeError)
    for name, tree in good.items():
        if window is not None:
            _tokens(where, name, tree, window)
        else:
            _alike(where, name, tree, good["train"])
        if classes is not None:
            part = tree if window is not None else _labels_of(where, name, tree)
            check_labels(f"{where}: {name}", part, classes)
    check.size(where, batch_size=batch_size)
    check.number(where, 0, 2**32 - 1, seed=seed)
    size = _size(good["train"]) - (window or 1) + 1
    if batch_size > size:
        cure = f"Set batch_size to at most {size}, or give more data."
        problem = f"batch_size should be at most the number of training examples, {size}"
        check.fail(where, f"{problem}, got {batch_size}. {cure}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(train):
        if leaf.dtype == np.float64 != jax.dtypes.canonicalize_dtype(np.float64):
            warn_if_coarse_in_float32(f"{where}: train{jax.tree_util.keystr(path)}", np.asarray(leaf))
    placed = {name: jax.tree.map(jnp.asarray, tree) for name, tree in good.items()}
    return Data(
        placed["train"],
        placed.get("validation"),
        placed.get("test"),
        shuffle.as_uint32(seed),
        int(batch_size),
        classes,
        transform,
        augment,
        window,
        codec,
    )


def take(tree: PyTree, at: Array, window: int | None = None) -> PyTree:
    """The examples at the given indices of every array; the indices are trusted to lie inside.

    With a window: [len(at), window], that many neighbours from each index on.

    >>> take({"x": jnp.arange(10) * 2}, jnp.array([3, 1]))["x"].tolist()
    [6, 2]
    >>> take(jnp.arange(10) * 2, jnp.array([3, 1]), 3).tolist()
    [[6, 8, 10], [2, 4, 6]]
    """
    if window is not None:  # as slices: a third of the time of an index for every token
        return jax.tree.map(lambda x: jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(x, i, window))(at), tree)
    return jax.tree.map(lambda x: x.at[at].get(mode="promise_in_bounds"), tree)


def check_labels(where: str, y: Any, classes: int) -> None:
    """Refuse labels that are not integers in [0, classes), naming how many and the first.

    >>> labels("my data", np.array([0, 1, 3]), 3)
    Traceback (most recent call last):
    ValueError: my data: 1 of 3 labels is not in [0, 3); the first is 3, at example 2. Count ...
    """
    cure = "Turn names into numbers with np.unique(names, return_inverse=True)."
    check.size(where, classes=classes)
    check.integers(where, cure, labels=y)
    check.unmasked(where, labels=y)
    if check.is_traced(y):
        return
    y = np.asarray(y)
    outside = np.argwhere((y < 0) | (y >= classes))
    if len(outside):
        first = tuple(outside[0])
        place = f"example {first[0]}" + (f", at {list(map(int, first[1:]))}" if first[1:] else "")
        verb = "labels is" if len(outside) == 1 else "labels are"
        problem = f"{len(outside)} of {y.size} {verb} not in [0, {classes})"
        cure = f"Count from 0, or set classes to {y.max() + 1}."
        check.fail(where, f"{problem}; the first is {y[first]}, at {place}. {cure}")


def prepare_arrays(where: str, name: str, tree: PyTree, *, values: bool = True) -> PyTree:
    """The tree with NumPy or JAX arrays of one length as leaves, in types that JAX keeps."""
    found, treedef = jax.tree_util.tree_flatten_with_path(tree)
    if not found:
        check.fail(where, f"{name} should hold arrays, got {check.describe(tree)}.", exc_type=TypeError)
    good = {}
    for path, leaf in found:
        spot = f"{name}{jax.tree_util.keystr(path)}"
        good[spot] = _checked(where, spot, leaf, values)
    if len({leaf.shape[0] for leaf in good.values()}) > 1:
        got = ", ".join(f"{spot}: {leaf.shape[0]}" for spot, leaf in good.items())
        cure = "The first axis of every array counts the examples."
        check.fail(where, f"all arrays of {name} should be of one length, got {got}. {cure}")
    return jax.tree.unflatten(treedef, good.values())


def _checked(where: str, spot: str, leaf: Any, values: bool) -> Any:
    if not (hasattr(leaf, "dtype") and hasattr(leaf, "shape")):
        cure = "Turn lists into arrays first: np.asarray(values)."
        problem = f"{spot} should be an array, got {check.describe(leaf)}."
        check.fail(where, f"{problem} {cure}", exc_type=TypeError)
    if len(leaf.shape) == 0:
        check.fail(where, f"{spot} should have a first axis, of the examples, got shape ().")
    if leaf.shape[0] == 0:
        cure = "Was everything filtered out?"
        check.fail(where, f"{spot} is empty: shape {tuple(leaf.shape)}. {cure}")
    if isinstance(leaf, jax.Array):
        if check.is_traced(leaf) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
    else:
        leaf = as_numpy(where, spot, leaf)
    check.numeric(where, leaf, spot)
    return _finite(where, spot, leaf) if values else leaf


def as_numpy(where: str, spot: str, leaf: Any) -> np.ndarray:
    """Any array as NumPy's: nothing masked, and with this machine's order of bytes."""
    check.unmasked(where, **{spot: leaf})
    array = np.asarray(leaf)  # a pandas or torch array too; a mapped file stays one
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _finite(where: str, spot: str, leaf: Any) -> Any:
    """The leaf in the type that it will have on the device, where every value has to be finite."""
    given = np.asarray(leaf)
    with np.errstate(over="ignore"):
        ready = given.astype(jax.dtypes.canonicalize_dtype(given.dtype), copy=False)
    if jnp.issubdtype(ready.dtype, jnp.inexact):
        bad = ~np.isfinite(ready)
        trouble = f"not finite (NaN or infinite) as {ready.dtype}"
        cure = "Fill or drop them first, for example with np.nan_to_num."
    elif ready.dtype == given.dtype:
        return leaf
    else:
        bad = ready != given
        trouble, cure = f"too large for {ready.dtype}", "Switch jax_enable_x64 on, or count from 0."
    if bad.any():
        count, first = int(bad.sum()), tuple(int(i) for i in np.argwhere(bad)[0])
        problem = f"{spot} holds {count} of {bad.size} values that are {trouble}"
        at = f"the first is {given[first]} at index {list(first)}"
        check.fail(where, f"{problem}; {at}. {cure}")
    return ready if isinstance(leaf, np.ndarray) else leaf


def warn_if_coarse_in_float32(name: str, values: np.ndarray) -> None:
    """Warn of float64 values that lie closer together, for their size, than float32 tells apart.

    values: [n, ...], looked at by column.
    """
    if values.dtype != np.float64 or len(values) == 0:
        return
    spread = values.max(0) - values.min(0)
    step = np.spacing(np.abs(values).max(0).astype(np.float32)).astype(np.float64)
    if ((spread > 0) & (spread < 256 * step)).any():
        hint = "Take the mean or the first value away from them."
        warnings.warn(
            f"{name}: float32 has fewer than 256 steps between its least and largest value. {hint}", stacklevel=3
        )


def _alike(where: str, name: str, tree: PyTree, train: PyTree) -> None:
    """A held-out split looks like the training arrays but for its length."""
    wanted, got = jax.tree.structure(train), jax.tree.structure(tree)
    if wanted != got:
        check.fail(where, f"{name} should have the structure of train, {wanted}, got {got}.")
    for ours, theirs in zip(jax.tree.leaves(tree), jax.tree.leaves(train), strict=True):
        if (ours.shape[1:], ours.dtype) != (theirs.shape[1:], theirs.dtype):
            problem = f"{name} should have train's shapes after the first axis, and its types"
            check.fail(where, f"{problem}: {_form(theirs)}, got {_form(ours)}.")


def _form(x: Any) -> str:
    return f"{x.dtype}[{', '.join(map(str, ('n', *x.shape[1:])))}]"


def _labels_of(where: str, name: str, tree: PyTree) -> Any:
    last = tree[-1] if isinstance(tree, tuple | list) and len(tree) > 1 else None
    if last is None or not hasattr(last, "dtype"):
        cure = "Leave classes out, and use nf.data.labels to check them."
        problem = f"with classes, {name} should be a pair (x, y) of inputs and labels"
        check.fail(where, f"{problem}, got {type(tree).__name__}. {cure}")
    return last


def _size(tree: PyTree) -> int:
    return jax.tree.leaves(tree)[0].shape[0]


def _tokens(where: str, name: str, tree: PyTree, window: int) -> None:
    """The tokens of a split with a window: [tokens] to train on, [n, window] to hold out."""
    check.size(where, low=2, window=window)
    check.integers(where, **{name: tree})
    if name != "train":
        if tree.ndim != 2 or tree.shape[1] != window:
            wanted = f"{name} should be rows of tokens, [n, {window}]"
            check.fail(where, f"{wanted}, got shape {tuple(tree.shape)}.")
        return
    if tree.ndim != 1:
        check.fail(where, f"train should be one row of tokens, got shape {tuple(tree.shape)}.")
    if len(tree) < window:
        cure = "Give more text, or a smaller block_size."
        check.fail(where, f"train should hold at least {window} tokens, got {len(tree)}. {cure}")


def _count(tree: PyTree, stride: int) -> int:
    return (_size(tree) - 1) // stride if stride else _size(tree)


def _end_to_end(tokens: Array, count: int, stride: int) -> Array:
    """[count, stride + 1]: windows of count * stride + 1 tokens, each from the other's last on."""
    body = tokens[:-1].reshape(count, stride)
    return jnp.concatenate([body, tokens[stride::stride, None]], axis=1)
