"""Schedules: functions of the 0-based step, for the learning rate or for any other number.

Every number, step counts too, may be traced. The step is a Python int, or an array of integers or
floats of any shape, traced or not; steps below 0 count as step 0, and past its end a schedule keeps
its last value. Values come in JAX's own float: float32, or float64 under jax_enable_x64. A part
that lasts 0 steps is switched off, without a 0 / 0 in values or gradients.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Scalar, Schedule
from nnfunc.calls import explain_calls, factory_hint

__all__ = [
    "Plateau",
    "PlateauState",
    "as_schedule",
    "by_epoch",
    "constant",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "exponential",
    "inverse_sqrt",
    "join",
    "linear",
    "multistep",
    "one_cycle",
    "plateau",
    "polynomial",
    "step",
    "warmup",
    "warmup_cosine",
    "warmup_linear",
    "warmup_stable_decay",
]


def constant(value: Scalar) -> Schedule:
    """The same value at every step.

    >>> float(constant(0.5)(100))
    0.5
    """
    check.number("constant", value=value)
    return lambda step: jnp.broadcast_to(_float(value), np.shape(step))


def as_schedule(value: Scalar | Schedule, *, where: str = "as_schedule") -> Schedule:
    """The schedule itself, or the constant one of a number.

    value: a number, or a schedule. where: the function that error messages name.
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


def linear(start: Scalar, total_steps: Scalar, *, final: Scalar = 0.0) -> Schedule:
    """A line from `start` at step 0 to `final` at step total_steps.

    start + (final - start) * step / total_steps
    Raises: ValueError when total_steps is below 0.

    >>> schedule = linear(1.0, 4)
    >>> [float(schedule(step)) for step in (0, 1, 4, 9)]
    [1.0, 0.75, 0.0, 0.0]
    """
    check.number("linear", start=start, final=final)
    check.number("linear", 0, total_steps=total_steps)
    return lambda step: _line(start, final, _fraction_done(_clock(step), 0, total_steps))


def polynomial(start: Scalar, total_steps: Scalar, *, power: Scalar = 1.0, final: Scalar = 0.0) -> Schedule:
    """A power of the remaining steps, from `start` at step 0 to `final` at step total_steps.

    final + (start - final) * (1 - step / total_steps) ** power
    Raises: ValueError when total_steps is below 0, or power not above 0.
    Source: PyTorch's PolynomialLR where final is 0.

    >>> schedule = polynomial(1.0, 4, power=2.0)
    >>> [float(schedule(step)) for step in (0, 2, 4)]
    [1.0, 0.25, 0.0]
    """
    check.number("polynomial", start=start, final=final)
    check.number("polynomial", 0, total_steps=total_steps)
    check.number("polynomial", 0, open_low=True, power=power)

    def schedule(step):
        remaining = 1 - _fraction_done(_clock(step), 0, total_steps)
        return _line(final, start, _power(remaining, power))

    return schedule


def exponential(start: Scalar, *, factor: Scalar, every: Scalar = 1) -> Schedule:
    """A smooth fall by `factor` every so many steps: `start * factor ** (step / every)`.

    factor: at least 0, and 1 keeps the value; every: above 0, in steps.
    Source: PyTorch's ExponentialLR where every is 1.

    >>> schedule = exponential(1.0, factor=0.25, every=2)
    >>> [float(schedule(step)) for step in (0, 1, 2)]
    [1.0, 0.5, 0.25]
    """
    check.number("exponential", start=start)
    check.number("exponential", 0, factor=factor)
    check.number("exponential", 0, open_low=True, every=every)

    def schedule(step):
        return _float(start) * _power(factor, _float(_clock(step)) / _float(every))

    return schedule


def step(start: Scalar, *, every: Scalar, factor: Scalar = 0.1) -> Schedule:
    """A drop by `factor` every so many steps: `start * factor ** floor(step / every)`.

    factor: at least 0, and 1 keeps the value; every: above 0, in steps, and inf never drops.
    Source: PyTorch's StepLR.

    >>> schedule = step(1.0, every=10, factor=0.5)
    >>> [float(schedule(step)) for step in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """
    check.number("step", start=start)
    check.number("step", 0, factor=factor)
    check.number("step", 0, open_low=True, every=every)

    def schedule(step):
        return _float(start) * _power(factor, _times(_clock(step), every))

    return schedule


def multistep(start: Scalar, milestones: tuple[Scalar, ...], *, factor: Scalar = 0.1) -> Schedule:
    """A drop by `factor` at each of the milestones, which are steps in any order.

    start * factor ** (number of milestones m with m <= step)
    start: the value before the first milestone. factor: at least 0.
    Raises: ValueError when a milestone or the factor is below 0.
    Source: PyTorch's MultiStepLR.

    >>> schedule = multistep(1.0, (5, 8), factor=0.5)
    >>> [float(schedule(step)) for step in (4, 5, 8)]
    [1.0, 0.5, 0.25]
    """
    check.number("multistep", start=start)
    check.number("multistep", 0, factor=factor)
    if not (isinstance(milestones, tuple | list) or getattr(milestones, "ndim", 0) == 1):
        expected, actual = "milestones should be a tuple of steps", check.describe(milestones)
        check.fail("multistep", expected=expected, actual=actual, exc_type=TypeError)
    for milestone in milestones:
        check.number("multistep", 0, milestones=milestone)

    def schedule(step):
        step = _clock(step)
        passed = [_float(_minus(step, milestone) >= 0) for milestone in milestones]
        return _float(start) * _power(factor, sum(passed, start=jnp.zeros_like(_float(step))))

    return schedule


def cosine(start: Scalar, total_steps: Scalar, *, final: Scalar = 0.0) -> Schedule:
    """Half a cosine from `start` at step 0 to `final` at step total_steps.

    final + (start - final) * (1 + cos(pi * step / total_steps)) / 2
    Raises: ValueError when total_steps is below 0.
    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5; PyTorch's CosineAnnealingLR
    up to its T_max, after which this one stays at `final`.

    >>> schedule = cosine(1.0, 10)
    >>> [round(float(schedule(step)), 6) for step in (0, 5, 10, 11)]
    [1.0, 0.5, 0.0, 0.0]
    """
    check.number("cosine", start=start, final=final)
    check.number("cosine", 0, total_steps=total_steps)
    return lambda step: _half_cosine(start, final, _fraction_done(_clock(step), 0, total_steps))


def cosine_restarts(start: Scalar, period: Scalar, *, multiplier: Scalar = 1.0, final: Scalar = 0.0) -> Schedule:
    """Half cosines from `start` to `final`, again and again, each `multiplier` times as long.

    Cycle n (0-based) begins at step period * (1 + multiplier + ... + multiplier ** (n - 1)).
    period: the steps of the first cycle, above 0. multiplier: at least 1, the default.
    Raises: ValueError when period is not above 0, or multiplier is below 1.
    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, section 3; PyTorch's
    CosineAnnealingWarmRestarts, which takes a whole multiplier only.

    >>> schedule = cosine_restarts(1.0, 4, multiplier=2)
    >>> [round(float(schedule(step)), 6) for step in (0, 2, 4, 8, 12)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    check.number("cosine_restarts", start=start, final=final)
    check.number("cosine_restarts", 0, open_low=True, period=period)
    check.number("cosine_restarts", 1, multiplier=multiplier)

    def schedule(step):
        step = _clock(step)
        grow, first = _float(multiplier), _float(period)
        grows = grow > 1
        safe = jnp.where(grows, grow, 2)  # so that the other branch has no 0 / 0
        cycles = _float(step) / first
        n = jnp.floor(jnp.log1p(cycles * (safe - 1)) / jnp.log(safe))
        n = jnp.where(first * _geometric(safe, n + 1) <= _float(step), n + 1, n)  # after rounding
        n = jax.lax.stop_gradient(jnp.where(first * _geometric(safe, n) > _float(step), n - 1, n))
        done = _float(step) - first * _geometric(safe, n)
        same = _since_last(step, period)
        fraction = jnp.where(grows, done / (first * _snap(safe**n)), same / first)
        return _half_cosine(start, final, jnp.clip(fraction, 0, 1))

    return schedule


def cyclic(
    start: Scalar,
    peak: Scalar,
    *,
    rise_steps: Scalar,
    fall_steps: Scalar | None = None,
    mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
    factor: Scalar = 1.0,
) -> Schedule:
    """A line up from `start` to `peak` and down again, over and over.

    start + (peak - start) * h * scale, h from 0 to 1 in rise_steps and back in fall_steps.
    rise_steps: at least 0. fall_steps: rise_steps by default. mode: what the scale is, 1 ("triangular"), 0.5 **
    cycle of the 0-based cycle ("triangular2"), or factor ** step ("exp_range"). factor: at least 0, of exp_range
    alone; 1 is off.
    Raises: ValueError when rise_steps or fall_steps is below 0, or a cycle lasts 0 steps.
    Source: Smith 2017, arXiv:1506.01186; PyTorch's CyclicLR.

    >>> schedule = cyclic(0.0, 1.0, rise_steps=2, mode="triangular2")
    >>> [float(schedule(step)) for step in (0, 1, 2, 3, 4, 5, 6)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.25, 0.5]
    """
    fall_steps = rise_steps if fall_steps is None else fall_steps
    check.number("cyclic", start=start, peak=peak)
    check.number("cyclic", 0, rise_steps=rise_steps, fall_steps=fall_steps, factor=factor)
    if check.is_plain(rise_steps) and check.is_plain(fall_steps) and rise_steps + fall_steps == 0:
        check.fail("cyclic", expected="rise_steps + fall_steps should be above 0", actual="0 steps a cycle")
    check.choice("cyclic", ("triangular", "triangular2", "exp_range"), mode=mode)

    def schedule(step):
        step = _clock(step)
        period = _plus(rise_steps, fall_steps)
        done, rise, fall = _since_last(step, period), _float(rise_steps), _float(fall_steps)
        rising = done / jnp.where(rise > 0, rise, 1)
        falling = (rise + fall - done) / jnp.where(fall > 0, fall, 1)
        height = jnp.where(done < rise, rising, falling)
        if mode == "triangular2":
            height = height * _power(0.5, _times(step, period))
        elif mode == "exp_range":
            height = height * _power(factor, step)
        return _line(start, peak, height)

    return schedule


def join(schedules: Sequence[Scalar | Schedule], boundaries: tuple[Scalar, ...]) -> Schedule:
    """One schedule after the other: the next one begins at each boundary, from its step 0.

    schedules: at least one, schedules or numbers. boundaries: the steps at which all but the first begin, in rising
    order.
    Raises: ValueError when there is not one boundary less than schedules, or plain boundaries do not rise.
    Source: PyTorch's SequentialLR, optax.join_schedules.

    >>> schedule = join([linear(0.0, 4, final=1.0), cosine(1.0, 10), 0.125], (4, 14))
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
        step = _clock(step)
        value = _float(parts[0](step))
        for boundary, part in zip(boundaries, parts[1:], strict=True):
            since = _minus(step, boundary)
            value = jnp.where(since >= 0, _float(part(jnp.maximum(since, 0))), value)
        return value

    return schedule


def inverse_sqrt(peak: Scalar, warmup_steps: Scalar) -> Schedule:
    """Rise in a line to `peak` at step warmup_steps, then fall with the root of the step.

    peak * min((step + 1) / (warmup_steps + 1), sqrt((warmup_steps + 1) / (step + 1)))
    Raises: ValueError when warmup_steps is below 0.
    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 3, whose steps count from 1.

    >>> schedule = inverse_sqrt(1.0, warmup_steps=3)
    >>> [float(schedule(step)) for step in (0, 3, 15)]
    [0.25, 1.0, 0.5]
    """
    check.number("inverse_sqrt", peak=peak)
    check.number("inverse_sqrt", 0, warmup_steps=warmup_steps)

    def schedule(step):
        step = _clock(step)
        risen = (_float(step) + 1) / (_float(warmup_steps) + 1)
        return _float(peak) * jnp.where(_minus(step, warmup_steps) < 0, risen, risen**-0.5)

    return schedule


def warmup(then: Scalar | Schedule, warmup_steps: Scalar, *, start: Scalar | None = None) -> Schedule:
    """Rise in a line to the first value of `then` at step warmup_steps, then `then` from its step 0.

    The first step is then(0) / (warmup_steps + 1), not 0, so it already learns; warmup_steps 0 is
    off. then: a schedule or a number. A `then` that lasts n steps ends at step warmup_steps + n.
    The value has a corner in warmup_steps where that equals the step, as integers do. The gradient there is from the
    side of `then`, between 0 and its derivative, and not that of the rise. So it is with every warm-up of this module:
    search for the length by a sweep, or by gradients at values between integers.
    start: another value for step 0, such as a fraction of then(0); None, the default, is that above.
    Raises: ValueError when warmup_steps is below 0.

    >>> schedule = warmup(cosine(1.0, 10), warmup_steps=3)
    >>> [round(float(schedule(step)), 6) for step in (0, 1, 3, 8, 13)]
    [0.25, 0.5, 1.0, 0.5, 0.0]
    """
    check.number("warmup", 0, warmup_steps=warmup_steps)
    _check_start("warmup", start)
    follow = as_schedule(then, where="warmup: then")

    def schedule(step):
        step = _clock(step)
        since = _minus(step, warmup_steps)
        rising = _rising(_float(follow(0)), step, warmup_steps, start)
        return jnp.where(since < 0, rising, _float(follow(jnp.maximum(since, 0))))

    return schedule


def warmup_cosine(
    peak: Scalar, warmup_steps: Scalar, total_steps: Scalar, *, final: Scalar = 0.0, start: Scalar | None = None
) -> Schedule:
    """Rise in a line to `peak` at step warmup_steps, then half a cosine to `final` at total_steps.

    The first step is peak / (warmup_steps + 1), not 0, so it already learns. start: another value for step 0.
    Raises: ValueError when plain numbers are given and not 0 <= warmup_steps < total_steps.

    >>> schedule = warmup_cosine(1.0, 3, 13)
    >>> [round(float(schedule(step)), 6) for step in (0, 1, 3, 8, 13)]
    [0.25, 0.5, 1.0, 0.5, 0.0]
    """
    check.number("warmup_cosine", peak=peak, final=final)
    _check_start("warmup_cosine", start)
    _check_parts("warmup_cosine", warmup_steps, total_steps)

    def falling(step):
        return _half_cosine(peak, final, _fraction_done(step, warmup_steps, total_steps))

    return _after_warmup(peak, warmup_steps, falling, start)


def warmup_linear(
    peak: Scalar, warmup_steps: Scalar, total_steps: Scalar, *, final: Scalar = 0.0, start: Scalar | None = None
) -> Schedule:
    """Rise in a line to `peak` at step warmup_steps, then a line to `final` at total_steps.

    The first step is peak / (warmup_steps + 1), not 0, so it already learns. start: another value for step 0.
    Raises: ValueError when plain numbers are given and not 0 <= warmup_steps < total_steps.

    >>> schedule = warmup_linear(1.0, 3, 13)
    >>> [float(schedule(step)) for step in (0, 1, 3, 8, 13)]
    [0.25, 0.5, 1.0, 0.5, 0.0]
    """
    check.number("warmup_linear", peak=peak, final=final)
    _check_start("warmup_linear", start)
    _check_parts("warmup_linear", warmup_steps, total_steps)

    def falling(step):
        return _line(peak, final, _fraction_done(step, warmup_steps, total_steps))

    return _after_warmup(peak, warmup_steps, falling, start)


def warmup_stable_decay(
    peak: Scalar,
    warmup_steps: Scalar,
    total_steps: Scalar,
    *,
    decay_steps: Scalar,
    final: Scalar = 0.0,
    start: Scalar | None = None,
    shape: str = "linear",
) -> Schedule:
    """Rise in a line to `peak`, stay there, and fall to `final` in the last decay_steps.

    The first step is peak / (warmup_steps + 1). warmup_steps, decay_steps: at least 0. total_steps: at which `final`
    is reached. start: another value for step 0. shape: how it falls, with p from
    0 to 1: "linear" (1 - p), "cosine" ((1 + cos(pi p)) / 2) or "sqrt" (1 - sqrt(p)). decay_steps 0 stays until the
    end.
    Raises: ValueError when plain numbers are given and not 0 <= warmup_steps < total_steps, or the
    two parts do not fit into total_steps.
    Source: Hu et al. 2024, arXiv:2404.06395, section 4; the shapes of Hägele et al. 2024,
    arXiv:2405.18392.

    >>> schedule = warmup_stable_decay(1.0, 3, 20, decay_steps=4)
    >>> [float(schedule(step)) for step in (0, 3, 16, 18, 20)]
    [0.25, 1.0, 1.0, 0.5, 0.0]
    """
    where = "warmup_stable_decay"
    check.number(where, peak=peak, final=final)
    check.number(where, 0, decay_steps=decay_steps)
    _check_start(where, start)
    _check_parts(where, warmup_steps, total_steps)
    if all(map(check.is_plain, (warmup_steps, decay_steps, total_steps))):
        both = {"warmup_steps + decay_steps": warmup_steps + decay_steps, "total_steps": total_steps}
        check.ordered(where, **both)
    check.choice(where, ("linear", "cosine", "sqrt"), shape=shape)

    def falling(step):
        fraction = _fraction_done(step, _minus(total_steps, decay_steps), total_steps)
        if shape == "cosine":
            return _half_cosine(peak, final, fraction)
        if shape == "sqrt":
            fraction = jnp.where(fraction > 0, jnp.sqrt(jnp.where(fraction > 0, fraction, 1)), 0)
        return _line(peak, final, fraction)

    return _after_warmup(peak, warmup_steps, falling, start)


def one_cycle(
    peak: Scalar,
    total_steps: Scalar,
    *,
    rise: Scalar = 0.3,
    start_factor: Scalar = 25.0,
    final_factor: Scalar = 1e4,
    three_phase: bool = False,
    anneal: str = "cosine",
) -> Schedule:
    """Rise from peak / start_factor to `peak`, then fall far below where it began.

    It ends at peak / start_factor / final_factor, at step total_steps - 1. total_steps: at least 1. start_factor,
    final_factor: above 0. rise: the fraction of the steps that rise, in [0, 1]. three_phase: fall to the first
    value, for as long as the rise was (so rise is at most 0.5), then to the last. anneal: "cosine" or "linear", each
    phase's shape.
    Raises: ValueError when rise is out of its range, total_steps below 1, or a factor not above 0.
    Source: Smith and Topin 2018, arXiv:1708.07120; PyTorch's OneCycleLR (rise is its pct_start).

    >>> schedule = one_cycle(1.0, 11, rise=6 / 11, anneal="linear")
    >>> [round(float(schedule(step)), 4) for step in (0, 5, 10)]
    [0.04, 1.0, 0.0]
    """
    check.number("one_cycle", peak=peak)
    check.number("one_cycle", 1, total_steps=total_steps)
    check.number("one_cycle", 0, 0.5 if three_phase else 1, rise=rise)
    check.number("one_cycle", 0, open_low=True, start_factor=start_factor, final_factor=final_factor)
    check.choice("one_cycle", ("cosine", "linear"), anneal=anneal)
    between = _half_cosine if anneal == "cosine" else _line

    def schedule(step):
        step = _float(_clock(step))
        low = _float(peak) / _float(start_factor)
        end, last = low / _float(final_factor), _float(total_steps) - 1
        top = _float(rise) * _float(total_steps) - 1
        rising = between(low, peak, _fraction_done(step, 0, top))
        if not three_phase:
            return jnp.where(step <= top, rising, between(peak, end, _fraction_done(step, top, last)))
        falling = between(peak, low, _fraction_done(step, top, 2 * top))
        after = between(low, end, _fraction_done(step, 2 * top, last))
        return jnp.where(step <= top, rising, jnp.where(step <= 2 * top, falling, after))

    return schedule


def by_epoch(then: Schedule, steps_per_epoch: Scalar) -> Schedule:
    """`then` of the 0-based epoch, so the value is the same for all steps of an epoch.

    then: a schedule. steps_per_epoch: above 0.
    Raises: ValueError when steps_per_epoch is not above 0.

    >>> schedule = by_epoch(exponential(1.0, factor=0.5), steps_per_epoch=100)
    >>> [float(schedule(step)) for step in (0, 99, 100, 250)]
    [1.0, 1.0, 0.5, 0.25]
    """
    check.number("by_epoch", 0, open_low=True, steps_per_epoch=steps_per_epoch)
    return lambda step: then(_times(_clock(step), steps_per_epoch))


class PlateauState(NamedTuple):
    """The state of `plateau`, arrays of one number each.

    value: the value to use. best: the best metric so far. bad: the updates since then. wait: the
    remaining updates of the cooldown.
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

    Read the value as `state.value`. start: the value at first; with 1, the default, it is a scale for another
    schedule. mode: whether lower ("min") or higher ("max") is better. threshold: a metric improves when it is better
    than the best so far by more than this. threshold_mode: whether threshold is "absolute", or "relative" to the
    absolute value of the best, so that metrics may be negative; with a best of 0 any better value counts. NaN is no
    improvement. cooldown: updates after a drop that are not counted. floor: the lowest value that a drop
    gives. factor 1 or patience inf is off.
    Raises: ValueError when a number is below 0, factor above 1, or mode or threshold_mode unknown.
    Source: PyTorch's ReduceLROnPlateau, with eps 0; its relative threshold counts a worse value as better
    where metrics are negative.

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
        return PlateauState(_float(start), _float(-sign * math.inf), _float(0), _float(0))

    def update(state, metric):
        check.shape("plateau", (), metric=metric)
        metric = _float(metric)
        margin = _float(threshold)
        if threshold_mode == "relative":
            margin = jnp.where(jnp.isinf(state.best), 0, margin * jnp.abs(state.best))
        better = sign * (metric - state.best) > margin
        best = jnp.where(better, metric, state.best)
        waiting = state.wait > 0
        bad = jnp.where(better | waiting, 0, state.bad + 1)
        drop = bad > _float(patience)
        lower = jnp.minimum(state.value, jnp.maximum(state.value * _float(factor), _float(floor)))
        value = jnp.where(drop, lower, state.value)
        wait = jnp.where(drop, _float(cooldown), jnp.maximum(state.wait - 1, 0))
        return PlateauState(value, best, jnp.where(drop, 0, bad), wait)

    return Plateau(init, update)


# Steps stay integers as long as they can: float32 cannot tell 2**24 from 2**24 + 1.


def _float(x: Any) -> Array:
    return jnp.asarray(x, jnp.result_type(float))


def _int(x: Any) -> Array:
    return jnp.asarray(x, jnp.result_type(int))


def _whole(x: Any) -> bool:
    """Whether x is of an integer type, or a plain number without a fraction."""
    if check.is_plain(x):
        return float(x).is_integer() and abs(x) < 2**31
    return jnp.issubdtype(jnp.result_type(x), jnp.integer)


def _clock(step: Any) -> Array:
    """The step as an array, an integer one where it is whole, and at least 0."""
    return jnp.maximum(_int(step) if _whole(step) else _float(step), 0)


def _minus(step: Any, start: Any) -> Array:
    """step - start, as integers where both are whole."""
    if _whole(step) and _whole(start):
        return _int(step) - _int(start)
    return _float(step) - _float(start)


def _plus(a: Any, b: Any) -> Any:
    """a + b, an integer where both are whole."""
    if check.is_plain(a) and check.is_plain(b):
        return a + b
    return _int(a) + _int(b) if _whole(a) and _whole(b) else _float(a) + _float(b)


def _times(step: Any, every: Any) -> Array:
    """How often `every` fits into step, as integers where both are whole."""
    if _whole(step) and _whole(every):
        return jnp.floor_divide(_int(step), _int(every))
    return jnp.floor(_snap(_float(step) / _float(every)))


def _since_last(step: Any, every: Any) -> Array:
    """step modulo `every`, as integers where both are whole."""
    if _whole(step) and _whole(every):
        return _float(jnp.mod(_int(step), _int(every)))
    return _float(step) - _float(every) * _times(step, every)


def _fraction_done(step: Any, start: Any, end: Any) -> Array:
    """How far step is from start to end, in [0, 1]; 1 from the start on where both are equal."""
    done, length = _float(_minus(step, start)), _float(_minus(end, start))
    fraction = jnp.clip(done / jnp.where(length > 0, length, 1), 0, 1)
    return jnp.where((done >= length) & (done >= 0), 1, fraction)


def _line(start: Scalar, end: Scalar, fraction: Array) -> Array:
    return _float(start) + (_float(end) - _float(start)) * fraction


def _half_cosine(start: Scalar, end: Scalar, fraction: Array) -> Array:
    return _float(end) + (_float(start) - _float(end)) * (0.5 * (1 + jnp.cos(jnp.pi * fraction)))


def _rising(peak: Scalar, step: Array, warmup_steps: Scalar, start: Scalar | None) -> Array:
    if start is not None:
        return _line(start, peak, _fraction_done(step, 0, warmup_steps))
    return _float(peak) * ((_float(step) + 1) / (_float(warmup_steps) + 1))


def _after_warmup(
    peak: Scalar, warmup_steps: Scalar, falling: Callable[[Array], Array], start: Scalar | None
) -> Schedule:
    """A rise to peak, then falling(step)."""

    def schedule(step):
        step = _clock(step)
        return jnp.where(_minus(step, warmup_steps) < 0, _rising(peak, step, warmup_steps, start), falling(step))

    return schedule


def _check_start(where: str, start: Scalar | None) -> None:
    if start is not None:
        check.number(where, start=start)


def _power(base: Scalar, exponent: Any) -> Array:
    """base ** exponent for a base of at least 0; at 0 with finite gradients, which are 0 there."""
    base, exponent = _float(base), _float(exponent)
    power = jnp.where(base > 0, base, 1) ** exponent
    return jnp.where((base > 0) | (exponent == 0), power, 0)


def _snap(x: Array) -> Array:
    """x, but the integer where a few roundings at most lie between them.

    XLA turns x / 7 into x * (1 / 7), which can miss an integer, and floor sees the difference.
    """
    error = jnp.round(x) - x
    return x + jax.lax.stop_gradient(jnp.where(jnp.abs(error) < 3e-7 * jnp.abs(x), error, 0))


def _geometric(base: Array, n: Array) -> Array:
    """1 + base + ... + base ** (n - 1), for base > 1: exact for integers, stable near 1."""
    near_one = jnp.expm1(n * jnp.log(base)) / (base - 1)
    return jnp.where(base < 1.5, near_one, _snap((base**n - 1) / (base - 1)))


def _check_parts(where: str, warmup_steps: Scalar, total_steps: Scalar) -> None:
    """0 <= warmup_steps < total_steps, as far as they are plain numbers."""
    check.number(where, 0, warmup_steps=warmup_steps, total_steps=total_steps)
    if check.is_plain(warmup_steps):
        hint = "Run for more steps (train.steps in a config), or make warmup_steps smaller."
        check.number(where, float(warmup_steps), open_low=True, hint=hint, total_steps=total_steps)


explain_calls(__name__)
