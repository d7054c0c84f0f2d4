"""Layers against PyTorch's values and gradients (tests/golden/layers.npz), worked examples, statistics.

The golden numbers are float64, made with PyTorch 2.13 by scripts/golden/layers.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import GOLDEN as GOLDEN_FILES

import nnfunc as nf

GOLDEN = np.load(GOLDEN_FILES / "layers.npz")
NORMS = {
    "layer_norm": nf.layer_norm(6),
    "rms_norm": nf.rms_norm(6),
    "group_norm": nf.group_norm(2, 6),
    "instance_norm": nf.instance_norm(6),
    "batch_norm": nf.batch_norm(6),
}
KINDS = ["usual", "nasty_mean", "nasty_constant", "nasty_large", "nasty_small"]
CASES = {
    "linear": nf.linear(5, 3),
    "bilinear": nf.bilinear(3, 4, 2),
    "prelu_one": nf.prelu(),
    "prelu": nf.prelu(3),
    **{f"{norm}/{kind}": model for norm, model in NORMS.items() for kind in KINDS},
}


def normal(*shape):
    """Standard normal numbers, drawn without compiling anything."""
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), jnp.float32)


def blank(model):
    """Parameters of the model's shapes, without drawing them."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def golden(case):
    names = [name for name in GOLDEN.files if name.rpartition("/")[0] == case]
    assert names, case
    return {name.rpartition("/")[2]: GOLDEN[name] for name in names}


@functools.cache
def value_and_gradients(model):
    """Compiled once a model and type: y, and the gradients of sum(y * dy)."""

    @jax.jit
    def run(params, x, dy):
        ctx = nf.Context(train=True, state=model.init_state())
        y, back = jax.vjp(lambda params, x: model.forward(params, x, ctx)[0], params, x)
        return y, *back(dy)

    return run


def errors(case, dtype):
    """The largest error of y and of each gradient, as a share of the largest expected value."""
    its, model = golden(case), CASES[case]
    names = [name for name in ("weight", "bias", "scale", "slope") if name in its]
    params = {name: jnp.asarray(its[name], dtype) for name in names}
    x = (its["left"], its["right"]) if case == "bilinear" else its["x"]
    x = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), x)
    y, dparams, dx = value_and_gradients(model)(params, x, jnp.asarray(its["dy"], dtype))
    expected_dx = (its["dleft"], its["dright"]) if case == "bilinear" else its["dx"]
    got = {"y": y, "x": dx, **dparams}
    expected = {"y": its["y"], "x": expected_dx} | {name: its[f"d{name}"] for name in names}
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(got))
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, expected)

    def error(path, a, b):
        least = 1.0 if "scale" in str(path) else 1e-30  # that of constant rows is 0 but for rounding
        return float(np.abs(np.asarray(a, np.float64) - b).max() / max(np.abs(b).max(), least))

    return jax.tree.map_with_path(error, got, expected)


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_pytorchs_in_float64(case):
    with jax.enable_x64(True):
        found = errors(case, jnp.float64)
    # At mean 1e4 and deviation 0.1 a mean of 16 digits leaves the differences 11.
    limit = 1e-9 if "nasty_mean" in case else 1e-12
    assert max(jax.tree.leaves(found)) < limit, found


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_pytorchs_in_float32(case):
    found = errors(case, jnp.float32)
    # A float32 mean of 1e4 is known to 5e-4, which is 0.005 deviations; PyTorch's float32 is as far off
    # (its group norm 20 deviations). That of constant 3s to 2e-7, and sqrt(eps) is 0.003. The rest of
    # the nasty inputs lose nothing.
    limits = {"nasty_mean": 0.05, "nasty_constant": 3e-4}
    limit = 2e-6 if "rms" in case else limits.get(case.rpartition("/")[2], 2e-6)
    assert max(jax.tree.leaves(found)) < limit, found


@pytest.mark.parametrize("norm", NORMS)
def test_norms_of_half_precision_compute_in_float32(norm):
    model = NORMS[norm]
    x = (300 * normal(3, 2, 3, 6) + 1000).astype(jnp.float16)  # whose squares overflow
    params, state = jax.tree.map(lambda leaf: leaf + 1, blank(model)), model.init_state()

    def apply(x):
        return model.forward(params, x, nf.Context(train=True, state=state))[0]

    y, wide = jax.jit(lambda x: (apply(x), apply(x.astype(jnp.float32)).astype(x.dtype)))(x)
    np.testing.assert_array_equal(y, wide)
    assert y.dtype == jnp.float16
    assert jax.eval_shape(apply, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_norms_keep_float32_parameters_where_float64_is_enabled(key):
    with jax.enable_x64(True):
        for model in (*NORMS.values(), nf.bilinear(3, 4, 2), nf.linear(5, 3)):
            made = (jax.eval_shape(model.init, key), model.init_state())
            assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("convention", ["pytorch", "fast", "paper"])
def test_batch_norm_over_steps_is_pytorchs(convention):
    """Outputs, running statistics after each of five steps, then inference and its gradients."""
    its = golden(f"batch_norm_steps/{convention}")
    model = {
        "pytorch": nf.batch_norm(3),
        "fast": nf.batch_norm(3, momentum=0.6),
        "paper": nf.batch_norm(3, convention="paper"),
    }[convention]
    with jax.enable_x64(True):
        params = {name: jnp.asarray(its[name]) for name in ("scale", "bias")}
        state = {k: v.astype(jnp.float64) if k != "count" else v for k, v in model.init_state().items()}
        step = jax.jit(lambda x, state: model.forward(params, x, nf.Context(train=True, state=state)))
        for i, x in enumerate(its["x"]):
            y, (state, _) = step(x, state)
            np.testing.assert_allclose(y, its["y"][i], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(state["mean"], its["mean"][i], rtol=1e-12)
            np.testing.assert_allclose(state["var"], its["var"][i], rtol=1e-12)
        y, back = jax.vjp(lambda params, x: model.apply(params, x, state=state), params, jnp.asarray(its["x"][0]))
        dparams, dx = back(jnp.asarray(its["dy"]))
    np.testing.assert_allclose(y, its["y_eval"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(dx, its["dx_eval"], rtol=1e-12)
    np.testing.assert_allclose(dparams["scale"], its["dscale_eval"], rtol=1e-12)


def test_batch_norm_of_the_paper_by_hand():
    """Algorithm 2: the mean of the batch means, and m / (m - 1) times the mean of the batch variances."""
    model = nf.batch_norm(1, convention="paper", eps=0.0)
    state = model.init_state()
    for batch in ([1.0, 3.0], [10.0, 14.0], [0.0, 0.0]):
        x = jnp.array(batch)[:, None]
        _, out = model.forward(model.init(jax.random.key(0)), x, nf.Context(train=True, state=state))
        state = out.state
    assert float(state["mean"][0]) == pytest.approx((2 + 12 + 0) / 3)
    assert float(state["var"][0]) == pytest.approx((2 / 1) * (1 + 4 + 0) / 3)
    assert int(state["count"]) == 3
    y = model.apply({"scale": jnp.array([2.0]), "bias": jnp.array([1.0])}, x, state=state)
    assert float(y[0, 0]) == pytest.approx(1 + 2 * (0 - 14 / 3) / (10 / 3) ** 0.5)


def test_batch_norm_in_inference_keeps_state_and_examples_apart(key):
    model = nf.batch_norm(3)
    params = model.init(key)
    x = 5 + normal(8, 3)
    state = {"mean": jnp.full(3, 5.0), "var": jnp.full(3, 4.0)}
    y, out = model.forward(params, x, nf.Context(state=state))
    assert out.state is state or jax.tree.all(jax.tree.map(jnp.array_equal, out.state, state))
    np.testing.assert_allclose(y, (x - 5) / 2, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(y[:1], model.apply(params, x[:1], state=state))


def test_batch_norm_statistics_by_traced_momentum(key):
    x = normal(8, 3)

    def mean(momentum):
        model = nf.batch_norm(3, momentum=momentum)
        ctx = nf.Context(train=True, state=model.init_state())
        return model.forward(model.init(key), x, ctx)[1].state["mean"]

    both = jax.vmap(mean)(jnp.array([0.1, 1.0]))
    np.testing.assert_allclose(both[0], mean(0.1), rtol=1e-6)
    np.testing.assert_allclose(both[1], x.mean(0), rtol=1e-5)


def test_instance_norm_is_group_norm_with_a_group_a_channel(key):
    x = normal(2, 4, 5, 3)
    one = nf.instance_norm(3).apply(nf.instance_norm(3).init(key), x)
    np.testing.assert_array_equal(one, nf.group_norm(3, 3).apply(nf.group_norm(3, 3).init(key), x))
    alone = nf.instance_norm(3, spatial=2)  # an image without a batch axis
    np.testing.assert_allclose(alone.apply(alone.init(key), x[0]), one[0], rtol=1e-5, atol=1e-6)


def test_group_norm_over_the_last_axes_only(key):
    """spatial=1: every leading axis but one counts as batch."""
    x = normal(2, 4, 5, 6)
    model = nf.group_norm(2, 6, spatial=1)
    y = np.asarray(model.apply(model.init(key), x)).reshape(2, 4, 5, 2, 3)
    np.testing.assert_allclose(y.mean(axis=(2, 4)), np.zeros((2, 4, 2)), atol=1e-6)
    np.testing.assert_allclose(y.var(axis=(2, 4)), np.ones((2, 4, 2)), rtol=1e-3)


def test_norm_without_affine_has_no_parameters(key):
    for make in (nf.layer_norm, nf.rms_norm, nf.batch_norm, nf.instance_norm):
        assert make(4, affine=False).init(key) == {}
    assert list(nf.layer_norm(4, bias=False).init(key)) == ["scale"]


def test_linear_by_hand():
    params = {"weight": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "bias": jnp.array([10.0, 20.0])}
    y = nf.linear(2, 2).apply(params, jnp.array([1.0, 1.0]))
    np.testing.assert_array_equal(y, [14.0, 26.0])  # 1 + 3 + 10, 2 + 4 + 20
    assert nf.linear(2, 2).apply(params, jnp.ones((3, 0, 2))).shape == (3, 0, 2)


def test_bias_and_scale_by_hand(key):
    x = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_array_equal(nf.bias(2).apply({"bias": jnp.array([10.0, -1.0])}, x), [[11, 1], [13, 3]])
    np.testing.assert_array_equal(nf.scale(2).apply({"scale": jnp.array([2.0, 0.0])}, x), [[2, 0], [6, 0]])
    np.testing.assert_array_equal(nf.scale(2, initial=1e-4).init(key)["scale"], np.full(2, 1e-4, "f4"))


def test_bilinear_initial_deviation_counts_both_inputs(key):
    weight = np.asarray(nf.bilinear(20, 30, 50).init(key)["weight"])
    assert weight.std() == pytest.approx((1 / 600) ** 0.5, rel=0.03)


def test_embedding_is_pytorchs():
    its = golden("embedding")
    with jax.enable_x64(True):
        apply = functools.partial(nf.embedding(6, 3).apply, x=jnp.asarray(its["ids"]))
        y, back = jax.vjp(apply, {"weight": jnp.asarray(its["weight"])})
        (dparams,) = back(jnp.asarray(its["dy"]))
    np.testing.assert_array_equal(y, its["y"])
    np.testing.assert_allclose(dparams["weight"], its["dweight"], rtol=1e-15)


@pytest.mark.parametrize("dtype", ["int32", "int8"])
@pytest.mark.parametrize("count", [4, 200])
def test_embedding_outside_of_the_table_is_nan(count, dtype):
    weight = np.asarray(normal(count, 2))
    y = nf.embedding(count, 2).apply({"weight": weight}, jnp.array([-1, 0, 3, 100], dtype))
    expected = [[np.nan] * 2, weight[0], weight[3], weight[100] if count > 100 else [np.nan] * 2]
    np.testing.assert_array_equal(y, np.array(expected))


@pytest.mark.parametrize("count", [200, 256, 300])
def test_embedding_takes_bytes(count):
    weight = normal(count, 2)
    y = nf.embedding(count, 2).apply({"weight": weight}, jnp.array([0, 199, 255], jnp.uint8))
    expected = [weight[0], weight[199], weight[255] if count > 255 else [np.nan] * 2]
    np.testing.assert_array_equal(y, np.array(expected))


def test_flatten():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(nf.flatten(x), x.reshape(2, 12))
    np.testing.assert_array_equal(nf.flatten(x, start=0), x.ravel())
    assert nf.flatten(jnp.ones(5)).shape == (5, 1)
    assert nf.flatten(jnp.ones((0, 3, 4))).shape == (0, 12)
    assert nf.serial(nf.flatten, nf.linear(12, 1)).init(jax.random.key(0)).keys() == {"linear"}


# Dropout and its kin: one compiled function for each, over enough values that four standard errors
# are small.

LAYERS = {"dropout": nf.dropout, "drop_path": nf.drop_path, "alpha_dropout": nf.alpha_dropout}
NORMAL = normal(40_000, 3)


@functools.cache
def dropped(name):
    """(rate, x) -> y, the derivative of its sum by the rate, and by x."""

    def run(rate, x):
        return LAYERS[name](rate).apply({}, x, key=jax.random.key(0))

    @jax.jit
    def value_and_derivatives(rate, x):
        y, back = jax.vjp(run, rate, x)
        return y, *back(jnp.ones_like(y))

    return value_and_derivatives


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate):
    y, _, by_x = map(np.asarray, dropped("dropout")(rate, jnp.ones_like(NORMAL)))
    n = y.size
    assert abs((y == 0).mean() - rate) < 4 * (rate * (1 - rate) / n) ** 0.5
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)  # inverted scaling
    assert abs(y.mean() - 1) < 4 * (rate / (1 - rate) / n) ** 0.5
    np.testing.assert_array_equal(by_x, y)  # the gradient has the mask of the value


def test_drop_path_drops_whole_examples():
    rate = 0.3
    y = np.asarray(dropped("drop_path")(rate, jnp.ones_like(NORMAL))[0])
    assert (y.min(1) == y.max(1)).all()
    assert abs((y[:, 0] == 0).mean() - rate) < 4 * (rate * (1 - rate) / len(y)) ** 0.5
    np.testing.assert_allclose(y.max(), 1 / (1 - rate), rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_alpha_dropout_keeps_mean_and_variance(rate):
    """Of standard normal values, as SELU keeps them; what is dropped has one value."""
    y = np.asarray(dropped("alpha_dropout")(rate, NORMAL)[0], np.float64)
    n = y.size
    assert abs(y.mean()) < 5 / n**0.5
    assert abs(y.var() - 1) < 10 / n**0.5
    values, counts = np.unique(y, return_counts=True)
    assert abs(counts.max() / n - rate) < 4 * (rate * (1 - rate) / n) ** 0.5
    low = -1.0507009873554805 * 1.6732632423543772  # -lambda * alpha of SELU
    a = ((1 - rate) * (1 + rate * low**2)) ** -0.5  # the affine map of the paper's section 2
    assert values[counts.argmax()] == pytest.approx(a * low - a * rate * low, rel=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_at_rate_0_and_1(name):
    y, by_rate, by_x = dropped(name)(0.0, NORMAL)
    np.testing.assert_array_equal(y, NORMAL)
    np.testing.assert_array_equal(by_x, jnp.ones_like(NORMAL))
    assert jnp.isfinite(by_rate)
    y, by_rate, by_x = dropped(name)(1.0, NORMAL)
    np.testing.assert_array_equal(y, jnp.zeros_like(NORMAL))
    np.testing.assert_array_equal(by_x, jnp.zeros_like(NORMAL))
    assert jnp.isfinite(by_rate)


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_of_a_traced_rate_is_that_of_a_number(name, key):
    for rate in (0, 0.7, 1.0):
        plain = LAYERS[name](rate).apply({}, NORMAL, key=key)
        np.testing.assert_allclose(plain, dropped(name)(float(rate), NORMAL)[0], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dropout_keeps_the_type(name, dtype, key):
    with jax.enable_x64(dtype == "float64"):
        for rate in (0.5, jnp.array(0.5)):
            apply = functools.partial(LAYERS[name](rate).apply, {}, key=key)
            assert jax.eval_shape(apply, jnp.ones((16, 8), dtype)).dtype == dtype


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_without_a_key_changes_nothing(name):
    np.testing.assert_array_equal(LAYERS[name](0.9).apply({}, NORMAL), NORMAL)


def test_dropout_shared_draws_once_along_an_axis(key):
    x = jnp.ones((8, 4, 5, 16))
    y = np.asarray(nf.dropout(0.5, shared=(1, -2)).apply({}, x, key=key))
    assert (y == y[:, :1, :1]).all()
    channels = y[:, 0, 0]
    assert 0.3 < (channels == 0).mean() < 0.7
    assert (channels != channels[:1]).any()  # examples differ
    assert (channels != channels[:, :1]).any()


def test_mc_dropout_is_the_mean_and_deviation_of_a_loop(key):
    model = nf.serial(nf.linear(3, 8), nf.dropout(0.5), nf.linear(8, 2))
    params = {"linear": {"weight": normal(3, 8), "bias": normal(8)}}
    params |= {"linear_1": {"weight": normal(8, 2), "bias": normal(2)}}
    x = normal(4, 3)
    mean, deviation = jax.jit(lambda x: nf.mc_dropout(model, params, x, key=key, samples=6))(x)
    once = jax.jit(lambda i: model.apply(params, x, key=jax.random.fold_in(key, i)))
    drawn = np.stack([once(i) for i in range(6)])
    assert (drawn.std(0) > 0).all()
    np.testing.assert_allclose(mean, drawn.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(deviation, drawn.std(0), rtol=1e-4, atol=1e-6)


def test_mc_dropout_reads_state(key):
    model = nf.serial(nf.batch_norm(2), nf.dropout(0.0))
    params, x = blank(model), jnp.full((1, 2), 3.0)
    params["batch_norm"]["scale"] += 1
    state = {"batch_norm": {"mean": jnp.full(2, 2.0), "var": jnp.full(2, 4.0)}}
    run = jax.jit(lambda x: nf.mc_dropout(model, params, x, key=key, state=state))
    mean, deviation = run(x)
    np.testing.assert_allclose(mean, jnp.full((1, 2), 0.5), rtol=1e-5)  # (3 - 2) / sqrt(4)
    np.testing.assert_allclose(deviation, jnp.zeros((1, 2)), atol=1e-6)


# Errors: where, what should be, what came, what to do; the path in front when nested.


def nested(layer):
    return nf.serial(body=nf.serial(inner=layer))


ONES = jnp.ones((4, 7))
WRONG_INPUT = {
    "linear": (
        nf.linear(8, 3),
        ONES,
        ValueError,
        r"linear: the last axis of x should be 8 \(in_dim\), got shape \(4, 7\)\.",
    ),
    "linear_image": (
        nf.linear(784, 3),
        jnp.ones((2, 28, 28)),
        ValueError,
        r"784 \(in_dim\), got shape \(2, 28, 28\)\. To flatten images first: serial\(nf\.flatten, nf\.linear\(784, 3\)\)",
    ),
    "linear_one_image": (
        nf.linear(784, 3),
        nf.flatten(jnp.ones((28, 28))),
        ValueError,
        r"784 \(in_dim\), got shape \(28, 28\)\. If x is one example, add its batch axis first: x\[None\]",
    ),
    "linear_scalar": (
        nf.linear(8, 3),
        jnp.ones(()),
        ValueError,
        r"linear: the last axis of x should be 8 .* got shape \(\)",
    ),
    "linear_integers": (
        nf.linear(7, 3),
        ONES.astype(jnp.uint8),
        TypeError,
        r"linear: x should hold floats, got uint8\. Convert it first",
    ),
    "linear_list": (
        nf.linear(2, 3),
        [1.0, 2.0],
        TypeError,
        r"linear: x should be an array of floats, got \[.* \(list\)",
    ),
    "linear_tuple": (nf.linear(7, 3), (ONES, ONES), TypeError, r"linear: x should be an array of floats, got "),
    "bilinear_one": (
        nf.bilinear(3, 4, 2),
        ONES,
        TypeError,
        r"bilinear: x should be a pair \(left, right\), got an array of shape \(4, 7\)",
    ),
    "bilinear_left": (
        nf.bilinear(3, 7, 2),
        (ONES, ONES),
        ValueError,
        r"bilinear: left: the last axis of x should be 3 \(left_dim\), got shape \(4, 7\)",
    ),
    "bilinear_right": (
        nf.bilinear(7, 3, 2),
        (ONES, ONES),
        ValueError,
        r"bilinear: right: the last axis of x should be 3 \(right_dim\)",
    ),
    "bilinear_leading": (
        nf.bilinear(7, 7, 2),
        (ONES, ONES[:2]),
        ValueError,
        r"bilinear: left and right should have the same leading axes, got shapes \(4, 7\) and \(2, 7\)",
    ),
    "bias": (nf.bias(8), ONES, ValueError, r"bias: the last axis of x should be 8 \(dim\)"),
    "scale": (nf.scale(8), ONES, ValueError, r"scale: the last axis of x should be 8 \(dim\)"),
    "prelu": (nf.prelu(8), ONES, ValueError, r"prelu: the last axis of x should be 8 \(dim\)"),
    "prelu_integers": (nf.prelu(), ONES.astype(int), TypeError, r"prelu: x should hold floats, got int"),
    "layer_norm": (nf.layer_norm(8), ONES, ValueError, r"layer_norm: the last axis of x should be 8 \(dim\)"),
    "rms_norm": (nf.rms_norm(8), ONES, ValueError, r"rms_norm: the last axis of x should be 8 \(dim\)"),
    "batch_norm": (nf.batch_norm(8), ONES, ValueError, r"batch_norm: the last axis of x should be 8 \(dim\)"),
    "group_norm": (nf.group_norm(2, 8), ONES, ValueError, r"group_norm: the last axis of x should be 8 \(dim\)"),
    "group_norm_axes": (
        nf.group_norm(7, 7),
        ONES[0],
        ValueError,
        r"group_norm: x should have at least 2 axes, got .*\(7,\).*give spatial=",
    ),
    "instance_norm": (
        nf.instance_norm(7),
        ONES,
        ValueError,
        r"instance_norm: x should have a spatial axis, as \[batch, \.\.\., dim\], got shape \(4, 7\)",
    ),
    "embedding": (nf.embedding(8, 3), ONES, TypeError, r"embedding: x should hold integers, got float32"),
    "dropout": (nf.dropout(0.5), ONES.astype(jnp.int32), TypeError, r"dropout: x should hold floats, got int32"),
    "flatten": (
        lambda x: nf.flatten(x, start=3),
        ONES,
        ValueError,
        r"flatten: x should have at least 3 axes, got shape \(4, 7\)",
    ),
}


@pytest.mark.parametrize("case", WRONG_INPUT)
def test_wrong_input_is_named_with_the_path(case):
    layer, x, kind, words = WRONG_INPUT[case]
    model = nested(layer)
    with pytest.raises(kind, match=rf"^body/inner: .*{words}"):
        model.apply(blank(model), x, state=model.init_state())


WRONG_ARGUMENTS = {
    "size": (lambda: nf.linear(0, 3), ValueError, r"^linear: in_dim should be at least 1, got 0\."),
    "float_size": (lambda: nf.linear(3.0, 3), TypeError, r"^linear: in_dim should be an integer, got 3\.0 \(float\)"),
    "bool_size": (lambda: nf.embedding(4, True), TypeError, r"^embedding: dim should be an integer"),
    "bilinear": (lambda: nf.bilinear(3, -1, 2), ValueError, r"^bilinear: right_dim should be at least 1, got -1\."),
    "rate": (lambda: nf.dropout(1.5), ValueError, r"^dropout: rate should be in \[0, 1\], got 1\.5\."),
    "rate_nan": (lambda: nf.dropout(float("nan")), ValueError, r"^dropout: rate should be in \[0, 1\], got nan\."),
    "rate_word": (lambda: nf.drop_path("0.5"), TypeError, r"^drop_path: rate should be a number, got '0\.5' \(str\)"),
    "alpha": (lambda: nf.alpha_dropout(-0.1), ValueError, r"^alpha_dropout: rate should be in \[0, 1\], got -0\.1\."),
    "momentum": (
        lambda: nf.batch_norm(3, momentum=2),
        ValueError,
        r"^batch_norm: momentum should be in \[0, 1\], got 2\.",
    ),
    "eps": (lambda: nf.layer_norm(3, eps=-1e-5), ValueError, r"^layer_norm: eps should be at least 0, got -1e-05\."),
    "convention": (
        lambda: nf.batch_norm(3, convention="papers"),
        ValueError,
        r"^batch_norm: convention should be one of 'pytorch', 'paper', got 'papers'; did you mean 'paper'",
    ),
    "groups": (lambda: nf.group_norm(4, 6), ValueError, r"^group_norm: groups should divide dim, got 4 and 6\."),
    "samples": (
        lambda: nf.mc_dropout(nf.dropout(0.5), {}, ONES, key=jax.random.key(0), samples=1),
        ValueError,
        r"^mc_dropout: samples should be at least 2, got 1\.",
    ),
    "mc_key": (
        lambda: nf.mc_dropout(nf.dropout(0.5), {}, ONES, key=0),
        TypeError,
        r"^mc_dropout: key should be one random key, got 0 \(int\)\. Make one: jax\.random\.key\(0\)",
    ),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_wrong_arguments_are_named(case):
    make, kind, words = WRONG_ARGUMENTS[case]
    with pytest.raises(kind, match=words):
        make()


def test_dropout_names_a_shared_axis_that_is_not_there(key):
    with pytest.raises(ValueError, match=r"dropout: each shared axis .* got 2 for shape \(4, 7\)"):
        nf.dropout(0.5, shared=(2,)).apply({}, ONES, key=key)


def test_drop_path_needs_a_batch_axis(key):
    with pytest.raises(ValueError, match=r"drop_path: x should have a batch axis"):
        nf.drop_path(0.5).apply({}, jnp.ones(()), key=key)


def test_batch_norm_needs_two_values_a_channel():
    model = nested(nf.batch_norm(7))
    ctx = nf.Context(train=True, state=model.init_state())
    with pytest.raises(ValueError, match=r"^body/inner: batch_norm: training needs at least two .* \(1, 7\)"):
        model.forward(blank(model), ONES[:1], ctx)


def test_batch_norm_refuses_the_state_of_the_other_convention():
    state = nf.batch_norm(7, convention="paper").init_state()
    with pytest.raises(ValueError, match=r"should have the shapes .*got .*'count'.*init_state"):
        nf.batch_norm(7).apply(blank(nf.batch_norm(7)), ONES, state=state)


def test_parameters_of_another_model_are_refused():
    with pytest.raises(ValueError, match=r"^body/inner: linear: its parameters should hold 'weight', got"):
        nested(nf.linear(7, 3)).apply({"body": {"inner": {"bias": jnp.zeros(3)}}}, ONES)
