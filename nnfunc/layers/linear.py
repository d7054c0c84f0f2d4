"""Linear maps: of one input, of two, and the elementwise ones with learned numbers."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax.lax import broadcast_to_rank

from nnfunc import activations, check, initializers
from nnfunc.base import Array, Initializer, Model, Scalar, fold, is_partitioned, widen

INIT_HINT = "Were the parameters made by this model's init?"


def linear(
    in_dim: int,
    out_dim: int,
    *,
    bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Model:
    """Affine map of the last axis: `y = x @ weight + bias`.

    in_dim, out_dim: the widths of x and y, at least 1.
    bias: whether to add one.
    weight_init: of the matrix.
    bias_init: of the bias, zeros by default.
    Shapes: x [..., in_dim] -> y [..., out_dim]; weight [in_dim, out_dim], bias [out_dim].
    Raises: ValueError when the last axis of x is not in_dim.

    >>> model = nf.linear(3, 2)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((4, 3))).shape
    (4, 2)
    """
    check.size("linear", in_dim=in_dim, out_dim=out_dim)

    def init(key):
        params = {"weight": weight_init(key, (in_dim, out_dim))}
        return params | {"bias": bias_init(fold(key, "bias"), (out_dim,))} if bias else params

    def apply(params, x):
        check.last_axis("linear", x, in_dim=in_dim, hint=_hint(x, in_dim, out_dim))
        check.shape("linear", (in_dim, out_dim), INIT_HINT, weight=params["weight"])
        y = matmul_rows(x, params["weight"])
        return add_bias(y, params["bias"]) if bias else y

    return Model(init, apply)


def _hint(x: Array, in_dim: int, out_dim: int) -> str:
    """What to do when the last axis of x is not in_dim."""
    shape = getattr(x, "shape", ())
    if math.prod(shape[1:]) == in_dim:
        return f"To flatten images first: serial(nf.flatten, nf.linear({in_dim}, {out_dim}))."
    if len(shape) > 1 and math.prod(shape) == in_dim:
        return "If x is one example, add its batch axis first: x[None]."
    size = shape[-1] if shape else 1
    return f"Make this linear({size}, {out_dim}), or let the layer before it give {in_dim} features."


def matmul_rows(x: Array, weight: Array) -> Array:
    """`x @ weight` for x with any leading axes, as one product of two matrices.

    XLA's weight gradient of a batched product is slow on CPU.
    Shapes: x [..., in_dim], weight [in_dim, out_dim] -> [..., out_dim].
    """
    if is_partitioned():  # where a product of all rows would move them between devices
        return x @ weight
    y = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ weight  # [rows, out_dim]
    return y.reshape(*x.shape[:-1], weight.shape[-1])  # [..., out_dim]


def add_bias(y: Array, bias: Array) -> Array:
    """`y + bias`, whose gradient, a sum over all rows, is computed in float32 at least.

    XLA on CPU sums bfloat16 in bfloat16, where 256 + 1 is 256.
    """
    return (widen(y) + broadcast_to_rank(widen(bias), y.ndim)).astype(y.dtype)


def bilinear(
    left_dim: int,
    right_dim: int,
    out_dim: int,
    *,
    bias: bool = True,
    weight_init: Initializer = initializers.lecun_normal,
) -> Model:
    """A map linear in each of two inputs: `y_k = sum_ij left_i weight_ijk right_j + bias_k`.

    left_dim, right_dim, out_dim: the widths of both inputs and of y.
    bias: whether to add one.
    weight_init: of the weight.
    Shapes: x is a pair (left [..., left_dim], right [..., right_dim]) -> y [..., out_dim]; weight [left_dim,
    right_dim, out_dim], with fan-in left_dim * right_dim; bias [out_dim].
    Raises: ValueError when an axis has another size, or the leading axes differ.

    >>> model = nf.bilinear(3, 4, 2)
    >>> model.apply(model.init(jax.random.key(0)), (jnp.ones((5, 3)), jnp.ones((5, 4)))).shape
    (5, 2)
    """
    check.size("bilinear", left_dim=left_dim, right_dim=right_dim, out_dim=out_dim)

    def init(key):
        weight = weight_init(key, (left_dim * right_dim, out_dim))
        params = {"weight": weight.reshape(left_dim, right_dim, out_dim)}  # from [left_dim * right_dim, out_dim]
        return params | {"bias": jnp.zeros(out_dim, jnp.float32)} if bias else params

    def apply(params, x):
        if not isinstance(x, tuple | list) or len(x) != 2:
            actual = check.describe(x)
            check.fail("bilinear", expected="x should be a pair (left, right)", actual=actual, exc_type=TypeError)
        first, second = x
        check.last_axis("bilinear: left", first, left_dim=left_dim)
        check.last_axis("bilinear: right", second, right_dim=right_dim)
        if first.shape[:-1] != second.shape[:-1]:
            expected = "left and right should have the same leading axes"
            check.fail("bilinear", expected=expected, actual=f"shapes {first.shape} and {second.shape}")
        inner = matmul_rows(first, params["weight"].reshape(left_dim, right_dim * out_dim))
        inner = inner.reshape(*first.shape[:-1], right_dim, out_dim)  # [..., right_dim, out_dim]
        y = (second[..., None] * inner).sum(-2)
        return add_bias(y, params["bias"]) if bias else y

    return Model(init, apply)


def bias(dim: int, *, bias_init: Initializer = initializers.zeros) -> Model:
    """`y = x + bias`. Shapes: x [..., dim] -> y [..., dim]; bias [dim].

    dim: the width of x.
    bias_init: zeros by default.

    >>> model = nf.bias(3)
    >>> model.apply({"bias": jnp.arange(3.0)}, jnp.ones(3))
    Array([1., 2., 3.], dtype=float32)
    """
    check.size("bias", dim=dim)

    def init(key):
        return {"bias": bias_init(key, (dim,))}

    def apply(params, x):
        check.last_axis("bias", x, dim=dim)
        return add_bias(x, params["bias"])

    return Model(init, apply)


def scale(dim: int, *, initial: Scalar = 1.0) -> Model:
    """`y = scale * x`, a learned factor for each channel, `initial` at first.

    dim: the width of x.
    initial: the factor at first; small ones on residual branches are the LayerScale of arXiv:2103.17239.
    Shapes: x [..., dim] -> y [..., dim]; scale [dim].

    >>> model = nf.scale(3, initial=0.5)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones(3))
    Array([0.5, 0.5, 0.5], dtype=float32)
    """
    check.size("scale", dim=dim)
    check.number("scale", initial=initial)

    def init(key):
        return {"scale": jnp.full(dim, initial, jnp.float32)}

    def apply(params, x):
        check.last_axis("scale", x, dim=dim)
        return (widen(x) * broadcast_to_rank(widen(params["scale"]), x.ndim)).astype(x.dtype)

    return Model(init, apply)


def prelu(dim: int | Sequence[int] = 1, *, initial: Scalar = 0.25) -> Model:
    """Leaky ReLU with a learned slope below zero, one for all channels or one for each.

    dim: the number of slopes, 1 or that of the channels; with 1 x may also be a single number. Or the sizes of the
        last axes of x, such as (height, width, channels), for a slope at each position; an axis of 1 shares them.
    initial: the slope at first; 0.25 as in the paper.
    Shapes: x [..., channels] -> y of the same shape; slope [dim], or [*dim].
    Source: He et al. 2015, arXiv:1502.01852.

    >>> model = nf.prelu()
    >>> model.apply(model.init(jax.random.key(0)), jnp.array([-4.0, 2.0]))
    Array([-1.,  2.], dtype=float32)
    >>> nf.prelu((1, 1, 3)).init(jax.random.key(0))["slope"].shape
    (1, 1, 3)
    """
    shape = tuple(dim) if isinstance(dim, Sequence) else (dim,)
    if not shape:
        check.fail("prelu", expected="dim should be the sizes of one axis or more", actual=shape)
    for size in shape:
        check.size("prelu", dim=size)
    check.number("prelu", initial=initial)

    def init(key):
        return {"slope": jnp.full(shape, initial, jnp.float32)}

    def apply(params, x):
        check.floating("prelu", x=x)
        if len(shape) == 1 and shape[0] > 1:
            check.last_axis("prelu", x, dim=shape[0])
        slope = params["slope"] if shape != (1,) else params["slope"].reshape(())  # [1] -> []
        return activations.prelu(widen(x), widen(slope)).astype(x.dtype)

    return Model(init, apply)
