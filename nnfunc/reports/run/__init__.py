"""The report of a run, from what lies in its folder: one HTML file that needs no other."""

from pathlib import Path

from nnfunc.reports.html_page import put
from nnfunc.reports.run.run_page import page
from nnfunc.reports.run.run_plots import curves, speed
from nnfunc.runs import metrics_log, status

__all__ = ["curves", "speed", "write"]


def write(folder: Path) -> None:
    """Draw `curves.png` and write `report.html`: figures, what stands out, curves, layers over time.

    Rows that an older version did not write are missed by nothing; their sections are left out.
    """
    rows = metrics_log.read_rows(folder / "metrics.jsonl")
    result = status.read_json_table(folder / "result.json")
    step = metrics_log.to_float(result.get("step"))
    curves(rows, folder / "curves.png", best=int(step) if step == step else None)
    put(folder / "report.html", page(folder, rows, result))
