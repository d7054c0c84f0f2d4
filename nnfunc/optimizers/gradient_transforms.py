"""The gradient transformations that the optimizers chain: the directions of Adam, RMSprop and LAMB."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from nnfunc import check, schedules
from nnfunc.base import Array, PyTree, Scalar, Schedule, cast_floating
from nnfunc.optimizers.clipping import clip_global_norm
from nnfunc.optimizers.optimizer import Optimizer, cast_like, checked_at_init, require_params, scaled, wide_type
from nnfunc.optimizers.weight_decay import Decay, check_decay, decayed
from nnfunc.paths import Leaves, leaves_mask
from nnfunc.vector_norm import vector_norm

TINY = 1e-30  # below the square of any eps: keeps the gradient of sqrt finite at 0, changes no value


def optimizer(
    where: str,
    learning_rate: Scalar | Schedule,
    chain: Callable[[Any, Any], tuple[Any, ...]],
    *,
    clip: Scalar,
    weight_decay: Decay,
    decay_on: Leaves,
) -> Optimizer:
    """Clipping, then a chain of gradient transformations, then the learning rate.

    where: the optimizer's name, for errors.
    learning_rate: a number of at least 0, or a schedule.
    chain: (number, decay) -> the transformations; number makes arrays of the optimizer's numbers, and decay is the
        transformation that adds weight_decay * parameter to the leaves decay_on.
    clip: the largest global norm.
    """
    check_decay(where, weight_decay, decay_on)
    schedule = schedules.as_schedule(learning_rate, where=f"{where}: learning_rate")
    if not callable(learning_rate):
        check.number(where, 0, learning_rate=learning_rate)
    check.number(where, 0, open_low=True, clip=clip)

    def whole_chain(dtype, gradient_norm=None):
        number = partial(jnp.asarray, dtype=dtype)
        decay = decayed(where, weight_decay, decay_on, number)
        descend = optax.scale_by_schedule(lambda step: -schedule(step))
        is_off = check.is_plain(clip) and clip == math.inf
        clipped = optax.identity() if is_off else clip_global_norm(number(clip), gradient_norm)
        return optax.chain(clipped, *chain(number, decay), descend)

    def init(params):
        dtype = wide_type(params)
        return whole_chain(dtype).init(cast_floating(params, dtype))

    def update(grads, state, params=None, *, rate_scale=None, gradient_norm=None, **extra):
        require_params(where, params)
        dtype = wide_type(params)
        grads, wide = cast_floating(grads, dtype), cast_floating(params, dtype)
        updates, state = whole_chain(dtype, gradient_norm).update(grads, state, wide)
        return cast_like(scaled(updates, rate_scale), params), state

    return Optimizer(init, update, schedule)


def by_adam(b1: Array, b2: Array, eps: Array, amsgrad: bool = False) -> optax.GradientTransformation:
    """optax's scale_by_adam for strict promotion, which refuses a float to the power of a count.

    b1, b2: decays of the two means.
    eps: added to the root.
    amsgrad: whether the root is that of the largest mean square so far.
    """

    def init(params):
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        state = optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(), zeros())
        return optax.ScaleByAmsgradState(*state, zeros()) if amsgrad else state

    def update(updates, state, params=None):
        updates = squarable(updates)
        mean = run_mean(state.mu, updates, b1)
        square = run_mean(state.nu, jax.tree.map(jnp.square, updates), b2)
        count = optax.safe_increment(state.count)
        t = jnp.asarray(count, b1.dtype)
        mean_factor, square_factor = 1 / (1 - b1**t), 1 / (1 - b2**t)  # of all entries, which a division would slow
        scale = lambda m, v: m * mean_factor / (jnp.sqrt(v * square_factor + TINY) + eps)
        if not amsgrad:
            return jax.tree.map(scale, mean, square), optax.ScaleByAdamState(count, mean, square)
        largest = jax.tree.map(jnp.maximum, state.nu_max, square)
        return jax.tree.map(scale, mean, largest), optax.ScaleByAmsgradState(count, mean, square, largest)

    return optax.GradientTransformation(init, update)


def run_mean(old: PyTree, new: PyTree, decay: Array) -> PyTree:
    """The running mean, one step on."""
    return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)


def squarable(updates: PyTree) -> PyTree:
    """Finite values where their squares are finite: an infinite one would stop its entry for ever."""

    def limited(leaf):
        most = 2.0 ** (int(jnp.finfo(leaf.dtype).maxexp) // 2 - 1)  # 2**63 in float32
        return jnp.where(jnp.isinf(leaf), leaf, jnp.clip(leaf, -most, most))

    return jax.tree.map(limited, updates)


class RmsState(NamedTuple):
    """Running means of the squared gradients, and of the gradients where they are needed."""

    square: PyTree
    mean: PyTree


def by_rms(decay: Array, eps: Array, centered: bool) -> optax.GradientTransformation:
    """optax's scale_by_rms and scale_by_stddev, with a root that rounding cannot take below 0.

    decay: of the running means.
    eps: added to the root.
    centered: whether the mean is subtracted.
    """

    def init(params):
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return RmsState(zeros(), zeros() if centered else ())

    def update(updates, state, params=None):
        updates = squarable(updates)
        square = run_mean(state.square, jax.tree.map(jnp.square, updates), decay)
        mean = run_mean(state.mean, updates, decay) if centered else ()
        variance = square
        if centered:
            variance = jax.tree.map(lambda s, m: jnp.maximum(s - m**2, 0), square, mean)
        scale = lambda grad, v: grad / (jnp.sqrt(v + TINY) + eps)
        return jax.tree.map(scale, updates, variance), RmsState(square, mean)

    return optax.GradientTransformation(init, update)


def by_trust_ratio(stacked: Leaves) -> optax.GradientTransformation:
    """Every update as long as its parameter; layer by layer in the stacked leaves."""

    def scale(update, param, layers):
        axes = tuple(range(1 if layers else 0, param.ndim))
        u = vector_norm(update, axes, keepdims=True)
        p = vector_norm(param, axes, keepdims=True)
        both = (u > 0) & (p > 0)
        return jnp.where(both, update / jnp.where(both, u, 1) * p, update)

    def stacked_leaves(params):
        return leaves_mask("lamb: stacked", params, stacked)

    def scale_all(updates, params):
        return jax.tree.map(scale, updates, params, stacked_leaves(params))

    inner = optax.stateless(scale_all)
    return optax.GradientTransformation(checked_at_init(inner.init, stacked_leaves), inner.update)


def check_adam(where: str, b1: Scalar, b2: Scalar, eps: Scalar) -> None:
    """where: the optimizer that errors name. b1, b2: in [0, 1). eps: at least 0."""
    check.number(where, 0, 1, open_high=True, b1=b1, b2=b2)
    check.number(where, 0, eps=eps)
