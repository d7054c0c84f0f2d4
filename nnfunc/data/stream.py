"""Data too large for the device: the same batches, gathered on the host before they are needed."""

import itertools
import math
import queue
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, jax_settings
from nnfunc.base import Key, PyTree, Scalar
from nnfunc.data import shuffle
from nnfunc.data.dataset import Augment, Transform, as_numpy
from nnfunc.data.windows import Windows

__all__ = ["GatheredBatch", "Stream", "prefetch"]


def prefetch(items: Iterable[Any], ahead: int = 2) -> Generator[Any, None, None]:
    """The same items, up to `ahead` of them made in a thread before they are asked for.

    What goes wrong in the thread is raised here; the thread ends when this is closed or used up. It
    has the settings of JAX, such as `with jax.enable_x64(True)`, in which the first item is asked for.

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

    work = jax_settings.inherited(work)
    thread = threading.Thread(target=work, name="nnfunc-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            yield item
    finally:
        stop.set()
        thread.join(timeout=1)


@dataclass(frozen=True, eq=False)
class GatheredBatch:
    """A batch that was gathered already, in the place of a `Data` in a step's program.

    `batch(step)` transforms and augments it there. arrays: what was gathered.
    """

    arrays: PyTree
    seed: Scalar = 0
    transform: Transform | None = None
    augment: Augment | None = None

    def batch(self, step: Scalar, *, key: Key | None = None) -> PyTree:
        """The batch, which must be that of the step."""
        batch = self.arrays if self.transform is None else self.transform(self.arrays)
        if self.augment is None:
            return batch
        if key is None:  # as `Data` has it
            own = jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(b"augment"))
            key = jax.random.fold_in(own, shuffle.as_uint32(step))
        return self.augment(key, batch)


jax.tree_util.register_dataclass(GatheredBatch, data_fields=["arrays", "seed"], meta_fields=["transform", "augment"])


@dataclass(frozen=True, eq=False)
class Stream:
    """A data set on the host, such as a memory-mapped file; made by `Splits.stream`.

    Its batches are those of the `Data` with the same splits, seed and batch size.
    """

    arrays: PyTree
    validation: PyTree = None
    test: PyTree = None
    seed: int = 0
    batch_size: int = 1
    classes: int | None = None
    transform: Transform | None = None
    augment: Augment | None = None
    window: int | None = None
    codec: Any = None
    image_shape: tuple[int, int, int] | None = None
    preprocessing: Any = None
    eval_batch_size: int | None = None

    @staticmethod
    def of(splits: Any, batch_size: int, seed: int) -> "Stream":
        """See `Splits.stream`."""
        check.size("data.stream", batch_size=batch_size)
        check.size("data.stream", 0, 2**32 - 1, seed=seed)
        train, held, test = (
            jax.tree.map(lambda x: as_numpy("data.stream", "an array", x), part)
            for part in (splits.train, splits.validation, splits.test)
        )
        looks = (
            splits.transform,
            splits.augment,
            splits.window,
            splits.codec,
            splits.image_shape,
            splits.preprocessing,
        )
        stream = Stream(train, held, test, int(seed), batch_size, splits.classes, *looks)
        if batch_size > stream.size:
            problem = f"batch_size should be at most the number of training examples, {stream.size}"
            check.fail("data.stream", f"{problem}, got {batch_size}.")
        return stream

    @property
    def size(self) -> int:
        """The number of training examples; with a window, of places where one may begin."""
        return len(jax.tree.leaves(self.arrays)[0]) - (self.window or 1) + 1

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every example has come at least once."""
        return math.ceil(self.size / self.batch_size)

    def gather(self, step: int) -> GatheredBatch:
        """What a step's program needs of the training arrays, gathered: a small copy."""
        at = self._places(step)
        if self.window is not None:
            at = at[:, None] + np.arange(self.window)
        batch = jax.tree.map(lambda x: np.asarray(x[at]), self.arrays)
        if self.window is not None and self.classes is not None:
            self._check(batch, step)
        return GatheredBatch(batch, shuffle.as_uint32(self.seed), self.transform, self.augment)

    def batch(self, step: int, *, key: Key | None = None) -> PyTree:
        """The training batch of a 0-based step, transformed and augmented, on the device."""
        return _ready(self.gather(step), shuffle.as_uint32(step), key)

    def batches(self, start: int = 0, *, ahead: int = 2) -> Iterator[PyTree]:
        """The batches of the steps from `start` on, without end, made ahead in a thread."""
        return prefetch(map(self.batch, itertools.count(start)), ahead)

    def gathered_batches(self, start: int = 0, *, ahead: int = 2) -> Generator[GatheredBatch, None, None]:
        """`given` of the steps from `start` on, on the device, made ahead in a thread."""
        placed = (jax.tree.map(jnp.asarray, self.gather(step)) for step in itertools.count(start))
        return prefetch(placed, ahead)

    def split(self, name: str = "validation", batch_size: int | None = None) -> Iterator[PyTree]:
        """Every example of a split once, in order, as `Data.split` has them."""
        check.choice("data.split", ["train", "validation", "test"], name=name)
        if batch_size is not None:
            check.size("data.split", batch_size=batch_size)
        tree = self.arrays if name == "train" else getattr(self, name)
        if tree is None:
            check.fail("data.split", f"this data set has no {name} split.")
        rows = Windows(tree, self.window) if self.window and name == "train" else None
        size = len(jax.tree.leaves(tree)[0]) if rows is None else len(rows)
        width = batch_size or self.batch_size
        for start in range(0, size, width):
            if rows is not None:
                part = rows.rows(start, start + width)
            else:
                part = jax.tree.map(lambda x, start=start: x[start : start + width], tree)
            part = jax.tree.map(jnp.asarray, part)
            yield part if self.transform is None else self.transform(part)

    def _places(self, step: int) -> np.ndarray:
        """[batch_size] int64, where the examples of a step are.

        The order counts to 2**31. Of more windows than that, it permutes groups of neighbours, and
        each epoch takes another one of a group.
        """
        group = -(-self.size // shuffle.LARGEST)
        count = self.size // group
        with jax.ensure_compile_time_eval():  # places are numbers, even while shapes are followed
            at = np.asarray(shuffle.indices(self.seed, step, self.batch_size, count)).astype(np.int64)
            if group == 1:
                return at
            epoch, _ = shuffle.positions(step, self.batch_size, count)
            return at * group + np.asarray(epoch) % group

    def _check(self, batch: np.ndarray, step: int) -> None:
        if int(batch.max()) >= (self.classes or 0) or int(batch.min()) < 0:
            wanted = f"tokens should be in [0, {self.classes})"
            cure = "Is the dtype right, and the codec the one that the file was made with?"
            problem = f"{wanted}, got {int(batch.max())} in the batch of step {step}"
            check.fail("data.stream", f"{problem}. {cure}")


@jax.jit
def _ready(given: GatheredBatch, step: Any, key: Any) -> PyTree:
    return given.batch(step, key=key)
