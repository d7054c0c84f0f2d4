"""In-memory data on the device: each batch is a pure function of the step.

`Data` is a pytree, so pass it to a jitted function as an argument: `jax.jit(step)(state, data)`,
with `data.batch(step)` inside. Data that a jitted function closes over becomes a constant of its
program.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Key, PyTree, Scalar, shape_text, to_device
from nnfunc.data import shuffle
from nnfunc.data.check_arrays import (
    check_batch_size,
    check_labels,
    check_like_train,
    check_tokens,
    prepare_arrays,
    select_labels,
    warn_if_coarse_in_float32,
)
from nnfunc.display import html_table, html_text

Transform = Callable[[PyTree], PyTree]
"""batch -> batch."""
Augment = Callable[[Key, PyTree], PyTree]
"""(key, batch) -> batch."""


@dataclass(frozen=True, eq=False)
class GatheredBatch:
    """The gathered examples of a batch, which replace the `Data` in the program of a step.

    arrays: the examples, leaves [batch_size, ...].
    seed: of the order.
    transform, augment: see `arrays`.
    """

    arrays: PyTree
    seed: Scalar = 0
    transform: Transform | None = None
    augment: Augment | None = None

    def batch(self, step: Scalar, *, key: Key | None = None) -> PyTree:
        """The batch, transformed and augmented.

        step: the 0-based step that the batch belongs to.
        key: see `Data.batch`.
        """
        batch = self.arrays if self.transform is None else self.transform(self.arrays)
        if self.augment is None:
            return batch
        if key is None:
            augment_key = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(b"augment"))
            key = jax.random.fold_in(augment_key, shuffle.as_uint32(step))
        return self.augment(key, batch)


jax.tree_util.register_dataclass(GatheredBatch, data_fields=["arrays", "seed"], meta_fields=["transform", "augment"])


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """The fields that `Data` (on the device) and `Stream` (on the host) share.

    arrays, validation, test: pytrees of arrays whose leading axis is the examples; the last two may be None.
    seed: of the order; in a `Data` it may be traced.
    batch_size: examples per step.
    classes: the number of classes of the labels, or None.
    transform, augment and window: see `arrays`.
    codec: converts between tokens and text, or None.
    image_shape: (height, width, channels) of images that x holds in another layout, or None.
    preprocessing: as in `Splits`, or None; transformations of JAX drop it.
    eval_batch_size: examples per batch of an evaluation; None for batch_size.
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

    def __repr__(self) -> str:
        parts = [f"{name} {shapes}" for name, shapes in self._split_shapes()]
        return f"{type(self).__name__}({', '.join(parts)}, {self._batches()})"

    def _repr_html_(self) -> str:
        return html_table([("split", "arrays"), *self._split_shapes()]) + html_text(self._batches())

    def _split_shapes(self) -> list[tuple[str, str]]:
        splits = {"train": self.arrays, "validation": self.validation, "test": self.test}
        used = {name: jax.tree.leaves(tree) for name, tree in splits.items() if tree is not None}
        return [(name, " ".join(map(shape_text, leaves))) for name, leaves in used.items()]

    def _batches(self) -> str:
        return f"{f'{self.classes} classes, ' if self.classes else ''}batches of {self.batch_size}"

    @property
    def size(self) -> int:
        """The number of training examples; with a window, of positions where a window may begin."""
        return count_examples(self.arrays) - (self.window or 1) + 1

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every example was used at least once: size / batch_size, rounded up."""
        return math.ceil(self.size / self.batch_size)

    def split(self, name: str = "validation", batch_size: int | None = None) -> Iterator[PyTree]:
        """Every example of a split once, in order; the last batch may be smaller.

        The batches are on the device, transformed and not augmented.
        name: "train", "validation" or "test".
        batch_size: at least 1, by default that of training. With a window, consecutive training windows share one
            token: each begins with the last token of the one before.
        Raises: ValueError when there is no such split.

        >>> data = arrays(jnp.zeros(4), batch_size=2, validation=jnp.zeros(5))
        >>> [len(batch) for batch in data.split("validation")]
        [2, 2, 1]
        """
        tree, stride, size, width = self._split_plan(name, batch_size)
        for start in range(0, size, width):
            stop = min(start + width, size)
            if isinstance(jax.tree.leaves(tree)[0], jax.Array):
                yield _split_batch(tree, np.int32(start), stop - start, stride, self.transform)
            elif stride:  # of a stream, from the host
                yield self._transformed(_windows(to_device(tree[start * stride : stop * stride + 1]), stride))
            else:
                part = jax.tree.map(lambda x, a=start, b=stop: to_device(x[a:b]), tree)
                yield self._transformed(part)

    def _transformed(self, batch: PyTree) -> PyTree:
        return batch if self.transform is None else self.transform(batch)

    def _split_plan(self, name: str, batch_size: int | None) -> tuple[PyTree, int, int, int]:
        """(arrays of a split, stride of its windows or 0 for whole examples, examples, batch size)."""
        check.choice("data.split", ["train", "validation", "test"], name=name)
        batch_size = self.batch_size if batch_size is None else batch_size
        check.size("data.split", batch_size=batch_size)
        tree = self.arrays if name == "train" else getattr(self, name)
        if tree is None:
            hint = f"Add one: nf.data.arrays(..., {name}=(x, y)), or cut one off with nf.data.split."
            check.fail("data.split", f"this data set has no {name} split.", hint=hint)
        stride = self.window - 1 if self.window and name == "train" else 0
        size = (count_examples(tree) - 1) // stride if stride else count_examples(tree)
        return tree, stride, size, min(batch_size, size)


@dataclass(frozen=True, eq=False, repr=False)
class Data(Dataset):
    """A data set on the device: `batch(step)` is the same for the same seed and step. `arrays` makes one.

    The fields are those of `Dataset`; arrays, validation, test and seed are leaves of the pytree.
    """

    def batch(self, step: Scalar, *, key: Key | None = None) -> PyTree:
        """The training batch of a 0-based step, transformed and augmented: leaves [batch_size, ...].

        step: 0-based, may be traced.
        key: for `augment`, by default derived from seed and step.

        >>> data = arrays(np.arange(6.0, dtype=np.float32), batch_size=3)
        >>> float(data.batch(0).sum() + data.batch(1).sum())  # every example once per epoch
        15.0
        """
        at = shuffle.indices(self.seed, step, self.batch_size, self.size)
        gathered = take(self.arrays, at, self.window)
        return GatheredBatch(gathered, self.seed, self.transform, self.augment).batch(step, key=key)

    def total(
        self, function: Callable[[PyTree], PyTree], name: str = "validation", batch_size: int | None = None
    ) -> PyTree:
        """The sum of function(batch) over the batches of `split`, as one loop, for use under jit.

        function: batch -> pytree of arrays to add, such as summed losses and counts; the last batch may be smaller.
        name, batch_size: as in `split`.
        Raises: ValueError when there is no such split.

        >>> data = arrays(jnp.zeros(4), batch_size=2, validation=jnp.ones(5))
        >>> float(data.total(jnp.sum))
        5.0
        """
        tree, stride, size, width = self._split_plan(name, batch_size)
        whole = size // width

        def evaluate(start: Any, count: int) -> PyTree:
            if stride:
                part = jax.lax.dynamic_slice_in_dim(tree, start * stride, count * stride + 1)
                part = _windows(part, stride)
            else:
                part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, count), tree)
            return jax.tree.map(jnp.asarray, function(self._transformed(part)))

        def add(sums: PyTree, start: Array) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, sums, evaluate(start, width)), None

        starts = jnp.arange(1, whole, dtype=jnp.int32) * np.int32(width)
        sums = evaluate(0, width)
        if whole > 1:  # outside jit, JAX cannot scan over an empty array
            sums, _ = jax.lax.scan(add, sums, starts)
        if size % width:
            sums = jax.tree.map(jnp.add, sums, evaluate(whole * width, size % width))
        return sums

    def for_training(self) -> "Data":
        """The data set with only the fields that `batch` reads: fewer arrays to pass to the jitted step."""
        return dataclasses.replace(self, validation=None, test=None, codec=None)


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
    """In-memory arrays as a data set: they are checked, and put on the device once.

    train, validation, test: arrays or pytrees of them, such as (x, y), whose leading axis is the examples. Dtypes
        do not change (uint8 stays uint8), except that 64 bits become 32 unless x64 is on, with a warning where
        float32 cannot tell float64 values apart.
    batch_size: in [1, number of training examples].
    seed: of the order, an integer in [0, 2**32), may be traced.
    classes: if set, the last item of each tuple holds labels, integers in [0, classes), or in labels [n, time] also
        -100, as padding.
    transform: batch -> batch, after every gather, such as uint8 images to floats.
    augment: (key, batch) -> batch, after transform, on training batches only.
    window: if set, train is one array [tokens] of integers in [0, classes), and an example is `window` consecutive
        tokens from any position; the other splits hold such windows, [n, window].
    codec: converts between tokens and text, see `data.codec`.
    Raises: ValueError or TypeError when arrays are empty, of different lengths, not finite or not numeric, when
    labels are out of range, or when the batch is larger than the data.

    >>> data = arrays((np.zeros((10, 3), np.float32), np.arange(10) % 2), batch_size=4, classes=2)
    >>> x, y = data.batch(0)
    >>> x.shape, y.shape, data.steps_per_epoch
    ((4, 3), (4,), 3)
    """
    where = "data.arrays"
    splits = {"train": train, "validation": validation, "test": test}
    splits = {name: prepare_arrays(where, name, tree) for name, tree in splits.items() if tree is not None}
    if "train" not in splits:
        check.fail(where, expected="train should hold the training arrays", actual=None, exc_type=TypeError)
    for name, tree in splits.items():
        if window is not None:
            check_tokens(where, name, tree, window)
        else:
            check_like_train(where, name, tree, splits["train"])
        if classes is not None:
            split_labels = tree if window is not None else select_labels(where, name, tree)
            if window is None and np.ndim(split_labels) > 1 and not check.is_traced(split_labels):
                split_labels = np.where(np.equal(split_labels, -100), 0, split_labels)  # padding of sequences of tags
            check_labels(f"{where}: {name}", split_labels, classes)
    check.size(where, batch_size=batch_size)
    check.number(where, 0, 2**32 - 1, seed=seed)
    check_batch_size(where, batch_size, count_examples(splits["train"]) - (window or 1) + 1)
    for path, leaf in jax.tree_util.tree_leaves_with_path(train):
        if leaf.dtype == np.float64 != jax.dtypes.canonicalize_dtype(np.float64):
            warn_if_coarse_in_float32(f"{where}: train{jax.tree_util.keystr(path)}", np.asarray(leaf))
    return Data(
        *(jax.tree.map(to_device, splits.get(name)) for name in ("train", "validation", "test")),
        seed=shuffle.as_uint32(seed),
        batch_size=int(batch_size),
        classes=classes,
        transform=transform,
        augment=augment,
        window=window,
        codec=codec,
    )


def take(tree: PyTree, at: Array, window: int | None = None) -> PyTree:
    """The examples at the given indices of every array.

    tree: a pytree of arrays [n, ...].
    at: integers [k]; they must be in range, which is not checked.
    window: if set, each example is the `window` consecutive entries from an index on: [k, window].

    >>> take({"x": jnp.arange(10) * 2}, jnp.array([3, 1]))["x"].tolist()
    [6, 2]
    >>> take(jnp.arange(10) * 2, jnp.array([3, 1]), 3).tolist()
    [[6, 8, 10], [2, 4, 6]]
    """
    if window is not None:  # slices take a third of the time of one index for every token
        return jax.tree.map(lambda x: jax.vmap(lambda i: jax.lax.dynamic_slice_in_dim(x, i, window))(at), tree)
    return jax.tree.map(lambda x: x.at[at].get(mode="promise_in_bounds"), tree)


def count_examples(tree: PyTree) -> int:
    """The number of examples. tree: of arrays [n, ...]."""
    return jax.tree.leaves(tree)[0].shape[0]


@partial(jax.jit, static_argnums=(2, 3, 4))
def _split_batch(tree: PyTree, start: Scalar, count: int, stride: int, transform: Transform | None) -> PyTree:
    """The transformed examples of a split from one on. stride: of windows over tokens, or 0 for whole examples."""
    if stride:
        tokens = jax.lax.dynamic_slice_in_dim(tree, start * np.int32(stride), count * stride + 1)
        batch = _windows(tokens, stride)
    else:
        batch = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, count), tree)
    return batch if transform is None else transform(batch)


def _windows(tokens: Array, stride: int) -> Array:
    """[count, stride + 1]: windows of count * stride + 1 tokens; each begins with the last token of the one before."""
    return jnp.concatenate([tokens[:-1].reshape(-1, stride), tokens[stride::stride, None]], axis=1)
