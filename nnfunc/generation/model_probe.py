"""What `generate` finds out about a model: from its shapes, and once from its values."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc import check, paths
from nnfunc.base import Context, Params, PyTree, shape_struct

__all__ = ["Facts", "compare", "look"]

SLACK = 0.05  # of the largest logit: above the rounding of bfloat16, below what a lost cache does


class Facts(NamedTuple):
    """vocab_size: the number of ids. caches: whether the model's state holds the earlier positions."""

    vocab_size: int
    caches: bool


def look(forward: Callable[..., Any], params: Params, state: PyTree) -> Facts:
    """Follow the shapes of two calls, the first position and the second.

    forward: that of the model. params, state: its parameters and its state before the first token.
    """
    x = jax.ShapeDtypeStruct((1, 1), jnp.int32)

    def call(params, state, x):
        return forward(params, x, Context(state=state, cache=1))

    y, out = jax.eval_shape(call, params, state, x)
    shape = getattr(y, "shape", ())
    floats = shape and jnp.issubdtype(y.dtype, jnp.floating)
    if not floats or len(shape) != 3 or shape[:2] != (1, 1):
        wanted = "the model should give floats [batch, time, vocab_size] for ids [batch, time]"
        kinds = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", y)
        check.fail("generate", f"{wanted}, got {kinds} for ids [1, 1].")
    _, after = jax.eval_shape(call, params, out.state, x)
    before, now = (paths.flatten(jax.tree.map(shape_struct, tree)) for tree in (out.state, after.state))
    if before != now:
        path = next(path for path in {**before, **now} if before.get(path) != now.get(path))
        check.fail(
            "generate",
            expected=f"the state at {path} should keep its shape and type from call to call",
            actual=f"{before.get(path)}, then {now.get(path)}",
        )
    fresh = paths.flatten(jax.tree.map(shape_struct, state))
    return Facts(shape[-1], bool(before) and before != fresh)


def compare(forward: Callable[..., Any], params: Params, state: PyTree, facts: Facts, size: int) -> None:
    """Refuse a model that gives other logits step by step than in one pass over `size` tokens.

    forward, params, state: as in `look`. facts: its result.
    """
    x = (jnp.arange(size, dtype=jnp.int32) % facts.vocab_size)[None]
    largest = partial(jnp.max, initial=0.0)

    @jax.jit
    def gap(params, state):
        whole, _ = forward(params, x, Context(state=state))
        steps, now = [], state
        for t in range(size):
            if facts.caches:
                ctx = Context(state=now, cache=size)
                y, (now, _) = forward(params, x[:, t : t + 1], ctx)
            else:
                y, _ = forward(params, x[:, : t + 1], Context(state=state))
            steps.append(y[:, -1])
        apart = jnp.abs(whole - jnp.stack(steps, axis=1))
        return largest(apart), largest(jnp.abs(whole))

    found = gap(params, state)
    if any(map(check.is_traced, found)):  # the model itself was made of traced numbers
        return
    apart, scale = jax.device_get(found)
    if not apart > SLACK * scale:  # NaN is another's mistake
        return
    by = f"the logits of {size} tokens differ by {apart:.3g}, the largest being {scale:.3g}"
    if facts.caches:
        problem = "the model should give the same logits step by step, with its cache, as in one pass"
        cure = "Does a layer look back, or ahead, that keeps nothing in its state?"
    else:
        problem = "the model should not look ahead: a later token should change no logits before it"
        cure = "Does it need causal=True? A model that is no language model cannot generate."
    check.fail("generate", f"{problem}, but {by}. {cure} (verify=False leaves this out.)")
