"""Strict settings for every test, doctest and README block."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf

# As options of this process, not as XLA_FLAGS in the environment: programs that the tests start
# then see the machine as a user's would.
jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Most of the time goes into compiling: keep the programs for the next run, each worker its own.
# A new checkout, as CI has, would only pay for writing them.
if not os.environ.get("CI"):
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    cache = Path(__file__).parent / ".pytest_cache" / "jax" / worker
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session", autouse=True)
def _names_in_doctests(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, np=np, nf=nf)
