"""The plan of a comparison: every model in every variant with every seed."""

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
from nnfunc.config.config_errors import to_one_line
from nnfunc.config.data_records import DataRecords
from nnfunc.config.load import resolve
from nnfunc.config.toml import read_tables
from nnfunc.runs.run_folder import program_name
from nnfunc.training.evaluate import batch_totals

__all__ = ["ComparisonPlan", "ModelSize", "PlannedRun", "load_plan"]

Table = dict[str, Any]
RUN_TABLES = ("data", "model", "objective", "optimizer", "schedule", "train", "seed")


class _File(BaseModel):
    """The schema of a comparison's file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    every: Table
    models: Annotated[dict[str, Table], Field(min_length=2)]
    variants: dict[str, Table] = {}
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)] = [0, 1, 2]
    target: dict[str, int | float] = {}
    parameters_within: Annotated[float, Field(gt=0)] = 0.05


class PlannedRun(NamedTuple):
    """One training of a comparison. model, seed: of the file. variant: "" without variants. config: resolved."""

    model: str
    variant: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return "-".join(filter(None, (self.model, self.variant, str(self.seed))))


class ModelSize(NamedTuple):
    """The size of a model. parameters: their number. flops: of the forward pass of one example."""

    parameters: int
    flops: int


class ComparisonPlan(NamedTuple):
    """A checked comparison.

    runs: in the order of training. models: their names. variants: [""] when the file has none. target:
    (metric, value) of the validation examples, or None.
    sizes: by model. tables: the file's, after overrides.
    """

    runs: list[PlannedRun]
    models: list[str]
    variants: list[str]
    target: tuple[str, float] | None
    sizes: dict[str, ModelSize]
    tables: Table


def load_plan(
    path: str | Path, settings: list[str] | None = None, folder: Path | None = None, *, changed_data: bool = False
) -> ComparisonPlan:
    """The checked plan of a file such as configs/compare_mnist.toml.

    The file has `seeds`, `target = { accuracy = 0.97 }` and the tables of a config, which are merged for
    each run: those of [every], then of [models.NAME], then of [variants.NAME].
    path: of the file. settings: overrides such as "seeds=[0]". folder: of the same comparison when it
    resumes; its data must not have changed, unless changed_data.
    Raises: ConfigError with every mistake, or when the numbers of parameters differ by more than
    `parameters_within`.
    """
    path = Path(path)
    tables = read_tables(path, settings or [])
    if "model" in tables and not {"every", "models"} & set(tables):
        hint = f"Train it with: {program_name()} train {path}"
        raise ConfigError([f"{path}: this is the config of one run, not a comparison. {hint}"])
    try:
        file = _File.model_validate(tables)
    except ValidationError as error:
        raise ConfigError([_problem(path, details) for details in error.errors()]) from error
    _check_file(path, file)
    records = None
    if folder is not None and (folder / "data").is_dir():
        records = DataRecords(folder.absolute(), per_data_set=True, changed_data=changed_data)
    shared = {"folders": (path.absolute().parent, Path.cwd()), "data_cache": {}, "records": records}
    variants, runs, problems = file.variants or {"": {}}, [], []
    for model, variant, seed in itertools.product(file.models, variants, file.seeds):
        parts = (file.every, file.models[model], variants[variant], {"seed": seed})
        where = f"{path}: {model}" + (f" ({variant})" if variant else "")
        try:
            runs.append(PlannedRun(model, variant, seed, resolve(_merge_tables(*parts), where=where, **shared)))
        except ConfigError as error:
            problems += [line for line in error.problems if line not in problems]
    if problems:
        raise ConfigError(problems)
    first_runs = {run.model: run.config for run in reversed(runs)}
    sizes = {model: _model_size(first_runs[model]) for model in file.models}
    _check_sizes(path, sizes, file.parameters_within)
    target = next(iter(file.target.items()), None)
    if target is not None:
        _check_target(path, *target, runs[0].config)
    return ComparisonPlan(runs, list(file.models), list(variants), target, sizes, tables)


def _problem(path: Path, details: Any) -> str:
    """One problem of the file as a line. details: an error of pydantic."""
    key = ".".join(map(str, details["loc"]))
    if details["type"] == "extra_forbidden" and len(details["loc"]) == 1:
        hint = " Tables that all models share belong in [every]." if key in RUN_TABLES else ""
        return f"{path}: {key}: there is no such key{check.nearest(key, _File.model_fields)}{hint}"
    return f"{path}: {key}: {to_one_line(ValueError(details['msg'].lower()))}"


def _check_file(path: Path, file: _File) -> None:
    problems = []
    if len(set(file.seeds)) < len(file.seeds):
        problems.append(f"{path}: seeds should be distinct, got {file.seeds}.")
    if len(file.target) > 1:
        problems.append(f"{path}: target should be one metric, got {sorted(file.target)}.")
    for name in (*file.models, *file.variants):
        if not name.replace("_", "").isalnum():
            expected = "the name of a model or variant should have only letters, digits and _"
            problems.append(f"{path}: {expected}, got {name!r}.")
    if problems:
        raise ConfigError(problems)


def _merge_tables(*parts: Mapping[str, Any]) -> Table:
    """The tables merged, later ones first; a table that names another factory replaces the earlier one."""
    merged: Table = {}
    for part in parts:
        for key, value in part.items():
            earlier = merged.get(key)
            if isinstance(value, Mapping) and isinstance(earlier, Mapping):
                same_factory = value.get("name", earlier.get("name")) == earlier.get("name")
                value = {**earlier, **value} if same_factory else value
            merged[key] = value
    return merged


def _model_size(config: Config) -> ModelSize:
    data, model = config.data(), as_model(config.build(config.hypers).model)
    params = jax.eval_shape(model.init, config.key())
    x, _ = jax.eval_shape(lambda: data.batch(0))
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype), x)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    return ModelSize(count, flops.count(model.apply, params, example))


def _check_target(path: Path, metric: str, value: float, config: Config) -> None:
    """Check that the objective has the metric of the target, by evaluating the shapes of one batch."""
    task, data = config.build(config.hypers), config.data()
    model = as_model(task.model)
    metrics = jax.eval_shape(
        lambda key: batch_totals(task, model.init(key), model.init_state(), data.batch(0)), config.key()
    )
    if metric not in metrics:
        near = check.nearest(metric, [*metrics])
        raise ConfigError([f"{path}: target should name a validation metric, got {metric!r}{near}"])
    if metric == "accuracy" and not 0 <= value <= 1:
        raise ConfigError([f"{path}: target.accuracy should be from 0 to 1, got {value:g}."])


def _check_sizes(path: Path, sizes: dict[str, ModelSize], within: float) -> None:
    counts = {name: size.parameters for name, size in sizes.items()}
    if max(counts.values()) > min(counts.values()) * (1 + within):
        expected = f"the numbers of parameters of the models should differ by at most {within:.0%}"
        actual = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        raise ConfigError([f"{path}: {expected}, got {actual}. Change a width, or parameters_within."])
