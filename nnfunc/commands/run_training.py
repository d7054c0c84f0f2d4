"""Trains a run in its folder, evaluates it and writes its report: for train, resume and compare."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnfunc import checkpoint, malloc, tuning
from nnfunc.commands.constant_baseline import baselines, print_naive_forecasts, warn_if_not_better
from nnfunc.commands.evaluate_run import split_metrics
from nnfunc.commands.interrupts import Stopped, catch_signals, explain_full_disk, interrupt_message
from nnfunc.commands.progress_bar import show_progress
from nnfunc.commands.terminal import metrics_line, print_lines
from nnfunc.config import Config
from nnfunc.config.held_out_rows import at_threshold, held_out_rows, threshold_metric, threshold_names
from nnfunc.config.restore import rebuild_task, restore
from nnfunc.distributed import processes
from nnfunc.documents import write_file
from nnfunc.durations import format_duration
from nnfunc.errors import NnfuncError
from nnfunc.evaluation.held_out_metrics import compute_metrics
from nnfunc.evaluation.readings import NUMBERS
from nnfunc.runs import metrics_log, run_folder, status
from nnfunc.runs.best_metric import BestMetric
from nnfunc.runs.lock import FolderLock
from nnfunc.runs.writers import open_writers
from nnfunc.training.checkpointing import saved_forms
from nnfunc.training.divergence import Diverged
from nnfunc.training.task import Task
from nnfunc.training.train_run import History
from nnfunc.training.train_run import train as fit
from nnfunc.training.train_state import TrainState


class Training(NamedTuple):
    """The result of a training, which ended at its last step, or earlier because of a signal.

    state, history: of `nf.train`.
    signals: those that arrived.
    first_step: at which the training began or resumed, None if all steps were already trained.
    seconds: of wall time.
    """

    state: TrainState
    history: History
    signals: list[int]
    first_step: int | None
    seconds: float


@contextmanager
def new_folder(name: str, folder: Path | None, message: str) -> Iterator[Path]:
    """A new run folder, which is removed again if the block fails or is interrupted before a training has begun.

    name, folder: as for `run_folder.create_folder`.
    message: for an interruption.
    """
    existed = folder is not None and folder.is_dir()
    path = Path(processes.broadcast("folder", lambda: str(run_folder.create_folder(name, folder))))
    if not processes.is_main():
        yield path
        return

    def undo() -> None:
        if not (path / "metrics.jsonl").exists():
            run_folder.remove_folder(path, keep=existed)

    try:
        with interrupt_message(message, undo):
            yield path
    except BaseException:
        undo()
        raise


def run_training(config: Config, folder: Path, *, resume: bool | list[str], replace_config: bool = False) -> None:
    """Train, evaluate the best checkpoint and write the report.

    config: of the run.
    folder: of the run, with its config.toml.
    resume: as in `nf.train`.
    replace_config: whether to write the config to config.toml first; the old file is restored if the training
        refuses it.
    Raises: `Stopped` by a signal; Diverged; BlockingIOError while another process trains the run.
    """
    with FolderLock(folder, shared=True) if processes.is_main() else nullcontext():
        file = folder / "config.toml"
        writes = replace_config and processes.is_main()  # the others may be here before the file is
        previous = file.read_bytes() if writes else b""
        if writes:
            write_file(file, config.text.encode())
        try:
            _train_and_report(config, folder, resume=resume)
        except NnfuncError as error:
            if writes and not isinstance(error, Diverged):
                write_file(file, previous)
            raise


def _train_and_report(config: Config, folder: Path, *, resume: bool | list[str]) -> None:
    steps, hint = config.train["steps"], f"Resume with: {run_folder.program_name()} resume {folder}"
    if malloc.is_keeping_memory():
        print("memory  kept between steps (NNFUNC_MALLOC=default returns it to the system)")
    targets = config.tables.get("log", {}).get("to", ()) if processes.is_main() else ()
    with explain_full_disk(folder, hint), open_writers(targets, folder, config.tables) as writers:
        try:
            training = fit_config(config, folder, resume=resume, write_row=writers.write)
        except KeyboardInterrupt:
            if not (folder / "metrics.jsonl").exists():
                raise  # the training never began
            saved = checkpoint.steps(folder / "checkpoints")
            last = f"the last saved step is {saved[-1]}" if saved else "nothing was saved yet"
            raise Stopped(signal.SIGINT, f"stopped immediately; {last}. {hint}") from None
    step, stopped_early = int(training.state.step), training.history.stopped_early
    if step < steps and not stopped_early:
        raise Stopped(training.signals[0], f"stopped at step {step} of {steps}; everything is saved. {hint}")
    if not processes.is_main():
        return
    trained = f"the run stopped early at step {step} and is" if stopped_early else f"all {steps} steps are trained and"
    message = f"{trained} saved; only the metrics and the report are missing. {hint}"
    with explain_full_disk(folder, hint), interrupt_message(message):
        _write_results(config, folder, training)


def fit_config(
    config: Config,
    folder: Path,
    *,
    resume: bool | list[str],
    write_row: Callable[[dict[str, Any]], None] | None = None,
    lines: bool = True,
) -> Training:
    """Train a config in its folder, with a progress bar, to its last step or the first signal.

    config: of the run.
    folder: for checkpoints and metrics.jsonl.
    resume: as in `nf.train`.
    write_row: gets each row of metrics.jsonl.
    lines: whether to print progress where there is no terminal.
    """
    start = time.perf_counter()
    together = processes.count() > 1
    best, steps = BestMetric.of_config(config.tables).name, config.train["steps"]
    with catch_signals(together=together) as signals, show_progress(steps, lines=lines, best=best) as bar:

        def on_row(row: dict[str, Any]) -> None:
            if write_row is None:
                return
            write_row(row)
            if row["split"] == "event" and bar.first_step is not None:  # earlier events are of a previous process
                bar.show_event(row)

        def should_stop(step: int) -> bool:
            if bar.first_step is None and processes.is_main():
                (folder / "result.json").unlink(missing_ok=True)  # of the steps before these
            bar.tick(step)
            processes.report_step(step)
            if processes.stops_at(step):
                signals.append(signal.SIGTERM)
            return bool(signals)

        state, history = fit(
            config.build,
            config.hypers,
            config.data(),
            key=config.key(),
            folder=folder,
            resume=resume,
            changed_data=config.changed_data,
            on_report=bar,
            on_row=on_row,
            should_stop=should_stop,
            **config.train,
            **config.mesh,
        )
    return Training(state, history, signals, bar.first_step, time.perf_counter() - start)


def _write_results(config: Config, folder: Path, training: Training) -> None:
    """Write result.json with the metrics of the best checkpoint, and the report; print both."""
    from nnfunc.commands.report_run import evaluate_for_report
    from nnfunc.reports import run as run_report

    data, test = config.data(), config.test()
    steps = int(training.state.step)
    state, step = restore(config, folder, "best")
    result: dict[str, Any] = {"loop": training.history.loop, "step": step}
    first_step = training.first_step
    if first_step is None:
        previous = status.read_json_table(folder / "result.json")
        result |= {key: previous[key] for key in ("first", "seconds") if metrics_log.to_float(previous.get(key)) >= 0}
        print(f"{folder} is complete: all {steps} steps were already trained (best at step {step})")
    else:
        result |= {"first": first_step, "seconds": round(training.seconds, 2)}
        trained = f"{steps} steps" if first_step == 0 else f"steps {first_step} to {steps}"
        early = f", stopped early of {config.train['steps']}" if training.history.stopped_early else ""
        print(f"trained {trained}{early} in {format_duration(training.seconds)} (best at step {step})")
    if training.history.stopped_early:
        result |= {"stopped_early": steps, "patience": config.train["patience"]}
    splits = {name: arrays for name, arrays in (("validation", data.validation), ("test", test)) if arrays is not None}
    task = rebuild_task(config, state)
    with tuning.pinned(saved_forms(folder) or {}):
        known = {"validation": {} if config.train.get("rollback") else _logged_metrics(training, step)}
        result |= {split: known.get(split) or split_metrics(config, state, split, data) for split in splits}
        for split, values in choose_run_threshold(config, folder, task, state, step).items():
            result[split] |= values
        if config.preprocessing.factory == "forecasting":
            for split in splits:
                result[split] |= _file_errors(config, task, state, split)
    if baseline := baselines(config, task, splits):
        result["baseline"] = baseline
    run_folder.write_json(folder / "result.json", result)
    with tuning.pinned(saved_forms(folder) or {}):
        threshold = status.read_json_table(folder / run_folder.THRESHOLD).get("threshold")
        with ThreadPoolExecutor(1) as pool:
            picture = pool.submit(run_report.draw_curves, folder)
            evaluation = evaluate_for_report(config, task, state, threshold)
    run_report.write_report(folder, evaluation, picture.result())
    if test is not None:
        print_lines(f"test    {metrics_line(result['test'])}")
        print_naive_forecasts("test", result["test"], config)
    for split in list(baseline)[-1:]:
        warn_if_not_better(split, result[split], baseline, config)
    print(f"report  {folder / 'report.html'}")


def _logged_metrics(training: Training, step: int) -> dict[str, float]:
    """The validation metrics of a checkpoint, if this process has evaluated it; else {}.

    Not for a run that may roll back: it evaluates a step again, with other parameters than the checkpoint's.
    step: of the checkpoint.
    """
    columns = training.history.validation
    if training.first_step is None or step <= training.first_step or not columns:
        return {}
    row = np.flatnonzero(columns["step"] == step)[-1]
    return {name: float(column[row]) for name, column in columns.items() if name not in ("step", "seconds")}


def _file_errors(config: Config, task: Task, state: TrainState, split: str) -> dict[str, float]:
    """The errors of forecasts in the units of the file: the metrics of training are in deviations of each series."""
    if getattr(task.objective, "output_type", "") not in NUMBERS:
        return {}
    model = (task, state.params, state.model_state)
    errors = compute_metrics(held_out_rows(config, config.data(), split, *model), ["mae", "rmse"])
    return {f"file_{name}": value for name, value in errors.items()}


def choose_run_threshold(
    config: Config, folder: Path, task: Task, state: TrainState, step: int
) -> dict[str, dict[str, float]]:
    """Choose the threshold that the config asks for, and write threshold.json; the metrics by split that follow it.

    config: of the run.
    folder: of the run.
    task: of the config.
    state, step: of the best checkpoint.
    """
    data = config.data()
    metric = threshold_metric(config, data)
    if metric is None:
        return {}
    model = (task, state.params, state.model_state)
    held_out, threshold = at_threshold(config, data, "validation", *model)
    before, after = (
        compute_metrics(held_out._replace(threshold=level), [metric])[metric] for level in (None, threshold)
    )
    table = {"metric": metric, "threshold": threshold, "value": after, "value_at_half": before, "step": step}
    run_folder.write_json(folder / run_folder.THRESHOLD, table)
    text = ", ".join(f"{level:.4g}" for level in np.ravel(threshold))
    print_lines(f"threshold {text} for {metric} {after:.4g} on the validation split ({before:.4g} at 0.5)")
    names = threshold_names(config)
    result = {"validation": compute_metrics(held_out, names)}
    if data.test is not None:
        result["test"] = compute_metrics(held_out_rows(config, data, "test", *model, threshold=threshold), names)
    return result
