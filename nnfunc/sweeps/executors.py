"""Parts of a sweep as jobs of other processes or machines, which share its folder.

A job runs some trials to a fraction of their steps and saves them as segments, like any sweep. A job that is
lost is submitted again and continues from what it saved; finished trials never run twice.
"""

import concurrent.futures
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnfunc import check, jax_settings
from nnfunc.checkpoint import CheckpointError
from nnfunc.errors import MissingFileError, NnfuncError, WorkerError
from nnfunc.sweeps.checkpoints import Store
from nnfunc.sweeps.engine import Engine, Interrupted

POLL = 0.05
"""Seconds between two checks of whether jobs are done."""
LISTEN_EVERY = 2.0
"""Seconds between two reads of what running jobs have saved."""
GRACE = 60.0
"""Seconds in which jobs save and end when a sweep is stopped."""
CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
"""JAX's settings that a job inherits, so that it finds the programs that are compiled already."""


@dataclass
class Jobs:
    """How a sweep submits its trials as jobs; made by `processes`, `submitit`, `ray` and `through`.

    submit: (function, *args) -> future, with done() and result().
    trials: of one job.
    retries: how often a lost job is submitted again.
    close: called at the end.
    explain_failure: the error to raise for the error of a job, when no job has succeeded.
    lost: a text for each lost job.
    reported_steps: trial -> the last step that was reported.
    """

    submit: Callable[..., Any]
    trials: int = 16
    retries: int = 2
    close: Callable[[], None] = lambda: None
    explain_failure: Callable[[Exception], Exception] = lambda error: error
    lost: list[str] = field(default_factory=list)
    reported_steps: dict[int, int] = field(default_factory=dict)

    def __call__(self, engine: Engine, trials: list[int], fraction: float) -> None:
        """Run trials of an engine to a fraction of their steps.

        engine: of the sweep.
        trials: their indices.
        fraction: in (0, 1].
        Raises: the error of a job that failed too often.
        """
        store = engine.store
        assert store is not None
        payload = _write_payload(engine, store.folder)
        self.reported_steps.clear()
        parts = [trials[at : at + self.trials] for at in range(0, len(trials), self.trials)]
        futures: dict[int, Any] = {}  # index of a part -> its running job
        try:
            submit = lambda part: self.submit(run_part, str(store.folder.resolve()), payload.name, part, fraction)
            self._run(engine, submit, parts, futures)
        finally:
            payload.unlink(missing_ok=True)  # jobs that still run notice it, save and end
        _await(list(futures.values()))
        self._load_saved(engine, [trial for index in futures for trial in parts[index]])

    def _run(
        self, engine: Engine, submit: Callable[[list[int]], Any], parts: list[list[int]], futures: dict[int, Any]
    ) -> None:
        """Submit the parts until all are done or the sweep is asked to stop. futures: of the parts that run."""
        losses = [0] * len(parts)
        futures |= {index: submit(part) for index, part in enumerate(parts)}
        listened_at = time.monotonic()
        while futures:
            for index in [index for index, future in futures.items() if future.done()]:
                try:
                    futures[index].result()
                except Exception as error:
                    is_transient = isinstance(error, CheckpointError | MissingFileError)  # as on a slow shared disk
                    if isinstance(error, NnfuncError) and not is_transient:
                        raise
                    if losses[index] >= self.retries:
                        if len(futures) < len(parts):
                            raise
                        raise self.explain_failure(error) from error
                    losses[index] += 1
                    self.lost.append(f"trials {parts[index][0]} to {parts[index][-1]}: {type(error).__name__}")
                    futures[index] = submit(parts[index])
                else:
                    del futures[index]
                    self._load_saved(engine, parts[index])
            if engine.should_stop():
                return
            if time.monotonic() - listened_at > LISTEN_EVERY:
                self._report_saved(engine, [trial for index in futures for trial in parts[index]])
                listened_at = time.monotonic()
            time.sleep(POLL)

    def _load_saved(self, engine: Engine, trials: list[int]) -> None:
        """Load and report what jobs have saved of trials that they no longer run."""
        assert engine.store is not None
        engine.store.refresh()
        for trial in trials:
            state = engine.states[trial]
            before, state.carry = state.step, None
            engine.load([trial])
            if state.step > before:
                self._report(engine, trial, state.step, state.metrics)

    def _report_saved(self, engine: Engine, trials: list[int]) -> None:
        """Report what jobs have saved of trials that they still run."""
        assert engine.store is not None
        if engine.on_report is None:
            return
        engine.store.refresh()
        for trial in trials:
            step, metrics = engine.store.known(trial)
            if step > engine.states[trial].step:
                self._report(engine, trial, step, metrics)

    def _report(self, engine: Engine, trial: int, step: int, metrics: dict[str, dict[int, float]]) -> None:
        """Report the metrics of a trial at a step once, if there are any."""
        values = {name: curve[step] for name, curve in metrics.items() if step in curve}
        if engine.on_report is not None and values and step > self.reported_steps.get(trial, 0):
            self.reported_steps[trial] = step
            engine.on_report([trial], step, {name: np.asarray([value]) for name, value in values.items()})


def _await(futures: list[Any]) -> None:
    """Wait for jobs to save and end. Those that have not begun, or take too long, are cancelled."""
    started = [future for future in futures if not _is_pending(future) or not future.cancel()]
    until = time.monotonic() + GRACE
    while time.monotonic() < until and not all(future.done() for future in started):
        time.sleep(POLL)
    for future in started:
        if not future.done():
            getattr(future, "cancel", bool)()


def _is_pending(future: Any) -> bool:
    """Whether a job may be cancelled without a loss: concurrent.futures refuses others, submitit has a state."""
    return isinstance(future, concurrent.futures.Future) or str(getattr(future, "state", "")).upper() == "PENDING"


def run_part(folder: str, payload: str, trials: list[int], fraction: float) -> None:
    """The work of one job: run trials to a fraction of their steps, and save them.

    folder: of the sweep.
    payload: the name of a file in it, with the arguments of all jobs; once that is gone, the job saves and ends.
    trials: their indices.
    fraction: in (0, 1].
    """
    import cloudpickle

    path = Path(folder) / payload
    try:
        arguments = cloudpickle.loads(path.read_bytes())
    except FileNotFoundError:
        if (path.parent / "plan.json").exists():
            return
        problem, hint = f"the job does not see the sweep's folder, {folder}.", "Use a folder on a shared disk."
        check.fail("sweep", problem, hint=hint, exc_type=FileNotFoundError)
    for name, value in arguments["cache"].items():
        jax.config.update(name, value)
    with jax_settings.enter_settings(arguments["settings"]):
        store = Store(folder, resume=True, of={}, shared=True)
        engine = Engine(
            arguments["build_spec"],
            arguments["draws"],
            arguments["metric"],
            execution=arguments["execution"],
            chunk=arguments["chunk"],
            on=arguments["on"],
            store=store,
            should_stop=lambda: not path.exists(),
        )
        for rows in arguments["batches"]:
            engine.add(rows)
        with suppress(Interrupted):  # raised after a save
            engine.advance(trials, fraction)
            engine.save()


def through(executor: Any, *, trials: int = 16, retries: int = 2) -> Jobs:
    """Jobs that an executor of yours runs: `executor.submit(function, *args)` returns a future.

    executor: such as those of concurrent.futures and submitit.
    trials: the number in one job, at least 1.
    retries: how often a lost job is submitted again, at least 0.

    >>> import concurrent.futures
    >>> executor = concurrent.futures.ThreadPoolExecutor(2)
    >>> nf.sweeps.through(executor, trials=4).trials
    4
    """
    check.size("through", trials=trials)
    check.size("through", 0, retries=retries)
    if not callable(getattr(executor, "submit", None)):
        expected, actual = "executor should be an object with submit(function, *args)", check.describe(executor)
        check.fail("through", expected=expected, actual=actual, exc_type=TypeError)
    return Jobs(executor.submit, trials, retries)


def processes(workers: int = 2, *, trials: int = 16, retries: int = 2) -> Jobs:
    """Jobs in processes on this machine. A process that dies loses only what it has not saved.

    Each process imports the script that calls this, so the script has to do its work under
    `if __name__ == "__main__":`. Needs the package cloudpickle (the extra `jobs`).

    workers: how many processes run at once, 1 to 1024.
    trials: the number in one job, at least 1.
    retries: how often a lost job is submitted again, at least 0.

    >>> nf.sweeps.processes(2, trials=8).trials
    8
    """
    check.size("processes", 1, 1024, workers=workers)
    check.size("processes", trials=trials)
    check.size("processes", 0, retries=retries)
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    check.package("sweep", "cloudpickle", "nnfunc[jobs]")
    context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    new = lambda: ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_parent)
    pools: list[ProcessPoolExecutor] = []

    def submit(function: Callable[..., Any], *args: Any) -> Any:
        with suppress(BrokenProcessPool):
            if pools:
                return pools[-1].submit(function, *args)
        pools.append(new())  # the first one, or after a process died, and with it its pool
        return pools[-1].submit(function, *args)

    def close() -> None:
        while pools:
            pools.pop().shutdown(cancel_futures=True)

    def explain_failure(error: Exception) -> Exception:
        if not isinstance(error, BrokenProcessPool):
            return error
        problem = "all processes ended before a job was done: they ran out of memory, or could not import your script."
        hint = 'A script that uses processes should do its work under if __name__ == "__main__":.'
        return WorkerError(problem, where="processes", hint=hint)

    return Jobs(submit, trials, retries, close, explain_failure)


def _follow_parent() -> None:
    """Let a process ignore the first Ctrl-C, which its parent handles, and end when its parent ends."""
    import multiprocessing

    caught: list[int] = []

    def note(signum: int, frame: Any) -> None:
        if caught:
            os._exit(128 + signum)
        caught.append(signum)

    def end() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
        os._exit(1)

    signal.signal(signal.SIGINT, note)
    threading.Thread(target=end, daemon=True).start()


def submitit(
    folder: str | Path, *, cluster: str | None = None, trials: int = 16, retries: int = 2, **parameters: Any
) -> Jobs:
    """Jobs of SLURM through submitit (the extra `jobs`). The sweep's folder has to be on a shared disk.

    folder: for submitit's logs.
    cluster: "slurm", "local", or None for the one that submitit detects.
    trials, retries: as for `processes`.
    parameters: of submitit's `AutoExecutor.update_parameters`, such as timeout_min=60, slurm_partition="gpu".
    """
    module = check.package("sweep", "submitit", "nnfunc[jobs]")
    executor = module.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**parameters)
    return through(executor, trials=trials, retries=retries)


def ray(*, trials: int = 16, retries: int = 2, **options: Any) -> Jobs:
    """Jobs of the Ray cluster that `ray.init` has joined, or of a new one (the extra `ray`).

    trials, retries: as for `processes`.
    options: of `ray.remote`, such as num_gpus=1.
    """
    module = check.package("sweep", "ray", "nnfunc[ray]")
    if not module.is_initialized():
        module.init(include_dashboard=False, log_to_driver=False)

    class Future:
        def __init__(self, reference: Any):
            self.reference = reference

        def done(self) -> bool:
            return bool(module.wait([self.reference], timeout=0)[0])

        def result(self) -> Any:
            return module.get(self.reference)

        def cancel(self) -> None:
            module.cancel(self.reference)

    def submit(function: Callable[..., Any], *args: Any) -> Future:
        remote = module.remote(**options)(function) if options else module.remote(function)
        return Future(remote.remote(*args))

    return Jobs(submit, trials, retries)


def _write_payload(engine: Engine, folder: Path) -> Path:
    """Write the file with the arguments of all jobs, and return its path."""
    cloudpickle = check.package("sweep", "cloudpickle", "nnfunc[jobs]")
    payload = {
        "build_spec": engine.build_spec,
        "draws": engine.draws,
        "metric": engine.metric,
        "execution": engine.execution,
        "chunk": engine.chunk,
        "on": engine.on,
        "batches": engine.batches,
        "cache": {name: getattr(jax.config, name) for name in CACHE},
        "settings": jax_settings.portable_settings(),
    }
    for old in folder.glob("jobs-*.pickle"):  # left by a sweep that was killed; its jobs may still run
        old.unlink()
    path = folder / f"jobs-{uuid.uuid4().hex[:8]}.pickle"
    path.write_bytes(cloudpickle.dumps(payload))
    return path
