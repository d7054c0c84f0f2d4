"""Gradient transformations of SGD with dampening, Adagrad, Adadelta, Adamax, NAdam and RAdam.

optax has most of them, but raises a float to the power of an integer count, which strict promotion refuses.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from nnfunc.base import Array, PyTree
from nnfunc.optimizers.gradient_transforms import TINY, run_mean, squarable


class MomentumState(NamedTuple):
    """The running sum of the gradients, and the number of steps."""

    count: Array
    trace: PyTree


def by_momentum(momentum: Array, dampening: Array, nesterov: bool) -> optax.GradientTransformation:
    """m = momentum * m + (1 - dampening) * d, of which the first is d itself."""

    def init(params):
        return MomentumState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        weight = jnp.where(state.count == 0, 1, 1 - dampening)
        trace = jax.tree.map(lambda m, d: momentum * m + weight * d, state.trace, updates)
        state = MomentumState(jnp.asarray(optax.safe_increment(state.count)), trace)
        return jax.tree.map(lambda d, m: d + momentum * m, updates, trace) if nesterov else trace, state

    return optax.GradientTransformation(init, update)


def by_adagrad(initial: Array, eps: Array) -> optax.GradientTransformation:
    """The gradient over the root of the sum of its squares. initial: of the sums."""

    def init(params):
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, initial), params)

    def update(updates, state, params=None):
        updates = squarable(updates)
        state = jax.tree.map(lambda total, d: total + jnp.square(d), state, updates)
        return jax.tree.map(lambda d, total: d / (jnp.sqrt(total + TINY) + eps), updates, state), state

    return optax.GradientTransformation(init, update)


class AdadeltaState(NamedTuple):
    """Running means of the squared gradients and of the squared steps."""

    square: PyTree
    step: PyTree


def by_adadelta(decay: Array, eps: Array) -> optax.GradientTransformation:
    """The gradient times the root of the mean square of the last steps, over that of the gradients."""

    def init(params):
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return AdadeltaState(zeros(), zeros())

    def update(updates, state, params=None):
        updates = squarable(updates)
        square = run_mean(state.square, jax.tree.map(jnp.square, updates), decay)
        root = lambda x: jnp.sqrt(x + eps + TINY)
        steps = jax.tree.map(lambda d, v, s: root(s) / root(v) * d, updates, square, state.step)
        return steps, AdadeltaState(square, run_mean(state.step, jax.tree.map(jnp.square, steps), decay))

    return optax.GradientTransformation(init, update)


def _adam_state(params: PyTree) -> optax.ScaleByAdamState:
    zeros = lambda: jax.tree.map(jnp.zeros_like, params)
    return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(), zeros())


def by_adamax(b1: Array, b2: Array, eps: Array) -> optax.GradientTransformation:
    """Adam with the largest of the decayed gradients in place of the root of their mean square."""

    def update(updates, state, params=None):
        mean = run_mean(state.mu, updates, b1)
        largest = jax.tree.map(lambda u, d: jnp.maximum(b2 * u, jnp.abs(d) + eps), state.nu, updates)
        count = optax.safe_increment(state.count)
        factor = 1 / (1 - b1 ** jnp.asarray(count, b1.dtype))
        scale = lambda m, u: jnp.where(u > 0, m * factor / jnp.where(u > 0, u, 1), 0)
        return jax.tree.map(scale, mean, largest), optax.ScaleByAdamState(count, mean, largest)

    return optax.GradientTransformation(_adam_state, update)


class NadamState(NamedTuple):
    """The state of Adam, and the product of all momenta so far."""

    adam: optax.ScaleByAdamState
    product: Array


def by_nadam(b1: Array, b2: Array, eps: Array, momentum_decay: Array) -> optax.GradientTransformation:
    """Adam with Nesterov momentum, whose weight b1 * (1 - 0.96 ** (t * momentum_decay) / 2) rises to b1."""

    def init(params):
        return NadamState(_adam_state(params), jnp.ones((), b1.dtype))

    def update(updates, state, params=None):
        updates, adam = squarable(updates), state.adam
        mean = run_mean(adam.mu, updates, b1)
        square = run_mean(adam.nu, jax.tree.map(jnp.square, updates), b2)
        count = optax.safe_increment(adam.count)
        t = jnp.asarray(count, b1.dtype)
        momentum = lambda t: b1 * (1 - 0.5 * jnp.asarray(0.96, b1.dtype) ** (t * momentum_decay))
        now, following = momentum(t), momentum(t + 1)
        product = state.product * now
        of_gradient, of_mean = (1 - now) / (1 - product), following / (1 - product * following)
        root = lambda v: jnp.sqrt(v / (1 - b2**t) + TINY) + eps
        scale = lambda d, m, v: (of_gradient * d + of_mean * m) / root(v)
        steps = jax.tree.map(scale, updates, mean, square)
        return steps, NadamState(optax.ScaleByAdamState(count, mean, square), product)

    return optax.GradientTransformation(init, update)


def by_radam(b1: Array, b2: Array, eps: Array) -> optax.GradientTransformation:
    """Adam, whose first steps, before the variance of the mean square is known, are momentum alone."""

    def update(updates, state, params=None):
        updates = squarable(updates)
        mean = run_mean(state.mu, updates, b1)
        square = run_mean(state.nu, jax.tree.map(jnp.square, updates), b2)
        count = optax.safe_increment(state.count)
        t = jnp.asarray(count, b1.dtype)
        corrected = 1 - b2**t
        longest = 2 / (1 - b2) - 1
        length = longest - 2 * t * b2**t / corrected
        known = length > 5
        n, most = jnp.where(known, length, 6), jnp.where(known, longest, 6)
        rectified = jnp.sqrt((n - 4) * (n - 2) * most / ((most - 4) * (most - 2) * n))
        factor = 1 / (1 - b1**t)
        scale = lambda m, v: (
            m * factor * jnp.where(known, rectified * jnp.sqrt(corrected) / (jnp.sqrt(v + TINY) + eps), 1)
        )
        return jax.tree.map(scale, mean, square), optax.ScaleByAdamState(count, mean, square)

    return optax.GradientTransformation(_adam_state, update)
