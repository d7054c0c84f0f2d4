"""The metrics by name of a task, inside of an evaluation: sums over a batch, or its rows for exact metrics."""

from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, PyTree
from nnfunc.evaluation.held_out import HeldOut
from nnfunc.evaluation.held_out_metrics import compute_metrics
from nnfunc.evaluation.named_metrics import Sums, find_metric, row_sums
from nnfunc.evaluation.readings import Reading, mark_ignored, read
from nnfunc.training.objectives import Objective, Totals


@dataclass(frozen=True, eq=False)
class ExactRows:
    """The rows of a batch for metrics that need those of all batches at once; a pytree.

    output, target: [batch, ...].
    mask: [batch], False for padding.
    output_type: of the outputs.
    names: of the metrics.
    """

    output: Any
    target: Any
    mask: Any
    output_type: str
    names: tuple[str, ...]

    def values(self) -> dict[str, float]:
        """The values of the metrics."""
        rows = np.asarray(self.mask) > 0.5
        return compute_metrics(HeldOut(self.output_type, self.output[rows], self.target[rows]), self.names)


Layout = tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]


@dataclass(frozen=True, eq=False)
class PackedSums:
    """The sums of several metrics as one vector, which is quick to compile and to take from the device; a pytree.

    vector: of all sums, and at the end the sum of the weights.
    layout: the names and the shapes of the sums in it, for each `NamedMetric.rows`; metrics of the same rows share
        it.
    output_type: of the outputs.
    names: of the metrics.
    """

    vector: Any
    layout: Layout
    output_type: str
    names: tuple[str, ...]

    @staticmethod
    def of(reading: Reading, weight: Array, names: tuple[str, ...]) -> "PackedSums":
        """The sums over rows. reading: the rows. weight: [rows]. names: of the metrics."""
        groups = [rows(jnp, reading) for rows in _distinct_rows(reading.output_type, names)]
        columns = [part.reshape(len(part), -1) for group in groups for part in group.values()]
        table = jnp.concatenate([*columns, jnp.ones_like(weight)[:, None]], axis=1)  # [rows, sums]
        spread = jnp.broadcast_to(weight[:, None], table.shape)
        vector = jnp.where(spread > 0, table * spread, 0).sum(0)
        layout = tuple(tuple((name, part.shape[1:]) for name, part in group.items()) for group in groups)
        return PackedSums(vector, layout, reading.output_type, names)

    def values(self, xp: Any) -> dict[str, Any]:
        """The metrics by name; NaN without a row that counts. xp: numpy, or jax's."""
        sums, start = [], 0
        for group in self.layout:
            sums.append({})
            for name, shape in group:
                stop = start + int(np.prod(shape))
                sums[-1][name] = self.vector[start:stop].reshape(shape)
                start = stop
        by_rows = dict(zip(_distinct_rows(self.output_type, self.names), sums, strict=True))
        of_name = lambda name: by_rows[find_metric("metrics", self.output_type, name).rows]
        return {
            name: Sums(of_name(name), self.vector[-1], None, self.output_type, name).value(xp) for name in self.names
        }


def _distinct_rows(output_type: str, names: tuple[str, ...]) -> list[Any]:
    return list(dict.fromkeys(find_metric("metrics", output_type, name).rows for name in names))


jax.tree_util.register_dataclass(
    ExactRows, data_fields=["output", "target", "mask"], meta_fields=["output_type", "names"]
)
jax.tree_util.register_dataclass(PackedSums, data_fields=["vector"], meta_fields=["layout", "output_type", "names"])
EXACT, PACKED, CENTERED = "exact rows", "packed sums", "packed sums without the mean"
"""The keys of totals that are no names of metrics."""
DIFFERENCES = ("coverage", "mae", "mse", "nll", "r2", "rmse")
"""The metrics of numbers that stay as they are when one number is added to targets and predictions."""


def check_metrics(where: str, objective: Any, names: Any) -> None:
    """Refuse names that are no metrics of the objective's outputs.

    where: begins the error.
    objective: of the task.
    names: `Task.metrics`.
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
        find_metric(where, objective.output_type, name)


def refuse_exact(where: str, task: Any) -> None:
    """Refuse metrics that need the outputs of a whole split at once. where: begins the error. task: with metrics."""
    exact = [name for name in task.metrics if find_metric(where, task.objective.output_type, name).is_exact]
    if exact:
        keeper = "no trial of a sweep keeps" if where == "sweep" else "no single process has"
        problem = f"{exact[0]} needs the outputs of the whole validation split, which {keeper}."
        check.fail(where, problem, hint="Leave it out of metrics here; nnfunc evaluate computes it for a saved run.")


def metric_totals(
    objective: Objective, names: tuple[str, ...], outputs: list[Any], batch: PyTree, mask: Array | None
) -> dict[str, Any]:
    """The sums, or the rows, of each metric by name.

    objective: of the task.
    names: of the metrics.
    outputs: of the model, in the objective's calls.
    batch: a pair (x, target).
    mask: [batch], False for examples that do not count, or None.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2 or len(outputs) != 1:
        actual = f"{check.describe(batch)}, and {check.counted(len(outputs), 'call')} of the model"
        check.fail(
            "metrics", expected="metrics by name need a batch (x, target) and one call of the model", actual=actual
        )
    output_type, (output,), target = objective.output_type, outputs, jnp.asarray(batch[1])
    target = mark_ignored(target, output_type, objective.ignore_index)
    near = tuple(name for name in names if objective.centered is not None and name in DIFFERENCES)
    totals: dict[str, Any] = {}
    if objective.centered is not None and near:
        plain, centered = (
            replace(objective, restore=None, centered=None),
            objective.centered(output, output_type=output_type),
        )
        totals = metric_totals(plain, near, [centered], (None, objective.centered(target)), mask)
        totals = {CENTERED if name == PACKED else name: total for name, total in totals.items()}
        names = tuple(name for name in names if name not in near)
    if not names:
        return totals
    if objective.restore is not None:
        output, target = objective.restore(output, output_type=output_type), objective.restore(target)
    reading = read(jnp, output_type, output, target, names=objective.names)
    counted = jnp.ones(len(target), bool) if mask is None else mask
    weight = jnp.repeat(counted.astype(reading.counted.dtype), reading.positions) * reading.counted
    exact = tuple(name for name in names if find_metric("metrics", output_type, name).is_exact)
    pivoted = [name for name in names if find_metric("metrics", output_type, name).has_pivot]
    packed = tuple(name for name in names if name not in (*exact, *pivoted))
    totals |= {name: row_sums(jnp, name, reading, weight) for name in pivoted}
    totals |= {PACKED: PackedSums.of(reading, weight, packed)} if packed else {}
    return totals | ({EXACT: ExactRows(output, target, counted, output_type, exact)} if exact else {})


def add_totals(first: Totals, second: Totals, xp: Any = np) -> Totals:
    """The totals of two batches together, without exact metrics. first, second: by name. xp: numpy, or jax's."""
    add = lambda a, b: a.add(b, xp) if isinstance(a, Sums) else jax.tree.map(xp.add, a, b)
    return {name: add(total, second[name]) for name, total in first.items()}


def mean_of_totals(totals: Totals, xp: Any = np) -> dict[str, Any]:
    """The mean, or the metric, of each total without exact metrics; NaN where no example counts. xp: as above."""
    divide = lambda value, weight: xp.where(weight != 0, value / xp.where(weight != 0, weight, 1), np.nan)
    values = {}
    for name, total in totals.items():
        if isinstance(total, PackedSums):
            values |= total.values(xp)
        else:
            values[name] = total.value(xp) if isinstance(total, Sums) else divide(*total)
    return values


def metrics_of_batches(parts: list[Totals]) -> dict[str, float]:
    """The metrics of all batches, in float64. parts: the totals of each batch, in NumPy."""
    wide = lambda part: jax.tree.map(lambda leaf: leaf.astype(np.float64), {k: part[k] for k in part if k != EXACT})
    with np.errstate(all="ignore"):
        values = {name: float(value) for name, value in mean_of_totals(reduce(add_totals, map(wide, parts))).items()}
    if EXACT in parts[0]:
        values |= jax.tree.map(lambda *arrays: np.concatenate(arrays), *(part[EXACT] for part in parts)).values()
    return values
