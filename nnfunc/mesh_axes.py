"""The mesh axes over which the traced program, its batch and its arrays are divided."""

import jax
import numpy as np

from nnfunc.array_types import PyTree


def varying_axes(tree: PyTree) -> tuple[str, ...]:
    """The mesh axes along which an array of the tree varies inside `jax.shard_map`; () outside of it."""
    types = [getattr(jax.typeof(leaf), "manual_axis_type", None) for leaf in jax.tree.leaves(tree)]
    return tuple(sorted({axis for one in types if one is not None for axis in one.varying}))


DATA_AXIS = "data"
"""The mesh axis that divides the examples of a batch."""


def is_partitioned(*, beyond_batch: bool = False) -> bool:
    """Whether the traced program will be divided over several devices by the compiler, as under `jax.set_mesh`.

    beyond_batch: whether another axis of the mesh than that of the batch counts only.
    """
    axes = _compiler_axes()
    return any(name != DATA_AXIS for name in axes) if beyond_batch else bool(axes)


def _compiler_axes() -> dict[str, int]:
    """The sizes of the mesh axes over which the compiler divides the traced program, by name, if above 1."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = zip(mesh.axis_names, mesh.axis_sizes, mesh.axis_types, strict=True)
    return {name: size for name, size, axis_type in axes if size > 1 and axis_type == jax.sharding.AxisType.Auto}


def batch_parts(size: int) -> int:
    """How many parts the compiler divides a batch of some examples into over devices; 1 where they do not divide it."""
    count = _compiler_axes().get(DATA_AXIS, 1)
    return count if size % count == 0 else 1


def divide_examples(batch: PyTree) -> PyTree:
    """The batch, whose first axis is divided over the mesh axis `data` of a program that is divided over devices."""

    def divide(leaf):
        if not np.ndim(leaf) or batch_parts(np.shape(leaf)[0]) == 1:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, jax.sharding.PartitionSpec(DATA_AXIS))

    return jax.tree.map(divide, batch)


def vary_like(tree: PyTree, like: PyTree) -> PyTree:
    """The tree, varying along the mesh axes of `like` as well, as the carry of a loop has to from its start.

    tree, like: pytrees of arrays. Outside of `jax.shard_map` nothing changes.
    """
    axes = varying_axes(like)
    if not axes:
        return tree

    def vary(leaf):
        missing = tuple(axis for axis in axes if axis not in varying_axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(vary, tree)
