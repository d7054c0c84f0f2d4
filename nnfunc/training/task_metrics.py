"""The metrics by name of a task, inside of an evaluation: sums over a batch, or its rows for exact metrics."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, PyTree
from nnfunc.evaluation.held_out import HeldOut
from nnfunc.evaluation.held_out_metrics import figures
from nnfunc.evaluation.named_metrics import Sums, find_metric, row_sums
from nnfunc.evaluation.readings import CLASSES, read
from nnfunc.training.objectives import Objective, Totals

__all__ = [
    "ExactRows",
    "add_totals",
    "check_metrics",
    "mean_of_totals",
    "metric_totals",
    "metrics_of_batches",
    "refuse_exact",
]


@dataclass(frozen=True, eq=False)
class ExactRows:
    """The rows of a batch for a metric that needs those of all batches at once; a pytree.

    output, target: [batch, ...]. mask: [batch], False for padding. kind: of the outputs. name: of the metric.
    """

    output: Any
    target: Any
    mask: Any
    kind: str
    name: str

    def value(self) -> float:
        """The value of the metric."""
        rows = np.asarray(self.mask) > 0.5
        return figures(HeldOut(self.kind, self.output[rows], self.target[rows]), [self.name])[self.name]


jax.tree_util.register_dataclass(ExactRows, data_fields=["output", "target", "mask"], meta_fields=["kind", "name"])


def check_metrics(where: str, objective: Any, names: Any) -> None:
    """Refuse names that are no metrics of the objective's outputs.

    where: begins the error. objective: of the task. names: `Task.metrics`.
    """
    if not names:
        return
    if isinstance(names, str) or not isinstance(names, tuple | list):
        expected = "metrics should be names, such as ('f1', 'roc_auc')"
        check.fail(where, expected=expected, actual=check.describe(names), exc_type=TypeError)
    if not isinstance(objective, Objective) or objective.totals is None:
        expected = "metrics by name need an objective of nnfunc, such as nf.classification()"
        check.fail(where, expected=expected, actual=check.describe(objective), hint="Return them from the objective.")
    for name in names:
        find_metric(where, objective.kind, name)


def refuse_exact(where: str, task: Any) -> None:
    """Refuse metrics that need the outputs of a whole split at once. where: begins the error. task: with metrics."""
    exact = [name for name in task.metrics if find_metric(where, task.objective.kind, name).exact is not None]
    if exact:
        problem = f"{exact[0]} needs the outputs of the whole validation split, which no trial keeps."
        check.fail(where, problem, hint="Leave it out of metrics here; nnfunc evaluate computes it for a saved trial.")


def metric_totals(
    objective: Objective, names: tuple[str, ...], outputs: list[Any], batch: PyTree, mask: Array | None
) -> dict[str, Any]:
    """The sums, or the rows, of each metric by name.

    objective: of the task. names: of the metrics. outputs: of the model, in the objective's calls. batch: a pair (x,
    target). mask: [batch], False for examples that do not count, or None.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2 or len(outputs) != 1:
        actual = f"{check.describe(batch)}, and {check.counted(len(outputs), 'call')} of the model"
        check.fail(
            "metrics", expected="metrics by name need a batch (x, target) and one call of the model", actual=actual
        )
    kind, (output,), target = objective.kind, outputs, jnp.asarray(batch[1])
    if kind in CLASSES and objective.ignore_index is not None and not jnp.issubdtype(target.dtype, jnp.floating):
        target = jnp.where(target == objective.ignore_index, -100, target)
    reading = read(jnp, kind, output, target)
    counted = jnp.ones(len(target), bool) if mask is None else mask
    weight = jnp.repeat(counted.astype(reading.counted.dtype), reading.positions) * reading.counted
    totals: dict[str, Any] = {}
    for name in names:
        if find_metric("metrics", kind, name).exact is None:
            totals[name] = row_sums(jnp, name, reading, weight)
        else:
            totals[name] = ExactRows(output, target, counted, kind, name)
    return totals


def add_totals(first: Totals, second: Totals, xp: Any = np) -> Totals:
    """The totals of two batches together, without exact metrics. first, second: by name. xp: numpy, or jax's."""
    add = lambda a, b: a.add(b, xp) if isinstance(a, Sums) else (a[0] + b[0], a[1] + b[1])
    return {name: add(total, second[name]) for name, total in first.items()}


def mean_of_totals(totals: Totals, xp: Any = np) -> dict[str, Any]:
    """The mean, or the metric, of each total without exact metrics; NaN where no example counts. xp: as above."""
    divide = lambda value, weight: xp.where(weight != 0, value / xp.where(weight != 0, weight, 1), np.nan)
    return {name: total.value(xp) if isinstance(total, Sums) else divide(*total) for name, total in totals.items()}


def metrics_of_batches(parts: list[Totals]) -> dict[str, float]:
    """The metrics of all batches, in float64. parts: the totals of each batch, in NumPy."""
    wide = lambda leaf: leaf.astype(np.float64)
    exact = {name for name, total in parts[0].items() if isinstance(total, ExactRows)}
    sums = [jax.tree.map(wide, {name: part[name] for name in part if name not in exact}) for part in parts]
    with np.errstate(all="ignore"):
        values = mean_of_totals(reduce(add_totals, sums))
    for name in exact:
        rows = jax.tree.map(lambda *arrays: np.concatenate(arrays), *(part[name] for part in parts))
        values[name] = rows.value()
    return {name: float(values[name]) for name in parts[0]}
