"""The tables of a comparison: means over the seeds, with 95 % intervals."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnfunc.commands.compare.comparison_plan import ComparisonPlan
from nnfunc.display import text_table
from nnfunc.sweeps.result import half_interval


class SeedMean(NamedTuple):
    """value: the mean over seeds. half: half the width of its 95 % interval, None for one seed."""

    value: float
    half: float | None


class ModelRow(NamedTuple):
    """One model.

    parameters, flops: its `ModelSize`.
    test: the mean by variant.
    seconds_per_step: the median.
    steps, seconds: to the target, None when it was never reached.
    """

    model: str
    parameters: int
    flops: int
    test: dict[str, SeedMean]
    seconds_per_step: float
    steps: SeedMean | None
    seconds: SeedMean | None


def mean_over_seeds(values: list[float]) -> SeedMean:
    """The mean with a 95 % interval of Student's t.

    values: one per seed.

    >>> mean_over_seeds([1.0, 2.0, 3.0])
    SeedMean(value=2.0, half=2.48...)
    """
    return SeedMean(float(np.mean(values)), half_interval(values) if len(values) > 1 else None)


def headline_metric(results: list[dict[str, Any]]) -> str:
    """The metric of the comparison: accuracy where there is one, else the loss. results: of the runs."""
    return "accuracy" if "accuracy" in results[0]["test"] else "loss"


def results_of(results: list[dict[str, Any]], model: str, variant: str) -> list[dict[str, Any]]:
    """The results of one model in one variant, one per seed. results: of all runs."""
    return [result for result in results if (result["model"], result["variant"]) == (model, variant)]


def summarize(plan: ComparisonPlan, results: list[dict[str, Any]]) -> list[ModelRow]:
    """One row per model; steps, seconds and the time per step are of the first variant.

    plan: of the comparison.
    results: of its runs.
    """
    metric, rows = headline_metric(results), []
    for model in plan.models:
        by_variant = {variant: results_of(results, model, variant) for variant in plan.variants}
        test = {name: mean_over_seeds([r["test"][metric] for r in runs]) for name, runs in by_variant.items()}
        first = by_variant[plan.variants[0]]
        steps = seconds = None
        if all(r.get("steps_to_target") is not None for r in first):
            steps, seconds = (mean_over_seeds([r[f"{name}_to_target"] for r in first]) for name in ("steps", "seconds"))
        per_step = float(np.median([r["seconds_per_step"] for r in first]))
        rows.append(ModelRow(model, *plan.sizes[model], test, per_step, steps, seconds))
    return rows


def table_cells(plan: ComparisonPlan, rows: list[ModelRow], metric: str) -> tuple[list[str], list[list[str]]]:
    """The header and the cells of the table, as text. plan, rows: of `summarize`. metric: of the tests."""
    several = len(plan.variants) > 1
    factor = 100 if metric == "accuracy" else 1
    header = ["model", "parameters", "MFLOPs", *(f"test, {name}" if several else "test" for name in plan.variants)]
    header += ["lost"] * several + ["ms a step"]
    if plan.target:
        name, value = plan.target
        target = f"{value:.1%}" if name == "accuracy" else f"{name} {value:g}"
        header += [f"steps to {target}", f"seconds to {target}"]
    cells = []
    for row in rows:
        line = [row.model, f"{row.parameters:,}", f"{row.flops / 1e6:.2f}"]
        line += [_mean_text(row.test[name], factor) for name in plan.variants]
        if several:
            line.append(f"{(row.test[plan.variants[0]].value - row.test[plan.variants[-1]].value) * factor:.2f}")
        line.append(f"{row.seconds_per_step * 1e3:.1f}")
        if plan.target:
            line.append("never" if row.steps is None else f"{row.steps.value:.0f}")
            line.append("never" if row.seconds is None else f"{row.seconds.value:.1f}")
        cells.append(line)
    return header, cells


def _mean_text(mean: SeedMean, factor: float) -> str:
    text = f"{mean.value * factor:.2f}"
    return text if mean.half is None else f"{text} ± {mean.half * factor:.2f}"


def table_text(plan: ComparisonPlan, rows: list[ModelRow], metric: str) -> str:
    """The table for a terminal. plan, rows: of `summarize`. metric: of the tests."""
    header, cells = table_cells(plan, rows, metric)
    lines = text_table([header, *cells], 1)
    seeds = len({run.seed for run in plan.runs})
    note = "one seed, so there is no interval"
    if seeds > 1:
        note = f"test {metric}: the mean over {seeds} seeds and its 95 % interval"
        note += "; lost: first minus last variant" if len(plan.variants) > 1 else ""
    return "\n".join([*lines, note])


def size_lines(plan: ComparisonPlan) -> str:
    """The models with their sizes, and the number of runs. plan: of the comparison."""
    width = max(map(len, plan.models))
    lines = [
        f"{name:<{width}}  {size.parameters:>10,} parameters  {size.flops / 1e6:8.2f} MFLOPs"
        for name, size in plan.sizes.items()
    ]
    return "\n".join([*lines, f"{len(plan.runs)} runs"])


def write_tables(folder: Path, plan: ComparisonPlan, results: list[dict[str, Any]], rows: list[ModelRow]) -> None:
    """Write table.md for people, and table.csv and runs.csv for programs.

    folder: of the comparison.
    plan, results, rows: see `summarize`.
    """
    header, cells = table_cells(plan, rows, headline_metric(results))
    rule = ["---", *["---:"] * (len(header) - 1)]
    lines = [f"| {' | '.join(line)} |" for line in (header, rule, *cells)]
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    names = [f"{name or 'test'}{part}" for name in plan.variants for part in ("", "_half_interval")]
    csv_header = ["model", "parameters", "flops", *names, "seconds_per_step", "steps_to_target", "seconds_to_target"]
    csv_rows = []
    for row in rows:
        test = [part for name in plan.variants for part in row.test[name]]
        to_target = [mean.value if mean else None for mean in (row.steps, row.seconds)]
        csv_rows.append([row.model, row.parameters, row.flops, *test, row.seconds_per_step, *to_target])
    _write_csv(folder / "table.csv", [csv_header, *csv_rows])
    flat = [
        {k: v for k, v in r.items() if k not in ("test", "curve")} | {f"test_{k}": v for k, v in r["test"].items()}
        for r in results
    ]
    _write_csv(folder / "runs.csv", [list(flat[0]), *([row.get(name) for name in flat[0]] for row in flat)])


def _write_csv(path: Path, rows: list[list[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
