"""Evaluation: batches of the training's memory, one program for all splits, metrics of every example."""

import dataclasses

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.data.eval_batches import eval_batches, eval_total, even_batch_size
from nnfunc.training.compiled import compiled_functions, split_hypers
from nnfunc.training.evaluate import eval_batch_size, mean_metrics, split_batches

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 6), np.float32)
LABELS = RNG.integers(0, 3, 20).astype(np.int32)
TOKENS = RNG.integers(0, 5, (20, 4)).astype(np.int32)

TASKS = {
    "classification": (nf.linear(6, 3), nf.classification(), (X, LABELS)),
    "smoothed": (nf.linear(6, 3), nf.classification(label_smoothing=0.1), (X, LABELS)),
    "focal": (nf.linear(6, 3), nf.classification(gamma=2.0), (X, LABELS)),
    "weights": (nf.linear(6, 3), nf.classification(weight=[1.0, 5.0, 0.1]), (X, LABELS)),
    "regression": (nf.linear(6, 6), nf.regression(), (X, 2 * X)),
    "huber": (nf.linear(6, 6), nf.regression("huber"), (X, 2 * X)),
    "language": (nf.embedding(5, 5), nf.language_modelling(), (TOKENS, TOKENS[:, ::-1])),
    "ignore": (nf.embedding(5, 5), nf.language_modelling(ignore_index=2), (TOKENS, TOKENS[:, ::-1])),
}


def task_of(name):
    model, objective, arrays = TASKS[name]
    return nf.Task(model, objective, nf.optimizers.sgd(0.1)), arrays


@pytest.mark.parametrize("count", [1, 7, 8, 20])
@pytest.mark.parametrize("name", TASKS)
def test_metrics_are_those_of_the_whole_split(name, count):
    """Batches of 8, of which the last is filled up, against the objective of all examples at once."""
    task, arrays = task_of(name)
    arrays = jax.tree.map(lambda x: x[:count], arrays)
    params = task.model.init(KEY)
    figures = nf.evaluate(task, params, arrays, batch_size=8)
    loss, metrics = task.objective(lambda x: task.model.apply(params, x), arrays)
    for metric, value in {"loss": loss, **metrics}.items():
        assert figures[metric] == pytest.approx(float(value), rel=2e-6, abs=1e-7)


@pytest.mark.parametrize("name", TASKS)
def test_examples_that_do_not_count_may_hold_anything(name):
    task, (x, y) = task_of(name)
    params, mask = task.model.init(KEY), jnp.arange(20) < 13

    def predict(x):
        y = task.model.apply(params, x)
        return jnp.where(mask.reshape(-1, *[1] * (y.ndim - 1)), y, jnp.nan)

    whole = task.objective.totals(lambda x: task.model.apply(params, x), (x[:13], y[:13]), None)
    masked = task.objective.totals(predict, (x, y), mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), whole, masked)


def test_an_objective_of_ones_own_sees_no_copies():
    seen = []

    def objective(predict, batch):
        x, _ = batch
        seen.append(x.shape[0])
        return jnp.mean(predict(x) ** 2), {}

    task = nf.Task(nf.linear(6, 2), objective, nf.optimizers.sgd(0.1))
    params = task.model.init(KEY)
    for count, sizes in {20: [5], 16: [8], 13: [], 1: [1]}.items():
        seen.clear()
        figures = nf.evaluate(task, params, (X[:count], LABELS[:count]), batch_size=8)
        assert seen == sizes  # 13 are 8 and 5, which are compiled by then
        expected = jnp.mean(task.model.apply(params, X[:count]) ** 2)
        assert figures["loss"] == pytest.approx(float(expected), rel=1e-6)


def test_even_size():
    assert [even_batch_size(*pair) for pair in ((20, 8), (16, 8), (13, 8), (3, 8), (10_000, 128))] == [5, 8, 8, 3, 125]


def test_batches_of_the_host_and_of_the_device_are_alike():
    for tree in (X, jnp.asarray(X)):
        batches = list(eval_batches((tree,), 8))
        assert [(b.examples[0].shape, int(b.count)) for b in batches] == [((8, 6), 8), ((8, 6), 8), ((8, 6), 4)]
        np.testing.assert_array_equal(np.concatenate([b.examples[0] for b in batches])[:20], X)
        np.testing.assert_array_equal(batches[-1].examples[0][4:], np.stack([X[-1]] * 4))


@pytest.mark.parametrize("size", [3, 8, 20, 32])
def test_a_total_under_jit_counts_every_example_once(size):
    def sums(batch, mask):
        return jnp.where(mask[:, None], batch, 0).sum(0), mask.sum()

    total, count = jax.jit(lambda x: eval_total(sums, x, size, lambda x: 2 * x))(jnp.asarray(X))
    np.testing.assert_allclose(total, 2 * X.sum(0), rtol=1e-5, atol=1e-5)
    assert int(count) == 20


def build(h):
    return nf.Task(nf.linear(6, 3), nf.classification(), nf.optimizers.sgd(h["rate"]))


def splits(batch_size=8, **kwargs):
    held = {"validation": (X[:13], LABELS[:13]), "test": (X, LABELS)}
    return nf.data.arrays((X, LABELS), batch_size, **held, **kwargs)


def test_one_program_serves_all_splits_of_a_run():
    data, hypers = splits(), {"rate": 0.125}
    state, history = nf.train(build, hypers, data, steps=4, key=KEY, evaluate_every=2)
    numbers, static, treedef = split_hypers(hypers)
    compiled = compiled_functions(build, static, treedef)
    figures = [
        mean_metrics(lambda b: compiled.eval_totals(state, numbers, b), split_batches(build(hypers), data, s))
        for s in ("validation", "test")
    ]
    assert compiled.eval_totals._cache_size() == 1
    assert figures[0]["loss"] == pytest.approx(history.validation["loss"][-1], rel=1e-6)
    whole = nf.evaluate(build(hypers), state, data.test, batch_size=20)
    assert figures[1] == pytest.approx(whole, rel=1e-6)


def test_an_evaluation_takes_what_a_step_takes_by_default():
    data = splits()
    assert eval_batch_size(data) == 8
    assert eval_batch_size(data, accumulate=4) == 2
    assert eval_batch_size(data, accumulate=16) == 1
    assert eval_batch_size(dataclasses.replace(data, eval_batch_size=11)) == 11
    assert eval_batch_size(dataclasses.replace(data, eval_batch_size=1000)) == 20  # the larger split
    assert eval_batch_size(dataclasses.replace(data, eval_batch_size=11), parts=8) == 16  # which 8 devices divide


@pytest.mark.parametrize("size", [3, 100])
def test_its_size_changes_metrics_by_rounding_alone(size):
    data, space = splits(), {"rate": [0.1, 0.2]}
    run = lambda **kwargs: nf.train(build, {"rate": 0.1}, data, steps=4, key=KEY, **kwargs)[1]
    sweep = lambda **kwargs: nf.sweep(build, space, data, steps=4, key=KEY, method="grid", **kwargs)
    for metric in ("loss", "accuracy"):
        one, other = (r.validation[metric] for r in (run(), run(eval_batch_size=size)))
        np.testing.assert_allclose(one, other, rtol=2e-6)
        curves = [r.curves[f"validation/{metric}"] for r in (sweep(), sweep(eval_batch_size=size))]
        np.testing.assert_allclose(*curves, rtol=2e-6)


@pytest.mark.parametrize("size, error", [(0, ValueError), (2.0, TypeError), (2**31, ValueError)])
def test_a_wrong_size_is_told(size, error):
    data = splits()
    with pytest.raises(error, match=r"train: eval_batch_size should be"):
        nf.train(build, {"rate": 0.1}, data, steps=4, key=KEY, eval_batch_size=size)
    with pytest.raises(error, match=r"sweep: eval_batch_size should be"):
        nf.sweep(build, {"rate": [0.1]}, data, steps=4, key=KEY, method="grid", eval_batch_size=size)
    with pytest.raises(error, match=r"sweep: eval_batch_size should be"):
        nf.sweep_plan(build, {"rate": [0.1]}, data, steps=4, key=KEY, eval_batch_size=size)
    with pytest.raises(error, match=r"evaluate: batch_size should be"):
        nf.evaluate(build({"rate": 0.1}), None, data.test, batch_size=size)


MODELS = {
    "gpt": lambda: nf.gpt(65, block_size=32, layers=2, heads=2, dim=64),
    "mlp": lambda: nf.mlp([64, 128, 10]),
    "cnn": lambda: nf.cnn(10, widths=[8, 16], image_size=12),
}


# What conftest.py switches off takes minutes for gpt, where the program is optimized.
OLD = jaxlib.__version__.startswith("0.10.")
USERS_COMPILER = {"xla_cpu_use_fusion_emitters": True} if OLD else {}


@pytest.mark.optimized
@pytest.mark.parametrize("name", MODELS)
def test_an_evaluation_needs_no_more_memory_than_a_step(name):
    """By what XLA tells of both programs, compiled from shapes alone."""
    x, y = {
        "gpt": (np.zeros((64, 32), np.int32), np.zeros((64, 32), np.int32)),
        "mlp": (np.zeros((64, 64), np.float32), np.zeros(64, np.int32)),
        "cnn": (np.zeros((64, 12, 12, 1), np.float32), np.zeros(64, np.int32)),
    }[name]
    objective = nf.language_modelling() if name == "gpt" else nf.classification()

    def build(h):
        return nf.Task(MODELS[name](), objective, nf.optimizers.adam(h["rate"]))

    data = nf.data.arrays((x, y), batch_size=16, validation=(x, y))
    numbers, static, treedef = split_hypers({"rate": 1e-3})
    compiled = compiled_functions(build, static, treedef)
    carry = jax.eval_shape(compiled.init, numbers, KEY, data.for_training())
    step = compiled.step.lower(carry, numbers, data.for_training())
    step = step.compile(USERS_COMPILER).memory_analysis()
    batch = next(split_batches(build({"rate": 1e-3}), data))
    evaluation = compiled.eval_totals.lower(carry.state, numbers, batch)
    evaluation = evaluation.compile(USERS_COMPILER).memory_analysis()
    assert 0 < evaluation.temp_size_in_bytes <= step.temp_size_in_bytes
