"""Tables and NumPy's files."""

import csv
import sys
import tempfile
import tracemalloc
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from helpers.data_files import only_mistakes
from hypothesis import given, settings
from hypothesis import strategies as st

import nnfunc as nf
from nnfunc.data.sources import csv_reader
from nnfunc.data.sources.columns import parse_class_labels, read_columns

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
    plain = nf.data.table(tmp_path / "pets.csv", label="kind", standardise=False, validation=0, test=0)
    assert (plain.transform, plain.validation, plain.test) == (None, None, None)
    np.testing.assert_array_equal(plain.train[0], X)


def test_columns_tasks_and_other_forms_of_csv(tmp_path):
    file = tmp_path / "odd.csv"
    text = '\ufeff"a b";z;"k"\r\n' + "".join(f'"{i}.5";{10 - i};{i % 3 + 9}\r\n' for i in range(12)) + "\r\n"
    file.write_text(text, newline="")
    splits = nf.data.table(file, label="k", columns=["z"], separator=";", validation=0, test=0, standardise=False)
    assert splits.names == ("9", "10", "11")  # in numerical order
    assert splits.train[0].ravel().tolist() == [10 - i for i in range(12)]
    found = nf.data.table(file, label="z", task="regression", separator=";", validation=0, test=3)
    assert (found.train[1].shape, found.train[1].dtype, found.names, found.classes) == ((9, 1), np.float32, None, None)


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
    assert splits.preprocessing.facts == csv.preprocessing.facts


WRONG = {
    "missing": (ROWS[:3] + [" ,2,cat"], {}, "pets.csv: a value is missing at line 5 of column 'weight'. Fill"),
    "nan": (ROWS[:3] + ["NaN,2,cat", "3,2,dog", "nan,2,cat"], {}, "missing at line 5 of column 'weight'; 2 such"),
    "infinite": (ROWS + ["1e39,1,cat"], {}, "line 22 of column 'weight' should hold a number, got '1e39'"),
    "text": (ROWS + ["1,tall,cat"], {}, "line 22 of column 'height' should hold a number, got 'tall'. Turn"),
    "label": (ROWS + ["1,2,"], {}, "the label is missing at line 22 of column 'kind'"),
    "ragged": (ROWS[:2] + ["1,2"], {}, "line 4 should have 3 values, but has 2. The separator is ','"),
    "no such": (ROWS, {"label": "kin"}, "has no column 'kin'; did you mean 'kind'"),
    "nor": (ROWS, {"columns": ["hight"]}, "has no column 'hight'; did you mean 'height'"),
    "twice": (ROWS, {"columns": ["height", "height"]}, "columns should be distinct names"),
    "own": (ROWS, {"columns": ["kind"]}, "without the label"),
    "one": (["1,2,cat", "2,3,cat"], {}, "'kind' should hold classes, but is 'cat' throughout"),
    "many": (
        ROWS,
        {"label": "weight", "columns": ["height"]},
        'holds 20 different values in 20 rows.* task = "regression"',
    ),
    "short": ([], {}, "a line of names and rows, but has only names"),
    "task": (ROWS, {"task": "clasification"}, "did you mean 'classification'"),
    "shares": (ROWS, {"test": 0.95}, "no training example remains of 20 with validation = 0.1 and test = 0.95"),
    "quote": (['1,2,"cat'], {}, "line 2 opens a quote that is not closed before the file ends. Close"),
    "separator": (ROWS, {"separator": ", "}, "separator should be one character"),
}


@pytest.mark.parametrize("name", WRONG)
def test_tables_that_are_wrong(tmp_path, name):
    rows, more, words = WRONG[name]
    with pytest.raises(ValueError, match=words):
        nf.data.table(write(tmp_path, rows), **{"label": "kind"} | more)


def test_heads_that_are_wrong(tmp_path):
    for head, words in {"1,2,3\n": "holds numbers", "a,b,b\n": "more than one column 'b'"}.items():
        with pytest.raises(ValueError, match=words):
            nf.data.table(write(tmp_path, head=head), label="b")
    with pytest.raises(ValueError, match="columns other than the label"):
        nf.data.table(write(tmp_path, ["a", "b", "a", "b"], "k\n"), label="k")
    with pytest.raises(TypeError, match="source should be a file or a data frame, got 3"):
        nf.data.table(3, label="k")


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'nnfunc\[data\]'"):
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


# Values and their spellings.


def from_text(folder, content, **more):
    """A table of a file's bytes, unscaled and not cut."""
    file = folder / "a.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    plain = {"validation": 0, "test": 0, "standardise": False}
    return nf.data.table(file, **{"label": "y"} | plain | more)


PLAIN = "1,0\n2,1\n3,0\n4,1\n"


@pytest.mark.parametrize(
    "word", ["2_0", "0x10", "inf", "\uff11", "1e400", '"1,000"', "True", "1 2", "1e5_0", "2020-01-01"]
)
def test_what_is_no_number_in_csv(tmp_path, word):
    shown = word.strip('"')
    hint = "Write numbers with decimal points" if "," in word else "Turn"
    with pytest.raises(ValueError, match=rf"line 6 of column 'a' should hold a number, got '{shown}'. {hint}"):
        from_text(tmp_path, f"a,y\n{PLAIN}{word},1\n")


def test_what_is_a_number_in_csv(tmp_path):
    words = [" 5 ", "+5", "5.", ".5", "-5e-1", "5E3", "005", "1e20"]
    content = "a,y\n" + "".join(f"{word},{i % 2}\n" for i, word in enumerate(words))
    found = from_text(tmp_path, content).train[0].ravel()
    np.testing.assert_array_equal(found, np.float32([5, 5, 5, 0.5, -0.5, 5000, 5, 1e20]))


@pytest.mark.parametrize(
    "words,names",
    [
        (["1", "1.0", "0", "0.0"], ("0", "1")),
        (["10", "9", "1e1", "9.50"], ("9", "9.5", "10")),
        (["01", "1", "1.0", "02"], ("01", "1", "02")),
        (["cat", "1", "1.0", "none"], ("1", "cat", "none")),
        (["9007199254740993", "9007199254740992"] * 2, ("9007199254740992", "9007199254740993")),
    ],
)
def test_the_names_of_classes(tmp_path, words, names):
    content = "a,y\n" + "".join(f"{i},{word}\n" for i, word in enumerate(words * 2))
    splits = from_text(tmp_path, content)
    assert sorted(splits.names) == sorted(names)
    frame = Frame(a=np.arange(8.0), y=np.array(words * 2, object))
    assert nf.data.table(frame, label="y", validation=0, test=0).names == splits.names


def test_classes_are_counted_by_their_values(tmp_path):
    splits = from_text(tmp_path, "a,y\n1,1\n2,0\n3,1.0\n4,0.0\n")
    assert splits.train[1].tolist() == [1, 0, 1, 0]
    labels, names = parse_class_labels("t", "y", ["1.0", "7", "1"], names=("1", "7", "9"))
    assert (labels.tolist(), names) == ([0, 1, 0], ("1", "7", "9"))
    with pytest.raises(
        ValueError, match="row 1 of column 'y' has the class '8', which the run does not have; it has 1, 7"
    ):
        parse_class_labels("t", "y", ["1", "8"], names=("1", "7"))


class Frame:
    """The least that a data frame is."""

    def __init__(self, **columns):
        self.values, self.columns = columns, list(columns)

    def __getitem__(self, name):
        return type("Series", (), {"to_numpy": lambda _: self.values[name]})()


MISSING = [
    "",
    "#N/A",
    "#N/A N/A",
    "#NA",
    "-1.#IND",
    "<NA>",
    "N/A",
    "NA",
    "NULL",
    "NaN",
    "None",
    "n/a",
    "nan",
    "null",
    " NaT ",
]


@pytest.mark.parametrize("word", MISSING)
def test_a_missing_label_is_named(tmp_path, word):
    with pytest.raises(ValueError, match=r"the label is missing at line 4 of column 'y'\. Fill"):
        from_text(tmp_path, f"a,y\n1,c\n2,d\n3,{word}\n4,c\n5,d\n")


def frames(columns):
    """The same columns as frames of all libraries, and as a Parquet table."""
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    arrow = pytest.importorskip("pyarrow")
    table = arrow.table(columns)
    yield from (pandas.DataFrame(columns), polars.DataFrame(columns), table)
    yield pandas.DataFrame({c: pandas.array(table[c], pandas.ArrowDtype(table[c].type)) for c in columns})
    yield pandas.DataFrame(columns).convert_dtypes()


LOST = {
    "texts": ["c", "d", None, "c", "d", "c"],
    "flags": [True, False, None, True, False, True],
    "counts": [1, 0, None, 1, 0, 1],
    "times": [datetime(2020, 1, 1), datetime(2020, 1, 2), None] * 2,
    "days": [date(2020, 1, 1), date(2020, 1, 2), None] * 2,
    "spans": [timedelta(1), timedelta(2), None] * 2,
    "decimals": [Decimal("1.5"), Decimal("2"), None] * 2,
}


@pytest.mark.parametrize("name", LOST)
def test_a_label_or_value_that_a_frame_lacks_is_named(tmp_path, name):
    for frame in frames({"a": [1.0, 2, 3, 4, 5, 6], "y": LOST[name]}):
        with pytest.raises(ValueError, match="the label is missing at row 2 of column 'y'"):
            nf.data.table(frame, label="y")
    for frame in frames({"a": LOST[name], "y": [1, 0] * 3}):
        with pytest.raises(
            ValueError, match=r"(missing|should hold a number, got).* of column 'a'|of column 'a' should"
        ):
            nf.data.table(frame, label="y")


def test_dates_are_no_numbers_whatever_holds_them():
    for name in ("times", "days", "spans"):
        for frame in frames({"a": LOST[name][:2] * 3, "y": [1, 0] * 3}):
            with pytest.raises(
                ValueError, match=r"row 0 of column 'a' should hold a number, got '.*; 6 such\. Turn it into"
            ):
                nf.data.table(frame, label="y")


def test_flags_decimals_and_categories_of_frames():
    columns = {"a": [True, False] * 3, "b": [Decimal("1.5"), Decimal(2)] * 3, "y": ["c", "d"] * 3}
    for frame in frames(columns):
        splits = nf.data.table(frame, label="y", validation=0, test=0, standardise=False)
        np.testing.assert_array_equal(splits.train[0][:2], [[1, 1.5], [0, 2]])
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
    for y in (pandas.Categorical(columns["y"]), pandas.Series([1.0, 0.0] * 3)):
        frame = pandas.DataFrame({"a": range(6), "y": y})
        assert nf.data.table(frame, label="y", validation=0, test=0).names in (("c", "d"), ("0", "1"))
    frame = polars.DataFrame({"a": range(6), "y": polars.Series(columns["y"], dtype=polars.Categorical)})
    assert nf.data.table(frame, label="y", validation=0, test=0).names == ("c", "d")


def test_a_null_of_a_parquet_dictionary_is_missing(tmp_path):
    """pyarrow's own to_numpy makes it another value."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    y = arrow.array(["a", "b", None, "a", "b", "a"]).dictionary_encode()
    parquet.write_table(arrow.table({"x": [1.0] * 6, "y": y}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="label is missing at row 2"):
        nf.data.table(tmp_path / "a.parquet", label="y")


def test_masks_and_shapes_of_a_frames_columns():
    y, masked = np.array([0, 1] * 3), np.ma.masked_greater(np.arange(6.0), 4)
    with pytest.raises(ValueError, match="column 'a' of the frame should hold no masked values, got 1 of 6"):
        nf.data.table(Frame(a=masked, y=y), label="y")
    with pytest.raises(ValueError, match="column 'y' of the frame should hold no masked"):
        nf.data.table(Frame(a=np.arange(6.0), y=np.ma.array(y, mask=y == 0)), label="y")
    with pytest.raises(ValueError, match=r"'a' should hold one value a row, got shape \(6, 2\)"):
        nf.data.table(Frame(a=np.ones((6, 2)), y=y), label="y")
    with pytest.raises(ValueError, match="row 0 of column 'a' should hold a number, got '\\(1\\+0j\\)'"):
        nf.data.table(Frame(a=np.ones(6, complex), y=y), label="y")
    frame = pytest.importorskip("pandas").DataFrame(np.ones((6, 2)), columns=[1, "1"])
    with pytest.raises(ValueError, match="the frame: it has more than one column '1'"):
        nf.data.table(frame, label="1")


# The form of CSV files.


SPEECH = {  # content, arguments, what is said; None: it is read
    "blank lines": (f"\na,y\n1,0\n\n  \n{PLAIN}", {}, None),
    "only carriage returns": (f"a,y\n{PLAIN}".replace("\n", "\r"), {}, None),
    "a long field not used": (f"a,note,y\n1,{'x' * 200_000},0\n2,z,1\n3,z,0\n4,z,1\n", {"columns": ["a"]}, None),
    "no name, not used": (
        f",a,y\n{PLAIN}".replace("\n", "\n9,")[:-2].replace("\n9,,", "\n,"),
        {"columns": ["a"]},
        None,
    ),
    "no name": (",a,y\n0,1,0\n1,1,1\n", {}, "its column 1 has no name .as pandas writes its index"),
    "UTF-16": (
        f"a,y\n{PLAIN}".encode("utf-16"),
        {},
        "it should be text in UTF-8, but is in UTF-16. Convert it: iconv -f UTF-16",
    ),
    "UTF-16 without a mark": (f"a,y\n{PLAIN}".encode("utf-16-le"), {}, "seems to be in UTF-16.* iconv -f UTF-16LE"),
    "UTF-32 without a mark": (f"a,y\n{PLAIN}".encode("utf-32-le"), {}, "seems to be in UTF-32.* iconv -f UTF-32LE"),
    "UTF-32 from the other end": (f"a,y\n{PLAIN}".encode("utf-32-be"), {}, "in UTF-32.* iconv -f UTF-32BE"),
    "no text": (bytes([0, 1, 0, 2]) * 50, {}, "it should be text, but many of its bytes are zero"),
    "Latin-1": (
        "a,y,r\n1,0,\xe9\n".encode("latin-1"),
        {},
        r"should be text in UTF-8, but line 2 has the byte 0xe9 \(byte 10 of the file\)",
    ),
    "zero": ("a,y\n1,0\n2,\0\n", {}, "line 3 has a zero byte, .* no CSV has. Where .* tr -d"),
    "web page": ("<!DOCTYPE html>\n<html>", {}, "it is a web page, and should be CSV"),
    "workbook": (b"PK\x03\x04\x14\0\x06\0\x08\0\0\0!\0\xff", {}, "is a zip archive, such as an Excel workbook"),
    "hdf5": (b"\x89HDF\r\n\x1a\n\0\x80\xff", {}, "is HDF5. Check that it is the right file"),
    "feather": (b"ARROW1\0\0\xff\xff\xff\xff", {}, "is Arrow or Feather"),
    "pickle": (b"\x80\x05\x95\x10\0\xff", {}, "is a pickle of Python"),
    "comment": (f"a,y\n# of 2020\n{PLAIN}", {}, "line 2 should have 2 values, but has 1. Lines of comment"),
    "separator at the end": ("a,y\n1,0,\n2,1,\n", {}, "line 2 should have 2 values, but has 3. It ends with ','"),
    "after a quote": ('a,y\n"1"2,0\n', {}, "line 2 cannot be cut into values .*expected after"),
    "a quote left open": (
        'a,y\n1,"0\n2,1\n3,"0"\n',
        {},
        "line 2 cannot be cut into values|line 2 should have 2 values",
    ),
    "a line of many": ('a,y\n1,"0\n2,1\n3",0,1\n', {}, "line 2 should have 2 values, .*several lines: is a quote"),
    "after a break": ('a,note,y\n1,"p\nq",0\n\n2,z,1\nbad,z,0\n', {"columns": ["a"]}, "line 6 of column 'a'"),
    "a bad separator": (f"a,y\n{PLAIN}", {"separator": "\n"}, "separator should be one character"),
}


@pytest.mark.parametrize("name", SPEECH)
def test_csv_that_is_odd_is_read_or_explained(tmp_path, name):
    content, more, words = SPEECH[name]
    if words is None:
        assert len(from_text(tmp_path, content, **more).train[0]) >= 3
        return
    with pytest.raises(ValueError, match=words) as caught:
        from_text(tmp_path, content, **more)
    assert "delete it" not in str(caught.value) or name == "zero"


def test_the_longest_field_of_others_stays(tmp_path):
    before = csv.field_size_limit()
    from_text(tmp_path, f"a,y\n{PLAIN}")
    assert csv.field_size_limit() == before


CELLS = st.one_of(
    st.sampled_from(["", "cat", " 5 ", "+1", "1_0", "nan", "-0", "0x1", "1e400", "9007199254740993", "\u0661", "é"]),
    st.floats(width=32).map(repr),
    st.integers(-300, 300).map(str),
    st.text('ab,"\n\r 1', max_size=3),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]))
def test_both_readers_see_the_same(rows, end):
    pytest.importorskip("pyarrow")
    text = end.join(["a,y", *(",".join(row) for row in rows)]) + end
    results = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.csv")
        file.write_text(text, newline="", encoding="utf-8")
        for quick in (0, 1 << 40):
            before, csv_reader.QUICK = csv_reader.QUICK, quick
            try:
                columns, place = csv_reader.read_csv("t", file, ",", None, ["y"])
                last = place(len(columns["y"]) - 1)
                results.append([[str(v) for v in columns[c]] for c in "ay"] + [last])
            except ValueError as error:
                results.append(str(error))
            finally:
                csv_reader.QUICK = before
    assert results[0] == results[1]


# NumPy's files.


def test_npz_by_name_and_a_folder_of_npy(tmp_path):
    images = np.arange(20 * 6, dtype=np.uint8).reshape(20, 3, 2)
    np.savez(tmp_path / "a.npz", x=images, y=Y)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", Y)
    for place in (tmp_path / "a.npz", tmp_path):
        splits = nf.data.npz(place, validation=2, test=0.2)
        assert [len(part[1]) for part in splits[:3]] == [14, 2, 4]
        assert (splits.classes, splits.train[0].dtype, splits.train[1].dtype) == (2, np.uint8, np.int64)
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


@pytest.mark.parametrize(
    "arrays,more,words",
    [
        ({"x": X, "z": Y}, {}, "has no array 'y'; there is 'x', 'z'"),
        ({"x": X, "labels": Y}, {"y": "label"}, "has no array 'label'; did you mean 'labels'"),
        ({"x_train": X, "y": Y}, {}, "has no array 'y_train'"),
        ({"x": X, "y": Y[:9]}, {}, "x and y of train should have the same length, got 20 and 9"),
        ({"x": X, "y": np.array(["a"] * 20)}, {}, r"y of train should be numbers .*, got <U1 \[20\]"),
        ({"x": X, "y": Y.astype(object)}, {}, "cannot be read as a NumPy file .*pickle"),
    ],
)
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


def test_csv_columns_have_the_smallest_dtypes(tmp_path):
    rows = [f"{i},{1.7e9 + i:.2f},{'cat' if i % 2 else 'dog'}" for i in range(50)]
    (tmp_path / "a.csv").write_text("\n".join(["small,time,y", *rows]))
    columns, _ = csv_reader.read_csv("t", tmp_path / "a.csv", ",", None, ["y"])
    assert [columns[name].dtype.name for name in ("small", "time")] == ["uint8", "float64"]
    assert (columns["y"].distinct, list(columns["y"])[:3]) == (["dog", "cat"], ["dog", "cat", "dog"])


def test_labels_beside_many_columns_of_floats(tmp_path):
    """Columns share arrays from 257 on, so that words may stand in one of floats."""
    names = [f"c{i}" for i in range(600)]
    rows = [",".join(f"{i + j / 7:.3f}" for j in range(600)) + f",{'ab'[i % 2]}" for i in range(12)]
    file = tmp_path / "wide.csv"
    file.write_text("\n".join([",".join([*names, "y"]), *rows]) + "\n")
    x, y = nf.data.table(file, label="y", validation=0, test=0).train
    assert x.shape == (12, 600)
    assert y.tolist() == [0, 1] * 6


def test_words_of_parquet_are_held_once_each(tmp_path):
    """Two gigabytes of one word lie in 200 kB of a file."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    words, labels = arrow.array(["x" * 10_000] * 2000), arrow.array(["cat", "dog"] * 1000)
    parquet.write_table(arrow.table({"words": words, "kind": labels}), tmp_path / "a.parquet")
    tracemalloc.start()
    problem = "row 0 of column 'words' should hold a number, got 'xxx.*2000 such"
    with pytest.raises(ValueError, match=problem):
        nf.data.table(tmp_path / "a.parquet", label="kind")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5e6  # as an array of NumPy they are 20 MB, or 80
    name, columns, _ = read_columns(tmp_path / "a.parquet", ",")
    assert parse_class_labels(name, "kind", columns["kind"])[0].tolist() == [0, 1] * 1000


def test_parquet_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("nnfunc.data.download.SMALL", 10**5)
    words = arrow.array(["x" * 10_000 + str(row) for row in range(2000)])
    table = arrow.table({"words": words, "kind": ["cat", "dog"] * 1000})
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(ValueError, match="it unpacks to more than 250 times its"):
        nf.data.table(tmp_path / "a.parquet", label="kind")
