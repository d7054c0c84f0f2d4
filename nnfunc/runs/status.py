"""The state of a run from the files in its folder, for `watch`, `runs` and reports."""

import json
import math
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from nnfunc import documents
from nnfunc.runs import metrics_log
from nnfunc.runs.best_metric import BestMetric
from nnfunc.runs.lock import is_locked

STATES = ("running", "complete", "stopped", "diverged", "broken", "merged", "trial")


class RunState(NamedTuple):
    """The state of a run. name: one of STATES. detail: a clause about it, or ""."""

    name: str
    detail: str = ""


def run_state(folder: Path, rows: list[metrics_log.Row]) -> RunState:
    """The state of a run: running, complete, stopped, diverged, merged, a saved trial, or broken if it cannot be read.

    folder: of the run.
    rows: of its metrics.jsonl.
    """
    _, problem = read_config(folder)
    if problem:
        return RunState("broken", problem)
    if (folder / "result.json").is_file():
        result = read_json_table(folder / "result.json")
        if not result:
            return RunState("broken", "result.json cannot be read")
        early = result.get("stopped_early")
        return RunState("complete", f"stopped early at step {early}" if isinstance(early, int) else "")
    if is_locked(folder):
        return RunState("running")
    if (folder / "merged.json").is_file():  # written by `nnfunc merge`, not trained
        return RunState("merged", f"from {read_json_table(folder / 'merged.json').get('run')}")
    last = next((row for row in reversed(rows) if row["split"] in ("event", "train")), {})
    if last.get("split") == "event" and last.get("event") == "diverged":
        return RunState("diverged", str(last.get("message") or ""))
    for split in ("train", "validation"):
        losses = [row["loss"] for row in rows if row["split"] == split and "loss" in row]
        if losses and isinstance(losses[-1], float) and not math.isfinite(losses[-1]):
            return RunState("diverged", f"the last {split} loss is {losses[-1]}")
    trial = read_json_table(folder / "trial.json")  # written by `nnfunc sweep-best --save`
    if metrics_log.to_float(trial.get("step")) >= max((row["step"] for row in rows), default=0):
        return RunState("trial", f"trial {trial.get('trial')} of {trial.get('sweep')}")
    return RunState("stopped", "no process trains it, and it has no result")


def read_config(folder: Path) -> tuple[dict[str, Any], str]:
    """(the config of a run, the problem with config.toml or ""). folder: of the run."""
    try:
        return tomllib.loads(documents.read_bytes(folder / "config.toml").decode("utf-8")), ""
    except FileNotFoundError:
        return {}, "it has no config.toml"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines() or [type(error).__name__]
        return {}, f"config.toml cannot be read: {reason[0]}"


def read_json_table(path: Path) -> dict[str, Any]:
    """The table in a JSON file; {} if the file cannot be read or holds something else. path: of the file."""
    try:
        value = json.loads(documents.read_bytes(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def flatten_settings(tables: dict[str, Any], start: str = "") -> dict[str, Any]:
    """The settings by dotted name: `{"train": {"steps": 5}}` becomes `{"train.steps": 5}`.

    tables: of a config.
    start: the prefix of every name.
    """
    result: dict[str, Any] = {}
    for name, value in tables.items():
        path = f"{start}{name}"
        result |= flatten_settings(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return result


class BestValue(NamedTuple):
    """The best value of a validation metric so far. metric: its name. value: of the metric. step: of the value."""

    metric: str
    value: float
    step: int


def best_value(rows: list[metrics_log.Row], config: dict[str, Any]) -> BestValue | None:
    """The best value of the metric that train.best of the config names; None if there is no value.

    rows: of metrics.jsonl.
    config: of the run.
    """
    mode, metric = BestMetric.of_config(config)
    steps, values = metrics_log.metric_series(rows, "validation", metric)
    if not len(values):
        return None
    best = int(values.argmax() if mode == "max" else values.argmin())
    return BestValue(metric, float(values[best]), int(steps[best]))


def metric_mode(metric: str, config: dict[str, Any]) -> str:
    """ "max" if larger values of a metric are better, "min" if smaller ones are.

    metric: its name.
    config: of the run.
    """
    mode, known = BestMetric.of_config(config)
    if metric == known:
        return mode
    larger = ("accuracy", "f1", "auc", "precision", "recall", "_macro", "_micro", "_weighted", "r2", "coverage")
    return "max" if metric.endswith(larger) else "min"


def parameter_count(folder: Path) -> int | None:
    """The number of parameters of the model, from a checkpoint; None if there is none. folder: of the run."""
    root = folder / "checkpoints"
    for path in [root / "best", *sorted(root.glob("step-*"), reverse=True)]:
        leaves = read_json_table(path / "manifest.json").get("leaves")
        if isinstance(leaves, dict):
            params = [leaf for path, leaf in leaves.items() if path.removeprefix("state/").startswith("params/")]
            try:
                return sum(math.prod(int(n) for n in leaf["shape"]) for leaf in params)
            except (KeyError, TypeError, ValueError):
                continue
    return None


def beats_baseline(metrics: dict[str, float], baseline: dict[str, float], best: BestMetric | None = None) -> bool:
    """Whether a run is better than its baseline: by the metric of its best checkpoint, or else by accuracy or by loss.

    Where one class is rare, a useful model may be no more often right than the answer that is always the other class.
    metrics, baseline: the metrics of the run and of the baseline.
    best: of the run; the loss alone says no more than None.

    >>> beats_baseline({"loss": 0.4, "accuracy": 0.85}, {"loss": 0.1, "accuracy": 0.97})
    False
    >>> beats_baseline({"loss": 0.1, "f1": 0.5}, {"loss": 0.2, "f1": 0.5}, BestMetric("max", "f1"))
    False
    >>> beats_baseline({"loss": 0.1}, {"loss": 0.2, "f1": 0.5}, BestMetric("max", "f1"))  # of a run without it
    True
    """
    signs = {"accuracy": -1, "loss": 1}
    if best is not None and best.name != "loss" and best.name in baseline and best.name in metrics:
        signs = {best.name: 1 if best.mode == "min" else -1}
    pairs = [(sign, metrics_log.to_float(baseline.get(name)), name) for name, sign in signs.items()]
    known = [
        (sign * metrics_log.to_float(metrics.get(name)), sign * value) for sign, value, name in pairs if value == value
    ]
    return any(value < limit for value, limit in known) or not known
