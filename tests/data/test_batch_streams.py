"""Objects of other libraries as data: anything with `batch(step)`."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.debug.first_state import without_augmentation
from nnfunc.training.device_feed import as_data


class Lines:
    """Points on a line; every step has its own."""

    def __init__(self, sizes=(8,)):
        self.sizes, self.steps = sizes, []

    def batch(self, step):
        self.steps.append(step)
        x = np.random.default_rng(step).normal(size=(self.sizes[step % len(self.sizes)], 2))
        return x, x[:, :1] - x[:, 1:]


def build(h):
    return nf.Task(nf.linear(2, 1), nf.regression(), nf.optimizers.adam(h["rate"]))


def test_training_calls_batch_with_each_step_and_resumes(key, tmp_path):
    data = Lines()
    data.validation = Lines().batch(1000)
    whole, history = nf.train(build, {"rate": 0.1}, data, steps=40, key=key)
    assert set(range(40)) <= set(data.steps)
    assert all(isinstance(step, int) for step in data.steps)
    assert history.validation["loss"][-1] < history.validation["loss"][0] / 4
    nf.train(build, {"rate": 0.1}, Lines(), steps=20, key=key, folder=tmp_path)
    resumed, _ = nf.train(build, {"rate": 0.1}, Lines(), steps=40, key=key, folder=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.params["weight"], whole.params["weight"])


def test_the_batches_are_those_of_the_object():
    data = as_data(Lines())
    np.testing.assert_allclose(jax.device_get(data.batch(3))[0], Lines().batch(3)[0].astype(np.float32))
    assert (data.batch_size, data.validation) == (8, None)


@pytest.mark.parametrize(
    "data, message",
    [
        (Lines((8, 8, 7)), r"the batch of step 2 should have the shapes.*float32\[8, 2\].*got.*\[7, 2\].*Pad"),
        (object(), r"data should be a data set, such as nf.data.arrays.*or have batch\(step\), got"),
    ],
)
def test_mistakes_are_named(data, message, key):
    with pytest.raises((ValueError, TypeError), match=message):
        nf.train(build, {"rate": 0.1}, data, steps=5, key=key)


def test_batches_of_an_object_are_final():
    inner = nf.data.arrays(np.full((4, 2), 100.0, np.float32), batch_size=2, transform=lambda batch: batch / 10)

    class Wrapper:
        transform, augment = inner.transform, None

        def batch(self, step):
            return inner.batch(step)

    np.testing.assert_allclose(as_data(Wrapper()).batch(0), 10.0)
    assert without_augmentation(Lines(), 4).batch(0)[0].shape == (4, 2)


def test_a_graph_is_one_example(key):
    """Nodes and edges have first axes of different lengths; gradients are those of the graph as a whole."""

    class Graphs:
        def batch(self, step):
            draw = np.random.default_rng(step)
            nodes, edges = draw.normal(size=(6, 2)).astype(np.float32), draw.integers(0, 6, (9, 2), dtype=np.int32)
            return {"nodes": nodes, "edges": edges}

    def objective(predict, graph):
        y = predict(graph["nodes"])[:, 0]
        ends = graph["nodes"][graph["edges"]].sum((1, 2))
        return jnp.square(y[graph["edges"]].sum(1) - ends).mean(), {}

    build = lambda h: nf.Task(nf.linear(2, 1), objective, nf.optimizers.adam(h["rate"]))
    state, history = nf.train(build, {"rate": 0.1}, Graphs(), steps=300, key=key, log_every=100)
    np.testing.assert_allclose(state.params["weight"], [[1.0], [1.0]], atol=0.05)
    assert history.speed["examples_per_second"].shape == (3,)


def test_micro_batches_do_not_divide_graphs(key):
    graph = {"nodes": np.ones((4, 2), np.float32), "edges": np.ones((6, 2), np.int32)}
    source = SimpleNamespace(batch=lambda step: graph)
    objective = lambda predict, graph: (predict(graph["nodes"]).mean(), {})
    build = lambda h: nf.Task(nf.linear(2, 1), objective, nf.optimizers.sgd(0.1), accumulate=2)
    with pytest.raises(ValueError, match=r"accumulate = 2 divides the examples of a batch, and its .* of 4 and 6"):
        nf.train(build, {}, source, steps=2, key=key)


def test_the_first_batch_is_asked_for_once(key):
    data = Lines()
    nf.train(build, {"rate": 0.1}, data, steps=3, key=key)
    assert data.steps[:3] == [0, 1, 2]
