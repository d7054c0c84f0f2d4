"""Attention as a layer: projections, positions, heads, and the cache of generation."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from nnfunc import check, initializers
from nnfunc.base import Array, Context, Initializer, Model, Out, Params, Scalar, fold
from nnfunc.combinators import call_child, tap
from nnfunc.layers.attention.backends import Implementation
from nnfunc.layers.attention.functional import attend, check_numbers
from nnfunc.layers.attention.masks import zero_nonfinite_padding
from nnfunc.layers.attention.positions import alibi_slopes, rotary
from nnfunc.layers.linear import add_bias, linear, matmul_rows
from nnfunc.layers.norm import rms_norm

__all__ = ["attention"]

_INPUTS = ("x", "context", "mask", "bias", "lengths")


def attention(
    dim: int,
    heads: int,
    *,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    context_dim: int | None = None,
    causal: bool = False,
    window: Scalar | None = None,
    positions: Literal["rotary", "alibi"] | None = None,
    rotary_base: Scalar = 10000.0,
    rotary_dim: int | None = None,
    interleaved: bool = False,
    qk_norm: bool = False,
    scale: Scalar | None = None,
    soft_cap: Scalar | None = None,
    dropout: Scalar | None = None,
    bias: bool = True,
    out_bias: bool | None = None,
    weight_init: Initializer = initializers.lecun_normal,
    out_init: Initializer | None = None,
    implementation: Implementation | None = None,
) -> Model:
    """Multi-head attention of a sequence to itself, or to another one with `context_dim`.

    q, k, v = x @ query, context @ key, context @ value; y = attend(q, k, v) @ out, each plus its bias.
    kv_heads: how many heads k and v have, by default as many as q: fewer is grouped-query, 1 is
    multi-query attention. head_dim: by default dim / heads.
    positions: "rotary" turns q and k (`nf.rotary` with rotary_base, rotary_dim, interleaved), "alibi"
    lowers the scores with the distance (`nf.alibi_slopes`). qk_norm: RMS norm of each head of q and k,
    before they turn. causal, window, scale, soft_cap, dropout, implementation: see `nf.attend`; without
    a key nothing is dropped. bias: of query, key and value; out_bias: by default the same. out_init: by
    default weight_init. A bias of the keys adds the same to all scores of a query: it changes nothing
    (but with rotary positions, qk_norm or a cap), and its gradient is rounding alone, which Adam makes
    whole steps of: it is there because published weights have it.

    Shapes: x [..., time, dim] -> y [..., time, dim]. x may be a dict {"x": x, ...} with "context"
    [..., source, context_dim] (with context_dim always), "mask" [..., time, source], "lengths" [...] of
    the padded source, "bias" for the scores, as `nf.attend` takes them. Parameters: query/weight
    [dim, heads * head_dim], key/weight and value/weight [dim or context_dim, kv_heads * head_dim],
    out/weight [heads * head_dim, dim], a bias [...] each; with qk_norm query_norm/scale and
    key_norm/scale [head_dim].

    While a sequence is generated the state holds key and value
    [..., cache, kv_heads, head_dim] and the position, and a mask has a source of `cache` places; once
    the cache is full, y is NaN. Of a context the state holds key and value from the first call on.
    Raises: ValueError when heads do not divide dim, or kv_heads heads; when a context is attended to
    with causal, window or positions; when a sequence is generated without causal.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.2.

    >>> model = nf.attention(16, 4, kv_heads=2, causal=True, positions="rotary")
    >>> params = model.init(jax.random.key(0))
    >>> params["key"]["weight"].shape, model.apply(params, jnp.ones((2, 5, 16))).shape
    ((16, 8), (2, 5, 16))
    """
    head_dim = _check_sizes(dim, heads, kv_heads, head_dim, context_dim)
    kv_heads = heads if kv_heads is None else kv_heads
    check_numbers("attention", window, soft_cap, dropout)
    if positions is not None:
        check.choice("attention", ("rotary", "alibi"), positions=positions)
    if context_dim is not None and (causal or window is not None or positions):
        wanted = "causal, window and positions should be left out with context_dim"
        check.fail("attention", f"{wanted}: places of two sequences do not compare; got them.")
    if positions == "rotary":  # its own checks, before any call
        one = jax.ShapeDtypeStruct((1, 1, head_dim), jnp.float32)
        turn = lambda x, at=None: rotary(x, at, base=rotary_base, dim=rotary_dim, interleaved=interleaved)
        jax.eval_shape(turn, one)
    wide, narrow = heads * head_dim, kv_heads * head_dim
    source_dim = dim if context_dim is None else context_dim
    children = {
        "query": linear(dim, wide, bias=bias, weight_init=weight_init),
        "key": linear(source_dim, narrow, bias=bias, weight_init=weight_init),
        "value": linear(source_dim, narrow, bias=bias, weight_init=weight_init),
        "out": linear(wide, dim, bias=bias if out_bias is None else out_bias, weight_init=out_init or weight_init),
    }
    if qk_norm:
        children |= {"query_norm": rms_norm(head_dim), "key_norm": rms_norm(head_dim)}

    def init(key):
        return {name: child.init(fold(key, name)) for name, child in children.items()}

    def forward(params, x, ctx):
        given = _inputs(x, dim, context_dim)
        mask, lengths = given.get("mask"), given.get("lengths")
        context = zero_nonfinite_padding(given.get("context", given["x"]), mask, lengths)
        x = context if context_dim is None else given["x"]
        taps = {}

        def run(name, x):
            if name in joined:
                y, out = tap(ctx, "/".join((*ctx.path, name)), joined[name], Out())
                taps.update(out.taps)
                return y
            y, out = call_child(children[name], params.get(name, {}), x, ctx.enter(name))
            taps.update(out.taps)
            return y

        def project(name, x, count, at):
            y = run(name, x).reshape(*x.shape[:-1], count, head_dim)
            y = run(f"{name}_norm", y) if qk_norm and name != "value" else y
            return turn(y, at) if positions == "rotary" and name != "value" else y

        _check_cache(ctx, x, causal, context_dim)
        joined = _joined(params, x, ctx, (wide, narrow, narrow)) if context_dim is None else {}
        start = ctx.state.get("position")
        first = jnp.zeros((), jnp.int32) if start is None else start
        at = first + jnp.arange(x.shape[-2], dtype=jnp.int32)
        q = project("query", x, heads, at)
        if context_dim is not None and ctx.state:
            k, v, state = ctx.state["key"], ctx.state["value"], ctx.state
        else:
            k, v = (project(name, context, kv_heads, at) for name in ("key", "value"))
            k, v, state = _remember(ctx, k, v, context_dim)
        y = attend(
            q,
            k,
            v,
            mask=mask,
            bias=given.get("bias"),
            causal=causal,
            window=window,
            lengths=lengths,
            start=start,
            scale=scale,
            soft_cap=soft_cap,
            slopes=alibi_slopes(heads) if positions == "alibi" else None,
            dropout=dropout,
            key=fold(ctx.key, "dropout"),
            implementation=implementation,
        )
        return run("out", y.reshape(*x.shape[:-1], wide)), Out(state, taps)

    return Model(init, forward=forward)


def _joined(params: Params, x: Array, ctx: Context, widths: tuple[int, int, int]) -> dict[str, Array]:
    """query, key and value of one product: on CPU it is quicker, and x is kept once for the gradient.

    Nothing when they have to be calculated one by one: elsewhere, where joining weights would undo
    their sharding; for the summary; and with parameters that do not fit, for the layers' own errors.
    """
    own = [params.get(name, {}) for name in ("query", "key", "value")]
    shapes = [jnp.shape(part.get("weight")) for part in own]
    fit = shapes == [(x.shape[-1], width) for width in widths] and len({*map(len, own)}) == 1
    if jax.default_backend() != "cpu" or ctx.watch is not None or not fit:
        return {}
    own = ctx.cast(own)
    y = matmul_rows(x, jnp.concatenate([part["weight"] for part in own], axis=-1))
    if "bias" in own[0]:
        y = add_bias(y, jnp.concatenate([part["bias"] for part in own]))
    parts = jnp.split(y, [widths[0], widths[0] + widths[1]], axis=-1)
    return dict(zip(("query", "key", "value"), parts, strict=True))


def _remember(ctx: Context, k: Array, v: Array, context_dim: int | None) -> tuple[Array, Array, Any]:
    """The keys and values to attend to, and the new state."""
    if ctx.state:
        position, new = ctx.state["position"], k.shape[-3]
        room = ctx.state["key"].shape[-3]
        k = jnp.where(position + new <= room, k, jnp.nan)  # rather than write over the last ones
        insert = jax.lax.dynamic_update_slice_in_dim
        k = insert(ctx.state["key"], k, position, k.ndim - 3)
        v = insert(ctx.state["value"], v, position, v.ndim - 3)
        return k, v, {"key": k, "value": v, "position": position + new}
    if ctx.cache is None:
        return k, v, {}
    if context_dim is not None:
        return k, v, {"key": k, "value": v}
    room = [(0, 0)] * k.ndim
    room[-3] = (0, ctx.cache - k.shape[-3])
    position = jnp.asarray(k.shape[-3], jnp.int32)
    return k, v, {"key": jnp.pad(k, room), "value": jnp.pad(v, room), "position": position}


def _inputs(x: Any, dim: int, context_dim: int | None) -> dict[str, Any]:
    """The arrays given, by name, with their shapes checked."""
    where = "attention"
    given = x if isinstance(x, dict) else {"x": x}
    for name in given:
        if name not in _INPUTS:
            check.fail(where, f"x holds {name!r}{check.nearest(str(name), _INPUTS)}")
    if "x" not in given:
        check.fail(where, f"x should hold 'x', got {sorted(given)}.")
    if ("context" in given) != (context_dim is not None):
        wanted = 'x should be {"x": ..., "context": ...} with context_dim, without context otherwise'
        check.fail(where, f"{wanted}, got {sorted(given)} and context_dim={context_dim}.")
    check.last_axis(where, given["x"], dim=dim)
    if given["x"].ndim < 2:
        check.fail(where, f"x should be [..., time, dim], got shape {given['x'].shape}.")
    if context_dim is not None:
        check.last_axis(f"{where}: context", given["context"], context_dim=context_dim)
        if given["context"].shape[:-2] != given["x"].shape[:-2]:
            got = f"got {given['x'].shape} and {given['context'].shape}"
            check.fail(where, f"x and context should have the same leading axes, {got}.")
    return given


def _check_sizes(dim: int, heads: int, kv_heads: int | None, head_dim: int | None, context_dim: int | None) -> int:
    """head_dim, once all sizes fit."""
    where = "attention"
    check.size(where, dim=dim, heads=heads)
    given = {"kv_heads": kv_heads, "head_dim": head_dim, "context_dim": context_dim}
    check.size(where, **{name: value for name, value in given.items() if value is not None})
    if head_dim is None and dim % heads:
        wanted = f"heads should divide dim, got {heads} and {dim}"
        check.fail(where, f"{wanted}. Give head_dim= for heads of another size.")
    if kv_heads is not None and heads % kv_heads:
        check.fail(where, f"kv_heads should divide heads, got {kv_heads} and {heads}.")
    return dim // heads if head_dim is None else head_dim


def _check_cache(ctx: Context, x: Array, causal: bool, context_dim: int | None) -> None:
    if (ctx.cache is None and not ctx.state) or context_dim is not None:
        return
    if not causal:
        wanted = "generation should use causal=True, since what follows is not known"
        check.fail("attention", f"{wanted}; got causal=False.")
    time = x.shape[-2]
    if ctx.cache is not None and time > ctx.cache:
        cure = "Make room for the prompt and all that follows."
        check.fail("attention", f"the cache should hold {time} places, got {ctx.cache}. {cure}")
