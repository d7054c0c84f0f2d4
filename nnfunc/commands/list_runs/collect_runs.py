"""The runs below a folder, whatever their state, and the folders that are none."""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from nnfunc import documents
from nnfunc.reports.format import format_settings
from nnfunc.runs import metrics_log, run_folder, status

__all__ = ["Entry", "collect"]


class Entry(NamedTuple):
    """One run. best, last, test: figures by metric; best has those of the best step.

    state: one of runstate.STATES, "sweep", or "no run" for a folder that holds none. note: what is
    wrong, or of a sweep what it came to.
    settings: by dotted name. total: steps to do, 0 when the config does not tell.
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


def collect(folder: Path) -> list[Entry]:
    """Every run or sweep at or below a folder by name, then folders directly in it that hold none."""
    found, others = [], []
    for place, folders, files in os.walk(folder):
        path = Path(place)
        folders[:] = sorted((n for n in folders if not n.startswith(".")), key=metrics_log.natural)
        if "config.toml" in files or "metrics.jsonl" in files:
            folders.clear()  # what a run holds is no run
            found.append(entry(path, _below(folder, path)))
        elif run_folder.FILES["sweep"] in files:
            folders.clear()
            found.append(_sweep(path, _below(folder, path)))
        elif "compare.toml" in files:
            folders[:] = ["runs"] if "runs" in folders else []
        elif path.parent == folder:
            others.append(path.name)
    above = {entry.name.split(os.sep)[0] for entry in found}
    words = "it has no config.toml"
    return found + [Entry(name, "no run", words) for name in others if name not in above]


def entry(path: Path, name: str) -> Entry:
    """What is known of one run."""
    if problem := documents.leading_out(path):
        return Entry(name, "broken", problem)
    config, _ = status.config_of(path)
    rows = metrics_log.read(path / "metrics.jsonl", without=("layers",))
    state, note = status.state(path, rows)
    result = status.json_of(path / "result.json")
    mode, metric = status.wanted(config)
    best = status.best(rows, config)
    metrics = metrics_log.names(rows, "validation")
    model, train = (config.get(key) for key in ("model", "train"))
    total = metrics_log.number(train.get("steps")) if isinstance(train, dict) else math.nan
    seconds = metrics_log.number(result.get("seconds"))
    first = metrics_log.number(result.get("first"))
    known = math.isfinite(seconds) and not first > 0  # else only of the last process
    return Entry(
        name,
        state,
        note if state in ("broken", "diverged") else "",
        model=str(model.get("name", "")) if isinstance(model, dict) else "",
        parameters=status.parameters(path),
        steps=max((row["step"] for row in rows), default=0),
        total=int(total) if 0 < total < 2**53 else 0,
        best_step=best.step if best else None,
        best=_at(rows, metrics, best.step) if best else {},
        last={name: metrics_log.last(rows, "validation", name) for name in metrics},
        test=_finite(result.get("test")),
        seconds=seconds if known else metrics_log.elapsed(rows) or math.nan,
        metric=metric,
        mode=mode,
        settings=status.flat(config),
        rows=rows,
    )


def _below(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder)) if path != folder else path.resolve().name


def _sweep(path: Path, name: str) -> Entry:
    """What is known of a sweep: of its best member, once it has come to its end."""
    if problem := documents.leading_out(path):
        return Entry(name, "broken", problem)
    known = status.json_of(path / "result.json")
    if not known:
        go_on = f"{run_folder.command()} resume {path}"
        return Entry(name, "sweep", f"it has not come to its end; unless it runs: {go_on}")
    metric, score = str(known.get("figure")), metrics_log.number(known.get("score"))
    settings, runs = known.get("settings"), known.get("runs")
    best = format_settings(settings) if isinstance(settings, dict) else ""
    return Entry(
        name,
        "sweep",
        f"{runs} runs" + (f", best {best}" if best else ""),
        best={metric: score} if math.isfinite(score) else {},
        test=_finite(known.get("test")),
        seconds=metrics_log.number(known.get("seconds")),
        metric=metric,
    )


def _finite(figures: Any) -> dict[str, float]:
    """Those that are numbers, of what a file holds."""
    own = {k: metrics_log.number(v) for k, v in figures.items()} if isinstance(figures, dict) else {}
    return {name: value for name, value in own.items() if math.isfinite(value)}


def _at(rows: list[metrics_log.Row], metrics: list[str], step: int) -> dict[str, float]:
    """The validation figures of one step."""
    found = {}
    for name in metrics:
        steps, values = metrics_log.series(rows, "validation", name)
        here = values[steps == step]
        if len(here):
            found[name] = float(here[0])
    return found
