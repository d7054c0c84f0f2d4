"""Data that is too large for the device: the same batches, gathered on the host ahead of time."""

import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from nnfunc import check, jax_settings
from nnfunc.base import Key, PyTree, shape_text, to_device
from nnfunc.data import shuffle
from nnfunc.data.check_arrays import as_numpy, check_batch_size, prepare_arrays
from nnfunc.data.dataset import Dataset, GatheredBatch

PutRows = Callable[[tuple[int, ...], Callable[[slice], np.ndarray]], Any]
"""(shape, function from a slice of the first axis to its rows) -> array."""


def prefetch(items: Iterable[Any], ahead: int = 2) -> Generator[Any, None, None]:
    """The items of an iterable; a thread prepares up to `ahead` of them before they are requested.

    items: any iterable.
    ahead: at least 1. An error in the thread is raised here; the thread ends when this generator is closed or
        exhausted. The thread uses the settings of JAX, such as `with jax.enable_x64(True)`, that are active when
        the first item is requested.

    >>> list(prefetch(range(5)))
    [0, 1, 2, 3, 4]
    """
    check.size("prefetch", ahead=ahead)
    ready: queue.Queue[Any] = queue.Queue(ahead)
    stop = threading.Event()

    def put(item: Any) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(("item", item))
                if stop.is_set():
                    return
        except BaseException as error:
            put(("error", error))
        else:
            put(("end", None))

    work = jax_settings.inherit_settings(work)
    thread = threading.Thread(target=work, name="nnfunc-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            event, item = ready.get()
            if event == "error":
                raise item
            if event == "end":
                return
            yield item
    finally:
        stop.set()
        thread.join(timeout=1)


@dataclass(frozen=True, eq=False, repr=False)
class Stream(Dataset):
    """A data set on the host, such as a memory-mapped file; `Splits.stream` makes one.

    Its batches equal those of the `Data` with the same splits, seed and batch size. The fields are those
    of `Dataset`, with NumPy arrays and an int as seed.
    """

    @staticmethod
    def of(splits: Any, batch_size: int, seed: int) -> "Stream":
        """The stream of `splits`, a `Splits`. batch_size, seed: see `Splits.stream`."""
        where = "data.stream"
        check.size(where, batch_size=batch_size)
        check.size(where, 0, 2**32 - 1, seed=seed)
        fields = splits._asdict()
        del fields["names"]
        fields["arrays"] = fields.pop("train")
        for name in ("arrays", "validation", "test"):
            fields[name] = jax.tree.map(lambda x: as_numpy(where, "an array", x), fields[name])
        stream = Stream(seed=int(seed), batch_size=batch_size, **fields)
        check_batch_size(where, batch_size, stream.size)
        return stream

    def gather(self, step: int, put: PutRows | None = None) -> GatheredBatch:
        """The training examples of the 0-based `step`, gathered on the host and not transformed yet.

        put: see `gathered_batches`.
        """
        at = self._example_indices(step)
        if self.window is not None:
            at = at[:, None] + np.arange(self.window)

        def rows(x: Any, index: slice) -> np.ndarray:
            values = np.asarray(x[at[index]])
            if self.window is not None and self.classes is not None:
                self._check_tokens(values, step)
            return values

        def gathered(x: Any) -> Any:
            if put is None:
                return rows(x, slice(None))
            return put((*at.shape, *x.shape[1:]), lambda index: rows(x, index))

        batch = jax.tree.map(gathered, self.arrays)
        return GatheredBatch(batch, shuffle.as_uint32(self.seed), self.transform, self.augment)

    def batch(self, step: int, *, key: Key | None = None) -> PyTree:
        """The training batch of the 0-based `step`, transformed and augmented, on the device. key: see `Data.batch`."""
        return _finish_batch(self.gather(step), shuffle.as_uint32(step), key)

    def batches(self, start: int = 0, *, ahead: int = 2) -> Iterator[PyTree]:
        """The batches of the steps from `start` on, endlessly; a thread prepares `ahead` of them."""
        return prefetch(map(self.batch, itertools.count(start)), ahead)

    def gathered_batches(
        self, start: int = 0, *, ahead: int = 2, put: PutRows | None = None
    ) -> Generator[GatheredBatch, None, None]:
        """`gather` of the steps from `start` on, on the device; a thread prepares `ahead` of them.

        put: makes an array of a shape from the function that reads some of its rows; None for one on the device.
        """
        return prefetch((jax.tree.map(to_device, self.gather(step, put)) for step in itertools.count(start)), ahead)

    def _example_indices(self, step: int) -> np.ndarray:
        """[batch_size] int64, the indices of the examples of a step.

        The permutation has at most 2**31 indices. With more windows than that, it permutes groups of
        neighbouring windows, and each epoch uses another window of each group.
        """
        group = -(-self.size // shuffle.LARGEST)
        count = self.size // group
        with jax.ensure_compile_time_eval():  # concrete indices, even under a transformation
            at = np.asarray(shuffle.indices(self.seed, step, self.batch_size, count)).astype(np.int64)
            if group == 1:
                return at
            epoch, _ = shuffle.positions(step, self.batch_size, count)
            return at * group + np.asarray(epoch) % group

    def _check_tokens(self, batch: np.ndarray, step: int) -> None:
        if int(batch.max()) >= (self.classes or 0) or int(batch.min()) < 0:
            expected = f"tokens should be in [0, {self.classes})"
            actual = f"{int(batch.max())} in the batch of step {step}"
            hint = "Check the dtype, and that the codec is the one of the file."
            check.fail("data.stream", expected=expected, actual=actual, hint=hint)


@dataclass(frozen=True, eq=False, repr=False)
class BatchStream(Stream):
    """A Stream of the batches that an object computes on the host: `source.batch(step)`.

    source: the object. The other fields are those of `Stream`; arrays is its batch of step 0.
    """

    source: Any = None

    @staticmethod
    def of_source(where: str, source: Any) -> "BatchStream":
        """The stream of an object with `batch(step)`, and, if it has them, the fields of `Dataset`.

        where: the function that refuses.
        source: batch(0), batch(1), ... return arrays of the same shapes. Arrays whose first axes differ, such as
            the nodes and edges of graphs, count as one example.
        """
        first = _host_batch(where, "the batch of step 0", source.batch(0), same_length=False)
        splits: dict[str, Any] = {name: getattr(source, name, None) for name in ("validation", "test")}
        splits = {name: None if tree is None else _host_batch(where, name, tree) for name, tree in splits.items()}
        names = ("classes", "codec", "image_shape", "preprocessing", "eval_batch_size")  # its batches are final
        fields: dict[str, Any] = {name: getattr(source, name, None) for name in names}
        return BatchStream(first, **splits, **fields, batch_size=_batch_size(first), source=source)

    def gather(self, step: int, put: PutRows | None = None) -> GatheredBatch:
        """The batch of the 0-based `step`. Raises: ValueError when its shapes are not those of step 0."""
        if step == 0:
            batch = self.arrays
        else:
            batch = _host_batch("data", f"the batch of step {step}", self.source.batch(step), same_length=False)
        expected, actual = (jax.tree.map(shape_text, tree) for tree in (self.arrays, batch))
        if expected != actual:
            should = f"the batch of step {step} should have the shapes and dtypes of step 0, {expected}"
            check.fail("data", expected=should, actual=actual, hint="Pad the last batch of an epoch.")
        if self.batch_size < _batch_size(batch):  # a tool asks for fewer
            batch = jax.tree.map(lambda leaf: leaf[: self.batch_size], batch)
        if put is not None:
            batch = jax.tree.map(lambda leaf: put(leaf.shape, lambda index: leaf[index]), batch)
        return GatheredBatch(batch, shuffle.as_uint32(self.seed))


def _host_batch(where: str, name: str, tree: PyTree, *, same_length: bool = True) -> PyTree:
    arrays = jax.tree.map(lambda x: as_numpy(where, name, x), tree)
    return prepare_arrays(where, name, arrays, same_length=same_length)


def _batch_size(batch: PyTree) -> int:
    """The number of examples: the common length of the first axes, or 1."""
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    return lengths.pop() if len(lengths) == 1 else 1


@jax.jit
def _finish_batch(gathered: GatheredBatch, step: Any, key: Any) -> PyTree:
    return gathered.batch(step, key=key)
