"""Arrays of a run on the devices of its mesh, and back."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from nnfunc.base import PyTree


def put_array(leaf: Any, sharding: NamedSharding) -> Any:
    """An array that every process has, on the devices of a sharding, also of other processes."""
    if sharding.is_fully_addressable:
        return jax.device_put(leaf, sharding)
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = put_array(jax.random.key_data(leaf), NamedSharding(sharding.mesh, PartitionSpec()))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def put_like(tree: PyTree, like: PyTree) -> PyTree:
    """The arrays of a tree on the devices of those of another one, if they are on a mesh."""

    def put(leaf: Any, like: Any) -> Any:
        sharding = getattr(like, "sharding", None)
        if not isinstance(sharding, NamedSharding) or getattr(leaf, "sharding", None) == sharding:
            return leaf
        return put_array(leaf, sharding)

    return jax.tree.map(put, tree, like)


def local_arrays(tree: PyTree) -> PyTree:
    """The arrays of a tree, of which other processes hold parts, as whole ones of this process.

    All processes call it, because they exchange the parts.
    """

    def local(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if leaf.is_fully_replicated:
            return leaf.addressable_data(0)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(local, tree)
