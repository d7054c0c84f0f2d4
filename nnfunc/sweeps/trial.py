"""A trial of a sweep: what it is to run, and how far it has run."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from nnfunc.base import Key
from nnfunc.data.dataset import Data
from nnfunc.sweeps.compiled_trials import CompiledTrials
from nnfunc.sweeps.grouping import Group
from nnfunc.sweeps.strategy import Execution
from nnfunc.training.compiled import Carry
from nnfunc.training.intervals import Intervals
from nnfunc.training.task import Build

SEEDS = ("seed", "data.seed")
"""Settings that are seeds: of a run's key, and of the order of its data. Neither is a hyperparameter."""


class TrialSpec(NamedTuple):
    """The arguments of one run, as for `nf.train`.

    settings: name -> value, as drawn from the space; tables show them.
    build: hypers -> Task.
    hypers: the argument of build.
    data: the data set.
    intervals: the number of steps, and when to report.
    key: of the run.
    order: the seed of the order of the data, or None for the data's own.
    seed: the number of the run among those of one setting.
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
        """The data in the order in which the run reads it."""
        return self.data if self.order is None else replace(self.data, seed=self.order)


@dataclass
class GroupProgram:
    """What groups that run the same compiled program share.

    build: of their trials.
    data: on the device.
    intervals: of every run.
    lead: the first trial.
    execution: how the trials run, None until it is chosen.
    compiled: (vmapped, devices) -> the jitted functions.
    """

    build: Build
    data: Data
    intervals: Intervals
    lead: int
    execution: Execution | None = None
    compiled: dict[Any, CompiledTrials] = field(default_factory=dict)

    def report_steps(self) -> list[int]:
        """The steps at which the metric that ranks is reported."""
        every, last = self._every, self.intervals.steps
        return [*range(every, last, every), last]

    def nearest_report(self, fraction: float) -> int:
        """The report step nearest to a fraction of the run. fraction: in (0, 1]."""
        every, last = self._every, self.intervals.steps
        exact = fraction * last
        low = max(every, int(exact // every) * every)
        near = [step for step in (low, low + every) if step < last] + [last]
        return last if fraction >= 1 else min(near, key=lambda step: (abs(step - exact), step))

    @property
    def _every(self) -> int:
        return self.intervals.log if self.data.validation is None else self.intervals.evaluate


@dataclass
class TrialState:
    """The state of a trial in a running sweep.

    spec: what it runs.
    initial_setting: its settings at step 0; population based training changes those of spec.
    program, group: it runs with them.
    position: its index in the group.
    step: how many steps are done.
    carry: its loop carry on the host, None before its first step.
    metrics: name -> step -> value.
    stop_reason: why a search stopped it before its last step.
    ranks_last: whether it ranks below trials that ran further.
    best_step, best_carry: of its best evaluation, where a search keeps that; best_carry is None until it is loaded.
    """

    spec: TrialSpec
    initial_setting: dict[str, Any]
    program: GroupProgram
    group: Group
    position: int
    step: int = 0
    carry: Carry | None = None
    metrics: dict[str, dict[int, float]] = field(default_factory=dict)
    stop_reason: str | None = None
    ranks_last: bool = False
    best_step: int | None = None
    best_carry: Carry | None = None

    @property
    def diverged(self) -> bool:
        """Whether its train state is no longer finite."""
        return self.carry is not None and int(self.carry.state.diverged_at) >= 0

    @property
    def ended(self) -> bool:
        """Whether its last step is done."""
        return self.step >= self.spec.intervals.steps
