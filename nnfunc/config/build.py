"""The build of a config: what stays the same, with a slot for each number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnfunc import check
from nnfunc.config.schema import WRAPPERS, factories, get_schema

__all__ = [
    "FrozenDict",
    "Recipe",
    "ScheduleCall",
    "Slot",
    "TableCall",
    "collect_numbers",
    "find_schedules",
    "insert_slots",
    "is_schedule",
    "lists_to_tuples",
]


@dataclass(frozen=True)
class Slot:
    """The place of a number: it is taken from the hypers."""

    key: str


@dataclass(frozen=True)
class FrozenDict:
    """A table of values by name."""

    items: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class ScheduleCall:
    """A number that follows a schedule over the steps."""

    name: str
    arguments: FrozenDict


@dataclass(frozen=True)
class TableCall:
    """A table: its place, the kind of thing that it makes, its factory, the arguments with slots."""

    path: str
    table: str
    name: str
    arguments: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Recipe:
    """(hypers, step) -> Task, from the factories' names and arguments; the numbers come from hypers.

    hypers: all of `config.hypers`, possibly traced. Any other argument of the factories may be given
    too, such as {"model.dropout": 0.1} or, static, {"model.widths": (64, 32, 10)}; it goes before the
    config's. step: where numbers that follow a schedule are in it.
    """

    parts: tuple[TableCall, ...]

    def __call__(self, hypers: Mapping[str, Any], step: Any = 0) -> Any:
        from nnfunc.training.task import Task

        self._check(hypers)
        made: dict[str, Any] = {}
        augments = []
        for part in sorted(self.parts, key=lambda part: _ORDER.get(part.table, 0)):
            values = self._values(part, hypers, step)
            first = ()
            if part.table == "optimizer" and "schedule" in made:
                values["learning_rate"] = made["schedule"]
            if part.table in WRAPPERS:
                first = (made["optimizer"],)
            result = factories(part.table)[part.name](*first, **values)
            if part.table == "augment":
                augments.append(result)
            else:
                made["optimizer" if first else part.table] = result
        return self._task(Task, made, augments)

    def _task(self, task: Any, made: dict[str, Any], augments: list[Any]) -> Any:
        """The task of what the tables made."""
        model = made["model"]
        more = {"average": made.get("average"), "plateau": made.get("plateau")}
        if "task" in made:
            model = made["task"].model(model)
            more |= {key: getattr(made["task"], key) for key in ("accumulate", "sharpness")}
        model = made["lora"].model(model) if "lora" in made else model  # outermost, for merge_lora
        if augments:
            from nnfunc.data.augment import chain

            more["augment"] = augments[0] if len(augments) == 1 else chain(*augments)
        return task(model, made["objective"], made["optimizer"], **more)

    def _values(self, part: TableCall, hypers: Mapping[str, Any], step: Any) -> dict[str, Any]:
        given = dict(part.arguments)
        kept = {k: v for k, v in given.items() if f"{part.path}.{k}" not in hypers}
        values = {k: _fill(v, hypers, step) for k, v in kept.items()}
        others = [k for k in get_schema(part.table, part.name).types if f"{part.path}.{k}" in hypers]
        return values | {k: lists_to_tuples(hypers[f"{part.path}.{k}"]) for k in others}

    def _check(self, hypers: Mapping[str, Any]) -> None:
        """The hypers hold each number that has a slot, and nothing that no factory takes."""
        needed, known = {}, {}
        for part in self.parts:
            known |= dict.fromkeys(f"{part.path}.{k}" for k in get_schema(part.table, part.name).types)
            needed |= {key: f"{part.path}.{k}" for k, v in part.arguments for key in _keys(v)}
        if any(part.table == "schedule" for part in self.parts):
            known.pop("optimizer.learning_rate", None)
        known |= needed
        for key in hypers:
            if key not in known:
                check.fail("build", f"hypers have no {key!r}{check.nearest(key, known)}")
        missing = [key for key, whole in needed.items() if not {key, whole} & set(hypers)]
        if missing:
            cure = "Begin with the config's own: config.hypers | {...}."
            check.fail("build", f"hypers should hold {', '.join(map(repr, missing))}. {cure}")


_ORDER = {"schedule": -1} | {name: 1 + place for place, name in enumerate(WRAPPERS)}
"""What is made before what: the schedule, everything else, the wrappers of the optimizer."""


def is_schedule(value: Any) -> bool:
    """Whether a value is a schedule in the place of a number: { schedule = "linear", ... }.

    A table by pattern may have a number, or again a schedule, for the pattern "schedule".
    """
    return isinstance(value, Mapping) and isinstance(value.get("schedule"), str)


def find_schedules(key: str, value: Any) -> list[str]:
    """The places of the schedules in a value, which is that of `key`.

    >>> find_schedules("rates", {"head/*": {"schedule": "cosine", "start": 1.0}, "stem/*": 0.1})
    ['rates[head/*]']
    """
    if is_schedule(value):
        return [key]
    if isinstance(value, Mapping):
        return [place for k, item in value.items() for place in find_schedules(f"{key}[{k}]", item)]
    items = enumerate(value) if isinstance(value, list) else ()
    return [place for i, item in items for place in find_schedules(f"{key}[{i}]", item)]


def insert_slots(key: str, value: Any, traced: bool) -> Any:
    """The value, its lists as tuples, each number that may be traced as a slot."""
    if isinstance(value, list):
        return tuple(insert_slots(f"{key}[{i}]", item, traced) for i, item in enumerate(value))
    if traced and is_schedule(value):
        name = value["schedule"]
        kinds = get_schema("schedule", name).types
        inner = [(k, insert_slots(f"{key}.{k}", v, kinds[k].traced)) for k, v in value.items() if k in kinds]
        return ScheduleCall(name, FrozenDict(tuple(inner)))
    if isinstance(value, Mapping):
        return FrozenDict(tuple((k, insert_slots(f"{key}[{k}]", v, traced)) for k, v in value.items()))
    return Slot(key) if traced and check.is_plain(value) else value


def _fill(value: Any, hypers: Mapping[str, Any], step: Any) -> Any:
    if isinstance(value, Slot):
        return hypers[value.key]
    if isinstance(value, FrozenDict):
        return {name: _fill(item, hypers, step) for name, item in value.items}
    if isinstance(value, ScheduleCall):
        return factories("schedule")[value.name](**_fill(value.arguments, hypers, step))(step)
    if isinstance(value, tuple):
        return tuple(_fill(item, hypers, step) for item in value)
    return value


def _keys(value: Any) -> list[str]:
    if isinstance(value, Slot):
        return [value.key]
    if isinstance(value, ScheduleCall):
        return _keys(value.arguments)
    items = [item for _, item in value.items] if isinstance(value, FrozenDict) else value
    return [key for item in items for key in _keys(item)] if isinstance(items, list | tuple) else []


def collect_numbers(key: str, value: Any) -> dict[str, float]:
    """The numbers of a value by the keys of their slots."""
    if isinstance(value, list):
        found = [collect_numbers(f"{key}[{i}]", item) for i, item in enumerate(value)]
    elif is_schedule(value):
        kinds = get_schema("schedule", value["schedule"]).types
        found = [collect_numbers(f"{key}.{k}", v) for k, v in value.items() if k in kinds and kinds[k].traced]
    elif isinstance(value, Mapping):
        found = [collect_numbers(f"{key}[{k}]", item) for k, item in value.items()]
    else:
        return {key: float(value)} if check.is_plain(value) else {}
    return {key: number for item in found for key, number in item.items()}


def lists_to_tuples(value: Any) -> Any:
    """The lists of a value as tuples, within tables too."""
    if isinstance(value, Mapping):
        return {key: lists_to_tuples(item) for key, item in value.items()}
    return tuple(map(lists_to_tuples, value)) if isinstance(value, list | tuple) else value
