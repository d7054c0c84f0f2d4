"""A trained run, read back: its checkpoints, its model, its task as it was."""

import shutil
import warnings
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, checkpoint, device_memory
from nnfunc.base import Model, Params, PyTree, as_model
from nnfunc.calls import explain_call
from nnfunc.config import Config, load
from nnfunc.config.data_records import DataRecords
from nnfunc.data.prediction_inputs import load_inputs
from nnfunc.data.preprocessing import FILES
from nnfunc.runs import run_folder
from nnfunc.training.checkpointing import load_either
from nnfunc.training.fitting import check_state
from nnfunc.training.step import TrainState, eval_params, trainer
from nnfunc.training.task import Task, build_task

__all__ = [
    "Run",
    "TrainedModel",
    "load_run",
    "read_config",
    "rebuild_task",
    "restore",
    "restore_state",
    "save_base",
    "save_run",
]


class TrainedModel(NamedTuple):
    """A trained model: y = model.apply(params, x, state=state)."""

    model: Model
    params: Params
    state: PyTree


class Run(TrainedModel):
    """A trained model, and what the run learned from its data: unpacks as (model, params, state).

    config: of the run.
    """

    config: Config

    @property
    def classes(self) -> int | None:
        """How many classes there are, or tokens; None for numbers to predict."""
        return self.config.preprocessing.classes

    @property
    def names(self) -> tuple[str, ...] | None:
        """The classes' names in the order of the outputs, or None."""
        return self.config.preprocessing.names

    def predict(self, rows: Any, *, batch_size: int | None = None) -> np.ndarray:
        """What the model gives for each row, [n, ...]: logits of a classifier, else the values.

        rows: raw, as the training data was: an array [n, ...]; of a table a data frame, a dict of
        columns or a list of dicts, by name in any order; of images files or a folder; or the path of a
        .npy, .csv or .parquet file. batch_size: rows at once, at least 1; by default as many as
        the run's evaluations take.
        Raises: FileNotFoundError; ValueError naming what does not fit. Needs no training file.
        """
        return self.predict_named(rows, batch_size=batch_size)[0]

    def predict_named(self, rows: Any, *, batch_size: int | None = None) -> tuple[np.ndarray, list[str] | None]:
        """The same, and the names of the files of images."""
        batch_size = self.config.eval_batch_size if batch_size is None else batch_size
        check.size("predict", batch_size=batch_size)
        preprocessing = self.config.preprocessing
        x, files = load_inputs(preprocessing, rows)
        transform = None if "window" in preprocessing.facts else preprocessing.transform
        width, parts = min(batch_size, len(x)), []
        for start in range(0, len(x), width):
            part = x[start : start + width]
            filled = np.pad(part, [(0, width - len(part))] + [(0, 0)] * (x.ndim - 1))  # one program
            filled = filled if transform is None else transform(filled)
            if start == 0:
                what, hint = f"a prediction of {width} rows at once", "Make batch_size smaller."
                args = (self.params, self.state, filled)
                device_memory.compile_checked("predict", self._apply, what, hint, *args)
            y = jax.device_get(self._apply(self.params, self.state, filled))
            parts.append(y[: len(part)])
        return np.concatenate(parts), files

    @cached_property
    def _apply(self) -> Any:
        return jax.jit(lambda params, state, x: self.model.apply(params, x, state=state))


def read_config(folder: Path, overrides: Sequence[str] = (), *, changed_data: bool = False) -> Config:
    """The config of a run's folder, with what the run learned from its data.

    changed_data: whether its data may be another than then. Raises: FileNotFoundError, ConfigError.
    """
    folder = run_folder.check_folder(folder)
    records = DataRecords(folder, changed_data=changed_data)
    return load(folder / "config.toml", overrides, records=records)


@explain_call
def load_run(folder: str | Path, checkpoint: str = "best") -> Run:
    """The (model, params, state) of a run's folder, which also predicts: `load_run(f).predict(rows)`.

    Only the folder is read, no data file; runs of older versions, without data.json, read theirs to
    predict. checkpoint: "best" or "last". Raises: FileNotFoundError when the folder is no run.
    """
    config = read_config(Path(folder))
    state, _ = restore(config, Path(folder), checkpoint)
    run = Run(as_model(rebuild_task(config, state).model), state.params, state.model_state)
    run.config = config
    return run


def restore(config: Config, folder: Path, checkpoint_name: str) -> tuple[TrainState, int]:
    """The state of `restore_state` with the parameters to use: averaged where the run averages."""
    state, step = restore_state(config, folder, checkpoint_name)
    params, model_state = eval_params(rebuild_task(config, state), state)
    return state._replace(params=params, model_state=model_state), step


def rebuild_task(config: Config, state: TrainState) -> Task:
    """The task as it was when the state was saved: schedules are where they were."""
    return build_task(config.build, config.hypers, jnp.asarray(state.step))


def restore_state(config: Config, folder: Path, checkpoint_name: str) -> tuple[TrainState, int]:
    """The train state of a run's best or last good checkpoint, and its step.

    A damaged one is named in a warning, and the last good one takes its place.
    """
    check.choice("checkpoint", ("best", "last"), checkpoint=checkpoint_name)
    init, _ = trainer(config.build, rate_scale=config.train.get("rollback", 0) > 0)
    like = jax.eval_shape(init, config.hypers, config.key())
    check_state(str(folder), like)
    root, refused = folder / "checkpoints", []
    if checkpoint_name == "best" and (root / "best").exists():
        try:
            checkpoint.check_inside(root / "best", folder)
            read = partial(checkpoint.load, root / "best")
            _, state = load_either(read, like, lambda state: state)
            return state, int(state.step)
        except checkpoint.CheckpointError as error:
            text = f"The best checkpoint was refused, so the last good one is used. {error}"
            refused.append(text)
    if not checkpoint.steps(root):
        hint = f"Its run saved nothing yet, or diverged: {run_folder.program_name()} resume {folder}"
        check.fail("checkpoint", f"{root} should hold one, got none. {hint}")
    read = partial(checkpoint.latest_good, root, part="state")
    result, state = load_either(read, like, lambda found: found.tree)
    refused += [f"{reason} Using that of step {result.step}." for reason in result.warnings]
    for reason in refused:
        warnings.warn(reason, stacklevel=2)
    return state, result.step


def save_run(config: Config, folder: Path) -> None:
    """Write what a run's folder needs to be used without the data and the run that it adapts."""
    config.dump(folder / "config.toml")
    config.preprocessing.save(folder)
    save_base(config, DataRecords(folder))


def save_base(config: Config, records: DataRecords) -> None:
    """Copy what adapters need of a run: its config, its best checkpoint, what its data taught it."""
    if "lora" not in config.tables:
        return
    run, source = config.tables["lora"]["run"], Path(config.part("lora")[2]["run"])
    folder = records.base_folder(run)
    if (folder / "config.toml").is_file():
        return
    base = read_config(source)
    state, _ = restore_state(base, source, "best")
    checkpoint.save_best(folder / "checkpoints", state, metadata={"run": run})
    for file in (source / name for name in FILES):
        if file.is_file():
            shutil.copy(file, folder / file.name)
    base.dump(folder / "config.toml")  # last, so all is there or nothing
