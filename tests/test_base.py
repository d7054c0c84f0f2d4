"""The contract itself: the pair, the key, the state, what counts as a layer, and the words of errors."""

import functools
import inspect
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc import base, check
from nnfunc.base import fold_in
from nnfunc.errors import MissingKeyError


def test_a_model_is_a_pair(key):
    init, apply = nf.linear(2, 3)
    params = init(key)
    x = jnp.ones((4, 2))
    np.testing.assert_array_equal(apply(params, x), x @ params["weight"] + params["bias"])
    assert repr(nf.linear(2, 3)) == "<nnfunc model linear(in_dim=2, out_dim=3)>"


def test_forward_always_returns_the_pair(key):
    for model in (nf.linear(2, 2), nf.batch_norm(2), nf.serial(nf.batch_norm(2)), nf.as_model(jnp.tanh)):
        y, out = model.forward(model.init(key), jnp.ones((4, 2)), nf.Context(state=model.init_state()))
        assert y.shape == (4, 2)
        assert isinstance(out, nf.Out)


def test_apply_returns_y_only_and_reads_the_state(key):
    model = nf.serial(norm=nf.batch_norm(2, affine=False, eps=0.0))
    x, params = jnp.array([[2.0, 4.0]]), model.init(key)
    y = model.apply(params, x, state=model.init_state())
    np.testing.assert_array_equal(y, x)  # fresh statistics: mean 0, variance 1
    state = {"norm": {"mean": jnp.array([1.0, 2.0]), "var": jnp.array([1.0, 4.0])}}
    np.testing.assert_allclose(model.apply(params, x, state=state), [[1.0, 1.0]], rtol=1e-6)


def test_a_key_switches_dropout_on():
    model, x = nf.serial(drop=nf.dropout(0.5)), jnp.ones(64)
    np.testing.assert_array_equal(model.apply({}, x), x)
    assert 0 < (model.apply({}, x, key=jax.random.key(0)) == 0).mean() < 1


def test_child_keys_belong_to_names(key):
    ctx = nf.Context(key=key).enter("drop")
    assert ctx.key == jax.random.fold_in(key, zlib.crc32(b"drop"))
    assert ctx.path == ("drop",)
    assert nf.Context().enter("drop").key is None
    assert base.fold(key, 3) == jax.random.fold_in(key, 3)
    assert base.fold(key, "a", 1) == jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(b"a")), 1)


def test_children_of_keys_are_those_of_jax(key):
    for number in (0, 7, 2**31, 2**32 - 1, np.int32(5), np.uint32(3), jnp.int32(4)):
        for own in (key, jax.random.PRNGKey(0), jax.random.key(0, impl="rbg")):
            one, other = fold_in(own, number), jax.random.fold_in(own, number)
            np.testing.assert_array_equal(*map(jax.random.key_data, (one, other)))
    with pytest.raises(OverflowError):
        fold_in(key, -1)


def test_old_style_keys_work():
    model = nf.serial(nf.linear(2, 2), nf.dropout(0.5))
    key = jax.random.PRNGKey(0)
    y = model.apply(model.init(key), jnp.ones((4, 2)), key=key)
    typed = jax.random.key(0)
    np.testing.assert_array_equal(y, model.apply(model.init(typed), jnp.ones((4, 2)), key=typed))


def test_context_is_a_pytree(key):
    ctx = nf.Context(key=key, state={"a": jnp.ones(2)}, train=True, path=("x",))
    again = jax.jit(lambda ctx: ctx)(ctx)
    assert again.train
    assert again.path == ("x",)
    np.testing.assert_array_equal(again.state["a"], 1)


def test_a_layer_that_needs_a_key_says_how_to_give_one():
    def forward(params, x, ctx):
        return x + jax.random.normal(ctx.require_key("noise")), nf.Out()

    model = nf.serial(body=nf.serial(noise=nf.Model(lambda key: {}, forward=forward)))
    words = r"^body/noise: it needs a random key. Call model.apply\(params, x, key=key\)"
    with pytest.raises(ValueError, match=words):
        model.apply({}, jnp.zeros(()))
    assert model.apply({}, jnp.zeros(()), key=jax.random.key(0)) != 0


def test_what_counts_as_a_layer(key):
    assert nf.as_model(jnp.tanh).name == "tanh"
    assert nf.as_model(functools.partial(nf.activations.leaky_relu, slope=0.1)).name == "leaky_relu"
    assert nf.as_model(lambda x: x).name == "lambda"
    model = nf.linear(2, 2)
    assert nf.as_model(model) is model
    pair = nf.as_model(tuple(model))
    np.testing.assert_array_equal(pair.init(key)["weight"], model.init(key)["weight"])


@pytest.mark.parametrize(
    "layer, got",
    [
        (3, r"3 \(int\)"),
        ("relu", r"'relu' \(str\)"),
        ((jnp.tanh,), r"\(tuple\)"),
        (None, "None"),
        ((jnp.tanh, 3), r"\(tuple\)"),
    ],
)
def test_what_is_no_layer(layer, got):
    with pytest.raises(TypeError, match=rf"^net: a layer should be a Model, a pair .* got .*{got}"):
        nf.as_model(layer, where="net")


def test_a_model_has_one_of_two_forms():
    for forms in ({}, {"apply": lambda p, x: x, "forward": lambda p, x, ctx: (x, nf.Out())}):
        with pytest.raises(TypeError, match="give either apply or forward"):
            nf.Model(lambda key: {}, **forms)


@pytest.mark.parametrize("key", [0, None, jnp.zeros(2), jax.random.split(jax.random.key(0))])
def test_a_wrong_key_is_refused(key):
    with pytest.raises(TypeError, match=r"^linear.init: key should be one random key, got .* jax.random.key\(0\)"):
        nf.linear(2, 2).init(key)
    if key is not None:
        with pytest.raises(TypeError, match=r"^linear.apply: key should be one random key"):
            nf.linear(2, 2).apply({}, jnp.ones(2), key=key)


def test_params_of_another_model_are_refused(key):
    model = nf.serial(head=nf.linear(2, 2))
    with pytest.raises(ValueError, match=r"^head: linear: its parameters should hold 'weight', got .*\['w'\]"):
        model.apply({"head": {"w": jnp.ones(2)}}, jnp.ones((1, 2)))
    with pytest.raises(ValueError, match=r"^head: linear: .* got none"):
        model.apply({}, jnp.ones((1, 2)))
    with pytest.raises(TypeError, match=r"serial: params should be a dict with \['head'\], got"):
        model.apply([1.0], jnp.ones((1, 2)))


def test_a_key_error_of_the_layer_itself_stays_one():
    model = nf.Model(lambda key: {"w": jnp.ones(2)}, lambda params, x: {}["missing"])
    with pytest.raises((KeyError, ValueError), match="missing"):
        model.apply({"w": jnp.ones(2)}, jnp.ones(2))


def test_an_error_of_ones_own_keeps_its_kind_and_names_the_layer():
    def layer(x):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match=r"^mine") as caught:
        nf.serial(body=nf.serial(deep=layer)).apply({}, jnp.ones(2))
    assert caught.value.__notes__[0] == "This was raised in the layer at body/deep."


def test_state_of_another_model_is_refused(key):
    model = nf.serial(norm=nf.batch_norm(2))
    with pytest.raises(ValueError, match=r"^serial.apply: state should have the shapes .*'norm'.*, got {}"):
        model.apply(model.init(key), jnp.ones((4, 2)), state={})


def test_shapes_are_followed_once_for_each_shape(key):
    traced = []

    def layer(x):
        traced.append(x.shape)
        return x

    model = nf.serial(layer=layer)
    for _ in range(3):
        model.apply({}, jnp.ones(2))
    assert len(traced) == 4, "once for its shapes, then once a call"
    model.apply({}, jnp.ones(3))
    assert len(traced) == 6


def test_x_may_be_any_pytree(key):
    attend = nf.wire(lambda net, x: {"out": net.line(x["value"]) * x["mask"]}, line=nf.linear(2, 2))
    params = attend.init(key)
    x = {"value": jnp.ones((3, 2)), "mask": jnp.zeros((3, 1))}
    np.testing.assert_array_equal(jax.jit(attend.apply)(params, x)["out"], 0)


def test_signatures_tell_which_arguments_may_be_traced():
    annotation = inspect.signature(nf.dropout).parameters["rate"].annotation
    assert annotation == base.Scalar


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (lambda: check.number("f", 0, 1, rate=2.0), ValueError, r"f: rate should be in \[0, 1\], got 2.0"),
        (lambda: check.number("f", 0, 1, open_high=True, rate=1), ValueError, r"in \[0, 1\), got 1"),
        (lambda: check.number("f", 0, open_low=True, eps=0.0), ValueError, "eps should be above 0, got 0.0"),
        (lambda: check.number("f", rate="a"), TypeError, r"rate should be a number, got 'a' \(str\)"),
        (lambda: check.number("f", rate=True), TypeError, "should be a number, got True"),
        (lambda: check.number("f", 0, 1, rate=float("nan")), ValueError, "got nan"),
        (lambda: check.ordered("f", a=2, b=1), ValueError, "a should be at most b, got 2 and 1"),
        (lambda: check.size("f", dim=0), ValueError, "dim should be at least 1, got 0"),
        (lambda: check.size("f", dim=2.0), TypeError, "integer, got 2.0"),
        (
            lambda: check.choice("f", ["min", "max"], mode="mni"),
            ValueError,
            "one of 'min', 'max', got 'mni'; did you mean 'min'",
        ),
        (lambda: check.same_shape("f", a=jnp.ones(2), b=jnp.ones((2, 1))), ValueError, r"a \(2,\) and b \(2, 1\)"),
        (lambda: check.floating("f", x=jnp.ones(2, jnp.uint8)), TypeError, "x should hold floats, got uint8. Convert"),
        (lambda: check.integers("f", x=jnp.ones(2)), TypeError, "x should hold integers, got float32"),
    ],
)
def test_the_words_of_checks(call, kind, words):
    with pytest.raises(kind, match=words):
        call()


def test_checks_let_traced_numbers_pass():
    def f(rate, steps):
        check.number("f", 0, 1, rate=rate)
        check.ordered("f", low=3, rate=rate, steps=steps)
        return rate

    jax.jit(f)(7.0, 2)
    jax.vmap(f)(jnp.array([7.0]), jnp.array([2]))


def test_an_unpacked_model_is_the_model_again():
    model = nf.batch_norm(3)
    init, apply = model
    assert nf.as_model((init, apply)) is model
    assert nf.as_model(tuple(model)).init_state().keys() == {"mean", "var"}


def test_apply_may_read_its_state():
    def apply(params, x, *, state):
        return x + state["shift"]

    model = nf.Model(lambda key: {}, apply, init_state=lambda: {"shift": jnp.ones(2)})
    np.testing.assert_array_equal(model.apply({}, jnp.zeros(2), state=model.init_state()), [1, 1])
    net = nf.serial(inner=model, twice=lambda x: 2 * x)
    y, out = net.forward({}, jnp.zeros(2), nf.Context(state={"inner": {"shift": jnp.full(2, 3.0)}}))
    np.testing.assert_array_equal(y, [6, 6])
    np.testing.assert_array_equal(out.state["inner"]["shift"], [3, 3])


@pytest.mark.parametrize("kind", ["plain", "wrapped", "partial", "any keyword", "object"])
def test_what_apply_reads_is_found_however_it_is_written(kind, key):
    def plain(params, x, *, key=None):
        return x if key is None else x + 1

    @functools.wraps(plain)
    def wrapped(*args, **kwargs):
        return plain(*args, **kwargs)

    class Called:
        def __call__(self, params, x, key=None):
            return plain(params, x, key=key)

    written = {
        "plain": plain,
        "wrapped": wrapped,
        "partial": functools.partial(plain),
        "object": Called(),
        "any keyword": lambda params, x, **given: plain(params, x, **given),
    }
    model = nf.Model(lambda key: {}, written[kind])
    assert (model.apply({}, 1.0), model.apply({}, 1.0, key=key)) == (1.0, 2.0)


def test_one_key_for_init_and_apply_draws_different_numbers():
    """DropConnect: with shared bits the mask would be the sign of the weight."""

    def apply(params, x, *, key=None):
        keep = jax.random.bernoulli(key, 0.5, params["weight"].shape)
        return keep.astype(jnp.float32)

    def init(key):
        return {"weight": jax.random.uniform(key, (1000,))}

    model, key = nf.Model(init, apply), jax.random.key(0)
    weight = model.init(key)["weight"]
    kept = model.apply({"weight": weight}, jnp.zeros(1), key=key)
    assert abs(np.corrcoef(weight, kept)[0, 1]) < 0.15


def test_an_init_that_draws_with_numpy_is_called_as_it_is():
    def init(key):
        seed = int(jax.random.randint(key, (), 0, 100))
        return {"w": jnp.asarray(np.random.default_rng(seed).normal(size=3), jnp.float32)}

    model = nf.as_model((init, lambda params, x: x @ params["w"]))
    assert model.init(jax.random.key(0))["w"].shape == (3,)


def other_end(x):
    """The same numbers in the other order of bytes."""
    x = np.asarray(x)
    return x.astype(x.dtype.newbyteorder())


X, IDS = np.arange(6, dtype=np.float32).reshape(3, 2) / 8, np.array([1, 0, 1], np.int32)
MODEL = nf.serial(nf.embedding(4, 3), nf.linear(3, 4))
PARAMS = MODEL.init(jax.random.key(0))


def streamed(metric):
    return lambda *args: metric.compute(metric.update(metric.init(), *args))


TAKERS = {
    "apply": (lambda ids: MODEL.apply(PARAMS, ids), IDS),
    "params": (lambda weight: nf.linear(2, 2, bias=False).apply({"weight": weight}, X), X[:2]),
    "generate": (
        lambda ids, n: nf.generate(MODEL, PARAMS, ids, 2, lengths=n).tokens,
        IDS[:, None] * np.ones(2, np.int32),
        IDS + 1,
    ),
    "summary": (lambda x: str(nf.summary(nf.linear(2, 2), (x,)[0])), X),
    "attend": (lambda x: nf.attend(x, x, x), X[:, :, None]),
    "gelu": (nf.activations.gelu, X),
    "mse": (nf.losses.mse, X, X),
    "cross_entropy": (nf.losses.cross_entropy, X, IDS),
    "weights": (lambda w: nf.losses.cross_entropy(X, IDS, weight=w), X[0]),
    "accuracy": (nf.metrics.accuracy, X, IDS),
    "r2": (streamed(nf.metrics.r2()), X[:, 0], X[:, 1]),
    "confusion": (streamed(nf.metrics.confusion(2)), X, IDS),
}


@pytest.mark.parametrize("name", TAKERS)
def test_arrays_of_either_order_of_bytes_and_of_no_numbers(name):
    function, *arrays = TAKERS[name]
    jax.tree.map(np.testing.assert_array_equal, function(*map(other_end, arrays)), function(*arrays))
    for dtype in (str, object, "datetime64[s]"):
        with pytest.raises(TypeError, match=r"should hold (numbers|integers), got (type )?"):
            function(*(x.astype(np.int64).astype(dtype) for x in arrays))


@pytest.mark.parametrize("name", TAKERS)
def test_masked_values_are_refused_by_every_function(name):
    """JAX would take the values under the mask, without a word."""
    function, *arrays = TAKERS[name]
    masked = np.ma.array(arrays[0])
    masked[(0,) * masked.ndim] = np.ma.masked
    with pytest.raises(ValueError, match=r"should hold no masked values, got 1 of"):
        function(masked, *arrays[1:])
    function(*map(np.ma.array, arrays))


def test_every_loss_and_metric_takes_either_order_of_bytes():
    for module in (nf.losses, nf.metrics):
        for name in module.__all__:
            function = getattr(module, name)
            first = next(iter(inspect.signature(function).parameters), "")
            if first in ("logits", "probabilities", "prediction", "scores", "anchor", "values"):
                assert hasattr(function, "__wrapped__") or name == "mean", name


def test_a_forward_without_out_is_refused_at_every_door(key):
    """Two rows of y were once taken for y and Out."""
    wrong = nf.Model(lambda key: {}, forward=lambda params, x, ctx: x)
    for net in (
        wrong,
        nf.serial(wrong),
        nf.repeat(wrong, 2),
        nf.ensemble(wrong, 2),
        nf.remat(wrong),
        nf.precision(wrong),
    ):
        with pytest.raises(TypeError, match=r"forward should return \(y, nf\.Out"):
            net.apply(net.init(key), jnp.ones((2, 3)))
        with pytest.raises(TypeError, match=r"forward should return \(y, nf\.Out"):
            nf.capture(net, "**")(net.init(key), jnp.ones((2, 3)))


def test_a_state_of_another_structure_is_refused(key):
    net = nf.serial(nf.linear(3, 2), nf.batch_norm(2))
    params, x = net.init(key), jnp.ones((4, 3))
    for state in ({"mean": jnp.zeros(2)}, {}, {"batch_norm": {"mean": jnp.zeros(2)}}, jnp.zeros(2)):
        for call in (net.apply, nf.capture(net, "**")):
            with pytest.raises(ValueError, match="state should have the shapes"):
                call(params, x, state=state)
        with pytest.raises(ValueError, match="state should have the shapes"):
            net.apply_train(params, state, x)


@pytest.mark.parametrize("new", [{}, {"m": jnp.zeros(3)}, {"n": jnp.zeros(4)}, jnp.zeros(3)], ids=str)
def test_a_new_state_is_that_of_init_state_at_every_door(key, new):
    forward = lambda params, x, ctx: (x, nf.Out(new))
    layer = nf.Model(lambda key: {}, forward=forward, init_state=lambda: {"n": jnp.zeros(3)}, name="counter")
    for net in (layer, nf.serial(layer), nf.repeat(layer, 2), nf.ensemble(layer, 2), nf.remat(layer)):
        state, x = net.init_state(), jnp.ones((2, 3))
        with pytest.raises(ValueError, match="counter: a layer's new state should have the shapes of its init_state"):
            net.apply_train({}, state, x)
        with pytest.raises(ValueError, match="counter: a layer's new state"):
            nf.capture(net, "**")({}, x, state=state, train=True)
        assert net.apply({}, x, state=state).shape[-1] == 3


@pytest.mark.parametrize("start", [0, jnp.zeros((), jnp.int32), False], ids=str)
def test_a_mean_is_not_cut_to_the_integer_it_starts_as(start):
    def forward(params, x, ctx):
        return x, nf.Out({"mean": 0.9 * jnp.float32(ctx.state["mean"]) + 0.1 * x.mean()})

    layer = nf.Model(lambda key: {}, forward=forward, init_state=lambda: {"mean": start}, name="average")
    with pytest.raises(
        ValueError, match=r"average: a state that starts as (int32|bool) should stay (int32|bool), got float32"
    ):
        layer.apply_train({}, layer.init_state(), jnp.ones(3))


def test_a_state_may_be_one_array(key):
    forward = lambda params, x, ctx: (x, nf.Out(ctx.state + 1))
    net = nf.serial(nf.Model(lambda key: {}, forward=forward, init_state=lambda: jnp.zeros(2), name="count"))
    assert net.apply_train({}, net.init_state(), jnp.ones(3))[1]["count"].tolist() == [1, 1]


DEBUGGING = {
    "float": lambda h: h * float(h.sum()),
    "numpy": lambda h: jnp.asarray(np.asarray(h) + 1),
    "branch": lambda h: h if h.sum() > 0 else -h,
    "print": lambda h: [print(h), h][1],
    "item": lambda h: h + h[0, 0].item(),
    "mask": lambda h: h + h[h > -100].sum(),
    "index of a list": lambda h: h * [1.0, 2.0][jnp.argmax(h[0] * 0)],
    "format": lambda h: [f"{h.sum():.2f}", h][1],
    "method of arrays": lambda h: h.block_until_ready(),
}


@pytest.mark.parametrize("name", DEBUGGING)
@pytest.mark.parametrize("jit", [True, False])
def test_layers_that_read_their_values_run_eagerly(key, name, jit):
    net = nf.serial(nf.linear(3, 2), DEBUGGING[name])
    params, x = net.init(key), jnp.ones((4, 3))
    with jax.disable_jit(not jit):
        y = net.apply(params, x)
        np.testing.assert_allclose(
            y, DEBUGGING[name](net.apply(params, x) * 0 + nf.linear(3, 2).apply(params["linear"], x))
        )


@pytest.mark.parametrize("name", [name for name in DEBUGGING if name != "mask"])
def test_a_block_of_a_repeat_may_read_its_values_too(key, name):
    net, plain = (
        nf.repeat(nf.serial(nf.linear(3, 3), look, nf.dropout(0.5)), 3)
        for look in (DEBUGGING[name], lambda h: jax.pure_callback(lambda h: np.asarray(DEBUGGING[name](h)), h, h))
    )
    params, x = net.init(key), jnp.ones((4, 3))
    np.testing.assert_allclose(net.apply(params, x, key=key), plain.apply(params, x, key=key), rtol=1e-6)
    if name != "print":
        with pytest.raises((TypeError, AttributeError, IndexError), match=r"[Tt]racer|traced"):
            jax.jit(net.apply)(params, x)


@pytest.mark.parametrize("name", ["numpy", "print"])
@pytest.mark.parametrize("wrap", [nf.remat, lambda net: nf.ensemble(net, 2), lambda net: nf.remat(nf.repeat(net, 2))])
def test_layers_inside_of_transformations_may_read_too(key, name, wrap):
    net = wrap(nf.serial(nf.linear(3, 3), DEBUGGING[name], nf.batch_norm(3)))
    plain = wrap(nf.serial(nf.linear(3, 3), lambda h: h + 1 if name == "numpy" else h, nf.batch_norm(3)))
    params, state, x = net.init(key), net.init_state(), jnp.arange(12.0).reshape(4, 3)
    actual, expected = (model.apply_train(params, state, x, key=key) for model in (net, plain))
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_a_key_error_of_a_plain_function_stays_one():
    with pytest.raises(KeyError, match="missing"):
        nf.serial(lambda x: {}["missing"]).apply({}, jnp.ones(2))


def test_settings_in_x_stay_what_they_are():
    net = nf.as_model(lambda x: sum(x["a"] for _ in range(x["n"])) if x["mode"] == "sum" else None)
    assert float(net.apply({}, {"a": jnp.ones(()), "n": 4, "mode": "sum"})) == 4.0


def codebook(size, dim):
    """A layer whose state begins at random."""

    def init_state(key):
        return {"codes": jax.random.normal(key, (size, dim))}

    def forward(params, x, ctx):
        codes = ctx.state["codes"]
        nearest = jnp.argmin(((x[..., None, :] - codes) ** 2).sum(-1), -1)
        return codes[nearest], nf.Out(state={"codes": 0.9 * codes if ctx.train else codes})

    return nf.Model(lambda key: {}, forward=forward, init_state=init_state)


def test_state_that_begins_at_random_needs_a_key(key):
    model = nf.serial(up=nf.linear(3, 4), codes=codebook(5, 4), deep=nf.repeat(codebook(6, 4), 3))
    with pytest.raises(MissingKeyError, match=r"codebook: its state begins at random.*model.init_state\(key\)"):
        model.init_state()
    state = model.init_state(key)
    assert jax.tree.map(jnp.shape, state) == {"codes": {"codes": (5, 4)}, "deep": {"codes": (3, 6, 4)}}
    codes = state["deep"]["codes"]
    assert not np.array_equal(codes[0], codes[1])
    alone = nf.serial(codes=codebook(5, 4)).init_state(key)  # it belongs to the name
    np.testing.assert_array_equal(alone["codes"]["codes"], state["codes"]["codes"])
    with pytest.raises(ValueError, match=r"model.init_state\(key\) before it"):
        model.apply(model.init(key), jnp.ones((2, 3)))
    assert nf.batch_norm(3).init_state(key).keys() == nf.batch_norm(3).init_state().keys()


def test_training_draws_the_state_from_the_key_of_the_run(key):
    build = lambda h: nf.Task(
        nf.serial(nf.linear(3, 4), codebook(5, 4)), lambda p, b: (p(b).mean(), {}), nf.optimizers.sgd(0.1)
    )
    state = nf.trainer(build).init({}, key)
    again, other = nf.trainer(build).init({}, key), nf.trainer(build).init({}, jax.random.key(7))
    codes = lambda s: s.model_state["codebook"]["codes"]
    np.testing.assert_array_equal(codes(state), codes(again))
    assert not np.array_equal(codes(state), codes(other))


def test_a_state_may_be_drawn_by_the_laws():
    make = lambda: nf.serial(nf.linear(3, 4), codebook(5, 4))
    x = jnp.linspace(-1, 1, 12).reshape(4, 3)
    with pytest.raises(AssertionError, match="1 law failed:\nprecision_is_a_wrapper"):  # its state is not cast
        nf.testing.check_model(make, x, order=1, smooth=False, all=True)
