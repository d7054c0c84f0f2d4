"""Averages of parameters: against optax's, NumPy's mean and sums by hand; traced numbers, types, start."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnfunc as nf
from nnfunc.optimizers import averages

PATH = np.cumsum(np.sin(np.arange(1.0, 22.0)).reshape(7, 3), axis=0).astype(np.float32)


def walked(average, path=PATH):
    """What is read after each of the steps, stacked."""

    def step(state, at):
        t, params = at
        state = average.update(state, params, t)
        return state, average.read(state, params)

    start = average.init(jax.tree.map(lambda leaf: leaf[0], path))
    count = len(jax.tree.leaves(path)[0])
    return jax.lax.scan(step, start, (jnp.arange(count), path))[1]


def test_ema_is_optax_ema_without_bias():
    theirs = optax.ema(0.9, debias=True)
    state = theirs.init(PATH[0])
    expected = []
    with jax.numpy_dtype_promotion("standard"):
        for params in PATH:
            mean, state = theirs.update(params, state)
            expected.append(mean)
    got = walked(averages.ema(0.9))
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)
    np.testing.assert_array_equal(got[0], PATH[0])


def test_ema_warms_up_as_tensorflow_has_it():
    # tf.train.ExponentialMovingAverage: min(decay, (1 + num_updates) / (10 + num_updates))
    decays = [min(0.35, (1 + t) / (10 + t)) for t in range(7)]
    assert decays[0] == 0.1
    assert decays[-1] == 0.35
    weights = np.array([(1 - decays[i]) * math.prod(decays[i + 1 :]) for i in range(7)])
    got = walked(averages.ema(0.35, warmup=10))
    np.testing.assert_allclose(got[-1], weights @ PATH / weights.sum(), rtol=1e-5)
    assert not np.allclose(got[1], walked(averages.ema(0.35))[1], rtol=1e-2)


def test_ema_from_a_step_on_is_that_of_the_rest():
    got = walked(averages.ema(0.9, start=3))
    np.testing.assert_array_equal(got[:3], PATH[:3])
    np.testing.assert_array_equal(got[3:], walked(averages.ema(0.9), PATH[3:]))


@pytest.mark.parametrize("start, every", [(0, 1), (2, 1), (1, 3), (0, 4), (7, 1)])
def test_swa_is_the_mean(start, every):
    got = walked(averages.swa(start, every))
    for t, value in enumerate(got):
        taken = PATH[start : t + 1 : every]
        np.testing.assert_allclose(value, taken.mean(0) if len(taken) else PATH[t], rtol=1e-6, atol=1e-7)


def test_every_number_may_be_traced():
    @jax.jit
    def both(numbers, start):
        traced = jax.vmap(lambda decay, start, warmup: walked(averages.ema(decay, start=start, warmup=warmup)))
        return traced(*numbers), jax.vmap(lambda s: walked(averages.swa(s, s + 1)))(start)

    emas, swas = both(
        (jnp.array([0.5, 0.0, 0.9]), jnp.array([0, 2.0, jnp.inf]), jnp.array([1, 3, 10.0])), jnp.array([1, 2])
    )
    for i, (decay, start, warmup) in enumerate([(0.5, 0, 1), (0.0, 2, 3), (0.9, math.inf, 10)]):
        alone = walked(averages.ema(decay, start=start, warmup=warmup))
        np.testing.assert_allclose(emas[i], alone, rtol=1e-6)
    np.testing.assert_array_equal(emas[1], PATH)  # decay 0: the last one
    np.testing.assert_array_equal(emas[2], PATH)  # from no step on
    for i, start in enumerate([1, 2]):
        np.testing.assert_allclose(swas[i], walked(averages.swa(start, start + 1)), rtol=1e-6)


@pytest.mark.parametrize("average", [averages.ema(0.999), averages.swa(0)])
def test_bfloat16_is_summed_in_float32_and_counters_stay(average):
    # 1 + 1/256 * (0, 1, 2, ...): steps that a bfloat16 near 1 cannot hold
    path = {
        "params": {"weight": 1 + jnp.arange(8, dtype=jnp.bfloat16)[:, None] / 8 * jnp.ones(2, jnp.bfloat16)},
        "state": {"count": jnp.arange(8), "mean": jnp.arange(8.0)},
    }
    first = jax.tree.map(lambda leaf: leaf[0], path)
    state = average.init(first)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.mean)} == {jnp.dtype("float32")}
    after = jax.eval_shape(average.update, state, first, jnp.int32(0))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    got = walked(average, path)
    assert jax.tree.map(lambda leaf: leaf.dtype, got) == jax.tree.map(lambda leaf: leaf.dtype, path)
    np.testing.assert_array_equal(got["state"]["count"], np.arange(8))
    np.testing.assert_allclose(got["state"]["mean"], np.arange(8) / 2, rtol=2e-3, atol=0.02)


def test_a_small_share_is_not_lost_in_bfloat16():
    average = averages.swa(0)
    state = average.init(jnp.zeros((), jnp.bfloat16))
    for step in range(40):
        value = jnp.asarray(256.0 if step % 2 else 258.0, jnp.bfloat16)
        state = average.update(state, value, step)
    assert float(state.mean) == pytest.approx(257.0, rel=1e-6)


def test_it_stays_where_it_is():
    """Of parameters that do not move, the average is these, bit for bit."""
    same = np.broadcast_to(PATH[1], (7, 3))
    for average in (averages.ema(0.999, warmup=10), averages.swa(1, 2)):
        np.testing.assert_array_equal(walked(average, same), same)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: averages.ema(1.0), r"ema: decay should be in \[0, 1\), got 1.0"),
        (lambda: averages.ema(0.9, start=-1), r"ema: start should be at least 0, got -1"),
        (lambda: averages.ema(0.9, warmup=0), r"ema: warmup should be at least 1, got 0"),
        (lambda: averages.swa(-2), r"swa: start should be at least 0, got -2"),
        (lambda: averages.swa(2, 0), r"swa: every should be at least 1, got 0"),
    ],
)
def test_errors_have_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("average", [averages.ema(0.5), averages.swa(0)], ids=["ema", "swa"])
def test_the_base_of_adapters_is_left_out(average):
    model = nf.serial(up=nf.linear(2, 3), norm=nf.batch_norm(3))
    adapted = nf.lora(model, model.init(jax.random.key(0)), "up/weight", rank=1)

    def build(h):
        return nf.Task(adapted, nf.regression(), nf.optimizers.sgd(0.1), average=average)

    pair, x = nf.trainer(build), jnp.linspace(-1.0, 1.0, 8).reshape(4, 2)
    state = pair.init({}, jax.random.key(1))
    leaves = nf.paths.flatten(state.model_state)
    assert {path.split("/")[0] for path in leaves} == {"base", "model"}
    assert leaves["base/up/weight"].shape == (2, 3)
    state, _ = jax.jit(pair.step)({}, state, (x, jnp.ones((4, 3))))
    averaged = [leaf.shape for leaf in jax.tree.leaves(state.average.mean)]
    assert sorted(averaged) == [(1, 3), (2, 1), (3,), (3,)]  # up, down, mean and variance
    other = jax.tree.map(lambda leaf: leaf + 1, state.model_state)
    _, read = average.read(state.average, (state.params, other))
    jax.tree.map(np.testing.assert_array_equal, read["base"], other["base"])
    assert not np.allclose(read["model"]["norm"]["mean"], other["model"]["norm"]["mean"])
