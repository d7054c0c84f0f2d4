"""Metrics against scikit-learn, examples worked by hand, and the whole set at once against batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from nnfunc import losses, metrics

pytestmark = pytest.mark.slow

DRAW = np.random.default_rng(3)
CLASSES = 5
LABELS = DRAW.integers(0, CLASSES - 1, size=200)  # the last class never occurs
LOGITS = (DRAW.normal(size=(200, CLASSES)) + 1.5 * np.eye(CLASSES)[LABELS]).astype(np.float32)
LOGITS[:, -1] -= 20  # and is never predicted
TARGET = DRAW.normal(1000, 2, size=(200, 3)).astype(np.float32)
PREDICTION = (TARGET + DRAW.normal(size=(200, 3))).astype(np.float32)

CLASSIFIED = {
    "accuracy": metrics.mean(metrics.accuracy),
    "top": metrics.top_k(2),
    "perplexity": metrics.perplexity(),
    "f1": metrics.f1(CLASSES),
    "confusion": metrics.confusion(CLASSES),
    "calibration": metrics.calibration(),
}
REGRESSED = {"mse": metrics.mean(losses.mse), "r2": metrics.r2(), "r2_each": metrics.r2(outputs=3)}


accuracy = jax.jit(metrics.accuracy)
top_k_accuracy = jax.jit(metrics.top_k_accuracy, static_argnames="k")


def whole(metric, prediction, target, mask=None):
    """The metric of one batch that holds everything."""
    run = jax.jit(lambda *args: metric.compute(metric.update(metric.init(), *args)))
    return run(prediction, target, *([] if mask is None else [mask]))


def same(left, right, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), left, right)


SETS = {
    "classified": (metrics.collect(**CLASSIFIED), LOGITS, LABELS),
    "regressed": (metrics.collect(**REGRESSED), PREDICTION, TARGET),
}


@pytest.mark.parametrize("name", SETS)
def test_batches_in_a_scan_are_the_whole_set(name):
    metric, prediction, target = SETS[name]

    def run(prediction, target):
        def step(state, batch):
            return metric.update(state, *batch), None

        state, _ = jax.lax.scan(step, metric.init(), (prediction, target))
        return metric.compute(state)

    cut = lambda x: x.reshape(20, 10, *x.shape[1:])
    same(jax.jit(run)(cut(prediction), cut(target)), whole(metric, prediction, target), rtol=1e-5)


@pytest.mark.parametrize("name", SETS)
def test_padding_changes_nothing_whatever_it_holds(name):
    metric, prediction, target = SETS[name]
    padded = np.concatenate([prediction, np.full_like(prediction[:7], np.nan)])
    filler = np.full_like(target[:7], -100 if target.dtype.kind == "i" else np.nan)
    mask = np.arange(207) < 200
    expected = whole(metric, prediction, target)
    same(whole(metric, padded, np.concatenate([target, filler]), mask), expected, rtol=1e-6)

    update = jax.jit(metric.update, donate_argnums=0)  # and a batch of nothing but padding
    state = update(metric.init(), prediction, target, np.ones(200, bool))
    state = update(state, padded[-200:] * np.nan, target, np.zeros(200, bool))
    same(jax.jit(metric.compute)(state), expected, rtol=1e-6)


def test_members_of_a_sweep_keep_apart():
    metric, prediction, target = SETS["classified"]
    both = np.stack([prediction, -prediction])
    swept = jax.jit(jax.vmap(lambda x, y: metric.compute(metric.update(metric.init(), x, y)), (0, None)))(both, target)
    for i in range(2):
        same(jax.tree.map(lambda x, i=i: x[i], swept), whole(metric, both[i], target), rtol=1e-5)


def test_no_examples_give_nan():
    metric = metrics.collect(**CLASSIFIED, **REGRESSED)
    for value in jax.jit(lambda: metric.compute(metric.init()))().values():
        assert value.sum() == 0 if value.ndim == 2 else np.isnan(value)  # a matrix of counts


def test_float64_and_half_precision():
    for dtype in (jnp.float16, jnp.bfloat16):
        state = metrics.mean(losses.mse).init()
        x = jnp.ones(3, dtype)
        state = metrics.mean(lambda a, b: a - b).update(state, x, 0 * x)
        assert state.sum.total.dtype == jnp.float32
    with jax.enable_x64(True):
        for metric, prediction, target in SETS.values():
            before = jax.eval_shape(metric.init)
            inputs = prediction.astype(np.float64), target
            after = jax.eval_shape(metric.update, before, *inputs)
            assert before == after  # as a scan wants it


# Accuracy, top k


def test_accuracy_is_scikit_learns():
    expected = sklearn.metrics.accuracy_score(LABELS, LOGITS.argmax(1))
    np.testing.assert_allclose(whole(CLASSIFIED["accuracy"], LOGITS, LABELS), expected, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_top_k_is_scikit_learns(k):
    expected = sklearn.metrics.top_k_accuracy_score(LABELS, LOGITS, k=k, labels=range(CLASSES))
    np.testing.assert_allclose(whole(metrics.top_k(k), LOGITS, LABELS), expected, rtol=1e-6)


def test_a_constant_prediction_is_no_better_than_chance():
    labels = np.arange(10)
    for k in (1, 3):
        assert top_k_accuracy(jnp.zeros((10, 10)), labels, k=k).sum() == k
    assert accuracy(jnp.zeros((10, 10)), labels).sum() == 1


@pytest.mark.parametrize("label", [0, 1, 2])
def test_a_nan_is_never_correct(label):
    logits = np.array([[np.nan, 0, 1], [0, np.nan, 1], [0, 1, np.nan], 3 * [np.nan]], np.float32)
    labels = np.full(4, label)
    assert accuracy(logits, labels).tolist() == 4 * [0]
    assert top_k_accuracy(logits, labels, k=3).tolist() == 4 * [0]
    assert np.isnan(whole(metrics.calibration(), logits, labels))
    assert np.isnan(whole(metrics.perplexity(), logits, labels))
    assert whole(metrics.recall(3, average="micro"), logits, labels) == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint32])
def test_a_label_that_is_no_class_is_never_correct(dtype):
    logits = np.array([[0, 0, 1], [1, 0, 0]], np.float32)
    labels = np.array([3, 255], dtype)
    assert accuracy(logits, labels).tolist() == [0, 0]
    assert top_k_accuracy(logits, labels, k=3).tolist() == [0, 0]
    negative = np.array([-1, -100], np.int8)
    assert accuracy(logits, negative).tolist() == [0, 0]
    assert accuracy(np.full_like(logits, np.nan), negative).tolist() == [0, 0]
    assert top_k_accuracy(logits, negative, k=3).tolist() == [0, 0]


def test_minus_infinity_is_a_logit_like_others():
    logits = np.array([[-np.inf, 0, -np.inf]], np.float32)
    assert top_k_accuracy(logits, np.array([0]), k=2).tolist() == [1]
    assert top_k_accuracy(logits, np.array([2]), k=2).tolist() == [0]


def test_binary_accuracy_by_hand():
    logits = np.array([2.0, -1.0, 0.0, np.nan, 3.0], np.float32)
    for targets in (np.array([1, 0, 0, 0, 0]), np.array([True, False, False, False, False])):
        assert metrics.binary_accuracy(logits, targets).tolist() == [1, 1, 1, 0, 0]


# Perplexity


def test_perplexity_is_that_of_scikit_learns_log_loss():
    nats = sklearn.metrics.log_loss(LABELS, scipy.special.softmax(LOGITS.astype(np.float64), 1), labels=range(CLASSES))
    np.testing.assert_allclose(whole(CLASSIFIED["perplexity"], LOGITS, LABELS), np.exp(nats), rtol=1e-5)


def test_perplexity_leaves_ignored_tokens_out():
    labels = np.where(np.arange(200) % 3 == 0, -100, LABELS)
    metric = metrics.perplexity(ignore_index=-100)
    kept = labels != -100
    np.testing.assert_allclose(
        whole(metric, LOGITS, labels), whole(metrics.perplexity(), LOGITS[kept], LABELS[kept]), rtol=1e-6
    )
    mask = np.arange(200) < 50
    np.testing.assert_allclose(whole(metric, LOGITS, labels, mask), whole(metric, LOGITS[:50], labels[:50]), rtol=1e-6)
    assert np.isnan(whole(metrics.perplexity(), LOGITS, labels))


def test_a_mask_of_rows_holds_for_every_token():
    logits, labels, mask = LOGITS.reshape(20, 10, -1), LABELS.reshape(20, 10), np.arange(20) < 4
    np.testing.assert_allclose(
        whole(CLASSIFIED["perplexity"], logits, labels, mask),
        whole(CLASSIFIED["perplexity"], LOGITS[:40], LABELS[:40]),
        rtol=1e-6,
    )


# Confusion, precision, recall, F1


@pytest.mark.parametrize("prediction", [LOGITS, LOGITS.argmax(1)], ids=["logits", "classes"])
def test_confusion_is_scikit_learns(prediction):
    expected = sklearn.metrics.confusion_matrix(LABELS, LOGITS.argmax(1), labels=range(CLASSES))
    counts = whole(CLASSIFIED["confusion"], prediction, LABELS)
    assert counts.dtype == jnp.uint32
    np.testing.assert_array_equal(counts, expected)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted", "none"])
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_scores_are_scikit_learns(name, average):
    expected = getattr(sklearn.metrics, f"{name}_score")(
        LABELS, LOGITS.argmax(1), labels=range(CLASSES), average=None if average == "none" else average, zero_division=0
    )
    score = whole(getattr(metrics, name)(CLASSES, average=average), LOGITS, LABELS)
    np.testing.assert_allclose(score, expected, rtol=1e-5)


def test_strange_labels_make_scores_nan_and_are_in_no_cell():
    labels, predicted = np.array([0, 1, 7, -1]), np.array([0, 9, 1, 0])
    assert np.isnan(whole(metrics.f1(2), predicted, labels))
    assert np.isfinite(whole(metrics.f1(2), predicted, labels, (labels >= 0) & (labels < 2)))
    assert whole(metrics.confusion(2), predicted, labels).tolist() == [[1, 0], [0, 0]]


# R2


def test_r2_is_scikit_learns():
    score = sklearn.metrics.r2_score
    target, prediction = TARGET.astype(np.float64), PREDICTION.astype(np.float64)
    each = whole(REGRESSED["r2_each"], PREDICTION, TARGET)
    np.testing.assert_allclose(each, score(target, prediction), rtol=1e-4)
    pooled = whole(REGRESSED["r2"], PREDICTION, TARGET)
    np.testing.assert_allclose(pooled, score(target.ravel(), prediction.ravel()), rtol=1e-4)
    worse = whole(REGRESSED["r2"], -PREDICTION, TARGET)
    np.testing.assert_allclose(worse, score(target.ravel(), -prediction.ravel()), rtol=1e-4)


def test_r2_of_a_constant_target_is_one_or_nothing():
    """As scikit-learn has it; 0.1 has no exact float32, so its sums round."""
    metric = REGRESSED["r2"]
    update, target = jax.jit(metric.update), np.full(1000, 0.1, np.float32)
    for prediction, expected in ((target, 1.0), (target + 0.1, 0.0)):
        state = metric.init()
        for part in (slice(0, 400), slice(400, 800), slice(800, 1000)):
            state = update(state, prediction[part], target[part])
        assert float(metric.compute(state)) == expected
        half = 0 * target + 0.5  # whose mean scikit-learn finds exactly
        assert sklearn.metrics.r2_score(half, half + prediction - target) == expected
    assert np.isnan(whole(metric, target[:1], target[:1]))
    assert np.isnan(whole(metric, target * np.nan, target))


@pytest.mark.parametrize("scale", [1e-25, 1e20, 1e34])
@pytest.mark.parametrize("name", ["r2", "r2_each"])
def test_r2_does_not_depend_on_the_unit(name, scale):
    with jax.numpy_rank_promotion("raise"):
        found = whole(REGRESSED[name], scale * PREDICTION, scale * TARGET)
    np.testing.assert_allclose(found, whole(REGRESSED[name], PREDICTION, TARGET), rtol=1e-5)


def test_r2_of_batches_of_other_sizes():
    target = np.array([[1e-25, 2e-25], [1, 3], [0, 0], [1e20, 4e20]], np.float32)
    prediction = np.array([[1e-25, 3e-25], [1, 2], [0, 0], [1e20, 3e20]], np.float32)
    state = REGRESSED["r2"].init()
    for one in range(4):
        state = REGRESSED["r2"].update(state, prediction[one], target[one])
    expected = sklearn.metrics.r2_score(target.ravel(), prediction.ravel().astype(np.float64))
    np.testing.assert_allclose(REGRESSED["r2"].compute(state), expected, rtol=1e-5)


# Calibration


def test_calibration_by_hand():
    """Five bins. Confidence 0.9 three times, two of them right: |2 - 2.7|. Confidence 0.6, which is
    in (0.4, 0.6], twice, both right: |2 - 1.2|. Sum 1.5, over 5 examples: 0.3."""
    p = np.array([0.9, 0.1, 0.9, 0.6, 0.4], np.float32)
    logits = np.log(np.stack([p, 1 - p], 1))
    labels = np.array([0, 1, 1, 0, 1])
    value = whole(metrics.calibration(bins=5), logits, labels)
    np.testing.assert_allclose(value, 0.3, rtol=1e-5)


def test_calibration_bin_by_bin():
    """Equation 3 of Guo et al. 2017, in float64, one bin after the other."""
    p = scipy.special.softmax(LOGITS.astype(np.float64), 1)
    confidence, correct = p.max(1), p.argmax(1) == LABELS
    expected = 0.0
    for b in range(15):
        inside = (b / 15 < confidence) & (confidence <= (b + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    np.testing.assert_allclose(whole(metrics.calibration(), LOGITS, LABELS), expected, rtol=1e-5)


def test_sure_and_right_is_calibrated():
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32)
    assert whole(metrics.calibration(), logits, np.array([0, 1])) == 0
    assert whole(metrics.calibration(), logits, np.array([1, 0])) == 1


# Millions of examples


def test_sums_of_millions_keep_their_digits():
    """Twenty million values in float32, in 20,000 batches; a plain running sum of them is off by
    more than 1e-5, and the variance of numbers near 1000 needs every digit."""
    metric = metrics.collect(mean=metrics.mean(lambda x, y: x), r2=metrics.r2())
    wave = jnp.sin(jnp.arange(1000, dtype=jnp.float32))
    target = 1000 + wave

    def step(state, i):
        prediction = target + 0.5 * jnp.where(i % 2 == 0, wave, 0)
        return metric.update(state, prediction, target), None

    run = lambda: jax.lax.scan(step, metric.init(), jnp.arange(20_000))[0]
    found = metric.compute(jax.jit(run)())
    target64 = np.asarray(target, np.float64)
    rounded = np.asarray(target + 0.5 * wave, np.float64)  # what float32 makes of the prediction
    mean = (target64.mean() + rounded.mean()) / 2
    np.testing.assert_allclose(found["mean"], mean, rtol=3e-7)
    residual = np.square(rounded - target64).mean() / 2
    np.testing.assert_allclose(found["r2"], 1 - residual / target64.var(), rtol=1e-5)


def test_infinite_sums_stay_infinite():
    assert whole(metrics.mean(lambda x, y: x), np.array([np.inf, 1], np.float32), 0) == np.inf


# Words


@pytest.mark.parametrize(
    "call,kind,words",
    [
        (
            lambda: metrics.accuracy(jnp.zeros((4, 3)), jnp.zeros((4, 1), int)),
            ValueError,
            r"accuracy: labels should have shape \(4,\), got shape \(4, 1\)",
        ),
        (lambda: metrics.accuracy(jnp.zeros((4, 3)), jnp.zeros(4)), TypeError, "labels should hold integers"),
        (lambda: metrics.accuracy(jnp.array(0.0), jnp.array(0)), ValueError, "an axis of classes"),
        (
            lambda: metrics.top_k_accuracy(jnp.zeros((4, 3)), jnp.zeros(4, int), k=4),
            ValueError,
            "k should be at most the number of classes, 3, got 4",
        ),
        (lambda: metrics.top_k(0), ValueError, "k should be at least 1"),
        (lambda: metrics.f1(3, average="binary"), ValueError, "average should be one of 'macro'"),
        (
            lambda: whole(metrics.confusion(3), jnp.zeros((4, 2)), jnp.zeros(4, int)),
            ValueError,
            r"logits should have shape \(4, 3\), got shape \(4, 2\)",
        ),
        (
            lambda: whole(metrics.r2(), jnp.zeros(4), jnp.zeros((4, 1))),
            ValueError,
            r"prediction \(4,\) and target \(4, 1\)",
        ),
        (
            lambda: whole(metrics.r2(outputs=2), jnp.zeros((4, 3)), jnp.zeros((4, 3))),
            ValueError,
            r"target should have shape \(4, 2\), got shape \(4, 3\)",
        ),
        (
            lambda: whole(metrics.top_k(1), jnp.zeros((4, 3)), jnp.zeros(4, int), jnp.ones(4)),
            TypeError,
            "mask should hold booleans, got .*float32",
        ),
        (
            lambda: whole(metrics.r2(), jnp.zeros(4), jnp.zeros(4), jnp.ones((4, 1), bool)),
            ValueError,
            r"mask should have shape \(4,\), got shape \(4, 1\)",
        ),
        (
            lambda: metrics.collect(accuracy=metrics.accuracy),
            TypeError,
            r"accuracy should be a Metric, got .*nf.metrics.mean\(function\)",
        ),
    ],
)
def test_words_of_errors(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_labels_beyond_int32_are_no_class():
    big, logits = np.array([2**32 + 1]), jnp.array([[0.0, 1.0, 0.0]])
    for labels in (big, big.astype(np.uint64)):
        assert float(metrics.accuracy(logits, labels)[0]) == 0
        assert float(metrics.top_k_accuracy(logits, labels, k=2)[0]) == 0
        counts = metrics.confusion(3)
        for prediction, target in ((logits, labels), (labels, np.array([1]))):
            state = counts.update(counts.init(), prediction, target)
            assert int(counts.compute(state).sum()) == 0
    assert float(metrics.binary_accuracy(jnp.ones(1), np.array([-(2**32) + 1]))[0]) == 0


def test_infinite_logits_are_certain():
    logits, labels = jnp.array([[jnp.inf, 0.0], [0.0, -jnp.inf], [0.0, 0.0]]), jnp.array([0, 0, 1])
    assert metrics.accuracy(logits, labels).tolist() == [1, 1, 0]
    for metric, expected in ((metrics.calibration(4), 0.5 / 3), (metrics.perplexity(), 2 ** (1 / 3))):
        value = metric.compute(jax.jit(metric.update)(metric.init(), logits, labels))
        np.testing.assert_allclose(value, expected, rtol=1e-6)
