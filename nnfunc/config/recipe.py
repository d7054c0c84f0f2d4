"""The build of a config: what stays the same, with a slot for each number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnfunc import check
from nnfunc.config.schema import factories, schema

__all__ = ["Recipe", "Slot", "numbers", "slots", "tuples"]


@dataclass(frozen=True)
class Slot:
    """The place of a number: it is taken from the hypers."""

    key: str


@dataclass(frozen=True)
class Recipe:
    """hypers -> Task, from the factories' names and arguments; the numbers come from hypers.

    parts: (table, name, ((argument, value with slots), ...)) for each table. hypers: all of
    `config.hypers`, possibly traced. Any other argument of the factories may be given too, such as
    {"model.dropout": 0.1} or, static, {"model.widths": (64, 32, 10)}; it goes before the config's.
    """

    parts: tuple[tuple[str, str, tuple[tuple[str, Any], ...]], ...]

    def __call__(self, hypers: Mapping[str, Any]) -> Any:
        from nnfunc.training.task import Task

        self._check(hypers)
        made: dict[str, Any] = {}
        for table, name, slots in reversed(self.parts):  # the schedule before the optimizer
            values = {k: _fill(v, hypers) for k, v in slots if f"{table}.{k}" not in hypers}
            others = [k for k in schema(table, name).kinds if f"{table}.{k}" in hypers]
            values |= {k: tuples(hypers[f"{table}.{k}"]) for k in others}
            if table == "optimizer" and "schedule" in made:
                values["rate"] = made["schedule"]
            made[table] = factories(table)[name](**values)
        return Task(made["model"], made["objective"], made["optimizer"])

    def _check(self, hypers: Mapping[str, Any]) -> None:
        """The hypers hold each number that has a slot, and nothing that no factory takes."""
        needed, known = {}, {}
        for table, name, slots in self.parts:
            known |= dict.fromkeys(f"{table}.{argument}" for argument in schema(table, name).kinds)
            needed |= {key: f"{table}.{k}" for k, value in slots for key in _keys(value)}
        if any(table == "schedule" for table, _, _ in self.parts):
            known.pop("optimizer.rate", None)
        known |= needed
        for key in hypers:
            if key not in known:
                check.fail("build", f"hypers have no {key!r}{check.nearest(key, known)}")
        missing = [key for key, whole in needed.items() if not {key, whole} & set(hypers)]
        if missing:
            cure = "Begin with the config's own: config.hypers | {...}."
            check.fail("build", f"hypers should hold {', '.join(map(repr, missing))}. {cure}")


def slots(key: str, value: Any, traced: bool) -> Any:
    """The value, its lists as tuples, each number that may be traced as a slot."""
    if isinstance(value, list):
        return tuple(slots(f"{key}[{i}]", item, traced) for i, item in enumerate(value))
    return Slot(key) if traced and check.is_plain(value) else value


def _fill(value: Any, hypers: Mapping[str, Any]) -> Any:
    if isinstance(value, Slot):
        return hypers[value.key]
    return tuple(_fill(item, hypers) for item in value) if isinstance(value, tuple) else value


def _keys(value: Any) -> list[str]:
    if isinstance(value, Slot):
        return [value.key]
    return [key for item in value for key in _keys(item)] if isinstance(value, tuple) else []


def numbers(key: str, value: Any) -> dict[str, float]:
    """The numbers of a value by the keys of their slots."""
    if isinstance(value, list):
        items = [numbers(f"{key}[{i}]", item) for i, item in enumerate(value)]
        return {key: number for item in items for key, number in item.items()}
    return {key: float(value)} if check.is_plain(value) else {}


def tuples(value: Any) -> Any:
    """The lists of a value as tuples."""
    return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value
