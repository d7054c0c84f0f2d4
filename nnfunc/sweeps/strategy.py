"""The executions of the trials of a group, and the choice of the fastest one by a short probe.

"loop" runs one compiled program for one trial after another. "vmap" runs `chunk` trials side by side in
one program. "threads" does either from one Python thread for each core: JAX releases the interpreter lock
while a program runs. "devices" is "vmap" with the trials sharded over all devices. The results are the
same to rounding.
"""

import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from nnfunc import check, device_memory, jax_settings
from nnfunc.base import draws_same_under_vmap
from nnfunc.sweeps.batch import Batch, Job, RunningBatch, advance, warm
from nnfunc.sweeps.compiled_trials import CompiledTrials, replicate
from nnfunc.sweeps.grouping import Group
from nnfunc.training.intervals import Intervals

EXECUTIONS = ("auto", "vmap", "loop", "threads", "devices")
SHORT = 5.0
"""Seconds: a sweep that takes less is probed by its own first trials."""
COMPILES = 4.0
"""A further program is tried once sweeps have taken so many times the time of one compilation."""
WIDTH = 16
"""The most trials side by side in one thread: more were not faster."""
MEMORY = 0.25
"""The fraction of the free memory that trials side by side may take."""
COPIES = 6
"""How many times the size of its state a trial needs: the state, gradients, moments, temporaries."""


class Execution(NamedTuple):
    """How trials run.

    mode: one of EXECUTIONS but "auto".
    chunk: the number of trials in a dispatch.
    threads, devices: how many run at once.
    by_step: whether a dispatch is one step, rather than all steps up to the next report.
    runs_per_second: the speed that a probe measured, None without one.
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
        """The key of its speed among the timings."""
        return f"{self.mode} {self.chunk} {self.threads} {self.devices} {self.by_step}"

    def of(self, job: Job) -> CompiledTrials:
        """The functions that it calls. job: the trials."""
        return job.compiled(self.vmapped, self.devices)

    def fit(self, count: int) -> "Execution":
        """The execution for `count` trials: the width is halved while it is too large, so few widths are compiled."""
        width, per_thread = self.chunk, -(-count // self.threads)
        while width // 2 >= max(per_thread, self.devices) and width % (2 * self.devices) == 0:
            width //= 2
        return self._replace(chunk=width)

    def __str__(self) -> str:
        trials = "1 trial" if self.chunk == 1 else f"{self.chunk} trials"
        how = f"{trials} side by side" if self.vmapped else "trial after trial"
        threads = f", from {self.threads} threads" if self.threads > 1 else ""
        devices = f", on {self.devices} devices" if self.devices > 1 else ""
        steps = ", one step per dispatch" if self.by_step else ""
        speed = self.runs_per_second
        return f"{how}{threads}{devices}{steps}" + (f" (probe: {speed:.3g} runs/s)" if speed else "")


Finish = Callable[[RunningBatch], None]
"""Called with each batch that has run to the step of its job, or was stopped."""


def cores() -> int:
    """The number of CPU cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def split_batches(group: Group, execution: Execution, positions: list[int]) -> list[Batch]:
    """Batches of one width, so of one program.

    group: of the trials.
    execution: with the width.
    positions: the indices of the trials in the group.
    """
    parts = [tuple(positions[at : at + execution.chunk]) for at in range(0, len(positions), execution.chunk)]
    return [Batch(group, part, execution.chunk - len(part)) for part in parts]


def choose_execution(job: Job, execution: str, chunk: int | None, finish: Finish | None = None) -> Execution:
    """The execution that was asked for, or the fastest one by a probe for "auto".

    job: the trials.
    execution: one of EXECUTIONS.
    chunk: the number of trials side by side, None to choose it.
    finish: if given, the probe of a short sweep runs its own first trials to their end, and calls this. Warns when
        the free memory limits the number of trials side by side.
    """
    draws_same = draws_same_under_vmap(job.key(job.group.trials[0]))
    if not draws_same and (execution in ("vmap", "devices") or (execution == "threads" and (chunk or 1) > 1)):
        hint = "Use execution='loop' or 'threads', or jax.random.key(seed, impl='threefry2x32')."
        check.fail("sweep", f"keys of the implementation rbg draw other numbers under {execution!r}.", hint=hint)
    count = len(job.group.trials)
    by_step = not job.group.scanned and _steps_are_faster(job)
    batches = -(-count // min(count, chunk or _fitting(job)))
    most = min(count, chunk) if chunk else -(-count // batches)  # batches that are about equally full
    threads, devices = min(cores(), count), jax.local_device_count()
    loop = Execution("loop", 1, by_step=by_step)
    threaded = Execution("threads", 1, threads, by_step=by_step)
    vmapped = Execution("vmap", most, by_step=by_step)
    sharded = Execution("devices", -(-most // devices) * devices, devices=devices, by_step=by_step)
    if job.on is not None:
        if execution not in ("auto", "devices"):
            check.fail("sweep", expected="execution should be 'devices' with a mesh", actual=repr(execution))
        choice = sharded._replace(chunk=-(-most // job.on.trials) * job.on.trials, devices=job.on.trials)
    elif execution == "threads":
        choice = threaded._replace(chunk=min(chunk or 1, count))
    elif execution != "auto" or count == 1:
        choice = {"vmap": vmapped, "devices": sharded}.get(execution, loop)
    elif not draws_same:
        choice = probe_executions(job, [loop, threaded], [], finish)
    else:
        if jax.default_backend() == "cpu" and threads > 1:
            narrow, wide = [loop, threaded], [threaded._replace(chunk=min(most, chunk or WIDTH, -(-count // threads)))]
        else:
            narrow, wide = [loop], [vmapped]
        wide = [one for one in wide if one.chunk > 1] + [sharded] * (1 < devices <= count)
        choice = probe_executions(job, narrow, wide, finish)
    if choice.mode in ("vmap", "devices") and chunk is None and choice.chunk < count:
        problem = f"{count} trials side by side may not fit into the free memory"
        warnings.warn(f"sweep: {problem}; running {choice.chunk} at a time.", stacklevel=2)
    return choice


def measure_speed(job: Job, execution: Execution) -> Execution:
    """The execution with its speed, measured unless it is known; without one if it needs too much memory.

    job: the trials.
    execution: how they run.
    """
    if execution.runs_per_second is not None:
        return execution
    known = job.timings()
    speed = known[execution.name] if execution.name in known else _probe_speed(job, execution)
    return execution._replace(runs_per_second=speed / job.intervals.steps if speed else None)


def probe_executions(job: Job, narrow: list[Execution], wide: list[Execution], finish: Finish | None) -> Execution:
    """The fastest of the executions.

    Speeds are cached with the programs. An execution without one is timed for some steps, or, in a short sweep,
    by its own first trials, which run to their end.
    narrow: executions that use the program of one trial; the first is the loop.
    wide: executions that need another program, which are tried once the sweeps of this build have taken several
        times the time of one compilation.
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
                if execution.name not in known:  # the sweep was asked to stop
                    return loop
            else:
                known[execution.name] = _speed(job, execution, some)
    fastest = max(known[execution.name] for execution in narrow)
    compile_seconds = known.get("compile", 0.0)
    for execution in wide:
        budget = known.get("spent", 0.0) + count * steps / fastest
        if execution.name not in known and budget > COMPILES * compile_seconds:
            known[execution.name] = _probe_speed(job, execution)
    best = max((e for e in [*narrow, *wide] if e.name in known), key=lambda e: known[e.name])
    return best._replace(runs_per_second=known[best.name] / job.intervals.steps)


def _probe_speed(job: Job, execution: Execution) -> float:
    """The speed of an execution, which is cached; 0 where the memory does not suffice."""
    try:
        speed = _speed(job, execution, _compile_and_time(job, execution)[1])
    except jax.errors.JaxRuntimeError as error:
        _check_out_of_memory(error)
        speed = 0.0
    job.timings()[execution.name] = speed
    return speed


def run_timed(job: Job, execution: Execution, todo: list[Batch], finish: Finish) -> None:
    """Run batches to the last step of the job, and update the speed of the execution.

    job: the trials.
    execution: how they run.
    todo: the batches.
    finish: called with each.
    """
    if not todo:
        return
    job, known = _replicate_data(job, execution), job.timings()
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
    """Run batches to the last step of the job. A batch that does not fit into the memory is halved.

    job: the trials.
    execution: how they run.
    todo: the batches.
    finish: called with each.
    """
    compiled, width, job = execution.of(job), execution.chunk, _replicate_data(job, execution)

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
            _check_out_of_memory(error)
        width = min(width, -(-batch.width // 2 // execution.devices) * execution.devices)
        problem = f"{batch.width} trials side by side do not fit into the memory"
        warnings.warn(f"sweep: {problem}; continuing with {width} at a time.", stacklevel=2)
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
    """Compile what a batch needs. A lack of memory is left to whoever runs the batch."""
    try:
        warm(job, batch, execution.of(job), execution.by_step)
    except jax.errors.JaxRuntimeError as error:
        _check_out_of_memory(error)


def _check_out_of_memory(error: Exception) -> None:
    """Raise the error again unless the memory did not suffice; JAX tells that by the status in the text only."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error


def _replicate_data(job: Job, execution: Execution) -> Job:
    """The job with its data on all devices of the execution."""
    if execution.devices == 1 and job.on is None:
        return job
    return job._replace(data=replicate(job.data, execution.devices, job.on))


def _compile_and_time(job: Job, execution: Execution) -> tuple[float, int]:
    """Compile; the seconds that a run takes, and the number of steps that take about 50 ms."""
    compiled, whole = execution.of(job), min(job.until, job.intervals.steps)
    job, start = _replicate_data(job, execution), time.perf_counter()
    warm(job, split_batches(job.group, execution, _first(job, execution.chunk))[0], compiled, execution.by_step)
    elapsed, known = time.perf_counter() - start, job.timings()
    known["compile"] = max(elapsed, known.get("compile", 0.0))
    count = min(10, whole)
    start = time.perf_counter()
    _probe(job, execution, count, 1)
    each = (time.perf_counter() - start) / count
    return each * whole, max(1, min(whole, round(0.05 / each)))


def _speed(job: Job, execution: Execution, steps: int) -> float:
    """Steps per second, over all trials, of an execution: the better of two probes of so many steps."""
    batches = 2 * execution.threads if execution.chunk == 1 else execution.threads
    best = np.inf
    for _ in range(2):
        start = time.perf_counter()
        trials = _probe(job, execution, steps, batches)
        best = min(best, (time.perf_counter() - start) / trials)
    return steps / best


def _probe(job: Job, execution: Execution, steps: int, count: int) -> int:
    """Run the first `count` batches for some steps without reports; the number of trials that ran."""
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


def _steps_are_faster(job: Job) -> bool:
    """Whether dispatching single steps is faster: XLA's convolutions are slow inside a loop on CPU."""
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
    """How many trials side by side fit into the free memory, by a cautious estimate."""
    free = device_memory.free_bytes()
    count = len(job.group.trials)
    return count if free is None else max(1, int(MEMORY * free / memory_per_trial(job)))


def memory_per_trial(job: Job) -> int:
    """About how many bytes of memory a trial needs while it runs.

    job: the trials.

    It is the larger of several copies of the state, and of the values that a step, or an evaluation, holds at
    once, which count for models of few parameters and many activations.
    """
    compiled, timings = job.compiled(vmapped=False), job.timings()
    if "bytes" not in timings:
        numbers, data = job.group.select(0), job.data.for_training()
        state = jax.eval_shape(compiled.init, numbers, job.key(job.group.trials[0]), data)
        count, fresh = (jax.ShapeDtypeStruct((), dtype) for dtype in ("int32", "bool"))
        programs = [compiled.step.trace(count, fresh, state, numbers, data)]  # pyright: ignore
        if job.data.validation is not None:
            programs.append(compiled.evaluate.trace(state, numbers, job.data))  # pyright: ignore
        size = device_memory.tree_bytes(state)
        peaks = [size + device_memory.peak_bytes(program.jaxpr) for program in programs]
        timings["bytes"] = max(COPIES * size, *peaks)
    return int(timings["bytes"])
