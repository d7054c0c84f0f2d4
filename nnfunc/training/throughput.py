"""Throughput and memory of a run."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import jax

from nnfunc import flops

SPEED_METRICS = ("examples_per_second", "tokens_per_second", "flops_per_second", "utilisation", "memory_mb")
"""The columns of speed and memory in a training row."""


PEAK_FLOPS = {
    "h200": 989e12,
    "h100": 989e12,
    "a100": 312e12,
    "l40s": 362e12,
    "l4": 121e12,
    "a10g": 70e12,
    "v100": 125e12,
    "t4": 65e12,
    "v6 lite": 918e12,
    "v5 lite": 197e12,
    "v5p": 459e12,
    "v4": 275e12,
}
"""Peak FLOPs a second of dense bfloat16 products (float16 before Ampere), from the makers' data sheets,
by a part of the device's kind in lower case."""


def peak_flops(device: Any = None) -> float | None:
    """The peak FLOPs a second of a device, or None if unknown.

    device: by default the first one.

    The environment variable NNFUNC_PEAK_FLOPS, such as 2e11, comes first.
    """
    reported = os.environ.get("NNFUNC_PEAK_FLOPS")
    if reported:
        with suppress(ValueError):
            return float(reported)
    device_name = (device or jax.local_devices()[0]).device_kind.lower()
    return next((value for name, value in PEAK_FLOPS.items() if name in device_name), None)


def memory_mb(device: Any = None) -> float | None:
    """The memory in use in MB: on a GPU the peak, on a CPU that of the process. device: by default the first."""
    stats = (device or jax.local_devices()[0]).memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 1e6
    with suppress(OSError, ValueError, IndexError):
        return int(os.pread(_open_statm(os.getpid()), 256, 0).split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if os.uname().sysname == "Darwin" else most / 1e3


@cache
def _open_statm(process: int) -> int:
    """The memory of a process as an open file: to open it for each report would take 0.1 ms."""
    return os.open(f"/proc/{process}/statm", os.O_RDONLY)


def count_flops(program: Any, *args: Any) -> int:
    """The FLOPs of a jitted step; 0 where JAX does not tell. program: the jitted step. args: its arguments."""
    with suppress(AttributeError):
        return flops.of(program.trace(*args).jaxpr)
    return 0


class SpeedMeter:
    """The throughput of an interval of steps, without compilation, evaluation and saving.

    batch_size: examples a step.
    window: tokens of an example plus 1, None without tokens.
    """

    def __init__(self, batch_size: int, window: int | None):
        self.examples = batch_size
        self.tokens = None if window is None else batch_size * (window - 1)
        self.flops: int | None = None
        self.known: set[Any] = set()
        self.begin()

    def begin(self) -> None:
        """A new interval starts now."""
        self.started, self.excluded_seconds, self.steps = time.perf_counter(), 0.0, 0

    @contextmanager
    def compiling(self, program: Any) -> Iterator[bool]:
        """Around a dispatch -> whether its steps count: the first one of a program compiles it. program: its name."""
        is_known, start = program in self.known, time.perf_counter()
        yield is_known
        self.known.add(program)
        if not is_known:
            self.excluded_seconds += time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """The metrics of the interval that ends now; call it when the device is done.

        Only the memory where each dispatch of the interval compiled its program.
        """
        seconds = time.perf_counter() - self.started - self.excluded_seconds
        rate = self.steps / seconds if seconds > 0 else 0
        values = {"examples_per_second": self.examples * rate} if rate else {}
        if rate and self.tokens is not None:
            values["tokens_per_second"] = self.tokens * rate
        if rate and self.flops:
            values["flops_per_second"] = self.flops * rate
            most = peak_flops()
            values |= {} if most is None else {"utilisation": self.flops * rate / most}
        used = memory_mb()
        return {k: float(f"{v:.5g}") for k, v in values.items()} | (
            {} if used is None else {"memory_mb": round(used, 1)}
        )
