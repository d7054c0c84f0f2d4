"""The state of each trial of a running sweep."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nnfunc.sweeps.batch import DeviceData
from nnfunc.sweeps.compiled_trials import CompiledTrials
from nnfunc.sweeps.grouping import Group
from nnfunc.sweeps.strategy import Execution
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.training.compiled import Carry
from nnfunc.training.intervals import Intervals
from nnfunc.training.task import Build

__all__ = ["Peak", "Program", "TrialState"]


@dataclass
class Program:
    """What groups that share a compiled program have in common, and how they run once that is chosen.

    compiled: the programs, by (vmapped, devices). lead: the first trial.
    """

    build: Build
    device_data: DeviceData
    intervals: Intervals
    leaves: Any
    treedef: Any
    traced: frozenset[str]
    execution: Execution | None = None
    lead: int | None = None
    compiled: dict[Any, CompiledTrials] = field(default_factory=dict)

    def report_steps(self) -> list[int]:
        """The steps at which the figure that ranks is reported."""
        every, last = self._every, self.intervals.steps
        return [*range(every, last, every), last]

    def stop_at(self, fraction: float) -> int:
        """The nearest such step to a share of the run."""
        every, last = self._every, self.intervals.steps
        exact = fraction * last
        low = max(every, int(exact // every) * every)
        near = [step for step in (low, low + every) if step < last] + [last]
        return last if fraction >= 1 else min(near, key=lambda step: (abs(step - exact), step))

    @property
    def _every(self) -> int:
        return self.intervals.evaluate if self.device_data.evaluates else self.intervals.log


class Peak(NamedTuple):
    """The evaluation at which a trial was best. carry: as it was there; None until it is read."""

    step: int
    cost: float
    carry: Carry | None


@dataclass
class TrialState:
    """A trial. metrics: name -> step -> value. stop_reason: why a search ended it before its last step.

    ranks_last: whether it ranks below trials that ran further. initial_setting: the setting it began with.
    peak: what it ranks by, where a search keeps its best state rather than its last.
    """

    spec: TrialSpec
    initial_setting: dict[str, Any]
    program: Program
    group: Group
    position: int
    step: int = 0
    carry: Carry | None = None
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    stop_reason: str | None = None
    ranks_last: bool = False
    peak: Peak | None = None

    @property
    def diverged(self) -> bool:
        return self.carry is not None and int(self.carry.state.diverged_at) >= 0

    @property
    def ended(self) -> bool:
        return self.step >= self.spec.intervals.steps
