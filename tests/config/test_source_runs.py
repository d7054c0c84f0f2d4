"""Runs on texts, sentences and series: trained, resumed, evaluated, swept and used without their data."""

import json
import shutil

import numpy as np
import pytest
from helpers.command_line import main

import nnfunc as nf

END = """
optimizer = { name = "adamw", learning_rate = 0.02 }
train = { steps = 30, save_every = 10, evaluate_every = 10, loop = "step" }
"""
CONFIGS = {
    "text_classification": """
data = { name = "text_classification", source = "data.csv", block_size = 8, vocab_size = 300, batch_size = 8 }
model = { name = "text_classifier", vocab_size = 300, classes = 2, dim = 4 }
objective = { name = "classification" }
""",
    "tagging": """
data = { name = "tagging", path = "data.conll", affixes = 1, vocab_size = 100, batch_size = 8 }
model = { name = "tagger", vocab_size = 100, classes = 2, dim = 4 }
objective = { name = "tagging" }
""",
    "forecasting": """
data = { name = "forecasting", source = "data.csv", time = "day", context = 8, horizon = 2, season = 4, batch_size = 8 }
model = { name = "mlp", widths = [8, 8, 2] }
objective = { name = "regression" }
""",
    "gaussian": """
data = { name = "forecasting", source = "data.csv", time = "day", context = 8, horizon = 2, layout = "sequence", \
batch_size = 8 }
model = { name = "rnn_classifier", in_dim = 1, classes = 4, dim = 4 }
objective = { name = "gaussian" }
""",
}
TEXTS = [f"{word} film {i}" for i in range(20) for word in ("good", "bad")]
ROWS = {i: (100 + i % 4, 5 - i % 4) for i in range(60)}
DATA = {
    "text_classification": "text,label\n" + "".join(f"{text},{text.split()[0]}\n" for text in TEXTS),
    "tagging": "".join(f"see VERB\n{i} NUM\n\n" for i in range(40)),
    "forecasting": "day,a,b\n" + "".join(f"{i},{a},{b}\n" for i, (a, b) in ROWS.items()),
}
DATA["gaussian"] = DATA["forecasting"]
INPUTS = {
    "text_classification": ["good film 3", "bad film 4"],
    "tagging": ["see 5", ["see"]],
    "forecasting": {"day": [*range(60, 68)], "a": [100, 101, 102, 103] * 2, "b": [5, 4, 3, 2] * 2},
}
INPUTS["gaussian"] = INPUTS["forecasting"]

pytestmark = [pytest.mark.usefixtures("no_compilation_cache"), pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module", params=CONFIGS)
def run(request, tmp_path_factory):
    """The name of a config, and the folder with its data and its finished run."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    (folder / ("data.conll" if name == "tagging" else "data.csv")).write_text(DATA[name])
    (folder / "it.toml").write_text(CONFIGS[name] + END)
    assert main("train", folder / "it.toml", "--run", folder / "run") == 0
    return name, folder


def test_a_run_predicts_without_its_data(run, tmp_path):
    name, folder = run
    shutil.copytree(folder / "run", tmp_path / "run")
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace(str(folder), str(tmp_path / "nowhere")))
    model = nf.load_run(tmp_path / "run")
    y, names = model.predict_named(INPUTS[name])
    if name == "text_classification":
        assert [model.names[label] for label in y.argmax(-1)] == ["good", "bad"]
    elif name == "tagging":
        assert names == ["see 5", "see"]
        assert [model.names[tag] for tag in y[0].argmax(-1)] == ["VERB", "NUM"]
    else:  # means in the units of the series, and log-deviations
        assert names == ["a", "b"]
        assert y.shape == ((2, 2) if name == "forecasting" else (2, 4))
        np.testing.assert_allclose(y[:, :2], [[101.5] * 2, [3.5] * 2], atol=2)


def test_a_run_is_evaluated_on_its_splits_and_on_a_file(run, capsys):
    name, folder = run
    values = json.loads((folder / "run" / "result.json").read_text())["test"]
    assert main("evaluate", folder / "run") == 0
    out = capsys.readouterr().out
    assert f"loss {values['loss']:.4g}" in out
    assert ("last value  mae" in out, "seasonal naive  mae" in out) == (
        name in ("forecasting", "gaussian"),
        name == "forecasting",
    )
    other = folder / ("other.conll" if name == "tagging" else "other.csv")
    text = DATA[name].replace("film", "movie")
    if "day" in text:
        text = "day,a,b\n" + "".join(f"{i + 100},{a},{b}\n" for i, (a, b) in ROWS.items())
    other.write_text(text)
    assert main("evaluate", folder / "run", other) == 0
    assert "other." in capsys.readouterr().out
    held_out = nf.load_run(folder / "run").held_out("test")
    assert len(held_out.output) == len(held_out.target) > 0
    if "day" in text:  # in the units of the file
        assert set(held_out.target.round(3).ravel()) <= {float(value) for row in ROWS.values() for value in row}
        error = np.abs(held_out.reading().prediction - held_out.target).mean()
        assert values["file_mae"] == pytest.approx(error)
        assert values["mae"] < values["file_mae"]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(run, tmp_path):
    name, folder = run
    for path in folder.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    shutil.copytree(folder / "run", tmp_path / "run")
    for step in (20, 30):
        shutil.rmtree(next((tmp_path / "run" / "checkpoints").glob(f"*{step}")))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "best", ignore_errors=True)
    assert main("resume", tmp_path / "run") == 0
    x, y = (nf.load_run(path / "run", "last").predict(INPUTS[name]) for path in (folder, tmp_path))
    np.testing.assert_array_equal(x, y)


@pytest.mark.slow
def test_a_sweep_shares_the_data(run, tmp_path, monkeypatch):
    _, folder = run
    monkeypatch.chdir(tmp_path)
    space = ["optimizer.learning_rate=[0.01,0.02]", "train.steps=10"]
    assert main("sweep", folder / "it.toml", *space, "--run", "sweep") == 0
    assert len((tmp_path / "sweep" / "table.csv").read_text().splitlines()) >= 3
