"""`nnfunc config`: every key of every table, explained from the functions and their docstrings."""

import inspect
import re
import tomllib

import pytest
from helpers.command_line import main

import nnfunc as nf
from nnfunc import sweeps
from nnfunc.config.comparison_file import ComparisonFile
from nnfunc.config.config_errors import ProblemList
from nnfunc.config.explain_experiment import COMPARISON, explain_experiment
from nnfunc.config.explain_key import argument_docs, explain_key, table_line
from nnfunc.config.load import fill_defaults
from nnfunc.config.schema import MESH_TABLES, TABLES, factories, get_schema
from nnfunc.config.sweep.distributions import parse_values
from nnfunc.config.sweep.search_methods import SEARCHES, parse_search
from nnfunc.config.sweep.sweep_options import OPTIONS, check_options

KEYS = [(table, name) for table in TABLES if table not in MESH_TABLES for name in factories(table)]


@pytest.mark.parametrize("table, name", KEYS, ids=lambda part: part)
def test_every_key_has_a_meaning_and_a_valid_example(table, name):
    for key in get_schema(table, name).types:
        path = f"augment.{name}.{key}" if table == "augment" else f"{table}.{key}"
        (help_,) = explain_key(path, {table: name})
        assert help_.meaning.endswith((".", ")", '"')), help_
        assert "\0" not in help_.meaning
        assert not re.match("(As|That|Those) (for|in|of) `", help_.meaning), "a reference does not explain"
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

        a, b: two numbers, at least 0; c: in [0, 1), as in
        a paper (b: not this one).
        Another sentence about d.
        Raises: ValueError for a: never.
        """

    docs = argument_docs(f)
    assert docs["a"] == docs["b"] == "Two numbers, at least 0."
    assert docs["c"] == "In [0, 1), as in a paper (b: not this one)."
    assert docs["d"] == "Another sentence about d."
    assert docs["e"] == "Do it with e."


def test_a_reference_becomes_what_it_refers_to():
    for key, names, meaning in (
        ("objective.alpha", {"objective": "distillation"}, "The weight of the teacher, in [0, 1]."),
        ("model.momentum", {"model": "resnet18"}, argument_docs(nf.resnet)["momentum"]),
    ):
        assert explain_key(key, names)[0].meaning == meaning


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
    assert "optimizer.b1 of adam, adamax, adamw, lamb, lion, muon, nadam, radam" in out
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


def test_keys_of_sweeps(capsys):
    assert "trials an integer, default all combinations of lists. The number of runs" in said(capsys, "sweep")[1]
    assert "range 1 to 1,000,000 default all combinations" in said(capsys, "sweep.trials")[1]
    assert "type one of 'random', 'grid', 'sobol', 'latin' default" in said(capsys, "sweep.method")[1]
    assert 'default that of train.best, or "min loss" meaning' in said(capsys, "sweep.best")[1]
    assert 'default "patience" with train.patience, or "everything"' in said(capsys, "sweep.search")[1]
    assert "range above 1 default 3.0" in said(capsys, "sweep.search.eta")[1]
    assert "range (0, 0.5] default 0.25" in said(capsys, "sweep.search.quantile")[1]
    _, out, _ = said(capsys, "sweep.model.dropout", "--model", "mlp")
    assert out.startswith("sweep.model.dropout type a number or a schedule, a list of options, or a distribution")
    assert "range [0, 1]" in out


def test_keys_of_comparisons(capsys):
    assert "parameters_within The largest difference" in said(capsys)[1]
    seeds = "range 0 to 4,294,967,295 default [0, 1, 2] meaning Each model is trained with each seed."
    assert seeds in said(capsys, "seeds")[1]
    assert "range at least 2 default none, it is required" in said(capsys, "models")[1]
    assert "default none meaning Each model is trained in each variant" in said(capsys, "variants")[1]
    assert "example variants = { ordered = {}, shuffled = { data" in said(capsys, "variants")[1]
    for key in ("every.model.dropout", "models.small.model.dropout", "variants.x.model.dropout"):
        assert said(capsys, key, "--model", "mlp") == said(capsys, "model.dropout", "--model", "mlp")
    assert said(capsys, "models.small") == said(capsys, "models")
    for name in COMPARISON:
        required = {"every": {}, "models": {"a": {}, "b": {}}}
        ComparisonFile.model_validate(required | tomllib.loads(COMPARISON[name].example))


@pytest.mark.parametrize("option", OPTIONS)
def test_examples_of_sweeps_are_valid(option):
    (help_,) = explain_experiment(f"sweep.{option}", {})
    problems = ProblemList("example")
    check_options(tomllib.loads(help_.example)["sweep"], {}, problems)
    assert not problems.problems
    assert help_.meaning.endswith(".")


def test_every_key_of_an_experiment_has_help():
    assert set(ComparisonFile.model_fields) == set(COMPARISON)
    for name in SEARCHES[1:]:
        for argument in inspect.signature(getattr(sweeps, name)).parameters:
            matches = explain_experiment(f"sweep.search.{argument}", {})
            (help_,) = [one for one in matches if one.factory == name]
            parse_search(tomllib.loads(help_.example)["sweep"]["search"])
    for key in ("optimizer.b1", "augment.shift.pixels", "data.source", "train.best", "seed", "groups.rates"):
        for help_ in explain_experiment(f"sweep.{key}", {}):
            (form,) = tomllib.loads(help_.example)["sweep"].values()
            assert isinstance(parse_values(form, None), list)


WRONG = {
    ("model.dropot",): "model has no key 'dropot'. Did you mean 'dropout'",
    ("model.dropot", "--model", "mlp"): "model mlp has no key 'dropot'. Did you mean 'dropout'?",
    ("sweep.trails",): "sweep has no key 'trails'; did you mean 'trials'",
    ("sweep.search.eto",): "sweep.search has no key 'eto'; did you mean 'eta'?",
    ("seeds.x",): "seeds has no keys. See: nnfunc config seeds",
    ("every.model.dropot", "--model", "mlp"): "model mlp has no key 'dropot'. Did you mean 'dropout'?",
    ("modle.dropout",): "there is no table 'modle'. Did you mean 'model'?",
    ("mlp",): "It is a name of model: nnfunc config model --model mlp",
    ("steps",): "Did you mean train.steps?",
    ("model", "--model", "mpl"): "there is no model 'mpl'. Did you mean 'mlp'?",
    ("train.steps", "--model", "mlp"): "--model is for keys of the table model.",
    ("augment.shitf.pixels",): "there is no augment 'shitf'. Did you mean 'shift'?",
    ("model.weight_init", "--model", "mlp"): "model mlp takes 'weight_init' only in Python",
}


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_keys_name_the_nearest(capsys, words):
    code, out, err = said(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert WRONG[words] in err
