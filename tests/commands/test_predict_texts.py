"""Predictions for texts, sentences and series, by `nnfunc predict` and behind `nnfunc serve`."""

import csv
import io
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.command_line import main

import nnfunc as nf
from nnfunc.data.sources.time_series import format_time

TAIL = """
optimizer = { name = "sgd", learning_rate = 0.1 }
train = { steps = 2, loop = "step" }
"""
CONFIGS = {
    "texts": """
data = { name = "text_classification", source = "it.csv", text = "review", label = "verdict", block_size = 16, vocab_size = 300, batch_size = 8 }
model = { name = "text_classifier", vocab_size = 300, classes = 2, dim = 4 }
objective = { name = "classification" }
""",
    "tags": """
data = { name = "tagging", path = "it.conll", block_size = 6, vocab_size = 200, batch_size = 8 }
model = { name = "tagger", vocab_size = 200, classes = 3, dim = 4 }
objective = { name = "tagging" }
""",
    "series": """
data = { name = "forecasting", source = "it.csv", time = "day", series = "shop", value = "sales", context = 4, horizon = 2, batch_size = 8 }
model = { name = "mlp", widths = [4, 2] }
objective = { name = "regression" }
""",
}


def write_data(name):
    if name == "texts":
        lines = [f"film {i} was {'good' if i % 2 else 'bad'},{'good' if i % 2 else 'bad'}" for i in range(40)]
        Path("it.csv").write_text("\n".join(["review,verdict", *lines]) + "\n")
    elif name == "tags":
        Path("it.conll").write_text("".join(f"the DET\ncat{i} NOUN\nsleeps VERB\n\nit{i} DET\n\n" for i in range(30)))
    else:
        rows = [f"{day},{shop},{day % 7 + 100 * len(shop)}" for shop in ("a", "bb") for day in range(40)]
        Path("it.csv").write_text("\n".join(["day,shop,sales", *rows]) + "\n")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of a run of each type of data."""
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, config in CONFIGS.items():
            folder = tmp_path_factory.mktemp(name)
            patch.chdir(folder)
            write_data(name)
            Path("it.toml").write_text(config + TAIL)
            assert main("train", "it.toml", "--run", "run") == 0
            folders[name] = folder / "run"
    return folders


def give(monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(text.encode()))))


def predicted(capsys, *words):
    code = main("predict", *words)
    out, err = capsys.readouterr()
    assert (code, err) == (0, ""), err
    return list(csv.DictReader(io.StringIO(out)))


def test_texts_in_tables_files_and_lines(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run, texts = nf.load_run(runs["texts"]), ["a good film", "see it.csv", "bad, very bad"]
    expected = jax.nn.softmax(run.predict([{"review": text} for text in texts]))

    def check(rows):
        shown = [[float(row["p_bad"]), float(row["p_good"])] for row in rows]
        np.testing.assert_allclose(shown, expected, rtol=1e-4)

    with open("new.csv", "w", newline="") as file:
        csv.writer(file).writerows([["id", "review"], *enumerate(texts)])
    rows = predicted(capsys, runs["texts"], "new.csv", "--keep", "id")
    assert [row["id"] for row in rows] == ["0", "1", "2"]
    check(rows)
    Path("new.jsonl").write_text("".join(json.dumps({"review": text}) + "\n" for text in texts))
    check(predicted(capsys, runs["texts"], "new.jsonl"))
    Path("notes").mkdir()
    for i, text in enumerate(texts):
        Path(f"notes/{i}.txt").write_text(text)
    rows = predicted(capsys, runs["texts"], "notes/0.txt", "notes/1.txt", "notes/2.txt")
    assert [row["file"] for row in rows] == ["notes/0.txt", "notes/1.txt", "notes/2.txt"]
    check(rows)
    check(predicted(capsys, runs["texts"], "notes"))
    assert main("predict", runs["texts"], "notes/0.txt", "new.jsonl") == 2
    assert "the rows of some inputs have a column 'file'" in capsys.readouterr().err
    assert main("predict", runs["texts"], "notes/0.txt", "new.jsonl", "--format", "jsonl") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    give(monkeypatch, "\n".join(texts) + "\n\n")
    rows = predicted(capsys, runs["texts"], "-", "--keep", "review")
    assert [row["review"] for row in rows] == texts
    check(rows)
    Path("new.csv").write_text("review\nfine\n\n' '\nNA\n")
    Path("new.csv").write_text('id,review\n1,fine\n2,"  "\n')
    assert main("predict", runs["texts"], "new.csv") == 2
    assert "new.csv: line 3 of column 'review' should hold a text" in capsys.readouterr().err


def test_sentences_in_files_and_lines(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    give(monkeypatch, "the cat1 sleeps\n\nsee it.txt\n")
    rows = predicted(capsys, runs["tags"], "-")
    assert [row["words"] for row in rows] == ["the cat1 sleeps", "see it.txt"]
    assert [len(row["tags"].split()) for row in rows] == [3, 2]
    run = nf.load_run(runs["tags"])
    expected = run.predict([["the", "cat1", "sleeps"]])[0, :3].argmax(-1)
    assert rows[0]["tags"].split() == [run.names[i] for i in expected]
    Path("new.conll").write_text("the\ncat1\nsleeps\n\nsee\nit.txt\n")
    assert predicted(capsys, runs["tags"], "new.conll") == rows
    assert main("predict", runs["tags"], "new.conll", "--format", "jsonl", "-o", "y.jsonl") == 0
    lines = [json.loads(line) for line in Path("y.jsonl").read_text().splitlines()]
    assert [line["tags"] for line in lines] == [row["tags"].split() for row in rows]
    assert main("predict", runs["tags"], "new.conll", "--keep", "all") == 2
    assert "--keep is for tables" in capsys.readouterr().err


def test_a_word_with_a_blank_has_one_tag(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sentences = [["New York", "is", "big"], ["a b c", "x"]]
    Path("new.jsonl").write_text("".join(json.dumps({"tokens": tokens}) + "\n" for tokens in sentences))
    rows = predicted(capsys, runs["tags"], "new.jsonl")
    assert [row["words"] for row in rows] == ["New York is big", "a b c x"]
    run = nf.load_run(runs["tags"])
    best = [row.argmax(-1)[: len(tokens)] for row, tokens in zip(run.predict(sentences), sentences, strict=True)]
    assert [row["tags"].split() for row in rows] == [[run.names[i] for i in ids] for ids in best]


def test_series_go_on_in_their_own_units(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = "day,shop,sales\n" + "".join(
        f"{day},{shop},{day % 7 + 100 * len(shop)}\n" for day in range(50, 56) for shop in ("bb", "a")
    )
    Path("new.csv").write_text(text)
    rows = predicted(capsys, runs["series"], "new.csv")
    assert [(row["series"], row["day"]) for row in rows] == [("bb", "56"), ("a", "56")]  # of t+1
    expected = nf.load_run(runs["series"]).predict("new.csv")
    np.testing.assert_allclose([[float(row["t+1"]), float(row["t+2"])] for row in rows], expected, rtol=1e-5)
    assert expected[0].min() > 150 > expected[1].max()
    give(monkeypatch, text)
    assert predicted(capsys, runs["series"], "-") == rows
    Path("new.csv").write_text(text.replace("54,a,", "54,a,x"))
    assert main("predict", runs["series"], "new.csv") == 2
    assert "new.csv: line 11 of column 'sales' should hold a number, got 'x" in capsys.readouterr().err


def test_the_worst_examples_have_lines_and_times_of_the_file(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    worst = {}
    for name, run in runs.items():
        assert main("evaluate", run, "--json", "it.json") == 0
        worst[name] = json.loads(Path("it.json").read_text())["worst"]
        assert f">{worst[name][0]['example']}, " in (run / "report.html").read_text()
    lines = (runs["texts"].parent / "it.csv").read_text().splitlines()
    for row in worst["texts"]:
        assert lines[int(row["example"].removeprefix("line ")) - 1].endswith(f",{row['truth']}")
    words = (runs["tags"].parent / "it.conll").read_text().split("\n")
    assert all(words[int(row["example"].removeprefix("line ")) - 2] == "" for row in worst["tags"])
    for row in worst["series"]:
        shop, day = row["example"].split(" from ")
        target = [(int(day) + i) % 7 + 100 * len(shop) for i in (0, 1)]
        np.testing.assert_allclose([float(part) for part in row["truth"].split(", ")], target, rtol=1e-3)


@pytest.mark.parametrize(
    "time, facts, text",
    [
        (7, {"resolution": "integer", "step": 1}, "7"),
        (20787 * 86400, {"resolution": "second", "step": 86400}, "2026-11-30"),
        (20787 * 86400, {"resolution": "second", "step": 3600}, "2026-11-30T00:00:00"),
        (682, {"resolution": "month", "step": 1}, "2026-11"),
    ],
)
def test_times_are_written_as_in_the_file(time, facts, text):
    assert format_time(np.int64(time), facts) == text


def test_quantiles_of_a_series_belong_to_their_own_times(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_data("series")
    config = CONFIGS["series"].replace("[4, 2]", "[4, 6]").replace('"regression"', '"regression", loss = "quantile"')
    Path("it.toml").write_text(config + TAIL)
    assert main("train", "it.toml", "--run", "run") == 0
    capsys.readouterr()
    rows = predicted(capsys, "run", "it.csv")
    expected = nf.load_run("run").predict("it.csv").reshape(len(rows), 2, 3)
    for i, name in enumerate(("t+1", "t+2")):
        for j, column in enumerate((f"{name}_q0", name, f"{name}_q2")):
            np.testing.assert_allclose([float(row[column]) for row in rows], expected[:, i, j], rtol=1e-5)


BODIES = {
    "texts": ["a good film", "bad.csv", {"review": "bad.csv"}],  # a text that looks like a file
    "tags": ["the cat1 sleeps", "see it.txt", ["see it", "now"]],  # a word with a blank
    "series": [{"day": day, "shop": "a", "sales": 100 + day} for day in range(5)],
}


@pytest.mark.parametrize("name", BODIES)
def test_they_are_served(runs, name):
    for package in ("httpx", "starlette", "python_multipart"):
        pytest.importorskip(package)
    from helpers.served import Served

    run, body = nf.load_run(runs[name]), BODIES[name]
    served = Served(run)
    answer = served.post("/predict", json={"rows": body})
    assert answer.status_code == 200, answer.text
    rows = answer.json()["predictions"]
    if name == "texts":
        expected = jax.nn.softmax(run.predict([{"review": "a good film"}, *[{"review": "bad.csv"}] * 2]))
        np.testing.assert_allclose([[row["p_bad"], row["p_good"]] for row in rows], expected, rtol=1e-5)
        wrong = {"rows": [["a", "list"]]}
    elif name == "tags":
        assert [len(row["tags"]) for row in rows] == [3, 2, 2]
        wrong = {"rows": [{"words": 3}]}
    else:
        expected = run.predict(body)
        np.testing.assert_allclose([[row["t+1"], row["t+2"]] for row in rows], expected, rtol=1e-5)
        wrong = {"rows": body[:3]}
    assert served.post("/predict", json=wrong).status_code == 400
    page = served.get("/")
    assert ("<textarea" in page.text, 'type="file"' in page.text) == (name != "series", name != "tags")
    if name != "series":
        answer = served.post("/", files={"text": (None, "the cat1 sleeps")})
        assert answer.status_code == 200
        assert "Prediction</h2>" in answer.text
    served.server.stop()
