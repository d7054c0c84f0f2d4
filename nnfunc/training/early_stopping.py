"""Early stopping: a run ends when its validation metric has not improved for several evaluations."""

import math
from typing import Any

from nnfunc import check
from nnfunc.runs.best_metric import BestMetric

EARLY_STOP = "early stop"
"""The event in metrics.jsonl of a run that stopped early."""


class Patience:
    """Counts the evaluations since the best one.

    best: the metric.
    evaluations: how many in a row without a better value are too many.
    rows: of metrics.jsonl so far; an earlier stop in them starts the count anew. Attributes: is_over, whether there
        have been too many.
    """

    def __init__(self, best: BestMetric, evaluations: int, rows: list[dict[str, Any]]):
        self.best, self.evaluations = best, evaluations
        self.value: float | None = None
        self.count, self.is_over = 0, False
        for row in rows:
            if row["split"] == "validation":
                self.observe(row)
            elif row["split"] == "event" and row.get("event") == EARLY_STOP:
                self.count = 0
        self.is_over = False

    def observe(self, metrics: dict[str, Any]) -> str:
        """Count an evaluation; returns the reason to stop, or "". metrics: of the validation split."""
        value = metrics.get(self.best.name)
        value = math.nan if value is None else value
        if self.best.improves({self.best.name: value}, self.value):
            self.value, self.count = value, 0
        else:
            self.count += 1
        self.is_over = self.count >= self.evaluations
        best = "" if self.value is None else f" than {self.value:.6g}"
        return f"no better {self.best}{best} in {check.counted(self.count, 'evaluation')}" if self.is_over else ""
