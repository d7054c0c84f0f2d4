"""In-memory data so large that its rows are divided over the devices of a mesh."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from nnfunc.base import Key, PyTree, Scalar
from nnfunc.data import shuffle
from nnfunc.data.dataset import Data, GatheredBatch, count_examples, take
from nnfunc.device_memory import total_bytes, tree_bytes
from nnfunc.distributed.mesh import DATA, axis_size
from nnfunc.distributed.placement import Placement

CUT_DATA = 0.25
"""The fraction of a device's memory above which data is divided by default."""


@dataclass(frozen=True, eq=False)
class CutData:
    """A data set whose rows are divided over the devices; those of a batch move to the devices that need them.

    data: the data set, its arrays padded to a multiple of the devices.
    size: as that of the data set before.
    """

    data: Data
    size: int

    def batch(self, step: Scalar, *, key: Key | None = None) -> PyTree:
        """The batch of `Data.batch`."""
        data = self.data
        at = shuffle.indices(data.seed, step, data.batch_size, self.size)
        if data.window is not None:  # one index for each token, because slices would need all rows on every device
            at = at[:, None] + jnp.arange(data.window, dtype=at.dtype)
        gathered = take(data.arrays, at)
        return GatheredBatch(gathered, data.seed, data.transform, data.augment).batch(step, key=key)


jax.tree_util.register_dataclass(CutData, data_fields=["data"], meta_fields=["size"])


def is_large(data: Data, placement: Placement, fraction: float) -> bool:
    """Whether data is divided over the devices of a mesh, which all processes decide alike.

    fraction: of a device's memory, above which it is; 1 is for never. Without an axis `data`, or with one device of
        it, nothing is.
    """
    if axis_size(placement.mesh, DATA) == 1 or fraction == 1:
        return False
    memory = total_bytes()
    is_above = fraction == 0 or (memory is not None and tree_bytes(data.arrays) > fraction * memory)
    if jax.process_count() > 1:
        is_above = bool(np.any(multihost_utils.process_allgather(np.bool_(is_above))))
    return is_above


def cut_rows(data: Data, placement: Placement) -> CutData:
    """The data set with its rows divided over the axis `data` of the mesh. data: as `for_training` returns it."""
    rows = count_examples(data.arrays)
    padded = -(-rows // axis_size(placement.mesh, DATA)) * axis_size(placement.mesh, DATA)

    def cut(leaf: Any) -> Any:
        host = np.asarray(leaf)

        def read(index: slice) -> np.ndarray:
            part = host[index]
            missing = len(range(*index.indices(padded))) - len(part)
            return np.pad(part, [(0, missing), *[(0, 0)] * (host.ndim - 1)]) if missing else part

        return placement.put_rows((padded, *host.shape[1:]), read)

    arrays = jax.tree.map(cut, data.arrays)
    return CutData(replace(placement.whole(replace(data, arrays=None)), arrays=arrays), data.size)
