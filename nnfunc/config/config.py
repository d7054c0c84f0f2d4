"""A config that was checked, and what it gives a run."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from nnfunc.base import Key, PyTree
from nnfunc.config.mistakes import ConfigError, one_line
from nnfunc.config.recipe import Recipe, numbers, slots
from nnfunc.config.schema import TASK, factories, schema

__all__ = ["Config"]


@dataclass(frozen=True)
class Config:
    """A config that was checked: what `load` and `resolve` return. Equal when the tables are.

    tables: seed and the tables, with every default that TOML can express. What follows from
    something else (`schedule.total_steps` from `train.steps`, `data.seed` from `seed`) is there
    only when given. where: what errors call it.
    """

    tables: dict[str, Any]
    where: str = field(default="config", compare=False)

    @cached_property
    def build(self) -> Recipe:
        """hypers -> Task. Configs that differ only in numbers have equal builds."""
        parts = []
        for table in self._task:
            name, values = self.part(table)
            kinds = schema(table, name).kinds
            filled = [(k, slots(f"{table}.{k}", v, kinds[k].traced)) for k, v in values.items()]
            parts.append((table, name, tuple(filled)))
        return Recipe(tuple(parts))

    @cached_property
    def hypers(self) -> dict[str, float]:
        """Every number of the task that may be traced, such as {"optimizer.weight_decay": 0.01}."""
        found: dict[str, float] = {}
        for table in self._task:
            name, values = self.part(table)
            kinds = schema(table, name).kinds
            for key, value in values.items():
                found |= numbers(f"{table}.{key}", value) if kinds[key].traced else {}
        return found

    @property
    def train(self) -> dict[str, Any]:
        """The arguments of `nf.train` that the file gives: steps, log_every, best and so on."""
        return dict(self.tables["train"])

    def data(self) -> Any:
        """The data set to train on, with its validation examples. Raises: ConfigError."""
        return self._data

    def test(self) -> PyTree | None:
        """The held-out test arrays, or None when the data has none. Raises: ConfigError."""
        return self._data.test

    def key(self) -> Key:
        """The run's random key, of `seed`."""
        return jax.random.key(self.tables["seed"])

    def dump(self, path: str | Path) -> None:
        """Write the tables as TOML: `load` of it equals this config."""
        import tomli_w

        Path(path).write_bytes(tomli_w.dumps(self.tables).encode())

    def part(self, table: str) -> tuple[str, dict[str, Any]]:
        """A table as a factory's name and arguments, with what follows from elsewhere put in."""
        values = dict(self.tables[table])
        name = values.pop("name")
        if table == "data":
            values = {"seed": self.tables["seed"]} | values
        if table == "schedule" and "total_steps" in schema(table, name).kinds:
            values = {"total_steps": self.tables["train"]["steps"]} | values
        return name, values

    @property
    def _task(self) -> list[str]:
        return [table for table in TASK if table in self.tables]

    @cached_property
    def _data(self) -> Any:
        name, values = self.part("data")
        try:
            return factories("data")[name](**values)
        except (ValueError, TypeError, ImportError, OSError) as error:
            problem = one_line(error).removeprefix("data.arrays: ").removeprefix(f"data.{name}: ")
            raise ConfigError([f"{self.where}: data: {problem}"]) from error
