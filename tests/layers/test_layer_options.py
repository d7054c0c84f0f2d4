"""Options of layers, and combinators over weights, against PyTorch's values and gradients.

The golden numbers (tests/golden/layer_options.npz) are float64, made with PyTorch 2.13 by
scripts/golden/layer_options.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import GOLDEN as GOLDEN_FILES

import nnfunc as nf

GOLDEN = np.load(GOLDEN_FILES / "layer_options.npz")
KEY = jax.random.key(0)


def golden(case):
    arrays = {name.partition("/")[2]: GOLDEN[name] for name in GOLDEN.files if name.partition("/")[0] == case}
    assert arrays, case
    return arrays


def nested(arrays, paths):
    """{"weight": ..., ...} or, for names like weight/scale, nested dicts, of the golden arrays of these names."""
    return nf.paths.unflatten({path: jnp.asarray(arrays[path.rpartition("/")[2]]) for path in paths})


def assert_like_pytorch(model, case, *paths, state=None, x=None, rtol=1e-12):
    """y, and the gradients by x and by the parameters of these paths, in float64 and in float32."""
    arrays = golden(case)

    @jax.jit
    def run(params, x, state, dy):
        y, back = jax.vjp(lambda params, x: model.apply(params, x, state=state), params, x)
        return y, *back(dy)

    for dtype, tolerance in (("float64", rtol), ("float32", 3e-6)):
        with jax.enable_x64(dtype == "float64"):
            inputs = (
                nested(arrays, paths),
                arrays["x"] if x is None else x,
                {} if state is None else state,
                arrays["dy"],
            )
            y, dparams, dx = run(*jax.tree.map(lambda leaf, dtype=dtype: jnp.asarray(leaf, dtype), inputs))
        assert y.dtype == dtype
        near(y, arrays["y"], tolerance)
        near(dx, arrays["dx"], tolerance)
        for path, gradient in nf.paths.flatten(dparams).items():
            near(gradient, arrays["d" + path.rpartition("/")[2]], tolerance)


def near(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


def test_instance_norm_with_running_statistics():
    arrays = golden("instance_norm")
    model = nf.instance_norm(3, running_stats=True, momentum=0.3)
    with jax.enable_x64(True):
        params = nested(arrays, ("scale", "bias"))
        state = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), model.init_state())
        for i, x in enumerate(arrays["steps"]):
            y, state = model.apply_train(params, state, x)
            near(y, arrays["ys"][i], 1e-12)
            near(state["mean"], arrays["means"][i], 1e-12)
            near(state["var"], arrays["variances"][i], 1e-12)
        state = jax.tree.map(np.asarray, state)
    assert_like_pytorch(model, "instance_norm", "scale", "bias", state=state)
    with pytest.raises(ValueError, match=r"at least two values a channel of each example, got shape \(2, 1, 3\)"):
        model.apply_train(model.init(KEY), model.init_state(), jnp.ones((2, 1, 3)))


def test_biased_running_variance_by_hand():
    x = jnp.array([[1.0], [2.0], [6.0]])
    model = nf.batch_norm(1, momentum=0.25, unbiased=False)
    _, state = model.apply_train(model.init(KEY), model.init_state(), x)
    np.testing.assert_allclose(state["var"], 0.75 + 0.25 * np.var(x), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_local_response_norm(size):
    model = nf.local_response_norm(size, alpha=0.7, beta=0.6, k=1.3)
    assert_like_pytorch(model, f"local_response_norm_{size}")


def test_weight_norm():
    model = nf.weight_norm(nf.conv(3, 4, 2, dims=1, padding="valid"), "weight")
    assert_like_pytorch(model, "weight_norm", "weight/direction", "weight/scale", "bias")


def test_weight_norm_begins_as_the_model_was():
    block = nf.residual(nf.serial(up=nf.linear(3, 4), act=jnp.tanh, down=nf.linear(4, 3)))
    x, plain = jnp.ones((2, 3)), nf.repeat(block, 2)
    inside, outside = nf.repeat(nf.weight_norm(block), 2), nf.weight_norm(plain, stacked="**/weight")
    params = outside.init(KEY)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, inside.init(KEY))
    np.testing.assert_allclose(outside.apply(params, x), plain.apply(plain.init(KEY), x), rtol=1e-6)
    np.testing.assert_allclose(inside.apply(params, x), outside.apply(params, x), rtol=1e-6)


def test_spectral_norm_in_training():
    """y, the gradient of the weight and the vector in each of three steps; then the largest singular value."""
    arrays = golden("spectral_norm")
    model = nf.spectral_norm(nf.linear(5, 3, bias=False), "weight", steps=2)
    with jax.enable_x64(True):
        params, x, dy = nested(arrays, ("weight",)), jnp.asarray(arrays["x"]), jnp.asarray(arrays["dy"])
        state = {"vectors": {"weight": jnp.asarray(arrays["u"])}}
        for i in range(3):
            step = lambda params, state=state: model.apply_train(params, state, x)
            y, back, state = jax.vjp(step, params, has_aux=True)
            (gradient,) = back(dy)
            near(y, arrays["ys"][i], 1e-12)
            near(gradient["weight"], arrays["dweights"][i], 1e-12)
            near(state["vectors"]["weight"], arrays["us"][i], 1e-12)
        for _ in range(30):
            _, state = model.apply_train(params, state, x)
        near(model.apply(params, x, state=state), x @ params["weight"] / arrays["norm"], 1e-9)


def test_spectral_norm_of_stacked_layers_with_state():
    block = nf.serial(up=nf.linear(3, 3), norm=nf.batch_norm(3))
    model = nf.spectral_norm(nf.repeat(block, 2), "**/up/weight", stacked="**/up/weight", steps=50)
    params, state = model.init(KEY), model.init_state(KEY)
    assert jax.tree.map(jnp.shape, state["vectors"]) == {"up": {"weight": (2, 3)}}
    x = jnp.arange(12.0).reshape(4, 3)
    _, state = model.apply_train(params, state, x)
    one = {"up": {"weight": jax.vmap(lambda w: w / jnp.linalg.norm(w, 2))(params["up"]["weight"])}}
    plain = {"up": params["up"] | one["up"], "norm": params["norm"]}
    expected = nf.repeat(block, 2).apply(plain, x, state=state["model"])
    np.testing.assert_allclose(model.apply(params, x, state=state), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "case, equation, shape",
    [
        ("heads", "td,dhk->thk", (6, 2, 3)),
        ("join", "...thk,hkd->...td", (2, 3, 4)),
        ("groups", "gi,gio->go", (2, 3, 5)),
        ("swapped", "ij,oj->oi", (4, 6)),
    ],
)
def test_einsum_linear(case, equation, shape):
    assert_like_pytorch(nf.einsum_linear(equation, shape, bias=False), f"einsum_{case}", "weight")


def test_einsum_linear_is_linear_with_its_bias_and_fan_in():
    model, plain = nf.einsum_linear("oi,d->oid", (3,)), nf.einsum_linear("i,io->o", (4, 3))
    x, params = jnp.arange(8.0).reshape(2, 4), nf.linear(4, 3).init(KEY)
    np.testing.assert_array_equal(plain.init(KEY)["weight"], params["weight"])
    params["bias"] = jnp.arange(3.0)
    np.testing.assert_allclose(plain.apply(params, x), nf.linear(4, 3).apply(params, x), rtol=1e-6)
    outer = {"weight": jnp.array([1.0, 2.0, 3.0]), "bias": jnp.array([0.5, 0.0, 0.0])}
    assert model.apply(outer, x)[1, 2].tolist() == [6.5, 12.0, 18.0]
    wide = nf.einsum_linear("td,hdk->thk", (2, 100, 50), bias=False).init(KEY)["weight"]
    assert wide.std() == pytest.approx(0.1, rel=0.05)  # LeCun normal of the 100 that are summed over


POOLS = {
    "max_ceil": nf.max_pool(3, 2, padding=1, ceil_mode=True),
    "max_ceil_outside": nf.max_pool(2, 3, padding=1, ceil_mode=True),
    "max_ceil_dilated": nf.max_pool(2, 2, dilation=(3, 1), ceil_mode=True),
    "avg_ceil": nf.avg_pool(3, 2, padding=1, ceil_mode=True),
    "avg_ceil_inside": nf.avg_pool(3, 2, padding=1, ceil_mode=True, count_padding=False),
    "avg_divisor": nf.avg_pool(3, 2, padding=1, ceil_mode=True, divisor_override=7.0),
    "avg_line": nf.avg_pool(4, 3, ceil_mode=True, dims=1),
    "avg_dilated": nf.avg_pool(2, 2, dilation=(2, 3)),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools(name):
    assert_like_pytorch(POOLS[name], f"pool_{name}")


def test_lp_pool_with_dilation_and_a_last_window_over_the_end():
    y = nf.lp_pool(2, 2, dilation=2, ceil_mode=True, dims=1).apply(
        {}, jnp.array([3.0, 1.0, 4.0, 1.0, 5.0, 6.0])[:, None]
    )
    np.testing.assert_allclose(y[:, 0], [5.0, np.sqrt(41.0), np.sqrt(2.0) * 5.0], rtol=1e-6)


def test_pools_of_integers():
    x = jnp.array([[1, 2, 5], [4, 8, 0]], jnp.uint8)[..., None]
    y = nf.max_pool(2, padding=1).apply({}, x)
    assert (y.dtype, y[..., 0].tolist()) == (jnp.uint8, [[1, 5], [4, 8]])
    signed = nf.max_pool(2, padding=1).apply({}, -x.astype(jnp.int32))
    assert signed[..., 0].tolist() == [[-1, -2], [-4, 0]]
    assert nf.global_max_pool().apply({}, x).tolist() == [8]
    assert nf.adaptive_max_pool((1, 3)).apply({}, x)[..., 0].tolist() == [[4, 8, 5]]
    for model, expected in (
        (nf.avg_pool(2, 1), [[[3.75], [3.75]]]),
        (nf.lp_pool((2, 1), p=1.0), [[[5.0], [10.0], [5.0]]]),
        (nf.global_avg_pool(), [20 / 6]),
        (nf.adaptive_avg_pool((2, 1)), [[[8 / 3]], [[4.0]]]),
    ):
        y = model.apply({}, x)
        assert y.dtype == jnp.float32
        np.testing.assert_allclose(y, expected, rtol=1e-6)
    with pytest.raises(TypeError, match="max_pool: x should hold floats, got bool"):
        nf.max_pool(2).apply({}, x > 0)


def test_embedding_with_padding():
    arrays = golden("embedding_padding")
    model = nf.embedding(6, 3, padding_index=2)
    assert model.init(KEY)["weight"][2].tolist() == [0, 0, 0]
    with jax.enable_x64(True):
        y, back = jax.vjp(lambda weight: model.apply({"weight": weight}, arrays["ids"]), jnp.asarray(arrays["weight"]))
        (gradient,) = back(jnp.asarray(arrays["dy"]))
    np.testing.assert_array_equal(y, arrays["y"])
    near(gradient, arrays["dweight"], 1e-12)
    assert gradient[2].tolist() == [0, 0, 0]
    moved = model.apply({"weight": jnp.ones((6, 3))}, jnp.array([2]))
    assert moved.tolist() == [[1, 1, 1]]  # loaded weights are as they are


def test_lstm_with_projection():
    """y, both carries and all gradients of two layers; the bias is the sum of PyTorch's two."""
    arrays = golden("lstm_projected")
    names = ("weight", "recurrent_weight", "bias", "projection")
    model = nf.lstm(3, 4, layers=2, proj_dim=2, return_carry=True)
    shapes = jax.tree.map(jnp.shape, model.init(KEY))
    assert shapes["layer_1"] == {"weight": (2, 16), "recurrent_weight": (2, 16), "bias": (16,), "projection": (4, 2)}
    for dtype, tolerance in (("float64", 1e-12), ("float32", 3e-6)):
        with jax.enable_x64(dtype == "float64"):
            params = {f"layer_{i}": {name: jnp.asarray(arrays[f"{name}_{i}"], dtype) for name in names} for i in (0, 1)}
            run = jax.jit(model.apply)
            y, back, carry = jax.vjp(run, params, jnp.asarray(arrays["x"], dtype), has_aux=True)
            dparams, dx = back(jnp.asarray(arrays["dy"], dtype))
        near(y, arrays["y"], tolerance)
        near(dx, arrays["dx"], tolerance)
        for i in (0, 1):
            near(carry[f"layer_{i}"][0], arrays["h"][i], tolerance)
            near(carry[f"layer_{i}"][1], arrays["c"][i], tolerance)
            for name in names:
                near(dparams[f"layer_{i}"][name], arrays[f"d{name}_{i}"], tolerance)


def test_a_projected_cell_is_a_step_of_the_layer():
    cell, layer = nf.lstm_cell(3, 4, proj_dim=2, peepholes=True), nf.lstm(3, 4, proj_dim=2, peepholes=True)
    params = cell.init(KEY)
    params["peephole"] = jnp.linspace(-1, 1, 12)
    x = jnp.sin(jnp.arange(24.0)).reshape(2, 4, 3)
    lengths = jnp.array([4, 3])
    y = layer.apply({"layer_0": params}, nf.RecurrentInput(x, lengths))
    carry = nf.initial_carry(cell, params, x[:, 0])
    assert [part.shape for part in carry] == [(2, 2), (2, 4)]
    for time in range(3):
        carry, step = cell.apply(params, (carry, x[:, time]))
        np.testing.assert_allclose(y[:, time], step, rtol=1e-5, atol=1e-6)
    assert y[1, 3].tolist() == [0, 0]


CAUSAL = {"plain": (3, 1, 1), "strided": (4, 2, 1), "dilated": (3, 1, 2)}


def causal(name):
    kernel, stride, dilation = CAUSAL[name]
    return nf.conv(3, 4, kernel, stride=stride, dilation=dilation, padding="causal", dims=1)


@pytest.mark.parametrize("name", CAUSAL)
def test_causal_convolution(name):
    assert_like_pytorch(causal(name), f"causal_{name}", "weight", "bias")


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_convolution_in_chunks_equals_the_whole(name):
    arrays, model = golden(f"causal_{name}"), causal(name)
    params = {name: jnp.asarray(arrays[name], jnp.float32) for name in ("weight", "bias")}
    x = jnp.asarray(arrays["x"], jnp.float32)
    y, state = nf.generation.prefill(model, params, x[:, :2], 8)
    chunks = [y]
    for start, stop in ((2, 6), (6, 8)):
        y, state = nf.generation.decode(model, params, x[:, start:stop], state, 8)
        chunks.append(y)
    whole = jax.jit(model.apply)(params, x)
    np.testing.assert_allclose(jnp.concatenate(chunks, axis=1), whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(state["inputs"], x[:, 8 - state["inputs"].shape[1] :])


@pytest.mark.slow
def test_a_deep_causal_model_generates():
    """Embedding, two causal convolutions and a head, token by token with the state of both."""
    model = nf.serial(
        embed=nf.embedding(7, 6),
        first=nf.depthwise_conv(6, 3, dims=1, padding="causal"),
        act=jnp.tanh,
        second=nf.conv(6, 7, 2, dims=1, padding="causal", dilation=3),
    )
    params = jax.tree.map(lambda leaf: 3 * leaf, model.init(KEY))
    tokens, _ = nf.generate(model, params, jnp.array([[1, 2, 3]]), 6, temperature=0.0)
    for position in range(3, 9):
        logits = model.apply(params, tokens[:, :position])
        assert int(logits[0, -1].argmax()) == tokens[0, position]


def test_attention_to_values_of_another_sequence_with_weights():
    """y, weights and gradients of torch.nn.MultiheadAttention with kdim, vdim and a mask."""
    arrays = golden("attention_values")
    model = nf.attention(6, 2, context_dim=5, value_dim=4, return_weights=True)
    paths = [f"{part}/{name}" for part in ("query", "key", "value", "out") for name in ("weight", "bias")]
    for dtype, tolerance in (("float64", 1e-12), ("float32", 3e-6)):
        with jax.enable_x64(dtype == "float64"):
            params = nf.paths.unflatten({path: jnp.asarray(arrays[path.replace("/", "_")], dtype) for path in paths})
            inputs = [jnp.asarray(arrays[name], dtype) for name in ("x", "context", "value")]

            def apply(params, x, context, value):
                return model.apply(params, nf.AttentionInput(x, context, jnp.asarray(arrays["mask"]), value=value))

            y, back, weights = jax.vjp(apply, params, *inputs, has_aux=True)
            dparams, *gradients = back(jnp.asarray(arrays["dy"], dtype))
        near(y, arrays["y"], tolerance)
        near(weights, arrays["weights"], tolerance)
        for name, gradient in zip(("x", "context", "value"), gradients, strict=True):
            near(gradient, arrays[f"d{name}"], tolerance)
        for part in ("query", "key", "value"):
            near(dparams[part]["weight"], arrays[f"d{part}_weight"], tolerance)


def test_returned_weights_are_those_of_the_tap():
    x, options = jnp.sin(jnp.arange(48.0)).reshape(2, 4, 6), {"causal": True, "kv_heads": 1}
    plain, model = nf.attention(6, 2, **options), nf.attention(6, 2, **options, return_weights=True)
    params = plain.init(KEY)
    y, weights = model.apply(params, x)
    np.testing.assert_allclose(y, plain.apply(params, x), rtol=1e-5, atol=1e-6)
    _, taps = nf.capture(plain, "weights")(params, x)
    np.testing.assert_allclose(weights, taps["weights"], rtol=1e-6)
    assert weights.shape == (2, 2, 4, 4)


def test_rotary_of_tables():
    arrays = golden("rotary_tables")
    tables = arrays["cos"][:, :4], arrays["sin"][:, :4]
    positions = jnp.arange(1, 6)
    with jax.enable_x64(True):
        x, dy = jnp.asarray(arrays["x"]), jnp.asarray(arrays["dy"])
        y, back = jax.vjp(lambda x: nf.rotary(x, positions, tables=tables), x)
        near(y, arrays["y"], 1e-12)
        near(back(dy)[0], arrays["dx"], 1e-12)
        angles = np.arange(9)[:, None] * 100.0 ** -(np.arange(0, 6, 2) / 6)
        for interleaved in (False, True):
            by_base = nf.rotary(x, base=100.0, dim=6, interleaved=interleaved)
            by_tables = nf.rotary(x, tables=(np.cos(angles), np.sin(angles)), interleaved=interleaved)
            near(by_tables, by_base, 1e-12)
        outside = nf.rotary(x, jnp.array([0, 1, 5, 6, -1]), tables=tables)
    assert np.isnan(outside).any((0, 2, 3)).tolist() == [False, False, False, True, True]


def test_attention_with_tables_generates_as_it_reads():
    angles = np.arange(8)[:, None] * 50.0 ** -(np.arange(0, 4, 2) / 4)
    options = {"causal": True, "positions": "rotary"}
    model = nf.attention(8, 2, **options, rotary_tables=(np.cos(angles), np.sin(angles)))
    x, by_base = jnp.sin(jnp.arange(48.0)).reshape(1, 6, 8), nf.attention(8, 2, **options, rotary_base=50.0)
    params = model.init(KEY)
    whole = by_base.apply(params, x)
    y, state = nf.generation.prefill(model, params, x[:, :4], 8)
    more, _ = nf.generation.decode(model, params, x[:, 4:], state, 8)
    np.testing.assert_allclose(jnp.concatenate([y, more], 1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: nf.einsum_linear("td->t", (3,)), r"equation should be 'x,weight->y' .* got 'td->t'"),
        (lambda: nf.einsum_linear("td,dk->tq", (3, 2)), r"axis of y should be one of x or of the weight, got \['q'\]"),
        (lambda: nf.einsum_linear("td,k->tk", (2,)), r"summed over should be one of x and of the weight, got \['d'\]"),
        (lambda: nf.einsum_linear("td,dk->tk", (2,)), r"a size for each of the axes 'dk' of the weight, got \(2,\)"),
        (
            lambda: nf.einsum_linear("td,dk->tk", (6, 2)).apply({"weight": jnp.ones((6, 2))}, jnp.ones((4, 5))),
            r"x should be \[..., t, d=6\], got shape \(4, 5\)",
        ),
        (lambda: nf.weight_norm(nf.linear(3, 2), "bias"), r"bias should have at least 2 axes, got shape \(2,\)"),
        (lambda: nf.weight_norm(jnp.tanh), r"weight_norm: on: "),
        (lambda: nf.spectral_norm(nf.linear(3, 2), "weight", steps=0), "steps should be at least 1, got 0"),
        (
            lambda: nf.spectral_norm(nf.linear(3, 2), "weight").init_state(),
            r"spectral_norm.* needs a key. Call model.init_state\(key\)",
        ),
        (lambda: nf.local_response_norm(0), "size should be at least 1, got 0"),
        (lambda: nf.avg_pool(2, divisor_override=0), "avg_pool: divisor_override should be above 0, got 0"),
        (lambda: nf.embedding(5, 2, padding_index=5), "embedding: padding_index should be at most 4, got 5"),
        (
            lambda: nf.rotary(jnp.ones((5, 2, 8)), tables=(jnp.ones((6, 4)), jnp.ones((6, 3)))),
            r"cos \(6, 4\) and sin \(6, 3\)",
        ),
        (
            lambda: nf.rotary(jnp.ones((5, 2, 8)), dim=6, tables=(jnp.ones((6, 4)), jnp.ones((6, 4)))),
            r"tables should be \[length, 3\], got shape \(6, 4\)",
        ),
        (
            lambda: nf.attention(8, 2, rotary_tables=(jnp.ones((6, 2)), jnp.ones((6, 2)))),
            "positions should be 'rotary' with rotary_tables, got None",
        ),
        (
            lambda: nf.attention(6, 2, value_dim=4).apply(nf.attention(6, 2, value_dim=4).init(KEY), jnp.ones((3, 6))),
            "with a value if and only if the layer has a value_dim, got no value and value_dim=4",
        ),
        (
            lambda: nf.attention(6, 2, value_dim=4).apply(
                nf.attention(6, 2, value_dim=4).init(KEY), nf.AttentionInput(jnp.ones((3, 6)), value=jnp.ones((2, 4)))
            ),
            r"the length of the sequence of the keys, got \(2, 4\) and \(3, 6\)",
        ),
        (lambda: nf.lstm(3, 4, proj_dim=0), "lstm: proj_dim should be at least 1, got 0"),
        (
            lambda: nf.lstm_cell(3, 4, proj_dim=2).apply(
                nf.lstm_cell(3, 4, proj_dim=2).init(KEY), ((jnp.ones(4), jnp.ones(4)), jnp.ones(3))
            ),
            r"lstm_cell: h should have shape \(2,\), got shape \(4,\)",
        ),
        (
            lambda: nf.conv(3, 4, 3, padding="causal"),
            r"padding='causal' should have one spatial axis, got 2. Set dims=1",
        ),
        (lambda: nf.max_pool(3, padding="causal"), r"padding should be one of 'same', 'valid', got 'causal'"),
        (
            lambda: nf.generation.prefill(causal("strided"), causal("strided").init(KEY), jnp.ones((1, 3, 3)), 8),
            "a chunk should be a multiple of the stride, 2, got 3 positions",
        ),
    ],
)
def test_messages_of_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
