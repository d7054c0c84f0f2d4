"""The objectives given: which examples count in a mean and how much, in training and evaluation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.training.evaluate import batch_totals

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
    with pytest.raises(ValueError, match=r"in \[0, 3\).*got 4294967297 at place 1"):
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
