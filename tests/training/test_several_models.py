"""Tasks of several models: one objective for all, or objectives that take turns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnfunc as nf
from nnfunc.base import fold


def encode_loss(predict, batch):
    code = predict.encoder(batch)
    return jnp.mean((predict["decoder"](code) - batch) ** 2), {"size": jnp.abs(code).mean()}


def decode_loss(predict, batch, key):
    code = predict.encoder(batch) + 0.1 * jax.random.normal(key, (len(batch), 2))
    return jnp.mean(jnp.abs(predict.decoder(code) - batch)), {}


def models():
    # without a bias before batch norm, whose gradient would be rounding alone
    return {
        "encoder": nf.linear(3, 2, bias=False),
        "decoder": nf.serial(nf.linear(2, 4), nf.batch_norm(4), nf.linear(4, 3)),
    }


def build(h):
    rates = {"encoder": nf.optimizers.adam(h["encoder"]), "decoder": nf.optimizers.sgd(h["decoder"])}
    return nf.Task(models(), {"encoder": encode_loss, "decoder": decode_loss}, rates)


HYPERS = {"encoder": 0.01, "decoder": 0.1}


def noise(seed=0, n=8):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, 3)), jnp.float32)


def test_alternating_step_equals_two_steps_by_hand(key):
    init, step = nf.trainer(build)
    state, batch = init(HYPERS, key), noise()
    new, metrics = jax.jit(step)(HYPERS, state, batch)

    parts = {name: nf.as_model(model) for name, model in models().items()}
    step_key = jax.random.fold_in(key, 0)

    def loss_of(name, part, params, model_state):
        draw = fold(fold(step_key, name), "objective")

        def loss(part):
            whole = params | {name: part}
            code = parts["encoder"].apply(whole["encoder"], batch)
            if name == "decoder":
                code = code + 0.1 * jax.random.normal(draw, (8, 2))
            y, new_state = parts["decoder"].apply_train(whole["decoder"], model_state, code)
            error = y - batch
            return (jnp.mean(error**2) if name == "encoder" else jnp.mean(jnp.abs(error))), new_state

        return jax.value_and_grad(loss, has_aux=True)(part)

    params, model_state = dict(state.params), state.model_state["decoder"]
    for name, optimizer in {"encoder": optax.adam(0.01), "decoder": optax.sgd(0.1)}.items():
        (loss, model_state), grads = loss_of(name, params[name], params, model_state)
        with jax.numpy_dtype_promotion("standard"):
            updates, _ = optimizer.update(grads, optimizer.init(params[name]), params[name])
        params[name] = optax.apply_updates(params[name], updates)
        np.testing.assert_allclose(metrics[f"{name}_loss"], loss, rtol=1e-5)
    for actual, expected in zip(jax.tree.leaves(new.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(actual, expected, atol=2e-5)
    np.testing.assert_allclose(
        new.model_state["decoder"]["batch_norm"]["mean"], model_state["batch_norm"]["mean"], rtol=1e-5
    )
    np.testing.assert_allclose(metrics["loss"], metrics["encoder_loss"] + metrics["decoder_loss"], rtol=1e-6)
    assert {"encoder_learning_rate", "decoder_gradient_norm", "encoder_size", "gradient_norm"} <= set(metrics)


def test_one_objective_with_an_optimizer_each_leaves_the_others(key):
    build = lambda h: nf.Task(models(), encode_loss, {"encoder": nf.optimizers.adam(h["rate"])})
    init, step = nf.trainer(build)
    state = init({"rate": 0.1}, key)
    new, metrics = jax.jit(step)({"rate": 0.1}, state, noise())
    np.testing.assert_array_equal(
        new.params["decoder"]["linear"]["weight"], state.params["decoder"]["linear"]["weight"]
    )
    assert not np.array_equal(new.params["encoder"]["weight"], state.params["encoder"]["weight"])
    np.testing.assert_allclose(metrics["encoder_learning_rate"], 0.1)


def test_train_resume_evaluate_and_sweep(key, tmp_path):
    data = nf.data.arrays(noise(0, 16), batch_size=8, validation=noise(1))
    whole, history = nf.train(build, HYPERS, data, steps=6, key=key)
    nf.train(build, HYPERS, data, steps=3, key=key, folder=tmp_path)
    resumed, _ = nf.train(build, HYPERS, data, steps=6, key=key, folder=tmp_path, resume=True)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(resumed.params), strict=True):
        np.testing.assert_array_equal(a, b)
    metrics = nf.evaluate(build(HYPERS), whole, noise(1))
    np.testing.assert_allclose(metrics["decoder_loss"], history.validation["decoder_loss"][-1], rtol=1e-6)
    result = nf.sweep(build, {"encoder": [0.01, 0.02], "decoder": 0.1}, data, steps=6, method="grid", key=key)
    assert "validation/loss" in repr(result)
    assert "train/" not in repr(result)
    assert "<table>" in result._repr_html_()
    assert len(result.scores) == 2
    assert np.isfinite(result.scores).all()


def test_a_step_that_is_not_finite_changes_no_model(key):
    def infinite(predict, batch, key):
        return decode_loss(predict, batch, key)[0] / 0, {}

    build = lambda h: nf.Task(models(), {"encoder": encode_loss, "decoder": infinite}, nf.optimizers.adam(h["rate"]))
    init, step = nf.trainer(build)
    state = init({"rate": 0.1}, key)
    new, _ = jax.jit(step)({"rate": 0.1}, state, noise())
    assert int(new.diverged_at) == 0
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(new.params), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "task, message",
    [
        (lambda: nf.Task(models(), {"coder": encode_loss}, nf.optimizers.sgd(0.1)), "did you mean 'encoder'"),
        (lambda: nf.Task(models(), encode_loss, {"head": nf.optimizers.sgd(0.1)}), "names of models, got 'head'"),
        (
            lambda: nf.Task(models(), {"encoder": encode_loss}, {"decoder": nf.optimizers.sgd(0.1)}),
            "should have one for the model 'encoder'",
        ),
        (lambda: nf.Task(nf.linear(3, 3), {"a": encode_loss}, nf.optimizers.sgd(0.1)), "only where model is one too"),
        (lambda: nf.Task({}, encode_loss, nf.optimizers.sgd(0.1)), "at least one model"),
        (
            lambda: nf.Task({"a": jax.nn.relu}, {"a": lambda p, b: (p.a(b).mean(), {})}, nf.optimizers.sgd(0.1)),
            "the model 'a' has an objective, and no parameters",
        ),
        (lambda: nf.Task({"params": nf.linear(3, 3)}, encode_loss, nf.optimizers.sgd(0.1)), "name of an attribute"),
        (
            lambda: nf.Task({"a": nf.linear(3, 3)}, {"a": lambda p, b: p.a(b).mean()}, nf.optimizers.sgd(0.1)),
            r"should return \(loss, metrics\)",
        ),
        (lambda: nf.Task({"a": 3}, encode_loss, nf.optimizers.sgd(0.1)), "model 'a'"),
        (
            lambda: nf.Task(models(), lambda predict, batch: (predict(batch).mean(), {}), nf.optimizers.sgd(0.1)),
            r"several models. Call one of them: predict.encoder\(x\)",
        ),
        (
            lambda: nf.Task(
                models(), lambda predict, batch: (predict.encode(batch).mean(), {}), nf.optimizers.sgd(0.1)
            ),
            "predict: no model is called 'encode'",
        ),
    ],
)
def test_mistakes_are_named(task, message, key):
    with pytest.raises((ValueError, TypeError, AttributeError), match=message):
        nf.train(lambda h: task(), {}, nf.data.arrays(noise(), batch_size=8), steps=1, key=key)


def twice(h):
    return nf.Task({"a": nf.linear(3, 3)}, {"a": loss_times}, nf.optimizers.sgd(0.1))


SCALE = 1.0


def loss_times(predict, batch):
    return SCALE * jnp.mean(predict.a(batch) ** 2) + 0 * predict.a.params["weight"].sum(), {}


def test_an_evaluation_sees_what_an_objective_reads(key, monkeypatch):
    params = {"a": nf.linear(3, 3).init(key)}
    before = nf.evaluate(twice({}), params, noise())["loss"]
    monkeypatch.setitem(globals(), "SCALE", 5.0)
    np.testing.assert_allclose(nf.evaluate(twice({}), params, noise())["loss"], 5 * before, rtol=1e-6)


def one_step(task, key):
    init, step = nf.trainer(lambda h: task)
    return jax.jit(step)({}, init({}, key), noise())[0]


def test_models_without_parameters_and_with_frozen_layers(key):
    deep = nf.serial(blocks=nf.repeat(nf.linear(3, 3), 2))
    objective = lambda predict, batch: (jnp.mean(predict.a(predict.features(batch)) ** 2), {})
    frozen = nf.optimizers.groups(nf.optimizers.sgd(0.1), freeze=("blocks/1/**",))
    for optimizer in (frozen, optax.polyak_sgd()):
        state = one_step(nf.Task({"a": deep, "features": jax.nn.relu}, objective, {"a": optimizer}), key)
        weight = state.params["a"]["blocks"]["weight"]
        start = nf.trainer(lambda h: nf.Task({"a": deep}, objective, nf.optimizers.sgd(0.1))).init({}, key)
        before = start.params["a"]["blocks"]["weight"]
        assert (weight[0] != before[0]).any()
        assert (weight[1] == before[1]).all() == (optimizer is frozen)


def test_doctor_says_that_it_looks_at_one_model(key):
    from nnfunc.debug import doctor

    with pytest.raises(ValueError, match=r"looks at one model, and the task has \['encoder', 'decoder'\]"):
        doctor(build, HYPERS, nf.data.arrays(noise(), batch_size=8), key=key)


def test_draws_average_an_objective_with_a_key(key):
    task = build(HYPERS)
    state = nf.trainer(build).init(HYPERS, key)
    one = nf.evaluate(task, state, noise())
    many = nf.evaluate(task, state, noise(), draws=8)
    more = nf.evaluate(task, state, noise(), draws=8)
    assert many == more
    assert many["decoder_loss"] != one["decoder_loss"]
    np.testing.assert_allclose(many["encoder_loss"], one["encoder_loss"], rtol=1e-5)
    draw = jax.jit(lambda k: decode_loss(lambda_predict(task, state), noise(), k)[0])
    draws = [jax.random.fold_in(jax.random.key(0), i) for i in range(8)]
    keys = [fold(fold(fold(one, "objective"), "decoder"), "objective") for one in draws]
    np.testing.assert_allclose(many["decoder_loss"], np.mean([draw(k) for k in keys]), rtol=1e-5)
    with pytest.raises(ValueError, match="draws should be 1"):
        nf.evaluate(
            nf.Task(nf.linear(3, 3), nf.regression(), None), nf.linear(3, 3).init(key), (noise(), noise()), draws=2
        )


def lambda_predict(task, state):
    class Predict:
        def encoder(self, x):
            return nf.linear(3, 2, bias=False).apply(state.params["encoder"], x)

        def decoder(self, x):
            return models()["decoder"].apply(state.params["decoder"], x, state=state.model_state["decoder"])

    return Predict()


@pytest.mark.parametrize(
    "rates, phase, layer",
    [
        ({"encoder": 1e22, "decoder": 0.1}, "forward", "layer encoder, in the turn of the model 'decoder'"),
        ({"encoder": 3e38, "decoder": 0.1}, "update", "the update: .*in the turn of the model 'encoder'"),
    ],
)
def test_divergence_names_the_turn(key, rates, phase, layer):
    """The decoder fails at the parameters that the encoder's turn has just made; at the old ones all is finite."""
    optimizers = lambda h: {name: nf.optimizers.sgd(rate) for name, rate in h.items()}
    task = lambda h: nf.Task(models(), {"encoder": encode_loss, "decoder": decode_loss}, optimizers(h))
    data = nf.data.arrays(1e9 * noise(), batch_size=8)
    with pytest.raises(nf.training.Diverged, match=layer) as caught:
        nf.train(task, rates, data, steps=2, key=key)
    assert caught.value.fault.phase == phase
