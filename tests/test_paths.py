"""The pattern language over paths, by example."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnfunc as nf
from nnfunc import paths

NAMES = [
    "blocks/act/weight",
    "blocks/attend/query/weight",
    "blocks/attend/query/bias",
    "head/bias",
    "head/weight",
    "hidden_0/weight",
    "hidden_10/weight",
    "weight",
    "a.b/c",
]


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("head/bias", ["head/bias"]),
        ("**/bias", ["blocks/attend/query/bias", "head/bias"]),
        ("**/weight", [name for name in NAMES if name.endswith("weight")]),
        ("*/weight", ["head/weight", "hidden_0/weight", "hidden_10/weight"]),
        ("hidden_*/weight", ["hidden_0/weight", "hidden_10/weight"]),
        ("hidden_*0/weight", ["hidden_0/weight", "hidden_10/weight"]),
        ("hidden_1*/weight", ["hidden_10/weight"]),
        ("blocks/**", ["blocks/act/weight", "blocks/attend/query/weight", "blocks/attend/query/bias"]),
        ("blocks/*/*", ["blocks/act/weight"]),
        ("blocks/**/query/*", ["blocks/attend/query/weight", "blocks/attend/query/bias"]),
        ("blocks/**/weight", ["blocks/act/weight", "blocks/attend/query/weight"]),
        ("**", NAMES),
        ("*", ["weight"]),
        ("a.b/c", ["a.b/c"]),
        (("head/*", "weight"), ["head/bias", "head/weight", "weight"]),
        (["weight", "head/*"], ["head/bias", "head/weight", "weight"]),
    ],
)
def test_patterns_by_example(pattern, expected):
    assert paths.select(pattern, NAMES, where="test") == expected


@pytest.mark.parametrize(
    "pattern, path",
    [
        ("a.b", "axb"),
        ("head", "head/bias"),
        ("head/*", "head"),
        ("*", "head/bias"),
        ("**/bias", "xbias"),
        ("hidden_*", "hidden_0/weight"),
        ("a/**/b", "a/xb"),
        ("", "a"),
        ("head/**", "header/bias"),
    ],
)
def test_what_does_not_match(pattern, path):
    assert not paths.matches(pattern, path)


@pytest.mark.parametrize("pattern, path", [("blocks/*/act", "blocks/*/act"), ("a/**/b", "a/b")])
def test_what_does_match(pattern, path):
    assert paths.matches(pattern, path)


names = st.text("ab_.*+([", min_size=1, max_size=4).filter(lambda name: name != "**")


@given(st.lists(names, min_size=1, max_size=4))
def test_every_path_matches_itself_and_the_general_patterns(parts):
    path = "/".join(parts)
    assert paths.matches("**", path)
    assert paths.matches("/".join("*" for _ in parts), path)
    assert paths.matches(path, path)
    assert paths.matches("**/" + parts[-1], path)
    assert not paths.matches("/".join("*" for _ in [*parts, ""]), path)


@pytest.mark.parametrize(
    "pattern, words",
    [
        (
            "head/wieght",
            r"freeze: the pattern 'head/wieght' should match at least one path, got none; "
            r"did you mean 'head/weight'",
        ),
        ("head", r"got none; for all below it write 'head/\*\*'"),
        ("blocks/", r"for all below it write 'blocks/\*\*'"),
        (["head/*", "zzz"], r"the pattern 'zzz' should match .*; there is 'blocks/act/weight'"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(pattern, words):
    with pytest.raises(ValueError, match=words):
        paths.select(pattern, NAMES, where="freeze")


@pytest.mark.parametrize("pattern", [3, ["a", None], ""])
def test_a_pattern_is_text(pattern):
    with pytest.raises((TypeError, ValueError), match=r"pattern|iterable"):
        paths.as_patterns(pattern if isinstance(pattern, list | str) else [pattern], where="freeze")


def test_flatten_and_unflatten_are_inverse(key):
    params = nf.serial(stem=nf.linear(2, 3), blocks=nf.repeat(nf.layer_norm(3), 2)).init(key)
    flat = paths.flatten(params)
    assert list(flat) == ["blocks/bias", "blocks/scale", "stem/bias", "stem/weight"]
    assert jax.tree.structure(paths.unflatten(flat)) == jax.tree.structure(params)
    assert paths.unflatten(flat)["stem"]["weight"] is params["stem"]["weight"]


def test_flatten_names_fields_and_places():
    state = nf.Out(state=({"a": 1}, [2, 3]))
    assert paths.flatten(state) == {"state/0/a": 1, "state/1/0": 2, "state/1/1": 3}


def test_mask_serves_optax(key):
    params = nf.serial(nf.linear(2, 3)).init(key)
    chosen = paths.mask(params, "**/weight")
    assert chosen == {"linear": {"weight": True, "bias": False}}
    optimizer = optax.masked(optax.add_decayed_weights(1.0), chosen)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert (updates["linear"]["weight"] == params["linear"]["weight"]).all()
    assert not updates["linear"]["bias"].any()
    with pytest.raises(ValueError, match=r"mask: the pattern 'linear/wait' .* did you mean 'linear/weight'"):
        paths.mask(params, "linear/wait")


def leaves(**shapes):
    return {path.replace("__", "/"): jnp.zeros(shape) for path, shape in shapes.items()}


REPEATED = leaves(blocks__norm__scale=(3, 4), blocks__up__weight=(3, 4, 8), head__bias=(2,), head__weight=(4, 2))
NESTED = leaves(
    outer__inner__bias=(4, 2, 3), outer__inner__weight=(4, 2, 3, 3), outer__up__bias=(4, 3), outer__up__w=(4, 3)
)

TWICE = leaves(outer__up__bias=(2, 3, 4), outer__up__w=(2, 3, 4, 4))  # repeat(repeat(block, 3), 2)


@pytest.mark.parametrize(
    "params, pattern, expected",
    [
        (REPEATED, "blocks/1/**", {"blocks/norm/scale": [0, 1, 0], "blocks/up/weight": [0, 1, 0]}),
        (REPEATED, ("blocks/1/**", "blocks/2/up/*"), {"blocks/norm/scale": [0, 1, 0], "blocks/up/weight": [0, 1, 1]}),
        (REPEATED, ("blocks/1/**", "blocks/**"), {"blocks/norm/scale": True, "blocks/up/weight": True}),
        (REPEATED, "**/blocks/0/**/scale", {"blocks/norm/scale": [1, 0, 0]}),
        (REPEATED, [f"blocks/{i}/norm/*" for i in range(3)], {"blocks/norm/scale": True}),
        (NESTED, "outer/3/up/*", {"outer/up/bias": [0, 0, 0, 1], "outer/up/w": [0, 0, 0, 1]}),
        (NESTED, "outer/3/inner/0/bias", {"outer/inner/bias": [[0, 0], [0, 0], [0, 0], [1, 0]]}),
        (NESTED, "outer/*/inner/0/bias", {"outer/inner/bias": [[1, 0]] * 4}),
        (TWICE, "outer/1/2/**", {"outer/up/bias": [[0, 0, 0], [0, 0, 1]], "outer/up/w": [[0, 0, 0], [0, 0, 1]]}),
        (TWICE, "outer/*/2/**", {"outer/up/bias": [[0, 0, 1]] * 2, "outer/up/w": [[0, 0, 1]] * 2}),
        (TWICE, "outer/1/*/**/w", {"outer/up/w": [0, 1]}),
        (TWICE, "outer/1/**", {"outer/up/bias": [0, 1], "outer/up/w": [0, 1]}),
        (leaves(a__b=(3, 2), a__c=(3, 2), ab__c=(4,)), "a/1/b", {"a/b": [0, 1, 0]}),
        (leaves(a__0__b=(3,), a__1__b=(3,)), "a/1/*", {"a/1/b": True}),  # a path that matches as written
        (leaves(a__1__b=(3,), c__b=(3,), c__d=(3,)), "**/1/b", {"a/1/b": True}),
        (leaves(a__0__b=(3, 2), a__0__c=(3,), a__1__d=(2,)), "a/0/2/*", {"a/0/b": [0, 0, 1], "a/0/c": [0, 0, 1]}),
        (leaves(up=(2,), down=(2, 3)), "1/up", {"up": [0, 1]}),
    ],
)
def test_a_number_is_a_layer_of_stacked_parameters(params, pattern, expected):
    matched = paths.match_params(pattern, params, where="test")
    assert list(matched) == list(params)
    for path, on in matched.items():
        if isinstance(on, bool):
            assert on is expected.get(path, False), path
        else:
            axes = np.ndim(expected[path])
            assert on.ndim == params[path].ndim
            np.testing.assert_array_equal(on.reshape(on.shape[:axes]), np.array(expected[path], bool))


@pytest.mark.parametrize(
    "params, pattern, message",
    [
        (REPEATED, "blocks/3/**", "should match a layer, got none: 'blocks' has 3 layers, 0 to 2"),
        (REPEATED, "head/0/weight", "the leaves below 'head' do not have the same first axis of layers"),
        (
            REPEATED,
            "blocks/up/1/weight",
            "'blocks/up' has one leaf, so it is not clear whether its first axis counts layers",
        ),
        (REPEATED, "blocks/1/down/*", r"the pattern 'blocks/1/down/\*' should match at least one path, got none"),
        (REPEATED, "blocks/1", r"got none; for all below|should match at least one path, got none"),
        (NESTED, "outer/inner/1/*", "both 'outer' and 'outer/inner' may be a repeat; write the number after 'outer'"),
        (NESTED, "outer/0/inner/2/*", "'outer/inner' has 2 layers, 0 to 1"),
        (TWICE, "outer/0/3/**", "'outer' has 3 layers, 0 to 2"),
        (REPEATED, "blocks/1/2/**", "'blocks' has a leaf of 2 axes, so it is not clear whether the last counts layers"),
        (leaves(a__0__b=(3,), a__1__b=(3,)), "a/2/**", "the numbers below 'a' are names of layers"),
    ],
)
def test_a_number_that_is_no_layer_is_refused(params, pattern, message):
    with pytest.raises(ValueError, match=message):
        paths.match_params(pattern, params, where="test")


def test_the_first_pattern_decides_layer_by_layer():
    params = paths.unflatten(REPEATED)
    values = paths.values_by_pattern("test", params, {"blocks/1/**": 0.1, "**/weight": 0.5}, None, other_layers=1.0)
    assert values["head"] == {"bias": None, "weight": 0.5}
    assert values["blocks"]["norm"]["scale"][:, 0].tolist() == pytest.approx([1.0, 0.1, 1.0])
    assert values["blocks"]["up"]["weight"][:, 0, 0].tolist() == pytest.approx([0.5, 0.1, 0.5])
    with pytest.raises(
        ValueError, match=r"'blocks/1/up/\*' should decide .* got none: 'blocks/\*\*', which is before it"
    ):
        paths.values_by_pattern("test", params, {"blocks/**": 0.1, "blocks/1/up/*": 0.5}, None)


def test_a_pattern_with_many_stars_has_few_readings(monkeypatch):
    calls, match_layers = [], paths.match_layers
    monkeypatch.setattr(paths, "match_layers", lambda *args: calls.append(args) or match_layers(*args))
    leaves = {f"blocks/{name}/up/dense/weight": jnp.ones((3, 2, 2)) for name in "ab"}
    with pytest.raises(ValueError, match="got none"):
        paths.match_params("*/*/1/*/*", leaves, where="freeze")
    assert len(calls) < 2000  # of thousands of ways to place five repeats in five names, for each leaf
