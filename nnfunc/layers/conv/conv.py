"""Convolution in one, two and three dimensions; channels are last."""

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Initializer, Model, Out, fold
from nnfunc.combinators import wire
from nnfunc.layers.conv.algorithms import convolve
from nnfunc.layers.linear import INIT_HINT, add_bias
from nnfunc.layers.sliding_windows import Padding, Size, Windows, flatten_batch, parse_windows

NAMES = ("same", "valid", "circular", "causal")


def conv(
    in_dim: int,
    out_dim: int,
    kernel: Size,
    *,
    stride: Size = 1,
    padding: Padding = "same",
    dilation: Size = 1,
    groups: int = 1,
    bias: bool = True,
    dims: int = 2,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Model:
    """Each output is a linear map of a window: `y[i] = bias + sum_k x[i * stride + k] weight[k]`.

    Shapes: x [..., *spatial, in_dim] -> y [..., *windows, out_dim], with `dims` spatial axes;
    weight [*kernel, in_dim / groups, out_dim], bias [out_dim]. PyTorch's weight, [out_dim,
    in_dim / groups, *kernel], with its first two axes put last and swapped.
    in_dim, out_dim: the channels of x and y.
    kernel, stride, dilation: one number for all spatial axes or one for each; dilation is the distance of the
        elements of a window, `x[i * stride + k * dilation]`.
    dims: the number of spatial axes, 1, 2 or 3; that of the numbers of `kernel` where it has several.
    padding: "same", the default, because it keeps the size: ceil(n / stride) windows, zeros on both sides, the odd
        one after, which is the convention of TensorFlow and XLA (PyTorch has none with a stride). "valid": none.
        "circular": as many as "same", from the other side of x. "causal", with one spatial axis: all before, so
        that no output sees a later input. A number of zeros for every side, a number for each axis, or a pair
        (before, after) for each axis.
    While a sequence is generated, or read in chunks (`nf.generation.prefill` and `decode`), the state of a causal
    convolution holds the last inputs, [..., reach - 1, in_dim] as `inputs`; chunks are multiples of the stride.
    groups: the channels are split into so many groups; an output channel sees the input channels of its group.
    bias: whether to add one.
    weight_init, bias_init: the initializers.
    Raises: ValueError when in_dim is not the last axis of x, groups does not divide in_dim and out_dim, or no
    window fits.

    >>> model = nf.conv(1, 32, 3)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 28, 28, 1))).shape
    (5, 28, 28, 32)
    """
    check_groups("conv", in_dim, out_dim, groups)
    win = parse_windows("conv", kernel, stride, padding, dilation, dims, NAMES)
    return build_conv("conv", in_dim, out_dim, win, groups, bias, weight_init, bias_init)


def depthwise_conv(
    dim: int,
    kernel: Size,
    *,
    multiplier: int = 1,
    stride: Size = 1,
    padding: Padding = "same",
    dilation: Size = 1,
    bias: bool = True,
    dims: int = 2,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Model:
    """A convolution of each channel by itself: `conv` with dim groups, `multiplier` outputs a channel.

    Shapes: x [..., *spatial, dim] -> y [..., *windows, dim * multiplier], those of one channel side by
    side; weight [*kernel, 1, dim * multiplier], bias [dim * multiplier].

    dim: the channels of x.
    multiplier: the output channels of each, at least 1.
    kernel, stride, padding, dilation, bias, dims, weight_init, bias_init: as in `conv`.

    >>> model = nf.depthwise_conv(8, 7)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 14, 14, 8))).shape
    (5, 14, 14, 8)
    """
    check.size("depthwise_conv", dim=dim, multiplier=multiplier)
    win = parse_windows("depthwise_conv", kernel, stride, padding, dilation, dims, NAMES)
    out_dim = dim * multiplier
    return build_conv("depthwise_conv", dim, out_dim, win, dim, bias, weight_init, bias_init)


def separable_conv(
    in_dim: int,
    out_dim: int,
    kernel: Size,
    *,
    multiplier: int = 1,
    stride: Size = 1,
    padding: Padding = "same",
    dilation: Size = 1,
    bias: bool = True,
    dims: int = 2,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Model:
    """A depthwise convolution without bias, then a linear map of the channels at each position.

    Shapes: x [..., *spatial, in_dim] -> y [..., *windows, out_dim]; parameters depthwise/weight
    [*kernel, 1, in_dim * multiplier], pointwise/weight [*ones, in_dim * multiplier, out_dim] and
    pointwise/bias.

    in_dim, out_dim: the channels of x and y.
    multiplier: as in `depthwise_conv`. kernel, stride, padding and dilation belong to the depthwise part, bias and
        bias_init to the pointwise one; they, dims and weight_init are as in `conv`.
    Source: Chollet 2017, arXiv:1610.02357.

    >>> model = nf.separable_conv(8, 16, 3)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 14, 14, 8))).shape
    (5, 14, 14, 16)
    """
    check.size("separable_conv", in_dim=in_dim, out_dim=out_dim, multiplier=multiplier)
    dims = parse_windows("separable_conv", kernel, stride, padding, dilation, dims, NAMES).dims
    depthwise = depthwise_conv(
        in_dim,
        kernel,
        multiplier=multiplier,
        stride=stride,
        padding=padding,
        dilation=dilation,
        bias=False,
        dims=dims,
        weight_init=weight_init,
    )
    pointwise = conv(
        in_dim * multiplier, out_dim, 1, bias=bias, dims=dims, weight_init=weight_init, bias_init=bias_init
    )

    def flow(net, x):
        return net.pointwise(net.depthwise(x))

    return wire(flow, depthwise=depthwise, pointwise=pointwise)


def build_conv(
    where: str,
    in_dim: int,
    out_dim: int,
    win: Windows,
    groups: int,
    bias: bool,
    weight_init: Initializer,
    bias_init: Initializer,
) -> Model:
    """A convolution from checked arguments. where: the name of the layer."""
    shape = (*win.size, in_dim // groups, out_dim)

    def init(key):
        params = {"weight": weight_init(key, shape)}
        return params | {"bias": bias_init(fold(key, "bias"), (out_dim,))} if bias else params

    causal = win.padding == "causal"
    if causal:
        if win.dims != 1:
            expected, hint = "padding='causal' should have one spatial axis", "Set dims=1."
            check.fail(where, expected=expected, actual=win.dims, hint=hint)
        win = replace(win, padding=((win.span[0] - 1, 0),))
    continued = replace(win, padding="valid")

    def apply(params, x, win=win):
        flat, lead = flatten_batch(where, x, win.dims)
        check_channels(where, x, in_dim, win.dims)
        check.shape(where, shape, INIT_HINT, weight=params["weight"])
        y = convolve(flat, params["weight"], win, groups)
        y = add_bias(y, params["bias"]) if bias else y
        return y.reshape(*lead, *y.shape[1:])  # [..., *windows, out_dim]

    def forward(params, x, ctx):
        params, before = ctx.cast(params), win.span[0] - 1
        if ctx.cache is None or not before:
            return apply(params, x), Out(ctx.state)
        check_channels(where, x, in_dim, win.dims)
        time, stride = x.shape[-2], win.stride[0]
        if time % stride:
            expected = f"a chunk should be a multiple of the stride, {stride}"
            check.fail(where, expected=expected, actual=f"{time} positions")
        zeros = jnp.zeros((*x.shape[:-2], before, in_dim), x.dtype)
        whole = jnp.concatenate([ctx.state.get("inputs", zeros).astype(x.dtype), x], axis=-2)
        y = apply(params, whole, continued)
        return y, Out({"inputs": whole[..., time:, :]})

    return Model(init, forward=forward, name=where) if causal else Model(init, apply, name=where)


def check_groups(where: str, in_dim: int, out_dim: int, groups: int) -> None:
    """in_dim and out_dim are sizes, and groups divides both."""
    check.size(where, in_dim=in_dim, out_dim=out_dim, groups=groups)
    if in_dim % groups or out_dim % groups:
        actual = f"groups {groups}, in_dim {in_dim}, out_dim {out_dim}"
        check.fail(where, expected="groups should divide in_dim and out_dim", actual=actual)


def check_channels(where: str, x: Array, in_dim: int, dims: int, name: str = "in_dim") -> None:
    """The last axis of x is in_dim; the hint of the error follows from the shape of x."""
    shape: Any = getattr(x, "shape", ())
    images = "x" + str(list(shape[-dims:])).replace("[", "[..., ")
    channels = shape[-1] if shape else 0
    square = dims > 1 and len(shape) == dims + 1 and len(set(shape[-dims:])) == 1
    hint = ""
    if len(shape) > dims + 1 and shape[-dims - 1] == in_dim and channels > 4:
        hint = f"Channels are last: jnp.moveaxis(x, {-dims - 1}, -1)."
    elif square or (in_dim == 1 and channels > 4):
        with_channel = "" if in_dim == 1 else f", in a layer with {name}=1"
        hint = f"For {images} without a channel axis: x[..., None]{with_channel}."
    elif channels > 0:
        hint = f"Make this layer for {channels} channels, or let the one before it give {in_dim}."
        is_image = max(channels, in_dim) <= 4  # grey, with transparency, colours, or all of it
        hint += f" A model for such images has {name}={channels}." if is_image else ""
    check.last_axis(where, x, hint, **{name: in_dim})
