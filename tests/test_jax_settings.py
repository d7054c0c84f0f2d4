"""Threads and processes that work for a thread have its settings of JAX."""

import threading

import jax
import numpy as np
import pytest
from helpers.sweep_tasks import swept

import nnfunc as nf
from nnfunc import jax_settings
from nnfunc.data.stream import prefetch

SETTINGS = [
    ("enable_x64", True),
    ("threefry_partitionable", False),
    ("debug_nans", True),
    ("debug_infs", True),
    ("disable_jit", True),
    ("default_matmul_precision", "float32"),
    ("numpy_rank_promotion", "raise"),
    ("numpy_dtype_promotion", "standard"),
    ("default_device", "cpu"),
    ("check_tracer_leaks", True),
    ("transfer_guard", "disallow"),
    ("default_prng_impl", "rbg"),
    ("log_compiles", True),
    ("legacy_prng_key", "error"),
]


def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


@pytest.mark.parametrize("name, value", SETTINGS, ids=[name for name, _ in SETTINGS])
def test_a_thread_inherits(name, value):
    before = jax_settings.current_settings()
    with getattr(jax, name)(value):
        here = jax_settings.current_settings()
        assert here != before
        assert in_thread(jax_settings.current_settings) == before  # JAX alone hands nothing on
        assert in_thread(jax_settings.inherit_settings(jax_settings.current_settings)) == here
        assert next(prefetch(iter(jax_settings.current_settings, None))) == here
    assert jax_settings.current_settings() == before


def test_another_process_gets_plain_values():
    with jax.default_device(jax.devices()[0]), jax.enable_x64(True):
        portable = dict(jax_settings.portable_settings())
    assert portable["enable_x64"] is True
    assert "default_device" not in portable


def test_trials_in_threads_are_the_run_alone():
    """Of other keys than the caller's, dropout would draw other masks."""

    def build(h):
        model = nf.mlp([6, 5, 3], dropout=0.5)
        return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["lr"]))

    space = {"lr": [0.1, 0.2, 0.3, 0.4]}
    options = {"build": build, "space": space, "steps": 3, "method": "grid", "trials": None}
    with jax.threefry_partitionable(False):
        threads = swept(execution="threads", **options)
        loop = swept(execution="loop", **options)
    np.testing.assert_allclose(threads.scores, loop.scores, rtol=1e-5)
    assert not np.allclose(swept(execution="loop", **options).scores, loop.scores, rtol=1e-3)
