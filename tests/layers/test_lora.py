"""Low-rank adapters: equal to the base at the start, to the merged weights bit for bit, to PEFT's sum."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc import paths, testing
from nnfunc.base import Context
from nnfunc.paths import is_matrix, leaves_mask

KEY = jax.random.key(3)


@cache
def small():
    """A repeat, a norm with state, an embedding and a kernel: (model, base, x)."""
    block = nf.residual(nf.serial(norm=nf.batch_norm(4), up=nf.linear(4, 4), act=jnp.tanh))
    model = nf.serial(
        table=nf.embedding(5, 4),
        blocks=nf.repeat(block, 3),
        image=lambda x: x[:, None, :, None],
        conv=nf.conv(1, 6, (1, 2)),
        act=jax.nn.relu,
        flat=nf.flatten,
    )
    base = jax.jit(model.init)(KEY)
    return model, base, jnp.array([0, 3, 4])


def moved(params):
    """The adapters with an up that is not zero."""
    return jax.tree.map(lambda leaf: leaf + jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), params)


ON = ("**/up/weight", "table/weight", "conv/weight")


def test_parameters_are_the_adapters_alone():
    model, base, _ = small()
    adapted = nf.lora(model, base, ON, rank=2)
    shapes = {p: leaf.shape for p, leaf in paths.flatten(adapted.init(KEY)).items()}
    assert shapes == {
        "blocks/body/up/weight/down": (3, 4, 2),
        "blocks/body/up/weight/up": (3, 2, 4),
        "conv/weight/down": (2, 2),
        "conv/weight/up": (2, 6),
        "table/weight/down": (5, 2),
        "table/weight/up": (2, 4),
    }
    params = paths.flatten(adapted.init(KEY))
    assert not params["table/weight/up"].any()
    down = np.asarray(params["blocks/body/up/weight/down"])
    assert len({row.tobytes() for row in down}) == 3, "each layer draws its own"
    fewer = paths.flatten(nf.lora(model, base, "**/up/weight", rank=2).init(KEY))
    np.testing.assert_array_equal(fewer["blocks/body/up/weight/down"], down)  # law 3
    state = adapted.init_state()
    assert list(state) == ["base", "model"]
    assert jax.tree.map(jnp.shape, state["base"]) == jax.tree.map(jnp.shape, base)


@pytest.mark.optimized  # bit for bit is a promise of the programs that users run
def test_it_begins_as_the_base_and_merges_exactly():
    model, base, x = small()
    adapted = nf.lora(model, base, ON, rank=2, alpha=3.0)
    params, state = adapted.init(KEY), adapted.init_state()
    apply, plain = jax.jit(adapted.apply), jax.jit(model.apply)
    np.testing.assert_array_equal(apply(params, x, state=state), plain(base, x, state=state["model"]))
    params = moved(params)
    merged = nf.merge_lora(adapted, params, state)
    inside = state["model"]
    y = apply(params, x, state=state)
    np.testing.assert_array_equal(y, plain(merged, x, state=inside))
    np.testing.assert_array_equal(run(adapted, params, x), model.apply(merged, x, state=inside))
    jitted = jax.jit(lambda p, s: nf.merge_lora(adapted, p, s))(params, state)
    jax.tree.map(np.testing.assert_array_equal, jitted, merged)
    assert not np.allclose(y, plain(base, x, state=inside), rtol=1e-2)
    kept = jax.tree.map(lambda new, old: bool((new == old).all()), merged, base)
    assert {path for path, same in paths.flatten(kept).items() if not same} == {
        "blocks/body/up/weight",
        "conv/weight",
        "table/weight",
    }


def test_the_last_bits_are_those_of_the_merged_weights():
    """Where product and sum are rounded apart or at once, which depends on how they are compiled."""
    model = nf.mlp([37, 65, 10])
    base = jax.jit(model.init)(KEY)
    adapted = nf.lora(model, base, "**/weight", rank=3, alpha=3.7)
    params, x = moved(jax.jit(adapted.init)(KEY)), jnp.sin(jnp.arange(8.0 * 37)).reshape(8, 37)
    y = jax.jit(adapted.apply)(params, x, state=adapted.init_state())
    np.testing.assert_array_equal(y, jax.jit(model.apply)(nf.merge_lora(adapted, params), x))


def test_the_base_that_counts_is_that_of_the_state():
    model, base, x = small()
    adapted = nf.lora(model, base, ON, rank=2)
    params = moved(adapted.init(KEY))
    other = jax.tree.map(lambda leaf: leaf + 0.5, base)
    y = adapted.apply(params, x, state=adapted.init_state() | {"base": other})
    expected = run(nf.lora(model, other, ON, rank=2), params, x)
    np.testing.assert_array_equal(y, expected)
    assert not np.allclose(y, run(adapted, params, x), rtol=1e-2)
    leaves = zip(*(jax.tree.leaves(tree) for tree in (adapted.init_state()["base"], base)), strict=True)
    assert all(one is not other for one, other in leaves), "a train step uses up its state"


def test_the_sum_by_hand():
    """PEFT's LoraLayer.get_delta_weight: B @ A * lora_alpha / r, its matrices being transposed."""
    model, base, _ = small()
    adapted = nf.lora(model, base, ON, rank=2, alpha=3.0)
    params = moved(adapted.init(KEY))
    merged = paths.flatten(nf.merge_lora(adapted, params))
    own, old = paths.flatten(params), paths.flatten(base)
    for path in ("blocks/body/up/weight", "conv/weight", "table/weight"):
        down, up = (np.asarray(own[f"{path}/{part}"], np.float64) for part in ("down", "up"))
        change = 3.0 / 2 * np.einsum("...ir,...ro->...io", down, up)
        np.testing.assert_allclose(merged[path], old[path] + change.reshape(old[path].shape), rtol=1e-5, atol=1e-6)


def test_state_of_the_model_inside_goes_on():
    model, base, x = small()
    adapted = nf.lora(model, base, ON, rank=1)
    params, state = adapted.init(KEY), adapted.init_state()
    y, out = jax.jit(adapted.forward)(params, x, Context(train=True, state=state))
    expected, plain = jax.jit(model.forward)(base, x, Context(train=True, state=state["model"]))
    np.testing.assert_array_equal(y, expected)
    jax.tree.map(np.testing.assert_array_equal, out.state["model"], plain.state)
    jax.tree.map(np.testing.assert_array_equal, out.state["base"], base)


def test_only_adapters_are_trained():
    model, data = nf.mlp([3, 4, 2]), (jnp.ones((5, 3)), jnp.arange(5) % 2)
    base = model.init(KEY)

    def build(h):
        adapted = nf.lora(model, base, "**/weight", rank=1, alpha=h["alpha"])
        return nf.Task(adapted, nf.classification(), nf.optimizers.adamw(0.1))

    pair = nf.trainer(build)
    step = jax.jit(pair.step, donate_argnums=1)
    for alpha in (1.0, 4.0):
        state = pair.init({"alpha": alpha}, jax.random.key(1))
        first = step({"alpha": alpha}, state, data)[0]
        state, metrics = step({"alpha": alpha}, jax.tree.map(jnp.array, first), data)
        jax.tree.map(np.testing.assert_array_equal, state.model_state["base"], base)
        assert all((leaf != 0).any() for leaf in jax.tree.leaves(state.params))
        assert np.isfinite(metrics["loss"])


def test_adapters_are_matrices_to_optimizers():
    """PEFT decays them; the decoupled decay of AdamW is all that moves a leaf without a gradient."""
    params = {"weight": {"down": jnp.ones((3, 2)), "up": jnp.ones((2, 4))}}
    still = jax.tree.map(jnp.zeros_like, params)
    assert jax.tree.leaves(leaves_mask("muon: on", params, "matrices")) == [True, True]
    optimizer = nf.optimizers.adamw(0.5, weight_decay=0.5)
    updates, _ = optimizer.update(still, optimizer.init(params), params)
    jax.tree.map(lambda u, p: np.testing.assert_array_equal(u, -0.25 * p), updates, params)
    optimizer = nf.optimizers.max_norm(nf.optimizers.sgd(0.5), limit=0.5)
    updates, _ = optimizer.update(still, optimizer.init(params), params)
    up = params["weight"]["up"] + updates["weight"]["up"]
    np.testing.assert_allclose(jnp.linalg.norm(up, axis=0), 0.5, rtol=1e-6)  # a column a unit
    kept = {"up": {"bias": 1.0}, "scale": {"up": jnp.ones((2, 2))}, "up/weight": 1.0}
    assert [is_matrix(path, leaf) for path, leaf in paths.flatten(kept).items()] == [False, False, True]


@pytest.mark.slow
def test_derivatives_are_right():
    """In float64, where the row of the roster cannot look: its base is float32."""
    with jax.enable_x64(True):
        model = nf.serial(up=nf.linear(3, 4), act=jnp.tanh, down=nf.linear(4, 2))
        base = nf.base.cast_floating(model.init(KEY), jnp.float64)
        params = moved(nf.lora(model, base, "**/weight", rank=2).init(KEY))
        x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
        testing.check_gradients(
            lambda p, alpha: run(nf.lora(model, base, "**/weight", rank=2, alpha=alpha), p, x),
            params,
            jnp.array(3.0),
            tolerance=1e-4,
        )


def test_vmap_scan_and_bfloat16():
    model = nf.linear(3, 2)
    base = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.init(KEY))
    adapted = nf.lora(model, base, "weight", rank=1)
    params = moved(adapted.init(KEY))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    x = jnp.ones((4, 3), jnp.bfloat16)
    y = run(adapted, params, x)
    assert y.dtype == jnp.bfloat16

    def at(alpha):
        return run(nf.lora(model, base, "weight", rank=1, alpha=alpha), params, x)

    alphas = jnp.array([0.0, 8.0])
    by_vmap = jax.jit(jax.vmap(at))(alphas)
    by_scan = jax.lax.scan(lambda c, alpha: (c, at(alpha)), None, alphas)[1]
    np.testing.assert_array_equal(by_vmap, by_scan)
    np.testing.assert_array_equal(by_vmap[0], model.apply(base, x))
    np.testing.assert_array_equal(by_vmap[1], y)


def test_stacked_kernels_have_an_adapter_each():
    model = nf.repeat(nf.conv(2, 2, (3, 3)), 4)
    base = jax.eval_shape(model.init, KEY)
    init = nf.lora(model, base, "weight", rank=1, stacked="weight").init
    assert jax.eval_shape(init, KEY)["weight"]["down"].shape == (4, 18, 1)
    init = nf.lora(model, base, "weight", rank=1).init
    assert jax.eval_shape(init, KEY)["weight"]["down"].shape == (72, 1)


def test_a_language_model_generates_with_its_adapters():
    model = nf.gpt(7, block_size=8, layers=2, heads=2, dim=4)
    base = jax.jit(model.init)(KEY)
    adapted = nf.lora(model, base, rank=1)
    params = moved(adapted.init(KEY))
    assert sorted(paths.flatten(params)) == ["blocks/attend/query/weight/down", "blocks/attend/query/weight/up"]
    merged = nf.merge_lora(adapted, params)
    prompts = [[1, 2, 3]]
    got = nf.generate(adapted, params, prompts, 3, temperature=0.0, state=adapted.init_state())
    expected = nf.generate(model, merged, prompts, 3, temperature=0.0)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def run(adapted, params, x):
    return adapted.apply(params, x, state=adapted.init_state())


def lora(on, **arguments):
    model, base, _ = small()
    return nf.lora(model, base, on, **{"rank": 1, **arguments})


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: lora("**/query/weight"), r"lora: on: the pattern '\*\*/query/weight' should match at least one"),
        (lambda: lora("table/*", rank=0), r"lora: rank should be at least 1, got 0"),
        (lambda: lora("blocks/**"), r"lora: on: blocks/body/norm/bias should be a matrix, .* got shape \(3, 4\)"),
        (lambda: lora(()), r"lora: on: it should choose at least one weight, got none of"),
        (
            lambda: run(lora(ON), {"table": {"weight": {"down": jnp.ones((5, 1))}}}, jnp.array([0])),
            r"lora: its params should be those that its init makes, got a difference at 'blocks",
        ),
        (
            lambda: nf.merge_lora(lora(ON), {}, {"model": {}}),
            r"merge_lora: state should hold \"base\", .* got \['model'\]",
        ),
    ],
)
def test_errors_have_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_merge_wants_a_model_of_lora():
    with pytest.raises(TypeError, match=r"merge_lora: model should be the result of nf.lora"):
        nf.merge_lora(nf.linear(2, 2), {}, {})


def test_adapters_of_one_layer():
    model, base, x = small()
    one = nf.lora(model, base, ("blocks/2/body/up/weight", "blocks/0/body/up/weight"), rank=2, alpha=3.0)
    every = nf.lora(model, base, "blocks/body/up/weight", rank=2, alpha=3.0)
    params, full = (paths.flatten(adapted.init(KEY)) for adapted in (one, every))
    assert {path: leaf.shape for path, leaf in params.items()} == {
        "blocks/body/up/weight/down": (2, 4, 2),
        "blocks/body/up/weight/up": (2, 2, 4),
    }
    np.testing.assert_array_equal(
        params["blocks/body/up/weight/down"], full["blocks/body/up/weight/down"][np.array([0, 2])]
    )
    params = moved(one.init(KEY))
    adapters = {path: jnp.zeros_like(leaf) for path, leaf in full.items()}
    adapters = {path: leaf.at[jnp.array([0, 2])].set(paths.flatten(params)[path]) for path, leaf in adapters.items()}
    y = run(one, params, x)
    np.testing.assert_allclose(y, run(every, paths.unflatten(adapters), x), rtol=1e-4)
    merged = nf.merge_lora(one, params)
    np.testing.assert_array_equal(run(one, params, x), model.apply(merged, x, state=model.init_state()))
    weight, old = merged["blocks"]["body"]["up"]["weight"], base["blocks"]["body"]["up"]["weight"]
    assert (weight != old).any(axis=(1, 2)).tolist() == [True, False, True]


def test_parts_that_are_trained_fully():
    model = nf.serial(body=nf.linear(3, 4), act=jax.nn.tanh, head=nf.linear(4, 2))
    base, data = model.init(KEY), (jnp.ones((5, 3)), jnp.arange(5) % 2)
    adapted = nf.lora(model, base, "body/weight", rank=1, train="head/**")
    params, state = adapted.init(KEY), adapted.init_state()
    assert set(paths.flatten(params)) == {"body/weight/down", "body/weight/up", "head/bias", "head/weight"}
    assert set(paths.flatten(state["base"])) == {"body/bias", "body/weight"}
    jax.tree.map(np.testing.assert_array_equal, params["head"], base["head"])
    np.testing.assert_array_equal(adapted.apply(params, data[0], state=state), model.apply(base, data[0]))
    build = lambda h: nf.Task(adapted, nf.classification(), nf.optimizers.sgd(0.1), average=nf.averages.ema(0.5))
    trained, _ = nf.train(build, {}, nf.data.arrays(data, batch_size=5), steps=3, key=KEY)
    merged = nf.merge_lora(adapted, trained.params, trained.model_state)
    assert jax.tree.structure(merged) == jax.tree.structure(base)
    np.testing.assert_array_equal(merged["head"]["weight"], trained.params["head"]["weight"])
    np.testing.assert_array_equal(merged["body"]["bias"], base["body"]["bias"])
    assert (merged["head"]["weight"] != base["head"]["weight"]).all()
    assert (merged["body"]["weight"] != base["body"]["weight"]).any()
    y = adapted.apply(trained.params, data[0], state=trained.model_state)
    np.testing.assert_allclose(y, model.apply(merged, data[0]), rtol=1e-6)


def test_layers_that_are_trained_fully():
    model, base, x = small()
    adapted = nf.lora(model, base, "blocks/0/body/up/weight", rank=1, train="blocks/2/body/up/bias")
    params, state = moved(adapted.init(KEY)), adapted.init_state()
    path = "blocks/body/up/bias"
    assert params["blocks"]["body"]["up"]["bias"].shape == (1, *paths.flatten(base)[path].shape[1:])
    assert set(paths.flatten(state["base"])) == set(paths.flatten(base))
    merged = nf.merge_lora(adapted, params, state)
    changed = paths.flatten(merged)[path] != paths.flatten(base)[path]
    assert changed.any(axis=-1).tolist() == [False, False, True]
    np.testing.assert_array_equal(run(adapted, params, x), model.apply(merged, x, state=model.init_state()))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"train": "hed/**"}, r"lora: train: the pattern 'hed/\*\*' should match at least one path"),
        ({"train": "blocks/**"}, "lora: train: blocks/body/up/weight should have an adapter or be trained fully"),
        ({"train": "blocks/1/body/up/weight"}, "lora: train: blocks/body/up/weight should have an adapter or be tr"),
        ({"on": "blocks/3/body/up/weight"}, "lora: on: the pattern .* 'blocks' has 3 layers, 0 to 2"),
    ],
)
def test_layers_and_parts_that_do_not_fit(options, message):
    model, base, _ = small()
    with pytest.raises(ValueError, match=message):
        nf.lora(model, base, **({"on": "**/up/weight", "rank": 1} | options))
