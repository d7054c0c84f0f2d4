"""Adapters of a run that was trained before, from a config: only they are trained, and they merge."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from helpers.command_line import CONFIG, main

import nnfunc as nf
from nnfunc.commands.evaluate_run import evaluate
from nnfunc.config import ConfigError, load
from nnfunc.config.build import _make_task
from nnfunc.config.dry_run import dry_run
from nnfunc.config.task_options import options
from nnfunc.runs import status

pytestmark = pytest.mark.usefixtures("no_compilation_cache")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "base.toml").write_text(CONFIG)
    run = folder / "base"
    assert main("train", folder / "base.toml", "--run", run) == 0
    more = f"""
lora = {{ run = "{run}", on = ["**/weight"], rank = 2, alpha = 4.0 }}
task = {{ precision = "bfloat16", accumulate = 2 }}
average = {{ name = "ema", decay = 0.5 }}
"""
    (folder / "lora.toml").write_text(CONFIG.strip() + more)
    assert main("train", folder / "lora.toml", "train.steps=8", "--run", folder / "lora") == 0
    return folder


def test_only_the_adapters_are_trained_and_merge_exactly(folder):
    base, adapted = nf.load_run(folder / "base"), nf.load_run(folder / "lora", "last")
    leaves = nf.paths.flatten(adapted.params)
    assert {path.rsplit("/", 1)[1] for path in leaves} == {"down", "up"}
    kept = adapted.state["base"]
    jax.tree.map(np.testing.assert_array_equal, kept, base.params)
    merged = nf.merge_lora(adapted.model, adapted.params, adapted.state)
    x = load(folder / "base.toml").data().batch(0)[0]
    y = adapted.model.apply(adapted.params, x, state=adapted.state)
    half = nf.precision(base.model)
    same = half.apply(merged, x, state=adapted.state["model"])
    np.testing.assert_array_equal(y, same)
    assert float(np.abs(y - half.apply(base.params, x, state=base.state)).max()) > 1e-3


def test_merge_writes_a_plain_run_with_the_same_figures(folder, capsys):
    whole = folder / "whole"
    assert main("merge", folder / "lora", whole) == 0
    assert "merged" in capsys.readouterr().out
    tables = load(whole / "config.toml").tables
    base, adapted = (load(folder / name / "config.toml").tables for name in ("base", "lora"))
    assert {"lora", "average"}.isdisjoint(tables)
    assert (tables["task"], tables["train"]) == (adapted["task"], base["train"])
    figures = json.loads((folder / "lora" / "result.json").read_text())["test"]
    assert evaluate(whole) == figures != evaluate(folder / "base")
    assert evaluate(whole, checkpoint="last") == figures
    x = load(whole / "config.toml").data().batch(0)[0]
    outputs = [
        jax.jit(run.model.apply)(run.params, x, state=run.state) for run in map(nf.load_run, (whole, folder / "lora"))
    ]
    np.testing.assert_array_equal(*outputs)
    assert status.run_state(whole, []) == ("merged", f"from {folder / 'lora'}")
    assert main("resume", whole) == 2
    assert "is a merged run" in capsys.readouterr().err
    assert main("merge", folder / "base", folder / "other") == 2
    assert "no table lora" in capsys.readouterr().err
    again = f'lora={{run="{folder / "lora"}"}}'
    assert main("train", folder / "base.toml", again, "--run", folder / "other") == 2
    assert "Merge them first: nnfunc merge" in capsys.readouterr().err
    assert not (folder / "other").exists()
    further = f'lora={{run="{whole}", on=["**/weight"]}}'
    assert load(folder / "base.toml", [further]).build is not None


def test_parts_of_a_run_are_trained_fully_beside_adapters(folder, tmp_path):
    lora = f'lora={{run="{folder / "base"}",on=["hidden_*/**/weight"],rank=2,train=["head/**"]}}'
    run, merged = tmp_path / "lora", tmp_path / "merged"
    assert main("train", folder / "base.toml", lora, "train.steps=8", "--run", run) == 0
    base, adapted = nf.load_run(folder / "base"), nf.load_run(run)
    assert "head/weight" in nf.paths.flatten(adapted.params)
    assert "head/weight" not in nf.paths.flatten(adapted.state["base"])
    assert (adapted.params["head"]["weight"] != base.params["head"]["weight"]).all()
    assert main("merge", run, merged) == 0
    assert evaluate(merged) == json.loads((run / "result.json").read_text())["test"]
    kept = nf.load_run(merged).params["head"]["weight"]
    np.testing.assert_array_equal(kept, adapted.params["head"]["weight"])


def test_adapters_are_outermost_and_recomputed_blocks_inside():
    body = nf.repeat(nf.residual(nf.serial(up=nf.linear(4, 4), act=jax.numpy.tanh)), 2)
    inside = options(precision="bfloat16", remat=True).model(body)
    results = {"model": body, "objective": None, "optimizer": None}
    base = body.init(jax.random.key(0))

    class Tables:
        model = staticmethod(lambda model: nf.lora(model, base, "**/weight", rank=1))

    results |= {"task": options(precision="bfloat16", remat=True), "lora": Tables}
    adapted = _make_task(results, []).model
    params, x = adapted.init(jax.random.key(1)), np.ones((3, 4), np.float32)
    params = jax.tree.map(lambda leaf: leaf + 1, params)
    merged = nf.merge_lora(adapted, params, adapted.init_state())
    np.testing.assert_array_equal(
        jax.jit(adapted.apply)(params, x, state=adapted.init_state()), jax.jit(inside.apply)(merged, x)
    )


def test_a_base_that_is_trained_anew_makes_another_build(folder):
    before = load(folder / "lora.toml").build
    assert load(folder / "lora.toml").build == before
    best = folder / "base" / "checkpoints" / "best"
    os.utime(best, (2e9, 2e9))
    assert load(folder / "lora.toml").build != before


def test_the_statistics_of_the_base_are_gone_on_with(folder):
    config = load(folder / "lora.toml")
    base = nf.load_run(folder / "base")
    fresh = config.build(config.hypers).model.init_state()
    jax.tree.map(np.testing.assert_array_equal, fresh["model"], base.state)


def test_a_pattern_that_fits_no_weight_is_told_of_lora(folder):
    with pytest.raises(ConfigError, match=r"lora\.toml: lora: on: the pattern '\*\*/wight' should"):
        dry_run(load(folder / "lora.toml", ['lora.on=["**/wight"]']))


def test_runs_of_adapters_keep_a_copy_of_their_base(folder, tmp_path, capsys):
    gone, run, sweep = tmp_path / "base", tmp_path / "lora", tmp_path / "sweep"
    shutil.copytree(folder / "base", gone)
    lora = f'lora={{run="{gone}",on=["**/weight"]}}'
    assert main("train", folder / "base.toml", lora, "train.steps=8", "--run", run) == 0
    peaks = ["schedule.peak=[0.01,0.02]", "train.steps=8", "--best", "min loss"]
    assert main("sweep", folder / "base.toml", lora, *peaks, "--run", sweep) == 0
    expected = evaluate(run)
    shutil.rmtree(gone)
    run = run.rename(tmp_path / "moved")
    assert evaluate(run) == expected
    assert nf.load_run(run).state["base"]
    assert main("resume", run) == 0
    assert main("merge", run, tmp_path / "whole") == 0
    assert main("resume", sweep) == 0
    assert main("sweep-best", sweep, "--save", tmp_path / "trial") == 0
    shutil.rmtree(sweep)
    assert evaluate(tmp_path / "trial")
    assert main("runs", tmp_path) == 0
    assert "base/" not in capsys.readouterr().out


def test_predictions_and_evaluations_that_do_not_fit_are_refused(folder, monkeypatch, capsys):
    x = np.zeros((40, 64), np.float32)
    run = nf.load_run(folder / "base")
    needed = "nnfunc.device_memory.compiled_bytes"
    monkeypatch.setattr(needed, lambda program: 10**15)
    with pytest.raises(ValueError, match=r"predict: a prediction of 32 rows at once needs 1e\+03 TB"):
        run.predict(x)
    assert main("evaluate", folder / "base") == 2
    assert "an evaluation of 32 examples at once needs" in capsys.readouterr().err
