"""The report of a run, from the files in its folder: one self-contained HTML file."""

from pathlib import Path

from nnfunc.reports.html_page import save_page
from nnfunc.reports.run.run_page import build_page
from nnfunc.reports.run.run_plots import plot_curves, plot_speed
from nnfunc.runs import metrics_log, status

__all__ = ["plot_curves", "plot_speed", "write_report"]


def write_report(folder: Path) -> None:
    """Write `curves.png` and `report.html` of a run: metrics, problems, curves, layers over time.

    Sections without data are omitted, for example of a run of an older version.
    folder: of the run.
    """
    rows = metrics_log.read_rows(folder / "metrics.jsonl")
    result = status.read_json_table(folder / "result.json")
    step = metrics_log.to_float(result.get("step"))
    plot_curves(rows, folder / "curves.png", best=int(step) if step == step else None)
    save_page(folder / "report.html", build_page(folder, rows, result))
