"""A config's task followed on its data, in shapes only: what does not fit is told before a run."""

from typing import Any

import jax

from nnfunc import check
from nnfunc.config.config import Config
from nnfunc.config.mistakes import ConfigError, one_line
from nnfunc.training.feed import Feed
from nnfunc.training.loop import inspect_task
from nnfunc.training.programs import programs, split_hypers
from nnfunc.training.saving import Best

__all__ = ["rehearse"]


def rehearse(config: Config) -> None:
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
    except (ValueError, TypeError) as error:
        if isinstance(error, ConfigError) or not check.is_mistake(error):
            raise
        raise ConfigError([f"{config.where}: {_told(config, one_line(error))}"]) from error


def _check_classes(config: Config, data: Any) -> None:
    """Labels are mixed of as many classes as the data has."""
    for name, values in config.tables.get("augment", {}).items():
        given = values.get("classes", data.classes)
        if given != data.classes and data.classes is not None:
            problem = f"should be {data.classes}, which the data has, got {given}. Leave it out."
            raise ConfigError([f"{config.where}: augment.{name}.classes: {problem}"])


def _told(config: Config, message: str) -> str:
    """The message, after the table that it is about, where what raised it tells that."""
    places = {config.part(path)[1]: path for path in reversed(config.places)}
    places |= {"remat_repeats": "task.remat", "reduce_on_plateau": "plateau.metric"}
    places |= {name: name for name in ("lora", "train") if name in config.tables}
    place = next((places[word] for word in message.split(": ")[:-1] if word in places), "")
    return message if not place or message.startswith(f"{place}: ") else f"{place}: {message}"
