"""The threshold of the probability, from which on an answer is yes, chosen for a metric."""

from typing import Any, Literal, get_args

import numpy as np

from nnfunc import check
from nnfunc.evaluation.held_out import HeldOut
from nnfunc.evaluation.held_out_metrics import row_weights
from nnfunc.evaluation.named_metrics import find_metric
from nnfunc.evaluation.readings import ANSWERS

ThresholdMetric = Literal[
    "accuracy", "balanced_accuracy", "f1", "f1_macro", "f1_micro", "f1_weighted", "precision", "recall"
]
THRESHOLD_METRICS: tuple[str, ...] = get_args(ThresholdMetric)
"""The metrics for which a threshold can be chosen."""


def check_threshold_metric(where: str, output_type: str, name: Any) -> None:
    """Refuse a metric that has no threshold, and outputs that are no answers.

    where: begins the error.

    output_type: of the outputs, a value of `Objective.output_type`.
    name: of the metric.
    """
    check.choice(where, THRESHOLD_METRICS, threshold=name)
    if output_type not in ANSWERS:
        hint = "Use the objective binary or multilabel, or remove the threshold."
        check.fail(where, "a threshold is for answers of yes or no, which the objective does not give.", hint=hint)


def choose_threshold(held_out: HeldOut, name: str) -> float | list[float]:
    """The threshold with the largest value of a metric: one for each label of the type "labels", else one number.

    It lies halfway between two probabilities that occur; of several as good, the one nearest to 1/2. It is the number
    after 1 where even an answer of probability 1 should be no.
    held_out: outputs and targets of the type "binary" or "labels", of a split that no other result is reported of.
    name: one of THRESHOLD_METRICS; of each label, that of its answer. Precision and recall alone are largest at an
        end.
    Raises: ValueError for other outputs and metrics.

    >>> held_out = HeldOut("binary", np.array([-3.0, -2.0, -1.0]), np.array([0, 1, 1]))
    >>> round(choose_threshold(held_out, "f1"), 4)
    0.0833
    """
    check_threshold_metric("choose_threshold", held_out.output_type, name)
    reading = held_out.reading()
    weight = row_weights(held_out, reading)
    rows = weight > 0
    chosen = [
        _best_cut(truth[rows] > 0, probability[rows], weight[rows], name)
        for truth, probability in zip(reading.target.T, reading.probability.T, strict=True)
    ]
    return chosen[0] if held_out.output_type == "binary" else chosen


def _best_cut(truth: np.ndarray, probability: np.ndarray, weight: np.ndarray, name: str) -> float:
    """The threshold of one answer."""
    if not len(truth):
        return 0.5
    order = np.argsort(-probability, kind="stable")
    truth, probability, weight = truth[order], probability[order], weight[order]
    ends = np.append(np.flatnonzero(np.diff(probability)), len(probability) - 1)
    # of the cut after each different probability, and of the one before all
    yes = np.append(0.0, np.cumsum(weight)[ends])
    hit = np.append(0.0, np.cumsum(weight * truth)[ends])
    total, true = yes[-1], np.full(len(yes), hit[-1])
    counts = {
        "hit": np.stack([total - true - (yes - hit), hit], -1),  # of no and yes, [cuts, 2]
        "predicted": np.stack([total - yes, yes], -1),
        "true": np.stack([total - true, true], -1),
    }
    levels = np.concatenate([[1.0], probability[ends], [0.0]])
    cuts = (levels[:-1] + levels[1:]) / 2
    above = np.nextafter(levels[1:-1], np.inf)  # halfway may round down to the probability below
    cuts[:-1] = np.maximum(cuts[:-1], above)
    if name == "accuracy":
        values = counts["hit"].sum(-1)
    else:
        metric = find_metric("choose_threshold", "binary", name)
        assert metric.value is not None
        values = metric.value(np, counts, total)
    best = np.flatnonzero(values >= values.max() - 1e-12)
    return float(cuts[best[np.argmin(abs(cuts[best] - 0.5))]])
