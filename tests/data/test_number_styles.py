"""Decimal commas and marks between thousands, as a table writes them."""

import numpy as np
import pytest
from helpers.command_line import main

import nnfunc as nf
from nnfunc.data.prediction_inputs import load_inputs

STYLES = {
    "comma": ({"decimal": ","}, "{:.2f}", lambda text: text.replace(".", ",")),
    "german": ({"decimal": ",", "thousands": "."}, "{:,.2f}", lambda text: text.translate(str.maketrans(",.", ".,"))),
    "english": ({"thousands": ","}, "{:,.2f}", lambda text: f'"{text}"'),
    "swiss": ({"thousands": "'"}, "{:,.2f}", lambda text: text.replace(",", "'")),
    "french": ({"decimal": ",", "thousands": " "}, "{:,.2f}", lambda text: text.translate(str.maketrans(",.", " ,"))),
}


def write(file, style=None):
    """A table of 40 rows; the numbers are -2500 to 1500."""
    _, form, change = STYLES[style] if style else ({}, "{}", str)
    number = lambda value: change(form.format(round(value, 2)))
    rows = [f"{number(100.25 * i - 2500)};{number(i / 8)};{'ab'[i % 2]};{number(i * i + 0.5)}" for i in range(40)]
    file.write_text("\n".join(["size;age;type;price", *rows]) + "\n")
    return file


@pytest.mark.parametrize("impute", [None, "median"])
@pytest.mark.parametrize("style", STYLES)
def test_a_style_reads_the_same_numbers(style, impute, tmp_path):
    plain = write(tmp_path / "plain.csv")
    file, (options, *_) = write(tmp_path / "file.csv", style), STYLES[style]
    arguments = {"label": "price", "task": "regression", "columns": ["size", "age"], "separator": ";", "impute": impute}
    expected, splits = nf.data.table(plain, **arguments), nf.data.table(file, **arguments, **options)
    for part, other in zip(splits[:3], expected[:3], strict=True):
        np.testing.assert_allclose(part[0], other[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(part[1], other[1], rtol=1e-5)
    record = splits.preprocessing
    assert {key: record.facts[key] for key in options} == options
    x, _ = load_inputs(record, file)
    np.testing.assert_allclose(x, load_inputs(expected.preprocessing, plain)[0], rtol=1e-5, atol=1e-6)
    rows = [{"size": -2500.0, "age": 0}]  # numbers of JSON have no style
    np.testing.assert_allclose(load_inputs(record, rows)[0], x[:1], rtol=1e-5, atol=1e-6)


def test_another_style_is_refused_with_its_line(tmp_path):
    file = write(tmp_path / "file.csv", "comma")
    file.write_text(file.read_text().replace("\n-2299,50;", "\n-2299.50;"))
    options = {"label": "type", "columns": ["size", "age"], "separator": ";"}
    message = r"line 4 of column 'size' should be a number with decimal = ',' and thousands = '', got '-2299.50'"
    with pytest.raises(ValueError, match=message):
        nf.data.table(file, decimal=",", **options)
    with pytest.raises(ValueError, match=r"decimal points alone, or name their marks: decimal = \",\"\."):
        nf.data.table(file, **options)
    file.write_text("size;type\n" + "1,234;a\n5,678;b\n" * 5)
    with pytest.raises(ValueError, match=r'their marks: thousands = "," or decimal = ","\.'):
        nf.data.table(file, label="type", separator=";")
    with pytest.raises(ValueError, match=r"decimal and thousands should be different, got ',' for both"):
        nf.data.table(file, label="type", separator=";", decimal=",", thousands=",")


def test_series_with_decimal_commas(tmp_path):
    form = lambda change: "day;north\n" + "".join(f"{i};{change(f'{i % 7 + 0.5}')}\n" for i in range(60))
    (tmp_path / "plain.csv").write_text(form(str))
    (tmp_path / "comma.csv").write_text(form(lambda text: text.replace(".", ",")))
    options = {"time": "day", "context": 7, "horizon": 3, "separator": ";"}
    expected = nf.data.forecasting(tmp_path / "plain.csv", **options)
    splits = nf.data.forecasting(tmp_path / "comma.csv", decimal=",", **options)
    np.testing.assert_array_equal(splits.train[0], expected.train[0])
    x, _ = load_inputs(splits.preprocessing, tmp_path / "comma.csv")
    np.testing.assert_array_equal(x, load_inputs(expected.preprocessing, tmp_path / "plain.csv")[0])


@pytest.mark.usefixtures("no_compilation_cache")
def test_new_train_and_predict(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "prices.csv", "german")
    assert main("new", "table", "prices.csv") == 0
    text = (tmp_path / "prices.toml").read_text()
    assert 'separator = ";"\ndecimal = ","\nthousands = "."' in text
    assert 'categorical = ["type"]' in text
    short = ["train.steps=3", "schedule.warmup_steps=1", "train.loop=step"]
    assert main("train", "prices.toml", *short, "--run", "run") == 0
    (tmp_path / "rows.csv").write_text("type;age;size\na;0,5;-1.250,75\n")
    assert main("predict", "run", "rows.csv", "--output", "out.csv") == 0
    assert 0 < float((tmp_path / "out.csv").read_text().splitlines()[1]) < 1600
    (tmp_path / "rows.csv").write_text("type;age;size\na;0.5;-1250\n")
    assert main("predict", "run", "rows.csv") == 2
    assert "line 2 of column 'age' should be a number with decimal = ','" in capsys.readouterr().err


def test_new_does_not_guess_an_ambiguous_style(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [f"{i + 1},{100 + 7 * i};{i % 10};{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "height.csv").write_text("\n".join(["height;age;kind", *rows]) + "\n")
    assert main("new", "table", "height.csv") == 0
    text = (tmp_path / "height.toml").read_text()
    assert 'columns = ["age"]' in text
    assert "thousands =" not in text.split("columns", 1)[1].split("\n", 1)[1]
    assert 'height (ambiguous numbers: add thousands = "," or decimal = ",")' in text
