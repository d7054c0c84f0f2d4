"""Memory kept between steps. XLA on CPU asks malloc for one large buffer at every step, and by default
glibc gives such buffers back to the system, which has to fill them with zeros, page by page, again.
"""

import ctypes
import os
import sys

from nnfunc.calls import explain_call

__all__ = ["is_memory_kept", "keep_memory", "keep_memory_by_default"]

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8  # of malloc.h
OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_ARENA_MAX")

_kept = False


@explain_call
def keep_memory() -> bool:
    """Let this process keep the memory that it has freed; False where that cannot be set.

    It raises glibc's thresholds for giving memory back, and lets all threads share one arena: the
    arenas of threads cannot hold more than 64 MB, and what XLA asks for comes from a thread. A step
    with 52 MB of temporary memory took 0 page faults instead of 13 thousand, and half of the time. It
    is process-wide and cannot be undone, so importing nnfunc never does it; the command line does,
    unless NNFUNC_MALLOC=default is set. The process may need up to about three times its memory, for
    gaps are kept too.
    Call it before the first computation: threads that run already keep their arenas. It works on Linux
    with glibc, and matters on CPU only.
    Source: the manual page mallopt(3).
    """
    global _kept
    if not sys.platform.startswith("linux") or not _glibc():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    large = mallopt(MMAP_THRESHOLD, 2**30) or mallopt(MMAP_MAX, 0)  # glibc < 2.35 refuses 1 GB
    _kept = bool(large and mallopt(TRIM_THRESHOLD, 2**31 - 1) and mallopt(ARENA_MAX, 1))
    return _kept


def keep_memory_by_default() -> None:
    """For programs: `keep_memory` unless NNFUNC_MALLOC=default, or the user has set malloc himself."""
    told = os.environ.get("NNFUNC_MALLOC") == "default" or any(map(os.environ.get, OWN))
    if not (told or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")):
        keep_memory()


def is_memory_kept() -> bool:
    """Whether `keep_memory` was called and took effect."""
    return _kept


def _glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (ValueError, OSError):
        return False
