"""What a model is made of, from shapes alone: nothing is computed, no array is made."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc import check, flops
from nnfunc.base import Context, DType, Layer, PyTree, Watch, as_model, canonicalize, shape_struct

__all__ = ["Row", "Summary", "summary"]


class Row(NamedTuple):
    """One layer. flops: floating-point operations of one forward pass of the given shape.

    path: of the layer. kind: its name. output: dtype and shape. params, bytes: of its parameters.
    """

    path: str
    kind: str
    output: str
    params: int
    bytes: int
    flops: int


class Summary(NamedTuple):
    """The rows of the layers that hold no others, in the order of computation, and the totals.

    output: dtype and shape of the result. params, bytes, flops: sums over the rows. note: what the rows
    cannot show, empty where they show all.
    """

    rows: tuple[Row, ...]
    output: str
    params: int
    bytes: int
    flops: int
    note: str = ""

    def __str__(self) -> str:
        head = ("path", "kind", "output", "params", "bytes", "FLOPs")
        body = [(r.path, r.kind, r.output, _count(r.params), _bytes(r.bytes), _count(r.flops)) for r in self.rows]
        total = ("total", "", self.output, _count(self.params), _bytes(self.bytes), _count(self.flops))
        wide = [max(map(len, column)) for column in zip(head, *body, total, strict=True)]
        rule = "-" * (sum(wide) + 2 * len(wide) - 2)
        lines = ["  ".join(_cells(row, wide)).rstrip() for row in (head, *body, total)]
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *filter(None, [self.note])])


def summary(model: Layer, shape: Sequence[int] | PyTree, dtype: DType = jnp.float32) -> Summary:
    """The paths, output shapes, parameters, bytes and FLOPs of a model for inputs of one shape.

    shape: of the whole input, batch included; or, for models that take something else than one array,
    a pytree of `jax.ShapeDtypeStruct`. FLOPs are those of one forward pass: two for a multiply-add
    of matrix products and convolutions, one for each elementwise result; a repeated layer counts n
    times. Parameters that two layers share count once in the total.
    dtype: that of the input when shape is a tuple.
    Raises: the model's own error when the shape does not fit.

    >>> print(nf.summary(nf.mlp([4, 8, 2]), (1, 4)))
    path             kind    output        params  bytes  FLOPs
    -----------------------------------------------------------
    hidden_0/linear  linear  float32[1,8]      40  160 B     72
    hidden_0/act     relu    float32[1,8]       0    0 B      8
    head             linear  float32[1,2]      18   72 B     34
    -----------------------------------------------------------
    total                    float32[1,2]      58  232 B    114
    """
    model = as_model(model, where="summary")
    if isinstance(shape, int):
        check.fail(
            "summary", expected=f"shape should be a tuple such as (1, {shape})", actual=shape, exc_type=TypeError
        )
    sizes = isinstance(shape, Sequence) and all(isinstance(n, int) for n in shape)
    x = jax.ShapeDtypeStruct(tuple(shape), dtype) if sizes else canonicalize(shape, "summary")
    params = jax.eval_shape(model.init, jax.random.key(0))
    watch = Watch()

    def forward(*args):
        return model.forward(*args)[0]

    ctx = Context(state=jax.eval_shape(model.init_state), watch=watch)
    output = jax.eval_shape(forward, params, x, ctx)
    calls = _leaves(watch.calls) or [((model.name,), model, params, x, replace(ctx, watch=None))]
    rows = [_row(*call) for call in calls]
    leaves = jax.tree.leaves(params)
    total = flops.count(forward, params, x, replace(ctx, watch=None))
    hidden = ", ".join(watch.hidden)
    note = hidden and f"Inside jax.vmap, jax.lax.scan or the like, so shown for one call: {hidden}."
    return Summary(tuple(rows), _shapes(output), _size(leaves), _memory(leaves), total, note)


def _leaves(calls: list[Any]) -> list[Any]:
    """The calls that contain no other call: those after which no deeper path comes."""
    parents = {call[0][:i] for call in calls for i in range(len(call[0]))}
    return [call for call in calls if call[0] not in parents]


def _row(path: tuple[str, ...], model: Any, params: Any, x: Any, ctx: Context) -> Row:
    def one(*args):
        return model.forward(*args)[0]

    args = jax.tree.map(shape_struct, (params, x, ctx))
    output = jax.eval_shape(one, *args)
    leaves, times = jax.tree.leaves(params), math.prod(ctx.sizes)
    cost = flops.count(one, *args) * times
    sizes = (_size(leaves) * times, _memory(leaves) * times)
    return Row("/".join(path), model.name, _shapes(output), *sizes, cost)


def _shapes(tree: PyTree) -> str:
    text = [f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for leaf in jax.tree.leaves(tree)]
    return " ".join(text)


def _size(leaves: list[Any]) -> int:
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _memory(leaves: list[Any]) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def _count(number: int) -> str:
    return f"{number:,}"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def _cells(row: Sequence[str], wide: Sequence[int]) -> list[str]:
    """Names to the left, numbers to the right."""
    return [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, wide, strict=True))]
