"""The training pair and the loop: what they compute, that they compile once, that nothing is lost."""

from dataclasses import dataclass
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnfunc as nf
from nnfunc.training import Diverged
from nnfunc.training.compiled import compiled_functions, split_hypers

N, DIM, CLASSES = 48, 6, 3
STEPS = 24


def blobs(n=N, seed=0):
    """Three clouds of points, one a class."""
    draw = np.random.default_rng(seed)
    labels = (np.arange(n) % CLASSES).astype(np.int32)
    centres = np.eye(CLASSES, DIM, dtype=np.float32) * 3
    x = centres[labels] + draw.normal(size=(n, DIM)).astype(np.float32)
    return x.astype(np.float32), labels


@pytest.fixture(scope="module")
def data():
    return nf.data.arrays(blobs(), batch_size=8, validation=blobs(20, 1))


def build(h):
    model = nf.serial(
        lin=nf.linear(DIM, 8, bias=False),
        norm=nf.batch_norm(8),
        act=jax.nn.relu,
        drop=nf.dropout(0.1),
        head=nf.linear(8, CLASSES),
    )
    rate = nf.schedules.warmup_cosine(h["lr"], warmup_steps=4, total_steps=STEPS)
    return nf.Task(model, nf.classification(), nf.optimizers.adamw(rate, clip=1.0))


def run(data, key=0, lr=0.05, steps=STEPS, **kwargs):
    return nf.train(build, {"lr": lr}, data, steps=steps, key=jax.random.key(key), **kwargs)


def assert_same_bits(one, other):
    def bits(leaf):
        typed = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if typed else leaf)

    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(bits(left), bits(right))


def test_a_step_by_hand():
    """y = w x + b at w = 2, b = 0 on x = 1, target 0: loss 4, d/dw = d/db = 2 * 2 * 1 = 4."""

    def by_hand(h):
        zeros = nf.initializers.constant(2.0)
        model = nf.linear(1, 1, weight_init=zeros)
        return nf.Task(model, nf.regression(), nf.optimizers.sgd(h["rate"]))

    init, step = nf.trainer(by_hand)
    hypers = {"rate": 0.1}
    state, metrics = step(hypers, init(hypers, jax.random.key(0)), (jnp.ones((2, 1)), jnp.zeros((2, 1))))
    assert float(metrics["loss"]) == 4.0
    np.testing.assert_allclose(metrics["gradient_norm"], np.sqrt(32), rtol=1e-6)
    np.testing.assert_allclose(metrics["learning_rate"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(state.params["weight"], [[1.6]], rtol=1e-6)
    np.testing.assert_allclose(state.params["bias"], [-0.4], rtol=1e-6)
    assert int(state.step) == 1


def test_training_learns_and_reports(data):
    reports = []
    state, history = run(data, log_every=4, evaluate_every=8, on_report=reports.append)
    assert history.train["step"].tolist() == [4, 8, 12, 16, 20, 24]
    assert history.validation["step"].tolist() == [8, 16, 24]
    assert history.train["loss"][-1] < 0.5 * history.train["loss"][0]
    assert history.validation["accuracy"][-1] >= 0.9  # 18 of 20, without rounding
    assert [report.step for report in reports] == history.train["step"].tolist()
    assert int(state.step) == STEPS
    assert int(state.diverged_at) == -1


def test_history_equals_a_loop_written_out(data):
    """The library's loop against the training pair called one step at a time."""
    hypers, key = {"lr": 0.05}, jax.random.key(3)
    state, history = nf.train(build, hypers, data, steps=6, key=key, log_every=3)
    init, step = nf.trainer(build)
    step = jax.jit(step)
    own, losses = init(hypers, key), []
    for t in range(6):
        own, metrics = step(hypers, own, data.batch(t))
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(history.train["loss"], [np.mean(losses[:3]), np.mean(losses[3:])], rtol=1e-5)
    for got, expected in zip(jax.tree.leaves(state.params), jax.tree.leaves(own.params), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_evaluation_counts_every_example_once(data):
    """20 examples in batches of 8, 8 and 4 have the mean of all 20; dropout and batch stats are off."""
    state, history = run(data, steps=8)
    task = build({"lr": 0.05})
    x, labels = blobs(20, 1)
    logits = task.model.apply(state.params, x, state=state.model_state)
    expected = float(nf.losses.cross_entropy(logits, labels).mean())
    figures = nf.evaluate(task, state.params, (x, labels), state=state.model_state, batch_size=8)
    np.testing.assert_allclose(figures["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(history.validation["loss"][-1], expected, rtol=1e-5)
    assert figures["accuracy"] == pytest.approx(np.mean(np.argmax(logits, -1) == labels))


def test_a_new_learning_rate_compiles_nothing(data):
    run(data, lr=0.05, loop="step")
    _, static, treedef = split_hypers({"lr": 0.05})
    own = compiled_functions(build, static, treedef)
    before = own.step._cache_size(), own.init._cache_size(), own.eval_totals._cache_size()
    run(data, lr=0.01, key=5, loop="step")
    assert (own.step._cache_size(), own.init._cache_size(), own.eval_totals._cache_size()) == before
    assert own.step._cache_size() == 1


def test_ints_and_strings_in_hypers_are_static(data):
    def sized(h):
        model = nf.mlp([DIM, h["width"], CLASSES], activation=h["act"])
        return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["lr"]))

    hypers = {"lr": 0.1, "width": 5, "act": "tanh"}
    state, _ = nf.train(sized, hypers, data, steps=2, key=jax.random.key(0))
    assert state.params["hidden_0"]["linear"]["weight"].shape == (DIM, 5)


@pytest.mark.parametrize("loop", ["step", "scan"])
def test_stop_and_resume_is_bitwise(data, tmp_path, loop):
    whole, history = run(data, folder=tmp_path / "whole", loop=loop, save_every=5, log_every=4)
    for stop in (3, 7, 8, 16):  # before the first save, between, at an interval's end, late
        again = stop != 3
        run(
            data,
            folder=tmp_path / "cut",
            loop=loop,
            save_every=5,
            log_every=4,
            resume=again,
            should_stop=lambda step, stop=stop: step >= stop,
        )
    state, pieced = run(data, folder=tmp_path / "cut", save_every=5, log_every=4, resume=True)
    assert_same_bits(state, whole)
    assert pieced.loop == loop
    for split in ("train", "validation"):
        one, other = getattr(history, split), getattr(pieced, split)
        for name in set(one) - {"seconds"}:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.parametrize("loop", ["step", "scan"])
def test_a_report_is_the_mean_of_the_steps_since_the_one_before(data, tmp_path, loop):
    """Also where the end of a run, or another log_every, put that one elsewhere, and where layers are watched."""
    _, every = run(data, loop=loop, log_every=1)
    losses = every.train["loss"]
    go_on = lambda steps, log_every, **kwargs: run(
        data, steps=steps, log_every=log_every, loop=loop, folder=tmp_path, watch_every=3, **kwargs
    )
    go_on(STEPS, 4, should_stop=lambda step: step >= 6)  # 5 and 6 are in no report yet
    go_on(STEPS, 4, resume=True, should_stop=lambda step: step >= 8)
    _, history = go_on(STEPS, 5, resume=True)
    ends = [0, 4, 8, 10, 15, 20, 24]
    assert history.train["step"].tolist() == ends[1:]
    means = [losses[begin:end].mean() for begin, end in pairwise(ends)]
    np.testing.assert_allclose(history.train["loss"], means, rtol=1e-4)


def test_best_and_last_checkpoints(data, tmp_path):
    state, history = run(data, folder=tmp_path, evaluate_every=4, best="max accuracy")
    like = jax.eval_shape(lambda: state)
    best = nf.checkpoint.load(tmp_path / "checkpoints" / "best", like)
    first_best = int(np.argmax(history.validation["accuracy"]))
    assert int(best.step) == history.validation["step"][first_best]
    figures = nf.evaluate(build({"lr": 0.05}), best.params, blobs(20, 1), state=best.model_state)
    assert figures["accuracy"] == pytest.approx(history.validation["accuracy"].max())


def test_scan_equals_step_to_rounding(data):
    one, _ = run(data, loop="step")
    many, history = run(data, loop="scan")
    assert history.loop == "scan"
    for left, right in zip(jax.tree.leaves(one.params), jax.tree.leaves(many.params), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)


def test_the_loop_does_not_disturb_a_folder_that_holds_a_run(data, tmp_path):
    run(data, steps=2, folder=tmp_path)
    with pytest.raises(FileExistsError, match=r"already holds a run.*resume=True"):
        run(data, steps=2, folder=tmp_path)


def breaks_at(step):
    """A layer whose result is infinite from the given call on: it counts in its state."""

    def forward(params, x, ctx):
        count = ctx.state["count"]
        y = jnp.where(count >= step, jnp.inf, 1.0) * x
        return y, nf.Out(state={"count": count + 1})

    return nf.Model(lambda key: {}, forward=forward, init_state=lambda: {"count": jnp.zeros((), jnp.int32)})


@pytest.mark.parametrize("loop", ["step", "scan"])
def test_divergence_names_step_and_layer(data, loop, tmp_path):
    def breaking(h):
        body = nf.serial(lin=nf.linear(DIM, DIM), fault=breaks_at(5))
        model = nf.serial(body=body, head=nf.linear(DIM, CLASSES))
        return nf.Task(model, nf.classification(), nf.optimizers.sgd(0.1))

    with pytest.raises(Diverged, match=r"step 5 \(checked after steps 4 to 7\).*body/fault") as caught:
        nf.train(
            breaking,
            {},
            data,
            steps=20,
            key=jax.random.key(0),
            log_every=4,
            loop=loop,
            evaluate_every=4,
            save_every=4,
            folder=tmp_path,
        )
    assert caught.value.step == 5
    same = nf.data.arrays(blobs(), batch_size=8)  # its held-out examples would find the fault too
    healthy, _ = nf.train(breaking, {}, same, steps=5, key=jax.random.key(0), loop=loop)
    assert_same_bits(caught.value.state.params, healthy.params)  # as they were before that step
    assert nf.checkpoint.steps(tmp_path / "checkpoints") == [4]


def test_divergence_in_the_backward_pass_names_the_layer(data):
    @jax.custom_vjp
    def fine(x):
        return x

    fine.defvjp(lambda x: (x, None), lambda _, g: (g * jnp.inf,))

    def breaking(h):
        model = nf.serial(first=nf.linear(DIM, DIM), bad=fine, head=nf.linear(DIM, CLASSES))
        return nf.Task(model, nf.classification(), nf.optimizers.sgd(0.1))

    with pytest.raises(Diverged, match="backward pass of layer bad"):
        nf.train(breaking, {}, data, steps=3, key=jax.random.key(0))


def test_parameters_that_overflow_are_not_kept(data):
    """A finite gradient of 1 times a rate of 2e38, twice: the sum is past float32."""

    def linear_loss(predict, batch):
        return -predict(batch[0][:1, :1]).sum(), {}

    def build(h):
        model = nf.Model(lambda key: {"w": jnp.ones(1)}, lambda params, x: params["w"] + 0 * x)
        return nf.Task(model, linear_loss, nf.optimizers.sgd(2e38))

    with pytest.raises(Diverged, match=r"at step 1 .*It began in the update") as caught:
        nf.train(build, {}, nf.data.arrays(blobs(), 8), steps=4, key=jax.random.key(0))
    assert np.isfinite(caught.value.state.params["w"]).all()


def test_a_validation_loss_that_is_not_finite_stops_the_run(data):
    def build(h):
        blind = nf.Model(lambda key: {}, forward=only_training_is_finite)
        model = nf.serial(body=nf.linear(DIM, CLASSES), blind=blind)
        return nf.Task(model, nf.classification(), nf.optimizers.sgd(0.1))

    with pytest.raises(Diverged, match=r"validation loss is not finite after 3 steps.*layer blind"):
        nf.train(build, {}, data, steps=9, evaluate_every=3, key=jax.random.key(0))


def only_training_is_finite(params, x, ctx):
    return x if ctx.train else x * jnp.nan, nf.Out()


def test_any_optax_optimizer_and_any_objective(data):
    def own(predict, batch):
        x, labels = batch
        return jnp.square(predict(x) - jax.nn.one_hot(labels, CLASSES)).mean(), {}

    def other(h):
        optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(h["lr"]))
        return nf.Task(nf.linear(DIM, CLASSES), own, optimizer)

    _, history = nf.train(other, {"lr": 0.1}, data, steps=30, key=jax.random.key(0))
    assert history.train["loss"][-1] < 0.5 * history.train["loss"][0]
    assert "learning_rate" not in history.train


def test_augmentation_draws_from_the_run_and_resumes(tmp_path):
    def noise(key, batch):
        x, labels = batch
        return x + 0.1 * jax.random.normal(key, x.shape), labels

    data = nf.data.arrays(blobs(), batch_size=8, augment=noise)
    whole, _ = run(data, folder=tmp_path / "a")
    run(data, folder=tmp_path / "b", should_stop=lambda step: step >= 9)
    pieced, _ = run(data, folder=tmp_path / "b", resume=True)
    assert_same_bits(whole, pieced)
    plain, _ = run(nf.data.arrays(blobs(), batch_size=8))
    assert not np.array_equal(whole.params["head"]["weight"], plain.params["head"]["weight"])


def test_mistakes_are_named(data, tmp_path):
    def returns(value):
        return lambda h: value

    model, sgd = nf.linear(DIM, CLASSES), nf.optimizers.sgd(0.1)
    key = jax.random.key(0)

    def fit(task, own=data, **kwargs):
        kwargs = {"steps": 2, "key": key} | kwargs
        return nf.train(returns(task), {}, own, **kwargs)

    task = nf.Task(model, nf.classification(), sgd)
    with pytest.raises(TypeError, match=r"build: it should return a Task.* got <nnfunc model linear"):
        fit(model)
    with pytest.raises(TypeError, match=r"build: an optimizer should be one of optax"):
        fit(nf.Task(model, nf.classification(), 0.1))
    with pytest.raises(TypeError, match=r"the objective should be a function"):
        fit(nf.Task(model, "cross_entropy", sgd))
    with pytest.raises(TypeError, match=r"data should be a data set, such as nf.data.arrays"):
        fit(task, own=blobs())
    with pytest.raises(TypeError, match=r"key should be one random key, got 0 \(int\)"):
        fit(task, key=0)
    with pytest.raises(ValueError, match=r"steps should be at least 1, got 0"):
        fit(task, steps=0)
    with pytest.raises(ValueError, match=r"best should be min or max and a metric, such as 'min loss'"):
        fit(task, best="accuracy", folder=tmp_path / "x")
    with pytest.raises(ValueError, match=r"best should name a validation metric, got 'acuracy'.*'accuracy'"):
        fit(task, best="max acuracy", folder=tmp_path / "y")
    assert not (tmp_path / "y").exists()
    with pytest.raises(ValueError, match=r"labels should be in \[0, 2\).* got 2 at index 2"):
        fit(nf.Task(nf.linear(DIM, 2), nf.classification(), sgd))
    with pytest.raises(ValueError, match=r"linear: the last axis of x should be 5 \(in_dim\)"):
        fit(nf.Task(nf.linear(5, CLASSES), nf.classification(), sgd))
    with pytest.raises(ValueError, match=r"loss should be one number, got shape \(8,\).*mean"):
        fit(nf.Task(model, lambda predict, batch: (predict(batch[0]).sum(-1), {}), sgd))


def test_resume_goes_on_with_the_same_key_numbers_and_data(data, tmp_path):
    run(data, steps=4, folder=tmp_path)
    with pytest.raises(ValueError, match=r"with the same numbers, got lr 0\.05 -> 0\.01\. Start another"):
        run(data, folder=tmp_path, lr=0.01, resume=True)
    with pytest.raises(ValueError, match="resume should continue with the same key"):
        run(data, folder=tmp_path, key=9, resume=True)
    other = nf.data.arrays(blobs(), batch_size=4, validation=blobs(20, 1))
    with pytest.raises(ValueError, match=r"same data, got batch_size 8 -> 4"):
        run(other, folder=tmp_path, resume=True)


def test_another_measure_of_the_best_begins_anew(data, tmp_path):
    run(data, steps=8, folder=tmp_path, best="min loss", evaluate_every=4)
    run(data, steps=16, folder=tmp_path, best="max accuracy", evaluate_every=4, resume=True)
    saved = nf.checkpoint.inspect(tmp_path / "checkpoints" / "best")["metadata"]
    assert saved["best"] == "max accuracy"
    assert saved["best_step"] > 8


def test_evaluate_wants_the_state_of_a_model_that_keeps_one(data):
    state, _ = run(data, steps=2)
    task = build({"lr": 0.05})
    with pytest.raises(ValueError, match=r"evaluate: state= should be given"):
        nf.evaluate(task, state.params, blobs())
    whole = nf.evaluate(task, state, blobs())
    assert whole == nf.evaluate(task, state.params, blobs(), state=state.model_state)
    with pytest.raises(TypeError, match="got a data set"):
        nf.evaluate(task, state.params, data, state=state.model_state)


def test_values_are_checked_before_they_are_traced(data):
    def dropping(h):
        model = nf.serial(nf.dropout(h["rate"]), nf.linear(DIM, CLASSES))
        return nf.Task(model, nf.classification(), nf.optimizers.sgd(0.1))

    with pytest.raises(ValueError, match=r"dropout: rate should be in \[0, 1\], got 1\.5"):
        nf.train(dropping, {"rate": 1.5}, data, steps=1, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"build: it reads hypers\['rate'\], but hypers has \['rat'\]"):
        nf.train(dropping, {"rat": 0.5}, data, steps=1, key=jax.random.key(0))


def test_reduce_on_plateau_of_optax_sees_the_loss(data):
    def build(h):
        optimizer = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
        return nf.Task(nf.linear(DIM, CLASSES), nf.classification(), optimizer)

    state, _ = nf.train(build, {}, data, steps=2, key=jax.random.key(0))
    assert int(state.step) == 2


def test_the_transform_comes_before_the_look_at_the_labels():
    """Labels that count from 1 are mended by the data set's own transform."""
    x, labels = blobs()
    data = nf.data.arrays((x, labels + 1), 8, transform=lambda batch: (batch[0], batch[1] - 1))
    task = nf.Task(nf.linear(DIM, CLASSES), nf.classification(), nf.optimizers.sgd(0.1))
    nf.train(lambda h: task, {}, data, steps=1, key=jax.random.key(0))


@dataclass
class Scaled:
    """An objective, and a build, that compare by their fields and so have no hash."""

    factor: float

    def __call__(self, *args):
        if len(args) == 1:
            return nf.Task(nf.linear(DIM, CLASSES), Scaled(self.factor), nf.optimizers.sgd(0.1))
        predict, (x, labels) = args
        return self.factor * nf.losses.cross_entropy(predict(x), labels).mean(), {}


def test_what_has_no_hash_is_trained_and_evaluated(data):
    state, _ = nf.train(Scaled(2.0), {}, data, steps=2, key=jax.random.key(0))
    one, two = (nf.evaluate(Scaled(f)({}), state.params, blobs())["loss"] for f in (1.0, 2.0))
    assert two == pytest.approx(2 * one, rel=1e-6)


def test_true_and_one_are_not_the_same_hyper(data):
    def of(h):
        return nf.Task(nf.linear(DIM, CLASSES, bias=h["bias"] is True), nf.classification(), nf.optimizers.sgd(0.1))

    for bias, count in ((True, 2), (1, 1)):
        state, _ = nf.train(of, {"bias": bias}, data, steps=1, key=jax.random.key(0))
        assert len(jax.tree.leaves(state.params)) == count


@pytest.mark.parametrize("transform", [jax.vmap, jax.jit, lambda f: jax.grad(lambda r: f(r[0]))])
def test_train_in_a_transformation_names_what_does_that(transform):
    x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    data = nf.data.arrays((x, 3 * x), batch_size=4)
    build = lambda h: nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(h["rate"]))

    def loss(rate):
        state, _ = nf.train(build, {"rate": rate}, data, steps=2, key=jax.random.key(0))
        return state.params["weight"].sum()

    words = r"train: hypers should .*got a tracer.*nf.sweep.*nf.trainer"
    with pytest.raises(TypeError, match=words):
        transform(loss)(jnp.asarray([0.1, 0.2]))
    keys = jax.random.split(jax.random.key(0), 2)
    alone = lambda key: nf.train(build, {"rate": 0.1}, data, steps=2, key=key)
    with pytest.raises(TypeError, match=r"train: key should .*got a tracer"):
        jax.vmap(alone)(keys)


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_evaluate_in_a_transformation_names_what_does_that(transform):
    task = nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(0.1))
    params = {"weight": jnp.ones((2, 1, 1)), "bias": jnp.zeros((2, 1))}
    rows = (jnp.ones((3, 1)), jnp.zeros((3, 1)))
    with pytest.raises(TypeError, match=r"evaluate: params should .*got a tracer.*task.objective"):
        transform(lambda p: nf.evaluate(task, p, rows))(params)
    inside = jax.vmap(lambda p: task.objective(lambda x: task.model.apply(p, x), rows)[0])(params)
    assert inside.shape == (2,)


def sweep_rates(build, rate, data, key):
    return nf.sweep(build, {"rate": [rate]}, data, steps=2, method="grid", key=key)


@pytest.mark.parametrize(
    "call",
    [
        sweep_rates,
        nf.debug.doctor,
        nf.debug.overfit,
        nf.debug.find_lr,
        lambda build, rate, data, key: nf.train(lambda h: build(rate), {}, data, steps=2, key=key),
        lambda build, rate, data, key: sweep_rates(build, 0.1, data, key),
    ],
    ids=["sweep", "doctor", "overfit", "find_lr", "closure", "nothing traced"],
)
def test_loops_on_the_host_in_jit_say_that_they_are(call):
    """A rate that is traced reaches them as an argument, or not at all."""
    x = np.linspace(-1, 1, 8, dtype=np.float32)[:, None]
    data = nf.data.arrays((x, 3 * x), batch_size=4)
    build = lambda rate: nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(rate))
    key = jax.random.key(0)
    with pytest.raises(TypeError, match=r"This function loops on the host, so it cannot run inside of jax\.jit"):
        jax.jit(lambda rate: call(build, rate, data, key=key))(0.1)
