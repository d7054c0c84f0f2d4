"""Random keys whose draws compile in a tenth of the time: a hash in place of threefry.

Most of what a small program with random draws costs to compile is threefry's twenty rounds, once
for each draw. The laws hold for any generator of JAX, so they are tried with this one. It mixes as
MurmurHash3's finalizer does (Appleby 2011, public domain), which is enough for tests, and no more.
"""

import math

import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl

__all__ = ["quick_key"]


def _mix(x):
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _count(shape):
    return jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)


def _seed(seed):
    return _mix(jnp.asarray(seed).astype(jnp.uint32).reshape(1) + jnp.uint32(0x9E3779B9))


def _fold_in(key, data):
    return _mix(key * jnp.uint32(5) + _mix(data.astype(jnp.uint32) + jnp.uint32(0x632BE5AB)))


def _split(key, shape):
    return _mix(key[0] * jnp.uint32(3) + _mix(_count(shape) + jnp.uint32(1)))[..., None]


def _bits(key, bit_width, shape):
    if bit_width == 64:
        high, low = (_bits(_fold_in(key, jnp.uint32(i)), 32, shape) for i in range(2))
        return (high.astype(jnp.uint64) << 32) | low.astype(jnp.uint64)
    bits = _mix(_mix(_count(shape)) + key[0])
    return bits.astype({8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[bit_width])


_QUICK = define_prng_impl(
    key_shape=(1,), seed=_seed, split=_split, random_bits=_bits, fold_in=_fold_in, name="quick_hash", tag="quick"
)


def quick_key(seed: int) -> jax.Array:
    return jax.random.key(seed, impl=_QUICK)
