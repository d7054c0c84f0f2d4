"""The report: what it says and draws, with and without rows of layers, and that nothing breaks it."""

import base64
import colorsys
import io
import json
import re
import sys
from itertools import chain

import numpy as np
import pytest
from helpers import sample_runs
from helpers.html_page import Page
from helpers.metric_rows import ROWS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nnfunc.reports import html_page, palette, vega
from nnfunc.reports import run as run_report
from nnfunc.reports.charts import RANK_SCALE, SHARES, lines, thin
from nnfunc.reports.run import heatmaps, histogram_charts
from nnfunc.reports.run.evaluation_charts import confusion_chart
from nnfunc.reports.run.run_charts import curve_charts, picture_charts, speed_charts
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
    assert not re.search(r"https?:|url\(|@import|<script[^>]*src|<link", text)
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


def test_a_heat_map_has_a_cell_a_layer_and_row(sick):
    data = sick.charts["layers-gradient_norm"]["data"]
    assert sorted(data["y"]) == sorted(sample_runs.MLP)
    assert len(data["x"]) == 20
    assert len(data["value"]) == 6 * 20
    dead = sick.charts["layers-dead"]["data"]
    values = np.reshape(dead["value"], (2, 20))
    assert (np.diff(values[1]) >= 0).all()  # it dies as time goes on
    assert values[1, -1] > 0.8
    low, high = sick.charts["layers-gradient_norm"]["spec"]["encoding"]["color"]["scale"]["domain"]
    assert all(low * 0.999 <= shade <= high * 1.001 for shade in data["shade"])
    assert min(data["value"]) < low  # what the cursor tells is not clipped


def test_every_layer_has_its_histograms(sick):
    charts = {chart["title"]: chart for name, chart in sick.charts.items() if name.startswith("histogram-")}
    assert {f"{path}: {part}" for path in sample_runs.MLP for part in ("weights", "gradients")} < {*charts}
    data = charts["hidden_0/act: activations"]["data"]
    assert {len(column) for column in data.values()} == {20}
    shares = np.array([[SHARES.index(letter) for letter in row] for row in data["shares"]]) / 63
    np.testing.assert_allclose((shares**2).sum(axis=1), 1, atol=0.05)
    assert (shares.argmax(axis=1) == 0).all()  # of relu most values are zero, in the lowest bin
    assert set(data["low"]) == {0.0}
    assert "hidden_0/act: activations" in sick.words
    assert str(data["high"][-1]) in sick.words  # in the table for readers without JavaScript


def test_an_old_run_has_a_report_without_layers(tmp_path):
    rows = [
        {k: v for k, v in row.items() if k in ("split", "step", "seconds", "loss", "accuracy")}
        for row in sample_runs.metrics(200)
        if row["split"] in ("train", "validation")
    ]
    run_report.write_report(sample_runs.make(tmp_path / "old", rows, result=sample_runs.RESULT))
    found = Page((tmp_path / "old" / "report.html").read_text())
    assert list(found.charts) == ["curve-loss", "curve-accuracy"]
    assert list(found.pictures) == ["loss: curves over step; accuracy: curves over step."]
    assert pixels(found.pictures["loss: curves over step; accuracy: curves over step."]).size[0] > 800
    assert "The layers of this run were not watched" in found.words
    for words in ("Events", "Speed", "Layers over time", "Histograms"):
        assert words not in found.words


def test_a_healthy_run_says_what_was_looked_for(tmp_path):
    folder = sample_runs.make(tmp_path / "well", sample_runs.metrics(200))
    words = Page(build_page(folder, metrics_log.read_rows(folder / "metrics.jsonl"), {})).words
    assert "in every layer fewer than half of the units are dead or saturated" in words


def test_a_hundred_layers_stay_small_and_paged(tmp_path):
    params, acts = sample_runs.gpt(100)
    rows = sample_runs.metrics(2000, params=params, acts=acts, text=True, watch_every=250)
    folder = sample_runs.make(tmp_path / "deep", rows)
    text = build_page(folder, rows, {})
    assert len(text) < 2e6
    found = Page(text)
    assert found.open == []
    assert 10 <= found.tags.count("details") <= 60
    data = found.charts["layers-gradient_norm"]["data"]
    assert (len(data["x"]), len(data["y"])) == (8, 604)
    assert {len(c["data"]["step"]) for name, c in found.charts.items() if name.startswith("histogram-")} == {6}


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


METRICS = sample_runs.metrics(50, log_every=100)  # nothing that is drawn


@pytest.mark.parametrize("name", ["config.toml", "environment.json", "result.json", "metrics.jsonl"])
@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff\xfe", b'{"versions": 3, "test": 4}'])
def test_a_missing_or_damaged_file_is_borne(tmp_path, name, content):
    folder = sample_runs.make(tmp_path / "run", METRICS, result=sample_runs.RESULT)
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
    groups = histogram_charts.histogram_charts(rows)
    charts = [*heatmaps.heatmap_charts(rows), *curve_charts(rows, 3), *speed_charts(rows), *chain(*groups.values())]
    json.dumps([chart.full_spec() for chart in charts], allow_nan=False)
    Page(histogram_charts.render_histograms(groups))


@pytest.mark.parametrize("values", [[], [0.0, -1.0], [5e-324, 1.7e308]])
def test_curves_of_extreme_values_are_drawn(values):
    rows = [
        {"split": "train", "step": i, "loss": v, "gradient_norm": v, "memory_mb": abs(v)} for i, v in enumerate(values)
    ]
    layers = [{"split": "layers", "step": 1, "parameters": {"w": {"update_ratio": v}}} for v in values]
    charts = [*curve_charts(rows + layers, best=3), *speed_charts(rows)]
    assert len(charts) == (4 if values else 0)
    if charts:
        with Image.open(io.BytesIO(vega.draw_png(charts))) as image:
            assert image.size[0] > 800


def test_a_picture_has_no_cursor_and_no_idle_clips():
    chart = curve_charts(sample_runs.metrics(100), best=50)[0]
    view = vega._static_view(chart.full_spec())
    assert [layer["mark"]["type"] for layer in chart.spec["layer"]] == ["rule", "line", "point"]
    assert [layer["mark"] for layer in view["layer"]] == [
        {"type": "rule", "strokeDash": [4, 3], "strokeWidth": 1.5},
        {"type": "line", "strokeWidth": 1.8},
    ]
    cut = lines("cut", "cut", {"series": ["a"], "step": [1], "value": [9.0]}, y={"scale": {"domain": [0, 1]}})
    assert vega._static_view(cut.full_spec())["layer"][0]["mark"]["clip"]


def test_a_picture_takes_names_that_are_no_text():
    """As Python reads the name of a file that is not UTF-8, here of a run."""
    chart = lines("caf\udce9", "caf\udce9", {"series": ["caf\udce9-1"] * 2, "step": [1, 2], "value": [9.0, 8.0]})
    assert len(vega.draw_png([chart])) > 1000


def test_a_picture_joins_metrics_between_0_and_1():
    losses = [{"split": "train", "step": step, "loss": 2.0} for step in (1, 2)]
    more = {"f1": 0.25, "roc_auc": 0.5, "nats": 1.5}
    rows = losses + [{"split": "validation", "step": step, "loss": 3.0, **more} for step in (1, 2)]
    *others, shared = picture_charts(rows, best=2)
    assert [chart.name for chart in others] == ["curve-loss", "curve-nats"]
    assert shared.data == {
        "series": ["f1", "f1", "roc auc", "roc auc"],
        "step": [1, 2] * 2,
        "value": [0.25] * 2 + [0.5] * 2,
    }
    assert shared.spec["layer"][0]["data"]["values"][0]["at"] == 2
    assert [chart.name for chart in picture_charts(rows[:2])] == ["curve-loss"]
    assert len(picture_charts([row | {f"m{i}": 0.5 for i in range(10)} for row in rows[2:]])) == 2 + 2
    assert len(vega.draw_png([*others, shared])) > 1000


def test_a_picture_of_a_matrix_keeps_its_width():
    chart = confusion_chart(np.array([[3.0, 1.0], [0.0, 2.0]]), ["no", "yes"])
    with Image.open(io.BytesIO(vega.draw_png([chart], columns=1))) as image:
        assert image.size[0] < 500  # 640 on the page's width, where the cells are no squares


def test_a_saved_picture_stands_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (100, 0, 200, 51))
    file = io.BytesIO()
    image.quantize(256, method=Image.Quantize.FASTOCTREE).save(file, "png")
    vega.save_png(file.getvalue(), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as saved:
        pixels = np.asarray(saved.convert("RGBA"))
    np.testing.assert_array_equal(pixels, [[[255, 255, 255, 255], [224, 204, 244, 255]]])


def test_events_and_the_best_checkpoint_are_marked_in_the_curves():
    rows = sample_runs.metrics(100, watch_every=1000)
    event = {"split": "event", "step": 55, "event": "rollback", "message": "back"}
    for chart in curve_charts([*rows, event], best=90):
        marks = [layer["data"]["values"] for layer in chart.spec["layer"] if "data" in layer]
        (marks,) = [values for values in marks if "at" in values[0]]
        assert (marks[0]["at"], marks[0]["text"]) == (55, "rollback: back")
        assert (marks[-1]["at"] == 90) == (chart.name in ("curve-loss", "curve-accuracy"))


def test_a_chart_of_positive_values_has_a_switch_of_its_scale():
    charts = {chart.name: chart for chart in curve_charts(sample_runs.metrics(1000, sick=True))}
    assert charts["curve-gradient_norm"].log is True  # with a spike
    assert charts["curve-loss"].log is False
    assert charts["curve-learning_rate"].log is None  # it ends at 0
    assert charts["curve-gradient_norm"].full_spec()["encoding"]["y"]["scale"]["type"] == "log"


def test_without_the_library_the_page_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    vega.library.cache_clear()
    folder = sample_runs.make(tmp_path / "run", sample_runs.metrics(200), result=sample_runs.RESULT)
    run_report.write_report(folder)
    vega.library.cache_clear()
    found = Page((folder / "report.html").read_text())
    assert "pip install 'nnfunc[programs]'" in found.words
    assert "99.17%" in found.words
    assert not found.charts
    assert not (folder / "curves.png").exists()


def test_one_palette_for_page_pictures_and_words():
    """A colour keeps its hue on a dark page: nothing is inverted, and ranks do not pass through pink."""
    assert "invert" not in html_page._static("page.css")
    assert RANK_SCALE["range"] == [palette.BETTER, palette.WORSE]
    assert RANK_SCALE["interpolate"] == "rgb"
    hue = lambda colour: colorsys.rgb_to_hsv(*(int(colour[i : i + 2], 16) for i in (1, 3, 5)))[0] * 360
    assert 200 < hue(palette.BETTER) < 230
    assert 35 < hue(palette.WORSE) < 50
    assert 130 < hue(palette.BEST) < 160
    assert (palette.BETTER_NAME, palette.WORSE_NAME, palette.BEST_NAME) == ("blue", "ochre", "green")


# the arithmetic


def chart_of(*entries):
    """The chart of histograms [low, high, counts]."""
    rows = [{"split": "layers", "step": i, "activations": {"a": {"histogram": h}}} for i, h in enumerate(entries)]
    ((chart,),) = histogram_charts.histogram_charts(rows).values()
    return chart


def test_shares_of_histograms_by_hand():
    chart = chart_of([0, 4, [1, 1, 1, 1]], [2, 4, [0, 0, 0, 2]], [1, 1, [3, 0, 0, 0]], [0, 1e6, [10**9, 0, 0, 1]])
    half, full = SHARES[31], SHARES[63]
    assert chart.data["shares"] == [half * 4, f"000{full}", f"{full}000", f"{full}001"]
    assert chart.data["low"] == [0, 2, 1, 0]
    assert chart.data["high"] == [4, 4, 1, 1e6]


def test_a_picture_of_histograms_has_their_bins():
    """In the picture of one step, of which half of the values are in the lowest bin of four, and half in the highest."""
    with Image.open(io.BytesIO(vega.draw_png([chart_of([0, 4, [5, 0, 0, 5]])]))) as image:
        red, green, blue, alpha = np.asarray(image.convert("RGBA")).astype(int).transpose(2, 0, 1)
    is_green = (alpha > 150) & (green > red + 40) & (green > blue + 20)  # of activations
    rows = np.flatnonzero(is_green.sum(axis=1) > 50)
    quarters = np.bincount(4 * (rows - rows.min()) // (np.ptp(rows) + 1), minlength=4)
    assert (quarters > np.ptp(rows) / 8).tolist() == [True, False, False, True]


def test_thinning_keeps_both_ends():
    assert thin(3, 10).tolist() == [0, 1, 2]
    assert thin(100, 3).tolist() == [0, 50, 99]
    assert thin(1, 1).tolist() == [0]
