"""Muon: against optax's own, each layer of a stack on its own, singular values, traced numbers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from nnfunc import optimizers

SHAPES = {"weight": (3, 5), "bias": (5,)}


def numbers(shape, i):
    """Numbers of full rank."""
    return np.sin(i + 0.7 * np.arange(math.prod(shape), dtype=np.float32) ** 2).reshape(shape)


PARAMS = {name: numbers(shape, 0) for name, shape in SHAPES.items()}
GRADS = {name: np.stack([numbers(shape, i) for i in (1, 2, 5)]) for name, shape in SHAPES.items()}


def walk(optimizer, params=PARAMS, grads=GRADS):
    def step(carry, grads):
        updates, state = optimizer.update(grads, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), updates

    params = jax.tree.map(jnp.asarray, params)
    return jax.lax.scan(step, (params, optimizer.init(params)), grads)[1]


def first(optimizer, params, grads):
    return jax.jit(lambda p, g: optimizer.update(g, optimizer.init(p), p)[0])(params, grads)


@pytest.mark.parametrize("nesterov", [True, False])
def test_it_is_optax_muon(nesterov):
    with jax.numpy_dtype_promotion("standard"):
        theirs = contrib.muon(0.1, beta=0.8, nesterov=nesterov, consistent_rms=0.2, weight_decay=0.3, eps=1e-7)
        expected = {"weight": walk(theirs)["weight"]}
        adam = optax.adamw(0.1, b1=0.7, b2=0.9, eps=1e-7, weight_decay=0.0)  # theirs has Nadam beside
        expected["bias"] = walk(adam)["bias"]
    ours = optimizers.muon(0.1, momentum=0.8, nesterov=nesterov, b1=0.7, b2=0.9, eps=1e-7, weight_decay=0.3)
    got = walk(ours)
    for name in SHAPES:
        np.testing.assert_allclose(got[name], expected[name], rtol=2e-4, atol=1e-5)


def test_a_stack_is_so_many_matrices_and_a_kernel_is_one():
    shapes = {"blocks": {"weight": (2, 3, 4), "bias": (2, 4)}, "conv": {"kernel": (2, 2, 3, 4)}}
    is_shape = lambda node: isinstance(node, tuple)
    params, grads = (
        jax.tree.map(lambda shape, i=i: jnp.asarray(numbers(shape, i)), shapes, is_leaf=is_shape) for i in (0, 1)
    )

    def each(optimizer):
        layers = [
            first(optimizer, {"weight": params["blocks"]["weight"][i]}, {"weight": grads["blocks"]["weight"][i]})
            for i in range(2)
        ]
        return jnp.stack([layer["weight"] for layer in layers])

    optimizer = optimizers.muon(1.0, rms=1.0, weight_decay=0.0)
    got = first(optimizer, params, grads)
    np.testing.assert_allclose(got["blocks"]["weight"], each(optimizer), rtol=1e-4, atol=1e-5)
    values = np.linalg.svd(got["blocks"]["weight"], compute_uv=False) / math.sqrt(4)
    assert ((values > 0.6) & (values < 1.25)).all()
    kernel = np.asarray(got["conv"]["kernel"]).reshape(12, 4) / math.sqrt(12)
    values = np.linalg.svd(kernel, compute_uv=False)
    assert ((values > 0.6) & (values < 1.25)).all()
    # a bias, stacked or not, is Adam's: the first step has the size of the rate
    np.testing.assert_allclose(abs(got["blocks"]["bias"]), np.ones((2, 4)), rtol=1e-4)
    taken = first(optimizers.muon(1.0, rms=1.0, weight_decay=0.0, on="conv/*", stacked="conv/*"), params, grads)
    np.testing.assert_allclose(abs(taken["blocks"]["weight"]), np.ones((2, 3, 4)), rtol=1e-4)
    kernels = np.asarray(taken["conv"]["kernel"]).reshape(2, 6, 4) / math.sqrt(6)
    values = np.linalg.svd(kernels, compute_uv=False)
    assert ((values > 0.6) & (values < 1.25)).all()


TWO = {
    "learning_rate": (0.05, 0.1),
    "momentum": (0.9, 0.0),
    "rms": (0.2, 1.0),
    "b1": (0.9, 0.0),
    "b2": (0.9, 0.5),
    "eps": (1e-8, 1e-1),
    "weight_decay": (0.1, 0.0),
    "clip": (math.inf, 0.2),
}


def test_every_number_may_be_traced():
    start = {name: pair[0] for name, pair in TWO.items()}
    points = [start, *(start | {name: pair[1]} for name, pair in TWO.items())]
    columns = {name: jnp.array([point[name] for point in points]) for name in TWO}
    with jax.numpy_dtype_promotion("strict"):
        members = jax.jit(jax.vmap(lambda values: walk(optimizers.muon(**values))))(columns)
    for i, point in enumerate(points):
        if i in (0, 2, 5, 8):  # one by one it takes its time
            alone = walk(optimizers.muon(**point))
            for name in SHAPES:
                np.testing.assert_allclose(members[name][i], alone[name], rtol=1e-3, atol=1e-4)
        assert i == 0 or any((members[name][i] != members[name][0]).any() for name in SHAPES)


def test_types_and_state():
    params = {"weight": jnp.ones((2, 2), jnp.bfloat16), "bias": jnp.ones(2)}
    optimizer = optimizers.muon(0.1)
    state = optimizer.init(params)
    updates, after = jax.eval_shape(optimizer.update, params, state, params)
    kinds = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    assert kinds(updates) == kinds(params)
    assert kinds(after) == kinds(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}
    assert float(optimizer.learning_rate(0)) == np.float32(0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_it_hides_no_gradient_that_is_not_finite(bad):
    grads = {name: jnp.array(leaf[0]) for name, leaf in GRADS.items()}
    grads["weight"] = grads["weight"].at[0, 0].set(bad)
    updates = first(optimizers.muon(0.1), PARAMS, grads)
    assert np.isnan(updates["weight"]).any()


def test_an_old_optax_is_named(monkeypatch):
    monkeypatch.delattr(contrib, "MuonDimensionNumbers")
    with pytest.raises(ImportError, match=r"muon: it needs optax 0.2.6 or later, got .*pip install -U optax"):
        optimizers.muon(0.1)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: optimizers.muon(0.1, momentum=1.0), r"muon: momentum should be in \[0, 1\), got 1.0"),
        (lambda: optimizers.muon(0.1, rms=-1), r"muon: rms should be at least 0, got -1"),
        (lambda: optimizers.muon(0.1, on="blocks/**").init(PARAMS), r"muon: on: the pattern 'blocks/\*\*'"),
        (lambda: optimizers.muon(0.1, stacked="x").init(PARAMS), r"muon: stacked: the pattern 'x' should"),
    ],
)
def test_errors_have_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()
