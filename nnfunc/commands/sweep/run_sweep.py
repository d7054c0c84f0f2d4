"""The command `nnfunc sweep`, and `nnfunc resume` of a sweep.

The folder of a sweep has
sweep.toml, sweep.json      the config file and the arguments of the sweep
data/                       the preprocessing of each data set, as in the folder of a run
environment.json            versions, device and command
segments/, plan.json        the progress of the trials; see `nnfunc.sweeps.checkpoints`
table.csv, curves.csv       the results, also as .parquet; sometimes trials.csv and lineage.csv
result.json                 the best trial and its metrics
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
from nnfunc.commands.sweep.finish_sweep import write_results
from nnfunc.commands.sweep.live_progress import show_sweep_progress
from nnfunc.commands.terminal import print_lines
from nnfunc.config.sweep.load_sweep import load_sweep
from nnfunc.config.sweep.study import RESULT, Study, read_study, save_study
from nnfunc.distributed import processes
from nnfunc.runs import run_folder
from nnfunc.sweeps import executors
from nnfunc.sweeps.engine import Engine
from nnfunc.sweeps.progress import ProgressWatch
from nnfunc.sweeps.sweep import conduct
from nnfunc.sweeps.worker_processes import work, worker_processes


def sweep(
    file: Path,
    settings: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    folder: Path | None = None,
    *,
    jobs: str | None = None,
    dry_run: bool = False,
) -> Path | None:
    """Run a sweep in a new folder, and return the folder.

    file: a TOML file.
    settings: what to vary, such as "schedule.peak=log(1e-4,1e-1)", and overrides.
    options: trials, method, seeds, best, search, execution and chunk; None for a default.
    folder: a new one, by default the next of runs/NAME-sweep-1.
    jobs: a number of processes, "submitit" or "ray"; None runs the trials in this process.
    dry_run: print the plan, and return None.
    Raises: ConfigError; FileExistsError; `Stopped` by a signal.
    """
    if not processes.is_main():
        return work()
    with interrupts.interrupt_message("stopped before the sweep began; nothing was written"):
        study = Study(load_sweep(file, settings, options), file.stem)
        text = file.read_bytes()
        _check_jobs(jobs, study)
        engine = study.engine()
        planned = study.start(engine)  # reports mistakes of the config and the data before there is a folder
        if dry_run:
            print_lines(study.plan(planned))
            return None
        existed = folder is not None and folder.is_dir()
        folder = run_folder.create_folder(f"{file.stem}-sweep", folder)
        try:
            with interrupts.explain_full_disk(folder, "Sweep again."):
                save_study(folder, text, study, settings, options)
        except BaseException:
            run_folder.remove_folder(folder, keep=existed)
            raise
    try:
        _run(study, folder, jobs, engine, planned)
    except (ValueError, TypeError, ImportError):
        if not any(folder.glob("segments/*")):  # no trial began
            run_folder.remove_folder(folder, keep=existed)
        raise
    return folder


def resume(folder: Path, *, jobs: str | None = None, changed_data: bool = False) -> None:
    """Resume a sweep; it ends with the same table as one that never stopped.

    folder: of the sweep.
    jobs: see `sweep`.
    changed_data: accept data files that changed since the sweep began; their original rows keep their splits.
    """
    if not processes.is_main():
        return work()
    _run(read_study(folder, changed_data=changed_data), folder, jobs)


def _run(
    study: Study, folder: Path, jobs: str | None, engine: Engine | None = None, planned: Engine | None = None
) -> None:
    """Run the remaining trials, and write the results. engine, planned: of a new sweep; see `Study.start`."""
    hint = f"Resume with: {run_folder.program_name()} resume {folder}"
    start, store = time.perf_counter(), study.store(folder)
    previous, executor = run_folder.read_json(folder / "result.json", RESULT), None
    with (
        ExitStack() as stack,
        interrupts.explain_full_disk(folder, hint),
        interrupts.interrupt_message(f"stopped immediately; everything saved is intact. {hint}"),
    ):
        stack.callback(store.close)
        with (
            show_sweep_progress(study.metric.name) as progress,
            interrupts.catch_signals(progress.notify) as study.signals,
        ):
            engine = study.engine(store) if engine is None else engine
            planned = study.start(engine) if planned is None else planned
            if previous is None:
                print_lines(study.plan(planned))
            progress.trials = study.trials(engine)
            if jobs is not None or processes.count() > 1:
                executor = _create_executor(jobs, folder, progress.trials)
                stack.callback(executor.close)
                progress.show_message("waiting for the jobs ...")
            watch = ProgressWatch(progress, start)
            engine.store, engine.on_report, engine.jobs = store, watch, executor
            result = conduct(engine, study.search, study.key, start, watch)
        if not result.complete:
            done = sum(state.ended or state.stop_reason is not None for state in engine.states.values())
            saved = "everything is saved" if executor is None else "what the jobs saved is intact"
            message = f"stopped with {done} of {progress.trials} trials complete; {saved}. {hint}"
            raise interrupts.Stopped(study.signals[0], message)
        message = f"all trials are complete and saved; only the tables and the report are missing. {hint}"
        with interrupts.interrupt_message(message):
            if previous is not None and watch.first_report is None:
                result.seconds = previous["seconds"]
                print(f"{folder} is complete: all its trials were already trained")
            write_results(study, result, folder)


def _check_jobs(jobs: str | None, study: Study) -> None:
    together = processes.count() > 1
    if jobs is None and not together:
        return
    if study.search_name == "population":
        hint = "Start one process." if together else "Leave --jobs out."
        check.fail("sweep", "a population search runs in one process.", hint=hint)
    if jobs is None:
        return
    if together:
        hint = "Leave --jobs out."
        check.fail("sweep", f"its trials run in the {processes.count()} processes that were started.", hint=hint)
    if jobs not in ("submitit", "ray") and not _process_count(jobs):
        expected = "jobs should be a number of processes from 1 to 9999, submitit or ray"
        check.fail("sweep", expected=expected, actual=reprlib.repr(jobs))


def _process_count(jobs: str) -> int:
    return int(jobs) if jobs.isdecimal() and len(jobs) <= 4 else 0


def _create_executor(jobs: str | None, folder: Path, trials: int) -> executors.Jobs:
    if jobs is None:
        return worker_processes(trials=min(16, -(-trials // processes.count())))
    if jobs == "submitit":
        return executors.submitit(folder / "jobs")
    if jobs == "ray":
        return executors.ray()
    count = _process_count(jobs)
    return executors.processes(count, trials=min(16, -(-trials // count)))
