"""The progress of a sweep: a live panel in a terminal, ten lines elsewhere."""

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nnfunc.commands.interrupts import write_message
from nnfunc.durations import format_clock
from nnfunc.reports.format import format_metric, format_settings
from nnfunc.sweeps.progress import Progress


class SweepProgress:
    """Call it with each report of the sweep.

    metric: that ranks the trials.
    show: replaces the lines of the panel, None without a panel.
    notify: shows the message after a signal, inside the panel. trials: their final number, where a search adds
        some.
    """

    def __init__(
        self,
        metric: str,
        show: Callable[[list[str]], None] | None = None,
        notify: Callable[[str], None] = write_message,
    ):
        self.metric, self.show, self.notify = metric, show, notify
        self.trials = 0
        self.has_reports, self.printed_tenths = False, 0

    def __call__(self, report: Progress) -> None:
        """Show a report."""
        self.has_reports = True
        if self.show is not None:
            self.show(self.lines(report))
            return
        complete = report.done == max(self.trials, report.trials)
        tenths = 11 if complete else math.floor(self._fraction(report) * 10 + 1e-9)
        if tenths > self.printed_tenths:
            self.printed_tenths = tenths
            print(" | ".join(filter(None, self.lines(report))), flush=True)

    def show_message(self, message: str) -> None:
        """Show a message in the panel while there is no report yet. message: one line."""
        if self.show is not None:
            self.show([message])

    def _fraction(self, report: Progress) -> float:
        """The fraction of all steps that is done, with the steps of trials still to come."""
        return report.fraction * report.trials / max(self.trials, report.trials)

    def lines(self, report: Progress) -> list[str]:
        """A report as three lines: steps and trials, speed, and the best trial. report: of the sweep."""
        trials, speed = max(self.trials, report.trials), report.trials_per_second
        diverged = f", {report.diverged} diverged" if report.diverged else ""
        counts = f"{report.alive} alive{diverged}, {report.done} of {trials} done"
        first = f"step {report.step:,}/{report.steps:,}  {counts}"
        second = ""
        if speed > 0:
            rate = f"{speed:.3g} trials/s" if speed >= 1 else f"{60 * speed:.3g} trials/min"
            second = f"{rate}, {format_clock((1 - self._fraction(report)) * trials / speed)} left"
        if report.best is None:
            return [first, second, "no finite metric" if report.diverged else "no metrics yet"]
        trial = f"trial {report.best}: {format_settings(report.hypers)}".removesuffix(": ")
        best, median = (format_metric(self.metric, value) for value in (report.score, report.median))
        return [first, second, f"best {self.metric} {best}  ({trial})  median {median}"]


@contextmanager
def show_sweep_progress(metric: str) -> Iterator[SweepProgress]:
    """A SweepProgress for the time of the block. metric: that ranks the trials."""
    if not sys.stdout.isatty():
        yield SweepProgress(metric)
        return
    from rich.live import Live
    from rich.text import Text

    lines: list[str] = ["compiling ..."]
    notices: list[str] = []

    def show(new_lines: list[str]) -> None:
        lines[:] = filter(None, new_lines)

    progress = SweepProgress(metric, show, notices.append)
    with Live(get_renderable=lambda: Text("\n".join([*lines, *notices])), refresh_per_second=8) as panel:
        try:
            yield progress
        finally:
            notices.clear()
            panel.transient = not progress.has_reports  # a panel without reports disappears
