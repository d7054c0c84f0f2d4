"""`nnfunc export`: runs as files for other runtimes, with their preprocessing, and mistakes in one line."""

import json
import subprocess
import sys

import numpy as np
import pytest
from helpers.command_line import CONFIG, main

import nnfunc as nf

TABLE = """
data = {{ name = "table", source = "{file}", label = "kind", batch_size = 16, seed = 0 }}
model = {{ name = "mlp", widths = [3, 8, 2] }}
objective = {{ name = "classification" }}
optimizer = {{ name = "adam" }}
schedule = {{ name = "constant", value = 1e-2 }}
train = {{ steps = 20, evaluate_every = 10 }}
"""
TEXT = """
data = {{ name = "text", path = "{file}", block_size = 8, batch_size = 8 }}
model = {{ name = "gpt", vocab_size = 32, block_size = 8, layers = 1, heads = 2, dim = 8 }}
objective = {{ name = "language_modelling" }}
optimizer = {{ name = "adam" }}
schedule = {{ name = "constant", value = 1e-2 }}
train = {{ steps = 6, evaluate_every = 6 }}
"""


def train(folder, text):
    (folder / "config.toml").write_text(text)
    assert main("train", folder / "config.toml", "--run", folder / "run") == 0
    return folder / "run"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return train(tmp_path_factory.mktemp("digits"), CONFIG)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """(run, values of the columns) of a table whose columns have large means and deviations."""
    folder = tmp_path_factory.mktemp("table")
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(120, 3)) * [1, 50, 0.01] + [2000, -300, 0]
    rows = [f"{a},{b},{c},{'yes' if b + 300 > 0 else 'no'}" for a, b, c in x]
    (folder / "rows.csv").write_text("\n".join(["year,height,depth,kind", *rows]) + "\n")
    return train(folder, TABLE.format(file=folder / "rows.csv")), x


def test_a_run_becomes_a_numpy_program(digits, tmp_path, capsys):
    assert main("export", digits, tmp_path / "digits.py", "--to", "numpy") == 0
    printed = capsys.readouterr().out
    assert "100 examples of the test split" in printed
    assert "accuracy of the model" in printed
    x = np.random.default_rng(0).random((7, 64), np.float32)
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, tmp_path / "digits.py", tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run(command, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), nf.load_run(digits).predict(x), rtol=1e-5, atol=1e-5)


def test_the_columns_of_a_table_are_standardised_inside(table, tmp_path, capsys):
    run, x = table
    assert main("export", run, tmp_path / "rows.py", "--to", "numpy") == 0
    assert "of the test split" in capsys.readouterr().out
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    command = [sys.executable, tmp_path / "rows.py", tmp_path / "x.npy", tmp_path / "y.npy"]
    subprocess.run(command, check=True)
    columns = dict(zip(("year", "height", "depth"), x.T, strict=True))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), nf.load_run(run).predict(columns), rtol=1e-3, atol=1e-3)
    assert "NAMES = ('no', 'yes')" in (tmp_path / "rows.py").read_text()


def test_a_stablehlo_file_has_what_a_run_knows(table, tmp_path):
    pytest.importorskip("flatbuffers")
    run, x = table
    assert main("export", run, tmp_path / "rows.stablehlo", "--to", "stablehlo") == 0
    model = nf.load_exported(tmp_path / "rows.stablehlo")
    expected = nf.load_run(run).predict(dict(zip(("year", "height", "depth"), x.T, strict=True)))
    np.testing.assert_allclose(model(x), expected, rtol=1e-3, atol=1e-3)
    assert model.names == ("no", "yes")
    assert model.metadata["preprocessing"]["columns"] == ["year", "height", "depth"]
    assert 'name = "mlp"' in model.metadata["config"]


@pytest.mark.parametrize("to, name", [("onnx", "rows.onnx"), ("litert", "rows.tflite")])
def test_a_run_is_exported_to_other_runtimes(to, name, table, tmp_path, capsys):
    """Raw columns go in; the names of the classes are inside."""
    pytest.importorskip({"onnx": "jax2onnx", "litert": "litert_converter"}[to])
    run, x = table
    assert main("export", run, tmp_path / name, "--to", to) == 0
    assert "accuracy of the model" in capsys.readouterr().out
    expected = nf.load_run(run).predict(dict(zip(("year", "height", "depth"), x.T, strict=True)))
    x = x.astype(np.float32)
    if to == "onnx":
        session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / name)
        y = session.run(["y"], {"x": x})[0]
        assert json.loads(session.get_modelmeta().custom_metadata_map["names"]) == ["no", "yes"]
    else:
        interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(tmp_path / name))
        runner, expected = interpreter.get_signature_runner("serving_default"), expected[:5]
        y = np.concatenate([runner(x=row[None])["y"] for row in x[:5]])
        assert rb"[\"no\", \"yes\"]" in (tmp_path / name).read_bytes()
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)


def test_text_is_exported_with_its_tokenizer(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    run = train(tmp_path, TEXT.format(file=tmp_path / "text.txt"))
    assert main("export", run, tmp_path / "gpt.py", "--to", "numpy") == 0
    assert "of the validation split" in capsys.readouterr().out
    from safetensors import safe_open

    with safe_open(tmp_path / "gpt.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["codec"])["codec"] == "characters"


def test_random_examples_where_the_data_is_gone(table, tmp_path, capsys):
    run, _ = table
    file = next(run.parent.glob("rows.csv"))
    moved = file.rename(file.with_suffix(".moved"))
    try:
        assert main("export", run, tmp_path / "rows.py", "--to", "numpy") == 0
    finally:
        moved.rename(file)
    printed = capsys.readouterr().out
    assert "100 examples are random, because the data of the run cannot be read" in printed
    assert "accuracy" not in printed


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["RUN", "model.py", "--to", "nmpy"],
            "to should be one of 'stablehlo', 'onnx', 'litert', 'numpy', 'hf', got 'nmpy'",
        ),
        (["RUN", "model.py"], "Missing option '--to'"),
        (["RUN", "model.txt", "--to", "numpy"], "file should end with .py"),
        (["RUN", "model.onnx", "--to", "onnx", "--quantize", "int4"], "quantize should be one of 'dynamic', 'weights'"),
        (["RUN", "model.py", "--to", "numpy", "--quantize", "weights"], "quantize should be left out"),
        (["RUN", "model.py", "--to", "numpy", "--tolerance", "0"], "tolerance should be above 0"),
        (["RUN", "model.py", "--to", "numpy", "--tolerance", "1e-30"], "the outputs of the numpy file differ"),
        (["none", "model.py", "--to", "numpy"], "none does not exist"),
        ([".", "model.py", "--to", "numpy"], "is not a run"),
        (["RUN", "model.py", "--to", "numpy", "--checkpoint", "first"], "checkpoint should be one of"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(words, message, digits, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main("export", *(digits if word == "RUN" else word for word in words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "module, to, extra", [("jax2onnx", "onnx", "onnx"), ("litert_converter.mlir.ir", "litert", "litert")]
)
def test_a_missing_extra_is_named(module, to, extra, digits, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    assert main("export", digits, tmp_path / "model", "--to", to) == 2
    assert f"pip install 'nnfunc[{extra}]'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text("the quick brown fox\njumps over the lazy dog. " * 40)
    codec = nf.data.Characters.of((folder / "text.txt").read_text())
    return train(folder, TEXT.replace("vocab_size = 32", f"vocab_size = {codec.size}").format(file=folder / "text.txt"))


def test_a_folder_for_transformers(text, tmp_path, capsys):
    assert main("export", text, tmp_path / "out", "--to", "hf") == 0
    assert "examples of the validation split: largest difference 0" in capsys.readouterr().out
    run, x = nf.load_run(text), np.arange(16).reshape(2, 8)
    again = nf.pretrained(tmp_path / "out")
    np.testing.assert_allclose(again.model.apply(again.params, x), run.model.apply(run.params, x), rtol=1e-6)
    tokenizer = nf.data.load_codec(tmp_path / "out" / "tokenizer.json")
    codec, sentence = run.config.preprocessing.codec, "the lazy fox\njumps."
    np.testing.assert_array_equal(tokenizer.encode(sentence), codec.encode(sentence))
    assert tokenizer.decode(codec.encode(sentence)) == sentence
    card = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag: text-generation" in card
    assert "| validation | loss | " in card
    assert 'GPT2LMHeadModel.from_pretrained("out")' in card
    assert "block_size = 8" in card
    assert str(tmp_path.parent) not in card.split("## Config")[0]


def test_transformers_loads_the_folder(text, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    assert main("export", text, tmp_path / "out", "--to", "hf") == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    run, ids = nf.load_run(text), tokenizer("lazy fox")["input_ids"]
    expected = run.model.apply(run.params, np.array([ids]))
    np.testing.assert_allclose(model(torch.tensor([ids])).logits.detach(), expected, rtol=1e-4, atol=1e-5)
    assert model.generation_config.eos_token_id is None


def test_a_folder_of_adapters_for_peft(text, tmp_path):
    config = (
        text / "config.toml"
    ).read_text() + f"\n[lora]\nrun = '{text}'\nrank = 2\non = ['blocks/attend/out/weight']\n"
    run = train(tmp_path, config)
    assert main("export", run, tmp_path / "out", "--to", "hf") == 0
    adapted, base = nf.load_run(run), nf.load_run(text)
    again, params = nf.lora_from_peft(tmp_path / "out", base.model, base.params)
    x = np.arange(8).reshape(1, 8)
    expected = adapted.model.apply(adapted.params, x, state=adapted.state)
    np.testing.assert_allclose(again.apply(params, x, state=again.init_state()), expected, rtol=1e-5, atol=1e-6)
    assert "library_name: peft" in (tmp_path / "out" / "README.md").read_text()


def test_what_transformers_does_not_know_is_not_written(digits, tmp_path, capsys):
    assert main("export", digits, tmp_path / "out", "--to", "hf") != 0
    assert "to_pretrained: model should be the result of" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    assert main("export", digits, tmp_path, "--to", "hf") != 0
    assert "is not an empty folder" in capsys.readouterr().err
