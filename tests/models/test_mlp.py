"""nf.mlp: its paths and shapes, its output by hand, its initial values, the words of its errors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf


def shapes(model):
    made = jax.eval_shape(model.init, jax.random.key(0))
    return {path: leaf.shape for path, leaf in nf.paths.flatten(made).items()}


def test_paths_and_shapes():
    assert shapes(nf.mlp([4, 8, 6, 2], norm="layer", dropout=0.1)) == {
        "hidden_0/linear/weight": (4, 8),
        "hidden_0/linear/bias": (8,),
        "hidden_0/norm/scale": (8,),
        "hidden_0/norm/bias": (8,),
        "hidden_1/linear/weight": (8, 6),
        "hidden_1/linear/bias": (6,),
        "hidden_1/norm/scale": (6,),
        "hidden_1/norm/bias": (6,),
        "head/weight": (6, 2),
        "head/bias": (2,),
    }
    assert shapes(nf.mlp([4, 2])) == {"head/weight": (4, 2), "head/bias": (2,)}
    assert shapes(nf.mlp((4, 2))) == shapes(nf.mlp([np.int64(4), 2]))


def test_output_by_hand():
    """relu(x W1 + b1) W2 + b2 in NumPy, with any leading axes."""
    draw = np.random.default_rng(0)
    made = jax.eval_shape(nf.mlp([3, 5, 2]).init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), made)
    x = draw.normal(size=(2, 4, 3)).astype(np.float32)
    one, head = params["hidden_0"]["linear"], params["head"]
    hidden = np.maximum(x @ one["weight"] + one["bias"], 0)
    expected = hidden @ head["weight"] + head["bias"]
    y = nf.mlp([3, 5, 2]).apply(params, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(nf.mlp([3, 5, 2]).apply(params, x[0, 0]), expected[0, 0], rtol=1e-5, atol=1e-5)


def test_there_is_no_bias_that_batch_norm_takes_away_again():
    assert shapes(nf.mlp([4, 8, 2], norm="batch")) == {
        "hidden_0/linear/weight": (4, 8),
        "hidden_0/norm/scale": (8,),
        "hidden_0/norm/bias": (8,),
        "head/weight": (8, 2),
        "head/bias": (2,),
    }


def test_the_order_is_linear_norm_activation_dropout(key):
    """Batch norm sees sums of both signs, and the head sees no negative value, with some dropped."""
    model = nf.mlp([3, 50, 2], norm="batch", dropout=0.5)
    look, state = nf.capture(model, "hidden_0/*"), model.init_state()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(20, 3)), jnp.float32)
    _, taps = jax.jit(lambda x: look(model.init(key), x, key=key, state=state, train=True))(x)
    assert set(taps) == {f"hidden_0/{name}" for name in ("linear", "norm", "act", "drop")}
    linear, norm, act, drop = (np.asarray(taps[f"hidden_0/{n}"]) for n in ("linear", "norm", "act", "drop"))
    np.testing.assert_allclose(norm, (linear - linear.mean(0)) / np.sqrt(linear.var(0) + 1e-5), atol=1e-4)
    np.testing.assert_allclose(act, np.maximum(norm, 0), rtol=1e-4, atol=1e-6)
    kept = drop != 0
    np.testing.assert_allclose(drop[kept], 2 * act[kept], rtol=1e-6)
    assert 0.4 < kept[act > 0].mean() < 0.6


def test_activation_by_name_and_by_function(key):
    x = jnp.ones((2, 4))
    one, other = nf.mlp([4, 4, 4], activation="tanh"), nf.mlp([4, 4, 4], activation=jnp.tanh)
    params = one.init(key)
    np.testing.assert_array_equal(one.apply(params, x), other.apply(params, x))
    learned = nf.mlp([3, 4, 2], activation=nf.prelu())
    assert shapes(learned)["hidden_0/act/slope"] == (1,)


@pytest.mark.parametrize("activation,gain", [("relu", 2.0), ("tanh", 2 * 300 / 700), ("selu", 1.0)])
def test_initial_deviation_suits_the_activation(activation, gain, key):
    """He's 2 / fan_in, Xavier's 2 / (fan_in + fan_out), LeCun's 1 / fan_in; for the head LeCun's."""
    params = nf.mlp([300, 400, 300], activation=activation).init(key)
    weight = np.asarray(params["hidden_0"]["linear"]["weight"])
    assert weight.std() == pytest.approx(math.sqrt(gain / 300), rel=0.02)
    assert np.asarray(params["head"]["weight"]).std() == pytest.approx(math.sqrt(1 / 400), rel=0.02)
    assert not np.asarray(params["head"]["bias"]).any()


def test_gain_multiplies_every_weight_and_may_be_traced(key):
    def init(gain):
        return nf.mlp([4, 4, 4], gain=gain).init(key)

    once = nf.paths.flatten(init(1.0))
    traced = jax.vmap(init)(jnp.array([0.0, 3.0]))
    for path, leaf in nf.paths.flatten(traced).items():
        np.testing.assert_array_equal(leaf[0], np.zeros(leaf.shape[1:]))
        np.testing.assert_allclose(leaf[1], 3 * once[path], rtol=1e-6)


def test_a_given_initializer_is_used_everywhere(key):
    params = nf.mlp([3, 4, 2], weight_init=nf.initializers.ones, gain=2.0).init(key)
    assert {float(leaf.min()) for path, leaf in nf.paths.flatten(params).items() if "weight" in path} == {2.0}


def test_adding_a_layer_leaves_the_initial_values_of_the_others(key):
    short, long = (nf.mlp(widths).init(key) for widths in ([4, 4, 4], [4, 4, 4, 4]))
    del long["hidden_1"]
    assert jax.tree.all(jax.tree.map(jnp.array_equal, short, long))
    assert np.ptp(short["head"]["weight"]) > 0


def test_dropout_rate_may_be_traced(key):
    params, x = nf.mlp([4, 4, 4]).init(key), jnp.ones((2, 4))

    def run(rate):
        return nf.mlp([4, 4, 4], dropout=rate).apply(params, x, key=key)

    both = jax.jit(jax.vmap(run))(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(both[0], nf.mlp([4, 4, 4]).apply(params, x), rtol=1e-6)
    np.testing.assert_array_equal(both[1], np.broadcast_to(params["head"]["bias"], (2, 4)))


@pytest.mark.parametrize(
    "make,words",
    [
        (
            lambda: nf.mlp([64]),
            r"^mlp: widths should be at least those of the input and the output, such as .* got \[64\]",
        ),
        (lambda: nf.mlp(64), r"^mlp: widths should be .* got 64"),
        (lambda: nf.mlp([64, 0, 10]), r"^mlp: widths\[1\] should be at least 1, got 0"),
        (lambda: nf.mlp([64, 10], activation="rleu"), r"there is no activation 'rleu'; did you mean 'relu'"),
        (
            lambda: nf.mlp([64, 10], norm="bacth"),
            r"^mlp: norm should be one of 'batch', 'layer', 'rms', got 'bacth'; did you mean 'batch'",
        ),
        (lambda: nf.mlp([64, 8, 10], dropout=1.5), r"dropout: rate should be in \[0, 1\], got 1\.5"),
    ],
)
def test_wrong_values_are_named(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: nf.mlp([64, 8.0, 10]), r"^mlp: widths\[1\] should be an integer, got 8\.0"),
        (lambda: nf.mlp([64, 10], gain="2"), r"^mlp: gain should be a number, got '2' \(str\)"),
    ],
)
def test_wrong_kinds_are_named(make, words):
    with pytest.raises(TypeError, match=words):
        make()


def test_wrong_input_names_the_layer():
    model = nf.mlp([784, 32, 10])
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), jax.eval_shape(model.init, jax.random.key(0)))
    words = r"^hidden_0/linear: the last axis of x should be 784 \(in_dim\), got shape \(32, 28, 28\)"
    with pytest.raises(ValueError, match=words):
        model.apply(params, jnp.ones((32, 28, 28)))


def test_backprop_and_mlp_agree_on_the_layout():
    """The layout that nnfunc.backprop reads is this one."""
    made = jax.eval_shape(nf.mlp([3, 4, 2]).init, jax.random.key(0))
    grads = jax.eval_shape(nf.backprop.gradients, made, jnp.ones((1, 3)), jnp.array([0]))
    assert jax.tree.structure(grads) == jax.tree.structure(made)
