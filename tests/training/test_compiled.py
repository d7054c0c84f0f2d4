"""Compiled steps are kept between runs, and never for other code than they were made of."""

import gc
import weakref
from functools import wraps

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.training.task import cache_calls

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


MADE_BEFORE = """
SCALE, RATE = 1.0, 0.1
def layer(x):
    return SCALE * x
def rate(step):
    return RATE
net, optimizer = nf.serial(nf.linear(2, 1), layer), nf.optimizers.sgd(rate)
def build(h):
    return nf.Task(net, nf.regression(), optimizer)
"""


def test_models_and_optimizers_made_before_build_are_looked_into():
    names = {"nf": nf}
    run_cell(MADE_BEFORE, names)
    losses = [final_loss(names["build"])]
    for name, value in (("SCALE", 3.0), ("RATE", 0.01)):
        names[name] = value
        losses.append(final_loss(names["build"]))
    assert len(set(losses)) == 3
    names.update(SCALE=1.0, RATE=0.1)
    assert final_loss(names["build"]) == losses[0]


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


def test_a_wrapper_is_not_what_it_wraps():
    def rows(x):
        return x.sum(0) * jnp.ones_like(x)

    names = {"nf": nf, "layer": jax.vmap(rows)}
    cell = "def build(h):\n    net = nf.serial(nf.linear(2, 2), layer, nf.linear(2, 1))\n"
    run_cell(cell + "    return nf.Task(net, nf.regression(), nf.optimizers.sgd(h['learning_rate']))", names)
    losses = [final_loss(names["build"])]
    for names["layer"] in (rows, jax.vmap(rows, in_axes=1, out_axes=1), jax.jit(rows)):
        losses.append(final_loss(names["build"]))
    assert losses[1] == pytest.approx(losses[3], rel=1e-5)
    assert len({round(loss, 4) for loss in losses}) >= 2
    assert losses[0] != losses[1]


def test_data_that_build_reads_is_not_kept_alive():
    names, alive = {"nf": nf}, []
    cell = "def build(h):\n    net = nf.linear(big.shape[1], 1)\n"
    run_cell(cell + "    return nf.Task(net, nf.regression(), nf.optimizers.sgd(h['learning_rate']))", names)
    for _ in range(3):
        names["big"] = np.ones((1000, 2))
        alive.append(weakref.ref(names["big"]))
        final_loss(names["build"])
    gc.collect()
    assert [ref() is not None for ref in alive] == [False, False, True]


def test_objectives_may_differentiate_adapted_models():
    net = nf.serial(nf.linear(2, 4), jnp.tanh, nf.linear(4, 1))
    adapted = nf.lora(net, net.init(jax.random.key(1)), "**/weight", rank=1)

    def objective(predict, batch):
        slopes = jax.vmap(jax.grad(lambda row: predict(row[None])[0, 0]))(batch[0])
        return jnp.mean(slopes**2), {}

    def build(h):
        return nf.Task(adapted, objective, nf.optimizers.sgd(h["learning_rate"]))

    assert np.isfinite(final_loss(build))


def test_a_decorated_build_is_read_through_its_decorator():
    names = {"nf": nf}
    run_cell("SCALE = 1.0" + CELL, names)

    @wraps(names["build"])
    def build(*args):
        return names["build"](*args)

    first = final_loss(build)
    names["SCALE"] = 3.0
    assert final_loss(build) != first


INDIRECT = {
    "a method": "class Net:\n    def width(self):\n        return WIDTH\nbuild = lambda h: Net().width()",
    "a method of an object": "class Net:\n    def width(self):\n        return WIDTH\nnet = Net()\nbuild = lambda h: net.width()",
    "a function in a tuple": "width = lambda: WIDTH\nWIDTHS = (width,)\nbuild = lambda h: WIDTHS[0]()",
    "a function in a dict": "width = lambda: WIDTH\nWIDTHS = {'a': [width]}\nbuild = lambda h: WIDTHS['a'][0]()",
    "an object that is called": "class Build:\n    def __call__(self, h):\n        return WIDTH\nbuild = Build()",
    "an entry": "WIDTHS = {'a': 1}\nbuild = lambda h: WIDTHS['a']",
}


@pytest.mark.parametrize("name", INDIRECT)
def test_what_build_reads_by_objects_and_containers(name):
    names = {"WIDTH": 1}
    run_cell(INDIRECT[name], names)
    call = cache_calls(lambda build: build({}), 4)
    assert call(names["build"]) == call(names["build"]) == 1
    names["WIDTH"] = 2
    if name == "an entry":
        names["WIDTHS"]["a"] = 2
    assert call(names["build"]) == 2
