"""`nnfunc new`: a config for each type of files, which trains as it is."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import main

import nnfunc as nf
from nnfunc.commands.new_config import table_columns
from nnfunc.commands.new_config.drafts import DRAFTS
from nnfunc.commands.new_config.table_columns import find_label, guess_separator, look_at_columns
from nnfunc.config import load


def write_table(folder, separator=","):
    """80 rows with every type of column."""
    lines = [["id", "age", "city", "joined", "zip", "note", "same", "buys"]]
    for i in range(80):
        age = "" if i % 9 == 4 else f"{20 + i % 50}"
        note = f"called {i} times and asked for size {i % 7}"
        city = ("Rome", "Paris", "NA")[i % 3]
        lines.append(
            [f"{i + 100}", age, city, f"2024-01-{1 + i % 28:02d}", f"0{i % 5}", note, "x", "no" if i % 8 else "yes"]
        )
    (folder / "pets.csv").write_text("\n".join(separator.join(line) for line in lines) + "\n")
    return "pets.csv"


def write_images(folder):
    image = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / "pets" / name).mkdir(parents=True)
        for i in range(10):
            pixels = draw.integers(0, 255, (8, 8), dtype=np.uint8)
            image.fromarray(pixels).save(folder / "pets" / name / f"{i}.png")
    return "pets"


def write_arrays(folder):
    np.savez(folder / "pets.npz", x=np.random.default_rng(0).normal(size=(60, 5)), y=np.arange(60) % 3)
    return "pets.npz"


def write_language(folder):
    (folder / "pets.txt").write_text("the cat and the dog.\n" * 60)
    return "pets.txt"


def write_tokens(folder):
    (np.arange(3000) % 11).astype(np.uint16).tofile(folder / "pets.bin")
    return "pets.bin"


def write_texts(folder):
    lines = [
        f"the film {i} was {'good and fun' if i % 2 else 'bad and dull'},{'good' if i % 2 else 'bad'}"
        for i in range(60)
    ]
    (folder / "pets.csv").write_text("\n".join(["review,verdict", *lines]) + "\n")
    return "pets.csv"


def write_tags(folder):
    (folder / "pets.conll").write_text(
        "".join(f"the DET\ncat{i % 5} NOUN\nsleeps VERB\n{i} NUM\n\n" for i in range(40))
    )
    return "pets.conll"


def write_series(folder):
    rows = [
        f"2024-{1 + i // 28:02d}-{1 + i % 28:02d},{shop},{i % 7 + len(shop)}" for i in range(28) for shop in ("a", "bb")
    ]
    rows += [f"2024-01-{i:02d},{shop},{i % 7 + len(shop)}" for i in range(29, 32) for shop in ("a", "bb")]
    (folder / "pets.csv").write_text("\n".join(["day,shop,sales", *rows]) + "\n")
    return "pets.csv"


WRITERS = {
    "text": write_texts,
    "tagging": write_tags,
    "forecasting": write_series,
    "table": write_table,
    "images": write_images,
    "arrays": write_arrays,
    "language": write_language,
    "tokens": write_tokens,
}


QUICK = ("table", "arrays", "text", "forecasting")


@pytest.mark.parametrize(
    "data_type", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in DRAFTS]
)
def test_a_new_config_trains_as_it_is(tmp_path, tmp_path_factory, monkeypatch, capsys, data_type):
    monkeypatch.chdir(tmp_path)
    WRITERS[data_type](tmp_path)
    assert main("new", data_type) == 0
    capsys.readouterr()
    settings = ("train.steps=5", "schedule.warmup_steps=1", "--run", tmp_path_factory.mktemp("run"))
    assert main("train", "pets.toml", *settings) == 0
    assert "trained 5 steps" in capsys.readouterr().out


@pytest.mark.parametrize("data_type", DRAFTS)
def test_a_new_config_fits_the_data(tmp_path, monkeypatch, capsys, data_type):
    """The only file here is used; the model accepts its examples."""
    monkeypatch.chdir(tmp_path)
    WRITERS[data_type](tmp_path)
    assert main("new", data_type) == 0
    out, err = capsys.readouterr()
    assert err == ""
    text = Path("pets.toml").read_text()
    assert out == f"{text}\nwrote pets.toml   train with: nnfunc train pets.toml\n"
    assert all(len(line) <= 120 for line in text.splitlines())
    assert str(tmp_path) not in text  # paths start from the config's folder
    assert main("summary", "pets.toml") == 0
    capsys.readouterr()
    assert main("new", data_type) == 2
    assert "pets.toml exists already. Choose another with --output" in capsys.readouterr().err


def test_the_columns_of_a_table_are_told_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main("new", "table", write_table(tmp_path, ";"), "-o", "it.toml") == 0
    tables = tomllib.loads(Path("it.toml").read_text())
    data = tables["data"]
    assert data["separator"] == ";"
    assert data["label"] == "buys"
    assert data["columns"] == ["age", "city", "joined", "zip", "note"]
    assert (data["categorical"], data["dates"], data["texts"]) == (["city", "zip"], ["joined"], ["note"])
    assert data["impute"] == "median"
    assert tables["model"]["name"] == "table_model"
    assert tables["train"]["best"] == "max accuracy"
    text = Path("it.toml").read_text()
    assert "# without id (a number for each row), same (always the same)" in text
    assert "# 2 classes: no (70), yes (10)" in text
    assert "# some are missing in age" in text


def test_a_number_to_predict_and_a_rare_class(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 13},{i * i % 101 + 0.5},{'yes' if i % 20 == 0 else 'no'}" for i in range(200)]
    Path("it.csv").write_text("\n".join(["x,price,rare", *rows]) + "\n")
    assert main("new", "table", "it.csv", "--label", "price", "-o", "price.toml") == 0
    tables = load("price.toml").tables
    assert (tables["data"]["task"], tables["data"]["scale_target"]) == ("regression", True)
    assert tables["data"]["categorical"] == ["rare"]
    assert (tables["objective"]["name"], tables["model"]["outputs"]) == ("regression", 1)
    assert main("new", "table", "it.csv", "--label", "rare", "-o", "rare.toml") == 0
    tables = load("rare.toml").tables
    assert tables["task"]["metrics"] == ["average_precision", "roc_auc", "f1"]
    assert tables["task"]["threshold"] == "f1"
    assert tables["train"]["best"] == "max average_precision"
    assert tables["objective"]["name"] == "binary"
    assert tables["model"]["widths"] == [2, 64, 32, 1]
    Path("first.csv").write_text(Path("it.csv").read_text().replace("yes", "in time"))  # the first class is rare
    assert main("new", "table", "first.csv", "--label", "rare", "-o", "first.toml") == 0
    tables = load("first.toml").tables
    assert tables["task"]["metrics"] == ["f1", "roc_auc"]
    assert tables["train"]["best"] == "max roc_auc"
    assert tables["model"]["widths"] == [2, 64, 32, 2]
    assert main("new", "table", "it.csv", "--label", "prize", "-o", "x.toml") == 2
    assert "there is no column 'prize'; did you mean 'price'?" in capsys.readouterr().err
    assert not Path("x.toml").exists()


CELLS = {
    "number": ["1", "2.5", "", "1e3"] * 3,
    "category": ["a", "b", "null", "c"] * 3,
    "date": [f"{i + 1:02d}.03.2024" for i in range(12)],
    "text": [f"some words about thing {i}" for i in range(12)],
    "none": [f"{i * 7 + 3:x}zz" for i in range(12)] * 5,
}


@pytest.mark.parametrize("expected", CELLS)
def test_one_column(tmp_path, expected):
    cells = CELLS[expected]
    if expected == "none":
        cells = [f"{i * 7 + 3:x}zz" for i in range(60)]
    (tmp_path / "it.csv").write_text("a,b\n" + "".join(f'"{cell}",{i % 2}\n' for i, cell in enumerate(cells)))
    columns, rows, _ = look_at_columns(tmp_path / "it.csv", ",")
    assert (columns["a"].type, columns["b"].type, rows) == (expected, "number", len(cells))
    assert columns["a"].reason == {"date": "%d.%m.%Y", "none": "mostly distinct words"}.get(expected, "")
    assert columns["a"].missing == (3 if expected in ("number", "category") else 0)
    assert find_label(columns, None) == "b"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators(tmp_path, separator):
    (tmp_path / "it.csv").write_text(
        "".join(separator.join(row) + "\n" for row in [["a", "b", "c"], *[["1", "2", "3"]] * 9])
    )
    assert guess_separator(tmp_path / "it.csv") == separator


def test_mistakes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("the cat and the dog")
    for words, message in {
        ("tabel",): "type should be one of 'table'",
        ("table",): "there should be one .csv or",
        ("images",): "there should be one folder of class folders here, got none. Name it: nnfunc new images FILE",
        ("table", "missing.csv"): "The input missing.csv does not exist",
        ("table", "a.csv", "b.csv"): "there should be one file or folder, got 2 files",
        ("tokens", "words.txt"): "words.txt should be a .bin or .npy file of tokens, got .txt",
    }.items():
        assert main("new", *words) == 2
        out, err = capsys.readouterr()
        assert message in err
        assert (out, err.count("\n")) == ("", 1)


def test_a_column_of_times_may_be_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it.csv").write_text("when,value\n" + "".join(f"{3 * i},{i % 7}\n" for i in range(200)))
    assert main("new", "forecasting", "it.csv") == 2
    assert "Name it: --time COLUMN." in capsys.readouterr().err
    assert main("new", "forecasting", "it.csv", "--time", "whne") == 2
    assert "there is no column 'whne'; did you mean 'when'?" in capsys.readouterr().err
    assert main("new", "forecasting", "it.csv", "--time", "when") == 0
    assert load("it.toml").tables["data"]["time"] == "when"


def test_the_commands_in_a_config_are_of_its_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main("new", "language", write_language(tmp_path)) == 0
    text = (tmp_path / "pets.toml").read_text()
    assert "# nnfunc sample runs/pets-1; nnfunc evaluate runs/pets-1 --split validation" in text
    assert "nnfunc predict" not in text


def test_of_a_large_table_the_first_rows_are_looked_at(tmp_path, monkeypatch):
    """The classes are those of all rows, and so is the size of the model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table_columns, "SAMPLE", 1000)
    lines = [f'{i % 17}.5,{"" if i == 290 else i % 5},"a, \n{i % 3}",{"cab"[i // 100]}' for i in range(300)]
    (tmp_path / "pets.csv").write_text("\n".join(["age,size,city,label", *lines]) + "\n")
    assert main("new", "table", "pets.csv") == 0
    text = (tmp_path / "pets.toml").read_text()
    config = tomllib.loads(text)
    assert "# 300 rows, 3 inputs: 2 numbers, 1 category\n# columns have the types of the first 59 rows" in text
    assert "# 3 classes: c (100), a (100), b (100)" in text
    assert (config["model"]["outputs"], config["data"]["impute"]) == (3, "median")
    assert "some are missing after the first rows, if any" in text
    assert main("new", "table", "pets.csv", "--label", "city", "--output", "city.toml") == 0
    assert "# 3 classes: a, 0 (100), a, 1 (100), a, 2 (100)" in (tmp_path / "city.toml").read_text()


def test_labels_that_are_missing_in_some_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i % 13},{i % 7},{'' if i in (3, 8) else 'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "pets.csv").write_text("\n".join(["age,size,kind", *rows]) + "\n")
    assert main("new", "table", "pets.csv") == 0
    assert "drop_unlabelled = true" in (text := (tmp_path / "pets.toml").read_text())
    assert "# the label of 2 rows is missing" in text
    options = {"label": "kind", "validation": 0.2, "test": 0.2}
    with pytest.warns(UserWarning, match=r"2 of 60 rows have no label: left out\."):
        splits = nf.data.table("pets.csv", drop_unlabelled=True, **options)
    assert sum(len(part[1]) for part in splits[:3]) == 58
    assert splits.preprocessing.file_rows("train", np.arange(58)).tolist() == [i for i in range(60) if i not in (3, 8)]
    with pytest.raises(ValueError, match=r"the label is missing at line 5"):
        nf.data.table("pets.csv", **options)
    (tmp_path / "pets.csv").write_text("\n".join(["age,size,kind", *rows, "x,1,a"]) + "\n")
    with (
        pytest.warns(UserWarning, match="no label"),
        pytest.raises(ValueError, match=r"line 62 of column 'age' should hold a number"),
    ):
        nf.data.table("pets.csv", drop_unlabelled=True, **options)


def test_several_labels_of_json_lines_a_text_and_a_time(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    row = lambda i: {
        "x": i % 11,
        "day": f"2024-01-{i % 28 + 1:02d}",
        "note": f"a{i % 5}",
        "red": i % 2,
        "big": i % 3 // 2,
    }
    (tmp_path / "it.jsonl").write_text("".join(json.dumps(row(i)) + "\n" for i in range(80)))
    assert main("new", "table", "it.jsonl", "--label", "red,big", "--text", "note", "--time", "day") == 0
    tables = tomllib.loads((tmp_path / "it.toml").read_text())
    data = tables["data"]
    assert (data["label"], data["texts"], data["time"]) == (["red", "big"], ["note"], "day")
    assert (tables["objective"]["name"], tables["model"]["widths"][-1]) == ("multilabel", 2)
    assert main("new", "images", "it.jsonl", "--time", "day", "--output", "other.toml") == 2
    assert "images has no --time. Types of data with it: table, forecasting." in capsys.readouterr().err
    assert main("new", "images", "it.jsonl", "--label", "red", "--output", "other.toml") == 2
    assert "images has no --label. Types of data with it: table, text, tagging" in capsys.readouterr().err
