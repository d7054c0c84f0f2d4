"""The state of a run from its folder alone, without its model: for `watch`, `runs` and reports."""

import json
import math
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from nnfunc import documents
from nnfunc.runs import metrics_log
from nnfunc.runs.best_metric import BestMetric
from nnfunc.runs.lock import is_locked

__all__ = [
    "BestValue",
    "RunState",
    "beats_baseline",
    "best_value",
    "flatten_settings",
    "metric_mode",
    "parameter_count",
    "read_config",
    "read_json_table",
    "run_state",
]

STATES = ("running", "complete", "stopped", "diverged", "broken", "merged", "trial")


class RunState(NamedTuple):
    """name: one of STATES. detail: more about it, which may be empty."""

    name: str
    detail: str = ""


def run_state(folder: Path, rows: list[metrics_log.Row]) -> RunState:
    """Whether a run is running, complete, stopped, diverged, merged or a saved trial, or cannot be read.

    folder: of the run. rows: of its metrics.jsonl.
    """
    _, problem = read_config(folder)
    if problem:
        return RunState("broken", problem)
    if (folder / "result.json").is_file():
        return RunState("complete") if read_json_table(folder / "result.json") else _broken("result.json")
    if is_locked(folder):
        return RunState("running")
    if (folder / "merged.json").is_file():  # what `nnfunc merge` wrote: nothing trains it
        return RunState("merged", f"from {read_json_table(folder / 'merged.json').get('run')}")
    happened = [row for row in rows if row["split"] in ("event", "train")]
    if happened and happened[-1]["split"] == "event" and happened[-1].get("event") == "diverged":
        return RunState("diverged", str(happened[-1].get("message") or ""))
    for split in ("train", "validation"):
        own = [row["loss"] for row in rows if row["split"] == split and "loss" in row]
        if own and isinstance(own[-1], float) and not math.isfinite(own[-1]):
            return RunState("diverged", f"the last {split} loss is {own[-1]}")
    trial = read_json_table(folder / "trial.json")  # written by `nnfunc sweep-best --save`
    if metrics_log.to_float(trial.get("step")) >= max((row["step"] for row in rows), default=0):
        return RunState("trial", f"trial {trial.get('trial')} of {trial.get('sweep')}")
    return RunState("stopped", "no process trains it, and it has no result")


def _broken(name: str) -> RunState:
    return RunState("broken", f"{name} cannot be read")


def read_config(folder: Path) -> tuple[dict[str, Any], str]:
    """The settings of a run, and the problem with their file, "" without one. folder: of the run."""
    try:
        return tomllib.loads(documents.read_bytes(folder / "config.toml").decode("utf-8")), ""
    except FileNotFoundError:
        return {}, "it has no config.toml"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines() or [type(error).__name__]
        return {}, f"config.toml cannot be read: {reason[0]}"


def read_json_table(path: Path) -> dict[str, Any]:
    """The dictionary in a JSON file; {} if the file is missing or holds anything else. path: of the file."""
    try:
        value = json.loads(documents.read_bytes(path))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def flatten_settings(tables: dict[str, Any], start: str = "") -> dict[str, Any]:
    """The settings by dotted name: `{"train": {"steps": 5}}` is `{"train.steps": 5}`.

    tables: of a config. start: of every name.
    """
    result: dict[str, Any] = {}
    for name, value in tables.items():
        inner = isinstance(value, dict)
        result |= flatten_settings(value, f"{start}{name}.") if inner else {f"{start}{name}": value}
    return result


class BestValue(NamedTuple):
    """The best value so far of a validation metric, and its step."""

    metric: str
    value: float
    step: int


def best_value(rows: list[metrics_log.Row], config: dict[str, Any]) -> BestValue | None:
    """The best value of the metric that train.best names, None without any.

    rows: of metrics.jsonl. config: of the run.
    """
    mode, metric = BestMetric.of_config(config)
    steps, values = metrics_log.metric_series(rows, "validation", metric)
    if not len(values):
        return None
    place = int(values.argmax() if mode == "max" else values.argmin())
    return BestValue(metric, float(values[place]), int(steps[place]))


def metric_mode(metric: str, config: dict[str, Any]) -> str:
    """Whether larger values of a metric are better, "max", or smaller ones, "min".

    metric: its name. config: of the run.
    """
    mode, known = BestMetric.of_config(config)
    if metric == known:
        return mode
    return "max" if metric.endswith(("accuracy", "f1", "auc", "precision", "recall")) else "min"


def parameter_count(folder: Path) -> int | None:
    """The number of parameters of the model, from a checkpoint; None without one. folder: of the run."""
    root = folder / "checkpoints"
    for path in [root / "best", *sorted(root.glob("step-*"), reverse=True)]:
        leaves = read_json_table(path / "manifest.json").get("leaves")
        if isinstance(leaves, dict):
            own = {k: v for k, v in leaves.items() if k.removeprefix("state/").startswith("params/")}
            try:
                return sum(math.prod(int(n) for n in leaf["shape"]) for leaf in own.values())
            except (KeyError, TypeError, ValueError):
                continue
    return None


def beats_baseline(metrics: dict[str, float], without: dict[str, float]) -> bool:
    """Whether a run is better than its baseline, by accuracy if it has one, else by the loss.

    metrics: of the run. without: of the baseline.

    >>> beats_baseline({"loss": 0.4, "accuracy": 0.85}, {"loss": 0.1, "accuracy": 0.97})
    False
    """
    name, sign = ("accuracy", -1) if "accuracy" in without else ("loss", 1)
    own, other = (sign * metrics_log.to_float(of.get(name)) for of in (metrics, without))
    return own < other or math.isnan(other)
