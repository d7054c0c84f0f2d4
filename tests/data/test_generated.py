"""Data that is computed in the step: the same batches alone, in a run and in a sweep."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf

KEY = jax.random.key(0)
WEIGHT = jnp.array([[1.0], [-2.0], [0.5]])


def pairs(key):
    x = jax.random.normal(key, (8, 3))
    return x, x @ WEIGHT


def build(h):
    return nf.Task(nf.linear(3, 1), nf.regression(), nf.optimizers.adam(h["learning_rate"]))


def test_batches_belong_to_seed_and_step():
    data = nf.data.generated(pairs)
    again, other = nf.data.generated(pairs), nf.data.generated(pairs, seed=1)
    for step in range(3):
        jax.tree.map(np.testing.assert_array_equal, data.batch(step), again.batch(step))
        assert (data.batch(step)[0] != other.batch(step)[0]).all()
    assert (data.batch(0)[0] != data.batch(1)[0]).all()
    jitted = jax.jit(lambda data, step: data.batch(step))(data, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), jitted, data.batch(2))
    assert data.batch_size == data.size == 8


def test_a_batch_may_depend_on_the_step():
    data = nf.data.generated(lambda key, step: jnp.full((4, 2), step))
    assert data.batch(7).tolist() == [[7, 7]] * 4


@pytest.mark.parametrize("loop", ["step", "scan"])
def test_a_run_learns_from_generated_data(loop):
    held_out = pairs(jax.random.key(99))
    data = nf.data.generated(pairs, validation=held_out)
    state, history = nf.train(build, {"learning_rate": 0.1}, data, steps=200, key=KEY, loop=loop)
    assert history.validation["loss"][-1] < 1e-3
    np.testing.assert_allclose(state.params["weight"], WEIGHT, atol=0.05)


def test_trials_of_a_sweep_are_runs_alone():
    data = nf.data.generated(pairs, validation=pairs(jax.random.key(99)))
    space = [{"learning_rate": rate} for rate in (0.01, 0.1)]
    result = nf.sweep(build, space, data, steps=20, key=KEY)
    for trial, hypers in enumerate(space):
        state, _ = nf.train(build, hypers, data, steps=20, key=jax.random.fold_in(KEY, trial))
        swept = result.trial(trial)[1].params
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), swept, state.params)


def test_an_augmentation_that_is_added_is_applied():
    data = replace(nf.data.generated(pairs), augment=lambda key, batch: jax.tree.map(jnp.zeros_like, batch))
    assert not data.batch(0)[0].any()


def test_what_is_no_generator():
    with pytest.raises(TypeError, match=r"function should be a function \(key\) -> batch, got 3"):
        nf.data.generated(3)
    with pytest.raises(TypeError, match="the batch should hold arrays"):
        nf.data.generated(lambda key: None)


def test_doctor_looks_at_many_batches():
    def of_one_class(key, step):  # each batch has another class, so that one batch alone lacks all others
        x = jax.random.normal(key, (8, 3)) + (step % 4).astype(jnp.float32)
        return x, jnp.full((8,), step % 4)

    data = nf.data.generated(of_one_class, classes=4)
    classify = lambda h: nf.Task(nf.mlp([3, 8, 4]), nf.classification(), nf.optimizers.adam(1e-2))
    checks = {finding.check for finding in nf.debug.doctor(classify, {}, data, key=KEY)}
    assert not {"missing classes", "imbalanced classes", "constant features"} & checks
    assert data.sample()[1].shape == (512,)
