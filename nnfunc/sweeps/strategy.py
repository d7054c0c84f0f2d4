"""How the trials of a group run, and which execution is the quickest: found by a short probe.

"loop" calls one compiled program for trial after trial. "vmap" runs `chunk` trials side by side in
one program. "threads" does one of these from one Python thread a core: JAX lets go of the
interpreter while a program runs. "devices" is "vmap" with the trials cut over all devices. Trials
come out the same to rounding.
"""

import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc import check, device_memory, jax_settings
from nnfunc.base import draws_same_under_vmap
from nnfunc.sweeps.batch import Batch, Job, RunningBatch, advance, warm
from nnfunc.sweeps.compiled_trials import CompiledTrials, replicate
from nnfunc.sweeps.grouping import Group
from nnfunc.training.intervals import Intervals

__all__ = [
    "EXECUTIONS",
    "Execution",
    "choose_execution",
    "cores",
    "measure_speed",
    "memory_per_trial",
    "run",
    "run_timed",
    "skip_loop_timing",
    "split_batches",
]

EXECUTIONS = ("auto", "vmap", "loop", "threads", "devices")
SHORT = 5.0
"""A sweep that takes fewer seconds has its own first trials as the probe."""
COMPILES = 4.0
"""How many times as long as compiling took a sweep has to last to try a further program."""
WIDTH = 16
"""How many trials a thread has side by side, at most: more did not make it quicker."""
MEMORY = 0.25
"""The share of the free memory that the states of trials side by side may take."""
COPIES = 6
"""How often a trial's state is held while it runs: itself, gradients, moments, temporaries."""


class Execution(NamedTuple):
    """kind: one of EXECUTIONS but "auto". chunk: trials a dispatch. threads, devices: how many.

    by_step: one step a dispatch rather than all up to the next report. runs_per_second: what a probe
    measured, where there was one.
    """

    mode: str
    chunk: int
    threads: int = 1
    devices: int = 1
    by_step: bool = False
    runs_per_second: float | None = None

    @property
    def vmapped(self) -> bool:
        """Whether its program has an axis of trials."""
        return self.mode in ("vmap", "devices") or self.chunk > 1

    @property
    def name(self) -> str:
        """What its speed is remembered by."""
        return f"{self.mode} {self.chunk} {self.threads} {self.devices} {self.by_step}"

    def of(self, job: Job) -> CompiledTrials:
        return job.compiled(self.vmapped, self.devices)

    def fit(self, count: int) -> "Execution":
        """The execution for fewer trials: narrower batches, in halves, so that few widths are compiled."""
        width, per_thread = self.chunk, -(-count // self.threads)
        while width // 2 >= max(per_thread, self.devices) and width % (2 * self.devices) == 0:
            width //= 2
        return self._replace(chunk=width)

    def __str__(self) -> str:
        trials = "1 trial" if self.chunk == 1 else f"{self.chunk} trials"
        how = f"{trials} side by side" if self.vmapped else "trial after trial"
        threads = f", from {self.threads} threads" if self.threads > 1 else ""
        devices = f", on {self.devices} devices" if self.devices > 1 else ""
        steps = ", a step a dispatch" if self.by_step else ""
        speed = self.runs_per_second
        return f"{how}{threads}{devices}{steps}" + (f" (probe: {speed:.3g} runs/s)" if speed else "")


Finish = Callable[[RunningBatch], None]
"""What is done with a batch that has come to the step of its job, or was stopped."""


def cores() -> int:
    """How many this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def split_batches(group: Group, execution: Execution, positions: list[int]) -> list[Batch]:
    """The trials at these places of a group, in batches of one width, so one program."""
    parts = [tuple(positions[at : at + execution.chunk]) for at in range(0, len(positions), execution.chunk)]
    return [Batch(group, part, execution.chunk - len(part)) for part in parts]


def skip_loop_timing(job: Job) -> Job:
    """The job, of which no convolution is timed."""
    return job._replace(group=job.group._replace(scanned=True))


def choose_execution(job: Job, execution: str, chunk: int | None, finish: Finish | None = None) -> Execution:
    """The execution to go: the one that was asked for, or the one that a probe finds the quickest.

    finish: given, the probe of a short sweep runs its own first trials, whole. A warning says when
    the memory that is free makes the batches narrower than they could be.
    """
    _check_keys(job, execution, chunk)
    choice, count = _choose(job, execution, chunk, finish), len(job.group.trials)
    if choice.mode in ("vmap", "devices") and chunk is None and choice.chunk < count:
        problem = f"{count} trials side by side may not fit into the memory that is free"
        warnings.warn(f"sweep: {problem}; {choice.chunk} at a time.", stacklevel=2)
    return choice


def _choose(job: Job, execution: str, chunk: int | None, finish: Finish | None) -> Execution:
    count = len(job.group.trials)
    by_step = not job.group.scanned and _steps_are_quicker(job)
    most = min(count, chunk) if chunk else _even_width(count, min(count, _fitting(job)))
    threads, devices = min(cores(), count), jax.device_count()
    loop = Execution("loop", 1, by_step=by_step)
    side_by_side = Execution("vmap", most, by_step=by_step)
    spread = Execution("devices", -(-most // devices) * devices, devices=devices, by_step=by_step)
    if execution == "vmap":
        return side_by_side
    if execution == "devices":
        return spread
    if execution == "threads":
        return Execution("threads", min(chunk or 1, count), threads, by_step=by_step)
    if execution == "loop" or count == 1:
        return loop
    if not _draws_same_vmapped(job):
        return probe_executions(job, [loop, Execution("threads", 1, threads, by_step=by_step)], [], finish)
    if jax.default_backend() == "cpu" and threads > 1:
        per_thread = min(most, chunk or WIDTH, -(-count // threads))
        narrow = [loop, Execution("threads", 1, threads, by_step=by_step)]
        wide = [Execution("threads", per_thread, threads, by_step=by_step)] if per_thread > 1 else []
    else:
        narrow, wide = [loop], [side_by_side] if most > 1 else []
    if devices > 1 and count >= devices:
        wide.append(spread)
    return probe_executions(job, narrow, wide, finish)


def measure_speed(job: Job, execution: Execution) -> Execution:
    """The execution, with how quick a probe found it, where it was not probed yet and fits the memory."""
    known = job.timings()
    if execution.runs_per_second is not None:
        return execution
    if execution.name not in known:
        try:
            known[execution.name] = _speed(job, execution, _compile_and_time(job, execution)[1])
        except jax.errors.JaxRuntimeError as error:
            return _if_out_of_memory(error, execution)
    return execution._replace(runs_per_second=known[execution.name] / job.intervals.steps)


def _draws_same_vmapped(job: Job) -> bool:
    """Whether its keys draw the same side by side as alone: JAX's rbg keys do not."""
    return draws_same_under_vmap(job.key(job.group.trials[0]))


def _check_keys(job: Job, execution: str, chunk: int | None) -> None:
    wide = execution in ("vmap", "devices") or (execution == "threads" and (chunk or 1) > 1)
    if wide and not _draws_same_vmapped(job):
        hint = "Take execution='loop' or 'threads', or jax.random.key(seed, impl='threefry2x32')."
        check.fail("sweep", f"keys of the kind rbg draw other numbers side by side. {hint}")


def probe_executions(job: Job, narrow: list[Execution], wide: list[Execution], finish: Finish | None) -> Execution:
    """The quickest of the executions; the first of narrow is the loop.

    How quick each execution was is remembered for as long as the programs are. An execution that is not known yet is
    timed for some steps, or, in a short sweep, by its own first trials, which are run whole and
    finished. Ways that need a further program are tried once the sweeps of this build have taken
    several times as long as it takes to compile one.
    """
    count, loop = len(job.group.trials), narrow[0]
    known = job.timings()
    positions, steps = list(range(count)), min(job.until, job.intervals.steps)
    if new := [execution for execution in narrow if execution.name not in known]:
        each, some = _compile_and_time(job, loop)
        for execution in new:
            first = positions[: 2 * execution.threads]
            if each * count < SHORT and finish is not None and len(first) == 2 * execution.threads:
                positions = positions[2 * execution.threads :]
                run_timed(job, execution, split_batches(job.group, execution, first), finish)
                if execution.name not in known:  # somebody asked to stop
                    return loop
            else:
                known[execution.name] = _speed(job, execution, some)
    quick = max(known[execution.name] for execution in narrow)
    compiling = known.get("compile", 0.0)
    for execution in wide:
        budget = known.get("spent", 0.0) + count * steps / quick
        if execution.name not in known and budget > COMPILES * compiling:
            try:
                known[execution.name] = _speed(job, execution, _compile_and_time(job, execution)[1])
            except jax.errors.JaxRuntimeError as error:
                known[execution.name] = _if_out_of_memory(error, 0.0)
    best = max((w for w in [*narrow, *wide] if w.name in known), key=lambda w: known[w.name])
    return best._replace(runs_per_second=known[best.name] / job.intervals.steps)


def run_timed(job: Job, execution: Execution, todo: list[Batch], finish: Finish) -> None:
    """Run batches to the step of the job, and remember how quick the execution was."""
    if not todo:
        return
    job, known = _place_data(job, execution), job.timings()
    _warm(job, execution, todo[0])
    before = sum(job.step(trial) for batch in todo for trial in batch.trials)
    start = time.perf_counter()
    done: list[int] = []

    def finished(running: RunningBatch) -> None:
        finish(running)
        done.extend([running.step] * len(running.batch.positions))

    run(job, execution, todo, finished)
    elapsed = time.perf_counter() - start
    known["spent"] = known.get("spent", 0.0) + elapsed
    if (steps := sum(done) - before) > 0:
        speed = steps / elapsed
        known[execution.name] = 0.5 * (known.get(execution.name, speed) + speed)


def run(job: Job, execution: Execution, todo: list[Batch], finish: Finish) -> None:
    """Run batches to the step of the job. Those that do not fit into the memory are halved."""
    compiled, width, job = execution.of(job), execution.chunk, _place_data(job, execution)

    def one(batch: Batch) -> None:
        nonlocal width
        if batch.width > width:
            for half in batch.halves(execution.devices):
                one(half)
            return
        try:
            running = RunningBatch(job, batch, compiled)
            advance(running, execution.by_step)
            return finish(running)
        except jax.errors.JaxRuntimeError as error:
            if batch.width <= execution.devices:
                raise
            _if_out_of_memory(error)
        width = min(width, -(-batch.width // 2 // execution.devices) * execution.devices)
        problem = f"{batch.width} trials side by side do not fit into the memory"
        warnings.warn(f"sweep: {problem}; going on with {width} at a time.", stacklevel=2)
        one(batch)

    if execution.threads == 1 or len(todo) < 2:
        for batch in todo:
            one(batch)
        return
    _warm(job, execution, todo[0])
    with ThreadPoolExecutor(execution.threads) as pool:
        try:
            for _ in pool.map(jax_settings.inherit_settings(one), todo):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _warm(job: Job, execution: Execution, batch: Batch) -> None:
    """Compile what a batch needs; where it does not fit into the memory, whoever runs it will see."""
    try:
        warm(job, batch, execution.of(job), execution.by_step)
    except jax.errors.JaxRuntimeError as error:
        _if_out_of_memory(error)


def _if_out_of_memory(error: Exception, value: Any = None) -> Any:
    """The value, where the error tells of memory; otherwise the error is raised."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    return value


def _place_data(job: Job, execution: Execution) -> Job:
    """The job with its data where the execution needs it."""
    if execution.devices == 1:
        return job
    return job._replace(device_data=replicate(job.device_data, execution.devices))


def _compile_and_time(job: Job, execution: Execution) -> tuple[float, int]:
    """Compile; then how long a run takes, and how many steps make a probe of about 50 ms."""
    compiled, whole = execution.of(job), min(job.until, job.intervals.steps)
    job, start = _place_data(job, execution), time.perf_counter()
    warm(job, split_batches(job.group, execution, _first(job, execution.chunk))[0], compiled, execution.by_step)
    elapsed, known = time.perf_counter() - start, job.timings()
    known["compile"] = max(elapsed, known.get("compile", 0.0))
    count = min(10, whole)
    start = time.perf_counter()
    _probe(job, execution, count, 1)
    each = (time.perf_counter() - start) / count
    return each * whole, max(1, min(whole, round(0.05 / each)))


def _speed(job: Job, execution: Execution, steps: int) -> float:
    """Steps of trials per second of an execution, by the better of two probes of some of both."""
    batches = 2 * execution.threads if execution.chunk == 1 else execution.threads
    best = np.inf
    for _ in range(2):
        start = time.perf_counter()
        trials = _probe(job, execution, steps, batches)
        best = min(best, (time.perf_counter() - start) / trials)
    return steps / best


def _probe(job: Job, execution: Execution, steps: int, count: int) -> int:
    """Run the first batches for some steps, with nothing in between; how many trials ran."""
    short = job._replace(
        intervals=Intervals(steps, steps, steps, steps),
        until=steps,
        carries={},
        on_report=None,
        save=lambda running: None,
    )
    ended: list[int] = []

    def finish(running: RunningBatch) -> None:
        jax.block_until_ready(running.carry)
        ended.extend(running.batch.trials)

    todo = split_batches(job.group, execution, _first(job, execution.chunk * count))[:count]
    run(short, execution, todo, finish)
    return len(ended)


def _first(job: Job, count: int) -> list[int]:
    return list(range(min(count, len(job.group.trials))))


def _even_width(count: int, most: int) -> int:
    """The width of batches that are about equally full."""
    return -(-count // -(-count // most))


def _steps_are_quicker(job: Job) -> bool:
    """Whether convolutions of XLA's own, slow in a loop on CPU, make a step a dispatch quicker."""
    if jax.default_backend() != "cpu" or job.intervals.steps == 1:
        return False
    times = {}
    for by_step in (False, True):
        execution = Execution("loop", 1, by_step=by_step)
        _probe(job, execution, 2, 1)
        start = time.perf_counter()
        _probe(job, execution, 2, 1)
        times[by_step] = time.perf_counter() - start
    return times[True] < times[False]


def _fitting(job: Job) -> int:
    """How many trials side by side surely fit into the memory that is free."""
    free = device_memory.free_bytes()
    count = len(job.group.trials)
    return count if free is None else max(1, int(MEMORY * free / memory_per_trial(job)))


def memory_per_trial(job: Job) -> int:
    """Bytes of memory that a trial needs while it runs, about.

    It is the larger of what its state takes in copies, and of the values that a step, or an
    evaluation, holds at once: of models of few parameters and many activations.
    """
    compiled, timings = job.compiled(vmapped=False), job.timings()
    if "bytes" not in timings:
        group, device_data = job.group, job.device_data
        args = (group.one(0), job.key(group.trials[0]), device_data.train)
        state, numbers = jax.eval_shape(compiled.init, *args), group.one(0)
        count, fresh = (jax.ShapeDtypeStruct((), dtype) for dtype in ("int32", "bool"))
        programs = [compiled.step.trace(count, fresh, state, numbers, device_data.train)]  # pyright: ignore
        if device_data.evaluates:
            programs.append(compiled.evaluate.trace(state, numbers, device_data.evaluation))  # pyright: ignore
        size = device_memory.tree_bytes(state)
        peaks = [size + device_memory.peak_bytes(program.jaxpr) for program in programs]
        timings["bytes"] = max(COPIES * size, *peaks)
    return int(timings["bytes"])
