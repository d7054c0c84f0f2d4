"""Lookahead: slow weights that follow the fast ones of another optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, PyTree, Scalar
from nnfunc.optimizers.optimizer import Optimizer, as_optimizer, wide_type, wrapped


class LookaheadState(NamedTuple):
    """inner: the fast optimizer's state. slow: the slow weights. since: steps since they moved."""

    inner: PyTree
    slow: PyTree
    since: Array


def lookahead(inner: Any, every: Scalar = 5, slow_rate: Scalar = 0.5) -> Optimizer:
    """After every few steps of `inner`, move back toward where these steps began.

    After each `every` steps: slow += slow_rate * (parameters - slow); parameters = slow.
    The state of `inner` is not changed.
    every: at least 1; inf is off.
    slow_rate: in [0, 1]; 1 is off too. Evaluate after a step that `every` divides: there the parameters are the
        slow weights.
    Raises: TypeError when inner is no optimizer, ValueError when a number is out of its range.
    Source: Zhang et al. 2019, arXiv:1907.08610, algorithm 1.

    >>> optimizer = nf.optimizers.lookahead(nf.optimizers.sgd(1.0), every=2)
    >>> params, grads = {"bias": jnp.zeros(1)}, {"bias": jnp.array([-1.0])}
    >>> state = optimizer.init(params)
    >>> for _ in range(2):
    ...     updates, state = optimizer.update(grads, state, params)
    ...     params = jax.tree.map(jnp.add, params, updates)
    >>> params["bias"].tolist()
    [1.0]
    """
    inner = as_optimizer(inner, where="lookahead")
    check.number("lookahead", 1, every=every)
    check.number("lookahead", 0, 1, slow_rate=slow_rate)

    def init(params):
        slow = jax.tree.map(jnp.array, params)  # a copy: a step may use up the parameters
        return LookaheadState(inner.init(params), slow, jnp.zeros((), jnp.int32))

    def update(grads, state, params, extra):
        updates, fast = inner.update(grads, state.inner, params, **extra)
        back = 1 - jnp.asarray(slow_rate, wide_type(params))
        since = state.since + 1
        due = since.astype(jnp.float32) >= jnp.asarray(every, jnp.float32)

        def turned(update, param, slow):
            return jnp.where(due, update - back * (param + update - slow), update)

        updates = jax.tree.map(turned, updates, params, state.slow)
        follow = lambda slow, param, update: jnp.where(due, param + update, slow)
        slow = jax.tree.map(follow, state.slow, params, updates)
        return updates, LookaheadState(fast, slow, jnp.where(due, 0, since))

    return wrapped("lookahead", inner, init, update)
