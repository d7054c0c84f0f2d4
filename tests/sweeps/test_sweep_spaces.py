"""What the settings of a sweep are: distributions, methods, dependent values, constraints, mistakes."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import stats

import nnfunc as nf
from nnfunc.sweeps.sampling import Draws

KEY = jax.random.key(3)


def column(found, name):
    return [values[name] for values in found]


def drawn(space, trials=400, method="random", **options):
    return Draws(space, method, trials, KEY, **options).rows()


@pytest.mark.parametrize("method", ["random", "sobol", "latin"])
def test_draws_have_the_distribution(method):
    """Kolmogorov and Smirnov's test for the continuous ones, counts for the others."""
    space = {
        "u": nf.uniform(-1.0, 3.0),
        "l": nf.log_uniform(1e-4, 1e-1),
        "i": nf.int_uniform(2, 5),
        "c": nf.choice(["a", "b"]),
        "r": range(4),
        "fixed": (1, 2),
        "s": "word",
    }
    found = drawn(space, method=method)
    assert stats.kstest(column(found, "u"), stats.uniform(-1, 4).cdf).pvalue > 0.01
    assert stats.kstest(column(found, "l"), stats.loguniform(1e-4, 1e-1).cdf).pvalue > 0.01
    for name, options in {"i": [2, 3, 4, 5], "c": ["a", "b"], "r": [0, 1, 2, 3]}.items():
        counts = [column(found, name).count(option) for option in options]
        assert sum(counts) == 400
        assert stats.chisquare(counts).pvalue > 0.01
    assert column(found, "fixed") == 400 * [(1, 2)]
    assert column(found, "s") == 400 * ["word"]
    assert list(found[0]) == list(space)
    assert all(type(v) is int for v in column(found, "i"))


def test_names_own_their_draws():
    """Law 3: neither another name nor more trials change a draw, and names do not share them."""
    few = drawn({"a": nf.uniform(0, 1), "b": nf.uniform(0, 1)}, 5)
    more = drawn({"c": nf.uniform(0, 1), "b": nf.uniform(0, 1)}, 9)
    assert column(few, "b") == column(more, "b")[:5]
    assert column(few, "a") != column(few, "b")
    assert Draws({"a": nf.uniform(0, 1)}, "random", 5, jax.random.key(4)).rows() != few


def test_draws_are_what_float32_holds():
    """So the value in the table gives the same run again."""
    for value in column(drawn({"a": nf.log_uniform(1e-4, 1.0)}, 20), "a"):
        assert float(str(np.float32(value))) == value
        assert len(repr(value)) < 15


@pytest.mark.parametrize("trials", [8, 11])
def test_latin_has_one_draw_in_each_stratum_and_sobol_fills(trials):
    own = column(drawn({"a": nf.uniform(0, 1), "b": nf.uniform(0, 1)}, trials, "latin"), "a")
    assert sorted(np.floor(np.asarray(own) * trials).astype(int)) == list(range(trials))
    own = column(drawn({"a": nf.uniform(0, 1), "b": nf.uniform(0, 1)}, trials, "sobol"), "a")
    assert len(set(np.floor(np.asarray(own[:8]) * 8))) == 8


def test_grid_is_every_combination():
    found = drawn({"a": [1, 2], "b": range(3), "c": np.array([0.5]), "d": "x"}, None, "grid")
    assert [tuple(values.values()) for values in found] == [(a, b, 0.5, "x") for a in (1, 2) for b in range(3)]


def test_values_may_depend_on_others():
    space = {"c": lambda h: h["b"] + 1, "b": lambda h: 2 * h["a"], "a": [1, 2]}
    assert drawn(space, None, "grid") == [{"c": 3, "b": 2, "a": 1}, {"c": 5, "b": 4, "a": 2}]


@pytest.mark.parametrize("method", ["random", "sobol", "latin"])
def test_constraint_holds_and_leaves_the_other_settings(method):
    space = {"a": nf.uniform(0, 1), "b": nf.uniform(0, 1)}
    free = drawn(space, 16, method)
    found = drawn(space, 16, method, constraint=lambda h: h["a"] < h["b"])
    assert len(found) == 16
    assert all(values["a"] < values["b"] for values in found)
    kept = [values for values in free if values["a"] < values["b"]]
    assert all(values in found for values in kept)
    if method == "random":
        assert all(f == g for f, g in zip(found, free, strict=True) if g["a"] < g["b"])


def test_constraint_of_a_grid_leaves_out():
    found = drawn({"a": [1, 2], "b": [1, 2]}, None, "grid", constraint=lambda h: h["a"] <= h["b"])
    assert [(h["a"], h["b"]) for h in found] == [(1, 1), (1, 2), (2, 2)]


def test_a_function_proposes():
    def propose(key):
        return {"a": float(jax.random.uniform(key))}

    found = drawn(propose, 4)
    assert len(set(column(found, "a"))) == 4
    assert drawn(propose, 6)[:4] == found
    assert all(h["a"] > 0.5 for h in drawn(propose, 4, constraint=lambda h: h["a"] > 0.5))


def test_duplicates_are_refused():
    with pytest.raises(ValueError, match=r"1 of 3 settings repeat earlier ones\. Leave them out; "):
        drawn([{"a": 1}, {"a": 2}, {"a": 1}], None)
    with pytest.raises(ValueError, match="2 of 4 settings"):
        drawn({"a": [1, 1], "b": [2, 3]}, None, "grid")
    assert len(drawn({"a": [1.0]}, 3)) == 3  # each has a key of its own


@pytest.mark.parametrize("method", ["random", "sobol", "latin"])
def test_settings_may_be_asked_to_differ(method):
    space = {"a": [1, 2, 3], "b": [0.1, 0.2]}
    draws = Draws(space, method, 6, KEY, distinct=True)
    rows = draws.rows()
    assert len({(row["a"], row["b"]) for row in rows}) == 6
    assert draws.rows() == rows
    if method == "random":  # more trials change none of them
        assert replace(draws, trials=4).rows() == rows[:4]
    with pytest.raises(ValueError, match="trials should be at most the number of different settings, about 6, got 7"):
        replace(draws, trials=7).rows()
    with pytest.raises(ValueError, match="the constraint refused"):
        replace(draws, constraint=lambda h: h["a"] > 1, trials=5).rows()


def ring():
    return {"a": lambda h: h["b"], "b": lambda h: h["a"]}


@pytest.mark.parametrize(
    "space, trials, method, words",
    [
        ({}, 2, "random", "the space is empty"),
        ([], None, "list", "the space is empty: a list without settings"),
        ({"a": []}, 2, "random", "a should have at least one value"),
        ({"a": [1, 2]}, None, "random", "got None. For all 2 combinations: method='grid'"),
        ({"a": nf.uniform(0, 1)}, None, "random", "trials should be the number of settings to draw"),
        ({"a": nf.uniform(0, 1)}, None, "grid", r"values that can be counted, for method='grid', got uniform\(0, 1\)"),
        ({"a": [1, 2]}, 3, "grid", "trials should be the number of settings of the grid, 2, got 3"),
        ([{"a": 1}], 2, "list", "trials should be the number of settings of the list, 1, got 2"),
        ([{"a": 1}, {"b": 1}], None, "list", r"settings 0 and 1 differ in \['a', 'b'\]"),
        ({"a": [1], "b": lambda h: h["c"]}, 1, "random", "the function of 'b' reads 'c', which"),
        ({**ring(), "c": [1]}, 1, "random", "in a cycle: a -> b -> a"),
        ({"a": 3}, 2, "sobol", "there is nothing to draw"),
        ({"a": [1, 2]}, 2, "lattice", "method should be one of"),
        (
            {"a": range(2000), "b": range(2000)},
            None,
            "grid",
            "a grid should have at most 1,000,000 settings, got 4,000,000",
        ),
    ],
)
def test_mistakes_of_spaces(space, trials, method, words):
    with pytest.raises(ValueError, match=words):
        Draws(space, method, trials, KEY).rows()


@pytest.mark.parametrize("method", ["random", "sobol", "latin"])
def test_a_contradiction_is_given_up(method):
    with pytest.raises(ValueError, match="the constraint refused 1000 draws in a row for 2 of 2"):
        drawn({"a": nf.uniform(0, 1)}, 2, method, constraint=lambda h: h["a"] > 2)


def test_contradictions_elsewhere():
    never = lambda h: False
    with pytest.raises(ValueError, match="refuses all 2 settings of the grid"):
        drawn({"a": [1, 2]}, None, "grid", constraint=never)
    with pytest.raises(ValueError, match="refuses all 1 settings of the list"):
        drawn([{"a": 1}], None, "list", constraint=never)
    with pytest.raises(ValueError, match="the constraint reads 'b', which is not a name of the space"):
        drawn({"a": [1, 2]}, 2, constraint=lambda h: h["b"] > 1)


@pytest.mark.parametrize(
    "make, error, words",
    [
        (lambda: nf.uniform(2, 1), ValueError, "low should be at most high, got 2 and 1"),
        (lambda: nf.uniform(0, np.inf), ValueError, "high should be a finite number"),
        (lambda: nf.uniform("a", 1), TypeError, "low should be a finite number, got 'a'"),
        (lambda: nf.log_uniform(0, 1), ValueError, "low should be above 0"),
        (lambda: nf.int_uniform(0.5, 1), TypeError, "low should be an integer"),
        (lambda: nf.choice([]), ValueError, "at least one value"),
        (lambda: nf.choice("abc"), TypeError, "options should be a list"),
        (lambda: drawn(3), TypeError, "space should be a dict"),
        (lambda: drawn({"a": 1}, None, "list"), TypeError, "a list of dicts"),
        (lambda: drawn(lambda key: 3, 2), TypeError, "should return a dict, got 3"),
    ],
)
def test_mistakes_of_distributions(make, error, words):
    with pytest.raises(error, match=words):
        make()
