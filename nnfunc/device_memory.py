"""The memory that programs need, computed from shapes, and the memory that the device has."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check
from nnfunc.flops import inner_jaxprs

CGROUP = Path("/sys/fs/cgroup")
"""The folder in which Linux has the memory limits of containers."""


def free_bytes() -> float | None:
    """The free bytes of the device, for a CPU those of `host_free_bytes`; None if unknown."""
    stats = _stats()
    if stats is not None:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return host_free_bytes()


def host_free_bytes() -> float | None:
    """The free bytes of the machine or the container; None if unknown."""
    return min([*_free_in_machine(), *_free_in_container()], default=None)


def total_bytes() -> float | None:
    """The bytes that this process can use in total: those free, and those it uses already; None if unknown."""
    stats = _stats()
    if stats is not None:
        return stats["bytes_limit"]
    available = free_bytes()
    if available is None:
        return None
    with suppress(OSError, ValueError, IndexError), open("/proc/self/statm") as file:
        available += int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return available


def tree_bytes(tree: Any) -> int:
    """The bytes that all arrays of a tree take on one device. tree: of arrays or `jax.ShapeDtypeStruct`."""
    return sum(_size_on_device(leaf) * _itemsize(leaf.dtype) for leaf in jax.tree.leaves(tree))


def _size_on_device(leaf: Any) -> int:
    sharding = getattr(leaf, "sharding", None)
    return leaf.size if sharding is None else math.prod(sharding.shard_shape(leaf.shape))


def check_fits(where: str, needed: float, problem: str, hint: str) -> None:
    """Raise an error if more bytes are needed than this process can use.

    where: begins the message.
    needed: bytes.
    problem: a clause that says what needs them.
    hint: what to do.
    """
    total = total_bytes()
    if total is not None and needed > total:
        check.fail(where, f"{problem}; the device has {format_bytes(total)}.", hint=hint)


def check_params(where: str, params: Any) -> None:
    """Raise an error if parameters do not fit into memory. where: begins the message. params: their shapes."""
    count, needed = sum(leaf.size for leaf in jax.tree.leaves(params)), tree_bytes(params)
    problem = f"the model has {count:.3g} parameters, {format_bytes(needed)}"
    check_fits(where, needed, problem, "Make its sizes smaller.")


def check_arrays(where: str, closed: Any) -> None:
    """Raise an error if a traced program has an array larger than any device, on which XLA would abort.

    where: begins the message.
    closed: the closed jaxpr.
    """
    for aval in _values(closed.jaxpr):
        check.array_bytes(where, aval.shape, _itemsize(aval.dtype))


def compile_checked(where: str, function: Any, what: str, hint: str, *args: Any, detail: str = "") -> Any:
    """The compiled program of a jitted function for these arguments; an error if it does not fit into memory.

    Under `jax.disable_jit` it is the function itself.

    where: begins the message.
    function: jitted.
    what: the program, for the message.
    hint: what to do.
    args: of the function, or their shapes.
    detail: appended to the bytes in the message.
    """
    if jax.config.jax_disable_jit:  # pyright: ignore
        return function  # a program with its loops written out may take minutes to compile
    traced = function.trace(*args)
    check_arrays(where, traced.jaxpr)
    program = traced.lower().compile()
    needed = compiled_bytes(program)
    if needed is not None:
        check_fits(where, needed, f"{what} needs {format_bytes(needed)}{detail}", hint)
    return program


def compiled_bytes(compiled: Any) -> int | None:
    """The bytes of a compiled program and its arguments; None if XLA does not report them. compiled: the program."""
    stats = compiled.memory_analysis() if hasattr(compiled, "memory_analysis") else None
    if stats is None:
        return None
    new = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + new + stats.temp_size_in_bytes


def peak_bytes(closed: Any) -> int:
    """The peak memory of a traced program without fusion, in bytes.

    A value is live from its operation to the last one that reads it; arguments do not count. A compiled program
    needs less.
    closed: the closed jaxpr.
    """
    return _peak(closed.jaxpr)


def format_bytes(count: float) -> str:
    """A number of bytes as text, in a suitable unit.

    count: bytes.

    >>> format_bytes(1234), format_bytes(19.2e9)
    ('1.23 kB', '19.2 GB')
    """
    for suffix in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {suffix}"
        count /= 1000
    return f"{count:.3g} TB" if count < 1e6 else f"{count:.2e} TB"


def _peak(jaxpr: Any) -> int:
    last = {id(v): i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars}
    last |= {id(v): len(jaxpr.eqns) for v in jaxpr.outvars}
    live: dict[int, int] = {}
    most = now = 0
    for i, eqn in enumerate(jaxpr.eqns):
        for v in eqn.outvars:
            live[id(v)] = v.aval.size * _itemsize(v.aval.dtype) if hasattr(v.aval, "shape") else 0
            now += live[id(v)]
        most = max(most, now + max((_peak(inner) for inner in inner_jaxprs(eqn)), default=0))
        for v in {id(v) for v in (*eqn.invars, *eqn.outvars) if last.get(id(v), i) <= i}:
            now -= live.pop(v, 0)
    return most


def _values(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield from (v.aval for v in eqn.outvars if hasattr(v.aval, "shape"))
        for inner in inner_jaxprs(eqn):
            yield from _values(inner)


def _itemsize(dtype: Any) -> int:
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize


def _stats() -> dict[str, int] | None:
    """The memory statistics of the device; None for a CPU."""
    stats = jax.local_devices()[0].memory_stats()
    return stats if stats and "bytes_limit" in stats else None


def _free_in_machine() -> Iterator[int]:
    with suppress(OSError, ValueError), open("/proc/meminfo") as file:
        lines = dict(line.split(":", 1) for line in file)
        if "MemAvailable" in lines:
            yield int(lines["MemAvailable"].split()[0]) * 1024
            return
    with suppress(AttributeError, ValueError, OSError):
        yield os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_in_container() -> Iterator[int]:
    """The free bytes below the limits of this process's control group and its parents (cgroup 1 and 2)."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            root = CGROUP / controllers
            names = (
                ("memory.max", "memory.current")
                if not controllers
                else ("memory.limit_in_bytes", "memory.usage_in_bytes")
            )
            group = root / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    yield from _free_in_group(folder, *names)


def _free_in_group(folder: Path, limit: str, used: str) -> Iterator[int]:
    with suppress(OSError, ValueError):  # the limit may be "max"
        most, now = (int((folder / name).read_text()) for name in (limit, used))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        yield max(0, most - now + int(stat.get("inactive_file", 0)))  # cache that can be freed
