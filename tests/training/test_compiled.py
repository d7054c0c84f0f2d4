"""Compiled steps are kept between runs, and never for other code than they were made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf

X = np.linspace(-1, 1, 32, dtype=np.float32).reshape(16, 2)
DATA = nf.data.arrays((X, X.sum(1, keepdims=True)), batch_size=8)
CELL = """
def build(h):
    return nf.Task(model(), nf.regression(), nf.optimizers.sgd(h["learning_rate"]))

def model():
    return nf.serial(nf.linear(2, 1), lambda x: SCALE * x)
"""


def run_cell(text, names):
    exec(text, names)


def final_loss(build):
    _, history = nf.train(build, {"learning_rate": 0.1}, DATA, steps=2, key=jax.random.key(0), loop="step")
    return float(history.train["loss"][-1])


def test_a_cell_that_is_run_again_trains_anew():
    names = {"nf": nf}
    run_cell("SCALE = 1.0" + CELL, names)
    build, first = names["build"], final_loss(names["build"])
    names["SCALE"] = 3.0  # read by a function that build calls
    second = final_loss(build)
    run_cell("def model():\n    return nf.serial(nf.linear(2, 1), lambda x: -SCALE * x)", names)
    third = final_loss(build)
    assert len({first, second, third}) == 3
    names["SCALE"] = 1.0
    run_cell("SCALE = 1.0" + CELL, names)
    assert final_loss(names["build"]) == first


def test_closure_cells_and_defaults_belong_to_the_code():
    scale = 1.0

    def build(h, offset=0.0):
        model = nf.serial(nf.linear(2, 1), lambda x: scale * x + offset)
        return nf.Task(model, nf.regression(), nf.optimizers.sgd(h["learning_rate"]))

    losses = [final_loss(build)]
    scale = 2.0
    losses.append(final_loss(build))
    build.__defaults__ = (0.5,)
    losses.append(final_loss(build))
    assert len(set(losses)) == 3


def test_an_evaluation_reads_what_its_objective_reads_now():
    names = {"jnp": jnp, "factor": 1.0}
    run_cell("def objective(predict, batch):\n    return factor * jnp.mean(predict(batch[0])), {}", names)
    task = nf.Task(nf.linear(2, 1), names["objective"], nf.optimizers.sgd(0.1))
    params = task.model.init(jax.random.key(0))
    one = nf.evaluate(task, params, (X, X))["loss"]
    names["factor"] = 2.0
    assert nf.evaluate(task, params, (X, X))["loss"] == pytest.approx(2 * one)


def test_the_same_code_compiles_once():
    traces = []

    def build(h):
        traces.append(1)
        return nf.Task(nf.linear(2, 1), nf.regression(), nf.optimizers.sgd(h["learning_rate"]))

    final_loss(build)
    once = len(traces)
    final_loss(build)
    assert len(traces) - once < once
