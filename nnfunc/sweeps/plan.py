"""The plan of a sweep as text: its groups, the reasons for them, and how their trials run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnfunc.check import counted
from nnfunc.device_memory import format_bytes
from nnfunc.durations import format_duration
from nnfunc.sweeps.batch import Job
from nnfunc.sweeps.grouping import Grouping
from nnfunc.sweeps.strategy import Execution, memory_per_trial
from nnfunc.sweeps.trial import SEEDS, TrialSpec


@dataclass(frozen=True)
class GroupPlan:
    """One group of trials.

    static: the values that distinguish it.
    trials: their indices.
    execution: how they run, None until it is chosen.
    steps: of each run.
    memory: about how many bytes the trials that run at a time need, None if unknown.
    """

    static: dict[str, Any]
    trials: tuple[int, ...]
    execution: Execution | None = None
    steps: int = 0
    memory: float | None = None

    @property
    def seconds(self) -> float | None:
        """The expected time for all steps of all trials, by the probe; None without one."""
        speed = None if self.execution is None else self.execution.runs_per_second
        return None if speed is None else len(self.trials) / speed


@dataclass(frozen=True)
class Plan:
    """What a sweep will run, or has run; `print` it.

    settings: the number of settings.
    seeds: how many runs each setting has.
    steps: of each run, the most where they differ.
    traced: the names that the programs take as arguments.
    static: the names that make groups, and why.
    refused: trial -> why build refuses its hypers.
    groups: of trials that share a program.
    """

    settings: int
    seeds: int
    steps: int
    traced: list[str]
    static: dict[str, str]
    refused: dict[int, str]
    groups: list[GroupPlan]

    @property
    def seconds(self) -> float | None:
        """The expected time of the whole sweep, by the probes of its groups; None without them."""
        seconds = [group.seconds for group in self.groups]
        return None if not seconds or None in seconds else sum(filter(None, seconds))

    def __str__(self) -> str:
        runs = self.settings * self.seeds
        seeds = f", {self.seeds} seeds each" if self.seeds > 1 else ""
        lines = [f"{counted(runs, 'run')} of {counted(self.steps, 'step')}: {counted(self.settings, 'setting')}{seeds}"]
        if self.traced:
            lines.append(f"arguments of the program: {', '.join(self.traced)}")
        lines += [f"makes groups: {name} ({why})" for name, why in self.static.items()]
        for index, group in enumerate(self.groups):
            text = ", ".join(f"{name}={_short(value)}" for name, value in group.static.items())
            how = f": {group.execution}" if group.execution is not None else ": a probe will choose the execution"
            text = f" ({text})" if text else ""
            steps = f" of {counted(group.steps, 'step')}" if group.steps != self.steps else ""
            needs = "" if group.memory is None else f", about {format_bytes(group.memory)} at a time"
            needs += "" if group.seconds is None else f", {format_duration(group.seconds)}"
            lines.append(f"group {index}{text}, {counted(len(group.trials), 'trial')}{steps}{how}{needs}")
        lines += [f"trial {i} is refused: {why}" for i, why in list(self.refused.items())[:5]]
        if len(self.refused) > 5:
            lines.append(f"and {len(self.refused) - 5} more are refused")
        if self.seconds is not None:
            lines.append(f"expected: {format_duration(self.seconds)} for all steps of all runs, without compilation")
        return "\n".join(lines)


def _short(value: Any) -> str:
    text = getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def plan_group(job: Job, execution: Execution | None, static: dict[str, Any]) -> GroupPlan:
    """The plan of a group. job: its trials. execution: how they run. static: the values that distinguish it."""
    at_a_time = 0 if execution is None else execution.chunk * execution.threads
    memory = memory_per_trial(job) * at_a_time if at_a_time else None
    return GroupPlan(static, job.group.trials, execution, job.intervals.steps, memory)


def build_plan(
    groups: list[GroupPlan], groupings: list[Grouping], specs: list[TrialSpec], runs: int, refused: Mapping[int, str]
) -> Plan:
    """The plan of a sweep.

    groups: all of them.
    groupings: of all batches of trials.
    specs: of all trials.
    runs: of each setting.
    refused: trial -> why.
    """
    traced = list(dict.fromkeys(name for grouping in groupings for name in grouping.traced))
    traced += ["data.seed"] if any(spec.order is not None for spec in specs) else []
    static = dict.fromkeys(structural(specs), "it is not a number that a step reads")
    static |= {name: why for grouping in groupings for name, why in grouping.static.items()}
    steps = max(spec.intervals.steps for spec in specs)
    return Plan(len(specs) // runs, runs, steps, traced, static, dict(refused), groups)


def structural(specs: list[TrialSpec]) -> list[str]:
    """The settings of a config that are not hypers: they change the build or the data set. specs: of all trials."""
    names = [name for name in specs[0].settings if name not in SEEDS]
    return [name for name in names if any(name not in spec.hypers for spec in specs)]
