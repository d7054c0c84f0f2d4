"""The plan of a comparison: every model in every variant with every seed."""

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from pydantic import ValidationError

from nnfunc import flops
from nnfunc.base import as_model
from nnfunc.config import Config, ConfigError
from nnfunc.config.comparison_file import ComparisonFile, Table
from nnfunc.config.config_errors import ProblemList, fail, nearest_hint, to_one_line
from nnfunc.config.data_records import DataRecords
from nnfunc.config.load import resolve
from nnfunc.config.toml import read_tables
from nnfunc.runs.run_folder import program_name
from nnfunc.training.evaluate import batch_totals
from nnfunc.training.task_metrics import CENTERED, EXACT, PACKED

RUN_TABLES = ("data", "model", "objective", "optimizer", "schedule", "train", "seed")


class PlannedRun(NamedTuple):
    """One run of a comparison. model: its name. variant: its name, "" without variants. seed, config: of the run."""

    model: str
    variant: str
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return "-".join(filter(None, (self.model, self.variant, str(self.seed))))


class ModelSize(NamedTuple):
    """The size of a model. parameters: their number. flops: those of the forward pass for one example."""

    parameters: int
    flops: int


class ComparisonPlan(NamedTuple):
    """A checked comparison.

    runs: in the order of training.
    models: their names.
    variants: their names; [""] without variants.
    target: (name, value) of a validation metric, or None.
    sizes: by model.
    tables: of the file, after overrides.
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

    The config of a run is merged from the tables of [every], then of [models.NAME], then of [variants.NAME].
    The file also has `seeds`, and optionally `target = { accuracy = 0.97 }` and `parameters_within`.
    path: of the file.
    settings: overrides such as "seeds=[0]".
    folder: of a stopped comparison, to resume it.
    changed_data: whether to accept data files that changed since the comparison began.
    Raises: ConfigError with every mistake; also when the numbers of parameters differ by more than
    `parameters_within`.
    """
    path = Path(path)
    problems = ProblemList(str(path))
    tables = read_tables(path, settings or [], problems)
    if "model" in tables and not {"every", "models"} & set(tables):
        hint = f"Train it with: {program_name()} train {path}"
        fail(str(path), "", "this is the config of one run, not a comparison", hint=hint)
    file = _read_file(tables, problems)
    records = None
    if folder is not None and (folder / "data").is_dir():
        records = DataRecords(folder.absolute(), per_data_set=True, changed_data=changed_data)
    shared = {"folders": (path.absolute().parent, Path.cwd()), "data_cache": {}, "records": records}
    variants, runs = file.variants or {"": {}}, []
    for model, variant, seed in itertools.product(file.models, variants, file.seeds):
        parts = (file.every, file.models[model], variants[variant], {"seed": seed})
        where = f"{path}: {model}" + (f" ({variant})" if variant else "")
        try:
            runs.append(PlannedRun(model, variant, seed, resolve(_merge_tables(*parts), where=where, **shared)))
        except ConfigError as error:
            problems.problems += error.problems
    problems.raise_all()
    first_runs = {run.model: run.config for run in reversed(runs)}
    sizes = {model: _model_size(first_runs[model]) for model in file.models}
    _check_sizes(sizes, file.parameters_within, problems)
    target = next(iter(file.target.items()), None)
    if target is not None:
        _check_target(*target, runs[0].config, problems)
    problems.raise_all()
    return ComparisonPlan(runs, list(file.models), list(variants), target, sizes, tables)


def _read_file(tables: Table, problems: ProblemList) -> ComparisonFile:
    """The tables of the file, checked."""
    try:
        file = ComparisonFile.model_validate(tables)
    except ValidationError as error:
        for details in error.errors():
            key = ".".join(map(str, details["loc"]))
            if details["type"] == "extra_forbidden" and len(details["loc"]) == 1:
                hint = nearest_hint(key, ComparisonFile.model_fields, list_names=True)
                hint += " Tables that all models share belong in [every]." if key in RUN_TABLES else ""
                problems.add(key, "there is no such key", hint=hint)
            else:
                problems.add(key, to_one_line(details["msg"].lower()))
        raise ConfigError(problems.problems) from error
    if len(set(file.seeds)) < len(file.seeds):
        problems.add("seeds", expected="should be distinct", actual=str(file.seeds))
    if len(file.target) > 1:
        problems.add("target", expected="should be one metric", actual=str(sorted(file.target)))
    for table, names in (("models", file.models), ("variants", file.variants)):
        for name in names:
            if not name.replace("_", "").isalnum():
                problems.add(table, expected="names should have only letters, digits and _", actual=repr(name))
    problems.raise_all()
    return file


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


def _check_target(metric: str, value: float, config: Config, problems: ProblemList) -> None:
    """Check that the objective has the metric of the target, by evaluating the shapes of one batch."""
    task, data = config.build(config.hypers), config.data()
    model = as_model(task.model)
    metrics = jax.eval_shape(
        lambda key: batch_totals(task, model.init(key), model.init_state(key), data.batch(0)), config.key()
    )
    metrics = [name for name in dict.fromkeys([*metrics, *task.metrics]) if name not in (CENTERED, EXACT, PACKED)]
    if metric not in metrics:
        hint = nearest_hint(metric, metrics, list_names=True)
        problems.add("target", expected="should name a validation metric", actual=repr(metric), hint=hint)
    elif metric == "accuracy" and not 0 <= value <= 1:
        problems.add("target.accuracy", expected="should be from 0 to 1", actual=f"{value:g}")


def _check_sizes(sizes: dict[str, ModelSize], within: float, problems: ProblemList) -> None:
    counts = {name: size.parameters for name, size in sizes.items()}
    if max(counts.values()) > min(counts.values()) * (1 + within):
        expected = f"the numbers of parameters should differ by at most {within:.0%}"
        actual = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        problems.add("models", expected=expected, actual=actual, hint="Change a width, or parameters_within.")
