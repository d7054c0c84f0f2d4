"""The compiled loop of `generate`, kept for each model."""

import inspect
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc.base import Array, Context, Key, Layer, Model, Params, PyTree, as_model, shape_struct, vmap_keys
from nnfunc.generation.model_probe import Facts, compare, look
from nnfunc.generation.sample_token import draw

__all__ = ["NONE", "Loop", "loop_of"]

NONE = -2  # the stop that never comes: no id, nor the -1 that `draw` gives where all is NaN

_LOOPS: weakref.WeakKeyDictionary[Any, "Loop"] = weakref.WeakKeyDictionary()


def loop_of(layer: Layer, model: Model) -> "Loop":
    """The loop of a layer, kept for as long as it lives: layers differ by identity.

    model: as_model(layer), which for a bare pair or a function is another one at each call; what
    lives then is the function that was given.
    """
    owner: Any = layer[1] if isinstance(layer, tuple) else layer
    pair = isinstance(layer, tuple)
    if not inspect.isfunction(owner):
        owner, pair = model.forward, None
    weak: Any = weakref.ref(owner)

    def forward() -> Callable[..., Any]:
        if pair is None:
            return weak()
        return as_model((lambda key: {}, weak()) if pair else weak()).forward

    if owner not in _LOOPS:
        _LOOPS[owner] = Loop(forward)
    return _LOOPS[owner]


class Walk(NamedTuple):
    """Where the rows stand. t: the position whose token comes next, the same for all rows."""

    t: Array
    tokens: Array  # [batch, time + steps]
    ends: Array  # [batch] where each row ends so far
    done: Array  # [batch]
    state: PyTree


class Loop:
    """What is kept of one model: its compiled loop, and what was found out about it.

    It holds the model weakly: a strong reference would keep the key of the cache alive.
    forward: a function that returns the model's forward while the model lives.
    """

    def __init__(self, forward: Callable[[], Any]):
        self.forward = forward
        self.known: dict[Any, Facts] = {}
        self.verified: set[Any] = set()
        fixed = ("steps", "first", "top_k", "block_size", "cached")
        self.run = jax.jit(partial(_run, forward), static_argnames=fixed)

    def facts(self, params: Params, state: PyTree) -> Facts:
        """The facts of the model for these shapes of params and state, cached."""
        leaves, treedef = jax.tree.flatten(jax.tree.map(shape_struct, (params, state)))
        key = (treedef, *((leaf.shape, leaf.dtype) for leaf in leaves))
        if key not in self.known:
            self.known[key] = look(self.forward(), params, state)
        return self.known[key]

    def verify(self, params: Params, state: PyTree, facts: Facts, size: int) -> None:
        """Run `compare` once for each pair of facts and size; params and state are those of the call."""
        if size > 1 and (facts, size) not in self.verified:
            compare(self.forward(), params, state, facts, size)
            self.verified.add((facts, size))


def _run(
    weak: Callable[[], Any],
    params: Params,
    state: PyTree,
    prompt: Array,
    given: Array,
    keys: Key | None,
    temperature: Array,
    top_p: Array | None,
    stop: Array,
    pad: Array,
    *,
    steps: int,
    first: int,
    top_k: int | None,
    block_size: int | None,
    cached: bool,
) -> tuple[Array, Array]:
    """Tokens [batch, time + steps] and the length of each row."""
    forward = weak()
    batch, width = prompt.shape
    total = width + steps
    window = min(block_size or total, total - 1)  # positions that the model sees; the last is not fed
    numbers = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    def choose(walk: Walk, logits: Array) -> Walk:
        """Token t of every row: its own while the prompt lasts, then one drawn from the logits."""
        t, tokens, ends, done, _ = walk
        if keys is None:
            drawn = draw(logits)
        else:
            one = lambda key, x: draw(x, jax.random.fold_in(key, t), **numbers)
            drawn = vmap_keys(one, keys, logits)
        own = jax.lax.dynamic_index_in_dim(tokens, t, axis=1, keepdims=False)
        inside = t < given
        new = ~inside & ~done
        token = jnp.where(inside, own, jnp.where(new, drawn, 0))
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, t, axis=1)
        ends = jnp.where(new, t + 1, ends)
        done = done | (new & ((drawn == stop) | (ends >= given + steps)))
        return walk._replace(t=t + 1, tokens=tokens, ends=ends, done=done)

    def cached_step(carry: tuple[Walk, Array]) -> tuple[Walk, Array]:
        """Choose, then feed what was chosen: the last token too, in vain.

        The other order would need the choice twice, before the loop and in it, and random draws are
        what compiles slowly.
        """
        walk = choose(*carry)
        x = jax.lax.dynamic_slice_in_dim(walk.tokens, walk.t - 1, 1, axis=1)
        y, out = forward(params, x, Context(state=walk.state, cache=window))
        return walk._replace(state=out.state), y[:, -1]

    def whole_step(walk: Walk) -> Walk:
        start = jnp.maximum(walk.t - window, 0)
        x = jax.lax.dynamic_slice_in_dim(walk.tokens, start, window, axis=1)
        y, _ = forward(params, x, Context(state=state))
        last = jnp.minimum(walk.t, window) - 1
        return choose(walk, jax.lax.dynamic_index_in_dim(y, last, axis=1, keepdims=False))

    def on(walk: Walk, end: int) -> Array:
        return (walk.t < end) & ~walk.done.all()

    tokens = jnp.zeros((batch, total), jnp.int32).at[:, :width].set(prompt)
    walk = Walk(jnp.int32(first), tokens, given, jnp.zeros(batch, bool), {})
    reach = window + 1 if cached and first <= window else 0  # tokens that come with the cache
    if reach:
        y, out = forward(params, prompt[:, :first], Context(state=state, cache=window))
        carry = walk._replace(state=out.state), y[:, -1]
        walk, _ = jax.lax.while_loop(lambda carry: on(carry[0], reach), cached_step, carry)
        walk = walk._replace(state={})
    if reach < total:
        walk = jax.lax.while_loop(lambda walk: on(walk, total), whole_step, walk)
    past = jnp.arange(total, dtype=jnp.int32)[None] >= walk.ends[:, None]
    return jnp.where(past, pad, walk.tokens), walk.ends
