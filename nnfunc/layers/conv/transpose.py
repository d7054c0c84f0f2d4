"""Transposed convolution, as PyTorch has it."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax

from nnfunc import check, initializers, tuning
from nnfunc.base import Array, Initializer, Model, Shape, fold, vary_like
from nnfunc.layers.conv.channels_last import ConvPlan, spread
from nnfunc.layers.conv.conv import check_channels, check_groups
from nnfunc.layers.linear import INIT_HINT, add_bias
from nnfunc.layers.sliding_windows import Size, Windows, flatten_batch, parse_windows, per_axis


def conv_transpose(
    in_dim: int,
    out_dim: int,
    kernel: Size,
    *,
    stride: Size = 1,
    padding: Literal["same", "valid"] | int | Sequence[int | Sequence[int]] = 0,
    output_padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
    bias: bool = True,
    dims: int = 2,
    weight_init: Initializer = initializers.lecun_normal,
    bias_init: Initializer = initializers.zeros,
) -> Model:
    """The transpose of a convolution: each input adds itself times the kernel to a window of y.

    `y[i * stride + k * dilation - padding] += x[i] weight[k]`, so along each axis the size becomes
    `(n - 1) * stride - before - after + (kernel - 1) * dilation + 1 + output_padding`.
    Shapes: x [..., *spatial, in_dim] -> y [..., *sizes, out_dim]; bias [out_dim]; weight [*kernel,
    in_dim, out_dim / groups]: PyTorch's, [in_dim, out_dim / groups, *kernel], with two axes put last.
    in_dim, out_dim: the channels of x and y.
    kernel, stride, dilation, groups, bias, dims, weight_init, bias_init: as in `conv`.
    padding: the number of values cut off y: one for every side, one for each axis, or pairs (before, after); 0 by
        default, as in PyTorch; "valid" is 0; "same" cuts y to n * stride, as the transpose of `conv` with "same".
    output_padding: further values at the end of each axis, below stride or dilation.
    Raises: ValueError as `conv` does, or when padding cuts off all of y.
    Source: PyTorch's ConvTranspose1d, 2d and 3d.

    >>> model = nf.conv_transpose(8, 4, 2, stride=2)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((5, 7, 7, 8))).shape
    (5, 14, 14, 4)
    """
    where = "conv_transpose"
    check_groups(where, in_dim, out_dim, groups)
    win = parse_windows(where, kernel, stride, padding, dilation, dims, ("same", "valid"))
    extra = _extra(output_padding, win)
    shape = (*win.size, in_dim, out_dim // groups)

    def init(key):
        weight = weight_init(key, (*win.size, in_dim // groups, out_dim))
        params = {"weight": _groups_first(weight, groups)}
        return params | {"bias": bias_init(fold(key, "bias"), (out_dim,))} if bias else params

    def apply(params, x):
        flat, lead = flatten_batch(where, x, win.dims)
        check_channels(where, x, in_dim, win.dims)
        check.shape(where, shape, INIT_HINT, weight=params["weight"])
        cut = _cut(win, extra, flat.shape[1:-1])
        dtype = jnp.result_type(flat, params["weight"])
        y = _transposed(flat.astype(dtype), params["weight"].astype(dtype), win, cut, groups)
        y = add_bias(y, params["bias"]) if bias else y
        return y.reshape(*lead, *y.shape[1:])  # [..., *sizes, out_dim]

    return Model(init, apply)


def _extra(output_padding: Size, win: Windows) -> tuple[int, ...]:
    extra = per_axis(win.where, "output_padding", output_padding, win.dims, 0)
    for value, stride, dilation in zip(extra, win.stride, win.dilation, strict=True):
        if value >= max(stride, dilation):
            expected = f"output_padding should be below stride or dilation, {max(stride, dilation)}"
            check.fail(win.where, expected=expected, actual=value)
    return extra


def _cut(win: Windows, extra: Shape, spatial: Shape) -> tuple[tuple[int, int], ...]:
    """(before, after): the values to cut off the full result; a negative number extends its end."""
    over = [span - s for span, s in zip(win.span, win.stride, strict=True)]
    if win.padding == "same":
        pads = [(max(o, 0) // 2, o - max(o, 0) // 2) for o in over]
    else:
        pads = [(0, 0)] * win.dims if isinstance(win.padding, str) else win.padding
    cut = tuple((before, after - more) for (before, after), more in zip(pads, extra, strict=True))
    if min(_sizes(win, cut, spatial)) < 1:
        actual = f"spatial sizes {spatial}, kernel {win.size} and padding {tuple(pads)}"
        check.fail(win.where, expected="padding should leave an output of at least one position an axis", actual=actual)
    return cut


def _sizes(win: Windows, cut: Sequence[tuple[int, int]], spatial: Shape) -> Shape:
    axes = zip(spatial, win.stride, win.span, cut, strict=True)
    return tuple((n - 1) * s + span - before - after for n, s, span, (before, after) in axes)


def _groups_first(weight: Array, groups: int) -> Array:
    """[*kernel, in / groups, out] -> [*kernel, in, out / groups]."""
    *kernel, inner, out = weight.shape
    weight = weight.reshape(*kernel, inner, groups, out // groups)  # [*kernel, in / groups, groups, out / groups]
    weight = weight.swapaxes(-3, -2)  # [*kernel, groups, in / groups, out / groups]
    return weight.reshape(*kernel, inner * groups, out // groups)


def _transposed(x: Array, weight: Array, win: Windows, cut: Any, groups: int) -> Array:
    """On CPU the transpose of `direct`, a group at a time, as `conv` chooses it."""
    if tuning.platform() != "cpu" or groups > 64:
        return plain_transpose(x, weight, win, cut, groups)
    x, weight = vary_like((x, weight), (x, weight))
    plan, sizes = ConvPlan(win.stride, win.dilation, cut), _sizes(win, cut, x.shape[1:-1])
    weights = jnp.split(weight.swapaxes(-1, -2), groups, -1)  # each [*kernel, out / groups, in / groups]
    pairs = zip(jnp.split(x, groups, -1), weights, strict=True)
    return jnp.concatenate([spread(*pair, sizes, plan) for pair in pairs], -1)


def plain_transpose(x: Array, weight: Array, win: Windows, cut: Any, groups: int) -> Array:
    """XLA's convolution of x, dilated by the stride, with the flipped kernel."""
    *kernel, inner, out = weight.shape
    weight = weight.reshape(*kernel, groups, inner // groups, out)  # [*kernel, groups, in / groups, out]
    weight = weight.swapaxes(-3, -2)  # [*kernel, in / groups, groups, out]
    weight = jnp.flip(weight.reshape(*kernel, inner // groups, out * groups), range(win.dims))
    ends = zip(win.span, cut, strict=True)
    pads = [(span - 1 - before, span - 1 - after) for span, (before, after) in ends]
    axes = "DHW"[3 - win.dims :]
    return lax.conv_general_dilated(
        x,
        weight,
        (1,) * win.dims,
        pads,
        lhs_dilation=win.stride,
        rhs_dilation=win.dilation,
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        feature_group_count=groups,
    )
