"""What only a terminal or a shell shows: colors, the progress of predictions, and completion."""

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.command_line import main
from helpers.project import ROOT

START = [sys.executable, "-m", "nnfunc.cli"]


def environment(**settings):
    used = {
        k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM", "COLUMNS") and not k.startswith("JAX_")
    }
    return used | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "TERM": "xterm-256color"} | settings


def in_terminal(*words, cwd, output=subprocess.DEVNULL, **settings):
    """(exit code, what a terminal gets) of a command; of standard error alone, unless output is None."""
    ours, theirs = pty.openpty()
    stdout = theirs if output is None else output
    process = subprocess.Popen([*START, *words], cwd=cwd, env=environment(**settings), stdout=stdout, stderr=theirs)
    os.close(theirs)
    parts, end = [], time.monotonic() + 60
    while time.monotonic() < end and select.select([ours], [], [], 60)[0]:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # all ends of the terminal are closed
            break
        if not part:
            break
        parts.append(part)
    os.close(ours)
    return process.wait(60), b"".join(parts).decode()


@pytest.mark.parametrize(
    "settings, has_color",
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"NO_COLOR": ""}, True)],
    ids=str,
)
def test_errors_are_in_color_in_a_terminal(tmp_path, settings, has_color):
    code, text = in_terminal("train", "missing.toml", cwd=tmp_path, **settings)
    assert code == 2
    assert text.startswith("\x1b[1;31mnnfunc:\x1b[0m missing.toml: there is" if has_color else "nnfunc: missing.toml:")
    assert ("\x1b" in text) == has_color


def test_predictions_show_their_progress_in_a_terminal(tmp_path):
    (tmp_path / "it.csv").write_text("a,b\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    config = 'data = { name = "table", source = "it.csv", label = "b", batch_size = 8 }\n'
    config += 'model = { name = "mlp", widths = [1, 2] }\nobjective = { name = "classification" }\n'
    config += 'optimizer = { name = "sgd", learning_rate = 0.1 }\ntrain = { steps = 1, loop = "step" }\n'
    (tmp_path / "it.toml").write_text(config)
    assert main("train", tmp_path / "it.toml", "--run", tmp_path / "run") == 0
    np.save(tmp_path / "x.npy", np.zeros((4000, 1)))
    words = ("predict", "run", "x.npy", "-o", "y.csv")
    code, text = in_terminal(*words, cwd=tmp_path)
    assert code == 0, text
    assert re.search(r"\d rows", text)
    assert len((tmp_path / "y.csv").read_text().splitlines()) == 4001
    code, text = in_terminal(*words, cwd=tmp_path, TERM="dumb")
    assert (code, "\x1b" in text) == (0, False)


def test_a_training_fits_a_terminal_of_80_columns(tmp_path):
    config = """
    data = { name = "digits", batch_size = 100 }
    model = { name = "mlp", widths = [64, 123, 123, 123, 10] }
    objective = { name = "classification" }
    task = { metrics = ["average_precision", "roc_auc", "balanced_accuracy"] }
    optimizer = { name = "sgd", learning_rate = 0.1 }
    train = { steps = 40, evaluate_every = 20, log_every = 20, best = "max average_precision" }
    """
    (tmp_path / "long_name.toml").write_text(config)
    words = ("train", "long_name.toml", "--run", f"runs/{'long' * 20}")
    code, text = in_terminal(*words, cwd=tmp_path, output=None, COLUMNS="80")
    assert code == 0, text
    lines = re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", text).replace("\r", "\n").splitlines()
    assert [line for line in lines if len(line) > 80 and "long" * 20 not in line] == []
    assert any(re.fullmatch(r" {8}\S.*", line) for line in lines), lines  # the rest of a line
    assert any(re.search(r" 40/40 .*val .*average_precision 0\.\d+ .* steps/s ", line) for line in lines), lines


@pytest.fixture
def place(tmp_path):
    for name in (
        "runs/small-1/config.toml",
        "runs/swept/sweep.toml",
        "runs/other/x.txt",
        "configs/small.toml",
        "a.toml",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def completions(shell, place, line):
    """What the script of `--show-completion` proposes at the end of a line, in the shell itself."""
    shown = environment(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    script = subprocess.run([*START, "--show-completion", shell], env=shown, capture_output=True, text=True, timeout=60)
    assert script.returncode == 0, script.stderr
    folder = place / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "nnfunc").write_text(f'#!/bin/sh\nexec {sys.executable} -m nnfunc.cli "$@"\n')
    (folder / "nnfunc").chmod(0o755)
    words = line.split(" ")
    if shell == "bash":
        ask = f'COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _nnfunc_completion nnfunc; printf "%s\\n" "${{COMPREPLY[@]}}"'
    elif shell == "fish":
        ask = f"complete -C '{line}'"
    else:  # the functions of its editor are replaced, for there is no editor
        ask = f"words=({line}); CURRENT={len(words)}; _nnfunc_completion"
    before = "compdef() { : }; _arguments() { print -rl -- $@ }; _files() { print files }\n" if shell == "zsh" else ""
    used = environment(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")
    plain = {"bash": "--norc", "zsh": "-f", "fish": "--no-config"}[shell]
    command = [shell, plain, "-c", f"{before}{script.stdout}\n{ask}"]
    done = subprocess.run(command, cwd=place, env=used, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return re.findall(r"[\w./-]+", done.stdout.replace("*: :", ""))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    "line, expected",
    [("nnfunc evaluate runs/s", ["runs/small-1", "runs/swept"]), ("nnfunc summary con", ["configs/small.toml"])],
)
def test_shells_complete_runs_and_configs(place, shell, line, expected):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    assert completions(shell, place, line) == expected
