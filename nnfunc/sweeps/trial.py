"""What one trial of a sweep is to do: a run as `nf.train` would be given it."""

from dataclasses import replace
from typing import Any, NamedTuple

from nnfunc.base import Key
from nnfunc.data.dataset import Data
from nnfunc.training.intervals import Intervals
from nnfunc.training.task import Build

__all__ = ["TrialSpec"]


class TrialSpec(NamedTuple):
    """A run to be. settings: what it was drawn as, which tables show. hypers: what build is given.

    key: of the run. order: the seed of the data's order, or None for that of data. seed: what tables
    call the run by, where a setting has several.
    """

    settings: dict[str, Any]
    build: Build
    hypers: Any
    data: Data
    intervals: Intervals
    key: Key
    order: int | None = None
    seed: int = 0

    @property
    def ordered(self) -> Data:
        """The data in the order that the run sees."""
        return self.data if self.order is None else replace(self.data, seed=self.order)
