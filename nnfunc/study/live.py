"""How a sweep shows that it goes on: a live panel in a terminal, a line a tenth elsewhere."""

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nnfunc.progress import clock, figure
from nnfunc.sweeps.progress import Progress

__all__ = ["Live", "live", "settings_line"]

EVERY = 0.2
"""Seconds between two drawings of the panel."""


class Live:
    """Call it with each report. show: draws lines of text in place of the last ones, or None."""

    def __init__(self, metric: str, show: Any = None):
        self.metric, self.show = metric, show
        self.drawn, self.tenth = 0.0, 0

    def __call__(self, report: Progress) -> None:
        now = time.perf_counter()
        if self.show is not None:
            if now - self.drawn > EVERY or report.done == report.members:
                self.drawn = now
                self.show(self.lines(report))
            return
        tenth = math.floor(report.share * 10)
        if tenth > self.tenth or (report.done == report.members and self.tenth < 11):
            self.tenth = 11 if report.done == report.members else tenth
            print(" | ".join(self.lines(report)), flush=True)

    def lines(self, report: Progress) -> list[str]:
        """What there is to say, in three lines."""
        ended = f", {report.diverged} diverged" if report.diverged else ""
        ended += f", {report.done} of {report.members} done"
        speed = report.members_per_second
        time_left = "" if math.isnan(report.left) else f", {clock(report.left)} left"
        first = f"step {report.step:,}/{report.steps:,}  {report.alive} alive{ended}"
        second = "" if math.isnan(speed) else f"{_rate(speed)}{time_left}"
        if report.best is None:
            return [first, second, "no figures yet"]
        best = f"best {self.metric} {figure(self.metric, report.score)}"
        median = f"median {figure(self.metric, report.median)}"
        return [
            first,
            second,
            f"{best}  (member {report.best}: {settings_line(report.hypers)})  {median}",
        ]


def _rate(speed: float) -> str:
    if speed >= 1:
        return f"{speed:.3g} members/s"
    return f"{60 * speed:.3g} members/min"


def settings_line(settings: Mapping[str, Any]) -> str:
    """Settings in one line: schedule.peak=0.0123 seed=3."""
    short = lambda v: f"{v:.4g}" if isinstance(v, float) else str(v)
    return " ".join(f"{name}={short(value)}" for name, value in settings.items())


@contextmanager
def live(metric: str) -> Iterator[Live]:
    """A Live for as long as the block lasts."""
    if not sys.stdout.isatty():
        yield Live(metric)
        return
    from rich.live import Live as Panel
    from rich.text import Text

    with Panel(Text("compiling ..."), refresh_per_second=8) as panel:
        yield Live(metric, lambda lines: panel.update(Text("\n".join(lines))))
