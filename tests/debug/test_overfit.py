"""overfit: a sound model learns a batch by heart; of each fault the verdict tells the cause."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf

DIM, CLASSES = 4, 3
KEY = jax.random.key(0)


def points(n=12, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return x, (np.arange(n) % CLASSES).astype(np.int32)


X, LABELS = points()
DATA = nf.data.arrays((X, LABELS), batch_size=12)


def of(model, objective=None, rate=0.03):
    objective = objective or nf.classification()
    return lambda h: nf.Task(model, objective, nf.optimizers.adamw(rate, weight_decay=1e-2))


def verdict(build, data=DATA, hypers=None, **options):
    return nf.debug.overfit(build, hypers or {}, data, key=KEY, **options)


SOUND = nf.mlp([DIM, 32, CLASSES], dropout=0.5)


def test_a_sound_model_memorises_in_spite_of_dropout_and_decay():
    def build(h):
        return nf.Task(SOUND, nf.classification(), nf.optimizers.adamw(0.03, weight_decay=h["weight_decay"]))

    found = verdict(build, hypers={"weight_decay": 3.0})
    assert (found.outcome, found.cause, found.hint) == ("memorised", "", "")
    assert found.final_loss < 0.02 < 0.5 < found.initial_loss
    assert found.loss_floor == pytest.approx(0, abs=1e-3)
    assert found.losses.shape == (201, 9)
    assert found.learning_rate == pytest.approx(0.03)


def entropy(smoothing):
    right = 1 - smoothing + smoothing / CLASSES
    wrong = smoothing / CLASSES
    return -right * np.log(right) - (CLASSES - 1) * wrong * np.log(wrong)


def test_the_floor_of_smoothed_labels_is_known():
    found = verdict(of(SOUND, nf.classification(label_smoothing=0.3)))
    assert found.outcome == "memorised"
    assert found.loss_floor == pytest.approx(entropy(0.3), rel=1e-3)
    assert "cannot fall below 0.639 (as with smoothed labels)" in found.message


@pytest.mark.slow
def test_the_floor_of_other_losses():
    """The squared error of large targets; text whose windows begin alike: log 2 at one place of 8."""
    data = nf.data.arrays((X, 100 * X[:, :1]), batch_size=12)
    found = verdict(of(nf.mlp([DIM, 32, 1]), nf.regression(), 1.0), data)
    assert found.loss_floor == pytest.approx(0, abs=1e-2)
    text = np.array([[0, 1, 2, 3, 4], [0, 2, 3, 1, 2]], np.int32)
    data = nf.data.arrays((text[:, :-1], text[:, 1:]), batch_size=2)
    model = nf.gpt(5, block_size=4, layers=1, heads=1, dim=16)
    found = verdict(of(model, nf.language_modelling(), 0.01), data)
    assert found.loss_floor == pytest.approx(np.log(2) / 4, rel=1e-2)
    assert found.outcome == "memorised"
    assert "equal prefixes have different continuations" in found.message


def test_contradicting_labels_cannot_be_learned():
    x = X.copy()
    x[1] = x[0]
    found = verdict(of(SOUND), nf.data.arrays((x, LABELS), batch_size=12))
    assert found.outcome == "impossible"
    assert found.cause.startswith("Labels contradict each other: examples ")
    assert found.loss_floor == pytest.approx(2 * np.log(2) / 12, rel=1e-2)


@pytest.mark.parametrize("rate, word, kind", [(1e-5, "stuck", "too small"), (3.0, None, "too large")])
def test_the_learning_rate_is_blamed(rate, word, kind):
    def build(h, step):
        optimizer = nf.optimizers.adam(nf.schedules.warmup(nf.schedules.constant(h["lr"]), 5.0))
        return nf.Task(SOUND, nf.classification(), optimizer)

    found = verdict(build, hypers={"lr": rate})
    assert found.outcome == (word or found.outcome) != "memorised"
    assert kind in found.cause
    assert found.hint.startswith("Set lr=")
    better = float(found.hint.split("lr=")[1].split(",")[0])
    assert (better > rate) is (kind == "too small")


@pytest.mark.slow
def test_causes():
    relu, dead = jax.nn.relu, lambda x: jax.nn.relu(x - 1e3)
    stopped = nf.serial(nf.linear(DIM, 16), relu, jax.lax.stop_gradient, lambda x: 0 * x, nf.linear(16, CLASSES))
    cases = {
        "No gradient ever reaches linear/bias, linear/weight": stopped,
        "No gradient ever reaches linear/bias": nf.serial(nf.linear(DIM, 16), dead, nf.linear(16, CLASSES)),
        "Softmax twice": nf.serial(nf.mlp([DIM, 32, CLASSES]), jax.nn.softmax),
        "Squashed outputs": nf.serial(nf.mlp([DIM, 32, CLASSES]), jax.nn.sigmoid),
        "The outputs do not depend on the input": nf.serial(lambda x: x - x + 1, nf.mlp([DIM, 8, CLASSES])),
        "The first loss is not finite: the forward pass of layer root": nf.serial(
            nf.linear(DIM, 8), root=jnp.sqrt, head=nf.linear(8, CLASSES)
        ),
    }
    for cause, model in cases.items():
        found = verdict(of(model))
        assert found.outcome != "memorised", cause
        assert found.cause.startswith(cause), (cause, found)

    def constant(predict, batch):
        return 0 * predict(batch[0]).sum() + 1.5, {}

    found = verdict(of(SOUND, constant))
    assert (found.outcome, found.cause) == ("impossible", "The loss does not depend on the outputs.")
    found = verdict(of(nf.linear(DIM, CLASSES)), nf.data.arrays(points(64), 64), examples=64)
    assert found.outcome in ("stuck", "learns slowly")  # random labels are not linear


@pytest.mark.slow
def test_batch_norm_an_own_objective_and_optax():
    import optax

    def own(predict, batch):
        return jnp.square(predict(batch[0])[:, 0] - batch[1].astype(jnp.float32)).mean(), {}

    def build(h):
        return nf.Task(nf.mlp([DIM, 32, 1], norm="batch"), own, optax.adam(0.03))

    found = verdict(build)
    assert (found.outcome, found.learning_rate, found.best_learning_rate) == ("memorised", None, None)


def test_rates_that_are_all_too_small():
    found = verdict(of(SOUND, rate=1e-7), learning_rates=[1e-8, 1e-7, 1e-6])
    assert found.cause == "All learning rates that were tried are too small, also the largest, 1e-06."


def test_mistakes():
    with pytest.raises(TypeError, match=r"data should be a data set"):
        verdict(of(SOUND), 3)
    with pytest.raises(ValueError, match=r"overfit: steps should be at least 8, got 1"):
        verdict(of(SOUND), steps=1)
    with pytest.raises(ValueError, match=r"overfit: learning_rates should be a list of numbers that are at least 0"):
        verdict(of(SOUND), learning_rates=[-1.0])


def test_a_rate_that_is_a_thousand_times_too_large():
    def build(h):
        model = nf.mlp([64, 16, 10])
        return nf.Task(model, nf.classification(), nf.optimizers.adamw(h["lr"]))

    digits = nf.data.digits()
    data = nf.data.arrays(digits.train, batch_size=32)
    found = nf.debug.overfit(build, {"lr": 1e4}, data, key=jax.random.key(0), steps=60)
    assert found.cause.startswith("The learning rate is too large: the loss rises at all that were tried, from ")
    assert "lr" in found.hint
