"""doctor: planted bugs are all told by their names, and what is well is left in peace."""

import os
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.project import ROOT

import nnfunc as nf
from nnfunc.debug.checks import compiler_checks, model_checks, training_checks

DIM, CLASSES, TIME = 6, 3, 8
KEY = jax.random.key(0)


def blobs(n=64, seed=0):
    draw = np.random.default_rng(seed)
    labels = (np.arange(n) % CLASSES).astype(np.int32)
    x = 2 * np.eye(CLASSES, DIM)[labels] + draw.normal(size=(n, DIM))
    return x.astype(np.float32), labels


def blob_data(train=None, validation=None):
    return nf.data.arrays(train or blobs(), 16, validation=validation or blobs(32, 1))


def tokens(shift=1):
    text = np.random.default_rng(0).integers(0, 9, size=(32, TIME + 1)).astype(np.int32)
    return nf.data.arrays((text[:, :TIME], text[:, shift : TIME + shift]), 16)


def task(model, objective=None, optimizer=None):
    objective = objective or nf.classification()
    return lambda h: nf.Task(model, objective, optimizer or nf.optimizers.adamw(1e-3))


def told(build, data, hypers=None):
    return nf.debug.doctor(build, hypers or {}, data, key=KEY)


def mlp(*extra, **options):
    return nf.serial(nf.mlp([DIM, 16, 16, CLASSES], **options), *extra)


def deep(gain, act=jnp.tanh, depth=30):
    scaled = nf.initializers.variance_scaling(gain, "fan_in", "normal")
    layers = [layer for _ in range(depth) for layer in (nf.linear(DIM, DIM, weight_init=scaled), act)]
    return nf.serial(*layers, head=nf.linear(DIM, CLASSES))


def by_batch(x):
    return x - x.mean(axis=0)


def fixed_mask(x):
    return x * jax.random.bernoulli(jax.random.key(1), 0.5, x.shape).astype(x.dtype)


def of_language(mask):
    """Embedding, then an average over the places that the mask allows, then the logits."""

    def mix(x):
        share = mask / mask.sum(-1, keepdims=True)
        return jnp.einsum("ts,bsd->btd", share, x)

    return nf.serial(embed=nf.embedding(9, DIM), mix=mix, act=jax.nn.relu, head=nf.linear(DIM, 9))


PAST = jnp.tril(jnp.ones((TIME, TIME)))


def unused():
    def flow(net, x):
        net.spare(x)
        return net.head(jax.nn.relu(net.body(x)))

    wired = {"body": nf.linear(DIM, 8), "spare": nf.linear(DIM, 2), "head": nf.linear(8, CLASSES)}
    return nf.wire(flow, **wired)


def needs_key():
    def forward(params, x, ctx):
        return x + 0.1 * jax.random.normal(ctx.require_key("noise"), x.shape), nf.Out()

    return nf.Model(lambda key: {}, forward=forward, name="noise")


def without_labels(predict, batch):
    return nf.losses.cross_entropy(predict(batch[0]), 0 * batch[1]).mean(), {}


def summed(predict, batch):
    return nf.losses.cross_entropy(predict(batch[0]), batch[1]).sum(), {}


X, LABELS = blobs()
BUGS = {
    "examples leak": (
        task(nf.serial(nf.linear(DIM, 8), jax.nn.relu, mix=by_batch, head=nf.linear(8, CLASSES))),
        blob_data(),
        "mix",
    ),
    "examples leak:softmax": (task(mlp(lambda y: jax.nn.softmax(y, axis=0))), blob_data(), "lambda"),
    "the future leaks": (task(of_language(jnp.ones((TIME, TIME))), nf.language_modelling()), tokens(), "mix"),
    "the future leaks:by one": (
        task(of_language(jnp.tril(jnp.ones((TIME, TIME)), 1)), nf.language_modelling()),
        tokens(),
        "mix",
    ),
    "labels are the inputs": (task(of_language(PAST), nf.language_modelling()), tokens(0), "labels"),
    "batch axis moved": (
        task(
            nf.serial(nf.linear(DIM, 8), jax.nn.relu, turn=lambda x: x.T),
            lambda predict, batch: (jnp.square(predict(batch[0])).mean(), {}),
        ),
        blob_data(),
        "turn",
    ),
    "output ignores the input": (
        task(nf.serial(nf.linear(DIM, 8), off=lambda x: jnp.zeros_like(x), head=nf.linear(8, CLASSES))),
        blob_data(),
        "off",
    ),
    "random without a key": (
        task(nf.serial(nf.linear(DIM, 8), jax.nn.relu, drop=fixed_mask, head=nf.linear(8, CLASSES))),
        blob_data(),
        "drop",
    ),
    "random without a key:refuses": (task(nf.serial(needs_key(), mlp())), blob_data(), ""),
    "softmax twice": (task(mlp(jax.nn.softmax)), blob_data(), "the output"),
    "squashed outputs": (task(mlp(jax.nn.sigmoid)), blob_data(), "the output"),
    "squashed outputs:tanh": (task(mlp(jnp.tanh)), blob_data(), "the output"),
    "relu on the outputs": (task(mlp(jax.nn.relu)), blob_data(), "the output"),
    "no nonlinearity": (task(nf.serial(nf.linear(DIM, 8), nf.linear(8, CLASSES))), blob_data(), "the model"),
    "symmetric parameters": (
        task(nf.serial(nf.linear(DIM, 8, weight_init=nf.initializers.constant(0.1)), jnp.tanh, nf.linear(8, CLASSES))),
        blob_data(),
        "linear/weight",
    ),
    "symmetric parameters:zeros": (task(nf.mlp([DIM, 8, CLASSES], weight_init=nf.initializers.zeros)), blob_data(), ""),
    "no gradient:unused": (task(unused()), blob_data(), "spare"),
    "no gradient:stopped": (
        task(nf.serial(nf.linear(DIM, 8), jax.nn.relu, jax.lax.stop_gradient, nf.linear(8, CLASSES))),
        blob_data(),
        "linear/",
    ),
    "no gradient:dead": (
        task(nf.serial(nf.linear(DIM, 8), lambda x: jax.nn.relu(x - 99), nf.linear(8, CLASSES))),
        blob_data(),
        "linear/",
    ),
    "activations explode": (task(deep(16.0, jax.nn.relu)), blob_data(), "linear_"),
    "activations vanish": (task(deep(0.05)), blob_data(), "linear_"),
    "gradients vanish": (task(deep(1.0, jax.nn.sigmoid, 12)), blob_data(), "linear/weight"),
    "inputs not normalised": (task(mlp()), blob_data((100 * X + 50, LABELS)), "inputs"),
    "targets not normalised": (
        task(nf.mlp([DIM, 8, 1]), nf.regression()),
        nf.data.arrays((X, 1000 + X[:, :1]), 16),
        "targets",
    ),
    "constant features": (
        task(mlp()),
        blob_data((np.where(np.arange(DIM) == 2, 0.5, X).astype(np.float32), LABELS)),
        "inputs",
    ),
    "missing classes": (task(nf.mlp([DIM, 8, CLASSES + 1])), blob_data(), "labels"),
    "imbalanced classes": (
        task(mlp()),
        blob_data((X, np.where(np.arange(64) < 2, LABELS, 2).astype(np.int32))),
        "labels",
    ),
    "contradictory labels": (task(mlp()), blob_data((np.repeat(X[:16], 4, axis=0), LABELS)), "labels"),
    "validation in training data": (task(mlp()), blob_data(blobs(), (X[:32], LABELS[:32])), "validation"),
    "initial loss too large": (
        task(nf.mlp([DIM, 16, CLASSES], weight_init=nf.initializers.normal(4.0))),
        blob_data(),
        "loss",
    ),
    "initial loss too small": (
        task(nf.as_model(lambda x: 9 * x[:, :CLASSES] - 3), None),
        nf.data.arrays((np.eye(CLASSES, DIM, dtype=np.float32)[LABELS], LABELS), 16),
        "loss",
    ),
    "loss ignores the labels": (task(mlp(), without_labels), blob_data(), "loss"),
    "loss sums over the batch": (task(mlp(), summed), blob_data(), "loss"),
    "learning rate too large": (task(mlp(), None, nf.optimizers.adam(30.0)), blob_data(), "learning rate"),
    "learning rate too small": (task(mlp(), None, nf.optimizers.adam(1e-9)), blob_data(), "learning rate"),
    "decay on biases and norms": (task(mlp(norm="layer"), None, optax.adamw(1e-3, weight_decay=0.1)), blob_data(), ""),
    "not finite at the start": (
        task(nf.serial(nf.linear(DIM, 8), root=jnp.sqrt, head=nf.linear(8, CLASSES))),
        blob_data(),
        "root",
    ),
}


def test_enough_bugs():
    assert len({name.split(":")[0] for name in BUGS}) >= 25


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("examples leak", "the future leaks") else pytest.mark.slow)
        for name in BUGS
    ],
)
def test_planted_bug(name):
    build, data, where = BUGS[name]
    found = told(build, data)
    names = [finding.check for finding in found]
    assert name.split(":")[0] in names, found
    (one, *_) = [finding for finding in found if finding.check == name.split(":")[0]]
    assert one.where.startswith(where), one
    assert one.evidence.endswith(".")
    assert one.hint[-1] in ".?"
    errors = {finding.check for finding in found if finding.severity == "error"} - {one.check}
    akin = {
        "activations vanish": {"gradients vanish", "output ignores the input"},
        "activations explode": {"gradients explode"},
        "initial loss too large": {"gradients explode"},
        "output ignores the input": {"no gradient"},
        "inputs not normalised": {"gradients explode"},
        "no gradient": {"output ignores the input"},
        "gradients vanish": {"output ignores the input"},
        "examples leak": {"squashed outputs"},
        "batch axis moved": {"loss ignores the labels"},
    }
    assert errors <= akin.get(one.check, set()), found


@pytest.mark.parametrize("norm", [pytest.param("batch", marks=[]), pytest.param("layer", marks=pytest.mark.slow)])
def test_a_sound_model_is_left_in_peace(norm):
    """Batch norm mixes the examples of a training batch, by right."""
    assert told(task(mlp(norm=norm, dropout=0.2)), blob_data()) == []


@pytest.mark.slow
def test_other_sound_tasks():
    """Zero first weights of a head, build(h, step), a stream, regression, and an objective of one's own."""
    zero_head = nf.serial(nf.linear(DIM, 8), jax.nn.relu, head=nf.linear(8, CLASSES, weight_init=nf.initializers.zeros))
    assert told(lambda h, step: task(zero_head)(h), blob_data()) == []
    assert told(task(of_language(PAST), nf.language_modelling(label_smoothing=0.1)), tokens()) == []
    assert told(task(nf.linear(DIM, 1), nf.regression("huber")), nf.data.arrays((X, X[:, :1]), 16)) == []
    stream = nf.data.Splits(blobs(), blobs(32, 1)).stream(16)
    assert told(task(mlp()), stream) == []

    def to_itself(predict, batch):
        return jnp.square(predict(batch) - batch).mean(), {}

    assert told(task(nf.mlp([DIM, 4, DIM]), to_itself), nf.data.arrays(X, 16)) == []


def test_a_batch_without_the_rare_class_is_no_finding():
    """Numbers and categories vary, and the labels of the first batch do not: the loss cannot show the pairing."""
    draw = np.random.RandomState(0)
    x = {"numbers": draw.normal(size=(64, 2)).astype(np.float32), "categories": draw.randint(0, 5, (64, 1))}
    data = nf.data.arrays((x, np.zeros(64, np.int32)), 16)
    assert told(task(nf.table_model(2, [5], 1, hidden=[8]), nf.binary()), data) == []


def shipped():
    """Every shipped config by name; of the comparison, each model's own."""
    for file in sorted(ROOT.glob("configs/*.toml")):
        if file.stem == "compare_mnist":
            for model in ("mlp", "cnn", "lstm", "gru", "vit"):
                yield pytest.param(file, model, id=f"{file.stem}:{model}")
        elif "_gpu" not in file.stem:
            yield pytest.param(file, None, id=file.stem)


@pytest.mark.slow
@pytest.mark.parametrize("file, model", list(shipped()))
def test_no_alarm_on_shipped_configs(file, model, shipped):
    file = shipped / file.name
    if model is None:
        config = pytest.importorskip("nnfunc.config").load(file)
    else:
        runs = pytest.importorskip("nnfunc.commands.compare.comparison_plan").load_plan(file).runs
        config = next(run.config for run in runs if model in run.name)
    try:
        data = config.data()
    except (OSError, ValueError) as error:  # MNIST and the text are not everywhere
        if "mnist" not in file.stem and "shakespeare" not in file.stem:
            raise
        if Path(os.environ.get("NNFUNC_DATA", ""), "mnist").is_dir():
            raise
        pytest.skip(str(error))
    assert nf.debug.doctor(config.build, config.hypers, data, key=config.key()) == []


def ended(kind, clip=None):
    """An objective that is flat, or a straight line, far from its targets."""

    def objective(predict, batch):
        y = predict(batch[0])
        losses = kind(y, batch[1])
        return (losses if clip is None else jnp.clip(losses, 0, clip)).mean(), {}

    return objective


UNSCALED = nf.data.arrays((X, 1000 + X[:, :1]), 16)
SIGNS = nf.data.arrays((X, np.where(LABELS, 1.0, -1.0).astype(np.float32)[:, None]), 16)


@pytest.mark.parametrize(
    "objective, data, scale",
    [
        (nf.regression("huber"), UNSCALED, 1),
        pytest.param(nf.regression("mae"), UNSCALED, 1, marks=pytest.mark.slow),
        pytest.param(nf.regression("mae"), nf.data.arrays((X, 1e6 + X[:, :1]), 16), 1, marks=pytest.mark.slow),
        pytest.param(ended(lambda y, t: jax.nn.relu(1 - t * y)), SIGNS, 100, marks=pytest.mark.slow),
        pytest.param(ended(lambda y, t: jnp.square(y - t), clip=1.0), UNSCALED, 1, marks=pytest.mark.slow),
        pytest.param(nf.classification(gamma=2.0), blob_data(), 300, marks=pytest.mark.slow),
        pytest.param(nf.classification(), blob_data(), 3000, marks=pytest.mark.slow),
    ],
    ids=["huber", "mae", "mae far off", "hinge", "clipped", "focal", "saturated softmax"],
)
def test_a_loss_with_flat_tails_does_not_ignore_its_labels(objective, data, scale):
    """At the first outputs the mean over the batch is the same for every pairing with the labels."""
    outputs = CLASSES if data.arrays[1].ndim == 1 else 1
    model = nf.serial(nf.mlp([DIM, 8, outputs]), lambda y: scale * y)
    found = told(task(model, objective), data)
    whats = {finding.check for finding in found}
    assert not whats & {"loss ignores the labels", "squashed outputs", "relu on the outputs"}, found


def test_mistakes():
    with pytest.raises(TypeError, match=r"data should be a data set"):
        told(task(mlp()), 3)
    with pytest.raises(ValueError, match=r"doctor: examples should be at least 4, got 1"):
        nf.debug.doctor(task(mlp()), {}, blob_data(), key=KEY, examples=1)
    with pytest.raises(TypeError, match=r"build should be a function"):
        told(3, blob_data())
    with pytest.raises(ValueError, match=r"it reads hypers\['lr'\]"):
        told(lambda h: h["lr"], blob_data())


def test_adapters_may_begin_with_a_small_loss():
    model = nf.linear(2, 3)
    adapted = nf.lora(model, model.init(KEY), "weight", rank=1)
    for state, found in (({}, 1), ({"head": adapted.init_state()}, 0)):
        look = types.SimpleNamespace(evaluation={"loss": 0.01, "zeros": 1.1}, y=None, state=state)
        assert len(list(training_checks.check_initial_loss(look))) == found


def test_wrong_results_of_the_compiler_come_first(monkeypatch):
    monkeypatch.setattr(compiler_checks, "count_wrong_rows", lambda *_: {"40,000 products": 7})
    first, second = told(task(mlp(jax.nn.softmax)), blob_data())
    assert (first.severity, first.where, first.check) == ("error", "the compiler", "wrong results")
    assert "computes 7 wrong rows: 7 of 40,000 products." in first.evidence
    assert second.check == "softmax twice"


def test_gradients_whose_squares_overflow_are_told_of():
    steep = nf.serial(nf.linear(DIM, 8), lambda x: jnp.sin(1e22 * x), nf.linear(8, CLASSES))
    found = told(task(steep), blob_data())
    assert "gradients explode" in [finding.check for finding in found]


def test_inputs_whose_squares_overflow_are_measured():
    look = types.SimpleNamespace(
        x=np.float32([[1e20], [-1e20]]),
        params={},
        forward=lambda params, x: (x, {"linear": np.float32([[5e23], [-5e23]])}),
    )
    (found,) = model_checks.check_activations(look)
    assert found.check == "activations explode"


def inside(predict, batch):
    return jnp.mean((jax.vmap(predict)(batch[0]) - batch[1]) ** 2), {}


def inside_and_outside(predict, batch):
    slope = jax.vmap(jax.grad(lambda x: predict(x).sum()))(batch[0])
    return jnp.mean((predict(batch[0]) - batch[1]) ** 2) + 0.01 * jnp.square(slope).mean(), {}


def test_calls_inside_a_transformation_are_left_out():
    (x, labels), (valid_x, valid_labels) = blobs(), blobs(32, 1)
    targets = [np.eye(CLASSES, dtype=np.float32)[y] for y in (labels, valid_labels)]
    data = nf.data.arrays((x, targets[0]), 16, validation=(valid_x, targets[1]))
    assert [finding.check for finding in told(task(mlp(), inside), data)] == ["model not checked"]
    assert told(task(mlp(), inside_and_outside), data) == []
    assert nf.debug.overfit(task(mlp(), inside), {}, data, key=KEY, steps=20).losses.shape[0] == 21
