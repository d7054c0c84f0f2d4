"""Random keys that belong to names and indices."""

import zlib
from collections.abc import Callable
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.array_types import Key, PyTree

_fold_in = jax.jit(jax.random.fold_in, inline=True)


def fold_in(key: Key, number: Any) -> Key:
    """`jax.random.fold_in` in a tenth of the time outside of jit, because it is called for every name."""
    number = np.uint32(number) if isinstance(number, int) else number
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)  # raw keys depend on a global setting
    return _fold_in(key, number) if typed else jax.random.fold_in(key, number)


@overload
def fold(key: Key, name: str | int, call: int = 0) -> Key: ...
@overload
def fold(key: None, name: str | int, call: int = 0) -> None: ...
def fold(key: Key | None, name: str | int, call: int = 0) -> Key | None:
    """The child key that belongs to a name (or an index) and to the number of calls before this one."""
    if key is None:
        return None
    key = fold_in(key, np.uint32(zlib.crc32(name.encode())) if isinstance(name, str) else name)
    return fold_in(key, call) if call else key


def draws_same_under_vmap(key: Key) -> bool:
    """Whether such keys draw the same numbers under vmap as alone: JAX's rbg keys do not."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    impl = jax.random.key_impl(key) if typed else jax.config.jax_default_prng_impl  # pyright: ignore
    return "rbg" not in str(impl)


def vmap_keys(function: Callable[..., PyTree], keys: Key, *args: PyTree) -> PyTree:
    """`jax.vmap` of the function over keys and args; each row is equal to a call with its key alone."""
    if draws_same_under_vmap(keys):
        return jax.vmap(function)(keys, *args)
    return jax.lax.map(lambda row: function(*row), (keys, *args))


def indexed_keys(key: Key, n: int) -> Key:
    """The keys `fold_in(key, i)` for i below n, [n]."""
    if draws_same_under_vmap(key):
        return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n))
    return jnp.stack([jax.random.fold_in(key, i) for i in range(n)])
