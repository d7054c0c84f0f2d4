"""Models and training steps inside `jax.shard_map` with its default checks, on two simulated devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import nnfunc as nf

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (4, 5, 3))
BATCH = (X[:, 0], X[:, 1, :2])
MODELS = {
    "rnn": lambda: nf.rnn(3, 4),
    "gru": lambda: nf.gru(3, 4, layers=2),
    "lstm": lambda: nf.lstm(3, 4, bidirectional=True),
    "repeat": lambda: nf.repeat(nf.residual(nf.linear(3, 3)), 2),
    "ensemble": lambda: nf.serial(nf.ensemble(nf.linear(3, 3), 2), lambda y: jnp.moveaxis(y, 0, 1)),
    "conv": lambda: nf.serial(lambda x: x[:, :, None], nf.conv(3, 4, (3, 1))),
    "conv_transpose": lambda: nf.serial(lambda x: x[:, :, None], nf.conv_transpose(3, 4, (3, 1))),
    "depthwise_conv": lambda: nf.serial(lambda x: x[:, :, None], nf.depthwise_conv(3, 3)),
}


def sharded(function, in_specs, out_specs):
    return jax.jit(
        jax.shard_map(function, mesh=Mesh(np.array(jax.devices()[:2]), ("d",)), in_specs=in_specs, out_specs=out_specs)
    )


@pytest.mark.parametrize("name", MODELS)
def test_models_and_gradients(name):
    model = MODELS[name]()
    params = model.init(KEY)

    def loss(params, x):
        return (model.apply(params, x) ** 2).sum()

    y = sharded(model.apply, (P(), P("d")), P("d"))(params, X)
    np.testing.assert_allclose(y, model.apply(params, X), rtol=1e-5, atol=1e-6)
    grads = sharded(jax.grad(loss), (P(), P("d")), P())(params, X)  # those of shared parameters are summed
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, jax.grad(loss)(params, X))


@pytest.mark.parametrize("cell", [nf.rnn_cell, nf.gru_cell, nf.lstm_cell])
def test_a_cell_in_a_scan_of_your_own(cell):
    model = cell(3, 4)
    params = model.init(KEY)

    def run(x):
        carry = nf.initial_carry(model, params, x[:, 0])
        return jax.lax.scan(lambda carry, x: model.apply(params, (carry, x)), carry, x.swapaxes(0, 1))[1]

    np.testing.assert_allclose(sharded(run, P("d"), P(None, "d"))(X), run(X), rtol=1e-5, atol=1e-6)


def test_data_by_hand_and_the_model_by_the_compiler():
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    init, step = nf.trainer(lambda h: nf.Task(nf.mlp([3, 4, 2]), nf.regression(), nf.optimizers.sgd(h)))

    def loss(batch):
        return step(0.1, init(0.1, KEY), batch)[1]["loss"]

    mean = jax.shard_map(
        lambda batch: jax.lax.pmean(loss(batch), "data"),
        mesh=mesh,
        in_specs=P("data"),
        out_specs=P(),
        axis_names={"data"},
    )
    np.testing.assert_allclose(jax.jit(mean)(BATCH), loss(BATCH), rtol=1e-5)


def build(mean, accumulate=1):
    def objective(predict, batch):
        x, y = batch
        return mean(jnp.mean((predict(x) - y) ** 2)), {}

    def made(h):
        model = nf.serial(nf.linear(3, 4), jnp.tanh, nf.linear(4, 2))
        return nf.Task(model, objective, nf.optimizers.adamw(h["learning_rate"]), accumulate=accumulate)

    return made


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_of_the_trainer_is_that_of_the_whole_batch(accumulate):
    hypers = {"learning_rate": 0.1}
    whole = nf.trainer(build(lambda loss: loss, accumulate))
    parts = nf.trainer(build(lambda loss: jax.lax.pmean(loss, "d"), accumulate))
    state = whole.init(hypers, KEY)
    expected, metrics = whole.step(hypers, state, BATCH)
    step = sharded(lambda state, batch: parts.step(hypers, state, batch), (P(), P("d")), P())
    actual, sharded_metrics = step(state, BATCH)
    if accumulate == 1:
        assert float(sharded_metrics["loss"]) == pytest.approx(float(metrics["loss"]), rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), actual.params, expected.params)
    assert int(actual.step) == 1
    assert int(actual.diverged_at) == -1


def test_batch_norm_keeps_one_state_for_all_devices():
    hypers = {"learning_rate": 0.1}

    def build(h):
        def objective(predict, batch):
            return jax.lax.pmean(jnp.mean((predict(batch[0]) - batch[1]) ** 2), "d"), {}

        model = nf.serial(nf.linear(3, 4), nf.batch_norm(4), nf.linear(4, 2))
        return nf.Task(model, objective, nf.optimizers.sgd(h["learning_rate"]))

    pair = nf.trainer(build)
    state = pair.init(hypers, KEY)
    after = sharded(lambda state, batch: pair.step(hypers, state, batch)[0], (P(), P("d")), P())(state, BATCH)
    hidden = nf.linear(3, 4).apply(state.params["linear"], BATCH[0])
    halves = hidden.reshape(2, 2, 4)  # the statistics of each device, then their mean
    expected = 0.1 * halves.mean(1).mean(0)
    np.testing.assert_allclose(after.model_state["batch_norm"]["mean"], expected, rtol=1e-4, atol=1e-6)


def test_all_devices_skip_a_step_that_is_not_finite_on_one():
    hypers = {"learning_rate": 0.1}
    pair = nf.trainer(build(lambda loss: loss))
    state = pair.init(hypers, KEY)
    batch = (BATCH[0].at[0, 0].set(jnp.inf), BATCH[1])  # of the first device alone
    step = sharded(lambda state, batch: pair.step(hypers, state, batch)[0], (P(), P("d")), P())
    after = step(state, batch)
    assert int(after.diverged_at) == 0
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
