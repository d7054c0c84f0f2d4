"""Attention as a plain function of queries, keys and values: `nf.attend`."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from nnfunc import check, tuning
from nnfunc.base import Array, Context, Key, Scalar, canonicalize, is_partitioned, wide_dtype
from nnfunc.layers.attention.backends import (
    Implementation,
    attend_cudnn,
    attend_xla,
    choose_implementation,
    gpu_compute_capability,
    is_planned_for_gpu,
    unsupported_by,
)
from nnfunc.layers.attention.masks import AttendOptions, allowed_positions, score_bias, zero_nonfinite
from nnfunc.layers.dropout import dropout as dropout_layer


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
    observe: Callable[[str, Array], Array] | None = None,
) -> Array:
    """The mean of the values for each query, weighted by how well the keys match it.

    For each head: y = softmax(cap(scale * q @ k^T) + bias) @ v over the positions that may be attended to; a
    query that may attend to none gives zeros. Query head h uses key head h // (heads / kv_heads): grouped-query
    attention, multi-query with one key head. The softmax is computed in float32.
    Values at positions that mask, lengths or window exclude change no result and no gradient, NaN included
    (with cuDNN: positions that mask and lengths exclude for all queries). `causal` alone is no such guard:
    a NaN at a later position reaches the queries before it.

    Shapes: q [..., time, heads, head_dim], k [..., source, kv_heads, head_dim],
    v [..., source, kv_heads, value_dim] -> y [..., time, heads, value_dim]; kv_heads divides heads.

    q, k, v: queries, keys and values, of one floating-point dtype.
    mask: True where a query may attend, [..., time, source] for all heads or [..., heads, time, source]; sizes may
        be 1.
    bias: added to the scores, broadcast to [..., heads, time, source].
    causal: whether a query sees only positions up to its own.
    window: at least 1; a query sees only positions nearer than `window`, with causal the last `window` ones, its
        own included.
    lengths: [...] integers, the number of positions of each source that count.
    slopes: [heads], ALiBi: the score falls by slope * distance (`nf.alibi_slopes`).
    start: the position of the first query in the source; query i is at start + i. By default the queries are the
        last positions, start = source - time, so that the last causal query sees everything.
    scale: a factor of the scores, 1 / sqrt(head_dim) by default.
    soft_cap: above 0; scores s become cap * tanh(s / cap) before anything is added; infinity is off.
    dropout: the rate in [0, 1] of weights dropped where a key is given.
    key: the random key of dropout.
    implementation: "plain" is the one of this library, "xla" and "cudnn" are those of
        `jax.nn.dot_product_attention`. By default it is chosen: plain on CPU; on a GPU cuDNN for half precision and
        xla otherwise, each where it supports the call. cuDNN's has no forward mode and no second derivative.
    observe: a function (name, value) -> value of "scores", after the mask, and of "weights", before dropout, both
        [..., heads, time, source]; what it returns is used in their stead. With it the plain implementation runs,
        as only that one stores them; None, the default, for no function.
    Raises: ValueError when shapes do not fit or a number is out of range; TypeError for wrong dtypes.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2; Ainslie et al. 2023, arXiv:2305.13245 (groups);
    Beltagy et al. 2020, arXiv:2004.05150 (window); Press et al. 2021, arXiv:2108.12409 (ALiBi); Gemma 2,
    arXiv:2408.00118 (cap).

    >>> x = jnp.arange(6.0).reshape(3, 1, 2)
    >>> nf.attend(x, x, x, causal=True, scale=0.0)[:, 0, 0].tolist()
    [0.0, 1.0, 2.0]
    """
    q, k, v, mask, bias, lengths, slopes = canonicalize((q, k, v, mask, bias, lengths, slopes), "attend")
    dropout_key = None if dropout is None else key
    options = AttendOptions(mask, bias, causal, window, lengths, slopes, start, scale, soft_cap, dropout_key)
    _check_arrays(q, k, v, options)
    check_numbers("attend", window, soft_cap, dropout)
    if not isinstance(causal, bool):
        hint = "An array of what may be attended to is mask=."
        actual = check.describe(causal)
        check.fail("attend", expected="causal should be True or False", actual=actual, hint=hint, exc_type=TypeError)
    if scale is not None:
        check.number("attend", scale=scale)
    if start is not None:
        check.number("attend", -(2**31), 2**31 - 1, start=start)
    if implementation is not None:
        check.choice("attend", ("plain", "xla", "cudnn"), implementation=implementation)
    if key is not None:
        check.key("attend", key)
    for_gpu = is_planned_for_gpu()
    if observe is not None:
        implementation = "plain"
    elif implementation is None:
        platform = "gpu" if for_gpu else tuning.platform()
        capability = 8.0 if for_gpu else gpu_compute_capability() if platform == "gpu" else 0.0
        implementation = choose_implementation(platform, q, k, v, options, capability)
        if platform == "cpu" and not is_partitioned():
            q, implementation = _choose_measured(q, k, v, options, implementation)
    elif (unsupported := unsupported_by(implementation, q, k, v, options)) is not None:
        expected = f"the call should be one that implementation {implementation!r} supports"
        check.fail("attend", expected=expected, actual=unsupported, hint="Leave implementation= out.")
    if implementation == "cudnn":
        return (_attend_blocks if for_gpu else attend_cudnn)(q, k, v, options)
    added, allowed = score_bias(q, k, options), allowed_positions(q, k, options)
    if k.shape[-3] == 0:
        if observe is not None:
            empty = jnp.zeros((*q.shape[:-3], q.shape[-2], q.shape[-3], 0), wide_dtype(q))
            observe("weights", observe("scores", empty))
        return jnp.zeros((*q.shape[:-1], v.shape[-1]), v.dtype)
    nan_rows = None  # causal alone has no guard against NaN, for speed
    if allowed is not None and any(part is not None for part in (mask, lengths, window)):
        q, k, v, nan_rows = zero_nonfinite(q, k, v, allowed)
    if implementation == "xla":
        y = attend_xla(q, k, v, added, allowed, scale)
    else:
        y = _attend_plain(q, k, v, added, allowed, options, 0.0 if dropout is None else dropout, observe)
    return y if nan_rows is None else jnp.where(nan_rows, jnp.nan, y)


def _choose_measured(
    q: Array, k: Array, v: Array, options: AttendOptions, default: Implementation
) -> tuple[Array, Implementation]:
    """q, and the implementation that was measured for these shapes and options, else the default."""
    options = options._replace(causal=options.causal or None)
    settings = {name: value for name, value in options._asdict().items() if value is not None}
    implementations: tuple[Implementation, ...] = ("plain", "xla")
    measurable = all(isinstance(value, bool | int | float) for value in settings.values())
    if not (q.size and k.size) or not measurable or unsupported_by("xla", q, k, v, options) is not None:
        return q, default
    names = "".join(f", {name} {value}" for name, value in settings.items())
    key = f"attention {q.dtype} {tuning.join_sizes(q.shape)}, keys {tuning.join_sizes(k.shape)}{names}"
    q = tuning.record(
        key, default, implementations, partial(attend, **settings), q, k, v, cost=2 * q.size * k.shape[-3]
    )
    return q, tuning.choose(key, default, implementations)


def check_numbers(where: str, window: Scalar | None, soft_cap: Scalar | None, dropout: Scalar | None) -> None:
    """The ranges of the numbers that `attend` and the layers on top of it take."""
    if window is not None:
        check.number(where, 1, window=window)
    if soft_cap is not None:
        check.number(where, 0, open_low=True, soft_cap=soft_cap)
    if dropout is not None:
        check.number(where, 0, 1, dropout=dropout)


def _check_arrays(q: Array, k: Array, v: Array, options: AttendOptions) -> None:
    """Shapes and dtypes fit each other."""
    where = "attend"
    check.floating(where, q=q, k=k, v=v)
    if not q.dtype == k.dtype == v.dtype:
        dtypes = f"{q.dtype}, {k.dtype} and {v.dtype}"
        check.fail(where, expected="q, k and v should have one dtype", actual=dtypes, exc_type=TypeError)
    fits = q.ndim == k.ndim == v.ndim >= 3 and q.shape[:-3] == k.shape[:-3] == v.shape[:-3]
    if not (fits and k.shape[:-1] == v.shape[:-1] and q.shape[-1] == k.shape[-1]):
        expected = "q should be [..., time, heads, head_dim], k [..., source, kv_heads, head_dim] "
        expected += "and v [..., source, kv_heads, value_dim]"
        check.fail(where, expected=expected, actual=f"q {q.shape}, k {k.shape} and v {v.shape}")
    heads, kv_heads = q.shape[-2], k.shape[-2]
    if heads % max(kv_heads, 1):
        check.fail(where, expected="the heads of k should divide those of q", actual=f"{kv_heads} and {heads}")
    full = (*q.shape[:-3], heads, q.shape[-3], k.shape[-3])
    mask, bias, lengths, slopes = options.mask, options.bias, options.lengths, options.slopes
    if mask is not None:
        dtype = getattr(mask, "dtype", None)
        if dtype is None or dtype != jnp.bool_:
            actual = dtype or check.describe(mask)
            check.fail(where, expected="mask should hold booleans", actual=actual, exc_type=TypeError)
        per_head = mask.ndim == q.ndim
        _check_broadcasts("mask", mask, full if per_head else (*full[:-3], *full[-2:]), per_head)
    if bias is not None:
        check.floating(where, bias=bias)
        _check_broadcasts("bias", bias, full, True)
    if lengths is not None:
        check.integers(where, lengths=lengths)
        check.within(where, 0, k.shape[-3], lengths=lengths)
        _check_broadcasts("lengths", lengths, full[:-3], False)
    if slopes is not None:
        check.floating(where, slopes=slopes)
        check.shape(where, (heads,), slopes=slopes)


def _check_broadcasts(name: str, array: Array, full: tuple[int, ...], per_head: bool) -> None:
    """The array broadcasts to the full shape."""
    sizes = zip(reversed(array.shape), reversed(full), strict=False)
    short = name == "mask" and array.ndim < 2
    if short or array.ndim > len(full) or any(size not in (1, limit) for size, limit in sizes):
        axes = "[...]" if name == "lengths" else f"[...,{' heads,' * per_head} time, source]"
        expected = f"{name} should be {axes}, here {full} or with axes of 1"
        check.fail("attend", expected=expected, actual=f"shape {array.shape}")


def _attend_plain(
    q: Array,
    k: Array,
    v: Array,
    added: Array | None,
    allowed: Array | None,
    options: AttendOptions,
    rate: Scalar,
    observe: Callable[[str, Array], Array] | None,
) -> Array:
    """Batches of matrix products; the query heads of one key head are rows of one matrix."""
    (time, heads, head_dim), (source, kv_heads, dim) = q.shape[-3:], v.shape[-3:]
    queries, keys, values = (_split_heads(x, kv_heads) for x in (q, k, v))
    full = (*q.shape[:-3], heads, time, source)

    def observed(name: str, value: Array) -> Array:  # shown as [..., heads, time, source]
        return value if observe is None else observe(name, value.reshape(full)).reshape(value.shape)

    scores = jnp.einsum("...td,...sd->...ts", queries, keys, preferred_element_type=wide_dtype(q))
    scores *= jnp.asarray(head_dim**-0.5 if options.scale is None else options.scale, scores.dtype)
    if options.soft_cap is not None:
        scores = _cap(scores, options.soft_cap)
    if added is not None or allowed is not None:
        shape = scores.shape
        scores = scores.reshape(full)  # [..., heads, time, source]
        scores = scores if added is None else scores + added
        scores = scores if allowed is None else jnp.where(allowed, scores, -jnp.inf)
        scores = scores.reshape(shape)  # back to [batch * kv_heads, group * time, source]: half the work after it
    weights = observed("weights", _softmax(observed("scores", scores)))
    if options.dropout is not None:
        weights = dropout_layer(rate).forward({}, weights, Context(key=options.dropout))[0]
    weights = weights.astype(v.dtype)
    y = jnp.einsum("...ts,...sd->...td", weights, values, preferred_element_type=wide_dtype(v)).astype(v.dtype)
    y = y.reshape(math.prod(q.shape[:-3]), heads, time, dim)  # [batch, heads, time, dim]
    y = y.transpose(0, 2, 1, 3)  # [batch, time, heads, dim]
    return y.reshape(*q.shape[:-1], dim)  # [..., time, heads, dim]


def _attend_blocks(q: Array, k: Array, v: Array, options: AttendOptions) -> Array:
    """In a program for a planned GPU, what stands for cuDNN's: blocks of queries, whose scores are not stored."""
    size = next(size for size in range(min(128, q.shape[-3]), 0, -1) if q.shape[-3] % size == 0)
    count, first = q.shape[-3] // size, k.shape[-3] - q.shape[-3]
    blocks = jnp.moveaxis(q.reshape(*q.shape[:-3], count, size, *q.shape[-2:]), -4, 0)  # [count, ..., size, heads, dim]
    rest = {name: getattr(options, name) for name in ("causal", "window", "lengths", "scale")}
    if options.mask is not None:
        rest["mask"] = options.mask[..., :size, :]  # the shapes count

    @jax.checkpoint
    def block(i, q):
        return attend(q, k, v, **rest, start=first + i * size, implementation="plain")

    y = jax.lax.map(lambda item: block(*item), (jnp.arange(count), blocks))
    return jnp.moveaxis(y, 0, -4).reshape(
        *q.shape[:-1], v.shape[-1]
    )  # [..., count, size, heads, dim] -> [..., time, heads, dim]


def _split_heads(x: Array, kv_heads: int) -> Array:
    """[..., time, kv_heads * group, dim] -> [batch * kv_heads, group * time, dim].

    In a program that is divided over devices batch and kv_heads stay two axes, so that each can be divided.
    """
    time, heads, dim = x.shape[-3:]
    batch = math.prod(x.shape[:-3])
    x = x.reshape(batch, time, heads, dim).transpose(0, 2, 1, 3)  # [batch, heads, time, dim]
    batches = (batch, kv_heads) if is_partitioned() else (batch * kv_heads,)
    return x.reshape(*batches, heads // kv_heads * time, dim)  # [batch * kv_heads, group * time, dim]


@jax.custom_jvp
def _softmax(scores: Array) -> Array:
    """Softmax over the last axis; 0 where a score is -inf, also where all of a row are."""
    top = scores.max(-1, keepdims=True)
    powers = jnp.exp(scores - jnp.where(top == -jnp.inf, 0.0, top))
    total = powers.sum(-1, keepdims=True)
    return powers / jnp.where(total == 0.0, 1.0, total)


@_softmax.defjvp
def _softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Only the result is kept for the derivative; where it is 0, so is the derivative."""
    y = _softmax(*primals)
    change = y * tangents[0]
    return y, change - y * change.sum(-1, keepdims=True)


def _cap(scores: Array, soft_cap: Scalar) -> Array:
    """cap * tanh(scores / cap); the scores themselves for an infinite cap."""
    cap = jnp.asarray(soft_cap, scores.dtype)
    finite = jnp.isfinite(cap)
    safe = jnp.where(finite, cap, 1)
    return jnp.where(finite, safe * jnp.tanh(scores / safe), scores)
