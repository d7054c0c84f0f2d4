"""Windows that slide over spatial axes: the sizes and padding that convolution and pooling share."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax

from nnfunc import check
from nnfunc.base import Array, Shape

Size = int | Sequence[int]
"""One integer for every spatial axis, or one for each."""
Padding = Literal["same", "valid", "circular", "causal"] | int | Sequence[int | Sequence[int]]
"""A name, a count for every side, a count for each axis, or a pair (before, after) for each axis."""


@dataclass(frozen=True)
class Windows:
    """Window size, stride and dilation for each spatial axis, and the padding: a name or pairs (before, after).

    where: the layer, for errors.
    ceil: whether a last window that reaches over the end counts.
    """

    where: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str | tuple[tuple[int, int], ...]
    ceil: bool = False

    @property
    def dims(self) -> int:
        return len(self.size)

    @property
    def span(self) -> tuple[int, ...]:
        """The extent of a window along each axis: (size - 1) * dilation + 1."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.size, self.dilation, strict=True))

    def pads(self, spatial: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """(before, after) along each axis, for these spatial sizes; an error if no window fits."""
        if self.padding == "valid":
            pads = ((0, 0),) * self.dims
        elif isinstance(self.padding, str):
            pads = tuple(map(_same, spatial, self.span, self.stride))
        else:
            pads = self.padding
        for n, span, (before, after) in zip(spatial, self.span, pads, strict=True):
            if n + before + after < span:
                extent = "" if set(self.dilation) == {1} else f", which reach {self.span}"
                padded = f" and padding {pads}" if any(map(any, pads)) else ""
                expected = f"windows of {self.size}{extent} should fit into x"
                hint = "Use a smaller window, padding='same', or fewer strides and pools before."
                actual = f"spatial sizes {tuple(spatial)}{padded}"
                check.fail(self.where, expected=expected, actual=actual, hint=hint)
        return tuple(map(_ceil, spatial, pads, self.span, self.stride)) if self.ceil else pads

    def out(self, spatial: Sequence[int]) -> tuple[int, ...]:
        """The number of windows along each axis."""
        sizes = zip(spatial, self.pads(spatial), self.span, self.stride, strict=True)
        return tuple((n + before + after - span) // s + 1 for n, (before, after), span, s in sizes)


def parse_windows(
    where: str,
    size: Size,
    stride: Size | None,
    padding: Padding,
    dilation: Size,
    dims: int,
    names: Sequence[str] = ("same", "valid", "circular"),
    argument: str = "kernel",
    ceil: bool = False,
) -> Windows:
    """The checked Windows of a layer's arguments.

    where: the layer, for errors.
    size: of the window, at least 1.
    stride: by default the size.
    padding: one of names, or numbers.
    dilation: the distance between the elements of a window, at least 1. Each is one number for all spatial axes or
        a sequence of one for each.
    dims: the number of spatial axes, 1 to 3, where size is one number.
    argument: the name of size in errors.
    ceil: as in `Windows`.
    """
    if isinstance(size, Sequence) and not isinstance(size, str):
        dims = len(size)
    check.size(where, dims=dims)
    if dims > 3:
        check.fail(where, expected="there should be 1, 2 or 3 spatial axes", actual=dims)
    size = per_axis(where, argument, size, dims)
    stride = size if stride is None else per_axis(where, "stride", stride, dims)
    dilation = per_axis(where, "dilation", dilation, dims)
    return Windows(where, size, stride, dilation, _padding(where, padding, dims, names), ceil)


def flatten_batch(where: str, x: Any, dims: int, *, integers: bool = False) -> tuple[Array, tuple[int, ...]]:
    """x with one leading axis, [batch, *spatial, channels], and the sizes of its leading axes.

    where: the layer, for errors.
    x: floats, [..., *spatial, channels].
    dims: the number of spatial axes.
    integers: whether x may hold integers too.
    """
    if not (integers and jnp.issubdtype(getattr(x, "dtype", jnp.float32), jnp.integer)):
        check.floating(where, x=x)
    if x.ndim < dims + 1:
        hint = "Images without a channel axis: x[..., None]." if x.ndim >= dims else ""
        check.fail(where, expected=f"x should be [..., {_axis_names(dims)}]", actual=f"shape {x.shape}", hint=hint)
    lead = x.shape[: x.ndim - dims - 1]
    return x.reshape(math.prod(lead), *x.shape[len(lead) :]), lead  # [batch, *spatial, channels]


def pad(x: Array, pads: Sequence[tuple[int, int]], value: float = 0.0, mode: str = "") -> Array:
    """x, [batch, *spatial, channels], with its spatial axes padded by a value, or circularly.

    pads: (before, after) for each spatial axis.
    mode: "circular", or "" for the value.
    """
    if not any(map(any, pads)):
        return x
    widths = [(0, 0), *pads, (0, 0)]
    if mode == "circular":
        return jnp.pad(x, widths, mode="wrap")
    return jnp.pad(x, widths, constant_values=jnp.asarray(value, x.dtype))


def shifted_copies(x: Array, kernel: Shape, stride: Shape, dilation: Shape) -> list[Array]:
    """For each element of the kernel the value of every window there: [batch, *windows, channels].

    x: [batch, *spatial, channels], padded already.
    kernel, stride, dilation: one number for each spatial axis.
    """
    sizes = zip(x.shape[1:-1], kernel, stride, dilation, strict=True)
    spans = [((n - (k - 1) * d - 1) // s) * s + 1 for n, k, s, d in sizes]
    copies = []
    for offset in itertools.product(*map(range, kernel)):
        start = [o * d for o, d in zip(offset, dilation, strict=True)]
        stop = [a + span for a, span in zip(start, spans, strict=True)]
        copies.append(lax.slice(x, (0, *start, 0), (x.shape[0], *stop, x.shape[-1]), (1, *stride, 1)))
    return copies


def _axis_names(dims: int) -> str:
    return ", ".join((*(["depth", "height", "width"][3 - dims :] if dims > 1 else ["length"]), "channels"))


def _same(n: int, span: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: ceil(n / stride) windows, the odd one of the padding after."""
    total = max((math.ceil(n / stride) - 1) * stride + span - n, 0)
    return total // 2, total - total // 2


def _ceil(n: int, pads: tuple[int, int], span: int, stride: int) -> tuple[int, int]:
    """The padding with room for a last window that starts inside of x or of the padding before it."""
    before, after = pads
    windows = -((n + before + after - span) // -stride) + 1
    windows -= (windows - 1) * stride >= n + before
    return before, max(after, (windows - 1) * stride + span - n - before)


def per_axis(where: str, name: str, value: Any, dims: int, low: int = 1) -> tuple[int, ...]:
    """dims integers of at least `low`, from one number for all axes or a sequence of one for each.

    where, name: the layer and the argument, for errors.
    value: the number or the sequence.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        check.size(where, low, check.LARGEST, **{name: value})
        return (int(value),) * dims
    if len(value) != dims:
        check.fail(where, expected=f"{name} should be one number or {dims}, one for each spatial axis", actual=value)
    for axis, one in enumerate(value):
        check.size(where, low, **{f"{name}[{axis}]": one})
    return tuple(map(int, value))


def _padding(where: str, padding: Any, dims: int, names: Sequence[str]) -> str | tuple[tuple[int, int], ...]:
    """A name, or a pair (before, after) for each axis."""
    if isinstance(padding, str):
        check.choice(where, names, padding=padding)
        return padding
    if not isinstance(padding, Sequence):
        check.size(where, 0, padding=padding)
        return tuple((int(padding), int(padding)) for _ in range(dims))
    if len(padding) != dims:
        expected = f"padding should be a name, a number, or {dims} numbers or pairs (before, after)"
        check.fail(where, expected=expected + ", one for each spatial axis", actual=padding)
    pairs = [per_axis(where, f"padding[{axis}]", one, 2, 0) for axis, one in enumerate(padding)]
    return tuple((before, after) for before, after in pairs)
