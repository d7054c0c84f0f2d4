"""JAX's strict settings around what is trained: nothing is refused, and no result changes."""

import jax
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.testing.comparing import near

X = np.sin(np.arange(24, dtype=np.float32) * 1.7).reshape(8, 3)
LABELS = (X.sum(-1) > 0).astype(np.int32)
DATA = nf.data.arrays((X, LABELS), batch_size=4)
KEY = jax.random.key(0)
SETTINGS = {
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "no jit": jax.disable_jit,
    "debug nans": lambda: jax.debug_nans(True),
}


def task(h):
    model = nf.serial(nf.linear(3, 4, bias=False), nf.batch_norm(4), nf.prelu(), nf.dropout(0.1), nf.linear(4, 2))
    rate = nf.schedules.warmup_cosine(h["rate"], warmup_steps=1, total_steps=4)
    return nf.Task(model, nf.classification(), nf.optimizers.adamw(rate, clip=1.0))


def results():
    def build(h):  # a function of this call alone, so that nothing was compiled under another setting
        return task(h)

    hypers = {"rate": 0.1}
    state, _ = nf.train(build, hypers, DATA, steps=2, key=KEY, loop="step", watch_every=1)
    metrics = nf.evaluate(build(hypers), state.params, (X, LABELS), state=state.model_state)
    settings = [hypers, {"rate": 0.01}]
    r2 = nf.metrics.r2(outputs=3)
    metrics["r2"] = r2.compute(r2.update(r2.init(), X, X[::-1]))
    swept = nf.sweep(build, settings, DATA, steps=2, key=KEY, execution="vmap")
    return {"params": state.params, "metrics": metrics, "trial": swept.trial(0).state.params}


@pytest.fixture(scope="module")
def plain():
    return results()


@pytest.mark.parametrize("execution", ["loop", "vmap"])
def test_a_sweep_has_no_nan_of_its_own(execution):
    """Its programs are compiled by a call whose results nobody reads."""
    with jax.debug_nans(True):
        build = lambda h: nf.Task(nf.linear(3, 2), nf.classification(), nf.optimizers.sgd(h["rate"]))
        result = nf.sweep(build, {"rate": [0.1, 0.2]}, DATA, steps=2, method="grid", key=KEY, execution=execution)
    assert np.isfinite(result.scores).all()


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_refuses_nothing_and_changes_nothing(setting, plain):
    with SETTINGS[setting]():
        near("a setting changes nothing", setting, results(), plain, 1e-4)
