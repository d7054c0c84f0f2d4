"""The mesh: the devices of a run as a grid with named axes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from nnfunc import check
from nnfunc.base import DATA_AXIS
from nnfunc.distributed import processes

DATA, MODEL = DATA_AXIS, "model"
"""The axes that the presets divide over: the batch, and the weights of a layer."""


def mesh(*, devices: Sequence[Any] | None = None, **axes: int) -> Mesh:
    """The devices as a grid with named axes, whose sizes multiply to their number.

    axes: the size of each axis, at least 1, the slowest first: `data` divides the batch, `model` the weights of
        layers (`nf.shardings`); other names are for patterns of your own. One of them may be -1, which stands for
        all devices that are left; without one the first devices are used.
    devices: to use, by default those of all processes.
    The axes are of JAX's type Auto: the compiler divides the computation, and no model mentions the mesh.
    Raises: ValueError when there are fewer devices, or the sizes do not divide their number.

    >>> dict(nf.mesh(data=1).shape)
    {'data': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    if not axes:
        check.fail("mesh", expected="it should have an axis, such as data=-1", actual="none")
    for name, size in axes.items():
        if size != -1:
            check.size("mesh", **{name: size})
    if list(axes.values()).count(-1) > 1:
        check.fail("mesh", expected="at most one axis should be -1", actual=_describe(axes))
    count, fixed = len(devices), math.prod(size for size in axes.values() if size != -1)
    if fixed > count:
        hint = f"Make it smaller. To try more on a CPU, set JAX_NUM_CPU_DEVICES={fixed}."
        expected = f"{_describe(axes)} should use at most the {check.counted(count, 'device')} that there are"
        check.fail("mesh", expected=expected, actual=fixed, hint=hint)
    if -1 in axes.values() and count % fixed:
        expected = f"the axes other than -1 should divide {check.counted(count, 'device')}"
        check.fail("mesh", expected=expected, actual=_describe(axes), hint=f"Their product may be {_divisors(count)}.")
    sizes = [count // fixed if size == -1 else size for size in axes.values()]
    used = devices[: math.prod(sizes)]
    return jax.make_mesh(tuple(sizes), tuple(axes), axis_types=(AxisType.Auto,) * len(sizes), devices=used)


def as_mesh(where: str, value: Mesh | Mapping[str, int] | None) -> Mesh | None:
    """The mesh of an argument: a Mesh of Auto axes, or a dict of axes. where: begins the message of the error."""
    if isinstance(value, Mapping):
        check_names(where, value)
        value = mesh(devices=None, **value)
    if value is None:
        return None
    if isinstance(value, Mesh) and set(value.axis_types) == {AxisType.Auto}:
        _check_processes(where, value)
        return value
    actual = f"axes of the types {value.axis_types}" if isinstance(value, Mesh) else check.describe(value)
    expected = "mesh should be one of nf.mesh(data=-1), with Auto axes"
    check.fail(where, expected=expected, actual=actual, exc_type=TypeError)


def _check_processes(where: str, mesh: Mesh) -> None:
    """Refuse a mesh without a device of each process that trains the run."""
    used = {device.process_index for device in mesh.devices.flat}
    if processes.count() > len(used):
        expected = f"each of the {processes.count()} processes should have a device of the mesh"
        numbers = ", ".join(map(str, sorted(used)))
        actual = (
            f"{_describe(dict(mesh.shape))} with devices of {'process' if len(used) == 1 else 'processes'} {numbers}"
        )
        check.fail(where, expected=expected, actual=actual, hint="Make an axis -1, or start fewer processes.")


def check_names(where: str, axes: Mapping[Any, Any]) -> None:
    """Refuse names that no axis of `mesh` can have. where: begins the message. axes: their sizes by name."""
    for name in axes:
        if not isinstance(name, str) or name == "devices":
            expected = "an axis of the mesh should have a name such as 'data'"
            check.fail(where, expected=expected, actual=repr(name), exc_type=TypeError)


def axis_size(mesh: Mesh, name: str) -> int:
    """The size of an axis, 1 without one of this name."""
    return dict(mesh.shape).get(name, 1)


def _describe(axes: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {size}" for name, size in axes.items())


def _divisors(count: int) -> str:
    return ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
