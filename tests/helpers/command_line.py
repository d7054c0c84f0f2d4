"""The command line, run in this process or in a new one, and the files that it writes."""

import io
import json
import os
import shutil
import subprocess
import sys
import warnings

import pytest

from helpers.project import ROOT
from nnfunc import cli

__all__ = []

CONFIG = """
data = { name = "digits", batch_size = 32 }
model = { name = "mlp", widths = [64, 12, 10], dropout = 0.1, norm = "batch" }
objective = { name = "classification" }
optimizer = { name = "adamw" }
schedule = { name = "warmup_cosine", peak = 1e-2, warmup_steps = 5 }
train = { steps = 40, log_every = 4, evaluate_every = 8, save_every = 5, best = "max accuracy", loop = "step" }
"""


def main(*words):
    """The exit code of `nnfunc words...`; what it prints is in capsys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["nnfunc", *map(str, words)])
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code or 0
    return 0


def main_with_warnings(*words):
    """`main`, in which warnings are printed, not raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        return main(*words)


def train_in(folder, name, config):
    """Train a config of this file name, with its data in the folder, as `folder / "run"`; nothing is printed."""
    (folder / name).write_text(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "stdout", io.StringIO())
        assert main_with_warnings("train", name, "--run", "run") == 0
    return folder


def copy_run(trained, target):
    """A copy of a folder of `train_in`, whose run names the data of the copy."""
    shutil.copytree(trained, target)
    config = target / "run" / "config.toml"
    config.write_text(config.read_text().replace(str(trained), str(target)))
    return target


def said(capsys):
    """(output, errors) that were printed, without a traceback."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.out, captured.err


def content(folder):
    """Every file under a folder, with its bytes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def run_process(*words, **settings):
    """Run the command line in a process, as a user does: without the settings of the tests."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")} | settings
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=120)
