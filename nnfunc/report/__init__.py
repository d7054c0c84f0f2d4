"""The report of a run, from what lies in its folder: one HTML file that needs no other."""

from pathlib import Path

from nnfunc import records, runstate
from nnfunc.report.page import page
from nnfunc.report.plots import curves, speed
from nnfunc.report.shell import put

__all__ = ["curves", "speed", "write"]


def write(folder: Path) -> None:
    """Draw `curves.png` and write `report.html`: figures, what stands out, curves, layers over time.

    Rows that an older version did not write are missed by nothing; their sections are left out.
    """
    rows = records.read(folder / "metrics.jsonl")
    result = runstate.json_of(folder / "result.json")
    step = records.number(result.get("step"))
    curves(rows, folder / "curves.png", best=int(step) if step == step else None)
    put(folder / "report.html", page(folder, rows, result))
