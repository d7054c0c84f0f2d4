"""Training over the devices of a mesh gives the losses of one device."""

import jax
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.data.stream import Stream

KEY = jax.random.key(0)
PRESETS = {
    "data": ({"data": 4}, None),
    "fsdp": ({"data": 4}, "fsdp"),
    "tensor": ({"data": 2, "model": 2}, "tensor"),
    "fsdp+tensor": ({"data": 2, "model": 2}, "fsdp+tensor"),
    "expert": ({"data": 2, "model": 2}, "expert"),
    "tensor+sequence": ({"data": 2, "model": 2}, "tensor+sequence"),
}


def images(shape):
    x = np.random.default_rng(0).normal(size=(48, 64)).astype(np.float32).reshape(48, *shape)
    y = (x.reshape(48, 64)[:, :4].argmax(1)).astype(np.int32)
    return nf.data.arrays((x[:32], y[:32]), batch_size=8, validation=(x[32:], y[32:]), classes=4)


def tokens():
    x = np.random.default_rng(0).integers(0, 12, (24, 5)).astype(np.int32)
    x, y = x[:, :-1], x[:, 1:]
    return nf.data.arrays((x[:16], y[:16]), batch_size=8, validation=(x[16:], y[16:]))


def gpt(**options):
    return nf.gpt(12, block_size=4, layers=2, heads=2, dim=8, **options)


# a bias before batch norm has no gradient but rounding, of which Adam makes full steps
MODELS = {
    "mlp": lambda: nf.serial(
        nf.linear(64, 16, bias=False), nf.batch_norm(16), jax.nn.relu, nf.dropout(0.2), head=nf.linear(16, 4)
    ),
    "cnn": lambda: nf.serial(
        nf.conv(1, 4, 3, bias=False), nf.batch_norm(4), jax.nn.relu, nf.max_pool(2), nf.flatten, nf.linear(64, 4)
    ),
    "lstm": lambda: nf.rnn_classifier(8, 4, dim=8),
    "gpt": lambda: gpt(dropout=0.1),
    "experts": lambda: gpt(mlp=nf.mixture_of_experts(8, 16, 4)),
}
DATA = {"mlp": lambda: images((64,)), "cnn": lambda: images((8, 8, 1)), "lstm": lambda: images((8, 8))}
OPTIONS = {
    "accumulate": {"accumulate": 2},
    "average": {"average": nf.averages.ema(0.9)},
    "plateau": {"plateau": nf.reduce_on_plateau("loss", patience=0, threshold=0.5)},
    "sharpness": {"sharpness": 0.05},
}


def train(model, data, steps=3, *, optimizer=nf.optimizers.adamw, objective=None, mesh=None, shard=None, **options):
    objective = objective or (nf.classification() if data.classes else nf.language_modelling())
    build = lambda h: nf.Task(model, objective, optimizer(h["learning_rate"]), **options)
    hypers = {"learning_rate": 1e-2}
    mesh = nf.mesh(**mesh) if mesh else None
    return nf.train(
        build,
        hypers,
        data,
        steps=steps,
        key=KEY,
        log_every=1,
        evaluate_every=max(1, steps // 4),
        mesh=mesh,
        shard=shard,
    )


def check_equal_losses(model, data, preset, **options):
    mesh, shard = PRESETS[preset]
    alone = train(model, data, **options)[1]
    state, history = train(model, data, mesh=mesh, shard=shard, **options)
    for split in ("train", "validation"):
        expected, actual = (getattr(one, split)["loss"] for one in (alone, history))
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    return state


@pytest.mark.parametrize(("name", "preset"), [("mlp", "fsdp"), ("gpt", "fsdp+tensor")])
def test_the_losses_are_those_of_one_device(name, preset):
    state = check_equal_losses(MODELS[name](), DATA.get(name, tokens)(), preset)
    cut = [leaf for leaf in jax.tree.leaves(state.params) if not leaf.sharding.is_fully_replicated]
    assert cut


def check_equal_gradients(model, data, preset):
    """Those of Adam's steps are not: it makes full steps of rounding, and hides a factor."""
    mesh, shard = PRESETS[preset]
    rate = lambda learning_rate: nf.optimizers.sgd(1.0)
    alone = train(model, data, 1, optimizer=rate)[0].params
    divided = train(model, data, 1, optimizer=rate, mesh=mesh, shard=shard)[0].params
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), alone, divided)


def test_gradients_are_those_of_one_device():
    check_equal_gradients(gpt(), tokens(), "fsdp+tensor")


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", MODELS)
def test_every_preset_gives_the_gradients_of_one_device(name, preset):
    check_equal_gradients(MODELS[name](), DATA.get(name, tokens)(), preset)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", MODELS)
def test_every_preset_gives_the_losses_of_one_device(name, preset):
    check_equal_losses(MODELS[name](), DATA.get(name, tokens)(), preset, steps=20)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["data", "fsdp+tensor"])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_a_task(name, preset):
    check_equal_losses(MODELS["gpt"](), tokens(), preset, steps=20, **OPTIONS[name])


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["data", "fsdp", "fsdp+tensor", "expert"])
@pytest.mark.parametrize("name", MODELS)
def test_all_options_of_a_task_together(name, preset):
    """Experts in float64: a rounding of float32 may give a token to another expert, on one device too."""
    model, is_wide = MODELS[name](), name == "experts"
    wide = lambda key: jax.tree.map(lambda leaf: leaf.astype(np.float64), model.init(key))
    clipped = lambda learning_rate: nf.optimizers.adamw(learning_rate, clip=0.1)
    options = {option: value for one in OPTIONS.values() for option, value in one.items()}
    with jax.enable_x64(is_wide):
        state = check_equal_losses(
            model.replace(init=wide) if is_wide else model,
            DATA.get(name, tokens)(),
            preset,
            steps=20,
            optimizer=clipped,
            **options,
        )
    assert float(state.plateau.value) < 1


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["data", "fsdp+tensor"])
def test_clipping_frozen_groups_and_layers_rates(preset):
    def optimizer(learning_rate):
        inner = nf.optimizers.adamw(learning_rate, clip=0.1)
        return nf.optimizers.groups(inner, rates={"blocks/**": 0.5}, freeze=["positions/**"])

    check_equal_losses(MODELS["gpt"](), tokens(), preset, steps=20, optimizer=optimizer)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["data", "fsdp+tensor"])
@pytest.mark.parametrize("wrap", [nf.remat_repeats, nf.precision])
def test_remat_and_mixed_precision(wrap, preset):
    model = wrap(gpt())
    mesh, shard = PRESETS[preset]
    alone, other = (train(model, tokens(), 20, **kw)[1].train["loss"] for kw in ({}, {"mesh": mesh, "shard": shard}))
    np.testing.assert_allclose(other, alone, rtol=2e-2 if wrap is nf.precision else 1e-5)  # sums of bfloat16


def test_lora_on_weights_that_are_cut():
    base = gpt()
    model = nf.lora(base, base.init(jax.random.key(3)), "**/query/weight", rank=2)
    state = check_equal_losses(model, tokens(), "fsdp+tensor")
    query = nf.paths.flatten(state.model_state)
    assert any(not leaf.sharding.is_fully_replicated for leaf in query.values())


def test_a_pattern_may_match_the_state_alone():
    base = nf.mlp([64, 8, 4])
    model = nf.lora(base, base.init(jax.random.key(3)), "**/weight", rank=2)
    shard = {"base/hidden_0/linear/weight": ["", "data"]}
    state, history = train(model, images((64,)), mesh={"data": 4}, shard=shard)
    assert state.model_state["base"]["hidden_0"]["linear"]["weight"].sharding.spec == jax.P(None, "data")
    np.testing.assert_allclose(history.train["loss"], train(model, images((64,)))[1].train["loss"], rtol=1e-5)


def test_adapters_inside_of_a_model_in_mixed_precision():
    layer = nf.linear(64, 16)
    adapted = nf.lora(layer, layer.init(jax.random.key(3)), "weight", rank=4)
    model = nf.precision(nf.serial(adapted, jax.nn.relu, nf.linear(16, 4)))
    alone, other = (
        train(model, images((64,)), 3, **kw)[1].train["loss"] for kw in ({}, {"mesh": {"data": 4}, "shard": "fsdp"})
    )
    np.testing.assert_allclose(other, alone, rtol=1e-5)


class Batches:
    """A stream of batches of six."""

    def batch(self, step):
        return np.ones((6, 2), np.float32), np.full((6, 1), step, np.float32)


def ones(batch_size):
    return nf.data.arrays((np.ones((9, 2), np.float32), np.ones((9, 1), np.float32)), batch_size=batch_size)


@pytest.mark.parametrize(
    ("data", "accumulate", "message"),
    [
        (ones(6), 1, r"divide batch_size, got 6\. Use a batch_size that is a multiple of 4"),
        (Batches(), 1, r"divide batch_size, got 6\."),
        (ones(8), 4, r"divide batch_size / accumulate \(4\), got 8 / 4 = 2\. Use a batch_size .* multiple of 16"),
    ],
)
def test_a_batch_that_the_devices_do_not_divide(data, accumulate, message):
    """Each device would compute all of it."""
    build = lambda h: nf.Task(nf.linear(2, 1), nf.regression(), nf.optimizers.sgd(h), accumulate=accumulate)
    with pytest.raises(ValueError, match=rf"the 4 devices of the mesh axis 'data' should {message}"):
        nf.train(build, 0.1, data, steps=1, key=KEY, mesh={"data": 4})


def test_a_batch_of_ones_own_loop_that_the_devices_do_not_divide():
    init, step = nf.trainer(lambda h: nf.Task(nf.linear(2, 1), nf.regression(), nf.optimizers.sgd(h)), mesh={"data": 4})
    with pytest.raises(ValueError, match=r"devices of the mesh axis 'data' should divide batch_size, got 6"):
        step(0.1, init(0.1, KEY), Batches().batch(0))


def test_an_evaluation_is_divided_whatever_its_batch_size():
    x = np.random.default_rng(0).normal(size=(21, 4)).astype(np.float32)
    data = nf.data.arrays((x[:8], x[:8, :1]), batch_size=8, validation=(x[16:], x[16:, :1]))
    sizes = []
    model = nf.serial(lambda x: sizes.append(x.shape[0]) or x, nf.linear(4, 1))
    build, losses = lambda h: nf.Task(model, nf.regression(), nf.optimizers.sgd(h)), []
    for options in ({}, {"mesh": {"data": 4}}, {"mesh": {"data": 4}, "eval_batch_size": 5}):
        sizes.clear()
        losses.append(nf.train(build, 0.1, data, steps=1, key=KEY, **options)[1].validation["loss"])
        assert set(sizes) == ({8} if options else {8, 5})
    np.testing.assert_allclose(losses[1:], 2 * losses[:1], rtol=1e-5)


@pytest.mark.parametrize(
    ("mesh", "shard"), [(None, None), (lambda: nf.mesh(data=2, devices=jax.devices()[2:]), {"up/weight": ["", "data"]})]
)
def test_a_run_begins_with_the_parameters_of_another_mesh(mesh, shard):
    model = nf.serial(up=nf.linear(64, 8), norm=nf.batch_norm(8), head=nf.linear(8, 4))
    build = lambda h: nf.Task(model, nf.classification(), nf.optimizers.sgd(h))
    options = {"steps": 2, "key": KEY, "log_every": 1}
    first = nf.train(build, 0.1, images((64,)), **options, mesh={"data": 4}, shard="fsdp")[0]
    mesh, losses = mesh and mesh(), []
    for params, state in (first.params, first.model_state), jax.device_get((first.params, first.model_state)):
        state, history = nf.train(
            build, 0.1, images((64,)), **options, params=params, state=state, mesh=mesh, shard=shard
        )
        losses.append(history.train["loss"])
        if mesh is not None:
            assert state.params["up"]["weight"].sharding == jax.NamedSharding(mesh, jax.P(None, "data"))
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_shard_without_a_mesh():
    data = nf.data.arrays((np.ones((9, 2), np.float32), np.ones((9, 1), np.float32)), batch_size=6)
    build = lambda h: nf.Task(nf.linear(2, 1), nf.regression(), nf.optimizers.sgd(h))
    with pytest.raises(ValueError, match=r"there should be a mesh to place arrays on"):
        nf.train(build, 0.1, data, steps=1, key=KEY, shard="fsdp")


def test_a_stream_gives_its_rows_to_each_device(monkeypatch):
    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    splits = nf.data.Splits((x, x[:, :1]), validation=(x[:8], x[:8, :1]))
    losses, gather, puts = [], Stream.gather, []
    monkeypatch.setattr(Stream, "gather", lambda self, step, put=None: puts.append(put) or gather(self, step, put))
    for mesh in (None, {"data": 4}):
        puts.clear()
        model, objective = nf.linear(4, 1), nf.regression()
        losses.append(train(model, splits.stream(8), objective=objective, mesh=mesh)[1].train["loss"])
    assert None not in puts  # each process reads its own rows, also for the shapes
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
