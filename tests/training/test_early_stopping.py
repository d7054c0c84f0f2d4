"""Early stopping by patience, and metrics by name in a run."""

import math

import jax
import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

import nnfunc as nf
from nnfunc.runs import metrics_log
from nnfunc.runs.best_metric import BestMetric
from nnfunc.training.early_stopping import Patience

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(150, 3)).astype(np.float32)
Y = (X[:, 0] + RANDOM.normal(size=150) > 1).astype(np.int32)
DATA = nf.data.arrays((X[:90], Y[:90]), batch_size=16, validation=(X[90:], Y[90:]))
METRICS = ("f1", "roc_auc", "log_loss")


def build(h):
    return nf.Task(nf.linear(3, 1), nf.binary(), nf.optimizers.sgd(h["rate"]), metrics=METRICS)


def fit(rate=0.5, steps=200, **more):
    return nf.train(build, {"rate": rate}, DATA, steps=steps, key=jax.random.key(0), evaluate_every=5, **more)


def test_named_metrics_of_a_run_equal_scikit_learn():
    state, history = fit(steps=40)
    logits = np.asarray(nf.linear(3, 1).apply(state.params, X[90:]))[:, 0]
    validation = {name: values[-1] for name, values in history.validation.items()}
    assert validation["f1"] == pytest.approx(f1_score(Y[90:], logits > 0), rel=1e-6)
    assert validation["roc_auc"] == pytest.approx(roc_auc_score(Y[90:], logits), rel=1e-6)
    assert validation["log_loss"] == pytest.approx(validation["loss"], rel=1e-5)
    assert "f1" not in history.train
    task = build({"rate": 0.5})
    again = nf.evaluate(task, state, (X[90:], Y[90:]), batch_size=7)
    assert {name: again[name] for name in METRICS} == pytest.approx({name: validation[name] for name in METRICS})


def test_named_metrics_change_nothing_else():
    plain = lambda h: nf.Task(nf.linear(3, 1), nf.binary(), nf.optimizers.sgd(h["rate"]))
    state, history = nf.train(plain, {"rate": 0.5}, DATA, steps=20, key=jax.random.key(0), evaluate_every=5)
    named, named_history = fit(steps=20)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), state.params, named.params))
    assert (history.validation["loss"] == named_history.validation["loss"]).all()


def test_a_run_stops_after_evaluations_without_a_better_value():
    """With a learning rate of 0 the first value is the best for ever."""
    state, history = fit(rate=0.0, patience=3, best="max f1")
    assert int(state.step) == 20  # the first evaluation, and three more
    assert history.stopped_early
    _, never = fit(rate=0.0, steps=20, patience=3)
    assert not never.stopped_early  # the last step ends the run anyway


def test_a_stopped_run_goes_on_for_as_many_evaluations(tmp_path):
    options = {"rate": 0.0, "patience": 2, "best": "max f1", "folder": tmp_path / "run"}
    state, history = fit(**options)
    assert int(state.step) == 15
    assert history.stopped_early
    state, history = fit(**options, resume=True)
    assert int(state.step) == 25
    assert history.stopped_early
    events = metrics_log.event_rows(metrics_log.read_rows(tmp_path / "run/metrics.jsonl"))
    assert [(event.name, event.step) for event in events] == [("early stop", 15), ("early stop", 25)]
    assert "no better max f1 than" in events[0].message
    assert (tmp_path / "run/checkpoints/best").is_dir()


def test_a_run_killed_while_it_waits_counts_on(tmp_path):
    """The count comes from metrics.jsonl, so a resumed run stops at the same step as one that was never stopped."""
    options = {"rate": 0.0, "patience": 6, "folder": tmp_path / "run", "save_every": 5}
    fit(**options, should_stop=lambda step: step >= 20)
    state, _ = fit(**options, resume=True)
    assert int(state.step) == 35


def test_patience_counts_improvements():
    rows = [{"split": "validation", "f1": value} for value in (0.1, 0.3, 0.2, None, 0.3)]
    patience = Patience(BestMetric.parse("max f1"), 4, rows)
    assert patience.count == 3
    assert not patience.is_over
    assert patience.observe({"f1": 0.31}) == ""
    assert patience.count == 0


@pytest.mark.parametrize(
    "more, message",
    [
        ({"patience": 0}, "train: patience should be at least 1, got 0"),
        ({"best": "max f2"}, "best should name a validation metric, got 'f2'"),
    ],
)
def test_mistakes(more, message):
    with pytest.raises(ValueError, match=message):
        fit(steps=5, **more)


def test_patience_needs_a_validation_split():
    data = nf.data.arrays((X, Y), batch_size=16)
    with pytest.raises(ValueError, match="patience counts evaluations, and the data has no validation split"):
        nf.train(build, {"rate": 0.1}, data, steps=5, key=jax.random.key(0), patience=2)


@pytest.mark.parametrize(
    "names, error, message",
    [
        (("f9",), ValueError, "metrics: metrics should be names of metrics .* got 'f9'"),
        ("f1", TypeError, "metrics should be names, such as"),
        (("r2",), ValueError, "type 'binary', got 'r2'"),
    ],
)
def test_names_that_are_no_metrics(names, error, message):
    task = lambda h: nf.Task(nf.linear(3, 1), nf.binary(), nf.optimizers.sgd(0.1), metrics=names)
    with pytest.raises(error, match=message):
        nf.train(task, {}, DATA, steps=1, key=jax.random.key(0))


def test_an_objective_of_ones_own_returns_its_metrics_itself():
    own = lambda predict, batch: (predict(batch[0]).mean(), {})
    with pytest.raises(ValueError, match=r"objective of nnfunc, such as nf.classification"):
        nf.train(
            lambda h: nf.Task(nf.linear(3, 1), own, nf.optimizers.sgd(0.1), metrics=("f1",)),
            {},
            DATA,
            steps=1,
            key=jax.random.key(0),
        )


def test_a_sweep_sums_metrics_and_refuses_exact_ones():
    summed = lambda h: build(h)._replace(metrics=("f1", "log_loss"))
    result = nf.sweep(summed, [{"rate": 0.1}, {"rate": 0.5}], DATA, steps=20, key=jax.random.key(0), best="max f1")
    logits = np.asarray(nf.linear(3, 1).apply(result.trial(1).state.params, X[90:]))[:, 0]
    row = next(row for row in result.table("trial") if row["trial"] == 1)
    assert row["validation/f1"] == pytest.approx(f1_score(Y[90:], logits > 0), rel=1e-6)
    with pytest.raises(ValueError, match="sweep: roc_auc needs the outputs of the whole validation split"):
        nf.sweep(build, [{"rate": 0.1}], DATA, steps=5, key=jax.random.key(0))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_only_finite_values_improve(mode):
    metric = BestMetric(mode, "loss")
    assert not any(metric.improves({"loss": value}, None) for value in (math.nan, math.inf, -math.inf))
    assert metric.improves({"loss": 1.0}, None)
