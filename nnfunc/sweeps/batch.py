"""Batches of trials that run side by side."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.base import Key, PyTree
from nnfunc.data.dataset import Data
from nnfunc.sweeps.compiled_trials import CompiledTrials, compile_trials
from nnfunc.sweeps.grouping import Group
from nnfunc.sweeps.trials_mesh import TrialsMesh
from nnfunc.training.compiled import Carry
from nnfunc.training.intervals import Intervals
from nnfunc.training.task import Build

_DEVICE_DATA: "WeakKeyDictionary[Data, Data]" = WeakKeyDictionary()


def device_data(data: Data) -> Data:
    """The data set on the device, without what sweeps do not read; it is copied there once. data: any."""
    if data not in _DEVICE_DATA:
        _DEVICE_DATA[data] = jax.tree.map(jnp.asarray, replace(data, test=None, codec=None))
    return _DEVICE_DATA[data]


class Batch(NamedTuple):
    """Trials of a group that run side by side.

    group: of the trials.
    positions: their indices in the group.
    padding: how many copies of the last trial fill the batch; their results are dropped.
    """

    group: Group
    positions: tuple[int, ...]
    padding: int = 0

    @property
    def trials(self) -> list[int]:
        """Their indices in the sweep."""
        return [self.group.trials[position] for position in self.positions]

    @property
    def width(self) -> int:
        """How many trials run side by side, copies included."""
        return len(self.positions) + self.padding

    def halves(self, multiple: int) -> "list[Batch]":
        """Two batches of one width, or one where the second would hold only copies. multiple: divides the width."""
        width = -(-self.width // 2 // multiple) * multiple
        parts = [self.positions[:width], self.positions[width:]]
        return [Batch(self.group, part, width - len(part)) for part in parts if part]


ReportCallback = Callable[[list[int], int, dict[str, np.ndarray]], None]
"""(trials, step, name -> values [trials]), called at every report."""


class Job(NamedTuple):
    """What every execution needs to run the trials of a group.

    build: of the trials.
    group: the trials.
    key: trial -> its key.
    data: on the device.
    intervals: when to report.
    until: the step at which they stop.
    programs: (vmapped, devices) -> the functions compiled so far.
    carries: trial -> its carry on the host, for trials past step 0.
    on_report: called at every report.
    should_stop: whether to stop at the next report.
    save: called after each report.
    on: the mesh of trials that each have several devices, None for one.
    """

    build: Build
    group: Group
    key: Callable[[int], Key]
    data: Data
    intervals: Intervals
    until: int
    programs: dict[Any, CompiledTrials]
    carries: Mapping[int, Carry] = {}
    on_report: ReportCallback | None = None
    should_stop: Callable[[], bool] = lambda: False
    save: Callable[["RunningBatch"], None] = lambda running: None
    on: TrialsMesh | None = None

    def compiled(self, vmapped: bool, devices: int = 1) -> CompiledTrials:
        """The jitted functions of the group; vmapped, devices: as for `compile_trials`."""
        if (vmapped, devices) not in self.programs:
            self.programs[vmapped, devices] = compile_trials(self.build, self.group, vmapped, devices, self.on)
        return self.programs[vmapped, devices]

    def shapes(self) -> Any:
        """What decides, besides the number of trials, whether the functions are compiled again."""
        leaves, structure = jax.tree.flatten((self.data, self.group.select(0)))
        return structure, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)

    def timings(self) -> dict[str, float]:
        """The measured speeds, seconds and bytes, for data of these shapes.

        Data sets of other shapes share the programs, but their steps may take many times as long.
        """
        return self.compiled(vmapped=False).timings.setdefault(self.shapes(), {})

    def step(self, trial: int) -> int:
        """How many steps of a trial are done. trial: its index in the sweep."""
        return int(self.carries[trial].state.step) if trial in self.carries else 0


class RunningBatch:
    """A batch while it runs: its carry after `step` steps, and its reports, still on the device.

    job: with the carries that its trials begin from; those without one begin at step 0.
    batch: the trials.
    compiled: the functions that run them.
    """

    def __init__(self, job: Job, batch: Batch, compiled: CompiledTrials):
        self.job, self.batch, self.compiled = job, batch, compiled
        positions = [*batch.positions, *batch.positions[-1:] * batch.padding]
        trials = [batch.group.trials[position] for position in positions]
        self.numbers = batch.group.select(positions if compiled.vmapped else positions[0])
        self.metrics: list[tuple[int, dict[str, Any]]] = []
        keys = [job.key(trial) for trial in trials]
        started = [job.carries[trial] for trial in trials if trial in job.carries]
        if started:
            self.carry, self.step = _stack_carries(started, compiled, keys[0]), int(started[0].state.step)
            return
        stacked = keys[0]
        if compiled.vmapped:  # on the host, which is quicker than in JAX
            stacked = _wrap_keys(np.stack([jax.random.key_data(key) for key in keys]), keys[0])
        self.carry, self.step = compiled.init(self.numbers, stacked, job.data.for_training()), 0


def advance(running: RunningBatch, by_step: bool) -> None:
    """Run a batch to the last step of its job.

    running: the batch.
    by_step: whether each dispatch is one step, rather than all steps up to the next report.
    """
    job, compiled = running.job, running.compiled
    intervals, data = job.intervals, job.data.for_training()
    run_steps = compiled.step if by_step else compiled.run_steps
    until = min(job.until, intervals.steps)
    previous: Any = ()  # the means of the interval before
    while running.step < until and not job.should_stop():
        end, means = min(intervals.next(running.step), until), {}
        while running.step < end:
            count = 1 if by_step else end - running.step
            fresh = running.step == 0 or intervals.logs(running.step)  # a new interval of means begins
            running.carry, means = run_steps(np.int32(count), np.bool_(fresh), running.carry, running.numbers, data)
            running.step += count
        # Otherwise all steps would be dispatched before the first is done, and nobody could stop them.
        jax.block_until_ready(previous)
        metrics, previous = {}, means
        if intervals.logs(running.step):
            metrics |= {f"train/{name}": value for name, value in means.items()}
        if job.data.validation is not None and intervals.evaluates(running.step):
            running.carry, results = compiled.evaluate(running.carry, running.numbers, job.data)
            metrics |= {f"validation/{name}": value for name, value in results.items()}
        if metrics:
            running.metrics.append((running.step, metrics))
            if job.on_report is not None:
                job.on_report(running.batch.trials, running.step, _drop_padding(metrics, running.batch))
        job.save(running)


def fetch_results(running: RunningBatch) -> tuple[list[Carry], list[tuple[int, dict[str, np.ndarray]]]]:
    """The carry of each trial, and (step, name -> values [trials]) of each report, on the host.

    running: the batch. The key in a carry is its data, integers, which NumPy can hold.
    """
    batch, vmapped = running.batch, running.compiled.vmapped
    steps = [step for step, _ in running.metrics]
    state = running.carry.state
    keyless = running.carry._replace(state=state._replace(key=jax.random.key_data(state.key)))
    carry, metrics = _to_host((keyless, [values for _, values in running.metrics]))
    step = np.int32(running.step)

    def row(position: int) -> Carry:
        trial = jax.tree.map(lambda leaf: leaf[position], _drop_step(carry)) if vmapped else carry
        return trial._replace(state=trial.state._replace(step=step))

    reports = [(step, _drop_padding(values, batch)) for step, values in zip(steps, metrics, strict=True)]
    return [row(position) for position in range(len(batch.positions))], reports


def warm(job: Job, batch: Batch, compiled: CompiledTrials, by_step: bool) -> None:
    """Compile all that `advance` calls, once for each shape, so that threads do not compile it twice.

    job, batch, compiled: of the batch to run.
    by_step: as for `advance`.
    """
    name = (batch.width, by_step, job.shapes())
    if name in compiled.warm:
        return
    compiled.warm.add(name)
    running = RunningBatch(job._replace(carries={}), batch, compiled)
    run_steps = compiled.step if by_step else compiled.run_steps
    carry, _ = run_steps(np.int32(1), np.bool_(True), running.carry, running.numbers, job.data.for_training())
    if job.data.validation is not None:
        compiled.evaluate(carry, running.numbers, job.data)


def _to_host(tree: PyTree) -> PyTree:
    """The arrays on the host. On CPU they are there already, and copies of them would take time."""
    on_host = jax.default_backend() == "cpu"
    return jax.tree.map(np.asarray, tree) if on_host else jax.device_get(tree)


def _drop_padding(metrics: dict[str, Any], batch: Batch) -> dict[str, np.ndarray]:
    """Metrics as [trials], without those of copies."""
    return {name: np.atleast_1d(np.asarray(value))[: len(batch.positions)] for name, value in metrics.items()}


def _stack_carries(carries: list[Carry], compiled: CompiledTrials, like: Key) -> Carry:
    """The carry of a batch from the carries of its trials. like: a key of the same implementation."""
    if compiled.vmapped:
        whole = jax.tree.map(lambda *leaves: np.stack(leaves), *map(_drop_step, carries))
        whole = whole._replace(state=whole.state._replace(step=carries[0].state.step))
    else:
        whole = carries[0]
    whole = jax.tree.map(jnp.array, whole)  # a copy, because it is donated
    return whole._replace(state=whole.state._replace(key=_wrap_keys(whole.state.key, like)))


def _wrap_keys(data: PyTree, like: Key) -> PyTree:
    """The data of keys as keys of the implementation of `like`; raw keys stay as they are."""
    if not jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return data
    return jax.random.wrap_key_data(data, impl=str(jax.random.key_impl(like)))


def _drop_step(carry: Carry) -> Carry:
    """The carry without its step, which all trials share."""
    return carry._replace(state=carry.state._replace(step=()))
