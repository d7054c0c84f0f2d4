"""The training, validation and test splits of a data set, on the host."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from nnfunc import check
from nnfunc.base import PyTree, Scalar, shape_text
from nnfunc.data.check_arrays import prepare_arrays
from nnfunc.data.dataset import Augment, Data, Transform, arrays

if TYPE_CHECKING:
    from nnfunc.data.preprocessing import Preprocessing
    from nnfunc.data.stream import Stream


BLOCK = 1 << 16  # examples at a time, to save memory
BUCKETS = 64  # that are sorted one after another


class Splits(NamedTuple):
    """The splits of a data set, as arrays on the host.

    train, validation, test: pairs (x, y) of arrays; the last two may be None.
    classes: the number of classes, or the size of the vocabulary.
    names: of the classes, or None.
    transform: batch -> batch, after every gather, such as pixels to floats.
    augment: (key, batch) -> batch, on training batches.
    window: if set, train is one array of tokens (see `arrays`).
    codec: converts between tokens and text.
    image_shape: (height, width, channels) of images that x holds in another layout, or None.
    preprocessing: that was fitted to the files, to treat others in the same way: `nf.data.table(file, label=...,
        preprocessing=splits.preprocessing)`.
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

    def __repr__(self) -> str:
        arrays = {"train": self.train, "validation": self.validation, "test": self.test}
        shapes = {name: " ".join(map(shape_text, jax.tree.leaves(tree))) for name, tree in arrays.items()}
        parts = [f"{name} {text}" for name, text in shapes.items() if text]
        return f"Splits({', '.join(parts + ([f'{self.classes} classes'] if self.classes else []))})"

    def data(
        self,
        batch_size: int = 128,
        *,
        seed: Scalar = 0,
        transform: Transform | None = None,
        augment: Augment | None = None,
    ) -> Data:
        """These splits as a `Data`, on the device.

        batch_size, seed, transform, augment: see `arrays`.

        transform and augment are by default those of the splits.
        """
        data = arrays(
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
        return replace(data, image_shape=self.image_shape, preprocessing=self.preprocessing)

    def stream(self, batch_size: int = 128, *, seed: int = 0) -> "Stream":
        """These splits as a `Stream`: the same batches, gathered on the host, for data that is too large.

        batch_size, seed: see `arrays`. The arrays may be memory-mapped: only the examples of a batch are read.
        """
        from nnfunc.data.stream import Stream

        return Stream.of(self, batch_size, seed)


def split(tree: PyTree, fractions: Sequence[float], *, seed: int = 0, stratify: Any = None) -> tuple[PyTree, ...]:
    """Split arrays at random into disjoint parts, such as train, validation and test.

    Part i gets fractions[i] of the examples, to within one, in their original order. The parts are the same
    on every machine for the same seed.
    tree: an array or a pytree of arrays [n, ...].
    fractions: above 0, with the sum 1.
    seed: an integer in [0, 2**32).
    stratify: labels [n], of which each part gets the same fraction of every class, to within about one example; or
        None.
    Raises: ValueError when the fractions do not sum to 1, or a part would be empty.

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
        check.fail(where, expected="fractions should sum to 1", actual=f"{[*fractions]}, with sum {sum(fractions):g}")
    if stratify is None:
        shuffled = _shuffled(size, seed)
    else:
        labels = np.asarray(stratify)
        check.shape(where, (size,), stratify=labels)
        order = _order_by_rank(labels[_shuffled(size, seed)])
        shuffled = _shuffled(size, seed)  # once more, which takes less memory than to keep it
        for start in range(0, size, BLOCK):
            block = slice(start, start + BLOCK)
            order[block] = shuffled[order[block]]
        shuffled = order
    ends = [int(size * end + 1e-6) for end in np.cumsum(fractions)]
    parts = np.split(shuffled, ends[:-1])
    if not all(map(len, parts)):
        actual = f"{[*map(len, parts)]} of {size}"
        hint = "Use more data or larger fractions."
        check.fail(where, expected="every part should have an example", actual=actual, hint=hint)
    for part in parts:
        part.sort()
    return parts


def _shuffled(size: int, seed: int) -> np.ndarray:
    # RandomState's random numbers never change, unlike those of NumPy's newer generators.
    shuffled = np.arange(size, dtype=_index_dtype(size))
    np.random.RandomState(seed).shuffle(shuffled)
    return shuffled


def _index_dtype(size: int) -> type:
    """The smallest signed type of indices into an axis of this `size`, which saves memory."""
    return np.int32 if size < 2**31 else np.int64


def _order_by_rank(labels: np.ndarray) -> np.ndarray:
    """The order of the examples by their relative rank within their class, in [0, 1].

    Every interval of the result has the classes in the same proportion.
    """
    size, step = len(labels), BLOCK
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
        buckets[block] = BUCKETS * ranks(block)
    order = np.empty(size, _index_dtype(size))
    filled = 0
    for bucket in range(BUCKETS):
        at = np.flatnonzero(buckets == bucket)
        order[filled : filled + len(at)] = at[np.argsort(ranks(at), kind="stable")]
        filled += len(at)
    return order


def cut_splits(
    where: str, size: int, y: np.ndarray, *, stratify: bool, **fractions: float
) -> tuple[np.ndarray | None, ...]:
    """The indices of the training examples and of the named splits; None for a fraction of 0.

    where: begins the message of an error.
    size: the number of examples.
    y: their labels [n].
    stratify: whether each split gets the same fraction of every class.
    fractions: of each split but train; below 1 a fraction of the examples, from 1 on their number. The result is
        always the same.

    >>> train, validation, test = cut_splits("here", 10, np.arange(10) % 2, stratify=True, validation=0.2, test=0)
    >>> len(train), (validation % 2).tolist(), test
    (8, [0, 1], None)
    """
    held_out = _held_out(where, size, fractions)
    train = 1 - sum(held_out)
    used = [part for part in (train, *held_out) if part > 0]
    parts = iter(_split_indices(where, size, used, seed=0, stratify=y if stratify else None))
    return tuple(next(parts) if part > 0 else None for part in (train, *held_out))


def _held_out(where: str, size: int, fractions: dict[str, float]) -> list[float]:
    """The fractions of all examples that the splits other than train get."""
    check.number(where, 0, **dict[str, Any](fractions))
    held_out = [fraction / size if fraction >= 1 else fraction for fraction in fractions.values()]
    if (1 - sum(held_out)) * size < 1 - 1e-6:
        actual = " and ".join(f"{name} = {fraction:g}" for name, fraction in fractions.items())
        problem = f"no training example remains of {size} with {actual}."
        hint = "Below 1 they are fractions of the examples, from 1 on numbers of examples."
        check.fail(where, problem, hint=hint)
    return held_out


def cut_in_order(where: str, column: str, ranks: np.ndarray, **fractions: float) -> tuple[np.ndarray | None, ...]:
    """The indices of the training examples and of the named splits, cut by rank: the lowest ranks are for training.

    Examples of equal rank are in the same split, so that sizes are the nearest that this allows; every split that
    has a fraction gets a rank.
    where: begins the message of an error.
    column: that the ranks are from.
    ranks: numbers [n].
    fractions: as for `cut_splits`, in the order of the splits.
    Raises: ValueError when there are fewer ranks than splits.

    >>> [part.tolist() for part in cut_in_order("here", "day", np.array([3, 1, 1, 2, 1]), validation=0.2, test=0.2)]
    [[1, 2, 4], [3], [0]]
    """
    sizes = np.array([fraction for fraction in _held_out(where, len(ranks), fractions) if fraction > 0])
    distinct, counts = np.unique(ranks, return_counts=True)
    if len(distinct) <= len(sizes):
        expected = f"column {column!r} should have a value for each of {len(sizes) + 1} splits"
        check.fail(where, expected=expected, actual=check.counted(len(distinct), "value"))
    ends, bounds = np.cumsum(counts), []  # a bound is the number of distinct ranks before it
    for i, end in enumerate((1 - np.cumsum(sizes[::-1])[::-1]) * len(ranks)):
        nearest = 1 + int(np.abs(ends - end).argmin())
        low = bounds[-1] + 1 if bounds else 1
        bounds.append(min(max(nearest, low), len(distinct) - len(sizes) + i))
    split_of = np.searchsorted(bounds, np.searchsorted(distinct, ranks), side="right")
    parts = iter(np.flatnonzero(split_of == i).astype(_index_dtype(len(ranks))) for i in range(len(sizes) + 1))
    return next(parts), *(next(parts) if fraction > 0 else None for fraction in fractions.values())
