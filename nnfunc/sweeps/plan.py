"""What a sweep is going to do, in words: its groups and why, and how their trials run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nnfunc.check import counted
from nnfunc.durations import format_duration
from nnfunc.sweeps.batch import Job
from nnfunc.sweeps.grouping import Grouping, static_key
from nnfunc.sweeps.strategy import Execution, memory_per_trial
from nnfunc.sweeps.trial import TrialSpec

__all__ = ["GroupPlan", "Plan", "build_plan", "plan_group", "structural"]


@dataclass(frozen=True)
class GroupPlan:
    """A group. static: the values that set it apart. trials: their places. execution: None until probed.

    steps: of each run. memory: bytes that its trials need at a time, about; None where unknown.
    """

    static: dict[str, Any]
    trials: tuple[int, ...]
    execution: Execution | None = None
    steps: int = 0
    memory: float | None = None

    @property
    def seconds(self) -> float | None:
        """How long all trials take to their last step, by the probe; None without one."""
        speed = None if self.execution is None else self.execution.runs_per_second
        return None if speed is None else len(self.trials) / speed


@dataclass(frozen=True)
class Plan:
    """What a sweep will run, or has run; `print` it.

    settings: how many configurations of hyperparameters. seeds: runs of each. steps: of each run.
    groups: the trials of one program each. traced: the names that the programs take as arguments.

    static: the names that make groups, and why. refused: trials whose hypers build refuses, and why.
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
        """How long the whole takes, by the probes of its groups; None without them."""
        every = [seconds for group in self.groups if (seconds := group.seconds) is not None]
        return sum(every) if every and len(every) == len(self.groups) else None

    def __str__(self) -> str:
        runs = self.settings * self.seeds
        seeds = f", {self.seeds} seeds each" if self.seeds > 1 else ""
        lines = [f"{counted(runs, 'run')} of {counted(self.steps, 'step')}: {counted(self.settings, 'setting')}{seeds}"]
        if self.traced:
            lines.append(f"arguments of the program: {', '.join(self.traced)}")
        lines += [f"makes groups: {name} ({why})" for name, why in self.static.items()]
        for index, group in enumerate(self.groups):
            text = ", ".join(f"{name}={_short(value)}" for name, value in group.static.items())
            how = f": {group.execution}" if group.execution is not None else ": the execution is found by a probe"
            text = f" ({text})" if text else ""
            steps = f" of {counted(group.steps, 'step')}" if group.steps != self.steps else ""
            trials = counted(len(group.trials), "trial")
            lines.append(f"group {index}{text}, {trials}{steps}{how}{_needs(group)}")
        lines += [f"trial {i} is refused: {why}" for i, why in list(self.refused.items())[:5]]
        if len(self.refused) > 5:
            lines.append(f"and {len(self.refused) - 5} more are refused")
        if self.seconds is not None:
            last = "in all, to the last step of every run, compiling aside"
            lines.append(f"expected: {format_duration(self.seconds)} {last}")
        return "\n".join(lines)


def _needs(group: GroupPlan) -> str:
    memory = "" if group.memory is None else f", about {_bytes(group.memory)} at a time"
    return memory + ("" if group.seconds is None else f", {format_duration(group.seconds)}")


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def _short(value: Any) -> str:
    text = getattr(value, "__name__", None) or repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


SEEDS = ("seed", "data.seed")


def plan_group(job: Job, execution: Execution | None, static: dict[str, Any]) -> GroupPlan:
    """What is planned for a group. static: the values that set it apart."""
    at_a_time = 0 if execution is None else execution.chunk * execution.threads
    memory = memory_per_trial(job) * at_a_time if at_a_time else None
    return GroupPlan(static, job.group.trials, execution, job.intervals.steps, memory)


def build_plan(
    groups: list[tuple[Any, GroupPlan]],
    groupings: list[Grouping],
    specs: list[TrialSpec],
    runs: int,
    refused: Mapping[int, str],
) -> Plan:
    """The plan; groups that are alike, of batches that came one after another, are one.

    groups: each with what groups of one program have in common.
    """
    by_program: dict[Any, list[GroupPlan]] = {}
    for program, group in groups:
        name = (id(program), tuple(group.static), static_key(group.static.values()))
        by_program.setdefault(name, []).append(group)
    planned = [
        replace(parts[-1], trials=tuple(trial for part in parts for trial in part.trials))
        for parts in by_program.values()
    ]
    traced = dict.fromkeys(name for one in groupings for name in one.traced)
    static = dict.fromkeys(structural(specs), "it is no number that a step takes")
    static |= {name: why for one in groupings for name, why in one.static.items()}
    names = list(traced)
    names += ["data.seed"] if any(spec.order is not None for spec in specs) else []
    steps = max(spec.intervals.steps for spec in specs)
    return Plan(len(specs) // runs, runs, steps, names, static, dict(refused), planned)


def structural(specs: list[TrialSpec]) -> list[str]:
    """Settings that are no hypers: of configs, in which they make another build or data set."""
    names = [name for name in specs[0].settings if name not in SEEDS]
    return [name for name in names if any(name not in spec.hypers for spec in specs)]
