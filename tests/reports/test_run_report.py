"""The report: what it says and draws, with and without rows of layers, and that nothing breaks it."""

import base64
import io
import json
import re

import numpy as np
import pytest
from helpers import sample_runs
from helpers.html_page import Page
from helpers.metric_rows import ROWS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nnfunc.reports import inline_images
from nnfunc.reports import run as run_report
from nnfunc.reports.run import heatmaps, histograms
from nnfunc.reports.run.run_page import build_page
from nnfunc.runs import metrics_log


def pixels(address):
    assert address.startswith("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


@pytest.fixture(scope="module")
def sick(tmp_path_factory):
    """The page of a run with every kind of row."""
    folder = tmp_path_factory.mktemp("runs") / "sick"
    sample_runs.make(folder, sample_runs.metrics(sick=True), result=sample_runs.RESULT)
    run_report.write_report(folder)
    text = (folder / "report.html").read_text()
    assert not re.search(r"https?:|url\(|@import|<script|<link", text)
    return Page(text)


def test_the_page_has_every_part(sick):
    assert sick.open == []
    for words in (
        "Problems",
        "Dead units.",
        "hidden_1/act",
        "(more than 50%)",
        "Vanishing gradients.",
        "Curves",
        "Events",
        "rollback",
        "loss is nan at step 600: back to 500, rate/2",
        "Speed and memory",
        "Layers over time",
        "Gradient norm",
        "Update-to-weight ratio",
        "Weight norm",
        "Activation deviation",
        "Dead fraction",
        "Histograms over time",
        "Settings",
        "99.17%",
        "utilisation",
        "MB",
        "examples/s",
    ):
        assert words in sick.words, words
    assert "Saturation" not in sick.words  # no layer tells of it


def test_a_heat_map_has_a_pixel_a_layer_and_row(sick):
    image = pixels(sick.pictures["Gradient norm of 6 layers over time"])
    assert image.size == (20, 6)
    dead = np.asarray(pixels(sick.pictures["Dead fraction of 2 layers over time"]).convert("RGB"), int)
    assert dead.shape == (2, 20, 3)
    brightness = dead.sum(axis=-1)
    assert (np.diff(brightness[1]) >= 0).all()  # it dies as time goes on
    assert brightness[1, -1] > 3 * brightness[0, -1] + 100


def test_every_layer_has_its_histograms(sick):
    for path in sample_runs.MLP:
        assert f"weights of {path} over time" in sick.pictures
        assert f"gradients of {path} over time" in sick.pictures
    image = pixels(sick.pictures["activations of hidden_0/act over time"])
    assert image.size == (20, histograms.BINS)
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert (alpha[-1] == 255).all()  # of relu most values are zero, the lowest line


def test_an_old_run_has_a_report_without_layers(tmp_path):
    rows = [
        {k: v for k, v in row.items() if k in ("split", "step", "seconds", "loss", "accuracy")}
        for row in sample_runs.metrics(200)
        if row["split"] in ("train", "validation")
    ]
    run_report.write_report(sample_runs.make(tmp_path / "old", rows, result=sample_runs.RESULT))
    found = Page((tmp_path / "old" / "report.html").read_text())
    assert list(found.pictures) == ["Curves of the run"]
    assert "The layers of this run were not watched" in found.words
    for words in ("Events", "Speed", "Layers over time", "Histograms"):
        assert words not in found.words


def test_a_healthy_run_says_what_was_looked_for(tmp_path):
    folder = sample_runs.make(tmp_path / "well", sample_runs.metrics(200))
    (folder / "curves.png").write_bytes(b"")
    words = Page(build_page(folder, metrics_log.read_rows(folder / "metrics.jsonl"), {})).words
    assert "in every layer fewer than half of the units are dead or saturated" in words


def test_a_hundred_layers_stay_small_and_paged(tmp_path):
    params, acts = sample_runs.gpt(100)
    rows = sample_runs.metrics(2000, params=params, acts=acts, text=True, watch_every=1000)
    folder = sample_runs.make(tmp_path / "deep", rows)
    (folder / "curves.png").write_bytes(b"")
    text = build_page(folder, rows, {})
    assert len(text) < 3e6
    found = Page(text)
    assert found.open == []
    assert 10 <= found.tags.count("details") <= 60
    assert "604 layers one by one" in found.words
    assert pixels(found.pictures["Gradient norm of 604 layers over time"]).size == (2, 604)


def test_everything_is_escaped(tmp_path):
    nasty = "<b onload=x>&\"'</b>$x_"
    rows = sample_runs.metrics(100, params=[nasty + "/weight"], acts=[nasty], sick=True)
    told = {"split": "event", "step": 50, "event": nasty, "message": nasty}
    odd = {"split": "train", "step": 60, nasty: 1.0}
    folder = sample_runs.make(tmp_path / "a<b>&c", [*rows, told, odd])
    config = (folder / "config.toml").read_text() + f"nasty = {json.dumps(nasty)}\n"
    (folder / "config.toml").write_text(config)
    (folder / "result.json").write_text(json.dumps({"loop": nasty, "test": {nasty: 1.0}}))
    run_report.write_report(folder)
    found = Page((folder / "report.html").read_text())
    assert found.open == []
    assert "b" not in found.tags or nasty in found.words
    assert found.words.count(nasty) >= 5
    assert "a<b>&c" in found.words


METRICS = sample_runs.metrics(50, log_every=100)  # nothing that matplotlib draws


@pytest.mark.parametrize("name", ["config.toml", "environment.json", "result.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff\xfe", b'{"versions": 3, "test": 4}'])
def test_a_missing_or_damaged_file_is_borne(tmp_path, name, content):
    folder = sample_runs.make(tmp_path / "run", METRICS, result=sample_runs.RESULT)
    (folder / "curves.png").write_bytes(b"")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    rows, result = (metrics_log.read_rows(folder / "metrics.jsonl"), {"step": "x", "seconds": None, "test": [1]})
    assert Page(build_page(folder, rows, result)).open == []


@settings(max_examples=40)
@given(st.lists(ROWS, max_size=6))
def test_no_row_makes_the_page_fail(rows):
    rows = [row for row in map(metrics_log.parse_row, map(json.dumps, rows)) if row is not None]
    Page(heatmaps.render_heatmaps(rows) + histograms.render_histograms(rows))


@pytest.mark.parametrize("values", [[], [0.0, -1.0], [5e-324, 1.7e308]])
def test_curves_of_extreme_values_are_drawn(tmp_path, values):
    rows = [
        {"split": "train", "step": i, "loss": v, "gradient_norm": v, "memory_mb": abs(v)} for i, v in enumerate(values)
    ]
    layers = [{"split": "layers", "step": 1, "parameters": {"w": {"update_ratio": v}}} for v in values]
    run_report.plot_curves(rows + layers, tmp_path / "curves.png", best=3)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size[0] == 1100
    assert (run_report.plot_speed(rows) is None) == (not values)


def test_events_are_marked_in_the_curves(tmp_path):
    rows = sample_runs.metrics(100, watch_every=1000)
    event = {"split": "event", "step": 55, "event": "rollback", "message": ""}
    shades = []
    for own in (rows, [*rows, event]):
        run_report.plot_curves(own, tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as image:
            pixels_ = np.asarray(image.convert("RGB"), int).reshape(-1, 3)
        orange = (pixels_[:, 0] > 200) & (pixels_[:, 0] - pixels_[:, 2] > 60)
        shades.append(int(orange.sum()))
    assert shades[0] == 0
    assert shades[1] > 4 * 100  # a line through each of four panels


# the arithmetic


def test_levels_by_hand():
    values = np.array([[0.01, 0.1, 1.0, 10.0, 0.0, np.nan]])
    found = inline_images.palette_indices(values, 0.01, 1.0, log=True, count=3)
    assert found.tolist() == [[1, 2, 3, 3, 1, 0]]
    found = inline_images.palette_indices(np.array([[-1.0, 0.0, 0.5, 1.0, 2.0]]), 0.0, 1.0, log=False, count=3)
    assert found.tolist() == [[1, 1, 2, 3, 3]]


def of(*entries):
    low, high, counts = zip(*entries, strict=True)
    arrays = (np.asarray(x, float) for x in (low, high, counts))
    return metrics_log.Histograms(np.arange(len(entries)), *arrays)


def test_histograms_are_rebinned_by_hand():
    own = of((0, 4, [1, 1, 1, 1]), (2, 4, [0, 0, 0, 2]), (1, 1, [3, 0, 0, 0]))
    found = histograms._rebin(own, np.array([0.0, 1.0, 2.0, 4.0]))
    np.testing.assert_allclose(found, [[0.25, 0.25, 0.5], [0, 0, 1], [0, 1, 0]], atol=1e-9)
    outside = histograms._rebin(own, np.array([3.0, 3.5]))
    np.testing.assert_allclose(outside, [[0.125], [0.0], [0.0]], atol=1e-9)


def test_a_far_value_does_not_flatten_the_rest():
    usual = (-1.0, 1.0, [25, 25, 25, 25])
    assert histograms._range(of(usual)) == pytest.approx((-1, 1), abs=0.01)
    low, high = histograms._range(of(*[usual] * 9, (-1.0, 999.0, [10_000, 0, 0, 1])))
    assert low == pytest.approx(-1)
    assert high < 300
    low, high = histograms._range(of((2.0, 2.0, [5, 0])))
    assert low <= 2.0 < high


def test_thinning_keeps_both_ends():
    assert inline_images.spaced_indices(3, 10).tolist() == [0, 1, 2]
    assert inline_images.spaced_indices(100, 3).tolist() == [0, 50, 99]
    assert inline_images.spaced_indices(1, 1).tolist() == [0]
