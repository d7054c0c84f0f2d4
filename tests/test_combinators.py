"""The contract under composition: sweeps, depth, names, errors, shared and stacked parameters."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnfunc as nf
from nnfunc import paths, testing
from nnfunc.flops import inner_jaxprs
from nnfunc.sums import is_sum

STEPS = 20


def block(rate=0.3, dim=6):
    """A residual block with running statistics and randomness inside."""
    return nf.residual(nf.serial(norm=nf.batch_norm(dim), up=nf.linear(dim, dim), act=jnp.tanh, drop=nf.dropout(rate)))


def data(*shape, key=3):
    return jax.random.normal(jax.random.key(key), shape)


def assert_same_bits(got, expected):
    got, expected = paths.flatten(got), paths.flatten(expected)
    assert got.keys() == expected.keys()
    for path in expected:
        np.testing.assert_array_equal(got[path], expected[path], err_msg=path)


def assert_close(got, expected, rtol=1e-5, atol=1e-5):
    got, expected = paths.flatten(got), paths.flatten(expected)
    assert got.keys() == expected.keys()
    for path in expected:
        np.testing.assert_allclose(got[path], expected[path], rtol, atol, err_msg=path)


def trained(model, params, x, key=None, state=None):
    """(y, Out) in training mode."""
    state = model.init_state() if state is None else state
    return model.forward(params, x, nf.Context(key=key, train=True, state=state))


# One compiled sweep equals the runs one by one


def build(h):
    body = nf.residual(
        nf.serial(
            norm=nf.batch_norm(6),
            up=nf.linear(6, 6, weight_init=nf.initializers.scaled(nf.initializers.lecun_normal, h["scale"])),
            act=jnp.tanh,
            drop=nf.dropout(h["dropout"]),
        )
    )
    model = nf.serial(stem=nf.linear(4, 6), blocks=nf.repeat(nf.remat(body), 3), head=nf.linear(6, 3))

    def objective(predict, batch):
        x, labels = batch
        return nf.losses.cross_entropy(predict(x), labels).mean(), {}

    return nf.Task(model, objective, nf.optimizers.adamw(h["rate"], weight_decay=h["decay"]))


def run(h, seed, batches):
    """20 steps of training: what is left of it, and the losses on the way."""
    init, step = nf.trainer(build)
    state, metrics = jax.lax.scan(lambda s, b: step(h, s, b), init(h, jax.random.key(seed)), batches)
    return {"params": state.params, "state": state.model_state, "loss": metrics["loss"]}


MEMBERS = {
    "rate": np.float32([1e-2, 3e-3, 1e-3, 1e-2]),
    "decay": np.float32([0.0, 1e-2, 1e-1, 0.0]),
    "dropout": np.float32([0.0, 0.1, 0.5, 0.1]),
    "scale": np.float32([1.0, 0.5, 2.0, 0.0]),
}
SEEDS = np.int32([0, 1, 2, 1])


@pytest.fixture(scope="module")
def batches():
    return data(STEPS, 16, 4), jax.random.randint(jax.random.key(4), (STEPS, 16), 0, 3)


@pytest.fixture(scope="module")
def sweep(batches):
    """The compiled sweep, what it gave, and how often it was compiled for two calls."""
    counted = []
    listener = lambda event, seconds, **_: counted.append(event)
    together = jax.jit(jax.vmap(run, (0, 0, None)))
    others = {name: values[::-1].copy() for name, values in MEMBERS.items()}
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        found = jax.block_until_ready(together(MEMBERS, SEEDS, batches))
        jax.block_until_ready(together(others, SEEDS + 5, batches))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    return found, sum(event.endswith("backend_compile_duration") for event in counted)


@pytest.mark.slow
def test_sweep_compiles_once(sweep):
    assert sweep[1] == 1


@pytest.mark.slow
def test_sweep_equals_solo_runs(sweep, batches):
    solo = jax.jit(run)
    for i, seed in enumerate(SEEDS):
        h = {name: float(values[i]) for name, values in MEMBERS.items()}
        alone = solo(h, int(seed), batches)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], sweep[0]), alone)


@pytest.mark.slow
def test_sweep_equals_a_run_with_plain_numbers(sweep, batches):
    """Nothing is traced here: the numbers are constants of the program, as in a script of one's own."""
    h = {name: float(values[1]) for name, values in MEMBERS.items()}
    alone = jax.jit(lambda batches: run(h, int(SEEDS[1]), batches))(batches)
    assert_close(jax.tree.map(lambda leaf: leaf[1], sweep[0]), alone)


def test_sweep_members_differ_and_learn(sweep):
    loss = sweep[0]["loss"]
    assert np.isfinite(loss).all()
    assert len({float(v) for v in loss[:, -1]}) == len(SEEDS)
    assert loss[0, -5:].mean() < loss[0, :5].mean()


# Depth has one layout


@pytest.fixture(scope="module", params=[2, 4])
def depths(request):
    """The same four blocks rolled, and unrolled in part or in full."""
    return nf.repeat(block(), 4), nf.repeat(block(), 4, unroll=request.param)


def test_unroll_keeps_initial_values_and_leaves(depths, key):
    rolled, unrolled = (model.init(key) for model in depths)
    assert_same_bits(unrolled, rolled)
    assert list(paths.flatten(rolled)) == ["body/norm/bias", "body/norm/scale", "body/up/bias", "body/up/weight"]
    assert_same_bits(depths[1].init_state(), depths[0].init_state())


def test_unroll_keeps_dropout_masks(key):
    masks = []
    for unroll in (1, 4):
        model = nf.repeat(nf.serial(drop=nf.dropout(0.5)), 4, unroll=unroll)
        y, taps = nf.capture(model, "*/drop")({}, jnp.ones((8, 6)), key=key)
        masks.append(taps["*/drop"])
        np.testing.assert_array_equal(y, masks[-1][-1])
    np.testing.assert_array_equal(masks[0], masks[1])
    kept = np.asarray(masks[0])
    assert 0 < (kept[0] == 0).mean() < 1
    fresh = [(kept[i] == 0)[kept[i - 1] != 0].mean() for i in range(1, 3)]
    assert all(0.1 < share < 0.9 for share in fresh), "every layer draws a mask of its own"


def test_unroll_keeps_outputs_state_and_gradients(depths, key):
    x, params = data(5, 6), depths[0].init(key)

    def whole(model):
        def loss(params, x):
            y, out = trained(model, params, x, key)
            return jnp.sum(jnp.sin(y)), (y, out.state)

        return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)

    assert_close(whole(depths[1]), whole(depths[0]), rtol=2e-6, atol=2e-6)


def test_repeat_is_its_block_n_times_in_a_row(key):
    """Layer i has the key fold_in(key, i), for its initial values and for its masks."""
    one, model, x = block(), nf.repeat(block(), 3), data(5, 6)
    params, y = model.init(key), x
    for i in range(3):
        own_key = jax.random.fold_in(key, i)
        own = one.init(own_key)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], params), own, 2e-7, 2e-7)
        y, _ = trained(one, own, y, own_key)
    assert_close(trained(model, params, x, key)[0], y)


def test_program_does_not_grow_with_depth(key):
    def size(n, unroll=1):
        model = nf.serial(blocks=nf.repeat(nf.remat(block()), n, unroll=unroll))
        params = jax.eval_shape(model.init, key)
        loss = lambda params, x, key: jnp.sum(trained(model, params, x, key)[0])
        text = jax.jit(jax.grad(loss)).lower(params, jnp.ones((5, 6)), key).as_text()
        return text.count("\n")

    assert size(3) == size(300)
    assert size(6, unroll=6) > size(6)


# Randomness belongs to names


def masks_of(model, key, names):
    _, taps = nf.capture(model, names)({}, jnp.ones((8, 6)), key=key)
    return [np.asarray(taps[name]) for name in names]


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_named_layer_added_changes_no_other(wrap, key):
    layers = {"a": nf.linear(6, 6), "drop": nf.dropout(0.5), "b": nf.linear(6, 6)}
    before = nf.serial(**layers)
    after = nf.serial(
        first=nf.linear(6, 6),
        a=layers["a"],
        mid=nf.dropout(0.5),
        norm=nf.layer_norm(6),
        drop=layers["drop"],
        b=layers["b"],
        last=nf.linear(6, 2),
    )
    old, new = wrap(before.init)(key), wrap(after.init)(key)
    assert_same_bits({name: new[name] for name in old}, old)
    assert not np.array_equal(new["first"]["weight"], new["a"]["weight"])
    (mask,) = masks_of(nf.serial(drop=nf.dropout(0.5)), key, ["drop"])
    more = nf.serial(one=nf.dropout(0.0), other=lambda x: x * 1.0, drop=nf.dropout(0.5))
    np.testing.assert_array_equal(masks_of(more, key, ["drop"])[0], mask)


def test_an_unnamed_layer_of_another_kind_added_changes_no_other(key):
    before = nf.serial(nf.linear(6, 6), nf.dropout(0.5), nf.linear(6, 6))
    after = nf.serial(nf.layer_norm(6), nf.linear(6, 6), nf.bias(6), nf.dropout(0.5), jnp.tanh, nf.linear(6, 6))
    old, new = before.init(key), after.init(key)
    assert sorted(old) == ["linear", "linear_1"]
    assert_same_bits({name: new[name] for name in old}, old)
    drops = [nf.serial(nf.dropout(0.5)), nf.serial(lambda x: x, nf.dropout(0.5))]
    one, other = (masks_of(model, key, ["dropout"])[0] for model in drops)
    np.testing.assert_array_equal(one, other)


# Errors come before arithmetic


def miswired(front=lambda x: x):
    """100 layers, of which the 57th expects what the 56th does not give."""
    layers = {f"layer_{i}": nf.linear(8, 8) for i in range(100)} | {"layer_57": nf.linear(9, 8)}
    return nf.serial(front=front, **layers)


WORDS = re.escape("layer_57: linear: the last axis of x should be 9 (in_dim), got shape (4, 8).")
CURE = re.escape("Make this linear(8, 8), or let the layer before it give 9 features.")


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.grad], ids=["eager", "jit", "grad"])
def test_miswired_net_raises_before_any_array_is_computed(wrap, key):
    computed = []

    def front(x):
        jax.debug.callback(lambda: computed.append(1))
        return x

    model = miswired(front)
    shapes = jax.eval_shape(model.init, key)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    with pytest.raises(ValueError, match=f"^{WORDS} {CURE}") as caught:
        wrap(lambda x: model.apply(params, x).sum())(jnp.ones((4, 8)))
    jax.effects_barrier()
    assert not computed
    assert str(caught.value).count("layer_57") == 1

    right = nf.serial(front=front, layer_57=nf.linear(8, 8))
    right.apply(right.init(key), jnp.ones((4, 8)))
    jax.effects_barrier()
    assert computed == [1], "the counter counts"


def test_miswired_net_raises_before_any_array_is_made(key):
    """The front gives an array of 2**45 numbers, which no machine here can hold."""
    model = nf.serial(front=lambda x: jnp.broadcast_to(x, (2**40, 4, 8)), head=nf.linear(9, 2))
    params = model.init(key)
    with pytest.raises(ValueError, match=r"^head: linear: .* 9 \(in_dim\), got shape \(1099511627776, 4, 8\)"):
        model.apply(params, jnp.ones((4, 8)))


def test_miswired_layer_inside_repeat_is_named(key):
    body = nf.serial(up=nf.linear(6, 7), act=jnp.tanh, down=nf.linear(6, 6))
    model = nf.serial(stem=nf.linear(4, 6), blocks=nf.repeat(nf.residual(nf.remat(body)), 100))
    params = model.init(key)
    words = r"^blocks/\*/body/down: linear: the last axis of x should be 6 \(in_dim\), got shape \(3, 7\)"
    for f in (model.apply, jax.jit(model.apply)):
        with pytest.raises(ValueError, match=words):
            f(params, jnp.ones((3, 4)))


def test_a_block_that_changes_its_shape_is_refused(key):
    model = nf.serial(blocks=nf.repeat(nf.linear(6, 5), 3))
    words = r"^blocks: repeat: the block's output should have .* its input, float32\[4, 6\], got float32\[4, 5\]"
    with pytest.raises(ValueError, match=words):
        model.apply(model.init(key), jnp.ones((4, 6)))
    model = nf.serial(skip=nf.residual(nf.linear(6, 5)))
    words = r"^skip: residual: body_output and x should have the same shape, got body_output \(4, 5\)"
    with pytest.raises(ValueError, match=words):
        model.apply(model.init(key), jnp.ones((4, 6)))


def test_params_of_another_depth_are_refused(key):
    params = nf.repeat(block(), 3).init(key)
    with pytest.raises(ValueError, match="repeat: body/norm/bias should have a leading axis of 4"):
        nf.repeat(block(), 4).apply(params, jnp.ones((4, 6)), state=nf.repeat(block(), 4).init_state())


@pytest.mark.parametrize(
    "make, kind, words",
    [
        (lambda: nf.serial(nf.linear(2, 2), 3), TypeError, r"serial: layer 1: a layer should be .*, got 3 \(int\)"),
        (lambda: nf.serial(nf.linear(2, 2), linear=nf.linear(2, 2)), ValueError, "names should be unique"),
        (lambda: nf.wire(lambda net, x: x, **{"a/b": jnp.tanh}), ValueError, "a child should have a name without"),
        (lambda: nf.wire(lambda net, x: x, _a=jnp.tanh), ValueError, "leading '_', got '_a'"),
        (lambda: nf.wire(lambda net, x: x, a="relu"), TypeError, r"a: a layer should be .*got 'relu'"),
        (lambda: nf.repeat(nf.bias(2), 0), ValueError, "repeat: n should be at least 1, got 0"),
        (lambda: nf.repeat(nf.bias(2), 2.0), TypeError, "repeat: n should be an integer"),
        (lambda: nf.ensemble(nf.bias(2), 0), ValueError, "ensemble: n should be at least 1"),
        (
            lambda: nf.tie(nf.bias(2), {"a": "b", "b": "c"}),
            ValueError,
            "'a' should use a parameter that is not dropped",
        ),
    ],
)
def test_wrong_compositions_are_refused(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


def test_an_unknown_child_is_named():
    model = nf.serial(gate=nf.wire(lambda net, x: net.boddy(x), body=jnp.tanh))
    with pytest.raises(AttributeError, match=r"gate/wire: no child is called 'boddy'; did you mean 'body'\?"):
        model.apply({}, jnp.ones(2))


# wire


def test_a_child_called_twice_draws_masks_and_passes_its_state(key):
    def flow(net, x):
        return net.drop(x), net.drop(x), net.norm(x), net.norm(3 + x)

    model, x = (nf.wire(flow, drop=nf.dropout(0.5), norm=nf.batch_norm(6, momentum=0.5)), jnp.ones((8, 6)))
    y, out = trained(model, model.init(key), x, key)
    one, other = y[:2]
    assert 0.2 < (np.asarray(one) == np.asarray(other)).mean() < 0.8
    np.testing.assert_allclose(out.state["norm"]["mean"], 0.5 * (0.5 * 1) + 0.5 * 4)  # 1, then 4
    again, _ = trained(model, model.init(key), x, key)
    assert_same_bits(again, y)
    assert sorted(model.init(key)) == ["norm"], "one set of parameters, and none for dropout"


def test_state_reaches_the_end_of_repeat_remat_and_vmap(key):
    """Running statistics of each layer, through remat inside repeat inside vmap."""
    body = nf.serial(norm=nf.batch_norm(6, momentum=0.5), up=nf.linear(6, 6))
    model = nf.serial(blocks=nf.repeat(nf.remat(body), 3), last=nf.batch_norm(6))
    params, xs = model.init(key), data(2, 8, 6)
    states = jax.jit(jax.vmap(lambda x: trained(model, params, x)[1].state))(xs)
    for member in range(2):
        x = xs[member]
        for i in range(3):
            found = jax.tree.map(lambda leaf, m=member, i=i: leaf[m, i], states["blocks"]["norm"])
            np.testing.assert_allclose(found["mean"], 0.5 * x.mean(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found["var"], 0.5 + 0.5 * x.var(0, ddof=1), rtol=1e-4, atol=1e-5)
            x = body.apply(
                jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]),
                x,
                state={"norm": {"mean": x.mean(0), "var": x.var(0)}},
            )
    frozen = model.forward(params, xs[0], nf.Context(state=model.init_state()))[1].state
    assert_same_bits(frozen, model.init_state())


def test_pairs_and_functions_are_layers(key):
    linear = nf.linear(6, 6)
    pair = (linear.init, lambda params, x: linear.apply(params, x))
    x = data(4, 6)
    for compose in (
        lambda layer: nf.serial(body=layer),
        lambda layer: nf.parallel(body=layer),
        nf.residual,
        nf.remat,
        lambda layer: nf.repeat(layer, 2),
        lambda layer: nf.ensemble(layer, 2),
        lambda layer: nf.precision(layer),
        lambda layer: nf.tie(layer, {}),
        lambda layer: nf.wire(lambda net, x: net.body(x), body=layer),
    ):
        params = compose(linear).init(key)
        expected = compose(linear).apply(params, x)
        assert_same_bits(compose(pair).apply(params, x), expected)
        assert_same_bits(compose(tuple(pair)).init(key), params)
        assert compose(jnp.tanh).init(key) == {}
        jax.tree.map(
            np.testing.assert_array_equal, compose(jnp.tanh).apply({}, x), compose(nf.as_model(jnp.tanh)).apply({}, x)
        )


def test_a_pair_that_takes_a_key_gets_one(key):
    noisy = (lambda key: {}, lambda params, x, *, key=None: x if key is None else x + jax.random.normal(key))
    model = nf.serial(noisy=noisy)
    assert model.apply({}, jnp.zeros(())) == 0
    assert model.apply({}, jnp.zeros(()), key=key) != 0


def test_parallel_gives_a_tuple_or_a_dict():
    x = jnp.array([1.0, 2.0])
    both = nf.parallel(lambda x: x, lambda x: 2 * x).apply({}, x)
    named = nf.parallel(b=lambda x: x, a=lambda x: 2 * x).apply({}, x)
    assert isinstance(both, tuple)
    np.testing.assert_array_equal(both, [[1, 2], [2, 4]])
    np.testing.assert_array_equal(named["a"], [2, 4])


# tie, precision, ensemble


def test_tied_weights_are_one_leaf_whose_gradient_is_the_sum(key):
    free = nf.serial(encode=nf.linear(6, 3, bias=False), decode=nf.linear(3, 6, bias=False))
    tied = nf.tie(free, {"decode/weight": ("encode/weight", jnp.transpose)})
    params, x = tied.init(key), data(4, 6)
    assert list(paths.flatten(params)) == ["encode/weight"]
    both = {"encode": params["encode"], "decode": {"weight": params["encode"]["weight"].T}}
    loss = lambda model: lambda params: jnp.sum(jnp.sin(model.apply(params, x)))
    apart = jax.grad(loss(free))(both)
    together = jax.grad(loss(tied))(params)["encode"]["weight"]
    np.testing.assert_allclose(together, apart["encode"]["weight"] + apart["decode"]["weight"].T, rtol=1e-5)
    updates, _ = optax.sgd(0.1).update(jax.grad(loss(tied))(params), optax.sgd(0.1).init(params))
    assert list(paths.flatten(updates)) == ["encode/weight"]


def test_tie_names_the_nearest_path_and_checks_shapes(key):
    model = nf.serial(encode=nf.linear(6, 3), decode=nf.linear(3, 6))
    with pytest.raises(ValueError, match="should be a parameter, got 'decode/wait'; did you mean 'decode/weight'"):
        nf.tie(model, {"decode/wait": "encode/weight"}).init(key)
    with pytest.raises(ValueError, match="decode/weight and encode/weight should have the same shape"):
        nf.tie(model, {"decode/weight": "encode/weight"}).init(key)


def test_precision_casts_layers_and_leaves_norms_alone(key):
    seen = {}

    def spy(name):
        def apply(params, x):
            seen[name] = (x.dtype, params["w"].dtype)
            return x

        return apply

    init = lambda key: {"w": jnp.ones(6)}
    model = nf.precision(
        nf.serial(
            plain=nf.Model(init, spy("plain")),
            norm=nf.Model(init, spy("norm"), full_precision=True),
            blocks=nf.repeat(nf.remat(nf.Model(init, spy("deep"))), 2),
        )
    )
    params = model.init(key)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    y = model.apply(params, data(4, 6))
    half, full = jnp.dtype("bfloat16"), jnp.dtype("float32")
    assert seen == {"plain": (half, half), "norm": (half, full), "deep": (half, half)}
    assert y.dtype == full


@pytest.mark.slow
def test_precision_keeps_norms_and_gradients_in_float32(key):
    model, x = nf.precision(nf.repeat(block(), 2)), data(64, 6)
    params = model.init(key)

    def loss(params):
        y, out = trained(model, params, x, key)
        return jnp.sum(y * y), out.state

    grads, state = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves((grads, state))} == {jnp.dtype("float32")}
    full = trained(nf.repeat(block(), 2), params, x, key)[1].state
    assert_close(state, full, rtol=2e-2, atol=2e-2)


@pytest.mark.slow
def test_ensemble_equals_separate_runs(key):
    one, x = nf.serial(body=block(), head=nf.linear(6, 2)), data(8, 6)
    model = nf.ensemble(one, 3)
    params = model.init(key)
    y, out = trained(model, params, x, key)
    assert y.shape == (3, 8, 2)
    for i in range(3):
        own_key = jax.random.fold_in(key, i)
        own = one.init(own_key)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], params), own, 2e-7, 2e-7)
        alone, alone_out = trained(one, own, x, own_key)
        assert_close(y[i], alone)
        assert_close(jax.tree.map(lambda leaf, i=i: leaf[i], out.state), alone_out.state)


def test_remat_computes_the_body_again(key):
    """With remat the backward pass holds the body's tanh twice, without it once; values agree."""
    body, x = nf.serial(up=nf.linear(6, 6), act=jnp.tanh), data(4, 6)
    params = body.init(key)
    grads, programs = [], []
    for model in (body, nf.remat(body), nf.remat(body, policy=jax.checkpoint_policies.everything_saveable)):
        loss = lambda params, model=model: jnp.sum(model.apply(params, x) ** 2)
        grads.append(jax.grad(loss)(params))
        programs.append(str(jax.make_jaxpr(jax.grad(loss))(params)).count(" tanh "))
    assert programs == [1, 2, 1]
    assert_close(grads[1], grads[0])
    assert_same_bits(nf.remat(body).init(key), params)


# Derivatives through everything at once


@pytest.mark.slow
def test_second_derivatives_through_the_deep_block(key):
    """Reverse, forward, and forward over reverse through batch norm and dropout in remat in repeat."""
    model, x = nf.repeat(nf.remat(block()), 2), data(5, 6)
    params = model.init(key)
    testing.check_gradients(lambda params, x: trained(model, params, x, key)[0], params, x)


@pytest.mark.slow
def test_hessian_is_symmetric_through_the_deep_block(key):
    model, x = nf.repeat(nf.remat(block()), 2), data(5, 6)
    params = model.init(key)
    loss = lambda params: jnp.sum(jnp.sin(trained(model, params, x, key)[0]))

    @jax.jit
    def curve(u):
        return jax.jvp(jax.grad(loss), (params,), (u,))[1]

    def direction(seed):
        leaves, treedef = jax.tree.flatten(params)
        return jax.tree.unflatten(treedef, [data(*v.shape, key=seed + i) for i, v in enumerate(leaves)])

    u, v = direction(10), direction(20)
    dot = lambda a, b: sum(jax.tree.leaves(jax.tree.map(lambda p, q: jnp.sum(p * q), a, b)))
    np.testing.assert_allclose(dot(v, curve(u)), dot(u, curve(v)), rtol=1e-4)


def test_unnamed_layers_never_take_the_place_of_another():
    def linear_1(x):
        return 2 * x

    net = nf.serial(nf.linear(2, 2), nf.linear(2, 2), linear_1, linear_1)
    params = net.init(jax.random.key(0))
    assert sorted(params) == ["linear", "linear_1"]
    x = jnp.ones((1, 2))
    by_hand = nf.linear(2, 2).apply(params["linear_1"], nf.linear(2, 2).apply(params["linear"], x))
    np.testing.assert_allclose(net.apply(params, x), 4 * by_hand, rtol=1e-6)


def test_parameters_of_another_model_are_refused():
    longer, shorter = nf.mlp([2, 3, 3, 1]), nf.mlp([2, 3, 1])
    x = jnp.ones((1, 2))
    with pytest.raises(ValueError, match="params hold 'hidden_1', which no child is called"):
        shorter.apply(longer.init(jax.random.key(0)), x)
    with pytest.raises(ValueError, match=r"weight should have shape \(2, 3\), got shape \(2, 1\)"):
        nf.linear(2, 3).apply({"weight": jnp.ones((2, 1)), "bias": jnp.ones(3)}, x)


def test_calls_of_a_shared_child_have_taps_of_their_own():
    body = nf.serial(double=lambda x: 2 * x)
    net = nf.wire(lambda net, x: net.body(net.body(x)), body=body)
    _, taps = nf.capture(net, ["body/double", "body@1/double"])({}, jnp.array(1.0))
    assert {path: float(tap) for path, tap in taps.items()} == {"body/double": 2, "body@1/double": 4}
    patched = nf.patch(net, {"body@1/double": jnp.array(7.0)})
    assert float(patched.apply({}, jnp.array(1.0))) == 7


def test_a_flow_draws_with_a_key_of_its_own():
    def flow(net, x):
        y = net.encode(x)
        return y if net.key is None else y + jax.random.normal(net.key, y.shape)

    net = nf.serial(sample=nf.wire(flow, encode=nf.linear(3, 2)), rest=jnp.tanh)
    params, x = net.init(jax.random.key(0)), jnp.ones((4, 3))
    draws = [net.apply(params, x, key=jax.random.key(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).all()
    np.testing.assert_array_equal(net.apply(params, x), jnp.tanh(nf.linear(3, 2).apply(params["sample"]["encode"], x)))
    child = nf.wire(lambda net, x: net.key(x), key=nf.linear(3, 2))  # a child of this name comes first
    assert child.apply(child.init(jax.random.key(0)), x).shape == (4, 2)


# several values, and parameters, in a flow


def test_a_flow_of_several_values(key):
    inner = nf.wire(lambda net, x, t: net.body(x) + t, body=nf.linear(3, 3))
    net = nf.wire(lambda net, x, t: net.both(net.inner(x, t), x), inner=inner, both=lambda a, b: a - b)
    params, x, t = net.init(key), data(4, 3), jnp.ones((4, 1))
    y = net.apply(params, (x, t))
    weight, bias = params["inner"]["body"]["weight"], params["inner"]["body"]["bias"]
    np.testing.assert_allclose(y, x @ weight + bias + t - x, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(jax.vmap(net.apply, (None, 0)))(params, (x, t)), y, rtol=1e-5)
    for wrong, actual in ((x, "an array of shape"), ((x, t, t), "a tuple of 3")):
        with pytest.raises(TypeError, match=rf"x should be a tuple \(x, t\), got {actual}"):
            net.apply(params, wrong)
    with pytest.raises(TypeError, match=r"inner: .*x should be a tuple \(x, t\), got an array"):
        nf.wire(lambda net, x: net.inner(x), inner=inner).apply({"inner": params["inner"]}, x)
    with pytest.raises(TypeError):
        nf.wire(lambda net, x: net.inner(), inner=inner).apply({"inner": params["inner"]}, x)


def test_parameters_with_defaults_take_no_parts():
    """They belong to the writer, as in `lambda net, x, i=i: ...`; so do those of a partial."""
    net = nf.wire(lambda net, x, i=2: net.f(x) * i, f=lambda x, n=3: x[0] + n)
    assert float(net.apply({}, (jnp.array(1.0), jnp.array(5.0)))) == 8
    add = nf.as_model(partial(lambda a, b, c: a + b * c, c=10.0))
    assert float(add.apply({}, (jnp.array(1.0), jnp.array(2.0)))) == 21
    assert float(nf.as_model(jnp.arctan2).apply({}, (jnp.array(0.0), jnp.array(2.0)))) == 0
    assert float(nf.as_model(jnp.tanh).apply({}, jnp.array(0.0))) == 0


def test_the_parameters_of_a_child(key):
    def flow(net, x):
        assert net.act.params == {}
        assert net["up"].params is net.up.params
        return net.act(net.up(x)) @ net.up.params["weight"].T

    net = nf.wire(flow, up=nf.linear(3, 2), act=jnp.tanh)
    params, x = net.init(key), data(4, 3)
    up = params["up"]
    np.testing.assert_allclose(
        net.apply(params, x), jnp.tanh(x @ up["weight"] + up["bias"]) @ up["weight"].T, rtol=1e-5
    )


def test_predict_of_several_values(key):
    net = nf.wire(lambda net, x, t: net.body(x) * t, body=nf.linear(3, 1))

    def objective(predict, batch):
        x, t = batch
        return jnp.square(predict(x, t) - 1).mean(), {}

    splits = nf.data.arrays((np.asarray(data(8, 3)), np.ones((8, 1), np.float32)), batch_size=8)
    build = lambda h: nf.Task(net, objective, nf.optimizers.sgd(h["rate"]))
    _, history = nf.train(build, {"rate": 0.1}, splits, steps=10, key=key, log_every=5)
    assert history.train["loss"][-1] < history.train["loss"][0]
    nf.debug.doctor(build, {"rate": 0.1}, splits, key=key)


# what remat stores


def tower(block=None):
    """Two matrix products in each of three blocks; tanh, whose derivative needs its result."""
    body = nf.serial(up=nf.linear(4, 6), act=jnp.tanh, down=nf.linear(6, 4), end=jnp.tanh)
    return nf.serial(blocks=nf.repeat((block or (lambda b: b))(body), 3), head=nf.linear(4, 2))


def products(function, *args):
    """How many matrix products the program has, without sums that are computed as products."""
    return list(_products(function, *args)).count(False)


def sums_as_products(function, *args):
    """How many sums and spread values the program computes as products."""
    return list(_products(function, *args)).count(True)


def _products(function, *args):
    waiting = [jax.make_jaxpr(function)(*args).jaxpr]
    while waiting:
        for eqn in waiting.pop().eqns:
            waiting += inner_jaxprs(eqn)
            if eqn.primitive.name == "dot_general":
                yield is_sum([v.aval for v in eqn.invars], eqn.params["dimension_numbers"])


SAVED = {
    None: 2,
    "nothing": 2,
    "dots": 0,
    "dots_with_no_batch_dims": 0,
    "everything": 0,
    ("*/up",): 1,
    ("*/up", "**/down"): 0,
    jax.checkpoint_policies.save_only_these_names("up"): 1,
    jax.checkpoint_policies.save_only_these_names("up", "down"): 0,
    jax.checkpoint_policies.save_only_these_names("elsewhere"): 2,
}


@pytest.mark.parametrize("policy", SAVED)
def test_remat_stores_what_the_policy_says(policy, key):
    """Values that are stored are not computed again, and gradients are those without remat."""
    plain, x = tower(), data(5, 4)
    params = plain.init(key)
    inside = tuple(pattern.removeprefix("*/") for pattern in policy) if isinstance(policy, tuple) else policy
    whole = [f"blocks/{pattern}" for pattern in policy] if isinstance(policy, tuple) else policy

    def loss(model):
        return lambda params: jnp.square(model.apply(params, x)).sum()

    before, expected = products(jax.grad(loss(plain)), params), jax.jit(jax.grad(loss(plain)))(params)
    for model in (tower(lambda body: nf.remat(body, policy=inside)), nf.remat_repeats(plain, policy=whole)):
        assert products(jax.grad(loss(model)), params) - before == SAVED[policy]
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), jax.jit(jax.grad(loss(model)))(params), expected
    )


def test_policies_for_products_store_no_sums(key, monkeypatch):
    """The sums of norms are products on some versions of jaxlib: what they are spread to is as large as x."""
    monkeypatch.setattr("nnfunc.sums.by_products", lambda: True)
    x, block = data(5, 4), nf.serial(norm=nf.layer_norm(4), up=nf.linear(4, 6), act=jnp.tanh, down=nf.linear(6, 4))
    params = block.init(key)

    def counts(policy):
        gradient = jax.grad(lambda params: jnp.square(nf.remat(block, policy=policy).apply(params, x)).sum())
        return products(gradient, params), sums_as_products(gradient, params)

    dots, nothing = counts("dots"), counts("nothing")
    assert dots[0] < nothing[0]
    assert dots[1] == nothing[1]
    assert counts(jax.checkpoint_policies.checkpoint_dots)[1] < nothing[1]  # a policy of your own stores them


def test_remat_stores_values_of_attention(key):
    """The heads, so that the backward pass has no second pass of attention's last product."""
    block = nf.transformer_block(8, nf.attention(8, 2), nf.feed_forward(8, 8))
    model, x = nf.repeat(block, 2), data(3, 5, 8)
    params = model.init(key)
    count = {}
    for policy in (None, ["*/attend/heads"], ["*/attend"]):
        wrapped = nf.remat_repeats(model, policy=policy)
        count[str(policy)] = products(jax.grad(lambda params, w=wrapped: w.apply(params, x).sum()), params)
    assert [count["None"] - n for n in count.values()] == [0, 1, 1]


def test_programs_without_a_policy_name_no_values(key):
    params, x = tower().init(key), data(5, 4)
    for model in (tower(), tower(nf.remat), nf.remat_repeats(tower()), nf.remat_repeats(tower(), policy="dots")):
        assert " name[" not in str(jax.make_jaxpr(jax.grad(lambda p, m=model: m.apply(p, x).sum()))(params))
    named = nf.remat_repeats(tower(), policy=["**/up"])
    assert " name[" in str(jax.make_jaxpr(named.apply)(params, x))
    assert nf.summary(named, (5, 4)).flops == nf.summary(tower(), (5, 4)).flops


def test_a_policy_that_does_not_exist(key):
    params, x = tower().init(key), data(5, 4)
    with pytest.raises(ValueError, match=r"remat_repeats: .* 'blocks/\*/upp' .* did you mean 'blocks/\*/up'"):
        nf.remat_repeats(tower(), policy=["blocks/*/upp"]).apply(params, x)
    with pytest.raises(ValueError, match=r"blocks: remat: the pattern 'upp' should match .* did you mean 'up'"):
        tower(lambda body: nf.remat(body, policy=["upp"])).apply(params, x)
    with pytest.raises(ValueError, match="remat: a pattern should be of all layers of a repeat, got one of a single"):
        nf.remat_repeats(tower(), policy=["blocks/1/up"]).apply(params, x)
    with pytest.raises(ValueError, match=r"remat: policy should be one of 'dots', .* got 'dot'; did you mean 'dots'"):
        nf.remat(jnp.tanh, policy="dot")
    with pytest.raises(TypeError, match="remat: a pattern should be a path"):
        nf.remat(jnp.tanh, policy=[3])


def test_remat_names_go_through_capture_patch_and_state(key):
    body = nf.serial(up=nf.linear(4, 4), norm=nf.batch_norm(4), drop=nf.dropout(0.3))
    plain = nf.serial(blocks=nf.repeat(body, 3))
    model, x = nf.remat_repeats(plain, policy=["blocks/*/up"]), data(5, 4)
    params, state = plain.init(key), plain.init_state()
    for train in (False, True):
        calls = [nf.capture(one, "**")(params, x, key=key, state=state, train=train) for one in (model, plain)]
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), *calls)
    results = [one.apply_train(params, state, x, key=key) for one in (model, plain)]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), *results)
    patched = nf.patch(model, {"blocks/1/up": jnp.zeros((5, 4))}).apply(params, x, state=state)
    np.testing.assert_allclose(patched, 0, atol=1e-6)
    jax.vmap(jax.grad(lambda p: model.apply(p, x, state=state).sum()))(jax.tree.map(lambda leaf: leaf[None], params))


@pytest.mark.parametrize("transform", [jax.jit, jax.checkpoint, lambda f: lambda x: jax.lax.cond(True, f, f, x)])
def test_a_child_may_be_passed_to_transformations(transform, key):
    model = nf.wire(lambda net, x: transform(net.body)(x), body=nf.linear(2, 2))
    params = model.init(key)
    y = model.apply(params, jnp.ones((3, 2)))
    np.testing.assert_allclose(y, nf.linear(2, 2).apply(params["body"], jnp.ones((3, 2))), rtol=1e-6)
