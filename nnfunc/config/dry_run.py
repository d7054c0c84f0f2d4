"""A config's task followed on its data, in shapes only: what does not fit is told before a run."""

from typing import Any

import jax
import jax.numpy as jnp

from nnfunc.config.build import find_schedules
from nnfunc.config.config import Config
from nnfunc.config.errors import ConfigError, to_one_line
from nnfunc.config.schema import get_schema
from nnfunc.errors import NnfuncError
from nnfunc.training.checkpointing import Best
from nnfunc.training.compiled import programs, split_hypers
from nnfunc.training.device_feed import Feed
from nnfunc.training.fitting import check_memory
from nnfunc.training.step import evaluated, trainer
from nnfunc.training.task import built
from nnfunc.training.train import inspect_task

__all__ = ["dry_run"]


def dry_run(config: Config) -> None:
    """Follow the shapes of the first state, of a step and of what is observed.

    The program that begins the run is traced here, and kept: the run does not trace it again.
    Raises: ConfigError when model, data and the other tables do not fit each other.
    """
    data = config.data()
    _check_classes(config, data)
    numbers, static, treedef = split_hypers(config.hypers)
    try:
        own = programs(config.build, static, treedef, config.train.get("rollback", 0) > 0)
        feed, key = Feed(data), config.key()
        jax.eval_shape(own.init, numbers, key, feed.sample())
        inspect_task(own, numbers, key, feed, Best.of(config.train.get("best", "min loss")))
        loop = config.train.get("loop", "auto")
        check_memory("train", own, numbers, key, feed.sample(), data.batch_size, loop)
        _check_schedules(config, feed)
    except (ValueError, TypeError) as error:
        if isinstance(error, ConfigError) or not isinstance(error, NnfuncError):
            raise
        raise ConfigError([f"{config.where}: {_told(config, to_one_line(error))}"]) from error


def _check_classes(config: Config, data: Any) -> None:
    """Labels are mixed of as many classes as the data has."""
    for name, values in config.tables.get("augment", {}).items():
        given = values.get("classes", data.classes)
        if given != data.classes and data.classes is not None:
            problem = f"should be {data.classes}, which the data has, got {given}. Leave it out."
            raise ConfigError([f"{config.where}: augment.{name}.classes: {problem}"])


def _check_schedules(config: Config, feed: Feed) -> None:
    """Each number that follows a schedule is one that steps read: most that only begin a run do not."""
    parts = [(path, *config.part(path)) for path in config.table_paths]
    places = [
        place
        for path, table, name, values in parts
        for key, value in values.items()
        if get_schema(table, name).types[key].traced
        for place in find_schedules(f"{path}.{key}", value)
    ]
    if not places:
        return
    read = _read_by_steps(config, feed)
    for place in places:
        if not any(key.startswith(f"{place}.") for key in read):
            problem = "only what begins the run reads it, so that a schedule does nothing"
            raise ConfigError([f"{config.where}: {place}: {problem}. Give a number."])


def _read_by_steps(config: Config, feed: Feed) -> set[str]:
    """The hypers that reach what a step, an observation or the averaged weights come out as."""
    own = trainer(config.build)

    def steps(hypers, state, batch):
        task = built(config.build, hypers, state.step)
        told = {} if task.plateau is None else {task.plateau.metric: 0.0}
        return (own.step(hypers, state, batch), own.observe(hypers, state, told), evaluated(task, state))

    hypers = {key: jnp.asarray(value) for key, value in config.hypers.items()}
    state = jax.eval_shape(own.init, hypers, config.key())
    batch = jax.eval_shape(lambda: feed.sample().batch(0))
    program = jax.make_jaxpr(steps)(hypers, state, batch).jaxpr
    needed = {id(variable) for variable in program.outvars}
    for equation in reversed(program.eqns):
        if any(id(variable) in needed for variable in equation.outvars):
            needed |= {id(variable) for variable in equation.invars}
    return {key for key, v in zip(sorted(hypers), program.invars, strict=False) if id(v) in needed}


def _told(config: Config, message: str) -> str:
    """The message, after the table that it is about, where what raised it tells that."""
    places = {config.part(path)[1]: path for path in reversed(config.table_paths)}
    places |= {"remat_repeats": "task.remat", "reduce_on_plateau": "plateau.metric"}
    places |= {name: name for name in ("lora", "train") if name in config.tables}
    place = next((places[word] for word in message.split(": ")[:-1] if word in places), "")
    return message if not place or message.startswith(f"{place}: ") else f"{place}: {message}"
