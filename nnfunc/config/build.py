"""The build of a config: a function of its numbers that makes the model, the objective and the optimizer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from nnfunc import check
from nnfunc.config.schema import WRAPPERS, factories, get_schema


@dataclass(frozen=True)
class Slot:
    """Stands for a number, which the hypers give. key: of the number in the hypers."""

    key: str


@dataclass(frozen=True)
class FrozenDict:
    """A hashable dict. items: its keys and values."""

    items: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class ScheduleCall:
    """A number that follows a schedule. name: of the factory in `nf.schedules`. arguments: with slots."""

    name: str
    arguments: FrozenDict


@dataclass(frozen=True)
class TableCall:
    """The call of a table's factory.

    path: the dotted key of the table, such as "model" or "augment.shift".
    table: its first part.
    name: of the factory.
    arguments: by name, with slots.
    """

    path: str
    table: str
    name: str
    arguments: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Recipe:
    """The function (hypers, step) -> Task of a config. Configs that differ only in numbers have equal recipes.

    parts: the calls of all factories.
    target: how the data set scaled the targets, which the metrics undo; or None.
    names: of the tags, for the metrics of entities, or None.

    A call takes hypers: those of `config.hypers`, possibly traced, and optionally any other argument of a
    factory, which replaces that of the config: a number such as {"model.dropout": 0.1}, or a static value
    such as {"model.widths": (64, 32, 10)}. step: at which to read the schedules of single numbers.
    """

    parts: tuple[TableCall, ...]
    target: FrozenDict | None = None
    names: tuple[str, ...] | None = None

    def __call__(self, hypers: Mapping[str, Any], step: Any = 0) -> Any:
        self._check(hypers)
        results: dict[str, Any] = {}
        augments = []
        for part in sorted(self.parts, key=lambda part: _ORDER.get(part.table, 0)):
            values = self._arguments(part, hypers, step)
            factory = factories(part.table)[part.name]
            if part.table == "augment":
                augments.append(factory(**values))
            elif part.table == "objective" and "augment" in get_schema("objective", part.name).python_only:
                results["objective"] = factory(_chain(augments), **values)
                augments = []
            elif part.table in WRAPPERS:
                results["optimizer"] = factory(results["optimizer"], **values)
            else:
                if part.table == "optimizer" and "schedule" in results:
                    values["learning_rate"] = results["schedule"]
                results[part.table] = factory(**values)
        if self.target is not None:
            from nnfunc.training.objectives.target_units import in_target_units

            results["objective"] = in_target_units(results["objective"], _fill_slots(self.target, hypers, step))
        objective = results["objective"]
        if self.names is not None and getattr(objective, "output_type", "") == "tags":
            results["objective"] = replace(objective, names=self.names)
        return _make_task(results, augments)

    def _arguments(self, part: TableCall, hypers: Mapping[str, Any], step: Any) -> dict[str, Any]:
        """The arguments of a factory, with the numbers of the hypers."""
        types = get_schema(part.table, part.name).types
        replaced = {k: lists_to_tuples(hypers[f"{part.path}.{k}"]) for k in types if f"{part.path}.{k}" in hypers}
        return {k: _fill_slots(v, hypers, step) for k, v in part.arguments if k not in replaced} | replaced

    def _check(self, hypers: Mapping[str, Any]) -> None:
        """Check that the hypers have each number that has a slot, and only arguments of the factories."""
        needed, known = {}, {}
        for part in self.parts:
            known |= dict.fromkeys(f"{part.path}.{k}" for k in get_schema(part.table, part.name).types)
            needed |= {key: f"{part.path}.{k}" for k, v in part.arguments for key in _slot_keys(v)}
        if any(part.table == "schedule" for part in self.parts):
            known.pop("optimizer.learning_rate", None)
        known |= needed
        for key in hypers:
            if key not in known:
                hint = check.nearest(key, known).removeprefix("; ")
                check.fail("build", expected="hypers should be arguments of the config", actual=repr(key), hint=hint)
        missing = [key for key, argument in needed.items() if not {key, argument} & set(hypers)]
        if missing:
            expected = f"hypers should have {', '.join(map(repr, missing))}"
            hint = "Start from all numbers of the config: config.hypers | {...}."
            check.fail("build", expected=expected, actual=", ".join(map(repr, hypers)) or "none", hint=hint)


def _make_task(results: Mapping[str, Any], augments: list[Any]) -> Any:
    """The Task of the results of the factories by table, and of the augmentations."""
    from nnfunc.training.task import Task

    model, options = results["model"], results.get("task")
    extra: dict[str, Any] = {key: results.get(key) for key in ("average", "plateau")}
    if options is not None:
        model = options.model(model)
        extra |= {"accumulate": options.accumulate, "sharpness": options.sharpness, "metrics": options.metrics}
    for table in ("start", "lora"):  # outermost, for its report and for merge_lora; there is one of the two
        model = results[table].model(model) if table in results else model
    extra["augment"] = _chain(augments)
    return Task(model, results["objective"], results["optimizer"], **extra)


def _chain(augments: list[Any]) -> Any:
    """The augmentations as one, None without any."""
    from nnfunc.data.augment import chain

    return chain(*augments) if len(augments) > 1 else next(iter(augments), None)


_ORDER = {"schedule": -1, "objective": 0.5} | {name: 1 + i for i, name in enumerate(WRAPPERS)}
"""The order of the calls: the schedule, all other factories (0), the objective, then the optimizer's wrappers."""


def is_schedule(value: Any) -> bool:
    """Whether `value` is a table { schedule = "linear", ... }, which replaces a number.

    A table by pattern may have the pattern "schedule" too, but its value is a number or a table.
    """
    return isinstance(value, Mapping) and isinstance(value.get("schedule"), str)


def map_schedules(value: Any, function: Callable[[str, Any], Any], key: str = "") -> Any:
    """The value, with `function(key, schedule)` for each schedule in it.

    value: of a table, as TOML has it.
    key: the dotted key of the value.
    """
    if is_schedule(value):
        return function(key, value)
    if isinstance(value, Mapping):
        return {k: map_schedules(item, function, f"{key}[{k}]") for k, item in value.items()}
    if isinstance(value, list):
        return [map_schedules(item, function, f"{key}[{i}]") for i, item in enumerate(value)]
    return value


def find_schedules(key: str, value: Any) -> list[str]:
    """The dotted keys of the schedules in `value`, whose dotted key is `key`.

    >>> find_schedules("rates", {"head/*": {"schedule": "cosine", "start": 1.0}, "stem/*": 0.1})
    ['rates[head/*]']
    """
    keys: list[str] = []
    map_schedules(value, lambda key, schedule: keys.append(key), key)
    return keys


def insert_slots(key: str, value: Any, numbers: dict[str, float] | None) -> Any:
    """The value as a hashable one, with a slot for each number that may be traced.

    key: the dotted key of the value.
    numbers: takes the numbers, by the keys of their slots; None for the value of a static argument, which has no
        slots.
    """
    if isinstance(value, list):
        return tuple(insert_slots(f"{key}[{i}]", item, numbers) for i, item in enumerate(value))
    if numbers is not None and is_schedule(value):
        types = get_schema("schedule", value["schedule"]).types
        arguments = [
            (k, insert_slots(f"{key}.{k}", v, numbers if types[k].traced else None))
            for k, v in value.items()
            if k in types
        ]
        return ScheduleCall(value["schedule"], FrozenDict(tuple(arguments)))
    if isinstance(value, Mapping):
        return FrozenDict(tuple((k, insert_slots(f"{key}[{k}]", v, numbers)) for k, v in value.items()))
    if numbers is None or not check.is_plain(value):
        return value
    numbers[key] = float(value)
    return Slot(key)


def _fill_slots(value: Any, hypers: Mapping[str, Any], step: Any) -> Any:
    if isinstance(value, Slot):
        return hypers[value.key]
    if isinstance(value, FrozenDict):
        return {name: _fill_slots(item, hypers, step) for name, item in value.items}
    if isinstance(value, ScheduleCall):
        return factories("schedule")[value.name](**_fill_slots(value.arguments, hypers, step))(step)
    if isinstance(value, tuple):
        return tuple(_fill_slots(item, hypers, step) for item in value)
    return value


def _slot_keys(value: Any) -> list[str]:
    if isinstance(value, Slot):
        return [value.key]
    if isinstance(value, ScheduleCall):
        return _slot_keys(value.arguments)
    items = [item for _, item in value.items] if isinstance(value, FrozenDict) else value
    return [key for item in items for key in _slot_keys(item)] if isinstance(items, tuple | list) else []


def lists_to_tuples(value: Any) -> Any:
    """The `value` with its lists as tuples, also inside tables."""
    if isinstance(value, Mapping):
        return {key: lists_to_tuples(item) for key, item in value.items()}
    return tuple(map(lists_to_tuples, value)) if isinstance(value, list | tuple) else value
