"""Each config of one's own data, on small data: its model takes a batch, doctor finds nothing, it trains and predicts."""

import json
import warnings

import jax
import numpy as np
import pytest
from helpers.command_line import main
from helpers.shipped_configs import CONFIGS

import nnfunc as nf
from nnfunc.config import load
from nnfunc.reports import run as reports

pytestmark = pytest.mark.usefixtures("no_compilation_cache")

FILES = {
    "forecasting": "sales.csv",
    "image_folder": "shapes/star",
    "tagging": "python_tags.conll",
    "text_classification": "docstrings.csv",
}
SHORT = ["train.steps=6", "train.evaluate_every=6", "train.log_every=3", "train.loop=step", "schedule.warmup_steps=2"]


def test_ten_configs_have_scripts_that_write_their_data():
    assert len(CONFIGS) == 10


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_config_takes_its_batch_trains_and_predicts(file, shipped, tmp_path, capsys, monkeypatch):
    for name in ("draw_curves", "write_report"):  # tests/reports has them
        monkeypatch.setattr(reports, name, lambda *arguments: None)
    config = load(shipped / file.name, SHORT)
    data = config.data()
    model, key = nf.as_model(config.build(config.hypers, 0).model), config.key()
    (x, _), params = data.batch(0), jax.eval_shape(model.init, key)
    y, _ = jax.eval_shape(model.apply_train, params, model.init_state(), x, key=key)
    assert y.shape[0] == len(jax.tree.leaves(x)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # batches larger than the small data
        assert main("train", shipped / file.name, *SHORT, "--run", tmp_path / "run") == 0
    capsys.readouterr()
    source = config.tables["data"].get("source") or config.tables["data"]["path"]
    inputs = shipped.parent / "data" / FILES.get(file.stem, source.rsplit("/")[-1])
    assert main("predict", tmp_path / "run", inputs, "--format", "jsonl") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) >= 2
    numbers = [value for value in rows[0].values() if isinstance(value, float)]
    assert np.isfinite(numbers).all()


@pytest.mark.slow
@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_doctor(file, shipped):
    config = load(shipped / file.name)
    assert nf.debug.doctor(config.build, config.hypers, config.data(), key=config.key()) == []
