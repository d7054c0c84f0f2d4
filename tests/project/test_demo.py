"""What `make demo` promises: the digits config learns, over seeds, on data it was not trained on."""

import re
import runpy

import numpy as np
import pytest
from helpers.project import ROOT

import nnfunc as nf
from nnfunc.config import load, restore

SEEDS = range(5)


def test_the_script_to_copy_runs(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train.py", "--steps", "80", "--lr", "1e-2"])
    runpy.run_path(str(ROOT / "scripts" / "train.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "step    80  validation loss" in said
    assert float(re.search(r"test accuracy ([\d.]+)%", said)[1]) > 85


@pytest.mark.slow
def test_digits_mlp_reaches_97_percent_over_five_seeds(tmp_path):
    accuracies = []
    for seed in SEEDS:
        config = load(ROOT / "configs" / "digits_mlp.toml", [f"seed={seed}"])
        folder, data = tmp_path / str(seed), config.data()
        nf.train(config.build, config.hypers, data, key=config.key(), folder=folder, **config.train)
        best, _ = restore.restore(config, folder, "best")
        task = config.build(config.hypers)
        figures = nf.evaluate(task, best.params, data.test, state=best.model_state)
        accuracies.append(figures["accuracy"])
    assert np.mean(accuracies) >= 0.97, accuracies
    assert min(accuracies) >= 0.95, accuracies
