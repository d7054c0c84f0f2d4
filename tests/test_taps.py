"""Looking inside: captured values are those that are computed, under every transformation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf

LAYERS = 3
X = jax.random.normal(jax.random.key(5), (4, 6))


def body():
    return nf.serial(up=nf.linear(6, 6), act=jnp.tanh, norm=nf.batch_norm(6), drop=nf.dropout(0.4))


def model(*, unroll=1, wrap=lambda layer: layer):
    blocks = nf.repeat(nf.residual(wrap(body())), LAYERS, unroll=unroll)
    return nf.serial(stem=nf.linear(6, 6), blocks=blocks, head=nf.linear(6, 2))


def by_hand(params, x, key):
    """(y, [layers, batch, dim]): the same net without combinators, one eager call after another."""
    key = nf.base.fold(nf.base.fold(key, "apply"), "blocks")
    x = nf.linear(6, 6).apply(params["stem"], x)
    seen = []
    for i in range(LAYERS):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]["body"])
        act = jnp.tanh(nf.linear(6, 6).apply(own["up"], x))
        seen.append(act)
        norm = nf.batch_norm(6)
        y = norm.apply(own["norm"], act, state=norm.init_state())
        own_key = jax.random.fold_in(key, i)
        drop_key = nf.base.fold(nf.base.fold(own_key, "body"), "drop")
        y, _ = nf.dropout(0.4).forward({}, y, nf.Context(key=drop_key))
        x = x + y
    return nf.linear(6, 2).apply(params["head"], x), jnp.stack(seen)


STATE = model().init_state()


@pytest.fixture(scope="module")
def params():
    return model().init(jax.random.key(0))


@pytest.fixture(scope="module")
def expected(params):
    return by_hand(params, X, jax.random.key(1))


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(
    "net", [model(), model(unroll=LAYERS), model(wrap=nf.remat)], ids=["scan", "unrolled", "remat"]
)
def test_capture_equals_the_unrolled_eager_values(net, wrap, params, expected):
    y, taps = wrap(nf.capture(net, "blocks/*/body/act"))(params, X, key=jax.random.key(1), state=STATE)
    assert list(taps) == ["blocks/*/body/act"]
    close(taps["blocks/*/body/act"], expected[1])
    close(y, expected[0])


def test_the_name_of_a_layer_in_a_repeated_block():
    """`blocks/*/act`, as the design writes it, for blocks without a residual around them."""
    net = nf.serial(blocks=nf.repeat(nf.remat(nf.serial(up=nf.linear(6, 6), act=jnp.tanh)), LAYERS))
    params = net.init(jax.random.key(0))
    y, taps = jax.jit(nf.capture(net, "blocks/*/act"))(params, X)
    assert taps["blocks/*/act"].shape == (LAYERS, 4, 6)
    np.testing.assert_array_equal(taps["blocks/*/act"][-1], y)


def test_capture_under_vmap_scan_and_grad(params):
    captured = nf.capture(model(wrap=nf.remat), ["blocks/*/body/act", "head"])
    keys = jax.random.split(jax.random.key(2), 2)
    xs = jnp.stack([X, X[::-1] * 0.5])
    alone = [by_hand(params, x, key) for x, key in zip(xs, keys, strict=True)]

    vmapped = jax.jit(jax.vmap(lambda x, key: captured(params, x, key=key, state=STATE)))(xs, keys)
    _, scanned = jax.lax.scan(lambda c, own: (c, captured(params, own[0], key=own[1], state=STATE)), None, (xs, keys))
    for y, taps in (vmapped, scanned):
        for i in range(2):
            close(taps["blocks/*/body/act"][i], alone[i][1])
            close(taps["head"][i], alone[i][0])
            close(y[i], alone[i][0])

    def loss(params):
        y, taps = captured(params, X, key=keys[0], state=STATE)
        return y.sum(), taps

    _, taps = jax.jit(jax.grad(loss, has_aux=True))(params)
    close(taps["blocks/*/body/act"], by_hand(params, X, keys[0])[1])


def test_capture_everything_in_the_order_of_the_paths(params):
    y, taps = nf.capture(model(), "**")(params, X, state=STATE)
    names = {"stem", "blocks", "head", "blocks/*", "blocks/*/body"}
    assert set(taps) == names | {f"blocks/*/body/{name}" for name in ("up", "act", "norm", "drop")}
    np.testing.assert_array_equal(taps["head"], y)


def test_capture_in_training_mode_uses_the_batch(params):
    _, plain = nf.capture(model(), "blocks/*/body/norm")(params, X, state=STATE)
    _, train = nf.capture(model(), "blocks/*/body/norm")(params, X, state=STATE, train=True)
    close(train["blocks/*/body/norm"].mean(1), jnp.zeros((LAYERS, 6)))
    assert not np.allclose(plain["blocks/*/body/norm"].mean(1), 0, atol=1e-3)


def test_capture_leaks_no_tracer(params):
    with jax.checking_leaks():
        jax.eval_shape(partial(nf.capture(model(), "blocks/*/body/act"), state=STATE), params, X)
        jax.eval_shape(partial(nf.capture(model(wrap=nf.remat), "**"), state=STATE), params, X)


def test_a_second_call_has_a_path_of_its_own():
    net = nf.wire(lambda net, x: net.double(net.double(x)), double=lambda x: 2 * x)
    _, taps = nf.capture(net, ["double", "double@1"])({}, jnp.array(1.0))
    assert {path: float(tap) for path, tap in taps.items()} == {"double": 2.0, "double@1": 4.0}


@pytest.mark.parametrize(
    "look",
    [
        lambda pattern: nf.capture(model(), pattern),
        lambda pattern: nf.patch(model(), {pattern: jnp.zeros((LAYERS, 4, 6))}).apply,
    ],
)
def test_an_unknown_path_names_the_nearest(look, params):
    words = r"(capture|patch): .*'blocks/\*/body/atc'.* did you mean .*'blocks/\*/body/act'"
    with pytest.raises(ValueError, match=words):
        look("blocks/*/body/atc")(params, X, state=STATE)


# patch


@pytest.mark.parametrize(
    "net", [model(), model(unroll=LAYERS), model(wrap=nf.remat)], ids=["scan", "unrolled", "remat"]
)
def test_a_patched_value_takes_the_place_of_the_computed_one(net, params, expected):
    path = "blocks/*/body/act"
    patched = jax.jit(lambda value: nf.patch(net, {path: value}).apply(params, X, key=jax.random.key(1), state=STATE))
    close(patched(expected[1]), expected[0])

    first = np.asarray(expected[1]).copy()
    first[0] = 0.0  # the first block's; the others are set too, so its only way on is the skip
    changed = patched(first)
    assert not np.allclose(changed, expected[0], atol=1e-3)
    _, taps = nf.capture(nf.patch(net, {path: first}), path)(params, X, key=jax.random.key(1), state=STATE)
    np.testing.assert_array_equal(taps[path], first)


def test_patch_is_differentiated_with_respect_to_the_value(params):
    """The gradient at a tap equals that of the rest of the net, written out."""
    net = nf.serial(up=nf.linear(6, 6), act=jnp.tanh, down=nf.linear(6, 1))
    params = net.init(jax.random.key(0))
    value = jnp.tanh(nf.linear(6, 6).apply(params["up"], X))

    def loss(value, params):
        return jnp.sum(nf.patch(net, {"act": value}).apply(params, X) ** 2)

    at_value, at_params = jax.jit(jax.grad(loss, (0, 1)))(value, params)
    y = net.apply(params, X)
    close(at_value, 2 * y * params["down"]["weight"].T)
    assert not np.any(at_params["up"]["weight"]), "nothing flows past a value that was put in"
    assert np.any(at_params["down"]["weight"])


def test_gradients_at_every_layer_of_a_repeated_block(params, expected):
    """Finite differences through a patched scan: layer i's entry moves only what comes after it."""
    path, net = "blocks/*/body/act", model(wrap=nf.remat)
    loss = jax.jit(lambda v: jnp.sum(nf.patch(net, {path: v}).apply(params, X, key=jax.random.key(1), state=STATE)))
    grads = jax.grad(loss)(expected[1])
    assert grads.shape == (LAYERS, 4, 6)
    for i in range(LAYERS):
        step = jnp.zeros((LAYERS, 4, 6)).at[i, 1, 2].set(0.05)
        slope = (loss(expected[1] + step) - loss(expected[1] - step)) / 0.1
        np.testing.assert_allclose(slope, grads[i, 1, 2], rtol=1e-3, atol=1e-4)


def test_patch_under_vmap(params):
    values = jnp.stack([jnp.zeros((4, 2)), jnp.ones((4, 2))])
    found = jax.vmap(lambda value: nf.patch(model(), {"head": value}).apply(params, X, state=STATE))(values)
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    "value, words",
    [
        (jnp.zeros((4, 3)), r"patch: the given value at head should .* float32\[4, 2\], got float32\[4, 3\]"),
        (jnp.zeros((4, 2), jnp.int32), r"float32\[4, 2\], got int32\[4, 2\]"),
    ],
)
def test_a_value_of_another_kind_is_refused(value, words, params):
    with pytest.raises(ValueError, match=words):
        nf.patch(model(), {"head": value}).apply(params, X, state=STATE)


def test_a_patch_without_one_place_a_layer_is_refused(params):
    with pytest.raises(ValueError, match=r"blocks/\*/body/act should have a leading axis of 3"):
        nf.patch(model(), {"blocks/*/body/act": jnp.zeros((4, 6))}).apply(params, X, state=STATE)


def test_patches_nest_and_the_outer_one_wins():
    net = nf.serial(a=lambda x: x + 1, b=lambda x: x + 1)
    inner = nf.patch(net, {"a": jnp.array(10.0)})
    assert inner.apply({}, jnp.array(0.0)) == 11
    assert nf.patch(inner, {"b": jnp.array(5.0)}).apply({}, jnp.array(0.0)) == 5


def test_a_patched_model_inside_another_keeps_its_paths():
    net = nf.serial(act=lambda x: 2 * x)
    outer = nf.serial(left=nf.patch(net, {"act": jnp.array(7.0)}), right=net)
    y, taps = nf.capture(outer, "**/act")({}, jnp.array(1.0))
    assert {path: float(tap) for path, tap in taps.items()} == {"left/act": 7.0, "right/act": 14.0}
    assert y == 14


def test_ensemble_members_share_a_path(params):
    net = nf.serial(crowd=nf.ensemble(nf.serial(up=nf.linear(6, 2)), 5))
    y, taps = nf.capture(net, "crowd/*/up")(net.init(jax.random.key(0)), X)
    np.testing.assert_array_equal(taps["crowd/*/up"], y)
    assert y.shape == (5, 4, 2)


def mapped():
    return nf.wire(lambda net, x: jax.vmap(net.body)(x), body=nf.serial(up=nf.linear(6, 4), act=jnp.tanh))


def scanned():
    def flow(net, x):
        return jax.lax.scan(lambda carry, row: (net.cell(carry + row), carry), jnp.zeros_like(x[0]), x)[1]

    return nf.wire(flow, cell=nf.linear(6, 6))


@pytest.mark.parametrize("make", [mapped, scanned])
def test_a_child_inside_a_transformation_leaks_no_tracer(make):
    inside = make()
    net = nf.serial(inside=inside, head=jnp.sum)
    params = net.init(jax.random.key(0))
    with jax.checking_leaks():
        y, taps = nf.capture(net, "**")(params, X)
    assert list(taps) == ["inside", "head"]
    np.testing.assert_array_equal(y, net.apply(params, X))
    child = "body" if make is mapped else "cell"
    with pytest.raises(ValueError, match=f"inside/{child} is computed inside a transformation such as jax.vmap"):
        nf.capture(net, f"inside/{child}")(params, X)
    summary = nf.summary(net, X.shape)
    assert f"shown for one call: inside/{child}." in str(summary)
    assert summary.params == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_state_cannot_change_inside_a_transformation():
    net = nf.wire(lambda net, x: jax.lax.map(net.norm, x), norm=nf.batch_norm(3))
    x = jnp.arange(24.0).reshape(2, 4, 3)
    assert net.apply(net.init(jax.random.key(0)), x, state=net.init_state()).shape == (2, 4, 3)
    with pytest.raises(ValueError, match="norm: it keeps state, and is called inside a transformation") as caught:
        net.apply_train(net.init(jax.random.key(0)), net.init_state(), x)
    assert "nf.repeat" in caught.value.hint


def deep():
    return nf.serial(blocks=nf.repeat(nf.residual(nf.serial(up=nf.linear(6, 6), act=jnp.tanh)), LAYERS))


def deep_by_hand(params, x, change):
    """change(act, layer) -> act, one eager layer after another."""
    for i in range(LAYERS):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]["body"]["up"])
        x = x + change(jnp.tanh(nf.linear(6, 6).apply(own, x)), i)
    return x


PATH = "blocks/*/body/act"
LAYER_PATCHES = {
    "one layer": ({"blocks/1/body/act": jnp.ones((4, 6))}, lambda act, i: jnp.ones_like(act) if i == 1 else act),
    "one layer, added": ({"blocks/1/body/act": nf.Nudge(jnp.ones(6))}, lambda act, i: act + float(i == 1)),
    "all layers, a function": ({PATH: lambda act: 2 * act}, lambda act, i: 2 * act),
    "all layers, a function of the layer": (
        {PATH: lambda act, layer: act * layer.astype(float)},
        lambda act, i: act * i,
    ),
    "one layer, a function": ({"blocks/2/body/act": jnp.negative}, lambda act, i: -act if i == 2 else act),
    "a pattern": ({"**/act": lambda act: act**2}, lambda act, i: act**2),
    "a pattern and a layer": ({"**/0/**/act": lambda act: act + 1}, lambda act, i: act + float(i == 0)),
    "two layers": (
        {"blocks/0/body/act": nf.Nudge(1.0), "blocks/2/body/act": lambda act, layer: act * layer.astype(float)},
        lambda act, i: act + 1 if i == 0 else act * i if i == 2 else act,
    ),
}


@pytest.mark.parametrize("name", LAYER_PATCHES)
def test_layers_that_follow_see_a_patched_one(name):
    patches, change = LAYER_PATCHES[name]
    params = deep().init(jax.random.key(1))
    patched = nf.patch(deep(), patches)
    for call in (patched.apply, jax.jit(patched.apply)):
        np.testing.assert_allclose(call(params, X), deep_by_hand(params, X, change), rtol=1e-4)


def test_the_gradient_of_a_nudge_is_that_of_its_value():
    params = deep().init(jax.random.key(1))

    def loss(delta, layer):
        return nf.patch(deep(), {f"blocks/{layer}/body/act": nf.Nudge(delta)}).apply(params, X).sum()

    def by_hand(delta, layer):
        return deep_by_hand(params, X, lambda act, i: act + delta if i == layer else act).sum()

    for layer in range(LAYERS):
        zero = jnp.zeros((4, 6))
        np.testing.assert_allclose(jax.grad(loss)(zero, layer), jax.grad(by_hand)(zero, layer), rtol=1e-5)


def test_capture_of_one_layer():
    params = deep().init(jax.random.key(1))
    _, taps = nf.capture(deep(), [PATH, "blocks/2/body/act", "**/0/**/up"])(params, X)
    assert sorted(taps) == ["blocks/*/body/act", "blocks/0/body/up", "blocks/2/body/act"]
    np.testing.assert_array_equal(taps["blocks/2/body/act"], taps[PATH][2])


def test_layers_of_nested_repeats():
    inner = nf.repeat(nf.serial(add=lambda x: x + 1), 3)
    net = nf.serial(outer=nf.repeat(nf.serial(inner=inner), 2))
    zero = jnp.zeros(())
    seen = nf.capture(net, ["outer/1/inner/0/add", "outer/*/inner/2/add"])({}, zero)[1]
    assert float(seen["outer/1/inner/0/add"]) == 4
    assert seen["outer/*/inner/2/add"].tolist() == [3, 6]
    assert float(nf.patch(net, {"outer/1/inner/0/add": zero}).apply({}, zero)) == 2
    assert float(nf.patch(net, {"outer/1/inner/*/add": jnp.array([1.0, 1, 5])}).apply({}, zero)) == 5
    last = nf.patch(net, {"**/add": lambda x, layer: x * (layer[0] + layer[1] < 3).astype(float)})
    assert float(last.apply({}, zero)) == 0


def test_layers_that_do_not_exist():
    params = deep().init(jax.random.key(1))
    for layer in ("3", "99"):
        with pytest.raises(ValueError, match=r"blocks/\*/body/act should have its layer in \[0, 3\), got"):
            nf.patch(deep(), {f"blocks/{layer}/body/act": jnp.negative}).apply(params, X)
        with pytest.raises(ValueError, match=r"blocks/\*/body/act should have its layer in \[0, 3\), got"):
            nf.capture(deep(), f"blocks/{layer}/body/act")(params, X)
    with pytest.raises(ValueError, match="should have the shape and type of the value it replaces"):
        nf.patch(deep(), {"blocks/*/body/act": lambda act: act[:1]}).apply(params, X)


def test_one_copy_of_an_ensemble_is_patched():
    net = nf.serial(copies=nf.ensemble(nf.serial(double=lambda x: 2 * x), 3))
    y = nf.patch(net, {"copies/1/double": jnp.array(7.0)}).apply({}, jnp.ones(()))
    assert y.tolist() == [2, 7, 2]


def adding(name="add"):
    return nf.serial(**{name: lambda x: x + 1})


def test_a_patch_within_a_repeat_knows_its_layer():
    inner, zero = nf.repeat(adding(), 3), jnp.zeros(())
    for patch in (lambda v: 0 * v, zero):
        patched = nf.patch(inner, {"1/add": patch})
        assert float(nf.repeat(patched, 2).apply({}, zero)) == 1
        assert nf.ensemble(patched, 2).apply({}, zero).tolist() == [1, 1]
    block = nf.patch(adding(), {"add": lambda v, layer: v if layer is None else v + layer.astype(float)})
    stack = nf.repeat(block, 3)
    assert float(stack.apply({}, zero)) == 6
    assert float(nf.patch(stack, {"1/add": lambda v: v}).apply({}, zero)) == 6  # an identity changes nothing
    assert float(block.apply({}, zero)) == 1


def test_a_partial_gets_the_layer():
    def shift(by, value, layer):
        return value + by * layer.astype(float)

    net = nf.patch(nf.repeat(adding(), 3), {"*/add": partial(shift, 10.0)})
    assert float(net.apply({}, jnp.zeros(()))) == 33


def test_patches_of_half_precision():
    net = nf.precision(nf.serial(a=nf.linear(2, 2), b=jnp.tanh), jnp.bfloat16)
    params, x = net.init(jax.random.key(0)), jnp.ones((3, 2))
    for patch in (nf.Nudge(jnp.zeros((3, 2))), lambda v: v.astype(jnp.float32)):
        np.testing.assert_array_equal(nf.patch(net, {"b": patch}).apply(params, x), net.apply(params, x))


def test_buffers_that_do_not_change_pass_through_transformations():
    def forward(params, x, ctx):
        return jnp.sin(x @ ctx.state["frequencies"]), nf.Out(ctx.state)

    buffer = nf.Model(lambda key: {}, forward=forward, init_state=lambda: {"frequencies": jnp.ones((1, 4))})
    net = nf.wire(lambda net, x: jax.vmap(net.features)(x), features=buffer)
    y, state = net.apply_train({}, net.init_state(), jnp.ones((3, 1)))
    np.testing.assert_array_equal(y, buffer.apply({}, jnp.ones((3, 1)), state=buffer.init_state()))
    assert jax.tree.structure(state) == jax.tree.structure(net.init_state())


# the residual stream


def test_the_outputs_of_repeated_blocks():
    params = deep().init(jax.random.key(1))
    y, taps = nf.capture(deep(), ["blocks/*", "blocks/1", PATH])(params, X)
    np.testing.assert_allclose(taps["blocks/*"], X + jnp.cumsum(taps[PATH], 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(taps["blocks/*"][-1], y)
    np.testing.assert_array_equal(taps["blocks/1"], taps["blocks/*"][1])
    cut = nf.patch(deep(), {"blocks/1": jnp.zeros((4, 6))})  # the third block begins at 0
    last = jax.tree.map(lambda leaf: leaf[2], params["blocks"]["body"]["up"])
    np.testing.assert_allclose(cut.apply(params, X), jnp.tanh(nf.linear(6, 6).apply(last, 0 * X)), rtol=1e-5)
    copies = nf.ensemble(nf.linear(6, 2), 3)
    y, taps = nf.capture(copies, "*")(copies.init(jax.random.key(0)), X)
    np.testing.assert_array_equal(taps["*"], y)


# tapped


def test_tapped_is_capture_as_a_model(params):
    patterns = ["blocks/*/body/act", "blocks/2/body/up", "head"]
    net, key = nf.tapped(model(), patterns), jax.random.key(1)
    y, taps = nf.capture(model(), patterns)(params, X, key=key, state=STATE)
    assert jax.tree.structure(net.init(key)) == jax.tree.structure(params)
    call = lambda x: net.apply(params, x, key=key, state=STATE)
    for actual in (
        call(X),
        jax.jit(call)(X),
        jax.tree.map(lambda leaf: leaf[1], jax.vmap(call)(jnp.stack([0 * X, X]))),
    ):
        jax.tree.map(close, actual, (y, taps))
    assert net.forward(params, X, nf.Context(state=STATE))[1].taps == {}  # nothing outside asks for taps
    (_, trained), state = net.apply_train(params, STATE, X)
    close(trained["head"], model().apply_train(params, STATE, X)[0])
    assert jax.tree.structure(state) == jax.tree.structure(STATE)
    with pytest.raises(ValueError, match=r"tapped: the pattern 'haed' should match .* did you mean 'head'"):
        nf.tapped(model(), "haed").apply(params, X, state=STATE)


def test_tapped_inside_larger_models():
    """Its paths are relative, and those of the model around it stay."""
    inner = nf.tapped(deep(), ["blocks/*/body/act", "blocks/1"])
    net = nf.wire(lambda net, x: (net.first(x), net.last(net.first(x)[0])), first=inner, last=nf.linear(6, 2))
    params = net.init(jax.random.key(0))
    ((y, inside), _), taps = nf.capture(net, "**/up")(params, X)
    assert sorted(inside) == ["blocks/*/body/act", "blocks/1"]
    assert sorted(taps) == ["first/blocks/*/body/up", "first@1/blocks/*/body/up"]
    _, expected = nf.capture(deep(), ["blocks/*/body/act", "blocks/1"])(params["first"], X)
    jax.tree.map(close, inside, expected)
    copies = nf.ensemble(inner, 2)
    _, stacked = copies.apply(copies.init(jax.random.key(0)), X)
    assert {path: tap.shape for path, tap in stacked.items()} == {
        "blocks/*/body/act": (2, LAYERS, 4, 6),
        "blocks/1": (2, 4, 6),
    }
    hidden = nf.wire(lambda net, x: jax.vmap(net.body)(x), body=nf.tapped(deep(), "blocks/2"))
    y, inside = hidden.apply({"body": params["first"]}, X)
    np.testing.assert_allclose(inside["blocks/2"], y, rtol=1e-6)
    with pytest.raises(ValueError, match="tapped: body/blocks is computed inside a transformation"):
        nf.tapped(hidden, "body/blocks").apply({"body": params["first"]}, X)


@pytest.mark.parametrize("watch_every", [None, 1])
def test_an_objective_of_inner_values(watch_every):
    """An activation penalty: training makes the activations smaller, and the gradient flows through the taps."""
    net = nf.tapped(nf.serial(up=nf.linear(6, 4), act=jnp.tanh, norm=nf.batch_norm(4), drop=nf.dropout(0.1)), "act")

    def objective(predict, batch):
        y, taps = predict(batch)
        return jnp.square(taps["act"]).mean() + 0 * y.sum(), {}

    data = nf.data.arrays(np.asarray(X), batch_size=4)
    build = lambda h: nf.Task(net, objective, nf.optimizers.sgd(h["rate"]))
    state, history = nf.train(
        build, {"rate": 0.5}, data, steps=20, key=jax.random.key(0), watch_every=watch_every, log_every=5
    )
    assert history.train["loss"][-1] < 0.5 * history.train["loss"][0]
    assert jnp.any(state.model_state["norm"]["mean"] != 0)


def test_patches_apply_in_the_order_of_the_dict():
    """Wherever JAX would sort them by their paths: inside of remat, scan and vmap."""
    add, double, ones = lambda act: act + 1, lambda act: 2 * act, jnp.ones(2)
    act = nf.serial(act=lambda x: x)
    models = {
        "flat": (act, "act", "*"),
        "remat": (nf.remat(act), "act", "*"),
        "repeat": (nf.repeat(act, 1), "*/act", "**/act"),
        "one layer": (nf.repeat(act, 1), "0/act", "**/act"),
        "ensemble": (nf.ensemble(act, 1), "*/act", "**/act"),
    }
    for name, (model, *patterns) in models.items():
        for first, last in (patterns, reversed(patterns)):
            for change in (lambda patches, model=model: nf.patch(model, patches).apply({}, ones).ravel()[0],):
                assert change({first: add, last: double}) == 4, name
                assert change({first: double, last: add}) == 3, name
    stacked = nf.repeat(act, 1)
    for value, expected in ((jnp.full((1, 2), 5.0), (10, 5)), (nf.Nudge(jnp.full((1, 2), 5.0)), (12, 7))):
        patches = {"*/act": value, "**/act": double}
        before, after = nf.patch(stacked, patches), nf.patch(stacked, dict(reversed(patches.items())))
        assert (before.apply({}, ones)[0], after.apply({}, ones)[0]) == expected


def test_a_patch_around_a_patched_model_applies_after_it():
    add, double = lambda act: act + 1, lambda act: 2 * act
    act = nf.serial(act=lambda x: x)
    for path in ("act", "*"):
        assert nf.patch(nf.patch(act, {path: add}), {"act": double}).apply({}, jnp.ones(())) == 4
    around = nf.serial(inside=nf.patch(act, {"act": jnp.array(5.0)}))
    assert nf.patch(around, {"inside/act": jnp.array(7.0)}).apply({}, jnp.ones(())) == 7


def test_a_nudge_broadcasts_to_its_value_or_is_refused():
    params, model = deep().init(jax.random.key(1)), deep()
    whole = nf.patch(model, {"blocks/1/body/act": nf.Nudge(jnp.ones((4, 6)))}).apply(params, X)
    for delta in (1.0, jnp.ones(6), jnp.ones((4, 1))):
        nudged = nf.patch(model, {"blocks/1/body/act": nf.Nudge(delta)}).apply(params, X)
        np.testing.assert_allclose(nudged, whole, rtol=1e-6)
    for delta in (jnp.ones((4, 5)), jnp.ones(4), jnp.ones((2, 4, 6)), {"a": 1.0}):
        with pytest.raises(ValueError, match=r"the Nudge at blocks/\*/body/act should fit the shape \[4, 6\], got"):
            nf.patch(model, {"blocks/1/body/act": nf.Nudge(delta)}).apply(params, X)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, 2.0], r"the value of 'blocks/0' .* got \[1\.0, 2\.0\] \(list\)\. Convert it: jnp\.asarray"),
        ("zero", r"should be an array, an nf\.Nudge or a function of the value, got 'zero' \(str\)"),
        (None, "got None"),
        (nf.linear(6, 6), "got <nnfunc model linear"),
        (nf.Nudge, r"Write nf\.Nudge\(delta\)"),
        (lambda act, i: act, "should take the value, and perhaps layer, got a parameter 'i'"),
    ],
)
def test_what_is_no_patch_is_refused(value, message):
    with pytest.raises(TypeError, match=f"patch: .*{message}"):
        nf.patch(deep(), {"blocks/0": value})
    with pytest.raises(TypeError, match="patch: values should be a dict by path"):
        nf.patch(deep(), [("blocks/0", value)])


def test_layers_are_counted_from_the_first():
    params = deep().init(jax.random.key(1))
    calls = [
        lambda: nf.capture(deep(), "blocks/-1/body/act")(params, X),
        lambda: nf.patch(deep(), {"blocks/-1/body/act": jnp.negative}).apply(params, X),
        lambda: nf.optimizers.groups(nf.optimizers.sgd(0.1), freeze="blocks/-1/**").init(params),
        lambda: nf.optimizers.adamw(0.1, decay_on="blocks/-1/**").init(params),
        lambda: nf.lora(deep(), params, "blocks/-1/**/weight", rank=1),
        lambda: nf.starting_from(params, params, only="blocks/-1/**"),
    ]
    for call in calls:
        with pytest.raises(
            ValueError, match=r"'blocks/-1/.*got none; layers are counted from 0, and the last of n is n - 1"
        ):
            call()
