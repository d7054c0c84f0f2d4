"""A trained run, read back: its checkpoints, its model, its task as it was."""

import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from nnfunc import check, checkpoint, runlog
from nnfunc.base import Model, Params, PyTree, as_model
from nnfunc.config import Config, load
from nnfunc.training.saving import either
from nnfunc.training.step import TrainState, evaluated, trainer
from nnfunc.training.task import Task, built

__all__ = ["Loaded", "load_run", "restore", "restore_state", "task_at"]


class Loaded(NamedTuple):
    """A trained model: y = model.apply(params, x, state=state)."""

    model: Model
    params: Params
    state: PyTree


def load_run(folder: str | Path, checkpoint: str = "best") -> Loaded:
    """The (model, params, state) of a run's folder, built from its own config.

    checkpoint: "best" or "last". Raises: FileNotFoundError when the folder is no run.
    """
    folder = runlog.find(Path(folder))
    config = load(folder / "config.toml")
    state, _ = restore(config, folder, checkpoint)
    model = as_model(task_at(config, state).model)
    return Loaded(model, state.params, state.model_state)


def restore(config: Config, folder: Path, which: str) -> tuple[TrainState, int]:
    """The state of `restore_state` with the parameters to use: averaged where the run averages."""
    state, step = restore_state(config, folder, which)
    params, model_state = evaluated(task_at(config, state), state)
    return state._replace(params=params, model_state=model_state), step


def task_at(config: Config, state: TrainState) -> Task:
    """The task as it was when the state was saved: schedules are where they were."""
    return built(config.build, config.hypers, jnp.asarray(state.step))


def restore_state(config: Config, folder: Path, which: str) -> tuple[TrainState, int]:
    """The train state of a run's best or last good checkpoint, and its step.

    A damaged one is named in a warning, and the last good one takes its place.
    """
    check.choice("checkpoint", ("best", "last"), checkpoint=which)
    init, _ = trainer(config.build, rate_scale=config.train.get("rollback", 0) > 0)
    like = jax.eval_shape(init, config.hypers, config.key())
    root = folder / "checkpoints"
    if which == "best" and (root / "best").exists():
        try:
            read = partial(checkpoint.load, root / "best")
            _, state = either(read, like, lambda state: state)
            return state, int(state.step)
        except checkpoint.CheckpointError as error:
            words = f"The best checkpoint was refused, so the last good one is used. {error}"
            warnings.warn(words, stacklevel=2)
    if not checkpoint.steps(root):
        cure = f"Its run saved nothing yet, or diverged: {runlog.command()} resume {folder}"
        check.fail("checkpoint", f"{root} should hold one, got none. {cure}")
    read = partial(checkpoint.latest_good, root, part="state")
    found, state = either(read, like, lambda found: found.tree)
    for reason in found.warnings:
        warnings.warn(f"{reason} Using that of step {found.step}.", stacklevel=2)
    return state, found.step
