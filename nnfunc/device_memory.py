"""The memory that programs need, from shapes alone, and the memory that the device has."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from nnfunc import check

__all__ = [
    "check_arrays",
    "check_fits",
    "check_params",
    "compile_checked",
    "compiled_bytes",
    "format_bytes",
    "free_bytes",
    "host_free_bytes",
    "peak_bytes",
    "total_bytes",
    "tree_bytes",
]

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux tells what a container may take."""


def free_bytes() -> float | None:
    """Bytes that the device has to give, a CPU those of `host_free`; None if unknown."""
    stats = _stats()
    if stats is not None:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return host_free_bytes()


def host_free_bytes() -> float | None:
    """Bytes that the machine or the container has free; None if unknown."""
    known = [*_machine(), *_container()]
    return min(known) if known else None


def total_bytes() -> float | None:
    """Bytes that this process could have in total: those free, and those it has already."""
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
    """The bytes of all arrays. tree: of arrays or shapes."""
    return sum(leaf.size * _itemsize(leaf.dtype) for leaf in jax.tree.leaves(tree))


def check_fits(where: str, needed: float, problem: str, hint: str) -> None:
    """Refuse what needs more bytes than this process could have.

    where: the function that refuses. needed: bytes. problem: what needs them. hint: what to do.
    """
    has = total_bytes()
    if has is not None and needed > has:
        check.fail(where, f"{problem}; the device has {format_bytes(has)}. {hint}")


def check_params(where: str, params: Any) -> None:
    """Refuse parameters that do not fit into memory. where: the function that refuses. params: their shapes."""
    count, needed = sum(leaf.size for leaf in jax.tree.leaves(params)), tree_bytes(params)
    problem = f"the model has {count:.3g} parameters, {format_bytes(needed)}"
    check_fits(where, needed, problem, "Make its sizes smaller.")


def check_arrays(where: str, closed: Any) -> None:
    """Refuse a traced program with a value larger than any device: XLA would abort on it.

    where: the function that refuses. closed: the closed jaxpr.
    """
    for aval in _values(closed.jaxpr):
        check.array_bytes(where, aval.shape, _itemsize(aval.dtype))


def compile_checked(where: str, function: Any, what: str, hint: str, *args: Any, detail: str = "") -> Any:
    """The compiled program of a jitted function for these arguments, if it fits.

    where: the function that refuses. function: jitted. what: the program, for the message. hint: what to
    do. args: its arguments, or their shapes. detail: added to the bytes in the message.
    """
    traced = function.trace(*args)
    check_arrays(where, traced.jaxpr)
    program = traced.lower().compile()
    needed = compiled_bytes(program)
    if needed is not None:
        check_fits(where, needed, f"{what} needs {format_bytes(needed)}{detail}", hint)
    return program


def compiled_bytes(compiled: Any) -> int | None:
    """The bytes that a compiled program needs, with its arguments; None if XLA does not tell. compiled: the program."""
    stats = compiled.memory_analysis()
    if stats is None:
        return None
    new = stats.output_size_in_bytes - stats.alias_size_in_bytes
    return stats.argument_size_in_bytes + new + stats.temp_size_in_bytes


def peak_bytes(closed: Any) -> int:
    """The most bytes that a traced program holds at once, were no operation fused with another.

    A value is live from where it is computed to where it is read last; arguments are not counted. It
    is more than a compiled program needs. closed: the closed jaxpr.
    """
    return _peak(closed.jaxpr)


def format_bytes(count: float) -> str:
    """A number of bytes in the unit that suits it. count: bytes.

    >>> format_bytes(1234), format_bytes(19.2e9)
    ('1.23 kB', '19.2 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB" if count < 1e6 else f"{count:.2e} TB"


def _peak(jaxpr: Any) -> int:
    last = {id(v): i for i, eqn in enumerate(jaxpr.eqns) for v in eqn.invars}
    last |= {id(v): len(jaxpr.eqns) for v in jaxpr.outvars}
    held: dict[int, int] = {}
    most = now = 0
    for i, eqn in enumerate(jaxpr.eqns):
        for v in eqn.outvars:
            held[id(v)] = _bytes(v.aval)
            now += held[id(v)]
        most = max(most, now + max((_peak(inner) for inner in _inner(eqn)), default=0))
        for v in {id(v) for v in (*eqn.invars, *eqn.outvars) if last.get(id(v), i) <= i}:
            now -= held.pop(v, 0)
    return most


def _values(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        yield from (v.aval for v in eqn.outvars if hasattr(v.aval, "shape"))
        for inner in _inner(eqn):
            yield from _values(inner)


def _inner(eqn: Any) -> Iterator[Any]:
    """The programs inside of an operation, such as the body of a loop."""
    for param in eqn.params.values():
        for one in param if isinstance(param, tuple | list) else (param,):
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                yield inner


def _bytes(aval: Any) -> int:
    return aval.size * _itemsize(aval.dtype) if hasattr(aval, "shape") else 0


def _itemsize(dtype: Any) -> int:
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else dtype.itemsize


def _stats() -> dict[str, int] | None:
    """What the device tells of its memory; a CPU tells nothing."""
    stats = jax.local_devices()[0].memory_stats()
    return stats if stats and "bytes_limit" in stats else None


def _machine() -> Iterator[int]:
    with suppress(OSError, ValueError), open("/proc/meminfo") as file:
        lines = dict(line.split(":", 1) for line in file)
        if "MemAvailable" in lines:
            yield int(lines["MemAvailable"].split()[0]) * 1024
            return
    with suppress(AttributeError, ValueError, OSError):
        yield os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _container() -> Iterator[int]:
    """What is left of the limits of this process's group and of those around it (cgroup 1 and 2)."""
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
            own = root / path.lstrip("/")
            for folder in (own, *own.parents):
                if folder.is_relative_to(root):
                    yield from _left(folder, *names)


def _left(folder: Path, limit: str, used: str) -> Iterator[int]:
    with suppress(OSError, ValueError):  # "max" is no limit
        most, now = (int((folder / name).read_text()) for name in (limit, used))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        yield max(0, most - now + int(stat.get("inactive_file", 0)))  # what can be given back
