"""Loads trained runs: the state of a checkpoint, the model and the task; and saves what loading needs."""

import shutil
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, checkpoint, device_memory
from nnfunc.base import Model, Params, PyTree, as_model
from nnfunc.calls import explain_call
from nnfunc.checkpoint.checkpoint_files import check_inside
from nnfunc.config import Config, load
from nnfunc.config.data_records import DataRecords
from nnfunc.config.schema import RUN_TABLES
from nnfunc.data.dataset import count_examples
from nnfunc.data.prediction_inputs import load_inputs, restore_outputs
from nnfunc.data.preprocessing import FILES
from nnfunc.evaluation.held_out import HeldOut
from nnfunc.runs import run_folder
from nnfunc.training.checkpointing import load_either
from nnfunc.training.fitting import check_state
from nnfunc.training.starting import StartReport
from nnfunc.training.step import trainer
from nnfunc.training.task import Task, build_task
from nnfunc.training.train_state import TrainState, eval_params


class TrainedModel(NamedTuple):
    """A trained model: y = model.apply(params, x, state=state).

    model: as the config builds it.
    params: the trained parameters.
    state: the model state, {} without any.
    """

    model: Model
    params: Params
    state: PyTree


class Run(TrainedModel):
    """A trained model with the preprocessing of its run; it unpacks as (model, params, state).

    config: of the run.
    """

    config: Config

    @property
    def classes(self) -> int | None:
        """The number of classes, or of tokens; None for a regression."""
        return self.config.preprocessing.classes

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the classes in the order of the outputs, None without names."""
        return self.config.preprocessing.names

    def predict(self, rows: Any, *, batch_size: int | None = None) -> np.ndarray:
        """The outputs of the model for each row, [n, ...]: the logits of a classifier, else the values.

        Values, quantiles and deviations are in the units of the file, also when the targets were scaled.
        The files of the training data are not needed.
        rows: raw, as in the training data: an array [n, ...]; for a table, a data frame, a dict of columns or a
            list of dicts, with the columns in any order; for images, files or a folder; or the path of a .npy, .csv
            or .parquet file.
        batch_size: rows per call of the model, at least 1; by default the batch size of the run's evaluations.
        Raises: FileNotFoundError; ValueError for rows that do not fit the model.
        """
        return self.predict_named(rows, batch_size=batch_size)[0]

    def predict_named(self, rows: Any, *, batch_size: int | None = None) -> tuple[np.ndarray, list[str] | None]:
        """The outputs as `predict` gives them, and the file names of images, None for other rows.

        rows, batch_size: as for `predict`.
        """
        x, files = load_inputs(self.config.preprocessing, rows)
        parts = list(self.predict_batches(x, batch_size=batch_size))
        y = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return restore_outputs(self.config.preprocessing, y, self.output_type, files), files

    def predict_batches(
        self, x: Any, *, batch_size: int | None = None, width: int | None = None
    ) -> Iterator[np.ndarray]:
        """The outputs of prepared inputs, batch by batch, as the model has them: `restore_outputs` gives their units.

        x: as `load_inputs` gives it, with leading axis n.
        batch_size: as for `predict`.
        width: the rows that each call of the model gets, the last ones repeated; by default the smaller one of
            batch_size and n.
        """
        batch_size = self.config.eval_batch_size if batch_size is None else batch_size
        check.size("predict", batch_size=batch_size)
        preprocessing = self.config.preprocessing
        transform = None if "window" in preprocessing.facts else preprocessing.transform
        count = count_examples(x)
        width = min(batch_size, count) if width is None else width
        for start in range(0, count, width):
            size = min(width, count - start)
            # padded to the same shape, so that there is one program
            at = start + np.minimum(np.arange(width), size - 1)
            part = jax.tree.map(lambda leaf, at=at: leaf[at], x)
            part = part if transform is None else transform(part)
            if width not in self._checked:
                self._checked.add(width)
                what, hint = f"a prediction of {width} rows at once", "Make batch_size smaller."
                device_memory.compile_checked("predict", self._apply, what, hint, self.params, self.state, part)
            y = jax.device_get(self._apply(self.params, self.state, part))
            yield jax.tree.map(lambda leaf, size=size: leaf[:size], y)

    @cached_property
    def _checked(self) -> set[int]:
        """The numbers of rows at once that are known to fit the memory."""
        return set()

    @property
    def output_type(self) -> str:
        """How the outputs are read, as `Objective.output_type`."""
        return getattr(self._task.objective, "output_type", "")

    @property
    def quantiles(self) -> int | None:
        """The number of quantiles of each output, as `Objective.quantiles`; None for other outputs."""
        return getattr(self._task.objective, "quantiles", None)

    @cached_property
    def threshold(self) -> Any:
        """The probability from which on an answer is yes, one number or a list with one for each label.

        It was chosen on the validation split when the run ended; None for runs without one.
        """
        return read_threshold(self.config)

    def held_out(self, split: str = "test") -> HeldOut:
        """The raw outputs and the targets of the rows of a split, for the functions of `nnfunc.evaluation`.

        The files of the training data are read.
        split: "train", of which at most 10,000 rows are chosen evenly, "validation" or "test".
        Raises: ValueError when there is no such split; ConfigError when the data has changed.
        """
        from nnfunc.config.held_out_rows import held_out_rows

        task = self._task._replace(model=self.model)
        return held_out_rows(self.config, self.config.data(), split, task, self.params, self.state, self.threshold)

    @cached_property
    def _task(self) -> Task:
        return build_task(self.config.build, self.config.hypers)

    @cached_property
    def _apply(self) -> Any:
        return jax.jit(lambda params, state, x: self.model.apply(params, x, state=state))


def read_threshold(config: Config) -> Any:
    """The threshold of a run, see `Run.threshold`; None, with a warning, if it is that of another step.

    config: of the run's folder.
    """
    file = None if config.records is None else config.records.folder / run_folder.THRESHOLD
    saved = None if file is None else run_folder.read_json(file, {"threshold": object})
    if saved is None or file is None:
        return None
    before, step = saved.get("step"), _best_step(file.parent / "checkpoints" / "best")
    if None not in (before, step) and before != step:
        problem = f"the threshold of step {before} is ignored, because the best checkpoint is of step {step}"
        hint = f"{run_folder.program_name()} resume {file.parent} chooses another one."
        warnings.warn(f"{file}: {problem}. {hint}", stacklevel=2)
        return None
    return saved["threshold"]


def _best_step(folder: Path) -> int | None:
    """The step of the best checkpoint, None if it has not recorded it. folder: of the checkpoint."""
    try:
        return checkpoint.inspect(folder)["metadata"].get("best_step")
    except checkpoint.CheckpointError:  # there is none, or it is damaged
        return None


def read_config(
    folder: Path, overrides: Sequence[str] = (), *, changed_data: bool = False, needs_start: bool = False
) -> Config:
    """The config of a run's folder, with the saved preprocessing.

    folder: of the run.
    overrides: as for `load`.
    changed_data: whether to accept data files that changed since the run began.
    needs_start: whether the run may be trained from step 0, for which its table start counts.
    Raises: FileNotFoundError; ConfigError.
    """
    folder = run_folder.check_folder(folder)
    records = DataRecords(folder, changed_data=changed_data, needs_start=needs_start)
    return load(folder / "config.toml", overrides, records=records)


@explain_call
def load_run(folder: str | Path, checkpoint: str = "best") -> Run:
    """The trained model of a run: `model, params, state = load_run(folder)`, or `load_run(folder).predict(rows)`.

    The data files are not needed, except to predict with a run of an older version, which has no data.json.
    folder: of the run.
    checkpoint: "best" or "last".
    Raises: FileNotFoundError when the folder is not a run.
    """
    config = read_config(Path(folder))
    state, _ = restore(config, Path(folder), checkpoint)
    run = Run(as_model(rebuild_task(config, state).model), state.params, state.model_state)
    run.config = config
    return run


def restore(config: Config, folder: Path, checkpoint_name: str) -> tuple[TrainState, int]:
    """The state and step of `restore_state`, with the averaged parameters if the run averages them.

    config, folder, checkpoint_name: as for `restore_state`.
    """
    state, step = restore_state(config, folder, checkpoint_name)
    params, model_state = eval_params(rebuild_task(config, state), state)
    return state._replace(params=params, model_state=model_state), step


def rebuild_task(config: Config, state: TrainState) -> Task:
    """The task of `config` at the step of `state`, which its schedules depend on."""
    return build_task(config.build, config.hypers, jnp.asarray(state.step))


def restore_state(config: Config, folder: Path, checkpoint_name: str) -> tuple[TrainState, int]:
    """The train state of a checkpoint, and its step.

    A damaged checkpoint is skipped with a warning; the last good one is used instead.
    config: of the run.
    folder: of the run.
    checkpoint_name: "best" or "last".
    Raises: ValueError when there is no checkpoint.
    """
    check.choice("checkpoint", ("best", "last"), checkpoint=checkpoint_name)
    init, _ = trainer(config.build, rate_scale=config.train.get("rollback", 0) > 0)
    like = jax.eval_shape(init, config.hypers, config.key())
    check_state(str(folder), like)
    root, refused = folder / "checkpoints", []
    if checkpoint_name == "best" and (root / "best").exists():
        try:
            check_inside(root / "best", folder)
            read = partial(checkpoint.load, root / "best")
            _, state = load_either(read, like, lambda state: state)
            return state, int(state.step)
        except checkpoint.CheckpointError as error:
            refused.append(f"The best checkpoint is damaged, so the last good one is used. {error}")
    if not checkpoint.steps(root):
        hint = f"The run has not saved one yet, or it diverged: {run_folder.program_name()} resume {folder}"
        check.fail("checkpoint", expected=f"{root} should have a checkpoint", actual="none", hint=hint)
    read = partial(checkpoint.latest_good, root, part="state")
    result, state = load_either(read, like, lambda result: result.tree)
    refused += [f"{reason} The checkpoint of step {result.step} is used." for reason in result.warnings]
    for reason in refused:
        warnings.warn(reason, stacklevel=2)
    return state, result.step


def save_run(config: Config, folder: Path) -> StartReport | None:
    """Write the files with which a run can be loaded without its data and without the run that it begins with.

    config: of the run.
    folder: of the run. Returns: of a run with a table start, what is taken over.
    """
    config.dump(folder / "config.toml")
    config.preprocessing.save(folder)
    save_base(config, DataRecords(folder))
    if "start" not in config.tables:
        return None
    report = config.build(config.hypers).model.report()
    run_folder.write_json(folder / run_folder.START, config.tables["start"] | report._asdict())
    return report


def save_base(config: Config, records: DataRecords) -> None:
    """Copy each run that the config begins with, or learns from: its config, the checkpoint and its preprocessing.

    config: of the new run; nothing is copied without a table that names a run.
    records: know the folder of the copy.
    """
    for table in (table for table in RUN_TABLES if "run" in config.tables.get(table, {})):
        which = config.tables[table].get("checkpoint", "best")
        run, source = config.tables[table]["run"], Path(config.part(table)[2]["run"])
        _copy_base(run, source, which, records.base_folder(run, which))


def _copy_base(run: str, source: Path, which: str, folder: Path) -> None:
    if (folder / "config.toml").is_file():
        return
    base = read_config(source)
    state, step = restore_state(base, source, which)
    if which == "best":
        checkpoint.save_best(folder / "checkpoints", state, metadata={"run": run})
    else:
        checkpoint.save_step(folder / "checkpoints", step, {"state": state}, metadata={"run": run})
    for file in (source / name for name in FILES):
        if file.is_file():
            shutil.copy(file, folder / file.name)
    base.dump(folder / "config.toml")  # written last: it marks a complete copy
