"""What data sets learn from their files, and what they make of other files with it."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnfunc as nf
from nnfunc.data.fingerprint import digest, row_ids
from nnfunc.data.prediction_inputs import load_inputs
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.row_split import assign_rows

PARTS = ("train", "validation", "test")


def saved(preprocessing, folder):
    """The record as another process reads it."""
    preprocessing.save(folder)
    json.loads((folder / "data.json").read_text())
    return Preprocessing.load(folder)


def same(one, two):
    for name in PARTS:
        for a, b in zip(getattr(one, name) or (), getattr(two, name) or (), strict=True):
            np.testing.assert_array_equal(a, b)


def write(file, rows, head="a,b,k"):
    file.write_text("\n".join([head, *rows]) + "\n")
    return file


ROWS = [f"{i % 5},{i * i},{'xy'[i % 2]}" for i in range(40)]


def keys(splits):
    """{split: the rows of x and y in it, as text}."""
    pairs = {name: getattr(splits, name) for name in PARTS}
    return {
        name: sorted(f"{x.tolist()} {y}" for x, y in zip(*pair, strict=True)) if pair else []
        for name, pair in pairs.items()
    }


# tables


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(40)), st.lists(st.tuples(st.integers(0, 40), st.integers(0, 4))), st.data())
def test_no_row_moves_between_splits(order, added, data):
    """Whatever order the rows are in, whatever is put between them, whichever are gone."""
    rows = [ROWS[i] for i in order]
    gone = set(data.draw(st.lists(st.sampled_from(rows), max_size=5)))
    for at, value in added:
        rows.insert(at, f"{value}.5,{value},x")
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder, "a.csv"), ROWS)
        before = nf.data.table(file, label="k")
        write(file, [row for row in rows if row not in gone])
        after = nf.data.table(file, label="k", preprocessing=before.preprocessing)
    if not gone:
        same(before, after)
    for name in PARTS:
        assert set(keys(after)[name]) <= set(keys(before)[name])
    counts = [sum(map(len, keys(splits).values())) for splits in (before, after)]
    assert counts == [40, 40 - len(gone)]
    assert bool(before.preprocessing.describe_changes(after.preprocessing)) == bool(added or gone)


def test_equal_rows_are_told_apart_by_their_order(tmp_path):
    file = write(tmp_path / "a.csv", ["1,2,x", "1,2,y"] * 10)
    before = nf.data.table(file, label="k", standardise=False)
    after = nf.data.table(file, label="k", preprocessing=saved(before.preprocessing, tmp_path))
    same(before, after)
    write(file, ["1,2,x", "1,2,y"] * 9)
    after = nf.data.table(file, label="k", preprocessing=before.preprocessing)
    assert sum(map(len, keys(after).values())) == 18
    assert before.preprocessing.describe_changes(after.preprocessing) == ["20 examples before, 18 now; 2 are missing"]


def test_a_record_holds_what_a_table_needs(tmp_path):
    file = write(tmp_path / "a.csv", ROWS)
    before = nf.data.table(file, label="k")
    preprocessing = saved(before.preprocessing, tmp_path / "run")
    assert preprocessing.facts == before.preprocessing.facts
    write(file, [f"{k},{b},7,{a}" for a, b, k in (row.split(",") for row in ROWS)], "k,b,c,a")
    same(before, nf.data.table(file, label="k", preprocessing=preprocessing))
    other = write(tmp_path / "b.csv", ["1,2,y", "3,4,x", "5,6,y", "7,8,x"])  # no row of the first
    splits = nf.data.table(other, label="k", validation=0, test=0, preprocessing=preprocessing)
    mean, std = (np.array(preprocessing.facts["standardise"][name]) for name in ("mean", "std"))
    expected = (np.array([[1, 2], [3, 4], [5, 6], [7, 8]]) - mean) / std
    np.testing.assert_allclose(splits.train[0], expected, rtol=1e-6)
    assert splits.train[1].tolist() == [1, 0, 1, 0]


def test_labels_are_the_classes_of_then(tmp_path):
    file = write(tmp_path / "a.csv", [f"{i},1,{i % 2}" for i in range(20)])
    preprocessing = nf.data.table(file, label="k").preprocessing
    write(file, [f"{i},1,{i % 2}.0" for i in range(20)])
    assert nf.data.table(file, label="k", preprocessing=preprocessing).names == ("0", "1")
    write(file, [f"{i},1,{i % 2 + 1}" for i in range(20)])
    with pytest.raises(ValueError, match="line 3 of column 'k' has the class '2', which the run"):
        nf.data.table(file, label="k", preprocessing=preprocessing)


def test_seconds_since_1970_keep_their_digits(tmp_path):
    seconds = 1.7e9 + np.arange(100)
    file = write(tmp_path / "a.csv", [f"{s:.1f},{i},{'xy'[i % 2]}" for i, s in enumerate(seconds)])
    splits = nf.data.table(file, label="k", validation=0, test=0)
    assert len(np.unique(splits.train[0][:, 0])) == 100
    expected = (seconds - seconds.mean()) / seconds.std()
    np.testing.assert_allclose(splits.train[0][:, 0], expected, rtol=1e-6)
    x, _ = load_inputs(splits.preprocessing, np.stack([seconds, np.arange(100)], 1))
    np.testing.assert_array_equal(x, splits.train[0])
    with pytest.warns(UserWarning, match="column 'a': float32 has fewer than 256 values"):
        nf.data.table(file, label="k", standardise=False)
    with pytest.warns(UserWarning, match="column 'a': float32 has fewer than 256 values"):
        nf.data.table(file, label="a", columns=["b"], task="regression")


def test_a_constant_column_becomes_0(tmp_path):
    file = write(tmp_path / "a.csv", [f"1700000000.1,{i},{'xy'[i % 2]}" for i in range(20)])
    x, _ = nf.data.table(file, label="k").train
    assert np.unique(x[:, 0]).tolist() == [0]


def test_normalise_keeps_the_digits_of_floats():
    x = 1.7e9 + 128 * np.arange(8)  # float32 holds these
    y = nf.data.Normalise((1.7e9,), (128.0,), 1.0)(np.float32(x)[:, None])
    assert np.ravel(y).tolist() == list(range(8))


# arrays and images


def arrays_of(tmp_path, x, y, **more):
    np.savez(tmp_path / "a.npz", x=x, y=y, **more)
    return tmp_path / "a.npz"


X, Y = np.arange(120, dtype=np.float32).reshape(40, 3), np.arange(40) % 4


def test_the_record_of_another_data_set_is_refused(tmp_path):
    preprocessing = nf.data.npz(arrays_of(tmp_path, X, Y)).preprocessing
    with pytest.raises(ValueError, match=r"preprocessing should be of nf.data.table, got .* nf.data.npz"):
        nf.data.table(write(tmp_path / "a.csv", ROWS), label="k", preprocessing=preprocessing)


def test_npz_keeps_its_splits(tmp_path):
    before = nf.data.npz(arrays_of(tmp_path, X, Y))
    preprocessing = saved(before.preprocessing, tmp_path / "run")
    more = np.concatenate([X[::-1], X + 1000])
    after = nf.data.npz(arrays_of(tmp_path, more, np.concatenate([Y[::-1], Y])), preprocessing=preprocessing)
    same(before, after)
    assert preprocessing.describe_changes(after.preprocessing) == [
        "40 examples before, 80 now; 40 are new and in no split, the first is example 41 of the file"
    ]
    with pytest.raises(ValueError, match=r"labels should be in \[0, 4\)"):
        nf.data.npz(arrays_of(tmp_path, X, Y + 1), preprocessing=preprocessing)
    with pytest.raises(ValueError, match=r"float32 \[3\] with classes, got float32"):
        nf.data.npz(arrays_of(tmp_path, X[:, :2], Y), preprocessing=preprocessing)


def test_splits_that_files_bring_are_compared(tmp_path):
    parts = {"x_train": X, "y_train": Y, "x_test": X[:8] + 1, "y_test": Y[:8], "x_val": X[:9], "y_val": Y[:9]}
    np.savez(tmp_path / "a.npz", **parts)
    before = nf.data.npz(tmp_path / "a.npz")
    assert before.preprocessing.rows is None
    np.savez(tmp_path / "a.npz", **parts | {"x_test": X[:7], "y_test": Y[:7], "x_val": X[1:10]})
    after = nf.data.npz(tmp_path / "a.npz", preprocessing=saved(before.preprocessing, tmp_path / "run"))
    assert before.preprocessing.describe_changes(after.preprocessing) == [
        "validation: the values have changed",
        "test: 8 examples before, 7 examples now",
    ]
    del parts["x_val"], parts["y_val"]
    np.savez(tmp_path / "a.npz", **parts)
    after = nf.data.npz(tmp_path / "a.npz", preprocessing=before.preprocessing)
    assert (len(after.train[1]), after.validation) == (40, None)
    assert before.preprocessing.describe_changes(after.preprocessing) == ["validation: 9 examples before, none now"]


def images_in(root, counts, size=4):
    image = pytest.importorskip("PIL.Image")
    for k, (output_type, count) in enumerate(counts.items()):
        (root / output_type).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = np.full((size, size, 3), 20 * k + i, np.uint8)
            image.fromarray(pixels).save(root / output_type / f"{i}.png")
    return root


def test_images_keep_classes_sizes_means_and_splits(tmp_path):
    root = images_in(tmp_path / "data", {"ant": 10, "bee": 10})
    before = nf.data.images(root, layout="flat")
    preprocessing = saved(before.preprocessing, tmp_path / "run")
    images_in(root, {"ant": 12, "bee": 10})
    (root / "bee" / "3.png").rename(root / "bee" / "z.png")
    after = nf.data.images(root, preprocessing=preprocessing)
    same(before, after)
    assert after.transform == before.transform
    assert preprocessing.describe_changes(after.preprocessing)[0].startswith("20 examples before, 22 now; 2 are new")
    x, names = load_inputs(preprocessing, root / "bee")
    assert (x.shape, len(names or ())) == ((10, 48), 10)
    x, names = load_inputs(preprocessing, [root / "ant" / "1.png"])
    assert (x[0, 0], names) == (1, [str(root / "ant" / "1.png")])
    with pytest.raises(ValueError, match=r"should be 4 x 4 .*, as the run's images, got 5 x 5"):
        load_inputs(preprocessing, images_in(tmp_path / "large", {"ant": 1}, 5))
    with pytest.raises(ValueError, match="should contain images, but has none"):
        load_inputs(preprocessing, tmp_path / "run")
    images_in(root, {"aardvark": 2})
    with pytest.raises(ValueError, match="only the classes of the run, ant, bee, got 'aardvark'"):
        nf.data.images(root, preprocessing=preprocessing)


# text and tokens


def test_text_keeps_its_vocabulary_and_its_cut(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("to be or not to be " * 20)
    for codec in ("characters", "bytes"):
        file.write_text("to be or not to be " * 20)
        before = nf.data.text(file, block_size=4, codec=codec)
        preprocessing = saved(before.preprocessing, tmp_path / codec)
        file.write_text("to be or not to be " * 20 + "ZZZ")
        after = nf.data.text(file, block_size=4, codec=codec, preprocessing=preprocessing)
        np.testing.assert_array_equal(before.train, after.train)
        np.testing.assert_array_equal(before.validation, after.validation)
        assert (after.codec, after.classes) == (before.codec, before.classes)
        assert preprocessing.describe_changes(after.preprocessing) == ["380 tokens before, 383 now"]
        file.write_text("to be or nat to be " * 20)
        if codec == "characters":
            with pytest.raises(ValueError, match=r"should be among .* got 'a' at index 10"):
                nf.data.text(file, block_size=4, codec=codec, preprocessing=preprocessing)
        else:
            after = nf.data.text(file, block_size=4, codec=codec, preprocessing=preprocessing)
            assert "train: the values have changed" in preprocessing.describe_changes(after.preprocessing)


def test_tokens_keep_their_cut(tmp_path):
    tokens = (np.arange(1000) % 50).astype(np.uint16)
    tokens.tofile(tmp_path / "a.bin")
    before = nf.data.tokens(tmp_path / "a.bin", block_size=8, vocab_size=50)
    preprocessing = saved(before.preprocessing, tmp_path / "run")
    np.concatenate([tokens, tokens]).tofile(tmp_path / "a.bin")
    after = nf.data.tokens(tmp_path / "a.bin", block_size=8, preprocessing=preprocessing)
    np.testing.assert_array_equal(before.train, after.train)
    np.testing.assert_array_equal(before.validation, after.validation)
    assert (after.classes, preprocessing.describe_changes(after.preprocessing)) == (
        50,
        ["1,000 tokens before, 2,000 now"],
    )


# the parts of a record


def test_ids_differ_where_examples_do():
    x = np.random.RandomState(0).randint(0, 2, (5000, 7)).astype(np.uint8)
    rows = len(np.unique(x, axis=0))
    assert len(np.unique(row_ids(x))) == rows == 128
    assert (row_ids(x) != row_ids(x, np.zeros(5000))).all()
    assert row_ids(x)[:10].tolist() == row_ids(x[:10]).tolist()  # whatever the number of rows
    moved = row_ids(np.array([[0, 1], [1, 0]], np.int64))
    assert moved[0] != moved[1]


def test_a_digest_of_a_large_mapped_file_reads_little_of_it(tmp_path):
    size = (1 << 26) + 4096
    with (tmp_path / "a.bin").open("wb") as file:
        file.truncate(size)
    mapped = np.memmap(tmp_path / "a.bin", np.uint16, "r+")
    before = digest(mapped)
    mapped[5] = 1  # in the first block
    assert digest(mapped) != before
    assert digest(mapped[:-1]) != digest(mapped)
    assert digest(np.zeros(4, np.uint16)) != digest(np.zeros(4, np.int16))


def test_digits_and_arrays_given_to_predict():
    preprocessing = nf.data.digits().preprocessing
    x, names = load_inputs(preprocessing, np.ones((2, 64)))
    assert (x.dtype, x.shape, names) == (np.float32, (2, 64), None)
    for rows, message in {
        "a": "does not exist",
        3: r"got shape \(\)",
        ((1, 2), (1,)): "rows of the same length",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_inputs(preprocessing, rows)
    with pytest.raises(ValueError, match="mask"):
        load_inputs(preprocessing, np.ma.masked_equal(np.ones((1, 64)), 1))
    with pytest.raises(TypeError, match="the input should be an array"):
        load_inputs(preprocessing, {"a": [1]})


@pytest.mark.parametrize("size", [7, 1000, 70_000])
def test_splits_in_parts_are_those_of_one_sort(size):
    draw = np.random.RandomState(size)
    labels = draw.randint(0, 5, size)
    train, test = nf.data.split(np.arange(size), [0.6, 0.4], seed=3, stratify=labels)
    shuffled = np.random.RandomState(3).permutation(size)
    ranks = np.empty(size)
    for label in range(5):
        at = np.flatnonzero(labels[shuffled] == label)
        ranks[at] = (np.arange(len(at)) + 0.5) / max(1, len(at))
    order = shuffled[np.argsort(ranks, kind="stable")]
    end = int(size * 0.6 + 1e-6)
    np.testing.assert_array_equal(train, np.sort(order[:end]))
    np.testing.assert_array_equal(test, np.sort(order[end:]))


def test_equal_rows_get_ids_by_their_order():
    ids = np.random.RandomState(0).randint(0, 50, 300).astype(np.uint64) << np.uint64(58)
    _, rows = assign_rows("here", ids.copy, np.zeros(300), None, stratify=False, validation=0, test=0.5)
    assert len(np.unique(rows)) == 300
    once = np.unique(ids, return_index=True)[1]
    np.testing.assert_array_equal(rows[once] >> np.uint64(2), ids[once] >> np.uint64(2))
