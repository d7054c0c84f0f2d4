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
HEAR = 2.0
"""Seconds between two looks at what those that run have saved."""
GRACE = 60.0
"""Seconds that jobs have to save and to end when a sweep is stopped."""
CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
"""What a job takes over, so that programs that are compiled need not be again."""


@dataclass
class Jobs:
    """How trials are handed out. submit(function, *args) -> future, with done() and result().

    trials: of one job. retries: how often a job that was lost is handed in again. close: when all is
    over. given_up: makes of the error of a job, when none ever came to its end, what is raised. lost:
    what was, in words. heard: trial -> the step that was told of. Made by `processes`, `submitit`,
    `ray` and `through`.
    """

    submit: Callable[..., Any]
    trials: int = 16
    retries: int = 2
    close: Callable[[], None] = lambda: None
    given_up: Callable[[Exception], Exception] = lambda error: error
    lost: list[str] = field(default_factory=list)
    heard: dict[int, int] = field(default_factory=dict)

    def __call__(self, engine: Engine, trials: list[int], share: float) -> None:
        """Run trials of an engine to a share of their steps. Raises: the error of a job given up."""
        store = engine.store
        assert store is not None
        payload = _written(engine, store.folder)
        self.heard.clear()
        going: dict[int, _Handed] = {}
        try:
            place = (str(store.folder.resolve()), payload.name)
            self._run(engine, going, place, trials, share)
        finally:
            payload.unlink(missing_ok=True)  # jobs that still run see it, save and end
        _await([handed.future for handed in going.values()])
        self._arrived(engine, _trials(going))

    def _run(
        self, engine: Engine, going: dict[int, "_Handed"], place: tuple[str, str], trials: list[int], share: float
    ) -> None:
        """Hand trials out until all are done, or somebody asks to stop; going: those at work."""
        hand_in = lambda part: self.submit(run_part, *place, part, share)
        parts = [trials[at : at + self.trials] for at in range(0, len(trials), self.trials)]
        going |= {at: _Handed(part, 0, hand_in(part)) for at, part in enumerate(parts)}
        heard = time.monotonic()
        while going:
            for at, (part, tries, future) in list(going.items()):
                if not future.done():
                    continue
                try:
                    future.result()
                except Exception as error:
                    if isinstance(error, NnfuncError) and not isinstance(error, CheckpointError):
                        raise
                    if tries >= self.retries and len(going) == len(parts):
                        raise self.given_up(error) from error
                    if tries >= self.retries:
                        raise
                    self.lost.append(f"trials {part[0]} to {part[-1]}: {type(error).__name__}")
                    going[at] = _Handed(part, tries + 1, hand_in(part))
                else:
                    del going[at]
                    self._arrived(engine, part)
            if engine.stops():
                return
            if time.monotonic() - heard > HEAR:
                self._listen(engine, _trials(going))
                heard = time.monotonic()
            time.sleep(POLL)

    def _arrived(self, engine: Engine, trials: list[int]) -> None:
        """Take up what jobs have saved of trials, and tell of it."""
        assert engine.store is not None
        engine.store.look()
        for trial in trials:
            track = engine.tracks[trial]
            before, track.carry = track.step, None
            engine.adopt([trial])
            if track.step > before:
                self._tell(engine, trial, track.step, track.figures)

    def _listen(self, engine: Engine, trials: list[int]) -> None:
        """Tell of what jobs have saved of trials that they still run."""
        assert engine.store is not None
        if engine.told is None:
            return
        engine.store.look()
        for trial in trials:
            step, figures = engine.store.known(trial)
            if step > engine.tracks[trial].step:
                self._tell(engine, trial, step, figures)

    def _tell(self, engine: Engine, trial: int, step: int, figures: dict[str, dict[int, float]]) -> None:
        """Report a trial's figures of a step, where there are any, once."""
        now = {name: curve[step] for name, curve in figures.items() if step in curve}
        if engine.told is not None and now and step > self.heard.get(trial, 0):
            self.heard[trial] = step
            engine.told([trial], step, {n: np.asarray([value]) for n, value in now.items()})


class _Handed(NamedTuple):
    """Trials that a job has, how often it was lost, and what tells that it is done."""

    trials: list[int]
    tries: int
    future: Any


def _trials(going: dict[int, _Handed]) -> list[int]:
    return [trial for handed in going.values() for trial in handed.trials]


def _await(futures: list[Any]) -> None:
    """Wait for jobs that were told to end; what has not begun, or takes too long, is cancelled."""
    begun = [future for future in futures if not _waits(future) or not future.cancel()]
    until = time.monotonic() + GRACE
    while time.monotonic() < until and not all(future.done() for future in begun):
        time.sleep(POLL)
    for future in begun:
        if not future.done():
            getattr(future, "cancel", bool)()


def _waits(future: Any) -> bool:
    """Whether it may be cancelled without a loss: submitit tells of its state."""
    return isinstance(future, concurrent.futures.Future) or (str(getattr(future, "state", "")).upper() == "PENDING")


def run_part(folder: str, payload: str, trials: list[int], share: float) -> None:
    """What a job does: run these trials to a share of their steps, and save them.

    When the payload is gone, nobody waits for them any more: it saves and ends.
    """
    import cloudpickle

    path = Path(folder) / payload
    try:
        given = cloudpickle.loads(path.read_bytes())
    except FileNotFoundError:
        if (path.parent / "plan.json").exists():
            return
        cure = "Give a folder on a disk that all of them share."
        raise FileNotFoundError(f"the job does not see the sweep's folder, {folder}. {cure}") from None
    for name, value in given["cache"].items():
        jax.config.update(name, value)
    with jax_settings.enter(given["settings"]):
        store = Store(folder, resume=True, of={}, shared=True)
        engine = Engine(
            given["build_spec"],
            given["draws"],
            given["figure"],
            execution=given["execution"],
            chunk=given["chunk"],
            store=store,
            stops=lambda: not path.exists(),
        )
        for rows in given["batches"]:
            engine.add(rows)
        with suppress(Interrupted):  # which has saved
            engine.advance(trials, share)
            engine.save()


def through(executor: Any, *, trials: int = 16, retries: int = 2) -> Jobs:
    """Jobs of an executor of your own: `executor.submit(function, *args)` gives a future.

    executor: such as concurrent.futures' or submitit's. trials: of one job, in [1, ...). retries: how
    often a job that was lost is handed in again.
    """
    check.size("through", trials=trials)
    check.size("through", 0, retries=retries)
    if not callable(getattr(executor, "submit", None)):
        wanted = "an object with submit(function, *args)"
        check.fail("through", f"executor should be {wanted}, got {check.describe(executor)}.", exc_type=TypeError)
    return Jobs(executor.submit, trials, retries)


def processes(workers: int = 2, *, trials: int = 16, retries: int = 2) -> Jobs:
    """Jobs of processes on this machine; one that dies costs what it had not saved.

    They import the script that calls this, so it has to begin its work under
    `if __name__ == "__main__":`. Needs the package cloudpickle (the extra `jobs`).
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

    def given_up(error: Exception) -> Exception:
        if not isinstance(error, BrokenProcessPool):
            return error
        guard = 'if __name__ == "__main__":'
        cure = f"a script that uses them has to begin its work under {guard}, for they import it"
        why = "Either something killed them, such as a lack of memory, or:"
        return RuntimeError(f"processes: they died before one had come to an end. {why} {cure}.")

    return Jobs(submit, trials, retries, close, given_up)


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

    folder: for submitit's logs. cluster: "slurm", "local", or None for what there is. parameters: of
    `AutoExecutor.update_parameters`, such as timeout_min=60, slurm_partition="gpu".
    """
    module = check.package("sweep", "submitit", "nnfunc[jobs]")
    executor = module.AutoExecutor(folder=folder, cluster=cluster)
    executor.update_parameters(**parameters)
    return through(executor, trials=trials, retries=retries)


def ray(*, trials: int = 16, retries: int = 2, **options: Any) -> Jobs:
    """Jobs of a Ray cluster (the extra `ray`), that `ray.init` has joined, or of one begun here.

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


def _written(engine: Engine, folder: Path) -> Path:
    """A file with all that a job needs to know."""
    cloudpickle = check.package("sweep", "cloudpickle", "nnfunc[jobs]")
    given = {
        "build_spec": engine.build_spec,
        "draws": engine.draws,
        "figure": engine.figure,
        "execution": engine.execution,
        "chunk": engine.chunk,
        "batches": engine.batches,
        "cache": {name: getattr(jax.config, name) for name in CACHE},
        "settings": jax_settings.portable(),
    }
    for old in folder.glob("jobs-*.pickle"):  # of a sweep that was killed: its jobs may still run
        old.unlink()
    path = folder / f"jobs-{uuid.uuid4().hex[:8]}.pickle"
    path.write_bytes(cloudpickle.dumps(given))
    return path
