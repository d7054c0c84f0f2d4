"""The report of a comparison: one HTML page that needs no other file."""

import html
from pathlib import Path
from typing import Any

from nnfunc.commands.compare import comparison_table
from nnfunc.commands.compare.comparison_plan import Plan
from nnfunc.commands.compare.comparison_table import Row
from nnfunc.reports import html_page
from nnfunc.reports.format import format_metric
from nnfunc.runs import status

__all__ = ["write"]


def write(folder: Path, plan: Plan, results: list[dict[str, Any]], rows: list[Row]) -> None:
    """Write `report.html` of what lies in the folder of a comparison, its plots included."""
    metric = comparison_table.metric_of(results)
    environment = status.json_of(folder / "environment.json")
    versions = environment.pop("versions", None)
    versions = versions if isinstance(versions, dict) else {}
    seeds = sorted({run.seed for run in plan.runs})
    times = "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds, with 95 % intervals of the mean"
    note = f"{len(plan.models)} models, {len(plan.runs)} runs: {times}."
    page = html_page.render_page(
        folder.name,
        f'<p class="note">{html.escape(note)} {_WORDS}</p>',
        _grid(*comparison_table.columns(plan, rows, metric)),
        html_page.picture(folder / "results.png", f"Test {metric} of every run, by model"),
        html_page.picture(folder / "curves.png", "Validation curves, over steps and over seconds"),
        "<h2>Runs</h2>",
        _grid(*_runs(results)),
        html_page.render_tables(Settings=status.flat(plan.tables), Environment={**environment, **versions}),
    )
    html_page.save_page(folder / "report.html", page)


_WORDS = "The test figures are those of each run's best checkpoint, by its validation examples."


def _runs(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The heads and cells of the table with one line a run."""
    names = list(results[0]["test"])
    several = any(result["variant"] for result in results)
    heads = ["model", *["variant"] * several, "seed", *(f"test {name}" for name in names)]
    heads += ["best step", "seconds"]
    cells = []
    for result in results:
        line = [result["model"], *[result["variant"]] * several, str(result["seed"])]
        line += [format_metric(name, result["test"][name]) for name in names]
        cells.append([*line, str(result["best_step"]), f"{result['seconds']:.1f}"])
    return heads, cells


def _grid(heads: list[str], cells: list[list[str]]) -> str:
    """A table with a head for every column; all columns but the first are numbers."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in cells]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table class="numbers"><tr>{head}</tr>{body}</table></div>'
