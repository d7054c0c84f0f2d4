"""The configs of classes with names and of several labels: their script is deterministic, and they train on its data."""

import json

import pytest
from helpers.command_line import main
from helpers.project import ROOT
from helpers.shipped_configs import load_script

import nnfunc as nf
from nnfunc.evaluation import compute_metrics

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    module = load_script("labels")
    one, other = (tmp_path_factory.mktemp(name) for name in ("one", "other"))
    module.main(one)
    module.main(other)
    files = sorted(path.name for path in one.iterdir())
    assert files == ["articles.csv", "iris.csv"]
    assert all((one / file).read_bytes() == (other / file).read_bytes() for file in files)
    return one


def test_classes_with_names(folder, tmp_path):
    config = ROOT / "configs" / "multiclass_names.toml"
    assert main("train", config, f"data.source={folder}/iris.csv", "--run", tmp_path / "run") == 0
    run = nf.load_run(tmp_path / "run")
    assert run.names == ("setosa", "versicolor", "virginica")
    held_out = run.held_out("test")
    assert held_out.names == run.names
    assert compute_metrics(held_out, ["accuracy"])["accuracy"] > 0.9
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["baseline"]["test"]["accuracy"] == pytest.approx(1 / 3)


def test_several_labels_with_a_threshold_each(folder, tmp_path):
    config, steps = ROOT / "configs" / "multilabel.toml", ["train.steps=400", "schedule.warmup_steps=50"]
    assert main("train", config, f"data.source={folder}/articles.csv", *steps, "--run", tmp_path / "run") == 0
    run = nf.load_run(tmp_path / "run")
    assert len(run.threshold) == len(run.names) == 8
    validation = run.held_out("validation")
    chosen, half = (compute_metrics(part, ["f1"])["f1"] for part in (validation, validation._replace(threshold=None)))
    assert chosen > half + 0.02
    assert compute_metrics(run.held_out("test"), ["f1"])["f1"] > 0.55
