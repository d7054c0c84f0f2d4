"""Encodings of the position in a sequence: rotary, ALiBi, learned and sinusoidal."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import broadcast_to_rank

from nnfunc import check, initializers
from nnfunc.base import Array, Initializer, Model, Out, Scalar, canonicalize, wide_dtype
from nnfunc.layers.attention.rotary_scaling import RotaryScaling, check_scaling, scale_frequencies


def rotary(
    x: Array,
    positions: Array | None = None,
    *,
    base: Scalar = 10000.0,
    dim: int | None = None,
    interleaved: bool = False,
    tables: tuple[Array, Array] | None = None,
    scaling: RotaryScaling | None = None,
) -> Array:
    """Each pair of channels rotated by an angle that grows with the position: RoPE.

    Pair i of dim / 2 is rotated by `position * base^(-2i / dim)`, so the product of a query and a key
    depends on their distance. The pairs are (i, i + dim / 2), as in the Llama of Hugging
    Face and GPT-NeoX.
    interleaved: (2i, 2i + 1), as in the paper, GPT-J and Meta's Llama.
    Shapes: x [..., time, heads, head_dim] -> y of the same shape; positions [..., time] or [time], by default 0, 1,
    2, ...
    base: above 0; 10000 as in the paper.
    dim: the number of channels to rotate, the first ones, even; by default all.
    tables: (cos, sin), both [length, dim / 2], of the angles of each pair at each position, in place of base; of
        published tables [length, dim] the first half of the columns. dim is then twice their columns, and a
        position beyond them gives NaN.
    scaling: None, or a table for sequences longer than those of the first training: its name and numbers. Each has
        a factor above 0, of the length; all but "linear" the length of the first training: "linear" divides the
        frequencies by the factor; "dynamic" raises the base once a sequence is longer than length; "yarn" divides
        those that turn less than `slow` times within length, 1 by default, not those that turn more than `fast`
        times, 32, and scales cos and sin by `amplitude`; "llama3" does so between `low` and `high` turns, without
        an amplitude; "longrope" divides by `short`, or by `long` once a sequence is longer than length.
    Raises: ValueError when dim is odd or above head_dim, the tables do not fit, or scaling has an unknown name or
    number; TypeError for positions that are no integers together with tables.
    Source: Su et al. 2021, arXiv:2104.09864, section 3.2.2; of the scalings: arXiv:2306.15595 (linear),
    arXiv:2309.00071 (dynamic, YaRN), arXiv:2407.21783 (Llama 3), arXiv:2402.13753 (LongRoPE).

    >>> nf.rotary(jnp.array([[[1.0, 0.0]], [[1.0, 0.0]]]))[:, 0].tolist()
    [[1.00, 0.00], [0.54, 0.84]]
    """
    check.floating("rotary", x=x)
    x = canonicalize(x)
    if x.ndim < 3:
        check.fail("rotary", expected="x should be [..., time, heads, head_dim]", actual=f"shape {x.shape}")
    if tables is not None:
        tables = _check_tables(tables, dim)
        dim = 2 * tables[0].shape[-1]
    dim = x.shape[-1] if dim is None else dim
    check.size("rotary", 2, dim=dim)
    if dim % 2 or dim > x.shape[-1]:
        expected = f"dim should be even and at most the last axis of x, {x.shape[-1]}"
        check.fail("rotary", expected=expected, actual=dim)
    check.number("rotary", 0, open_low=True, base=base)
    check_scaling("rotary", scaling, dim)
    wide = wide_dtype(x)
    if not isinstance(positions, jax.Array | None):  # as floats at once: JAX's integers are small
        positions = canonicalize(np.asarray(positions, np.float64 if tables is None else None))
    positions = jnp.asarray(np.arange(x.shape[-3]) if positions is None else positions)
    if positions.shape[-1:] != x.shape[-3:-2] or positions.ndim > x.ndim - 2:
        expected = f"positions should be [..., time] with time {x.shape[-3]}"
        check.fail("rotary", expected=expected, actual=f"shape {positions.shape}")
    if tables is None:
        frequencies, amplitude = _frequencies(dim, base, wide), None
        if scaling is not None:
            frequencies, amplitude = scale_frequencies(frequencies, base, scaling, positions.max(initial=-1) + 1)
        positions = positions.astype(wide)[..., None, None]
        angles = positions * broadcast_to_rank(frequencies, positions.ndim)
        angles = broadcast_to_rank(angles, x.ndim)  # [..., time, 1, dim / 2]
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        if amplitude is not None:
            cos, sin = cos * amplitude, sin * amplitude
    else:
        check.integers("rotary", "With tables, positions are indices of their rows.", positions=positions)
        rows = jnp.where(positions < 0, len(tables[0]), positions).astype(jnp.int32)
        read = lambda table: table.astype(wide).at[rows].get(mode="fill", fill_value=jnp.nan)[..., None, :]
        cos, sin = (broadcast_to_rank(read(table), x.ndim) for table in tables)  # [..., time, 1, dim / 2]
    turned, rest = x[..., :dim].astype(wide), x[..., dim:]
    if interleaved:
        one, two = turned[..., 0::2], turned[..., 1::2]
    else:
        one, two = turned[..., : dim // 2], turned[..., dim // 2 :]
    pair = one * cos - two * sin, two * cos + one * sin
    if interleaved:
        y = jnp.stack(pair, axis=-1).reshape(turned.shape)  # [..., time, heads, dim]
    else:
        y = jnp.concatenate(pair, axis=-1)
    y = y.astype(x.dtype)
    return jnp.concatenate([y, rest], axis=-1) if rest.shape[-1] else y


def _check_tables(tables: tuple[Array, Array], dim: int | None) -> tuple[Array, Array]:
    """The tables (cos, sin), of one shape [length, dim / 2]."""
    if not isinstance(tables, tuple | list) or len(tables) != 2:
        actual = check.describe(tables)
        check.fail("rotary", expected="tables should be a pair (cos, sin)", actual=actual, exc_type=TypeError)
    cos, sin = canonicalize(tuple(tables))
    check.floating("rotary: tables", cos=cos, sin=sin)
    check.same_shape("rotary: tables", cos=cos, sin=sin)
    if cos.ndim != 2 or (dim is not None and 2 * cos.shape[-1] != dim):
        expected = f"tables should be [length, {'dim / 2' if dim is None else dim // 2}]"
        check.fail("rotary", expected=expected, actual=f"shape {cos.shape}")
    return jnp.asarray(cos), jnp.asarray(sin)


def alibi_slopes(heads: int) -> Array:
    """The slope of each head in ALiBi, `2^(-8 i / heads)` for i = 1 ... heads.

    For a number of heads that is no power of two: those of the power below it, then every second one of
    the power above it, as in the authors' code.
    heads: their number, at least 1. Shapes: [heads].
    Source: Press et al. 2021, arXiv:2108.12409, section 3, and get_slopes in their fairseq code.

    >>> nf.alibi_slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    check.size("alibi_slopes", heads=heads)
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (i + 1) / below) for i in range(below)]
    slopes += [2 ** (-4 * (i + 1) / below) for i in range(0, 2 * (heads - below), 2)]
    return jnp.asarray(np.array(slopes, np.float32))


def learned_positions(block_size: int, dim: int, *, weight_init: Initializer = initializers.normal(0.02)) -> Model:
    """`y = x + weight[position]`: a learned vector for each of `block_size` positions.

    While a sequence is generated the state holds the position; beyond the table y is NaN.

    block_size: the longest sequence, at least 1.
    dim: the width of x.
    weight_init: of the table; its standard deviation of 0.02 is that of GPT-2 and BERT.
    Shapes: x [..., time, dim] -> y of the same shape, time at most block_size; weight [block_size, dim]. x may be a
    pair (x, positions) with the position of each vector, integers [..., time] in [0, block_size).
    Raises: ValueError when the sequence is longer than the table.

    >>> model = nf.learned_positions(16, 4)
    >>> model.apply(model.init(jax.random.key(0)), jnp.ones((2, 10, 4))).shape
    (2, 10, 4)
    """
    where = "learned_positions"
    check.size(where, block_size=block_size, dim=dim)

    def init(key):
        return {"weight": weight_init(key, (block_size, dim))}

    def forward(params, x, ctx):
        x, chosen = x if isinstance(x, tuple) else (x, None)
        _check_sequence(where, x, dim)
        weight, time = jnp.asarray(ctx.cast(params)["weight"]), x.shape[-2]
        if chosen is not None:
            check.integers(where, positions=chosen)
            check.shape(where, x.shape[:-1], positions=chosen)
            vectors = weight.at[chosen].get(mode="fill", fill_value=jnp.nan)  # [..., time, dim]
            state = {"position": ctx.state["position"] + time} if ctx.state else _first_state(ctx, time)
            return x + vectors, Out(state)
        longest = max(time, ctx.cache or 0)
        if longest > block_size:
            expected = f"the sequence should be at most {block_size}"
            hint = f"Make it learned_positions({longest}, {dim}), or give shorter sequences."
            check.fail(where, expected=expected, actual=longest, hint=hint)
        if not ctx.state:
            return x + broadcast_to_rank(weight[:time], x.ndim), Out(_first_state(ctx, time))
        positions = ctx.state["position"] + jnp.arange(time, dtype=jnp.int32)
        vectors = weight.at[positions].get(mode="fill", fill_value=jnp.nan)  # [time, dim]
        return x + broadcast_to_rank(vectors, x.ndim), Out({"position": ctx.state["position"] + time})

    return Model(init, forward=forward)


def sinusoidal_positions(dim: int, *, base: Scalar = 10000.0) -> Model:
    """`y = x + table[position]`: sines and cosines of the position, at dim / 2 wavelengths.

    table[p, 2i] = sin(p / base^(2i / dim)), table[p, 2i + 1] = cos(p / base^(2i / dim)).
    While a sequence is generated the state holds the position.
    dim: the width of x, even.
    base: above 0; 10000 as in the paper.
    Shapes: x [..., time, dim] -> y of the same shape.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.

    >>> nf.sinusoidal_positions(2).apply({}, jnp.zeros((2, 2))).tolist()
    [[0.00, 1.00], [0.84, 0.54]]
    """
    where = "sinusoidal_positions"
    check.size(where, dim=dim)
    check.number(where, 0, open_low=True, base=base)
    if dim % 2:
        check.fail(where, expected="dim should be even", actual=dim)

    def forward(params, x, ctx):
        _check_sequence(where, x, dim)
        wide, time = wide_dtype(x), x.shape[-2]
        first = ctx.state["position"] if ctx.state else 0
        positions = (first + jnp.arange(time, dtype=jnp.int32)).astype(wide)
        angles = positions[:, None] * _frequencies(dim, base, wide)[None]
        table = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(time, dim)  # [time, dim]
        state = {"position": first + time} if ctx.state else _first_state(ctx, time)
        return x + broadcast_to_rank(table.astype(x.dtype), x.ndim), Out(state)

    return Model(lambda key: {}, forward=forward)


def _frequencies(dim: int, base: Scalar, dtype) -> Array:
    """`base^(-2i / dim)` for i = 0 ... dim / 2 - 1."""
    exponents = np.arange(0, dim, 2) / dim
    if check.is_plain(base):
        return jnp.asarray(np.power(float(base), -exponents), dtype)
    return jnp.exp(-jnp.log(jnp.asarray(base, dtype)) * jnp.asarray(exponents, dtype))


def _first_state(ctx, time: int) -> dict[str, Array]:
    return {} if ctx.cache is None else {"position": jnp.asarray(time, jnp.int32)}


def _check_sequence(where: str, x: Array, dim: int) -> None:
    check.last_axis(where, x, dim=dim)
    if x.ndim < 2:
        check.fail(where, expected="x should be [..., time, dim]", actual=f"shape {x.shape}")
