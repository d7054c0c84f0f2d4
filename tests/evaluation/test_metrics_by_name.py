"""Every metric by name equals scikit-learn's: of all rows in NumPy, and summed over padded batches under jit."""

import warnings
from functools import lru_cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

import nnfunc as nf
from nnfunc.config.held_out_rows import held_out_rows
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.evaluation import HeldOut, compute_metrics, find_metric, metric_names
from nnfunc.evaluation.bootstrap import bootstrap
from nnfunc.evaluation.named_metrics import row_sums
from nnfunc.evaluation.readings import read
from nnfunc.training.task_metrics import metric_totals, metrics_of_batches

EXACT = {"rtol": 1e-6, "atol": 1e-6}


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def by_column(score, truth, probability, weight):
    """The mean over the columns in which both answers occur."""
    columns = [i for i in range(truth.shape[1]) if 0 < truth[weight > 0, i].sum() < (weight > 0).sum()]
    values = [score(truth[:, i], probability[:, i], sample_weight=weight) for i in columns]
    return np.mean(values) if values else np.nan


def brier(y, probability, weight):
    labels = np.arange(probability.shape[1])
    if len(labels) == 2:
        return reference.brier_score_loss(y, probability[:, 1], labels=labels, pos_label=1, sample_weight=weight)
    return reference.brier_score_loss(y, probability, labels=labels, sample_weight=weight)


def expected_of_classes(logits, y, weight):
    probability, predicted = read(np, "classes", logits, y).probability, logits.argmax(-1)
    np.testing.assert_allclose(probability, softmax(logits), rtol=1e-12)  # rounded alike, for equal scores
    labels = np.arange(logits.shape[1])
    truth = np.eye(len(labels))[y]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values = {
            "accuracy": reference.accuracy_score(y, predicted, sample_weight=weight),
            "balanced_accuracy": reference.balanced_accuracy_score(y, predicted, sample_weight=weight),
            "log_loss": reference.log_loss(y, probability, labels=labels, sample_weight=weight),
            "brier": brier(y, probability, weight),
            "roc_auc": by_column(reference.roc_auc_score, truth, probability, weight),
            "average_precision": by_column(reference.average_precision_score, truth, probability, weight),
        }
        if len(labels) > 2:
            options = {"k": 2, "labels": labels, "sample_weight": weight}
            values["top2_accuracy"] = reference.top_k_accuracy_score(y, logits, **options)
        options = {"labels": labels, "zero_division": 0, "sample_weight": weight}
        for score in ("precision", "recall", "f1"):
            for average in ("macro", "micro", "weighted"):
                value = getattr(reference, f"{score}_score")(y, predicted, average=average, **options)
                values[f"{score}_{average}"] = value
            values[score] = values[f"{score}_macro"]
    return values


def expected_of_answers(logits, y, weight, binary):
    truth, probability = y.reshape(len(y), -1), sigmoid(logits).reshape(len(y), -1)
    predicted = (logits > 0).astype(int).reshape(len(y), -1)
    mean = lambda values: float(np.average(values, axis=0, weights=weight).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        columns = range(truth.shape[1])
        losses = [
            reference.log_loss(truth[:, i], probability[:, i], labels=[0, 1], sample_weight=weight) for i in columns
        ]
        briers = [
            reference.brier_score_loss(truth[:, i], probability[:, i], labels=[0, 1], sample_weight=weight)
            for i in columns
        ]
        values = {
            "accuracy": mean(truth == predicted),
            "log_loss": np.mean(losses),
            "brier": np.mean(briers),
            "roc_auc": by_column(reference.roc_auc_score, truth, probability, weight),
            "average_precision": by_column(reference.average_precision_score, truth, probability, weight),
        }
        options = {"zero_division": 0, "sample_weight": weight}
        if binary:
            truth, predicted = truth[:, 0], predicted[:, 0]
            values["balanced_accuracy"] = reference.balanced_accuracy_score(truth, predicted, sample_weight=weight)
        else:
            values["subset_accuracy"] = reference.accuracy_score(truth, predicted, sample_weight=weight)
        labels = {"labels": [0, 1]} if binary else {}
        for score in ("precision", "recall", "f1"):
            function = getattr(reference, f"{score}_score")
            for average in ("macro", "micro", "weighted"):
                values[f"{score}_{average}"] = function(truth, predicted, average=average, **labels, **options)
            values[score] = function(truth, predicted, **options) if binary else values[f"{score}_macro"]
    return values


def expected_of_numbers(prediction, y, weight):
    options = {"sample_weight": weight}
    return {
        "mae": reference.mean_absolute_error(y, prediction, **options),
        "mse": reference.mean_squared_error(y, prediction, **options),
        "rmse": reference.root_mean_squared_error(y, prediction, **options),
        "mape": reference.mean_absolute_percentage_error(y, prediction, **options),
        "r2": reference.r2_score(y, prediction, **options),
    }


def check_all_rows(output_type, output, y, weight, expected):
    actual = compute_metrics(HeldOut(output_type, output, y, weight=weight), list(expected))
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, **EXACT, err_msg=f"{output_type} {name}")


@lru_cache
def compiled_totals(output_type, names):
    objective = nf.training.Objective(lambda predict, batch: None, output_type=output_type, totals=lambda *_: {})
    return jax.jit(lambda output, y, mask: metric_totals(objective, names, [output], (0, y), mask))


def stream(output_type, output, y, names, size=7):
    """The metrics of batches of equal size, the last of which is padded with rows that would change everything."""
    count = -(-len(y) // size) * size
    pad = lambda part: np.concatenate([part, np.repeat(part[:1] * 0 + 3, count - len(part), axis=0)])
    totals = compiled_totals(output_type, tuple(names))
    batches = []
    for start in range(0, count, size):
        at = slice(start, start + size)
        parts = (pad(output)[at].astype(np.float32), pad(y)[at], np.arange(start, start + size) < len(y))
        batches.append(jax.device_get(totals(*parts)))
    return metrics_of_batches(batches)


def check_streamed(output_type, output, y, expected):
    names = [name for name in expected if not find_metric("test", output_type, name).is_exact]
    actual = stream(output_type, output, y, names)
    for name in names:
        np.testing.assert_allclose(actual[name], expected[name], rtol=2e-6, atol=1e-6, err_msg=f"{output_type} {name}")


RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(60, 4)).astype(np.float32).astype(float) * 2
LABELS = RANDOM.integers(0, 4, 60).astype(np.int32)
CLASS_CASES = {
    "random": (LOGITS, LABELS),
    "a class that never occurs": (LOGITS, np.where(LABELS == 2, 1, LABELS).astype(np.int32)),
    "one class alone": (LOGITS, np.full(60, 3, np.int32)),
    "always the same answer": (np.tile([0.0, 1.0, 0.5, 0.25], (60, 1)), LABELS),
    "perfect": (np.eye(4)[LABELS] * 8, LABELS),
    "two classes": (LOGITS[:, :2], LABELS % 2),
    "two rows": (LOGITS[:2], np.array([0, 3], np.int32)),
}
WEIGHT = RANDOM.integers(0, 4, 60) + 0.5


@pytest.mark.parametrize("case", CLASS_CASES)
def test_classes_equal_scikit_learn(case):
    logits, y = CLASS_CASES[case]
    expected = expected_of_classes(logits, y, np.ones(len(y)))
    check_all_rows("classes", logits, y, None, expected)
    check_streamed("classes", logits, y, expected)


def test_ties_equal_scikit_learn():
    """Equal scores of several rows; among equal logits of one row the first class counts as the largest."""
    logits = RANDOM.integers(0, 3, (80, 3)).astype(float)
    y = RANDOM.integers(0, 3, 80).astype(np.int32)
    expected = expected_of_classes(logits, y, np.ones(80))
    del expected["top2_accuracy"]  # scikit-learn counts the last one there
    check_all_rows("classes", logits, y, None, expected)
    check_streamed("classes", logits, y, expected)
    answers, targets = logits[:, 0] - 1, (y > 0).astype(np.int32)
    check_all_rows("binary", answers, targets, None, expected_of_answers(answers, targets, np.ones(80), True))


@pytest.mark.parametrize("case", ["random", "a class that never occurs", "two classes"])
def test_weights_equal_scikit_learn(case):
    logits, y = CLASS_CASES[case]
    expected = expected_of_classes(logits, y, WEIGHT)
    expected.pop("top2_accuracy", None)
    check_all_rows("classes", logits, y, WEIGHT, expected)
    targets = (LABELS > 1).astype(np.int32)
    expected = expected_of_answers(LOGITS[:, 0], targets, WEIGHT, True)
    check_all_rows("binary", LOGITS[:, 0], targets, WEIGHT, expected)


def test_rows_of_weight_0_do_not_count():
    weight = (np.arange(60) < 40).astype(float)
    some = compute_metrics(HeldOut("classes", LOGITS[:40], LABELS[:40]))
    logits = np.where(np.arange(60)[:, None] < 40, LOGITS, np.nan)
    assert compute_metrics(HeldOut("classes", logits, LABELS, weight=weight)) == pytest.approx(some, rel=1e-12)


ANSWERS = RANDOM.normal(size=(60, 3))
TRUTHS = (ANSWERS + RANDOM.normal(size=(60, 3)) > 0.5).astype(np.int32)
ANSWER_CASES = {
    "random": (ANSWERS, TRUTHS),
    "a label that never occurs": (ANSWERS, TRUTHS * [1, 0, 1]),
    "always yes": (ANSWERS, TRUTHS * 0 + 1),
    "always no": (ANSWERS, TRUTHS * 0),
    "nothing predicted": (-abs(ANSWERS), TRUTHS),
    "rare": (ANSWERS - 3, (ANSWERS > 1.8).astype(np.int32)),
}


@pytest.mark.parametrize("case", ANSWER_CASES)
@pytest.mark.parametrize("output_type", ["binary", "labels"])
def test_answers_equal_scikit_learn(case, output_type):
    logits, y = (part[:, 0] if output_type == "binary" else part for part in ANSWER_CASES[case])
    y = y.astype(np.int32)
    expected = expected_of_answers(logits, y, np.ones(60), output_type == "binary")
    check_all_rows(output_type, logits, y, None, expected)
    check_streamed(output_type, logits, y, expected)
    if output_type == "binary":
        check_streamed(output_type, logits[:, None], y[:, None], expected)


VALUES = RANDOM.normal(size=(60, 2))
NUMBER_CASES = {
    "random": (VALUES, VALUES + RANDOM.normal(size=(60, 2)) * 0.3),
    "a large mean": (VALUES + 2000, VALUES + 2000 + RANDOM.normal(size=(60, 2)) * 0.3),
    "different scales": (VALUES * [1, 1e4], VALUES * [1, 1e4] * 0.9),
    "a constant target": (VALUES, VALUES * 0 + 5),
    "met exactly": (VALUES, VALUES),
    "one output": (VALUES[:, 0], VALUES[:, 1]),
    "zeros": (VALUES, np.where(VALUES > 1, 0.0, VALUES + 1)),
}


@pytest.mark.parametrize("case", NUMBER_CASES)
def test_numbers_equal_scikit_learn(case):
    prediction, y = (np.float32(part).astype(float) for part in NUMBER_CASES[case])
    expected = expected_of_numbers(prediction, y, None)
    check_all_rows("values", prediction, y, None, expected)
    check_all_rows("values", prediction, y, WEIGHT, expected_of_numbers(prediction, y, WEIGHT))
    check_streamed("values", prediction, np.float32(y), expected)


def test_counts_and_deviations_equal_references():
    rates, counts = np.exp(VALUES[:, 0]), RANDOM.poisson(2.0, 60)
    expected = {
        "poisson_deviance": reference.mean_poisson_deviance(counts, rates),
        "mae": reference.mean_absolute_error(counts, rates),
    }
    check_all_rows("counts", VALUES[:, 0], counts, None, expected)
    check_streamed("counts", VALUES[:, 0], counts.astype(np.int32), expected)
    from scipy import stats

    target = VALUES[:, 1]
    deviation = np.exp(ANSWERS[:, 0])
    inside = abs(target - VALUES[:, 0]) <= stats.norm.ppf(0.95) * deviation
    expected = {"nll": -stats.norm(VALUES[:, 0], deviation).logpdf(target).mean(), "coverage": inside.mean()}
    output = np.stack([VALUES[:, 0], ANSWERS[:, 0]], axis=1)
    check_all_rows("deviation", output, target, None, expected)
    check_streamed("deviation", output, np.float32(target), expected)


def test_quantiles_read_the_middle_and_the_outer_ones():
    output = np.stack([VALUES[:, 0] - 1, VALUES[:, 0], VALUES[:, 0] + 2], axis=1)
    target = VALUES[:, 1]
    expected = {
        "mae": reference.mean_absolute_error(target, output[:, 1]),
        "coverage": ((target >= output[:, 0]) & (target <= output[:, 2])).mean(),
    }
    check_all_rows("quantiles", output, target, None, expected)
    check_streamed("quantiles", output, np.float32(target), expected)


def test_tokens_and_tags_leave_out_what_does_not_count():
    logits = RANDOM.normal(size=(6, 5, 4))
    y = RANDOM.integers(0, 4, (6, 5)).astype(np.int32)
    y[1:4, 2:] = -100
    counted = y >= 0
    flat = expected_of_classes(logits[counted], y[counted], np.ones(counted.sum()))
    names = ["accuracy", "log_loss", "top2_accuracy"]
    tokens = {name: flat[name] for name in names}
    tokens |= {"perplexity": np.exp(flat["log_loss"]), "bits_per_token": flat["log_loss"] / np.log(2)}
    check_all_rows("tokens", logits, y, None, tokens)
    check_streamed("tokens", logits, y, tokens)
    tags = {
        name: flat[name] for name in (*names, "f1", "f1_micro", "precision", "recall_weighted", "balanced_accuracy")
    }
    check_all_rows("tags", logits, y, None, tags)
    check_streamed("tags", logits, y, tags)


def test_calibration_error_equals_the_streaming_metric():
    """That of nf.metrics.calibration, whose source is Guo et al. 2017."""
    metric = nf.metrics.calibration(15)
    expected = metric.compute(metric.update(metric.init(), jnp.float32(LOGITS), LABELS))
    check_all_rows("classes", LOGITS, LABELS, None, {"calibration_error": float(expected)})
    check_streamed("classes", LOGITS, LABELS, {"calibration_error": float(expected)})


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 30), st.integers(2, 4))
def test_any_classes_equal_scikit_learn(seed, size, classes):
    random = np.random.default_rng(seed)
    logits = random.normal(size=(size, classes)).round(random.integers(0, 3))
    y = random.integers(0, random.integers(1, classes + 1), size).astype(np.int32)
    weight = random.integers(0, 3, size) + random.integers(0, 2)
    weight[0] += 1
    expected = expected_of_classes(logits, y, weight.astype(float))
    expected.pop("top2_accuracy", None)
    if (weight == 0).any() or len(set(y)) < classes:  # scikit-learn counts classes without weight
        del expected["balanced_accuracy"]
    check_all_rows("classes", logits, y, weight, expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(-4, 4))
def test_r2_does_not_depend_on_the_batches(seed, size, exponent):
    random = np.random.default_rng(seed)
    y = np.float32(random.normal(size=(size + 1, 1)) * 10.0**exponent + 100.0 * 10.0**exponent)
    prediction = np.float32(y + random.normal(size=y.shape) * 10.0**exponent)
    expected = reference.r2_score(y.astype(float), prediction.astype(float))
    np.testing.assert_allclose(stream("values", prediction, y, ["r2"])["r2"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-25, 1e19, 1e20])
def test_r2_where_squares_are_out_of_range(scale):
    y, prediction = np.float32(VALUES * scale), np.float32(VALUES * scale * 0.5)
    expected = reference.r2_score(y.astype(float), prediction.astype(float))
    assert stream("values", prediction, y, ["r2"])["r2"] == pytest.approx(expected, rel=1e-5)
    assert compute_metrics(HeldOut("values", prediction, y), ["r2"])["r2"] == pytest.approx(expected)


@pytest.mark.parametrize("scale", [1e-25, 1e20])
def test_errors_where_squares_are_out_of_range(scale):
    y, prediction = np.float32(VALUES * scale), np.float32(VALUES * scale * 0.5)
    mse = np.mean(np.square(np.float64(y) - prediction))
    rmse = np.mean(np.sqrt(np.mean(np.square(np.float64(y) - prediction), axis=0)))
    expected = pytest.approx({"rmse": rmse, "mse": mse}, rel=1e-5, abs=0)
    assert stream("values", prediction, y, ["rmse", "mse"]) == expected
    held_out = HeldOut("values", prediction, y)
    assert compute_metrics(held_out, ["rmse", "mse"]) == expected
    low, high = bootstrap(held_out, ["rmse"])["rmse"]
    assert low < rmse < high


def test_no_rows_give_nan():
    for name in ("accuracy", "f1", "log_loss", "roc_auc"):
        assert np.isnan(compute_metrics(HeldOut("classes", LOGITS, LABELS * 0 - 100), [name])[name])


@pytest.mark.parametrize(
    "output_type", ["classes", "binary", "labels", "values", "tokens", "tags", "counts", "deviation"]
)
def test_every_name_has_a_value_and_a_mode(output_type):
    output = {"binary": ANSWERS[:, 0], "deviation": ANSWERS[:, :2], "labels": ANSWERS}.get(output_type, LOGITS[:, :3])
    target = {"binary": TRUTHS[:, 0], "labels": TRUTHS, "deviation": VALUES[:, 0]}.get(output_type, LABELS % 3)
    if output_type in ("values", "counts"):
        output, target = VALUES, np.abs(VALUES.round())
    values = compute_metrics(
        HeldOut(output_type, output, target, ("B-X", "I-X", "O") if output_type == "tags" else None),
        metric_names(output_type),
    )
    assert all(np.isfinite(value) for value in values.values()), values
    assert all(find_metric("test", output_type, name).mode in ("min", "max") for name in values)


def test_a_name_that_is_no_metric():
    with pytest.raises(ValueError, match=r"type 'binary', got 'f2'. They are accuracy, "):
        find_metric("here", "binary", "f2")
    with pytest.raises(ValueError, match="did you mean 'accuracy'"):
        find_metric("here", "binary", "acuracy")
    with pytest.raises(ValueError, match="outputs of no known type"):
        find_metric("here", "", "f1")
    with pytest.raises(ValueError, match="number for each target, got outputs"):
        read(np, "values", np.ones((3, 2)), np.ones(3))


def test_sums_of_a_sweep_add_up_in_float32():
    """The pivot of R2 moves to that of the first batch with rows, zeros included."""
    y = np.float32(VALUES + 2000)
    reading = lambda at: read(jnp, "values", jnp.asarray(y[at] + 0.1), jnp.asarray(y[at]))
    parts = [row_sums(jnp, "r2", reading(slice(i, i + 20)), jnp.ones(20)) for i in (0, 20, 40)]
    zeros = jax.tree.map(jnp.zeros_like, parts[0])
    total = zeros
    for part in parts:
        total = total.add(part, jnp)
    expected = reference.r2_score(y.astype(float), (y + np.float32(0.1)).astype(float))
    np.testing.assert_allclose(total.value(jnp), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [87.0, 88.0, 120.0, 1e4])
def test_the_log_loss_of_confident_answers_is_finite(size):
    """That of a wrong answer is its logit, in float32 too."""
    for output_type, logits, y in (
        ("binary", np.array([[size], [-size]], np.float32), np.array([0, 1])),
        ("labels", np.array([[size, -size]], np.float32), np.array([[0, 1]])),
    ):
        sums = jax.jit(lambda x, y, output_type=output_type: metric_totals_of(output_type, x, y))(logits, y)
        assert metrics_of_batches([jax.device_get(sums)])["log_loss"] == pytest.approx(size)
        assert compute_metrics(HeldOut(output_type, logits, y), ["log_loss"])["log_loss"] == pytest.approx(size)


def metric_totals_of(output_type, output, y):
    objective = nf.binary() if output_type == "binary" else nf.multilabel()
    return metric_totals(objective, ("log_loss",), [output], (None, y), None)


@pytest.mark.parametrize("classes", [3, 200])
@pytest.mark.parametrize("ignored", [255, -100])
def test_small_types_of_labels_may_be_ignored(classes, ignored):
    """In eight bits -100 would be the class 156."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(4, 6, classes)).astype(np.float32)
    labels = random.integers(0, 3, (4, 6)).astype(np.uint8)
    labels[:, 3:] = 255 if ignored == 255 else 156 % classes
    objective = nf.classification(ignore_index=ignored)
    task = nf.Task(nf.serial(same=lambda x: x), objective, nf.optimizers.sgd(0.1), metrics=("log_loss", "f1_micro"))
    values = [nf.evaluate(task, {}, (logits, labels.astype(dtype))) for dtype in (np.uint8, np.int32)]
    assert values[0] == pytest.approx(values[1], nan_ok=True)
    assert values[0]["log_loss"] == pytest.approx(values[0]["loss"], rel=1e-5)


def held_out_by(objective, logits, labels):
    """The held-out rows of a model that gives its input."""
    config = SimpleNamespace(eval_batch_size=2, preprocessing=Preprocessing("arrays", {}))
    data = nf.data.arrays((logits, labels), 2, validation=(logits, labels))
    task = nf.Task(nf.serial(same=lambda x: x), objective, None)
    return held_out_rows(config, data, "validation", task, {}, {})


def test_held_out_labels_keep_what_is_ignored_and_soft():
    logits = np.random.default_rng(0).normal(size=(4, 200)).astype(np.float32)
    hard = held_out_by(nf.classification(ignore_index=255), logits, np.array([0, 255, 156, 2], np.uint8))
    assert hard.target.tolist() == [0, -100, 156, 2]
    soft = np.eye(200, dtype=np.float32)[[0, 3, 156, 2]]
    held_out = held_out_by(nf.classification(ignore_index=1), logits, soft)
    assert (held_out.target == soft).all()
    assert compute_metrics(held_out, ["accuracy"])["accuracy"] == np.mean(logits.argmax(-1) == soft.argmax(-1))


def test_distillation_ignores_labels_of_eight_bits():
    logits = np.random.default_rng(0).normal(size=(4, 200)).astype(np.float32)
    labels = np.array([0, 156, 3, 2], np.uint8)
    objective = nf.distillation(lambda x: x[..., ::-1], ignore_index=-100)
    losses = [objective(lambda x: x, (logits, labels.astype(dtype)))[0] for dtype in (np.uint8, np.int32)]
    assert losses[0] == losses[1]
