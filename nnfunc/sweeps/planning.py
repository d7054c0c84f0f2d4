"""From the groups of a sweep to its plan."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nnfunc.sweeps.groups import Found, marks
from nnfunc.sweeps.pack import Job
from nnfunc.sweeps.plan import Plan, Planned
from nnfunc.sweeps.trial import Trial
from nnfunc.sweeps.ways import Way, needed

__all__ = ["plan_of", "planned_of", "structural"]

SEEDS = ("seed", "data.seed")


def planned_of(job: Job, way: Way | None, static: dict[str, Any]) -> Planned:
    """What is planned for a group. static: the values that set it apart."""
    at_a_time = 0 if way is None else way.chunk * way.threads
    memory = needed(job) * at_a_time if at_a_time else None
    return Planned(static, job.group.members, way, job.intervals.steps, memory)


def plan_of(
    groups: list[tuple[Any, Planned]], found: list[Found], trials: list[Trial], runs: int,
    refused: Mapping[int, str],
) -> Plan:  # fmt: skip
    """The plan; groups that are alike, of batches that came one after another, are one.

    groups: each with what groups of one program have in common.
    """
    alike: dict[Any, list[Planned]] = {}
    for kind, own in groups:
        name = (id(kind), tuple(own.static), marks(own.static.values()))
        alike.setdefault(name, []).append(own)
    planned = [
        replace(parts[-1], members=tuple(member for part in parts for member in part.members))
        for parts in alike.values()
    ]
    traced = dict.fromkeys(name for one in found for name in one.traced)
    static = dict.fromkeys(structural(trials), "it is no number that a step takes")
    static |= {name: why for one in found for name, why in one.static.items()}
    names = list(traced)
    names += ["data.seed"] if any(trial.order is not None for trial in trials) else []
    steps = max(trial.intervals.steps for trial in trials)
    return Plan(len(trials) // runs, runs, steps, names, static, dict(refused), planned)


def structural(trials: list[Trial]) -> list[str]:
    """Settings that are no hypers: of configs, in which they make another build or data set."""
    names = [name for name in trials[0].settings if name not in SEEDS]
    return [name for name in names if any(name not in trial.hypers for trial in trials)]
