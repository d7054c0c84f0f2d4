"""The tables mesh and shard of a config."""

import pytest

from nnfunc import config
from nnfunc.config.config_errors import ConfigError
from nnfunc.config.dry_run import dry_run
from nnfunc.config.sweep.load_sweep import load_sweep
from nnfunc.config.sweep.study import Study
from nnfunc.sweeps.trials_mesh import TrialsMesh

TABLES = {
    "data": {"name": "digits", "batch_size": 64},
    "model": {"name": "mlp", "widths": [64, 8, 10]},
    "objective": {"name": "classification"},
    "optimizer": {"name": "adamw", "learning_rate": 1e-2},
    "train": {"steps": 4},
}


def test_the_tables_come_back_from_their_text(tmp_path):
    shard = {"**/weight": ["", "data"]}
    loaded = config.resolve(TABLES | {"mesh": {"data": -1}, "shard": shard})
    assert loaded.mesh == {"mesh": {"data": -1}, "shard": shard}
    loaded.dump(tmp_path / "config.toml")
    assert config.load(tmp_path / "config.toml").tables == loaded.tables
    assert config.resolve(TABLES).mesh == {}


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"mesh": 3}, r"mesh: should be integers by axis, such as mesh = .* got 3"),
        ({"mesh": {"data": "all"}}, r"mesh: should be integers by axis"),
        ({"shard": {"**/weight": "data"}}, r"shard: should be a preset, or lists of mesh axes by path pattern"),
    ],
)
def test_tables_of_another_type(tables, message):
    with pytest.raises(ConfigError, match=message):
        config.resolve(TABLES | tables)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"mesh": {"data": 16}}, r"mesh: data = 16 should use at most the 4 devices that there are"),
        ({"mesh": {"data": 3}}, r"the 3 devices of the mesh axis 'data' should divide batch_size, got 64"),
        ({"mesh": {"data": 2}, "shard": {"**/wight": ["data"]}}, r"shard: the pattern '\*\*/wight' should match"),
        ({"mesh": {"data": 2}, "shard": "tensor"}, r"shard: the mesh should have an axis 'model' for 'tensor'"),
        ({"shard": "fsdp"}, r"shard: there should be a mesh to place arrays on"),
    ],
)
def test_a_mesh_that_does_not_fit_is_found_before_the_training(tables, message):
    with pytest.raises(ConfigError, match=message):
        dry_run(config.resolve(TABLES | tables))


RATES = ["optimizer.learning_rate=log(1e-4, 1e-2)"]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"mesh": {"data": 1}}, r"mesh: a mesh of a sweep should have an axis trials"),
        ({"mesh": {"trials": 16}}, r"trials = 16 should use at most the 4 devices"),
        ({"shard": "fsdp"}, r"there should be a mesh to place the arrays of a trial on"),
    ],
)
def test_a_mesh_of_a_sweep_that_does_not_fit(tmp_path, tables, message):
    config.resolve(TABLES | tables).dump(tmp_path / "config.toml")
    with pytest.raises(ConfigError, match=message):
        Study(load_sweep(tmp_path / "config.toml", RATES, {"trials": 4}), "config")


def test_a_trial_of_a_sweep_is_a_run_on_its_part_of_the_mesh(tmp_path):
    config.resolve(TABLES | {"mesh": {"trials": 2, "data": 2}, "shard": "fsdp"}).dump(tmp_path / "config.toml")
    study = Study(load_sweep(tmp_path / "config.toml", RATES, {"trials": 4}), "config")
    assert study.engine().on == TrialsMesh((("trials", 2), ("data", 2)), "fsdp")
    assert study.config({"optimizer.learning_rate": 1e-2}, 0).mesh == {"mesh": {"data": 2}, "shard": "fsdp"}
