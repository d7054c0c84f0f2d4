"""The configs of tables: their script is deterministic, and they train on its data."""

import pytest
from helpers.command_line import content
from helpers.project import ROOT
from helpers.shipped_configs import SMALL, load_script

from nnfunc.config import ConfigError, load
from nnfunc.config.dry_run import dry_run

pytest.importorskip("sklearn")

CONFIGS = {
    "binary_rare": "payments",
    "regression_scaled": "diabetes",
    "regression_gaussian": "deliveries",
    "table_mixed": "rents",
}


def write(folder):
    """The bytes of the tables with fewer rows."""
    load_script("tables", **SMALL["tables"]).main(folder)
    return content(folder)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_trains_on_the_table_of_the_script(config, tmp_path):
    name = CONFIGS[config]
    assert write(tmp_path / "one") == write(tmp_path / "other")
    loaded = load(ROOT / "configs" / f"{config}.toml", [f"data.source={tmp_path}/one/{name}.csv"])
    dry_run(loaded)
    assert loaded.tables["data"]["source"].endswith(f"one/{name}.csv")


def test_a_config_loads_without_its_data(tmp_path):
    loaded = load(ROOT / "configs" / "table_mixed.toml", [f"data.source={tmp_path}/none.csv"])
    with pytest.raises(ConfigError, match=r"data: .*none\.csv was not found"):
        loaded.build  # noqa: B018
    with pytest.raises(ConfigError, match=r"model: dropout: rate should be in \[0, 1\], got 2"):
        load(ROOT / "configs" / "table_mixed.toml", [f"data.source={tmp_path}/none.csv", "model.dropout=2"])


@pytest.mark.slow
@pytest.mark.parametrize("config, metric, limit", [("table_mixed", "mae", 85), ("regression_gaussian", "mae", 4.7)])
def test_a_config_beats_gradient_boosting(config, metric, limit, tmp_path):
    """On the same rows, HistGradientBoosting has a MAE of 88.6 and 4.66: scripts/table_peers.py."""
    from nnfunc.commands.train import train
    from nnfunc.config.restore import load_run
    from nnfunc.evaluation import compute_metrics

    getattr(load_script("tables"), CONFIGS[config])(tmp_path)
    source = f"data.source={tmp_path}/{CONFIGS[config]}.csv"
    train(ROOT / "configs" / f"{config}.toml", [source], folder=tmp_path / "run")
    assert compute_metrics(load_run(tmp_path / "run").held_out("test"), [metric])[metric] < limit
