"""Parts of a sweep as jobs of other processes or machines, which share its folder.

A job runs some trials to a share of their steps and saves them as segments, like any sweep. So a
job that is lost is handed in again, and goes on from what it had saved; what is finished is never run
twice.
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
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc import check, jax_settings
from nnfunc.checkpoint import CheckpointError
from nnfunc.errors import NnfuncError
from nnfunc.sweeps.checkpoints import Store
from nnfunc.sweeps.engine import Engine, Interrupted

__all__ = ["Jobs", "processes", "ray", "run_part", "submitit", "through"]

POLL = 0.05
"""Seconds between two looks at what has become of the jobs."""
LISTEN_EVERY = 2.0
"""Seconds between two looks at what those that run have saved."""
GRACE = 60.0
"""Seconds that jobs have to save and to end when a sweep is stopped."""
CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
"""What a job takes over, so that programs that are compiled need not be again."""


@dataclass
class Jobs:
    """How trials are handed out. submit(function, *args) -> future, with done() and result().

    trials: of one job. retries: how often a job that was lost is handed in again. close: when all is
    over. explain_failure: turns the error of a job into the one that is raised when no job ever succeeded. lost:
    what was, in words. reported_steps: trial -> the last step that was reported. Made by `processes`, `submitit`,
    `ray` and `through`.
    """

    submit: Callable[..., Any]
    trials: int = 16
    retries: int = 2
    close: Callable[[], None] = lambda: None
    explain_failure: Callable[[Exception], Exception] = lambda error: error
    lost: list[str] = field(default_factory=list)
    reported_steps: dict[int, int] = field(default_factory=dict)

    def __call__(self, engine: Engine, trials: list[int], fraction: float) -> None:
        """Run trials of an engine to a share of their steps. Raises: the error of a job given up."""
        store = engine.store
        assert store is not None
        payload = _write_payload(engine, store.folder)
        self.reported_steps.clear()
        running: dict[int, _RunningJob] = {}
        try:
            location = (str(store.folder.resolve()), payload.name)
            self._run(engine, running, location, trials, fraction)
        finally:
            payload.unlink(missing_ok=True)  # jobs that still run see it, save and end
        _await([job.future for job in running.values()])
        self._load_saved(engine, _trials(running))

    def _run(
        self,
        engine: Engine,
        running: dict[int, "_RunningJob"],
        location: tuple[str, str],
        trials: list[int],
        fraction: float,
    ) -> None:
        """Hand trials out until all are done, or a stop is requested. running: the jobs that run."""
        hand_in = lambda part: self.submit(run_part, *location, part, fraction)
        parts = [trials[at : at + self.trials] for at in range(0, len(trials), self.trials)]
        running |= {at: _RunningJob(part, 0, hand_in(part)) for at, part in enumerate(parts)}
        listened_at = time.monotonic()
        while running:
            for at, (part, tries, future) in list(running.items()):
                if not future.done():
                    continue
                try:
                    future.result()
                except Exception as error:
                    if isinstance(error, NnfuncError) and not isinstance(error, CheckpointError):
                        raise
                    if tries >= self.retries and len(running) == len(parts):
                        raise self.explain_failure(error) from error
                    if tries >= self.retries:
                        raise
                    self.lost.append(f"trials {part[0]} to {part[-1]}: {type(error).__name__}")
                    running[at] = _RunningJob(part, tries + 1, hand_in(part))
                else:
                    del running[at]
                    self._load_saved(engine, part)
            if engine.should_stop():
                return
            if time.monotonic() - listened_at > LISTEN_EVERY:
                self._listen(engine, _trials(running))
                listened_at = time.monotonic()
            time.sleep(POLL)

    def _load_saved(self, engine: Engine, trials: list[int]) -> None:
        """Take up what jobs have saved of trials, and tell of it."""
        assert engine.store is not None
        engine.store.refresh()
        for trial in trials:
            state = engine.states[trial]
            before, state.carry = state.step, None
            engine.load([trial])
            if state.step > before:
                self._report(engine, trial, state.step, state.metrics)

    def _listen(self, engine: Engine, trials: list[int]) -> None:
        """Tell of what jobs have saved of trials that they still run."""
        assert engine.store is not None
        if engine.on_report is None:
            return
        engine.store.refresh()
        for trial in trials:
            step, metrics = engine.store.known(trial)
            if step > engine.states[trial].step:
                self._report(engine, trial, step, metrics)

    def _report(self, engine: Engine, trial: int, step: int, metrics: dict[str, dict[int, float]]) -> None:
        """Report a trial's figures of a step, where there are any, once."""
        now = {name: curve[step] for name, curve in metrics.items() if step in curve}
        if engine.on_report is not None and now and step > self.reported_steps.get(trial, 0):
            self.reported_steps[trial] = step
            engine.on_report([trial], step, {n: np.asarray([value]) for n, value in now.items()})


class _RunningJob(NamedTuple):
    """Trials that a job has, how often it was lost, and what tells that it is done."""

    trials: list[int]
    tries: int
    future: Any


def _trials(running: dict[int, _RunningJob]) -> list[int]:
    return [trial for job in running.values() for trial in job.trials]


def _await(futures: list[Any]) -> None:
    """Wait for jobs that were told to end; what has not begun, or takes too long, is cancelled."""
    started = [future for future in futures if not _waits(future) or not future.cancel()]
    until = time.monotonic() + GRACE
    while time.monotonic() < until and not all(future.done() for future in started):
        time.sleep(POLL)
    for future in started:
        if not future.done():
            getattr(future, "cancel", bool)()


def _waits(future: Any) -> bool:
    """Whether it may be cancelled without a loss: submitit tells of its state."""
    return isinstance(future, concurrent.futures.Future) or (str(getattr(future, "state", "")).upper() == "PENDING")


def run_part(folder: str, payload: str, trials: list[int], fraction: float) -> None:
    """What a job does: run these trials to a share of their steps, and save them.

    When the payload is gone, nobody waits for them any more: it saves and ends.
    """
    import cloudpickle

    path = Path(folder) / payload
    try:
        arguments = cloudpickle.loads(path.read_bytes())
    except FileNotFoundError:
        if (path.parent / "plan.json").exists():
            return
        hint = "Give a folder on a disk that all of them share."
        raise FileNotFoundError(f"the job does not see the sweep's folder, {folder}. {hint}") from None
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
            store=store,
            should_stop=lambda: not path.exists(),
        )
        for rows in arguments["batches"]:
            engine.add(rows)
        with suppress(Interrupted):  # which has saved
            engine.advance(trials, fraction)
            engine.save()


def through(executor: Any, *, trials: int = 16, retries: int = 2) -> Jobs:
    """Jobs of an executor of your own: `executor.submit(function, *args)` gives a future.

    executor: such as concurrent.futures' or submitit's. trials: of one job, in [1, ...). retries: how
    often a job that was lost is handed in again.

    >>> import concurrent.futures
    >>> executor = concurrent.futures.ThreadPoolExecutor(2)
    >>> nf.sweeps.through(executor, trials=4).trials
    4
    """
    check.size("through", trials=trials)
    check.size("through", 0, retries=retries)
    if not callable(getattr(executor, "submit", None)):
        expected = "an object with submit(function, *args)"
        check.fail("through", f"executor should be {expected}, got {check.describe(executor)}.", exc_type=TypeError)
    return Jobs(executor.submit, trials, retries)


def processes(workers: int = 2, *, trials: int = 16, retries: int = 2) -> Jobs:
    """Jobs of processes on this machine; one that dies costs what it had not saved.

    They import the script that calls this, so it has to begin its work under
    `if __name__ == "__main__":`. Needs the package cloudpickle (the extra `jobs`).

    workers: processes at once, in [1, ...). trials: of one job, in [1, ...). retries: how often a job that was
    lost is submitted again.

    >>> nf.sweeps.processes(2, trials=8).trials
    8
    """
    check.size("processes", workers=workers)
    check.size("processes", trials=trials)
    check.size("processes", 0, retries=retries)
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    check.package("sweep", "cloudpickle", "nnfunc[jobs]")
    context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    new = lambda: ProcessPoolExecutor(workers, mp_context=context, initializer=_follow)
    pools: list[ProcessPoolExecutor] = []

    def submit(function: Callable[..., Any], *args: Any) -> Any:
        try:
            if not pools:
                pools.append(new())
            return pools[-1].submit(function, *args)
        except BrokenProcessPool:  # a worker died, and all of its pool with it
            pools.append(new())
            return pools[-1].submit(function, *args)

    def close() -> None:
        while pools:
            pools.pop().shutdown(cancel_futures=True)

    def explain_failure(error: Exception) -> Exception:
        if not isinstance(error, BrokenProcessPool):
            return error
        guard = 'if __name__ == "__main__":'
        hint = f"a script that uses them has to begin its work under {guard}, for they import it"
        why = "Either something killed them, such as a lack of memory, or:"
        return RuntimeError(f"processes: they died before one had come to an end. {why} {hint}.")

    return Jobs(submit, trials, retries, close, explain_failure)


def _follow() -> None:
    """What a process does first: it leaves the first Ctrl-C to its parent, and ends when that does."""
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
    """Jobs of SLURM through submitit (the extra `jobs`); the sweep's folder has to be on a shared disk.

    trials, retries: as for `processes`. folder: for submitit's logs. cluster: "slurm", "local", or None for
    the one that submitit detects. parameters: of
    `AutoExecutor.update_parameters`, such as timeout_min=60, slurm_partition="gpu".
    """
    module = check.package("sweep", "submitit", "nnfunc[jobs]")
    executor = module.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**parameters)
    return through(executor, trials=trials, retries=retries)


def ray(*, trials: int = 16, retries: int = 2, **options: Any) -> Jobs:
    """Jobs of a Ray cluster (the extra `ray`), that `ray.init` has joined, or of one begun here.

    trials, retries: as for `processes`. options: of `ray.remote`, such as num_gpus=1.
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
    """A file with all that a job needs to know."""
    cloudpickle = check.package("sweep", "cloudpickle", "nnfunc[jobs]")
    payload = {
        "build_spec": engine.build_spec,
        "draws": engine.draws,
        "metric": engine.metric,
        "execution": engine.execution,
        "chunk": engine.chunk,
        "batches": engine.batches,
        "cache": {name: getattr(jax.config, name) for name in CACHE},
        "settings": jax_settings.portable_settings(),
    }
    for old in folder.glob("jobs-*.pickle"):  # of a sweep that was killed: its jobs may still run
        old.unlink()
    path = folder / f"jobs-{uuid.uuid4().hex[:8]}.pickle"
    path.write_bytes(cloudpickle.dumps(payload))
    return path
