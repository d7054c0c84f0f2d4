"""Means over the examples that count, as a sum and a weight each, from which objectives are made."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, PyTree, Scalar
from nnfunc.training.objectives.objective import Objective, Totals


def mean_objective(
    totals: Callable[..., Totals], inspect: Any = None, output_type: str = "", ignore_index: int | None = None
) -> Objective:
    """The objective of means that are sum / weight, and 0 where no example counts.

    totals, inspect, output_type, ignore_index: of the objective.
    """

    def function(predict, batch):
        means = {
            name: total / jnp.where(weight == 0, 1, weight)
            for name, (total, weight) in totals(predict, batch, None).items()
        }
        return means.pop("loss"), means

    return Objective(function, inspect, output_type, totals, ignore_index)


def input_and_target(where: str, batch: PyTree) -> tuple[PyTree, Any]:
    """The two parts of a batch (x, target)."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        expected = "a batch should be a pair (x, target)"
        check.fail(where, expected=expected, actual=check.describe(batch), exc_type=TypeError)
    return batch[0], batch[1]


def example_mask(where: str, mask: Array | None, shape: tuple[int, ...]) -> Array:
    """Which of the values in this shape count: those of the examples in the mask."""
    if mask is None:
        return jnp.ones(shape, bool)
    check.shape(where, shape[:1], mask=mask)
    return jnp.broadcast_to(mask.reshape(-1, *(1,) * (len(shape) - 1)), shape)  # from [batch, 1, ...]


def masked_total(values: Array, counted: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """(sum, weight) of the values that count; without weight each has the weight 1."""
    weight = jnp.ones_like(values) if weight is None else weight
    return jnp.where(counted, values, 0).sum(), jnp.where(counted, weight, 0).sum()


def refuse_smoothing(where: str, label_smoothing: Scalar) -> None:
    """Refuse smoothing together with a focal loss, also a traced number. where: begins the error."""
    if check.is_plain(label_smoothing) and label_smoothing == 0:
        return
    expected = "label_smoothing should be 0 together with gamma: the focal loss has none"
    traced = "one that a sweep or a schedule gives"
    check.fail(where, expected=expected, actual=label_smoothing if check.is_plain(label_smoothing) else traced)
