"""The spelled-out chain rule against jax.grad, finite differences, and a network worked by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc import backprop

WIDTHS = [5, 7, 6, 4]


def problem(widths=WIDTHS, batch=(3, 4), dtype=np.float64):
    """Parameters of an mlp, x, class numbers, and targets for MSE."""
    draw = np.random.default_rng(0)
    shapes = jax.eval_shape(nf.mlp(widths).init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(draw.normal(size=leaf.shape), dtype), shapes)
    x = jnp.asarray(draw.normal(size=(*batch, widths[0])), dtype)
    labels = jnp.asarray(draw.integers(widths[-1], size=batch))
    return params, x, labels, jnp.asarray(draw.normal(size=(*batch, widths[-1])), dtype)


def assert_equal_trees(got, expected, share):
    """Every leaf to within a share of its own largest value."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for path, leaf in nf.paths.flatten(expected).items():
        scale = np.abs(leaf).max()
        np.testing.assert_allclose(nf.paths.flatten(got)[path], leaf, rtol=0, atol=share * scale, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("activation", backprop.ACTIVATIONS)
def test_gradients_equal_jax_grad_to_rounding(activation):
    model = nf.mlp(WIDTHS, activation=activation)
    with jax.enable_x64(True):
        params, x, labels, target = problem()

        def cross_entropy(params):
            return nf.losses.cross_entropy(model.apply(params, x), labels).mean()

        def mse(params):
            return nf.losses.mse(model.apply(params, x), target).mean()

        def both(params):
            own = functools.partial(backprop.gradients, params, x, activation=activation)
            return (own(labels), jax.grad(cross_entropy)(params), own(target, loss="mse"), jax.grad(mse)(params))

        entropy, expected_entropy, square, expected_square = jax.jit(both)(params)
        assert jax.tree.leaves(entropy)[0].dtype == jnp.float64
        assert_equal_trees(entropy, expected_entropy, 1e-14)
        assert_equal_trees(square, expected_square, 1e-14)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_gradients_equal_finite_differences(loss):
    """Central differences along random directions, in float64: error of h^2 = 1e-10."""
    with jax.enable_x64(True):
        params, x, labels, target = problem()
        wanted = labels if loss == "cross_entropy" else target
        model = nf.mlp(WIDTHS, activation="tanh")

        @jax.jit
        def cost(params):
            return getattr(nf.losses, loss)(model.apply(params, x), wanted).mean()

        grads = jax.jit(lambda params: backprop.gradients(params, x, wanted, activation="tanh", loss=loss))(params)
        draw, h = np.random.default_rng(1), 1e-5
        for _ in range(5):
            way = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape), params)
            ahead, behind = (cost(jax.tree.map(lambda p, d, s=s: p + s * h * d, params, way)) for s in (1, -1))
            slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), grads, way)))
            assert float((ahead - behind) / (2 * h)) == pytest.approx(float(slope), rel=1e-7)


@pytest.mark.parametrize("activation", backprop.ACTIVATIONS)
def test_each_activation_is_that_of_the_library_also_far_out(activation):
    f, derivative = backprop.ACTIVATIONS[activation]
    library = nf.activations.by_name(activation)
    with jax.enable_x64(True):
        z = jnp.array([-1e4, -800.0, -30.0, -3.0, -0.5, 0.0, 0.5, 3.0, 30.0, 800.0, 1e4])
        np.testing.assert_allclose(f(z), library(z), rtol=1e-12, atol=1e-13)
        slopes = jax.vmap(jax.grad(library))(z)
        np.testing.assert_allclose(derivative(z), slopes, rtol=1e-12, atol=1e-13)


def test_a_network_by_hand():
    """1 -> 1 -> 1 with tanh and MSE: every number of the formulas written down."""
    w1, b1, w2, b2, x, t = 0.5, 0.1, -2.0, 0.3, 0.8, 1.0
    a1 = math.tanh(w1 * x + b1)
    y = w2 * a1 + b2
    delta2 = 2 * (y - t)
    delta1 = delta2 * w2 * (1 - a1**2)
    one = lambda w, b: {"weight": jnp.full((1, 1), w), "bias": jnp.full(1, b)}
    params = {"hidden_0": {"linear": one(w1, b1)}, "head": one(w2, b2)}
    its, kept = backprop.forward(params, jnp.array([[x]]), activation="tanh")
    assert float(its[0, 0]) == pytest.approx(y, rel=1e-6)
    assert float(kept[1].a[0, 0]) == pytest.approx(a1, rel=1e-6)
    delta = backprop.loss_delta(its, jnp.array([[t]]), "mse")
    grads = nf.paths.flatten(backprop.backward(params, kept, delta, activation="tanh"))
    expected = {
        "head/weight": delta2 * a1,
        "head/bias": delta2,
        "hidden_0/linear/weight": delta1 * x,
        "hidden_0/linear/bias": delta1,
    }
    assert {path: float(leaf.sum()) for path, leaf in grads.items()} == pytest.approx(expected, rel=1e-5)


def test_forward_is_the_models_output():
    for widths in ([5, 4], WIDTHS):
        params, x, *_ = problem(widths, dtype=np.float32)
        y, kept = backprop.forward(params, x)
        np.testing.assert_allclose(y, nf.mlp(widths).apply(params, x), rtol=1e-5, atol=1e-5)
        assert len(kept) == len(widths) - 1


def test_one_layer_and_one_example():
    params, x, labels, _ = problem([5, 4], batch=(), dtype=np.float32)

    def cost(params):
        return nf.losses.cross_entropy(nf.mlp([5, 4]).apply(params, x), labels).mean()

    both = jax.jit(lambda params: (backprop.gradients(params, x, labels), jax.grad(cost)(params)))
    assert_equal_trees(*both(params), 1e-6)


def test_more_than_ten_hidden_layers_keep_their_order():
    widths = [3, *range(4, 16), 2]
    params, x, labels, _ = problem(widths, batch=(2,), dtype=np.float32)
    grads = jax.eval_shape(functools.partial(backprop.gradients, activation="tanh"), params, x, labels)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)


def test_an_activation_of_ones_own():
    params, x, labels, _ = problem(dtype=np.float32)
    sine = backprop.Activation(jnp.sin, jnp.cos)

    def cost(params):
        return nf.losses.cross_entropy(nf.mlp(WIDTHS, activation=jnp.sin).apply(params, x), labels).mean()

    both = jax.jit(lambda p: (backprop.gradients(p, x, labels, activation=sine), jax.grad(cost)(p)))
    assert_equal_trees(*both(params), 1e-5)


def test_cross_entropy_delta_is_stable_for_large_logits():
    delta = backprop.loss_delta(jnp.array([[1e4, -1e4, 0.0]]), jnp.array([1]))
    np.testing.assert_array_equal(delta, [[1.0, -1.0, 0.0]])


def test_wrong_arguments_are_named():
    params, x, labels, target = problem(dtype=np.float32)
    grads = functools.partial(backprop.gradients, params)
    with pytest.raises(ValueError, match=r"backprop: activation should be one of .*'sigmoid'.*did you mean 'relu'"):
        grads(x, labels, activation="rellu")
    with pytest.raises(ValueError, match=r"backprop: loss should be one of 'cross_entropy', 'mse', got 'hinge'"):
        grads(x, labels, loss="hinge")
    with pytest.raises(ValueError, match=r"backprop: the last axis of x should be 5 \(in_dim\), got shape \(3, 4, 4\)"):
        grads(x[..., :4], labels)
    with pytest.raises(ValueError, match=r"backprop: target should have shape \(3, 4\), got shape \(4,\)"):
        grads(x, labels[0])
    with pytest.raises(TypeError, match=r"backprop: target should hold integers, got float32"):
        grads(x, target)
    with pytest.raises(ValueError, match=r"backprop: y and target should have the same shape"):
        grads(x, target[0], loss="mse")
    normed = nf.mlp(WIDTHS, norm="layer")
    shapes = jax.eval_shape(normed.init, jax.random.key(0))
    with pytest.raises(ValueError, match=r"params should be those of nf\.mlp without norm.*got \['head', 'hidden_0'"):
        backprop.gradients(shapes, x, labels)
