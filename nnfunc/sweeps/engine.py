"""Runs the trials of a sweep: adds them, advances them as a search asks, compares and saves them.

A search is a function of an engine. It adds trials or takes those that are there, advances some of
them, looks at their costs, and stops others. When a sweep goes on from its folder, the search is
played again from its beginning: what was saved is not run again, so it decides what it decided.
"""

import math
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import jax
import numpy as np

from nnfunc import check
from nnfunc.data.dataset import Data
from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.assignment import assign
from nnfunc.sweeps.batch import Batch, DeviceData, Job, ReportCallback, RunningBatch, fetch_results
from nnfunc.sweeps.checkpoints import Saved, Store, peak_name
from nnfunc.sweeps.grouping import Group, Grouping, set_numbers, static_key
from nnfunc.sweeps.plan import GroupPlan, Plan, build_plan, plan_group, structural
from nnfunc.sweeps.sampling import Draws
from nnfunc.sweeps.strategy import (
    EXECUTIONS,
    choose_execution,
    measure_speed,
    run_timed,
    skip_loop_timing,
    split_batches,
)
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.sweeps.trial_state import Program, TrialState
from nnfunc.training.compiled import Carry

__all__ = ["Engine", "Interrupted"]

SAVE_EVERY = 10.0
"""Seconds: what a sweep that is killed has to run again, at most, beside what is in hand."""


_DEVICE_DATA: "WeakKeyDictionary[Data, DeviceData]" = WeakKeyDictionary()
"""By data set what sweeps of it hold on the device."""


class Interrupted(Exception):
    """Somebody asked the sweep to stop; what it had come to is saved where it has a folder."""


class Engine:
    """See the top of the file. trials are their places in the sweep, in the order of being added."""

    def __init__(
        self,
        build_spec: Callable[[dict[str, Any], int, int], TrialSpec],
        draws: Draws,
        metric: BestMetric,
        *,
        execution: str = "auto",
        chunk: int | None = None,
        store: Store | None = None,
        on_report: ReportCallback | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        jobs: Callable[["Engine", list[int], float], None] | None = None,
    ):
        """build_spec: (settings, place, run) -> TrialSpec. draws: where settings come from.

        jobs: what runs trials elsewhere, into the store; see `nnfunc.sweeps.executors`.
        """
        check.choice("sweep", EXECUTIONS, execution=execution)
        if chunk is not None:
            check.size("sweep", chunk=chunk)
        self.build_spec, self.draws, self.metric = build_spec, draws, metric
        self.execution, self.chunk = execution, chunk
        self.store, self.on_report, self.jobs = store, on_report, jobs
        self.batches: list[list[dict[str, Any]]] = []
        self._should_stop, self._stopped = should_stop, False
        self.specs: list[TrialSpec] = []
        self.states: dict[int, TrialState] = {}
        self._programs: dict[Any, Program] = {}
        self.groups: list[tuple[Program, Group]] = []
        self.groupings: list[Grouping] = []
        self.refused: dict[int, str] = {}
        self.trials_by_setting: list[list[int]] = []
        self.lineage: list[dict[str, Any]] = []
        self._unsaved: set[int] = set()
        self.unsaved_peaks: set[int] = set()  # trials; see `nnfunc.sweeps.peaks`
        self.changed: set[int] = set()  # trials, since somebody who follows them emptied it
        self.steps_before_jobs: dict[int, int] | None = None  # trial -> its step when jobs were first handed out
        self._saved_at = time.monotonic()
        self._lock = threading.RLock()

    def begin(self) -> list[int]:
        """Draw as many settings as were asked for, once, and take them up."""
        if not self.specs:
            self.add(self.draws.rows())
            self._warn()
        return list(range(len(self.specs)))

    def add(self, settings: list[dict[str, Any]]) -> list[int]:
        """Take up the runs of each setting as trials. Raises: what all of them are refused for."""
        first = len(self.specs)
        self.batches.append(settings)
        for own in settings:
            self.trials_by_setting.append([])
            for seed in range(self.draws.runs):
                self.trials_by_setting[-1].append(len(self.specs))
                self.specs.append(self.build_spec(own, len(self.specs), seed))
        trials = list(range(first, len(self.specs)))
        specs = {trial: self.specs[trial] for trial in trials}
        errors: list[Exception] = []
        for assignment in assign(specs, self.device_data, self.metric, self.draws.varied):
            self.refused |= assignment.refused
            self.groupings += [assignment.grouping] if assignment.grouping is not None else []
            errors += assignment.errors
            for group in assignment.groups:
                self._add_group(group, assignment.lead, assignment.device_data)
        if not self.groups:
            raise errors[0]
        self.changed.update(trials)
        return trials

    def _add_group(self, group: Group, lead: TrialSpec, device_data: DeviceData) -> None:
        """Make the trials of a group tracks of one kind."""
        program = Program(lead.build, device_data, lead.intervals, group.leaves, group.treedef, group.traced)
        same = (
            program.build,
            id(device_data),
            program.intervals,
            group.treedef,
            static_key(group.leaves),
            group.traced,
            tuple((n.shape[1:], n.dtype) for n in group.numbers if isinstance(n, np.ndarray)),
        )
        program = self._programs.setdefault(same, program)
        self.groups.append((program, group))
        for position, trial in enumerate(group.trials):
            spec = self.specs[trial]
            self.states[trial] = TrialState(spec, spec.settings, program, group, position)
            if self.store is not None and program.execution is None:
                program.execution = self.store.execution(trial)  # as before, so bit for bit
        if program.lead is None:
            program.lead = group.trials[0]

    def _warn(self) -> None:
        """Of names that change nothing, unless others are made of them."""
        unread = {name for grouping in self.groupings for name in grouping.traced}
        for grouping in self.groupings:
            unread &= grouping.unread
        for name in () if self.draws.derives else sorted(unread):
            problem = f"no step reads {name!r}, so it changes nothing"
            warnings.warn(f"sweep: {problem}. Does build use it?", stacklevel=2)

    def plan(self, *, probe: bool = False) -> Plan:
        """What there is to do. probe: whether to find how trials run, by some steps of each execution."""
        planned: list[tuple[Program, GroupPlan]] = []
        names = structural(self.specs)
        for program, group in self.groups:
            job = self._job(program, group, program.intervals.steps)
            if program.execution is None and (probe or self.execution != "auto"):
                execution = choose_execution(job if probe else skip_loop_timing(job), self.execution, self.chunk)
                program.execution = measure_speed(job, execution) if probe else execution
            lead = self.specs[group.trials[0]]
            static = {name: lead.settings[name] for name in names}
            planned.append((program, plan_group(job, program.execution, static | group.static)))
        return build_plan(planned, self.groupings, self.specs, self.draws.runs, self.refused)

    def _job(self, program: Program, group: Group, until: int) -> Job:
        key = lambda trial: self.specs[trial].key
        return Job(program.build, group, key, program.device_data, program.intervals, until, program.compiled)

    def device_data(self, data: Data) -> DeviceData:
        """The data on the device, put there once."""
        if data not in _DEVICE_DATA:
            _DEVICE_DATA[data] = DeviceData.of(data)
        return _DEVICE_DATA[data]

    @property
    def trials(self) -> list[int]:
        """Those that may go on: neither refused, nor diverged, nor ended by a search."""
        return [m for m, t in self.states.items() if t.stop_reason is None and not t.diverged]

    def advance(self, trials: Iterable[int], fraction: float = 1.0, *, together: bool = False) -> None:
        """Run trials to a share of their steps, at which they are evaluated.

        together: whether what comes next may change one after another, so that they must be saved
        together or not at all. Raises: Interrupted.
        """
        selected = set(trials)
        if self.jobs is not None:
            self._run_jobs(selected, fraction, together)
        started = {id(state.group) for m in selected if (state := self.states.get(m)) is not None}
        for program, group in self.groups:
            if id(group) not in started:
                continue
            own = [m for m in group.trials if m in selected and not self.states[m].diverged]
            self.load(own)
            if together:
                self._reset_uneven(group)
            own = [m for m in own if self.states[m].stop_reason is None and not self.states[m].diverged]
            until = program.stop_at(fraction)
            if any(self.states[m].step < until for m in own):
                self._check_stop()
                self.run(program, group, own, until, together)
        if self.store is not None and time.monotonic() - self._saved_at > SAVE_EVERY:
            self.save()

    def _reset_uneven(self, group: Group) -> None:
        """Forget what was saved of a group of which a part is lost: its trials belong together."""
        states = [self.states[m] for m in group.trials]
        steps = {t.step for t in states if not t.diverged}
        if len(steps) > 1:
            for trial, state in zip(group.trials, states, strict=True):
                state.carry, state.metrics, state.step = None, {}, 0
                self.changed.add(trial)
                if self.store is not None:
                    self.store.forget(trial)

    def _run_jobs(self, trials: set[int], fraction: float, together: bool) -> None:
        """Let jobs run what is left of the way, and take up what they saved."""
        if together:
            hint = "Leave jobs out."
            check.fail("sweep", f"trials that learn from each other run in one process. {hint}")
        assert self.store is not None
        assert self.jobs is not None
        able = [m for m, t in self.states.items() if m in trials and t.stop_reason is None]
        self.load(able)
        remaining = [m for m in able if (t := self.states[m]).step < t.program.stop_at(fraction) and not t.diverged]
        if remaining:
            if self.steps_before_jobs is None:
                self.steps_before_jobs = {m: t.step for m, t in self.states.items()}
            self.jobs(self, remaining, fraction)
            self._check_stop()

    def run(self, program: Program, group: Group, trials: list[int], until: int, together: bool) -> None:
        """Run trials of a group to a step."""
        started = {m: t.carry for m in trials if (t := self.states[m]).carry is not None}
        job = self._job(program, group, until)._replace(carries=started, on_report=self.on_report)
        if not together:
            job = job._replace(should_stop=self.should_stop, save=self._save_when_due)
        if program.execution is None:
            fresh = not started and len(trials) == len(group.trials)
            program.execution = choose_execution(job, self.execution, self.chunk, self._record if fresh else None)
        if self.store is not None and program.lead is not None:
            self.store.record_execution(program.lead, program.execution)
        execution = program.execution.fit(len(trials))
        positions = [self.states[m].position for m in trials]
        todo = [part for batch in split_batches(group, execution, positions) for part in self._remaining(batch, until)]
        run_timed(job, execution, todo, self._record)
        if not together and any(self.states[m].step < until for m in trials):
            self._check_stop()

    def _remaining(self, batch: Batch, until: int) -> list[Batch]:
        """The parts of a batch that are not there yet, each of trials at one step."""
        steps = {position: self.states[batch.group.trials[position]].step for position in batch.positions}
        parts = []
        for step in sorted({step for step in steps.values() if step < until}):
            own = tuple(position for position, at in steps.items() if at == step)
            parts.append(Batch(batch.group, own, batch.width - len(own)))
        return parts

    def should_stop(self) -> bool:
        """Whether somebody asked the sweep to stop, now or before."""
        self._stopped = self._stopped or self._should_stop()
        return self._stopped

    def _check_stop(self) -> None:
        if self.should_stop():
            self.save()
            raise Interrupted

    def _record(self, running: RunningBatch) -> None:
        """Keep what a batch has come to."""
        carries, reports = fetch_results(running)
        with self._lock:
            for position, (trial, carry) in enumerate(zip(running.batch.trials, carries, strict=True)):
                state = self.states[trial]
                state.carry, state.step = carry, running.step
                broke = int(carry.state.diverged_at)
                for step, metrics in reports:
                    for name, values in metrics.items():
                        fine = broke < 0 or step <= broke
                        value = float(values[position]) if fine else math.nan
                        state.metrics.setdefault(name, {})[step] = value
                self._unsaved.add(trial)
        running.metrics = []

    def _save_when_due(self, running: RunningBatch) -> None:
        """Save all that is known, what is in hand too."""
        if self.store is None or time.monotonic() - self._saved_at < SAVE_EVERY:
            return
        self._record(running)
        self.save()

    def save(self) -> None:
        """Write what has changed since the last time."""
        if self.store is None:
            return
        with self._lock:
            self._saved_at = time.monotonic()
            by_program: dict[int, list[Saved]] = {}
            for trial in sorted(self._unsaved):
                state = self.states[trial]
                by_program.setdefault(id(state.program), []).append(Saved(trial, *_parts(state)))
            for trial in sorted(self.unsaved_peaks):
                state, peak = self.states[trial], self.states[trial].peak
                if peak is not None and peak.step != state.step:  # otherwise it is its last state
                    saved = Saved(peak_name(trial), peak.carry, peak.step, {}, state.initial_setting)
                    by_program.setdefault(id(state.program), []).append(saved)
                    self.unsaved_peaks.discard(trial)
            executions = {id(program): program.execution for program in self._programs.values()}
            for program, every in by_program.items():
                self.store.write(every, executions[program])
            self._unsaved.clear()

    def load(self, trials: list[int]) -> None:
        """Take up what the folder holds of trials that have not begun here."""
        for trial in trials:
            state = self.states[trial]
            if state.carry is None and (saved := self.read(trial, trial)) is not None:
                state.carry, state.metrics, state.step = saved.carry, saved.metrics, saved.step
                self.changed.add(trial)

    def read(self, trial: int, name: int) -> Saved | None:
        """What the folder holds of a trial. name: the trial, or `peak_name` of it."""
        if self.store is None or name not in self.store:
            return None
        state = self.states[trial]
        return self.store.read(name, self._like(state), state.spec)

    def _like(self, state: TrialState) -> Carry:
        """The structure of the carry of a trial, its key as plain numbers."""
        own = self._job(state.program, state.group, 0).compiled(vmapped=False)
        arguments = (state.group.one(state.position), state.spec.key, state.program.device_data.train)
        carry = jax.eval_shape(own.init, *arguments)
        key = jax.eval_shape(jax.random.key_data, state.spec.key)
        return carry._replace(state=carry.state._replace(key=key))

    # What a search asks for.

    def cost(self, trial: int, fraction: float = 1.0) -> float:
        """The figure that ranks, less is better, as it was at that share; inf for what is no number."""
        state = self.states.get(trial)
        known = {} if state is None else state.metrics.get(self.rank_of(state), {})
        until = 0 if state is None else state.program.stop_at(fraction)
        steps = [step for step in known if step <= until]
        value = known[max(steps)] if steps else math.nan
        value = value if self.metric.mode == "min" else -value
        return value if math.isfinite(value) else math.inf

    def setting_cost(self, trials: list[int], fraction: float = 1.0) -> float:
        """The mean cost of the runs of a setting."""
        return float(np.mean([self.cost(trial, fraction) for trial in trials]))

    def rank_of(self, state: TrialState) -> str:
        split = "validation" if state.program.device_data.evaluates else "train"
        return f"{split}/{self.metric.name}"

    def stop(self, trial: int, why: str, *, ranks_last: bool) -> None:
        """End a trial where it is, unless it was refused or has ended already."""
        state = self.states.get(trial)
        if state is not None and state.stop_reason is None and not state.ended:
            state.stop_reason, state.ranks_last = why, ranks_last
            self.changed.add(trial)

    def traced(self, trial: int) -> frozenset[str]:
        """The names that differ between trials of its group, and that its program is given."""
        return self.states[trial].program.traced

    def replace(self, trial: int, source: int, settings: dict[str, Any], fraction: float) -> None:
        """Let a trial go on, from a share of its run, as a copy of another with these settings.

        It keeps its key, so it draws other random numbers than its source.
        """
        state, origin = self.states[trial], self.states[source]
        step = state.program.stop_at(fraction)
        self.lineage.append({"step": step, "trial": trial, "source": source, **settings})
        spec = self.build_spec(settings, trial, 0)._replace(key=state.spec.key)
        self.specs[trial] = state.spec = spec
        set_numbers(state.group, state.position, spec.hypers, state.program.traced)
        self.changed.add(trial)
        if state.step <= step:  # otherwise it was taken up where it came to later
            key = None if state.carry is None else state.carry.state.key
            carry = origin.carry
            assert carry is not None
            state.carry = carry._replace(state=carry.state._replace(key=key))
            state.step = step
            self._unsaved.add(trial)

    def fractions(self) -> list[float]:
        """The shares of a run at which it is evaluated, of the runs that are evaluated least often."""
        every = [[stop / k.intervals.steps for stop in k.report_steps()] for k in self._programs.values()]
        return min(every, key=len)


def _parts(state: TrialState) -> tuple[Any, int, dict[str, dict[int, float]], dict[str, Any]]:
    return state.carry, state.step, state.metrics, state.initial_setting
