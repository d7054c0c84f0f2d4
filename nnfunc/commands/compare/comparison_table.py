"""The tables of a comparison: means over the seeds, with intervals."""

import csv
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnfunc.commands.compare.comparison_plan import Plan

__all__ = ["Mean", "Row", "columns", "mean", "metric_of", "shown", "sizes", "summarize", "write"]


class Mean(NamedTuple):
    """The mean over seeds and half the width of its 95 % interval, None with one seed."""

    value: float
    half: float | None


class Row(NamedTuple):
    """One model under every variant. test: by variant. steps, seconds: to the target, or None."""

    model: str
    parameters: int
    flops: int
    test: dict[str, Mean]
    seconds_per_step: float
    steps: Mean | None
    seconds: Mean | None


def mean(values: list[float]) -> Mean:
    """The mean with a 95 % interval of Student's t.

    >>> mean([1.0, 2.0, 3.0])
    Mean(value=2.0, half=2.48...)
    """
    from scipy import stats

    value = float(np.mean(values))
    if len(values) < 2:
        return Mean(value, None)
    return Mean(value, float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)))


def metric_of(results: list[dict[str, Any]]) -> str:
    """The figure that a comparison is about: accuracy where there is one."""
    names = results[0]["test"]
    return "accuracy" if "accuracy" in names else "loss"


def summarize(plan: Plan, results: list[dict[str, Any]]) -> list[Row]:
    """One row a model. Steps, seconds and the time of a step are those of the first variant."""
    metric, rows = metric_of(results), []
    for model in plan.models:
        own = [r for r in results if r["model"] == model]
        test = {variant: mean([r["test"][metric] for r in own if r["variant"] == variant]) for variant in plan.variants}
        first = [r for r in own if r["variant"] == plan.variants[0]]
        reached = [r for r in first if r.get("steps_to_target") is not None]
        all_did = len(reached) == len(first)
        steps = mean([r["steps_to_target"] for r in reached]) if all_did else None
        seconds = mean([r["seconds_to_target"] for r in reached]) if all_did else None
        per_step = float(np.median([r["seconds_per_step"] for r in first]))
        rows.append(Row(model, *plan.sizes[model], test, per_step, steps, seconds))
    return rows


def columns(plan: Plan, rows: list[Row], metric: str) -> tuple[list[str], list[list[str]]]:
    """The heads and cells of the table, as text."""
    several = len(plan.variants) > 1
    share = metric == "accuracy"
    heads = ["model", "parameters", "MFLOPs"]
    heads += [f"test, {name}" if several else "test" for name in plan.variants]
    heads += ["lost"] if several else []
    heads += ["ms a step"]
    if plan.target:
        name, goal = plan.target
        value = f"{goal:.1%}" if name == "accuracy" else f"{name} {goal:g}"
        heads += [f"steps to {value}", f"seconds to {value}"]
    cells = []
    for row in rows:
        line = [row.model, f"{row.parameters:,}", f"{row.flops / 1e6:.2f}"]
        line += [_text(row.test[name], 100 if share else 1) for name in plan.variants]
        if several:
            values = [row.test[name].value for name in plan.variants]
            line.append(f"{(values[0] - values[-1]) * (100 if share else 1):.2f}")
        line.append(f"{row.seconds_per_step * 1e3:.1f}")
        if plan.target:
            line.append("never" if row.steps is None else f"{row.steps.value:.0f}")
            line.append("never" if row.seconds is None else f"{row.seconds.value:.1f}")
        cells.append(line)
    return heads, cells


def _text(value: Mean, factor: float) -> str:
    text = f"{value.value * factor:.2f}"
    return text if value.half is None else f"{text} ± {value.half * factor:.2f}"


def shown(plan: Plan, rows: list[Row], metric: str) -> str:
    """The table for a terminal."""
    from rich.console import Console
    from rich.table import Table

    heads, cells = columns(plan, rows, metric)
    table = Table(box=None, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", no_wrap=True)
    for line in cells:
        table.add_row(*line)
    file = io.StringIO()
    Console(file=file, width=200).print(table)  # a line too long for the terminal is wrapped there
    seeds = len({run.seed for run in plan.runs})
    words = f"test {metric}: the mean over {seeds} seeds and its 95 % interval"
    words += "; lost: first minus last variant" if len(plan.variants) > 1 else ""
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    return "\n".join([*lines, words if seeds > 1 else "one seed: no interval"])


def sizes(plan: Plan) -> str:
    """What is going to be trained, in a few lines."""
    width = max(map(len, plan.models))
    lines = [
        f"{name:<{width}}  {size.parameters:>10,} parameters  {size.flops / 1e6:8.2f} MFLOPs"
        for name, size in plan.sizes.items()
    ]
    return "\n".join([*lines, f"{len(plan.runs)} runs"])


def write(folder: Path, plan: Plan, results: list[dict[str, Any]], rows: list[Row]) -> None:
    """table.md for people, table.csv and runs.csv for programs."""
    heads, cells = columns(plan, rows, metric_of(results))
    rule = ["---", *["---:"] * (len(heads) - 1)]
    lines = [f"| {' | '.join(line)} |" for line in (heads, rule, *cells)]
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with open(folder / "table.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = [name or "test" for name in plan.variants]
        ends = [f"{name}{part}" for name in names for part in ("", "_half_interval")]
        writer.writerow(
            ["model", "parameters", "flops", *ends, "seconds_per_step", "steps_to_target", "seconds_to_target"]
        )
        for row in rows:
            test = [part for name in plan.variants for part in row.test[name]]
            ends = [m.value if m else None for m in (row.steps, row.seconds)]
            writer.writerow([row.model, row.parameters, row.flops, *test, row.seconds_per_step, *ends])
    with open(folder / "runs.csv", "w", newline="", encoding="utf-8") as file:
        flat = [
            {
                **{k: v for k, v in r.items() if k not in ("test", "curve")},
                **{f"test_{k}": v for k, v in r["test"].items()},
            }
            for r in results
        ]
        writer = csv.DictWriter(file, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)
