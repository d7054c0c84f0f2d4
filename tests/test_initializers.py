"""Initializers against the distributions of SciPy, the formulas of PyTorch, and by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from nnfunc import activations, initializers

pytestmark = pytest.mark.slow

SHAPE = (3, 3, 20, 30)  # fan_in 180, fan_out 270
# The deviations of torch.nn.init (2.13) for a weight [30, 20, 3, 3], which has these fans.
STD = {
    "xavier_normal": math.sqrt(2 / (180 + 270)),
    "xavier_uniform": math.sqrt(2 / (180 + 270)),
    "he_normal": math.sqrt(2 / 180),
    "he_uniform": math.sqrt(2 / 180),
    "lecun_normal": math.sqrt(1 / 180),
    "lecun_uniform": math.sqrt(1 / 180),
}
EVERY = {
    "zeros": initializers.zeros,
    "ones": initializers.ones,
    "constant": initializers.constant(0.3),
    "normal": initializers.normal(0.02),
    "truncated_normal": initializers.truncated_normal(0.02, -1.0, 3.0),
    "corrected": initializers.truncated_normal(0.02, -1.0, 3.0, corrected=True),
    "uniform": initializers.uniform(-0.2, 0.4),
    "orthogonal": initializers.orthogonal,
    "scaled": initializers.scaled(initializers.lecun_normal, 0.5),
    "variance_scaling": initializers.variance_scaling(2.0, "fan_out", "truncated_normal"),
} | {name: getattr(initializers, name) for name in STD}


@functools.cache
def drawn():
    """Every initializer's values, as one program, and under vmap over keys, as another."""

    def draw(key):
        return {name: init(key, SHAPE) for name, init in EVERY.items()}

    keys = jax.random.split(jax.random.key(7), 3)
    return jax.jit(draw)(keys[1]), jax.jit(jax.vmap(draw))(keys)


def expected_distribution(name):
    if name in STD:
        std = STD[name]
        wide = std * math.sqrt(3)
        uniform = scipy.stats.uniform(-wide, 2 * wide)
        return scipy.stats.norm(0, std) if name.endswith("normal") else uniform
    cut = scipy.stats.truncnorm(-1, 3)
    return {
        "normal": scipy.stats.norm(0, 0.02),
        "truncated_normal": scipy.stats.truncnorm(-1, 3, scale=0.02),
        "corrected": scipy.stats.truncnorm(-1, 3, scale=0.02 / cut.std()),
        "uniform": scipy.stats.uniform(-0.2, 0.6),
        "scaled": scipy.stats.norm(0, 0.5 * math.sqrt(1 / 180)),
        "variance_scaling": scipy.stats.truncnorm(-2, 2, scale=math.sqrt(2 / 270) / scipy.stats.truncnorm(-2, 2).std()),
    }[name]


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("zeros", "ones", "constant", "orthogonal")])
def test_distribution_is_scipys(name):
    values = np.asarray(drawn()[0][name], np.float64).ravel()
    expected = expected_distribution(name)
    assert abs(values.mean() - expected.mean()) < 4 * expected.std() / math.sqrt(values.size)
    np.testing.assert_allclose(values.std(), expected.std(), rtol=0.02)
    assert scipy.stats.kstest(values, expected.cdf).pvalue > 0.01


@pytest.mark.parametrize("name", EVERY)
def test_a_vmap_over_keys_draws_the_same_values(name):
    alone, many = drawn()
    assert many[name].shape == (3, *SHAPE)
    exact = name not in ("orthogonal",)  # a batched QR rounds differently
    np.testing.assert_allclose(many[name][1], alone[name], rtol=0, atol=0 if exact else 1e-5)


def test_draws_are_those_of_jax_random(key):
    shape = (7, 11, 5)
    np.testing.assert_allclose(initializers.normal(1.0)(key, shape), jax.random.normal(key, shape), rtol=1e-6)
    np.testing.assert_allclose(
        initializers.uniform(-1, 1)(key, shape), jax.random.uniform(key, shape, minval=-1), atol=1e-6
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_keeps_the_type_asked_for(key, dtype):
    with jax.enable_x64(dtype == "float64"):
        for name, init in EVERY.items():
            weight = jax.eval_shape(lambda k, init=init: init(k, (4, 6), dtype), key)
            assert (weight.dtype, weight.shape) == (dtype, (4, 6)), name


def test_half_precision_is_float32_rounded(key):
    for init in (EVERY["normal"], initializers.he_uniform):
        exact = init(key, (50, 40)).astype(jnp.bfloat16)
        np.testing.assert_array_equal(init(key, (50, 40), jnp.bfloat16), exact)


def test_float64_has_the_bits_of_float64(key):
    with jax.enable_x64(True):
        weight = initializers.lecun_normal(key, (50, 40), jnp.float64)
        assert jnp.any(weight != weight.astype(jnp.float32).astype(jnp.float64))


NUMBERS = {
    "gain of he_normal": lambda g, k: initializers.he_normal(k, (4, 6), gain=g),
    "gain of he_uniform": lambda g, k: initializers.he_uniform(k, (4, 6), gain=g),
    "gain of xavier_normal": lambda g, k: initializers.xavier_normal(k, (4, 6), gain=g),
    "gain of xavier_uniform": lambda g, k: initializers.xavier_uniform(k, (4, 6), gain=g),
    "gain of lecun_normal": lambda g, k: initializers.lecun_normal(k, (4, 6), gain=g),
    "gain of lecun_uniform": lambda g, k: initializers.lecun_uniform(k, (4, 6), gain=g),
    "gain of orthogonal": lambda g, k: initializers.orthogonal(k, (4, 6), gain=g),
    "gain of scaled": lambda g, k: initializers.scaled(initializers.he_normal, g)(k, (4, 6)),
    "gain in bfloat16": lambda g, k: initializers.he_normal(k, (4, 6), jnp.bfloat16, gain=g),
    "value": lambda g, k: initializers.constant(g)(k, (4, 6)),
    "std": lambda g, k: initializers.normal(g)(k, (4, 6)),
    "std of truncated": lambda g, k: initializers.truncated_normal(g)(k, (4, 6)),
    "lower": lambda g, k: initializers.truncated_normal(1.0, g - 2, corrected=True)(k, (4, 6)),
    "upper": lambda g, k: initializers.truncated_normal(1.0, -1.0, g)(k, (4, 6)),
    "low": lambda g, k: initializers.uniform(g, 2.0)(k, (4, 6)),
    "high": lambda g, k: initializers.uniform(-1.0, g)(k, (4, 6)),
    "scale": lambda g, k: initializers.variance_scaling(g, "fan_avg", "uniform")(k, (4, 6)),
    "slope": lambda g, k: initializers.init_for("leaky_relu", slope=g)(k, (4, 6)),
}


def test_a_traced_number_is_like_a_plain_one(key):
    values = [0.25, 1.5]

    def swept(value, key):
        return {name: draw(value, key) for name, draw in NUMBERS.items()}

    traced = jax.jit(jax.vmap(swept, (0, None)))(jnp.array(values), key)
    plain = [swept(value, key) for value in values]
    for name in NUMBERS:
        both = jnp.stack([one[name] for one in plain])
        np.testing.assert_allclose(traced[name], both, rtol=2e-6, atol=1e-6, err_msg=name)
        assert jnp.any(both[0] != both[1])


def test_the_gain_can_be_learned(key):
    derivative = jax.grad(lambda g: jnp.sum(initializers.he_normal(key, (3, 4), gain=g)))(2.0)
    np.testing.assert_allclose(derivative, jnp.sum(initializers.he_normal(key, (3, 4))), rtol=1e-5)


@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9), (3, 3, 2, 5), (2, 1, 7)])
def test_orthogonal(key, shape):
    weight = np.asarray(initializers.orthogonal(key, shape, gain=3.0), np.float64).reshape(-1, shape[-1])
    rows, columns = weight.shape
    product = weight.T @ weight if rows >= columns else weight @ weight.T
    np.testing.assert_allclose(product, 9 * np.eye(min(rows, columns)), atol=1e-5)


def test_orthogonal_is_spread_evenly():
    """Without the sign of R's diagonal, LAPACK's first entry is never positive."""
    keys = jax.random.split(jax.random.key(1), 2000)
    weights = jax.vmap(lambda key: initializers.orthogonal(key, (3, 3)))(keys)
    # An entry of an evenly drawn 3 x 3 rotation or reflection is uniform in [-1, 1] (Archimedes).
    for entry in ((0, 0), (2, 1)):
        values = np.asarray(weights[(slice(None), *entry)])
        assert scipy.stats.kstest(values, scipy.stats.uniform(-1, 2).cdf).pvalue > 0.01


def test_variance_scaling_has_the_others_as_cases(key):
    for scale, mode, distribution, name in (
        (2.0, "fan_in", "normal", "he_normal"),
        (1.0, "fan_avg", "uniform", "xavier_uniform"),
        (1.0, "fan_in", "normal", "lecun_normal"),
    ):
        weight = initializers.variance_scaling(scale, mode, distribution)(key, (30, 20))
        np.testing.assert_allclose(weight, getattr(initializers, name)(key, (30, 20)), rtol=1e-5)
    outward = initializers.variance_scaling(4.0, "fan_out")(key, (30, 20))
    np.testing.assert_allclose(outward, math.sqrt(4 / 20) * jax.random.normal(key, (30, 20)), rtol=1e-5)


@pytest.mark.parametrize("name", ["relu", "selu", "identity"])
def test_variance_survives_twenty_layers(name):
    """The property that He, Klambauer and LeCun derive: the mean square neither grows nor fades."""
    function, init = getattr(activations, name), initializers.init_for(name)
    x = jax.random.normal(jax.random.key(3), (200, 400))

    def layer(x, key):
        return function(x @ init(key, (400, 400))), jnp.mean(jnp.square(x))

    _, squares = jax.lax.scan(layer, x, jax.random.split(jax.random.key(4), 20))
    assert 0.4 < squares[-1] / squares[1] < 2.5


def test_init_for():
    choose = initializers.init_for
    assert choose("sigmoid") is choose(jax.nn.sigmoid) is choose(jnp.tanh) is initializers.xavier_normal
    assert choose("tanh", distribution="uniform") is initializers.xavier_uniform
    assert choose(activations.gelu) is choose(jax.nn.relu) is choose("swish") is initializers.he_normal
    assert choose("selu") is choose("linear") is choose(activations.identity)
    assert choose("selu") is initializers.lecun_normal
    named = {name for name in activations.__all__ if name != "by_name"}
    assert all(callable(choose(name)) for name in named)
    assert all(callable(choose(getattr(activations, name))) for name in named)


def test_init_for_corrects_for_the_slope(key):
    """torch.nn.init.calculate_gain('leaky_relu', 0.2) is 1.3867504905630728."""
    expected = 1.3867504905630728 / math.sqrt(30) * jax.random.normal(key, (30, 20))
    given = initializers.init_for("leaky_relu", slope=0.2)
    held = initializers.init_for(functools.partial(activations.leaky_relu, slope=0.2))
    for init in (given, held):
        np.testing.assert_allclose(init(key, (30, 20)), expected, rtol=1e-5)


def test_words_of_errors(key):
    with pytest.raises(ValueError, match=r"he_normal: shape should be \[\.\.\., in, out\], got \(10,\)\. Use"):
        initializers.he_normal(key, (10,))
    with pytest.raises(ValueError, match=r"init_for: there is no rule for the activation 'rellu'; did you mean 'relu'"):
        initializers.init_for("rellu")
    with pytest.raises(ValueError, match=r"no rule for the activation '<lambda>'"):
        initializers.init_for(lambda x: x)
    with pytest.raises(
        ValueError, match=r"init_for: slope should be given for leaky_relu and prelu only, got it with 'gelu'"
    ):
        initializers.init_for("gelu", slope=0.1)
    with pytest.raises(ValueError, match=r"variance_scaling: mode should be one of .* got 'fan_on'"):
        initializers.variance_scaling(1.0, "fan_on")
    with pytest.raises(ValueError, match=r"normal: std should be at least 0, got -1"):
        initializers.normal(-1.0)
    with pytest.raises(ValueError, match=r"truncated_normal: upper should be above 2\.0, got 1\.0"):
        initializers.truncated_normal(1.0, 2.0, 1.0)
    with pytest.raises(TypeError, match=r"lecun_normal: dtype should be a floating type, got int32"):
        initializers.lecun_normal(key, (3, 4), jnp.int32)
    with pytest.raises(TypeError, match=r"normal: key should be one random key, got 0 \(int\)"):
        initializers.normal(1.0)(0, (3, 4))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"uniform: lower should be at most upper, got 2 and 1"):
        initializers.uniform(2, 1)
    with pytest.raises(TypeError, match=r"gain should be a number, got 'big'"):
        initializers.he_normal(key, (3, 4), gain="big")  # pyright: ignore[reportArgumentType]


def test_empty_weights(key):
    for init in EVERY.values():
        assert init(key, (0, 5)).shape == (0, 5)


def test_a_mean_moves_the_values_and_their_bounds(key):
    for centered, moved in (
        (initializers.normal(0.5), initializers.normal(0.5, mean=2.0)),
        (initializers.truncated_normal(0.5), initializers.truncated_normal(0.5, mean=2.0)),
    ):
        np.testing.assert_allclose(moved(key, (40, 50)), 2.0 + centered(key, (40, 50)), rtol=1e-6)
    values = initializers.truncated_normal(0.5, -1.0, 2.0, mean=2.0)(key, (40, 50))
    assert 1.5 <= values.min() < 1.52
    assert 2.9 < values.max() <= 3.0
