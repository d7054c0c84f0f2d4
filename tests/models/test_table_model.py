"""nf.table_model: paths, shapes, its output by hand and against PyTorch, its initial vectors, its errors.

The golden numbers are float64, made with PyTorch 2.13 by scripts/golden/table_model.py.
"""

import json
import math
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import ROOT

import nnfunc as nf
from nnfunc.models.table_model import embedding_dim


def shapes(model):
    params = jax.eval_shape(model.init, jax.random.key(0))
    return {path: leaf.shape for path, leaf in nf.paths.flatten(params).items()}


def test_paths_and_shapes():
    assert shapes(nf.table_model(3, [5, 40], 2, hidden=[7], norm="layer", dropout=0.1, embedding_dropout=0.1)) == {
        "column_0/weight": (5, 4),
        "column_1/weight": (40, 13),
        "mlp/hidden_0/linear/weight": (20, 7),
        "mlp/hidden_0/linear/bias": (7,),
        "mlp/hidden_0/norm/scale": (7,),
        "mlp/hidden_0/norm/bias": (7,),
        "mlp/head/weight": (7, 2),
        "mlp/head/bias": (2,),
    }


def test_the_length_of_embeddings_is_that_of_fastai():
    """emb_sz_rule of fastai.tabular.model: min(600, round(1.6 * n_cat**0.56)), in numbers."""
    sizes = {2: 2, 3: 3, 7: 5, 12: 6, 31: 11, 366: 44, 1115: 81, 100_000: 600}
    assert {size: embedding_dim(size) for size in sizes} == sizes


def test_the_output_by_hand(key):
    model = nf.table_model(2, [4, 3], 1, hidden=[], embedding_dims=[1, 2])
    params = {
        "column_0": {"weight": jnp.array([[1.0], [2.0], [3.0], [4.0]])},
        "column_1": {"weight": jnp.array([[10.0, 20.0], [30.0, 40.0], [50.0, 60.0]])},
        "mlp": {"head": {"weight": jnp.array([[1.0], [10.0], [100.0], [1.0], [0.1]]), "bias": jnp.array([0.5])}},
    }
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, model.init(key))
    x = {"numbers": jnp.array([[0.25, 3.0]]), "categories": jnp.array([[2, 1]])}
    np.testing.assert_allclose(model.apply(params, x), [[0.25 + 30 + 300 + 30 + 4 + 0.5]], rtol=1e-6)


def value(name, shape):
    """The formula of scripts/golden/table_model.py."""
    i = np.arange(math.prod(shape), dtype=np.float64)
    return 0.6 * np.sin(0.37 * i * i + i + zlib.crc32(name.encode()) % 1000).reshape(shape).astype(np.float32)


def test_outputs_and_gradients_are_those_of_pytorch():
    golden = json.loads((ROOT / "tests/golden/table_model.json").read_text())
    model = nf.table_model(3, [4, 6], 2, hidden=[5], embedding_dims=[3, 2], norm="batch")
    params = {
        "column_0": {"weight": value("column_0.weight", (4, 3))},
        "column_1": {"weight": value("column_1.weight", (6, 2))},
        "mlp": {
            "hidden_0": {
                "linear": {"weight": value("linear.weight", (5, 8)).T},
                "norm": {"scale": value("norm.weight", (5,)), "bias": value("norm.bias", (5,))},
            },
            "head": {"weight": value("head.weight", (2, 5)).T, "bias": value("head.bias", (2,))},
        },
    }
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, model.init(jax.random.key(0)))
    ids = np.stack([np.arange(7) * 3 % size for size in (4, 6)], 1).astype(np.int32)
    x, state = {"numbers": value("numbers", (7, 3)), "categories": ids}, model.init_state()
    np.testing.assert_allclose(model.apply(params, x, state=state), golden["eval"], rtol=1e-5, atol=1e-6)

    def total(params):
        y, _ = model.apply_train(params, state, x)
        return (y * value("dy", (7, 2))).sum(), y

    grads, y = jax.grad(total, has_aux=True)(params)
    np.testing.assert_allclose(y, golden["train"], rtol=1e-4, atol=1e-5)
    hidden = grads["mlp"]["hidden_0"]
    actual = {
        "column_0.weight": grads["column_0"]["weight"],
        "column_1.weight": grads["column_1"]["weight"],
        "linear.weight": hidden["linear"]["weight"].T,
        "norm.weight": hidden["norm"]["scale"],
        "norm.bias": hidden["norm"]["bias"],
        "head.weight": grads["mlp"]["head"]["weight"].T,
        "head.bias": grads["mlp"]["head"]["bias"],
    }
    assert actual.keys() == golden["grads"].keys()
    for name, expected in golden["grads"].items():
        np.testing.assert_allclose(actual[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_numbers_or_categories_alone(key):
    numbers = nf.table_model(2, [], 3)
    params, x = numbers.init(key), jnp.ones((4, 2))
    np.testing.assert_array_equal(numbers.apply(params, x), numbers.apply(params, {"numbers": x}))
    np.testing.assert_array_equal(numbers.apply(params, x), nf.mlp([2, 128, 64, 3]).apply(params["mlp"], x))
    categories = nf.table_model(0, [5], 3)
    assert categories.apply(categories.init(key), {"categories": jnp.ones((2, 4, 1), jnp.int32)}).shape == (2, 4, 3)


def test_unknown_and_missing_categories_begin_as_zeros_and_learn(key):
    model = nf.table_model(1, [50], 1)
    params = model.init(key)
    vectors = params["column_0"]["weight"]
    assert not vectors[:2].any()
    limit = vectors.shape[1] ** -0.5
    assert 0.9 * limit < jnp.abs(vectors[2:]).max() <= limit
    x = {"numbers": jnp.ones((2, 1)), "categories": jnp.array([[0], [1]])}
    gradients = jax.grad(lambda params: model.apply(params, x).sum())(params)
    assert gradients["column_0"]["weight"][:2].any(1).all()
    assert not gradients["column_0"]["weight"][2:].any()


def test_dropout_of_embeddings(key):
    model = nf.table_model(0, [9, 9], 1, hidden=[], embedding_dropout=1.0)
    params, x = model.init(key), {"categories": jnp.full((3, 2), 4)}
    assert model.apply(params, x).any()
    np.testing.assert_array_equal(model.apply(params, x, key=key), jnp.zeros((3, 1)) + params["mlp"]["head"]["bias"])


def test_an_index_outside_of_a_column_is_no_number(key):
    model = nf.table_model(0, [3], 1)
    assert jnp.isnan(model.apply(model.init(key), {"categories": jnp.array([[3]])})).all()


def test_what_is_refused(key):
    model = nf.table_model(2, [3], 1)
    params, x = model.init(key), {"numbers": jnp.ones((4, 2)), "categories": jnp.ones((4, 1), jnp.int32)}
    for make, error, message in (
        (lambda: nf.table_model(0, [], 1), ValueError, "there should be numbers or categories, got neither"),
        (lambda: nf.table_model(-1, [3], 1), ValueError, "numbers should be at least 0, got -1"),
        (lambda: nf.table_model(1, [3, 0], 1), ValueError, "categories[1] should be at least 1, got 0"),
        (
            lambda: nf.table_model(1, [3], 1, embedding_dims=[2, 2]),
            ValueError,
            "for each of 1 columns of categories, got [2, 2]",
        ),
        (lambda: model.apply(params, x["numbers"]), TypeError, "x should have numbers and categories, got ['numbers']"),
        (lambda: model.apply(params, x | {"z": 1}), TypeError, "got ['categories', 'numbers', 'z']"),
        (
            lambda: model.apply(params, x | {"numbers": jnp.ones((4, 3))}),
            ValueError,
            "should be 2 (numbers), got shape (4, 3)",
        ),
        (
            lambda: model.apply(params, x | {"categories": jnp.ones((4, 2), jnp.int32)}),
            ValueError,
            "the last axis of categories should be 1, one index for each column, got shape (4, 2)",
        ),
        (lambda: model.apply(params, x | {"categories": jnp.ones((4, 1))}), TypeError, "integers"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            make()
