"""Times the forms of a convolution, forward and backward."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from nnfunc import device_memory
from nnfunc.errors import NnfuncError
from nnfunc.layers.conv.algorithms import FORMS, TUNED
from nnfunc.layers.conv.channels_last import Plan
from nnfunc.tuning import Call

ROUNDS = 3, 100
"""The least and the largest number of times that each form is run."""
MARGIN = 0.95
"""A form has to take less than this fraction of the default's time: closer times are noise."""


def time_forms(call: Call, seconds: float, *, looped: bool = False) -> dict[str, float]:
    """The median time of each form in seconds, of the result and its gradients. Forms take turns.

    A form that needs more memory than there is has no time.
    call: of a convolution. seconds: until the last round begins, compilations included; but there are at least three
    rounds. looped: whether to time it inside of a loop, where the gradients of "plain" can take 50 times as long.
    """
    end, times = time.perf_counter() + seconds, {}
    x, weight, plan = call.arguments
    draw = np.random.default_rng(0)
    dy = jax.eval_shape(partial(FORMS["plain"], plan=plan), x, weight)
    args = [jnp.asarray(draw.normal(size=a.shape), a.dtype) for a in (x, weight, dy)]
    programs = {}
    for form in TUNED:
        function = _gradients(form, plan, call.has_input_gradient)
        try:
            program = device_memory.compile_checked(
                "tune", jax.jit(_loop(function) if looped else function), "", "", *args
            )
        except NnfuncError:
            continue
        jax.block_until_ready(program(*args))
        programs[form], times[form] = program, []
    for count in range(ROUNDS[1]):
        if count >= ROUNDS[0] and time.perf_counter() > end:
            break
        for form, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(*args))
            times[form].append(time.perf_counter() - start)
    return {form: statistics.median(values) for form, values in times.items()}


def choose_form(call: Call, times: dict[str, float], seconds: float) -> str:
    """The fastest form; the default where it is as fast, up to noise.

    "plain" has to be the fastest inside of a loop too.
    call, times: of `time_forms`. seconds: for the times inside of a loop.
    """
    form = _fastest(call, times)
    if form == "plain" and _fastest(call, time_forms(call, seconds, looped=True)) != "plain":
        form = _fastest(call, {form: t for form, t in times.items() if form != "plain"})
    return form


def _fastest(call: Call, times: dict[str, float]) -> str:
    form = min(times, key=lambda form: times[form], default=call.default)
    limit = MARGIN * times.get(call.default, np.inf)
    return form if form in times and times[form] < limit else call.default


def _gradients(form: str, plan: Plan, has_input_gradient: bool) -> Callable[..., Any]:
    """(x, weight, dy) -> y and the gradients of weight and, if it is asked for, of x."""

    def run(x, weight, dy):
        y, back = jax.vjp(lambda weight, x=x: FORMS[form](x, weight, plan), weight, *[x] * has_input_gradient)
        return y, back(dy)

    return run


def _loop(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of stacked copies of its arguments, one after the other."""
    return lambda *args: lax.map(lambda args: function(*args), [jnp.stack([a, a]) for a in args])
