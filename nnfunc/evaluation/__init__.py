"""The evaluation of held-out outputs: predictions, metrics with intervals, confusion, curves, the worst examples."""

from nnfunc.evaluation.bootstrap import bootstrap
from nnfunc.evaluation.held_out import HeldOut
from nnfunc.evaluation.held_out_metrics import (
    baseline,
    compute_metrics,
    confusion,
    constant_output,
    curves,
    per_class,
    row_losses,
    worst,
)
from nnfunc.evaluation.named_metrics import default_names, find_metric, metric_names
from nnfunc.evaluation.predictions import read_outputs
from nnfunc.evaluation.thresholds import choose_threshold

__all__ = [
    "HeldOut",
    "baseline",
    "bootstrap",
    "choose_threshold",
    "compute_metrics",
    "confusion",
    "constant_output",
    "curves",
    "default_names",
    "find_metric",
    "metric_names",
    "per_class",
    "read_outputs",
    "row_losses",
    "worst",
]
