"""Activations against SciPy, finite differences, and PyTorch (tests/golden/activations.json, made by
scripts/golden/activations.py)."""

import json
from functools import cache, partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from helpers.project import GOLDEN as GOLDEN_FILES

from nnfunc import activations

pytestmark = pytest.mark.slow

GOLDEN = json.loads((GOLDEN_FILES / "activations.json").read_text())
GRID, ROWS = np.array(GOLDEN["grid"]), np.array(GOLDEN["rows"])
GLU_FAMILY = ["glu", "bilinear_glu", "reglu", "geglu", "swiglu"]
SMOOTH = ["gelu", "gelu_tanh", "silu", "mish", "softplus", "softsign", "tanh", "sigmoid", "celu"]
SLOPED = {"leaky_relu": "slope", "prelu": "slope", "elu": "alpha", "celu": "alpha", "hard_sigmoid": "slope"}
SLOPED |= {"softplus": "beta", "soft_shrink": "threshold", "hard_shrink": "threshold", "threshold": "threshold"}


ELEMENTWISE = GOLDEN["elementwise"]
ROWWISE = GOLDEN["rowwise"]
EXACT = np.arange(-12, 13) / 4  # in every type
PLACES = {"grid": GRID, "exact": EXACT, "far": np.array([-np.inf, np.inf, np.nan])}


def called(words):
    """The activation that a golden row names: `celu alpha=2.0`."""
    name, *arguments = words.split()
    values = {key: json.loads(value) for key, value in (a.split("=") for a in arguments)}
    return partial(getattr(activations, name), **values)


def elementwise(words, dtype, place="grid"):
    """y, its first and (not in half precision) second derivative, at one of the PLACES."""
    start = sum(len(points) for points in list(PLACES.values())[: list(PLACES).index(place)])
    return [row[start : start + len(PLACES[place])] for row in everywhere(dtype)[words]]


@cache
def everywhere(dtype):
    """The same for every activation and place, as one program."""

    @jax.jit
    def all_of_them(x):
        values = {}
        for words in ELEMENTWISE:
            function = called(words)
            slope = jax.grad(function)
            values[words] = [function(x), jax.vmap(slope)(x)]
            if x.dtype.itemsize > 2:
                values[words].append(jax.vmap(jax.jacfwd(slope))(x))
        return values

    with jax.enable_x64(dtype == "float64"):
        return all_of_them(jnp.asarray(np.concatenate(list(PLACES.values())), dtype))


@cache
def rowwise(dtype):
    """y, and the derivative of its sum weighted 1, 2, 3, ... along a row, as one program."""

    def weighted(function, x):
        y = function(x)
        return jnp.sum(y * jnp.arange(1, y.shape[-1] + 1).astype(y.dtype)), y

    @jax.jit
    def all_of_them(x):
        return {w: jax.grad(partial(weighted, called(w)), has_aux=True)(x)[::-1] for w in ROWWISE}

    with jax.enable_x64(dtype == "float64"):
        return all_of_them(jnp.asarray(ROWS, dtype))


@pytest.mark.parametrize("words", ELEMENTWISE)
def test_like_pytorch(words):
    expected = ELEMENTWISE[words]
    y, slope, _ = elementwise(words, "float64")
    np.testing.assert_allclose(y, expected["y"], rtol=1e-12, atol=3e-9)  # its softplus stops at 20
    np.testing.assert_allclose(slope, expected["slope"], rtol=3e-8, atol=3e-9)  # its 1/6 is float32
    y, slope, _ = elementwise(words, "float32")
    np.testing.assert_allclose(y, expected["y"], rtol=2e-6, atol=3e-7)
    np.testing.assert_allclose(slope, expected["slope"], rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("words", ROWWISE)
def test_rows_like_pytorch(words):
    expected = ROWWISE[words]
    y, slope = rowwise("float64")[words]
    np.testing.assert_allclose(y, expected["y"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(slope, expected["slope"], rtol=1e-10, atol=1e-11)
    y, slope = rowwise("float32")[words]
    np.testing.assert_allclose(y, expected["y"], rtol=2e-6, atol=3e-7)
    np.testing.assert_allclose(slope, expected["slope"], rtol=2e-6, atol=2e-6)


@pytest.mark.optimized  # of jax's own gelu: without, its tail is rounded to 0
def test_gelu_is_scipys_normal_distribution_and_jaxs():
    x = np.linspace(-8, 8, 4001)
    with jax.enable_x64(True):
        expected = x * scipy.special.ndtr(x)
        np.testing.assert_allclose(activations.gelu(jnp.asarray(x)), expected, atol=2e-15)
    x = jnp.asarray(x, jnp.float32)
    for ours, approximate in ((activations.gelu, False), (activations.gelu_tanh, True)):
        theirs = partial(jax.nn.gelu, approximate=approximate)
        np.testing.assert_allclose(ours(x), theirs(x), atol=1e-6)
        np.testing.assert_allclose(jax.vmap(jax.grad(ours))(x), jax.vmap(jax.grad(theirs))(x), atol=5e-6)


def test_softmax_and_softplus_like_scipy():
    with jax.enable_x64(True):
        x = jnp.asarray(ROWS)
        np.testing.assert_allclose(activations.softmax(x), scipy.special.softmax(ROWS, -1))
        np.testing.assert_allclose(activations.log_softmax(x, axis=0), scipy.special.log_softmax(ROWS, 0), atol=1e-15)
        np.testing.assert_allclose(activations.softplus(jnp.asarray(GRID)), np.logaddexp(GRID, 0), rtol=1e-14)


@cache
def derivatives():
    """The first three derivatives of the smooth activations, and their finite differences."""
    step = 1e-6

    @jax.jit
    def all_of_them(x):
        pairs = {}
        for name in SMOOTH:
            first = jax.grad(getattr(activations, name))
            orders = [getattr(activations, name), first, jax.jacfwd(first), jax.jacfwd(jax.jacfwd(first))]
            orders = [jax.vmap(order) for order in orders]
            pairs[name] = [
                (higher(x), (lower(x + step) - lower(x - step)) / (2 * step)) for lower, higher in pairwise(orders)
            ]
        return pairs

    with jax.enable_x64(True):
        return all_of_them(jnp.array([-7.0, -2.5, -0.3, 0.2, 1.0, 6.5, 19.9]))


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_of_every_order(name):
    for derivative, difference in derivatives()[name]:
        np.testing.assert_allclose(derivative, difference, rtol=1e-5, atol=2e-8)


SECOND_AT_ZERO = {"silu": 0.5, "mish": 0.64, "softplus": 0.25, "gelu": 2 / np.sqrt(2 * np.pi)}
SECOND_AT_ZERO["gelu_tanh"] = SECOND_AT_ZERO["gelu"]


@pytest.mark.parametrize("name", SECOND_AT_ZERO)
def test_second_derivative_at_zero_by_hand(name):
    _, _, second = elementwise(name, "float64")
    np.testing.assert_allclose(second[GRID == 0], SECOND_AT_ZERO[name], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_keeps_type_and_shape(dtype):
    with jax.enable_x64(dtype == "float64"):
        for words in [*ELEMENTWISE, *ROWWISE]:
            x = jax.ShapeDtypeStruct((2, 3, 4), dtype)
            y, tangent = jax.eval_shape(lambda x, f=called(words): jax.jvp(f, (x,), (x,)), x)
            assert y.dtype == tangent.dtype == dtype, words
            assert y.shape == ((2, 3, 2) if words in GLU_FAMILY else x.shape), words


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("words", ELEMENTWISE)
def test_half_precision_is_near_float32(words, dtype):
    half = elementwise(words, dtype, "exact")
    full = elementwise(words, "float32", "exact")
    for near, exact in zip(half[:2], full[:2], strict=True):
        tolerance = 2 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(near.astype("float32"), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("words", ELEMENTWISE)
def test_nothing_is_nan_far_out(words, dtype):
    y, slope, *second = elementwise(words, dtype)
    if words != "squared_relu":  # 1e4 squared is beyond float16
        assert jnp.all(jnp.isfinite(y))
        assert jnp.all(jnp.abs(slope) <= 2)
    for values in (y, slope, *second):
        assert not jnp.any(jnp.isnan(values))


LIMITS = {"gelu": 0, "gelu_tanh": 0, "silu": 0, "mish": 0, "softplus": 0, "hard_swish": 0}
LIMITS |= {"relu": 0, "relu6": 0, "hard_sigmoid": 0, "sigmoid": 0, "tanh": -1, "softsign": -1}
LIMITS |= {
    "log_sigmoid": -np.inf,
    "hard_tanh": -1,
    "soft_shrink": -np.inf,
    "hard_shrink": -np.inf,
    "tanh_shrink": -np.inf,
}
LIMITS |= {"elu": -1, "celu": -1, "selu": -1.7580993, "leaky_relu": -np.inf, "squared_relu": 0}
BOUNDED = {"relu6": 6, "hard_sigmoid": 1, "sigmoid": 1, "tanh": 1, "softsign": 1}
BOUNDED |= {"log_sigmoid": 0, "hard_tanh": 1}


@pytest.mark.parametrize("name", LIMITS)
def test_at_infinity(name):
    y, slope, _ = elementwise(name, "float32", "far")
    np.testing.assert_allclose(y[:2], [LIMITS[name], BOUNDED.get(name, np.inf)], rtol=1e-6)
    assert not jnp.any(jnp.isnan(slope[:2]))
    assert jnp.isnan(y[2])


@pytest.mark.parametrize("name", SLOPED)
def test_a_traced_number_is_like_a_plain_one(name):
    function, x = getattr(activations, name), jnp.asarray(GRID, jnp.float32)
    for dtype in ("float32", "bfloat16"):
        swept = jax.vmap(function, (None, 0))(x.astype(dtype), jnp.array([0.25, 0.7]))
        alone = [function(x.astype(dtype), value) for value in (0.25, 0.7)]
        np.testing.assert_array_equal(swept, jnp.stack(alone))
    slope = jax.vmap(jax.grad(function, argnums=1), in_axes=(0, None))(x, 0.25)
    assert jnp.all(jnp.isfinite(slope))


def test_prelu_has_a_slope_for_each_feature():
    x = jnp.array([[-1.0, -1.0], [2.0, -4.0]])
    y = activations.prelu(x, jnp.array([0.5, 0.25]))
    np.testing.assert_array_equal(y, [[-0.5, -0.25], [2.0, -1.0]])
    with pytest.raises(ValueError, match=r"prelu: slope should have shape \(2,\), got shape \(3,\)"):
        activations.prelu(x, jnp.ones(3))
    by_row = activations.prelu(x, jnp.array([[0.5], [0.25]]))
    np.testing.assert_array_equal(by_row, [[-0.5, -0.5], [2.0, -1.0]])
    with pytest.raises(ValueError, match=r"prelu: slope should have shape \(2, 2\), got shape \(3, 2\)"):
        activations.prelu(x, jnp.ones((3, 2)))


def test_half_precision_softmax_is_computed_in_float32():
    x = jnp.linspace(-9, 9, 500, dtype=jnp.bfloat16)
    for function in (activations.softmax, activations.log_softmax):
        exact = function(x.astype(jnp.float32)).astype(jnp.bfloat16)
        np.testing.assert_array_equal(function(x), exact)


def test_the_backward_pass_of_gelu_computes_no_erf():
    _, backward = jax.vjp(activations.gelu, jnp.ones(3))
    assert "erf" not in str(jax.make_jaxpr(backward)(jnp.ones(3)))


def test_by_name():
    for name in [*ELEMENTWISE, *ROWWISE]:
        if " " not in name:
            assert activations.by_name(name) is getattr(activations, name)
    assert activations.by_name("linear") is activations.identity
    assert activations.silu is activations.swish is activations.by_name("swish")
    with pytest.raises(ValueError, match=r"there is no activation 'LeakyReLU'; did you mean 'leaky_relu'"):
        activations.by_name("LeakyReLU")
    with pytest.raises(ValueError, match=r"activation: 'prelu' has a learned slope"):
        activations.by_name("prelu")


def test_words_of_errors():
    with pytest.raises(TypeError, match=r"relu: x should hold floats, got int32\. Convert it first"):
        activations.relu(jnp.arange(3))
    with pytest.raises(TypeError, match=r"elu: alpha should be a number, got 'big' \(str\)"):
        activations.elu(jnp.ones(3), alpha="big")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"softplus: beta should be above 0, got 0\.0"):
        activations.softplus(jnp.ones(3), 0.0)
    with pytest.raises(ValueError, match=r"hard_tanh: lower should be at most upper, got 1\.0 and 0\.0"):
        activations.hard_tanh(jnp.ones(3), 1.0, 0.0)
    with pytest.raises(ValueError, match=r"soft_shrink: threshold should be at least 0, got -1\.0"):
        activations.soft_shrink(jnp.ones(3), -1.0)
    with pytest.raises(ValueError, match=r"celu: alpha should be above 0, got 0\.0"):
        activations.celu(jnp.ones(3), 0.0)
    with pytest.raises(ValueError, match=r"swiglu: the last axis of x should be even.* shape \(2, 3\)"):
        activations.swiglu(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"softmax: axis should be an axis of x, got 2"):
        activations.softmax(jnp.ones((2, 3)), axis=2)
