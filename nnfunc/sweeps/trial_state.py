"""The trials of a sweep as an engine keeps them."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nnfunc.sweeps.batch import Held
from nnfunc.sweeps.compiled_trials import Lanes
from nnfunc.sweeps.grouping import Group
from nnfunc.sweeps.strategy import Execution
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.training.compiled import Carry
from nnfunc.training.intervals import Intervals
from nnfunc.training.task import Build

__all__ = ["Kind", "Peak", "Track"]


@dataclass
class Kind:
    """What groups of one program have in common, and how they run once that is chosen.

    lanes: the programs that were made for them. lead: the first of all trials.
    """

    build: Build
    held: Held
    intervals: Intervals
    leaves: Any
    treedef: Any
    traced: frozenset[str]
    execution: Execution | None = None
    lead: int | None = None
    lanes: dict[Any, Lanes] = field(default_factory=dict)

    def stops(self) -> list[int]:
        """The steps at which the figure that ranks is reported."""
        every, last = self._every, self.intervals.steps
        return [*range(every, last, every), last]

    def stop_at(self, share: float) -> int:
        """The nearest such step to a share of the run."""
        every, last = self._every, self.intervals.steps
        wanted = share * last
        low = max(every, int(wanted // every) * every)
        near = [step for step in (low, low + every) if step < last] + [last]
        return last if share >= 1 else min(near, key=lambda step: (abs(step - wanted), step))

    @property
    def _every(self) -> int:
        return self.intervals.evaluate if self.held.evaluates else self.intervals.log


class Peak(NamedTuple):
    """The evaluation at which a trial was best. carry: as it was there; None until it is read."""

    step: int
    cost: float
    carry: Carry | None


@dataclass
class Track:
    """A trial. figures: name -> step -> value. left: why a search ended it before its last step.

    behind: whether it ranks behind those that went further. drawn: the settings that it began with.
    peak: what it ranks by, where a search keeps its best state rather than its last.
    """

    spec: TrialSpec
    drawn: dict[str, Any]
    kind: Kind
    group: Group
    place: int
    step: int = 0
    carry: Carry | None = None
    figures: dict[str, dict[int, float]] = field(default_factory=dict)
    left: str | None = None
    behind: bool = False
    peak: Peak | None = None

    @property
    def diverged(self) -> bool:
        return self.carry is not None and int(self.carry.state.diverged_at) >= 0

    @property
    def ended(self) -> bool:
        return self.step >= self.spec.intervals.steps
