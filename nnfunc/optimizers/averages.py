"""Averages of the parameters over the steps: exponential, and equal from some step on.

Each is a triple of pure functions, `init(params) -> state`, `update(state, params, step) -> state` and
`read(state, params) -> params`. params is any pytree, such as (parameters, running statistics); step
is the 0-based step that made them. The sums are float32, or float64 where a leaf is; read returns
the dtypes of the leaves. Leaves that are not floats, such as counters, are not averaged, nor is the base
of `nf.lora`, which never changes: read gives those of the params it is given. Before the first
averaged step it gives all of them as they are.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Params, PyTree, Scalar, factory_name, wide_dtype
from nnfunc.calls import explain_calls
from nnfunc.frozen_state import FrozenState, is_frozen

__all__ = ["Average", "EmaState", "SwaState", "ema", "swa"]


class Average(NamedTuple):
    """init(params) -> state; update(state, params, step) -> state; read(state, params) -> params."""

    init: Callable[[Params], PyTree]
    update: Callable[[PyTree, Params, Any], PyTree]
    read: Callable[[PyTree, Params], Params]

    def __repr__(self) -> str:
        return f"<average {factory_name(self.update)}>"


class EmaState(NamedTuple):
    """The state of `ema`.

    mean: of the floats.
    weight: how much of the average is there, 1 in the end.
    count: of steps.
    """

    mean: PyTree
    weight: Array
    count: Array


class SwaState(NamedTuple):
    """The state of `swa`.

    mean: of the floats.
    count: how many parameters it is of.
    """

    mean: PyTree
    count: Array


def ema(decay: Scalar, *, start: Scalar = 0, warmup: Scalar = 1) -> Average:
    """The exponential moving average of the parameters from step `start` on.

    mean of params_i with weights proportional to (1 - d_i) * d_(i+1) * ... * d_t, which sum to 1 from
    the first step: after one step it is these parameters themselves.
    d_t = min(decay, (1 + t) / (warmup + t)) for the t-th averaged step, t = 0, 1, ...: with the usual
    warmup of 10 the first steps are forgotten soon, with 1 there is no warm-up.
    decay: in [0, 1), 0.999 or 0.9999 as a rule.
    start: a step, at least 0.
    warmup: at least 1.
    Raises: ValueError when a number is out of its range.
    Source: Polyak and Juditsky 1992; Kingma and Ba 2015, arXiv:1412.6980, section 7.2, for the weights that sum to
    1; TensorFlow's ExponentialMovingAverage for the warm-up.

    >>> average = nf.averages.ema(0.5)
    >>> state = average.init(jnp.zeros(1))
    >>> for step, params in enumerate([jnp.array([3.0]), jnp.array([6.0])]):
    ...     state = average.update(state, params, step)
    >>> average.read(state, params).tolist()
    [5.0]
    """
    check.number("ema", 0, 1, open_high=True, decay=decay)
    check.number("ema", 0, start=start)
    check.number("ema", 1, warmup=warmup)

    def init(params):
        return EmaState(_zeros(params), jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32))

    def update(state, params, step):
        t = state.count.astype(jnp.float32)
        ramp = (1 + t) / (_number(warmup) + t)
        d = jnp.minimum(_number(decay), ramp)
        weight = d * state.weight + (1 - d)
        fraction = jnp.where(weight > 0, (1 - d) / jnp.where(weight > 0, weight, 1), 1)
        due = _number(step) >= _number(start)
        mean = _toward(state.mean, params, fraction, due)
        count = state.count + due.astype(jnp.int32)
        return EmaState(mean, jnp.where(due, weight, state.weight), count)

    return Average(init, update, lambda state, params: _read(state.mean, params, state.count))


def swa(start: Scalar, every: Scalar = 1) -> Average:
    """The equal mean of the parameters at steps start, start + every, start + 2 * every, ...

    Running statistics of batch norm are averaged like the rest; the paper has them computed anew.
    start: a step, at least 0.
    every: at least 1.
    Raises: ValueError when a number is out of its range.
    Source: Izmailov et al. 2018, arXiv:1803.05407, algorithm 1.

    >>> average = nf.averages.swa(1, every=2)
    >>> state = average.init(jnp.zeros(1))
    >>> for step in range(4):
    ...     state = average.update(state, jnp.array([10.0 * step]), step)
    >>> average.read(state, jnp.zeros(1)).tolist()
    [20.0]
    """
    check.number("swa", 0, start=start)
    check.number("swa", 1, every=every)

    def init(params):
        return SwaState(_zeros(params), jnp.zeros((), jnp.int32))

    def update(state, params, step):
        after = _number(step) - _number(start)
        due = (after >= 0) & (jnp.mod(after, _number(every)) == 0)
        fraction = 1 / (state.count + 1).astype(jnp.float32)
        mean = _toward(state.mean, params, fraction, due)
        return SwaState(mean, state.count + due.astype(jnp.int32))

    return Average(init, update, lambda state, params: _read(state.mean, params, state.count))


def _number(value: Any) -> Array:
    return jnp.asarray(value, jnp.float32)


def _zeros(params: Params) -> PyTree:
    def zeros(leaf):
        if is_frozen(leaf):
            others = {name: _zeros(part) for name, part in leaf.items() if name != "base"}
            return FrozenState(others, base=jax.tree.map(lambda _: None, leaf["base"]))
        is_float = jnp.issubdtype(jax.dtypes.result_type(leaf), jnp.floating)
        return jnp.zeros(np.shape(leaf), wide_dtype(leaf)) if is_float else None

    return jax.tree.map(zeros, params, is_leaf=is_frozen)


def _toward(mean: PyTree, params: Params, fraction: Array, due: Array) -> PyTree:
    """The mean, moved toward the params by a fraction of the difference where due."""

    def step(leaf, old):
        if old is None:
            return None
        new = jnp.asarray(leaf, old.dtype)
        # exactly new where fraction is 1: the first params may be far from the zeros that mean starts with
        return jnp.where(due, jnp.where(fraction < 1, old + fraction.astype(old.dtype) * (new - old), new), old)

    return jax.tree.map(step, params, mean)


def _read(mean: PyTree, params: Params, count: Array) -> Params:
    def one(leaf, averaged):
        if averaged is None:
            return leaf
        leaf = jnp.asarray(leaf)
        return jnp.where(count > 0, averaged.astype(leaf.dtype), leaf)

    return jax.tree.map(one, params, mean)


explain_calls(__name__)
