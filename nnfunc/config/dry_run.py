"""A dry run of a config, in shapes only: reports tables and data that do not fit each other before the training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import tuning
from nnfunc.config.build import find_schedules
from nnfunc.config.config import Config
from nnfunc.config.config_errors import ConfigError, Problem, fail, to_one_line
from nnfunc.config.schema import get_schema
from nnfunc.data.tokenizers import Characters
from nnfunc.errors import NnfuncError
from nnfunc.runs.best_metric import BestMetric
from nnfunc.training.compiled import compiled_functions, split_hypers
from nnfunc.training.device_feed import DeviceFeed, placed_data
from nnfunc.training.fitting import Needs, check_memory
from nnfunc.training.step import placement_of, trainer
from nnfunc.training.task import build_task
from nnfunc.training.train_run import inspect_task, resolve_loop
from nnfunc.training.train_state import eval_params


def dry_run(config: Config) -> Needs:
    """Trace the initialization, a training step and an evaluation; the parameters and the memory that they need.

    The traces are cached, so the training does not repeat them.
    config: of the run.
    Raises: ConfigError when the model, the data and the other tables do not fit each other.
    """
    with tuning.pinned(tuning.pins() or tuning.measured()), located(config):
        return _trace(config)


@contextmanager
def located(config: Config) -> Iterator[None]:
    """A block in which errors of nnfunc become those of the table that they belong to. config: of the run."""
    try:
        yield
    except (ValueError, TypeError) as error:
        if isinstance(error, ConfigError) or not isinstance(error, NnfuncError):
            raise
        raise ConfigError([_locate(config, error)]) from error


def _trace(config: Config) -> Needs:
    data = config.data()
    _check_classes(config, data)
    _check_categories(config)
    _check_metrics(config, data)
    numbers, static, treedef = split_hypers(config.hypers)
    placement = placement_of("train", config.mesh.get("mesh"), config.mesh.get("shard"))
    functions = compiled_functions(config.build, static, treedef, config.train.get("rollback", 0) > 0, placement)
    if placement is not None:
        data, numbers = placed_data(data, placement), placement.whole(numbers)
    feed, key = DeviceFeed(data, placement, config.train.get("cut_data")), config.key()
    best = BestMetric.parse(config.train.get("best", "min loss"))
    inspection = inspect_task(functions, numbers, key, feed, best)
    loop = resolve_loop(config.train.get("loop", "auto"), feed, inspection)
    needs = check_memory("train", functions, numbers, key, feed, loop)
    _check_schedules(config, feed)
    return needs


def _check_classes(config: Config, data: Any) -> None:
    """Check that augmentations that mix labels have the number of classes of the data."""
    for name, values in config.tables.get("augment", {}).items():
        classes = values.get("classes", data.classes)
        if classes != data.classes and data.classes is not None:
            expected = f"should be {data.classes}, the number of classes of the data"
            path = f"augment.{name}.classes"
            fail(config.where, path, expected=expected, actual=str(classes), hint="Remove it.")


def _check_categories(config: Config) -> None:
    """Check that the model reads the categories of a table."""
    name, columns = config.tables["model"]["name"], config.tables["data"].get("categorical")
    if columns and "categories" not in get_schema("model", name).types:
        problem = f"{name} reads no categories, and the data has some: {', '.join(columns)}"
        hint = "Use table_model, or name the columns in data.one_hot instead."
        fail(config.where, "model.name", problem, hint=hint)


def _check_metrics(config: Config, data: Any) -> None:
    """Check that the data has what the metrics of the table task need."""
    options = config.tables.get("task", {})
    if options.get("threshold") is not None and data.validation is None:
        problem = "is chosen on the validation split, and the data has none"
        fail(config.where, "task.threshold", problem, hint="Remove it.")
    if "bits_per_character" in options.get("metrics", ()) and not isinstance(data.codec, Characters):
        problem = "bits_per_character needs tokens that are characters"
        fail(config.where, "task.metrics", problem, hint="Use bits_per_token.")


def _check_schedules(config: Config, feed: DeviceFeed) -> None:
    """Check that training steps depend on each number that has a schedule: one that only init reads is constant."""
    parts = [(path, *config.part(path)) for path in config.table_paths]
    paths = [
        schedule_path
        for path, table, name, values in parts
        for key, value in values.items()
        if get_schema(table, name).types[key].traced
        for schedule_path in find_schedules(f"{path}.{key}", value)
    ]
    if not paths:
        return
    read = _read_by_steps(config, feed)
    for path in paths:
        if not any(key.startswith(f"{path}.") for key in read):
            problem = "is used only at initialization, so a schedule has no effect"
            fail(config.where, path, problem, hint="Give a number.")


def _read_by_steps(config: Config, feed: DeviceFeed) -> set[str]:
    """The hypers that the outputs of a step, of an observation or of the averaged weights depend on."""
    functions = trainer(config.build)

    def steps(hypers, state, batch):
        task = build_task(config.build, hypers, state.step)
        reported = {} if task.plateau is None else {task.plateau.metric: 0.0}
        return (
            functions.step(hypers, state, batch),
            functions.observe(hypers, state, reported),
            eval_params(task, state),
        )

    hypers = {key: jnp.asarray(value) for key, value in config.hypers.items()}
    state = jax.eval_shape(functions.init, hypers, config.key())
    batch = jax.eval_shape(lambda: feed.sample().batch(0))
    program = jax.make_jaxpr(steps)(hypers, state, batch).jaxpr
    needed = {id(variable) for variable in program.outvars}
    for equation in reversed(program.eqns):
        if any(id(variable) in needed for variable in equation.outvars):
            needed |= {id(variable) for variable in equation.invars}
    return {key for key, v in zip(sorted(hypers), program.invars, strict=False) if id(v) in needed}


def _locate(config: Config, error: NnfuncError) -> Problem:
    """The error as a problem of the table that its layer or function belongs to, if that is known."""
    tables = {config.part(path)[1]: path for path in reversed(config.table_paths)}
    tables |= {
        "metrics": "task.metrics",
        "remat": "task.remat",
        "remat_repeats": "task.remat",
        "reduce_on_plateau": "plateau.metric",
    }
    tables |= {name: name for name in ("lora", "start", "train", "mesh", "shard") if name in config.tables}
    functions = error.where.split(": ")
    table = next((tables[name] for name in functions if name in tables), "model" if error.path else "")
    text = to_one_line(error).removeprefix(f"{table}: ")
    return Problem(text, config.where, table, error.expected, error.actual, error.hint)
