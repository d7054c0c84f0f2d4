"""Strict settings for every test, doctest and README block."""

import os

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


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session", autouse=True)
def _names_in_doctests(doctest_namespace):
    doctest_namespace.update(jax=jax, jnp=jnp, np=np, nf=nf)
