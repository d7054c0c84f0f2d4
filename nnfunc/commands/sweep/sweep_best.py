"""The command `nnfunc sweep-best`: the config of a trial, or the trial saved as a run."""

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnfunc import check
from nnfunc.check import counted
from nnfunc.commands.run_training import choose_run_threshold, new_folder
from nnfunc.commands.sweep.finish_sweep import no_best_reason
from nnfunc.config import Config, restore
from nnfunc.config.restore import save_run
from nnfunc.config.sweep.study import RESULT, read_study
from nnfunc.runs import run_folder
from nnfunc.sweeps.result import Result


def sweep_best(folder: Path, trial: int | None = None, save: Path | None = None) -> Config:
    """Print and return the config of a trial.

    folder: of the sweep.
    trial: its index, from 0; by default the best one.
    save: a new folder, in which the trial becomes a run like any other.
    Raises: FileNotFoundError when the folder is not a sweep; ValueError for one that is not complete.
    """
    study = read_study(folder)
    summary = run_folder.read_json(folder / "result.json", RESULT)
    if summary is None or not summary["complete"]:
        hint = f"Resume it: {run_folder.program_name()} resume {folder}"
        check.fail("sweep-best", f"the sweep of {folder} is not complete.", hint=hint)
    index = summary["best"] if trial is None else trial
    if index is None:
        problem = f"there is no best trial: {no_best_reason(summary['seeds'])}."
        check.fail("sweep-best", problem, hint="Choose a trial with --trial.")
    if not 0 <= index < summary["runs"]:
        check.fail("sweep-best", expected=f"trial should be in [0, {summary['runs']})", actual=index)
    if save is None and trial is None:
        comment = _describe_best(summary)
        config = study.config(summary["settings"], summary["seed"])
    else:
        if save is not None and run_folder.is_occupied(save):
            hint = "Choose another with --save."
            check.fail("sweep-best", f"the folder {save} exists already.", hint=hint, exc_type=FileExistsError)
        result = study.result(folder)
        if index in result.refused:
            check.fail("sweep-best", f"trial {index} was refused: {result.refused[index]}")
        config = study.config(result.hypers[index], result.seed[index])
        comment = f"trial {index} of {summary['runs']}: {_outcome(result, index)}"
        if save is not None:
            _save_as_run(folder, result, index, save, config)
            comment += f"\n# Saved as a run: {save}"
    if summary["search"] == "population":
        comment += "\n# The hyperparameters changed during training (see lineage.csv); these are the last ones."
    print(f"# {comment}\n{config.text}", end="")
    return config


def _describe_best(summary: Mapping[str, Any]) -> str:
    """The best trial and its score in one line. summary: of result.json."""
    metric, seeds = summary["metric"], summary["seeds"]
    best = f"trial {summary['best']}: {metric} {summary['score']:.6g}"
    if seeds == 1:
        return f"best of {counted(summary['runs'], 'run')}, {best}"
    mean = f"{metric} {summary['mean']:.6g} on average over {seeds} seeds"
    return f"best of {counted(summary['runs'] // seeds, 'setting')}, {mean}; of these {best}"


def _outcome(result: Result, trial: int) -> str:
    if trial in result.diverged:
        return f"diverged at step {result.diverged[trial]}"
    step = f" at step {result.stopped_at[trial]}" if trial in result.stopped_at else ""
    return f"{result.metric.name} {result.scores[trial]:.6g}{step}"


def _save_as_run(sweep: Path, result: Result, trial: int, folder: Path, config: Config) -> None:
    with new_folder("", folder, "stopped before the trial was saved"):
        save_run(config, folder)
        run_folder.write_environment(folder)
        result.save_trial(trial, folder)
        state, step = restore.restore(config, folder, "best")  # raises when it cannot be read back
        with contextlib.redirect_stdout(sys.stderr):  # standard output is the config
            choose_run_threshold(config, folder, restore.rebuild_task(config, state), state, step)
        run_folder.write_json(folder / run_folder.TRIAL, {"sweep": str(sweep), "trial": trial, "step": step})
