"""Windows of time series: scaled by series, split by time, in the original units again."""

import re
import warnings

import numpy as np
import pytest
from helpers.data_files import only_mistakes

import nnfunc as nf
from nnfunc.data.prediction_inputs import load_inputs, restore_outputs

DAYS = 40
NORTH = [10.0 + (i % 4) + i / 10 for i in range(DAYS)]
SOUTH = [500.0 - 3 * i + 20 * (i % 5) for i in range(DAYS)]
OPEN = [int(i % 3 == 0) for i in range(DAYS + 4)]
SIZES = {"time": "day", "context": 6, "horizon": 3, "validation": 5, "test": 8}


def day(i):
    return str(np.datetime64("2026-01-30") + np.timedelta64(i, "D"))


def wide(folder, rows=None, name="wide.csv"):
    rows = [(day(i), NORTH[i], SOUTH[i]) for i in range(DAYS)] if rows is None else rows
    file = folder / name
    file.write_text("\n".join(["day,north,south", *(",".join(map(str, row)) for row in rows)]) + "\n")
    return file


def long(folder, extra=4):
    rows = [
        (day(i), shop, values[i] if i < DAYS else "", OPEN[i])
        for shop, values in (("north", NORTH), ("south", SOUTH))
        for i in range(DAYS + extra)
    ]
    file = folder / "long.csv"
    file.write_text("\n".join(["day,shop,sales,open", *(",".join(map(str, row)) for row in rows[::-1])]) + "\n")
    return file


def originals(splits, layout="flat"):
    """{split: [(series, context values and target in the original units)]}."""
    scaling = splits.preprocessing.facts["scaling"]
    names = dict.fromkeys(scaling)
    result = {}
    for part in ("train", "validation", "test"):
        x, y = getattr(splits, part)
        context = x[:, :6] if layout == "flat" else x[..., 0]
        whole = np.concatenate([context, y], 1).astype(np.float64)
        series = np.repeat(list(names), len(whole) // len(names))
        result[part] = [
            (name, row * scaling[name][1] + scaling[name][0]) for name, row in zip(series, whole, strict=True)
        ]
    return result


def test_windows_hold_the_series_and_are_split_by_time(tmp_path):
    splits = nf.data.forecasting(wide(tmp_path), **SIZES)
    series = {"north": np.array(NORTH), "south": np.array(SOUTH)}
    # 27 days to train on, then 5 of validation and 8 of test, whose targets are their own days
    starts = {"train": range(19), "validation": range(21, 24), "test": range(26, 32)}
    for part, windows in originals(splits).items():
        expected = [(name, values[i : i + 9]) for name, values in series.items() for i in starts[part]]
        assert [name for name, _ in windows] == [name for name, _ in expected]
        np.testing.assert_allclose([row for _, row in windows], [row for _, row in expected], rtol=1e-5)
    mean, std = splits.preprocessing.facts["scaling"]["north"]
    np.testing.assert_allclose([mean, std], [np.mean(NORTH[:27]), np.std(NORTH[:27])])  # of the training days alone
    assert splits.preprocessing.facts["resolution"] == "second"


def test_no_value_after_a_cut_reaches_an_earlier_split(tmp_path):
    before = nf.data.forecasting(wide(tmp_path), **SIZES)
    changed = [(day(i), NORTH[i] if i < 32 else 1e4, SOUTH[i] if i < 27 else -7) for i in range(DAYS)]
    after = nf.data.forecasting(wide(tmp_path, changed), **SIZES)
    np.testing.assert_array_equal(before.train[0], after.train[0])
    np.testing.assert_array_equal(before.train[1], after.train[1])
    np.testing.assert_array_equal(before.validation[0][:3], after.validation[0][:3])  # of north
    np.testing.assert_array_equal(before.validation[1][:3], after.validation[1][:3])


def test_long_and_wide_tables_in_any_order_are_equal(tmp_path):
    expected = originals(nf.data.forecasting(wide(tmp_path), **SIZES))
    splits = nf.data.forecasting(long(tmp_path), value="sales", series="shop", **SIZES)
    result = originals(splits)
    for part in expected:
        together = {(name, row.round(2).tobytes()) for name, row in result[part]}
        assert together == {(name, row.round(2).tobytes()) for name, row in expected[part]}
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(tmp_path / "wide.csv", parse_dates=["day"])
    again = nf.data.forecasting(frame, **SIZES)
    np.testing.assert_array_equal(again.train[0], nf.data.forecasting(tmp_path / "wide.csv", **SIZES).train[0])


@pytest.mark.parametrize("layout", ["flat", "sequence"])
def test_covariates_are_those_of_the_window_and_the_horizon(tmp_path, layout):
    splits = nf.data.forecasting(
        long(tmp_path), value="sales", series="shop", covariates=["open"], layout=layout, **SIZES
    )
    mean, std = splits.preprocessing.facts["covariate_scaling"][0]
    np.testing.assert_allclose([mean, std], [np.mean(OPEN[:27]), np.std(OPEN[:27])])
    x = splits.train[0][2]  # the third window of one shop: its days are 2 to 10
    if layout == "flat":
        assert x.shape == (6 + 9,)
        np.testing.assert_allclose(x[6:] * std + mean, OPEN[2:11], atol=1e-5)
    else:
        assert x.shape == (6, 3)
        np.testing.assert_allclose(x[:, 1] * std + mean, OPEN[2:8], atol=1e-5)
        np.testing.assert_allclose(x[:, 2] * std + mean, OPEN[5:11], atol=1e-5)  # a horizon later


def test_naive_forecasts_by_hand(tmp_path):
    rows = [(i, float(i % 4), float(i % 4) + 10 * (i == 38)) for i in range(DAYS)]
    facts = nf.data.forecasting(wide(tmp_path, rows), **SIZES, season=4).preprocessing.facts
    std = np.std([i % 4 for i in range(27)])
    windows = [np.arange(s, s + 9) for s in range(26, 32)]
    last = [abs((w[6:] % 4) - (w[5] % 4)) for w in windows]
    plain = facts["baselines"]["seasonal naive"]["validation"]
    assert plain == {"mae": 0.0, "rmse": 0.0}
    south = [abs((w[6:] % 4) + 10 * (w[6:] == 38) - (w[5] % 4)) for w in windows]
    expected = np.mean([last, south]) / std
    assert facts["baselines"]["last value"]["test"]["mae"] == pytest.approx(expected, abs=1e-5)
    assert facts["baselines"]["seasonal naive"]["test"]["mae"] == pytest.approx(10 * 2 / 36 / std, abs=1e-5)


def test_an_earlier_run_fixes_scaling_and_cuts_for_longer_files(tmp_path):
    before = nf.data.forecasting(wide(tmp_path), **SIZES)
    rows = [(day(i), NORTH[i % DAYS], SOUTH[i % DAYS]) for i in range(DAYS + 20)]
    after = nf.data.forecasting(wide(tmp_path, rows), **SIZES, preprocessing=before.preprocessing)
    for one, other in zip(before[:3], after[:3], strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert before.preprocessing.describe_changes(after.preprocessing) == []


@pytest.mark.parametrize(
    "times, unit, step",
    [
        ([str(np.datetime64("2020-01") + np.timedelta64(i, "M")) for i in range(DAYS)], "month", 1),
        ([f"{np.datetime64('2020-01') + np.timedelta64(3 * i, 'M')}-15" for i in range(DAYS)], "month", 3),
        (
            [
                str(
                    (np.datetime64("2020-02") + np.timedelta64(i, "M")).astype("datetime64[D]") - np.timedelta64(1, "D")
                )
                for i in range(DAYS)
            ],
            "month",
            1,
        ),
        ([f"{np.datetime64('2026-01-01T00') + np.timedelta64(i, 'h')}:00" for i in range(DAYS)], "second", 3600),
        ([f"{np.datetime64('2026-01-01T00') + np.timedelta64(i, 'h')}:00:00Z" for i in range(DAYS)], "second", 3600),
        (list(range(7, 7 + 5 * DAYS, 5)), "integer", 5),
    ],
)
def test_times_in_equal_steps(tmp_path, times, unit, step):
    rows = list(zip(times, NORTH, SOUTH, strict=True))
    facts = nf.data.forecasting(wide(tmp_path, rows), **SIZES).preprocessing.facts
    assert (facts["resolution"], facts["step"]) == (unit, step)


def test_predictions_follow_the_last_values_in_their_units(tmp_path):
    options = {"value": "sales", "series": "shop", "covariates": ["open"], **SIZES}
    splits = nf.data.forecasting(long(tmp_path), **options)
    preprocessing = splits.preprocessing
    x, names = load_inputs(preprocessing, long(tmp_path))
    assert sorted(names) == ["north", "south"]
    row = x[names.index("south")]
    mean, std = preprocessing.facts["scaling"]["south"]
    np.testing.assert_allclose(row[:6] * std + mean, SOUTH[-6:], rtol=1e-5)
    mean, std = preprocessing.facts["covariate_scaling"][0]
    np.testing.assert_allclose(row[6:] * std + mean, OPEN[34:43], atol=1e-5)
    y = restore_outputs(preprocessing, np.zeros((2, 3), np.float32), "values", names)
    means = [preprocessing.facts["scaling"][name][0] for name in names]
    np.testing.assert_allclose(y, np.repeat(np.array(means)[:, None], 3, 1))
    with pytest.raises(ValueError, match=r"should have covariates for 3 times after its last value"):
        load_inputs(preprocessing, long(tmp_path, extra=2))
    rows = [{"day": day(i), "shop": "west", "sales": 1, "open": 0} for i in range(9)]
    with pytest.raises(ValueError, match="the run has no series 'west'"):
        load_inputs(preprocessing, rows)
    with pytest.raises(ValueError, match=r"should have at least context = 6 values, got 5"):
        load_inputs(preprocessing, [row | {"shop": "north", "sales": "" if i > 4 else 1} for i, row in enumerate(rows)])


def edit(i, row):
    rows = [(day(k), NORTH[k], SOUTH[k]) for k in range(DAYS)]
    return [*rows[:i], *([row] if row else []), *rows[i + 1 :]]


MISTAKES = {
    "gap": (
        edit(6, None),
        "series 'north' steps from 2026-02-04 at line 7 to 2026-02-06 at line 8, and should step by 1 day",
    ),
    "repeated": (
        edit(6, (day(5), 1, 1)),
        "series 'north' has the time 2026-02-04 at line 8 again, after 2026-02-04 at line 7",
    ),
    "no time": (edit(6, ("", 1, 1)), "line 8 of column 'day' should hold a date, got ''"),
    "no date": (edit(6, ("Monday", 1, 1)), "line 8 of column 'day' should hold a date, got 'Monday'"),
    "no value": (edit(6, (day(6), "", 1)), "a value is missing at line 8 of column 'north'"),
    "no number": (edit(6, (day(6), "many", 1)), "line 8 of column 'north' should hold a number, got 'many'"),
    "empty": ([], "it should have a line of names and rows, but has only names"),
    "short": (edit(0, None)[:18], "should have at least context + horizon = 9 times to train on, got 5 of 18 times"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_have_one_line_with_file_and_line(tmp_path, name):
    rows, message = MISTAKES[name]
    file = wide(tmp_path, rows)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        nf.data.forecasting(file, **SIZES)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"data.forecasting: {file}")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"test": 2}, r"test should have at least horizon = 3 of the 40 times of .*, got 2, by test = 2"),
        ({"season": 7}, r"season should be"),
        ({"series": "shop"}, r"value should name the column of the values"),
        ({"value": "day"}, r"should be different columns"),
        ({"value": "sales"}, r"has no column 'sales'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        nf.data.forecasting(wide(tmp_path), **SIZES | options)


def test_a_batch_depends_on_seed_and_step_alone(tmp_path):
    data = [nf.data.forecasting(wide(tmp_path), **SIZES).data(8, seed=3) for _ in range(2)]
    np.testing.assert_array_equal(data[0].batch(5)[0], data[1].batch(5)[0])


def test_damaged_files_are_mistakes_with_a_line(tmp_path):
    file = long(tmp_path)
    options = {"value": "sales", "series": "shop", "covariates": ["open"], **SIZES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        only_mistakes(lambda: nf.data.forecasting(file, **options), file, 150)


def test_rows_of_parquet_that_unpack_to_too_much_are_refused(tmp_path, monkeypatch):
    """A forecast needs all rows at once; 30 million took 250 kB, and minutes."""
    from nnfunc.data.prediction_files import read_pieces

    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    (tmp_path / "a.csv").write_text("t,v\n" + "".join(f"{i},{i % 7}\n" for i in range(40)))
    splits = nf.data.forecasting(tmp_path / "a.csv", time="t", value="v", context=3, horizon=1)
    monkeypatch.setattr("nnfunc.data.download.SMALL", 10**5)
    parquet.write_table(arrow.table({"t": np.zeros(10**6, int), "v": np.zeros(10**6)}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="it unpacks to more than 250 times its"):
        list(read_pieces(splits.preprocessing, [tmp_path / "a.parquet"]))
