"""What a terminal and a notebook show of models, summaries, data and runs; and models that pickle."""

import pickle
import sys
from functools import partial, wraps
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnfunc as nf
from nnfunc.training.task import join_models

KEY = jax.random.key(0)


def test_a_model_shows_its_factory_and_sizes():
    assert repr(nf.linear(2, 3)) == "<nnfunc model linear(in_dim=2, out_dim=3)>"
    shown = repr(nf.gpt(vocab_size=65, block_size=16, layers=2, heads=2, dim=8))
    assert shown == "<nnfunc model gpt(vocab_size=65, block_size=16, layers=2, heads=2, dim=8)>"
    assert repr(nf.mlp([4, 8, 2], activation=jnp.tanh)) == "<nnfunc model mlp(widths=[4, 8, 2], activation=tanh)>"
    assert repr(nf.serial(nf.linear(2, 3), head=nf.mlp([3, 1]))) == "<nnfunc model serial(linear(...), head=mlp(...))>"
    assert repr(nf.Model(lambda key: {}, lambda params, x: x, name="mine")) == "<nnfunc model mine>"


def test_as_model_leaves_a_model_as_it_is():
    model = nf.linear(2, 3)
    assert repr(nf.as_model(model)) == repr(model)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nf.linear(2, 3),
        lambda: nf.mlp([2, 4, 3], dropout=0.1),
        lambda: nf.serial(nf.linear(2, 3), jax.nn.relu, nf.batch_norm(3), head=nf.repeat(nf.linear(3, 3), 2)),
        lambda: nf.remat(nf.precision(nf.linear(2, 3))),
    ],
)
def test_models_pickle(make):
    model = make()
    again = pickle.loads(pickle.dumps(model))
    params, x = model.init(KEY), jnp.ones((4, 2))
    jax.tree.map(np.testing.assert_array_equal, again.init(KEY), params)
    np.testing.assert_array_equal(
        again.apply(params, x, state=again.init_state()), model.apply(params, x, state=model.init_state())
    )


def test_a_model_of_a_local_function_does_not_pickle():
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(nf.serial(nf.linear(2, 3), lambda x: x + 1))


def build(h):
    return nf.Task(nf.linear(2, 1), nf.regression(), nf.optimizers.sgd(h["learning_rate"]))


X = np.ones((20, 2), np.float32)


def test_what_a_run_shows():
    data = nf.data.arrays((X, X[:, :1]), batch_size=5, validation=(X[:4], X[:4, :1]))
    assert repr(data) == (
        "Data(train float32[20, 2] float32[20, 1], validation float32[4, 2] float32[4, 1], batches of 5)"
    )
    state, history = nf.train(build, {"learning_rate": 0.1}, data, steps=3, key=KEY, loop="step")
    assert repr(state) == "TrainState after 3 steps, 3 parameters:\n  bias: float32[1]\n  weight: float32[2, 1]"
    lines = repr(history).splitlines()
    assert lines[0] == "History (step loop):"
    assert lines[1].startswith("  train at step 3 (3 reports): ")
    assert lines[2].startswith("  validation at step 3 (3 reports): loss ")
    assert len(repr(history)) < 1000
    page = history._repr_html_()
    assert page.startswith("<table><tr><th>split</th><th>step</th><th>gradient_norm</th>")
    assert "<tr><td>validation</td><td>3</td>" in page
    assert "<td>float32[4, 2] float32[4, 1]</td></tr></table><code>batches of 5</code>" in data._repr_html_()
    model = nf.linear(2, 3)
    assert model._repr_html_() == "<code>&lt;nnfunc model linear(in_dim=2, out_dim=3)&gt;</code>"
    jax.jit(lambda state: [repr(state), state.step][1])(state)  # of tracers too
    assert repr(jax.tree.map(lambda leaf: None, state)).startswith("TrainState")


def test_a_summary_is_a_table():
    summary = nf.summary(nf.mlp([4, 8, 2]), (1, 4))
    assert repr(summary) == str(summary)
    assert "hidden_0/linear  linear  float32[1,8]" in repr(summary)
    page = summary._repr_html_()
    assert page.count("<tr>") == len(summary.rows) + 2
    assert "<td>hidden_0/linear</td>" in page


@pytest.mark.parametrize(
    "module", ["losses", "metrics", "activations", "initializers", "schedules", "optimizers", "data", "paths", "errors"]
)
def test_completion_lists_a_modules_own_names(module):
    assert dir(getattr(nf, module)) == sorted(getattr(nf, module).__all__)


def test_a_pickle_is_of_the_arguments_of_the_call():
    widths = [4, 4, 2]
    model = nf.mlp(widths)
    widths.append(7)
    assert sorted(pickle.loads(pickle.dumps(model)).init(KEY)) == sorted(model.init(KEY)) == ["head", "hidden_0"]


def test_models_that_were_unpacked_and_partials_pickle():
    layer = nf.linear(2, 3)
    pair = (layer.init, layer.apply)
    assert nf.as_model(pair) is layer
    assert repr(layer) == "<nnfunc model linear(in_dim=2, out_dim=3)>"
    model = nf.serial(pair, partial(jax.nn.leaky_relu, negative_slope=0.1))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.apply(model.init(KEY), X), model.apply(model.init(KEY), X))


def test_functions_of_a_factory_pickle_as_its_call():
    model = nf.linear(2, 3, weight_init=nf.initializers.variance_scaling(2.0, "fan_in", "normal"))
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.init(KEY)["weight"], model.init(KEY)["weight"])
    assert repr(again) == repr(model) == "<nnfunc model linear(in_dim=2, out_dim=3, weight_init=variance_scaling(...))>"


def test_a_wrapper_of_such_a_function_does_not_pickle_as_it():
    zeros = nf.initializers.constant(0.0)
    ones = wraps(zeros)(lambda key, shape, dtype=jnp.float32: 1 + zeros(key, shape, dtype))
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(nf.linear(2, 3, weight_init=ones))


def test_a_train_state_unfolds_where_treescope_is_installed(key, monkeypatch):
    state = nf.trainer(lambda h: nf.Task(nf.linear(2, 1), nf.regression(), nf.optimizers.sgd(0.1))).init({}, key)
    monkeypatch.setitem(sys.modules, "treescope", None)
    assert state._repr_html_().startswith("<code>TrainState after 0 steps, 3 parameters:</code><table>")
    assert "<td>weight</td><td>float32[2, 1]</td>" in state._repr_html_()
    monkeypatch.setitem(sys.modules, "treescope", SimpleNamespace(render_to_html=lambda tree: f"<p>{sorted(tree)[:2]}"))
    assert state._repr_html_() == "<p>['average', 'diverged_at']"


def objective(predict, batch):
    return predict(batch).mean(), {}


def test_tasks_and_their_parts_print_without_addresses():
    optimizers, model = nf.optimizers, nf.mlp([4, 8, 3])
    adamw = optimizers.adamw(1e-3, weight_decay=0.01)
    task = nf.Task(model, nf.classification(label_smoothing=0.1), adamw, accumulate=2)
    shown = {
        "adamw(learning_rate=0.001, weight_decay=0.01)": adamw,
        "groups(inner=adamw(...), rates={'head/*': 0.1})": optimizers.groups(adamw, rates={"head/*": 0.1}),
        "sgd(learning_rate=float32[])": optimizers.sgd(jnp.array(0.1)),
        "regression(loss='huber')": nf.regression("huber"),
        "trainer(build=build)": nf.trainer(build),
        "log_uniform(0.001, 1)": nf.log_uniform(1e-3, 1.0),
        "choice of 'relu', 'tanh'": nf.choice(["relu", "tanh"]),
        "Task(model=<nnfunc model mlp(widths=[4, 8, 3])>, objective=classification(label_smoothing=0.1), "
        "optimizer=adamw(learning_rate=0.001, weight_decay=0.01), accumulate=2)": task,
        "Objective(objective)": nf.training.Objective(objective),
        "<average ema>": nf.averages.ema(0.9),
        "<reduce_on_plateau of 'loss'>": nf.reduce_on_plateau(),
    }
    for text, value in shown.items():
        assert repr(value) == text
    both = nf.Task({"a": model}, {"a": objective}, {"a": adamw})
    others = [
        nf.Task(model, objective, optax.adam(1e-3)),
        both,
        join_models(both),
        optimizers.as_optimizer(optax.adam(1e-3)),
        optimizers.lookahead(optimizers.clip_value(adamw, 1.0)),
        optimizers.adam(nf.schedules.warmup_cosine(1e-3, 10, 100)),
        nf.schedules.plateau(0.1),
        nf.debug.Finding("error", "loss", "no gradient", "It is 0.", "Train it."),
    ]
    losses = np.ones((201, 5))
    others.append(nf.debug.Verdict("memorised", "It is 0.", "", "", 1.0, 0.0, None, None, None, losses[0], losses))
    for value in others:
        assert " at 0x" not in repr(value)
        assert len(repr(value)) < 250


def test_tables_and_splits_are_short_text():
    rows = [{"trial": i, "rate": 0.1 * i, "validation/loss": 1 / 3, "diverged_at": None} for i in range(60)]
    lines = repr(nf.sweeps.Table(rows)).splitlines()
    assert lines[:2] == ["trial  rate  validation/loss", "    0     0           0.3333"]
    assert lines[-1] == "and 10 more rows"
    assert str(nf.sweeps.Table(rows[:3])).count("\n") == 3
    splits = nf.data.digits()
    assert repr(splits).startswith("Splits(train float32[1257, 64] int32[1257], validation float32[")
    assert repr(splits).endswith(", 10 classes)")
