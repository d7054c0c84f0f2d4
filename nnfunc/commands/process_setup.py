"""Sets up the process of a command: memory, device and compilation cache."""

import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax

from nnfunc import check, malloc, user_cache
from nnfunc.distributed.processes import agree, count, is_main, start


def set_up_process(join: Mapping[str, Any] | None = None) -> None:
    """Keep memory between steps, join other processes, start the device and turn on the compilation cache.

    join: the arguments of `nnfunc.distributed.processes.start`, for commands that several processes run together.
    Raises: ValueError when JAX_PLATFORMS names a device that this machine does not have, process 0 does not answer, or
        processes have other versions.
    """
    malloc.keep_memory_by_default()
    if join is not None:
        start(**join)
        versions = {name: metadata.version(name) for name in ("nnfunc", "jax", "jaxlib", "numpy", "optax")}
        agree({"versions": f"{platform.python_version()} {versions}"})
    if count() > 1:
        _keep_stdout_to_process_0()
    _start_device()
    _enable_compilation_cache()


def _keep_stdout_to_process_0() -> None:
    """Let Python print in process 0 alone, and libraries, such as Gloo, in none; until the process ends."""
    before = sys.stdout
    nothing = open(os.devnull, "w")  # noqa: SIM115
    if is_main():
        before.flush()
        buffering = 1 if before.line_buffering else -1
        sys.stdout = open(os.dup(1), "w", buffering, encoding=before.encoding, errors=before.errors)  # noqa: SIM115
    else:
        sys.stdout = nothing
    os.dup2(nothing.fileno(), 1)


def _start_device() -> None:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    try:
        jax.devices()
    except (RuntimeError, AssertionError):
        if not platforms:
            raise
        hint = "Unset it, or set JAX_PLATFORMS=cpu."
        expected = "it should name devices of this machine"
        check.fail("JAX_PLATFORMS", expected=expected, actual=repr(platforms), hint=hint)


def _enable_compilation_cache() -> None:
    """Keep compiled programs in the user's cache folder, unless JAX already has a cache folder."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    cache = user_cache.cache_folder()
    if cache is None:
        return
    jax.config.update("jax_compilation_cache_dir", str(cache / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
