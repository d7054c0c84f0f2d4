"""The command `nnfunc sweep-best`: the config of a member of a sweep, or the member as a run."""

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


def best(folder: Path, member: int | None = None, save: Path | None = None) -> Config:
    """Print the config of the best member of a sweep, or of another one, and return it.

    save: a new folder, in which the member becomes a run like any other.
    Raises: FileNotFoundError for a folder without a sweep, ValueError for one that has not ended.
    """
    own = read_study(folder)
    found = run_folder.read_json(folder / "result.json", RESULT)
    if found is None or not found["complete"]:
        cure = f"Resume it: {run_folder.command()} resume {folder}"
        check.fail("sweep-best", f"the sweep of {folder} has not come to its end. {cure}")
    which = found["best"] if member is None else member
    if which is None:
        check.fail("sweep-best", f"{no_best(found['seeds'])}. Ask for one with --member.")
    _in_range(which, found["runs"])
    if save is None and member is None:
        settings, run = found["settings"], found["seed"]
        text = _best_of(found)
        config = own.config(settings, run)
    else:
        if save is not None and run_folder.taken(save):
            problem = f"The folder {save} exists already. Choose another with --save."
            raise FileExistsError(problem)
        result = own.result(folder)
        if which in result.refused:
            check.fail("sweep-best", f"member {which} was refused: {result.refused[which]}")
        config = own.config(result.hypers[which], result.seed[which])
        text = f"member {which} of {found['runs']}: {_came_to(result, which)}"
        if save is not None:
            _save(own, result, which, save, config)
            text += f"\n# Saved as a run: {save}"
    if found["search"] == "population":
        text += "\n# Its numbers changed on the way, see lineage.csv; these are the last ones."
    print(f"# {text}\n{config.text}", end="")
    return config


def _best_of(found: Mapping[str, Any]) -> str:
    """What a config is of, by result.json."""
    own = f"member {found['best']}: {found['figure']} {found['score']:.6g}"
    if found["seeds"] == 1:
        return f"best of {counted(found['runs'], 'run')}, {own}"
    settings = counted(found["runs"] // found["seeds"], "setting")
    mean = f"{found['figure']} {found['mean']:.6g} on average over {found['seeds']} seeds"
    return f"best of {settings}, {mean}; of which {own}"


def _came_to(result: Result, member: int) -> str:
    if member in result.diverged:
        return f"diverged at step {result.diverged[member]}"
    ended = f" at step {result.stopped[member]}" if member in result.stopped else ""
    return f"{result.figure.metric} {result.scores[member]:.6g}{ended}"


def _save(own: Study, result: Result, which: int, folder: Path, config: Config) -> None:
    """Make a member a run like any other."""
    folder = run_folder.create(own.name, folder)
    save_run(config, folder)
    run_folder.write_environment(folder)
    result.save_member(which, folder)
    restore.restore(config, folder, "best")  # it can be read back


def _in_range(member: int, count: int) -> None:
    if not 0 <= member < count:
        check.fail("sweep-best", f"member should be in [0, {count}), got {member}.")
