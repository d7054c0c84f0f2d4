"""find_lr: what it runs, what it suggests, and that real sweeps agree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnfunc as nf
from nnfunc.debug.lr_finder import suggest_learning_rate

KEY = jax.random.key(0)
X = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
DATA = nf.data.arrays((X, 3 * X), batch_size=8)


def linear(optimizer):
    return lambda h: nf.Task(nf.linear(1, 1), nf.regression(), optimizer(h))


def test_every_short_run_is_a_real_run():
    """Row and column of the losses are those of training at that constant rate, warm-up or not."""

    def build(h, step):
        rate = nf.schedules.warmup_cosine(h["lr"], warmup_steps=5, total_steps=50)
        return nf.Task(nf.mlp([1, 8, 1]), nf.regression(), nf.optimizers.adamw(rate))

    rates = [1e-3, 1e-2, 1e-1]
    found = nf.debug.find_lr(build, {"lr": 0.5}, DATA, key=KEY, steps=12, learning_rates=rates)
    assert found.losses.shape == (12, 3)
    assert found.hyper == "lr"
    assert found.hyper_value == pytest.approx(found.suggestion, rel=1e-4)

    def constant(h):
        return build(h, 0)._replace(optimizer=nf.optimizers.adamw(h["lr"]))

    init, step = nf.trainer(constant)
    for i, rate in enumerate(rates):
        h = {"lr": jnp.asarray(rate)}
        state = init(h, KEY)
        for place in range(12):
            state, metrics = jax.jit(step)(h, state, DATA.batch(place))
            np.testing.assert_allclose(found.losses[place, i], metrics["loss"], rtol=2e-5)
        if i == 0:
            break  # one is enough; the others are the same program


def test_the_rule_by_hand():
    """The valley's floor is what lies within 2 % of the most that any fell: here the middle three."""
    rates = np.array([0.01, 0.1, 1.0, 10.0, 100.0])
    ends = np.array([0.5, 0.01, 0.0, 0.015, np.nan])
    losses = np.stack([np.ones(5)] * 6 + [ends] * 2)
    assert suggest_learning_rate(rates, losses) == pytest.approx(1.0)
    assert suggest_learning_rate(rates, np.ones((8, 5))) is None


def test_hypers_that_scale_the_rate_are_found():
    """The peak may be a product; numbers that do not scale it are passed over."""
    found = nf.debug.find_lr(
        linear(lambda h: nf.optimizers.sgd(0.1 * h["factor"], momentum=h["momentum"])),
        {"momentum": 0.5, "factor": 2.0, "name": "x"},
        DATA,
        key=KEY,
        steps=24,
        learning_rates=np.geomspace(1e-3, 10, 16),
        at_once=4,
    )
    assert found.hyper == "factor"
    assert found.hyper_value == pytest.approx(10 * found.suggestion, rel=1e-4)
    assert found.current == pytest.approx(0.2, rel=1e-5)
    lines = str(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert "suggested" in lines[-1]


def test_a_plot(tmp_path):
    found = nf.debug.RangeTest(
        np.geomspace(1e-3, 1, 8), np.ones((9, 8)) / np.arange(1, 10)[:, None], 0.1, None, None, 0.2
    )
    found.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 4000


def test_mistakes():
    with pytest.raises(ValueError, match=r"find_lr: the learning rate of the optimizer cannot be read\..*as_optimizer"):
        nf.debug.find_lr(linear(lambda h: optax.sgd(0.1)), {}, DATA, key=KEY)
    with pytest.raises(ValueError, match=r"find_lr: learning_rates should be at least 3 rising numbers"):
        nf.debug.find_lr(linear(lambda h: nf.optimizers.sgd(0.1)), {}, DATA, key=KEY, learning_rates=[0.1, 0.01, 1])
    with pytest.raises(TypeError, match=r"data should be a data set"):
        nf.debug.find_lr(linear(lambda h: nf.optimizers.sgd(0.1)), {}, 3, key=KEY)

    def flat(predict, batch):
        return 0 * predict(batch[0]).sum(), {}

    build = lambda h: nf.Task(nf.linear(1, 1), flat, nf.optimizers.sgd(0.1))
    with pytest.raises(ValueError, match=r"find_lr: the loss falls at no learning rate.*doctor"):
        nf.debug.find_lr(build, {}, DATA, key=KEY, steps=8, learning_rates=[0.1, 0.2, 0.3])
