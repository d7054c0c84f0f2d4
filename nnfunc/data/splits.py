"""The splits of a data set on the host: what to train on, to choose by and to report on."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import PyTree, Scalar
from nnfunc.data.dataset import Augment, Data, Transform, arrays, prepare_arrays

if TYPE_CHECKING:
    from nnfunc.data.preprocessing import Preprocessing
    from nnfunc.data.stream import Stream

__all__ = ["Splits", "cut_splits", "split"]


class Splits(NamedTuple):
    """A data set on the host, for training, choosing and reporting.

    train, validation, test: pairs (x, y) of arrays; the last two may be None. classes: how many the
    labels count, or the size of the vocabulary. names: of the classes, or None. transform: batch ->
    batch, after every gather, such as pixels to floats. augment: (key, batch) -> batch, on training
    batches. window: with it, train is one array of tokens (see `arrays`). codec: what turns the
    tokens into text and back. image_shape: (height, width, channels) of images that x lays out
    otherwise, or None. preprocessing: what was learned from the files, to treat others in the same way:
    `nf.data.table(file, label=..., preprocessing=splits.preprocessing)`.
    """

    train: Any
    validation: Any = None
    test: Any = None
    classes: int | None = None
    names: tuple[str, ...] | None = None
    transform: Transform | None = None
    augment: Augment | None = None
    window: int | None = None
    codec: Any = None
    image_shape: tuple[int, int, int] | None = None
    preprocessing: "Preprocessing | None" = None

    def data(
        self,
        batch_size: int = 128,
        *,
        seed: Scalar = 0,
        transform: Transform | None = None,
        augment: Augment | None = None,
    ) -> Data:
        """These splits as a `Data`, on the device; the arguments are those of `arrays`.

        transform and augment: by default the data set's own.
        """
        made = arrays(
            self.train,
            batch_size,
            validation=self.validation,
            test=self.test,
            seed=seed,
            classes=self.classes,
            transform=transform or self.transform,
            augment=augment or self.augment,
            window=self.window,
            codec=self.codec,
        )
        return replace(made, image_shape=self.image_shape, preprocessing=self.preprocessing)

    def stream(self, batch_size: int = 128, *, seed: int = 0) -> "Stream":
        """These splits as a `Stream`: the same batches, gathered on the host, for what is too large.

        The arrays may be memory-mapped; only what a batch needs is read.
        """
        from nnfunc.data.stream import Stream

        return Stream.of(self, batch_size, seed)


def split(tree: PyTree, fractions: Sequence[float], *, seed: int = 0, stratify: Any = None) -> tuple[PyTree, ...]:
    """Cut arrays at random into disjoint parts, such as train, validation and test.

    Part i gets fractions[i] of the examples, to within one, in their former order; it is the same
    on every machine for the same seed. With labels in `stratify`, each part gets that share of
    every class, to within one or so.

    tree: an array or a pytree of arrays [n, ...]. fractions: above 0, adding up to 1. stratify:
    [n].
    Raises: ValueError when the fractions do not add up to 1, or a part would be empty.

    >>> train, test = split(np.arange(10), [0.8, 0.2])
    >>> len(train), len(test), sorted([*train.tolist(), *test.tolist()]) == list(range(10))
    (8, 2, True)
    """
    where = "data.split"
    tree = prepare_arrays(where, "tree", tree, values=False)
    size = jax.tree.leaves(tree)[0].shape[0]
    parts = _split_indices(where, size, fractions, seed=seed, stratify=stratify)
    return tuple(jax.tree.map(lambda x, at=at: x[at], tree) for at in parts)


def _split_indices(
    where: str, size: int, fractions: Sequence[float], *, seed: int, stratify: Any
) -> Sequence[np.ndarray]:
    """The indices of the examples of each part, in order."""
    for fraction in fractions:
        check.number(where, 0, 1, open_low=True, fraction=fraction)
    if not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        check.fail(where, expected="fractions should add up to 1", actual=f"{[*fractions]}: {sum(fractions):g}")
    # RandomState's stream is frozen, which that of NumPy's newer generators is not.
    shuffled = np.arange(size, dtype=_index_dtype(size))
    np.random.RandomState(seed).shuffle(shuffled)
    if stratify is not None:
        labels = np.asarray(stratify)
        check.shape(where, (size,), stratify=labels)
        shuffled = shuffled[_order_by_rank(labels[shuffled])]
    ends = [int(size * share + 1e-6) for share in np.cumsum(fractions)]
    parts = np.split(shuffled, ends[:-1])
    if not all(map(len, parts)):
        hint = "Give more data or larger fractions."
        problem = f"every part should get an example, got {[*map(len, parts)]} of {size}."
        check.fail(where, f"{problem}", hint=hint)
    for part in parts:
        part.sort()
    return parts


def _index_dtype(size: int) -> type:
    """The smallest signed type of the indices of so many rows: a table may have more rows than bytes to spare."""
    return np.int32 if size < 2**31 else np.int64


def _order_by_rank(labels: np.ndarray) -> np.ndarray:
    """The order of the rows by their rank within their class, from 0 to 1.

    Any stretch of that order holds every class in proportion. It is worked out in parts, to take little memory.
    """
    size, step = len(labels), 1 << 16
    index = np.empty(size, _index_dtype(size))
    classes = np.unique(np.concatenate([np.unique(labels[start : start + step]) for start in range(0, size, step)]))
    counts = np.zeros(len(classes), np.int64)
    for start in range(0, size, step):
        code = np.searchsorted(classes, labels[start : start + step])
        grouped = np.argsort(code, kind="stable")
        here = np.bincount(code, minlength=len(classes))
        first = np.repeat(np.cumsum(here) - here, here)
        index[start + grouped] = counts[code[grouped]] + np.arange(len(code)) - first
        counts += here
    buckets = np.empty(size, np.uint8)

    def ranks(at: Any) -> np.ndarray:
        return (index[at] + 0.5) / counts[np.searchsorted(classes, labels[at])]

    for start in range(0, size, step):
        block = slice(start, start + step)
        buckets[block] = 16 * ranks(block)
    order = np.empty(size, _index_dtype(size))
    filled = 0
    for bucket in range(16):
        at = np.flatnonzero(buckets == bucket)
        order[filled : filled + len(at)] = at[np.argsort(ranks(at), kind="stable")]
        filled += len(at)
    return order


def cut_splits(
    where: str, size: int, y: np.ndarray, *, stratify: bool, **shares: float
) -> tuple[np.ndarray | None, ...]:
    """The indices of the examples that are left to train on and of the named shares, None where a share is 0.

    shares: each a part of 1, or a count of examples from 1 on. The same cut always.

    >>> train, validation, test = cut_splits("here", 10, np.arange(10) % 2, stratify=True, validation=0.2, test=0)
    >>> len(train), (validation % 2).tolist(), test
    (8, [0, 1], None)
    """
    parts = {}
    for name, fraction in shares.items():
        check.number(where, 0, share=fraction, hint=f"It is {name}.")
        parts[name] = fraction / size if fraction >= 1 else fraction
    left = 1 - sum(parts.values())
    if left * size < 1 - 1e-6:
        actual = ", ".join(f"{name} = {share:g}" for name, share in shares.items())
        hint = "A share below 1 is a part of the whole, from 1 on a count of examples."
        check.fail(where, f"nothing is left to train on, of {size} examples, with {actual}.", hint=hint)
    taken = [part for part in (left, *parts.values()) if part > 0]
    result = iter(_split_indices(where, size, taken, seed=0, stratify=y if stratify else None))
    return tuple(next(result) if part > 0 else None for part in (left, *parts.values()))
