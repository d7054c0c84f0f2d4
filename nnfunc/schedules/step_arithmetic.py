"""The arithmetic of schedules: steps that stay integers as long as they can, and the curves between two steps.

float32 cannot tell 2**24 from 2**24 + 1.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Scalar, Schedule


def to_float(x: Any) -> Array:
    return jnp.asarray(x, jnp.result_type(float))


def to_int(x: Any) -> Array:
    return jnp.asarray(x, jnp.result_type(int))


def is_whole(x: Any) -> bool:
    """Whether x is of an integer type, or a plain number without a fraction."""
    if check.is_plain(x):
        return float(x).is_integer() and abs(x) < 2**31
    return jnp.issubdtype(jnp.result_type(x), jnp.integer)


def clock(step: Any) -> Array:
    """The step as an array, an integer one where it is whole, and at least 0."""
    return jnp.maximum(to_int(step) if is_whole(step) else to_float(step), 0)


def minus(step: Any, start: Any) -> Array:
    """step - start, as integers where both are whole."""
    if is_whole(step) and is_whole(start):
        return to_int(step) - to_int(start)
    return to_float(step) - to_float(start)


def plus(a: Any, b: Any) -> Any:
    """a + b, an integer where both are whole."""
    if check.is_plain(a) and check.is_plain(b):
        return a + b
    return to_int(a) + to_int(b) if is_whole(a) and is_whole(b) else to_float(a) + to_float(b)


def times_of(step: Any, every: Any) -> Array:
    """How often `every` fits into step, as integers where both are whole."""
    if is_whole(step) and is_whole(every):
        return jnp.floor_divide(to_int(step), to_int(every))
    return jnp.floor(_snap(to_float(step) / to_float(every)))


def since_last(step: Any, every: Any) -> Array:
    """step modulo `every`, as integers where both are whole."""
    if is_whole(step) and is_whole(every):
        return to_float(jnp.mod(to_int(step), to_int(every)))
    return to_float(step) - to_float(every) * times_of(step, every)


def fraction_done(step: Any, start: Any, end: Any) -> Array:
    """How far step is from start to end, in [0, 1]; 1 from the start on where both are equal."""
    done, length = to_float(minus(step, start)), to_float(minus(end, start))
    fraction = jnp.clip(done / jnp.where(length > 0, length, 1), 0, 1)
    return jnp.where((done >= length) & (done >= 0), 1, fraction)


def line(start: Scalar, end: Scalar, fraction: Array) -> Array:
    return to_float(start) + (to_float(end) - to_float(start)) * fraction


def half_cosine(start: Scalar, end: Scalar, fraction: Array) -> Array:
    return to_float(end) + (to_float(start) - to_float(end)) * (0.5 * (1 + jnp.cos(jnp.pi * fraction)))


def rising(peak: Scalar, step: Array, warmup_steps: Scalar, start: Scalar | None) -> Array:
    if start is not None:
        return line(start, peak, fraction_done(step, 0, warmup_steps))
    return to_float(peak) * ((to_float(step) + 1) / (to_float(warmup_steps) + 1))


def after_warmup(
    peak: Scalar, warmup_steps: Scalar, falling: Callable[[Array], Array], start: Scalar | None
) -> Schedule:
    """A rise to peak, then falling(step)."""

    def schedule(step):
        step = clock(step)
        return jnp.where(minus(step, warmup_steps) < 0, rising(peak, step, warmup_steps, start), falling(step))

    return schedule


def check_start(where: str, start: Scalar | None) -> None:
    if start is not None:
        check.number(where, start=start)


def power_of(base: Scalar, exponent: Any) -> Array:
    """base ** exponent for a base of at least 0; at 0 with finite gradients, which are 0 there."""
    base, exponent = to_float(base), to_float(exponent)
    power = jnp.where(base > 0, base, 1) ** exponent
    return jnp.where((base > 0) | (exponent == 0), power, 0)


def _snap(x: Array) -> Array:
    """x, but the integer where a few roundings at most lie between them.

    XLA turns x / 7 into x * (1 / 7), which can miss an integer, and floor sees the difference.
    """
    error = jnp.round(x) - x
    return x + jax.lax.stop_gradient(jnp.where(jnp.abs(error) < 3e-7 * jnp.abs(x), error, 0))


def geometric(base: Array, n: Array) -> Array:
    """1 + base + ... + base ** (n - 1), for base > 1: exact for integers, stable near 1."""
    near_one = jnp.expm1(n * jnp.log(base)) / (base - 1)
    return jnp.where(base < 1.5, near_one, _snap((base**n - 1) / (base - 1)))


def check_parts(where: str, warmup_steps: Scalar, total_steps: Scalar) -> None:
    """0 <= warmup_steps < total_steps, as far as they are plain numbers."""
    check.number(where, 0, warmup_steps=warmup_steps, total_steps=total_steps)
    if check.is_plain(warmup_steps):
        hint = "Run for more steps (train.steps in a config), or make warmup_steps smaller."
        check.number(where, float(warmup_steps), open_low=True, hint=hint, total_steps=total_steps)
