"""The commands `nnfunc sweep` and `nnfunc resume` of a sweep: from a config to a folder.

A sweep's folder holds
sweep.toml, sweep.json      the file and the words that it was begun with
data/                       what each of its data sets learned, as in the folder of a run
environment.json            versions, device and command
segments/, plan.json        what its members have come to; see `nnfunc.sweeps.checkpoints`
table.csv, curves.csv       and members.csv, lineage.csv where there is more to tell; as .parquet too
result.json                 the best member and what it reached
report.html
"""

import reprlib
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nnfunc import check
from nnfunc.commands import interrupts
from nnfunc.commands.sweep.finish_sweep import finish
from nnfunc.commands.sweep.live_progress import live
from nnfunc.config.sweep.load_sweep import load_sweep
from nnfunc.config.sweep.sweep_config import RESULT, Study, read_study, save_study
from nnfunc.runs import run_folder
from nnfunc.sweeps import executors
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.progress import Watch
from nnfunc.sweeps.sweep import conduct

__all__ = ["resume", "sweep"]


def sweep(
    file: Path,
    words: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    *,
    jobs: str | None = None,
    dry_run: bool = False,
) -> Path | None:
    """Run a sweep in a new folder, and return the folder; dry_run: only print its plan.

    options: members, method, seeds, best, search, way and chunk, those that are not None. jobs: a
    number of processes, "submitit" or "ray". Raises: ConfigError; `Stopped` by a signal.
    """
    with interrupts.interrupt_message("stopped before the sweep began; nothing was written"):
        own = Study(load_sweep(file, words, options), file.stem)
        text = file.read_bytes()
        _check_jobs(jobs, own)
        engine = own.engine()
        planned = own.start(engine)  # mistakes, the data's too, are known before there is a folder
        if dry_run:
            print(own.plan(planned))
            return None
        there = folder is not None and folder.is_dir()
        folder = run_folder.create(f"{file.stem}-sweep", folder)
        try:
            with interrupts.explain_full_disk(folder, "Sweep again."):
                save_study(folder, text, own, words, options)
        except BaseException:
            run_folder.discard(folder, keep=there)
            raise
    try:
        _run(own, folder, jobs, engine, planned)
    except (ValueError, TypeError, ImportError):
        if not any(folder.glob("segments/*")):  # it never began: leave nothing behind
            run_folder.discard(folder, keep=there)
        raise
    return folder


def resume(folder: Path, *, jobs: str | None = None, changed_data: bool = False) -> None:
    """Go on with a sweep that was stopped or killed; it ends with the same table.

    changed_data: go on where the data files are not what they were, with the splits of then.
    """
    _run(read_study(folder, changed_data=changed_data), folder, jobs)


def _run(
    own: Study, folder: Path, jobs: str | None, engine: Engine | None = None, planned: Engine | None = None
) -> None:
    """Run what is left of a sweep, and write what there is to say of it.

    engine, planned: of a sweep that begins; see `Study.begin`.
    """
    go_on = f"Resume with: {run_folder.command()} resume {folder}"
    start, store = time.perf_counter(), own.store(folder)
    before, handed = run_folder.read_json(folder / "result.json", RESULT), None
    with (
        ExitStack() as stack,
        interrupts.explain_full_disk(folder, go_on),
        interrupts.interrupt_message(f"stopped immediately; everything saved is intact. {go_on}"),
    ):
        stack.callback(store.close)
        with live(own.figure.metric) as panel, interrupts.catch_signals(panel.tell) as own.signals:
            engine = own.engine(store) if engine is None else engine
            planned = own.start(engine) if planned is None else planned
            if before is None:
                print(own.plan(planned), flush=True)
            panel.members = own.members(engine)
            if jobs is not None:
                handed = _jobs(jobs, folder, panel.members)
                stack.callback(handed.close)
                panel.waiting("the jobs run ...")
            watch = Watch(panel, start)
            engine.store, engine.told, engine.jobs = store, watch, handed
            result = conduct(engine, own.search, own.key, start, watch)
        if not result.complete:
            done = sum(t.ended or t.left is not None for t in engine.tracks.values())
            kept = "all is saved" if handed is None else "what the jobs had saved is kept"
            words = f"stopped with {done} of {panel.members} members at their end; {kept}."
            raise interrupts.Stopped(own.signals[0], f"{words} {go_on}")
        trained = "all members have run and are saved; only tables and report are missing."
        with interrupts.interrupt_message(f"{trained} {go_on}"):
            if before is not None and watch.first is None:
                result.seconds = before["seconds"]
                print(f"{folder} is complete: all its members were already trained")
            finish(own, result, folder)


def _check_jobs(given: str | None, own: Study) -> None:
    if given is None:
        return
    if own.search_name == "population":
        problem = "members that learn from each other run in one process"
        check.fail("sweep", f"{problem}, so jobs should be left out, got {given!r}.")
    if given not in ("submitit", "ray") and not _workers(given):
        wanted = "a number of processes from 1 to 9999, submitit or ray"
        check.fail("sweep", f"jobs should be {wanted}, got {reprlib.repr(given)}.")


def _workers(given: str) -> int:
    return int(given) if given.isdecimal() and len(given) <= 4 else 0


def _jobs(given: str, folder: Path, members: int) -> executors.Jobs:
    """What runs so many members elsewhere. given: of `_check_jobs`."""
    if given == "submitit":
        return executors.submitit(folder / "jobs")
    if given == "ray":
        return executors.ray()
    workers = _workers(given)
    return executors.processes(workers, members=min(16, -(-members // workers)))
