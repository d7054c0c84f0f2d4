"""The scripts of data are deterministic, and the configs that name their files train on them."""

import numpy as np
import pytest
from helpers.command_line import content
from helpers.project import ROOT
from helpers.shipped_configs import SMALL, load_script

from nnfunc.config import ConfigError, load
from nnfunc.config.dry_run import dry_run

CASES = {
    "text_classification": ("docstrings", "data.source=", "docstrings.csv"),
    "tagging": ("python_tags", "data.path=", "python_tags.conll"),
    "forecasting": ("sales", "data.source=", "sales.csv"),
    "image_folder": ("shapes", "data.path=", "shapes"),
}
OPTIONS = {"text_classification": ["data.batch_size=16"], "image_folder": ["data.batch_size=8"], "forecasting": []}


def write(name, folder):
    """Run a script with less data."""
    load_script(name, **SMALL[name]).main(folder)
    return content(folder)


@pytest.mark.parametrize("config", CASES)
@pytest.mark.filterwarnings("default")
def test_a_script_writes_the_data_of_its_config(config, tmp_path):
    script, key, name = CASES[config]
    assert write(script, tmp_path / "one") == write(script, tmp_path / "other")
    overrides = [f"{key}{tmp_path / 'one' / name}", *OPTIONS.get(config, [])]
    loaded = load(ROOT / "configs" / f"{config}.toml", overrides)
    data = loaded.data()
    assert data.validation is not None
    assert data.test is not None
    x, _ = data.batch(0)
    assert np.isfinite(np.asarray(x, np.float32)).all()
    dry_run(loaded)


def test_an_f_string_is_one_token_on_every_python(tmp_path):
    source = ["x = f'a {b:{c}} {f\"{d}\"}' + f(1)", "y = (f'''{e}", "two''', 2)"]
    (tmp_path / "x.py").write_text("\n".join(source) + "\n")
    first, second = load_script("python_tags").sentences(tmp_path / "x.py")
    assert first[2:5] == (("f'a{b:{c}}{f\"{d}\"}'", "string"), ("+", "operator"), ("f", "call"))
    assert second[3:5] == (("f'''{e}two'''", "string"), (",", "operator"))


def test_the_vocabulary_of_the_model_has_that_of_the_data():
    message = r"model\.vocab_size: should be at least data\.vocab_size = 4000, got 300"
    with pytest.raises(ConfigError, match=message):
        load(ROOT / "configs" / "tagging.toml", ["model.vocab_size=300"])
