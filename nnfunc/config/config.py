"""A config that was checked, and what it gives a run."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from nnfunc.base import Key, PyTree
from nnfunc.config.build import Recipe, TableCall, collect_numbers, insert_slots, is_schedule
from nnfunc.config.data_records import DataRecords
from nnfunc.config.errors import ConfigError, to_one_line
from nnfunc.config.file_paths import last_saved
from nnfunc.config.schema import FIXED_FACTORIES, TASK_TABLES, factories, get_schema

__all__ = ["Config"]


@dataclass(frozen=True)
class Config:
    """A config that was checked: what `load` and `resolve` return. Equal when the tables are.

    tables: seed and the tables, with every default that TOML can express. What follows from
    something else (`schedule.total_steps` from `train.steps`, `data.seed` from `seed`) is there
    only when given. where: what errors call it. shelf: the data sets that were loaded, by their
    tables; configs that share it share them. records: what the runs of a folder learned from their
    data, for a config that is read from there.
    """

    tables: dict[str, Any]
    where: str = field(default="config", compare=False)
    data_cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    records: DataRecords | None = field(default=None, compare=False, repr=False)

    @cached_property
    def build(self) -> Recipe:
        """hypers -> Task. Configs that differ only in numbers have equal builds."""
        parts = []
        for path in self.table_paths:
            table, name, values = self.part(path)
            kinds = get_schema(table, name).types
            filled = [(k, insert_slots(f"{path}.{k}", v, kinds[k].traced)) for k, v in values.items()]
            if table == "lora":  # a base that is trained anew makes another build
                filled.append(("base_saved_at", last_saved(values["run"])))
            parts.append(TableCall(path, table, name, tuple(filled)))
        return Recipe(tuple(parts))

    @cached_property
    def hypers(self) -> dict[str, float]:
        """Every number of the task that may be traced, such as {"optimizer.weight_decay": 0.01}."""
        found: dict[str, float] = {}
        for path in self.table_paths:
            table, name, values = self.part(path)
            kinds = get_schema(table, name).types
            for key, value in values.items():
                found |= collect_numbers(f"{path}.{key}", value) if kinds[key].traced else {}
        return found

    @property
    def train(self) -> dict[str, Any]:
        """The arguments of `nf.train` that the file gives: steps, log_every, best and so on."""
        return dict(self.tables["train"])

    def data(self) -> Any:
        """The data set to train on, with its validation examples. Raises: ConfigError."""
        return self._data

    @cached_property
    def preprocessing(self) -> Any:
        """What was learned from the data: by the run that the config is of, or else just now.

        Raises: ConfigError. No data file is read where the run kept it.
        """
        return self._data.preprocessing if self._recorded is None else self._recorded

    @property
    def changed_data(self) -> bool:
        """Whether the run goes on though its data files are not what they were."""
        return self.records is not None and self.records.changed_data

    def test(self) -> PyTree | None:
        """The held-out test arrays, or None when the data has none. Raises: ConfigError."""
        return self._data.test

    @property
    def eval_batch_size(self) -> int:
        """How many examples an evaluation takes at once, as `eval_size` has it; data is not read."""
        size = self.tables["data"].get("batch_size", 1)
        accumulate = self.tables.get("task", {}).get("accumulate", 1)
        return self.train.get("eval_batch_size") or max(1, size // accumulate)

    def key(self) -> Key:
        """The run's random key, of `seed`."""
        return jax.random.key(self.tables["seed"])

    def dump(self, path: str | Path) -> None:
        """Write the tables as TOML: `load` of it equals this config."""
        Path(path).write_bytes(self.text.encode())

    @property
    def text(self) -> str:
        """The tables as TOML."""
        return _toml(self.tables)

    @property
    def table_paths(self) -> list[str]:
        """The tables that make the task, such as "model" or "augment.shift"."""
        found = [table for table in TASK_TABLES if table in self.tables]
        inner = [f"augment.{name}" for name in self.tables.get("augment", ())]
        return [path for table in found for path in (inner if table == "augment" else [table])]

    def part(self, path: str) -> tuple[str, str, dict[str, Any]]:
        """A table as (kind, factory's name, arguments), with what follows from elsewhere put in."""
        table, _, name = path.partition(".")
        values = dict(self.tables[table][name] if name else self.tables[table])
        name = name or FIXED_FACTORIES.get(table) or values.pop("name")
        steps = {"total_steps": self.tables["train"]["steps"]}
        kinds = get_schema(table, name).types
        if table == "lora" and self.records is not None:
            values["run"] = self.records.base_of(values["run"])
        if table == "data":
            values = {"seed": self.tables["seed"]} | values
        if table == "schedule" and "total_steps" in kinds:
            values = steps | values
        if table == "augment" and "classes" in kinds and "classes" not in values:
            values["classes"] = self._classes
        if table == "augment" and "fill" in kinds and "fill" not in values and name != "cutout":
            values["fill"] = self._background
        if table == "augment" and "shape" in kinds and "shape" not in values:
            shape = self.preprocessing.image_shape
            values |= {} if shape is None else {"shape": list(shape)}
        if table == "objective" and "gamma" in values and values.get("label_smoothing") == 0:
            del values["label_smoothing"]  # none: as a hyper it would be traced, and might be any
        values = {k: _ending(v, steps) if kinds[k].traced else v for k, v in values.items()}
        return table, name, values

    @property
    def _classes(self) -> int:
        """Of the data set."""
        classes = self.preprocessing.classes
        if classes is None:
            wanted = "the data set has no classes, which labels could be mixed of"
            raise ConfigError([f"{self.where}: augment: {wanted}. Leave mixup and cutmix out."])
        return classes

    @property
    def _background(self) -> float | list[float]:
        """What a pixel of 0 has become in a batch."""
        return self.preprocessing.background

    @cached_property
    def _data(self) -> Any:
        _, name, values = self.part("data")
        place = repr((name, sorted(values.items())))
        if place not in self.data_cache:
            self.data_cache[place] = self._loaded(name, values)
        size = self.tables.get("train", {}).get("eval_batch_size")
        if size is None:
            return self.data_cache[place]
        sized = f"{place} {size}"
        return self.data_cache.setdefault(sized, replace(self.data_cache[place], eval_batch_size=size))

    @cached_property
    def _recorded(self) -> Any:
        """What the run learned when it was trained, or None."""
        return None if self.records is None else self.records.load(*self.part("data")[1:])

    def _loaded(self, name: str, values: dict[str, Any]) -> Any:
        then, records = self._recorded, self.records
        try:
            data = factories("data")[name](**values, preprocessing=then)
        except (ValueError, TypeError, ImportError, OSError) as error:
            problem = to_one_line(error).removeprefix("data.arrays: ").removeprefix(f"data.{name}: ")
            raise ConfigError([f"{self.where}: data: {problem}"]) from error
        if records is not None and then is not None:
            records.check(self.where, then, data.preprocessing)
        elif records is not None and records.per_data_set:
            records.save(name, values, data.preprocessing)
        return data


def _ending(value: Any, steps: dict[str, int]) -> Any:
    """The value, each schedule in it that has an end but gives none with that of the run."""
    if is_schedule(value):
        return steps | value if "total_steps" in get_schema("schedule", value["schedule"]).types else value
    if isinstance(value, dict):
        return {key: _ending(item, steps) for key, item in value.items()}
    return [_ending(item, steps) for item in value] if isinstance(value, list) else value


def _toml(tables: dict[str, Any]) -> str:
    """The tables as sections, what is inside them in line: the order of patterns stays as it is."""
    import tomli_w

    def inline(key: str, value: Any) -> str:
        if not isinstance(value, dict):
            return tomli_w.dumps({key: value}).rstrip("\n")
        name = tomli_w.dumps({key: 0}).removesuffix(" = 0\n")
        inner = ", ".join(inline(k, v) for k, v in value.items())
        return f"{name} = {{ {inner} }}" if inner else f"{name} = {{}}"

    plain = {key: value for key, value in tables.items() if not isinstance(value, dict)}
    text = tomli_w.dumps(plain)
    for table, values in tables.items():
        if isinstance(values, dict):
            text += "\n".join(["", f"[{table}]", *(inline(*item) for item in values.items()), ""])
    return text
