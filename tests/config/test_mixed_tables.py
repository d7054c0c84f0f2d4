"""Runs on a table with categories, dates, texts and missing values, and with scaled targets."""

import json

import numpy as np
import pytest
from helpers.command_line import copy_run, said, train_in
from helpers.command_line import main_with_warnings as main

import nnfunc as nf
from nnfunc.config import load, resolve
from nnfunc.data.preprocessing import restore_targets
from nnfunc.evaluation import HeldOut, compute_metrics
from nnfunc.training.objectives.target_units import in_target_units

pytest.importorskip("sklearn")
pytestmark = pytest.mark.usefixtures("no_compilation_cache")

HEAD = "size,city,day,note,rent"
CONFIG = """
[data]
name = "table"
source = "rents.csv"
label = "rent"
task = "regression"
categorical = ["city"]
dates = ["day"]
texts = ["note"]
impute = "median"
log_target = true
scale_target = true
batch_size = 8
[model]
name = "table_model"
hidden = [8]
outputs = 1
dropout = 0.1
[objective]
name = "regression"
[task]
metrics = ["rmse", "r2"]
[optimizer]
name = "adam"
learning_rate = 0.03
[train]
steps = 240
log_every = 80
loop = "step"
best = "min rmse"
"""


def rows(count=120):
    draw = np.random.RandomState(0)
    for i in range(count):
        size = draw.uniform(20, 120)
        city = draw.choice(["Rome", "Oslo", ""])
        rent = 12 * size * (1.5 if city == "Oslo" else 1) * np.exp(draw.normal(0, 0.05))
        yield f"{size if i % 5 else ''},{city},2024-0{1 + i % 9}-11,{'nice flat' if i % 3 else ''},{rent:.1f}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rents")
    (folder / "rents.csv").write_text("\n".join([HEAD, *rows()]) + "\n")
    return train_in(folder, "rents.toml", CONFIG)


@pytest.fixture
def work(trained, tmp_path, monkeypatch):
    folder = copy_run(trained, tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


def test_metrics_are_in_the_units_of_the_file(work):
    result = json.loads((work / "run" / "result.json").read_text())
    run = nf.load_run(work / "run")
    held_out = run.held_out("test")
    errors = held_out.output - held_out.target
    rents = np.array([float(row.rsplit(",", 1)[1]) for row in rows()])
    assert np.isin(held_out.target.round(1), rents).all()
    assert held_out.target.min() > 200
    test = result["test"]
    np.testing.assert_allclose(test["mae"], np.abs(errors).mean(), rtol=1e-4)
    np.testing.assert_allclose(test["rmse"], np.sqrt((errors**2).mean()), rtol=1e-4)
    assert test["loss"] < 1  # of scaled logarithms
    scaled = run.config.data().test[1]
    expected = np.mean((scaled.mean() - scaled) ** 2)
    np.testing.assert_allclose(result["baseline"]["test"]["loss"], expected, rtol=0.3)
    assert result["baseline"]["test"]["mae"] > 2 * test["mae"]


def test_predictions_need_the_run_alone_and_are_in_units(work, capsys):
    run = nf.load_run(work / "run")
    lines = list(rows())[:9]
    held_out = run.held_out("train")
    (work / "rents.csv").unlink()
    (work / "new.csv").write_text(
        "\n".join(
            ["note,day,rent,city,size", *(",".join(np.array(line.split(","))[[3, 2, 4, 1, 0]]) for line in lines)]
        )
    )
    y = run.predict(str(work / "new.csv"))
    assert y.shape == (9, 1)
    train = {int(row): value for row, value in zip(held_out.ids, held_out.output, strict=True)}
    matches = [i for i in range(9) if i in train]
    np.testing.assert_allclose(y[matches], [train[i] for i in matches], rtol=1e-5)
    assert len(matches) > 3
    names = HEAD.split(",")[:-1]
    dicts = [dict(zip(names, line.split(","), strict=False)) for line in lines]
    np.testing.assert_allclose(run.predict(dicts[::-1], batch_size=4)[::-1], y, rtol=1e-6)
    np.testing.assert_array_equal(
        run.predict([row | {"city": "Paris"} for row in dicts[:1]]), run.predict([dicts[0] | {"city": "Bonn"}])
    )
    assert main("predict", work / "run", work / "new.csv") == 0
    out, _ = said(capsys)
    np.testing.assert_allclose([float(line) for line in out.splitlines()[1:]], y[:, 0], rtol=1e-6)
    for text, message in (
        ("size,city,day,note\n1,a,soon,b\n", "line 2 of column 'day' should hold a date such as"),
        ("size,city,day\n1,a,\n", "has no column 'note'"),
        ("size,city,day,note\nbig,a,,b\n", "line 2 of column 'size' should hold a number, got 'big'"),
    ):
        (work / "new.csv").write_text(text)
        assert main("predict", work / "run", work / "new.csv") == 2
        _, err = said(capsys)
        assert message in err
        assert err.count("\n") == 1


def test_grown_files_change_no_metric(work, capsys):
    assert main("evaluate", work / "run") == 0
    expected, _ = said(capsys)
    content = (work / "rents.csv").read_text().splitlines()
    (work / "rents.csv").write_text("\n".join([HEAD, "50,Bern,,new words,500", *content[:0:-1]]) + "\n")
    assert main("evaluate", work / "run") == 2
    assert "120 examples before, 121 now" in said(capsys)[1]
    assert main("evaluate", work / "run", "--changed-data") == 0
    out, _ = said(capsys)
    assert out.splitlines()[0] == expected.splitlines()[0]
    assert main("resume", work / "run", "--changed-data", "train.steps=260") == 0


@pytest.mark.parametrize("command", ["doctor", "find-lr", "overfit", "summary"])
def test_commands_take_categories(work, capsys, command):
    code = main(command, work / "rents.toml")
    out, _ = said(capsys)
    assert code in (0, 1)
    assert out


def test_sweeps_take_categories(work, capsys):
    assert (
        main(
            "sweep",
            work / "rents.toml",
            "model.hidden=[[4],[8]]",
            "optimizer.learning_rate=[0.01,0.03]",
            "--run",
            work / "sweep",
        )
        == 0
    )
    assert "column_0" not in said(capsys)[1]
    text = (work / "sweep" / "table.csv").read_text()
    assert len(text.splitlines()) == 5
    assert "rmse" in text.splitlines()[0]


def test_exports_have_the_units_of_the_file(work, capsys):
    pytest.importorskip("flatbuffers")
    assert main("export", work / "run", work / "rents.shlo", "--to", "stablehlo") == 0
    run = nf.load_run(work / "run")
    x, _ = run.config.data().test
    exported = nf.load_exported(work / "rents.shlo")
    np.testing.assert_allclose(exported(x), run.held_out("test").output, rtol=1e-5)
    assert main("export", work / "run", work / "rents.py", "--to", "numpy") == 2
    assert "to should be another format for a run with scaled targets, got 'numpy'" in said(capsys)[1]
    (work / "rents.csv").unlink()
    assert main("export", work / "run", work / "again.shlo", "--to", "stablehlo") == 0
    assert "are random" in said(capsys)[0]


def test_the_sizes_of_the_model_follow_from_the_data(work):
    config = load(work / "rents.toml")
    assert "numbers" not in config.tables["model"]
    _, _, values = config.part("model")
    assert values["categories"] == config.preprocessing.facts["categories"] == [4]
    assert values["numbers"] == config.preprocessing.facts["shape"][0]
    own = load(work / "rents.toml", ["model.categories=[9]"])
    assert own.part("model")[2]["categories"] == [9]


def test_table_model_takes_data_without_categories():
    tables = {
        "data": {"name": "digits"},
        "model": {"name": "table_model", "outputs": 10, "hidden": [8]},
        "objective": {"name": "classification"},
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "train": {"steps": 2},
    }
    config = resolve(tables)
    task = config.build(config.hypers)
    params = task.model.init(config.key())
    assert task.model.apply(params, config.data().batch(0)[0]).shape == (128, 10)
    assert list(params) == ["mlp"]


def test_a_model_that_takes_no_categories_is_refused(work, capsys):
    text = (work / "rents.toml").read_text()
    text = text.replace('name = "table_model"\nhidden = [8]\noutputs = 1', 'name = "mlp"\nwidths = [9, 1]')
    (work / "wrong.toml").write_text(text)
    assert main("train", work / "wrong.toml", "--run", work / "wrong") == 2
    _, err = said(capsys)
    assert "model" in err
    assert "table_model" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["poisson", "classification"])
def test_objectives_without_values_refuse_scaled_targets(work, capsys, name):
    text = (work / "rents.toml").read_text().replace('name = "regression"', f'name = "{name}"')
    (work / "wrong.toml").write_text(text.replace("rmse", "mae").replace('metrics = ["mae", "r2"]', ""))
    assert main("train", work / "wrong.toml", "--run", work / "wrong") == 2
    assert "scale_target" in said(capsys)[1]


def test_the_model_runs_once_for_metrics_in_units():
    calls = []

    def predict(x):
        calls.append(x)
        return x

    target = {"mean": (10.0,), "std": (2.0,), "log": False}
    objective = in_target_units(nf.regression(), target)
    x, y = np.array([[0.0], [1.0]], np.float32), np.array([[1.0], [3.0]], np.float32)
    loss, metrics = objective(predict, (x, y))
    assert len(calls) == 1
    np.testing.assert_allclose(loss, (1 + 4) / 2)
    np.testing.assert_allclose(metrics["mae"], 2 * 1.5)
    assert objective.output_type == "values"
    own = lambda predict, batch: (0.0, {})
    assert in_target_units(own, target) is own


@pytest.mark.parametrize("output_type", ["values", "quantiles", "deviation"])
def test_metrics_of_large_targets_keep_their_precision(output_type):
    """Times in seconds since 1970 differ by less than float32 can tell apart."""
    target = {"mean": (1.7e9,), "std": (1000.0,), "log": False}
    y = np.random.default_rng(0).normal(size=(64, 1)).astype(np.float32)
    predicted = y + np.float32(0.05)
    names: tuple[str, ...] = ("mse", "rmse", "r2")
    objectives = {"values": nf.regression("mae"), "quantiles": nf.regression("quantile"), "deviation": nf.gaussian()}
    if output_type == "quantiles":
        predicted = predicted + np.array([-0.01, 0.0, 0.01], np.float32)
        names = (*names, "coverage")
    elif output_type == "deviation":
        predicted, names = np.concatenate([predicted, 0 * y], axis=1), (*names, "coverage", "nll")
    objective = in_target_units(objectives[output_type], target)
    task = nf.Task(nf.serial(same=lambda x: x), objective, nf.optimizers.sgd(0.1), metrics=(*names, "mape"))
    values = nf.evaluate(task, {}, (predicted, y))
    restored = (restore_targets(predicted.astype(float), target, output_type), restore_targets(y.astype(float), target))
    expected = compute_metrics(HeldOut(output_type, *restored), names)
    assert {name: values[name] for name in names} == pytest.approx(expected, rel=1e-4)
    assert values["mae"] == pytest.approx(50, rel=1e-5)
    assert values["mape"] < 1e-6
