"""The command `nnfunc sweep-best`: the config of a trial of a sweep, or the trial as a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnfunc import check
from nnfunc.check import counted
from nnfunc.commands.sweep.finish_sweep import no_best
from nnfunc.config import Config, restore
from nnfunc.config.restore import save_run
from nnfunc.config.sweep.sweep_config import RESULT, Study, read_study
from nnfunc.runs import run_folder
from nnfunc.sweeps.result import Result

__all__ = ["best"]


def best(folder: Path, trial: int | None = None, save: Path | None = None) -> Config:
    """Print the config of the best trial of a sweep, or of another one, and return it.

    save: a new folder, in which the trial becomes a run like any other.
    Raises: FileNotFoundError for a folder without a sweep, ValueError for one that has not ended.
    """
    own = read_study(folder)
    found = run_folder.read_json(folder / "result.json", RESULT)
    if found is None or not found["complete"]:
        cure = f"Resume it: {run_folder.command()} resume {folder}"
        check.fail("sweep-best", f"the sweep of {folder} has not come to its end. {cure}")
    which = found["best"] if trial is None else trial
    if which is None:
        check.fail("sweep-best", f"{no_best(found['seeds'])}. Ask for one with --trial.")
    _in_range(which, found["runs"])
    if save is None and trial is None:
        settings, run = found["settings"], found["seed"]
        text = _best_of(found)
        config = own.config(settings, run)
    else:
        if save is not None and run_folder.taken(save):
            problem = f"The folder {save} exists already. Choose another with --save."
            raise FileExistsError(problem)
        result = own.result(folder)
        if which in result.refused:
            check.fail("sweep-best", f"trial {which} was refused: {result.refused[which]}")
        config = own.config(result.hypers[which], result.seed[which])
        text = f"trial {which} of {found['runs']}: {_came_to(result, which)}"
        if save is not None:
            _save(own, result, which, save, config)
            text += f"\n# Saved as a run: {save}"
    if found["search"] == "population":
        text += "\n# Its numbers changed on the way, see lineage.csv; these are the last ones."
    print(f"# {text}\n{config.text}", end="")
    return config


def _best_of(found: Mapping[str, Any]) -> str:
    """What a config is of, by result.json."""
    own = f"trial {found['best']}: {found['metric']} {found['score']:.6g}"
    if found["seeds"] == 1:
        return f"best of {counted(found['runs'], 'run')}, {own}"
    settings = counted(found["runs"] // found["seeds"], "setting")
    mean = f"{found['metric']} {found['mean']:.6g} on average over {found['seeds']} seeds"
    return f"best of {settings}, {mean}; of which {own}"


def _came_to(result: Result, trial: int) -> str:
    if trial in result.diverged:
        return f"diverged at step {result.diverged[trial]}"
    ended = f" at step {result.stopped_at[trial]}" if trial in result.stopped_at else ""
    return f"{result.metric.metric} {result.scores[trial]:.6g}{ended}"


def _save(own: Study, result: Result, which: int, folder: Path, config: Config) -> None:
    """Make a trial a run like any other."""
    folder = run_folder.create(own.name, folder)
    save_run(config, folder)
    run_folder.write_environment(folder)
    result.save_trial(which, folder)
    restore.restore(config, folder, "best")  # it can be read back


def _in_range(trial: int, count: int) -> None:
    if not 0 <= trial < count:
        check.fail("sweep-best", f"trial should be in [0, {count}), got {trial}.")
