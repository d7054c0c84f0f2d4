"""A schedule that depends on a metric."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Scalar
from nnfunc.schedules.step_arithmetic import to_float


class PlateauState(NamedTuple):
    """The state of `plateau`, arrays of one number each.

    value: the value to use.
    best: the best metric so far.
    bad: the updates since then.
    wait: the remaining updates of the cooldown.
    """

    value: Array
    best: Array
    bad: Array
    wait: Array


class Plateau(NamedTuple):
    """A schedule that depends on a metric: `init() -> state`, `update(state, metric) -> state`."""

    init: Callable[[], PlateauState]
    update: Callable[[PlateauState, Any], PlateauState]

    def __repr__(self) -> str:
        return "<schedule plateau>"


def plateau(
    start: Scalar = 1.0,
    *,
    mode: str = "min",
    factor: Scalar = 0.1,
    patience: Scalar = 10,
    cooldown: Scalar = 0,
    threshold: Scalar = 1e-4,
    threshold_mode: str = "relative",
    floor: Scalar = 0.0,
) -> Plateau:
    """Multiply by `factor` when a metric has not improved for more than `patience` updates.

    Read the value as `state.value`.
    start: the value at first; with 1, the default, it is a scale for another schedule.
    mode: whether lower ("min") or higher ("max") is better.
    threshold: a metric improves when it is better than the best so far by more than this.
    threshold_mode: whether threshold is "absolute", or "relative" to the absolute value of the best, so that
        metrics may be negative; with a best of 0 any better value counts. NaN is no improvement.
    cooldown: updates after a drop that are not counted.
    floor: the lowest value that a drop gives. factor 1 or patience inf is off.
    Raises: ValueError when a number is below 0, factor above 1, or mode or threshold_mode unknown.
    Source: PyTorch's ReduceLROnPlateau, with eps 0; its relative threshold counts a worse value as better where
    metrics are negative.

    >>> schedule = plateau(0.1, patience=1, factor=0.5)
    >>> state = schedule.init()
    >>> for loss in (3.0, 2.0, 2.0, 2.0):
    ...     state = schedule.update(state, loss)
    >>> round(float(state.value), 6)
    0.05
    """
    check.choice("plateau", ("min", "max"), mode=mode)
    check.choice("plateau", ("relative", "absolute"), threshold_mode=threshold_mode)
    check.number("plateau", start=start, floor=floor)
    check.number("plateau", 0, patience=patience, cooldown=cooldown, threshold=threshold)
    check.number("plateau", 0, 1, factor=factor)
    sign = 1.0 if mode == "max" else -1.0

    def init():
        return PlateauState(to_float(start), to_float(-sign * math.inf), to_float(0), to_float(0))

    def update(state, metric):
        check.shape("plateau", (), metric=metric)
        metric = to_float(metric)
        margin = to_float(threshold)
        if threshold_mode == "relative":
            margin = jnp.where(jnp.isinf(state.best), 0, margin * jnp.abs(state.best))
        better = sign * (metric - state.best) > margin
        best = jnp.where(better, metric, state.best)
        waiting = state.wait > 0
        bad = jnp.where(better | waiting, 0, state.bad + 1)
        drop = bad > to_float(patience)
        lower = jnp.minimum(state.value, jnp.maximum(state.value * to_float(factor), to_float(floor)))
        value = jnp.where(drop, lower, state.value)
        wait = jnp.where(drop, to_float(cooldown), jnp.maximum(state.wait - 1, 0))
        return PlateauState(value, best, jnp.where(drop, 0, bad), wait)

    return Plateau(init, update)
