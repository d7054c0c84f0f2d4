"""The mesh, and where arrays lie on it, by presets and patterns."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, Mesh

import nnfunc as nf
from nnfunc.distributed import processes
from nnfunc.distributed.collectives import collectives
from nnfunc.distributed.placement import Placement

KEY = jax.random.key(0)


def specs(model, mesh, shard, optimizer=None):
    build = lambda h: nf.Task(model, nf.regression(), optimizer or nf.optimizers.adamw(h))
    state = jax.eval_shape(nf.trainer(build).init, 0.1, KEY)
    placed = nf.shardings(state, mesh, shard, model=model)
    return {path: tuple(leaf.spec) for path, leaf in nf.paths.flatten(placed).items()}


def gpt(**options):
    return nf.gpt(12, block_size=4, layers=2, heads=2, dim=8, **options)


def test_a_size_of_minus_one_is_the_devices_that_are_left():
    mesh = nf.mesh(data=-1, model=2)
    assert dict(mesh.shape) == {"data": 2, "model": 2}
    assert set(mesh.axis_types) == {AxisType.Auto}
    assert dict(nf.mesh(data=3).shape) == {"data": 3}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (
            {"data": 8},
            r"mesh: data = 8 should use at most the 4 devices that there are, got 8\. .* set JAX_NUM_CPU_DEVICES=8\.",
        ),
        ({"data": -1, "model": 3}, r"mesh: the axes other than -1 should divide 4 devices, .* may be 1, 2, 4"),
        ({"data": -1, "model": -1}, r"mesh: at most one axis should be -1"),
        ({"data": 0}, r"mesh: data should be at least 1, got 0"),
        ({}, r"mesh: it should have an axis"),
    ],
)
def test_a_wrong_mesh_says_what_fits(axes, message):
    with pytest.raises(ValueError, match=message):
        nf.mesh(**axes)


def test_fsdp_cuts_matrices_and_what_belongs_to_them():
    placed = specs(gpt(), nf.mesh(data=4), "fsdp")
    assert placed["params/tokens/weight"] == ("data", None)
    assert placed["params/blocks/mlp/up/weight"] == (None, None, "data")
    assert placed["params/blocks/mlp/down/weight"] == (None, "data", None)
    assert placed["params/norm/scale"] == (None,)
    moments = [path for path in placed if path.startswith("opt_state") and path.endswith("blocks/mlp/up/weight")]
    assert len(moments) == 2
    assert all(placed[path] == (None, None, "data") for path in moments)


def test_tensor_cuts_by_the_roles_of_layers():
    block = nf.wire(
        lambda net, x: x + net.look(x) + net.think(x), look=nf.attention(8, 2), think=nf.feed_forward(8, 16)
    )
    placed = specs(nf.serial(first=nf.linear(3, 8), deep=nf.repeat(block, 2)), nf.mesh(data=2, model=2), "tensor")
    assert placed["params/deep/look/query/weight"] == (None, None, "model")
    assert placed["params/deep/look/query/bias"] == (None, "model")
    assert placed["params/deep/look/out/weight"] == (None, "model", None)
    assert placed["params/deep/look/out/bias"] == (None, None)
    assert placed["params/deep/think/up/weight"] == (None, None, "model")
    assert placed["params/deep/think/down/weight"] == (None, "model", None)
    assert placed["params/first/weight"] == (None, None)


def test_expert_cuts_whole_experts():
    model = gpt(mlp=nf.mixture_of_experts(8, 16, 4))
    placed = specs(model, nf.mesh(model=4), "expert")
    assert placed["params/blocks/mlp/up/weight"] == (None, "model", None, None)
    assert placed["params/blocks/mlp/down/bias"] == (None, "model", None)
    assert placed["params/blocks/mlp/router/weight"] == (None, None, None)


def test_presets_join_and_the_default_depends_on_the_mesh():
    both = specs(gpt(), nf.mesh(data=2, model=2), "fsdp+tensor")
    assert both["params/blocks/attend/query/weight"] == (None, "data", "model")
    assert specs(gpt(), nf.mesh(data=2, model=2), None) == specs(gpt(), nf.mesh(data=2, model=2), "tensor")
    assert specs(gpt(), nf.mesh(data=4), None) == specs(gpt(), nf.mesh(data=4), "replicated")


def test_patterns_change_the_default_and_the_last_axes_are_named():
    shard = {"blocks/**/weight": ["data", "model"], "tokens/weight": ["model", ""]}
    placed = specs(gpt(), nf.mesh(data=2, model=2), shard)
    assert placed["params/blocks/attend/out/weight"] == (None, "data", "model")
    assert placed["params/tokens/weight"] == ("model", None)
    assert placed["params/blocks/attend/query/bias"] == (None, "model")  # by default


def test_numbers_of_layers_divide_a_leaf_if_they_agree():
    mesh, path = nf.mesh(data=2, model=2), "params/blocks/mlp/up/weight"
    each = {f"blocks/{i}/mlp/*/weight": ["data", ""] for i in range(2)}
    assert specs(gpt(), mesh, each) == specs(gpt(), mesh, {"blocks/mlp/*/weight": ["", "data"]} | each)
    assert specs(gpt(), mesh, each) == specs(gpt(), mesh, {"blocks/mlp/*/weight": ["data", ""]})
    assert specs(gpt(), mesh, each)[path] == (None, "data", None)
    back = {"blocks/0/**/up/weight": ["data", ""], "blocks/mlp/up/weight": ["", "data"]}  # the last one counts
    assert specs(gpt(), mesh, back)[path] == (None, None, "data")
    for other in (["model", ""], ["", "data"]):
        with pytest.raises(ValueError, match=r"divide all layers of one alike, got some layers of blocks/mlp/.*serial"):
            specs(gpt(), mesh, each | {"blocks/1/mlp/*/weight": other})


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ({"**/wight": ["data"]}, r"the pattern '\*\*/wight' should match at least one path"),
        ({"tokens/weight": ["", "", "data"]}, r"should name at most as many axes as tokens/weight has, 2"),
        ({"tokens/weight": ["pipe", ""]}, r"'tokens/weight' should be one of 'data', 'model', got 'pipe'"),
        ({"tokens/weight": ["data", "data"]}, r"should name each mesh axis once"),
        ({"blocks/0/mlp/up/weight": ["data", ""]}, r"patterns should match whole leaves"),
        ({"tokens/weight": "data"}, r"should have a list of mesh axes"),
        ({3: ["data"]}, r"shard should be a dict of mesh axes by path pattern, .* got the pattern 3"),
        ("fsdp+tensr", r"preset should be one of 'replicated', 'fsdp', .* got 'tensr'"),
        (3, r"shard should be a preset such as 'fsdp'"),
    ],
)
def test_a_wrong_shard_says_what_fits(shard, message):
    with pytest.raises((ValueError, TypeError), match=message):
        specs(gpt(), nf.mesh(data=2, model=2), shard)


def test_an_axis_that_does_not_divide_says_which_sizes_do():
    model = nf.linear(6, 5)
    with pytest.raises(ValueError, match=r"data = 4 should divide the axis of size 6 of weight.*divide it: 1, 2, 3"):
        specs(model, nf.mesh(data=4), {"weight": ["data", ""]})


def test_a_preset_by_roles_needs_the_model_and_an_axis_its_name():
    params = gpt().init(KEY)
    with pytest.raises(ValueError, match=r"shard = 'tensor' needs the layers of the model"):
        nf.shardings(params, nf.mesh(model=2), "tensor")
    with pytest.raises(ValueError, match=r"the mesh should have an axis 'model' for 'tensor'"):
        nf.shardings(params, nf.mesh(data=2), "tensor")


def test_what_a_preset_leaves_whole_is_named():
    model = nf.serial(nf.embedding(7, 6), look=nf.attention(6, 2), head=nf.linear(6, 8))
    lines = Placement.of("test", nf.mesh(data=4), "fsdp").undivided(model)
    parts = "embedding/weight (7, 6), look/key/weight (6, 6), look/out/weight (6, 6), look/query/weight (6, 6)"
    size = 4 * (7 * 6 + 4 * 6 * 6)
    assert lines == [f"whole on each device, {size} B, because data = 4 does not divide them: {parts} and 1 more"]
    line, idle = Placement.of("test", nf.mesh(model=4), "tensor").undivided(model)
    assert "because model = 4 does not divide them: look/query/weight (6, 6)" in line
    assert idle == "model = 4 divides no array of this model, so its devices repeat the same work"
    assert Placement.of("test", nf.mesh(data=2, model=2), None).undivided(nf.mlp([6, 4, 2])) == [idle.replace("4", "2")]
    assert not Placement.of("test", nf.mesh(model=2), {"**/weight": ["", "model"]}).undivided(nf.mlp([6, 4, 2]))
    for mesh, shard in (({"data": 2}, "fsdp"), ({"data": 4}, "replicated"), ({"data": 1}, "fsdp")):
        assert Placement.of("test", nf.mesh(**mesh), shard).undivided(model) == []


def test_patterns_need_no_model():
    params = gpt().init(KEY)
    placed = nf.shardings(params, nf.mesh(data=2, model=2), {"**/up/weight": ["data", "model"]})
    assert tuple(placed["blocks"]["mlp"]["up"]["weight"].spec) == (None, "data", "model")
    assert placed["tokens"]["weight"].is_fully_replicated


def test_batch_norm_may_be_that_of_each_device():
    x = jax.random.normal(KEY, (8, 3, 2))
    model, mesh = nf.batch_norm(2, axis="local"), nf.mesh(data=4)
    params, state = model.init(KEY), model.init_state()

    def run(params, state, x):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return model.apply_train(params, state, x)

    placed = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
    y, new = jax.jit(run)(params, state, placed)
    parts = [model.apply_train(params, state, part) for part in x.reshape(4, 2, 3, 2)]
    assert jnp.allclose(y, jnp.concatenate([part[0] for part in parts]), atol=1e-5)
    for name in ("mean", "var"):
        assert jnp.allclose(new[name], jnp.stack([part[1][name] for part in parts]).mean(0), atol=1e-5)
    program = jax.jit(run).lower(params, state, placed).compile()
    assert [part.bytes for part in collectives(program)] == [2 * 2 * 4]  # the means of the running statistics


@pytest.mark.parametrize("name", ["devices", 2])
def test_an_axis_of_another_name(name):
    build = lambda h: nf.Task(nf.linear(2, 1), nf.regression(), nf.optimizers.sgd(h))
    with pytest.raises(TypeError, match=rf"an axis of the mesh should have a name such as 'data', got {name!r}"):
        nf.trainer(build, mesh={name: 2})


def test_a_mesh_without_a_device_of_each_process(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    build = lambda h: nf.Task(nf.linear(2, 1), nf.regression(), nf.optimizers.sgd(h))
    message = r"each of the 2 processes should have a device of the mesh, got data = 2 with devices of process 0\. Make"
    for mesh in ({"data": 2}, nf.mesh(data=2)):
        with pytest.raises(ValueError, match=message):
            nf.trainer(build, mesh=mesh)


def test_a_mesh_of_explicit_axes_is_refused():
    mesh = Mesh(jax.devices()[:2], ("data",), axis_types=(AxisType.Explicit,))
    build = lambda h: nf.Task(nf.linear(2, 1), nf.regression(), nf.optimizers.sgd(h))
    with pytest.raises(TypeError, match=r"mesh should be one of nf.mesh\(data=-1\), with Auto axes"):
        nf.trainer(build, mesh=mesh)


def test_the_shardings_serve_a_loop_of_ones_own():
    mesh, model = nf.mesh(data=2, model=2), gpt()
    params = model.init(KEY)
    placed = jax.device_put(params, nf.shardings(params, mesh, "fsdp+tensor", model=model))
    x = jnp.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    loss = lambda params: model.apply(params, x).var()
    value, grads = jax.jit(jax.value_and_grad(loss))(placed)
    expected, expected_grads = jax.value_and_grad(loss)(params)
    assert abs(float(value - expected)) < 1e-5
    jax.tree.map(lambda a, b: None if jnp.allclose(a, b, atol=1e-5) else pytest.fail("gradient"), grads, expected_grads)
    assert placed["blocks"]["mlp"]["up"]["weight"].addressable_shards[0].data.shape == (2, 4, 16)
