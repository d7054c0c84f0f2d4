"""Which group each trial of a sweep belongs to, and which are refused before anything runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np

from nnfunc.data.dataset import Data
from nnfunc.sweeps.batch import Held
from nnfunc.sweeps.grouping import Found, Group, grouped
from nnfunc.sweeps.trial import Trial
from nnfunc.training.checkpointing import Best
from nnfunc.training.compiled import compiled_functions
from nnfunc.training.device_feed import DeviceFeed
from nnfunc.training.train import inspect_task

__all__ = ["Assignment", "assign"]

_INSPECTED: "dict[Any, tuple[Any, WeakSet[Data]]]" = {}
"""The last programs that were inspected, and with which data sets."""


class Assignment(NamedTuple):
    """Trials that share build, data and intervals, in groups; members are their indices in the sweep.

    held: their data. found: what `grouped` says of them, None where it refuses all. refused: index ->
    why. errors: of those that were refused together.
    """

    lead: Trial
    held: Held
    groups: list[Group]
    found: Found | None
    refused: dict[int, str]
    errors: list[Exception]


def assign(
    trials: Mapping[int, Trial],
    held_of: Callable[[Data], Held],
    figure: Best,
    varied: Mapping[str, Sequence[Any] | None],
) -> list[Assignment]:
    """The groups of trials, by their indices in the sweep. varied: of `grouped`."""
    families: dict[Any, list[int]] = {}
    for member, trial in trials.items():
        families.setdefault((trial.build, id(trial.data), trial.intervals), []).append(member)
    return [_assign_family({m: trials[m] for m in members}, held_of, figure, varied) for members in families.values()]


def _assign_family(
    trials: Mapping[int, Trial],
    held_of: Callable[[Data], Held],
    figure: Best,
    varied: Mapping[str, Sequence[Any] | None],
) -> Assignment:
    """The groups of trials that share build, data and intervals."""
    members, every = list(trials), list(trials.values())
    lead = every[0]
    held = held_of(lead.data)
    result = Assignment(lead, held, [], None, {}, [])
    try:
        hypers = [trial.hypers for trial in every]
        found = grouped(lead.build, hypers, lead.key, held.train, varied)
    except Exception as error:  # of the first of them: all are refused
        result.refused.update(dict.fromkeys(members, str(error) or type(error).__name__))
        return result._replace(errors=[error])
    result.refused.update({members[i]: words for i, words in found.refused.items()})
    for group in found.groups:
        own = tuple(members[i] for i in group.members)
        try:
            _inspect(group, trials[own[0]], held, figure)
        except Exception as error:  # what the task says of the data, or of its numbers
            result.refused.update(dict.fromkeys(own, str(error) or type(error).__name__))
            result.errors.append(error)
            continue
        orders = [trials[member].order for member in own]
        seeds = None if orders[0] is None else np.asarray(orders, np.uint32)
        result.groups.append(group._replace(members=own, numbers=[*group.numbers[:-1], seeds]))
    return result._replace(found=found)


def _inspect(group: Group, lead: Trial, held: Held, figure: Best) -> None:
    """Look at task and data as `nf.train` does; once for what was looked at before."""
    compiled = compiled_functions(lead.build, group.leaves, group.treedef)
    name = (id(compiled), figure)
    _, inspected = _INSPECTED.setdefault(name, (compiled, WeakSet()))
    if lead.data not in inspected:
        inspect_task(compiled, group.one(0)[:-1], lead.key, DeviceFeed(held.judged), figure)
        inspected.add(lead.data)
    while len(_INSPECTED) > 32:
        _INSPECTED.pop(next(iter(_INSPECTED)))
