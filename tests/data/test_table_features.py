"""Tables with categories, dates, texts and missing values; scaled targets; splits by group and by time."""

import csv
import hashlib
import json
import sys
from datetime import UTC, datetime, timedelta
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nnfunc as nf
from nnfunc.data.prediction_inputs import load_inputs
from nnfunc.data.preprocessing import Preprocessing, restore_targets, scale_targets
from nnfunc.data.sources.columns import read_columns
from nnfunc.data.table_features import (
    build_transformer,
    cell_matrix,
    date_parts,
    encode,
    fit_features,
    parse_cells,
    untrained_transformer,
)
from nnfunc.errors import NnfuncError

pytest.importorskip("sklearn")

N = 200
ROLES = {"categorical": ["city"], "one_hot": ["plan"], "dates": ["day"], "texts": ["note"], "impute": "median"}
HEAD = ["age", "city", "day", "note", "plan", "income", "y"]


def rows_of(seed=0, count=N):
    draw = np.random.RandomState(seed)
    pick = lambda *options: options[draw.randint(len(options))]
    start = datetime(2023, 1, 1)
    return [
        {
            "age": pick("", f"{20 + 40 * draw.uniform():.3f}", f"{20 + 40 * draw.uniform():.3f}"),
            "city": pick("Rome", "Oslo", "Bern", "", "NA"),
            "day": pick("", (start + timedelta(hours=int(draw.randint(20_000)))).isoformat()),
            "note": pick("good fish", "bad cat", "Good cat, and fish", ""),
            "plan": pick("a", "b", "c"),
            "income": f"{np.exp(draw.normal(8, 1)):.2f}",
            "y": pick("no", "yes"),
        }
        for _ in range(count)
    ]


def write(file, rows, head=HEAD):
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, head, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "a.csv", rows_of())


def leaves(x):
    return list(x.values()) if isinstance(x, dict) else [x]


def assert_equal(x, other):
    assert type(x) is type(other)
    for a, b in zip(leaves(x), leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# What each column becomes, against scikit-learn's transformers, fitted here to the same rows.


def training_rows(splits, rows):
    """The rows of the file that were trained on, in the order of the split."""
    return [rows[i] for i in np.flatnonzero((splits.preprocessing.rows & np.uint64(3)) == 0)]


def numbers_of(rows, column):
    return np.array([[float(row[column]) if row[column] else np.nan] for row in rows])


@pytest.mark.parametrize("impute", ["mean", "median"])
@pytest.mark.parametrize("scaling", [True, False, "robust"])
def test_numbers_are_imputed_and_scaled_as_by_scikit_learn(file, impute, scaling):
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import RobustScaler, StandardScaler

    splits = nf.data.table(file, label="y", columns=["income", "age"], impute=impute, standardise=scaling)
    rows = training_rows(splits, rows_of())
    x = np.concatenate([numbers_of(rows, name) for name in ("income", "age")], axis=1)
    assert np.isnan(x[:, 1]).any()
    x = SimpleImputer(strategy=impute, add_indicator=True).fit_transform(x)
    if scaling:
        x = (RobustScaler() if scaling == "robust" else StandardScaler()).fit_transform(x)
    np.testing.assert_allclose(splits.train[0], x, rtol=1e-7, atol=1e-14)  # columns in another order in memory


def test_categories_of_one_hot_and_texts_are_as_by_scikit_learn(file):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder

    splits = nf.data.table(file, label="y", columns=["plan", "note"], one_hot=["plan"], texts=["note"], text_features=4)
    rows = training_rows(splits, rows_of())
    plans = OneHotEncoder(sparse_output=False).fit_transform([[row["plan"]] for row in rows])
    words = TfidfVectorizer(max_features=4).fit_transform([row["note"] for row in rows]).toarray()
    np.testing.assert_array_equal(splits.train[0], np.concatenate([plans, words], axis=1).astype(np.float32))

    splits = nf.data.table(file, label="y", columns=["city", "plan"], categorical=["city", "plan"])
    assert list(splits.train[0]) == ["categories"]
    rows = training_rows(splits, rows_of())
    known = [{"NA": ""}.get(row["city"], row["city"]) for row in rows]
    order = OrdinalEncoder(categories=[["unknown", "", "Bern", "Oslo", "Rome"]])
    np.testing.assert_array_equal(
        splits.train[0]["categories"][:, 0], order.fit_transform([[name] for name in known])[:, 0]
    )
    assert splits.preprocessing.facts["categories"] == [5, 5]


def test_dates_are_as_by_pandas(file):
    pandas = pytest.importorskip("pandas")
    splits = nf.data.table(file, label="y", columns=["day"], dates=["day"], impute="mean", standardise=False)
    dates = pandas.to_datetime(pandas.Series([row["day"] or None for row in training_rows(splits, rows_of())])).dt
    parts = [dates.year, dates.month, dates.day, dates.day_of_week, dates.hour]
    elapsed = (dates.tz_localize("UTC") - pandas.Timestamp(0, tz="UTC")) / pandas.Timedelta(days=1)
    expected = np.stack([*parts, elapsed], axis=1).astype(np.float64)
    missing = np.isnan(expected[:, 0])
    assert missing.any()
    expected = np.where(np.isnan(expected), np.nanmean(expected, axis=0), expected)
    expected = np.concatenate([expected, missing[:, None]], axis=1)
    np.testing.assert_allclose(splits.train[0], expected, rtol=1e-6)


def test_parts_that_do_not_vary_are_left_out(tmp_path):
    rows = [{"day": f"2024-05-{1 + i % 28:02}", "y": i % 2} for i in range(60)]
    splits = nf.data.table(write(tmp_path / "a.csv", rows, ["day", "y"]), label="y", dates=["day"])
    assert splits.preprocessing.facts["features"]["dates"]["parts"] == [["day", "weekday", "elapsed"]]


def test_dates_before_1970_and_leap_days():
    seconds = np.array(
        [[datetime(y, m, d, 23, 59, tzinfo=UTC).timestamp()] for y, m, d in ((1969, 12, 31), (2024, 2, 29))]
    )
    parts = date_parts(seconds, [["year", "month", "day", "weekday", "hour"]])
    assert parts.tolist() == [[1969, 12, 31, 2, 23], [2024, 2, 29, 3, 23]]


# What was fitted is JSON, and gives the same inputs again.


def without_categories(cells):
    return {column: cells[column] for column in ("age", "income", "day", "plan", "note")}


def test_the_transformer_from_json_equals_the_fitted_one(file):
    splits = nf.data.table(file, label="y", **ROLES)
    features = splits.preprocessing.facts["features"]
    plain = {key: value for key, value in features.items() if not isinstance(value, dict)}
    plain |= {key: {"columns": features[key]["columns"]} for key in features if key not in plain}
    plain["dates"]["format"], plain["texts"]["limit"] = None, 256
    train = write(file.parent / "train.csv", training_rows(splits, rows_of()))
    more = write(
        file.parent / "more.csv", [*rows_of(1), {"age": "", "city": "Paris", "plan": "z", "note": "dog", "income": "1"}]
    )
    strings = [*ROLES["categorical"], *ROLES["one_hot"], *ROLES["dates"], *ROLES["texts"]]
    read = lambda path: parse_cells("t", plain, read_columns(path, ",", None, strings)[1], None)
    rows = np.arange(len(training_rows(splits, rows_of())))
    fitted = fit_features(plain, read(train), rows)
    plain["dates"]["parts"] = fitted["dates"]["parts"]
    original = untrained_transformer(plain).fit(cell_matrix(without_categories(read(train)), rows))
    assert fitted == features == json.loads(json.dumps(features))
    rebuilt = build_transformer(json.loads(json.dumps(features)))
    cells = read(more)
    rows = np.arange(N + 1)
    assert_equal(encode(original, features, cells, rows), encode(rebuilt, features, cells, rows))
    assert not np.array_equal(
        encode(original, features, cells, rows)["numbers"][0], encode(original, features, cells, rows)["numbers"][1]
    )


def test_predictions_need_no_file_and_take_columns_in_any_order(file, tmp_path):
    splits = nf.data.table(file, label="y", **ROLES)
    splits.preprocessing.save(tmp_path / "run")
    loaded = Preprocessing.load(tmp_path / "run")
    rows = rows_of(5, 30)
    expected = load_inputs(splits.preprocessing, rows)[0]
    assert expected["numbers"].shape[1] == splits.train[0]["numbers"].shape[1]
    file.unlink()
    assert_equal(load_inputs(loaded, rows)[0], expected)
    assert_equal(load_inputs(loaded, {name: [row[name] for row in rows] for name in HEAD[::-1]})[0], expected)
    new = write(tmp_path / "new.csv", rows, ["income", "x", *HEAD[:5][::-1]])
    assert_equal(load_inputs(loaded, str(new))[0], expected)
    cells = np.array([[row[name] for name in HEAD[:-1]] for row in rows], object)
    assert_equal(load_inputs(loaded, {name: cells[:, i] for i, name in enumerate(HEAD[:-1])})[0], expected)
    frame = pytest.importorskip("pandas").DataFrame(rows)
    assert_equal(load_inputs(loaded, frame)[0], expected)
    frame["day"] = pytest.importorskip("pandas").to_datetime(frame["day"])
    frame["age"] = frame["age"].replace("", None).astype(float)
    assert_equal(load_inputs(loaded, frame.convert_dtypes())[0], expected)


def test_categories_nearly_as_many_as_rows_take_no_longer(tmp_path):
    """Each block of rows went through all categories: 200,000 took minutes."""
    rows = 200_000
    (tmp_path / "ids.csv").write_text("id,y\n" + "".join(f"k{i},{i % 2}\n" for i in range(rows)))
    begin = process_time()
    splits = nf.data.table(tmp_path / "ids.csv", label="y", categorical=["id"])
    assert process_time() - begin < 20
    assert splits.train[0]["categories"].min() == 2
    assert splits.validation[0]["categories"].max() == 0


def test_an_unknown_category_and_a_missing_one_have_indices(file):
    splits = nf.data.table(file, label="y", **ROLES)
    row = {"age": 1, "day": None, "note": None, "plan": "a", "income": 2}
    x = load_inputs(
        splits.preprocessing, [row | {"city": city} for city in ("Paris", None, float("nan"), "Bern", " Rome ")]
    )[0]
    assert x["categories"].ravel().tolist() == [0, 1, 1, 2, 4]
    assert all(np.isfinite(leaf).all() for leaf in leaves(x))


CELL = st.one_of(
    st.none(),
    st.floats(),
    st.integers(-(10**12), 10**12),
    st.booleans(),
    st.text(max_size=8),
    st.datetimes(),
    st.dates(),
)
GOOD = {
    "age": st.one_of(st.none(), st.floats(0, 99), st.sampled_from(["", "7", "1e2", "NaN"])),
    "city": CELL,
    "day": st.one_of(st.none(), st.dates(), st.datetimes(), st.sampled_from(["", "2024-02-29", "20240229T10"])),
    "note": CELL,
    "plan": CELL,
    "income": st.integers(0, 10**6),
}


def inputs_or_error(preprocessing, rows):
    """The inputs, or None if the rows are refused, in one line."""
    try:
        return load_inputs(preprocessing, rows)[0]
    except NnfuncError as error:
        return str(error).replace("\n", "two lines") if "\n" in str(error) else None


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(st.fixed_dictionaries(GOOD), min_size=1, max_size=4), data=st.data())
def test_any_row_gives_finite_numbers_or_one_error(fuzzed, rows, data):
    preprocessing, width = fuzzed
    x = inputs_or_error(preprocessing, rows)
    assert isinstance(x, dict)
    assert x["numbers"].shape == (len(rows), width)
    assert np.isfinite(x["numbers"]).all()
    assert ((x["categories"] >= 0) & (x["categories"] < 5)).all()
    order = data.draw(st.permutations([*GOOD]))
    again = inputs_or_error(preprocessing, [{name: row[name] for name in order} for row in rows])
    assert_equal(again, x)
    changed = [dict(row) for row in rows]
    changed[0][data.draw(st.sampled_from([*GOOD]))] = data.draw(CELL)
    x = inputs_or_error(preprocessing, changed)
    assert x is None or np.isfinite(x["numbers"]).all()


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory):
    splits = nf.data.table(write(tmp_path_factory.mktemp("a") / "a.csv", rows_of()), label="y", **ROLES)
    return splits.preprocessing, splits.train[0]["numbers"].shape[1]


WRONG = {  # changes of row 3, arguments, what is said
    "a word": ({"age": "old"}, {}, "line 5 of column 'age' should hold a number, got 'old'. Turn it into"),
    "infinite": ({"age": "inf"}, {}, "line 5 of column 'age' should hold a number, got 'inf'"),
    "no date": (
        {"day": "soon"},
        {},
        "line 5 of column 'day' should hold a date such as 2026-11-30, got 'soon'. For other",
    ),
    "a format": (
        {"day": "2024-01-01"},
        {"date_format": "%d.%m.%Y"},
        "of column 'day' should hold a date in the format '%d",
    ),
    "missing": (
        {"age": ""},
        {"impute": None, "dates": [], "columns": ["age", "city", "plan", "note"]},
        "a value is missing at line . of column 'age'.*impute = ",
    ),
    "missing date": (
        {},
        {"impute": None, "columns": ["city", "plan", "note", "day"]},
        "missing at line . of column 'day', which should hold a date",
    ),
    "two roles": (
        {},
        {"one_hot": ["city", "plan"]},
        "'city' should be in one of dates, one_hot, texts, categorical, and is in one_hot and cat",
    ),
    "outside": ({}, {"columns": ["age"]}, "columns should contain 'day', as another argument does"),
    "label": ({}, {"categorical": ["city", "y"]}, "columns should be distinct names without the label"),
    "no column": ({}, {"dates": ["dy"]}, "has no column 'dy'; did you mean 'day'"),
    "no words": (
        {},
        {"texts": ["plan"], "one_hot": [], "columns": ["age", "city", "day", "plan"]},
        "column 'plan' should hold texts, got no word of two letters",
    ),
    "impute": ({}, {"impute": "meadian"}, "impute should be one of 'mean', 'median', got 'meadian'"),
    "target": ({}, {"scale_target": True}, "scale_target and log_target are for task = 'regression'"),
    "group": ({"plan": ""}, {"group": "plan", "one_hot": []}, "a value is missing at line 5 of column 'plan'. Fill"),
    "scaling": ({}, {"standardise": "robst"}, "standardise should be true, false or 'robust', got 'robst'"),
    "both": ({}, {"group": "plan", "time": "income", "one_hot": []}, "by group or by time, not by both"),
}


@pytest.mark.parametrize("name", WRONG)
def test_tables_that_are_wrong(tmp_path, name):
    change, arguments, message = WRONG[name]
    rows = rows_of()
    rows[3] |= change
    with pytest.raises(NnfuncError, match=message) as caught:
        nf.data.table(write(tmp_path / "a.csv", rows), **{"label": "y"} | ROLES | arguments)
    assert "\n" not in str(caught.value)


def test_without_scikit_learn_the_error_says_what_to_install(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'nnfunc\[programs\]'"):
        nf.data.table(file, label="y", **ROLES)
    nf.data.table(file, label="y", columns=["income"])


# Tables of numbers alone are as before.


class Frame:
    """The least that a data frame is."""

    def __init__(self, **columns):
        self.values, self.columns = columns, list(columns)

    def __getitem__(self, name):
        return type("Series", (), {"to_numpy": lambda _: self.values[name]})()


BEFORE = (  # digests of ids and of arrays, from the version before this file
    ({"label": "kind"}, "de87ca2d1f1fee44", "080a4bbfb4b3ac5c"),
    ({"label": "weight", "task": "regression", "columns": ["height", "age"]}, "a6577f5f6412faad", "1aa365217cc9a188"),
    ({"label": "kind", "columns": ["age", "weight"], "standardise": False}, "dce7bd19ad63049f", "3d6a93a3d7fc9979"),
)


@pytest.mark.parametrize("case", range(len(BEFORE)))
def test_tables_of_numbers_keep_their_ids_splits_and_facts(case):
    arguments, ids, arrays = BEFORE[case]
    i = np.arange(40)
    frame = Frame(weight=np.sin(i), height=i * i / 8, kind=np.where(i % 3, "cat", "dog"), age=i % 7)
    splits = nf.data.table(frame, **arguments)
    assert digest(splits.preprocessing.rows) == ids
    assert digest(*splits.train, *splits.validation, *splits.test) == arrays
    old = ["classes", "columns", "dtype", "label", "names", "separator", "shape", "standardise", "task"]
    assert sorted(splits.preprocessing.facts) == old


def digest(*arrays):
    return hashlib.blake2b(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays), digest_size=8).hexdigest()


def test_robust_scaling_of_numbers_alone():
    from sklearn.preprocessing import RobustScaler

    draw = np.random.RandomState(0)
    frame = Frame(a=draw.normal(size=99), b=np.ones(99), y=draw.randint(0, 2, 99))
    raw = nf.data.table(frame, label="y", standardise=False).train[0]
    x = nf.data.table(frame, label="y", standardise="robust").train[0]
    np.testing.assert_allclose(x, RobustScaler().fit_transform(raw.astype(np.float64)), atol=1e-6)


# Labels and targets.


def test_several_labels_are_flags():
    i = np.arange(30)
    frame = Frame(a=i * 1.0, red=i % 2, big=np.where(i % 3, "no", "yes"), x=i % 5 == 0)
    splits = nf.data.table(frame, label=["red", "big", "x"], validation=0, test=0)
    assert (splits.names, splits.classes) == (("red", "big", "x"), None)
    y = splits.train[1]
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, np.stack([i % 2, i % 3 == 0, i % 5 == 0], axis=1))
    again = nf.data.table(frame, label="red", preprocessing=splits.preprocessing)
    np.testing.assert_array_equal(again.train[1], y)
    with pytest.raises(ValueError, match=r"row 0 of column 'a' should hold 0 or 1, got '2\.0'\. With several labels"):
        nf.data.table(Frame(a=i + 2.0, b=i % 2, c=i), label=["a", "b"])


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("log", [False, True])
def test_targets_are_scaled_and_restored(scale, log):
    i = np.arange(50)
    frame = Frame(a=i * 1.0, y=np.exp(i / 10), z=i * 2.0 + 1e6)
    options = {"scale_target": scale, "log_target": log}
    splits = nf.data.table(frame, label=["y", "z"], task="regression", validation=0, test=5, **options)
    plain = nf.data.table(frame, label=["y", "z"], task="regression", validation=0, test=5)
    y = splits.train[1].astype(np.float64)
    if scale:
        np.testing.assert_allclose(y.mean(0), 0, atol=1e-6)
        np.testing.assert_allclose(y.std(0), 1, rtol=1e-5)
    elif log:
        np.testing.assert_allclose(y, np.log1p(plain.train[1]), rtol=1e-6)
    for part, other in ((splits.train, plain.train), (splits.test, plain.test)):
        np.testing.assert_allclose(splits.preprocessing.restore_target(part[1]), other[1], rtol=2e-6)
    again = nf.data.table(frame, label="y", preprocessing=splits.preprocessing)
    np.testing.assert_array_equal(again.train[1], splits.train[1])
    assert ("target" in splits.preprocessing.facts) == (scale or log)


def test_the_log_of_a_target_needs_numbers_above_minus_1():
    frame = Frame(a=np.arange(9.0), y=np.array([1.0, 2, -1, 3, 4, 5, 6, 7, 8]))
    with pytest.raises(ValueError, match=r"row 2 of column 'y' should be above -1, got -1. log_target takes"):
        nf.data.table(frame, label="y", task="regression", log_target=True)


def test_deviations_are_restored():
    stats = pytest.importorskip("scipy.stats")
    target = {"mean": [2.0, -1.0], "std": [0.5, 3.0], "log": False}
    y = np.array([[0.3, -0.2, np.log(0.7), np.log(1.1)]])
    np.testing.assert_allclose(
        restore_targets(y, target, "deviation"), [[2.15, -1.6, np.log(0.35), np.log(3.3)]], rtol=1e-12
    )
    mean, log_deviation = restore_targets((y[:, :2], y[:, 2:]), target | {"log": True}, "deviation")
    for i, (center, deviation) in enumerate(((2.15, 0.35), (-1.6, 3.3))):
        normal = stats.lognorm(deviation, scale=np.exp(center))
        np.testing.assert_allclose(mean[0, i], normal.mean() - 1, rtol=1e-9)
        np.testing.assert_allclose(np.exp(log_deviation[0, i]), normal.std(), rtol=1e-9)


def test_quantiles_are_restored_output_by_output():
    target = {"mean": [2.0, -1.0], "std": [0.5, 3.0], "log": True}
    y = np.array([[0.0, 1.0, 0.0, 1.0]])  # two quantiles of each of two targets
    expected = np.expm1([[2.0, 2.5, -1.0, 2.0]])
    np.testing.assert_allclose(restore_targets(y, target, "quantiles"), expected)
    np.testing.assert_allclose(scale_targets(expected[:, [0, 2]], target), [[0.0, 0.0]], atol=1e-12)
    assert restore_targets(y, target, "classes") is y


# Splits by group and by time.


def parts_of(splits, n):
    split = splits.preprocessing.rows & np.uint64(3)
    assert len(split) == n
    return split


def test_no_group_is_in_two_splits_whatever_the_order_of_rows():
    draw = np.random.RandomState(0)
    groups = np.array([f"g{i}" for i in draw.randint(0, 40, 400)])
    x, y = draw.normal(size=400), draw.randint(0, 2, 400)
    splits = nf.data.table(Frame(a=x, who=groups, y=y), label="y", group="who")
    assert splits.preprocessing.facts["columns"] == ["a"]
    split = parts_of(splits, 400)
    of_group = [set(split[groups == group]) for group in np.unique(groups)]
    assert all(len(one) == 1 for one in of_group)
    sizes = np.bincount(split.astype(int))
    np.testing.assert_allclose(sizes / 400, [0.7, 0.1, 0.2], atol=0.03)
    order = draw.permutation(400)
    other = nf.data.table(Frame(a=x[order], who=groups[order], y=y[order]), label="y", group="who")
    np.testing.assert_array_equal(parts_of(other, 400), split[order])


def test_the_latest_rows_are_the_test_split():
    draw = np.random.RandomState(0)
    days = np.array(["2024-01-01"], "datetime64[D]") + draw.randint(0, 50, 300)
    for time in (days, days.astype(str), days.astype(int) * 1.0):
        splits = nf.data.table(
            Frame(a=draw.normal(size=300), day=time, y=draw.randint(0, 2, 300)), label="y", time="day"
        )
        split = parts_of(splits, 300)
        assert days[split == 0].max() < days[split == 1].min()
        assert days[split == 1].max() < days[split == 2].min()
        np.testing.assert_allclose(np.bincount(split.astype(int)) / 300, [0.7, 0.1, 0.2], atol=0.03)
    with pytest.raises(ValueError, match="'day' should have a value for each of 3 splits, got 2 values"):
        nf.data.table(Frame(a=np.arange(9.0), day=np.arange(9) % 2, y=np.arange(9) % 2), label="y", time="day")


@pytest.mark.parametrize("how", [{"group": "city"}, {"time": "income"}, {}])
def test_rows_stay_in_their_splits_when_the_file_grows(tmp_path, how):
    rows = rows_of()
    roles = ROLES | {"categorical": [] if how == {"group": "city"} else ["city"]}
    rows = [row for row in rows if row["city"] not in ("", "NA")]
    first = nf.data.table(write(tmp_path / "a.csv", rows), label="y", **roles, **how)
    grown = [*rows_of(9, 20), *rows[::-1]]
    grown = [row for row in grown if row["city"] not in ("", "NA")]
    then = nf.data.table(write(tmp_path / "a.csv", grown, HEAD[::-1]), label="y", preprocessing=first.preprocessing)
    for part, other in zip(first[:3], then[:3], strict=True):
        assert_equal(part[0], other[0])
        np.testing.assert_array_equal(part[1], other[1])
    assert then.preprocessing.facts == first.preprocessing.facts
    assert (then.preprocessing.rows & np.uint64(3) == 3).sum() == len(grown) - len(rows)


def test_equal_rows_of_several_groups_stay_in_their_splits():
    i = np.arange(80)
    frame = Frame(a=i * 0.0, who=np.array([f"g{k}" for k in i // 8]), y=i % 2)
    first = nf.data.table(frame, label="y", group="who")
    order = np.random.RandomState(0).permutation(80)
    shuffled = Frame(**{name: values[order] for name, values in frame.values.items()})
    then = nf.data.table(shuffled, label="y", preprocessing=first.preprocessing)
    np.testing.assert_array_equal(parts_of(then, 80), parts_of(first, 80)[order])


def test_stratify_can_be_switched_off():
    frame = Frame(a=np.arange(40.0), y=np.arange(40) % 2)
    assert np.bincount(nf.data.table(frame, label="y").test[1]).tolist() == [4, 4]
    plain = nf.data.table(frame, label="y", stratify=False).test[1]
    assert len(plain) == 8
    assert np.bincount(plain).tolist() != [4, 4]


def test_both_spellings_of_booleans_are_one_category():
    flags = [bool(i % 2) for i in range(40)]
    columns = {"flag": np.array(flags), "size": np.arange(40.0), "y": np.array(["a", "b"] * 20)}
    for option in ("categorical", "one_hot"):
        splits = nf.data.table(columns, label="y", **{option: ["flag"]})
        rows = [
            load_inputs(splits.preprocessing, {"flag": flag, "size": [1.0, 2.0]})[0]
            for flag in ([False, True], ["false", "true"], ["FALSE", "True"])
        ]
        for row in rows[1:]:
            np.testing.assert_equal(row, rows[0])


@pytest.mark.parametrize("options", [{}, {"dates": ["day"], "categorical": ["kind"]}], ids=["numbers", "features"])
def test_cells_to_predict_from_are_mistakes_of_the_prediction(options):
    days, kinds = {"day": ["2024-01-01"] * 20, "kind": list("ab") * 10}, {"day": ["2024-01-01"], "kind": ["a"]}
    frame = {"x": np.arange(20.0), "y": ["no", "yes"] * 10} | (days if options else {})
    record = nf.data.table(frame, label="y", **options).preprocessing
    cells = kinds if options else {}
    for row, message in (
        (
            cells | {"x": [""]},
            r"^predict: the input: a value is missing at row 0 of column 'x'\. Fill it in, or drop the row\.$",
        ),
        (cells | {"x": ["1,5"]}, r"^predict: the input: .* got '1,5'\. Write numbers with decimal points alone\.$"),
        (cells, "^predict: the input has no column 'x'"),
        *(
            [(cells | {"x": [1.0], "day": ["soon"]}, "^predict: the input: row 0 of column 'day' should hold a date")]
            if options
            else []
        ),
    ):
        with pytest.raises(ValueError, match=message):
            load_inputs(record, row)
