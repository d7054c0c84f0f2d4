"""Memory kept between steps: seen from outside, for it concerns the whole process."""

import os
import subprocess
import sys

import pytest
from helpers.project import ROOT

from nnfunc import malloc

STEP = """
import resource, sys
import jax, jax.numpy as jnp
import nnfunc as nf
from nnfunc import malloc
if sys.argv[1] == "told":
    malloc.keep_memory_by_default()
elif sys.argv[1] == "keep":
    assert nf.keep_memory() is True
f = jax.jit(lambda x, w: jnp.sin(jax.lax.optimization_barrier(jnp.repeat(x, 16, 0) @ w)).sum())
x, w = jnp.ones((1000, 50)), jnp.ones((50, 800))      # a buffer of 49 MB
for _ in range(8):
    f(x, w).block_until_ready()
counts = []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    f(x, w).block_until_ready()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(counts), malloc.is_keeping_memory())      # the heap may still be growing in some steps
"""


def faults(how, **environment):
    """Page faults a step with a buffer of 49 MB, and whether memory is kept."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "MALLOC_", "NNFUNC_"))}
    own |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"} | environment
    command = [sys.executable, "-c", STEP, how]
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=True, timeout=120)
    count, kept = done.stdout.split()
    return int(count), kept == "True"


needs_glibc = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and malloc._glibc()), reason="it sets glibc's malloc"
)


@needs_glibc
def test_memory_is_kept_between_steps():
    default, _ = faults("default")
    kept, said = faults("keep")
    assert said
    if default < 1000:
        pytest.skip("the system's pages are large here")
    assert kept < 0.05 * default


@needs_glibc
@pytest.mark.slow
@pytest.mark.parametrize(
    "settings, expected",
    [
        ({}, True),
        ({"NNFUNC_MALLOC": "default"}, False),
        ({"MALLOC_ARENA_MAX": "3"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=3"}, False),
    ],
)
def test_programs_keep_it_unless_told(settings, expected):
    assert faults("told", **settings)[1] is expected


def test_elsewhere_it_says_no(monkeypatch):
    monkeypatch.setattr(malloc, "_is_keeping", False)  # a command of another test may have asked for it
    monkeypatch.setattr(malloc, "_glibc", lambda: False)
    assert malloc.keep_memory() is False
    monkeypatch.setattr(malloc, "_glibc", lambda: True)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert malloc.keep_memory() is False
    assert not malloc.is_keeping_memory()


def test_an_older_glibc_is_asked_otherwise(monkeypatch):
    """Before 2.35 glibc refused a threshold above 32 MB."""
    asked = []

    class Library:
        def mallopt(self, option, value):
            asked.append((option, value))
            return int(option != malloc.MMAP_THRESHOLD)

    monkeypatch.setattr(malloc, "_is_keeping", False)
    monkeypatch.setattr(malloc, "_glibc", lambda: True)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: Library())
    assert malloc.keep_memory() is True
    assert (malloc.MMAP_MAX, 0) in asked
    assert all(option != malloc.ARENA_MAX for option, _ in asked)
    monkeypatch.setattr(malloc, "VARIABLES", ())
    monkeypatch.setenv("NNFUNC_MALLOC", "large")
    malloc.keep_memory_by_default()
    assert (malloc.ARENA_MAX, 2) in asked


@pytest.mark.parametrize("name", malloc.VARIABLES)
def test_what_the_user_has_set_stays(name, monkeypatch):
    monkeypatch.setattr(malloc, "keep_memory", lambda **options: pytest.fail("it was called"))
    monkeypatch.setenv(name, "1")
    malloc.keep_memory_by_default()
