"""What generation computes once instead of for every token, and that it changes nothing."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.flops import primitives
from nnfunc.generation import loop
from nnfunc.generation.invariants import hoist

KEY = jax.random.key(0)


def small_gpt():
    return nf.gpt(11, block_size=12, layers=3, heads=2, dim=8)


MODELS = {
    "gpt": small_gpt,
    "llama": lambda: nf.llama(11, layers=3, heads=2, kv_heads=1, dim=8),
    "bfloat16": lambda: nf.precision(small_gpt()),
    "adapters": lambda: nf.lora(small_gpt(), small_gpt().init(KEY), rank=2),
    "lstm": lambda: nf.serial(nf.embedding(11, 4), nf.lstm(4, 8), nf.linear(8, 11)),
}


@pytest.mark.parametrize("name", MODELS)
def test_tokens_stay_the_same(name, monkeypatch):
    model, tokens = MODELS[name](), []
    params = model.init(KEY)
    prompt = np.array([[1, 2, 3], [4, 5, 6]], np.int32)
    for most in (0, 2**32):
        monkeypatch.setattr(loop, "HOISTED_BYTES", (0, most))
        loop._LOOPS.clear()
        state = model.init_state(KEY) or None
        tokens.append(nf.generate(model, params, prompt, 6, state=state, key=KEY, temperature=0.7).tokens)
    chex.assert_trees_all_equal(*tokens)


def step(params, x):
    """Two layers of weights that are stacked, joined and scaled for every x."""

    def layer(x, weights):
        joined = jnp.concatenate([weights["a"], weights["b"]], axis=1) * weights["scale"]
        return jnp.tanh(x @ joined), x.sum()

    return jax.lax.scan(layer, x, params)


def parameters():
    draw = np.random.default_rng(0)
    a, b = (draw.normal(size=(3, 64, 32)).astype(np.float32) for _ in range(2))
    return {"a": a, "b": b, "scale": np.arange(1.0, 4.0, dtype=np.float32)}


def test_what_depends_on_parameters_alone_is_computed_before():
    params, x = parameters(), jnp.ones((1, 64))
    run = hoist(step, params, x)
    chex.assert_trees_all_close(run(x), step(params, x), atol=1e-4)
    assert primitives(jax.make_jaxpr(step)(params, x)) >= {"scan", "concatenate"}
    left = primitives(jax.make_jaxpr(run)(x))
    assert "dot_general" in left
    assert not left & {"scan", "slice", "dynamic_slice", "mul"}


def test_results_that_would_be_large_stay_in_the_loop():
    grow = lambda params, x: x + jnp.broadcast_to(params, (2048, 8)).sum(0)
    run = hoist(grow, jnp.ones(8), jnp.ones(8))
    assert "broadcast_in_dim" in primitives(jax.make_jaxpr(run)(jnp.ones(8)))
    chex.assert_trees_all_close(run(jnp.ones(8)), jnp.full(8, 2049.0))


def test_loops_of_many_steps_are_not_written_out():
    params, x = jax.tree.map(lambda leaf: np.repeat(leaf, 30, 0), parameters()), jnp.ones((1, 64))
    assert "scan" in primitives(jax.make_jaxpr(hoist(step, params, x))(x))


def test_a_reversed_loop_keeps_its_order():
    def backward(params, x):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w["a"] @ w["b"].T), x), x, params, reverse=True)

    params, x = parameters(), jnp.ones((1, 64))
    chex.assert_trees_all_close(hoist(backward, params, x)(x), backward(params, x), atol=1e-4)
