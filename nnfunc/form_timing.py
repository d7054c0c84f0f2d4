"""Times the forms of an operation, forward and backward."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nnfunc import device_memory, tuning
from nnfunc.errors import NnfuncError
from nnfunc.tuning import Call

ROUNDS = 3, 100
"""The least and the largest number of times that each form is run."""
MARGIN = 0.95
"""A form has to take less than this fraction of the default's time: closer times are noise."""


def time_forms(key: str, call: Call, seconds: float, *, looped: bool = False) -> dict[str, float]:
    """The median time of each form in seconds, of the result and its gradients. Forms take turns.

    A form that needs more memory than there is has no time.
    key, call: of an operation that is timed alone.
    seconds: until the last round begins, compilations included; but there are at least three rounds.
    looped: whether to time it inside of a loop, where the gradients of some forms can take 50 times as long.
    """
    assert call.function is not None
    end = time.perf_counter() + seconds
    draw = np.random.default_rng(0)
    dy = jax.eval_shape(call.function, *call.arguments)
    args = jax.tree.map(lambda a: jnp.asarray(draw.normal(size=a.shape), a.dtype), (*call.arguments, dy))
    gradients = _gradients(call.function, call.has_input_gradient)
    programs = {}
    for form in call.options:
        with tuning.pinned({key: form}):
            jitted = jax.jit(_loop(gradients) if looped else gradients)
            try:
                programs[form] = partial(device_memory.compile_checked("tune", jitted, "", "", *args), *args)
            except NnfuncError:
                continue
    return time_programs(programs, end)


def time_programs(programs: Mapping[str, Callable[[], Any]], end: float) -> dict[str, float]:
    """The median time of each program in seconds. Programs take turns.

    programs: functions without arguments that return arrays, by name.
    end: of the last round, in `time.perf_counter`.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    for run in programs.values():
        jax.block_until_ready(run())
    for count in itertools.count():
        if count >= ROUNDS[1] or (count >= ROUNDS[0] and time.perf_counter() > end):
            break
        for name, run in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def choose_form(key: str, call: Call, times: Mapping[str, float], seconds: float) -> str:
    """The fastest form; the default where it is as fast, up to noise.

    Another form of an operation that is timed alone has to be the fastest inside of a loop too.
    key, call: as for `time_forms`.
    times: of `time_forms` or `time_programs`.
    seconds: for the times inside of a loop.
    """
    form = fastest(call, times)
    if call.function is None or form == call.default:
        return form
    if fastest(call, time_forms(key, call, seconds, looped=True)) != form:
        form = fastest(call, {other: t for other, t in times.items() if other != form})
    return form


def fastest(call: Call, times: Mapping[str, float]) -> str:
    """The form with the least time, where it is clearly faster than the default. call, times: as for `choose_form`."""
    form = min(times, key=lambda form: times[form], default=call.default)
    limit = MARGIN * times.get(call.default, np.inf)
    return form if form in times and times[form] < limit else call.default


def _gradients(function: Callable[..., Any], has_input_gradient: bool) -> Callable[..., Any]:
    """(x, *others, dy) -> y and the gradients of the others and, if it is asked for, of x."""

    def run(x, *others_and_dy):
        *others, dy = others_and_dy
        if has_input_gradient or not others:
            y, back = jax.vjp(function, x, *others)
        else:
            y, back = jax.vjp(lambda *others: function(x, *others), *others)
        return y, back(dy)

    return run


def _loop(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of stacked copies of its arguments, one after the other."""
    return lambda *args: lax.map(
        lambda args: function(*args), [jax.tree.map(lambda a: jnp.stack([a, a]), arg) for arg in args]
    )
