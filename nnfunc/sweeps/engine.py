"""The engine of a sweep: it adds trials, runs them as far as a search asks, compares and saves them.

A search is a function of an engine. It adds trials or begins those of the space, runs some of them,
compares their costs, and stops others. When a sweep is resumed from its folder, the search is called again
from its beginning. Saved steps are not run again, so the search decides as before.
"""

import math
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from nnfunc import check
from nnfunc.data.dataset import Data
from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.batch import Batch, Job, ReportCallback, RunningBatch, device_data, fetch_results
from nnfunc.sweeps.checkpoints import Store, best_name
from nnfunc.sweeps.grouping import Group, Grouping, group_trials, refusal, set_numbers, static_key
from nnfunc.sweeps.plan import GroupPlan, Plan, build_plan, plan_group, structural
from nnfunc.sweeps.sampling import Draws
from nnfunc.sweeps.strategy import EXECUTIONS, choose_execution, measure_speed, run_timed, split_batches
from nnfunc.sweeps.trial import GroupProgram, TrialSpec, TrialState
from nnfunc.sweeps.trials_mesh import TrialsMesh
from nnfunc.training.compiled import Carry, compiled_functions
from nnfunc.training.device_feed import DeviceFeed
from nnfunc.training.task_metrics import refuse_exact
from nnfunc.training.train_run import inspect_task

SAVE_EVERY = 10.0
"""Seconds between two saves: a sweep that is killed loses at most this much of each trial."""


class Interrupted(Exception):
    """The sweep was asked to stop. Its progress is saved if it has a folder."""


class Engine:
    """The state of a sweep, and what a search may do with it. Trials are counted in the order of being added.

    build_spec: (settings, trial, run) -> TrialSpec.
    draws: the source of the settings.
    metric: ranks the trials.
    execution, chunk: as for `nf.sweep`.
    on: its mesh, None without one.
    store: the folder to save in, or None.
    on_report: called at every report.
    should_stop: asked at every report.
    jobs: runs trials elsewhere, into the store; see `nnfunc.sweeps.executors`.
    """

    def __init__(
        self,
        build_spec: Callable[[dict[str, Any], int, int], TrialSpec],
        draws: Draws,
        metric: BestMetric,
        *,
        execution: str = "auto",
        chunk: int | None = None,
        on: TrialsMesh | None = None,
        store: Store | None = None,
        on_report: ReportCallback | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        jobs: Callable[["Engine", list[int], float], None] | None = None,
    ):
        check.choice("sweep", EXECUTIONS, execution=execution)
        if chunk is not None:
            check.size("sweep", chunk=chunk)
        self.build_spec, self.draws, self.metric = build_spec, draws, metric
        self.execution, self.chunk, self.on = execution, chunk, on
        self.store, self.on_report, self.jobs = store, on_report, jobs
        self._should_stop, self._stopped = should_stop, False
        self.batches: list[list[dict[str, Any]]] = []  # the settings of each call of `add`
        self.specs: list[TrialSpec] = []
        self.states: dict[int, TrialState] = {}
        self._programs: dict[Any, GroupProgram] = {}
        self.groups: list[tuple[GroupProgram, Group]] = []
        self.groupings: list[Grouping] = []
        self.refused: dict[int, str] = {}
        self.trials_by_setting: list[list[int]] = []
        self.lineage: list[dict[str, Any]] = []
        self._unsaved: set[int] = set()
        self._unsaved_best: set[int] = set()
        self.changed: set[int] = set()  # trials that changed without a report; `ProgressWatch` empties it
        self.steps_before_jobs: dict[int, int] | None = None  # trial -> its step when jobs were first submitted
        self._saved_at = time.monotonic()
        self._lock = threading.RLock()

    def begin(self) -> list[int]:
        """Add the settings that are drawn from the space, once; all trials."""
        if not self.specs:
            self.add(self.draws.rows())
            self._warn_of_unread()
        return list(range(len(self.specs)))

    def add(self, settings: list[dict[str, Any]]) -> list[int]:
        """Add the runs of each setting as trials, and return them.

        settings: name -> value of each setting.
        Raises: the first error when all trials so far are refused.
        """
        first = len(self.specs)
        self.batches.append(settings)
        for setting in settings:
            self.trials_by_setting.append([])
            for run in range(self.draws.runs):
                self.trials_by_setting[-1].append(len(self.specs))
                self.specs.append(self.build_spec(setting, len(self.specs), run))
        trials = list(range(first, len(self.specs)))
        families: dict[Any, list[int]] = {}
        for trial in trials:
            spec = self.specs[trial]
            families.setdefault((spec.build, id(spec.data), spec.intervals), []).append(trial)
        errors = [error for family in families.values() for error in self._add_family(family)]
        if not self.groups:
            raise errors[0]
        self.changed.update(trials)
        return trials

    def _add_family(self, trials: list[int]) -> list[Exception]:
        """Add trials that share build, data and intervals; the errors of those that are refused together."""
        lead, data = self.specs[trials[0]], device_data(self.specs[trials[0]].data)
        hypers, train_data = [self.specs[trial].hypers for trial in trials], data.for_training()
        placement = None if self.on is None else self.on.placement()
        try:
            if placement is not None:
                placement.check_batch("sweep", data.batch_size)
            grouping = group_trials(lead.build, hypers, lead.key, train_data, self.draws.varied)
        except Exception as error:  # of the first trial: all are refused
            self.refused |= dict.fromkeys(trials, refusal(error))
            return [error]
        self.groupings.append(grouping)
        self.refused |= {trials[i]: why for i, why in grouping.refused.items()}
        errors = []
        for group in grouping.groups:
            group = group._replace(trials=tuple(trials[i] for i in group.trials))
            try:
                _inspect(group, self.specs[group.trials[0]], data, self.metric)
            except Exception as error:  # the task refuses the data, or its numbers
                self.refused |= dict.fromkeys(group.trials, refusal(error))
                errors.append(error)
            else:
                self._add_group(group, data)
        return errors

    def _add_group(self, group: Group, data: Data) -> None:
        """Add a group; groups of the same structure share a program. data: on the device."""
        lead, orders = self.specs[group.trials[0]], [self.specs[trial].order for trial in group.trials]
        seeds = None if orders[0] is None else np.asarray(orders, np.uint32)
        group = group._replace(numbers=[*group.numbers[:-1], seeds])
        structure = (
            lead.build,
            id(data),
            lead.intervals,
            group.treedef,
            static_key(group.leaves),
            group.traced,
            tuple((n.shape[1:], n.dtype) for n in group.numbers if isinstance(n, np.ndarray)),
        )
        program = self._programs.setdefault(structure, GroupProgram(lead.build, data, lead.intervals, group.trials[0]))
        self.groups.append((program, group))
        for position, trial in enumerate(group.trials):
            spec = self.specs[trial]
            self.states[trial] = TrialState(spec, spec.settings, program, group, position)
            if self.store is not None and program.execution is None:
                program.execution = self.store.execution(trial)  # the same one as before gives the same bits

    def _warn_of_unread(self) -> None:
        """Warn of names that change nothing, unless other values may be derived from them."""
        unread = {name for grouping in self.groupings for name in grouping.traced}
        for grouping in self.groupings:
            unread &= grouping.unread
        for name in () if self.draws.derives else sorted(unread):
            warnings.warn(f"sweep: no step reads {name!r}, so it changes nothing. Does build use it?", stacklevel=2)

    def plan(self, *, probe: bool = False) -> Plan:
        """What the sweep runs. probe: whether to choose executions now, by running some steps of each."""
        planned: dict[Any, GroupPlan] = {}  # groups of later batches extend equal ones
        names = structural(self.specs)
        for program, group in self.groups:
            job = self._job(program, group, program.intervals.steps)
            if program.execution is None and (probe or self.execution != "auto"):
                timed = job if probe else job._replace(group=group._replace(scanned=True))  # nothing is timed
                execution = choose_execution(timed, self.execution, self.chunk)
                program.execution = measure_speed(job, execution) if probe else execution
            lead = self.specs[group.trials[0]]
            static = {name: lead.settings[name] for name in names} | group.static
            key = (id(program), tuple(static), static_key(static.values()))
            group_plan = plan_group(job, program.execution, static)
            earlier = planned[key].trials if key in planned else ()
            planned[key] = replace(group_plan, trials=earlier + group_plan.trials)
        return build_plan(list(planned.values()), self.groupings, self.specs, self.draws.runs, self.refused)

    def _job(self, program: GroupProgram, group: Group, until: int) -> Job:
        key = lambda trial: self.specs[trial].key
        job = Job(program.build, group, key, program.data, program.intervals, until, program.compiled)
        return job._replace(on=self.on)

    @property
    def trials(self) -> list[int]:
        """The trials that may run on: not refused, not diverged and not stopped by a search."""
        return [m for m, t in self.states.items() if t.stop_reason is None and not t.diverged]

    def advance(self, trials: Iterable[int], fraction: float = 1.0, *, together: bool = False) -> None:
        """Run trials to a fraction of their steps, where they are evaluated.

        trials: their indices.
        fraction: in (0, 1]; they stop at the nearest evaluation.
        together: whether the search may copy trials from one another next, so that they are saved together or not
            at all.
        Raises: Interrupted.
        """
        selected = set(trials)
        if self.jobs is not None:
            self._run_jobs(selected, fraction, together)
        active = {id(state.group) for m in selected if (state := self.states.get(m)) is not None}
        for program, group in self.groups:
            if id(group) not in active:
                continue
            chosen = [m for m in group.trials if m in selected and not self.states[m].diverged]
            self.load(chosen)
            if together:
                self._reset_uneven(group)
            chosen = [m for m in chosen if self.states[m].stop_reason is None and not self.states[m].diverged]
            until = program.nearest_report(fraction)
            if any(self.states[m].step < until for m in chosen):
                self._check_stop()
                self.run(program, group, chosen, until, together)
        if self.store is not None and time.monotonic() - self._saved_at > SAVE_EVERY:
            self.save()

    def _reset_uneven(self, group: Group) -> None:
        """Run a group again from its beginning when only a part of it was saved: its trials belong together."""
        states = [self.states[m] for m in group.trials]
        steps = {t.step for t in states if not t.diverged}
        if len(steps) > 1:
            for trial, state in zip(group.trials, states, strict=True):
                state.carry, state.metrics, state.step = None, {}, 0
                self.changed.add(trial)
                if self.store is not None:
                    self.store.forget(trial)

    def _run_jobs(self, trials: set[int], fraction: float, together: bool) -> None:
        """Let jobs run the remaining steps, and load what they saved."""
        if together:
            problem = "trials that copy from each other run in one process."
            check.fail("sweep", problem, hint="Leave jobs out.")
        assert self.store is not None
        assert self.jobs is not None
        active = [m for m, t in self.states.items() if m in trials and t.stop_reason is None]
        self.load(active)
        until = lambda t: t.program.nearest_report(fraction)
        remaining = [m for m in active if (t := self.states[m]).step < until(t) and not t.diverged]
        if remaining:
            if self.steps_before_jobs is None:
                self.steps_before_jobs = {m: t.step for m, t in self.states.items()}
            self.jobs(self, remaining, fraction)
            self._check_stop()

    def run(self, program: GroupProgram, group: Group, trials: list[int], until: int, together: bool) -> None:
        """Run trials of a group to a step.

        program: of the group.
        group, trials: what to run.
        until: the step.
        together: as for `advance`.
        """
        started = {m: t.carry for m in trials if (t := self.states[m]).carry is not None}
        job = self._job(program, group, until)._replace(carries=started, on_report=self.on_report)
        if not together:
            job = job._replace(should_stop=self.should_stop, save=self._save_when_due)
        if program.execution is None:
            all_fresh = not started and len(trials) == len(group.trials)
            program.execution = choose_execution(job, self.execution, self.chunk, self._record if all_fresh else None)
        if self.store is not None:
            self.store.record_execution(program.lead, program.execution)
        execution = program.execution.fit(len(trials))
        positions = [self.states[m].position for m in trials]
        todo = [part for batch in split_batches(group, execution, positions) for part in self._remaining(batch, until)]
        run_timed(job, execution, todo, self._record)
        if not together and any(self.states[m].step < until for m in trials):
            self._check_stop()

    def _remaining(self, batch: Batch, until: int) -> list[Batch]:
        """The parts of a batch with steps to run, each of trials at the same step."""
        steps = {position: self.states[batch.group.trials[position]].step for position in batch.positions}
        parts = []
        for step in sorted({step for step in steps.values() if step < until}):
            part = tuple(position for position, at in steps.items() if at == step)
            parts.append(Batch(batch.group, part, batch.width - len(part)))
        return parts

    def should_stop(self) -> bool:
        """Whether the sweep was asked to stop, now or before."""
        self._stopped = self._stopped or self._should_stop()
        return self._stopped

    def _check_stop(self) -> None:
        if self.should_stop():
            self.save()
            raise Interrupted

    def _record(self, running: RunningBatch) -> None:
        """Store the carries and reports of a batch in the states of its trials."""
        carries, reports = fetch_results(running)
        with self._lock:
            for position, (trial, carry) in enumerate(zip(running.batch.trials, carries, strict=True)):
                state = self.states[trial]
                state.carry, state.step = carry, running.step
                diverged_at = int(carry.state.diverged_at)
                for step, metrics in reports:
                    for name, values in metrics.items():
                        is_valid = diverged_at < 0 or step <= diverged_at
                        value = float(values[position]) if is_valid else math.nan
                        state.metrics.setdefault(name, {})[step] = value
                self._unsaved.add(trial)
        running.metrics = []

    def _save_when_due(self, running: RunningBatch) -> None:
        """Save all progress, that of the running batch too."""
        if self.store is None or time.monotonic() - self._saved_at < SAVE_EVERY:
            return
        self._record(running)
        self.save()

    def save(self) -> None:
        """Save the trials that changed since the last save."""
        if self.store is None:
            return
        with self._lock:
            self._saved_at = time.monotonic()
            by_program: dict[int, dict[int, TrialState]] = {}
            for trial in sorted(self._unsaved):
                state = self.states[trial]
                by_program.setdefault(id(state.program), {})[trial] = state
            for trial in sorted(self._unsaved_best):
                state = self.states[trial]
                if state.best_step is not None and state.best_step != state.step:  # else it is the last state
                    best = replace(state, carry=state.best_carry, step=state.best_step, metrics={})
                    by_program.setdefault(id(state.program), {})[best_name(trial)] = best
                    self._unsaved_best.discard(trial)
            executions = {id(program): program.execution for program in self._programs.values()}
            for program, states in by_program.items():
                self.store.write(states, executions[program])
            self._unsaved.clear()

    def load(self, trials: list[int]) -> None:
        """Load what the folder has of those trials that have no state here yet. trials: their indices."""
        for trial in trials:
            state = self.states[trial]
            if state.carry is None and (saved := self._read(trial, trial)) is not None:
                state.carry, state.step, state.metrics = saved
                self.changed.add(trial)

    def _read(self, trial: int, name: int) -> tuple[Any, int, dict[str, dict[int, float]]] | None:
        """(carry, step, metrics) of a trial from the folder. name: the trial, or `best_name` of it."""
        if self.store is None or name not in self.store:
            return None
        state = self.states[trial]
        return self.store.read(name, self._carry_structure(state), state.spec.settings)

    def _carry_structure(self, state: TrialState) -> Carry:
        """The shapes and dtypes of the carry of a trial, with its key as integers."""
        compiled = self._job(state.program, state.group, 0).compiled(vmapped=False)
        arguments = (state.group.select(state.position), state.spec.key, state.program.data.for_training())
        carry = jax.eval_shape(compiled.init, *arguments)
        key = jax.eval_shape(jax.random.key_data, state.spec.key)
        return carry._replace(state=carry.state._replace(key=key))

    # What a search calls.

    def cost(self, trial: int, fraction: float = 1.0) -> float:
        """The last value of the metric that ranks, up to a fraction of the run: less is better.

        trial: its index.
        fraction: in (0, 1]. A metric that is maximized is negated; inf stands for a refused trial, and for a value
            that is not finite or missing.
        """
        state = self.states.get(trial)
        return math.inf if state is None else self._cost_at(state, state.program.nearest_report(fraction))

    def _cost_at(self, state: TrialState, until: int) -> float:
        known = state.metrics.get(self.rank_of(state), {})
        value = known[max(steps)] if (steps := [step for step in known if step <= until]) else math.nan
        value = value if self.metric.mode == "min" else -value
        return value if math.isfinite(value) else math.inf

    def setting_cost(self, trials: list[int], fraction: float = 1.0) -> float:
        """The mean cost of the runs of a setting. trials: the runs. fraction: as for `cost`."""
        return float(np.mean([self.cost(trial, fraction) for trial in trials]))

    def rank_of(self, state: TrialState) -> str:
        """The metric that ranks, such as "validation/loss". state: of a trial."""
        split = "train" if state.program.data.validation is None else "validation"
        return f"{split}/{self.metric.name}"

    def stop(self, trial: int, why: str, *, ranks_last: bool) -> None:
        """Stop a trial at its step, unless it is refused, stopped or at its last step.

        trial: its index.
        why: the reason, as text.
        ranks_last: whether it ranks below trials that ran further.
        """
        state = self.states.get(trial)
        if state is not None and state.stop_reason is None and not state.ended:
            state.stop_reason, state.ranks_last = why, ranks_last
            self.changed.add(trial)

    def replace(self, trial: int, source: int, settings: dict[str, Any], fraction: float) -> None:
        """Continue a trial as a copy of another one, with other settings.

        The trial keeps its key, so it draws other random numbers than its source.
        trial: to continue.
        source: to copy.
        settings: the new ones.
        fraction: of the run, from which on this holds.
        """
        state, origin = self.states[trial], self.states[source]
        step = state.program.nearest_report(fraction)
        self.lineage.append({"step": step, "trial": trial, "source": source, **settings})
        spec = self.build_spec(settings, trial, 0)._replace(key=state.spec.key)
        self.specs[trial] = state.spec = spec
        set_numbers(state.group, state.position, spec.hypers, state.group.traced)
        self.changed.add(trial)
        if state.step <= step:  # otherwise a later state was loaded
            key = None if state.carry is None else state.carry.state.key
            assert origin.carry is not None
            state.carry = origin.carry._replace(state=origin.carry.state._replace(key=key))
            state.step = step
            self._unsaved.add(trial)

    def fractions(self) -> list[float]:
        """The fractions of a run at which it is evaluated, of the runs that are evaluated least often."""
        reports = [[step / p.intervals.steps for step in p.report_steps()] for p in self._programs.values()]
        return min(reports, key=len)

    def update_best(self, trial: int, fraction: float) -> None:
        """Remember the state of a trial if its cost was never better. trial, fraction: as for `cost`."""
        state, step = self.states[trial], self.states[trial].program.nearest_report(fraction)
        best = math.inf if state.best_step is None else self._cost_at(state, state.best_step)
        if self._cost_at(state, step) < best:
            is_here = state.step == step  # otherwise a later state was loaded
            state.best_step, state.best_carry = step, state.carry if is_here else None
            if is_here:
                self._unsaved_best.add(trial)

    def load_best(self) -> None:
        """Load the best states that were saved before; those that are lost are run again."""
        for trial, state in self.states.items():
            if state.best_step is None or state.best_carry is not None:
                continue
            saved = self._read(trial, best_name(trial))
            if saved is not None and saved[1] == state.best_step:
                state.best_carry = saved[0]
                continue
            ended = state.carry, state.step, state.metrics
            state.carry, state.step, state.metrics = None, 0, {}
            try:
                self.run(state.program, state.group, [trial], state.best_step, together=False)
                state.best_carry = state.carry
            finally:
                state.carry, state.step, state.metrics = ended
            self._unsaved_best.add(trial)


def _inspect(group: Group, lead: TrialSpec, data: Data, metric: BestMetric) -> None:
    """Check the task and the data as `nf.train` does."""
    compiled = compiled_functions(lead.build, group.leaves, group.treedef)
    refuse_exact("sweep", compiled.build_task(group.select(0)[:-1]))
    inspect_task(compiled, group.select(0)[:-1], lead.key, DeviceFeed(data), metric)
