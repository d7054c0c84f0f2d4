"""Runs that begin from given parameters and model state: fine-tuning, and continuing in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 4)).astype(np.float32)
Y = RNG.integers(0, 3, 32).astype(np.int32)
DATA = nf.data.arrays((X, Y), batch_size=8)
KEY = jax.random.key(0)
H = {"rate": 0.1}


def build(h, **options):
    model = nf.serial(body=nf.linear(4, 8), norm=nf.batch_norm(8), head=nf.linear(8, 3))
    return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["rate"]), **options)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module")
def trained():
    return nf.train(build, H, DATA, steps=8, key=KEY)[0]


def test_two_runs_in_a_row_are_one_run_for_plain_sgd(trained):
    """The data repeat after 4 steps, and sgd has no state: only the order of the second half differs."""
    state, _ = nf.train(build, H, DATA, steps=4, key=KEY)
    init, step = nf.trainer(build)
    by_hand = init(H, KEY, params=state.params, state=state.model_state)
    for t in range(4):
        by_hand, _ = jax.jit(step)(H, by_hand, DATA.batch(t))
    again, _ = nf.train(build, H, DATA, steps=4, key=KEY, params=state.params, state=state.model_state)
    assert int(again.step) == 4
    for one, other in zip(jax.tree.leaves(again.params), jax.tree.leaves(by_hand.params), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_given_arrays_stay_as_they_are(trained):
    before, key = jax.tree.map(np.array, (trained.params, trained.model_state)), jax.random.key(0)
    nf.train(build, H, DATA, steps=3, key=key, params=trained.params, state=trained.model_state)
    same(before, (trained.params, trained.model_state))
    init, step = nf.trainer(build)
    state = init(H, key, params=trained.params, state=trained.model_state)
    jax.jit(step, donate_argnums=1)(H, state, DATA.batch(0))
    assert not key.is_deleted()
    same(before, (trained.params, trained.model_state))


def test_numpy_arrays_and_float64_are_taken(trained):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trained.params)
    init, _ = nf.trainer(build)
    same(init(H, KEY, params=params, state=trained.model_state).params, trained.params)


def test_the_average_begins_at_the_given_parameters(trained):
    init, _ = nf.trainer(lambda h: build(h, average=nf.averages.ema(0.9)))
    task = build(H, average=nf.averages.ema(0.9))
    state = init(H, KEY, params=trained.params, state=trained.model_state)
    averaged = task.average.read(state.average, (state.params, state.model_state))
    same(averaged[0], trained.params)


def test_other_parameters_are_refused_by_path(trained):
    init, _ = nf.trainer(build)
    params = {**trained.params, "head": {"weight": jnp.ones((8, 2)), "extra": jnp.ones(2)}}
    with pytest.raises(ValueError, match="params should have the paths") as error:
        init(H, KEY, params=params, state=trained.model_state)
    assert "head/weight: expected float32[8, 3], got float32[8, 2]" in str(error.value)
    assert "head/bias: expected float32[3], got nothing" in str(error.value)
    assert "head/extra: expected nothing, got float32[2]" in str(error.value)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), trained.params)
    with pytest.raises(ValueError, match=r"body/bias: expected float32\[8\], got bfloat16\[8\]"):
        nf.train(build, H, DATA, steps=1, key=KEY, params=half, state=trained.model_state)
    with pytest.raises(ValueError, match=r"(?s)state should have the paths.*norm"):
        init(H, KEY, params=trained.params, state={})


def test_mistakes_of_the_beginning(trained, tmp_path):
    init, _ = nf.trainer(build)
    with pytest.raises(ValueError, match=r"keeps state, \['norm'\].*state=model.init_state\(\)"):
        init(H, KEY, params=trained.params)
    with pytest.raises(ValueError, match=r"whole train state.*params=state.params"):
        init(H, KEY, params=trained, state={})
    with pytest.raises(ValueError, match="params should"):
        nf.train(build, H, DATA, steps=1, key=KEY, params={}, state=trained.model_state, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_continues_from_its_checkpoint(trained, tmp_path):
    options = {"params": trained.params, "state": trained.model_state, "folder": tmp_path}
    whole, _ = nf.train(build, H, DATA, steps=6, key=KEY, params=trained.params, state=trained.model_state)
    nf.train(build, H, DATA, steps=6, key=KEY, save_every=2, should_stop=lambda step: step == 4, **options)
    resumed, _ = nf.train(build, H, DATA, steps=6, key=KEY, save_every=2, resume=True, **options)
    same(resumed.params, whole.params)


def test_an_early_rollback_returns_to_the_given_parameters(trained, tmp_path):
    def explode(h):
        return nf.Task(nf.linear(4, 3), nf.classification(), nf.optimizers.sgd(h["rate"]))

    params = jax.tree.map(lambda leaf: leaf.at[:].set(2.0), nf.linear(4, 3).init(KEY))
    options = {"log_every": 4, "save_every": 4, "evaluate_every": 4, "rollback": 1, "rollback_factor": 1e-37}
    state, _ = nf.train(explode, {"rate": 1e38}, DATA, steps=4, key=KEY, params=params, folder=tmp_path, **options)
    assert float(state.rate_scale) < 1
    plain, _ = nf.train(explode, {"rate": 10.0}, DATA, steps=4, key=KEY, params=params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), state.params, plain.params)
