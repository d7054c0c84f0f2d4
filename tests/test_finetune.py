"""Adapters of a run that was trained before, from a config: only they are trained, and they merge."""

import jax
import numpy as np
import pytest
from test_cli import CONFIG, _no_cache, main  # noqa: F401

import nnfunc as nf
from nnfunc.config import ConfigError, load
from nnfunc.config.rehearsing import rehearse


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "base.toml").write_text(CONFIG)
    run = folder / "base"
    assert main("train", folder / "base.toml", "--run", run) == 0
    adapters = f'lora = {{ run = "{run}", on = ["**/weight"], rank = 2, alpha = 4.0 }}\n'
    (folder / "lora.toml").write_text(CONFIG.strip() + "\n" + adapters)
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
    same = base.model.apply(merged, x, state=adapted.state["model"])
    np.testing.assert_array_equal(y, same)
    assert float(np.abs(y - base.model.apply(base.params, x, state=base.state)).max()) > 1e-3


def test_the_statistics_of_the_base_are_gone_on_with(folder):
    config = load(folder / "lora.toml")
    base = nf.load_run(folder / "base")
    fresh = config.build(config.hypers).model.init_state()
    jax.tree.map(np.testing.assert_array_equal, fresh["model"], base.state)


def test_a_pattern_that_fits_no_weight_is_told_of_lora(folder):
    with pytest.raises(ConfigError, match=r"lora\.toml: lora: on: the pattern '\*\*/wight' should"):
        rehearse(load(folder / "lora.toml", ['lora.on=["**/wight"]']))
