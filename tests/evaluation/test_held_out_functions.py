"""Functions of held-out rows: by class, confusion, curves, the worst rows, intervals, baselines, thresholds."""

import numpy as np
import pytest
from sklearn import metrics as reference

from nnfunc.commands.evaluate_run import describe_broken, evaluation_result
from nnfunc.evaluation import (
    HeldOut,
    baseline,
    bootstrap,
    choose_threshold,
    compute_metrics,
    confusion,
    constant_output,
    curves,
    metric_names,
    per_class,
    read_outputs,
    thresholds,
    worst,
)

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(120, 3)) * 2
LABELS = np.where(RANDOM.random(120) < 0.6, LOGITS.argmax(-1), RANDOM.integers(0, 3, 120))
ANSWERS = RANDOM.normal(size=(120, 2)) * 2 - 1
TRUTHS = (ANSWERS + RANDOM.normal(size=(120, 2)) * 2 > 0.5).astype(int)
CLASSES = HeldOut("classes", LOGITS, LABELS, ("cat", "dog", "owl"))
BINARY = HeldOut("binary", ANSWERS[:, :1], TRUTHS[:, 0])
SEVERAL = HeldOut("labels", ANSWERS, TRUTHS, ("big", "old"))


def test_rows_by_class_equal_scikit_learn():
    rows = per_class(CLASSES)
    predicted = LOGITS.argmax(-1)
    scores = reference.precision_recall_fscore_support(LABELS, predicted)
    for i, row in enumerate(rows):
        assert [row[name] for name in ("precision", "recall", "f1", "support")] == pytest.approx([s[i] for s in scores])
        probability = read_outputs("classes", LOGITS)["probability"][:, i]
        assert row["roc_auc"] == pytest.approx(reference.roc_auc_score(i == LABELS, probability))
    assert [row["class"] for row in rows] == ["cat", "dog", "owl"]
    assert sum(row["predicted"] for row in rows) == 120
    assert [row["class"] for row in per_class(BINARY)] == ["0", "1"]
    yes = per_class(BINARY)[1]
    assert yes["f1"] == pytest.approx(reference.f1_score(TRUTHS[:, 0], ANSWERS[:, 0] > 0))
    assert yes["average_precision"] == pytest.approx(reference.average_precision_score(TRUTHS[:, 0], ANSWERS[:, 0]))
    assert [row["recall"] for row in per_class(SEVERAL)] == pytest.approx(
        reference.recall_score(TRUTHS, ANSWERS > 0, average=None)
    )
    assert per_class(HeldOut("values", LABELS, LABELS)) == []


def test_confusion_equals_scikit_learn():
    assert (confusion(CLASSES) == reference.confusion_matrix(LABELS, LOGITS.argmax(-1))).all()
    assert (confusion(BINARY) == reference.confusion_matrix(TRUTHS[:, 0], ANSWERS[:, 0] > 0)).all()
    assert (confusion(SEVERAL) == reference.multilabel_confusion_matrix(TRUTHS, ANSWERS > 0)).all()
    with pytest.raises(ValueError, match="confusion: outputs of the type 'values' have no classes"):
        confusion(HeldOut("values", LABELS, LABELS))


def test_curves_end_where_they_should():
    result = curves(BINARY, points=50)
    (roc,), (precision_recall,) = result["roc"], result["precision_recall"]
    assert (roc["false_positive_rate"][0], roc["true_positive_rate"][-1]) == (0.0, 1.0)
    assert len(roc["threshold"]) <= 50
    assert precision_recall["recall"][-1] == 0.0
    area = np.trapezoid(curves(BINARY)["roc"][0]["true_positive_rate"], curves(BINARY)["roc"][0]["false_positive_rate"])
    assert area == pytest.approx(compute_metrics(BINARY, ["roc_auc"])["roc_auc"])
    assert sum(result["calibration"][0]["count"]) == 120
    assert [curve["name"] for curve in curves(CLASSES)["roc"]] == ["cat", "dog", "owl"]
    assert curves(HeldOut("values", LABELS, LABELS)) == {"precision_recall": [], "roc": [], "calibration": []}


def test_the_worst_rows_have_the_largest_losses():
    indices, losses = worst(CLASSES, 5)
    expected = -np.log(read_outputs("classes", LOGITS)["probability"][np.arange(120), LABELS])
    assert indices.tolist() == np.argsort(-expected, kind="stable")[:5].tolist()
    np.testing.assert_allclose(losses, expected[indices])
    tags = HeldOut("tags", LOGITS[:12].reshape(3, 4, 3), np.where(np.arange(12) < 6, LABELS[:12], -100).reshape(3, 4))
    indices, losses = worst(tags)
    assert sorted(indices.tolist()) == [0, 1]  # nothing counts in the third
    assert losses[indices.tolist().index(0)] == pytest.approx(expected[:4].mean())


@pytest.mark.parametrize("held_out", [CLASSES, BINARY, SEVERAL], ids=lambda held_out: held_out.output_type)
def test_intervals_equal_a_bootstrap_by_hand(held_out):
    """The same draws, each metric computed from the rows drawn."""
    names = ["accuracy", "f1", "roc_auc", "average_precision", "log_loss"]
    random, n = np.random.default_rng(3), 60
    draws = [np.bincount(rows, minlength=120) for rows in random.integers(0, 120, (n, 120))]
    by_hand = [compute_metrics(held_out._replace(weight=draw), names) for draw in draws]
    intervals = bootstrap(held_out, names, n=n, seed=3)
    for name in names:
        expected = np.percentile([values[name] for values in by_hand], [2.5, 97.5])
        np.testing.assert_allclose(intervals[name], expected, rtol=1e-9, err_msg=name)
        assert intervals[name][0] < compute_metrics(held_out, [name])[name] < intervals[name][1]


def test_intervals_of_numbers_cover_the_truth():
    """The mean absolute error of a standard normal error is sqrt(2 / pi); 95 of 100 intervals have it."""
    errors = np.random.default_rng(1).normal(size=(100, 200))
    covered = 0
    for error in errors:
        low, high = bootstrap(HeldOut("values", error, np.zeros(200)), ["mae"], n=200)["mae"]
        covered += low <= np.sqrt(2 / np.pi) <= high
    assert 87 <= covered <= 99
    r2 = bootstrap(HeldOut("values", errors[0] + np.arange(200.0), np.arange(200.0) + 1e6), ["r2"], n=20)["r2"]
    assert np.isfinite(r2).all()


def test_sequences_are_drawn_whole():
    """Positions of one sequence are alike, so an interval over positions would be too narrow."""
    logits = np.repeat(LOGITS[:40, None], 25, axis=1)
    tags = HeldOut("tags", logits, np.repeat(LABELS[:40, None], 25, axis=1))
    rows = HeldOut("classes", LOGITS[:40], LABELS[:40])
    np.testing.assert_allclose(bootstrap(tags, ["accuracy"])["accuracy"], bootstrap(rows, ["accuracy"])["accuracy"])


def test_a_baseline_is_the_best_constant_answer():
    train = np.array([0, 0, 0, 1, 2, 2])
    values = baseline(train, CLASSES, ["accuracy", "f1", "roc_auc"])
    assert values["accuracy"] == np.mean(LABELS == 0)
    assert values["roc_auc"] == 0.5
    assert baseline(TRUTHS[:, 0], BINARY, ["recall"])["recall"] == 0.0
    assert baseline(TRUTHS, SEVERAL, ["log_loss"])["log_loss"] == pytest.approx(
        np.mean([reference.log_loss(t, np.full(120, (t.sum() + 1) / 122)) for t in TRUTHS.T])
    )
    numbers = HeldOut("values", ANSWERS, ANSWERS + 1)
    assert baseline(ANSWERS + 1, numbers, ["r2"])["r2"] == pytest.approx(0, abs=1e-6)
    deviation = HeldOut("deviation", np.zeros((120, 2)), ANSWERS[:, 0])
    expected = 0.5 * np.log(2 * np.pi * np.e * ANSWERS[:, 0].var())
    assert baseline(ANSWERS[:, 0], deviation, ["nll"])["nll"] == pytest.approx(expected, rel=1e-5)
    quantiles = HeldOut("quantiles", np.zeros((120, 3)), ANSWERS[:, 0])
    assert baseline(ANSWERS[:, 0], quantiles, ["coverage"])["coverage"] == pytest.approx(0.8, abs=0.02)
    counts = HeldOut("counts", np.zeros(120), TRUTHS[:, 0])
    assert baseline(TRUTHS[:, 0], counts, ["mae"])["mae"] == pytest.approx(
        reference.mean_absolute_error(TRUTHS[:, 0], np.full(120, TRUTHS[:, 0].mean())), rel=1e-6
    )
    assert baseline(train, HeldOut("", LOGITS, LABELS)) == {}
    assert constant_output("tokens", np.array([[0, 1], [1, 1]])).argmax() == 1


@pytest.mark.parametrize("name", ["f1", "accuracy", "balanced_accuracy", "f1_macro"])
def test_a_threshold_is_the_best_of_all(name):
    threshold = choose_threshold(BINARY, name)
    best = compute_metrics(BINARY._replace(threshold=threshold), [name])[name]
    others = [compute_metrics(BINARY._replace(threshold=level), [name])[name] for level in np.linspace(0, 1, 400)]
    assert best >= max(others) - 1e-12
    assert 0 < threshold < 1


def test_a_threshold_counts_weights():
    weight = np.where(TRUTHS[:, 0] > 0, 5.0, 1.0)
    weighted = BINARY._replace(weight=weight)
    threshold = choose_threshold(weighted, "accuracy")
    best = compute_metrics(weighted._replace(threshold=threshold), ["accuracy"])["accuracy"]
    others = [
        compute_metrics(weighted._replace(threshold=level), ["accuracy"])["accuracy"]
        for level in np.linspace(0, 1, 400)
    ]
    assert best >= max(others) - 1e-12
    assert threshold < choose_threshold(BINARY, "accuracy")


def test_labels_have_a_threshold_each():
    thresholds = choose_threshold(SEVERAL, "f1")
    assert len(thresholds) == 2
    for i, threshold in enumerate(thresholds):
        assert threshold == choose_threshold(HeldOut("binary", ANSWERS[:, i], TRUTHS[:, i]), "f1")
    both = compute_metrics(SEVERAL._replace(threshold=thresholds), ["f1"])["f1"]
    assert both > compute_metrics(SEVERAL, ["f1"])["f1"]


def test_ties_have_one_threshold():
    held_out = HeldOut("binary", np.array([0.0, 0.0, 0.0, -1.0]), np.array([1, 1, 0, 0]))
    threshold = choose_threshold(held_out, "accuracy")
    assert 0.27 < threshold < 0.5  # between the probabilities of the two logits
    always = HeldOut("binary", np.zeros(4), np.ones(4))
    assert compute_metrics(always._replace(threshold=choose_threshold(always, "f1")), ["f1"])["f1"] == 1.0


def test_mistakes_of_thresholds():
    with pytest.raises(ValueError, match=r"threshold should be one of .* got 'roc_auc'"):
        choose_threshold(BINARY, "roc_auc")
    with pytest.raises(ValueError, match="a threshold is for answers of yes or no, which the objective does not give"):
        choose_threshold(CLASSES, "f1")
    with pytest.raises(ValueError, match=r"threshold.*\(3,\).*One number, or one for each label"):
        read_outputs("labels", ANSWERS, threshold=[0.1, 0.2, 0.3])


def test_outputs_are_read_by_their_kind():
    classes = read_outputs("classes", LOGITS)
    assert (classes["class"] == LOGITS.argmax(-1)).all()
    np.testing.assert_allclose(classes["probability"].sum(-1), 1)
    binary = read_outputs("binary", ANSWERS[:, :1], threshold=0.3)
    assert binary["class"].shape == (120,)
    assert (binary["class"] == (1 / (1 + np.exp(-ANSWERS[:, 0])) >= 0.3)).all()
    labels = read_outputs("labels", ANSWERS, threshold=[0.3, 0.7])
    assert labels["labels"].dtype == bool
    assert (labels["labels"][:, 1] == (labels["probability"][:, 1] >= 0.7)).all()
    pair = read_outputs("deviation", (ANSWERS, ANSWERS * 0))
    assert (pair["value"] == ANSWERS).all()
    assert (pair["deviation"] == 1).all()
    assert (read_outputs("quantiles", LOGITS)["value"] == LOGITS[:, 1]).all()
    several = read_outputs("quantiles", np.arange(12).reshape(2, 6), quantiles=3)
    assert several["value"].tolist() == [[1, 4], [7, 10]]
    assert several["quantiles"][0].tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match="should be 4 quantiles of each target"):
        read_outputs("quantiles", LOGITS, quantiles=4)
    np.testing.assert_allclose(read_outputs("counts", ANSWERS)["value"], np.exp(ANSWERS))
    assert set(read_outputs("tags", LOGITS.reshape(12, 10, 3))) == {"tags", "probability"}
    assert (read_outputs("", ANSWERS)["value"] == ANSWERS).all()
    assert (read_outputs("binary", np.array([-1e4, 1e4]))["probability"] == [0, 1]).all()


@pytest.mark.parametrize("name", [None, "roc_auc", "average_precision"])
def test_intervals_of_classes_at_several_positions(name):
    held_out = HeldOut("classes", LOGITS.reshape(30, 4, 3), LABELS.reshape(30, 4))
    names = None if name is None else [name]
    values = compute_metrics(held_out, names)
    intervals = bootstrap(held_out, names, n=50)
    assert all(low <= values[name] <= high for name, (low, high) in intervals.items() if name != "calibration_error")


def test_rankings_of_nan_are_nan():
    names = ["roc_auc", "average_precision"]
    output = ANSWERS.copy()
    output[3, 1] = np.nan
    assert np.isnan(list(compute_metrics(HeldOut("binary", output[:, 1:], TRUTHS[:, 1]), names).values())).all()
    several = HeldOut("labels", output, TRUTHS)
    assert np.isnan(list(compute_metrics(several, names).values())).all()
    rows = per_class(several)
    assert [np.isnan(row["roc_auc"]) for row in rows] == [False, True]
    uncounted = several._replace(weight=np.where(np.arange(120) == 3, 0.0, 1.0))
    assert compute_metrics(uncounted, names) == pytest.approx(
        compute_metrics(SEVERAL._replace(weight=uncounted.weight), names)
    )
    logits = np.where(np.arange(120)[:, None] == 5, np.nan, LOGITS)
    assert np.isnan(list(compute_metrics(HeldOut("classes", logits, LABELS), names).values())).all()


@pytest.mark.parametrize("logit", [40.0, 36.7, 800.0, -800.0])
@pytest.mark.parametrize("answer", [0, 1])
def test_thresholds_of_saturated_probabilities(logit, answer):
    held_out = HeldOut("binary", np.full(3, logit), np.full(3, answer))
    level = choose_threshold(held_out, "accuracy")
    assert compute_metrics(held_out._replace(threshold=level), ["accuracy"])["accuracy"] == 1
    assert (read_outputs("binary", held_out.output, threshold=level)["class"] == answer).all()


def test_thresholds_between_neighboring_probabilities():
    low = 0.7
    for _ in range(50):
        high = np.nextafter(low, 1)
        probability = np.array([low, high])
        truth = np.array([False, True])
        assert low < thresholds._best_cut(truth, probability, np.ones(2), "accuracy") <= high
        low = high


@pytest.mark.parametrize(
    "output_type", ["classes", "binary", "labels", "values", "deviation", "quantiles", "tags", "tokens"]
)
@pytest.mark.parametrize("rows", [[3, 5], range(12)], ids=["some", "all"])
def test_outputs_that_are_not_finite_are_counted_and_left_out(output_type, rows):
    draw, labels = np.random.RandomState(0), np.arange(12) % 3
    output = draw.normal(
        size=(12, 2, 3) if output_type in ("tags", "tokens") else (12, 1) if output_type == "binary" else (12, 4)
    )
    output[rows] = np.nan
    output[rows[0], ..., 0] = np.inf
    target = {"classes": labels, "binary": labels % 2, "labels": np.eye(4)[labels], "values": draw.normal(size=(12, 4))}
    target |= {"deviation": draw.normal(size=(12, 2)), "quantiles": draw.normal(size=(12, 1))}
    held_out = HeldOut(output_type, output, target.get(output_type, np.stack([labels, labels], 1)))
    assert np.flatnonzero(~held_out.finite()).tolist() == [*rows]
    broken = describe_broken(held_out, "they are left out")
    assert broken.startswith(f"{len(rows)} of 12 rows have outputs that are not finite (rows {rows[0]}, ")
    assert broken.endswith("): they are left out. nnfunc find-nan RUN finds the layer.")
    names = [name for name in metric_names(output_type) if not name.startswith("entity")]
    result = evaluation_result(held_out, names, held_out.target, {"loss": np.nan, "baseline": 1.0})
    assert {name: row["value"] for name, row in result["metrics"].items()}.keys() == {"loss", *names}
    rest = held_out.take(held_out.finite())
    assert len(rest.target) == 12 - len(rows)
    if len(rest.target):
        assert curves(held_out) == curves(rest)
        assert describe_broken(rest, "they are left out") == ""
