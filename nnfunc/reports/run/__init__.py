"""The report of a run, from the files in its folder: one self-contained HTML file."""

from pathlib import Path
from typing import Any

from nnfunc.reports import vega
from nnfunc.reports.html_page import save_page
from nnfunc.reports.run.evaluation_section import Evaluation
from nnfunc.reports.run.run_charts import picture_charts
from nnfunc.reports.run.run_page import best_step, build_page
from nnfunc.runs import metrics_log, status

__all__ = ["draw_curves", "write_report"]


def write_report(folder: Path, evaluation: Evaluation | None = None, png: bytes | None = None) -> None:
    """Write `curves.png` and `report.html` of a run: metrics, problems, curves, layers over time, held-out data.

    Sections without data are omitted, for example of a run of an older version.
    folder: of the run.
    evaluation: of held-out data.
    png: of `draw_curves`, which is called without it.
    """
    rows, result = _read(folder)
    png = png or draw_curves(folder)
    if png:
        vega.save_png(png, folder / "curves.png")
    save_page(folder / "report.html", build_page(folder, rows, result, evaluation, png=png))


def draw_curves(folder: Path) -> bytes | None:
    """The picture of the curves of a run; None without curves or vl-convert. folder: of the run."""
    rows, result = _read(folder)
    curves = picture_charts(rows, best_step(result))
    return vega.draw_png(curves) if curves and vega.library() else None


def _read(folder: Path) -> tuple[list[metrics_log.Row], dict[str, Any]]:
    """The rows of metrics.jsonl and result.json."""
    return metrics_log.read_rows(folder / "metrics.jsonl"), status.read_json_table(folder / "result.json")
