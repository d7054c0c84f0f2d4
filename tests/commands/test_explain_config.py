"""`nnfunc config`: every key of every table, explained from the functions and their docstrings."""

import tomllib

import pytest
from helpers.command_line import main

from nnfunc.config.config_errors import ProblemList
from nnfunc.config.explain_key import argument_docs, explain_key, table_line
from nnfunc.config.load import fill_defaults
from nnfunc.config.schema import MESH_TABLES, TABLES, factories, get_schema

KEYS = [(table, name) for table in TABLES if table not in MESH_TABLES for name in factories(table)]


@pytest.mark.parametrize("table, name", KEYS, ids=lambda part: part)
def test_every_key_has_a_meaning_and_a_valid_example(table, name):
    for key in get_schema(table, name).types:
        path = f"augment.{name}.{key}" if table == "augment" else f"{table}.{key}"
        (help_,) = explain_key(path, {table: name})
        assert help_.meaning.endswith((".", ")", '"')), help_
        assert "\0" not in help_.meaning
        problems = ProblemList("example")
        fill_defaults(tomllib.loads(help_.example), problems)
        wrong = [problem for problem in problems.problems if problem.path == path]
        assert not [problem for problem in wrong if "is missing" not in problem.text], (help_, wrong)


def test_every_table_has_a_line():
    for table in TABLES:
        assert table_line(table).startswith(("required: ", "optional: ")), table
        assert table_line(table).endswith("."), table


def test_a_docstring_is_cut_into_arguments():
    def f(a, b, c, d, e):
        """Do it with e.

        a, b: two numbers, at least 0. c: in [0, 1), as in
        a paper (b: not this one).
        Another sentence about d.
        Raises: ValueError for a: never.
        """

    docs = argument_docs(f)
    assert docs["a"] == docs["b"] == "Two numbers, at least 0."
    assert docs["c"] == "In [0, 1), as in a paper (b: not this one)."
    assert docs["d"] == "Another sentence about d."
    assert docs["e"] == "Do it with e."


def said(capsys, *words):
    code = main("config", *words)
    out, err = capsys.readouterr()
    return code, " ".join(out.split()), err


def test_a_key_of_one_model(capsys):
    code, out, err = said(capsys, "model.dropout", "--model", "mlp")
    assert (code, err) == (0, "")
    assert out == (
        "model.dropout of mlp type a number or a schedule range [0, 1] default none "
        'meaning The rate, in [0, 1]. example model = { name = "mlp", dropout = 0.1 }'
    )


def test_equal_keys_are_told_once(capsys):
    _, out, _ = said(capsys, "optimizer.b1")
    assert "optimizer.b1 of adam, adamax, adamw, lamb, muon, nadam, radam" in out
    assert out.count("range [0, 1)") == 1


def test_tables_and_their_factories(capsys):
    assert "schedule optional: The learning rate of each step." in said(capsys)[1]
    assert "sgd Gradient descent, with momentum" in said(capsys, "optimizer")[1]
    assert "momentum a number or a schedule, default 0" in said(capsys, "optimizer", "--optimizer", "sgd")[1]
    assert "momentum a number or a schedule, default 0" in said(capsys, "--optimizer", "sgd")[1]
    assert "pixels a number or a schedule, required." in said(capsys, "augment.shift")[1]
    assert "steps an integer, required. At least 1." in said(capsys, "train")[1]
    assert "example augment = { shift = { pixels = 2 } }" in said(capsys, "augment.shift.pixels")[1]
    assert "range 0 to 2**32 - 1" in said(capsys, "seed")[1]
    assert "model.name type one of 'bert', 'cifar_resnet'," in said(capsys, "model.name")[1]
    assert "default none, it is required" in said(capsys, "optimizer.name")[1]
    assert "mesh = { data = -1, model = 2 }" in said(capsys, "mesh")[1]


WRONG = {
    ("model.dropot",): "model has no key 'dropot'. Did you mean 'dropout'",
    ("model.dropot", "--model", "mlp"): "model mlp has no key 'dropot'. Did you mean 'dropout'?",
    ("sweep.trials",): "the table 'sweep' is not of one run. Explained by: nnfunc sweep --help",
    ("modle.dropout",): "there is no table 'modle'. Did you mean 'model'?",
    ("mlp",): "It is a name of model: nnfunc config model --model mlp",
    ("steps",): "Did you mean train.steps?",
    ("model", "--model", "mpl"): "model has no name 'mpl'. Did you mean 'mlp'?",
    ("train.steps", "--model", "mlp"): "--model is for keys of the table model.",
    ("augment.shitf.pixels",): "augment has no name 'shitf'. Did you mean 'shift'?",
    ("model.weight_init", "--model", "mlp"): "model mlp has 'weight_init' in Python only",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_keys_name_the_nearest(capsys, words):
    code, out, err = said(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert WRONG[words] in err
