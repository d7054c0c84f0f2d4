"""How a run shows that it goes on: a live bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nnfunc.reports.format import format_clock, format_labelled, sort_metrics

__all__ = ["progress"]

SHORT = {"accuracy": "acc"}


class Progress:
    """Call it with each report; `tick(step)` between them keeps a bar moving.

    first: the step at which training began or went on, None until then.
    """

    def __init__(self, steps: int, bar: Any = None, *, lines: bool = True):
        self.steps, self.bar, self.lines = steps, bar, lines
        self.first: int | None = None
        self.task = bar.add_task("", total=steps, figures="", start=False) if bar else None
        self.ticked = time.perf_counter()
        self.shown = 0, self.ticked  # the step and time of the last line
        self.figures: dict[str, str] = {}

    def tick(self, step: int) -> None:
        """Note that `step` steps are done."""
        now = time.perf_counter()
        if self.first is None:
            self.first, self.shown = step, (step, now)
            if self.bar is not None:
                self.bar.start_task(self.task)
                self.bar.update(self.task, completed=step)
        if self.bar is not None and now - self.ticked > 0.1:
            self.ticked = now
            self.bar.update(self.task, completed=step)

    def __call__(self, report: Any) -> None:
        """Show a report's figures: those of training, and the last ones of the held-out examples."""
        known = ("loss", "accuracy", "mae")
        narrow = ("loss",) if self.bar is not None else known  # a bar has to fit into one line
        for name, split, of in (("train", report.train, narrow), ("val", report.validation, known)):
            if split:
                named = [(k, v) for k, v in sort_metrics(split) if k in of]
                self.figures[name] = " ".join(format_labelled(SHORT.get(k, k), v, k) for k, v in named)
        if self.bar is not None:
            text = "  ".join(f"[dim]{name}[/] {text}" for name, text in self.figures.items())
            self.bar.update(self.task, completed=report.step, figures=text)
        elif self.lines and (report.validation or report.step == self.steps):
            self._line(report)

    def note(self, event: dict[str, Any]) -> None:
        """Tell of an event, such as a rollback; time left is counted from its step on."""
        self.shown = event["step"], time.perf_counter()
        text = f"{event['event']}: {event['message']}"
        if event["event"] == "diverged":
            return  # the error says so
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
            self.bar.update(self.task, completed=event["step"])
        elif self.lines:
            print(text, flush=True)

    def _line(self, report: Any) -> None:
        now = time.perf_counter()
        rate = (report.step - self.shown[0]) / max(now - self.shown[1], 1e-9)
        left = (self.steps - report.step) / max(rate, 1e-9)
        self.shown = report.step, now
        text = " | ".join(f"{name} {text}" for name, text in self.figures.items())
        width = len(str(self.steps))
        place = f"step {report.step:>{width}}/{self.steps}"
        print(f"{place} | {text} | {_speed(rate)} steps/s | {format_clock(left)} left", flush=True)


@contextmanager
def progress(steps: int, *, lines: bool = True) -> Iterator[Progress]:
    """A Progress for as long as the block lasts.

    lines: what one of many runs leaves out: lines elsewhere than in a terminal, and the bar at the end.
    """
    if not sys.stdout.isatty():
        yield Progress(steps, lines=lines)
        return
    from rich import progress as rich
    from rich.table import Column

    columns = (
        rich.BarColumn(bar_width=12),
        rich.MofNCompleteColumn(table_column=Column(no_wrap=True)),
        rich.TextColumn("{task.fields[figures]}", table_column=Column(no_wrap=True)),
        _Speed(),
        rich.TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
    )
    with rich.Progress(*columns, transient=not lines) as bar:
        yield Progress(steps, bar)


def _speed(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _Speed() -> Any:  # noqa: N802  made here, so that rich is imported only for a terminal
    from rich.progress import ProgressColumn
    from rich.table import Column
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task):
            return Text(f"{_speed(task.speed)} steps/s" if task.speed else "- steps/s")

    return Speed(Column(no_wrap=True))
