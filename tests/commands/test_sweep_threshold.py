"""The winner of a sweep is reported, and saved, at the threshold that its validation split chooses."""

import json

import numpy as np
import pytest
from helpers.command_line import main

import nnfunc as nf
from nnfunc.evaluation import choose_threshold, compute_metrics

pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures("no_compilation_cache", "no_report")

CONFIG = """
data = { name = "table", source = "rare.csv", label = "rare", batch_size = 32, validation = 0.3, test = 0.3 }
model = { name = "mlp", widths = [2, 8, 1] }
objective = { name = "binary" }
task = { metrics = ["f1"], threshold = "f1" }
optimizer = { name = "adam", learning_rate = 0.01 }
train = { steps = 100, best = "min loss" }
sweep = { optimizer.learning_rate = [0.1, 0.2] }
"""


def test_the_winner_has_its_threshold(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    draw = np.random.RandomState(0)
    x = draw.normal(size=(300, 2)).round(3)
    rare = x[:, 0] + 0.7 * draw.normal(size=300) > 1.3
    rows = [f"{a},{b},{int(y)}" for (a, b), y in zip(x.tolist(), rare, strict=True)]
    (tmp_path / "rare.csv").write_text("\n".join(["a,b,rare", *rows]) + "\n")
    (tmp_path / "rare.toml").write_text(CONFIG)
    assert main("sweep", "rare.toml", "--run", "sweep") == 0
    out = capsys.readouterr().out
    assert "note: trials are compared at a threshold of 0.5; the winner's test metrics use task.threshold" in out
    test = json.loads((tmp_path / "sweep/result.json").read_text())["test"]
    assert main("sweep-best", "sweep", "--save", "best") == 0
    assert "threshold" not in capsys.readouterr().out.split("seed", 1)[0]
    run = nf.load_run("best")
    assert run.threshold == choose_threshold(run.held_out("validation"), "f1") != 0.5
    held_out = run.held_out("test")
    assert test["f1"] == pytest.approx(compute_metrics(held_out, ["f1"])["f1"])
    assert test["f1"] != compute_metrics(held_out._replace(threshold=None), ["f1"])["f1"]
