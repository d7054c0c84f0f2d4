"""The progress of a sweep, reported while it runs."""

import bisect
import heapq
import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Progress(NamedTuple):
    """The progress of a sweep at one report.

    running: the trials that report, at `step` of `steps`.
    trials: the number of trials so far.
    done: how many are at their last step or stopped.
    diverged: how many have diverged.
    alive: how many are neither stopped nor diverged.
    best: the trial with the best last value of the metric that ranks, None before the first.
    score, hypers: of the best trial.
    median: of all scores.
    fraction: of the steps of the trials so far, in [0, 1].
    seconds: since the start.
    trials_per_second: whole runs since the first report, so without compilation; with jobs, since the start; NaN
        before the second report.
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
    def seconds_remaining(self) -> float:
        """The seconds until all trials so far are at their last step; NaN while the speed is not known."""
        speed = self.trials_per_second
        return (1 - self.fraction) * self.trials / speed if speed > 0 else math.nan


class ProgressWatch:
    """Calls on_report with the progress at every report, one call at a time.

    on_report: of the user.
    start: when the sweep began, by time.perf_counter. `engine` is set before the first report. Sums, the best and
        the median are updated for the trials that report or changed, so the cost of a report does not depend on the
        number of trials.
    """

    def __init__(self, on_report: Callable[[Progress], None], start: float):
        self.on_report, self.start = on_report, start
        self.engine: Any = None
        self.lock = threading.Lock()
        self.scores: dict[int, float] = {}
        self.steps: dict[int, int] = {}
        self.first_report: tuple[float, float] | None = None  # fraction and time
        self._counts: dict[int, np.ndarray] = {}  # trial -> steps to do, steps done, is it done, is it stopped
        self._total = np.zeros(4, int)
        self._costs: list[float] = []  # finite ones, sorted
        self._best: list[tuple[float, int]] = []  # a heap of (cost, trial); outdated entries are skipped

    def __call__(self, trials: list[int], step: int, metrics: dict[str, np.ndarray]) -> None:
        """Report the metrics of trials. trials: their indices. step: theirs. metrics: name -> values [trials]."""
        engine = self.engine
        rank = engine.rank_of(engine.states[trials[0]])
        with self.lock:
            self.steps |= dict.fromkeys(trials, step)
            if rank not in metrics:
                return
            self._apply_changes(engine)
            for trial, score in zip(trials, metrics[rank], strict=True):
                self._score(trial, float(score))
                self._count(trial)
            best, now = self._best_trial(), time.perf_counter()
            to_do, steps_done, done, stopped = map(int, self._total)
            fraction = steps_done / max(to_do, 1)
            if self.first_report is None:
                self.first_report = (fraction, now)
                if engine.steps_before_jobs is not None:  # jobs report in bursts
                    self.first_report = (sum(engine.steps_before_jobs.values()) / max(to_do, 1), self.start)
            progress, elapsed = fraction - self.first_report[0], now - self.first_report[1]
            diverged = len(self.scores) - len(self._costs)
            self.on_report(
                Progress(
                    running=trials,
                    step=step,
                    steps=engine.states[trials[0]].spec.intervals.steps,
                    trials=len(engine.specs),
                    done=done,
                    diverged=diverged,
                    alive=len(engine.states) - diverged - stopped,
                    best=best,
                    score=math.nan if best is None else self.scores[best],
                    hypers={} if best is None else dict(engine.specs[best].settings),
                    median=self._sign * self._median(),
                    fraction=fraction,
                    seconds=now - self.start,
                    trials_per_second=progress * len(engine.specs) / elapsed if progress > 0 < elapsed else math.nan,
                )
            )

    @property
    def _sign(self) -> int:
        return 1 if self.engine.metric.mode == "min" else -1

    def _apply_changes(self, engine: Any) -> None:
        """Update the trials that were added, loaded, stopped or replaced since the last report."""
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
        """Update the last value of a trial."""
        before = self._sign * self.scores.get(trial, math.nan)
        if math.isfinite(before):
            self._costs.pop(bisect.bisect_left(self._costs, before))
        self.scores[trial] = score
        if math.isfinite(score):
            bisect.insort(self._costs, self._sign * score)
            heapq.heappush(self._best, (self._sign * score, trial))

    def _count(self, trial: int) -> None:
        """Update the steps of a trial."""
        state = self.engine.states[trial]
        steps, is_stopped = state.spec.intervals.steps, state.stop_reason is not None
        step = max(state.step, self.steps.get(trial, 0))
        to_do = state.step if is_stopped else steps
        count = np.asarray([to_do, min(step, steps), is_stopped or step >= steps, is_stopped], int)
        self._total += count - self._counts.get(trial, 0)
        self._counts[trial] = count

    def _best_trial(self) -> int | None:
        """The trial with the least cost among those that do not rank last, or among all."""
        states = self.engine.states
        while self._best:
            cost, trial = self._best[0]
            if self._sign * self.scores[trial] == cost and not states[trial].ranks_last:
                return trial
            heapq.heappop(self._best)
        costs = [(self._sign * score, trial) for trial, score in self.scores.items() if math.isfinite(score)]
        return min(costs)[1] if costs else None

    def _median(self) -> float:
        costs, half = self._costs, len(self._costs) // 2
        if not costs:
            return math.nan
        return costs[half] if len(costs) % 2 else (costs[half - 1] + costs[half]) / 2
