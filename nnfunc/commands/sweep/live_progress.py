"""How a sweep shows that it goes on: a live panel in a terminal, a line a tenth elsewhere."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nnfunc.commands.interrupts import write_message
from nnfunc.reports.format import format_clock, format_metric, format_settings
from nnfunc.sweeps.progress import Progress

__all__ = ["Live", "live"]


class Live:
    """Call it with each report. show: takes lines of text in place of the last ones, or None.

    tell: shows the answer to a signal, in the panel, for what is written beside it would be drawn over.
    members: how many there are going to be in all, where a search adds to those of a report.
    """

    def __init__(
        self, metric: str, show: Callable[[list[str]], None] | None = None, tell: Callable[[str], None] = write_message
    ):
        self.metric, self.show, self.tell = metric, show, tell
        self.members = 0
        self.reported, self.tenth = False, 0

    def __call__(self, report: Progress) -> None:
        self.reported = True
        if self.show is not None:
            self.show(self.lines(report))
            return
        over, tenth = report.done == self.of(report), math.floor(self.share(report) * 10 + 1e-9)
        if tenth > self.tenth or (over and self.tenth < 11):
            self.tenth = 11 if over else tenth
            print(" | ".join(filter(None, self.lines(report))), flush=True)

    def waiting(self, words: str) -> None:
        """Say in the panel why there is nothing to report yet."""
        if self.show is not None:
            self.show([words])

    def of(self, report: Progress) -> int:
        """How many members there are going to be."""
        return max(self.members, report.members)

    def share(self, report: Progress) -> float:
        """How much of all steps is done, those of members that are still to come too."""
        return report.share * report.members / self.of(report)

    def lines(self, report: Progress) -> list[str]:
        """What there is to say, in three lines."""
        of, speed = self.of(report), report.members_per_second
        ended = f", {report.diverged} diverged" if report.diverged else ""
        ended += f", {report.done} of {of} done"
        first = f"step {report.step:,}/{report.steps:,}  {report.alive} alive{ended}"
        second = ""
        if speed > 0:
            second = f"{_rate(speed)}, {format_clock((1 - self.share(report)) * of / speed)} left"
        if report.best is None:
            third = "no finite figure" if report.diverged else "no figures yet"
            return [first, second, third]
        member = f"member {report.best}: {format_settings(report.hypers)}".removesuffix(": ")
        best = f"best {self.metric} {format_metric(self.metric, report.score)}  ({member})"
        return [first, second, f"{best}  median {format_metric(self.metric, report.median)}"]


def _rate(speed: float) -> str:
    if speed >= 1:
        return f"{speed:.3g} members/s"
    return f"{60 * speed:.3g} members/min"


@contextmanager
def live(metric: str) -> Iterator[Live]:
    """A Live for as long as the block lasts."""
    if not sys.stdout.isatty():
        yield Live(metric)
        return
    from rich.live import Live as Panel
    from rich.text import Text

    shown: list[str] = ["compiling ..."]
    told: list[str] = []

    def show(lines: list[str]) -> None:
        shown[:] = filter(None, lines)

    text = lambda: Text("\n".join([*shown, *told]))
    own = Live(metric, show, told.append)
    with Panel(get_renderable=text, refresh_per_second=8) as panel:
        try:
            yield own
        finally:
            told.clear()
            panel.transient = not own.reported  # of nothing that was run nothing stays
