"""Which group each spec of a sweep belongs to, and which are refused before anything runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np

from nnfunc.data.dataset import Data
from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.batch import DeviceData
from nnfunc.sweeps.grouping import Group, Grouping, group_trials
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.training.compiled import compiled_functions
from nnfunc.training.device_feed import DeviceFeed
from nnfunc.training.train_run import inspect_task

__all__ = ["Assignment", "assign"]

_INSPECTED: "dict[Any, tuple[Any, WeakSet[Data]]]" = {}
"""The last compiled_functions that were inspected, and with which data sets."""


class Assignment(NamedTuple):
    """Trials that share build, data and intervals, in groups; trials are their indices in the sweep.

    device_data: their data. grouping: of `group_trials`, None where it refuses all. refused: index ->
    why. errors: of those that were refused together.
    """

    lead: TrialSpec
    device_data: DeviceData
    groups: list[Group]
    grouping: Grouping | None
    refused: dict[int, str]
    errors: list[Exception]


def assign(
    specs: Mapping[int, TrialSpec],
    device_data_of: Callable[[Data], DeviceData],
    metric: BestMetric,
    varied: Mapping[str, Sequence[Any] | None],
) -> list[Assignment]:
    """The groups of specs, by their indices in the sweep. varied: of `grouped`."""
    families: dict[Any, list[int]] = {}
    for trial, spec in specs.items():
        families.setdefault((spec.build, id(spec.data), spec.intervals), []).append(trial)
    return [
        _assign_family({m: specs[m] for m in trials}, device_data_of, metric, varied) for trials in families.values()
    ]


def _assign_family(
    specs: Mapping[int, TrialSpec],
    device_data_of: Callable[[Data], DeviceData],
    metric: BestMetric,
    varied: Mapping[str, Sequence[Any] | None],
) -> Assignment:
    """The groups of specs that share build, data and intervals."""
    trials, all_specs = list(specs), list(specs.values())
    lead = all_specs[0]
    device_data = device_data_of(lead.data)
    result = Assignment(lead, device_data, [], None, {}, [])
    try:
        hypers = [spec.hypers for spec in all_specs]
        grouping = group_trials(lead.build, hypers, lead.key, device_data.train, varied)
    except Exception as error:  # of the first of them: all are refused
        result.refused.update(dict.fromkeys(trials, str(error) or type(error).__name__))
        return result._replace(errors=[error])
    result.refused.update({trials[i]: message for i, message in grouping.refused.items()})
    for group in grouping.groups:
        indices = tuple(trials[i] for i in group.trials)
        try:
            _inspect(group, specs[indices[0]], device_data, metric)
        except Exception as error:  # what the task says of the data, or of its numbers
            result.refused.update(dict.fromkeys(indices, str(error) or type(error).__name__))
            result.errors.append(error)
            continue
        orders = [specs[trial].order for trial in indices]
        seeds = None if orders[0] is None else np.asarray(orders, np.uint32)
        result.groups.append(group._replace(trials=indices, numbers=[*group.numbers[:-1], seeds]))
    return result._replace(grouping=grouping)


def _inspect(group: Group, lead: TrialSpec, device_data: DeviceData, metric: BestMetric) -> None:
    """Look at task and data as `nf.train` does; once for what was looked at before."""
    compiled = compiled_functions(lead.build, group.leaves, group.treedef)
    name = (id(compiled), metric)
    _, inspected = _INSPECTED.setdefault(name, (compiled, WeakSet()))
    if lead.data not in inspected:
        inspect_task(compiled, group.one(0)[:-1], lead.key, DeviceFeed(device_data.evaluation), metric)
        inspected.add(lead.data)
    while len(_INSPECTED) > 32:
        _INSPECTED.pop(next(iter(_INSPECTED)))
