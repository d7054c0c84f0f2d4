"""`nnfunc runs`: the table of runs, its order, CSV and plots, and folders that are none."""

import csv
import html
import io
import json
import os

import numpy as np
import pytest
from helpers import sample_runs
from helpers.command_line import main
from helpers.html_page import Page
from helpers.metric_rows import ROWS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from nnfunc.commands.list_runs import runs_page, runs_table
from nnfunc.commands.list_runs.collect_runs import RunEntry, collect_runs
from nnfunc.reports.palette import COLOURS

pytestmark = pytest.mark.usefixtures("no_compilation_cache")


def rows_of(losses, accuracies=None, train=()):
    rows = [{"split": "train", "step": step, "seconds": 1.0, "loss": v} for step, v in train]
    for i, loss in enumerate(losses):
        row = {"split": "validation", "step": 10 * (i + 1), "seconds": i + 1.0, "loss": loss}
        rows.append(row | ({"accuracy": accuracies[i]} if accuracies else {}))
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Four runs, one broken, one folder that is none."""
    root = tmp_path_factory.mktemp("runs")
    result = {"seconds": 5.5, "first": 0, "test": {"loss": 0.45, "accuracy": 0.9}}
    sample_runs.make(root / "a-10", rows_of([0.9, 0.5, 0.6], [0.5, 0.8, 0.81]), steps=30, result=result)
    sample_runs.make(root / "a-2", rows_of([0.9, 0.4], [0.5, 0.7]), steps=40, best="max accuracy", peak=1e-2)
    nan = [(40, float("nan"))]
    sample_runs.make(root / "group" / "b-1", rows_of([], train=nan), steps=40, model="cnn", dropout=0.5)
    sample_runs.make(root / "c-1", [], steps=40)
    (sample_runs.make(root / "broken", []) / "config.toml").write_text("a = [")
    (root / "notes" / "deep").mkdir(parents=True)
    (root / "notes" / "deep" / "x.txt").write_text("")
    (root / ".hidden").mkdir()
    leaves = {"params/w": {"shape": [100, 50]}}
    (root / "a-10" / "checkpoints" / "best").mkdir(parents=True)
    (root / "a-10/checkpoints/best/manifest.json").write_text(json.dumps({"leaves": leaves}))
    return root


def shown(entries, width):
    console = Console(width=width, file=io.StringIO())
    runs_table.print_table(entries, console)
    return console.file.getvalue()


def test_what_is_collected(place):
    found = {entry.name: entry for entry in collect_runs(place)}
    group = os.path.join("group", "b-1")
    assert list(found) == ["a-2", "a-10", "broken", "c-1", group, "notes"]
    a = found["a-10"]
    assert (a.state, a.model, a.parameters, a.steps, a.total) == ("complete", "mlp", 5000, 30, 30)
    assert (a.best_step, a.best, a.seconds) == (20, {"loss": 0.5, "accuracy": 0.8}, 5.5)
    assert a.last == {"loss": 0.6, "accuracy": 0.81}
    assert a.test == {"loss": 0.45, "accuracy": 0.9}
    states = {name: entry.state for name, entry in found.items()}
    assert states == {
        "a-2": "stopped",
        "a-10": "complete",
        "broken": "broken",
        "c-1": "stopped",
        group: "diverged",
        "notes": "no run",
    }
    assert found["a-2"].best == {"loss": 0.4, "accuracy": 0.7}
    assert found["a-2"].seconds == 2.0
    assert "cannot be read" in found["broken"].note


def test_sweeps_are_listed_with_what_they_came_to(tmp_path):
    sample_runs.make(tmp_path / "a", rows_of([0.5], [0.8]), steps=10)
    known = {
        "metric": "accuracy",
        "score": 0.95,
        "runs": 8,
        "seconds": 61.0,
        "test": {"accuracy": 0.9, "loss": None},
        "settings": {"schedule.peak": 0.01234567, "model.activation": "relu"},
    }
    for name in ("ended", "begun"):
        (tmp_path / name / "segments").mkdir(parents=True)
        (tmp_path / name / "sweep.toml").write_text("")
    (tmp_path / "ended" / "result.json").write_text(json.dumps(known))
    entries = {entry.name: entry for entry in collect_runs(tmp_path)}
    assert {name: entry.state for name, entry in entries.items()} == {
        "a": "stopped",
        "begun": "sweep",
        "ended": "sweep",
    }
    ended, begun = entries["ended"], entries["begun"]
    assert (ended.best, ended.test, ended.seconds) == ({"accuracy": 0.95}, {"accuracy": 0.9}, 61.0)
    assert ended.note == "8 runs, best schedule.peak=0.01235 model.activation=relu"
    assert begun.note.endswith(f"resume {tmp_path / 'begun'}")
    text = shown([*entries.values()], 120)
    assert "95.00%" in text
    assert "all: model" not in text  # of one run
    (tmp_path / "ended" / "result.json").write_text('{"settings": 3, "score": "x", "test": []}')
    assert collect_runs(tmp_path)[2].best == {}


def test_a_run_itself_may_be_named(place):
    assert [entry.name for entry in collect_runs(place / "a-10")] == ["a-10"]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_table_fits_and_has_every_run(place, width):
    text = shown(collect_runs(place), width)
    assert all(len(line) <= width for line in text.splitlines())
    for words in (
        "a-2",
        "a-10",
        "b-1",
        "20/40",
        "complete",
        "diverged",
        "80.00%",
        "dropout=0.5",
        "peak=0.01",
        "broken",
        "no run",
        "cannot be read",
    ):
        assert words in text, words
    assert "seed" not in text  # the same in all
    assert ("too narrow" in text) == (width < 80)


def test_what_all_have_in_common_is_said_once(tmp_path):
    for name in "ab":
        sample_runs.make(tmp_path / name, rows_of([0.5]), steps=10)
    text = shown(collect_runs(tmp_path), 100)
    assert text.count("mlp") == 1
    assert "all: model mlp" in text
    assert "settings" not in text


@pytest.mark.parametrize(
    "key, first",
    [
        ("name", ["a-10", "a-2"]),
        ("best", ["a-2", "a-10"]),
        ("loss", ["a-2", "a-10"]),
        ("accuracy", ["a-10", "a-2"]),
        ("last", ["a-2", "a-10"]),
        ("test", ["a-10"]),
        ("seconds", ["group/b-1", "a-2", "a-10"]),
        ("steps", ["broken", "c-1"]),
        ("schedule.peak", ["a-10", "c-1"]),
        ("model", ["group/b-1", "a-2"]),
        ("parameters", ["a-10"]),
    ],
)
def test_sorting(place, key, first):
    found = [entry.name for entry in runs_table.sort_runs(collect_runs(place), key)]
    runs = [name for name in found if name != "notes" and (key == "steps" or name != "broken")]
    assert runs[: len(first)] == first, found


def test_sorting_by_best_is_by_each_runs_own_metric():
    entries = [RunEntry("low", "complete", best={"accuracy": v}, metric="accuracy", mode="max") for v in (0.1, 0.9)]
    assert [e.best["accuracy"] for e in runs_table.sort_runs(entries, "best")] == [0.9, 0.1]


def test_settings_sort_as_numbers_then_text_then_missing_ones():
    values = [None, "none", 5, True, -1, float("nan"), 0.5]
    entries = [RunEntry(repr(value), "complete", settings={"clip": value}) for value in values]
    names = [entry.name for entry in runs_table.sort_runs(entries, "clip")]
    assert names == ["-1", "0.5", "5", "True", "'none'", "None", "nan"]


def test_a_metric_of_the_test_split_alone_sorts_too():
    entries = [RunEntry(f"{v}", "complete", test={"f1": v}, metric="f1", mode="max") for v in (0.1, 0.9)]
    assert [entry.name for entry in runs_table.sort_runs(entries, "f1")] == ["0.9", "0.1"]


def test_a_sort_or_a_plot_that_is_none(place, capsys):
    assert main("runs", place, "--sort", "accurcy") == 2
    assert "did you mean 'accuracy'" in capsys.readouterr().err
    assert main("runs", place, "--plot", "x.pdf") == 2
    assert "plot should be a .png file, got x.pdf" in capsys.readouterr().err
    assert main("runs", place / "nothing") == 2
    assert "is not a folder" in capsys.readouterr().err


def test_an_empty_folder(tmp_path, capsys):
    assert main("runs", tmp_path, "--plot", tmp_path / "x.png", "--sort", "best") == 0
    assert "There are no runs below" in capsys.readouterr().out.replace("\n", " ")
    assert main("runs", tmp_path, "--csv") == 0
    assert capsys.readouterr().out.startswith("name,state,model")


def test_csv_has_the_numbers_in_full(place, capsys):
    assert main("runs", place, "--csv", "--sort", "best") == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(lines) == 6
    by_name = {line["name"]: line for line in lines}
    a = by_name["a-10"]
    assert (a["best_loss"], a["best_step"], a["test_accuracy"], a["total_steps"]) == ("0.5", "20", "0.9", "30")
    assert (a["schedule.peak"], by_name["a-2"]["schedule.peak"]) == ("0.003", "0.01")
    assert by_name["c-1"]["best_loss"] == ""


def test_a_picture_and_a_page(place, tmp_path):
    entries = collect_runs(place)
    runs_page.plot_runs(entries, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.size[0] > 800
        colours = [colour for _, colour in image.convert("RGB").getcolors(100_000)]
    near = lambda colour: min(np.abs(np.subtract([*bytes.fromhex(colour[1:])], other)).sum() for other in colours)
    assert max(near(colour) for colour in COLOURS[:2]) < 12  # one for each run with curves
    assert near(COLOURS[3]) > 60
    runs_page.write_runs_page(entries, tmp_path / "x.html")
    page = Page((tmp_path / "x.html").read_text())
    assert page.open == []
    assert list(page.charts) == ["curve-loss", "curve-accuracy"]  # two runs are too few for parallel coordinates
    assert set(page.charts["curve-loss"]["data"]["series"]) == {"a-2", "a-10"}
    assert len(page.pictures) == 1
    assert all(entry.name in page.words for entry in entries)


def test_the_page_compares_runs_that_share_a_metric(tmp_path):
    for i, (peak, loss) in enumerate([(1e-3, 0.5), (1e-2, 0.3), (1e-1, 0.9)]):
        sample_runs.make(tmp_path / f"r{i}", rows_of([1.0, loss]), peak=peak)
    runs_page.write_runs_page(collect_runs(tmp_path), tmp_path / "x.html")
    data = Page((tmp_path / "x.html").read_text()).charts["parallel"]["data"]
    assert dict(zip(data["trial"], data["rank"], strict=True)) == {"r0": 2, "r1": 1, "r2": 3}
    assert data["about"][data["trial"].index("r1")] == "r1: best loss 0.3, schedule.peak=0.01"


def test_the_page_ranks_the_largest_first_where_it_is_best(tmp_path):
    for i, accuracy in enumerate([0.5, 0.9, 0.7]):
        sample_runs.make(tmp_path / f"r{i}", rows_of([1.0], [accuracy]), peak=10.0**-i, best="max accuracy")
    runs_page.write_runs_page(collect_runs(tmp_path), tmp_path / "x.html")
    charts = Page((tmp_path / "x.html").read_text()).charts
    for name, runs in (("parallel", "trial"), ("curve-accuracy", "series")):
        data = charts[name]["data"]
        assert dict(zip(data[runs], data["rank"], strict=True)) == {"r0": 3, "r1": 1, "r2": 2}


def test_names_are_escaped(tmp_path):
    nasty = "$x_<b>&[red]"
    sample_runs.make(tmp_path / nasty, rows_of([0.5, 0.4]), model=nasty)
    (tmp_path / "[red]y").mkdir()
    text = shown(collect_runs(tmp_path), 150)
    assert nasty in text
    assert "[red]y" in text
    runs_page.write_runs_page(collect_runs(tmp_path), tmp_path / "x.html")
    content = (tmp_path / "x.html").read_text()
    assert html.escape(nasty) in content
    assert nasty not in content
    runs_page.plot_runs(collect_runs(tmp_path), tmp_path / "x.png")


@settings(max_examples=25)
@given(st.lists(ROWS, max_size=6), st.sampled_from(["a = 3", "train = 3\nmodel = 4", "[train]\nsteps = nan"]))
def test_no_folder_makes_it_fail(tmp_path_factory, rows, config):
    root = tmp_path_factory.mktemp("fuzz")
    sample_runs.write_rows(sample_runs.make(root / "run", []), rows)
    (root / "run" / "config.toml").write_text(config)
    entries = runs_table.sort_runs(collect_runs(root), "best")
    shown(entries, 80)
    runs_table.runs_csv(entries)


def test_of_many_differing_settings_the_common_ones_are_shown():
    common = {f"a.common{i}": i for i in range(8)}
    entries = [
        RunEntry(
            f"run-{k}",
            "complete",
            settings={name: value + k for name, value in common.items()} | {f"b.only{k}{i}": i for i in range(9)},
        )
        for k in range(3)
    ]
    text = shown(entries, 100)
    assert all(f"common{i}=" in text for i in range(8))
    assert "23 more settings differ (see --csv)" in text
    assert text.count("only") == 4
