"""A checked config, and what a run needs of it."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax

from nnfunc.base import Key, PyTree
from nnfunc.config.build import Recipe, TableCall, insert_slots, map_schedules
from nnfunc.config.config_errors import ConfigError, Problem, error_parts, fail, to_one_line
from nnfunc.config.data_records import DataRecords
from nnfunc.config.file_paths import last_saved
from nnfunc.config.schema import FIXED_FACTORIES, MESH_TABLES, RUN_TABLES, TASK_TABLES, factories, get_schema


@dataclass(frozen=True)
class Config:
    """A checked config, as `load` and `resolve` return it. Two are equal when their tables are.

    tables: seed and the tables, with every default that TOML can express. A value that follows from another one
        (`schedule.total_steps` from `train.steps`, `data.seed` from `seed`) is in it only when it was written.
    where: the name of the config in errors.
    data_cache: the loaded data sets by their tables; several configs may share it.
    records: what a run saved of its data, for the config of a run's folder.
    """

    tables: dict[str, Any]
    where: str = field(default="config", compare=False)
    data_cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    records: DataRecords | None = field(default=None, compare=False, repr=False)

    @property
    def build(self) -> Recipe:
        """The function (hypers, step) -> Task. Configs that differ only in numbers have equal builds."""
        return self._build_and_hypers[0]

    @property
    def hypers(self) -> dict[str, float]:
        """Every number of the task that may be traced, such as {"optimizer.weight_decay": 0.01}."""
        return self._build_and_hypers[1]

    @cached_property
    def _build_and_hypers(self) -> tuple[Recipe, dict[str, float]]:
        parts, hypers = [], {}
        for path in self.table_paths:
            table, name, values = self.part(path)
            types = get_schema(table, name).types
            arguments = [
                (k, insert_slots(f"{path}.{k}", v, hypers if types[k].traced else None)) for k, v in values.items()
            ]
            if table in RUN_TABLES and "run" in values:  # a base that was trained again needs another build
                arguments.append(("base_saved_at", last_saved(values["run"])))
            parts.append(TableCall(path, table, name, tuple(arguments)))
        scales = self.tables["data"].get("scale_target") or self.tables["data"].get("log_target")
        target = self.preprocessing.facts.get("target") if scales else None
        of_entities = any(name.startswith("entity_") for name in self.tables.get("task", {}).get("metrics", ()))
        names = self.preprocessing.names if of_entities else None
        return Recipe(tuple(parts), None if target is None else insert_slots("target", target, None), names), hypers

    @property
    def train(self) -> dict[str, Any]:
        """The arguments of `nf.train` in the file: steps, log_every, best and so on."""
        return dict(self.tables["train"])

    @property
    def mesh(self) -> dict[str, Any]:
        """The arguments of `nf.train` for a mesh of devices, mesh and shard; {} without one."""
        return {table: self.tables[table] for table in MESH_TABLES if table in self.tables}

    def data(self) -> Any:
        """The data set to train on, with its validation examples. Raises: ConfigError."""
        return self._data

    @cached_property
    def preprocessing(self) -> Any:
        """What was computed from the training data, such as classes and means.

        It is read from the run's folder if it was saved there, and otherwise computed from the data files.
        Raises: ConfigError.
        """
        return self._data.preprocessing if self._recorded is None else self._recorded

    @property
    def changed_data(self) -> bool:
        """Whether the run may continue on data files that changed since it began."""
        return self.records is not None and self.records.changed_data

    def test(self) -> PyTree | None:
        """The held-out test arrays, or None when the data has none. Raises: ConfigError."""
        return self._data.test

    @property
    def eval_batch_size(self) -> int:
        """The number of examples in a batch of an evaluation, without reading the data."""
        size = self.tables["data"].get("batch_size", 1)
        accumulate = self.tables.get("task", {}).get("accumulate", 1)
        return self.train.get("eval_batch_size") or max(1, size // accumulate)

    def key(self) -> Key:
        """The run's random key, from `seed`."""
        return jax.random.key(self.tables["seed"])

    def dump(self, path: str | Path) -> None:
        """Write the tables to the file `path` as TOML, from which `load` reads an equal config."""
        Path(path).write_bytes(self.text.encode())

    @property
    def text(self) -> str:
        """The tables as TOML."""
        return _toml(self.tables)

    @property
    def table_paths(self) -> list[str]:
        """The dotted keys of the tables of the task, such as "model" or "augment.shift"."""
        tables = [table for table in TASK_TABLES if table in self.tables]
        if self.records is not None and not self.records.needs_start:
            tables = [table for table in tables if table != "start"]
        inner = [f"augment.{name}" for name in self.tables.get("augment", ())]
        return [path for table in tables for path in (inner if table == "augment" else [table])]

    def part(self, path: str) -> tuple[str, str, dict[str, Any]]:
        """The table, the name of its factory, and its arguments, with those that follow from other tables.

        path: one of `table_paths`, or "data".
        """
        table, _, name = path.partition(".")
        values = dict(self.tables[table][name] if name else self.tables[table])
        name = name or FIXED_FACTORIES.get(table) or values.pop("name")
        end = {"total_steps": self.tables["train"]["steps"]}
        types = get_schema(table, name).types
        if table in RUN_TABLES and "run" in values and self.records is not None:
            values["run"] = self.records.base_of(values["run"], values.get("checkpoint", "best"))
        if table == "data":
            values = {"seed": self.tables["seed"]} | values
        if table == "schedule" and "total_steps" in types:
            values = end | values
        if table == "model" and "categories" in types and not {"numbers", "categories"} <= set(values):
            facts = self.preprocessing.facts
            values = {"numbers": math.prod(facts["shape"]), "categories": facts.get("categories", [])} | values
        if table == "augment" and "classes" in types and "classes" not in values:
            values["classes"] = self.preprocessing.classes
            if values["classes"] is None:
                hint = "Remove mixup and cutmix."
                fail(self.where, "augment", "the data set has no classes, so labels cannot be mixed", hint=hint)
        if table == "augment" and "fill" in types and "fill" not in values and name != "cutout":
            values["fill"] = self.preprocessing.background  # what a pixel of 0 is after normalization
        if table == "augment" and "shape" in types and "shape" not in values:
            shape = self.preprocessing.image_shape
            values |= {} if shape is None else {"shape": list(shape)}
        if table == "objective" and "gamma" in values and values.get("label_smoothing") == 0:
            del values["label_smoothing"]  # traced, it could not be checked to be 0, as gamma needs it

        def add_end(key: str, schedule: dict[str, Any]) -> dict[str, Any]:
            ends = "total_steps" in get_schema("schedule", schedule["schedule"]).types
            return end | schedule if ends else schedule

        return table, name, {k: map_schedules(v, add_end) if types[k].traced else v for k, v in values.items()}

    @cached_property
    def _data(self) -> Any:
        _, name, values = self.part("data")
        cache_key = repr((name, sorted(values.items())))
        if cache_key not in self.data_cache:
            self.data_cache[cache_key] = self._load_data(name, values)
        size = self.tables.get("train", {}).get("eval_batch_size")
        if size is None:
            return self.data_cache[cache_key]
        data = replace(self.data_cache[cache_key], eval_batch_size=size)
        return self.data_cache.setdefault(f"{cache_key} {size}", data)

    @cached_property
    def _recorded(self) -> Any:
        """What the run saved of its data when it was trained, or None."""
        return None if self.records is None else self.records.load(*self.part("data")[1:])

    def _load_data(self, name: str, values: dict[str, Any]) -> Any:
        recorded, records = self._recorded, self.records
        try:
            data = factories("data")[name](**values, preprocessing=recorded)
        except (ValueError, TypeError, ImportError, OSError) as error:
            text = to_one_line(error).removeprefix("data.arrays: ").removeprefix(f"data.{name}: ")
            raise ConfigError([Problem(text, self.where, "data", *error_parts(error))]) from error
        if records is not None and recorded is not None:
            records.check(self.where, recorded, data.preprocessing)
        elif records is not None and records.per_data_set:
            records.save(name, values, data.preprocessing)
        return data


def _toml(tables: dict[str, Any]) -> str:
    """The tables as TOML sections. Inner tables are inline, so that patterns keep their order."""
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
