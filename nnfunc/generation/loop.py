"""The compiled loop of `generate`, cached for each model."""

import inspect
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc import tuning
from nnfunc.base import Array, Context, Key, Layer, Model, Params, PyTree, as_model, shape_struct, vmap_keys
from nnfunc.device_memory import tree_bytes
from nnfunc.generation.invariants import hoist
from nnfunc.generation.model_probe import Facts, check_consistency, probe_model
from nnfunc.generation.sample_token import draw

HOISTED_STEPS, HOISTED_BYTES = 4, (2**20, 2**32)
"""From so many new tokens on, and for parameters of so many bytes, a CPU makes up for the copy that `hoist` makes."""

SMALL_PASS = 2**30
"""For at most so many bytes of parameters times tokens, a pass over the block takes a few milliseconds."""

NO_STOP = -2  # neither an id nor the -1 that `draw` returns for NaN

_LOOPS: weakref.WeakKeyDictionary[Any, "Loop"] = weakref.WeakKeyDictionary()


def get_loop(layer: Layer, model: Model) -> "Loop":
    """The loop of a layer, which is cached as long as the layer exists.

    layer: as the user passed it; layers are compared by identity.
    model: as_model(layer), which for a bare pair or a function is a new model at each call, so that the loop then
        belongs to the function.
    """
    function: Any = layer[1] if isinstance(layer, tuple) else layer
    is_pair = isinstance(layer, tuple)
    if not inspect.isfunction(function):
        function, is_pair = model.forward, None
    weak: Any = weakref.ref(function)

    def forward() -> Callable[..., Any]:
        if is_pair is None:
            return weak()
        return as_model((lambda key: {}, weak()) if is_pair else weak()).forward

    if function not in _LOOPS:
        _LOOPS[function] = Loop(forward)
    return _LOOPS[function]


def window_size(total: int, block_size: int | None) -> int:
    """How many positions the model gets; the last of `total` tokens is never an input. block_size: of `generate`."""
    return min(block_size or total, total - 1)


class DecodeCarry(NamedTuple):
    """The loop carry. t: the next position, the same for all rows. state: of the model."""

    t: Array
    tokens: Array  # [batch, time + steps]
    ends: Array  # [batch], the length of each row so far
    done: Array  # [batch]
    state: PyTree


class Loop:
    """The compiled loop of a model, and the facts about the model.

    It has a weak reference to the model, because a strong one would keep the key of the cache alive.
    forward: a function that returns the model's forward as long as the model exists.
    """

    def __init__(self, forward: Callable[[], Any]):
        self.forward = forward
        self.cached_facts: dict[Any, Facts] = {}
        self.verified: set[Any] = set()
        static = ("steps", "first", "top_k", "block_size", "cached")
        self.run = jax.jit(partial(_run, forward), static_argnames=static)

    def facts(self, params: Params, state: PyTree) -> Facts:
        """The facts about the model for the shapes of `params` and `state`, which are cached."""
        leaves, treedef = jax.tree.flatten(jax.tree.map(shape_struct, (params, state)))
        key = (treedef, *((leaf.shape, leaf.dtype) for leaf in leaves))
        if key not in self.cached_facts:
            self.cached_facts[key] = probe_model(self.forward(), params, state)
        return self.cached_facts[key]

    def verify(self, params: Params, state: PyTree, facts: Facts, size: int) -> None:
        """Call `check_consistency`, once for each pair of facts and size. params, state, facts, size: its arguments."""
        if size > 1 and (facts, size) not in self.verified:
            check_consistency(self.forward(), params, state, facts, size)
            self.verified.add((facts, size))


def uses_cache(facts: Facts, params: Params, rows: int, first: int, total: int, window: int) -> bool:
    """Whether the steps that can use the cache of the model do.

    They do not where most steps lie beyond the window and a pass over it is quick: compiling both forms takes
    longer than it gains.
    facts, params: of the model.
    rows: of tokens.
    first, total, window: of `_run`.
    """
    is_quick = tree_bytes(jax.tree.map(shape_struct, params)) * rows * window <= SMALL_PASS
    return facts.caches and not (is_quick and total - window - 1 > window + 1 - first)


def _run(
    get_forward: Callable[[], Any],
    params: Params,
    state: PyTree,
    prompt: Array,
    prompt_lengths: Array,
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
    """(tokens [batch, time + steps], the length of each row [batch]). first: the positions of the parallel pass."""
    forward = get_forward()
    batch, width = prompt.shape
    total = width + steps
    window = window_size(total, block_size)
    numbers = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    def choose(carry: DecodeCarry, logits: Array) -> DecodeCarry:
        """Set token t of every row: that of the prompt, or after it a sample."""
        t, tokens, ends, done, _ = carry
        if keys is None:
            samples = draw(logits)
        else:
            samples = vmap_keys(lambda key, x: draw(x, jax.random.fold_in(key, t), **numbers), keys, logits)
        prompt_token = jax.lax.dynamic_index_in_dim(tokens, t, axis=1, keepdims=False)
        in_prompt = t < prompt_lengths
        is_new = ~in_prompt & ~done
        token = jnp.where(in_prompt, prompt_token, jnp.where(is_new, samples, 0))
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, token, t, axis=1)
        ends = jnp.where(is_new, t + 1, ends)
        done = done | (is_new & ((samples == stop) | (ends >= prompt_lengths + steps)))
        return carry._replace(t=t + 1, tokens=tokens, ends=ends, done=done)

    def cached_step(carry_and_logits: tuple[DecodeCarry, Array]) -> tuple[DecodeCarry, Array]:
        """Choose a token, then call the model with it, which is not needed for the last token.

        In the other order the choice would be compiled twice, before the loop and in it, and random draws
        compile slowly.
        """
        carry = choose(*carry_and_logits)
        x = jax.lax.dynamic_slice_in_dim(carry.tokens, carry.t - 1, 1, axis=1)
        y, new = model_step(carry.state, x)
        return carry._replace(state=new), y[:, -1]

    def run_model(params: Params, state: PyTree, x: Array) -> tuple[Array, PyTree]:
        y, out = forward(params, x, Context(state=state, cache=window))
        return y, out.state

    def uncached_step(carry: DecodeCarry) -> DecodeCarry:
        start = jnp.maximum(carry.t - window, 0)
        x = jax.lax.dynamic_slice_in_dim(carry.tokens, start, window, axis=1)
        y, _ = forward(params, x, Context(state=state))
        last = jnp.minimum(carry.t, window) - 1
        return choose(carry, jax.lax.dynamic_index_in_dim(y, last, axis=1, keepdims=False))

    def continues(carry: DecodeCarry, end: int) -> Array:
        return (carry.t < end) & ~carry.done.all()

    tokens = jnp.zeros((batch, total), jnp.int32).at[:, :width].set(prompt)
    carry = DecodeCarry(jnp.int32(first), tokens, prompt_lengths, jnp.zeros(batch, bool), {})
    cached_end = window + 1 if cached and first <= window else 0  # later tokens cannot use the cache
    if cached_end:
        y, out = forward(params, prompt[:, :first], Context(state=state, cache=window))
        pair = carry._replace(state=out.state), y[:, -1]
        model_step = partial(run_model, params)
        least, most = HOISTED_BYTES
        if steps >= HOISTED_STEPS and tuning.platform() == "cpu" and least <= tree_bytes(params) <= most:
            model_step = hoist(run_model, params, out.state, prompt[:, :1])
        carry, _ = jax.lax.while_loop(lambda pair: continues(pair[0], cached_end), cached_step, pair)
        carry = carry._replace(state={})
    if cached_end < total:
        carry = jax.lax.while_loop(lambda carry: continues(carry, total), uncached_step, carry)
    is_past_end = jnp.arange(total, dtype=jnp.int32)[None] >= carry.ends[:, None]
    return jnp.where(is_past_end, pad, carry.tokens), carry.ends
