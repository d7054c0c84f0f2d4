"""Attention as a layer: projections, positions, heads, and the cache of generation."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, initializers, tuning
from nnfunc.base import Array, Context, Initializer, Model, Out, Params, Scalar, fold, is_partitioned
from nnfunc.combinators import call_child
from nnfunc.layers.attention.backends import Implementation
from nnfunc.layers.attention.functional import attend, check_numbers
from nnfunc.layers.attention.kv_cache import check_cache, update_cache
from nnfunc.layers.attention.masks import zero_nonfinite_padding
from nnfunc.layers.attention.positions import alibi_slopes, rotary
from nnfunc.layers.attention.rotary_scaling import RotaryScaling
from nnfunc.layers.linear import add_bias, linear, matmul_rows
from nnfunc.layers.norm import rms_norm
from nnfunc.rematerialization import gathering
from nnfunc.taps import absolute, is_requested, tap

PROJECTIONS = ("query", "key", "value")


class AttentionInput(NamedTuple):
    """The x of `nf.attention` with a context, a mask, a bias, lengths or values of another sequence.

    Written as `model.apply(params, nf.AttentionInput(x, mask=mask))`.

    x: [..., time, dim].
    context: the sequence to attend to, [..., source, context_dim], for a layer with context_dim.
    mask: booleans [..., time, source] or [..., heads, time, source], True where a position may attend.
    bias: added to the scores, [..., heads, time, source].
    lengths: integers [...], the number of positions of each source that count. mask, bias and lengths are those of
        `nf.attend`.
    value: the sequence that the values come from, [..., source, value_dim], as long as that of the keys, for a
        layer with value_dim.
    positions: integers [..., time], for rotary positions that do not count from 0, as behind padding.
    A pytree like any tuple, so `jax.vmap` and `jax.jit` take it as it is.

    >>> model = nf.attention(4, 2)
    >>> x = nf.AttentionInput(jnp.ones((2, 3, 4)), lengths=jnp.array([3, 1]))
    >>> model.apply(model.init(jax.random.key(0)), x).shape
    (2, 3, 4)
    """

    x: Array
    context: Array | None = None
    mask: Array | None = None
    bias: Array | None = None
    lengths: Array | None = None
    value: Array | None = None
    positions: Array | None = None


def attention(
    dim: int,
    heads: int,
    *,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    context_dim: int | None = None,
    value_dim: int | None = None,
    causal: bool = False,
    window: Scalar | None = None,
    windows: Sequence[Scalar] | None = None,
    positions: Literal["rotary", "alibi"] | None = None,
    rotary_base: Scalar = 10000.0,
    rotary_bases: Sequence[Scalar] | None = None,
    rotary_factors: Sequence[Scalar] | None = None,
    rotary_dim: int | None = None,
    rotary_tables: tuple[Array, Array] | None = None,
    rotary_scaling: RotaryScaling | None = None,
    interleaved: bool = False,
    qk_norm: bool = False,
    eps: Scalar = 1e-6,
    scale: Scalar | None = None,
    soft_cap: Scalar | None = None,
    dropout: Scalar | None = None,
    bias: bool = True,
    out_bias: bool | None = None,
    weight_init: Initializer = initializers.lecun_normal,
    out_init: Initializer | None = None,
    implementation: Implementation | None = None,
    return_weights: bool = False,
) -> Model:
    """Multi-head attention of a sequence to itself, or to another one with `context_dim`.

    q, k, v = x @ query, context @ key, context @ value; y = attend(q, k, v) @ out, each plus its bias.

    dim: the width of x and y.
    heads: the number of query heads.
    kv_heads: the heads of k and v, a divisor of heads, by default as many: fewer is grouped-query, 1 multi-query
        attention.
    head_dim: the width of a head, by default dim / heads.
    context_dim: the width of the context; None, the default, is self-attention.
    value_dim: the width of the values' own sequence; None, the default, takes the values from where the keys are
        from.
    causal, window, scale, soft_cap, implementation: as in `nf.attend`.
    windows, rotary_bases, rotary_factors: in a `repeat`, a number for each layer in place of window, rotary_base
        and the factor of a linear rotary_scaling; a window of infinity is none, and so is a factor of 1.
    positions: "rotary" rotates q and k (`nf.rotary` with rotary_base, above 0, rotary_dim, the number of channels
        to rotate, by default all, rotary_tables, cosines and sines in place of the base, rotary_scaling, for longer
        sequences, and interleaved), "alibi" lowers the scores with the distance (`nf.alibi_slopes`); None, the
        default, adds no positions.
    qk_norm: RMS norm of each head of q and k, before the rotation.
    eps: that of these norms, above 0.
    dropout: the rate in [0, 1] of attention weights dropped, given a key; None is off.
    bias: of query, key and value.
    out_bias: of the result, by default as bias. A bias of the keys adds the same number to all scores of a query,
        so it changes no result without rotary positions, qk_norm and a cap, and Adam makes full steps of the
        rounding errors of its gradient; it is there because published weights have it.
    weight_init: of the four matrices.
    out_init: of out, by default weight_init.
    return_weights: return (y, weights) instead of y, with the weights before dropout, [..., heads, time, source];
        the plain implementation computes them.

    Shapes: x [..., time, dim], or an `nf.AttentionInput` with x, context, mask, bias, lengths and value (always with a
    context where there is a context_dim, and a value where there is a value_dim) -> y [..., time, dim]. Parameters:
    query/weight [dim, heads * head_dim], key/weight and value/weight [their width, kv_heads * head_dim],
    out/weight [heads * head_dim, dim], a bias [...] each; with qk_norm query_norm/scale and
    key_norm/scale [head_dim].

    Inner values, for `nf.capture` and `nf.patch`: `query`, `key`, `value`, `out`; and, to patterns that end with
    this name, `scores`, after the mask, and `weights`, before dropout, both [..., heads, time, source], and `heads`,
    the result of each head, [..., time, heads, head_dim]. Scores and weights are computed by the plain
    implementation, which stores them; without such a pattern nothing changes.

    While a sequence is generated the state holds key and value [..., cache, kv_heads, head_dim] and the
    position, and a mask has a source of `cache` positions; once the cache is full, y is NaN. Of a context the
    state holds key and value from the first call on.
    Raises: ValueError when heads do not divide dim, or kv_heads heads; when a context is attended to
    with causal, window or positions; when a sequence is generated without causal. TypeError when x is a dict.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.

    >>> model = nf.attention(16, 4, kv_heads=2, causal=True, positions="rotary")
    >>> params = model.init(jax.random.key(0))
    >>> params["key"]["weight"].shape, model.apply(params, jnp.ones((2, 5, 16))).shape
    ((16, 8), (2, 5, 16))
    """
    head_dim = _check_sizes(dim, heads, kv_heads, head_dim, context_dim, value_dim)
    kv_heads = heads if kv_heads is None else kv_heads
    for size in (window, *(windows or ())):
        check_numbers("attention", size, soft_cap, dropout)
    if positions is not None:
        check.choice("attention", ("rotary", "alibi"), positions=positions)
    if context_dim is not None and (causal or window is not None or windows or positions):
        expected = "causal, window and positions should be left out with context_dim"
        actual = f"causal={causal}, window={window} and positions={positions!r}"
        hint = "The positions of two sequences cannot be compared."
        check.fail("attention", expected=expected, actual=actual, hint=hint)
    if positions == "rotary":  # rotary's checks, before any call
        turn = partial(rotary, dim=rotary_dim, interleaved=interleaved, scaling=rotary_scaling, tables=rotary_tables)
        if rotary_factors is not None:
            for factor in rotary_factors:
                check.number("attention", 0, open_low=True, rotary_factors=factor)
            if rotary_scaling is not None:
                expected = "rotary_scaling should be left out with rotary_factors"
                check.fail("attention", expected=expected, actual=rotary_scaling)
        for base in (rotary_base, *(rotary_bases or ())):
            jax.eval_shape(partial(turn, base=base), jax.ShapeDtypeStruct((1, 1, head_dim), jnp.float32))
    elif rotary_tables is not None:
        expected = "positions should be 'rotary' with rotary_tables"
        check.fail("attention", expected=expected, actual=repr(positions))
    wide, narrow = heads * head_dim, kv_heads * head_dim
    source_dim = dim if context_dim is None else context_dim
    children = {
        "query": linear(dim, wide, bias=bias, weight_init=weight_init),
        "key": linear(source_dim, narrow, bias=bias, weight_init=weight_init),
        "value": linear(source_dim if value_dim is None else value_dim, narrow, bias=bias, weight_init=weight_init),
        "out": linear(wide, dim, bias=bias if out_bias is None else out_bias, weight_init=out_init or weight_init),
    }
    if qk_norm:
        children |= {"query_norm": rms_norm(head_dim, eps=eps), "key_norm": rms_norm(head_dim, eps=eps)}

    def init(key):
        return {name: child.init(fold(key, name)) for name, child in children.items()}

    def forward(params, x, ctx):
        inputs = _check_input(x, dim, context_dim, value_dim)
        mask, lengths = inputs.mask, inputs.lengths
        context = inputs.x if inputs.context is None else inputs.context
        context = zero_nonfinite_padding(context, mask, lengths)
        x = context if context_dim is None else inputs.x
        sources = {"key": context, "value": context}
        if inputs.value is not None:
            sources["value"] = zero_nonfinite_padding(inputs.value, mask, lengths)
        taps, weights = {}, []

        def run(name, x):
            if name in joined:
                y, out = tap(ctx, "/".join((*ctx.path, name)), joined[name], Out())
            else:
                y, out = call_child(children[name], params.get(name, {}), x, ctx.enter(name))
            taps.update(out.taps)
            return y

        def project(name, x, count, positions_of_x):
            y = run(name, x).reshape(*x.shape[:-1], count, head_dim)  # [..., time, count, head_dim]
            y = run(f"{name}_norm", y) if qk_norm and name != "value" else y
            if positions != "rotary" or name == "value":
                return y
            base = _of_layer("rotary_bases", rotary_base, rotary_bases, ctx)
            if rotary_factors is None:
                return turn(y, positions_of_x, base=base)
            factor = _of_layer("rotary_factors", 1.0, rotary_factors, ctx)
            return turn(y, positions_of_x, base=base, scaling={"name": "linear", "factor": factor})

        def observe(name, value):
            value, out = tap(ctx, "/".join((*ctx.path, name)), value, Out(), by_name=True)
            taps.update(out.taps)
            weights.extend([value] if name == "weights" else [])
            return value

        check_cache(ctx, x, causal, context_dim)
        from_x = context_dim is None and value_dim is None
        joined = _project_at_once(params, x, ctx, (wide, narrow, narrow), kv_heads) if from_x else {}
        start = ctx.state.get("position")
        first = jnp.zeros((), jnp.int32) if start is None else start
        positions_of_x = first + jnp.arange(x.shape[-2], dtype=jnp.int32)
        if inputs.positions is not None:
            positions_of_x = inputs.positions
        q = project("query", x, heads, positions_of_x)
        if context_dim is not None and ctx.state:
            k, v, state = ctx.state["key"], ctx.state["value"], ctx.state
        else:
            k, v = (project(name, source, kv_heads, positions_of_x) for name, source in sources.items())
            k, v, state = update_cache(ctx, k, v, context_dim)
        requested = any(is_requested(ctx, path) for path in absolute(ctx, ("scores", "weights")))
        y = attend(
            q,
            k,
            v,
            mask=mask,
            bias=inputs.bias,
            causal=causal,
            window=_of_layer("windows", window, windows, ctx),
            lengths=lengths,
            start=start,
            scale=scale,
            soft_cap=soft_cap,
            slopes=alibi_slopes(heads) if positions == "alibi" else None,
            dropout=dropout,
            key=fold(ctx.key, "dropout"),
            implementation=implementation,
            observe=observe if requested or return_weights else None,
        )
        y = observe("heads", y)
        y = y.reshape(*x.shape[:-1], wide)  # [..., time, heads * head_dim]
        y = run("out", y)
        return (y, weights[0]) if return_weights else y, Out(state, taps)

    return Model(init, forward=forward, parts=children)


def _of_layer(name: str, value: Any, values: Sequence[Scalar] | None, ctx: Context) -> Any:
    """value, or the number of this layer among those of all layers of the surrounding `repeat`."""
    if values is None:
        return value
    if not ctx.sizes or ctx.sizes[-1] != len(values):
        expected = f"{name} should have a number for each layer of a repeat"
        actual = f"{len(values)} numbers for {ctx.sizes[-1] if ctx.sizes else 'no'} layers"
        check.fail("attention", expected=expected, actual=actual)
    return jnp.stack([jnp.asarray(number, jnp.float32) for number in values])[ctx.layer[-1]]


def _project_at_once(
    params: Params, x: Array, ctx: Context, widths: tuple[int, int, int], kv_heads: int
) -> dict[str, Array]:
    """query, key and value by one product: quicker on CPU, and x is saved once for the gradient.

    Empty where they have to be computed one by one: on other platforms, where joining weights takes memory; where each
    weight is divided over the devices of the batch; for the summary; and for parameters of wrong shapes, so that the
    layer with them raises the error. Where heads may be divided over devices, the weights are joined head by head.
    """
    parts = [params.get(name, {}) for name in PROJECTIONS]
    shapes = [np.shape(part.get("weight")) for part in parts]
    fit = shapes == [(x.shape[-1], width) for width in widths] and len({*map(len, parts)}) == 1
    by_head = is_partitioned(beyond_batch=True)
    if not by_head and (is_partitioned() or tuning.platform() != "cpu"):
        return {}
    if ctx.watch is not None or not fit:
        return {}
    if by_head:
        # by name, because the dict comes out of jax.checkpoint with its names sorted
        ordered = lambda parts, ctx: [ctx.cast(parts)[name] for name in PROJECTIONS]
        project = lambda parts, x, ctx: (_project_by_head(ordered(parts, ctx), x, kv_heads), Out())
        return gathering(project, ctx)(dict(zip(PROJECTIONS, parts, strict=True)), x, ctx)[0]
    parts = ctx.cast(parts)
    y = matmul_rows(x, jnp.concatenate([part["weight"] for part in parts], axis=-1))
    if "bias" in parts[0]:
        y = add_bias(y, jnp.concatenate([part["bias"] for part in parts]))
    projections = jnp.split(y, [widths[0], widths[0] + widths[1]], axis=-1)
    return dict(zip(PROJECTIONS, projections, strict=True))


def _project_by_head(parts: Sequence[Params], x: Array, kv_heads: int) -> dict[str, Array]:
    """query, key and value by one product, whose gradient of x is one sum over the devices."""

    def joined(name):
        leaves = [part[name] for part in parts]
        by_head = [leaf.reshape(*leaf.shape[:-1], kv_heads, -1) for leaf in leaves]  # [..., kv_heads, width]
        return jnp.concatenate(by_head, axis=-1), [leaf.shape[-1] for leaf in by_head]

    weight, (query, key, _) = joined("weight")
    y = jnp.einsum("...i,ikh->...kh", x, weight)  # [..., kv_heads, width]
    y = add_bias(y, joined("bias")[0]) if "bias" in parts[0] else y
    split = jnp.split(y, [query, query + key], axis=-1)  # [..., kv_heads, width], then [..., kv_heads * width]
    return {name: part.reshape(*x.shape[:-1], -1) for name, part in zip(PROJECTIONS, split, strict=True)}


def _check_input(x: Any, dim: int, context_dim: int | None, value_dim: int | None) -> AttentionInput:
    """x as an AttentionInput, its shapes checked."""
    where = "attention"
    inputs = check.model_input(where, x, AttentionInput)
    x, context = inputs.x, inputs.context
    if (context is None) != (context_dim is None):
        expected = "x should be an AttentionInput with a context if and only if the layer has a context_dim"
        actual = f"{'no' if context is None else 'a'} context and context_dim={context_dim}"
        check.fail(where, expected=expected, actual=actual)
    check.last_axis(where, x, dim=dim)
    if x.ndim < 2:
        check.fail(where, expected="x should be [..., time, dim]", actual=f"shape {x.shape}")
    if context is not None and context_dim is not None:
        check.last_axis(f"{where}: context", context, context_dim=context_dim)
        if context.shape[:-2] != x.shape[:-2]:
            expected = "x and context should have the same leading axes"
            check.fail(where, expected=expected, actual=f"{x.shape} and {context.shape}")
    value, source = inputs.value, x if context is None else context
    if (value is None) != (value_dim is None):
        expected = "x should be an AttentionInput with a value if and only if the layer has a value_dim"
        actual = f"{'no' if value is None else 'a'} value and value_dim={value_dim}"
        check.fail(where, expected=expected, actual=actual)
    if value is not None and value_dim is not None:
        check.last_axis(f"{where}: value", value, value_dim=value_dim)
        if value.shape[:-1] != source.shape[:-1]:
            expected = "value should have the leading axes and the length of the sequence of the keys"
            check.fail(where, expected=expected, actual=f"{value.shape} and {source.shape}")
    return inputs


def _check_sizes(
    dim: int, heads: int, kv_heads: int | None, head_dim: int | None, context_dim: int | None, value_dim: int | None
) -> int:
    """head_dim, once all sizes fit."""
    where = "attention"
    check.size(where, dim=dim, heads=heads)
    optional = {"kv_heads": kv_heads, "head_dim": head_dim, "context_dim": context_dim}
    optional |= {"value_dim": value_dim}
    check.size(where, **{name: value for name, value in optional.items() if value is not None})
    if head_dim is None and dim % heads:
        hint = "Give head_dim= for heads of another size."
        check.fail(where, expected="heads should divide dim", actual=f"{heads} and {dim}", hint=hint)
    if kv_heads is not None and heads % kv_heads:
        check.fail(where, expected="kv_heads should divide heads", actual=f"{kv_heads} and {heads}")
    return dim // heads if head_dim is None else head_dim
