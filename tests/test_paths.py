"""The pattern language over paths, by example."""

import jax
import jax.numpy as jnp
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
