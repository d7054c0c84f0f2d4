"""The best trials of a sweep as one predictor, against their predictions by hand."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.sweep_tasks import CLASSES, DATA, DIM, KEY, swept

import nnfunc as nf


def build(h):
    model = nf.serial(
        up=nf.linear(DIM, h["width"]),
        norm=nf.batch_norm(h["width"]),
        act=jnp.tanh,
        drop=nf.dropout(0.2),
        head=nf.linear(h["width"], CLASSES),
    )
    return nf.Task(model, nf.classification(), nf.optimizers.adam(h["lr"]), average=nf.averages.ema(0.8))


SPACE = [{"lr": lr, "width": width} for lr in (0.1, 0.01, 1e30) for width in (4, 5)]


@pytest.fixture(scope="module")
def result():
    return swept(build=build, space=SPACE)


def test_it_is_the_log_of_the_mean_probability(result):
    """Of averaged weights and statistics, of trials of two widths, best first."""
    model, params, state, trials = nf.ensemble_from(result, 3)
    assert list(trials) == [row["trial"] for row in result.table()[:3]]
    x, labels = DATA.validation
    every = []
    for i in trials:
        own = result.trial(i).state
        task = build(result.hypers[i])
        weights, statistics = task.average.read(own.average, (own.params, own.model_state))
        every.append(jax.nn.softmax(task.model.apply(weights, x, state=statistics)))
    expected = jnp.log(sum(every) / 3)
    y = jax.jit(model.apply)(params, x, state=state)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    task = nf.Task(model, nf.classification(), nf.optimizers.sgd(0.1))
    loss = nf.evaluate(task, params, (x, labels), state=state)["loss"]
    np.testing.assert_allclose(loss, -np.mean(np.log(np.mean(every, 0)[np.arange(20), labels])), rtol=1e-5)
    assert loss < np.mean([result.scores[i] for i in trials])  # by Jensen's inequality


def test_outputs_are_averaged_for_regression_or_when_asked(result):
    model, params, state, trials = nf.ensemble_from(result, 2, average="outputs")
    x = DATA.validation[0]
    alone = [nf.ensemble_from(result, 1, average="outputs")]
    assert alone[0].trials == trials[:1]
    both = model.apply(params, x, state=state)
    first = alone[0].model.apply(alone[0].params, x, state=alone[0].state)
    own = result.trial(trials[1]).state
    task = build(result.hypers[trials[1]])
    weights, statistics = task.average.read(own.average, (own.params, own.model_state))
    second = task.model.apply(weights, x, state=statistics)
    np.testing.assert_allclose(both, (first + second) / 2, rtol=1e-5, atol=1e-6)

    def line(h):
        return nf.Task(nf.linear(DIM, 1), nf.regression(), nf.optimizers.sgd(h["lr"]))

    target = x.sum(1, keepdims=True)
    data = nf.data.arrays((x, target), batch_size=5)
    lines = nf.sweep(line, [{"lr": 0.1}, {"lr": 0.05}], data, steps=30, key=KEY, execution="loop")
    model, params, state, _ = nf.ensemble_from(lines, 2)
    mean = np.mean([line({"lr": 0}).model.apply(lines.trial(i).state.params, x) for i in (0, 1)], 0)
    np.testing.assert_allclose(model.apply(params, x), mean, rtol=1e-5, atol=1e-6)


def test_a_key_gives_each_trial_its_own_dropout(result):
    model, params, state, _ = nf.ensemble_from(result, 2)
    x = DATA.validation[0]
    one, other = (model.apply(params, x, state=state, key=jax.random.key(i)) for i in (0, 1))
    assert not np.allclose(one, other)


def test_only_trials_that_ended_well(result):
    with pytest.raises(ValueError, match="k should be at most 4, the number of trials with a score, got 5"):
        nf.ensemble_from(result, 5)
    with pytest.raises(ValueError, match="k should be at least 1"):
        nf.ensemble_from(result, 0)
    with pytest.raises(ValueError, match="pickled has no build and no data"):
        nf.ensemble_from(pickle.loads(pickle.dumps(result)), 1)
