"""The dashboard of a run, laid out for a terminal of any size."""

import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nnfunc.check import counted
from nnfunc.commands.terminal import speed_text
from nnfunc.commands.watch.dashboard_tables import layers_table, metrics_table
from nnfunc.durations import format_clock
from nnfunc.reports.format import format_metric
from nnfunc.runs import diagnostics, metrics_log, run_folder, status
from nnfunc.runs.tail import LogFollower

COLOURS = {
    "running": "green",
    "complete": "blue",
    "stopped": "yellow",
    "diverged": "red",
    "broken": "red",
    "merged": "blue",
    "trial": "blue",
}
"""The colour of each state of a run."""
WIDE = 120
"""Terminals of at least this width have two columns."""
STATISTICS = {
    "parameters": ("gradient_norm", "update_ratio", "weight_norm"),
    "activations": ("mean", "deviation", "dead", "saturated"),
}


class RunView:
    """The data of the dashboard. folder: of the run. `poll` reads new rows."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.follower = LogFollower(folder / "metrics.jsonl", layers=64)
        self.config, _ = status.read_config(folder)
        self.total = total_steps(self.config)
        self.state = status.RunState("stopped")
        self.findings: list[diagnostics.Diagnosis] = []
        self.diagnosed = False

    @property
    def rows(self) -> list[metrics_log.Row]:
        """The rows of metrics.jsonl."""
        return self.follower.rows

    @property
    def steps(self) -> int:
        """The number of steps done."""
        return max((row["step"] for row in self.rows), default=0)

    def poll(self) -> bool:
        """Read new rows and the state; True when anything changed."""
        previous = self.state
        # the state is read first: a complete run has written all its rows before
        self.state = status.run_state(self.folder, self.rows)
        changed = self.follower.poll()
        if changed or not self.diagnosed:
            self.findings, self.diagnosed = diagnostics.find_diagnoses(self.rows), True
            self.state = status.run_state(self.folder, self.rows)
        return changed or self.state != previous


def total_steps(config: dict[str, Any]) -> int:
    """The steps of a run's config, 0 when it does not say. config: its tables, not checked."""
    train = config.get("train")
    steps = metrics_log.to_float(train.get("steps")) if isinstance(train, dict) else math.nan
    return int(steps) if 0 < steps < 2**53 else 0


def render_dashboard(view: RunView, console: Console, *, fit: bool = False) -> RenderableType:
    """The dashboard, as wide as the console. view: of the run. fit: limit its height to the console's."""
    width, wide = console.width, console.width >= WIDE
    column_width = (width - 3) // 2 if wide else width
    curve_height = 2 if not fit or console.height >= 36 else 1
    ascii_only = not console.encoding.startswith("utf")
    top = [_title(view), _progress(view), *_state_message(view)]
    metrics_column = [metrics_table(view, column_width, curve_height=curve_height, ascii_only=ascii_only)]
    metrics_column += [part for part in (_best_checkpoint(view), _events(view)) if part is not None]
    layers_column = _findings(view, brief=curve_height == 1)
    room = 1000
    if fit:
        used = _height(console, top, width) + _height(console, layers_column, column_width)
        room = console.height - used - 1 - (0 if wide else _height(console, metrics_column, column_width))
    layers_column += _layers(view, column_width, room, ascii_only=ascii_only)
    if not (wide and layers_column):
        return Group(*top, *metrics_column, *layers_column)
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(width=column_width)
    grid.add_column(width=column_width)
    grid.add_row(Group(*metrics_column), Group(*layers_column))
    return Group(*top, grid)


def _height(console: Console, parts: list[RenderableType], width: int) -> int:
    options = console.options.update(width=width)
    return sum(len(console.render_lines(part, options, pad=False)) for part in parts)


def _layers(view: RunView, width: int, room: int, *, ascii_only: bool) -> list[RenderableType]:
    """The tables of parameters and activations. room: the lines for both."""
    tables = [diagnostics.rank_layers(view.rows, part, columns) for part, columns in STATISTICS.items()]
    parameters, activations = (len(paths) for paths, _ in tables)
    headers = 3 * ((parameters > 0) + (activations > 0))
    lines = max(room - headers, 4) if room < 1000 else 24
    activation_lines = min(activations, max(lines - parameters, lines // 2))
    counts = (min(parameters, lines - activation_lines), activation_lines)
    return [
        layers_table(part, paths[:count], values, columns, width, total=len(paths), ascii_only=ascii_only)
        for (part, columns), (paths, values), count in zip(STATISTICS.items(), tables, counts, strict=True)
        if count
    ]


def _title(view: RunView) -> RenderableType:
    model = view.config.get("model")
    name = model.get("name") if isinstance(model, dict) else None
    grid = Table.grid(expand=True)
    grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    title = Text(view.folder.resolve().name, "bold")
    title.append(f"  {name}" if name else "", "not bold dim")
    grid.add_row(title, Text(view.state.name, f"bold {COLOURS[view.state.name]}"))
    return grid


def _progress(view: RunView) -> RenderableType:
    """The progress bar, the elapsed time, the speed and the remaining time."""
    steps, total = view.steps, view.total
    text = f"{steps:,}/{total:,}  {steps / total:.0%}" if total else f"{steps:,} steps"
    rate = metrics_log.steps_per_second(view.rows)
    text += f"  {format_clock(metrics_log.training_seconds(view.rows))}"
    if math.isfinite(rate) and rate > 0:
        text += f"  {speed_text(rate)}"
        if view.state.name == "running" and total > steps:
            text += f"  {format_clock((total - steps) / rate)} left"
    grid = Table.grid(expand=True, padding=(0, 1, 0, 0))
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    style = COLOURS[view.state.name]
    grid.add_row(ProgressBar(total or 1, min(steps, total or 0), complete_style=style, finished_style=style), text)
    return grid


def _state_message(view: RunView) -> list[RenderableType]:
    """What is wrong with the run and how to continue; an empty line otherwise."""
    name, message = view.state
    if name == "trial":
        hint = f"To train its remaining steps and write its report: {run_folder.program_name()} resume {view.folder}"
        return [Text(f"It is {message}. {hint}", COLOURS[name]), Text()]
    if name == "running" and not view.rows:
        return [Text("No metrics yet: the first row is written at the end of an interval.", "dim")]
    if name in ("complete", "running", "merged"):
        return [Text()]
    age = _age(view.folder / "metrics.jsonl")
    last_row = f"The last row is of step {view.steps:,}{age}." if view.rows else "It has no metrics."
    if name == "stopped":
        problem = "Nothing trains this run: no process holds its lock, and it has no result."
        message = f"{problem} {last_row} Resume with: {run_folder.program_name()} resume {view.folder}"
    elif name == "diverged":
        message = f"It diverged: {message or 'the loss is not finite'}. {last_row}"
    return [Text(message, COLOURS[name]), Text()]


def _age(path: Path) -> str:
    """How long ago a file was written: `, 2 hours ago`."""
    try:
        seconds = time.time() - path.stat().st_mtime
    except OSError:
        return ""
    if seconds < 0:
        return ""
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            return f", {counted(int(seconds // size), name)} ago"
    return f", {counted(int(seconds), 'second')} ago"


def _best_checkpoint(view: RunView) -> RenderableType | None:
    """The best checkpoint, as its manifest says; without one, the best step by the rows."""
    metadata = status.read_json_table(view.folder / "checkpoints" / "best" / "manifest.json").get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    value, step = (metrics_log.to_float(metadata.get(key)) for key in ("best_value", "best_step"))
    text = Text("best checkpoint  ", "dim")
    if math.isfinite(value) and math.isfinite(step):
        metric = str(metadata.get("best") or "").partition(" ")[2]
        return text.append(f"val {metric} {format_metric(metric, value)} at step {step:,.0f}", "not dim")
    best = status.best_value(view.rows, view.config)
    if best is None:
        return None
    value_text = format_metric(best.metric, best.value)
    return text.append(f"none; the best val {best.metric} is {value_text} at step {best.step:,}", "not dim")


def _events(view: RunView) -> RenderableType | None:
    """The last four events."""
    events = metrics_log.event_rows(view.rows)[-4:]
    if not events:
        return None
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column()
    for i, event in enumerate(events):
        message = Text(event.name, "yellow").append(f"  {event.message}"[:200], "default")
        grid.add_row(Text("events" if i == 0 else "", "dim"), f"{event.step:,}", message)
    return Group(Text(), grid)


def _findings(view: RunView, *, brief: bool) -> list[RenderableType]:
    """The findings about the layers. brief: in a line or two, for a low terminal."""
    if not view.findings:
        return []
    if brief:
        texts = [f"{finding.name} {' '.join(finding.paths[:1])}".rstrip() for finding in view.findings]
        return [Text("findings  ", "dim").append("; ".join(texts), "not dim yellow")]
    lines: list[RenderableType] = [Text(), Text("findings", "dim")]
    for finding in view.findings[:5]:
        text = Text(f"{finding.name}  ", "yellow").append(finding.message, "default")
        lines.append(text.append(f" ({finding.threshold})", "default dim"))
    return [Group(*lines)]
