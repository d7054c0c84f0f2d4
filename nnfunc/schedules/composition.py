"""Schedules of other schedules: constant numbers, one after another, and by epoch."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Scalar, Schedule
from nnfunc.calls import factory_hint
from nnfunc.schedules.step_arithmetic import clock, minus, times_of, to_float


def constant(value: Scalar) -> Schedule:
    """The same value at every step.

    >>> float(constant(0.5)(100))
    0.5
    """
    check.number("constant", value=value)
    return lambda step: jnp.broadcast_to(to_float(value), np.shape(step))


def as_schedule(value: Scalar | Schedule, *, where: str = "as_schedule") -> Schedule:
    """The schedule itself, or the constant one of a number.

    value: a number, or a schedule.
    where: the function that error messages name.
    Raises: TypeError when it is neither.

    >>> float(as_schedule(0.5)(100))
    0.5
    """
    if callable(value):
        if hint := factory_hint(value, Schedule):
            expected, actual = "it should be a schedule", f"the function {check.short_repr(value)}"
            check.fail(where, expected=expected, actual=actual, hint=hint, exc_type=TypeError)
        return value
    if not (check.is_plain(value) or (hasattr(value, "dtype") and np.ndim(value) == 0)):
        expected = "it should be a number or a schedule, such as nf.schedules.warmup_cosine(...)"
        check.fail(where, expected=expected, actual=check.describe(value), exc_type=TypeError)
    return constant(value)


def join(schedules: Sequence[Scalar | Schedule], boundaries: tuple[Scalar, ...]) -> Schedule:
    """One schedule after the other: the next one begins at each boundary, from its step 0.

    schedules: at least one, schedules or numbers.
    boundaries: the steps at which all but the first begin, in rising order.
    Raises: ValueError when there is not one boundary less than schedules, or plain boundaries do not rise.
    Source: PyTorch's SequentialLR, optax.join_schedules.

    >>> schedule = join([nf.schedules.linear(0.0, 4, final=1.0), nf.schedules.cosine(1.0, 10), 0.125], (4, 14))
    >>> [float(schedule(step)) for step in (0, 2, 4, 9, 13, 14)]
    [0.0, 0.5, 1.0, 0.5, 0.024, 0.125]
    """
    if not isinstance(schedules, Sequence) or not schedules:
        actual = check.describe(schedules)
        check.fail("join", expected="schedules should be a list of them", actual=actual, exc_type=TypeError)
    if not (isinstance(boundaries, tuple | list) or getattr(boundaries, "ndim", 0) == 1):
        expected, actual = "boundaries should be a tuple of steps", check.describe(boundaries)
        check.fail("join", expected=expected, actual=actual, exc_type=TypeError)
    boundaries = tuple(boundaries)
    if len(boundaries) != len(schedules) - 1:
        expected = f"{check.counted(len(schedules), 'schedule')} should have {len(schedules) - 1} boundaries"
        check.fail("join", expected=expected, actual=len(boundaries))
    for boundary in boundaries:
        check.number("join", 0, boundaries=boundary)
    check.ordered("join", **{f"boundaries[{i}]": boundary for i, boundary in enumerate(boundaries)})
    parts = [as_schedule(part, where=f"join: schedules[{i}]") for i, part in enumerate(schedules)]

    def schedule(step):
        step = clock(step)
        value = to_float(parts[0](step))
        for boundary, part in zip(boundaries, parts[1:], strict=True):
            since = minus(step, boundary)
            value = jnp.where(since >= 0, to_float(part(jnp.maximum(since, 0))), value)
        return value

    return schedule


def by_epoch(then: Schedule, steps_per_epoch: Scalar) -> Schedule:
    """`then` of the 0-based epoch, so the value is the same for all steps of an epoch.

    then: a schedule.
    steps_per_epoch: above 0.
    Raises: ValueError when steps_per_epoch is not above 0.

    >>> schedule = by_epoch(nf.schedules.exponential(1.0, factor=0.5), steps_per_epoch=100)
    >>> [float(schedule(step)) for step in (0, 99, 100, 250)]
    [1.0, 1.0, 0.5, 0.25]
    """
    check.number("by_epoch", 0, open_low=True, steps_per_epoch=steps_per_epoch)
    return lambda step: then(times_of(clock(step), steps_per_epoch))
