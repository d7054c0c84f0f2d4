"""The debugging commands as a user meets them: what they print, and their exit codes."""

from pathlib import Path

import pytest
from helpers.command_line import main

pytestmark = pytest.mark.usefixtures("no_compilation_cache")

CONFIG = """
data = { name = "digits", batch_size = 32 }
model = { name = "mlp", widths = [64, 12, 10], dropout = 0.1 }
objective = { name = "classification", label_smoothing = 0.1 }
optimizer = { name = "adamw" }
schedule = { name = "warmup_cosine", peak = 1e-2, warmup_steps = 5 }
train = { steps = 40, log_every = 4, evaluate_every = 8, save_every = 1, loop = "step" }
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(CONFIG)


def fits(text):
    assert all(len(line) <= 80 for line in text.splitlines()), text


@pytest.mark.slow
def test_doctor(work, capsys):
    assert main("doctor", "small.toml") == 0
    assert capsys.readouterr().out.startswith("no findings: compiler, data, labels, ")
    words = ("schedule.peak=90", "model.widths=[64,12,11]")
    assert main("doctor", "small.toml", *words) == 1
    said = capsys.readouterr().out
    fits(said)
    assert said.startswith("error    learning rate too large  (learning rate)\n")
    assert "warning  missing classes  (labels)\n" in said
    assert said.endswith("1 error, 1 warning\n")


@pytest.mark.slow
def test_overfit(work, capsys):
    assert main("overfit", "small.toml", "model.widths=[64,32,10]", "--examples", 8) == 0
    said = capsys.readouterr().out
    fits(said)
    assert said.startswith("memorised: the loss goes from ")
    assert "0.5 (as with smoothed labels)" in " ".join(said.split())
    assert main("overfit", "small.toml", "schedule.peak=1e-6", "--examples", 8) == 1
    said = capsys.readouterr().out
    fits(said)
    assert said.startswith("stuck: ")
    assert "\ncause   All learning rates that were tried are too small," in said
    assert "\nhint    Increase schedule.peak." in said


@pytest.mark.slow
def test_find_lr(work, capsys):
    assert main("find-lr", "small.toml", "model.dropout=0.0", "--steps", 16, "--plot", "rates.png") == 0
    said = capsys.readouterr().out
    fits(said)
    *_, advice, plot = said.splitlines()
    assert advice.startswith("  nnfunc train small.toml model.dropout=0.0 schedule.peak=")
    assert 1e-3 < float(advice.rpartition("=")[2]) < 1
    assert plot == "  plot  rates.png"
    assert Path("rates.png").stat().st_size > 4000


@pytest.mark.slow
def test_find_nan(work, capsys):
    """Weights of 1e29 in two layers give outputs of 1e58: the last layer, one step later."""
    assert main("train", "small.toml", "schedule.peak=1e30", "--run", "bad", "optimizer.weight_decay=0") == 1
    diverged = capsys.readouterr().err
    assert main("find-nan", "bad") == 0
    said = capsys.readouterr().out.splitlines()
    step = int(said[1].split()[1])
    assert f"not finite at step {step} " in diverged
    assert said[2:4] == ["layer  head", "phase  forward"]
    assert "It began in the forward pass of layer head." in diverged
    assert main("train", "small.toml", "--run", "good", "train.steps=10", "train.save_every=5") == 0
    capsys.readouterr()
    assert main("find-nan", "good") == 0
    assert capsys.readouterr().out.endswith("all values are finite\n")


def test_mistakes(work, capsys):
    assert main("find-nan", "nothing") == 2
    assert "nothing does not exist" in capsys.readouterr().err
    assert main("find-lr", "small.toml", "--plot", "x.jpg") == 2
    assert "find-lr: plot should be a .png or .svg file, got x.jpg" in capsys.readouterr().err
    assert main("doctor", "smal.toml") == 2
    assert "did you mean 'small.toml'?" in capsys.readouterr().err
    assert main("overfit", "small.toml", "model.width=3") == 2
    assert "model.width: mlp has no such key" in capsys.readouterr().err
