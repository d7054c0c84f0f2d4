"""The members of a sweep as an engine keeps them, and the steps at which they may be looked at."""

from dataclasses import dataclass, field
from typing import Any

from nnfunc.sweeps.groups import Group
from nnfunc.sweeps.pack import Held
from nnfunc.sweeps.trial import Trial
from nnfunc.sweeps.ways import Way
from nnfunc.training.pace import Intervals
from nnfunc.training.programs import Carry
from nnfunc.training.task import Build

__all__ = ["Kind", "Track", "stop_at", "stops"]


@dataclass
class Kind:
    """What groups of one program have in common, and how they run once that is chosen."""

    build: Build
    held: Held
    intervals: Intervals
    leaves: Any
    treedef: Any
    static: dict[str, Any]
    traced: frozenset[str]
    way: Way | None = None


@dataclass
class Track:
    """A member. figures: name -> step -> value. left: why a search ended it before its last step.

    behind: whether it ranks behind those that went further. drawn: the settings that it began with.
    """

    trial: Trial
    drawn: dict[str, Any]
    kind: Kind
    group: Group
    place: int
    step: int = 0
    carry: Carry | None = None
    figures: dict[str, dict[int, float]] = field(default_factory=dict)
    left: str | None = None
    behind: bool = False

    @property
    def diverged(self) -> bool:
        return self.carry is not None and int(self.carry.state.diverged_at) >= 0

    @property
    def ended(self) -> bool:
        return self.step >= self.trial.intervals.steps


def stop_at(intervals: Intervals, share: float) -> int:
    """The step nearest to a share of the run at which it is evaluated."""
    if share >= 1:
        return intervals.steps
    return min(stops(intervals), key=lambda step: (abs(step - share * intervals.steps), step))


def stops(intervals: Intervals) -> list[int]:
    """The steps at which a run is evaluated."""
    return [*range(intervals.evaluate, intervals.steps, intervals.evaluate), intervals.steps]
