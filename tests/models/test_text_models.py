"""The classifier of texts and the tagger: padding has no effect, and small cases by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc import flops

TEXT = np.array([[3, 5, 2]], np.int32)
WORDS = np.array([[[3, 7], [5, 0], [2, 8]]], np.int32)
BODIES = ("bag", "lstm", "transformer")


def padded(x, steps=2):
    return np.pad(x, [(0, 0), (0, steps), *[(0, 0)] * (x.ndim - 2)])


@pytest.mark.parametrize("body", BODIES)
def test_padding_changes_no_logits_of_a_text(key, body):
    model = nf.text_classifier(9, 4, body=body, dim=4, heads=2)
    params, apply = jax.jit(model.init)(key), jax.jit(model.apply)
    y = apply(params, TEXT)
    np.testing.assert_allclose(apply(params, padded(TEXT)), y, rtol=1e-5, atol=1e-5)
    assert not np.allclose(apply(params, TEXT[:, :2]), y, rtol=1e-3)
    both = apply(params, np.concatenate([padded(TEXT), np.zeros((1, 5), np.int32)]))
    np.testing.assert_allclose(both[:1], y, rtol=1e-5, atol=1e-5)
    assert np.isfinite(both).all()  # a text without tokens too


@pytest.mark.parametrize("body", BODIES[1:])
def test_padding_changes_no_logits_of_words(key, body):
    model = nf.tagger(9, 4, body=body, dim=4, heads=2)
    params, apply = jax.jit(model.init)(key), jax.jit(model.apply)
    y = apply(params, WORDS)
    np.testing.assert_allclose(apply(params, padded(WORDS))[:, :3], y, rtol=1e-5, atol=1e-5)
    other = WORDS.copy()
    other[0, 2] = [4, 0]
    assert not np.allclose(apply(params, other)[0, 0], y[0, 0], rtol=1e-3)  # it reads in both directions


def test_a_bag_by_hand():
    model = nf.text_classifier(4, 2, dim=1)
    params = {"tokens": {"weight": jnp.array([[9.0], [1], [2], [6]])}}
    params["head"] = {"weight": jnp.array([[1.0, -1]]), "bias": jnp.array([0.0, 10])}
    y = model.apply(params, jnp.array([[1, 3, 3, 0, 0], [2, 0, 0, 0, 0], [0, 0, 0, 0, 0]]))
    np.testing.assert_allclose(y, [[13 / 3, 10 - 13 / 3], [2, 8], [0, 10]], rtol=1e-6)


def test_pairs_of_neighbours_tell_the_order(key):
    model = nf.text_classifier(9, 4, dim=4, pairs=1000)
    params = model.init(key)
    y = model.apply(params, TEXT)
    np.testing.assert_allclose(model.apply(params, padded(TEXT)), y, rtol=1e-5)
    assert not np.allclose(model.apply(params, TEXT[:, ::-1]), y, rtol=1e-3)
    first, second = TEXT[0, :-1].astype(np.uint32), TEXT[0, 1:].astype(np.uint32)
    at = (first * np.uint32(0x9E3779B1) + second * np.uint32(0x85EBCA6B)) % 1000
    mean = (params["tokens"]["weight"][TEXT[0]].sum(0) + params["pairs"]["weight"][at].sum(0)) / 5
    np.testing.assert_allclose(y[0], mean @ params["head"]["weight"] + params["head"]["bias"], rtol=1e-5)
    assert model.apply(params, TEXT[:, :1]).shape == (1, 4)  # one token has no pair
    with pytest.raises(
        ValueError, match="pairs should be 0 unless body is 'bag', which ignores the order of tokens, got 5 with 'lstm'"
    ):
        nf.text_classifier(9, 4, body="lstm", pairs=5)


def test_the_vectors_of_features_add_up_and_padding_has_none(key):
    model = nf.tagger(9, 4, dim=4)
    params = model.init(key)
    table = params["tokens"]["weight"]
    as_one = {**params, "tokens": {"weight": table.at[3].set(table[3] + table[7])}}
    word = model.apply(params, jnp.array([[[3, 7, 0]]]))
    np.testing.assert_allclose(word, model.apply(as_one, jnp.array([[[3]]])), rtol=1e-5)


def test_the_flops_of_a_step_of_a_tagger_are_counted(key):
    """The lengths of the sentences are integers, whose tangents are no numbers."""
    model = nf.tagger(9, 4, dim=4)
    params = model.init(key)
    forward = jax.make_jaxpr(lambda params: model.apply(params, WORDS).sum())
    step = jax.make_jaxpr(jax.grad(lambda params: model.apply(params, WORDS).sum()))
    assert flops.of(step(params)) > flops.of(forward(params)) > 0


def test_words_without_features_and_other_bodies_are_refused(key):
    model = nf.tagger(9, 4, dim=4)
    with pytest.raises(ValueError, match=r"tagger: x should be \[\.\.\., time, features\], got shape \(3,\)"):
        model.apply(model.init(key), jnp.array([1, 2, 3]))
    with pytest.raises(ValueError, match="text_classifier: body should be"):
        nf.text_classifier(9, 4, body="gru")
