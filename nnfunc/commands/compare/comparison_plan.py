"""What a comparison trains: every model under every variant with every seed."""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nnfunc import check, flops
from nnfunc.base import as_model
from nnfunc.config import Config, ConfigError
from nnfunc.config.data_records import DataRecords
from nnfunc.config.errors import to_one_line
from nnfunc.config.load import read_tables, resolve
from nnfunc.runs.run_folder import command
from nnfunc.training.evaluate import batch_totals

__all__ = ["Plan", "Run", "Size", "load"]

Table = dict[str, Any]
PLAIN = "as it is"


class _File(BaseModel):
    """What the file of a comparison holds."""

    model_config = ConfigDict(extra="forbid", strict=True)
    every: Table
    models: Annotated[dict[str, Table], Field(min_length=2)]
    variants: dict[str, Table] = {}
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = [0, 1, 2]
    target: dict[str, int | float] = {}
    parameters_within: Annotated[float, Field(gt=0)] = 0.05


class Run(NamedTuple):
    """One training: which model, in which variant, with which seed."""

    model: str
    variant: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """The name of its folder."""
        return "-".join(filter(None, (self.model, self.variant, str(self.seed))))


class Size(NamedTuple):
    """How large a model is. flops: of the forward pass of one example."""

    parameters: int
    flops: int


class Plan(NamedTuple):
    """A comparison that was checked. target: (metric, value) of the validation examples, or None."""

    runs: list[Run]
    models: list[str]
    variants: list[str]
    target: tuple[str, float] | None
    sizes: dict[str, Size]
    tables: Table


def load(
    path: str | Path, settings: list[str] | None = None, folder: Path | None = None, *, changed_data: bool = False
) -> Plan:
    """The checked plan of a file such as configs/compare_mnist.toml, after overrides.

    The file holds `seeds`, `target = { accuracy = 0.97 }`, and the tables of a config, which are
    merged for each run: those of [every], then of [models.NAME], then of [variants.NAME].
    folder: of the same comparison, stopped half-way: its data is to be what it was, unless
    changed_data.
    Raises: ConfigError with every mistake, or when the models' numbers of parameters lie further
    apart than `parameters_within`.
    """
    path = Path(path)
    tables = read_tables(path, settings or [])
    if "model" in tables and not {"every", "models"} & set(tables):
        cure = f"Train it with: {command()} train {path}"
        raise ConfigError([f"{path}: this is the config of one run, not a comparison. {cure}"])
    try:
        file = _File.model_validate(tables)
    except ValidationError as error:
        raise ConfigError([_line(path, e, tables) for e in error.errors()]) from error
    _check(path, file)
    variants = file.variants or {PLAIN: {}}
    records = None
    if folder is not None and (folder / "data").is_dir():
        records = DataRecords(folder.absolute(), per_data_set=True, changed_data=changed_data)
    known = {"folders": (path.absolute().parent, Path.cwd()), "data_cache": {}, "records": records}
    runs, mistakes = [], []
    for model, variant, seed in itertools.product(file.models, variants, file.seeds):
        parts = (file.every, file.models[model], variants[variant], {"seed": seed})
        where = f"{path}: {model}" + (f" ({variant})" if file.variants else "")
        try:
            config = resolve(_merged(*parts), where=where, **known)
        except ConfigError as error:
            mistakes += [line for line in error.problems if line not in mistakes]
        else:
            runs.append(Run(model, variant if file.variants else "", seed, config))
    if mistakes:
        raise ConfigError(mistakes)
    sizes = {run.model: run.config for run in reversed(runs)}
    sizes = {model: _size(sizes[model]) for model in file.models}
    _alike(path, sizes, file.parameters_within)
    target = next(iter(file.target.items()), None)
    if target is not None:
        _check_target(path, *target, runs[0].config)
    names = list(file.variants) or [""]
    return Plan(runs, list(file.models), names, target, sizes, tables)


def _line(path: Path, error: Any, tables: Table) -> str:
    place = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        known = check.nearest(place, _File.model_fields)
        cure = " Tables that all models share stand in [every]." if place in _SHARED else ""
        return f"{path}: {place}: there is no such key{known}{cure}"
    return f"{path}: {place}: {to_one_line(ValueError(error['msg'].lower()))}"


_SHARED = ("data", "model", "objective", "optimizer", "schedule", "train", "seed")


def _check(path: Path, file: _File) -> None:
    problems = []
    if len(set(file.seeds)) < len(file.seeds):
        problems.append(f"{path}: seeds: each should stand once, got {file.seeds}.")
    if len(file.target) > 1:
        problems.append(f"{path}: target: should be one figure, got {sorted(file.target)}.")
    for name in (*file.models, *file.variants):
        if not name.replace("_", "").isalnum():
            wanted = "a name of letters, digits and _"
            problems.append(f"{path}: a model or variant should have {wanted}, got {name!r}.")
    if problems:
        raise ConfigError(problems)


def _merged(*parts: Mapping[str, Any]) -> Table:
    """The tables one over another; a table that names another factory replaces the whole."""
    merged: Table = {}
    for part in parts:
        for key, value in part.items():
            before = merged.get(key)
            if isinstance(value, Mapping) and isinstance(before, Mapping):
                same = value.get("name", before.get("name")) == before.get("name")
                value = {**before, **value} if same else value
            merged[key] = value
    return merged


def _size(config: Config) -> Size:
    data, model = config.data(), as_model(config.build(config.hypers).model)
    params = jax.eval_shape(model.init, config.key())
    x, _ = jax.eval_shape(lambda: data.batch(0))
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), x)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    return Size(count, flops.count(model.apply, params, one))


def _check_target(path: Path, metric: str, value: float, config: Config) -> None:
    """The target is a figure of the objective, found by following the shapes of one batch."""
    task, data = config.build(config.hypers), config.data()

    def figures(key: Any) -> Any:
        model = as_model(task.model)
        return batch_totals(task, model.init(key), model.init_state(), data.batch(0))

    known = jax.eval_shape(figures, config.key())
    if metric not in known:
        hint = check.nearest(metric, [*known])
        wanted = "should name a validation figure"
        raise ConfigError([f"{path}: target: {wanted}, got {metric!r}{hint}"])
    if metric == "accuracy" and not 0 <= value <= 1:
        raise ConfigError([f"{path}: target: accuracy should be from 0 to 1, got {value:g}."])


def _alike(path: Path, sizes: dict[str, Size], within: float) -> None:
    counts = {name: size.parameters for name, size in sizes.items()}
    most, least = max(counts.values()), min(counts.values())
    if most > least * (1 + within):
        got = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        cure = "Change a width, or parameters_within."
        wanted = f"the models should have equal numbers of parameters, within {within:.0%}"
        raise ConfigError([f"{path}: {wanted}, got {got}. {cure}"])
