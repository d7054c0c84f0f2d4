"""The objectives given: which examples count in a mean and how much, in training and evaluation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.base import fold
from nnfunc.training.evaluate import batch_totals
from nnfunc.training.objectives import Objective

LOGITS = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 2, 1, 2, 0], np.int32)
WEIGHTS = [0.5, 2.0, 3.0]
SAME = nf.Model(lambda key: {"w": jnp.ones(())}, lambda params, x: params["w"] * x)


def identity(x):
    return x


def nats(logits, labels):
    return -np.asarray(jax.nn.log_softmax(logits))[np.arange(len(labels)), labels]


def test_weighted_loss_is_divided_by_the_summed_weights():
    """torch.nn.functional.cross_entropy(weight=..., reduction="mean")."""
    w = np.array(WEIGHTS)[LABELS]
    expected = (w * nats(LOGITS, LABELS)).sum() / w.sum()
    loss, _ = nf.classification(weight=WEIGHTS)(identity, (LOGITS, LABELS))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    twice, _ = nf.classification(weight=2 * jnp.array(WEIGHTS))(identity, (LOGITS, LABELS))
    np.testing.assert_allclose(twice, expected, rtol=1e-6)
    soft = jax.nn.one_hot(LABELS, 3)
    loss, _ = nf.classification(weight=WEIGHTS)(identity, (LOGITS, soft))
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    p = np.exp(-nats(LOGITS, LABELS))
    focal, _ = nf.classification(gamma=2.0, weight=WEIGHTS)(identity, (LOGITS, LABELS))
    np.testing.assert_allclose(focal, (w * (1 - p) ** 2 * -np.log(p)).sum() / w.sum(), rtol=1e-5)


def test_weights_may_be_traced_and_are_at_least_0():
    def loss(weight):
        return nf.classification(weight=[weight, 1.0, 1.0])(identity, (LOGITS, LABELS))[0]

    swept = jax.vmap(loss)(jnp.array([0.0, 2.0]))
    np.testing.assert_allclose(swept, [loss(0.0), loss(2.0)], rtol=1e-6)
    low, high = loss(2.0 - 1e-2), loss(2.0 + 1e-2)
    np.testing.assert_allclose(jax.grad(loss)(2.0), (high - low) / 2e-2, rtol=1e-2)
    for weights in ([1.0, -1.0], np.array([1.0, -1.0]), jnp.array([1.0, -1.0]), [1.0, np.nan]):
        with pytest.raises(ValueError, match=r"weight should be finite and at least 0, got (-1|n)"):
            nf.classification(weight=weights)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
@pytest.mark.parametrize(
    "objective", [nf.classification(weight=WEIGHTS), nf.classification(ignore_index=2, weight=WEIGHTS)]
)
def test_an_evaluation_is_one_mean_over_the_whole_split(objective, batch_size):
    task = nf.Task(SAME, objective, nf.optimizers.sgd(0.1))
    whole, metrics = objective(identity, (LOGITS, LABELS))
    found = nf.evaluate(task, {"w": jnp.ones(())}, (LOGITS, LABELS), batch_size=batch_size)
    np.testing.assert_allclose(found["loss"], whole, rtol=1e-6)
    np.testing.assert_allclose(found["accuracy"], metrics["accuracy"], rtol=1e-6)


def test_ignored_tokens_count_in_nothing():
    logits, tokens = jnp.asarray(LOGITS).reshape(1, 7, 3), LABELS.reshape(1, 7)
    for ignore, following in ((2, tokens), (-100, np.where(tokens == 2, -100, tokens))):
        objective = nf.language_modelling(ignore_index=ignore)
        hidden = jnp.where((tokens == 2)[..., None], jnp.nan, logits)  # what it holds there is no matter
        (loss, metrics), slope = jax.value_and_grad(
            lambda x, objective=objective, y=following: objective(identity, (x, y)), has_aux=True
        )(hidden)
        kept = LABELS != 2
        np.testing.assert_allclose(loss, nats(LOGITS, LABELS)[kept].mean(), rtol=1e-6)
        hit = (LOGITS.argmax(-1) == LABELS)[kept]
        np.testing.assert_allclose(metrics["accuracy"], hit.mean(), rtol=1e-6)
        np.testing.assert_array_equal(slope[0][~kept], 0)
        assert np.isfinite(slope).all()


def test_a_batch_of_ignored_labels_has_loss_0_and_no_gradient():
    nothing = np.full(7, -100)
    for objective in (
        nf.classification(ignore_index=-100),
        nf.language_modelling(ignore_index=-100),
        nf.classification(ignore_index=-100, weight=WEIGHTS, gamma=1.0),
    ):
        (loss, metrics), slope = jax.value_and_grad(lambda x, o=objective: o(identity, (x, nothing)), has_aux=True)(
            jnp.asarray(LOGITS)
        )
        assert (float(loss), float(metrics["accuracy"])) == (0, 0)
        np.testing.assert_array_equal(slope, 0 * LOGITS)
        task = nf.Task(SAME, objective, nf.optimizers.sgd(0.1))
        assert np.isnan(nf.evaluate(task, {"w": jnp.ones(())}, (LOGITS, nothing))["loss"])
    loss, _ = nf.classification()(identity, (jnp.zeros((0, 3)), jnp.zeros(0, jnp.int32)))
    assert float(loss) == 0


@pytest.mark.parametrize(
    ("objective", "target"),
    [
        (nf.classification(weight=WEIGHTS), LABELS),
        (nf.language_modelling(ignore_index=1), LABELS),
        (nf.classification(), np.asarray(jax.nn.one_hot(LABELS, 3))),
        (nf.regression(), LOGITS[::-1]),
    ],
)
def test_a_masked_example_counts_in_nothing(objective, target):
    task = nf.Task(SAME, objective, nf.optimizers.sgd(0.1))
    params, mask = {"w": jnp.ones(())}, np.arange(7) < 4
    x = np.where(mask[:, None], LOGITS, np.nan)
    short = batch_totals(task, params, {}, (LOGITS[:4], target[:4]))
    masked = batch_totals(task, params, {}, (x, target), mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), masked, short)


def test_labels_beyond_int32_are_refused_before_the_run():
    inspect = nf.classification(ignore_index=-100).inspect
    y = jax.ShapeDtypeStruct((3, 3), jnp.float32)
    inspect(y, (None, np.array([0, -100, 2])))
    with pytest.raises(ValueError, match=r"in \[0, 3\).*got 4294967297 at index 1"):
        inspect(y, (None, np.array([0, 2**32 + 1, -100])))
    with pytest.raises(ValueError, match=r"language_modelling: ignore_index should be in .* got 4294967297"):
        nf.language_modelling(ignore_index=2**32 + 1)


def test_training_follows_the_weighted_mean():
    """The step of one batch: rate times the gradient of sum(w * l) / sum(w)."""

    def build(h):
        objective = nf.classification(weight=[h["w"], 1.0, 1.0])
        return nf.Task(nf.linear(3, 3, bias=False), objective, nf.optimizers.sgd(1.0))

    init, step = nf.trainer(build)
    h = {"w": 4.0}
    state = init(h, jax.random.key(0))
    new, _ = jax.jit(step)(h, state, (LOGITS, LABELS))

    def loss(weight):
        w = jnp.array([4.0, 1.0, 1.0])[LABELS]
        picked = jax.nn.log_softmax(LOGITS @ weight)[np.arange(7), LABELS]
        return -(w * picked).sum() / w.sum()

    weight = state.params["weight"]
    np.testing.assert_allclose(new.params["weight"], weight - jax.grad(loss)(weight), rtol=1e-5)


# Objectives that draw random numbers, and see the step.


def noisy(predict, batch, key):
    """A denoising objective: it draws its noise."""
    noise = jax.random.normal(key, batch.shape)
    return jnp.mean((predict(batch + noise) - batch) ** 2), {"noise": noise.sum()}


class Noisy:
    def __call__(self, predict, batch, *, key):
        return noisy(predict, batch, key)


@functools.wraps(noisy)
def wrapped(*args, **kwargs):
    return noisy(*args, **kwargs)


FORMS = {
    "function": noisy,
    "object": Noisy(),
    "method": Noisy().__call__,
    "partial": functools.partial(lambda scale, predict, batch, key: noisy(predict, scale * batch, key), 1.0),
    "wrapped": wrapped,
    "jitted": lambda predict, batch, key: jax.jit(lambda x, key: noisy(predict, x, key))(batch, key),
    "objective": Objective(noisy),
}
X = jnp.arange(24.0).reshape(8, 3) / 24


def denoiser(objective, **options):
    return lambda h: nf.Task(nf.linear(3, 3), objective, nf.optimizers.sgd(h["rate"]), **options)


def first_loss(objective, **options):
    init, step = nf.trainer(denoiser(objective, **options))
    return step({"rate": 0.1}, init({"rate": 0.1}, jax.random.key(0)), X)[1]


@pytest.mark.parametrize("form", FORMS)
def test_an_objective_gets_a_key_by_its_signature_in_any_form(form):
    assert first_loss(FORMS[form]) == first_loss(noisy)


def test_an_objective_that_binds_its_key_keeps_it():
    bound = first_loss(functools.partial(noisy, key=jax.random.key(3)))
    assert float(bound["noise"]) == pytest.approx(float(jax.random.normal(jax.random.key(3), X.shape).sum()), rel=1e-5)


def test_the_key_differs_by_step_and_micro_batch():
    seen = []

    def objective(predict, batch, key):
        y = predict(batch)
        jax.debug.callback(lambda k: seen.append(tuple(k.tolist())), jax.random.key_data(key))
        return jnp.mean(y), {"y": y.sum()}

    def build(chosen, accumulate):
        model = nf.serial(drop=nf.dropout(0.5), head=nf.linear(3, 3))
        return lambda h: nf.Task(model, chosen, nf.optimizers.sgd(0.1), accumulate=accumulate)

    def two_steps(objective, accumulate):
        init, step = nf.trainer(build(objective, accumulate))
        state, first = step({}, init({}, jax.random.key(0)), X)
        return first, step({}, state, X)[1]

    drawn = two_steps(objective, 2)
    assert len(set(seen)) == 4
    assert drawn == two_steps(lambda predict, batch: objective(predict, batch, jax.random.key(0)), 2)


def test_evaluation_always_draws_the_same():
    task = denoiser(noisy)({"rate": 0.1})
    params = task.model.init(jax.random.key(0))
    first = nf.evaluate(task, params, X, batch_size=4)
    assert first == nf.evaluate(task, params, X, batch_size=4)
    assert first["noise"] == pytest.approx(float(task.objective(lambda x: x, X[:4], eval_key())[1]["noise"]), rel=1e-5)


def eval_key():
    return fold(jax.random.key(0), "objective")


def test_an_objective_sees_the_step():
    def objective(predict, batch, step):
        return jnp.mean(predict(batch) ** 2), {"at": step}

    def build(h):
        return nf.Task(nf.linear(3, 3), objective, nf.optimizers.sgd(h["rate"]))

    data = nf.data.arrays(X, batch_size=4, validation=X)
    state, history = nf.train(build, {"rate": 0.1}, data, steps=6, key=jax.random.key(0), log_every=2, evaluate_every=3)
    np.testing.assert_array_equal(history.train["at"], [0.5, 2.5, 4.5])
    np.testing.assert_array_equal(history.validation["at"], [3, 6])
    task = build({"rate": 0.1})
    assert nf.evaluate(task, state, X)["at"] == 6
    assert nf.evaluate(task, state.params, X)["at"] == 0


def test_totals_of_an_objective_get_the_key_and_the_step():
    def totals(predict, batch, mask, *, key, step):
        count = jnp.float32(mask.sum())
        return {"loss": (jax.random.uniform(key) * count, count), "at": (step.astype(jnp.float32) * count, count)}

    task = nf.Task(nf.linear(3, 3), Objective(noisy, totals=totals), nf.optimizers.sgd(0.1))
    metrics = nf.evaluate(task, task.model.init(jax.random.key(0)), X, batch_size=5)
    assert metrics == {"loss": pytest.approx(float(jax.random.uniform(eval_key()))), "at": 0.0}


def test_sharpness_takes_both_gradients_with_the_same_noise():
    assert first_loss(noisy, sharpness=1e-12)["gradient_norm"] == pytest.approx(
        float(first_loss(noisy)["gradient_norm"]), rel=1e-4
    )


def test_find_nan_finds_the_draw_that_is_not_finite():
    def objective(predict, batch, key, step):
        return jnp.where((step == 2) & (jax.random.uniform(key) >= 0), jnp.nan, jnp.mean(predict(batch))), {}

    build = lambda h: nf.Task(nf.linear(3, 3), objective, nf.optimizers.sgd(0.1))
    init, step = nf.trainer(build)
    state = init({}, jax.random.key(0))
    for _ in range(4):
        state, _ = step({}, state, X)
    (fault,) = nf.debug.find_nan(build, {}, state, lambda step: X)
    assert (fault.step, fault.phase) == (2, "loss")


def test_a_wrong_parameter_of_an_objective_is_refused_by_name():
    with pytest.raises(TypeError, match=r"got parameters \(predict, batch, rng\).* parameters named key and step"):
        first_loss(lambda predict, batch, rng: (0.0, {}))


def test_a_vae_is_the_same_alone_and_in_a_sweep():
    def vae(h):
        def objective(predict, batch, key):
            mean, log_var = jnp.split(predict(batch), 2, axis=-1)
            z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
            kl = 0.5 * jnp.mean(jnp.exp(log_var) + mean**2 - 1 - log_var)
            return jnp.mean((z - batch) ** 2) + h["beta"] * kl, {"kl": kl}

        return nf.Task(nf.mlp([3, 8, 6]), objective, nf.optimizers.adam(1e-2))

    init, step = nf.trainer(vae)
    keys = jax.random.split(jax.random.key(0), 2)
    hypers = {"beta": jnp.array([0.1, 1.0])}
    states = jax.vmap(init)(hypers, keys)
    for _ in range(3):
        states, _ = jax.vmap(step, (0, 0, None))(hypers, states, X)
    for i, key in enumerate(keys):
        own = {"beta": hypers["beta"][i]}
        state = init(own, key)
        for _ in range(3):
            state, _ = step(own, state, X)
        for one, several in zip(jax.tree.leaves(state.params), jax.tree.leaves(states.params), strict=True):
            np.testing.assert_allclose(one, several[i], rtol=1e-4, atol=1e-6)
