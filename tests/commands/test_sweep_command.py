"""The commands `nnfunc sweep`, `resume SWEEP` and `sweep-best` as a user meets them.

Most run in this process, as in test_cli; processes are started for signals that kill, and for jobs.
"""

import csv
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import content, main, rows
from helpers.project import ROOT

import nnfunc as nf
from nnfunc.commands.list_runs.collect_runs import collect_runs
from nnfunc.commands.sweep import finish_sweep
from nnfunc.commands.sweep import run_sweep as study
from nnfunc.commands.sweep.live_progress import SweepProgress
from nnfunc.reports import run as reports
from nnfunc.runs.lock import FolderLock
from nnfunc.sweeps import engine
from nnfunc.sweeps.progress import Progress

pytestmark = pytest.mark.usefixtures("no_compilation_cache")

CONFIG = """
data = { name = "digits", batch_size = 32 }
model = { name = "mlp", widths = [64, 6, 10], dropout = 0.1 }
objective = { name = "classification" }
optimizer = { name = "adamw" }
schedule = { name = "warmup_cosine", peak = 1e-2, warmup_steps = 2 }
train = { steps = 20, loop = "step" }
"""
SPACE = """
[sweep]
"schedule.peak" = { log = [1e-4, 1e-1] }
"model.dropout" = { uniform = [0.0, 0.5] }
seed = { range = [0, 4] }
trials = 8
"""
PEAK = "schedule.peak=log(1e-3,1e-1)"
WORDS = ("schedule.peak=log(1e-4,1e-1)", "model.dropout=uniform(0,0.5)", "seed=0:4")
LOOP = ("--execution", "loop")  # one execution gives one table, bit for bit


def said_by(*words):
    """What a command prints, which has to succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        assert main(*words) == 0
        return sys.stdout.getvalue()


def table(folder, name="table"):
    """The rows of a CSV file, numbers as numbers."""
    with (folder / f"{name}.csv").open() as file:
        return [{k: number(v) for k, v in row.items()} for row in csv.DictReader(file)]


def number(text):
    try:
        return float(text)
    except ValueError:
        return text


def json_of(folder, name="result"):
    return json.loads((folder / f"{name}.json").read_text())


def same_numbers(left, right):
    assert [list(row) for row in left] == [list(row) for row in right]
    for one, other in zip(left, right, strict=True):
        for name, value in one.items():
            if isinstance(value, float):
                expected = pytest.approx(other[name], rel=1e-5, abs=1e-7, nan_ok=True)
                assert value == expected, name
            else:
                assert value == other[name], name


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with small.toml and sweeps of it that have ended.

    seeds: 2 settings of 4 seeds each. one: 6 settings of one seed; the printed text beside each.
    """
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "small.toml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, words in {"seeds": (*WORDS, "--trials", 8), "one": (PEAK, "--trials", 6)}.items():
            text = said_by("sweep", "small.toml", *words, *LOOP, "--run", name)
            (folder / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture
def pictures():
    """For a test that is to write whole reports."""


@pytest.fixture(autouse=True)
def _no_pictures(request, monkeypatch):
    """Reports take most of the time, and have tests of their own; those of `place` are whole."""
    if "pictures" not in request.fixturenames:
        page = lambda result, folder, *more, **options: (folder / "report.html").touch()
        monkeypatch.setattr(finish_sweep, "write_page", page)
        for name in ("draw_curves", "write_report"):
            monkeypatch.setattr(reports, name, lambda *arguments: None)


@pytest.fixture
def work(place, tmp_path, monkeypatch):
    """A new folder to work in, with small.toml."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(place / "small.toml", tmp_path)
    return tmp_path


def at_report(patch, count, action):
    """Call action() at that report of the next sweep, once."""
    call, seen = SweepProgress.__call__, []

    def reported(self, report):
        seen.append(None)
        call(self, report)
        if len(seen) == count:
            action()

    patch.setattr(SweepProgress, "__call__", reported)


def reports_of(*words):
    """How many reports a command makes, which has to succeed."""
    call, seen = SweepProgress.__call__, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SweepProgress, "__call__", lambda self, report: seen.append(call(self, report)))
        said_by(*words)
    return len(seen)


def signals(*signums):
    return lambda: [os.kill(os.getpid(), signum) for signum in signums]


# what runs, and the folder


def test_trials_are_settings_times_seeds(place):
    found = sorted(table(place / "seeds", "trials"), key=lambda row: row["trial"])
    assert [row["setting"] for row in found] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [row["seed"] for row in found] == [0, 1, 2, 3, 0, 1, 2, 3]
    for name, low, high in (("schedule.peak", 1e-4, 1e-1), ("model.dropout", 0, 0.5)):
        values = [row[name] for row in found]
        assert values == [values[0]] * 4 + [values[4]] * 4
        assert values[0] != values[4]
        assert low <= min(values) < max(values) <= high
    assert len({row["validation/loss"] for row in found}) == 8


def test_the_folder_holds_what_is_promised(place):
    plain = {
        "sweep.toml",
        "sweep.json",
        "environment.json",
        "plan.json",
        "segments",
        "table.csv",
        "curves.csv",
        "result.json",
        "report.html",
        "data",
    }
    for name, more in (("one", set()), ("seeds", {"trials.csv"})):
        names = {path.name for path in (place / name).iterdir() if path.suffix != ".parquet"}
        assert names == plain | more
        assert (place / name / "sweep.toml").read_text() == CONFIG
    assert json_of(place / "seeds", "sweep") == {
        "overrides": list(WORDS),
        "options": {"trials": 8, "execution": "loop"},
        "name": "small",
        "folders": [str(place), str(place)],
    }
    command = json_of(place / "one", "environment")["command"]
    assert command == f"nnfunc sweep small.toml '{PEAK}' --trials 6 --execution loop --run one"
    page = (place / "one" / "report.html").read_text()
    best = json_of(place / "one")["settings"]["schedule.peak"]
    assert "<title>one" in page
    assert f"{best:.4g}" in page


def test_the_table_is_best_first_and_the_curves_lead_there(place):
    found, curves = table(place / "one"), table(place / "one", "curves")
    losses = [row["validation/loss"] for row in found]
    assert len(found) == 6
    assert losses == sorted(losses)
    for row in found:
        own = [c for c in curves if c["trial"] == row["trial"] and c["split"] == "validation"]
        assert [c["step"] for c in own] == list(range(2, 21, 2))
        assert own[-1]["loss"] == pytest.approx(row["validation/loss"])
    result = json_of(place / "one")
    assert (result["complete"], result["runs"], result["diverged"]) == (True, 6, 0)
    assert result["best"] == found[0]["trial"]
    assert result["settings"] == {"schedule.peak": found[0]["schedule.peak"]}
    assert result["score"] == pytest.approx(losses[0])


@pytest.mark.parametrize("name", ["table", "curves", "trials"])
def test_parquet_holds_the_same(place, name):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(place / "seeds" / f"{name}.parquet").to_pylist()
    plain = [{k: float(v) if isinstance(v, int) else "" if v is None else v for k, v in row.items()} for row in found]
    same_numbers(plain, table(place / "seeds", name))


def test_seeds_give_means_and_intervals(place):
    found, trials = table(place / "seeds"), table(place / "seeds", "trials")
    assert len(found) == 2
    for row in found:
        own = [m["validation/loss"] for m in trials if m["setting"] == row["setting"]]
        half = 3.182446 * np.std(own, ddof=1) / 2  # Student's t of 3 degrees, at 97.5 %
        ends = (np.mean(own), np.mean(own) - half, np.mean(own) + half)
        known = [row[f"validation/loss{end}"] for end in ("", " low", " high")]
        assert known == pytest.approx(ends, rel=1e-5)
    mean, low, high = (found[0][f"validation/loss{end}"] for end in ("", " low", " high"))
    text = (place / "seeds.txt").read_text()
    assert f"best    loss {mean:.4g} ({low:.4g} to {high:.4g}, 95 % over 4 seeds)  schedule." in text
    assert re.search(r"^test    loss [\d.]+  accuracy [\d.]+% \(mean of 4 seeds\)$", text, re.M)


def test_the_table_in_the_file_does_the_same(place, work):
    (work / "small.toml").write_text(CONFIG + SPACE)
    said_by("sweep", "small.toml", *LOOP, "--run", "run")
    for name in ("table.csv", "trials.csv", "curves.csv"):
        assert (work / "run" / name).read_bytes() == (place / "seeds" / name).read_bytes()
    assert (work / "run/sweep.toml").read_text() == CONFIG + SPACE


def test_words_go_before_the_table_in_the_file(work):
    (work / "small.toml").write_text(CONFIG + SPACE)
    words = ("seed=3", "model.dropout=0.2", "schedule.peak=[1e-3,1e-2]", "--trials", 2)
    plan = said_by("sweep", "small.toml", *words, *LOOP, "--dry-run")
    assert plan.startswith("2 runs of 20 steps: 2 settings\narguments of the program: schedule.peak\n")


def test_trials_follow_the_patience_of_the_config(work):
    words = ("sweep", "small.toml", "optimizer.weight_decay=[0.1,0.2]", *LOOP, "--dry-run")
    patience = ("train.patience=3", "train.best=min loss")
    assert "search: patience" in said_by(*words, *patience).splitlines()
    assert "patience" not in said_by(*words)
    line = "note: train.patience is for single runs; a sweep with search halving ignores it"
    assert line in said_by(*words, *patience, "--search", "halving").splitlines()


def test_lists_alone_are_a_grid(work):
    words = ("schedule.peak=[1e-3, 1e-2]", "model.dropout=[0.0, 0.1]")
    said = said_by("sweep", "small.toml", *words, *LOOP)
    assert "config  nnfunc sweep-best runs/small-sweep-1\n" in said
    found = {(r["schedule.peak"], r["model.dropout"]) for r in table(work / "runs/small-sweep-1")}
    assert found == {(1e-3, 0.0), (1e-3, 0.1), (1e-2, 0.0), (1e-2, 0.1)}
    said_by("sweep", "small.toml", words[0], *LOOP)
    assert len(table(work / "runs/small-sweep-2")) == 2


def test_a_csv_file_is_swept_and_gone_on_with(work, monkeypatch):
    draw = np.random.default_rng(0)
    x, labels = draw.normal(size=(60, 3)), np.arange(60) % 3
    lines = [",".join(map(str, [*row, f"c{label}"])) for row, label in zip(x, labels, strict=True)]
    (work / "x.csv").write_text("\n".join(["a,b,c,kind", *lines]))
    (work / "small.toml").write_text(
        CONFIG.replace('name = "digits"', 'name = "table", source = "x.csv", label = "kind"')
        .replace("[64, 6, 10]", "[3, 6, 3]")
        .replace("batch_size = 32", "batch_size = 8")
    )
    with monkeypatch.context() as patch:
        at_report(patch, 3, signals(signal.SIGTERM))
        assert main("sweep", "small.toml", "schedule.peak=[1e-3,1e-2]", "--run", "run") == 143
    assert main("resume", "run") == 0
    assert len(table(work / "run")) == 2


# what may be swept

NUMBERS = {
    "model.dropout": "[0.0, 0.5]",
    "model.gain": "uniform(0.5, 2)",
    "objective.label_smoothing": "[0.0, 0.1]",
    "optimizer.b1": "uniform(0.8, 0.95)",
    "optimizer.b2": "[0.99, 0.999]",
    "optimizer.eps": "log(1e-8, 1e-6)",
    "optimizer.weight_decay": "[0.0, 0.1]",
    "optimizer.clip": "uniform(0.5, 2)",
    "schedule.peak": "log(1e-4,1e-1)",
    "schedule.warmup_steps": "int(1, 4)",
    "schedule.final": "[0.0, 0.1]",
    "data.seed": "0:3",
}


def test_every_number_is_an_argument_of_one_program(work):
    words = [f"{path}={values}" for path, values in NUMBERS.items()]
    plan = said_by("sweep", "small.toml", *words, "--trials", 8, *LOOP, "--dry-run").splitlines()
    names = plan[1].removeprefix("arguments of the program: ").split(", ")
    assert sorted(names) == sorted(NUMBERS)
    assert [line.partition(":")[0] for line in plan[2:]] == ["group 0, 8 trials", "expected"]


def test_the_weights_of_a_loss_are_numbers_too(work):
    weights = f"objective.weight={[1.0] * 10}"
    words = ("small.toml", weights, "objective.weight[0]=uniform(1,50)", "--trials", 2, *LOOP)
    plan = said_by("sweep", *words, "--run", "run").splitlines()
    assert plan[1] == "arguments of the program: objective.weight[0]"
    first, second = csv.DictReader((work / "run/table.csv").read_text().splitlines())
    assert first["validation/loss"] != second["validation/loss"]


def test_settings_that_would_train_alike_are_not_drawn(work, capsys):
    words = ("sweep", "small.toml", "optimizer.weight_decay=[0.1,0.2]", *LOOP, "--dry-run", "--trials")
    said_by(*words, 2)
    assert main(*words, 3) == 2
    assert "trials should be at most the number of different settings, about 2, got 3" in capsys.readouterr().err


STRUCTURE = {
    "model.widths": ("[[64,4,10], [64,6,10]]", "[64, 4, 10]", "[64, 6, 10]"),
    "model.activation": ("choice(relu,tanh)", "'relu'", "'tanh'"),
    "data.batch_size": ("[16, 32]", "16", "32"),
    "optimizer": ('choice({name="sgd"}, {name="adamw"})', "{'name': 'sgd'}", "{'name': 'adamw'}"),
    "model": (
        'choice({name="mlp",widths=[64,10]}, {name="mlp",widths=[64,4,10],norm="batch"})',
        "{'name': 'mlp', 'widths': [64, 10]}",
        "{'name': 'mlp', 'widths': [64, 4, 10]...",
    ),
    "train.steps": ("[10, 20]", "10", "20"),
}


@pytest.mark.parametrize("path", STRUCTURE)
def test_structure_makes_groups(work, path):
    values, *names = STRUCTURE[path]
    words = (f"{path}={values}", "seed=0:3", *LOOP, "--dry-run")
    plan = said_by("sweep", "small.toml", *words).splitlines()
    assert plan[0] == "6 runs of 20 steps: 2 settings, 3 seeds each"
    assert f"makes groups: {path} (it is not a number that a step reads)" in plan
    for place, name in enumerate(names):
        (line,) = [line for line in plan if line.startswith(f"group {place} ")]
        steps = " of 10 steps" if name == "10" else ""
        assert line.startswith(f"group {place} ({path}={name}), 3 trials{steps}: trial after")


# the plan


def test_a_dry_run_tells_all_and_writes_nothing(work, capsys):
    before = content(work)
    assert main("sweep", "small.toml", *WORDS, "--trials", 8, "--dry-run") == 0
    said = capsys.readouterr()
    assert said.err == ""
    runs, arguments, group, expected = said.out.splitlines()
    assert runs == "8 runs of 20 steps: 2 settings, 4 seeds each"
    assert arguments == "arguments of the program: model.dropout, schedule.peak"
    how = r"(trial after trial|\d trials side by side)(, from \d threads)?(, on \d devices)?"
    speed = r"(, one step per dispatch)? \(probe: [\d.e+]+ runs/s\)"
    took = r"([\d.e+-]+ s|\d+ min)"
    assert re.fullmatch(rf"group 0, 8 trials: {how}{speed}, about [\d.]+ kB at a time, {took}", group), group
    assert re.fullmatch(rf"expected: {took} for all steps of all runs, without compilation", expected)
    assert content(work) == before
    assert not (work / "runs").exists()


def test_the_plan_is_printed_before_the_rest(place):
    lines = (place / "seeds.txt").read_text().splitlines()
    assert lines[0] == "8 runs of 20 steps: 2 settings, 4 seeds each"
    assert lines[2].startswith("group 0, 8 trials: trial after trial")
    assert lines[3].startswith("expected: ")
    assert lines[4].startswith("step ")
    assert lines[-6].startswith("8 runs in ")
    assert [line.split()[0] for line in lines[-5:]] == ["best", "test", "table", "report", "config"]


# progress


def report(**changes):
    own = Progress(
        running=[3],
        step=10,
        steps=1000,
        trials=8,
        done=2,
        diverged=0,
        alive=8,
        best=3,
        score=0.5,
        hypers={"schedule.peak": 0.0123456, "model.activation": "relu"},
        median=0.71,
        fraction=0.5,
        seconds=3.0,
        trials_per_second=2.0,
    )
    return own._replace(**changes)


SHOWN = {
    "all": (
        {},
        [
            "step 10/1,000  8 alive, 2 of 8 done",
            "2 trials/s, 0:02 left",
            "best loss 0.5  (trial 3: schedule.peak=0.01235 model.activation=relu)  median 0.71",
        ],
    ),
    "diverged": (
        {"diverged": 1, "alive": 7, "trials_per_second": 0.02},
        ["step 10/1,000  7 alive, 1 diverged, 2 of 8 done", "1.2 trials/min, 3:20 left", ...],
    ),
    "before the second report": ({"trials_per_second": math.nan}, [..., "", ...]),
    "no settings": ({"hypers": {}}, [..., ..., "best loss 0.5  (trial 3)  median 0.71"]),
    "no figures": ({"best": None}, [..., ..., "no metrics yet"]),
    "none finite": ({"best": None, "diverged": 8}, [..., ..., "no finite metric"]),
}


@pytest.mark.parametrize("case", SHOWN)
def test_what_is_shown(case):
    changes, expected = SHOWN[case]
    lines = SweepProgress("loss").lines(report(**changes))
    assert [e if e is ... else line for line, e in zip(lines, expected, strict=True)] == expected


def test_shares_are_in_percent():
    last = SweepProgress("accuracy").lines(report(score=0.975, median=0.5))[2]
    assert last.startswith("best accuracy 97.50%  (trial 3: ")
    assert last.endswith("median 50.00%")


def test_trials_that_are_still_to_come_count():
    own = SweepProgress("loss")
    own.trials = 16
    first, second, _ = own.lines(report())
    assert first == "step 10/1,000  8 alive, 2 of 16 done"
    assert second == "2 trials/s, 0:06 left"  # a quarter of 16 is done


def shares(trials, batches, every=100):
    """Reports of batches of a search that proposes as it goes."""
    for batch in range(1, batches + 1):
        before = (batch - 1) * trials
        for i in range(1, every + 1):
            done = before + (trials if i == every else 0)
            share = (before + trials * i / every) / (batch * trials)
            yield report(trials=batch * trials, done=done, fraction=share)


@pytest.mark.parametrize("batches", [1, 4])
def test_elsewhere_there_is_a_line_a_tenth(capsys, batches):
    own = SweepProgress("loss")
    own.trials = 4 * batches
    for one in shares(4, batches):
        own(one)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert [line.count(" | ") for line in lines] == [2] * 10
    assert f"{4 * batches} of {4 * batches} done" in lines[-1]
    assert " of 4 done" not in lines[0] or batches == 1


def test_a_panel_is_given_every_report_and_nothing_is_printed(capsys):
    shown = []
    own = SweepProgress("loss", shown.append)
    own.show_message("the jobs run ...")
    own(report(done=1))
    own(report(done=8))
    assert shown[0] == ["the jobs run ..."]
    assert [lines[0][-11:] for lines in shown[1:]] == ["1 of 8 done", "8 of 8 done"]
    SweepProgress("loss").show_message("the jobs run ...")
    assert capsys.readouterr().out == ""


def test_the_lines_of_a_sweep(place):
    lines = [line for line in (place / "one.txt").read_text().splitlines() if "alive" in line]
    pattern = (
        r"step \d+/20  6 alive, (\d) of 6 done( \| [\d.e+]+ trials/(s|min), \d+:\d\d left)?"
        r" \| best loss [\d.]+  \(trial \d: schedule\.peak=[\d.e-]+\)  median [\d.]+"
    )
    assert 1 < len(lines) <= 11
    assert all(re.fullmatch(pattern, line) for line in lines), lines
    assert "6 of 6 done" in lines[-1]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def screen(text):
    """The lines that a terminal shows after this text, as far as Rich uses one."""
    lines, at = [""], 0
    for part in re.split(r"(\x1b\[[\d;?]*[A-Za-z]|\r|\n)", text):
        if part == "\n":
            at += 1
            lines += [""] * (at + 1 - len(lines))
        elif part == "\x1b[1A":
            at -= 1
        elif part == "\x1b[2K":
            lines[at] = ""
        elif part and not part.startswith(("\x1b", "\r")):
            lines[at] += part
    return [line.rstrip() for line in lines if line.strip()]


def parted(lines):
    """The first words of the lines of the plan, one of which may be broken in two, and the others."""
    at = next(i for i, line in enumerate(lines) if line.startswith("step "))
    begins = [line.split()[0] for line in lines[:at]]
    known = ("arguments", "group", "expected:")
    return [word for word in begins if word in known or word.isdecimal()], lines[at:]


def terminal(monkeypatch):
    """What is printed from here on goes to a terminal of 100 columns."""
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())
    return sys.stdout


def test_a_terminal_has_one_panel(work, monkeypatch):
    out = terminal(monkeypatch)
    at_report(monkeypatch, 5, lambda: time.sleep(0.3))  # it is drawn at least once on the way
    assert main("sweep", "small.toml", PEAK, "--trials", 3, *LOOP, "--run", "run") == 0
    text = out.getvalue()
    assert "compiling ..." in text
    assert text.count("alive") > 1
    plan, lines = parted(screen(text))
    assert plan == ["3", "arguments", "group", "expected:"]
    assert [line.split()[0] for line in lines] == [
        "step",
        *lines[1].split()[:1],
        "best",
        "3",
        "best",
        "test",
        "table",
        "report",
        "config",
    ]
    assert lines[0] == "step 20/20  3 alive, 3 of 3 done"
    assert re.fullmatch(r"[\d.e+]+ trials/(s|min), 0:00 left", lines[1])


def test_ctrl_c_in_a_terminal_is_answered_in_the_panel(work, monkeypatch, capfd):
    out = terminal(monkeypatch)

    def stop():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)

    at_report(monkeypatch, 5, stop)
    assert main("sweep", "small.toml", PEAK, "--trials", 3, *LOOP, "--run", "run") == 130
    text, said = out.getvalue(), capfd.readouterr().err
    assert "stopping after this step; press Ctrl-C again to stop immediately" in text
    assert said.startswith("nnfunc: stopped with 0 of 3 trials complete")
    plan, lines = parted(screen(text))
    assert plan == ["3", "arguments", "group", "expected:"]
    assert lines[0] == "step 10/20  3 alive, 0 of 3 done"
    assert re.fullmatch(r"[\d.e+]+ trials/(s|min), \d+:\d\d left", lines[1])
    assert lines[2].startswith("best loss ")
    assert len(lines) == 3


def test_a_panel_that_had_nothing_to_say_leaves_nothing(place, work, monkeypatch):
    shutil.copytree(place / "one", "one")
    out = terminal(monkeypatch)
    assert main("resume", "one") == 0
    assert "compiling ..." in out.getvalue()
    assert screen(out.getvalue())[0] == "one is complete: all its trials were already trained"


# interrupted


STOPS = [
    ("everything", signal.SIGINT, 130, 7),
    ("everything", signal.SIGTERM, 143, 31),
    ("halving", signal.SIGTERM, 143, 9),
    ("population", signal.SIGINT, 130, 3),
    ("optuna", signal.SIGINT, 130, 23),
]


@pytest.mark.parametrize("search, signum, code, count", STOPS)
def test_a_stopped_sweep_goes_on_to_the_same_table(work, monkeypatch, capfd, search, signum, code, count):
    if search == "optuna":
        pytest.importorskip("optuna")
    option = '{name="optuna", batch=2}' if search == "optuna" else search
    words = ("small.toml", PEAK, "--trials", 6, "--search", option, "--run")
    every = reports_of("sweep", *words, "whole", *LOOP)
    with monkeypatch.context() as patch:
        at_report(patch, count, signals(signum))
        assert main("sweep", *words, "run", *LOOP) == code
    said = capfd.readouterr().err
    again = "; press Ctrl-C again to stop immediately" if signum == signal.SIGINT else ""
    known = re.fullmatch(
        rf"nnfunc: stopping after this step{again}\n"
        r"nnfunc: stopped with (\d) of 6 trials complete; everything is saved\. "
        r"Resume with: nnfunc resume run\n",
        said,
    )
    assert known, said
    if search == "everything":
        assert int(known[1]) == count // 10
    assert not (work / "run/table.csv").exists()
    assert main("sweep-best", "run") == 2
    message = "sweep-best: the sweep of run is not complete. Resume it: nnfunc resume run"
    assert capfd.readouterr().err == f"nnfunc: {message}\n"
    assert reports_of("resume", "run") <= every - count  # what was saved is not run again
    for name in ("table.csv", "curves.csv"):
        assert (work / "run" / name).read_bytes() == (work / "whole" / name).read_bytes()
    one, other = (json_of(work / name) for name in ("run", "whole"))
    assert one | {"seconds": 0} == other | {"seconds": 0}


def test_a_sweep_stopped_before_its_first_step_goes_on(place, work, monkeypatch, capsys):
    conduct = study.conduct

    def late(*args):
        signals(signal.SIGTERM)()
        return conduct(*args)

    with monkeypatch.context() as patch:
        patch.setattr(study, "conduct", late)
        assert main("sweep", "small.toml", PEAK, "--trials", 6, *LOOP, "--run", "run") == 143
    assert "stopped with 0 of 6 trials complete" in capsys.readouterr().err
    assert main("resume", "run") == 0
    assert (work / "run/table.csv").read_bytes() == (place / "one/table.csv").read_bytes()


def test_a_second_ctrl_c_stops_at_once(place, work, monkeypatch, capfd):
    monkeypatch.setattr(engine, "SAVE_EVERY", 0.0)
    with monkeypatch.context() as patch:
        at_report(patch, 25, signals(signal.SIGINT, signal.SIGINT))
        assert main("sweep", "small.toml", PEAK, "--trials", 6, *LOOP, "--run", "run") == 130
    assert capfd.readouterr().err == (
        "nnfunc: stopping after this step; press Ctrl-C again to stop immediately\n"
        "nnfunc: stopped immediately; everything saved is intact. Resume with: nnfunc resume run\n"
    )
    assert reports_of("resume", "run") == 60 - 24  # the one in hand was not saved yet
    assert (work / "run/table.csv").read_bytes() == (place / "one/table.csv").read_bytes()


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


def test_ctrl_c_before_the_sweep_leaves_nothing(work, monkeypatch, capsys):
    monkeypatch.setattr(study, "load_sweep", interrupt)
    assert main("sweep", "small.toml", PEAK, "--trials", 6) == 130
    said = capsys.readouterr().err
    assert said == "nnfunc: stopped before the sweep began; nothing was written\n"
    assert [path.name for path in work.iterdir()] == ["small.toml"]


def test_ctrl_c_before_the_report_costs_only_that(place, work, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(finish_sweep, "write_page", interrupt)
        assert main("sweep", "small.toml", PEAK, "--trials", 6, *LOOP, "--run", "run") == 130
    assert capsys.readouterr().err == (
        "nnfunc: all trials are complete and saved; only the tables and the report are missing. "
        "Resume with: nnfunc resume run\n"
    )
    with monkeypatch.context() as patch:
        patch.setattr(SweepProgress, "__call__", interrupt)  # nothing is run again
        said_by("resume", "run")
    assert (work / "run/table.csv").read_bytes() == (place / "one/table.csv").read_bytes()
    assert (work / "run/report.html").exists()


def test_a_sweep_that_has_ended_is_only_told_again(place, work):
    shutil.copytree(place / "one", "one")
    before = content(work / "one")
    lines = said_by("resume", "one").splitlines()
    assert lines[0] == "one is complete: all its trials were already trained"
    assert lines[1:] == (place / "one.txt").read_text().splitlines()[-6:]
    after = content(work / "one")
    assert after.keys() == before.keys()
    for name in ("table.csv", "curves.csv", "result.json"):
        assert after[name] == before[name]


def test_a_sweep_goes_on_with_what_it_was_begun_with(place, work, capsys):
    shutil.copytree(place / "one", "one")
    before = content(work / "one")
    assert main("resume", "one", "train.steps=40") == 2
    said = "resume: a sweep should resume with its original settings, got 'train.steps=40'."
    assert capsys.readouterr().err == f"nnfunc: {said} Start a new sweep to change them.\n"
    lock = FolderLock(work / "one")
    assert main("resume", "one") == 2
    assert re.search(r"process \d+ .* is training in this folder", capsys.readouterr().err)
    lock.close()
    assert content(work / "one") == before


# the winner, and other trials


def trained(words, run):
    """(validation, test) figures at the last step of a run of `nnfunc train`."""
    said_by("train", *words, "--run", run)
    last = [row for row in rows(run) if row["split"] == "validation"][-1]
    result = json_of(run)
    assert result["step"] == last["step"] == 20  # so the best checkpoint is the last one
    return last, result["test"]


def figures_of(row):
    return {k.partition("/")[2]: v for k, v in row.items() if k.startswith("validation/")}


def assert_close(figures, expected):
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_sweep_best_prints_a_config_that_trains_the_winner(place, work):
    text = said_by("sweep-best", place / "one")
    result, best = json_of(place / "one"), table(place / "one")[0]
    which = f"trial {best['trial']:.0f}: loss {result['score']:.6g}"
    assert text.startswith(f"# best of 6 runs, {which}\n")
    (work / "best.toml").write_text(text)
    assert tomllib.loads(text)["schedule"]["peak"] == best["schedule.peak"]
    validation, test = trained(["best.toml"], work / "run")
    assert validation["loss"] == pytest.approx(result["score"], rel=1e-5)
    assert_close(validation, figures_of(best))
    assert_close(test, result["test"])


def test_with_seeds_it_is_the_first_run_of_the_best_setting(place, work):
    text = said_by("sweep-best", place / "seeds")
    best, result = table(place / "seeds")[0], json_of(place / "seeds")
    own = [m for m in table(place / "seeds", "trials") if m["setting"] == best["setting"]]
    own.sort(key=lambda row: row["trial"])
    (work / "best.toml").write_text(text)
    config = tomllib.loads(text)
    assert (config["seed"], config["data"]["seed"]) == (0, 0)
    assert config["model"]["dropout"] == best["model.dropout"]
    mean = f"loss {best['validation/loss']:.6g} on average over 4 seeds"
    which = f"trial {own[0]['trial']:.0f}: loss {own[0]['validation/loss']:.6g}"
    assert text.startswith(f"# best of 2 settings, {mean}; of these {which}\n")
    tests = []
    for run, trial in enumerate(own):
        name = f"run-{run}"
        validation, test = trained(["best.toml", f"seed={run}"], work / name)
        assert_close(validation, figures_of(trial))
        tests.append(test)
    means = {name: np.mean([test[name] for test in tests]) for name in tests[0]}
    assert_close(means, result["test"])


def test_each_trial_is_the_run_of_its_values(place, work):
    (row,) = [row for row in table(place / "seeds", "trials") if row["trial"] == 6]
    values = [f"{name}={row[name]!r}" for name in ("schedule.peak", "model.dropout")]
    words = [*values, "seed=2", "data.seed=0"]  # all trials have the order of the config
    validation, _ = trained(["small.toml", *words], work / "run")
    assert_close(validation, figures_of(row))


def test_a_trial_of_a_group_is_the_run_of_its_values(work):
    words = ("model.activation=choice(relu,tanh)", "data.batch_size=[16,32]", "data.seed=[0,7]")
    said_by("sweep", "small.toml", *words, *LOOP, "--run", "sweep")
    found = table(work / "sweep")
    assert len(found) == 8
    wanted = {"model.activation": "tanh", "data.batch_size": 16, "data.seed": 7}
    (row,) = [row for row in found if wanted.items() <= row.items()]
    values = ["model.activation=tanh", "data.batch_size=16", "data.seed=7"]
    validation, _ = trained(["small.toml", *values], work / "run")
    assert_close(validation, figures_of(row))
    text = said_by("sweep-best", "sweep", "--trial", int(row["trial"]))
    assert tomllib.loads(text) == tomllib.loads((work / "run/config.toml").read_text())


def test_any_trial_may_be_asked_for(place, capsys):
    row = table(place / "one")[-1]
    text = said_by("sweep-best", place / "one", "--trial", int(row["trial"]))
    assert tomllib.loads(text)["schedule"]["peak"] == row["schedule.peak"]
    which = f"trial {row['trial']:.0f} of 6"
    assert text.startswith(f"# {which}: loss {row['validation/loss']:.6g}\n")
    seeds = said_by("sweep-best", place / "seeds", "--trial", 6)
    assert tomllib.loads(seeds)["seed"] == 2


def test_a_saved_trial_is_a_run_like_any_other(place, work, capsys):
    text = said_by("sweep-best", place / "one", "--save", "saved")
    assert "\n# Saved as a run: saved\n" in text
    result = json_of(place / "one")
    test = f"loss {result['test']['loss']:.4g}  accuracy {result['test']['accuracy']:.2%}"
    assert said_by("evaluate", "saved").startswith(f"test  {test}   (360 examples, step 20)\n\nmetric ")
    (entry,) = collect_runs(Path("saved"))
    assert (entry.state, entry.note) == ("trial", f"trial {result['best']} of {place / 'one'}")
    assert f"trial {result['best']} of" in said_by("watch", "saved", "--once")
    lines = said_by("resume", "saved").splitlines()
    assert collect_runs(Path("saved"))[0].state == "complete"
    assert lines[-3] == "saved is complete: all 20 steps were already trained (best at step 20)"
    assert lines[-2:] == [f"test    {test}", "report  saved/report.html"]
    x = nf.data.digits().test[0][:5]
    np.save("x.npy", x)
    model, params, state = nf.load_run("saved")
    y = model.apply(params, x, state=state)
    said_by("predict", "saved", "x.npy", "--output", "y.npy")
    np.testing.assert_allclose(np.load("y.npy"), y, rtol=1e-5, atol=1e-6)
    losses = [row["loss"] for row in rows(work / "saved") if row["split"] == "validation"]
    assert losses[-1] == pytest.approx(result["score"])
    before = content(work)
    assert main("sweep-best", place / "one", "--save", "saved") == 2
    said = "sweep-best: the folder saved exists already. Choose another with --save."
    assert capsys.readouterr().err == f"nnfunc: {said}\n"
    assert content(work) == before


def test_a_trial_that_was_ended_early_is_saved_and_goes_on(work):
    said_by("sweep", "small.toml", PEAK, "--trials", 6, "--search", "halving", *LOOP, "--run", "s")
    row = table(work / "s")[-1]
    assert row["stopped_at"] < 20
    text = said_by("sweep-best", "s", "--trial", int(row["trial"]), "--save", "saved")
    figure = f"loss {row['validation/loss']:.6g} at step {row['stopped_at']:.0f}"
    assert text.startswith(f"# trial {row['trial']:.0f} of 6: {figure}\n")
    assert collect_runs(Path("saved"))[0].state == "trial"
    assert f"trained steps {row['stopped_at']:.0f} to 20 in" in said_by("resume", "saved")


@pytest.mark.parametrize(
    "words, message",
    [
        (("small",), r"small does not exist; did you mean '\S*seeds'|there is"),
        (("saved",), r"saved has no sweep\.toml, so it is not a sweep"),
        (("one", "--trial", "6"), r"sweep-best: trial should be in \[0, 6\), got 6\."),
        (("one", "--trial", "-1"), r"sweep-best: trial should be in \[0, 6\), got -1\."),
    ],
)
def test_what_is_no_sweep_and_no_trial(place, work, capsys, words, message):
    (work / "saved").mkdir()
    (work / "one").symlink_to(place / "one")
    assert main("sweep-best", *words) == 2
    said = capsys.readouterr()
    assert re.search(message, said.err), said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


# options


@pytest.mark.parametrize("name", ["halving", "hyperband", "population", "optuna"])
def test_searches_by_name(work, name):
    if name == "optuna":
        pytest.importorskip("optuna")
    words = (PEAK, "--trials", 6, "--search", name, *LOOP, "--run", "run")
    lines = said_by("sweep", "small.toml", *words).splitlines()
    assert f"search: {name}" in lines or lines[0].startswith(
        "optuna proposes 6 settings; this is the plan for 6 random ones"
    )
    found, result = table(work / "run"), json_of(work / "run")
    assert (len(found), result["search"], result["best"]) == (6, name, found[0]["trial"])
    early = sum("early" in line for line in lines)
    if name in ("halving", "hyperband"):
        assert early == 1
        at = [row["stopped_at"] or 20 for row in found]
        assert at[0] == 20
        assert at == sorted(at, reverse=True)
        assert min(at) < 20
    else:
        assert early == 0
        assert "stopped_at" not in found[0]
    assert (work / "run/lineage.csv").exists() == (name == "population")
    best = said_by("sweep-best", "run")
    assert ("# The hyperparameters changed during training" in best) == (name == "population")


def test_searches_with_arguments(work):
    words = (PEAK, "--trials", 6, *LOOP, "--run")
    said_by("sweep", "small.toml", "--search", '{name="halving", eta=6}', *words, "halving")
    ended = [row["stopped_at"] for row in table(work / "halving")]
    assert ended == ["", 4, 4, 4, 4, 4]  # the evaluation nearest to 20 / 6
    search = '{name="patience", evaluations=1, threshold=10.0}'
    said_by("sweep", "small.toml", "--search", search, *words, "patience")
    assert [row["stopped_at"] for row in table(work / "patience")] == [4] * 6
    (work / "small.toml").write_text(f'{CONFIG}[sweep]\nsearch = {{ name = "halving", eta = 6 }}\n')
    said_by("sweep", "small.toml", *words, "file")
    assert (work / "file/table.csv").read_bytes() == (work / "halving/table.csv").read_bytes()


def test_optuna_is_told_of_to_its_end(work):
    pytest.importorskip("optuna")
    search = '{name="optuna", batch=2}'
    said = said_by("sweep", "small.toml", PEAK, "--trials", 6, "--search", search, *LOOP)
    lines = [line for line in said.splitlines() if "alive" in line]
    assert all(" of 6 done" in line for line in lines)
    assert "6 of 6 done" in lines[-1]
    assert 5 < len(lines) <= 11


def test_best_says_what_ranks(work):
    words = (PEAK, "--trials", 6, "--best", "max accuracy", *LOOP, "--run", "run")
    said = said_by("sweep", "small.toml", *words)
    found, result = table(work / "run"), json_of(work / "run")
    figures = [row["validation/accuracy"] for row in found]
    assert figures == sorted(figures, reverse=True)
    assert (result["metric"], result["best"]) == ("accuracy", found[0]["trial"])
    assert f"best    accuracy {figures[0]:.2%} (trial {result['best']})" in said
    assert re.search(r"\| best accuracy [\d.]+%  \(trial", said)


def test_seeds_are_counted_from_the_config(work):
    words = ("schedule.peak=[1e-3,1e-2]", "seed=5", "--seeds", 3, *LOOP, "--run", "run")
    said = said_by("sweep", "small.toml", *words)
    assert {row["seed"] for row in table(work / "run", "trials")} == {5, 6, 7}
    assert re.search(r"^best    loss \S+ \(\S+ to \S+, 95 % over 3 seeds\)  schedule", said, re.M)


def test_seeds_alone(work, pictures):
    said = said_by("sweep", "small.toml", "seed=2:5", *LOOP, "--run", "run")
    assert said.startswith("3 runs of 20 steps: 1 setting, 3 seeds each\n")
    assert re.search(r"^best    loss \S+ \(\S+ to \S+, 95 % over 3 seeds\)$", said, re.M)
    assert len(table(work / "run")) == 1
    assert tomllib.loads(said_by("sweep-best", "run"))["seed"] == 2


EXECUTIONS = {
    "vmap": (("vmap",), "6 trials side by side"),
    "chunk": (("vmap", "--chunk", 2), "2 trials side by side"),
    "loop": (("loop",), "trial after trial"),
    "threads": (("threads", "--chunk", 2), "2 trials side by side, from "),
    "devices": (("devices",), " side by side, on "),
}


@pytest.mark.parametrize("case", EXECUTIONS)
def test_every_execution_gives_the_same_table(place, work, case):
    execution, words = EXECUTIONS[case]
    said = said_by("sweep", "small.toml", PEAK, "--trials", 6, "--execution", *execution, "--run", "run")
    group = said.splitlines()[2]
    assert group.startswith("group 0, 6 trials: ")
    assert words in group
    by_trial = lambda found: sorted(found, key=lambda row: row["trial"])
    same_numbers(by_trial(table(work / "run")), by_trial(table(place / "one")))


# trials that fail


def test_trials_that_diverge_or_are_refused_harm_no_other(work, pictures, capsys):
    words = ("schedule.warmup_steps=[2,15]", "train.steps=[10,20]", *LOOP, "--run")
    said = said_by("sweep", "small.toml", "schedule.peak=[1e-2,1e12]", *words, "run")
    assert re.search(r"^8 runs in [\d.]+ (s|min), 3 diverged, 2 refused$", said, re.M)
    assert "trial 2 is refused: warmup_cosine: total_steps should be above 15" in said
    found = table(work / "run")
    fine = [row for row in found if row["diverged_at"] == "" and row["refused"] == ""]
    assert found[:3] == fine
    assert [row["diverged_at"] >= 0 for row in found if row["diverged_at"] != ""] == [True] * 3
    assert {int(row["trial"]) for row in found if row["refused"]} == {2, 6}
    said_by("sweep", "small.toml", "schedule.peak=[1e-2]", *words, "fine")
    for one, other in zip(fine, table(work / "fine"), strict=False):
        assert figures_of(one) == figures_of(other)
    text = said_by("sweep-best", "run", "--trial", 7)
    assert re.match(r"# trial 7 of 8: diverged at step \d+\n", text)
    for more in ((), ("--save", "saved")):
        assert main("sweep-best", "run", "--trial", 2, *more) == 2
        assert "sweep-best: trial 2 was refused: warmup_cosine: " in capsys.readouterr().err
    assert not (work / "saved").exists()


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_sweep_of_which_nothing_is_left_ends_well(work, pictures, capsys, seeds):
    words = ("schedule.peak=[1e12,1e15]", "--seeds", seeds, *LOOP, "--run", "run")
    said = said_by("sweep", "small.toml", *words)
    assert re.search(rf"^{2 * seeds} runs in [\d.]+ (s|min), {2 * seeds} diverged$", said, re.M)
    problem = "none: every setting has a trial without" if seeds > 1 else "none: no trial has a finite"
    assert f"\nbest    {problem}" in said
    assert "config  " not in said
    assert "test    " not in said
    assert len(table(work / "run")) == 2
    assert (work / "run/report.html").exists()
    assert json_of(work / "run")["best"] is None
    assert main("sweep-best", "run") == 2
    message = capsys.readouterr().err
    assert message.startswith(f"nnfunc: sweep-best: there is no best trial: {problem.removeprefix('none: ')}")
    assert message.endswith("Choose a trial with --trial.\n")
    config = tomllib.loads(said_by("sweep-best", "run", "--trial", 2 * seeds - 1))
    assert config["schedule"]["peak"] == 1e15


# what is refused


MISTAKES = {
    "a misspelt key": (("schedule.peek=log(1e-4,1e-1)",), r"schedule\.peek: .*'peak'"),
    "an unknown table": (("shedule.peak=[0.1]",), r"shedule.*'schedule'"),
    "a misspelt form": (("schedule.peak=lgo(1e-4,1e-1)",), r"there is no lgo\(\.\.\.\).*'log'"),
    "nothing to sweep": ((), r"small\.toml: there is nothing to sweep"),
    "a word that is no setting": (("schedule.peak",), r"should be key=value.* got 'schedule\.peak'"),
    "trials not said": (
        (PEAK,),
        r"small\.toml: sweep: trials should be the number of runs, because .*peak is drawn.*--trials 16",
    ),
    "trials not said of a method": (
        ("schedule.peak=[0.1]", "--method", "sobol"),
        r"trials should be the number of runs, because settings are drawn",
    ),
    "no trials": ((PEAK, "--trials", 0), r"--trials: should be an integer from 1 to 1,000,000, got 0"),
    "uneven trials": ((PEAK, "seed=0:4", "--trials", 6), r"trials should be a multiple of seeds, 4, got 6\. Use 4,"),
    "trials of seeds alone": (("seed=0:4", "--trials", 8), r"trials should be the number of seeds, 4, .* got 8"),
    "seeds twice": ((PEAK, "seed=0:4", "--seeds", 2, "--trials", 8), r"seeds and a space for seed exclude each other"),
    "seeds that are none": (("seed=[0,-1]",), r"seed: should be an integer from 0 to"),
    "a grid of a distribution": ((PEAK, "--method", "grid"), r"schedule\.peak should have values that can be counted"),
    "a misspelt search": (
        (PEAK, "--trials", 6, "--search", "halvin"),
        r"--search: name should be one of .*did you mean 'halving'",
    ),
    "a misspelt argument": (
        (PEAK, "--trials", 6, "--search", '{name="halving", etta=4}'),
        r"halving has no argument 'etta'; did you mean 'eta'",
    ),
    "a search that is no TOML": (
        (PEAK, "--trials", 6, "--search", "{name=halving}"),
        r"search: should be a name or a table in TOML, got '{name=halving}'",
    ),
    "an argument out of range": (
        (PEAK, "--trials", 6, "--search", '{name="halving", eta=1}'),
        r"halving: eta should be .* 1",
    ),
    "a population with seeds": (
        (PEAK, "seed=0:2", "--trials", 6, "--search", "population"),
        r"search population should have one seed, .* got 2",
    ),
    "a population of seeds": (("seed=0:2", "--search", "population"), r"search population should have a distribution"),
    "optuna without trials": (
        ("schedule.peak=[0.1]", "--search", "optuna"),
        r"trials should be the number of runs, for search optuna.*--trials",
    ),
    "a misspelt figure": (
        (PEAK, "--trials", 6, "--best", "max acuracy"),
        r"best should name a validation metric, got 'acuracy'; did you mean 'accuracy'",
    ),
    "a figure without a mode": (
        (PEAK, "--trials", 6, "--best", "accuracy"),
        r"--best: should be such as 'min loss' or 'max accuracy'",
    ),
    "a misspelt execution": (
        (PEAK, "--trials", 6, "--execution", "vmpa"),
        r"--execution: should be one of .*did you mean 'vmap'",
    ),
    "a misspelt method": (
        (PEAK, "--trials", 6, "--method", "sobl"),
        r"--method: should be one of .*did you mean 'sobol'",
    ),
    "an empty chunk": (
        (PEAK, "--trials", 6, "--chunk", 0),
        r"--chunk: should be an integer from 1 to 1,000,000, got 0",
    ),
    "jobs of nobody": (
        (PEAK, "--trials", 6, "--jobs", "x"),
        r"jobs should be a number of processes from 1 to 9999, submitit or ray, got 'x'",
    ),
    "no jobs": (
        (PEAK, "--trials", 6, "--jobs", 0),
        r"jobs should be a number of processes from 1 to 9999, submitit or ray, got '0'",
    ),
    "jobs of a population": (
        (PEAK, "--trials", 6, "--jobs", 2, "--search", "population"),
        r"a population search runs in one process",
    ),
    "data that is not there": (
        ("seed=0:2", 'data={name="npz",path="no.npz",batch_size=2}'),
        r"data: no\.npz was not found",
    ),
    "a large batch": (("data.batch_size=[16,5000]",), r"trial 1: data: batch_size should be at most .* 1257, got 5000"),
    "too few pixels": (("model.widths=[63,4,10]", "seed=0:2"), r"last axis of x should be 63"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_gets_one_message_and_nothing_is_written(work, capsys, case):
    words, message = MISTAKES[case]
    assert main("sweep", "small.toml", *words) == 2
    said = capsys.readouterr()
    assert re.search(message, said.err), said.err
    assert said.err.startswith("nnfunc: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert [path.name for path in work.iterdir()] == ["small.toml"]


def test_mistakes_of_the_table_are_told_together(work, capsys):
    (work / "small.toml").write_text(f'{CONFIG}[sweep]\n"model.droput" = [0.1]\nsearch = "halvin"\n')
    assert main("sweep", "small.toml", "schedule.peek=[0.1]", "--run", "run") == 2
    said = capsys.readouterr().err
    for words in ("small.toml: model.droput: ", "small.toml: sweep.search: ", "line: schedule.peek: "):
        assert words in said
    assert not (work / "run").exists()


def test_a_file_that_is_not_there(work, capsys):
    assert main("sweep", "smal.toml", PEAK, "--trials", 6) == 2
    said = "smal.toml: there is no such file; did you mean 'small.toml'?"
    assert capsys.readouterr().err == f"nnfunc: {said}\n"
    assert [path.name for path in work.iterdir()] == ["small.toml"]


def test_a_folder_that_holds_something_is_left_alone(place, work, capsys):
    shutil.copytree(place / "one", "one")
    before = content(work)
    assert main("sweep", "small.toml", PEAK, "--trials", 6, "--run", "one") == 2
    said = capsys.readouterr()
    assert "one exists already. Choose another with --run, or continue it" in said.err
    assert said.out == ""
    assert content(work) == before


@pytest.mark.parametrize("there", [True, False])
def test_what_is_missing_only_later_leaves_the_folder_as_it_was(work, monkeypatch, capsys, there):
    monkeypatch.setitem(sys.modules, "optuna", None)
    if there:
        (work / "run").mkdir()
    words = (PEAK, "--trials", 6, "--search", "optuna", *LOOP, "--run", "run")
    assert main("sweep", "small.toml", *words) == 2
    assert "optuna: the package optuna is not installed." in capsys.readouterr().err
    assert (work / "run").exists() is there
    assert list(content(work)) == ["small.toml"]


# in processes of their own

SLOWLY = """
import time
from nnfunc import cli
from nnfunc.commands.sweep.live_progress import SweepProgress
from nnfunc.sweeps import engine
engine.SAVE_EVERY = 0.0
call = SweepProgress.__call__
def slowly(self, report):
    call(self, report)
    time.sleep({seconds})
SweepProgress.__call__ = slowly
cli.main()
"""
BOTH = """
import sys
from nnfunc import cli
for words in (line.split() for line in sys.argv[1].splitlines()):
    sys.argv = ["nnfunc", *words]
    try: cli.main()
    except SystemExit as stop: assert not stop.code, stop.code
"""
SWEEP = f"sweep small.toml {PEAK} --trials 6 --execution loop"


def launched(*words, cache, **pipes):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(cache)}
    pipes = pipes or {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, words)], env=environment, **pipes)


def ended(process):
    """What a process printed, which has to succeed."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def newest(run):
    return max((int(p.name[:8]) for p in run.glob("segments/[0-9]*")), default=-1)


def wait_for_segment(run, after, process):
    """Wait until the sweep has saved once more; it has dozens of reports of 0.1 s to go."""
    deadline = time.monotonic() + 90
    while newest(run) <= after:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
def test_signals_in_the_middle_and_kill_9(work, tmp_path):
    cache, run, after = tmp_path / "cache", Path("run"), -1
    words = [*SWEEP.split(), "--run", "run"]
    for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        process = launched("-c", SLOWLY.format(seconds=0.1), *words, cache=cache)
        try:
            wait_for_segment(run, after + 1, process)
            process.send_signal(signum)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == code
        if signum != signal.SIGKILL:
            message = r"nnfunc: stopped with [0-5] of 6 trials complete; everything is saved\. "
            assert re.search(rf"\n{message}Resume with: nnfunc resume run\n$", err), err
        assert "Traceback" not in err
        assert not (run / "table.csv").exists()
        after, words = newest(run), ["resume", "run"]
    ended(launched("-c", BOTH, f"resume run\n{SWEEP} --run whole", cache=cache))
    for name in ("table.csv", "curves.csv"):
        assert (run / name).read_bytes() == Path("whole", name).read_bytes()


@pytest.mark.slow
def test_ctrl_c_at_a_terminal(work, tmp_path):
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 200, 0, 0))
    own = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"  # Ctrl-C is a signal then
    pipes = {"stdin": follower, "stdout": follower, "stderr": follower, "start_new_session": True}
    words = [*SWEEP.split(), "--run", "run"]
    slowly = own + SLOWLY.format(seconds=0.3)  # so that the panel is drawn between reports
    process = launched("-c", slowly, *words, cache=tmp_path / "cache", **pipes)
    os.close(follower)
    seen, pressed = b"", False
    try:
        while part := _read(leader):
            seen += part
            if not pressed and b"alive, " in seen:
                pressed = True
                os.write(leader, b"\x03")
        assert process.wait(60) == 130
    finally:
        process.kill()
        os.close(leader)
    plan, lines = parted(screen(seen.decode().replace("^C", "")))
    assert plan == ["6", "arguments", "group", "expected:"]
    assert lines[-2].startswith("best loss ")
    assert re.match(r"nnfunc: stopped with 0 of 6 trials complete; everything is saved", lines[-1])
    assert len(lines) in (3, 4)  # the speed is known from the second report on
    assert b"stopping after this step; press Ctrl-C again to stop immediately" in seen
    assert b"nnfunc: stopping" not in seen  # in the panel, not beside it


def _read(leader):
    try:
        return os.read(leader, 65536)
    except OSError:  # the other end is closed
        return b""


@pytest.mark.slow
def test_jobs_give_the_same_table(work, tmp_path):
    pytest.importorskip("cloudpickle")
    commands = [f"{SWEEP} --run whole", f"{SWEEP} --run jobs --jobs 2"]
    said = ended(launched("-c", BOTH, "\n".join(commands), cache=tmp_path / "cache"))
    assert said.count("6 of 6 done") == 2
    for name in ("table.csv", "curves.csv"):
        assert Path("jobs", name).read_bytes() == Path("whole", name).read_bytes()
    segments = {p.name for p in Path("jobs/segments").iterdir()}
    assert {name.split("-")[1] for name in segments} == {"0", "3"}  # each process had one half
