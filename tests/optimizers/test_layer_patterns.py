"""Patterns with the number of a layer: of stacked parameters they do what they do where each layer has its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc import optimizers

BLOCK = nf.residual(nf.serial(up=nf.linear(4, 8), act=jnp.tanh, down=nf.linear(8, 4)))
STACKED = nf.serial(blocks=nf.repeat(BLOCK, 3), head=nf.linear(4, 2))
UNROLLED = nf.serial(blocks=nf.serial(**{str(i): BLOCK for i in range(3)}), head=nf.linear(4, 2))
BATCH = (jnp.sin(jnp.arange(20.0)).reshape(5, 4), jnp.arange(5) % 2)
KEY = jax.random.key(0)


def unstack(params):
    """The parameters of STACKED as those of UNROLLED."""
    layers = {str(i): jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]) for i in range(3)}
    return params | {"blocks": layers}


def train(model, params, make, steps=3, h=None):
    """The parameters after some steps, and the last metrics."""
    pair = nf.trainer(lambda h: nf.Task(model, nf.classification(), make(h)))
    state, metrics = pair.init(h, KEY, params=params), {}
    for _ in range(steps):
        state, metrics = jax.jit(pair.step)(h, state, BATCH)
    return state.params, metrics


CASES = {
    "rates": lambda h, stacked: optimizers.groups(optimizers.adamw(0.1), rates={"blocks/1/**": 0.1, "blocks/**": 0.5}),
    "some_rates": lambda h, stacked: optimizers.groups(
        optimizers.adamw(0.1), rates={"blocks/1/*/up/*": h, "**/weight": 2}
    ),
    "freeze": lambda h, stacked: optimizers.groups(optimizers.adamw(0.1, clip=0.1), freeze=("blocks/0/**", "head/*")),
    "freeze_later": lambda h, stacked: optimizers.groups(
        optimizers.sgd(0.1), freeze={"blocks/2/**": 2, "blocks/0/**": h}
    ),
    "decays": lambda h, stacked: optimizers.sgd(
        0.1, weight_decay={"blocks/1/**": h, "**/bias": 0.1, "blocks/2/**": 1.0}
    ),
    "decay_on": lambda h, stacked: optimizers.adamw(0.1, weight_decay=h, decay_on=("blocks/2/**", "head/weight")),
    "muon": lambda h, stacked: optimizers.muon(0.1, momentum=h, on=("blocks/1/**", "blocks/0/**/up/*")),
    "max_norm": lambda h, stacked: optimizers.max_norm(
        optimizers.sgd(0.1), h, on="blocks/1/**/weight", stacked=stacked
    ),
    "clip_adaptive": lambda h, stacked: optimizers.clip_adaptive(
        optimizers.sgd(9.0), 1e-2 * h, on="blocks/1/**/weight", stacked=stacked
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_stacked_layers_move_as_separate_layers_do(name):
    start, h = STACKED.init(KEY), jnp.asarray(0.5)
    expected, plain = train(UNROLLED, unstack(start), lambda h: CASES[name](h, ()), h=h)
    params, metrics = train(STACKED, start, lambda h: CASES[name](h, "blocks/**"), h=h)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    jax.tree.map(same, unstack(params), expected)
    same(metrics["gradient_norm"], plain["gradient_norm"])
    untouched, _ = train(STACKED, start, lambda h: optimizers.sgd(0.1), h=h)
    assert not np.allclose(untouched["blocks"]["body"]["up"]["weight"], params["blocks"]["body"]["up"]["weight"])


def test_a_frozen_layer_never_moves_and_the_others_do():
    start = STACKED.init(KEY)
    make = lambda h: optimizers.groups(optimizers.adamw(0.1, weight_decay=0.5, decay_on="**"), freeze=("blocks/0/**",))
    params, _ = train(STACKED, start, make)
    moved = jax.tree.map(lambda a, b: (a != b).reshape(len(a), -1).any(1).tolist(), params, start)
    assert jax.tree.leaves(moved["blocks"], is_leaf=lambda x: isinstance(x, list)) == [[False, True, True]] * 4
    frozen = lambda h: optimizers.groups(optimizers.sgd(0.1), freeze=("blocks/0/**", "blocks/1/**", "blocks/2/**"))
    params, _ = train(STACKED, start, frozen)
    jax.tree.map(np.testing.assert_array_equal, params["blocks"], start["blocks"])


def test_factors_of_a_layer_by_hand():
    ones = {"blocks": {"bias": jnp.ones((3, 2)), "weight": jnp.ones((3, 2, 2))}, "head": jnp.ones(2)}
    rates = {"blocks/1/**": 0.25, "**/bias": 3.0, "blocks/**": [0.5, 7.0, 2.0]}
    optimizer = optimizers.groups(optimizers.sgd(1.0), rates=rates)
    updates, _ = optimizer.update(ones, optimizer.init(ones), ones)
    np.testing.assert_array_equal(updates["blocks"]["bias"][:, 0], [-3.0, -0.25, -3.0])
    np.testing.assert_array_equal(updates["blocks"]["weight"][:, 1, 1], [-0.5, -0.25, -2.0])
    np.testing.assert_array_equal(updates["head"], [-1.0, -1.0])


def test_a_sweep_over_the_rate_of_a_layer():
    start = STACKED.init(KEY)
    make = lambda h: optimizers.groups(optimizers.sgd(0.1), rates={"blocks/1/**": h, "blocks/**": 2 * h})
    rates = jnp.array([0.0, 0.5])
    pair = nf.trainer(lambda h: nf.Task(STACKED, nf.classification(), make(h)))
    states = jax.vmap(lambda h: pair.init(h, KEY, params=start))(rates)
    states, _ = jax.jit(jax.vmap(pair.step, (0, 0, None)))(rates, states, BATCH)
    for i, rate in enumerate(rates):
        alone, _ = train(STACKED, start, make, steps=1, h=rate)
        one = jax.tree.map(lambda leaf, i=i: leaf[i], states.params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), one, alone)


def take_step(optimizer, params):
    return optimizer.update(params, optimizer.init(params), params)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: optimizers.groups(optimizers.sgd(0.1), freeze=("blocks/3/**",)),
            r"groups: freeze: the pattern 'blocks/3/\*\*' should match a layer, got none: 'blocks' has 3 layers, 0 to 2",
        ),
        (
            lambda: optimizers.groups(optimizers.sgd(0.1), rates={"blocks/1/**": 1.0, "blocks/1/**/bias": 2.0}),
            r"'blocks/1/\*\*/bias' should decide at least one leaf, got none: 'blocks/1/\*\*', which is before it",
        ),
        (lambda: optimizers.lamb(0.1, stacked="blocks/1/**"), "lamb: stacked: patterns should match whole leaves here"),
    ],
)
def test_layers_that_cannot_be_meant_are_refused(make, message):
    params = STACKED.init(KEY)
    with pytest.raises(ValueError, match=message):
        take_step(make(), params)


def test_gradients_of_a_frozen_layer_are_not_in_the_norm():
    params = {"blocks": {"bias": jnp.ones((2, 1)), "weight": jnp.ones((2, 1, 1))}}
    grads = jax.tree.map(lambda leaf: leaf * jnp.array([1e6, 3.0]).reshape(2, *[1] * (leaf.ndim - 1)), params)
    optimizer = optimizers.groups(optimizers.sgd(1.0, clip=1e3), freeze=("blocks/0/**",))
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_array_equal(updates["blocks"]["bias"][:, 0], [0.0, -3.0])


@pytest.mark.parametrize(
    "make",
    [
        lambda bad: optimizers.sgd(0.1, weight_decay=0.1, decay_on=bad),
        lambda bad: optimizers.adamw(0.1, weight_decay={bad: 0.1}),
        lambda bad: optimizers.lamb(0.1, stacked=bad),
        lambda bad: optimizers.muon(0.1, stacked=bad),
        lambda bad: optimizers.clip_adaptive(optimizers.sgd(0.1), on=bad),
        lambda bad: optimizers.clip_adaptive(optimizers.sgd(0.1), stacked=bad),
        lambda bad: optimizers.max_norm(optimizers.sgd(0.1), 1.0, on=bad),
        lambda bad: optimizers.groups(optimizers.sgd(0.1), rates={bad: 0.1}),
        lambda bad: optimizers.lookahead(optimizers.adamw(0.1, decay_on=bad)),
    ],
)
def test_a_pattern_that_matches_nothing_fails_at_init(make):
    with pytest.raises(ValueError, match=r"the pattern 'block/\*\*' should match at least one path, got none"):
        make("block/**").init(STACKED.init(KEY))
