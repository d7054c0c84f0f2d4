"""What multiplies the rate stands inside of what limits or turns the weights, whatever asks for it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnfunc as nf

o = nf.optimizers
PARAMS = {"head": jnp.array([3.0, 3.0]), "body": jnp.array([[3.0], [3.0]])}
GRADS = {"head": jnp.array([-1.0, 1.0]), "body": jnp.array([[-0.5], [2.0]])}


def stepped(optimizer, params=PARAMS, count=6, **told):
    """The parameters after some steps, and the state."""

    def step(_, carry):
        params, state = carry
        updates, state = optimizer.update(GRADS, state, params, **told)
        return jax.tree.map(jnp.add, params, updates), state

    return jax.jit(lambda c: jax.lax.fori_loop(0, count, step, c))((params, optimizer.init(params)))


RULES = {
    "sgd": lambda rate: o.sgd(rate, momentum=0.5),
    "adamw": lambda rate: o.adamw(rate, weight_decay=0.1, decay_on="**"),
    "optax": lambda rate: o.as_optimizer(optax.sgd(rate, momentum=0.5)),
    "lookahead": lambda rate: o.lookahead(o.sgd(rate), 2),
    "max_norm": lambda rate: o.max_norm(o.sgd(rate), 1.0, on="**"),
    "both": lambda rate: o.max_norm(o.lookahead(o.clip_value(o.sgd(rate), 0.5), 2), 1.0, on="**"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_scale_of_the_rate_is_another_rate(name):
    expected, _ = stepped(RULES[name](0.03))
    by_extra, _ = stepped(RULES[name](0.3), rate_scale=jnp.asarray(0.1))
    by_groups, _ = stepped(o.groups(RULES[name](0.3), rates={"**": 0.1}))
    by_both, _ = stepped(o.groups(RULES[name](0.3), rates={"**": 0.2}), rate_scale=jnp.asarray(0.5))
    for got in (by_extra, by_groups, by_both):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, expected)


def test_max_norm_holds_within_groups():
    params, _ = stepped(o.groups(o.max_norm(o.sgd(0.3), 1.0, on="**"), rates={"head": 10.0}))
    assert float(jnp.linalg.norm(params["head"])) <= 1.0 + 1e-6


def test_slow_weights_wait_while_a_leaf_is_frozen():
    optimizer = o.groups(o.lookahead(o.sgd(1.0), 2), freeze={"head": 4})
    params, state = stepped(optimizer, count=4)
    np.testing.assert_array_equal(params["head"], PARAMS["head"])
    np.testing.assert_array_equal(state.inner.slow["head"], PARAMS["head"])
    moved, _ = stepped(optimizer, count=6)
    np.testing.assert_allclose(moved["head"], PARAMS["head"] - 0.5 * 2 * GRADS["head"])


@pytest.mark.parametrize("inner", ["lookahead", "max_norm"])
def test_the_plateau_of_a_task_scales_the_rate_within(inner):
    def build(rate, plateau=None):
        def of(h):
            task = nf.Task(nf.linear(2, 2), nf.regression(), RULES[inner](rate))
            return task._replace(plateau=plateau)

        return of

    batch = (np.array([[1.0, 2.0]], np.float32), np.array([[30.0, -30.0]], np.float32))
    low = nf.reduce_on_plateau(factor=0.1, patience=0, threshold=0.0)
    own, other = nf.trainer(build(0.1, low)), nf.trainer(build(0.01))
    state, expected = own.init({}, jax.random.key(0)), other.init({}, jax.random.key(0))
    for _ in range(2):  # the second one is no better
        state = own.observe({}, state, {"loss": 1.0})
    for _ in range(4):
        state, metrics = jax.jit(own.step)({}, state, batch)
        expected, _ = jax.jit(other.step)({}, expected, batch)
    assert float(metrics["learning_rate"]) == pytest.approx(0.01)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), state.params, expected.params)


def test_a_pattern_that_fits_nothing_is_not_laid_on_groups():
    with pytest.raises(ValueError, match="'nothing") as caught:
        stepped(o.groups(o.sgd(0.1), freeze=("nothing/**",)))
    assert "hides" not in str(caught.value)
    with pytest.raises(ValueError, match="'hed'") as caught:
        stepped(o.groups(o.sgd(0.1, weight_decay={"hed": 0.1}), freeze=("body",)))
    assert "hides" not in str(caught.value)
    with pytest.raises(nf.errors.PatternError, match="groups hides the leaves that it freezes") as error:
        stepped(o.groups(o.sgd(0.1, weight_decay={"body": 0.1}), freeze=("body",)))
    assert error.value.pattern == "body"
