"""Batches of trials that run side by side."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc.base import Key, PyTree
from nnfunc.data.dataset import Data
from nnfunc.sweeps.compiled_trials import CompiledTrials, compile_trials
from nnfunc.sweeps.grouping import Group
from nnfunc.training.compiled import Carry
from nnfunc.training.intervals import Intervals

__all__ = [
    "Batch",
    "DeviceData",
    "Job",
    "ReportCallback",
    "RunningBatch",
    "advance",
    "fetch_results",
    "warm",
    "wrap_keys",
]


class DeviceData(NamedTuple):
    """The data of a sweep, put on the device once. train: what steps read. evaluation: what evaluations read."""

    train: Data
    evaluation: Data

    @staticmethod
    def of(data: Data) -> "DeviceData":
        whole = jax.tree.map(jax.numpy.asarray, replace(data, test=None, codec=None))
        return DeviceData(whole.for_training(), whole)

    @property
    def evaluates(self) -> bool:
        return self.evaluation.validation is not None


class Batch(NamedTuple):
    """Trials of a group that run side by side.

    positions: theirs in the group. padding: copies of the last one, whose results are dropped.
    """

    group: Group
    positions: tuple[int, ...]
    padding: int = 0

    @property
    def trials(self) -> list[int]:
        """Their places in the sweep."""
        return [self.group.trials[position] for position in self.positions]

    @property
    def width(self) -> int:
        return len(self.positions) + self.padding

    def halves(self, multiple: int) -> "list[Batch]":
        """Two batches of one width, a multiple of that, or one where so many are copies."""
        width = -(-self.width // 2 // multiple) * multiple
        parts = [self.positions[:width], self.positions[width:]]
        return [Batch(self.group, part, width - len(part)) for part in parts if part]


ReportCallback = Callable[[list[int], int, dict[str, np.ndarray]], None]
"""(trials, step, figures [trials]) at every report."""


class Job(NamedTuple):
    """What every execution of running trials of a group needs.

    key: trial -> its key. until: the step to run them to. programs: those that were compiled for the
    group, by width and devices. carries: trial -> its carry on the host, of those that have begun.
    on_report: called at every report. should_stop: whether to end at the next report. save: called there too.
    """

    build: Any
    group: Group
    key: Callable[[int], Key]
    device_data: DeviceData
    intervals: Intervals
    until: int
    programs: dict[Any, CompiledTrials]
    carries: Mapping[int, Carry] = {}
    on_report: ReportCallback | None = None
    should_stop: Callable[[], bool] = lambda: False
    save: Callable[["RunningBatch"], None] = lambda running: None

    def compiled(self, vmapped: bool, devices: int = 1) -> CompiledTrials:
        """The programs of the group."""
        if (vmapped, devices) not in self.programs:
            self.programs[vmapped, devices] = compile_trials(self.build, self.group, vmapped, devices)
        return self.programs[vmapped, devices]

    def shapes(self) -> Any:
        """What one compilation of the programs is for, besides the number of trials."""
        leaves, structure = jax.tree.flatten((self.device_data, self.group.one(0)))
        return structure, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)

    def timings(self) -> dict[str, float]:
        """What is known of how long things take, and how many bytes, for data of these shapes.

        Data sets that differ share programs, but a step of one may take many times as long.
        """
        return self.compiled(vmapped=False).timings.setdefault(self.shapes(), {})

    def step(self, trial: int) -> int:
        """How far a trial is."""
        return int(self.carries[trial].state.step) if trial in self.carries else 0


class RunningBatch:
    """A running batch: its carry after `step` steps, and the metrics so far, still on the device.

    It begins where its trials are: before their first step, or as their carries say.
    """

    def __init__(self, job: Job, batch: Batch, compiled: CompiledTrials):
        self.job, self.batch, self.compiled = job, batch, compiled
        positions = [*batch.positions, *batch.positions[-1:] * batch.padding]
        trials = [batch.group.trials[position] for position in positions]
        self.numbers = batch.group.pick(positions) if compiled.vmapped else batch.group.one(positions[0])
        self.metrics: list[tuple[int, dict[str, Any]]] = []
        started = [job.carries[m] for m in trials if m in job.carries]
        if started:
            self.carry = _stack_carries(started, compiled, job.key(trials[0]))
            self.step = int(started[0].state.step)
        else:
            keys = [job.key(trial) for trial in trials]
            key = _stack_keys(keys) if compiled.vmapped else keys[0]
            self.carry, self.step = compiled.init(self.numbers, key, job.device_data.train), 0


def advance(running: RunningBatch, by_step: bool) -> None:
    """Run a batch to the step of its job. by_step: whether a dispatch is one step."""
    job, compiled = running.job, running.compiled
    intervals, device_data = job.intervals, job.device_data
    go = compiled.step if by_step else compiled.run_steps
    until = min(job.until, intervals.steps)
    before: Any = ()  # what the part before the one in hand came to
    while running.step < until and not job.should_stop():
        end, means = min(intervals.next(running.step), until), {}
        while running.step < end:
            count = 1 if by_step else end - running.step
            fresh = running.step == 0 or intervals.logs(running.step)  # a new interval of means begins
            running.carry, means = go(
                np.int32(count), np.bool_(fresh), running.carry, running.numbers, device_data.train
            )
            running.step += count
        # or all would be handed out before the first was done, and nobody could stop it
        jax.block_until_ready(before)
        metrics, before = {}, means
        if intervals.logs(running.step):
            metrics |= {f"train/{name}": value for name, value in means.items()}
        if device_data.evaluates and intervals.evaluates(running.step):
            running.carry, results = compiled.evaluate(running.carry, running.numbers, device_data.evaluation)
            metrics |= {f"validation/{name}": value for name, value in results.items()}
        if metrics:
            running.metrics.append((running.step, metrics))
            if job.on_report is not None:
                job.on_report(running.batch.trials, running.step, _drop_padding(metrics, running.batch))
        job.save(running)


def fetch_results(running: RunningBatch) -> tuple[list[Carry], list[tuple[int, dict[str, np.ndarray]]]]:
    """Of each trial its carry, and of each report (step, figures [trials]), on the host.

    A carry's key is plain numbers, which NumPy can hold.
    """
    batch, vmapped = running.batch, running.compiled.vmapped
    steps = [step for step, _ in running.metrics]
    carry, metrics = _to_host((_keyless(running.carry), [values for _, values in running.metrics]))
    step = np.int32(running.step)

    def row(position: int) -> Carry:
        trial = jax.tree.map(lambda leaf: leaf[position], _stepless(carry)) if vmapped else carry
        return trial._replace(state=trial.state._replace(step=step))

    reports = [(step, _drop_padding(values, batch)) for step, values in zip(steps, metrics, strict=True)]
    return [row(position) for position in range(len(batch.positions))], reports


def warm(job: Job, batch: Batch, compiled: CompiledTrials, by_step: bool) -> None:
    """Compile all that `advance` calls, so that threads do not do it twice; once for each shape."""
    name = (batch.width, by_step, job.shapes())
    if name in compiled.warm:
        return
    compiled.warm.add(name)
    running = RunningBatch(job._replace(carries={}), batch, compiled)
    go = compiled.step if by_step else compiled.run_steps
    carry, _ = go(np.int32(0), np.bool_(True), running.carry, running.numbers, job.device_data.train)
    if job.device_data.evaluates:
        compiled.evaluate(carry, running.numbers, job.device_data.evaluation)


def _to_host(tree: PyTree) -> PyTree:
    """The arrays on the host. On CPU they are there: asking for copies of them would take the time."""
    on_host = jax.default_backend() == "cpu"
    return jax.tree.map(np.asarray, tree) if on_host else jax.device_get(tree)


def _stack_keys(keys: list[Key]) -> Key:
    """[trials] keys, put together on the host: quicker than to let JAX do it."""
    return wrap_keys(np.stack([jax.random.key_data(key) for key in keys]), keys[0])


def _drop_padding(metrics: dict[str, Any], batch: Batch) -> dict[str, np.ndarray]:
    """Figures as [trials], those of copies left out."""
    return {name: np.atleast_1d(np.asarray(value))[: len(batch.positions)] for name, value in metrics.items()}


def _stack_carries(carries: list[Carry], compiled: CompiledTrials, like: Key) -> Carry:
    """The carry of a batch of its trials' carries; like: a key of their kind."""
    if compiled.vmapped:
        whole = jax.tree.map(lambda *leaves: np.stack(leaves), *map(_stepless, carries))
        whole = whole._replace(state=whole.state._replace(step=carries[0].state.step))
    else:
        whole = carries[0]
    whole = jax.tree.map(jax.numpy.array, whole)  # a copy, for it is going to be donated
    return whole._replace(state=whole.state._replace(key=wrap_keys(whole.state.key, like)))


def wrap_keys(data: PyTree, like: Key) -> PyTree:
    """Plain numbers as keys of the kind of another; those of the old style stay as they are."""
    if not jax.numpy.issubdtype(like.dtype, jax.dtypes.prng_key):
        return data
    return jax.random.wrap_key_data(data, impl=str(jax.random.key_impl(like)))


def _keyless(carry: Carry) -> Carry:
    return carry._replace(state=carry.state._replace(key=jax.random.key_data(carry.state.key)))


def _stepless(carry: Carry) -> Carry:
    """The carry without its count of steps, which all trials share."""
    return carry._replace(state=carry.state._replace(step=()))
