"""`nnfunc import`: a published language model as a run that the other commands use."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.command_line import main

import nnfunc as nf

pytestmark = pytest.mark.usefixtures("no_compilation_cache")

TEXT = "to be or not to be, that is the question\n" * 40
MODEL = nf.llama(40, dim=16, layers=1, heads=2, hidden=24, rotary_scaling={"name": "linear", "factor": 2.0}, tied=True)


@pytest.fixture
def folder(tmp_path, monkeypatch, key):
    """A folder with a published model and its tokenizer of words, and a text."""
    tokenizers = pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    nf.to_pretrained(MODEL, MODEL.init(key), tmp_path / "published", dtype=jnp.bfloat16)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="?"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.train_from_iterator([TEXT], tokenizers.trainers.WordLevelTrainer(special_tokens=["?"]))
    words.save(str(tmp_path / "published" / "tokenizer.json"))
    return tmp_path


@pytest.mark.slow
def test_an_imported_model_is_a_run(folder, capsys):
    assert main("import", "published", "run", "--text", "text.txt", "--block-size", "8") == 0
    assert "imported published (llama, 2,864 parameters) into run" in capsys.readouterr().out.replace("\n", " ")
    assert json.loads((folder / "run/imported.json").read_text())["family"] == "llama"
    _, expected = nf.pretrained(folder / "published", dtype=jnp.float32)
    model, params, _ = nf.load_run("run")
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert repr(model).count("rotary_scaling") == 1
    assert main("sample", "run", "--prompt", "to be", "--steps", "4") == 0
    assert capsys.readouterr().out.startswith("to be")
    assert main("evaluate", "run", "--split", "validation") == 0
    config = """
        data = { name = "text", path = "text.txt", codec = "published/tokenizer.json", block_size = 8, batch_size = 4 }
        model = { name = "llama", vocab_size = 40, dim = 16, layers = 1, heads = 2, hidden = 24, tied = true }
        objective = { name = "language_modelling" }
        optimizer = { name = "sgd", learning_rate = 0.0 }
        start = { run = "run" }
        train = { steps = 1, loop = "step" }
    """
    (folder / "finetune.toml").write_text(config)
    assert main("train", "finetune.toml", "--run", "tuned") == 0
    tuned = nf.load_run("tuned").params
    jax.tree.map(np.testing.assert_array_equal, tuned, expected)


def test_what_cannot_be_imported_is_said(folder, capsys, key):
    (folder / "published/tokenizer.json").unlink()
    assert main("import", "published", "run", "--text", "text.txt") == 2
    assert "has no tokenizer.json" in capsys.readouterr().err
    bert = nf.bert(40, block_size=8, layers=1, heads=2, dim=8, output="tokens")
    nf.to_pretrained(bert, bert.init(key), folder / "bert")
    assert main("import", "bert", "run", "--text", "text.txt") == 2
    assert "bert is bert, which is not a language model" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "run").exists()
