"""`nnfunc watch`: what a frame shows at every size and in every state, and when it ends."""

import fcntl
import io
import json
import os
import pty
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import sample_runs
from helpers.command_line import main
from helpers.metric_rows import ROWS
from helpers.project import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from nnfunc.commands.watch import watch_run as watch
from nnfunc.commands.watch.dashboard import RunView, render_dashboard
from nnfunc.commands.watch.sparkline import sparkline

pytestmark = pytest.mark.usefixtures("no_compilation_cache")


def text_of(folder, width=100, height=40, fit=False):
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    view = RunView(folder)
    view.poll()
    console.print(render_dashboard(view, console, fit=fit))
    return console.file.getvalue()


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A run of twelve blocks, half-way, with every kind of row."""
    params, acts = sample_runs.gpt(12)
    rows = sample_runs.metrics(1000, done=640, params=params, acts=acts, text=True, sick=True, watch_every=80)
    return sample_runs.make(tmp_path_factory.mktemp("runs") / "deep", rows, model="gpt")


def test_a_frame_has_every_part(deep):
    found = text_of(deep)
    for words in (
        "deep  gpt",
        "stopped",
        "640/1,000  64%",
        "83 steps/s",
        "loss",
        "train",
        "val",
        "learning rate",
        "gradient norm",
        "tokens/s",
        "memory, MB",
        "utilisation",
        "GFLOP/s",
        "best checkpoint  none; the best val loss is 0.",
        "600 rollback  loss is nan at step 600",
        "parameters",
        "activations",
        "vanishing gradients",
        "large updates",
        "over the steps",
    ):
        assert words in found, words
    lines = found.splitlines()
    (head,) = [i for i, line in enumerate(lines) if line.startswith("parameters")]
    assert lines[head + 1].startswith("blocks/0/attend/out/weight")  # the worst
    assert "12 of 76" in lines[head]


@pytest.mark.parametrize("width, height", [(80, 24), (80, 50), (120, 30), (140, 45), (30, 10), (300, 80)])
def test_a_frame_fits_the_terminal(deep, width, height):
    lines = text_of(deep, width, height, fit=True).splitlines()
    assert all(len(line) <= width for line in lines)
    if height >= 45:
        assert len(lines) <= height
        assert len(lines) >= height - 6  # the room is used
        assert any("activations" in line for line in lines)


def test_each_state_says_what_to_do(tmp_path):
    rows = sample_runs.metrics(1000, done=100, watch_every=50)
    run = sample_runs.make(tmp_path / "run", rows)
    stopped = " ".join(text_of(run).split())
    assert "Nothing trains this run: no process holds its lock, and it has no result." in stopped
    assert "The last row is of step 100, " in stopped
    assert "Resume with: nnfunc resume" in stopped
    old = time.time() - 7300
    os.utime(run / "metrics.jsonl", (old, old))
    assert "step 100, 2 hours ago." in " ".join(text_of(run).split())
    with (run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = text_of(run)
        assert "running" in running
        assert "0:11 left" in running  # 900 steps at 83 a second
        assert "Nothing trains" not in running
    (run / "result.json").write_text(json.dumps(sample_runs.RESULT))
    assert "complete" in text_of(run)
    (run / "result.json").unlink()
    told = {"split": "event", "step": 101, "event": "diverged", "message": "loss is nan at step 101"}
    sample_runs.write_rows(run, [*rows, told])
    assert "It diverged: loss is nan at step 101." in " ".join(text_of(run).split())
    (run / "config.toml").write_text("[")
    assert "config.toml cannot be read" in text_of(run)


def test_a_run_without_rows(tmp_path):
    run = sample_runs.make(tmp_path / "run", [])
    assert "It has no metrics." in text_of(run)
    (run / "metrics.jsonl").unlink()
    with (run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "No metrics yet" in text_of(run)


def test_the_best_checkpoint_is_the_one_that_is_saved(tmp_path):
    run = sample_runs.make(tmp_path / "run", sample_runs.metrics(100))
    (run / "checkpoints" / "best").mkdir(parents=True)
    about = {"best_value": 0.9876, "best_step": 50, "best": "max accuracy"}
    (run / "checkpoints/best/manifest.json").write_text(json.dumps({"metadata": about}))
    assert "best checkpoint  val accuracy 98.76% at step 50" in text_of(run)


def test_markup_of_others_is_not_ours(tmp_path):
    nasty = "[red]x[/] [/nope]"
    event = {"split": "event", "step": 3, "event": nasty, "message": nasty}
    rows = [*sample_runs.metrics(100, params=[nasty], acts=[nasty], watch_every=50), event]
    run = sample_runs.make(tmp_path / "[bold]run[", rows)
    found = text_of(run)
    assert found.count(nasty) >= 3
    assert "[bold]run[" in found


@settings(max_examples=40)
@given(st.lists(ROWS, max_size=8), st.integers(20, 150))
def test_no_row_makes_a_frame_fail(rows, width):
    console = Console(width=width, height=30, file=io.StringIO())
    view = RunView(Path("there is none"))
    view.follower.rows = [row | {"step": i} for i, row in enumerate(rows)]
    console.print(render_dashboard(view, console, fit=True))


# when it ends


def test_into_a_pipe_it_shows_one_frame(deep, capsys):
    for words in (("watch", deep), ("watch", deep, "--once")):
        assert main(*words) == 0
        said = capsys.readouterr()
        assert "640/1,000" in said.out
        assert "\x1b" not in said.out


def test_a_folder_that_is_no_run(tmp_path, capsys):
    assert main("watch", tmp_path) == 2
    assert "has no config.toml, so it is not a run" in capsys.readouterr().err
    assert main("watch", tmp_path / "nothing") == 2
    assert "does not exist" in capsys.readouterr().err


def test_it_ends_by_itself_when_the_result_appears(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.02)
    rows = sample_runs.metrics(1000, done=100, watch_every=50)
    run = sample_runs.make(tmp_path / "run", rows)
    console = Console(width=90, height=30, file=io.StringIO(), force_terminal=True)
    thread = threading.Thread(target=watch.watch, args=(run,), kwargs={"console": console})
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    sample_runs.write_rows(run, sample_runs.metrics(1000, watch_every=500))
    (run / "result.json").write_text(json.dumps(sample_runs.RESULT))
    thread.join(5)
    assert not thread.is_alive()
    assert "1,000/1,000" in console.file.getvalue().rsplit("\x1b[?1049l", 1)[-1]  # stays on the screen


@pytest.mark.slow
@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_a_key_ends_it_and_the_terminal_is_as_before(deep, key):
    import termios

    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "JAX_PLATFORMS": "cpu"}
    own = (  # the terminal is that of the new session, so that its Ctrl-C is a signal
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.executable, [sys.executable, '-m', 'nnfunc', 'watch', sys.argv[1]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", own, str(deep)],
        env=environment,
        stdin=follower,
        stdout=follower,
        stderr=follower,
        start_new_session=True,
    )
    seen = b""
    while b"640/1,000" not in seen:
        seen += os.read(leader, 65536)
    os.write(leader, key)
    threading.Thread(target=lambda: [os.read(leader, 65536) for _ in range(1000)], daemon=True).start()
    assert process.wait(120) == 0
    assert termios.tcgetattr(follower)[3] == before[3]


# curves of characters


def curve(values, **options):
    steps = np.arange(1, len(values) + 1)
    return sparkline(steps, np.asarray(values, float), last=len(values), **options)


def test_sparks_by_hand():
    assert curve([0, 1, 2, 3, 4, 5, 6, 7], width=8) == "▁▂▃▄▅▆▇█"
    assert curve([0, 0, 7, 7], width=2) == "▁█"
    assert curve([5, 5], width=2) == "▅▅"
    assert curve([0, 15], width=2, height=2) == " █\n▁█"
    assert curve([0, 7], width=2, ascii_only=True) == ".@"
    assert curve([1, 10, 100], width=3) == "▁▅█"  # by logarithms
    assert sparkline(np.array([5]), np.array([1.0]), width=8, last=8) == "    ▅"
    assert sparkline(np.array([1, 8]), np.array([0.0, 7.0]), width=8, last=8) == "▁▂▃▄▅▆▇█"
    assert sparkline(np.array([]), np.array([]), width=8, last=8) == ""
    assert len(curve([1e300, -1e300, 5e-324] * 50, width=7)) == 7
