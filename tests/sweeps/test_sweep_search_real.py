"""Searches on real tasks: they have to find what they are there to find."""

import os

import jax
import numpy as np
import pytest

import nnfunc as nf

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not os.environ.get("NNFUNC_LONG"), reason="minutes: make test-slow")]


def digits():
    own = nf.data.digits()
    return nf.data.arrays(own.train, batch_size=64, validation=own.validation)


def classifier(h):
    optimizer = nf.optimizers.sgd(h["lr"], momentum=h["momentum"])
    return nf.Task(nf.mlp([64, 64, 10], dropout=h["dropout"]), nf.classification(), optimizer)


def wave(n=512):
    def split(seed):
        draw = np.random.default_rng(seed)
        x = draw.uniform(-1, 1, (n, 1))
        y = np.sin(12 * x) + np.abs(x) + 0.05 * draw.normal(size=(n, 1))
        return x.astype(np.float32), y.astype(np.float32)

    return nf.data.arrays(split(0), batch_size=64, validation=split(1))


def curve(h):
    model = nf.mlp([1, 32, 32, 1], activation="tanh")
    return nf.Task(model, nf.regression(), nf.optimizers.adam(h["lr"], b1=h["b1"]))


TASKS = {
    "digits": (
        classifier,
        digits,
        400,
        {"lr": nf.log_uniform(1e-4, 1.0), "dropout": nf.uniform(0.0, 0.5), "momentum": nf.uniform(0.0, 0.99)},
    ),
    "wave": (curve, wave, 1000, {"lr": nf.log_uniform(1e-5, 0.1), "b1": nf.uniform(0.0, 0.99)}),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_population_beats_the_best_of_as_many_fixed_settings(task):
    """At equal steps, on held-out examples, for each of three keys."""
    build, data, steps, space = TASKS[task]
    data = data()
    for seed in range(3):
        options = {"steps": steps, "trials": 32, "key": jax.random.key(seed)}
        fixed = nf.sweep(build, space, data, **options)
        search = nf.sweeps.population(rounds=20)
        moved = nf.sweep(build, space, data, search=search, evaluate_every=steps // 20, **options)
        assert moved.scores[moved.best] < fixed.scores[fixed.best]


def test_halving_finds_the_winner_with_a_fifth_of_the_steps():
    def build(h):
        return nf.Task(nf.mlp([64, 64, 10]), nf.classification(), nf.optimizers.adam(h["lr"]))

    space, data = {"lr": nf.log_uniform(1e-5, 1.0)}, digits()
    for seed in range(2):
        options = {"steps": 1000, "trials": 64, "key": jax.random.key(seed)}
        whole = nf.sweep(build, space, data, **options)
        search = nf.sweeps.halving(4)
        result = nf.sweep(build, space, data, search=search, **options)
        assert result.best == whole.best
        assert sum(result.stopped_at.get(i, 1000) for i in range(64)) < 64_000 / 5
