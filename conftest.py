"""Strict settings for every test, doctest and README block."""

import gc
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

import nnfunc as nf

# As options of this process, not as XLA_FLAGS in the environment: programs that the tests start
# then see the machine as a user's would.
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")


def _compile_quickly():
    """Let XLA write code for CPUs in its older way, which takes half of the time to compile.

    It was dropped between jaxlib 0.10 and 0.12, and a name that XLA does not know ends the process.
    XLA reads the environment once, at the first program.
    """
    if not jaxlib.__version__.startswith("0.10."):
        return
    before = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"{before or ''} --xla_cpu_use_fusion_emitters=false"
    jnp.zeros(()).block_until_ready()
    if before is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = before


# Most of the time goes into compiling: keep the programs for the next run, each worker its own.
# A new checkout, as CI has, would only pay for writing them.
if not os.environ.get("CI"):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    cache = Path(__file__).parent / ".pytest_cache" / "jax" / worker
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

_compile_quickly()  # the first program, at which JAX decides about the cache


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Compile without optimization: what nearly all tests compile runs once, for microseconds.

    A test of speed, memory, or of what the compiler makes of a program has the mark `optimized`.
    """
    quick = item.get_closest_marker("optimized") is None
    jax.config.update("jax_disable_most_optimizations", quick)


MAPS = 20_000
"""Of the 65,530 pieces that Linux lets a process's memory be in: every compiled program is a few."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Forget compiled programs between files before they are too many: the next one would crash."""
    maps = Path("/proc/self/maps")
    if (nextitem is not None and nextitem.path == item.path) or not maps.exists():
        return
    with maps.open() as lines:
        if sum(1 for _ in lines) > MAPS:
            jax.clear_caches()
            gc.collect()


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session", autouse=True)
def _names_in_doctests(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, np=np, nf=nf)
