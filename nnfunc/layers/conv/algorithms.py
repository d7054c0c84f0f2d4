"""Several programs for one convolution: the quickest depends on the machine and the shape.

While a program is traced, what is measured decides among those of `_possible_forms`, else the first of them; all forms
agree in value and in every derivative.
"""

import math

import jax.numpy as jnp

from nnfunc import tuning
from nnfunc.base import Array, Shape, vary_like
from nnfunc.layers.conv.channels_last import ConvPlan, direct, plain
from nnfunc.layers.conv.depthwise import depthwise
from nnfunc.layers.linear import matmul_rows
from nnfunc.layers.sliding_windows import Windows, pad, shifted_copies


def convolve(x: Array, weight: Array, win: Windows, groups: int) -> Array:
    """x [batch, *spatial, in], weight [*kernel, in / groups, out] -> [batch, *windows, out]; win: the windows."""
    pads, positions = win.pads(x.shape[1:-1]), math.prod(win.out(x.shape[1:-1]))
    if win.padding == "circular":
        x, pads = pad(x, pads, mode="circular"), ((0, 0),) * win.dims
    dtype = jnp.result_type(x, weight)
    x, weight = x.astype(dtype), weight.astype(dtype)
    x, weight = vary_like((x, weight), (x, weight))
    plan = ConvPlan(win.stride, win.dilation, pads, groups)
    form, *others = forms = _possible_forms(tuning.platform(), win.size, weight.shape[-2], positions, plan)
    if not others:
        return FORMS[form](x, weight, plan)
    key = _key(x, weight, plan)
    run = lambda x, weight: FORMS[tuning.choose(key, form, forms)](x, weight, plan)
    cost = math.prod(weight.shape) * math.prod(x.shape[:-1]) / math.prod(plan.stride)
    x = tuning.record(key, form, forms, run, x, weight, cost=cost)
    return run(x, weight)


def _key(x: Array, weight: Array, plan: ConvPlan) -> str:
    """The key of a convolution in the table of measured forms, readable."""
    text = f"convolution {x.dtype} {tuning.join_sizes(x.shape)}, kernel {tuning.join_sizes(weight.shape)}"
    for name, numbers in (("stride", plan.stride), ("dilation", plan.dilation)):
        text += f", {name} {tuning.join_sizes(numbers)}" if set(numbers) != {1} else ""
    text += f", groups {plan.groups}" if plan.groups > 1 else ""
    return text + (f", pads {tuning.join_sizes(f'{a}:{b}' for a, b in plan.pads)}" if any(map(any, plan.pads)) else "")


def _possible_forms(backend: str, kernel: Shape, in_dim: int, positions: int, plan: ConvPlan) -> tuple[str, ...]:
    """The forms for a machine and a shape; the first is the one to take without a measurement there.

    in_dim: the channels of one group.
    positions: the windows of an example.

    Measured on CPU, forward and backward, against the convolution that JAX differentiates (1.0):
    matrix 0.4; blocks 0.7; patches 0.5 for one input channel, 0.7 on 4x4 positions of 512 channels and
    in three dimensions, 1.5 to 3 elsewhere; direct 0.8 to 1.0, and 0.02 to 0.2 inside `lax.scan`;
    a convolution for each group 0.01 to 0.05; depthwise 0.1 to 0.2.
    """
    taps, single_group = math.prod(kernel), plan.groups == 1
    if single_group and taps == 1:
        return ("matrix",)
    if single_group and kernel == plan.stride and not any(map(any, plan.pads)) and set(plan.dilation) == {1}:
        return ("blocks",)
    if backend != "cpu":
        return ("plain",)
    if not single_group:
        possible = {"depthwise": in_dim == 1 and taps <= 128, "groups": plan.groups <= 64, "plain": True}
        return tuple(form for form, is_possible in possible.items() if is_possible)
    few_channels = taps * in_dim <= 32
    few_positions = positions <= 16 and in_dim >= 256
    volumes = len(kernel) == 3 and taps * in_dim <= 512
    return (
        ("patches", "direct", "plain") if few_channels or few_positions or volumes else ("direct", "patches", "plain")
    )


def _matrix(x: Array, weight: Array, plan: ConvPlan) -> Array:
    """A kernel of one element is a linear map of the channels."""
    x = pad(x, plan.pads)
    x = x[(slice(None), *(slice(None, None, stride) for stride in plan.stride))]
    return matmul_rows(x, weight.reshape(weight.shape[-2:]))  # [1, ..., in, out] -> [in, out]


def _blocks(x: Array, weight: Array, plan: ConvPlan) -> Array:
    """Windows side by side are a reshape, and one matrix product."""
    kernel, dims = weight.shape[:-2], weight.ndim - 2
    counts = [n // k for n, k in zip(x.shape[1:-1], kernel, strict=True)]
    x = x[(slice(None), *(slice(n * k) for n, k in zip(counts, kernel, strict=True)))]
    split = [size for pair in zip(counts, kernel, strict=True) for size in pair]
    x = x.reshape(x.shape[0], *split, x.shape[-1])  # [batch, windows, kernel, windows, kernel, ..., channels]
    positions, taps = range(1, 2 * dims, 2), range(2, 2 * dims + 1, 2)
    x = x.transpose(0, *positions, *taps, 2 * dims + 1)  # [batch, *windows, *kernel, channels]
    return matmul_rows(x.reshape(*x.shape[: dims + 1], math.prod(weight.shape[:-1])), _flat(weight))


def _patches(x: Array, weight: Array, plan: ConvPlan) -> Array:
    """A shifted copy of x for each element of the kernel, joined, and one matrix product."""
    copies = shifted_copies(pad(x, plan.pads), weight.shape[:-2], plan.stride, plan.dilation)
    return matmul_rows(jnp.concatenate(copies, -1), _flat(weight))


def _flat(weight: Array) -> Array:
    """[*kernel, in, out] -> [kernel * in, out]."""
    return weight.reshape(math.prod(weight.shape[:-1]), weight.shape[-1])


def _groups(x: Array, weight: Array, plan: ConvPlan) -> Array:
    """A convolution for each group."""
    pairs = zip(jnp.split(x, plan.groups, -1), jnp.split(weight, plan.groups, -1), strict=True)
    return jnp.concatenate([direct(*pair, plan._replace(groups=1)) for pair in pairs], -1)


def _depthwise(x: Array, weight: Array, plan: ConvPlan) -> Array:
    return depthwise(x, weight, plan.stride, plan.dilation, plan.pads)


FORMS = {
    "plain": plain,
    "matrix": _matrix,
    "blocks": _blocks,
    "patches": _patches,
    "direct": direct,
    "groups": _groups,
    "depthwise": _depthwise,
}
