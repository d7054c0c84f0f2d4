"""The tables beside model, objective and optimizer: what they make, and what is told of mistakes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.config import ConfigError, load, resolve

TABLES = {
    "data": {"name": "digits", "batch_size": 32},
    "model": {"name": "mlp", "widths": [64, 16, 10], "dropout": {"schedule": "linear", "start": 0.0, "final": 0.3}},
    "objective": {"name": "classification"},
    "optimizer": {"name": "adamw", "weight_decay": {"head/*": 0.0, "**/weight": 0.1}},
    "schedule": {"name": "warmup_cosine", "peak": 1e-2, "warmup_steps": 5},
    "train": {"steps": 30, "watch_every": 10},
    "task": {"precision": "bfloat16", "accumulate": 2, "sharpness": 0.05},
    "augment": {
        "shift": {"pixels": 1, "shape": [8, 8, 1]},
        "noise": {"std": {"schedule": "cosine", "start": 0.1}},
        "mixup": {"alpha": 0.2},
    },
    "plateau": {"metric": "accuracy", "mode": "max", "patience": 2},
    "average": {"name": "ema", "decay": 0.9},
    "clip_value": {"limit": 1.0},
    "clip_adaptive": {"limit": 0.05},
    "groups": {"rates": {"head/*": 2.0}, "freeze": {"hidden_0/**": 3}},
    "lookahead": {"every": 4},
    "max_norm": {"limit": 4.0},
}


RISING = {"schedule": "linear", "start": 0.0, "final": 1.0}
MODEL = {"name": "mlp", "widths": [64, 16, 10]}
FOCAL = {"name": "classification", "gamma": 2.0}


@pytest.fixture(scope="module")
def config():
    return resolve(TABLES)


def test_every_number_of_the_tables_may_be_traced(config):
    wanted = {
        "model.dropout.final": 0.3,
        "model.dropout.total_steps": 30.0,
        "task.sharpness": 0.05,
        "optimizer.weight_decay[**/weight]": 0.1,
        "augment.noise.std.start": 0.1,
        "augment.mixup.alpha": 0.2,
        "plateau.patience": 2.0,
        "average.decay": 0.9,
        "clip_value.limit": 1.0,
        "groups.rates[head/*]": 2.0,
        "groups.freeze[hidden_0/**]": 3.0,
        "lookahead.every": 4.0,
        "max_norm.limit": 4.0,
        "augment.shift.pixels": 1.0,
    }
    assert wanted.items() <= config.hypers.items()


def test_groups_takes_a_list_with_one_number_a_layer():
    gpt = {"name": "gpt", "vocab_size": 5, "block_size": 4, "layers": 2, "heads": 1, "dim": 4}
    groups = {"rates": {"blocks/**": [0.25, 0.5], "head/*": 2.0}, "freeze": {"blocks/mlp/**": [1, 0]}}
    config = resolve(TABLES | {"model": gpt | {"tied": False}, "optimizer": {"name": "sgd"}, "groups": groups})
    assert {"groups.rates[blocks/**][0]": 0.25, "groups.freeze[blocks/mlp/**][0]": 1.0}.items() <= config.hypers.items()
    optimizer = config.build(config.hypers).optimizer
    ones = {"blocks": {"mlp": {"bias": jnp.ones((2, 1))}, "norm": jnp.ones((2, 1))}, "head": {"bias": jnp.ones(1)}}
    updates, _ = optimizer.update(ones, optimizer.init(ones), ones)
    relative = jax.tree.map(lambda update: (update / updates["head"]["bias"]).ravel().tolist(), updates["blocks"])
    assert relative == {"mlp": {"bias": [0, 0.25]}, "norm": [0.125, 0.25]}


def test_the_task_of_the_tables_trains_and_vmaps(config):
    """Two settings of every number, together in one program and each alone: the same."""
    trainer = nf.trainer(config.build)
    batch = config.data().batch(0)
    changed = {"augment.noise.std.start": 0.3, "average.decay": 0.5, "model.dropout.final": 0.5}
    rows = [config.hypers, config.hypers | changed | {"groups.freeze[hidden_0/**]": 1.0}]

    def run(h):
        state = trainer.init(h, jax.random.key(0))
        state = state._replace(step=state.step + 10)
        state, metrics = trainer.step(h, state, batch)
        return state.average.value if hasattr(state.average, "value") else state.average, metrics["loss"]

    together = jax.jit(jax.vmap(run))({k: jnp.stack([r[k] for r in rows]) for k in rows[0]})
    alone = jax.jit(run)
    for i, h in enumerate(rows):
        one = alone({k: jnp.asarray(v) for k, v in h.items()})
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=2e-2, atol=2e-3), together, one)
    assert float(together[1][0]) != float(together[1][1])


def test_a_dumped_config_is_the_same(config, tmp_path):
    config.dump(tmp_path / "config.toml")
    assert load(tmp_path / "config.toml").tables == config.tables
    assert load(tmp_path / "config.toml").build == config.build


def test_overrides_reach_into_the_tables(config, tmp_path):
    config.dump(tmp_path / "config.toml")
    words = ["augment.mixup.alpha=0.5", "model.dropout.final=0.1", "model.gain=2.0"]
    changed = load(tmp_path / "config.toml", words)
    assert changed.hypers["augment.mixup.alpha"] == 0.5
    assert changed.hypers["model.dropout.final"] == 0.1
    assert changed.build == config.build


def test_the_background_of_an_image_is_what_comes_in(config):
    """Digits are normalised: a pixel of 0 is not 0 there."""
    data = config.data()
    batch = (
        jnp.asarray(data._transformed((jnp.zeros((4, 64), jnp.uint8), jnp.zeros(4, jnp.int32)))[0]),
        jnp.zeros(4, jnp.int32),
    )
    only = resolve(TABLES | {"augment": {"shift": {"pixels": 3, "shape": [8, 8, 1]}}})
    moved, _ = only.build(only.hypers).augment(jax.random.key(0), batch)
    np.testing.assert_allclose(moved, batch[0], atol=1e-6)


def test_precision_and_remat_are_words(config, monkeypatch):
    monkeypatch.setattr("nnfunc.sums.by_products", lambda: False)  # the products of sums would be counted
    assert config.build(config.hypers).accumulate == 2
    deep = {"name": "gpt", "vocab_size": 65, "block_size": 8, "layers": 3, "heads": 2, "dim": 8}
    tables = TABLES | {"model": deep, "task": {"remat": True, "precision": "bfloat16"}}
    made = resolve(
        {k: v for k, v in tables.items() if k not in ("groups", "augment", "optimizer")}
        | {"optimizer": {"name": "sgd"}}
    )
    model = made.build(made.hypers).model
    params = jax.eval_shape(model.init, jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, 8), jnp.int32)
    text = str(jax.make_jaxpr(model.apply)(params, x))
    assert "remat" in text or "checkpoint" in text
    assert "bf16" in text
    counts = []
    for remat in (True, "dots", ["blocks/*/mlp/up"], ["blocks/*/attend", "blocks/*/attend/value"]):
        config = resolve(made.tables | {"task": {"remat": remat}})
        loss = lambda params, model=config.build(config.hypers).model: model.apply(
            params, jnp.zeros((2, 8), jnp.int32)
        ).sum()
        counts.append(str(jax.make_jaxpr(jax.grad(loss))(params)).count("dot_general["))
    assert [counts[0] - n for n in counts] == [0, 7, 1, 2]
    shallow = resolve(TABLES | {"task": {"remat": True}})
    bare = shallow.build(shallow.hypers).model
    params = bare.init(jax.random.key(0))
    with pytest.raises(ValueError, match="remat_repeats: the model should have a repeat inside"):
        bare.apply(params, jnp.ones((2, 64)))


WRONG = [
    (
        {"data": {"name": "digits", "bach_size": 3}},
        "data.bach_size: digits has no such key, got 3; did you mean 'batch_size'",
    ),
    ({"dropout": 0.2}, "dropout: there is no such key; it is model.dropout."),
    (
        {"optimizer": {"name": "adamw", "clip_value": 1.0}},
        "optimizer.clip_value: adamw has no such key; it is a separate table, clip_value = { limit",
    ),
    ({"task": {"drop_path": 0.1}}, "task.drop_path: task has no such key"),
    ({"average": {"name": "ema"}}, "average.decay: is missing; ema needs a number: write decay = 0.999"),
    ({"augment": {"shiftt": {"pixels": 1}}}, "augment.shiftt: there is no such augmentation; did you mean 'shift'"),
    ({"augment": [1]}, "augment: should be tables by name, such as augment = { shift"),
    ({"augment": {"mixup": {"alpha": "x"}}}, "augment.mixup.alpha: should be a number, got 'x'"),
    ({"average": {"name": "emma", "decay": 0.9}}, "average.name: should be one of 'ema', 'swa', got 'emma'"),
    ({"average": {"name": "ema", "decay": 1.5}}, "average: ema: decay should be"),
    ({"plateau": {"patience": -1}}, "plateau: patience should be at least 0"),
    ({"plateau": {"factr": 0.5}}, "plateau.factr: plateau has no such key, got 0.5; did you mean 'factor'"),
    ({"task": {"precision": "float16"}}, "task.precision: should be one of 'float32', 'bfloat16', got 'float16'"),
    ({"task": {"remat": "dot"}}, "or a list of texts, got 'dot' (str); did you mean 'dots'?"),
    ({"task": {"remat": [3]}}, "task.remat: should be true or false or one of 'dots', "),
    ({"task": {"accumulate": 0}}, "task: accumulate should be at least 1"),
    ({"groups": {"rates": {"head/*": "fast"}}}, "groups.rates: should be a table of numbers by path pattern"),
    ({"groups": {"rates": 3.0}}, "groups.rates: should be a table of numbers by path pattern"),
    ({"lora": {"run": "nowhere"}}, "lora: run should be the folder of a run, got 'nowhere'"),
    ({"clip_value": {}}, "clip_value.limit: is missing; clip_value needs a number"),
    (
        {"schedule": {"name": "constant", "value": {"schedule": "liner", "start": 1.0}}},
        "schedule.value.schedule: should be one of",
    ),
    (
        {"groups": {"rates": {"head/*": RISING | {"schedule": "liner"}}}},
        "groups.rates[head/*].schedule: should be one of",
    ),
    ({"groups": {"rates": {"head/*": RISING | {"strt": 1.0}}}}, "groups.rates[head/*].strt: linear has no such key"),
    (
        {"groups": {"rates": {"head/*": RISING | {"final": -1.0}}}},
        "got -0.46666666865348816. That is groups.rates at step 14.",
    ),
    (
        {"model": MODEL | {"dropout": RISING | {"final": 2.0}}},
        "got 1.9333332777023315. That is model.dropout at step 29.",
    ),
    ({"model": MODEL | {"dropout": RISING | {"start": 2.0}}}, "got 2.0. That is model.dropout at step 0."),
    (
        {"objective": FOCAL | {"label_smoothing": RISING}},
        "classification: label_smoothing should be 0 together with gamma: the focal loss has none, got 0.4",
    ),
    (
        {"objective": FOCAL | {"label_smoothing": 0.1}},
        "label_smoothing should be 0 together with gamma: the focal loss has none, got 0.1.",
    ),
    (
        {"average": {"name": "swa", "start": 30}},
        "average.start: should be below train.steps = 30, where the run ends, got 30.",
    ),
    (
        {"average": {"name": "ema", "decay": 0.9, "start": 31.5}},
        "average.start: should be below train.steps = 30, where",
    ),
    (
        {"groups": {"freeze": {"head/*": 30, "**": math.inf}}},
        "groups.freeze: of 'head/*' should be below train.steps = 30, where the run ends, got 30. Use inf for never.",
    ),
    ({"task": {"accumulate": 3}}, "task.accumulate: should divide data.batch_size = 32, got 3."),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[w[1][:40] for w in WRONG])
def test_a_mistake_in_a_table_is_named(change, message):
    with pytest.raises(ConfigError) as caught:
        resolve(TABLES | change)
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


def test_smoothing_is_no_number_of_a_focal_loss():
    """A plain 0 is fine; what a sweep gives is refused, whatever it is."""
    for given in ({}, {"label_smoothing": 0.0}):
        made = resolve(TABLES | {"objective": FOCAL | given})
        assert {k for k in made.hypers if k.startswith("objective")} == {"objective.gamma"}
        made.build(made.hypers)
        with pytest.raises(ValueError, match="got one that a sweep or a schedule gives"):
            made.build(made.hypers | {"objective.label_smoothing": jnp.zeros(())})
    nf.classification(gamma=jnp.ones(()), label_smoothing=0.0)
    plain = resolve(TABLES)
    swept = jax.vmap(lambda s: one_loss(plain.build(plain.hypers | {"objective.label_smoothing": s})))
    assert len(set(swept(jnp.array([0.0, 0.3])).tolist())) == 2


def one_loss(task):
    return task.objective(lambda x: x, (jnp.eye(3), jnp.arange(3)))[0]


def test_a_schedule_may_stand_in_a_table_by_pattern(tmp_path):
    """The rate of the head goes from 0 to that of the rest; "schedule" may be a pattern too."""
    rates = {"head/*": RISING, "hidden_0/*": 0.5}
    tables = {
        "data": TABLES["data"],
        "model": MODEL,
        "objective": TABLES["objective"],
        "optimizer": {"name": "sgd", "learning_rate": 1.0},
        "train": {"steps": 10},
        "groups": {"rates": rates},
    }
    made = resolve(tables)
    assert made.hypers["groups.rates[head/*].total_steps"] == 10
    assert made.hypers["groups.rates[hidden_0/*]"] == 0.5
    params = {"head": {"bias": jnp.ones(1)}, "hidden_0": {"bias": jnp.ones(1)}}
    for step, wanted in ((0, 0.0), (5, -0.5)):
        optimizer = made.build(made.hypers, step).optimizer
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        assert updates["head"]["bias"].tolist() == [pytest.approx(wanted)]
        assert updates["hidden_0"]["bias"].tolist() == [-0.5]
    made.dump(tmp_path / "config.toml")
    assert load(tmp_path / "config.toml").build == made.build
    named = resolve(tables | {"groups": {"rates": {"schedule": RISING, "**": 2.0}}})
    assert named.hypers["groups.rates[schedule].final"] == 1.0
    plain = resolve(tables | {"groups": {"rates": {"schedule": 3.0, "**": 2.0}}})
    assert plain.hypers["groups.rates[schedule]"] == 3.0


def test_what_two_tables_say_is_blamed_on_the_override(config, tmp_path):
    config.dump(tmp_path / "config.toml")
    for override, message in (
        ("train.steps=3", "the command line: train.steps: groups.freeze of 'hidden_0/**' should be"),
        ("data.batch_size=33", "the command line: data.batch_size: task.accumulate should divide"),
        ("task.accumulate=5", "the command line: task.accumulate: should divide data.batch_size"),
    ):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path / "config.toml", [override])
        assert str(caught.value.problems[0]).startswith(message)
