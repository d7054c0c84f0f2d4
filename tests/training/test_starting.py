"""Parameters of a trained model taken over into a new one, by path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc import paths

KEY, OTHER = jax.random.key(0), jax.random.key(1)


def model(classes, extra=False):
    more = {"extra": nf.linear(4, 4)} if extra else {}
    block = nf.residual(nf.serial(up=nf.linear(4, 8), act=jnp.tanh, down=nf.linear(8, 4)))
    return nf.serial(blocks=nf.repeat(block, 3), norm=nf.batch_norm(4), **more, head=nf.linear(4, classes))


OLD, NEW = model(2), model(3, extra=True)
PRETRAINED, PARAMS = OLD.init(KEY), NEW.init(OTHER)


def test_parts_are_taken_over_and_reported():
    params, report = nf.starting_from(PARAMS, PRETRAINED, skip="head/**")
    for path in ("blocks/body/up/weight", "norm/scale"):
        np.testing.assert_array_equal(paths.flatten(params)[path], paths.flatten(PRETRAINED)[path])
    for part in ("head", "extra"):
        jax.tree.map(np.testing.assert_array_equal, params[part], PARAMS[part])
    assert len(report.loaded) == 6
    assert report.skipped == ["head/bias", "head/weight"]
    assert report.missing == ["extra/bias", "extra/weight"]
    assert report.unused == []
    assert nf.starting_from(PRETRAINED, PARAMS, skip="head/*")[1].unused == ["extra/bias", "extra/weight"]
    lines = str(report).splitlines()
    assert lines[0] == "loaded  6: blocks/body/down/bias, blocks/body/down/weight, blocks/body/up/bias and 3 more"
    assert lines[1:] == ["skipped 2: head/bias, head/weight", "missing 2: extra/bias, extra/weight"]


def test_the_parameters_start_a_run_and_keep_their_dtype():
    narrow = jax.tree.map(lambda leaf: np.asarray(leaf, np.float16), PRETRAINED)
    params, _ = nf.starting_from(PARAMS, narrow, only=("blocks/**", "norm/*"))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    state, report = nf.starting_from(NEW.init_state(), {"norm": {"mean": jnp.ones(4), "var": 2 * jnp.ones(4)}})
    assert report.loaded == ["norm/mean", "norm/var"]
    build = lambda h: nf.Task(NEW, nf.classification(), nf.optimizers.sgd(h["rate"]))
    data = nf.data.arrays((np.ones((4, 4), np.float32), np.arange(4) % 3), batch_size=4)
    trained, _ = nf.train(build, {"rate": 0.0}, data, steps=1, key=KEY, params=params, state=state)
    jax.tree.map(np.testing.assert_array_equal, trained.params, params)


def test_one_layer_is_taken_over():
    params, report = nf.starting_from(PARAMS, PRETRAINED, only="blocks/**", skip="blocks/1/**")
    weight = [tree["blocks"]["body"]["up"]["weight"] for tree in (params, PRETRAINED, PARAMS)]
    assert [bool((weight[0][i] == weight[1][i]).all()) for i in range(3)] == [True, False, True]
    np.testing.assert_array_equal(weight[0][1], weight[2][1])
    assert len(report.loaded) == 4
    assert report.layers == {path: [0, 2] for path in report.loaded}
    assert str(report).startswith(
        "loaded  4: blocks/body/down/bias (layers 0, 2), blocks/body/down/weight (layers 0, 2)"
    )
    _, one = nf.starting_from(PARAMS, PRETRAINED, only=("blocks/1/**", "norm/scale", "blocks/*/down/weight"))
    assert one.layers == {path: [1] for path in report.loaded if path != "blocks/body/down/weight"}
    assert "blocks/body/down/bias (layer 1), blocks/body/down/weight, " in str(one)
    assert nf.starting_from(PARAMS, PRETRAINED, only="blocks/**")[1].layers == {}


def test_layers_of_a_repeat_within_another_are_pairs():
    inner = nf.repeat(nf.serial(a=nf.linear(2, 2), b=nf.linear(2, 2)), 2)
    deep = nf.repeat(nf.serial(first=nf.linear(2, 2), inner=inner), 3)
    params = deep.init(KEY)
    _, report = nf.starting_from(params, params, only="1/inner/0/a/weight")
    assert report.layers == {"inner/a/weight": [[1, 0]]}
    assert str(report).startswith("loaded  1: inner/a/weight (layer 1/0)")


def test_it_works_inside_of_a_transformation():
    start = lambda pretrained: nf.starting_from(PARAMS, pretrained, skip="head/**")[0]
    jax.tree.map(np.testing.assert_array_equal, jax.jit(start)(PRETRAINED), start(PRETRAINED))


@pytest.mark.parametrize(
    "pretrained, options, message",
    [
        (PRETRAINED, {}, r"head/bias should have the shape \(3,\) of the model, got \(2,\)\. To leave it out: "),
        (PRETRAINED, {}, r"skip=\['head/bias', 'head/weight'\]"),
        (PRETRAINED, {"skip": "hed/**"}, r"starting_from: skip: the pattern 'hed/\*\*' should match at least one path"),
        (PRETRAINED, {"only": "norm/scal"}, "starting_from: only: .* did you mean 'norm/scale'"),
        (PRETRAINED, {"only": "blocks/3/**"}, "only: .* 'blocks' has 3 layers, 0 to 2"),
        (PRETRAINED, {"skip": "**"}, "only= and skip= should leave a path of the model to take over, got none"),
        ({"params": PRETRAINED}, {}, "pretrained should have one of blocks/body/down/bias.*, got params/blocks/body/"),
        ({}, {}, "pretrained should have one of .*, got no paths"),
    ],
)
def test_what_does_not_fit_is_refused(pretrained, options, message):
    with pytest.raises(ValueError, match=message):
        nf.starting_from(PARAMS, pretrained, **options)


def test_a_train_state_is_refused():
    build = lambda h: nf.Task(NEW, nf.classification(), nf.optimizers.sgd(0.1))
    state = nf.trainer(build).init({}, jax.random.key(0))
    for start in (
        lambda: nf.starting_from(state.params, state),
        lambda: nf.trainer(build).init({}, jax.random.key(0), params=state),
    ):
        with pytest.raises(ValueError, match=r"should be a tree of arrays, got a whole train state"):
            start()


def test_leaves_of_another_size_are_resized_by_pattern():
    small, large = (nf.gpt(v, block_size=b, layers=1, heads=2, dim=4) for v, b in ((5, 3), (7, 6)))
    old, new = small.init(KEY), large.init(OTHER)
    resize = {"tokens/weight": "part", "positions/*": "part"}
    params, report = nf.starting_from(new, old, resize=resize)
    np.testing.assert_array_equal(params["tokens"]["weight"][:5], old["tokens"]["weight"])
    np.testing.assert_array_equal(params["tokens"]["weight"][5:], new["tokens"]["weight"][5:])
    back, _ = nf.starting_from(old, params, resize=resize)
    jax.tree.map(np.testing.assert_array_equal, back, old)
    assert report.resized == {"positions/weight": "part", "tokens/weight": "part"}
    assert "tokens/weight (resized by part)" in repr(report._replace(loaded=["tokens/weight"]))
    with pytest.raises(ValueError, match=r'To take over the common part: resize=\{"positions/weight": "part"\}'):
        nf.starting_from(new, old)
    with pytest.raises(ValueError, match=r"To leave it out: skip=\['weight'\]\.$"):  # of another rank: no common part
        nf.starting_from({"weight": np.zeros((2, 2))}, {"weight": np.zeros(2)})


def test_parts_of_arrays_on_the_host_are_taken_over():
    params, _ = nf.starting_from({"weight": np.zeros((3, 1))}, {"weight": np.ones((2, 1))}, resize={"weight": "part"})
    np.testing.assert_array_equal(params["weight"], [[1], [1], [0]])


def test_positions_of_a_grid_of_patches_are_interpolated():
    old = {"positions": {"weight": np.concatenate([[[9.0]], np.repeat([[0.0], [1.0]], 2, axis=0)])}}  # two rows of two
    new = {"positions": {"weight": np.zeros((1 + 16, 1))}}
    params, _ = nf.starting_from(new, old, resize={"**": "grid"})
    rows = params["positions"]["weight"][1:].reshape(4, 4)
    assert params["positions"]["weight"][0] == 9
    np.testing.assert_allclose(rows, rows[:, :1].repeat(4, 1), rtol=0, atol=1e-6)
    assert (np.diff(rows[:, 0]) > 0).all()
    with pytest.raises(ValueError, match=r"positions/weight should have the shape \(19, 1\)"):  # three before the grid
        nf.starting_from({"positions": {"weight": np.zeros((19, 1))}}, old, resize={"**": "grid"})
