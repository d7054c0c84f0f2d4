"""Schedules that rise first."""

import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Scalar, Schedule
from nnfunc.schedules.composition import as_schedule
from nnfunc.schedules.step_arithmetic import (
    after_warmup,
    check_parts,
    check_start,
    clock,
    fraction_done,
    half_cosine,
    line,
    minus,
    rising,
    to_float,
)


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
        step = clock(step)
        risen = (to_float(step) + 1) / (to_float(warmup_steps) + 1)
        return to_float(peak) * jnp.where(minus(step, warmup_steps) < 0, risen, risen**-0.5)

    return schedule


def warmup(then: Scalar | Schedule, warmup_steps: Scalar, *, start: Scalar | None = None) -> Schedule:
    """Rise in a line to the first value of `then` at step warmup_steps, then `then` from its step 0.

    The first step is then(0) / (warmup_steps + 1), not 0, so it already learns; warmup_steps 0 is
    off.
    then: a schedule or a number. A `then` that lasts n steps ends at step warmup_steps + n.
    The value has a corner in warmup_steps where that equals the step, as integers do. The gradient there is from
    the side of `then`, between 0 and its derivative, and not that of the rise. So it is with every warm-up of this
    module: search for the length by a sweep, or by gradients at values between integers.
    start: another value for step 0, such as a fraction of then(0); None, the default, is that above.
    Raises: ValueError when warmup_steps is below 0.

    >>> schedule = warmup(nf.schedules.cosine(1.0, 10), warmup_steps=3)
    >>> [round(float(schedule(step)), 6) for step in (0, 1, 3, 8, 13)]
    [0.25, 0.5, 1.0, 0.5, 0.0]
    """
    check.number("warmup", 0, warmup_steps=warmup_steps)
    check_start("warmup", start)
    follow = as_schedule(then, where="warmup: then")

    def schedule(step):
        step = clock(step)
        since = minus(step, warmup_steps)
        rise = rising(to_float(follow(0)), step, warmup_steps, start)
        return jnp.where(since < 0, rise, to_float(follow(jnp.maximum(since, 0))))

    return schedule


def warmup_cosine(
    peak: Scalar, warmup_steps: Scalar, total_steps: Scalar, *, final: Scalar = 0.0, start: Scalar | None = None
) -> Schedule:
    """Rise in a line to `peak` at step warmup_steps, then half a cosine to `final` at total_steps.

    The first step is peak / (warmup_steps + 1), not 0, so it already learns.
    start: another value for step 0.
    Raises: ValueError when plain numbers are given and not 0 <= warmup_steps < total_steps.

    >>> schedule = warmup_cosine(1.0, 3, 13)
    >>> [round(float(schedule(step)), 6) for step in (0, 1, 3, 8, 13)]
    [0.25, 0.5, 1.0, 0.5, 0.0]
    """
    check.number("warmup_cosine", peak=peak, final=final)
    check_start("warmup_cosine", start)
    check_parts("warmup_cosine", warmup_steps, total_steps)

    def falling(step):
        return half_cosine(peak, final, fraction_done(step, warmup_steps, total_steps))

    return after_warmup(peak, warmup_steps, falling, start)


def warmup_linear(
    peak: Scalar, warmup_steps: Scalar, total_steps: Scalar, *, final: Scalar = 0.0, start: Scalar | None = None
) -> Schedule:
    """Rise in a line to `peak` at step warmup_steps, then a line to `final` at total_steps.

    The first step is peak / (warmup_steps + 1), not 0, so it already learns.
    start: another value for step 0.
    Raises: ValueError when plain numbers are given and not 0 <= warmup_steps < total_steps.

    >>> schedule = warmup_linear(1.0, 3, 13)
    >>> [float(schedule(step)) for step in (0, 1, 3, 8, 13)]
    [0.25, 0.5, 1.0, 0.5, 0.0]
    """
    check.number("warmup_linear", peak=peak, final=final)
    check_start("warmup_linear", start)
    check_parts("warmup_linear", warmup_steps, total_steps)

    def falling(step):
        return line(peak, final, fraction_done(step, warmup_steps, total_steps))

    return after_warmup(peak, warmup_steps, falling, start)


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

    The first step is peak / (warmup_steps + 1).
    warmup_steps, decay_steps: at least 0.
    total_steps: at which `final` is reached.
    start: another value for step 0.
    shape: how it falls, with p from 0 to 1: "linear" (1 - p), "cosine" ((1 + cos(pi p)) / 2) or "sqrt" (1 -
        sqrt(p)). decay_steps 0 stays until the end.
    Raises: ValueError when plain numbers are given and not 0 <= warmup_steps < total_steps, or the two parts do not
    fit into total_steps.
    Source: Hu et al. 2024, arXiv:2404.06395, section 4; the shapes of Hägele et al. 2024, arXiv:2405.18392.

    >>> schedule = warmup_stable_decay(1.0, 3, 20, decay_steps=4)
    >>> [float(schedule(step)) for step in (0, 3, 16, 18, 20)]
    [0.25, 1.0, 1.0, 0.5, 0.0]
    """
    where = "warmup_stable_decay"
    check.number(where, peak=peak, final=final)
    check.number(where, 0, decay_steps=decay_steps)
    check_start(where, start)
    check_parts(where, warmup_steps, total_steps)
    if all(map(check.is_plain, (warmup_steps, decay_steps, total_steps))):
        both = {"warmup_steps + decay_steps": warmup_steps + decay_steps, "total_steps": total_steps}
        check.ordered(where, **both)
    check.choice(where, ("linear", "cosine", "sqrt"), shape=shape)

    def falling(step):
        fraction = fraction_done(step, minus(total_steps, decay_steps), total_steps)
        if shape == "cosine":
            return half_cosine(peak, final, fraction)
        if shape == "sqrt":
            fraction = jnp.where(fraction > 0, jnp.sqrt(jnp.where(fraction > 0, fraction, 1)), 0)
        return line(peak, final, fraction)

    return after_warmup(peak, warmup_steps, falling, start)


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

    It ends at peak / start_factor / final_factor, at step total_steps - 1.
    total_steps: at least 1.
    start_factor, final_factor: above 0.
    rise: the fraction of the steps that rise, in [0, 1].
    three_phase: fall to the first value, for as long as the rise was (so rise is at most 0.5), then to the last.
    anneal: "cosine" or "linear", each phase's shape.
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
    between = half_cosine if anneal == "cosine" else line

    def schedule(step):
        step = to_float(clock(step))
        low = to_float(peak) / to_float(start_factor)
        end, last = low / to_float(final_factor), to_float(total_steps) - 1
        top = to_float(rise) * to_float(total_steps) - 1
        rising = between(low, peak, fraction_done(step, 0, top))
        if not three_phase:
            return jnp.where(step <= top, rising, between(peak, end, fraction_done(step, top, last)))
        falling = between(peak, low, fraction_done(step, top, 2 * top))
        after = between(low, end, fraction_done(step, 2 * top, last))
        return jnp.where(step <= top, rising, jnp.where(step <= 2 * top, falling, after))

    return schedule
