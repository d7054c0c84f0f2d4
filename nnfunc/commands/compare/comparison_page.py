"""The report of a comparison: one self-contained HTML page."""

from pathlib import Path
from typing import Any

from nnfunc.commands.compare.comparison_charts import curve_charts, result_chart
from nnfunc.commands.compare.comparison_plan import ComparisonPlan
from nnfunc.commands.compare.comparison_table import ModelRow, headline_metric, table_cells
from nnfunc.reports import html_page, vega
from nnfunc.reports.format import format_metric
from nnfunc.runs import status


def write_page(folder: Path, plan: ComparisonPlan, results: list[dict[str, Any]], rows: list[ModelRow]) -> None:
    """Write report.html, results.png and curves.png. folder: of the comparison. plan, results, rows: of `summarize`."""
    metric = headline_metric(results)
    groups = {"results": [result_chart(plan, results)], "curves": curve_charts(plan, results)}
    pictures = {name: vega.draw_png(charts) for name, charts in groups.items()} if vega.library() else {}
    for name, png in pictures.items():
        vega.save_png(png, folder / f"{name}.png")
    environment = status.read_json_table(folder / "environment.json")
    versions = environment.pop("versions", None)
    versions = versions if isinstance(versions, dict) else {}
    seeds = len({run.seed for run in plan.runs})
    seeds_text = "one seed" if seeds == 1 else f"{seeds} seeds, with 95 % intervals of the mean"
    note = f"{len(plan.models)} models, {len(plan.runs)} runs: {seeds_text}. "
    note += "The test metrics are those of each run's best checkpoint by its validation metric."
    page = html_page.render_page(
        folder.name,
        html_page.render_note(note),
        _render_grid("models", *table_cells(plan, rows, metric)),
        *(
            html_page.render_charts(charts, layout="single" if name == "results" else "", png=pictures.get(name))
            for name, charts in groups.items()
        ),
        html_page.render_section("Runs", _render_grid("runs", *_run_cells(results))),
        html_page.render_tables(Settings=status.flatten_settings(plan.tables), Environment={**environment, **versions}),
        charts=[chart for charts in groups.values() for chart in charts],
    )
    html_page.save_page(folder / "report.html", page)


def _render_grid(name: str, header: list[str], cells: list[list[str]]) -> str:
    return html_page.render_sorted(name, header, [("", line) for line in cells])


def _run_cells(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The header and the cells of the table with one line per run."""
    metrics = list(results[0]["test"])
    labels = ["model", "variant", "seed"] if any(r["variant"] for r in results) else ["model", "seed"]
    header = [*labels, *(f"test {name}" for name in metrics), "best step", "seconds"]
    cells = [
        [
            *(str(r[label]) for label in labels),
            *(format_metric(name, r["test"][name]) for name in metrics),
            str(r["best_step"]),
            f"{r['seconds']:.1f}",
        ]
        for r in results
    ]
    return header, cells
