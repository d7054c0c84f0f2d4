"""Nothing is lost with every option switched on: killed runs, two processes, lost files, odd clocks."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import main, rows, run_process
from helpers.killed_runs import assert_same_run, launch_command, wait_for_step

from nnfunc.runs import run_folder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_compilation_cache")]

EVERYTHING = """
data = { name = "digits", batch_size = 32 }
model = { name = "mlp", widths = [64, 12, 10], norm = "batch", dropout = { schedule = "linear", start = 0.0, final = 0.3 } }
objective = { name = "classification", label_smoothing = 0.1 }
optimizer = { name = "adamw", weight_decay = { "**/weight" = 0.05 }, clip = 1.0 }
schedule = { name = "one_cycle", peak = 1e-2 }
train = { steps = 200, log_every = 4, evaluate_every = 8, save_every = 5, watch_every = 7, best = "max accuracy", loop = "step", rollback = 2 }
task = { precision = "bfloat16", accumulate = 2, sharpness = 0.02 }
average = { name = "ema", decay = 0.95 }
plateau = { metric = "accuracy", mode = "max", patience = 1, factor = 0.7, threshold = 0.01 }
clip_value = { limit = 1.0 }
clip_adaptive = { limit = 0.1 }
groups = { rates = { "head/*" = 2.0 }, freeze = { "hidden_0/norm/bias" = 50 } }
lookahead = { every = 5 }
max_norm = { limit = 3.0 }

[augment]
shift = { pixels = 1, shape = [8, 8, 1] }
rotate = { degrees = { schedule = "linear", start = 0.0, final = 10.0 }, shape = [8, 8, 1] }
cutout = { size = 0.25, shape = [8, 8, 1] }
noise = { std = 0.1 }
mixup = { alpha = 0.2 }
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled programs, for the processes of all tests here."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all.toml").write_text(EVERYTHING)
    return tmp_path


def test_kill_9_at_random_steps_with_everything_switched_on(work, cache):
    draw = np.random.default_rng(11)
    done = run_process("-m", "nnfunc.cli", "train", "all.toml", "--run", "whole", XDG_CACHE_HOME=str(cache))
    assert done.returncode == 0, done.stderr
    told = rows(Path("whole"))
    scales = {row["learning_rate"] for row in told if row["split"] == "train"}
    assert len(scales) > 20
    assert [row["step"] for row in told if row["split"] == "layers"] == [1, *range(7, 200, 7)]
    command = ("train", "all.toml", "--run", "run")
    for step in sorted(draw.integers(1, 180, 3)):
        process = launch_command(*command, cache=cache)
        wait_for_step(Path("run"), step, process)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.communicate()
        command = ("resume", "run")
    done = run_process("-m", "nnfunc.cli", "resume", "run", XDG_CACHE_HOME=str(cache))
    assert done.returncode == 0, done.stderr
    assert_same_run(Path("run"), Path("whole"))
    first, second = (json.loads(Path(run, "result.json").read_text()) for run in ("run", "whole"))
    assert first["test"] == second["test"]


def test_two_processes_on_one_run(work, cache):
    words = ("train.steps=100000", "train.save_every=20")
    process = launch_command("train", "all.toml", *words, "--run", "run", cache=cache)
    try:
        wait_for_step(Path("run"), 20, process)
        second = run_process("-m", "nnfunc.cli", "resume", "run", XDG_CACHE_HOME=str(cache))
        assert second.returncode == 2
        assert f"process {process.pid} on " in second.stderr
        assert "is training in this folder. Wait until it ends, or choose another folder" in second.stderr
        assert "Traceback" not in second.stderr
        before = len(rows(Path("run")))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 143, err
        assert len(rows(Path("run"))) >= before
    finally:
        process.kill()


PLAIN = """
data = { name = "npz", path = "rows.npz", batch_size = 16 }
model = { name = "mlp", widths = [4, 8, 3] }
objective = { name = "classification" }
optimizer = { name = "sgd", learning_rate = 0.1 }
train = { steps = 20, save_every = 5 }
"""


def test_a_data_file_that_vanishes(work, capsys, monkeypatch):
    """Between a stop and the resume: the file is named, and what was saved stays whole."""
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    y = (np.arange(60) % 3).astype(np.int32)
    np.savez("rows.npz", x_train=x, y_train=y, x_validation=x, y_validation=y, x_test=x, y_test=y)
    Path("plain.toml").write_text(PLAIN)
    code = main("train", "plain.toml", "--run", "run")
    said = capsys.readouterr().err
    assert code == 0, said
    kept = sorted(str(p) for p in Path("run/checkpoints").rglob("*"))
    os.rename("rows.npz", "elsewhere.npz")
    for command in (("resume", "run"), ("evaluate", "run")):
        assert main(*command) == 2
        said = capsys.readouterr().err
        assert "rows.npz" in said
        assert "Traceback" not in said
    assert sorted(str(p) for p in Path("run/checkpoints").rglob("*")) == kept
    os.rename("elsewhere.npz", "rows.npz")
    assert main("resume", "run") == 0


def test_a_clock_that_jumps(work, capsys, monkeypatch):
    """The time of day goes back a year in the middle: no file is taken for an older one."""
    times = iter([4e9, 1e9, 3e9, 0.0])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: next(times, real() - 3e7))
    words = ("train.steps=60", "train.watch_every=20")
    assert main("train", "all.toml", *words, "--run", "run") == 0
    told = [row for row in rows(Path("run")) if row["split"] == "train"]
    seconds = [row["seconds"] for row in told]
    assert seconds == sorted(seconds)
    assert seconds[0] >= 0
    assert [row["step"] for row in told] == list(range(4, 61, 4))
    assert run_folder.create_folder("run", None).name.endswith("run-1")
