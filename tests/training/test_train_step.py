"""What a task may add to the step: micro-batches, SAM, averages, plateau, augmentation, schedules."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnfunc as nf
from nnfunc.training.train_state import eval_params

KEY = jax.random.key(3)
X = np.sin(np.arange(48, dtype=np.float32).reshape(8, 6) * 1.3)
Y = np.arange(8) % 3
BATCH = (X, Y)


def small(**options):
    """A build of an MLP whose task has the options."""

    def build(h):
        model = nf.serial(nf.linear(6, 5), jnp.tanh, nf.linear(5, 3))
        return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["rate"]), **options)

    return build


H = {"rate": 0.5}


def stepped(build, count=1, batch=BATCH, hypers=H):
    init, step = nf.trainer(build)
    state = init(hypers, KEY)
    for _ in range(count):
        state, metrics = jax.jit(step)(hypers, state, batch)
    return state, metrics


def near(a, b, tolerance=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=tolerance), a, b)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_micro_batches_give_the_gradient_of_the_whole(count):
    whole, seen = stepped(small())
    parts, same = stepped(small(accumulate=count))
    near(whole.params, parts.params)
    near(seen, same)


def test_micro_batches_pass_on_statistics_and_draw_their_masks():
    def build(accumulate):
        def of(h):
            model = nf.serial(nf.linear(6, 4), nf.batch_norm(4), nf.dropout(0.5), nf.linear(4, 3))
            optimizer = nf.optimizers.sgd(h["rate"])
            return nf.Task(model, nf.classification(), optimizer, accumulate=accumulate)

        return of

    twice = tuple(np.concatenate([part, part]) for part in BATCH)
    one, _ = stepped(build(1))
    two, _ = stepped(build(2), batch=twice)
    mean = lambda state: state.model_state["batch_norm"]["mean"]
    own = {"momentum": 0.1}  # two updates by a tenth of the way, where one batch makes one
    near(mean(two), mean(one) * (2 - own["momentum"]), 1e-5)
    assert float(jnp.abs(one.params["linear"]["weight"] - two.params["linear"]["weight"]).max()) > 0


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="accumulate should divide the batch of 8 examples, got 3"):
        stepped(small(accumulate=3))


def test_sharpness_aware_step_by_hand():
    """Foret et al. 2021, algorithm 1: the gradient at w + radius * g / |g|."""
    radius = 0.3
    state, _ = stepped(small(sharpness=radius))
    init, _ = nf.trainer(small())
    params = init(H, KEY).params
    model = small()(H).model

    def loss(params):
        return nf.losses.cross_entropy(model.apply(params, X), Y).mean()

    first = jax.grad(loss)(params)
    norm = optax.tree.norm(first)
    above = jax.tree.map(lambda p, g: p + radius * g / norm, params, first)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(loss)(above))
    near(state.params, expected)
    plain, _ = stepped(small(sharpness=0.0))
    near(plain.params, stepped(small())[0].params, 0)


@pytest.mark.parametrize("scale", [1e20, 1e-25])
@pytest.mark.parametrize("sharpness", [None, 0.3])
def test_a_gradient_whose_square_overflows_is_used(scale, sharpness):
    """A float32 has 1e20 and 1e-25, but not their squares."""

    def objective(predict, batch):
        return scale * jnp.mean(predict(batch[0])), {}

    def build(h):
        optimizer = nf.optimizers.sgd(1 / scale, clip=scale)
        return nf.Task(nf.linear(4, 1, bias=False), objective, optimizer, sharpness=sharpness)

    init, step = nf.trainer(build)
    state = init(H, KEY)
    new, metrics = jax.jit(step)(H, state, (jnp.array([[0.0, 3.0, 4.0, 0.0]]), None))
    np.testing.assert_allclose(metrics["gradient_norm"], 5 * scale, rtol=1e-5)
    moved = (state.params["weight"] - new.params["weight"])[:, 0]
    np.testing.assert_allclose(moved, [0.0, 0.6, 0.8, 0.0], rtol=1e-5, atol=1e-6)


class Sum(NamedTuple):
    """An average that is none: the sum of all parameters so far, to be told from them."""

    init = staticmethod(lambda tree: jax.tree.map(jnp.zeros_like, tree))
    update = staticmethod(lambda state, tree, step: jax.tree.map(jnp.add, state, tree))
    read = staticmethod(lambda state, tree: state)


def test_the_average_follows_the_params_and_is_evaluated():
    build = small(average=Sum())
    init, step = nf.trainer(build)
    state, total = init(H, KEY), 0
    for _ in range(3):
        state, _ = jax.jit(step)(H, state, BATCH)
        total = state.params["linear"]["weight"] + total
    params, _ = eval_params(build(H), state)
    near(params["linear"]["weight"], total)
    bad = (np.full_like(X, np.nan), Y)
    stopped, _ = jax.jit(step)(H, state, bad)
    near(stopped.average, state.average, 0)
    data = nf.data.arrays(BATCH, 8, validation=BATCH)
    final, history = nf.train(build, H, data, steps=2, key=KEY, evaluate_every=2)
    own = nf.evaluate(build(H), eval_params(build(H), final)[0], BATCH)
    assert history.validation["loss"][-1] == pytest.approx(own["loss"], rel=1e-5)
    assert own["loss"] != pytest.approx(nf.evaluate(build(H), final.params, BATCH)["loss"])


def test_plateau_lowers_the_rate_when_a_metric_stalls():
    plateau = nf.reduce_on_plateau("loss", patience=1, factor=0.5, cooldown=1, floor=0.2)
    trainer = nf.trainer(small(plateau=plateau))
    state = trainer.init(H, KEY)
    scales = []
    for loss in (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        state = trainer.observe(H, state, {"loss": loss})
        scales.append(float(state.plateau.value))
    torch = [1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2]  # ReduceLROnPlateau(0.5, 1, cooldown=1)
    np.testing.assert_allclose(scales, torch)
    quarter, metrics = trainer.step(H, state._replace(step=state.step), BATCH)
    near(quarter.params, stepped(small(), hypers={"rate": 0.1})[0].params)
    assert float(metrics["learning_rate"]) == pytest.approx(0.1)


def test_plateau_in_a_run_reads_the_validation_split():
    plateau = nf.reduce_on_plateau("accuracy", mode="max", patience=0, factor=0.5, threshold=2.0)
    data = nf.data.arrays(BATCH, 8, validation=BATCH)
    options = {"steps": 6, "key": KEY, "evaluate_every": 2, "log_every": 1}
    _, history = nf.train(small(plateau=plateau), H, data, **options)
    np.testing.assert_allclose(history.train["learning_rate"], [0.5, 0.5, 0.5, 0.5, 0.25, 0.25])
    with pytest.raises(ValueError, match="metric should be a validation metric, got 'acuracy'; did"):
        nf.train(small(plateau=nf.reduce_on_plateau("acuracy")), H, data, **options)
    with pytest.raises(ValueError, match="needs a validation split"):
        nf.train(small(plateau=plateau), H, nf.data.arrays(BATCH, 8), **options)


def test_augmentation_draws_in_the_step_with_the_step_s_key():
    def noise(key, batch):
        return batch[0] + jax.random.normal(key, batch[0].shape), batch[1]

    a, b = stepped(small(augment=noise))[0], stepped(small(augment=noise))[0]
    near(a.params, b.params, 0)
    assert float(jnp.abs(a.params["linear"]["weight"] - stepped(small())[0].params["linear"]["weight"]).max()) > 1e-4


def test_a_number_follows_a_schedule_where_build_takes_the_step():
    def build(h, step):
        smoothing = nf.schedules.linear(0.0, 2, final=h["most"])(step)
        model = nf.serial(nf.linear(6, 3))
        return nf.Task(model, nf.classification(label_smoothing=smoothing), nf.optimizers.sgd(0.0))

    init, step = nf.trainer(build)

    def losses(most):
        state, made = init({"most": most}, KEY), []
        for _ in range(3):
            state, metrics = step({"most": most}, state, BATCH)
            made.append(metrics["loss"])
        return jnp.stack(made)

    logits = build({"most": 0.0}, 0).model.apply(init({"most": 0.0}, KEY).params, X)
    by_hand = [nf.losses.cross_entropy(logits, Y, label_smoothing=s).mean() for s in (0.0, 0.2, 0.4)]
    near(jax.jit(losses)(0.4), jnp.stack(by_hand))
    near(jax.vmap(losses)(jnp.array([0.4, 0.2]))[1], losses(0.2))  # schedules trace too


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"augment": 3}, TypeError, r"augment should be a function \(key, batch\)"),
        ({"average": 0.99}, TypeError, r"average should be such as nf.averages.ema\(0.999\), got"),
        ({"plateau": "loss"}, TypeError, "plateau should be such as nf.reduce_on_plateau"),
        ({"plateau": nf.schedules.plateau(0.1)}, TypeError, "plateau should not be a schedule"),
        ({"accumulate": 0}, ValueError, "accumulate should be at least 1"),
        ({"sharpness": -1.0}, ValueError, "sharpness should be at least 0"),
    ],
)
def test_parts_of_a_task_are_checked(options, kind, message):
    with pytest.raises(kind, match=message):
        nf.trainer(small(**options)).init(H, KEY)


def test_everything_at_once_traces_and_vmaps():
    def build(h, step):
        rate = nf.schedules.cosine(h["rate"], h["steps"])
        plateau = nf.reduce_on_plateau(factor=h["factor"], patience=0)
        first = nf.linear(6, 5, bias=False)  # whose gradient before a batch norm is rounding alone
        model = nf.serial(first, nf.batch_norm(5), nf.dropout(h["drop"]), nf.linear(5, 3))
        return nf.Task(
            model, nf.classification(), nf.optimizers.adamw(rate), plateau=plateau, sharpness=h["radius"], accumulate=2
        )

    trainer = nf.trainer(build)
    rows = [
        {"rate": 0.1, "steps": 9.0, "factor": 0.5, "drop": 0.3, "radius": 0.1},
        {"rate": 0.2, "steps": 5.0, "factor": 0.2, "drop": 0.0, "radius": 0.0},
    ]

    def run(h):
        state = trainer.init(h, KEY)
        for _ in range(2):
            state, metrics = trainer.step(h, state, BATCH)
            state = trainer.observe(h, state, {"loss": 1.0})
        return state.params, metrics

    together = jax.jit(jax.vmap(run))(jax.tree.map(lambda *n: jnp.stack(n), *rows))
    alone = jax.jit(run)
    for i, h in enumerate(rows):
        near(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone(h), 1e-5)


def test_frozen_leaves_cost_no_gradient_and_never_move():
    def build(freeze):
        def of(h):
            model = nf.serial(low=nf.linear(6, 50), act=jnp.tanh, head=nf.linear(50, 3))
            inner = nf.optimizers.adamw(h["rate"], weight_decay=0.1, decay_on="head/weight")
            return nf.Task(model, nf.classification(), nf.optimizers.groups(inner, freeze=freeze))

        return of

    all_of_them, some = nf.trainer(build(())), nf.trainer(build(("low/**",)))
    state = some.init(H, KEY)
    new, metrics = jax.jit(some.step)(H, state, BATCH)
    near(new.params["low"], state.params["low"], 0)
    assert float(jnp.abs(new.params["head"]["weight"] - state.params["head"]["weight"]).max()) > 0
    full = nf.flops.count(all_of_them.step, H, all_of_them.init(H, KEY), BATCH)
    assert nf.flops.count(some.step, H, state, BATCH) < full - 2 * 8 * 6 * 50 - 2 * 8 * 50 * 3
    _, every = jax.jit(all_of_them.step)(H, all_of_them.init(H, KEY), BATCH)
    assert float(metrics["gradient_norm"]) < float(every["gradient_norm"])


def test_micro_batches_count_and_watch():
    """Integers are averaged as floats; a leaf without examples goes to every part."""

    def build(count):
        def of(h):
            def objective(predict, batch):
                x, y, factor = batch
                logits = predict(x)
                loss = nf.losses.cross_entropy(logits, y).mean() * factor
                return loss, {"hits": (logits.argmax(-1) == y).sum()}

            model = nf.serial(nf.linear(6, 5), act=jax.nn.relu, head=nf.linear(5, 3))
            return nf.Task(model, objective, nf.optimizers.sgd(0.1), accumulate=count)

        return of

    batch = (X, Y, jnp.asarray(2.0))
    (_, whole), (_, parts) = (stepped(build(count), batch=batch) for count in (1, 4))
    assert float(parts["hits"]) == float(whole["hits"]) / 4
    near(parts["loss"], whole["loss"])
    init, step = nf.trainer(build(4))
    watched = step({}, init({}, KEY), batch, watch=True)[1]["layers"]["activations"]["act"]
    init, step = nf.trainer(build(1))
    first = step({}, init({}, KEY), (X[:2], Y[:2], batch[2]), watch=True)[1]["layers"]["activations"]["act"]
    near(watched, first)
