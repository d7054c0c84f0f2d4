"""A run that starts from the parameters of another one, from a config."""

import json
import shutil

import jax
import numpy as np
import pytest
from helpers.command_line import CONFIG, main, rows

import nnfunc as nf
from nnfunc.config import ConfigError, load
from nnfunc.config.dry_run import dry_run
from nnfunc.config.restore import read_config

pytestmark = pytest.mark.usefixtures("no_compilation_cache")

START = 'start = { run = "base", skip = ["head/**"] }\n'
SHORT = ("train.steps=8", "train.best=min loss")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    (folder / "base.toml").write_text(CONFIG)
    (folder / "tune.toml").write_text(CONFIG + START)
    assert main("train", folder / "base.toml", "train.best=max loss", "--run", folder / "base") == 0
    assert not equal(*(nf.load_run(folder / "base", name).params for name in ("best", "last")))
    return folder


def first_state(config):
    return nf.trainer(config.build).init(config.hypers, config.key())


def equal(one, other):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), one, other)))


@pytest.mark.parametrize("checkpoint", ["best", "last"])
def test_parameters_and_statistics_are_those_of_the_run(folder, checkpoint):
    base = nf.load_run(folder / "base", checkpoint)
    plain = first_state(load(folder / "base.toml"))
    which = f'start.checkpoint="{checkpoint}"'
    state = first_state(load(folder / "tune.toml", [which]))
    assert equal(state.params["hidden_0"], base.params["hidden_0"])
    assert equal(state.params["head"], plain.params["head"])
    assert equal(state.model_state, base.state)
    assert not equal(state.model_state, plain.model_state)
    assert equal(state.opt_state, jax.tree.map(np.zeros_like, state.opt_state))
    without = first_state(load(folder / "tune.toml", [which, 'start.skip=["**/mean", "head/**"]']))
    assert equal(without.model_state["hidden_0"]["norm"]["mean"], plain.model_state["hidden_0"]["norm"]["mean"])
    assert equal(without.model_state["hidden_0"]["norm"]["var"], base.state["hidden_0"]["norm"]["var"])


def test_the_run_does_not_need_its_source(folder, tmp_path, capsys):
    source, run = tmp_path / "base", tmp_path / "tuned"
    shutil.copytree(folder / "base", source)
    shutil.copy(folder / "tune.toml", tmp_path)
    assert main("train", tmp_path / "tune.toml", *SHORT, "--run", run) == 0
    text = capsys.readouterr().out
    assert f"start   {source} (best)\nloaded  5: hidden_0/linear/weight, " in text
    assert "skipped 2: head/bias, head/weight\n" in text
    report = json.loads((run / "start.json").read_text())
    assert (report["run"], report["checkpoint"]) == (str(source), "best")
    assert report["skipped"] == ["head/bias", "head/weight"]
    assert len(report["loaded"]) == 5
    shutil.rmtree(source)
    run = run.rename(tmp_path / "moved")
    losses = [row["loss"] for row in rows(run) if row["split"] == "train"]
    assert main("evaluate", run) == 0
    assert main("resume", run, "train.steps=12", "schedule.total_steps=8") == 0
    for name in ("checkpoints", "metrics.jsonl"):  # as of a run that was killed before its first checkpoint
        (shutil.rmtree if (run / name).is_dir() else type(run).unlink)(run / name)
    assert main("resume", run) == 0
    assert [row["loss"] for row in rows(run) if row["split"] == "train"][: len(losses)] == losses
    start, base = first_state(read_config(run, needs_start=True)), nf.load_run(folder / "base")
    assert equal(start.params["hidden_0"], base.params["hidden_0"])
    # a run from a run from a run that is gone
    again = f'start={{run="{run}",checkpoint="last"}}'
    assert main("train", folder / "base.toml", again, *SHORT, "--run", tmp_path / "third") == 0
    shutil.rmtree(run)
    assert main("resume", tmp_path / "third", "train.steps=10", "schedule.total_steps=8") == 0


def test_trials_of_a_sweep_start_from_the_run(folder, tmp_path):
    sweep, trial = tmp_path / "sweep", tmp_path / "trial"
    words = ["schedule.peak=[0.01,0.02]", "train.steps=8", "--best", "min loss", "--run", sweep]
    assert main("sweep", folder / "tune.toml", *words) == 0
    assert main("sweep-best", sweep, "--save", trial) == 0
    best = json.loads((sweep / "result.json").read_text())
    peak = f"schedule.peak={best['settings']['schedule.peak']}"
    assert main("train", folder / "tune.toml", *SHORT, peak, "--run", tmp_path / "alone") == 0
    last = [row["loss"] for row in rows(tmp_path / "alone") if row["split"] == "validation"][-1]
    assert last == pytest.approx(best["score"], rel=1e-4)
    assert len(json.loads((trial / "start.json").read_text())["loaded"]) == 5
    shutil.rmtree(sweep)
    assert nf.load_run(trial).params["head"]["weight"].shape == (12, 10)


@pytest.mark.parametrize(
    "setting, message",
    [
        ('start.run="nowhere"', "start: run should be the folder of a run, got '"),
        ('start.only=["hed/**"]', "start: only: the pattern 'hed/**' should match at least one path, got none; there"),
        ('start.skip=["head/1/**"]', "start: skip: the pattern 'head/1/**' should match a layer, got none"),
        ('start.skip=["**"]', "start: only= and skip= should leave a path of the model to take over"),
        ("model.widths=[64,13,10]", "start: hidden_0/linear/weight should have the shape (64, 13) of the model, got"),
        ('start.checkpoint="first"', "start.checkpoint: should be one of 'best', 'last', got 'first'"),
        ("start.onyl=[]", "start.onyl: start has no such key, got []; did you mean 'only'?"),
        ("start={}", "start.run: is missing"),
        ('lora={run="base"}', "start: the table lora names the run to start from. Remove one of the two tables"),
    ],
)
def test_a_start_that_does_not_fit_is_one_line(folder, tmp_path, monkeypatch, capsys, setting, message):
    monkeypatch.chdir(folder)
    assert main("train", "tune.toml", setting, "--run", tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_start_that_does_not_fit_has_the_key_of_its_table(folder):
    with pytest.raises(ConfigError) as error:
        dry_run(load(folder / "tune.toml", ['start.skip=["hed"]']))
    assert [problem.path for problem in error.value.problems] == ["start"]


def test_debugging_commands_start_there_too(folder, capsys):
    assert main("doctor", folder / "tune.toml") == 0
    config = load(folder / "tune.toml")
    params, state = nf.debug.first_state.init_params(config.build, config.hypers, config.key())
    assert equal(params["hidden_0"], first_state(config).params["hidden_0"])
    assert equal(state, first_state(config).model_state)


def test_a_run_of_adapters_has_to_be_merged_first(folder, tmp_path, capsys):
    adapted = tmp_path / "lora"
    lora = f'lora={{run="{folder / "base"}",on=["**/weight"]}}'
    assert main("train", folder / "base.toml", lora, *SHORT, "--run", adapted) == 0
    assert main("train", folder / "tune.toml", f'start.run="{adapted}"', "--run", tmp_path / "run") == 2
    assert "start: run should have no adapters" in capsys.readouterr().err
