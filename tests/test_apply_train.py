"""`apply_train`, the training mode for loops by hand: it gives what the trainer gives, for every model."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import roster
from helpers.quick_keys import quick_key

import nnfunc as nf
from nnfunc.base import fold
from nnfunc.testing import comparing

KEY = quick_key(7)
MODEL = nf.serial(
    up=nf.linear(6, 8), norm=nf.batch_norm(8), act=jax.nn.relu, drop=nf.dropout(0.3), head=nf.linear(8, 3)
)


def batches(steps):
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(16, 6)).astype(np.float32), rng.integers(0, 3, 16, np.int32)) for _ in range(steps)]


def train_by_hand(optimizer, steps):
    params, state = MODEL.init(fold(KEY, "init")), MODEL.init_state()
    opt_state = optimizer.init(params)

    def loss_of(params, state, x, labels, key):
        logits, state = MODEL.apply_train(params, state, x, key=key)
        return nf.losses.cross_entropy(logits, labels).mean(), state

    @jax.jit
    def step(params, state, opt_state, x, labels, key):
        (loss, state), grads = jax.value_and_grad(loss_of, has_aux=True)(params, state, x, labels, key)
        with jax.numpy_dtype_promotion("standard"):  # optax does not run under "strict"
            updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), state, opt_state, loss

    losses = []
    for t, (x, labels) in enumerate(batches(steps)):
        params, state, opt_state, loss = step(params, state, opt_state, x, labels, jax.random.fold_in(KEY, t))
        losses.append(loss)
    return params, state, jnp.stack(losses)


def train_by_trainer(optimizer, steps):
    init, step = nf.trainer(lambda hypers: nf.Task(MODEL, nf.classification(), optimizer))
    state, losses = init({}, KEY), []
    for batch in batches(steps):
        state, metrics = jax.jit(step)({}, state, batch)
        losses.append(metrics["loss"])
    return state.params, state.model_state, jnp.stack(losses)


def test_loop_by_hand_gives_what_the_trainer_gives():
    by_hand, by_trainer = (train(optax.adam(1e-2), 5) for train in (train_by_hand, train_by_trainer))
    comparing.near("apply_train", "a loop by hand against nf.trainer", by_hand, by_trainer, 1e-6)
    assert not jnp.allclose(by_hand[1]["norm"]["mean"], 0)  # the statistics moved


@pytest.mark.parametrize("name", roster.MODELS)
def test_every_model_returns_y_and_its_new_state(name):
    row, factory = roster.MODELS[name], roster.factory(name)
    numbers = {number: values[0] for number, values in row.numbers.items()}
    model = nf.as_model(factory) if name == "flatten" else nf.as_model(factory(*row.args, **row.kwargs, **numbers))
    params, state = jax.eval_shape(model.init, KEY), model.init_state(KEY)
    y, new = jax.eval_shape(partial(model.apply_train, key=KEY), params, state, row.x)
    assert comparing.leaf_types(new) == comparing.leaf_types(jax.eval_shape(lambda: state))
    if not jax.tree.leaves(state):
        assert new == {}
    assert comparing.leaf_types(y) == comparing.leaf_types(
        jax.eval_shape(partial(model.apply, key=KEY, state=state), params, row.x)
    )


def test_without_a_key_statistics_are_still_updated():
    params, state = MODEL.init(KEY), MODEL.init_state()
    x = batches(1)[0][0]
    (y, new), (again, _) = (MODEL.apply_train(params, state, x) for _ in range(2))
    np.testing.assert_array_equal(y, again)
    assert (new["norm"]["mean"] != 0).any()


def test_new_state_keeps_the_dtype_of_the_old():
    norm = nf.batch_norm(3)
    state = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), norm.init_state())
    with jax.numpy_dtype_promotion("standard"):
        _, new = norm.apply_train(norm.init(KEY), state, jnp.ones((4, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(jnp.bfloat16)}


def test_numpy_arrays_of_64_bits_are_taken_as_in_apply():
    linear = nf.linear(6, 2)
    params, x = linear.init(KEY), np.ones((4, 6))
    np.testing.assert_array_equal(linear.apply_train(params, {}, x)[0], linear.apply(params, x))


def noise():
    def forward(params, x, ctx):
        return x + jax.random.normal(ctx.require_key("noise"), x.shape), nf.Out(ctx.state)

    return nf.Model(lambda key: {}, forward=forward)


def test_a_layer_that_needs_a_key_says_how_to_give_one():
    with pytest.raises(nf.errors.MissingKeyError, match=r"apply_train\(params, state, x, key=key\)"):
        noise().apply_train({}, {}, jnp.ones(3))


@pytest.mark.parametrize("state", [None, {}, jnp.ones((4, 3)), {"mean": jnp.zeros(4), "var": jnp.ones(4)}])
def test_a_state_that_is_not_the_models_is_refused(state):
    norm = nf.batch_norm(3)
    with pytest.raises(nf.errors.InvalidValueError, match=r"batch_norm.apply_train: state .*model.init_state\(\)"):
        norm.apply_train(norm.init(KEY), state, jnp.ones((4, 3)))


def test_state_of_another_shape_is_refused_before_arithmetic():
    def forward(params, x, ctx):
        return x, nf.Out({"n": jnp.zeros(3)})

    layer = nf.Model(lambda key: {}, forward=forward, init_state=lambda: {"n": jnp.zeros(2)})
    with pytest.raises(nf.errors.InvalidValueError, match="new state should have the shapes of its init_state"):
        layer.apply_train({}, layer.init_state(), jnp.ones(3))


def test_apply_of_a_model_with_state_asks_for_it():
    params = MODEL.init(KEY)
    for call in (MODEL.apply, nf.capture(MODEL, "norm")):
        with pytest.raises(nf.errors.InvalidValueError, match=r"state= should be given.*model.init_state\(\)"):
            call(params, jnp.ones((4, 6)))
    MODEL.apply(params, jnp.ones((4, 6)), state=MODEL.init_state())
