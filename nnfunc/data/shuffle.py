"""The order of an epoch as a stateless permutation, which gives the index at any position without a sort.

It is a Feistel network on a grid of `rows x columns` cells, slightly more than n. Each round adds to one
coordinate a hash of the other. A round can be inverted, so the rounds permute the grid whatever the hash
is. Cycle walking (apply the rounds again while the result is not below n) makes it a permutation of
[0, n). The grid has few cells more than n, so the longest walk is short and its length is known.

Sources: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", sections 4 and 5 (cycle
walking; the generalised Feistel network). The hash is MurmurHash3's 32-bit finalizer (Appleby).
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array, Scalar

LARGEST = 2**31 - 1  # examples of a data set and of a batch, because indices are int32
GOLDEN = np.uint32(0x9E3779B9)  # 2**32 / golden ratio, whose multiples are spread evenly


def permute(seed: Scalar, epoch: Scalar, position: Array | int, n: int) -> Array:
    """The index of the example at `position` in the order of an epoch of n examples.

    For every seed and epoch, position -> index is a permutation of [0, n). It passes tests of uniformity,
    but is not a cipher.

    Shapes: position [...], integers in [0, n); seed and epoch [] or any shape that broadcasts
    with it; -> [...] int32.
    seed and epoch: integers, taken modulo 2**32.
    n: in [1, 2**31), static.
    Raises: TypeError or ValueError when n is not such a number.

    >>> order = permute(0, 3, jnp.arange(100), 100)
    >>> sorted(order.tolist()) == list(range(100))
    True
    """
    check.size("permute", n=n)
    check.number("permute", 1, LARGEST, n=n)
    return _permute(as_uint32(seed), as_uint32(epoch), as_uint32(position), n=int(n))


def positions(step: Scalar, batch_size: int, n: int) -> tuple[Array, Array]:
    """The (epoch, position in it) of each example of a batch.

    The batches are consecutive parts of an endless stream of epochs, so every example occurs once per epoch,
    and a batch may have the end of one epoch and the start of the next.

    Shapes: step [] -> two arrays [batch_size] of uint32.
    step: 0-based, an integer in [0, 2**32).
    batch_size and n: in [1, 2**31), static. The epoch wraps around at 2**32; nothing else overflows.
    Raises: TypeError or ValueError when batch_size or n is not such a number.

    >>> epoch, position = positions(2, 4, 10)  # 8, 9, 10 and 11 in the stream
    >>> epoch.tolist(), position.tolist()
    ([0, 0, 1, 1], [8, 9, 0, 1])
    """
    check.size("positions", batch_size=batch_size, n=n)
    check.number("positions", 1, LARGEST, batch_size=batch_size, n=n)
    check.number("positions", 0, 2**32 - 1, step=step)
    cycles, step_in_cycle = _divmod(as_uint32(step), n)  # n steps are batch_size epochs
    epoch, position = _times(step_in_cycle, batch_size, n)
    more_epochs, position = _divmod(position + jnp.arange(batch_size, dtype=jnp.uint32), n)
    return cycles * np.uint32(batch_size) + epoch + more_epochs, position


def indices(seed: Scalar, step: Scalar, batch_size: int, n: int) -> Array:
    """The indices of the examples in the batch of one step: a pure function of seed and step.

    Shapes: seed [], step [] -> [batch_size] int32 in [0, n).
    seed, step, batch_size, n: as for `permute` and `positions`. Each of several processes computes all indices and
        uses its slice of them.

    >>> two = [indices(0, step, 3, 6) for step in (0, 1)]  # one epoch
    >>> sorted(jnp.concatenate(two).tolist())
    [0, 1, 2, 3, 4, 5]
    """
    epoch, position = positions(step, batch_size, n)
    return permute(seed, epoch, position, n)


@functools.partial(jax.jit, static_argnames="n")  # so that a loop outside jit compiles once
def _permute(seed: Array, epoch: Array, position: Array, *, n: int) -> Array:
    rows, columns = _grid(n)
    first = _hash(_hash(seed + GOLDEN) ^ epoch)
    keys = first, _hash(first + GOLDEN)

    def walk(turn, index):
        return jnp.where((turn > 0) & (index < n), index, _shuffle(keys, index, rows, columns))

    # A walk that starts below n visits each cell above at most once.
    longest = 1 + rows * columns - n
    position, _ = jnp.broadcast_arrays(position, first)
    return jax.lax.fori_loop(0, longest, walk, position).astype(jnp.int32)


@functools.lru_cache(maxsize=256)
def _grid(n: int) -> tuple[int, int]:
    """(rows, columns) with the least rows * columns >= n, and rows <= 2 sqrt(n), so that both coordinates mix."""
    rows = np.arange(math.isqrt(n - 1) + 1, max(2 * math.isqrt(n), 1) + 1)
    columns = -(-n // rows)
    best = int(np.argmin(rows * columns - n))
    return int(rows[best]), int(columns[best])


def _shuffle(keys: tuple[Array, Array], index: Array, rows: int, columns: int) -> Array:
    """One permutation of the cells [0, rows * columns), each cell as (its row, its column)."""

    def mix(number, cell):
        row, column = cell
        tweak = as_uint32(number) * GOLDEN
        row = _add(row, _hash(column ^ (keys[0] + tweak)), rows)
        return row, _add(column, _hash(row ^ (keys[1] + tweak)), columns)

    # On a small grid a hash takes few values, so more rounds are needed to mix. It is a loop because XLA of
    # jax 0.12 needs minutes to compile the unrolled rounds.
    rounds = 4 if rows * columns >= 128 else 12
    row, column = jax.lax.fori_loop(0, rounds, mix, _divmod(index, columns))
    return row * np.uint32(columns) + column


def _add(x: Array, y: Array, modulus: int) -> Array:
    """(x + y) mod modulus, for x below it and any y."""
    total = x + _divmod(y, modulus)[1]
    return jnp.where(total < modulus, total, total - np.uint32(modulus))


def _times(x: Array, factor: int, n: int) -> tuple[Array, Array]:
    """divmod(x * factor, n) for x < n."""
    if n * factor < 2**32:
        return _divmod(x * np.uint32(factor), n)

    def add(turn, cell):  # bit by bit from the highest, because the product may have 62 bits
        epoch, position = cell
        bit = (np.uint32(factor) >> as_uint32(factor.bit_length() - 1 - turn)) & np.uint32(1)
        epoch, position = epoch + epoch + as_uint32(2 * position >= n), _add(position, position, n)
        return epoch + as_uint32(position + bit * x >= n), _add(position, bit * x, n)

    return jax.lax.fori_loop(0, factor.bit_length(), add, (jnp.zeros_like(x), jnp.zeros_like(x)))


def _hash(x: Array) -> Array:
    """The finalizer of MurmurHash3: every bit of x changes about half of the bits of the result."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _divmod(x: Array, divisor: int) -> tuple[Array, Array]:
    by = jnp.full_like(x, divisor)
    return jax.lax.div(x, by), jax.lax.rem(x, by)


def as_uint32(x: Any) -> Array:
    """An integer or an array of integers x, modulo 2**32."""
    if check.is_plain(x):
        return jnp.asarray(np.uint32(int(x) % 2**32))
    return jnp.asarray(x).astype(jnp.uint32)
