"""Where a sweep is, told while it runs."""

import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Progress", "Watch"]


class Progress(NamedTuple):
    """Where a sweep is when some of its members report.

    running: the members that report, at `step` of `steps`. members: all there are so far; done: those
    that have come to their last step or were ended; diverged: those that are known to have
    diverged; alive: the others. best: the member with the best last figure so far, with its score
    and hypers; None before the first. median: of the scores so far. share: of all steps that are
    asked for of the members there are, in [0, 1]. seconds: since the start. members_per_second: whole
    runs, since the first report: compiling is not counted; not a number before the second. Of jobs,
    since the start.
    """

    running: list[int]
    step: int
    steps: int
    members: int
    done: int
    diverged: int
    alive: int
    best: int | None
    score: float
    hypers: dict[str, Any]
    median: float
    share: float
    seconds: float
    members_per_second: float

    @property
    def left(self) -> float:
        """Seconds to the end, if all that are there go to their last step."""
        speed = self.members_per_second
        return (1 - self.share) * self.members / speed if speed > 0 else math.nan


class Watch:
    """Hands on_report what is known at every report, one at a time. engine: set before the first."""

    def __init__(self, on_report: Callable[[Progress], None], start: float):
        self.on_report, self.start = on_report, start
        self.engine: Any = None
        self.lock = threading.Lock()
        self.scores: dict[int, float] = {}
        self.at: dict[int, int] = {}
        self.first: tuple[float, float] | None = None  # the share and the time of the first report

    def __call__(self, members: list[int], step: int, figures: dict[str, np.ndarray]) -> None:
        engine = self.engine
        rank = engine.rank_of(engine.tracks[members[0]])
        with self.lock:
            self.at |= dict.fromkeys(members, step)
            if rank not in figures:
                return
            tracks = engine.tracks
            self.scores |= {m: float(v) for m, v in zip(members, figures[rank], strict=True)}
            for m, t in tracks.items():  # those that ran before the sweep went on
                if m not in self.scores and (curve := t.figures.get(rank)):
                    self.scores[m] = curve[max(curve)]
            sign = 1 if engine.figure.mode == "min" else -1
            good = {m: sign * s for m, s in self.scores.items() if math.isfinite(s)}
            going = {m: c for m, c in good.items() if not tracks[m].behind} or good
            best = min(going, key=lambda m: going[m]) if going else None
            score = math.nan if best is None else self.scores[best]
            hypers = {} if best is None else dict(engine.trials[best].settings)
            median = float(np.median([sign * c for c in good.values()])) if good else math.nan
            steps = {m: t.trial.intervals.steps for m, t in tracks.items()}
            over = {m for m, t in tracks.items() if t.left or self._step(m, t) >= steps[m]}
            todo = max(sum(t.step if t.left else steps[m] for m, t in tracks.items()), 1)
            share = sum(min(self._step(m, t), steps[m]) for m, t in tracks.items()) / todo
            diverged = len(self.scores) - len(good)
            now = time.perf_counter()
            begun = (share, now)
            if engine.handed is not None:  # jobs report in bursts
                begun = (sum(engine.handed.values()) / todo, self.start)
            self.first = self.first or begun
            done, took = share - self.first[0], now - self.first[1]
            speed = done * len(engine.trials) / took if done > 0 and took > 0 else math.nan
            seconds = now - self.start
            alive = len(tracks) - diverged - sum(t.left is not None for t in tracks.values())
            self.on_report(
                Progress(
                    members, step, steps[members[0]], len(engine.trials), len(over), diverged, alive,
                    best, score, hypers, median, share, seconds, speed,
                )
            )  # fmt: skip

    def _step(self, member: int, track: Any) -> int:
        return max(track.step, self.at.get(member, 0))
