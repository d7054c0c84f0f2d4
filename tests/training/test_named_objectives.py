"""The objectives by name equal PyTorch's numbers, SciPy's or worked examples, alone and in a config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import mean_pinball_loss

import nnfunc as nf

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(8, 3)).astype(np.float32)
LABELS = np.array([0, 2, 1, 1, 0, 2, 2, 1])
YES = RANDOM.integers(0, 2, (8, 3))
TARGET = RANDOM.normal(size=(8, 3)).astype(np.float32)


def values(objective, y, target, **more):
    loss, metrics = objective(lambda x: jnp.asarray(y), (jnp.zeros(8), target), **more)
    return float(loss), {name: float(value) for name, value in metrics.items()}


def halves(objective, y, target):
    """The means of two batches, the second of which is padded with rows that do not count."""
    totals = []
    for at, mask in ((slice(0, 5), None), (slice(3, 8), np.array([False, False, True, True, True]))):
        totals.append(objective.totals(lambda x, at=at: jnp.asarray(y[at]), (0, target[at]), mask))
    return {
        name: float(sum(part[name][0] for part in totals) / sum(part[name][1] for part in totals)) for name in totals[0]
    }


def log_sigmoid(x):
    return -np.logaddexp(0, -x)


def test_binary_is_the_weighted_cross_entropy():
    """torch.nn.functional.binary_cross_entropy_with_logits(x, t, pos_weight=3), by its formula."""
    x, t = LOGITS[:, 0].astype(float), YES[:, 0]
    expected = -(3 * t * log_sigmoid(x) + (1 - t) * log_sigmoid(-x)).mean()
    objective = nf.binary(pos_weight=3.0)
    for y, target in ((LOGITS[:, 0], t), (LOGITS[:, :1], t), (LOGITS[:, :1], t[:, None]), (LOGITS[:, 0], t > 0)):
        loss, metrics = values(objective, y, target)
        assert loss == pytest.approx(expected, rel=1e-6)
        assert metrics["accuracy"] == np.mean((x > 0) == t)
    assert halves(objective, LOGITS[:, :1], t)["loss"] == pytest.approx(expected, rel=1e-6)
    p = np.exp(log_sigmoid(x))
    focal = -(3 * t * (1 - p) ** 2 * np.log(p) + (1 - t) * p**2 * np.log(1 - p)).mean()
    assert values(nf.binary(pos_weight=3.0, gamma=2.0), LOGITS[:, 0], t)[0] == pytest.approx(focal, rel=1e-6)


@pytest.mark.parametrize("make", [nf.binary, nf.classification])
def test_a_focal_loss_refuses_traced_smoothing(make):
    with pytest.raises(
        ValueError, match=r"should be 0 together with gamma: .*, got one that a sweep or a schedule gives"
    ):
        jax.jit(lambda amount: make(gamma=2.0, label_smoothing=amount) and 0)(0.5)


def test_multilabel_has_a_weight_for_each_label():
    x, weight = LOGITS.astype(float), np.array([1.0, 2.0, 5.0])
    expected = -(weight * YES * log_sigmoid(x) + (1 - YES) * log_sigmoid(-x)).mean()
    objective = nf.multilabel(pos_weight=(1.0, 2.0, 5.0))
    assert values(objective, LOGITS, YES)[0] == pytest.approx(expected, rel=1e-6)
    assert halves(objective, LOGITS, YES)["accuracy"] == pytest.approx(np.mean((x > 0) == YES))


def test_focal_is_classification_with_gamma():
    expected = values(nf.classification(gamma=1.5), LOGITS, LABELS)
    assert values(nf.focal(1.5), LOGITS, LABELS) == expected
    assert nf.focal().output_type == "classes"
    assert repr(nf.focal(1.5)) == "focal(gamma=1.5)"


def test_gaussian_is_the_density_of_scipy():
    y = np.concatenate([LOGITS, TARGET[::-1] * 0.3], axis=1)
    expected = -scipy.stats.norm(LOGITS, np.exp(TARGET[::-1] * 0.3)).logpdf(TARGET).mean()
    objective = nf.gaussian()
    loss, metrics = values(objective, y, TARGET)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert metrics["mae"] == pytest.approx(abs(LOGITS - TARGET).mean(), rel=1e-6)
    assert halves(objective, y, TARGET)["loss"] == pytest.approx(expected, rel=1e-5)
    pair, _ = objective(lambda x: (jnp.asarray(y[:, :3]), jnp.asarray(y[:, 3:])), (0, TARGET))
    assert float(pair) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match=r"gaussian: the model should have two outputs for each target, .*\(8, 3\)"):
        values(objective, LOGITS, TARGET)


def test_poisson_is_the_probability_of_scipy():
    counts = RANDOM.poisson(2.0, (8, 3))
    expected = -scipy.stats.poisson(np.exp(LOGITS.astype(float))).logpmf(counts).mean()
    assert values(nf.poisson(), LOGITS, counts)[0] == pytest.approx(expected, rel=1e-5)


def test_quantiles_have_the_pinball_loss_of_scikit_learn():
    y = RANDOM.normal(size=(8, 2, 3)).astype(np.float32)
    target, levels = TARGET[:, :2], (0.1, 0.5, 0.95)
    expected = np.mean([mean_pinball_loss(target, y[..., i], alpha=level) for i, level in enumerate(levels)])
    objective = nf.regression("quantile", quantiles=levels)
    loss, metrics = values(objective, y.reshape(8, 6), target)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert metrics["mae"] == pytest.approx(abs(y[..., 1] - target).mean(), rel=1e-6)
    traced = jax.vmap(lambda level: values_of(level, y, target))(jnp.array([0.1, 0.3]))
    assert traced.tolist() == pytest.approx([float(values_of(level, y, target)) for level in (0.1, 0.3)], rel=1e-6)
    assert halves(objective, y.reshape(8, 6), target)["loss"] == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="regression: the model should have 3 outputs for each target"):
        values(objective, y[..., 0], target)


def values_of(level, y, target):
    objective = nf.regression("quantile", quantiles=(level, 0.5, 0.95))
    return objective(lambda x: jnp.asarray(y.reshape(8, 6)), (0, target))[0]


def test_tagging_leaves_padding_out():
    logits, tags = RANDOM.normal(size=(4, 5, 3)).astype(np.float32), RANDOM.integers(0, 3, (4, 5))
    tags[:, 3:] = -100
    log_p = jax.nn.log_softmax(logits.astype(np.float64))
    expected = -np.mean([log_p[i, j, tags[i, j]] for i in range(4) for j in range(3)])
    loss, _ = nf.tagging()(lambda x: jnp.asarray(logits), (0, tags))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def nt_xent(z, temperature):
    """Equation 1 of SimCLR with loops."""
    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    n = len(z) // 2
    losses, hits = [], []
    for i in range(2 * n):
        j = (i + n) % (2 * n)
        scores = np.array([z[i] @ z[k] / temperature if k != i else -np.inf for k in range(2 * n)])
        losses.append(np.log(np.exp(scores).sum()) - scores[j])
        hits.append(scores.argmax() == j)
    return np.mean(losses), np.mean(hits)


def test_contrastive_is_nt_xent():
    x = RANDOM.normal(size=(6, 4)).astype(np.float32)
    noise = lambda key, batch: (batch[0] + 0.5 * jax.random.normal(key, batch[0].shape), batch[1])
    views = []

    def predict(x):
        views.append(np.asarray(x, np.float64))
        return x

    objective = nf.contrastive(noise, temperature=0.3)
    loss, metrics = objective(predict, (x, np.arange(6)), key=jax.random.key(0))
    expected, hits = nt_xent(views[0], 0.3)
    assert abs(views[0][:6] - views[0][6:]).min() > 0  # two different views
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(metrics["accuracy"]) == hits
    plain, _ = nf.contrastive(lambda key, x: x + jax.random.normal(key, x.shape))(predict, x, key=jax.random.key(0))
    assert np.isfinite(plain)


def test_padding_is_no_negative_of_contrastive():
    x = RANDOM.normal(size=(6, 4)).astype(np.float32)
    noise = lambda key, batch: (batch[0] * jnp.array([1.0, -0.5, 2.0, 1.0]), batch[1])
    objective = nf.contrastive(noise)
    mask = np.arange(6) < 4
    padded = objective.totals(lambda x: x, (x.copy() * np.where(mask, 1, np.nan)[:, None], 0), mask, jax.random.key(0))
    alone = objective.totals(lambda x: x, (x[:4], 0), None, jax.random.key(0))
    for name in alone:
        np.testing.assert_allclose(padded[name], alone[name], rtol=1e-5)


def test_contrastive_needs_an_augmentation():
    with pytest.raises(ValueError, match=r"contrastive: two views .* need an augmentation"):
        nf.contrastive()


def test_distillation_by_its_formula():
    teacher = RANDOM.normal(size=(8, 3))
    t, alpha = 3.0, 0.7
    p, log_q = jax.nn.softmax(teacher / t), jax.nn.log_softmax(LOGITS.astype(np.float64) / t)
    divergence = float((p * (np.log(p) - log_q)).sum(-1).mean())
    entropy = -np.mean(np.asarray(jax.nn.log_softmax(LOGITS))[np.arange(8), LABELS])
    objective = nf.distillation(lambda x: jnp.float32(teacher), temperature=t, alpha=alpha)
    loss, metrics = values(objective, LOGITS, LABELS)
    assert loss == pytest.approx(alpha * t**2 * divergence + (1 - alpha) * entropy, rel=1e-5)
    assert metrics["agreement"] == np.mean(teacher.argmax(-1) == LOGITS.argmax(-1))
    with pytest.raises(ValueError, match=r"distillation: .* The teacher has the same classes"):
        values(nf.distillation(lambda x: jnp.ones((8, 4))), LOGITS, LABELS)


def test_only_the_student_gets_a_gradient_of_distillation():
    objective = nf.distillation(lambda x: x, alpha=1.0, temperature=1.0)
    x = jnp.asarray(LOGITS)
    slope = jax.grad(lambda scale: objective(lambda x: 2 * x, (x * scale, LABELS))[0])(1.0)
    student = jax.grad(lambda scale: objective(lambda z: 2 * scale * x, (x, LABELS))[0])(1.0)
    assert float(slope) == pytest.approx(float(student), rel=1e-5)


@pytest.mark.parametrize(
    "objective, width, target, message",
    [
        (nf.binary(), 2, YES[:, 0], "binary: the model should have one output"),
        (nf.binary(), 1, YES[:, 0] * 2, "binary: targets should be 0 or 1, or a probability, got 2 at index"),
        (nf.binary(), 1, YES, "binary: targets should be .batch. or .batch, 1., got shape"),
        (nf.multilabel(), 2, YES, "multilabel: .* target"),
        (nf.multilabel(), 3, YES - 1, "multilabel: targets should be 0 or 1"),
        (nf.poisson(), 3, YES - 1, "poisson: counts should be at least 0"),
        (nf.tagging(), 3, LABELS + 1, "tagging: labels should be in"),
    ],
)
def test_data_that_does_not_fit_is_refused_before_training(objective, width, target, message):
    data = nf.data.arrays((TARGET, target.astype(np.int32)), batch_size=4)
    build = lambda h: nf.Task(nf.linear(3, width), objective, nf.optimizers.sgd(0.1))
    with pytest.raises(ValueError, match=message):
        nf.train(build, {}, data, steps=1, key=jax.random.key(0))


@pytest.mark.parametrize("name", ["binary", "multilabel", "focal", "gaussian", "poisson", "tagging"])
def test_a_kind_says_how_outputs_are_read(name):
    kinds = {
        "multilabel": "labels",
        "focal": "classes",
        "gaussian": "deviation",
        "poisson": "counts",
        "tagging": "tags",
    }
    objective = getattr(nf, name)()
    assert objective.output_type == kinds.get(name, name)
    assert objective.output_type in nf.training.objectives.OUTPUT_TYPES
    assert objective.logits == (name in ("focal", "tagging"))
