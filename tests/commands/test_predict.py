"""`nnfunc predict`: every type of file, in pieces, in the order of the rows."""

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from helpers.command_line import main

import nnfunc as nf
from nnfunc.commands import predict as predict_command
from nnfunc.commands.prediction_columns import prediction_columns
from nnfunc.data.prediction_files import read_pieces
from nnfunc.data.preprocessing import Preprocessing

TABLE = """
data = { name = "table", source = "pets.csv", label = "kind", batch_size = 8 }
model = { name = "mlp", widths = [2, 4, 2] }
objective = { name = "classification" }
optimizer = { name = "sgd", learning_rate = 0.1 }
train = { steps = 4, loop = "step" }
"""
HEAD = ["id", "weight", "height"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run on a table and one on images."""
    folder = tmp_path_factory.mktemp("predict")
    rows = [f"{i % 9},{i % 7},{'cat' if i % 2 else 'dog'}" for i in range(80)]
    (folder / "pets.csv").write_text("\n".join(["weight,height,kind", *rows]) + "\n")
    (folder / "pets.toml").write_text(TABLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main("train", "pets.toml", "--run", "table") == 0
    return folder


@pytest.fixture
def work(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return place


@pytest.fixture(scope="module")
def run(place):
    return nf.load_run(place / "table")


def example_rows(count=21):
    return [{"id": f"n{i}", "weight": i / 2, "height": (i * 7) % 5} for i in range(count)]


def write_csv(file, rows, head=HEAD):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *([row[name] for name in head] for row in rows)])
    content = text.getvalue().encode()
    Path(file).write_bytes(gzip.compress(content) if str(file).endswith(".gz") else content)
    return Path(file)


def check_table(text, run, rows):
    """The printed table has a row for each of `rows`, with the probabilities of `Run.predict`."""
    (head, *lines) = csv.reader(io.StringIO(text))
    assert head == ["class", "p_cat", "p_dog"]
    logits = run.predict([{name: row[name] for name in ("weight", "height")} for row in rows])
    assert [line[0] for line in lines] == [run.names[i] for i in logits.argmax(-1)]
    np.testing.assert_allclose([[float(p) for p in line[1:]] for line in lines], jax.nn.softmax(logits), rtol=1e-4)


def as_parquet(file, rows):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {name: [row[name] for row in rows] for name in reversed(HEAD)}
    parquet.write_table(arrow.table(columns), file, row_group_size=5)


FORMS = {
    "csv": lambda file, rows: write_csv(file, rows),
    "csv.gz": lambda file, rows: write_csv(file, rows, ["height", "id", "weight"]),
    "jsonl": lambda file, rows: file.write_text("".join(json.dumps(row) + "\n\n" for row in rows)),
    "npy": lambda file, rows: np.save(file, [[row["weight"], row["height"]] for row in rows]),
    "parquet": as_parquet,
}


@pytest.mark.parametrize("form", FORMS)
def test_each_type_of_file(work, run, tmp_path, capsys, monkeypatch, form):
    monkeypatch.setattr(predict_command, "ROWS_AT_ONCE", 1)  # pieces of one batch
    rows = example_rows()
    FORMS[form](tmp_path / f"new.{form}", rows)
    assert main("predict", work / "table", f"new.{form}") == 0
    out, err = capsys.readouterr()
    assert err == ""
    check_table(out, run, rows)


def test_several_files_and_standard_input(work, run, capsys, monkeypatch):
    rows = example_rows()
    write_csv("a.csv", rows[:3])
    write_csv("b.csv", rows[3:4])
    lines = "\n".join(json.dumps(row) for row in rows[4:]).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(lines))))
    assert main("predict", work / "table", "a.csv", "b.csv", "-") == 0
    check_table(capsys.readouterr().out, run, rows)
    write_csv("c.csv", rows)
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(Path("c.csv").read_bytes())))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main("predict", work / "table", "-", "-o", "-") == 0
    check_table(capsys.readouterr().out, run, rows)
    assert not stdin.buffer.closed


@pytest.mark.parametrize("name", ["y.csv", "y.parquet", "y.jsonl"])
def test_inputs_with_other_columns_to_keep(work, tmp_path, capsys, name):
    rows = example_rows()
    write_csv(tmp_path / "a.csv", rows[:2])
    write_csv(tmp_path / "b.csv", rows[2:4], HEAD[::-1])
    write_csv(tmp_path / "c.csv", rows, [name for name in HEAD if name != "id"])
    words = ("predict", work / "table", tmp_path / "a.csv", tmp_path / "b.csv")
    assert main(*words, "--keep", "all", "-o", tmp_path / name) == 0
    assert [str(row["id"]) for row in read_output(tmp_path / name)] == ["n0", "n1", "n2", "n3"]
    code = main(*words, tmp_path / "c.csv", "--keep", "all", "-o", tmp_path / f"other_{name}")
    assert code == (0 if name == "y.jsonl" else 2)
    if code:
        assert "some inputs have a column 'id', and those of others have none" in capsys.readouterr().err
        assert not (tmp_path / f"other_{name}").exists()


def test_kept_columns_of_several_types(work, tmp_path, capsys):
    """Parquet has one type a column: empty cells are missing, and other values are a mistake in one line."""
    pytest.importorskip("pyarrow")
    row = {"weight": 1.0, "height": 2.0}
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"n": n, **row}) + "\n" for n in (1, None)))
    (tmp_path / "b.csv").write_text("n,weight,height\n,1,2\n")
    words = ("predict", work / "table", tmp_path / "a.jsonl")
    assert main(*words, tmp_path / "b.csv", "--keep", "n", "-o", tmp_path / "y.parquet") == 0
    assert [row["n"] for row in read_output(tmp_path / "y.parquet")] == [1, None, None]
    for other in ("x", [1, 2]):
        (tmp_path / "c.jsonl").write_text("".join(json.dumps({"n": n, **row}) + "\n" for n in (other, [3])))
        assert main(*words, tmp_path / "c.jsonl", "-o", tmp_path / "z.parquet") == 0
        assert main(*words, tmp_path / "c.jsonl", "--keep", "n", "-o", tmp_path / "z.parquet") == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "a column of a Parquet file should have values of one type" in said


def read_output(file):
    if file.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(file.read_text())))
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    from pyarrow import parquet

    return parquet.read_table(file).to_pylist()


@pytest.mark.parametrize("rows_at_once", [1, 2048])  # pieces of one batch, and of all
@pytest.mark.parametrize("name", ["y.csv", "y.jsonl", "y.parquet"])
def test_each_format_of_the_output(work, run, capsys, monkeypatch, name, rows_at_once):
    if name == "y.parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(predict_command, "ROWS_AT_ONCE", rows_at_once)
    rows = example_rows()
    write_csv("new.csv", rows)
    assert main("predict", work / "table", "new.csv", "-o", name, "--keep", "id", "--keep", "weight") == 0
    assert capsys.readouterr().out == ""
    result = read_output(Path(name))
    assert list(result[0]) == ["id", "weight", "class", "p_cat", "p_dog"]
    assert [row["id"] for row in result] == [row["id"] for row in rows]
    assert [float(row["weight"]) for row in result] == [row["weight"] for row in rows]
    expected = jax.nn.softmax(run.predict([{k: row[k] for k in HEAD[1:]} for row in rows]))
    np.testing.assert_allclose([[float(r["p_cat"]), float(r["p_dog"])] for r in result], expected, rtol=1e-4)
    assert [p.name for p in sorted(Path().iterdir())] == ["new.csv", name]


def test_the_format_may_be_named(work, capsys):
    write_csv("new.csv", example_rows(2))
    assert main("predict", work / "table", "new.csv", "--format", "jsonl", "--keep", "all") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(line) for line in lines] == [[*HEAD, "class", "p_cat", "p_dog"]] * 2
    assert main("predict", work / "table", "new.csv", "--format", "xml") == 2
    assert "format should be one of 'csv', 'jsonl', 'parquet', 'npy', got 'xml'" in capsys.readouterr().err
    assert main("predict", work / "table", "new.csv", "--format", "parquet") == 2
    assert "the format parquet needs a file. Name it: --output FILE." in capsys.readouterr().err


def test_a_column_of_the_input_may_have_the_name_of_a_prediction(work, capsys):
    rows = [row | {"class": "old"} for row in example_rows(2)]
    write_csv("new.csv", rows, ["class", "weight", "height"])
    assert main("predict", work / "table", "new.csv", "--keep", "class") == 0
    assert capsys.readouterr().out.splitlines()[0] == "class,predicted_class,p_cat,p_dog"
    assert main("predict", work / "table", "new.csv", "--keep", "clas") == 2
    assert "the input has no column 'clas' to keep. Did you mean 'class'?" in capsys.readouterr().err


WRONG = {
    "a word": ("{i},x{i}", "new.csv: line 15 of column 'height' should hold a number, got 'x13'"),
    "nothing": ("{i},", "new.csv: a value is missing at line 15 of column 'height'"),
    "too few": ("{i}", "new.csv: line 15 should have 2 values, but has 1"),
    "an open quote": ('{i},"3', "new.csv: line 15 opens a quote that is not closed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_row_in_a_later_piece_leaves_the_old_file(work, capsys, monkeypatch, case):
    monkeypatch.setattr(predict_command, "ROWS_AT_ONCE", 1)
    line, message = WRONG[case]
    lines = ["weight,height", *(f"{i},{i}" for i in range(20))]
    lines[14] = line.format(i=13)
    Path("new.csv").write_text("\n".join(lines) + "\n")
    Path("y.csv").write_text("old")
    assert main("predict", work / "table", "new.csv", "-o", "y.csv") == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)
    assert Path("y.csv").read_text() == "old"
    assert sorted(p.name for p in Path().iterdir()) == ["new.csv", "y.csv"]


JSON_LINES = {
    '{"weight": 1, "height": 2}\n{"weight": 1': "line 2 is not JSON",
    '{"weight": 1, "height": 2}\n\n[1, 2]': "line 3 should be a table {...} of columns, got [1, 2] (list)",
    '{"weight": 1, "height": 2}\n{"weight": "x"}': "line 2 of column 'weight' should hold a number, got 'x'",
    '{"weight": 1, "height": 2}\n{"weight": 2}': "a value is missing at line 2 of column 'height'",
    '[1, 2]\n[1, "a"]': "line 2 should be a list of numbers",
    "[1, 2]\n[1, 2, 3]": "line 2 should have shape (2,), as the first, got (3,)",
    "": "should have at least one example",
}


@pytest.mark.parametrize("text", JSON_LINES)
def test_wrong_json_lines(work, capsys, text):
    Path("new.jsonl").write_text(text)
    assert main("predict", work / "table", "new.jsonl") == 2
    out, err = capsys.readouterr()
    assert JSON_LINES[text] in err
    assert (out, err.count("\n")) == ("", 1)


def test_pieces_are_read_only_when_they_are_used(tmp_path):
    """The last line is wrong, and all pieces before it come."""
    rows = [{"id": i, "weight": i, "height": i} for i in range(1000)]
    file = write_csv(tmp_path / "long.csv", rows)
    file.write_text(file.read_text() + "1\n")
    pieces = read_pieces(Preprocessing("table", {"columns": HEAD}), [file], 100)
    parts = [next(pieces) for _ in range(10)]
    assert [len(part.rows["id"]) for part in parts] == [100] * 10
    assert parts[3].rows["weight"][0] == "300"
    assert parts[3].rows.describe_row(0) == "line 302"
    assert 0 < parts[0].done <= parts[9].done <= 1
    with pytest.raises(ValueError, match="line 1002 should have 3 values, but has 1"):
        next(pieces)


def test_images_in_folders_and_by_name(tmp_path, monkeypatch, capsys):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        Path("pets", name).mkdir(parents=True)
        for i in range(8):
            image.fromarray(draw.integers(0, 255, (4, 4, 3), dtype=np.uint8)).save(f"pets/{name}/{i}.png")
    data = 'data = { name = "images", path = "pets", layout = "flat", batch_size = 4 }'
    config = TABLE.replace(TABLE.splitlines()[1], data).replace("[2, 4, 2]", "[48, 4, 2]")
    Path("pets.toml").write_text(config)
    assert main("train", "pets.toml", "--run", "run") == 0
    capsys.readouterr()
    assert main("predict", "run", "pets/dog", "pets/cat/3.png") == 0
    head, *lines = csv.reader(io.StringIO(capsys.readouterr().out))
    assert head == ["file", "class", "p_cat", "p_dog"]
    files = [f"pets/dog/{i}.png" for i in range(8)] + ["pets/cat/3.png"]
    assert [line[0] for line in lines] == files
    expected = jax.nn.softmax(nf.load_run("run").predict(files))
    np.testing.assert_allclose([[float(p) for p in line[2:]] for line in lines], expected, rtol=1e-4)
    monkeypatch.setattr(sys, "stdin", io.StringIO("pets/cat/3.png\npets/dog\n"))
    assert main("predict", "run", "-", "-o", "y.jsonl") == 0
    assert [row["file"] for row in read_output(Path("y.jsonl"))] == ["pets/cat/3.png", *files[:-1]]
    assert main("predict", "run", "pets/cat/3.png", "missing.png") == 2
    assert "The input missing.png does not exist" in capsys.readouterr().err


def test_the_threshold_of_the_run_decides(work, tmp_path, capsys):
    """Positives are few, so the threshold that is best for F1 is below one half."""
    rows = [f"{i % 9},{(i * 7) % 5},{'yes' if i % 9 == 8 and i % 2 else 'no'}" for i in range(360)]
    Path("rare.csv").write_text("\n".join(["weight,height,sick", *rows]) + "\n")
    config = TABLE.replace("pets.csv", "rare.csv").replace('"kind"', '"sick"').replace("[2, 4, 2]", "[2, 4, 1]")
    config = config.replace("steps = 4", "steps = 60").replace('"classification"', '"binary"')
    Path("rare.toml").write_text(config + 'task = { threshold = "f1" }\n')
    assert main("train", "rare.toml", "--run", "rare") == 0
    capsys.readouterr()
    threshold = nf.load_run("rare").threshold
    assert 0 < threshold < 0.5
    assert main("predict", "rare", "rare.csv", "-o", "y.csv") == 0
    result = read_output(Path("y.csv"))
    assert list(result[0]) == ["class", "p_no", "p_yes"]
    assert {row["class"] for row in result} == {"yes", "no"}
    assert all((row["class"] == "yes") == (float(row["p_yes"]) >= threshold) for row in result)


def columns_of(output_type, output, *, names=None, threshold=None, quantiles=None, **facts):
    preprocessing = Preprocessing("table", facts)
    config = SimpleNamespace(preprocessing=preprocessing)
    run = SimpleNamespace(output_type=output_type, names=names, threshold=threshold, quantiles=quantiles, config=config)
    columns = prediction_columns(run, np.array(output, np.float32))
    return {name: np.round(column, 4).tolist() if name != "class" else column for name, column in columns.items()}


def test_columns_of_each_type_of_output():
    half = {"class": ["no"], "p_no": [0.5], "p_yes": [0.5]}
    assert columns_of("binary", [[0.0]], names=("no", "yes")) == half
    assert columns_of("binary", [0.0], names=("no", "yes"), threshold=0.5) == half | {"class": ["yes"]}
    labels = columns_of("labels", [[0.0, 9.0]], names=("a", "b"), threshold=[0.6, 0.4])
    assert labels == {"a": [0], "b": [1], "p_a": [0.5], "p_b": [0.9999]}
    assert columns_of("values", [[1.5]], label="price") == {"price": [1.5]}
    assert columns_of("values", [[1.5, 2.5]], label="price") == {"y0": [1.5], "y1": [2.5]}
    assert columns_of("values", [[1.5, 2.5]], label=["a", "b"]) == {"a": [1.5], "b": [2.5]}
    assert columns_of("counts", [[0.0]], label="visits") == {"visits": [1.0]}
    assert columns_of("deviation", [[1.0, 0.0]], label="price") == {"price": [1.0], "price_deviation": [1.0]}
    expected = {"price": [2.0], "price_q0": [1.0], "price_q1": [2.0], "price_q2": [3.0]}
    assert columns_of("quantiles", [[1.0, 2.0, 3.0]], label="price", quantiles=3) == expected


def test_quantiles_of_the_first_output_are_first():
    columns = columns_of("quantiles", [range(6), range(6, 12)], label=["low", "high"], quantiles=3)
    assert {name: columns[name] for name in ("low", "high")} == {"low": [1, 7], "high": [4, 10]}
    assert columns["low_q2"] == [2, 8]
    assert columns["high_q0"] == [3, 9]
    assert list(columns_of("quantiles", [range(4)], quantiles=2)) == ["y0", "y1", "y0_q0", "y0_q1", "y1_q0", "y1_q1"]


def test_numbers_that_name_the_columns_are_a_header(tmp_path):
    preprocessing = Preprocessing("table", {"columns": ["0", "1"]})
    (tmp_path / "it.csv").write_text("1,0\n2.5,3\n4,5\n")
    (piece,) = read_pieces(preprocessing, [tmp_path / "it.csv"])
    assert dict(piece.rows) == {"1": ["2.5", "4"], "0": ["3", "5"]}
    (tmp_path / "it.csv").write_text("2.5,3\n4,5\n")
    (piece,) = read_pieces(preprocessing, [tmp_path / "it.csv"])
    assert piece.rows.tolist() == [[2.5, 3], [4, 5]]


@pytest.mark.parametrize("limit", [None, 2])
def test_a_column_that_a_piece_lacks_is_missing_there(tmp_path, limit):
    preprocessing = Preprocessing("table", {"columns": ["a", "b"]})
    rows = [{"a": 1}, {"a": 2}, {"a": 3, "b": 4}, {"a": 5}, {"b": 6}, {"b": 7}]
    (tmp_path / "it.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pieces = list(read_pieces(preprocessing, [tmp_path / "it.jsonl"], limit))
    assert len(pieces) == (1 if limit is None else 3)
    for name in ("a", "b"):
        assert [value for piece in pieces for value in piece.rows[name]] == [row.get(name) for row in rows]
    (tmp_path / "it.jsonl").write_text('{"a": 1}\n' * 4)  # a column that no row has is a mistake
    assert all("b" not in piece.rows for piece in read_pieces(preprocessing, [tmp_path / "it.jsonl"], limit))
