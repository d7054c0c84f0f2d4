"""`nnfunc compare`: what it trains, the tables and plots it writes, and its errors."""

import csv
import json
import re

import pytest
from helpers.html_page import charts_of
from scipy import stats

from nnfunc.commands import compare as comparing
from nnfunc.commands.compare import comparison_table
from nnfunc.commands.compare.comparison_plan import load_plan
from nnfunc.commands.compare.run_comparison import _time_to_target
from nnfunc.commands.exit_codes import exit_code
from nnfunc.commands.interrupts import Stopped
from nnfunc.config import ConfigError
from nnfunc.runs.best_metric import BestMetric
from nnfunc.training.train_run import History

TOML = """
seeds = [0, 1]
target = { accuracy = 0.5 }
parameters_within = 0.08
[every]
data = { name = "digits", batch_size = 64 }
objective = { name = "classification" }
optimizer = { name = "adamw", learning_rate = 3e-3 }
train = { steps = 40, evaluate_every = 10 }
[models.wide]
model = { name = "mlp", widths = [64, 128, 10] }
[models.deep]
model = { name = "mlp", widths = [64, 67, 64, 10] }
optimizer = { learning_rate = 4e-3 }
[variants.plain]
[variants.smooth]
objective = { label_smoothing = 0.1 }
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("compare") / "two.toml"
    file.write_text(TOML)
    return file


@pytest.fixture(scope="module")
def folder(file):
    return comparing.compare(file, [], file.parent / "out")


def rows(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_tables_are_merged_and_every_run_is_planned(file):
    plan = load_plan(file, ["every.train.steps=30"])
    assert [run.name for run in plan.runs[:3]] == ["wide-plain-0", "wide-plain-1", "wide-smooth-0"]
    assert len(plan.runs) == 8
    assert {run.config.train["steps"] for run in plan.runs} == {30}
    smooth = next(run for run in plan.runs if run.name == "deep-smooth-1")
    assert smooth.config.hypers["objective.label_smoothing"] == 0.1
    assert smooth.config.hypers["optimizer.learning_rate"] == 4e-3
    assert smooth.config.tables["seed"] == 1
    assert plan.sizes["wide"].parameters == 64 * 128 + 128 + 128 * 10 + 10
    assert plan.sizes["wide"].flops >= 2 * (64 * 128 + 128 * 10)


def test_the_table_holds_the_means_of_the_runs(folder):
    runs, summary = rows(folder / "runs.csv"), rows(folder / "table.csv")
    assert [row["model"] for row in summary] == ["wide", "deep"]
    own = [float(r["test_accuracy"]) for r in runs if (r["model"], r["variant"]) == ("deep", "smooth")]
    mean, half = float(summary[1]["smooth"]), float(summary[1]["smooth_half_interval"])
    assert mean == pytest.approx(sum(own) / 2)
    if own[0] != own[1]:  # SciPy is the reference, and has none for a spread of 0
        low, high = stats.t.interval(0.95, 1, loc=mean, scale=stats.sem(own))
        assert (mean - half, mean + half) == pytest.approx((low, high))
    assert 0.3 < mean < 1
    text = (folder / "table.md").read_text()
    assert text.startswith("| model | parameters | MFLOPs | test, plain | test, smooth | lost |")
    assert (folder / "results.png").stat().st_size > 5000
    assert (folder / "curves.png").stat().st_size > 5000


def test_the_report_is_one_file_with_all_of_it(folder):
    text = (folder / "report.html").read_text()
    assert text.count("data:image/png;base64,") == 2
    assert {"results", "curve-step", "curve-seconds"} == set(charts_of(text))
    assert not re.search(r"(?:src|href)=.(?!data:)", text)
    assert text.count("<tr><td>wide</td>") == 1 + 4  # in the table, and of its runs
    line = (folder / "table.md").read_text().splitlines()[2]
    cells = "".join(f"<td>{cell.strip()}</td>" for cell in line.strip("|").split("|"))
    assert f"<tr>{cells}</tr>" in text
    assert '<tr><th scope="row">models.deep.optimizer.learning_rate</th><td>0.004</td></tr>' in text
    assert '<tr><th scope="row">jax</th>' in text


def test_a_result_is_of_the_best_checkpoint_on_the_test_split(folder):
    from nnfunc import load_run
    from nnfunc.data import digits

    run = folder / "runs" / "wide-plain-1"
    loaded = load_run(run)
    x, y = digits().test
    right = (loaded.model.apply(loaded.params, x).argmax(-1) == y).mean()
    assert json.loads((run / "result.json").read_text())["test"]["accuracy"] == pytest.approx(float(right))


def test_steps_and_seconds_to_the_target():
    import numpy as np

    train = {"step": np.array([10, 20, 30, 40]), "seconds": np.array([9.0, 9.5, 10.0, 10.5])}
    validation = {"step": np.array([20, 40]), "accuracy": np.array([0.4, 0.6]), "loss": np.array([2.0, 1.0])}
    history = History(train, validation, "step")
    best = BestMetric.parse("min loss")
    pace = _time_to_target(history, ("accuracy", 0.5), best)
    assert pace == {"seconds_per_step": 0.05, "steps_to_target": 40, "seconds_to_target": 2.0}
    assert _time_to_target(history, ("loss", 2.0), best)["steps_to_target"] == 20  # a loss sinks
    assert _time_to_target(history, ("accuracy", 0.9), best)["steps_to_target"] is None
    with pytest.raises(ValueError, match="target should name a validation metric, got 'acuracy'"):
        _time_to_target(history, ("acuracy", 0.9), best)


def test_a_stopped_comparison_goes_on_and_others_are_refused(file, folder, capsys):
    (folder / "runs" / "deep-smooth-1" / "result.json").unlink()
    before = (folder / "runs" / "wide-plain-0" / "result.json").stat().st_mtime_ns
    capsys.readouterr()
    comparing.compare(file, [], folder)
    assert "8 of 8  deep-smooth-1" in capsys.readouterr().out
    assert (folder / "runs" / "wide-plain-0" / "result.json").stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="other settings"):
        comparing.compare(file, ["seeds=[0]"], folder)


def test_one_seed_has_no_interval():
    assert comparison_table.mean_over_seeds([0.5]) == (0.5, None)


def test_the_config_of_one_run_is_told_in_one_line(tmp_path):
    config = tmp_path / "one.toml"
    config.write_text('model = { name = "mlp", widths = [64, 10] }\ntrain = { steps = 5 }\n')
    words = f"{config}: this is the config of one run.*nnfunc train {config}"
    with pytest.raises(ConfigError, match=words) as found:
        load_plan(config)
    assert len(found.value.problems) == 1


def test_ctrl_c_between_two_runs_says_how_to_go_on(file, folder, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison_table, "summarize", interrupt)
    with pytest.raises(Stopped, match=f"complete runs are kept. .* --run {folder}") as found:
        comparing.compare(file, [], folder)
    assert exit_code(found.value) == 130


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("models.wide.model.widths=[64, 10]", r"at most 8%, got wide 650, deep 9,3\d\d. Change a"),
        ("models.wide.model.width=3", "two.toml: wide .plain.: model.width: mlp has no such key"),
        ("models.wide=3", "models.wide: input should be a valid dict"),
        ("data={}", "data: there is no such key.*Tables that all models share belong in .every"),
        ("seed=3", "seed: there is no such key; did you mean 'seeds'"),
        ("seeds=[1, 1]", "seeds: should be distinct"),
        ("seeds=[-1]", "seeds.0: input should be greater than or equal to 0"),
        ("target={acuracy=0.9}", "target: should name a validation metric, got 'acuracy'; did you"),
        ("target={a=1, b=2}", "target: should be one metric"),
    ],
)
def test_mistakes(file, setting, message):
    with pytest.raises(ConfigError, match=message):
        load_plan(file, [setting])
