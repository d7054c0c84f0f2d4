"""`nnfunc import`: a published model as a run that the other commands use."""

import csv
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.command_line import main

import nnfunc as nf
import nnfunc.interop.pretrained
from nnfunc.interop.published_inputs import image_settings

pytestmark = pytest.mark.usefixtures("no_compilation_cache")

TEXT = "to be or not to be, that is the question\n" * 40
LLAMA = {"dim": 16, "layers": 1, "heads": 2, "hidden": 24, "tied": True}
MODEL = nf.llama(40, rotary_scaling={"name": "linear", "factor": 2.0}, **LLAMA)
MIXTRAL = nf.llama(40, dim=16, layers=2, heads=2, hidden=8, num_experts=3, window=6)
GEMMA = nf.llama(
    40,
    **LLAMA | {"layers": 2},
    windows=[4.0, np.inf],
    rotary_bases=[1e4, 1e6],
    activation="geglu_tanh",
    **{"qk_norm": True, "post_norm": True, "embedding_scale": 4.0, "scale": 0.25, "eps": 1e-6},
)
BERT = {"block_size": 12, "layers": 1, "heads": 2, "dim": 8}
FILMS = [f"{word} film number {i}" for i in range(20) for word in ("good", "bad")]
CLASSES = ["cat", "dog", "cow"]
VIT = {"patch": 4, "layers": 1, "heads": 2, "dim": 8, "eps": 1e-12}
PROCESSOR = {"do_resize": True, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.3]}
CROPPED = PROCESSOR | {"size": {"shortest_edge": 8}, "crop_pct": 0.5, "resample": 3}


def save_tokenizer(folder, texts, **special):
    """tokenizer.json of words, which puts [CLS] and [SEP] around a text."""
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words.train_from_iterator(texts, tokenizers.trainers.WordLevelTrainer(special_tokens=names))
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    words.save(str(folder / "tokenizer.json"))
    return words


@pytest.fixture
def folder(tmp_path, monkeypatch, key):
    """A folder with a published language model and its tokenizer of words, and a text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    nf.to_pretrained(MODEL, MODEL.init(key), tmp_path / "published", dtype=jnp.bfloat16)
    save_tokenizer(tmp_path / "published", [TEXT])
    return tmp_path


def train(folder, text, *settings):
    """The parameters of a run of the config, by path."""
    (folder / "config.toml").write_text(text)
    assert main("train", "config.toml", *settings, "--run", "tuned") == 0
    return nf.paths.flatten(nf.load_run("tuned").params)


@pytest.mark.slow
def test_an_imported_language_model_is_a_run(folder, capsys):
    assert main("import", "published", "run", "--data", "text.txt", "--block-size", "8") == 0
    assert "imported published (llama, 2,864 parameters) into run" in capsys.readouterr().out.replace("\n", " ")
    assert json.loads((folder / "run/imported.json").read_text())["family"] == "llama"
    _, expected = nf.pretrained(folder / "published", dtype=jnp.float32)
    model, params, _ = nf.load_run("run")
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert repr(model).count("rotary_scaling") == 1
    assert main("sample", "run", "--prompt", "to be", "--steps", "4") == 0
    assert capsys.readouterr().out.startswith("to be")
    assert main("evaluate", "run", "--split", "validation") == 0
    assert main("resume", "run") == 2
    assert "run is an imported model, which has no training to resume" in " ".join(capsys.readouterr().err.split())
    config = """
        data = { name = "text", path = "text.txt", codec = "run/codec.json", block_size = 8, batch_size = 4 }
        model = { name = "llama", vocab_size = 43, dim = 16, layers = 1, heads = 2, hidden = 24, tied = true }
        objective = { name = "language_modelling" }
        optimizer = { name = "sgd", learning_rate = 0.1 }
        groups = { freeze = ["tokens/**", "blocks/attend/**"] }
        start = { run = "run", resize = { "tokens/*" = "part" } }
        train = { steps = 2, loop = "step" }
    """
    tuned, before = train(folder, config), nf.paths.flatten(expected)
    np.testing.assert_array_equal(tuned["tokens/weight"][:40], before["tokens/weight"])
    np.testing.assert_array_equal(tuned["blocks/attend/query/weight"], before["blocks/attend/query/weight"])
    assert (tuned["blocks/mlp/up/weight"] != before["blocks/mlp/up/weight"]).any()
    assert main("resume", "tuned", "train.steps=3") == 0


@pytest.mark.parametrize(
    "model, family", [(MIXTRAL, "mixtral"), pytest.param(GEMMA, "gemma3_text", marks=pytest.mark.slow)]
)
def test_the_config_of_a_run_makes_the_published_model(model, family, tmp_path, key, capsys):
    """Without data, and with arguments of the model that are lists, tables and infinite."""
    nf.to_pretrained(model, model.init(key), tmp_path / "published", family=family)
    words = save_tokenizer(tmp_path / "published", [TEXT])
    assert main("import", tmp_path / "published", tmp_path / "run") == 0
    again, params, _ = nf.load_run(tmp_path / "run")
    ids = jnp.array([[1, 2, 3, 4, 5, 6, 7, 8, 9]])
    np.testing.assert_array_equal(again.apply(params, ids), model.apply(model.init(key), ids))
    capsys.readouterr()
    assert main("sample", tmp_path / "run", "--prompt", "to be", "--steps", "3", "--temperature", "0") == 0
    prompt = words.encode("to be").ids[:-1]  # as transformers has it: [CLS] before the text; [SEP] would end it
    known = nf.wire(lambda net, x: net.model(x)[..., : words.get_vocab_size()], model=again)
    tokens = np.asarray(nf.generate(known, {"model": params}, jnp.array(prompt), 3).tokens)
    assert capsys.readouterr().out == words.decode(tokens[1:], skip_special_tokens=False) + "\n"
    assert main("evaluate", tmp_path / "run", "--split", "validation") == 2
    assert "no-data-was-imported was not found" in " ".join(capsys.readouterr().err.split())


def save_images(folder):
    pillow = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for name in CLASSES:
        (folder / "images" / name).mkdir(parents=True)
        for i in range(8):
            pixels = generator.integers(0, 256, (9 + i, 13, 3), np.uint8)
            pillow.fromarray(pixels).save(folder / "images" / name / f"{i}.png")


def test_an_imported_classifier_of_images_is_a_run(tmp_path, monkeypatch, capsys, key):
    """Without data: class names and preprocessing are those of the published files."""
    monkeypatch.chdir(tmp_path)
    save_images(tmp_path)
    model = nf.resnet(3, depths=[1, 1], widths=[4, 8])
    state = jax.tree.map(lambda leaf: leaf + 0.5, model.init_state())
    nf.to_pretrained(model, model.init(key), "published", state=state, names=CLASSES)
    assert main("import", "published", "run") == 2
    assert "published has no preprocessor_config.json" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "published/preprocessor_config.json").write_text(json.dumps(CROPPED))
    assert main("import", "published", "run") == 0
    assert main("predict", "run", "images", "-o", "predicted.csv") == 0
    with open("predicted.csv") as file:
        rows = list(csv.DictReader(file))
    pixels = pytest.importorskip("PIL.Image")
    with pixels.open("images/cow/0.png") as image:  # 13 x 9: the shorter side to 16, the center of 8 x 8
        scaled = np.asarray(image.resize((23, 16), pixels.Resampling.BICUBIC))[4:12, 8:16]
    x = (scaled / 255 - PROCESSOR["image_mean"]) / PROCESSOR["image_std"]
    logits = model.apply(model.init(key), jnp.asarray(x[None], jnp.float32), state=state)
    expected = jax.nn.softmax(logits)[0]
    actual = next(row for row in rows if row["file"] == "images/cow/0.png")
    np.testing.assert_allclose([float(actual[f"p_{name}"]) for name in CLASSES], expected, atol=1e-5)
    assert actual["class"] == CLASSES[int(expected.argmax())]
    assert len(rows) == 24
    assert main("evaluate", "run", "images") == 0


@pytest.mark.slow
def test_an_imported_vit_is_tuned_with_larger_images(tmp_path, monkeypatch, key):
    """Another head, interpolated positions, frozen parts."""
    monkeypatch.chdir(tmp_path)
    save_images(tmp_path)
    model = nf.vit(5, image_size=8, **VIT)
    nf.to_pretrained(model, model.init(key), "published")
    settings = PROCESSOR | {"size": {"height": 8, "width": 8}}
    (tmp_path / "published/preprocessor_config.json").write_text(json.dumps(settings))
    assert main("import", "published", "run") == 0
    config = """
        data = { name = "images", path = "images", size = 16, batch_size = 8 }
        model = { name = "vit", classes = 3, image_size = 16, patch = 4, layers = 1, heads = 2, dim = 8, eps = 1e-12 }
        objective = { name = "classification" }
        optimizer = { name = "sgd", learning_rate = 0.1 }
        groups = { freeze = ["blocks/**"] }
        start = { run = "run", skip = ["head/**"], resize = { "positions/weight" = "grid" } }
        train = { steps = 2, loop = "step" }
    """
    tuned, before = train(tmp_path, config), nf.paths.flatten(model.init(key))
    np.testing.assert_array_equal(tuned["blocks/mlp/up/weight"], before["blocks/mlp/up/weight"])
    assert tuned["positions/weight"].shape == (17, 8)
    assert tuned["head/weight"].shape == (8, 3)
    assert main("resume", "tuned", "train.steps=3") == 0
    assert main("evaluate", "tuned") == 0


@pytest.mark.parametrize("output", ["classes", "tokens"])
def test_an_imported_classifier_of_texts_is_a_run(output, tmp_path, monkeypatch, capsys, key):
    """Its tokens have the special ones of its tokenizer, and no token attends to padding."""
    monkeypatch.chdir(tmp_path)
    lines = ["text,label", *(f"{text},{text.split()[0]}" for text in FILMS)]
    (tmp_path / "films.csv").write_text("\n".join(lines) + "\n")
    model = nf.bert(30, **BERT, output=output)
    names = {"names": ["bad", "good"]} if output == "classes" else {}
    nf.to_pretrained(model, model.init(key), "published", **names)
    words = save_tokenizer(tmp_path / "published", FILMS)
    data = ["--data", "films.csv"] if output == "classes" else []
    reads, load = [], nnfunc.interop.pretrained.load_leaves
    monkeypatch.setattr("nnfunc.interop.pretrained.load_leaves", lambda *args: reads.append(args) or load(*args))
    assert main("import", "published", "run", *data) == 0
    assert len(reads) == 1
    has_new_head = "head/linear/weight, head/linear/bias" in capsys.readouterr().out
    assert has_new_head == (output == "tokens")
    assert main("predict", "run", "films.csv", "--format", "npy", "-o", "logits.npy") == 0
    run = nf.load_run("run")
    if output == "classes":
        ids = jnp.array([words.encode(FILMS[3]).ids])
        assert ids.tolist()[0][::5] == [2, 3]  # [CLS] bad film number 1 [SEP]
        expected = model.apply(model.init(key), ids)[0]
        np.testing.assert_allclose(np.load("logits.npy")[3], expected, atol=1e-6)
        assert run.names == ("bad", "good")
        assert main("evaluate", "run") == 0
    else:  # without data, on random tokens of its tokenizer
        assert main("import", "published", "other", "--data", "films.csv") == 2
        assert "no head for classes, so it cannot be evaluated on films.csv" in " ".join(
            capsys.readouterr().err.split()
        )
        assert main("export", "run", "exported", "--to", "hf") == 0
        assert nf.pretrained("exported", padding_index=0).family == "bert"
    np.testing.assert_array_equal(run.params["tokens"]["weight"], model.init(key)["tokens"]["weight"])


@pytest.mark.slow
def test_adapters_of_an_imported_classifier_of_texts(tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "films.csv").write_text("\n".join(["text,label", *(f"{t},{t.split()[0]}" for t in FILMS)]) + "\n")
    model = nf.bert(30, **BERT, output="tokens")
    nf.to_pretrained(model, model.init(key), "published")
    save_tokenizer(tmp_path / "published", FILMS)
    assert main("import", "published", "run") == 0
    config = """
        data = { name = "text_classification", source = "films.csv", codec = "run/codec.json", block_size = 8, batch_size = 4 }
        objective = { name = "classification" }
        optimizer = { name = "adam", learning_rate = 0.01 }
        train = { steps = 3, loop = "step" }
        [model]
        name = "bert"
        vocab_size = 30
        block_size = 12
        layers = 1
        heads = 2
        dim = 8
        output = "classes"
        padding_index = 0
        [lora]
        run = "run"
        rank = 2
        train = ["head/**"]
    """
    tuned = train(tmp_path, config)
    assert tuned["blocks/attend/query/weight/up"].any()
    assert "tokens/weight" not in tuned
    assert main("evaluate", "tuned") == 0
    assert main("resume", "tuned", "train.steps=4") == 0


def test_settings_of_images_are_those_of_the_file(tmp_path):
    """What no argument of nf.data.images stands for is refused."""
    settings = lambda **table: image_settings(
        {"pretrained_cfg": {"input_size": [3, 8, 6], "crop_pct": 0.5} | table}, tmp_path
    )
    assert "stretch" not in settings()
    assert settings(crop_mode="squash") == settings() | {"stretch": True}
    with pytest.raises(ValueError, match=r"config\.json: crop_mode should be 'center' or 'squash', got 'border'"):
        settings(crop_mode="border")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(CROPPED | {"resample": 4}))
    with pytest.raises(ValueError, match=r"preprocessor_config\.json: resample should be one of 0, 1, 2, 3, got 4"):
        image_settings({}, tmp_path)


def test_what_cannot_be_imported_is_said(folder, capsys, key):
    (folder / "published/tokenizer.json").unlink()
    assert main("import", "published", "run", "--data", "text.txt") == 2
    assert "has no tokenizer.json" in capsys.readouterr().err
    bart = nf.seq2seq(
        40,
        **{"dim": 8, "layers": 1, "heads": 2, "block_size": 8, "embedding_norm": True, "logit_bias": True},
        **{"order": "post", "tied": True, "embedding_scale": 1.0},
    )
    nf.to_pretrained(bart, bart.init(key), folder / "bart")
    assert main("import", "bart", "run", "--data", "text.txt") == 2
    assert "bart is bart, but only a language model, a BERT" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "run").exists()
