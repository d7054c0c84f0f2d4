"""A table of the layers of a model, from shapes alone: no array is computed."""

import html
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc import check, device_memory, flops
from nnfunc.base import Context, DType, Layer, PyTree, Watch, as_model, canonicalize, shape_struct
from nnfunc.display import html_table, text_table


class Row(NamedTuple):
    """One layer of a `Summary`.

    path: of the layer.
    layer: its name, such as "linear".
    output: dtype and shape.
    params, bytes: the number and the bytes of its parameters.
    flops: the floating-point operations of one forward pass.
    """

    path: str
    layer: str
    output: str
    params: int
    bytes: int
    flops: int


class Summary(NamedTuple):
    """The layers of a model, and the totals; as text, a table.

    rows: the layers without inner layers, in the order of computation.
    output: dtype and shape of the result.
    params, bytes, flops: of the model.
    note: what the rows cannot show, or empty.
    """

    rows: tuple[Row, ...]
    output: str
    params: int
    bytes: int
    flops: int
    note: str = ""

    def _table(self) -> list[tuple[str, ...]]:
        rows = [*self.rows, Row("total", "", *self[1:5])]
        cells = [(*r[:3], f"{r.params:,}", device_memory.format_bytes(r.bytes), f"{r.flops:,}") for r in rows]
        return [("path", "layer", "output", "params", "bytes", "FLOPs"), *cells]

    def __repr__(self) -> str:
        lines = text_table(self._table(), 3)
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *filter(None, [self.note])])

    def _repr_html_(self) -> str:
        return html_table(self._table()) + html.escape(self.note)


def summary(model: Layer, shape: Sequence[int] | PyTree, dtype: DType = jnp.float32) -> Summary:
    """The paths, output shapes, parameters, bytes and FLOPs of a model for inputs of one shape.

    model: a layer or model.
    shape: of the input, batch included; or, for models whose input is not one array, a pytree of
        `jax.ShapeDtypeStruct`.
    dtype: of the input when shape is a tuple. FLOPs are those of one forward pass: two for a multiply-add of matrix
        products and convolutions, one for each elementwise result; a layer of `repeat` counts n times. Parameters
        that two layers share count once in the total.
    Raises: the error of the model when the shape does not fit.

    >>> print(nf.summary(nf.mlp([4, 8, 2]), (1, 4)))
    path             layer   output        params  bytes  FLOPs
    -----------------------------------------------------------
    hidden_0/linear  linear  float32[1,8]      40  160 B     72
    hidden_0/act     relu    float32[1,8]       0    0 B      8
    head             linear  float32[1,2]      18   72 B     34
    -----------------------------------------------------------
    total                    float32[1,2]      58  232 B    114
    """
    model = as_model(model, where="summary")
    if isinstance(shape, int):
        expected = f"shape should be a tuple such as (1, {shape})"
        check.fail("summary", expected=expected, actual=shape, exc_type=TypeError)
    is_tuple = isinstance(shape, Sequence) and all(isinstance(n, int) for n in shape)
    x = jax.ShapeDtypeStruct(tuple(shape), dtype) if is_tuple else canonicalize(shape, "summary")
    params = jax.eval_shape(model.init, jax.random.key(0))
    watch = Watch()

    def forward(*args):
        return model.forward(*args)[0]

    ctx = Context(state=model.state_shapes, watch=watch)
    output = jax.eval_shape(forward, params, x, ctx)
    ctx = replace(ctx, watch=None)
    parents = {path[:i] for path, *_ in watch.calls for i in range(len(path))}
    calls = [call for call in watch.calls if call[0] not in parents] or [((model.name,), model, params, x, ctx)]
    total = flops.count(forward, params, x, ctx)
    sizes = _count_params(params), device_memory.tree_bytes(params)
    hidden = ", ".join(watch.hidden)
    note = hidden and f"Inside jax.vmap, jax.lax.scan or the like, so shown for one call: {hidden}."
    return Summary(tuple(_row(*call) for call in calls), _shapes(output), *sizes, total, note)


def _row(path: tuple[str, ...], model: Any, params: Any, x: Any, ctx: Context) -> Row:
    def forward(*args):
        return model.forward(*args)[0]

    args = jax.tree.map(shape_struct, (params, x, ctx))
    counts = _count_params(params), device_memory.tree_bytes(params), flops.count(forward, *args)
    output = jax.eval_shape(forward, *args)
    return Row("/".join(path), model.name, _shapes(output), *(count * math.prod(ctx.sizes) for count in counts))


def _shapes(tree: PyTree) -> str:
    text = [f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for leaf in jax.tree.leaves(tree)]
    return " ".join(text)


def _count_params(params: PyTree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
