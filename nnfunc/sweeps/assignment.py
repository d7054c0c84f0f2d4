"""Which group each spec of a sweep belongs to, and which are refused before anything runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np

from nnfunc.data.dataset import Data
from nnfunc.sweeps.batch import Held
from nnfunc.sweeps.grouping import Found, Group, grouped
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.training.checkpointing import Best
from nnfunc.training.compiled import programs
from nnfunc.training.device_feed import Feed
from nnfunc.training.train import inspect_task

__all__ = ["Assignment", "assign"]

_INSPECTED: "dict[Any, tuple[Any, WeakSet[Data]]]" = {}
"""The last programs that were inspected, and with which data sets."""


class Assignment(NamedTuple):
    """Trials that share build, data and intervals, in groups; trials are their indices in the sweep.

    held: their data. found: what `grouped` says of them, None where it refuses all. refused: index ->
    why. errors: of those that were refused together.
    """

    lead: TrialSpec
    held: Held
    groups: list[Group]
    found: Found | None
    refused: dict[int, str]
    errors: list[Exception]


def assign(
    specs: Mapping[int, TrialSpec],
    held_of: Callable[[Data], Held],
    figure: Best,
    varied: Mapping[str, Sequence[Any] | None],
) -> list[Assignment]:
    """The groups of specs, by their indices in the sweep. varied: of `grouped`."""
    families: dict[Any, list[int]] = {}
    for trial, spec in specs.items():
        families.setdefault((spec.build, id(spec.data), spec.intervals), []).append(trial)
    return [_assign_family({m: specs[m] for m in trials}, held_of, figure, varied) for trials in families.values()]


def _assign_family(
    specs: Mapping[int, TrialSpec],
    held_of: Callable[[Data], Held],
    figure: Best,
    varied: Mapping[str, Sequence[Any] | None],
) -> Assignment:
    """The groups of specs that share build, data and intervals."""
    trials, every = list(specs), list(specs.values())
    lead = every[0]
    held = held_of(lead.data)
    result = Assignment(lead, held, [], None, {}, [])
    try:
        hypers = [spec.hypers for spec in every]
        found = grouped(lead.build, hypers, lead.key, held.train, varied)
    except Exception as error:  # of the first of them: all are refused
        result.refused.update(dict.fromkeys(trials, str(error) or type(error).__name__))
        return result._replace(errors=[error])
    result.refused.update({trials[i]: words for i, words in found.refused.items()})
    for group in found.groups:
        own = tuple(trials[i] for i in group.trials)
        try:
            _inspect(group, specs[own[0]], held, figure)
        except Exception as error:  # what the task says of the data, or of its numbers
            result.refused.update(dict.fromkeys(own, str(error) or type(error).__name__))
            result.errors.append(error)
            continue
        orders = [specs[trial].order for trial in own]
        seeds = None if orders[0] is None else np.asarray(orders, np.uint32)
        result.groups.append(group._replace(trials=own, numbers=[*group.numbers[:-1], seeds]))
    return result._replace(found=found)


def _inspect(group: Group, lead: TrialSpec, held: Held, figure: Best) -> None:
    """Look at task and data as `nf.train` does; once for what was looked at before."""
    compiled = programs(lead.build, group.leaves, group.treedef)
    name = (id(compiled), figure)
    _, inspected = _INSPECTED.setdefault(name, (compiled, WeakSet()))
    if lead.data not in inspected:
        inspect_task(compiled, group.one(0)[:-1], lead.key, Feed(held.judged), figure)
        inspected.add(lead.data)
    while len(_INSPECTED) > 32:
        _INSPECTED.pop(next(iter(_INSPECTED)))
