"""Pooling against PyTorch's values and gradients (tests/golden/vision.npz), ties, NaN, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import GOLDEN as GOLDEN_FILES

import nnfunc as nf
from nnfunc.layers import pool

GOLDEN = np.load(GOLDEN_FILES / "vision.npz")
CASES = {
    **{
        f"max/{name}/{kind}": model
        for kind in ("usual", "ties")
        for name, model in {
            "apart": nf.max_pool(2),
            "over": nf.max_pool(3, stride=2, padding=1),
            "dilated": nf.max_pool((2, 3), stride=(1, 2), padding=(0, 1), dilation=(2, 1)),
            "line": nf.max_pool(3, stride=2, dims=1),
            "volume": nf.max_pool(2, stride=1, dims=3),
            "adaptive": nf.adaptive_max_pool((3, 2)),
            "global": nf.global_max_pool(),
        }.items()
    },
    "avg/apart": nf.avg_pool(2),
    "avg/padded": nf.avg_pool(3, stride=2, padding=1),
    "avg/counted": nf.avg_pool(3, stride=2, padding=1, count_padding=False),
    "avg/volume": nf.avg_pool((2, 1, 3), stride=1),
    "avg/adaptive": nf.adaptive_avg_pool((3, 4)),
    "avg/adaptive_even": nf.adaptive_avg_pool((2, 5)),
    "avg/adaptive_up": nf.adaptive_avg_pool((3, 5)),
    "avg/adaptive_line": nf.adaptive_avg_pool(4, dims=1),
    "avg/global": nf.global_avg_pool(),
    "avg/offset": nf.avg_pool(2),
    "lp/two": nf.lp_pool(2),
    "lp/three": nf.lp_pool(3, p=3.0, stride=2),
    "lp/line": nf.lp_pool(4, p=1.5, stride=2, dims=1),
}


@functools.cache
def errors(dtype):
    """Of y and of dx the largest error, as a share of the largest value, in one program."""

    @jax.jit
    def both(values):
        got = {}
        for case, own in values.items():
            y, back = jax.vjp(lambda x, case=case: CASES[case].apply({}, x), own["x"])
            got[case] = {"y": y, "dx": back(own["dy"])[0]}
        return got

    values = {c: {n: jnp.asarray(GOLDEN[f"{c}/{n}"], dtype) for n in ("x", "dy")} for c in CASES}
    found = {}
    for case, got in both(values).items():
        for name, value in got.items():
            expected = GOLDEN[f"{case}/{name}"]
            assert value.dtype == dtype
            assert value.shape == expected.shape, (case, name)
            apart = np.abs(np.asarray(value, np.float64) - expected).max()
            found[case, name] = apart / np.abs(expected).max()
    return found


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_pytorchs(case):
    with jax.enable_x64(True):
        double = {name: error for (at, name), error in errors("float64").items() if at == case}
    assert max(double.values()) < 1e-13, double
    single = {name: error for (at, name), error in errors("float32").items() if at == case}
    assert max(single.values()) < 1e-6, single


WINDOWS = {"apart": ((2, 2), None, "valid", 1), "over": ((3, 2), (2, 1), ((1, 0), (1, 1)), 1)}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("ties", [False, True])
def test_max_by_axes_is_that_of_windows(name, ties):
    """Value, gradient, forward mode and forward over reverse of both forms, in float64."""
    win = pool._windows("test", *WINDOWS[name], 2)
    draw = np.random.default_rng(0)
    x = draw.integers(0, 3, (2, 7, 8, 2)) if ties else draw.normal(size=(2, 7, 8, 2))
    pads = [(0, 0), *win.pads((7, 8)), (0, 0)]
    x = np.pad(x.astype(np.float64), pads, constant_values=-np.inf)

    @functools.partial(jax.jit, static_argnums=0)
    def run(form, x):
        function = lambda x: form(x, win)
        along = jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
        y, back = jax.vjp(function, x)
        cot = jnp.sin(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)
        smooth = lambda x: jnp.sum(jnp.sin(function(x)))
        derivatives = back(cot), *(() if ties else (jax.jvp(function, (x,), (along,))[1],))
        return y, derivatives, () if ties else jax.jvp(jax.grad(smooth), (x,), (along,))

    with jax.enable_x64(True):
        x = jnp.asarray(x)
        got, expected = run(pool._largest_by_axes, x), run(pool._largest_of_windows, x)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), got, expected)


def test_first_of_equal_values_takes_the_gradient():
    """Row by row: in the first window (0, 1) is before (1, 0)."""
    x = jnp.array([[1.0, 2.0], [2.0, 0.0]])[..., None]
    for model in (nf.max_pool(2), nf.global_max_pool(), nf.adaptive_max_pool(1)):
        got = jax.grad(lambda x, model=model: model.apply({}, x).sum())(x)[..., 0]
        np.testing.assert_array_equal(got, [[0, 1], [0, 0]])


def test_nan_and_infinity():
    x = jnp.array([1.0, np.nan, 3.0, -np.inf, -np.inf, -np.inf, np.inf, 0.0])[:, None]
    expected = [np.nan, 3, -np.inf, np.inf]
    np.testing.assert_array_equal(nf.max_pool(2, dims=1).apply({}, x)[:, 0], expected)
    np.testing.assert_array_equal(nf.adaptive_max_pool(4, dims=1).apply({}, x)[:, 0], expected)
    assert np.isnan(nf.global_max_pool(1).apply({}, x))
    padded = nf.max_pool(2, padding=1, dims=1).apply({}, jnp.array([[-5.0], [-7.0]]))
    np.testing.assert_array_equal(padded[:, 0], [-5, -7])  # padding is never the largest
    apart = nf.adaptive_avg_pool(2, dims=1).apply({}, jnp.array([[np.inf], [1.0], [2.0]]))
    np.testing.assert_array_equal(apart[:, 0], [np.inf, 1.5])  # windows do not touch each other


@pytest.mark.parametrize("model", [nf.max_pool(4), nf.global_max_pool()])
def test_second_derivative_of_the_largest(model):
    """Of sum(largest^3): 6 * largest where the largest stands, along a direction of ones."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 1)), jnp.float32)
    cube = jax.grad(lambda x: jnp.sum(model.apply({}, x) ** 3))
    curve = jax.jit(lambda x: jax.jvp(cube, (x,), (jnp.ones_like(x),))[1])(x)
    np.testing.assert_allclose(curve, np.where(x == x.max(), 6 * x, 0), rtol=1e-5)


def test_average_of_padding_by_hand():
    x = jnp.array([3.0, 5.0])[:, None]
    apply = lambda **kw: nf.avg_pool(3, stride=1, dims=1, **kw).apply({}, x)[:, 0]
    np.testing.assert_allclose(apply(padding=1), [8 / 3, 8 / 3], rtol=1e-6)
    np.testing.assert_allclose(apply(padding=1, count_padding=False), [4, 4], rtol=1e-6)
    np.testing.assert_allclose(apply(padding="same", count_padding=False), [4, 4], rtol=1e-6)
    np.testing.assert_allclose(apply(padding=((2, 0),), count_padding=False), [3, 4], rtol=1e-6)


def test_half_precision_sums_in_float32():
    x = jnp.full((64, 64, 1), 1.01, jnp.bfloat16)  # a sum of 4096 in bfloat16 stops at 256
    for model in (nf.avg_pool(64), nf.global_avg_pool(), nf.adaptive_avg_pool(1)):
        y = model.apply({}, x)
        assert y.dtype == jnp.bfloat16
        np.testing.assert_array_equal(y.ravel(), x[0, 0])
    assert nf.lp_pool(2).apply({}, x).dtype == jnp.bfloat16


def test_lp_of_zeros_has_gradient_zero_and_p_may_be_traced():
    x = jnp.array([0.0, 0.0, 3.0, -4.0])[:, None]
    run = lambda x, p: nf.lp_pool(2, p=p, dims=1).apply({}, x)[:, 0]
    y, dx = jax.vmap(lambda p: (run(x, p), jax.grad(lambda x: run(x, p).sum())(x)[:, 0]))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(y, [[0, 7], [0, 5]], rtol=1e-6)
    np.testing.assert_allclose(dx, [[0, 0, 1, -1], [0, 0, 0.6, -0.8]], rtol=1e-5)


def test_leading_axes_are_free():
    models = nf.max_pool(2), nf.avg_pool(2), nf.adaptive_avg_pool(4), nf.global_max_pool()
    x = jnp.sin(jnp.arange(192.0)).reshape(2, 2, 6, 4, 2)
    apply = lambda x: [model.apply({}, x) for model in models]
    for y, one, none in zip(*jax.jit(lambda x: (apply(x), apply(x[1, 0]), apply(x[:, :0])))(x), strict=True):
        np.testing.assert_allclose(y[1, 0], one, rtol=1e-6)
        assert none.shape == (2, 0, *y.shape[2:])


@pytest.mark.parametrize(
    "make, words",
    [
        (
            lambda: nf.max_pool(2, padding=2),
            r"max_pool: padding should be smaller than the window, \(2, 2\), got \(\(2, 2\), \(2, 2\)\)",
        ),
        (lambda: nf.avg_pool(0), r"avg_pool: window should be at least 1, got 0"),
        (lambda: nf.max_pool(2, padding="circular"), r"padding should be one of 'same', 'valid', got 'circular'"),
        (lambda: nf.lp_pool(2, p=0.5), r"lp_pool: p should be at least 1, got 0.5|p should be in \[1, inf\)"),
        (lambda: nf.adaptive_avg_pool((0, 2)), r"adaptive_avg_pool: out\[0\] should be at least 1"),
    ],
)
def test_wrong_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "model, shape, words",
    [
        (nf.max_pool(5), (2, 4, 9, 3), r"max_pool: windows of \(5, 5\) should fit into x, got spatial sizes \(4, 9\)"),
        (
            nf.max_pool(2),
            (28, 28),
            r"x should be \[\.\.\., height, width, channels\], got shape \(28, 28\). Images without",
        ),
        (
            nf.global_avg_pool(),
            (2, 0, 3, 4),
            r"global_avg_pool: x should have no empty spatial axis, got spatial sizes \(0, 3\)",
        ),
    ],
)
def test_wrong_inputs(model, shape, words):
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(model.apply, {}, jax.ShapeDtypeStruct(shape, jnp.float32))
