"""The trials of a sweep on their way: added, run to where a search wants them, compared, saved.

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
from nnfunc.sweeps.assignment import assign
from nnfunc.sweeps.batch import Going, Held, Job, Pack, Reported, rows
from nnfunc.sweeps.checkpoints import Saved, Store, peak_name
from nnfunc.sweeps.grouping import Found, Group, marks, put
from nnfunc.sweeps.plan import Plan, Planned, plan_of, planned_of, structural
from nnfunc.sweeps.sampling import Draws
from nnfunc.sweeps.strategy import EXECUTIONS, chosen, followed, measured, packs, timed
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.sweeps.trial_state import Kind, Track
from nnfunc.training.checkpointing import Best
from nnfunc.training.compiled import Carry

__all__ = ["Engine", "Interrupted"]

SAVE_EVERY = 10.0
"""Seconds: what a sweep that is killed has to run again, at most, beside what is in hand."""


_HELD: "WeakKeyDictionary[Data, Held]" = WeakKeyDictionary()
"""By data set what sweeps of it hold on the device."""


class Interrupted(Exception):
    """Somebody asked the sweep to stop; what it had come to is saved where it has a folder."""


class Engine:
    """See the top of the file. trials are their places in the sweep, in the order of being added."""

    def __init__(
        self,
        build_spec: Callable[[dict[str, Any], int, int], TrialSpec],
        draws: Draws,
        figure: Best,
        *,
        execution: str = "auto",
        chunk: int | None = None,
        store: Store | None = None,
        told: Reported | None = None,
        stops: Callable[[], bool] = lambda: False,
        jobs: Callable[["Engine", list[int], float], None] | None = None,
    ):
        """build_spec: (settings, place, run) -> TrialSpec. draws: where settings come from.

        jobs: what runs trials elsewhere, into the store; see `nnfunc.sweeps.executors`.
        """
        check.choice("sweep", EXECUTIONS, execution=execution)
        if chunk is not None:
            check.size("sweep", chunk=chunk)
        self.build_spec, self.draws, self.figure = build_spec, draws, figure
        self.execution, self.chunk = execution, chunk
        self.store, self.told, self.jobs = store, told, jobs
        self.batches: list[list[dict[str, Any]]] = []
        self._asked, self._stopped = stops, False
        self.specs: list[TrialSpec] = []
        self.tracks: dict[int, Track] = {}
        self._kinds: dict[Any, Kind] = {}
        self.groups: list[tuple[Kind, Group]] = []
        self.found: list[Found] = []
        self.refused: dict[int, str] = {}
        self.units: list[list[int]] = []
        self.lineage: list[dict[str, Any]] = []
        self._unsaved: set[int] = set()
        self.unsaved_peaks: set[int] = set()  # trials; see `nnfunc.sweeps.peaks`
        self.changed: set[int] = set()  # trials, since somebody who follows them emptied it
        self.handed: dict[int, int] | None = None  # trial -> its step when jobs were first handed out
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
            self.units.append([])
            for seed in range(self.draws.runs):
                self.units[-1].append(len(self.specs))
                self.specs.append(self.build_spec(own, len(self.specs), seed))
        trials = list(range(first, len(self.specs)))
        specs = {trial: self.specs[trial] for trial in trials}
        errors: list[Exception] = []
        for assignment in assign(specs, self.held, self.figure, self.draws.varied):
            self.refused |= assignment.refused
            self.found += [assignment.found] if assignment.found is not None else []
            errors += assignment.errors
            for group in assignment.groups:
                self._take_up(group, assignment.lead, assignment.held)
        if not self.groups:
            raise errors[0]
        self.changed.update(trials)
        return trials

    def _take_up(self, group: Group, lead: TrialSpec, held: Held) -> None:
        """Make the trials of a group tracks of one kind."""
        kind = Kind(lead.build, held, lead.intervals, group.leaves, group.treedef, group.traced)
        same = (
            kind.build,
            id(held),
            kind.intervals,
            group.treedef,
            marks(group.leaves),
            group.traced,
            tuple((n.shape[1:], n.dtype) for n in group.numbers if isinstance(n, np.ndarray)),
        )
        kind = self._kinds.setdefault(same, kind)
        self.groups.append((kind, group))
        for place, trial in enumerate(group.trials):
            spec = self.specs[trial]
            self.tracks[trial] = Track(spec, spec.settings, kind, group, place)
            if self.store is not None and kind.execution is None:
                kind.execution = self.store.execution(trial)  # as before, so bit for bit
        if kind.lead is None:
            kind.lead = group.trials[0]

    def _warn(self) -> None:
        """Of names that change nothing, unless others are made of them."""
        unread = {name for found in self.found for name in found.traced}
        for found in self.found:
            unread &= found.unread
        for name in () if self.draws.derives else sorted(unread):
            problem = f"no step reads {name!r}, so it changes nothing"
            warnings.warn(f"sweep: {problem}. Does build use it?", stacklevel=2)

    def plan(self, *, probe: bool = False) -> Plan:
        """What there is to do. probe: whether to find how trials run, by some steps of each execution."""
        planned: list[tuple[Kind, Planned]] = []
        names = structural(self.specs)
        for kind, group in self.groups:
            job = self._job(kind, group, kind.intervals.steps)
            if kind.execution is None and (probe or self.execution != "auto"):
                execution = chosen(job if probe else followed(job), self.execution, self.chunk)
                kind.execution = measured(job, execution) if probe else execution
            lead = self.specs[group.trials[0]]
            static = {name: lead.settings[name] for name in names}
            planned.append((kind, planned_of(job, kind.execution, static | group.static)))
        return plan_of(planned, self.found, self.specs, self.draws.runs, self.refused)

    def _job(self, kind: Kind, group: Group, until: int) -> Job:
        key = lambda trial: self.specs[trial].key
        return Job(kind.build, group, key, kind.held, kind.intervals, until, kind.lanes)

    def held(self, data: Data) -> Held:
        """The data on the device, put there once."""
        if data not in _HELD:
            _HELD[data] = Held.of(data)
        return _HELD[data]

    @property
    def trials(self) -> list[int]:
        """Those that may go on: neither refused, nor diverged, nor ended by a search."""
        return [m for m, t in self.tracks.items() if t.left is None and not t.diverged]

    def advance(self, trials: Iterable[int], share: float = 1.0, *, together: bool = False) -> None:
        """Run trials to a share of their steps, at which they are evaluated.

        together: whether what comes next may change one after another, so that they must be saved
        together or not at all. Raises: Interrupted.
        """
        wanted = set(trials)
        if self.jobs is not None:
            self._elsewhere(wanted, share, together)
        begun = {id(track.group) for m in wanted if (track := self.tracks.get(m)) is not None}
        for kind, group in self.groups:
            if id(group) not in begun:
                continue
            own = [m for m in group.trials if m in wanted and not self.tracks[m].diverged]
            self.adopt(own)
            if together:
                self._even(group)
            own = [m for m in own if self.tracks[m].left is None and not self.tracks[m].diverged]
            until = kind.stop_at(share)
            if any(self.tracks[m].step < until for m in own):
                self._check_stop()
                self.run(kind, group, own, until, together)
        if self.store is not None and time.monotonic() - self._saved_at > SAVE_EVERY:
            self.save()

    def _even(self, group: Group) -> None:
        """Forget what was saved of a group of which a part is lost: its trials belong together."""
        tracks = [self.tracks[m] for m in group.trials]
        steps = {t.step for t in tracks if not t.diverged}
        if len(steps) > 1:
            for trial, track in zip(group.trials, tracks, strict=True):
                track.carry, track.figures, track.step = None, {}, 0
                self.changed.add(trial)
                if self.store is not None:
                    self.store.forget(trial)

    def _elsewhere(self, trials: set[int], share: float, together: bool) -> None:
        """Let jobs run what is left of the way, and take up what they saved."""
        if together:
            cure = "Leave jobs out."
            check.fail("sweep", f"trials that learn from each other run in one process. {cure}")
        assert self.store is not None
        assert self.jobs is not None
        able = [m for m, t in self.tracks.items() if m in trials and t.left is None]
        self.adopt(able)
        left = [m for m in able if (t := self.tracks[m]).step < t.kind.stop_at(share) and not t.diverged]
        if left:
            if self.handed is None:
                self.handed = {m: t.step for m, t in self.tracks.items()}
            self.jobs(self, left, share)
            self._check_stop()

    def run(self, kind: Kind, group: Group, trials: list[int], until: int, together: bool) -> None:
        """Run trials of a group to a step."""
        begun = {m: t.carry for m in trials if (t := self.tracks[m]).carry is not None}
        job = self._job(kind, group, until)._replace(carries=begun, told=self.told)
        if not together:
            job = job._replace(stops=self.stops, save=self._save_when_due)
        if kind.execution is None:
            fresh = not begun and len(trials) == len(group.trials)
            kind.execution = chosen(job, self.execution, self.chunk, self._note if fresh else None)
        if self.store is not None and kind.lead is not None:
            self.store.note_execution(kind.lead, kind.execution)
        execution = kind.execution.fit(len(trials))
        places = [self.tracks[m].place for m in trials]
        todo = [part for pack in packs(group, execution, places) for part in self._left(pack, until)]
        timed(job, execution, todo, self._note)
        if not together and any(self.tracks[m].step < until for m in trials):
            self._check_stop()

    def _left(self, pack: Pack, until: int) -> list[Pack]:
        """The parts of a pack that are not there yet, each of trials at one step."""
        steps = {place: self.tracks[pack.group.trials[place]].step for place in pack.places}
        parts = []
        for step in sorted({step for step in steps.values() if step < until}):
            own = tuple(place for place, at in steps.items() if at == step)
            parts.append(Pack(pack.group, own, pack.width - len(own)))
        return parts

    def stops(self) -> bool:
        """Whether somebody asked the sweep to stop, now or before."""
        self._stopped = self._stopped or self._asked()
        return self._stopped

    def _check_stop(self) -> None:
        if self.stops():
            self.save()
            raise Interrupted

    def _note(self, going: Going) -> None:
        """Keep what a pack has come to."""
        carries, reports = rows(going)
        with self._lock:
            for place, (trial, carry) in enumerate(zip(going.pack.trials, carries, strict=True)):
                track = self.tracks[trial]
                track.carry, track.step = carry, going.step
                broke = int(carry.state.diverged_at)
                for step, figures in reports:
                    for name, values in figures.items():
                        fine = broke < 0 or step <= broke
                        value = float(values[place]) if fine else math.nan
                        track.figures.setdefault(name, {})[step] = value
                self._unsaved.add(trial)
        going.figures = []

    def _save_when_due(self, going: Going) -> None:
        """Save all that is known, what is in hand too."""
        if self.store is None or time.monotonic() - self._saved_at < SAVE_EVERY:
            return
        self._note(going)
        self.save()

    def save(self) -> None:
        """Write what has changed since the last time."""
        if self.store is None:
            return
        with self._lock:
            self._saved_at = time.monotonic()
            by_kind: dict[int, list[Saved]] = {}
            for trial in sorted(self._unsaved):
                track = self.tracks[trial]
                by_kind.setdefault(id(track.kind), []).append(Saved(trial, *_parts(track)))
            for trial in sorted(self.unsaved_peaks):
                track, peak = self.tracks[trial], self.tracks[trial].peak
                if peak is not None and peak.step != track.step:  # otherwise it is its last state
                    saved = Saved(peak_name(trial), peak.carry, peak.step, {}, track.drawn)
                    by_kind.setdefault(id(track.kind), []).append(saved)
                    self.unsaved_peaks.discard(trial)
            executions = {id(kind): kind.execution for kind in self._kinds.values()}
            for kind, every in by_kind.items():
                self.store.write(every, executions[kind])
            self._unsaved.clear()

    def adopt(self, trials: list[int]) -> None:
        """Take up what the folder holds of trials that have not begun here."""
        for trial in trials:
            track = self.tracks[trial]
            if track.carry is None and (saved := self.read(trial, trial)) is not None:
                track.carry, track.figures, track.step = saved.carry, saved.figures, saved.step
                self.changed.add(trial)

    def read(self, trial: int, name: int) -> Saved | None:
        """What the folder holds of a trial. name: the trial, or `peak_name` of it."""
        if self.store is None or name not in self.store:
            return None
        track = self.tracks[trial]
        return self.store.read(name, self._like(track), track.spec)

    def _like(self, track: Track) -> Carry:
        """The structure of the carry of a trial, its key as plain numbers."""
        own = self._job(track.kind, track.group, 0).lanes(wide=False)
        given = (track.group.one(track.place), track.spec.key, track.kind.held.train)
        carry = jax.eval_shape(own.init, *given)
        key = jax.eval_shape(jax.random.key_data, track.spec.key)
        return carry._replace(state=carry.state._replace(key=key))

    # What a search asks for.

    def cost(self, trial: int, share: float = 1.0) -> float:
        """The figure that ranks, less is better, as it was at that share; inf for what is no number."""
        track = self.tracks.get(trial)
        known = {} if track is None else track.figures.get(self.rank_of(track), {})
        until = 0 if track is None else track.kind.stop_at(share)
        steps = [step for step in known if step <= until]
        value = known[max(steps)] if steps else math.nan
        value = value if self.figure.mode == "min" else -value
        return value if math.isfinite(value) else math.inf

    def unit_cost(self, unit: list[int], share: float = 1.0) -> float:
        """The mean cost of the runs of a setting."""
        return float(np.mean([self.cost(trial, share) for trial in unit]))

    def rank_of(self, track: Track) -> str:
        kind = "validation" if track.kind.held.evaluates else "train"
        return f"{kind}/{self.figure.metric}"

    def leave(self, trial: int, why: str, *, behind: bool) -> None:
        """End a trial where it is, unless it was refused or has ended already."""
        track = self.tracks.get(trial)
        if track is not None and track.left is None and not track.ended:
            track.left, track.behind = why, behind
            self.changed.add(trial)

    def traced(self, trial: int) -> frozenset[str]:
        """The names that differ between trials of its group, and that its program is given."""
        return self.tracks[trial].kind.traced

    def replace(self, trial: int, source: int, settings: dict[str, Any], share: float) -> None:
        """Let a trial go on, from a share of its run, as a copy of another with these settings.

        It keeps its key, so it draws other random numbers than its source.
        """
        track, origin = self.tracks[trial], self.tracks[source]
        step = track.kind.stop_at(share)
        self.lineage.append({"step": step, "trial": trial, "source": source, **settings})
        spec = self.build_spec(settings, trial, 0)._replace(key=track.spec.key)
        self.specs[trial] = track.spec = spec
        put(track.group, track.place, spec.hypers, track.kind.traced)
        self.changed.add(trial)
        if track.step <= step:  # otherwise it was taken up where it came to later
            key = None if track.carry is None else track.carry.state.key
            carry = origin.carry
            assert carry is not None
            track.carry = carry._replace(state=carry.state._replace(key=key))
            track.step = step
            self._unsaved.add(trial)

    def shares(self) -> list[float]:
        """The shares of a run at which it is evaluated, of the runs that are evaluated least often."""
        every = [[stop / k.intervals.steps for stop in k.stops()] for k in self._kinds.values()]
        return min(every, key=len)


def _parts(track: Track) -> tuple[Any, int, dict[str, dict[int, float]], dict[str, Any]]:
    return track.carry, track.step, track.figures, track.drawn
