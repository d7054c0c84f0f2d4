"""Checks of the model for `generate`: of shapes, and once of values."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc import check, paths
from nnfunc.base import Context, Params, PyTree, shape_struct

TOLERANCE = 0.05  # of the largest logit: above the rounding of bfloat16, below the effect of a missing cache


class Facts(NamedTuple):
    """Facts about a model. vocab_size: the number of ids. caches: whether its state has a cache."""

    vocab_size: int
    caches: bool


def probe_model(forward: Callable[..., Any], params: Params, state: PyTree) -> Facts:
    """The facts about a model, from the shapes of two calls with one position each.

    forward: of the model.
    params, state: its parameters, and its state before the first token.
    Raises: ValueError when the output is not logits, or the state changes its structure.
    """
    x = jax.ShapeDtypeStruct((1, 1), jnp.int32)

    def call(params, state, x):
        return forward(params, x, Context(state=state, cache=1))

    y, out = jax.eval_shape(call, params, state, x)
    shape = getattr(y, "shape", ())
    floats = shape and jnp.issubdtype(y.dtype, jnp.floating)
    if not floats or len(shape) != 3 or shape[:2] != (1, 1):
        expected = "the model should give floats [batch, time, vocab_size] for ids [batch, time]"
        actual = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", y)
        check.fail("generate", expected=expected, actual=f"{actual} for ids [1, 1]")
    _, after = jax.eval_shape(call, params, out.state, x)
    before, now = (paths.flatten(jax.tree.map(shape_struct, tree)) for tree in (out.state, after.state))
    if before != now:
        path = next(path for path in {**before, **now} if before.get(path) != now.get(path))
        expected = f"the state at {path} should have the same shape and dtype after every call"
        check.fail("generate", expected=expected, actual=f"{before.get(path)}, then {now.get(path)}")
    fresh = paths.flatten(jax.tree.map(shape_struct, state))
    return Facts(shape[-1], bool(before) and before != fresh)


def check_consistency(forward: Callable[..., Any], params: Params, state: PyTree, facts: Facts, size: int) -> None:
    """Raise a ValueError if the logits of `size` tokens differ between single steps and one pass.

    forward, params, state: as for `probe_model`.
    facts: its result.
    """
    x = (jnp.arange(size, dtype=jnp.int32) % facts.vocab_size)[None]
    largest = partial(jnp.max, initial=0.0)

    @jax.jit
    def difference(params, state):
        whole, _ = forward(params, x, Context(state=state))
        steps, now = [], state
        for t in range(size if facts.caches else size - 1):  # without a cache the last would be the whole again
            if facts.caches:
                ctx = Context(state=now, cache=size)
                y, (now, _) = forward(params, x[:, t : t + 1], ctx)
            else:
                y, _ = forward(params, x[:, : t + 1], Context(state=state))
            steps.append(y[:, -1])
        return largest(jnp.abs(whole[:, : len(steps)] - jnp.stack(steps, axis=1))), largest(jnp.abs(whole))

    result = difference(params, state)
    if any(map(check.is_traced, result)):  # the model has traced numbers
        return
    gap, scale = jax.device_get(result)
    if not gap > TOLERANCE * scale:  # NaN is not checked here
        return
    if facts.caches:
        expected = "the model should give the same logits step by step, with its cache, as in one pass"
        hint = "Look for a layer that uses other positions, but has no cache in its state."
    else:
        expected = "the model should be causal: a later token should not change earlier logits"
        hint = "It may need causal=True. A model that is not a language model cannot generate."
    actual = f"a difference of {gap:.3g} for {size} tokens, where the largest logit is {scale:.3g}"
    check.fail("generate", expected=expected, actual=actual, hint=f"{hint} verify=False skips this check.")
