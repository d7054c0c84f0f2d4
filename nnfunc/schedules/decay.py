"""Schedules that fall from their start, and those that rise again from there."""

from typing import Literal

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Scalar, Schedule
from nnfunc.schedules.step_arithmetic import (
    _snap,
    clock,
    fraction_done,
    geometric,
    half_cosine,
    line,
    minus,
    plus,
    power_of,
    since_last,
    times_of,
    to_float,
)


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
    return lambda step: line(start, final, fraction_done(clock(step), 0, total_steps))


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
        remaining = 1 - fraction_done(clock(step), 0, total_steps)
        return line(final, start, power_of(remaining, power))

    return schedule


def exponential(start: Scalar, *, factor: Scalar, every: Scalar = 1) -> Schedule:
    """A smooth fall by `factor` every so many steps: `start * factor ** (step / every)`.

    factor: at least 0, and 1 keeps the value.
    every: above 0, in steps.
    Source: PyTorch's ExponentialLR where every is 1.

    >>> schedule = exponential(1.0, factor=0.25, every=2)
    >>> [float(schedule(step)) for step in (0, 1, 2)]
    [1.0, 0.5, 0.25]
    """
    check.number("exponential", start=start)
    check.number("exponential", 0, factor=factor)
    check.number("exponential", 0, open_low=True, every=every)

    def schedule(step):
        return to_float(start) * power_of(factor, to_float(clock(step)) / to_float(every))

    return schedule


def step(start: Scalar, *, every: Scalar, factor: Scalar = 0.1) -> Schedule:
    """A drop by `factor` every so many steps: `start * factor ** floor(step / every)`.

    factor: at least 0, and 1 keeps the value.
    every: above 0, in steps, and inf never drops.
    Source: PyTorch's StepLR.

    >>> schedule = step(1.0, every=10, factor=0.5)
    >>> [float(schedule(step)) for step in (0, 9, 10, 20)]
    [1.0, 1.0, 0.5, 0.25]
    """
    check.number("step", start=start)
    check.number("step", 0, factor=factor)
    check.number("step", 0, open_low=True, every=every)

    def schedule(step):
        return to_float(start) * power_of(factor, times_of(clock(step), every))

    return schedule


def multistep(start: Scalar, milestones: tuple[Scalar, ...], *, factor: Scalar = 0.1) -> Schedule:
    """A drop by `factor` at each of the milestones, which are steps in any order.

    start * factor ** (number of milestones m with m <= step)
    start: the value before the first milestone.
    factor: at least 0.
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
        step = clock(step)
        passed = [to_float(minus(step, milestone) >= 0) for milestone in milestones]
        return to_float(start) * power_of(factor, sum(passed, start=jnp.zeros_like(to_float(step))))

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
    return lambda step: half_cosine(start, final, fraction_done(clock(step), 0, total_steps))


def cosine_restarts(start: Scalar, period: Scalar, *, multiplier: Scalar = 1.0, final: Scalar = 0.0) -> Schedule:
    """Half cosines from `start` to `final`, again and again, each `multiplier` times as long.

    Cycle n (0-based) begins at step period * (1 + multiplier + ... + multiplier ** (n - 1)).
    period: the steps of the first cycle, above 0.
    multiplier: at least 1, the default.
    Raises: ValueError when period is not above 0, or multiplier is below 1.
    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, section 3; PyTorch's CosineAnnealingWarmRestarts, which
    takes a whole multiplier only.

    >>> schedule = cosine_restarts(1.0, 4, multiplier=2)
    >>> [round(float(schedule(step)), 6) for step in (0, 2, 4, 8, 12)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    check.number("cosine_restarts", start=start, final=final)
    check.number("cosine_restarts", 0, open_low=True, period=period)
    check.number("cosine_restarts", 1, multiplier=multiplier)

    def schedule(step):
        step = clock(step)
        grow, first = to_float(multiplier), to_float(period)
        grows = grow > 1
        safe = jnp.where(grows, grow, 2)  # so that the other branch has no 0 / 0
        cycles = to_float(step) / first
        n = jnp.floor(jnp.log1p(cycles * (safe - 1)) / jnp.log(safe))
        n = jnp.where(first * geometric(safe, n + 1) <= to_float(step), n + 1, n)  # after rounding
        n = jax.lax.stop_gradient(jnp.where(first * geometric(safe, n) > to_float(step), n - 1, n))
        done = to_float(step) - first * geometric(safe, n)
        same = since_last(step, period)
        fraction = jnp.where(grows, done / (first * _snap(safe**n)), same / first)
        return half_cosine(start, final, jnp.clip(fraction, 0, 1))

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
    rise_steps: at least 0.
    fall_steps: rise_steps by default.
    mode: what the scale is, 1 ("triangular"), 0.5 ** cycle of the 0-based cycle ("triangular2"), or factor ** step
        ("exp_range").
    factor: at least 0, of exp_range alone; 1 is off.
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
        step = clock(step)
        period = plus(rise_steps, fall_steps)
        done, rise, fall = since_last(step, period), to_float(rise_steps), to_float(fall_steps)
        rising = done / jnp.where(rise > 0, rise, 1)
        falling = (rise + fall - done) / jnp.where(fall > 0, fall, 1)
        height = jnp.where(done < rise, rising, falling)
        if mode == "triangular2":
            height = height * power_of(0.5, times_of(step, period))
        elif mode == "exp_range":
            height = height * power_of(factor, step)
        return line(start, peak, height)

    return schedule
