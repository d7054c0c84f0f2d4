"""Norms where squares overflow or vanish, against NumPy's in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnfunc.vector_norm import global_norm, vector_norm

X = np.array([[3.0, -4.0, 0.0], [1.0, 2.0, -2.0]])


def as_tree(x):
    return global_norm({"a": x[0], "b": [x[1]]})


@pytest.mark.parametrize("norm", [vector_norm, as_tree])
@pytest.mark.parametrize("scale", [1.0, 1e20, 1e37, 1e12, 1e-12, 1e-25, 1e-37])
def test_norm_and_slopes_at_every_scale(norm, scale):
    x = jnp.asarray(X * scale, jnp.float32)
    wide = np.asarray(x, np.float64)
    expected = np.sqrt(np.square(wide).sum())
    value, slopes, slope = jax.jit(lambda x: (norm(x), jax.grad(norm)(x), jax.jvp(norm, (x,), (jnp.ones_like(x),))[1]))(
        x
    )  # the compiler regroups products that are finite one by one
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slopes, wide / expected, rtol=1e-6)
    np.testing.assert_allclose(slope, (wide / expected).sum(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [vector_norm, as_tree])
def test_norm_of_zeros_infinities_and_nan(norm):
    norm, zeros = jax.jit(norm), jnp.zeros((2, 3))
    assert float(norm(zeros)) == 0
    np.testing.assert_array_equal(jax.grad(norm)(zeros), zeros)
    np.testing.assert_array_equal(jax.hessian(norm)(zeros).ravel(), np.zeros(36))
    assert float(norm(zeros.at[0, 1].set(-jnp.inf))) == np.inf
    assert np.isnan(norm(zeros.at[0, 1].set(jnp.nan)))
    assert np.isnan(norm(zeros.at[0].set(jnp.array([jnp.inf, jnp.nan, 1e30]))))


def test_norm_side_by_side_is_that_of_each_alone():
    scales = jnp.array([0.0, 1.0, 1e20, 1e-25, jnp.inf])
    norms = jax.vmap(lambda scale: as_tree(scale * jnp.asarray([[0.6, 0.8], [0.0, 0.0]])))(scales)
    np.testing.assert_allclose(norms[:4], scales[:4], rtol=1e-6)
    # infinity times 0 is NaN, as it is alone
    assert np.isnan(norms[4])


def test_norm_along_axes_is_scaled_for_each_row():
    x = jnp.array([[3e20, 4e20], [3e-25, 4e-25], [3.0, 4.0]])
    np.testing.assert_allclose(vector_norm(x, (1,)), [5e20, 5e-25, 5.0], rtol=1e-6)
    assert vector_norm(x, (1,), keepdims=True).shape == (3, 1)
    assert vector_norm(x, ()).shape == x.shape  # of numbers: their absolute values


def test_norm_in_half_precision_is_calculated_in_float32():
    x = jnp.full(4, 300.0, jnp.float16)  # its square is beyond float16
    assert vector_norm(x).dtype == jnp.float32
    assert float(vector_norm(x)) == 600
    assert global_norm({"a": x, "b": jnp.zeros(2, jnp.bfloat16)}).dtype == jnp.float32
    assert float(global_norm({})) == 0
    assert float(vector_norm(jnp.zeros((0, 2)))) == 0


@pytest.mark.parametrize("scale", [1e20, 1e-25])
def test_norm_of_constants_is_not_regrouped(scale):
    """Of constants XLA makes (x * x) * (scale * scale), both out of range."""
    x = np.asarray(X * scale, np.float32)
    norms = jax.jit(lambda one: [one * vector_norm(jnp.asarray(x)), one * as_tree(jnp.asarray(x))])
    np.testing.assert_allclose(norms(jnp.ones(())), 2 * [scale * np.sqrt(34)], rtol=1e-6)
