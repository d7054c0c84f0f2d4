"""What a report says about held-out rows, of every type of outputs."""

import json

import numpy as np
import pytest
from helpers.html_page import Page
from sklearn import metrics

from nnfunc import evaluation
from nnfunc.evaluation import HeldOut
from nnfunc.reports.run.evaluation_section import build_evaluation, sample_section
from nnfunc.reports.run.example_html import InputFormat, example_card

DRAW = np.random.default_rng(0)


def classes(count=60):
    target = DRAW.integers(0, 3, count)
    return HeldOut("classes", DRAW.normal(0, 1, (count, 3)) + 2 * np.eye(3)[target], target, ("<cat>", "dog", "eel"))


def held(output_type):
    """Rows of a type of outputs."""
    if output_type == "classes":
        return classes()
    if output_type == "binary":
        target = DRAW.integers(0, 2, 60)
        return HeldOut("binary", DRAW.normal(0, 1, 60) + 2 * target - 1, target, ("no", "yes"))
    if output_type == "labels":
        target = DRAW.integers(0, 2, (60, 3))
        return HeldOut("labels", DRAW.normal(0, 1, (60, 3)) + 2 * target - 1, target, ("a", "b", "c"))
    if output_type == "tags":
        target = DRAW.integers(0, 3, (20, 5))
        target[:, 4] = -100
        return HeldOut("tags", DRAW.normal(0, 1, (20, 5, 3)), target, ("O", "LOC", "PER"))
    target = DRAW.normal(3, 1, (60, 1))
    if output_type == "deviation":
        return HeldOut(output_type, np.concatenate([target + 0.1, np.zeros((60, 1))], 1), target)
    if output_type == "quantiles":
        return HeldOut(output_type, target + np.array([-1.0, 0.1, 1.0]), target)
    return HeldOut("values", target + DRAW.normal(0, 0.3, (60, 1)), target)


def build(output_type, **options):
    rows = held(output_type)
    return rows, build_evaluation(rows, "test", lambda i: np.full(3, i), InputFormat(), **options)


@pytest.mark.parametrize("output_type", ["classes", "binary", "labels", "tags", "values", "deviation", "quantiles"])
def test_every_type_of_outputs_has_its_sections(output_type):
    rows, result = build(output_type)
    titles = [title for title, _ in result.sections]
    assert titles[0] == "Metrics on the test split"
    assert titles[-1] == "The 24 worst"
    assert ("Confusion" in titles) == (output_type in ("classes", "binary", "tags"))
    assert ("Each class" in titles) == (output_type in ("classes", "binary", "labels", "tags"))
    assert ("Curves of probabilities" in titles) == (output_type in ("classes", "binary", "labels"))
    assert ("Predictions" in titles) == (output_type in ("values", "deviation", "quantiles"))
    page = Page("".join(content for _, content in result.sections))
    assert page.open == []
    for name, value in evaluation.compute_metrics(rows).items():
        assert name.replace("_", " ") in page.words
        assert f"{value:.4g}" in page.words or f"{value:.2%}" in page.words
    json.dumps([chart._asdict() for chart in result.charts], allow_nan=False)
    assert len({chart.name for chart in result.charts}) == len(result.charts)


def test_outputs_of_another_kind_and_no_rows_have_no_section():
    rows = HeldOut("", np.zeros((3, 2)), np.zeros(3))
    assert build_evaluation(rows, "test", lambda i: i, InputFormat()).sections == []
    assert (
        build_evaluation(
            classes(60)._replace(output=np.zeros((0, 3)), target=np.zeros(0, int)), "test", lambda i: i, InputFormat()
        ).sections
        == []
    )


def test_a_confusion_matrix_has_the_examples_behind_its_cells():
    rows, result = build("classes")
    (chart,) = [chart for chart in result.charts if chart.name == "confusion"]
    truth, guess = rows.target, rows.output.argmax(1)
    expected = metrics.confusion_matrix(truth, guess)
    np.testing.assert_array_equal(np.reshape(chart.data["value"], (3, 3)), expected)
    np.testing.assert_allclose(
        np.reshape(chart.data["share"], (3, 3)), expected / expected.sum(1, keepdims=True), atol=1e-3
    )
    names = rows.names
    for true, predicted in np.argwhere(expected):
        cards = result.examples[f"{names[true]}|{names[predicted]}"]
        assert len(cards) == min(expected[true, predicted], 12)
        inside = np.flatnonzero((truth == true) & (guess == predicted))
        assert all(any(f">row {i}, loss" in card for i in inside) for card in cards)
    text = dict(result.sections)["Confusion"]
    assert "&lt;cat&gt;" in text
    assert "<cat>" not in text


def test_the_worst_rows_are_those_with_the_largest_loss():
    rows, result = build("classes")
    text = dict(result.sections)["The 24 worst"]
    indices, losses = evaluation.worst(rows, 24)
    places = [text.index(f"row {i}, loss {loss:.3g}<") for i, loss in zip(indices, losses, strict=True)]
    assert places == sorted(places)
    assert text.count('class="example"') == 24


def test_a_baseline_and_the_ids_of_rows_are_shown():
    rows = classes()._replace(ids=np.arange(60) + 1000)
    result = build_evaluation(rows, "validation", lambda i: np.zeros(2), InputFormat(), {"accuracy": 0.25})
    assert "25.00%" in result.sections[0][1]
    assert "row 10" in result.sections[-1][1]


def test_a_note_says_how_many_rows_are_drawn():
    for count, note in ((60, "Every row of the test split."), (2001, "2,000 of the 2,001 rows of the test split.")):
        target = DRAW.normal(size=(count, 1))
        result = build_evaluation(HeldOut("values", target, target), "test", lambda i: np.zeros(2), InputFormat())
        assert note in dict(result.sections)["Predictions"]


def test_residuals_are_prediction_minus_target():
    rows, result = build("values")
    charts = {chart.name: chart for chart in result.charts}
    np.testing.assert_allclose(charts["residual0"].data["residual"], (rows.output - rows.target)[:, 0], rtol=1e-4)
    assert sum(charts["residuals0"].data["count"]) == 60


def test_a_tag_names_its_position():
    _, result = build("tags")
    assert "position " in dict(result.sections)["The 24 worst"]
    assert "position 5" not in dict(result.sections)["The 24 worst"]  # it does not count


@pytest.mark.parametrize(
    "x, form, expected",
    [
        (np.arange(64.0), InputFormat(image_shape=(8, 8, 1)), "data:image/png"),
        (np.zeros((8, 8, 3), np.uint8), InputFormat(), "data:image/jpeg"),
        (
            np.array([1.0, -1.0]),
            InputFormat(columns=("<a>", "b"), scaling={"mean": [5, 5], "std": [2, 1]}),
            "&lt;a&gt; 7<br>b 4",
        ),
        (np.array([3, 4]), InputFormat(decode=lambda ids: f"<{ids.sum()}>"), "&lt;7&gt;"),
        ({"numbers": np.array([1.5]), "categories": np.array([2])}, InputFormat(), "x0 1.5</p><p>x0 2"),
        (np.zeros((2, 3, 4, 5)), InputFormat(), "an array (2, 3, 4, 5)"),
        (np.arange(9.0), InputFormat(), "and 1 more"),
    ],
)
def test_an_example_is_a_picture_a_row_or_a_text(x, form, expected):
    card = example_card(x, form, "<t>", "<n>")
    assert expected in card
    assert "<t>" not in card
    assert "<n>" not in card


def test_sample_texts_are_escaped():
    title, text = sample_section(["<b>", "two"], "note")
    assert title == "Sample texts"
    assert "&lt;b&gt;" in text
    assert "<b>" not in text


def test_large_splits_have_fewer_resamples(monkeypatch):
    calls = []
    monkeypatch.setattr(evaluation, "bootstrap", lambda rows, names, n: calls.append((n, list(names))) or {})
    for count in (2000, 2001, 20_001):
        target = DRAW.integers(0, 2, count)
        build_evaluation(HeldOut("binary", DRAW.normal(size=count), target), "test", lambda i: i, InputFormat())
    assert [n for n, _ in calls] == [1000, 200, 200]
    assert ["roc_auc" in names for _, names in calls] == [True, True, False]


def test_the_features_of_a_table_have_their_names_and_units():
    features = {
        "numbers": {"columns": ["size", "age"], "indicators": [1], "center": [50, 10, 0], "scale": [2, 5, 1]},
        "dates": {"columns": ["day"], "parts": [["year", "month"]], "center": [2024, 6], "scale": [1, 2]},
        "categorical": {"columns": ["city", "floor"], "categories": [["Oslo", "Rome"], ["1"]]},
    }
    x = {"numbers": np.array([1.0, 0.0, 1.0, 0.0, -1.0]), "categories": np.array([3, 0])}
    card = example_card(x, InputFormat(features=features), "", "")
    assert "<p>city Rome<br>floor unknown<br>size 52<br>age missing<br>day year 2024<br>day month 4</p>" in card
    empty = features | {"numbers": {"columns": []}, "dates": {"columns": [], "parts": []}}
    card = example_card({"categories": np.array([2, 1])}, InputFormat(features=empty), "", "")
    assert "<p>city Oslo<br>floor missing</p>" in card


def test_a_row_has_the_values_of_the_file():
    """What float32 loses while a table is standardised does not show: 0 is no 1.7e-7."""
    values, mean, std = (
        np.array([0, 47639.72, 1e-5, np.nan, np.inf]),
        [5.3, 52000.1, 2e-5, 1, 1],
        [4.1, 8123.4, 1e-5, 1, 1],
    )
    x = ((values - mean) / std).astype(np.float32)
    card = example_card(x, InputFormat(columns=[*"abcde"], scaling={"mean": mean, "std": std}), "", "")
    assert "a 0<br>b 47639.7<br>c 1e-05<br>d nan<br>e inf" in card
