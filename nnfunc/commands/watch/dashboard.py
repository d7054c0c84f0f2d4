"""One picture of a run for a terminal of any size."""

import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nnfunc.commands.watch.dashboard_tables import figures_table, layers_table
from nnfunc.reports.format import format_metric
from nnfunc.runs import diagnostics, metrics_log, run_folder, status
from nnfunc.runs.tail import Follower

__all__ = ["View", "frame"]

COLOURS = {
    "running": "green",
    "complete": "blue",
    "stopped": "yellow",
    "diverged": "red",
    "broken": "red",
    "merged": "blue",
}
WIDE = 120


class View:
    """What is known of a run; `poll` looks for news.

    steps: done; total: to do, 0 when the config does not tell.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.follower = Follower(folder / "metrics.jsonl", layers=64)
        self.config, _ = status.config_of(folder)
        self.total = _total(self.config)
        self.state = status.State("stopped")
        self.findings: list[diagnostics.Diagnosis] = []
        self.asked = False

    @property
    def rows(self) -> list[metrics_log.Row]:
        return self.follower.rows

    @property
    def steps(self) -> int:
        return max((row["step"] for row in self.rows), default=0)

    def poll(self) -> bool:
        """Read what is new; whether anything is."""
        before = self.state  # first the state: what a run that is complete wrote is read after it
        self.state = status.state(self.folder, self.rows)
        news = self.follower.poll()
        if news or not self.asked:
            self.findings, self.asked = diagnostics.find(self.rows), True
            self.state = status.state(self.folder, self.rows)
        return news or self.state != before


def _total(config: dict[str, Any]) -> int:
    train = config.get("train")
    steps = metrics_log.number(train.get("steps")) if isinstance(train, dict) else math.nan
    return int(steps) if 0 < steps < 2**53 else 0


def frame(view: View, console: Console, *, fit: bool = False) -> RenderableType:
    """The picture, as wide as the console. fit: no higher than the console either."""
    width, wide = console.width, console.width >= WIDE
    height = console.height if fit else 1000
    half = (width - 3) // 2 if wide else width
    tall = 2 if not fit or height >= 36 else 1
    above = [_head(view), _progress(view), *_trouble(view)]
    plain = not console.encoding.startswith("utf")
    left: list[RenderableType] = [figures_table(view, half, tall=tall, plain=plain)]
    left += [part for part in (_best(view), _events(view)) if part is not None]
    stands = [part for part in (_stands_out(view, brief=tall == 1),) if part is not None]
    used = _lines(console, above, width) + _lines(console, stands, half)
    used += 0 if wide else _lines(console, left, half)
    room = height - used - 1 if fit else 1000
    right = [*stands, *_layers(view, half, room, plain=plain)]
    if wide and right:
        grid = Table.grid(padding=(0, 3, 0, 0))
        grid.add_column(width=half)
        grid.add_column(width=half)
        grid.add_row(Group(*left), Group(*right))
        return Group(*above, grid)
    return Group(*above, *left, *right)


def _layers(view: View, width: int, room: int, *, plain: bool) -> list[RenderableType]:
    """The tables of parameters and activations, in so many lines."""
    kinds = ("parameters", "activations")
    tables = [diagnostics.worst(view.rows, kind, COLUMNS[kind]) for kind in kinds]
    sizes = [len(paths) for paths, _ in tables]
    if not any(sizes):
        return []
    heads = 3 * sum(size > 0 for size in sizes)
    most = max(room - heads, 4) if room < 1000 else 24
    second = min(sizes[1], max(most - sizes[0], most // 2))
    shown = (min(sizes[0], most - second), second)
    return [
        layers_table(kind, paths[:count], values, COLUMNS[kind], width, of=len(paths), plain=plain)
        for kind, (paths, values), count in zip(kinds, tables, shown, strict=True)
        if count
    ]


COLUMNS = {
    "parameters": ("gradient_norm", "update_ratio", "weight_norm"),
    "activations": ("mean", "deviation", "dead", "saturated"),
}


def _lines(console: Console, parts: list[RenderableType], width: int) -> int:
    options = console.options.update(width=width)
    return sum(len(console.render_lines(part, options, pad=False)) for part in parts)


def _head(view: View) -> RenderableType:
    model = view.config.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    title = Text(view.folder.resolve().name, "bold")
    title.append(f"  {name}" if name else "", "not bold dim")
    grid.add_row(title, Text(view.state.name, f"bold {COLOURS[view.state.name]}"))
    return grid


def _progress(view: View) -> RenderableType:
    """The bar, and how fast and how long still."""
    steps, total = view.steps, view.total
    words = f"{steps:,}/{total:,}  {steps / total:.0%}" if total else f"{steps:,} steps"
    rate = metrics_log.rate(view.rows)
    words += f"  {clock(metrics_log.elapsed(view.rows))}"
    if math.isfinite(rate) and rate > 0:
        words += f"  {_rate(rate)} steps/s"
        if view.state.name == "running" and total > steps:
            words += f"  {clock((total - steps) / rate)} left"
    grid = Table.grid(expand=True, padding=(0, 1, 0, 0))
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    style = COLOURS[view.state.name]
    done = ProgressBar(total or 1, min(steps, total or 0), complete_style=style, finished_style=style)
    grid.add_row(done, words)
    return grid


def _trouble(view: View) -> list[RenderableType]:
    """What is wrong and what to do; an empty line otherwise."""
    name, words = view.state
    if name in ("complete", "running", "merged"):
        waits = name == "running" and not view.rows
        return [Text("No rows yet: the first comes at the end of an interval.", "dim") if waits else Text()]
    age = _age(view.folder / "metrics.jsonl")
    where = f"The last row is of step {view.steps:,}{age}." if view.rows else "It wrote no rows."
    if name == "stopped":
        begun = "Nothing trains this run: no process holds its lock, and there is no result."
        cure = f"Resume with: {run_folder.command()} resume {view.folder}"
        words = f"{begun} {where} {cure}"
    elif name == "diverged":
        words = f"It diverged: {words or 'the loss is not finite'}. {where}"
    return [Text(words, COLOURS[name]), Text()]


def _age(path: Path) -> str:
    """How long ago a file was written, with a comma before it."""
    try:
        seconds = time.time() - path.stat().st_mtime
    except OSError:
        return ""
    if seconds < 0:
        return ""
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = int(seconds // size)
            return f", {count} {unit}{'s' if count > 1 else ''} ago"
    return f", {int(seconds)} seconds ago"


def _best(view: View) -> RenderableType | None:
    """The best checkpoint so far: what it says itself, or else what the rows say."""
    manifest = status.json_of(view.folder / "checkpoints" / "best" / "manifest.json")
    about = manifest.get("metadata")
    about = about if isinstance(about, dict) else {}
    value, step = (metrics_log.number(about.get("best_value")), metrics_log.number(about.get("best_step")))
    text = Text("best checkpoint  ", "dim")
    if math.isfinite(value) and math.isfinite(step):
        metric = str(about.get("best") or "").partition(" ")[2]
        return text.append(f"val {metric} {format_metric(metric, value)} at step {step:,.0f}", "not dim")
    best = status.best(view.rows, view.config)
    if best is None:
        return None
    words = f"none; the best val {best.metric} is {format_metric(best.metric, best.value)}"
    return text.append(f"{words} at step {best.step:,}", "not dim")


def _events(view: View) -> RenderableType | None:
    """The last events."""
    found = metrics_log.events(view.rows)
    if not found:
        return None
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column()
    for place, event in enumerate(found[-4:]):
        words = Text(event.name, "yellow").append(f"  {event.message}"[:200], "default")
        grid.add_row(Text("events" if place == 0 else "", "dim"), f"{event.step:,}", words)
    return Group(Text(), grid)


def _stands_out(view: View, *, brief: bool) -> RenderableType | None:
    """What stands out in the layers. brief: in a line or two, for a low terminal."""
    if not view.findings:
        return None
    if brief:
        words = [f"{one.kind} {' '.join(one.paths[:1])}".rstrip() for one in view.findings]
        return Text("what stands out  ", "dim").append("; ".join(words), "not dim yellow")
    lines: list[RenderableType] = [Text(), Text("what stands out", "dim")]
    for one in view.findings[:5]:
        text = Text(f"{one.kind}  ", "yellow").append(one.words, "default")
        lines.append(text.append(f" ({one.threshold})", "default dim"))
    return Group(*lines)


def clock(seconds: float) -> str:
    """Seconds as 1:05 or 2:00:09."""
    if not 0 <= seconds < 1e9:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rate(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
