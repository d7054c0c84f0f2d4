"""The report of a run, from the files in its folder: one self-contained HTML file."""

from pathlib import Path

from nnfunc.reports import vega
from nnfunc.reports.html_page import save_page
from nnfunc.reports.run.evaluation_section import Evaluation
from nnfunc.reports.run.run_charts import picture_charts
from nnfunc.reports.run.run_page import best_step, build_page
from nnfunc.runs import metrics_log, status

__all__ = ["write_report"]


def write_report(folder: Path, evaluation: Evaluation | None = None) -> None:
    """Write `curves.png` and `report.html` of a run: metrics, problems, curves, layers over time, held-out data.

    Sections without data are omitted, for example of a run of an older version.
    folder: of the run.
    evaluation: of held-out data.
    """
    rows = metrics_log.read_rows(folder / "metrics.jsonl")
    result = status.read_json_table(folder / "result.json")
    curves = picture_charts(rows, best_step(result))
    png = vega.draw_png(curves) if curves and vega.library() else None
    if png:
        vega.save_png(png, folder / "curves.png")
    save_page(folder / "report.html", build_page(folder, rows, result, evaluation, png=png))
