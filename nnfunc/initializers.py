"""Initializers: functions `(key, shape, dtype) -> array`, or factories that return one.

Weights are [..., in, out], convolution kernels [height, width, in, out]: fan_in is the product of
all axes but the last, fan_out of all axes but the last but one. Xavier, He and LeCun weights and
`orthogonal` also take a `gain`, which may be traced: `he_normal(key, shape, gain=0.5)`, or
`scaled(he_normal, 0.5)` where a layer asks for an initializer. Normal means normal: as in PyTorch,
not truncated as in jax.nn.initializers.

Values are drawn flat and reshaped: the same numbers as `jax.random.normal(key, shape)` gives, in a
fraction of its compile time. Half-precision weights are drawn in float32 and rounded.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, DType, Initializer, Key, Scalar, Shape, wide_dtype
from nnfunc.calls import explain_calls

__all__ = [
    "constant",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "init_for",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "orthogonal",
    "scaled",
    "truncated_normal",
    "uniform",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]


def zeros(key: Key, shape: Shape, dtype: DType = jnp.float32) -> Array:
    """All 0.

    key: not used.
    shape, dtype: of the array.

    >>> nf.initializers.zeros(jax.random.key(0), (3, 2)).shape
    (3, 2)
    """
    check.array_bytes("zeros", shape, jnp.dtype(dtype).itemsize)
    return jnp.zeros(shape, dtype)


def ones(key: Key, shape: Shape, dtype: DType = jnp.float32) -> Array:
    """All 1.

    key: not used.
    shape, dtype: of the array.

    >>> nf.initializers.ones(jax.random.key(0), (3, 2)).shape
    (3, 2)
    """
    check.array_bytes("ones", shape, jnp.dtype(dtype).itemsize)
    return jnp.ones(shape, dtype)


def constant(value: Scalar) -> Initializer:
    """All `value`.

    >>> constant(0.5)(jax.random.key(0), (2,)).tolist()
    [0.5, 0.5]
    """
    check.number("constant", value=value)

    def init(key: Key, shape: Shape, dtype: DType = jnp.float32) -> Array:
        check.array_bytes("constant", shape, jnp.dtype(dtype).itemsize)
        return jnp.broadcast_to(jnp.asarray(value).astype(dtype), shape)

    return init


def normal(std: Scalar, *, mean: Scalar = 0.0) -> Initializer:
    """Normal values of a mean, 0 by default, and of standard deviation std >= 0.

    >>> normal(0.02)(jax.random.key(0), (3, 4)).shape
    (3, 4)
    """
    check.number("normal", low=0, std=std)
    check.number("normal", mean=mean)

    def init(key: Key, shape: Shape, dtype: DType = jnp.float32) -> Array:
        return _around(mean, _normal("normal", key, shape, dtype), dtype, std)

    return init


def truncated_normal(
    std: Scalar, lower: Scalar = -2.0, upper: Scalar = 2.0, *, mean: Scalar = 0.0, corrected: bool = False
) -> Initializer:
    """Values of a normal distribution around `mean`, truncated to mean + [lower * std, upper * std].

    std is that of the normal before truncation, as in PyTorch, jax and the models trained with
    std 0.02: truncated at 2, the values have a standard deviation of 0.8796 * std. With `corrected` theirs is
    std, and the bounds are [lower, upper] times the larger std of the normal.
    mean: of the normal before truncation, 0 by default; the bounds move with it. PyTorch's bounds are not in units
        of std: its usual [-2, 2] at std 0.02 truncates nothing, and its bounds stay where they are.
    Raises: ValueError when plain numbers are given and not std >= 0, lower < upper.
    Source: the variance of the truncated normal: Johnson, Kotz and Balakrishnan 1994, section 13.10.1.

    >>> nf.initializers.truncated_normal(0.02)(jax.random.key(0), (3, 2)).shape
    (3, 2)
    """
    check.number("truncated_normal", low=0, std=std)
    check.number("truncated_normal", mean=mean)
    if check.is_plain(lower):
        check.number("truncated_normal", low=float(lower), open_low=True, upper=upper)

    def init(key: Key, shape: Shape, dtype: DType = jnp.float32) -> Array:
        wide = _sample_dtype("truncated_normal", key, shape, dtype)
        low, high = jnp.asarray(lower).astype(wide), jnp.asarray(upper).astype(wide)
        draw = jax.random.truncated_normal(key, low, high, (math.prod(shape),), wide).reshape(shape)
        return _around(mean, draw / _cut_deviation(low, high) if corrected else draw, dtype, std)

    return init


def uniform(lower: Scalar, upper: Scalar) -> Initializer:
    """Uniform values in [lower, upper].

    Raises: ValueError when plain numbers are given and not lower <= upper.

    >>> nf.initializers.uniform(-0.1, 0.1)(jax.random.key(0), (3, 2)).shape
    (3, 2)
    """
    check.number("uniform", lower=lower, upper=upper)
    check.ordered("uniform", lower=lower, upper=upper)

    def init(key: Key, shape: Shape, dtype: DType = jnp.float32) -> Array:
        wide = _sample_dtype("uniform", key, shape, dtype)
        first, last = jnp.asarray(lower).astype(wide), jnp.asarray(upper).astype(wide)
        fraction = jax.random.uniform(key, (math.prod(shape),), wide).reshape(shape)
        return (first + (last - first) * fraction).astype(dtype)

    return init


def xavier_normal(key: Key, shape: Shape, dtype: DType = jnp.float32, *, gain: Scalar = 1.0) -> Array:
    """Normal weights that balance the variance of activations and gradients, for sigmoid and tanh.

    std = gain * sqrt(2 / (fan_in + fan_out)).
    key: a random key.
    shape: of the weights, fan_in in all axes but the last.
    dtype: float32 by default.
    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks",
    equation 12. PyTorch suggests gain 5/3 for tanh.

    >>> nf.initializers.xavier_normal(jax.random.key(0), (3, 2)).shape
    (3, 2)
    """
    fan_in, fan_out = _fans("xavier_normal", shape)
    draw = _normal("xavier_normal", key, shape, dtype)
    return _times(draw, dtype, math.sqrt(2 / (fan_in + fan_out)), gain)


def xavier_uniform(key: Key, shape: Shape, dtype: DType = jnp.float32, *, gain: Scalar = 1.0) -> Array:
    """Uniform weights with the variance of `xavier_normal`, in gain * sqrt(6 / (fan_in + fan_out)) * [-1, 1].

    key: a random key.
    shape: of the weights, fan_in in all axes but the last.
    dtype: float32 by default.
    Source: Glorot and Bengio 2010, equation 16.

    >>> w = xavier_uniform(jax.random.key(0), (4, 2))
    >>> bool(jnp.all(jnp.abs(w) <= 1))
    True
    """
    fan_in, fan_out = _fans("xavier_uniform", shape)
    draw = _uniform("xavier_uniform", key, shape, dtype)
    return _times(draw, dtype, math.sqrt(6 / (fan_in + fan_out)), gain)


def he_normal(key: Key, shape: Shape, dtype: DType = jnp.float32, *, gain: Scalar = 1.0) -> Array:
    """Normal weights that keep the variance of activations constant through relu layers.

    std = gain * sqrt(2 / fan_in), which includes the sqrt(2) of relu that PyTorch calls its gain.
    key: a random key.
    shape: of the weights, fan_in in all axes but the last.
    dtype: float32 by default.
    Source: He et al. 2015, arXiv:1502.01852, equation 10.

    >>> nf.initializers.he_normal(jax.random.key(0), (3, 2)).shape
    (3, 2)
    """
    fan_in, _ = _fans("he_normal", shape)
    return _times(_normal("he_normal", key, shape, dtype), dtype, math.sqrt(2 / fan_in), gain)


def he_uniform(key: Key, shape: Shape, dtype: DType = jnp.float32, *, gain: Scalar = 1.0) -> Array:
    """Uniform weights with the variance of `he_normal`, in gain * sqrt(6 / fan_in) * [-1, 1].

    key: a random key.
    shape: of the weights, fan_in in all axes but the last.
    dtype: float32 by default.

    >>> nf.initializers.he_uniform(jax.random.key(0), (3, 2)).shape
    (3, 2)
    """
    fan_in, _ = _fans("he_uniform", shape)
    return _times(_uniform("he_uniform", key, shape, dtype), dtype, math.sqrt(6 / fan_in), gain)


def lecun_normal(key: Key, shape: Shape, dtype: DType = jnp.float32, *, gain: Scalar = 1.0) -> Array:
    """Normal weights that keep the variance through linear layers, and through selu.

    std = gain * sqrt(1 / fan_in).
    key: a random key.
    shape: of the weights, fan_in in all axes but the last.
    dtype: float32 by default.
    Source: LeCun et al. 1998, "Efficient backprop", equation 16; Klambauer et al. 2017 for selu.

    >>> nf.initializers.lecun_normal(jax.random.key(0), (3, 2)).shape
    (3, 2)
    """
    fan_in, _ = _fans("lecun_normal", shape)
    return _times(_normal("lecun_normal", key, shape, dtype), dtype, math.sqrt(1 / fan_in), gain)


def lecun_uniform(key: Key, shape: Shape, dtype: DType = jnp.float32, *, gain: Scalar = 1.0) -> Array:
    """Uniform weights with the variance of `lecun_normal`, in gain * sqrt(3 / fan_in) * [-1, 1].

    key: a random key.
    shape: of the weights, fan_in in all axes but the last.
    dtype: float32 by default.

    >>> nf.initializers.lecun_uniform(jax.random.key(0), (3, 2)).shape
    (3, 2)
    """
    fan_in, _ = _fans("lecun_uniform", shape)
    return _times(_uniform("lecun_uniform", key, shape, dtype), dtype, math.sqrt(3 / fan_in), gain)


def orthogonal(key: Key, shape: Shape, dtype: DType = jnp.float32, *, gain: Scalar = 1.0) -> Array:
    """A random matrix whose columns (or rows, where they are fewer) are orthogonal, of length gain.

    Axes before the last count as rows. Drawn evenly over all such matrices: the sign of each column
    is that which makes the diagonal of R positive.
    key: a random key.
    shape: of the weights; all axes but the last are one.
    dtype: float32 by default.
    Source: Saxe et al. 2013, arXiv:1312.6120; Mezzadri 2006, arXiv:math-ph/0609050, for the sign.

    >>> w = orthogonal(jax.random.key(0), (5, 3), gain=2.0)
    >>> bool(jnp.allclose(w.T @ w, 4 * jnp.eye(3), atol=1e-5))
    True
    """
    _fans("orthogonal", shape)
    rows, columns = math.prod(shape[:-1]), shape[-1]
    if rows * columns == 0:
        return jnp.zeros(shape, dtype)
    tall = _normal("orthogonal", key, (max(rows, columns), min(rows, columns)), dtype)
    q, r = jnp.linalg.qr(tall)
    q = jnp.where(jnp.diagonal(r) < 0, -q, q)
    return _times((q if rows >= columns else q.T).reshape(shape), dtype, gain)


def variance_scaling(scale: Scalar = 1.0, mode: str = "fan_in", distribution: str = "normal") -> Initializer:
    """Weights of variance scale / n, where n is fan_in, fan_out or fan_avg, their mean.

    mode: "fan_in", "fan_out" or "fan_avg".
    distribution: "normal", "truncated_normal" (truncated at 2 deviations, then scaled to that variance) or
        "uniform".
    scale: at least 0.
    (2, "fan_in") is He, (1, "fan_avg") Xavier, (1, "fan_in") LeCun.
    Source: He et al. 2015 for the principle; the names are those of jax and TensorFlow.

    >>> variance_scaling(2.0, "fan_out", "uniform")(jax.random.key(0), (3, 3, 8, 16)).shape
    (3, 3, 8, 16)
    """
    check.number("variance_scaling", low=0, scale=scale)
    check.choice("variance_scaling", ("fan_in", "fan_out", "fan_avg"), mode=mode)
    shapes = ("normal", "truncated_normal", "uniform")
    check.choice("variance_scaling", shapes, distribution=distribution)

    def init(key: Key, shape: Shape, dtype: DType = jnp.float32) -> Array:
        fan_in, fan_out = _fans("variance_scaling", shape)
        n = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        wide = _sample_dtype("variance_scaling", key, shape, dtype)
        gain = jnp.sqrt(jnp.asarray(scale).astype(wide))
        if distribution == "truncated_normal":
            draw = truncated_normal(1.0, corrected=True)(key, shape, wide)
        elif distribution == "normal":
            draw = _normal("variance_scaling", key, shape, dtype)
        else:
            draw = math.sqrt(3) * _uniform("variance_scaling", key, shape, dtype)
        return _times(draw, dtype, math.sqrt(1 / n), gain)

    return init


def scaled(initializer: Initializer, gain: Scalar) -> Initializer:
    """The values of an initializer times gain.

    >>> scaled(ones, 3.0)(jax.random.key(0), (2,)).tolist()
    [3.0, 3.0]
    """
    check.number("scaled", gain=gain)

    def init(key: Key, shape: Shape, dtype: DType = jnp.float32) -> Array:
        return _times(initializer(key, shape, dtype), dtype, gain)

    return init


glorot_normal, glorot_uniform = xavier_normal, xavier_uniform
kaiming_normal, kaiming_uniform = he_normal, he_uniform

_XAVIER = (
    "sigmoid",
    "tanh",
    "softsign",
    "soft_sign",
    "hard_sigmoid",
    "hard_tanh",
    "soft_shrink",
    "hard_shrink",
    "tanh_shrink",
    "softmax",
    "softmin",
    "log_softmax",
)
_LECUN = ("identity", "linear", "selu", "bilinear_glu")
_HE = (
    "relu",
    "relu6",
    "leaky_relu",
    "prelu",
    "elu",
    "celu",
    "gelu",
    "gelu_tanh",
    "silu",
    "swish",
    "mish",
    "softplus",
    "log_sigmoid",
    "threshold",
    "hard_swish",
    "hard_silu",
    "squared_relu",
    "glu",
    "reglu",
    "geglu",
    "swiglu",
)
_SLOPES = {"leaky_relu": 0.01, "prelu": 0.25}


def init_for(
    activation: str | Callable[..., Any], *, distribution: str = "normal", slope: Scalar | None = None
) -> Initializer:
    """The initializer for the layer before an activation, which is a name or a function.

    Sigmoid, tanh, softsign, their hard forms, shrinkage, softmax: Xavier. Relu and its variants, smooth and gated ones
    too: He; for leaky relu and prelu with std = sqrt(2 / ((1 + slope^2) * fan_in)). Selu, identity
    and the bilinear glu, where it keeps the variance exactly: LeCun.
    distribution: "normal" or "uniform".
    slope: of leaky_relu (0.01 if not given, or what a functools.partial of it holds) and prelu (0.25, from which He
        et al. start it).
    Raises: ValueError for an activation without a rule, naming the nearest, and for a slope elsewhere.
    Source: Glorot and Bengio 2010; He et al. 2015, equation 15; Klambauer et al. 2017; Dauphin et al. 2016, section
    4, for He before glu.

    >>> init_for("tanh") is xavier_normal
    True
    """
    check.choice("init_for", ("normal", "uniform"), distribution=distribution)
    if isinstance(activation, functools.partial):
        if activation.func.__name__ in _SLOPES:
            slope = activation.keywords.get("slope", slope)
        activation = activation.func
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", "")
    if name not in _XAVIER + _LECUN + _HE:
        hint = check.nearest(name.lower(), _XAVIER + _LECUN + _HE)
        what = repr(name) if name else check.describe(activation)
        check.fail("init_for", f"there is no rule for the activation {what}{hint}")
    if slope is not None and name not in _SLOPES:
        expected = "slope should be given for leaky_relu and prelu only"
        check.fail("init_for", expected=expected, actual=f"it with {name!r}")
    plain = distribution == "normal"
    if name in _XAVIER:
        return xavier_normal if plain else xavier_uniform
    if name in _LECUN:
        return lecun_normal if plain else lecun_uniform
    he = he_normal if plain else he_uniform
    if name not in _SLOPES:
        return he
    slope = _SLOPES[name] if slope is None else slope
    check.number("init_for", slope=slope)
    return functools.partial(he, gain=(1 + slope * slope) ** -0.5)


def _fans(where: str, shape: Shape) -> tuple[int, int]:
    if len(shape) < 2:
        hint = "Use zeros, ones, constant, normal or uniform for vectors."
        check.fail(where, expected="shape should be [..., in, out]", actual=tuple(shape), hint=hint)
    fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape[:-2]) * shape[-1]
    return max(fan_in, 1), max(fan_out, 1)


def _sample_dtype(where: str, key: Key, shape: Shape, dtype: DType) -> DType:
    """The dtype to draw in: float32 for half precision, else dtype itself."""
    check.key(where, key)
    if not jnp.issubdtype(dtype, jnp.floating):
        check.fail(where, expected="dtype should be a floating type", actual=jnp.dtype(dtype), exc_type=TypeError)
    wide = wide_dtype(dtype)
    check.array_bytes(where, shape, jnp.dtype(wide).itemsize)
    return wide


def _normal(where: str, key: Key, shape: Shape, dtype: DType) -> Array:
    wide = _sample_dtype(where, key, shape, dtype)
    return jax.random.normal(key, (math.prod(shape),), wide).reshape(shape)


def _uniform(where: str, key: Key, shape: Shape, dtype: DType) -> Array:
    """Uniform in [-1, 1)."""
    wide = _sample_dtype(where, key, shape, dtype)
    return jax.random.uniform(key, (math.prod(shape),), wide, -1, 1).reshape(shape)


def _times(draw: Array, dtype: DType, *factors: Scalar) -> Array:
    """draw times the factors, as dtype; multiplied alike whether they are traced or plain."""
    factor = jnp.ones((), draw.dtype)
    for one in factors:
        check.number("initializer", gain=one)
        factor = factor * jnp.asarray(one).astype(draw.dtype)
    return (draw * factor).astype(dtype)


def _around(mean: Scalar, draw: Array, dtype: DType, std: Scalar) -> Array:
    """mean + std * draw, as dtype."""
    spread = _times(draw, draw.dtype, std)
    is_zero = check.is_plain(mean) and mean == 0
    return (spread if is_zero else spread + jnp.asarray(mean).astype(draw.dtype)).astype(dtype)


def _cut_deviation(low: Array, high: Array) -> Array:
    """The standard deviation of a standard normal cut at low and high; 0.8796 at -2 and 2."""

    def weight(bound):  # bound * density, 0 at infinity
        near = jnp.clip(bound, -40, 40)
        return near * density(near)

    def density(bound):
        return jnp.exp(-0.5 * bound * bound) / math.sqrt(2 * math.pi)

    root = math.sqrt(0.5)
    mass = 0.5 * (jax.lax.erf(high * root) - jax.lax.erf(low * root))
    mean = (density(low) - density(high)) / mass
    return jnp.sqrt(1 + (weight(low) - weight(high)) / mass - mean * mean)


explain_calls(__name__)
