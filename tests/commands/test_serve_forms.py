"""The form of a served run: a field for each column, read back as the training file has it."""

import numpy as np
from helpers.command_line import main

import nnfunc as nf
from nnfunc.commands.serve.input_form import example_input, form_fields, rows_of_form

CONFIG = """
data = {{ name = "table", source = "{file}", label = "kind", dates = ["born"], date_format = "%d.%m.%Y", batch_size = 8 }}
model = {{ name = "mlp", widths = [WIDTH, 8, 2] }}
objective = {{ name = "classification" }}
optimizer = {{ name = "adam", learning_rate = 1e-2 }}
train = {{ steps = 5 }}
"""
TEXT = """
data = {{ name = "text", path = "{file}", block_size = 8, batch_size = 4 }}
model = {{ name = "gpt", vocab_size = 64, block_size = 8, layers = 1, heads = 2, dim = 8 }}
objective = {{ name = "language_modelling" }}
optimizer = {{ name = "adam", learning_rate = 1e-2 }}
train = {{ steps = 5 }}
"""


def test_dates_are_written_as_in_the_training_file(tmp_path):
    rows = [f"{i % 9},{1 + i % 28:02d}.{1 + i % 12:02d}.20{10 + i % 10},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "pets.csv").write_text("\n".join(["age,born,kind", *rows]) + "\n")
    splits = nf.data.table(tmp_path / "pets.csv", label="kind", dates=["born"], date_format="%d.%m.%Y")
    width = splits.train[0].shape[1]
    (tmp_path / "pets.toml").write_text(CONFIG.replace("WIDTH", str(width)).format(file=tmp_path / "pets.csv"))
    assert main("train", tmp_path / "pets.toml", "--run", tmp_path / "run") == 0
    run = nf.load_run(tmp_path / "run")
    preprocessing = run.config.preprocessing
    assert example_input(preprocessing).shape == (1, width)
    values = {field.name: field.value for field in form_fields(preprocessing)} | {"column1": "2015-03-24"}
    (row,) = rows_of_form(preprocessing, values)
    assert row["born"] == "24.03.2015"
    assert np.isfinite(run.predict([row])).all()


def test_a_language_model_reads_its_block(tmp_path):
    (tmp_path / "pets.txt").write_text("the cat and the dog\n" * 40)
    (tmp_path / "pets.toml").write_text(TEXT.format(file=tmp_path / "pets.txt"))
    assert main("train", tmp_path / "pets.toml", "--run", tmp_path / "run") == 0
    run = nf.load_run(tmp_path / "run")
    x = example_input(run.config.preprocessing)
    assert run.model.apply(run.params, x, state=run.state).shape[:2] == (1, 8)
