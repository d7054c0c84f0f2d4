"""Attention as a plain function of queries, keys and values: `nf.attend`."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.base import Array, Context, Key, Scalar, canonicalize, wide_dtype
from nnfunc.layers.attention.backends import Implementation, capability_here, choose, cudnn, unfit, xla
from nnfunc.layers.attention.masks import added_scores, allowed_places, finite
from nnfunc.layers.dropout import dropout as dropout_layer

__all__ = ["attend"]


def attend(
    q: Array,
    k: Array,
    v: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    causal: bool = False,
    window: Scalar | None = None,
    lengths: Array | None = None,
    slopes: Array | None = None,
    start: Scalar | None = None,
    scale: Scalar | None = None,
    soft_cap: Scalar | None = None,
    dropout: Scalar | None = None,
    key: Key | None = None,
    implementation: Implementation | None = None,
) -> Array:
    """Each query's mean of the values, weighted by how well the keys match it.

    For each head: y = softmax(cap(scale * q @ k^T) + bias) @ v over the positions that may be attended
    to; a query that may attend to none gives zeros. What mask, lengths or window exclude changes no
    result and no gradient, NaN too (with cuDNN: what mask and lengths exclude for all queries).
    Causal alone does not guard against NaN: one that follows reaches the queries before it.
    Query head h uses key head h // (heads / kv_heads): grouped-query attention, multi-query with one
    key head. The softmax is calculated in float32.

    Shapes: q [..., time, heads, head_dim], k [..., source, kv_heads, head_dim],
    v [..., source, kv_heads, value_dim] -> y [..., time, heads, value_dim]; kv_heads divides heads.

    Where queries stand: query i is at place `start + i` of the source. By default the queries are the
    last ones, start = source - time, so that a causal last query sees everything.
    mask: True where a query may attend, [..., time, source] for all heads or
    [..., heads, time, source]; sizes may be 1. bias: added to the scores, broadcast to
    [..., heads, time, source]. causal: only places up to the query's own. window: at least 1, only
    places nearer than `window`, so with causal the last `window`, the own one included.
    lengths: [...], only the first so many places of each source. slopes: [heads], ALiBi: the score
    falls by slope * distance (`nf.alibi_slopes`).
    scale: by default 1 / sqrt(head_dim). soft_cap: above 0, scores s become cap * tanh(s / cap) before
    anything is added; infinity is off. dropout: the rate in [0, 1] of weights dropped, given a key.
    implementation: "plain" is this library's own, "xla" and "cudnn" are those of
    `jax.nn.dot_product_attention`. By default chosen: plain on CPU, on a GPU cuDNN for half precision
    and xla otherwise, each where it can do what is asked. cuDNN's has no forward mode and no second
    derivative.
    Raises: ValueError when shapes do not fit.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2; Ainslie et al. 2023, arXiv:2305.13245
    (groups); Beltagy et al. 2020, arXiv:2004.05150 (window); Press et al. 2021, arXiv:2108.12409
    (ALiBi); Gemma 2, arXiv:2408.00118 (cap).

    >>> x = jnp.arange(6.0).reshape(3, 1, 2)
    >>> nf.attend(x, x, x, causal=True, scale=0.0)[:, 0, 0].tolist()
    [0.0, 1.0, 2.0]
    """
    q, k, v, mask, bias, lengths, slopes = canonicalize((q, k, v, mask, bias, lengths, slopes), "attend")
    _check_arrays(q, k, v, mask=mask, bias=bias, lengths=lengths, slopes=slopes)
    check_numbers("attend", window, soft_cap, dropout)
    if not isinstance(causal, bool):
        cure = "An array of what may be attended to is mask=."
        got = check.describe(causal)
        check.fail("attend", f"causal should be True or False, got {got}. {cure}", exc_type=TypeError)
    if scale is not None:
        check.number("attend", scale=scale)
    if start is not None:
        check.number("attend", -(2**31), 2**31 - 1, start=start)
    if implementation is not None:
        check.choice("attend", ("plain", "xla", "cudnn"), implementation=implementation)
    if key is not None:
        check.key("attend", key)
    rate = 0.0 if dropout is None else dropout
    key = None if dropout is None else key
    wanted: dict[str, Any] = {
        "mask": mask,
        "bias": bias,
        "causal": causal,
        "window": window,
        "lengths": lengths,
        "slopes": slopes,
        "start": start,
        "scale": scale,
        "soft_cap": soft_cap,
        "dropout": key,
    }
    if implementation is None:
        platform = jax.default_backend()
        capability = capability_here() if platform == "gpu" else 0.0
        implementation = choose(platform, q, k, v, wanted, capability)
    elif (problem := unfit(implementation, q, k, v, wanted)) is not None:
        check.fail("attend", f"implementation {implementation!r} should not be given {problem}.")
    if implementation == "cudnn":
        return cudnn(q, k, v, wanted)
    added, allowed = added_scores(q, k, bias, slopes, start), allowed_places(q, k, wanted)
    if k.shape[-3] == 0:
        return jnp.zeros((*q.shape[:-1], v.shape[-1]), v.dtype)
    spoilt = None  # causal alone stays as it is, for speed
    if allowed is not None and any(part is not None for part in (mask, lengths, window)):
        q, k, v, spoilt = finite(q, k, v, allowed)
    if implementation == "xla":
        y = xla(q, k, v, added, allowed, scale)
    else:
        drop = lambda x: dropout_layer(rate).forward({}, x, Context(key=key))[0]
        y = _plain(q, k, v, added, allowed, scale, soft_cap, drop if key is not None else None)
    return y if spoilt is None else jnp.where(spoilt, jnp.nan, y)


def check_numbers(where: str, window: Scalar | None, soft_cap: Scalar | None, dropout: Scalar | None) -> None:
    """The ranges of the numbers that `attend` and the layers on top of it take."""
    if window is not None:
        check.number(where, 1, window=window)
    if soft_cap is not None:
        check.number(where, 0, open_low=True, soft_cap=soft_cap)
    if dropout is not None:
        check.number(where, 0, 1, dropout=dropout)


def _check_arrays(q: Array, k: Array, v: Array, **others: Array | None) -> None:
    """Shapes and types that fit."""
    where = "attend"
    check.floating(where, q=q, k=k, v=v)
    if not q.dtype == k.dtype == v.dtype:
        types = f"{q.dtype}, {k.dtype} and {v.dtype}"
        check.fail(where, f"q, k and v should have one type, got {types}.", exc_type=TypeError)
    shapes = f"got q {q.shape}, k {k.shape} and v {v.shape}"
    fits = q.ndim == k.ndim == v.ndim >= 3 and q.shape[:-3] == k.shape[:-3] == v.shape[:-3]
    if not (fits and k.shape[:-1] == v.shape[:-1] and q.shape[-1] == k.shape[-1]):
        wanted = "q should be [..., time, heads, head_dim], k [..., source, kv_heads, head_dim]"
        check.fail(where, f"{wanted} and v [..., source, kv_heads, value_dim], {shapes}.")
    heads, kv_heads = q.shape[-2], k.shape[-2]
    if heads % max(kv_heads, 1):
        check.fail(where, f"the heads of k should divide those of q, got {kv_heads} and {heads}.")
    full = (*q.shape[:-3], heads, q.shape[-3], k.shape[-3])
    mask, bias, lengths, slopes = (others[n] for n in ("mask", "bias", "lengths", "slopes"))
    if mask is not None:
        dtype = getattr(mask, "dtype", None)
        if dtype is None or dtype != jnp.bool_:
            got = f"got {dtype or check.describe(mask)}"
            check.fail(where, f"mask should hold booleans, {got}.", exc_type=TypeError)
        per_head = mask.ndim == q.ndim
        _check_fits("mask", mask, full if per_head else (*full[:-3], *full[-2:]), per_head)
    if bias is not None:
        check.floating(where, bias=bias)
        _check_fits("bias", bias, full, True)
    if lengths is not None:
        check.integers(where, lengths=lengths)
        check.within(where, 0, k.shape[-3], lengths=lengths)
        _check_fits("lengths", lengths, full[:-3], False)
    if slopes is not None:
        check.floating(where, slopes=slopes)
        check.shape(where, (heads,), slopes=slopes)


def _check_fits(name: str, array: Array, full: tuple[int, ...], per_head: bool) -> None:
    """The array broadcasts to the full shape."""
    sizes = zip(reversed(array.shape), reversed(full), strict=False)
    short = name == "mask" and array.ndim < 2
    if short or array.ndim > len(full) or any(size not in (1, own) for size, own in sizes):
        axes = {"lengths": "[...]"}.get(name, f"[...,{' heads,' * per_head} time, source]")
        wanted = f"{name} should be {axes}, here {full} or 1 in places"
        check.fail("attend", f"{wanted}, got shape {array.shape}.")


def _plain(
    q: Array,
    k: Array,
    v: Array,
    added: Array | None,
    allowed: Array | None,
    scale: Scalar | None,
    soft_cap: Scalar | None,
    drop: Callable[[Array], Array] | None,
) -> Array:
    """Two batches of matrix products; the query heads of one key head are rows of one matrix."""
    (time, heads, head_dim), (source, kv_heads, dim) = q.shape[-3:], v.shape[-3:]
    queries, keys, values = _batch(q, kv_heads), _batch(k, kv_heads), _batch(v, kv_heads)
    scores = jnp.einsum("btd,bsd->bts", queries, keys, preferred_element_type=wide_dtype(q))
    scores *= jnp.asarray(head_dim**-0.5 if scale is None else scale, scores.dtype)
    if soft_cap is not None:
        scores = _capped(scores, soft_cap)
    if added is not None or allowed is not None:
        shape = scores.shape
        scores = scores.reshape(*q.shape[:-3], heads, time, source)
        scores = scores if added is None else scores + added
        scores = scores if allowed is None else jnp.where(allowed, scores, -jnp.inf)
        scores = scores.reshape(shape)  # one shape for the softmax and the product: half the work
    shares = _softmax(scores)
    shares = (shares if drop is None else drop(shares)).astype(v.dtype)
    y = jnp.einsum("bts,bsd->btd", shares, values, preferred_element_type=wide_dtype(v)).astype(v.dtype)
    y = y.reshape(math.prod(q.shape[:-3]), heads, time, dim).transpose(0, 2, 1, 3)
    return y.reshape(*q.shape[:-1], dim)


def _batch(x: Array, kv_heads: int) -> Array:
    """[..., time, kv_heads * group, dim] -> [batch * kv_heads, group * time, dim]."""
    time, heads, dim = x.shape[-3:]
    batch = math.prod(x.shape[:-3])
    x = x.reshape(batch, time, heads, dim).transpose(0, 2, 1, 3)
    return x.reshape(batch * kv_heads, heads // kv_heads * time, dim)


@jax.custom_jvp
def _softmax(scores: Array) -> Array:
    """Softmax over the last axis; 0 where a score is -inf, also where all of a row are."""
    top = scores.max(-1, keepdims=True)
    powers = jnp.exp(scores - jnp.where(top == -jnp.inf, 0, top))
    total = powers.sum(-1, keepdims=True)
    return powers / jnp.where(total == 0, 1, total)


@_softmax.defjvp
def _softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Only the result is kept for the derivative; where it is 0, so is the derivative."""
    y = _softmax(*primals)
    change = y * tangents[0]
    return y, change - y * change.sum(-1, keepdims=True)


def _capped(scores: Array, soft_cap: Scalar) -> Array:
    cap = jnp.asarray(soft_cap, scores.dtype)
    finite = jnp.isfinite(cap)
    safe = jnp.where(finite, cap, 1)
    return jnp.where(finite, safe * jnp.tanh(scores / safe), scores)
