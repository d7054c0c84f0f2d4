"""Activations: plain functions x -> y that keep the shape and the type of x.

The gated ones (`glu` and its family) halve the last axis. Functions whose derivative costs as much
as their value compute both at once and keep the derivative for the backward pass; forward mode and
derivatives of any order work. Half-precision inputs are computed in float32 there and in `softmax`.
For large inputs, infinity too, values and derivatives are the limits, not NaN.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Scalar, canonicalize, widen
from nnfunc.calls import explain_calls

__all__ = [
    "bilinear_glu",
    "by_name",
    "celu",
    "elu",
    "geglu",
    "gelu",
    "gelu_tanh",
    "glu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "prelu",
    "quick_gelu",
    "reglu",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softmax",
    "softmin",
    "softplus",
    "softsign",
    "squared_relu",
    "swiglu",
    "swish",
    "tanh",
    "tanh_shrink",
    "threshold",
]


def identity(x: Array) -> Array:
    """`y = x`.

    >>> [round(float(y), 3) for y in nf.activations.identity(jnp.array([-2.0, 0.5, 3.0]))]
    [-2.0, 0.5, 3.0]
    """
    return _floats("identity", x)


def sigmoid(x: Array) -> Array:
    """`y = 1 / (1 + exp(-x))`, in (0, 1).

    >>> sigmoid(jnp.array([0.0, 1e4])).tolist()
    [0.5, 1.0]
    """
    return jax.nn.sigmoid(_floats("sigmoid", x))


def tanh(x: Array) -> Array:
    """`y = (exp(x) - exp(-x)) / (exp(x) + exp(-x))`, in (-1, 1).

    >>> [round(float(y), 3) for y in nf.activations.tanh(jnp.array([-2.0, 0.5, 3.0]))]
    [-0.964, 0.462, 0.995]
    """
    return jnp.tanh(_floats("tanh", x))


def relu(x: Array) -> Array:
    """`y = max(x, 0)`; the derivative at 0 is 0.

    >>> relu(jnp.array([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    return jax.nn.relu(_floats("relu", x))


def relu6(x: Array) -> Array:
    """`y = min(max(x, 0), 6)`; the derivative at 0 and at 6 is 0.

    Source: Howard et al. 2017 (MobileNets), arXiv:1704.04861; the derivative as in PyTorch.

    >>> [round(float(y), 3) for y in nf.activations.relu6(jnp.array([-2.0, 0.5, 3.0]))]
    [0.0, 0.5, 3.0]
    """
    return _relu6(_floats("relu6", x))


def leaky_relu(x: Array, slope: Scalar = 0.01) -> Array:
    """`y = x` where x > 0, else `slope * x`; the derivative at 0 is slope, as in PyTorch.

    Source: Maas et al. 2013, "Rectifier nonlinearities improve neural network acoustic models".

    >>> leaky_relu(jnp.array([-2.0, 2.0]), slope=0.25).tolist()
    [-0.5, 2.0]
    """
    x = _floats("leaky_relu", x)
    check.number("leaky_relu", slope=slope)
    return _leak(x, slope)


def prelu(x: Array, slope: Scalar) -> Array:
    """`leaky_relu` with a learned slope: one number, or one for each entry of the last axes.

    Shapes: x [..., dim]; slope [] or [dim] -> y [..., dim]. He et al. start from slope 0.25. A slope with more axes
    belongs to as many last axes of x, such as [height, width, dim]; an axis of 1 shares its slopes.
    Raises: ValueError when slope has another shape.
    Source: He et al. 2015, arXiv:1502.01852, section 2.1.

    >>> prelu(jnp.array([-2.0, -2.0]), jnp.array([0.25, 0.5])).tolist()
    [-0.5, -1.0]
    """
    x = _floats("prelu", x)
    axes = np.ndim(slope)
    last = x.shape[max(x.ndim - axes, 0) :]
    if axes > x.ndim or any(size not in (1, n) for size, n in zip(np.shape(slope), last, strict=True)):
        hint = "One number serves all entries."
        check.shape("prelu", last if axes > 1 else x.shape[-1:], hint, slope=slope)
    return _leak(x, slope)


def elu(x: Array, alpha: Scalar = 1.0) -> Array:
    """`y = x` where x > 0, else `alpha * (exp(x) - 1)`.

    Source: Clevert et al. 2015, arXiv:1511.07289, equation 15.

    >>> elu(jnp.array([-1e4, 2.0]), alpha=0.5).tolist()
    [-0.5, 2.0]
    """
    x = _floats("elu", x)
    check.number("elu", alpha=alpha)
    return jnp.where(x > 0, x, _like(x, alpha) * jnp.expm1(_negative_part(x)))


def selu(x: Array) -> Array:
    """`1.0507 * elu(x, 1.6733)`: keeps mean 0 and variance 1 through layers with LeCun weights.

    Source: Klambauer et al. 2017, arXiv:1706.02515, equation 2, with the constants of its code.

    >>> [round(float(y), 3) for y in nf.activations.selu(jnp.array([-2.0, 0.5, 3.0]))]
    [-1.52, 0.525, 3.152]
    """
    x = _floats("selu", x)
    return 1.0507009873554804934193349852946 * elu(x, 1.6732632423543772848170429916717)


def celu(x: Array, alpha: Scalar = 1.0) -> Array:
    """`y = x` where x > 0, else `alpha * (exp(x / alpha) - 1)`: smooth at 0 for every alpha > 0.

    Raises: ValueError when alpha is a plain number and not above 0.
    Source: Barron 2017, arXiv:1704.07483.

    >>> [round(float(y), 3) for y in nf.activations.celu(jnp.array([-2.0, 0.5, 3.0]))]
    [-0.865, 0.5, 3.0]
    """
    x = _floats("celu", x)
    check.number("celu", low=0, open_low=True, alpha=alpha)
    alpha = _like(x, alpha)
    return jnp.where(x > 0, x, alpha * jnp.expm1(_negative_part(x) / alpha))


def gelu(x: Array) -> Array:
    """`y = x * Phi(x)`, with Phi the distribution function of the standard normal, by erf.

    The exact form: PyTorch's default, and `jax.nn.gelu(x, approximate=False)`.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.

    >>> gelu(jnp.array([-1e4, 0.0, 1e4])).tolist()
    [-0.0, 0.0, 10000.0]
    """
    return _gelu(_floats("gelu", x))


def gelu_tanh(x: Array) -> Array:
    """`y = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`, within 5e-4 of `gelu`.

    The form GPT-2 and BERT were trained with, and `jax.nn.gelu(x, approximate=True)`.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.

    >>> [round(float(y), 3) for y in nf.activations.gelu_tanh(jnp.array([-2.0, 0.5, 3.0]))]
    [-0.045, 0.346, 2.996]
    """
    return _gelu_tanh(_floats("gelu_tanh", x))


def quick_gelu(x: Array) -> Array:
    """`y = x * sigmoid(1.702 * x)`, within 0.021 of `gelu`: that of CLIP.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2.

    >>> [round(float(y), 3) for y in nf.activations.quick_gelu(jnp.array([-2.0, 0.5, 3.0]))]
    [-0.064, 0.35, 2.982]
    """
    return silu(1.702 * x) / 1.702


def silu(x: Array) -> Array:
    """`y = x * sigmoid(x)`, also called swish.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415; Ramachandran et al. 2017, arXiv:1710.05941.

    >>> [round(float(y), 3) for y in nf.activations.silu(jnp.array([-2.0, 0.5, 3.0]))]
    [-0.238, 0.311, 2.858]
    """
    return _silu(_floats("silu", x))


def mish(x: Array) -> Array:
    """`y = x * tanh(softplus(x))`.

    Source: Misra 2019, arXiv:1908.08681.

    >>> [round(float(y), 3) for y in nf.activations.mish(jnp.array([-2.0, 0.5, 3.0]))]
    [-0.253, 0.375, 2.987]
    """
    return _mish(_floats("mish", x))


def softplus(x: Array, beta: Scalar = 1.0, threshold: Scalar = math.inf) -> Array:
    """`y = log(1 + exp(beta * x)) / beta`, exact for large x too.

    beta: above 0; the larger, the nearer to `relu`.
    threshold: y is x where beta * x is above it, 20 in PyTorch; infinity, the default, is off, for nothing
        overflows.

    >>> softplus(jnp.array([-1e4, 1e4])).tolist()
    [0.0, 10000.0]
    """
    x = _floats("softplus", x)
    check.number("softplus", low=0, open_low=True, beta=beta)
    check.number("softplus", threshold=threshold)
    plain = all(map(check.is_plain, (beta, threshold)))
    if plain and beta == 1 and threshold == math.inf:
        return _softplus(x)
    wide = widen(x)
    beta, threshold = _like(wide, beta), _like(wide, threshold)
    return jnp.where(beta * wide > threshold, wide, _softplus(beta * wide) / beta).astype(x.dtype)


def log_sigmoid(x: Array) -> Array:
    """`y = log(1 / (1 + exp(-x)))`: the logarithm of `sigmoid`, below 0 and exact for large negative x.

    >>> [round(float(y), 3) for y in nf.activations.log_sigmoid(jnp.array([-1e4, 0.0, 3.0]))]
    [-10000.0, -0.693, -0.049]
    """
    return -_softplus(-_floats("log_sigmoid", x))


def softsign(x: Array) -> Array:
    """`y = x / (1 + |x|)`, in (-1, 1).

    >>> [round(float(y), 3) for y in nf.activations.softsign(jnp.array([-2.0, 0.5, 3.0]))]
    [-0.667, 0.333, 0.75]
    """
    return _softsign(_floats("softsign", x))


def hard_sigmoid(x: Array, slope: Scalar = 1 / 6) -> Array:
    """`y = min(max(slope * x + 1 / 2, 0), 1)`; the derivative is 0 where y is 0 or 1.

    slope: 1/6, as in PyTorch and Keras 3; 0.2 in Keras 2 and Theano.
    Source: Howard et al. 2019 (MobileNetV3), arXiv:1905.02244; Courbariaux et al. 2015, arXiv:1511.00363.

    >>> [round(float(y), 3) for y in nf.activations.hard_sigmoid(jnp.array([-2.0, 0.5, 3.0]))]
    [0.167, 0.583, 1.0]
    """
    x = _floats("hard_sigmoid", x)
    check.number("hard_sigmoid", slope=slope)
    if check.is_plain(slope) and slope == 1 / 6:
        return _relu6(x + 3) / 6
    wide = widen(x)
    return _clip(0.5 + _like(wide, slope) * wide, 0, 1).astype(x.dtype)


def hard_tanh(x: Array, lower: Scalar = -1.0, upper: Scalar = 1.0) -> Array:
    """`y = min(max(x, lower), upper)`; the derivative at the limits is 0.

    lower, upper: the limits, lower at most upper.
    Raises: ValueError when plain limits are in the wrong order.
    Source: Collobert 2004, "Large scale machine learning"; the derivative as in PyTorch.

    >>> hard_tanh(jnp.array([-2.0, 0.5, 3.0])).tolist()
    [-1.0, 0.5, 1.0]
    """
    x = _floats("hard_tanh", x)
    check.number("hard_tanh", lower=lower, upper=upper)
    check.ordered("hard_tanh", lower=lower, upper=upper)
    return _clip(x, lower, upper)


def soft_shrink(x: Array, threshold: Scalar = 0.5) -> Array:
    """`y = sign(x) * max(|x| - threshold, 0)`: towards 0 by the threshold.

    threshold: at least 0. The derivative at the threshold is 0.
    Source: Donoho 1995, "De-noising by soft-thresholding".

    >>> soft_shrink(jnp.array([-2.0, 0.25, 3.0])).tolist()
    [-1.5, 0.0, 2.5]
    """
    x = _floats("soft_shrink", x)
    check.number("soft_shrink", low=0, threshold=threshold)
    threshold = _like(x, threshold)
    return jnp.where(x > threshold, x - threshold, jnp.where(x < -threshold, x + threshold, x * 0))


def hard_shrink(x: Array, threshold: Scalar = 0.5) -> Array:
    """`y = x` where |x| is above the threshold, else 0.

    threshold: at least 0. The derivative at the threshold is 0.
    Source: Donoho and Johnstone 1994, "Ideal spatial adaptation by wavelet shrinkage".

    >>> hard_shrink(jnp.array([-2.0, 0.25, 3.0])).tolist()
    [-2.0, 0.0, 3.0]
    """
    x = _floats("hard_shrink", x)
    check.number("hard_shrink", low=0, threshold=threshold)
    return jnp.where(jnp.abs(x) <= _like(x, threshold), jnp.zeros((), x.dtype), x)


def tanh_shrink(x: Array) -> Array:
    """`y = x - tanh(x)`, which is nearly 0 around 0.

    >>> [round(float(y), 3) for y in nf.activations.tanh_shrink(jnp.array([-2.0, 0.5, 3.0]))]
    [-1.036, 0.038, 2.005]
    """
    return _tanh_shrink(_floats("tanh_shrink", x))


def threshold(x: Array, threshold: Scalar = 0.0, value: Scalar = 0.0) -> Array:
    """`y = x` where x is above the threshold, else `value`; by default `relu`.

    threshold, value: any numbers. The derivative at the threshold is 0. NaN stays.

    >>> nf.activations.threshold(jnp.array([-2.0, 0.5, 3.0]), 1.0, value=-1.0).tolist()
    [-1.0, -1.0, 3.0]
    """
    x = _floats("threshold", x)
    check.number("threshold", threshold=threshold, value=value)
    return jnp.where(x <= _like(x, threshold), _like(x, value), x)


def hard_swish(x: Array) -> Array:
    """`y = x * hard_sigmoid(x)`; the derivative is 0 up to -3 and 1 from 3 on.

    Source: Howard et al. 2019 (MobileNetV3), arXiv:1905.02244, section 5.2.

    >>> [round(float(y), 3) for y in nf.activations.hard_silu(jnp.array([-2.0, 0.5, 3.0]))]
    [-0.333, 0.292, 3.0]
    """
    return _hard_swish(_floats("hard_swish", x))


def squared_relu(x: Array) -> Array:
    """`y = max(x, 0)^2`.

    Source: So et al. 2021 (Primer), arXiv:2109.08668.

    >>> [round(float(y), 3) for y in nf.activations.squared_relu(jnp.array([-2.0, 0.5, 3.0]))]
    [0.0, 0.25, 9.0]
    """
    return jnp.square(relu(_floats("squared_relu", x)))


def softmax(x: Array, axis: int = -1) -> Array:
    """`y = exp(x) / sum(exp(x))` along axis: positive numbers that sum to 1.

    An entry of -inf has probability 0; a row of -inf alone gives NaN.

    >>> softmax(jnp.array([1e4, 1e4])).tolist()
    [0.5, 0.5]
    """
    x = _with_axis("softmax", x, axis)
    return jax.nn.softmax(widen(x), axis=axis).astype(x.dtype)


def softmin(x: Array, axis: int = -1) -> Array:
    """`y = exp(-x) / sum(exp(-x))` along axis: positive numbers that sum to 1, the largest for the smallest x.

    axis: of x, the last one by default.

    >>> [round(float(y), 3) for y in nf.activations.softmin(jnp.array([-2.0, 0.5, 3.0]))]
    [0.918, 0.075, 0.006]
    """
    return softmax(-_with_axis("softmin", x, axis), axis)


def log_softmax(x: Array, axis: int = -1) -> Array:
    """`y = x - log(sum(exp(x)))` along axis: log-probabilities, in nats.

    >>> [round(float(y), 3) for y in nf.activations.log_softmax(jnp.array([-2.0, 0.5, 3.0]))]
    [-5.085, -2.585, -0.085]
    """
    x = _with_axis("log_softmax", x, axis)
    return jax.nn.log_softmax(widen(x), axis=axis).astype(x.dtype)


def glu(x: Array) -> Array:
    """`y = a * sigmoid(b)`, where a is the first half of the last axis of x, and b the second.

    PyTorch's order; Shazeer's paper writes the gate first. The same holds for the whole family.
    Shapes: x [..., 2 * dim] -> y [..., dim].
    Raises: ValueError when the last axis is odd.
    Source: Dauphin et al. 2016, arXiv:1612.08083; Shazeer 2020, arXiv:2002.05202, for the family.

    >>> glu(jnp.array([3.0, 4.0, 0.0, 1e4])).tolist()
    [1.5, 4.0]
    """
    a, b = _halves("glu", x)
    return a * sigmoid(b)


def bilinear_glu(x: Array) -> Array:
    """`y = a * b`, the two halves of the last axis: a `glu` without a gate function.

    x: [..., 2 n] floats, of which the last axis is halved.

    >>> [round(float(y), 3) for y in nf.activations.bilinear_glu(jnp.array([1.0, 2.0, 0.5, -1.0]))]
    [0.5, -2.0]
    """
    a, b = _halves("bilinear_glu", x)
    return a * b


def reglu(x: Array) -> Array:
    """`y = a * relu(b)`, with the halves a, b of `glu`.

    x: [..., 2 n] floats, of which the last axis is halved.

    >>> [round(float(y), 3) for y in nf.activations.reglu(jnp.array([1.0, 2.0, 0.5, -1.0]))]
    [0.5, 0.0]
    """
    a, b = _halves("reglu", x)
    return a * relu(b)


def geglu(x: Array) -> Array:
    """`y = a * gelu(b)`, with the halves a, b of `glu` and the exact gelu.

    x: [..., 2 n] floats, of which the last axis is halved.

    >>> [round(float(y), 3) for y in nf.activations.geglu(jnp.array([1.0, 2.0, 0.5, -1.0]))]
    [0.346, -0.317]
    """
    a, b = _halves("geglu", x)
    return a * gelu(b)


def swiglu(x: Array) -> Array:
    """`y = a * silu(b)`, with the halves a, b of `glu`.

    x: [..., 2 n] floats, of which the last axis is halved.

    >>> [round(float(y), 3) for y in nf.activations.swiglu(jnp.array([1.0, 2.0, 0.5, -1.0]))]
    [0.311, -0.538]
    """
    a, b = _halves("swiglu", x)
    return a * silu(b)


swish = silu
hard_silu = hard_swish


def by_name(name: str) -> Callable[[Array], Array]:
    """The activation x -> y of a name in a config; `linear`, `swish` and `hard_silu` are names too.

    Raises: ValueError naming the nearest activations when there is none of this name.

    >>> by_name("swish") is silu
    True
    """
    if name == "prelu":
        hint = "Use 'leaky_relu' for a fixed slope, or the layer nf.prelu() where a layer can be given."
        check.fail("activation", "'prelu' has a learned slope, so it is no function.", hint=hint)
    if name not in _BY_NAME:
        hint = check.nearest(str(name).lower(), _BY_NAME)
        check.fail("activation", f"there is no activation {name!r}{hint}")
    return _BY_NAME[name]


def _floats(where: str, x: Array) -> Array:
    """x as an array of floats, or an error."""
    x = jnp.asarray(x) if isinstance(x, float) else canonicalize(x, where)
    check.floating(where, x=x)
    return jnp.asarray(x)


def _with_axis(where: str, x: Array, axis: int) -> Array:
    x = _floats(where, x)
    if not -x.ndim <= axis < x.ndim:
        check.fail(where, expected="axis should be an axis of x", actual=f"{axis} and x of shape {x.shape}")
    return x


def _halves(where: str, x: Array) -> tuple[Array, Array]:
    x = _floats(where, x)
    if x.ndim < 1 or x.shape[-1] % 2:
        expected = "the last axis of x should be even, to be split in two halves"
        hint = "Let the layer before it give 2 * dim features."
        check.fail(where, expected=expected, actual=f"shape {x.shape}", hint=hint)
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]


def _like(x: Array, value: Scalar) -> Array:
    """A number, maybe traced, in the type of x: strict promotion mixes no two types."""
    return jnp.asarray(value).astype(x.dtype)


def _negative_part(x: Array) -> Array:
    """min(x, 0), for the branch of a `where` that holds for x <= 0: elsewhere nothing overflows."""
    return jnp.where(x > 0, jnp.zeros((), x.dtype), x)


def _leak(x: Array, slope: Scalar) -> Array:
    slope = jax.lax.broadcast_to_rank(_like(x, slope), x.ndim)
    return jnp.where(x > 0, x, slope * _negative_part(x))


@jax.custom_jvp
def _relu6(x):
    return jnp.clip(x, 0, 6)


_relu6.defjvps(lambda tangent, y, x: jnp.where((x > 0) & (x < 6), tangent, jnp.zeros_like(tangent)))


def _clip(x: Array, lower: Scalar, upper: Scalar) -> Array:
    """x between the limits, with a derivative of 0 at them; NaN stays."""
    lower, upper = _like(x, lower), _like(x, upper)
    return jnp.where(x <= lower, lower, jnp.where(x >= upper, upper, x))


def _keeping(value_and_slope: Callable[[Array], tuple[Array, Array]]) -> Callable[[Array], Array]:
    """The function x -> y of `value_and_slope(x) -> (y, dy/dx)`, which saves dy/dx for its derivative.

    A jvp rule, so that forward mode works; plain JAX inside, so that higher derivatives do.
    """

    @jax.custom_jvp
    def function(x):
        return value_and_slope(widen(x))[0].astype(x.dtype)

    @function.defjvp
    def rule(primals, tangents):
        (x,), (tangent,) = primals, tangents
        y, slope = value_and_slope(widen(x))
        return y.astype(x.dtype), slope.astype(x.dtype) * tangent

    return function


# The functions below stop x where the answer no longer changes in float64: no inf * 0 arises.


@_keeping
def _gelu(x):
    near = jnp.clip(x, -40, 40)
    below = 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))
    density = jnp.exp(-0.5 * near * near) * (1 / math.sqrt(2 * math.pi))
    return jnp.maximum(x, -40) * below, below + near * density


@_keeping
def _gelu_tanh(x):
    near = jnp.clip(x, -25, 25)
    twice = 2 * math.sqrt(2 / math.pi)  # (1 + tanh(u)) / 2 = sigmoid(2 u)
    gate = jax.nn.sigmoid(twice * (near + 0.044715 * near * near * near))
    inner = twice * (1 + 3 * 0.044715 * near * near)
    return jnp.maximum(x, -25) * gate, gate + near * gate * (1 - gate) * inner


@_keeping
def _silu(x):
    near = jnp.clip(x, -800, 800)
    gate = jax.nn.sigmoid(x)
    return jnp.maximum(x, -800) * gate, gate * (1 + near * (1 - gate))


@_keeping
def _mish(x):
    near = jnp.clip(x, -800, 20)
    e = jnp.exp(near)
    n = e * (e + 2)  # tanh(log(1 + e)) = ((1 + e)^2 - 1) / ((1 + e)^2 + 1) = n / (n + 2)
    gate = n / (n + 2)
    return jnp.maximum(x, -800) * gate, gate + near * (2 * e / (n + 2)) * (2 * (1 + e) / (n + 2))


@_keeping
def _softplus(x):
    return jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))), jax.nn.sigmoid(x)


@_keeping
def _tanh_shrink(x):
    tanh = jnp.tanh(x)
    return x - tanh, tanh * tanh


@_keeping
def _softsign(x):
    near = jnp.clip(x, -1e30, 1e30)
    shrink = 1 / (1 + jnp.abs(near))
    return near * shrink, shrink * shrink


@_keeping
def _hard_swish(x):
    gate = jnp.clip(x + 3, 0, 6) / 6
    bend = jnp.where((x > -3) & (x < 3), x / 6, jnp.zeros_like(x))
    return jnp.maximum(x, -3) * gate, gate + bend


explain_calls(__name__)

_BY_NAME = {name: globals()[name] for name in __all__ if name not in ("by_name", "prelu")} | {"linear": identity}
