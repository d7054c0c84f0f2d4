"""Signals at any moment, and what a process is started with: one message, and the right exit code."""

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from helpers.command_line import CONFIG
from helpers.project import ROOT

from nnfunc import early_signals
from nnfunc.commands import interrupts
from nnfunc.runs import run_folder, status

pytestmark = pytest.mark.usefixtures("no_compilation_cache")

PROGRAM = (sys.executable, "-m", "nnfunc")


def begun(folder, *words, **settings):
    """A process of the command line in a folder that holds small.toml."""
    (folder / "small.toml").write_text(CONFIG)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(folder)}
    return subprocess.Popen(
        [*PROGRAM, *words],
        cwd=folder,
        env=environment | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )


def test_an_interrupt_ends_with_the_inner_message():
    expected = pytest.raises(interrupts.Stopped, match="the inner message")
    with expected, interrupts.interrupt_message("the outer one"), interrupts.interrupt_message("the inner message"):
        raise KeyboardInterrupt
    assert interrupts._messages[1:] == []


def test_a_handler_that_raises_nothing_is_not_lost_in_callbacks(tmp_path):
    """An exception in a finalizer, as the compiler's callbacks are, is printed and forgotten."""
    program = (
        "import sys; sys.orig_argv = ['python', '-m', 'nnfunc']\n"
        "import os, signal\n"
        "from nnfunc.commands import interrupts\n"
        "class Callback:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGINT)\n"
        "with interrupts.interrupt_message('stopped in a callback', lambda: print('undone')):\n"
        "    one = Callback(); del one\n"
        "print('went on')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout) == (130, "undone\n")
    assert done.stderr == "nnfunc: stopped in a callback\n"


@pytest.mark.parametrize(
    "words",
    [
        ["python", "-m", "nnfunc", "train"],
        ["python", "-mnnfunc", "train"],
        ["python", "-X", "utf8", "-W", "ignore", "-m", "nnfunc", "train"],
        ["python", "-u", "bin/nnfunc", "train"],
        ["python", "-m", "nnfunc.cli", "train"],
    ],
)
def test_the_command_line_is_known_by_how_it_was_started(words, monkeypatch):
    monkeypatch.setattr("sys.orig_argv", words)
    monkeypatch.setattr("sys.argv", ["-m", "train"])
    assert early_signals.is_command_line()
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "mine", "-m", "nnfunc"])
    monkeypatch.setattr("sys.argv", ["-m", "-m", "nnfunc"])
    assert not early_signals.is_command_line()


def test_nothing_is_loaded_before_signals_are_answered():
    program = (
        "import sys; before = set(sys.modules); sys.path.insert(0, 'nnfunc')\n"
        "import early_signals\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert said.stdout == "early_signals\n", said.stderr


@pytest.mark.slow
@pytest.mark.parametrize("signum, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_at_any_moment(tmp_path, signum, code):
    """From the first import on; before that it is Python's own start that ends."""
    draw = random.Random(int(signum))
    for place in range(10):
        folder = tmp_path / str(place)
        folder.mkdir()
        process = begun(folder, "train", "small.toml", "train.steps=20000")
        time.sleep(0.4 + 2.6 * draw.random())
        process.send_signal(signum)
        _, err = process.communicate(timeout=120)
        assert process.returncode == code, err
        assert re.match(r"nnfunc: (stopped|stopping)", err), err
        assert "Traceback" not in err
        left = list(folder.glob("runs/*/metrics.jsonl"))
        assert left or not list(folder.glob("runs/*")), "a run that never began leaves nothing"


def test_a_signal_after_the_end_of_a_command_changes_nothing(tmp_path):
    """While Python and JAX end, which takes some tenths of a second, signals would have their default answer."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, signal\natexit.register(os.kill, os.getpid(), signal.SIGINT)\n"  # the last function to run
    )
    process = begun(tmp_path, "config", "seed", PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "seed = 0" in out


def run(folder, *words, **settings):
    process = begun(folder, *words, **settings)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "foo", "cpu,foo"])
def test_devices_that_are_not_here(tmp_path, platform):
    code, _, err = run(tmp_path, "summary", "small.toml", JAX_PLATFORMS=platform)
    assert code == 2
    assert err.startswith(f"nnfunc: JAX_PLATFORMS: it should name devices of this machine, got {platform!r}.")
    assert err.count("\n") == 1


@pytest.mark.slow
def test_odd_surroundings(tmp_path):
    odd = {"COLUMNS": "1", "NNFUNC_MALLOC": "nonsense", "NNFUNC_PEAK_FLOPS": "x", "PYTHONIOENCODING": "ascii"}
    code, out, err = run(
        tmp_path, "train", "small.toml", "train.steps=2", "schedule.warmup_steps=1", "--run", "caf\udce9", **odd
    )
    assert (code, err) == (0, "")
    assert "caf\\udce9" in out
    for words in (("runs", "."), ("runs", ".", "--html", "p.html"), ("watch", "caf\udce9", "--once")):
        code, _, err = run(tmp_path, *words, **odd)
        assert (code, err) == (0, ""), words


def test_what_nobody_reads_ends_quietly(tmp_path):
    """Standard output that is closed, or full, or whose reader has gone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for to, code, words in ((">&-", 0, ""), ("> /dev/full", 2, "No space left"), ("| true", 0, "")):
        line = f"{sys.executable} -m nnfunc runs . {to}"
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == code, (to, done.stderr)
        assert words in done.stderr
        assert done.stderr.count("\n") == (1 if words else 0), done.stderr


def test_a_folder_with_links_out_of_it_is_refused(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.toml").write_text(CONFIG)
    run_folder.check_folder(tmp_path / "run")
    link = tmp_path / "run" / "metrics.jsonl"
    link.symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match=r"metrics.jsonl is a link out of the folder"):
        run_folder.check_folder(tmp_path / "run")
    link.unlink()
    os.mkfifo(link)
    with pytest.raises(ValueError, match=r"metrics.jsonl should be a file, but is a pipe"):
        run_folder.check_folder(tmp_path / "run")
    assert status.read_json_table(link) == {}  # and nothing waits for it
