"""Where a sweep is, told while it runs."""

import bisect
import heapq
import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Progress", "Watch"]


class Progress(NamedTuple):
    """Where a sweep is when some of its trials report.

    running: the trials that report, at `step` of `steps`. trials: all there are so far; done: those
    that have come to their last step or were ended; diverged: those that are known to have
    diverged; alive: the others. best: the trial with the best last metric so far, with its score
    and hypers; None before the first. median: of the scores so far. fraction: of all steps that are
    asked for of the trials there are, in [0, 1]. seconds: since the start. trials_per_second: whole
    runs, since the first report: compiling is not counted; not a number before the second. Of jobs,
    since the start.
    """

    running: list[int]
    step: int
    steps: int
    trials: int
    done: int
    diverged: int
    alive: int
    best: int | None
    score: float
    hypers: dict[str, Any]
    median: float
    fraction: float
    seconds: float
    trials_per_second: float

    @property
    def seconds_left(self) -> float:
        """Seconds to the end, if all that are there go to their last step."""
        speed = self.trials_per_second
        return (1 - self.fraction) * self.trials / speed if speed > 0 else math.nan


class Watch:
    """Hands on_report what is known at every report, one at a time. engine: set before the first.

    Sums, the best and the median are kept up to date with the trials that report, and those that the
    engine says have changed: a report costs the same however many trials there are.
    """

    def __init__(self, on_report: Callable[[Progress], None], start: float):
        self.on_report, self.start = on_report, start
        self.engine: Any = None
        self.lock = threading.Lock()
        self.scores: dict[int, float] = {}
        self.at: dict[int, int] = {}
        self.first_report: tuple[float, float] | None = None  # the share and the time of the first report
        self._counts: dict[int, _Count] = {}
        self._total = _Count(0, 0, 0, 0)
        self._costs: list[float] = []  # finite ones, sorted
        self._best: list[tuple[float, int]] = []  # a heap; entries that no longer hold are skipped

    def __call__(self, trials: list[int], step: int, metrics: dict[str, np.ndarray]) -> None:
        engine = self.engine
        rank = engine.rank_of(engine.states[trials[0]])
        with self.lock:
            self.at |= dict.fromkeys(trials, step)
            if rank not in metrics:
                return
            self._apply_changes(engine)
            for trial, score in zip(trials, metrics[rank], strict=True):
                self._score(trial, float(score))
                self._count(trial)
            sign = self._sign
            best = self._best_trial()
            score = math.nan if best is None else self.scores[best]
            hypers = {} if best is None else dict(engine.specs[best].settings)
            total, now = self._total, time.perf_counter()
            todo = max(total.todo, 1)
            fraction = total.done / todo
            if self.first_report is None:
                self.first_report = (fraction, now)
                if engine.steps_before_jobs is not None:  # jobs report in bursts
                    self.first_report = (sum(engine.steps_before_jobs.values()) / todo, self.start)
            done, elapsed = fraction - self.first_report[0], now - self.first_report[1]
            speed = done * len(engine.specs) / elapsed if done > 0 and elapsed > 0 else math.nan
            seconds = now - self.start
            diverged = len(self.scores) - len(self._costs)
            alive = len(engine.states) - diverged - total.ended
            steps = engine.states[trials[0]].spec.intervals.steps
            self.on_report(
                Progress(
                    trials,
                    step,
                    steps,
                    len(engine.specs),
                    total.over,
                    diverged,
                    alive,
                    best,
                    score,
                    hypers,
                    sign * self._median(),
                    fraction,
                    seconds,
                    speed,
                )
            )

    @property
    def _sign(self) -> int:
        return 1 if self.engine.metric.mode == "min" else -1

    def _apply_changes(self, engine: Any) -> None:
        """Take note of trials that were added, saved before, ended or replaced since the last time."""
        changed, engine.changed = engine.changed, set()
        for trial in changed:
            state = engine.states.get(trial)
            if state is None:
                continue
            self._count(trial)
            curve = state.metrics.get(engine.rank_of(state))
            if trial not in self.scores and curve:
                self._score(trial, curve[max(curve)])

    def _score(self, trial: int, score: float) -> None:
        """Take note of the last figure of a trial."""
        before = self._sign * self.scores.get(trial, math.nan)
        if math.isfinite(before):
            self._costs.pop(bisect.bisect_left(self._costs, before))
        self.scores[trial] = score
        if math.isfinite(score):
            bisect.insort(self._costs, self._sign * score)
            heapq.heappush(self._best, (self._sign * score, trial))

    def _count(self, trial: int) -> None:
        """Take note of where a trial is."""
        state = self.engine.states[trial]
        steps, ended = state.spec.intervals.steps, state.stop_reason is not None
        at = max(state.step, self.at.get(trial, 0))
        count = _Count(state.step if ended else steps, min(at, steps), int(ended or at >= steps), int(ended))
        before = self._counts.get(trial, _Count(0, 0, 0, 0))
        self._counts[trial] = count
        changes = zip(self._total, count, before, strict=True)
        self._total = _Count._make(total + new - old for total, new, old in changes)

    def _best_trial(self) -> int | None:
        """The trial with the best last figure of those that no search gave up, or of all."""
        states = self.engine.states
        current = lambda cost, trial: self._sign * self.scores[trial] == cost
        while self._best:
            cost, trial = self._best[0]
            if current(cost, trial) and not states[trial].ranks_last:
                return trial
            heapq.heappop(self._best)
        good = [(self._sign * s, m) for m, s in self.scores.items() if math.isfinite(s)]
        return min(good)[1] if good else None

    def _median(self) -> float:
        costs, half = self._costs, len(self._costs) // 2
        if not costs:
            return math.nan
        return costs[half] if len(costs) % 2 else (costs[half - 1] + costs[half]) / 2


class _Count(NamedTuple):
    """Of a trial, or of all: steps that are asked for, and done; whether it is over, or was ended."""

    todo: int
    done: int
    over: int
    ended: int
