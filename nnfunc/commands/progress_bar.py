"""The progress of a training: a live bar in a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nnfunc.commands.terminal import speed_text
from nnfunc.durations import format_clock
from nnfunc.reports.format import format_labelled, sort_metrics

METRICS = ("loss", "accuracy", "mae")
LABELS = {"accuracy": "acc"}
BAR = 8  # columns


class TrainingProgress:
    """Call it with each report of the training; `tick(step)` moves the bar between reports.

    steps: of the whole training.
    bar: a rich.progress.Progress, or None to print lines.
    lines: whether to print lines where there is no bar.
    best: the name of the metric of the best checkpoint, which is shown too. first_step: where the training began or
        resumed, None until then.
    """

    def __init__(self, steps: int, bar: Any = None, *, lines: bool = True, best: str = "loss"):
        self.steps, self.bar, self.lines = steps, bar, lines
        self.names, self.best = tuple(dict.fromkeys([*METRICS, best])), best
        self.first_step: int | None = None
        self.task = bar.add_task("", total=steps, metrics="", start=False) if bar else None
        self.last_tick = time.perf_counter()
        self.last_line = 0, self.last_tick  # (step, time)
        self.metrics: dict[str, dict[str, str]] = {}  # by split

    def tick(self, step: int) -> None:
        """Show the progress. step: the number of steps done."""
        now = time.perf_counter()
        if self.first_step is None:
            self.first_step, self.last_line = step, (step, now)
            if self.bar is not None:
                self.bar.start_task(self.task)
                self.bar.update(self.task, completed=step)
        if self.bar is not None and now - self.last_tick > 0.1:
            self.last_tick = now
            self.bar.update(self.task, completed=step)

    def __call__(self, report: Any) -> None:
        """Show the training metrics of a report and the latest validation metrics."""
        for split, metrics in (("train", report.train), ("val", report.validation)):
            if metrics:
                self.metrics[split] = {
                    name: format_labelled(LABELS.get(name, name), value, name)
                    for name, value in sort_metrics(metrics)
                    if name in self.names
                }
        if self.bar is not None:
            others = BAR + 2 * len(str(self.steps)) + len("/ 12,345 steps/s 00:00  ")
            text = fit_metrics(self.metrics, self.best, self.bar.console.width - others)
            self.bar.update(self.task, completed=report.step, metrics=text)
        elif self.lines and (report.validation or report.step == self.steps):
            self._print_line(report.step)

    def show_event(self, event: dict[str, Any]) -> None:
        """Print an event, such as a rollback. event: its row of metrics.jsonl."""
        self.last_line = event["step"], time.perf_counter()  # from where the remaining time is estimated
        if event["event"] == "diverged":
            return  # the error that ends the run says so
        text = f"{event['event']}: {event['message']}"
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
            self.bar.update(self.task, completed=event["step"])
        elif self.lines:
            print(text, flush=True)

    def _print_line(self, step: int) -> None:
        now = time.perf_counter()
        rate = (step - self.last_line[0]) / max(now - self.last_line[1], 1e-9)
        remaining = format_clock((self.steps - step) / max(rate, 1e-9))
        self.last_line = step, now
        metrics = " | ".join(f"{split} {' '.join(texts.values())}" for split, texts in self.metrics.items())
        width = len(str(self.steps))
        print(f"step {step:>{width}}/{self.steps} | {metrics} | {speed_text(rate)} | {remaining} left", flush=True)


def fit_metrics(metrics: dict[str, dict[str, str]], best: str, room: int) -> str:
    """The metrics that fit in so many columns, as text of rich: the best metric first, then losses.

    metrics: {"train": {name: text}, "val": ...}.

    >>> fit_metrics({"train": {"loss": "loss 0.5"}, "val": {"loss": "loss 0.6", "f1": "f1 0.7"}}, "f1", 24)
    '[dim]val[/] loss 0.6 f1 0.7'
    """
    order = [("val", best), ("val", "loss"), ("train", "loss"), *(("val", name) for name in metrics.get("val", {}))]
    chosen: list[tuple[str, str]] = []

    def rows(entries: list[tuple[str, str]]) -> dict[str, str]:
        texts = {split: [part[name] for name in part if (split, name) in entries] for split, part in metrics.items()}
        return {split: " ".join(part) for split, part in texts.items() if part}

    for split, name in order:
        longer = rows([*chosen, (split, name)])
        if name in metrics.get(split, {}) and sum(len(f"{s} {text}  ") for s, text in longer.items()) - 2 <= room:
            chosen.append((split, name))
    return "  ".join(f"[dim]{split}[/] {text}" for split, text in rows(chosen).items())


@contextmanager
def show_progress(steps: int, *, lines: bool = True, best: str = "loss") -> Iterator[TrainingProgress]:
    """A TrainingProgress for the time of the block.

    steps: of the whole training.
    lines: False for one of many runs: without a terminal nothing is printed, and the bar disappears at the end.
    best: the name of the metric of the best checkpoint.
    """
    if not sys.stdout.isatty():
        yield TrainingProgress(steps, lines=lines, best=best)
        return
    from rich import progress as rich  # takes a while to import
    from rich.table import Column
    from rich.text import Text

    class SpeedColumn(rich.ProgressColumn):
        def render(self, task):
            return Text(speed_text(task.speed) if task.speed else "- steps/s")

    columns = (
        rich.BarColumn(bar_width=BAR),
        rich.MofNCompleteColumn(table_column=Column(no_wrap=True)),
        rich.TextColumn("{task.fields[metrics]}", table_column=Column(no_wrap=True)),
        SpeedColumn(Column(no_wrap=True)),
        rich.TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
    )
    with rich.Progress(*columns, transient=not lines) as bar:
        yield TrainingProgress(steps, bar, best=best)
