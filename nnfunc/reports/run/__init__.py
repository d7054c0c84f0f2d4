"""The report of a run, from what lies in its folder: one HTML file that needs no other."""

from pathlib import Path

from nnfunc.reports.html_page import save_page
from nnfunc.reports.run.run_page import build_page
from nnfunc.reports.run.run_plots import plot_curves, plot_speed
from nnfunc.runs import metrics_log, status

__all__ = ["plot_curves", "plot_speed", "write_report"]


def write_report(folder: Path) -> None:
    """Draw `curves.png` and write `report.html`: figures, what stands out, curves, layers over time.

    Rows that an older version did not write are missed by nothing; their sections are left out.
    """
    rows = metrics_log.read(folder / "metrics.jsonl")
    result = status.json_of(folder / "result.json")
    step = metrics_log.number(result.get("step"))
    plot_curves(rows, folder / "curves.png", best=int(step) if step == step else None)
    save_page(folder / "report.html", build_page(folder, rows, result))
