"""How the values inside a model are divided over the devices of a mesh while a step is computed."""

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nnfunc import paths
from nnfunc.base import Context, Model, Out, Params, PyTree
from nnfunc.distributed.mesh import DATA, MODEL, axis_size
from nnfunc.rematerialization import gathering


@dataclass(frozen=True)
class LeafPlacement:
    """How an array is divided.

    axes: the mesh axis that divides each axis of the array, None for none.
    stacks: how many axes are of repeats.
    stored: the same of the array between steps, where a mesh axis moves that does not divide a vocabulary.
    """

    axes: tuple[str | None, ...]
    stacks: int
    stored: tuple[Any, ...]

    @property
    def spec(self) -> PartitionSpec:
        """The PartitionSpec of the whole array between steps."""
        return PartitionSpec(*self.stored)

    @property
    def changes(self) -> bool:
        """Whether a layer computes with another division than that between steps."""
        return DATA in self.axes or self.axes != self.stored

    @property
    def inside(self) -> tuple[PartitionSpec, PartitionSpec]:
        """Those of one layer of it between steps, and as a layer computes with it: not over the batch's axis."""
        computed = (None if axis == DATA else axis for axis in self.axes[self.stacks :])
        return PartitionSpec(*self.stored[self.stacks :]), PartitionSpec(*computed)


class ModelPartition:
    """How the values inside a model are divided, for `Context`: see `nnfunc.context.Partition`.

    mesh: of the run.
    leaves: the placement of each parameter by path.
    sequence: whether the values between blocks are divided along time.
    cut_layers: the names of the layers that are then whole along time.
    """

    def __init__(self, mesh: Mesh, leaves: Mapping[str, LeafPlacement], sequence: bool, cut_layers: Collection[str]):
        self.mesh, self.sequence, self.cut_layers = mesh, sequence, cut_layers
        self.leaves = {path: leaf for path, leaf in leaves.items() if leaf.changes}
        self.gathers = bool(self.leaves)

    def gather(self, params: Params, ctx: Context, full_precision: bool | Sequence[str] = False) -> Params:
        names, depth = [name.partition("@")[0] for name in ctx.path if name != "*"], ctx.path.count("*")

        def gathered(keys: Any, leaf: Any) -> Any:
            name = paths.path_of(keys)
            placed = self.leaves.get("/".join((*names, name)))
            if placed is None or placed.stacks != depth:
                return leaf
            is_full = full_precision is True or (full_precision and name.startswith(tuple(full_precision)))
            return _gather(self.mesh, leaf, placed, (lambda leaf: leaf) if is_full else ctx.cast)

        return jax.tree.map_with_path(gathered, params)

    def between(self, x: PyTree) -> PyTree:
        return self._constrain(x, MODEL) if self.sequence else x

    def enter(self, name: str, x: PyTree) -> PyTree:
        # both constraints, because the gradient passes them in the other order
        return self._constrain(self._constrain(x, MODEL), None) if self.sequence and name in self.cut_layers else x

    def leave(self, name: str, y: PyTree) -> PyTree:
        return self._constrain(self._constrain(y, None), MODEL) if self.sequence and name in self.cut_layers else y

    def _constrain(self, tree: PyTree, time: str | None) -> PyTree:
        """The sequences of a tree, [batch, ..., time, dim], divided along the batch, and along time over an axis."""
        batch = DATA if DATA in self.mesh.shape else None

        def constrain(x):
            if np.ndim(x) < 3:
                return x
            positions, count = np.shape(x)[-2], axis_size(self.mesh, MODEL)
            if positions % count:
                if time is not None:
                    problem = f"the {count} devices of the mesh axis {MODEL!r} do not divide {positions} positions"
                    warnings.warn(f"sequence: {problem}, so the values between blocks stay whole.", stacklevel=2)
                return x
            spec = PartitionSpec(batch, *[None] * (np.ndim(x) - 3), time, None)
            return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

        return jax.tree.map(constrain, tree)


def _gather(mesh: Mesh, leaf: Any, placed: LeafPlacement, cast: Callable[[Any], Any]) -> Any:
    """The leaf as a layer computes with it; its gradient is summed into the parts of the leaf.

    A vocabulary that the devices do not divide is padded by the compiler.
    """
    stored, computed = (NamedSharding(mesh, spec) for spec in placed.inside)
    # first as it is stored, so that its gradient, and what is stored for the gradient, are divided too; cast before the
    # devices exchange it, in half the bytes
    divided = cast(jax.lax.with_sharding_constraint(leaf, stored))
    return jax.lax.with_sharding_constraint(jax.lax.with_sharding_constraint(divided, stored), computed)


def divided(model: Model, partition: ModelPartition | None) -> Model:
    """The model, whose values are divided as the partition says. model: any. partition: of `Placement.partition`."""
    if partition is None:
        return model

    def forward(params: Params, x: PyTree, ctx: Context) -> tuple[PyTree, Out]:
        inside = replace(ctx, partition=partition)
        return gathering(model, inside)(params, x, inside)

    return model.replace(forward=forward)
