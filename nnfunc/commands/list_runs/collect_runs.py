"""Reads the runs and sweeps below a folder, also incomplete and damaged ones."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nnfunc import documents
from nnfunc.commands.watch.dashboard import total_steps
from nnfunc.reports.format import format_settings
from nnfunc.runs import metrics_log, run_folder, status
from nnfunc.runs.best_metric import BestMetric


class RunEntry(NamedTuple):
    """One run or sweep.

    name: the path below the folder.
    state: one of `status.STATES`, "sweep", or "no run" for a folder without a run.
    note: what is wrong with the run, which trial it is, or the result of the sweep.
    model: its name.
    parameters: their number.
    steps: those done.
    total: steps to do, 0 if the config has none.
    best_step: of the best validation metric.
    best, last, test: metrics by name; best has the validation metrics of the best step.
    seconds: of training.
    metric, mode: the metric of the best checkpoint, and whether it is "min" or "max".
    settings: by dotted name.
    rows: of metrics.jsonl, without those of layers.
    """

    name: str
    state: str
    note: str = ""
    model: str = ""
    parameters: int | None = None
    steps: int = 0
    total: int = 0
    best_step: int | None = None
    best: dict[str, float] = {}
    last: dict[str, float] = {}
    test: dict[str, float] = {}
    seconds: float = math.nan
    metric: str = "loss"
    mode: str = "min"
    settings: dict[str, Any] = {}
    rows: list[metrics_log.Row] = []


def collect_runs(folder: Path, read: Callable[[Path, str], RunEntry] | None = None) -> list[RunEntry]:
    """Every run and sweep at or below a folder, by name, then its direct subfolders without any.

    folder: to search; hidden folders are skipped.
    read: (folder of a run, name) -> entry, by default `read_run`.
    """
    read = read or read_run
    entries, others = [], []
    for root, folders, files in os.walk(folder):
        path = Path(root)
        name = str(path.relative_to(folder)) if path != folder else path.resolve().name
        folders[:] = sorted((n for n in folders if not n.startswith(".")), key=metrics_log.natural_order)
        if "config.toml" in files or "metrics.jsonl" in files:
            folders.clear()  # a run contains no other runs
            entries.append(read(path, name))
        elif run_folder.CONFIG_FILES["sweep"] in files:
            folders.clear()
            entries.append(_read_sweep(path, name))
        elif "compare.toml" in files:
            folders[:] = ["runs"] if "runs" in folders else []
        elif path != folder and path.parent == folder and not (path / "plugins" / "profile").is_dir():  # a trace
            others.append(path.name)
    parents = {entry.name.split(os.sep)[0] for entry in entries}
    return entries + [RunEntry(name, "no run", "it has no config.toml") for name in others if name not in parents]


def read_run(path: Path, name: str, rows: list[metrics_log.Row] | None = None) -> RunEntry:
    """A run. path: its folder. name: below the folder of all. rows: of its metrics.jsonl, where they are known."""
    if problem := documents.find_outside_link(path):
        return RunEntry(name, "broken", problem)
    config, _ = status.read_config(path)
    rows = metrics_log.read_rows(path / "metrics.jsonl", without=("layers",)) if rows is None else rows
    state, note = status.run_state(path, rows)
    result = status.read_json_table(path / "result.json")
    mode, metric = BestMetric.of_config(config)
    best = status.best_value(rows, config)
    curves = {
        key: metrics_log.metric_series(rows, "validation", key) for key in metrics_log.metric_names(rows, "validation")
    }
    model = config.get("model")
    seconds = metrics_log.to_float(result.get("seconds"))
    resumed = metrics_log.to_float(result.get("first")) > 0  # then seconds are of the last process alone
    return RunEntry(
        name,
        state,
        note if state in ("broken", "diverged", "trial") else "",
        model=str(model.get("name", "")) if isinstance(model, dict) else "",
        parameters=status.parameter_count(path),
        steps=max((row["step"] for row in rows), default=0),
        total=total_steps(config),
        best_step=best.step if best else None,
        best={key: float(v[s == best.step][0]) for key, (s, v) in curves.items() if best.step in s} if best else {},
        last={key: float(values[-1]) for key, (_, values) in curves.items()},
        test=_finite_metrics(result.get("test")),
        seconds=seconds if math.isfinite(seconds) and not resumed else metrics_log.training_seconds(rows) or math.nan,
        metric=metric,
        mode=mode,
        settings=status.flatten_settings(config),
        rows=rows,
    )


def _read_sweep(path: Path, name: str) -> RunEntry:
    """A sweep, with the metrics of its best trial once it is complete."""
    if problem := documents.find_outside_link(path):
        return RunEntry(name, "broken", problem)
    result = status.read_json_table(path / "result.json")
    if not result:
        return RunEntry(name, "sweep", f"not complete; if it is not running: {run_folder.program_name()} resume {path}")
    metric, score = str(result.get("metric")), metrics_log.to_float(result.get("score"))
    settings = result.get("settings")
    best = format_settings(settings) if isinstance(settings, dict) else ""
    return RunEntry(
        name,
        "sweep",
        f"{result.get('runs')} runs" + (f", best {best}" if best else ""),
        best={metric: score} if math.isfinite(score) else {},
        test=_finite_metrics(result.get("test")),
        seconds=metrics_log.to_float(result.get("seconds")),
        metric=metric,
    )


def _finite_metrics(metrics: Any) -> dict[str, float]:
    """The metrics of a JSON file that are finite numbers. metrics: any value of the file."""
    values = {k: metrics_log.to_float(v) for k, v in metrics.items()} if isinstance(metrics, dict) else {}
    return {name: value for name, value in values.items() if math.isfinite(value)}
