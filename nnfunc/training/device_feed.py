"""What a step's program reads of the training data."""

import dataclasses
from collections.abc import Generator
from typing import Any

import jax

from nnfunc import check
from nnfunc.base import to_device
from nnfunc.calls import factory_hint
from nnfunc.data.dataset import Data
from nnfunc.data.stream import BatchStream, Stream
from nnfunc.distributed.placement import Placement
from nnfunc.training.cut_data import CUT_DATA, CutData, cut_rows, is_large


def as_data(data: Any, where: str = "train") -> Data | Stream:
    """The data set; of another object with `batch(step)` a stream, which calls it on the host.

    where: the function that refuses.
    data: what it was given.
    Raises: TypeError for anything else.
    """
    if isinstance(data, Data | Stream):
        return data
    if not callable(getattr(data, "batch", None)):
        expected = "data should be a data set, such as nf.data.arrays((x, y), batch_size=32), or have batch(step)"
        hint = factory_hint(data)
        check.fail(where, expected=expected, actual=check.describe(data), hint=hint, exc_type=TypeError)
    return BatchStream.of_source(where, data)


def placed_data(data: Data | Stream, placement: Placement) -> Data | Stream:
    """The data set for the devices of a mesh: its held-out examples whole on each of them.

    data: of a run.
    placement: of the run.
    Raises: ValueError when the devices do not divide the batch.
    """
    if not isinstance(data, BatchStream):
        placement.check_batch("train", data.batch_size)
    if not isinstance(data, Data):
        return data
    return dataclasses.replace(data, validation=placement.whole(jax.tree.map(to_device, data.validation)))


class DeviceFeed:
    """A data set on the device as it is, or cut over the devices; of a stream, the batch of each step, gathered ahead.

    Close it when no more steps are run: a thread may be waiting.
    data: of the run.
    placement: of the run, None without a mesh.
    cut_data: as for `nf.train`.
    """

    def __init__(self, data: Data | Stream, placement: Placement | None = None, cut_data: float | None = None):
        self.data = data
        self._in_memory: Data | CutData | None = None
        self._put = None if placement is None else placement.put_rows
        if (
            isinstance(data, Data)
            and placement is not None
            and is_large(data, placement, CUT_DATA if cut_data is None else cut_data)
        ):
            self._in_memory = cut_rows(data.for_training(), placement)
        elif isinstance(data, Data):
            whole = jax.tree.map(to_device, data.for_training())
            self._in_memory = whole if placement is None else placement.whole(whole)
        self._ahead: Generator[Any, None, None] | None = None
        self._next = 0

    @property
    def is_stream(self) -> bool:
        """Whether every step needs another argument, so that steps cannot be scanned."""
        return self._in_memory is None

    def read(self, step: int) -> Any:
        """What the program of a step reads: it has `batch(step)`."""
        if isinstance(self.data, Data):
            return self._in_memory
        if self._ahead is None or step != self._next:
            self.close()
            self._ahead = self.data.gathered_batches(step, put=self._put)
        self._next = step + 1
        return next(self._ahead)

    def sample(self) -> Any:
        """One of the kind that `at` returns, for its shapes."""
        return self.data.gather(0, self._put) if isinstance(self.data, Stream) else self._in_memory

    def close(self) -> None:
        """Stop the thread that gathers ahead."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
