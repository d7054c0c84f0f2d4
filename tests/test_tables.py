"""Tables and NumPy's files."""

import sys

import numpy as np
import pytest
from files import only_mistakes

import nnfunc as nf

HEAD = "weight,height,kind\n"
ROWS = [f"{i},{i * i / 8},{'cat' if i % 2 else 'dog'}" for i in range(20)]
X = np.array([[i, i * i / 8] for i in range(20)], np.float32)
Y = np.array([1 - i % 2 for i in range(20)])


def write(folder, rows=ROWS, head=HEAD):
    file = folder / "pets.csv"
    file.write_text(head + "\n".join(rows) + "\n")
    return file


def together(splits):
    """{row of x: y} of all splits."""
    parts = [part for part in splits[:3] if part is not None]
    pairs = [(x.tobytes(), y.tolist()) for part in parts for x, y in zip(*part, strict=True)]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


WANTED = {x.tobytes(): y for x, y in zip(X, Y.tolist(), strict=True)}


def test_a_table_is_read_and_cut_by_class(tmp_path):
    splits = nf.data.table(write(tmp_path), label="kind")
    assert (splits.names, splits.classes) == (("cat", "dog"), 2)
    assert [part[0].shape for part in splits[:3]] == [(14, 2), (2, 2), (4, 2)]
    assert [np.bincount(part[1]).tolist() for part in splits[:3]] == [[7, 7], [1, 1], [2, 2]]
    raw = nf.data.table(tmp_path / "pets.csv", label="kind", standardise=False)
    assert together(raw) == WANTED
    assert (splits.train[0].dtype, splits.train[1].dtype) == (np.float32, np.int32)
    np.testing.assert_allclose(splits.train[0].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(splits.train[0].std(0), 1, rtol=1e-5)
    mean, std = raw.train[0].mean(0), raw.train[0].std(0)
    np.testing.assert_allclose(splits.test[0], (raw.test[0] - mean) / std, rtol=1e-5, atol=1e-6)
    plain = nf.data.table(
        tmp_path / "pets.csv", label="kind", standardise=False, validation=0, test=0
    )
    assert (plain.transform, plain.validation, plain.test) == (None, None, None)
    np.testing.assert_array_equal(plain.train[0], X)


def test_columns_tasks_and_other_forms_of_csv(tmp_path):
    file = tmp_path / "odd.csv"
    text = (
        '\ufeff"a b";z;"k"\r\n'
        + "".join(f'"{i}.5";{10 - i};{i % 3 + 9}\r\n' for i in range(12))
        + "\r\n"
    )
    file.write_text(text, newline="")
    splits = nf.data.table(
        file, label="k", columns=["z"], separator=";", validation=0, test=0, standardise=False
    )
    assert splits.names == ("9", "10", "11")  # in numerical order
    assert splits.train[0].ravel().tolist() == [10 - i for i in range(12)]
    found = nf.data.table(file, label="z", task="regression", separator=";", validation=0, test=3)
    assert (found.train[1].shape, found.train[1].dtype, found.names, found.classes) == (
        (9, 1),
        np.float32,
        None,
        None,
    )


@pytest.mark.parametrize("kind", ["pandas", "parquet", "polars"])
def test_frames_and_parquet_are_as_csv(tmp_path, kind):
    module = pytest.importorskip("pandas" if kind == "parquet" else kind)
    frame = module.DataFrame({"weight": X[:, 0], "height": X[:, 1], "kind": ["dog", "cat"] * 10})
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(tmp_path / "pets.parquet")
        frame = tmp_path / "pets.parquet"
    splits = nf.data.table(frame, label="kind")
    csv = nf.data.table(write(tmp_path), label="kind")
    assert together(nf.data.table(frame, label="kind", standardise=False)) == WANTED
    np.testing.assert_array_equal(splits.train[0], csv.train[0])
    assert splits.learned.facts == csv.learned.facts


WRONG = {
    "missing": (ROWS[:3] + [" ,2,cat"], {}, "pets.csv: a value is missing at line 5 of column 'weight'. Fill"),
    "nan": (ROWS[:3] + ["NaN,2,cat", "3,2,dog", "nan,2,cat"], {}, "missing at line 5 of column 'weight'; 2 such"),
    "infinite": (ROWS + ["1e39,1,cat"], {}, "line 22 of column 'weight' should hold a number, got '1e39'"),
    "text": (ROWS + ["1,tall,cat"], {}, "line 22 of column 'height' should hold a number, got 'tall'. Turn"),
    "label": (ROWS + ["1,2,"], {}, "the label is missing at line 22 of column 'kind'"),
    "ragged": (ROWS[:2] + ["1,2"], {}, "line 4 should have 3 values, but has 2. The separator is ','"),
    "no such": (ROWS, {"label": "kin"}, "has no column 'kin'; did you mean 'kind'"),
    "nor": (ROWS, {"columns": ["hight"]}, "has no column 'hight'; did you mean 'height'"),
    "twice": (ROWS, {"columns": ["height", "height"]}, "columns should be some, each once"),
    "own": (ROWS, {"columns": ["kind"]}, "without the label"),
    "one": (["1,2,cat", "2,3,cat"], {}, "'kind' should hold classes, but is 'cat' throughout"),
    "many": (ROWS, {"label": "weight", "columns": ["height"]}, "holds 20 different values in 20 rows.* task = \"regression\""),
    "short": ([], {}, "a line of names and rows, but has 1 lines"),
    "task": (ROWS, {"task": "clasification"}, "did you mean 'classification'"),
    "shares": (ROWS, {"test": 0.95}, "nothing is left to train on, of 20 examples, with validation = 0.1, test = 0.95"),
    "quote": (["1,2,\"cat"], {}, "it is not CSV in UTF-8"),
    "separator": (ROWS, {"separator": ", "}, "separator should be one character"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_tables_that_are_wrong(tmp_path, name):
    rows, more, words = WRONG[name]
    with pytest.raises(ValueError, match=words):
        nf.data.table(write(tmp_path, rows), **{"label": "kind"} | more)


def test_heads_that_are_wrong(tmp_path):
    for head, words in {"1,2,3\n": "holds numbers", "a,b,b\n": "more than one column 'b'"}.items():
        with pytest.raises(ValueError, match=words):
            nf.data.table(write(tmp_path, head=head), label="b")
    with pytest.raises(ValueError, match="columns besides the label"):
        nf.data.table(write(tmp_path, ["a", "b", "a", "b"], "k\n"), label="k")
    with pytest.raises(TypeError, match="source should be a file or a data frame, got 3"):
        nf.data.table(3, label="k")


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "nnfunc\[data\]"'):
        nf.data.table(tmp_path / "a.parquet", label="kind")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_no_damage_to_a_table_gives_anything_but_our_error(tmp_path, kind):
    file = write(tmp_path)
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        frame = pytest.importorskip("pandas").read_csv(file)
        file = tmp_path / "pets.parquet"
        frame.to_parquet(file)
    only_mistakes(lambda: nf.data.table(file, label="kind", validation=0, test=0), file, 150)


# NumPy's files.


def test_npz_by_name_and_a_folder_of_npy(tmp_path):
    images = np.arange(20 * 6, dtype=np.uint8).reshape(20, 3, 2)
    np.savez(tmp_path / "a.npz", x=images, y=Y)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", Y)
    for place in (tmp_path / "a.npz", tmp_path):
        splits = nf.data.npz(place, validation=2, test=0.2)
        assert [len(part[1]) for part in splits[:3]] == [14, 2, 4]
        assert (splits.classes, splits.train[0].dtype, splits.train[1].dtype) == (
            2,
            np.uint8,
            np.int64,
        )
        assert together(splits) == {x.tobytes(): y for x, y in zip(images, Y.tolist(), strict=True)}
    (batch,) = splits.data(4).split("test", 4)
    np.testing.assert_allclose(batch[0], splits.test[0] / 255, rtol=1e-6)


def test_npz_with_its_own_splits(tmp_path):
    parts = {f"{a}_{b}": v for b in ("train", "test") for a, v in {"x": X, "y": X[:, 1]}.items()}
    np.savez_compressed(tmp_path / "a.npz", **parts)
    splits = nf.data.npz(tmp_path / "a.npz", validation=5)
    assert [part[1].shape for part in splits[:3]] == [(15, 1), (5, 1), (20, 1)]
    assert (splits.classes, splits.transform) == (None, None)
    assert splits.data(4).batch(0)[0].shape == (4, 2)


@pytest.mark.parametrize("arrays,more,words", [
    ({"x": X, "z": Y}, {}, "has no array 'y'; there is 'x', 'z'"),
    ({"x": X, "labels": Y}, {"y": "label"}, "has no array 'label'; did you mean 'labels'"),
    ({"x_train": X, "y": Y}, {}, "has no array 'y_train'"),
    ({"x": X, "y": Y[:9]}, {}, "x and y of train should be of one length, got 20 and 9"),
    ({"x": X, "y": np.array(["a"] * 20)}, {}, r"y of train should be numbers, .*got <U1 \[20\]"),
    ({"x": X, "y": Y.astype(object)}, {}, "cannot be read as NumPy's file .*pickle"),
])  # fmt: skip
def test_npz_that_is_wrong(tmp_path, arrays, more, words):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=f"data.npz: .*{words}"):
        nf.data.npz(tmp_path / "a.npz", **more)


@pytest.mark.parametrize("form", ["npz", "npy"])
def test_no_damage_to_numpys_files_gives_anything_but_our_error(tmp_path, form):
    np.savez_compressed(tmp_path / "a.npz", x=X, y=Y)
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    file, place = {"npz": 2 * [tmp_path / "a.npz"], "npy": [tmp_path / "y.npy", tmp_path]}[form]
    only_mistakes(lambda: nf.data.npz(place, validation=0, test=0), file, 100, place.name)
