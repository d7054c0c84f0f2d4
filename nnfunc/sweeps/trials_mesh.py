"""The devices of a sweep whose trials each need several: trials side by side along one axis of a mesh."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from nnfunc import check
from nnfunc.distributed.mesh import check_names, mesh
from nnfunc.distributed.placement import Placement, Shard

TRIALS_AXIS = "trials"
"""The axis along which trials run side by side; none waits for another."""


@dataclass(frozen=True)
class TrialsMesh:
    """A mesh of the first devices of this process, `trials` the first of its axes.

    axes: (name, size) of each axis.
    shard: a preset, or (pattern, mesh axes) pairs; None for the default.
    """

    axes: tuple[tuple[str, int], ...]
    shard: Any = None

    @staticmethod
    def of_trials(count: int) -> "TrialsMesh":
        """One device for each of so many trials."""
        return TrialsMesh(((TRIALS_AXIS, count),))

    @property
    def trials(self) -> int:
        """How many trials run side by side on devices of their own."""
        return self.axes[0][1]

    @property
    def size(self) -> int:
        """The number of devices."""
        return self.mesh().size

    def mesh(self) -> Mesh:
        """The mesh."""
        return mesh(devices=jax.local_devices(), **dict(self.axes))

    def placement(self) -> Placement | None:
        """Where the arrays of one trial lie, for the program of all; None if a trial has one device."""
        if len(self.axes) == 1:
            return None
        inside: Any = self.mesh().abstract_mesh.update_axis_types({TRIALS_AXIS: AxisType.Manual})
        shard = self.shard if isinstance(self.shard, str | None) else dict(self.shard)
        return Placement.of("sweep: shard", inside, shard)


def trials_mesh(axes: Mapping[str, int] | None, shard: Shard) -> TrialsMesh | None:
    """The mesh of the arguments of `nf.sweep`; None without one.

    axes, shard: of `nf.sweep`.
    Raises: ValueError when there is no axis `trials`, or the devices are too few.
    """
    if axes is None:
        if shard is not None:
            expected = "there should be a mesh to place the arrays of a trial on"
            check.fail("sweep: shard", expected=expected, actual="none", hint="Add mesh={'trials': -1, 'data': 2}.")
        return None
    check_names("sweep", axes if isinstance(axes, Mapping) else {})
    if not isinstance(axes, Mapping) or TRIALS_AXIS not in axes:
        expected = "mesh should have an axis 'trials', such as {'trials': -1, 'data': 2}"
        actual = f"the axes {', '.join(axes)}" if isinstance(axes, Mapping) else check.describe(axes)
        check.fail("sweep", expected=expected, actual=actual)
    ordered = {TRIALS_AXIS: axes[TRIALS_AXIS]} | dict(axes)
    sizes = dict(mesh(devices=jax.local_devices(), **ordered).shape)
    patterns = tuple((name, tuple(on)) for name, on in shard.items()) if isinstance(shard, Mapping) else shard
    result = TrialsMesh(tuple(sizes.items()), patterns)
    result.placement()  # refuses a shard that does not fit the mesh
    return result
