"""Settings of malloc for CPUs. XLA allocates one large buffer at every step, and by default glibc returns such
buffers to the system, which has to map and clear their pages again.
"""

import contextlib
import ctypes
import os
import sys

from nnfunc.calls import explain_call

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8  # of malloc.h
VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_ARENA_MAX")

_is_keeping = False


@explain_call
def keep_memory(*, large: bool = False) -> bool:
    """Keep freed memory in this process for later allocations; returns whether that was set.

    It raises glibc's thresholds for returning memory to the system: a step with 44 MB of temporary memory had no
    page faults instead of 11 thousand, and took 0.7 to 0.8 of the time. The setting is process-wide and cannot be
    undone, so importing nnfunc does not set it; the command line does, unless NNFUNC_MALLOC=default. The process may
    use up to about three times as much memory, because of fragmentation.
    Call it before the first computation. It needs Linux with glibc, and has an effect on CPUs only.

    large: for steps with more than about 64 MB of temporary memory, which is what glibc's arena of a thread holds:
        threads then share two arenas. It took 0.8 of the time of a step with 300 MB, but 1.05 to 1.2 of small ones,
        because threads wait for each other. On the command line: NNFUNC_MALLOC=large.
    Source: the manual page mallopt(3).
    """
    global _is_keeping
    if not sys.platform.startswith("linux") or not _glibc():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mapped = mallopt(MMAP_THRESHOLD, 2**30) or mallopt(MMAP_MAX, 0)  # glibc < 2.35 refuses 1 GB
    _is_keeping = bool(mapped and mallopt(TRIM_THRESHOLD, 2**31 - 1) and (not large or mallopt(ARENA_MAX, 2)))
    return _is_keeping


def keep_memory_by_default() -> None:
    """For programs: `keep_memory`, unless NNFUNC_MALLOC=default or the environment sets malloc otherwise.

    With NNFUNC_MALLOC=large it is `keep_memory(large=True)`.
    """
    is_set = os.environ.get("NNFUNC_MALLOC") == "default" or any(map(os.environ.get, VARIABLES))
    if not (is_set or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")):
        keep_memory(large=os.environ.get("NNFUNC_MALLOC") == "large")


def is_keeping_memory() -> bool:
    """Whether `keep_memory` was called and had an effect."""
    return _is_keeping


def return_memory() -> None:
    """Return freed memory to the system, between two stages that need memory of other sizes; with glibc only."""
    if sys.platform.startswith("linux") and _glibc():
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError):
        return False
