"""Recurrent cells, layers and models against PyTorch's values and gradients, and the papers' equations.

The golden numbers are float64, made with PyTorch 2.13 by scripts/golden/recurrent.py.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import GOLDEN as GOLDEN_FILES

import nnfunc as nf
from nnfunc import paths
from nnfunc.layers.recurrent import cell_math, scan

GOLDEN = np.load(GOLDEN_FILES / "recurrent.npz")
CASES = sorted({"/".join(name.split("/")[:2]) for name in GOLDEN.files})
MAKE = {
    "rnn": nf.rnn,
    "relu": functools.partial(nf.rnn, activation="relu"),
    "gru": nf.gru,
    "before": functools.partial(nf.gru, reset="before"),
    "lstm": nf.lstm,
    "peepholes": functools.partial(nf.lstm, peepholes=True),
}
KINDS = {
    "rnn": cell_math.RNN["tanh"],
    "relu": cell_math.RNN["relu"],
    "gru": cell_math.GRU["after"],
    "before": cell_math.GRU["before"],
    "lstm": cell_math.LSTM,
    "peepholes": cell_math.LSTM,
}


def normal(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def wide_case(case, dtype):
    """The arrays of a golden case, and its parameters, gradients and carries as trees."""
    start = case + "/"
    its = {name.removeprefix(start): GOLDEN[name] for name in GOLDEN.files if name.startswith(start)}
    its = {name: np.asarray(value, None if name == "lengths" else dtype) for name, value in its.items()}
    params, grads = (
        paths.unflatten({name[len(part) :]: v for name, v in its.items() if name.startswith(part)})
        for part in ("p/", "dp/")
    )
    both = "forward" in next(iter(params.values()))
    layers = len(params)

    def carries(h, c):
        """{"layer_0": ...} of PyTorch's [layers * directions, batch, dim]."""
        parts = [its[h], *([its[c]] if c in its else [])]
        one = lambda i: tuple(part[i] for part in parts) if len(parts) > 1 else parts[0][i]
        ways = lambda i: {"forward": one(2 * i), "backward": one(2 * i + 1)} if both else one(i)
        return {f"layer_{i}": ways(i) for i in range(layers)}

    return its, params, grads, carries, both


SLOW = pytest.mark.slow
IN_FLOAT32 = [pytest.param(c, "float32", marks=[SLOW] * c.endswith(("deep", "step", "one"))) for c in CASES]


@pytest.mark.parametrize("case, dtype", [*((case, "float64") for case in CASES), *IN_FLOAT32])
def test_values_and_gradients_are_the_references(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        its, params, grads, carries, both = wide_case(case, dtype)
        bias = "bias" in str(jax.tree.structure(params))
        model = MAKE[case.partition("/")[0]](2, 3, layers=len(params), bidirectional=both, bias=bias, return_carry=True)
        made = jax.eval_shape(model.init, jax.random.key(0))
        assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)
        lengths = its.get("lengths")

        @jax.jit
        def run(params, x, carry, dy):
            def loss(params, x, carry):
                y, last = model.apply(params, nf.RecurrentInput(x, lengths, carry))
                of = lambda part, f: sum(f(leaf).sum() for leaf in part)
                leaves = jax.tree.leaves(last, is_leaf=lambda node: isinstance(node, tuple))
                hs = [leaf[0] if isinstance(leaf, tuple) else leaf for leaf in leaves]
                cs = [leaf[1] for leaf in leaves if isinstance(leaf, tuple)]
                return jnp.sum(y * dy) + of(hs, jnp.cos) + of(cs, jnp.sin), (y, last)

            grads, aux = jax.grad(loss, (0, 1, 2), has_aux=True)(params, x, carry)
            return aux, grads

        got = run(params, its["x"], carries("h0", "c0"), its["dy"])
        expected = (its["y"], carries("h1", "c1")), (grads, its["dx"], carries("dh0", "dc0"))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(got))
    limit = 1e-12 if dtype == "float64" else 2e-5
    if case.endswith("saturated") and dtype == "float32":
        limit = 2e-3  # inputs of a thousand: a gate's 1 - sigmoid is rounding

    def error(one, other):
        assert one.shape == other.shape
        return np.abs(np.asarray(one) - other).max() / max(1.0, np.abs(other).max())

    found = jax.tree.map(error, got, expected)
    assert max(jax.tree.leaves(found)) < limit, found


# The fast form of the loop over time against the plain one


def loop(name, masked):
    """(kind, differentiable arguments, mask) of a small loop in float64."""
    kind, dim, steps, batch = KINDS[name], 3, 4, 2
    draw = np.random.default_rng(1)
    gates = len(kind.gates) * dim
    cut = 2 * dim if name == "before" else gates
    weights = {"recurrent": draw.normal(size=(dim, cut)), "bias": draw.normal(size=gates)}
    weights |= {"candidate": draw.normal(size=(dim, dim))} if name == "before" else {}
    weights |= {"recurrent_bias": draw.normal(size=dim)} if name == "gru" else {}
    weights |= {f"peephole_{g}": draw.normal(size=dim) for g in "ifo"} if name == "peepholes" else {}
    pre = draw.normal(size=(steps, batch, gates))
    carry = tuple(draw.normal(size=(batch, dim)) for _ in range(kind.carries))
    real = np.array([[1, 1], [1, 1], [1, 0], [0, 0]], bool)[..., None]
    mask = jnp.asarray(np.broadcast_to(real, (steps, batch, dim))) if masked else None
    return kind, jax.tree.map(jnp.asarray, (weights, pre, carry)), mask


@pytest.mark.parametrize(
    "name, masked",
    [pytest.param("lstm", False, marks=SLOW)]
    + [pytest.param(name, True, marks=[SLOW] * (name != "lstm")) for name in KINDS],
)
def test_fast_form_is_the_plain_one_to_the_second_derivative(name, masked):
    with jax.enable_x64(True):
        kind, args, mask = loop(name, masked)
        along = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(1.0, leaf.size + 1)).reshape(leaf.shape), args)

        def whole(fast):
            def loss(*args):
                y, last = scan.scan_time(kind, *args, mask, reverse=masked, fast=fast)
                return jnp.sum(jnp.sin(2 * y)) + sum(jnp.sum(jnp.cos(part)) for part in last), (y, last)

            value = lambda *args: loss(*args)[0]
            grad = jax.grad(value, (0, 1, 2))
            forward = jax.jvp(loss, args, along)
            curve = jax.jvp(grad, args, along)  # forward over reverse
            back = jax.grad(lambda *args: jax.jvp(value, args, along)[1], (0, 1, 2))(*args)
            return forward, curve, back

        plain, fast = (jax.jit(functools.partial(whole, form))() for form in (False, True))
    for one, other in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def products_in_loops(jaxpr, inside=False):
    """(loops, matrix products inside of them) of a program."""
    loops = products = 0
    for equation in jaxpr.eqns:
        is_loop = equation.primitive.name in ("scan", "while")
        loops, products = loops + is_loop, products + (inside and "dot" in equation.primitive.name)
        for part in jax.tree.leaves(list(equation.params.values())):
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                more = products_in_loops(part, inside or is_loop)
                loops, products = loops + more[0], products + more[1]
    return loops, products


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_gradient_of_the_fast_form_is_two_loops(name, masked):
    """The gradient of the recurrent weight is left to one product outside of the loops."""
    kind, args, mask = loop(name, masked)

    def loss(fast, *args):
        y, _ = scan.scan_time(kind, *args, mask, fast=fast)
        return jnp.sum(jnp.sin(y))

    counts = {}
    for fast in (False, True):
        grad = jax.grad(functools.partial(loss, fast), (0, 1, 2))
        counts[fast] = products_in_loops(jax.make_jaxpr(grad)(*args).jaxpr)
    per_step = 2 if name == "before" else 1
    assert counts == {False: (2, 3 * per_step), True: (2, 2 * per_step)}


@pytest.mark.optimized
@pytest.mark.parametrize("name", ["gru", "before", "lstm", "peepholes"])
def test_writing_in_place_copies_nothing(name):
    """No loop of the compiled gradient copies the array of all steps, [4, 2, gates * 3]."""
    kind, args, mask = loop(name, True)
    args = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), args)

    def loss(weights, pre, carry, x):
        y, _ = scan.scan_time(kind, weights, x * pre, carry, mask, fast=True)
        return jnp.sum(jnp.sin(y))

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*args, jnp.ones(())).compile()
    entry = compiled.as_text().partition("\nENTRY")[0]  # what comes before are the loops' bodies
    assert not re.search(rf"f32\[4,2,{len(kind.gates) * 3}\]\S* copy\(", entry)


# Cells and layers


@pytest.mark.parametrize("name", MAKE)
def test_cell_over_time_is_the_layer(name, key):
    keywords = MAKE[name].keywords if isinstance(MAKE[name], functools.partial) else {}
    factory = getattr(MAKE[name], "func", MAKE[name])
    cell = {nf.rnn: nf.rnn_cell, nf.gru: nf.gru_cell, nf.lstm: nf.lstm_cell}[factory](3, 4, **keywords)
    layer, params, x = MAKE[name](3, 4, return_carry=True), cell.init(key), normal(2, 5, 3)
    start = nf.initial_carry(cell, params, x[:, 0])
    assert not any(leaf.any() for leaf in jax.tree.leaves(start))
    step = lambda carry, x: cell.apply(params, (carry, x))
    last, y = jax.lax.scan(step, start, jnp.swapaxes(x, 0, 1))
    y_layer, last_layer = layer.apply({"layer_0": params}, x)
    np.testing.assert_allclose(np.swapaxes(y, 0, 1), y_layer, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), last, last_layer["layer_0"])
    again = nf.initial_carry(layer, {"layer_0": params}, x)
    assert jax.tree.map(jnp.shape, again) == {"layer_0": jax.tree.map(jnp.shape, start)}
    carry, y = cell.apply(params, (None, x[0, 0]))  # no batch axis
    np.testing.assert_allclose(y, y_layer[0, 0], rtol=1e-5, atol=1e-6)
    assert jax.tree.leaves(carry)[0].shape == (4,)


def test_padding_is_not_looked_at():
    """NaN past the end changes nothing, in values or gradients; a length of 0 keeps the carry."""
    model = nf.lstm(3, 4, bidirectional=True, return_carry=True)
    params, x = model.init(jax.random.key(1)), normal(3, 5, 3)
    lengths = jnp.array([3, 5, 0])
    padded = x.copy()
    padded[0, 3:], padded[2] = np.nan, np.nan
    start = {"layer_0": {way: (normal(3, 4), -normal(3, 4)) for way in ("forward", "backward")}}

    def run(params, x):
        y, last = model.apply(params, nf.RecurrentInput(x, lengths, start))
        return jnp.sum(jnp.sin(y)) + sum(map(jnp.sum, jax.tree.leaves(last))), (y, last)

    grads, (y, last) = jax.jit(jax.grad(run, (0, 1), has_aux=True))(params, padded)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert not grads[1][0, 3:].any()
    assert not grads[1][2].any()
    assert not y[0, 3:].any()
    assert not y[2].any()
    first = jax.tree.map(lambda v: v[:1], start)
    short, short_last = model.apply(params, nf.RecurrentInput(x[:1, :3], carry=first))
    np.testing.assert_allclose(y[:1, :3], short, rtol=1e-5, atol=1e-6)
    for whole, alone, first in zip(*map(jax.tree.leaves, (last, short_last, start)), strict=True):
        np.testing.assert_allclose(whole[:1], alone, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(whole[2], first[2])


def test_directions_and_layers_by_their_parts(key):
    x = normal(2, 4, 3)
    deep = nf.gru(3, 2, layers=2, bidirectional=True)
    params = deep.init(key)
    assert sorted(paths.flatten(params))[:2] == ["layer_0/backward/bias", "layer_0/backward/recurrent_bias"]
    y = x
    for i in range(2):
        own, back = params[f"layer_{i}"], nf.gru(y.shape[-1], 2, reverse=True)
        ahead = nf.gru(y.shape[-1], 2).apply({"layer_0": own["forward"]}, y)
        behind = back.apply({"layer_0": own["backward"]}, y)
        flipped = nf.gru(y.shape[-1], 2).apply({"layer_0": own["backward"]}, y[:, ::-1])[:, ::-1]
        np.testing.assert_allclose(behind, flipped, rtol=1e-5, atol=1e-6)
        y = jnp.concatenate([ahead, behind], -1)
    np.testing.assert_allclose(deep.apply(params, x), y, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(deep.apply(params, x[0]), y[0], rtol=1e-5, atol=1e-6)
    assert deep.apply(params, x[:0]).shape == (0, 4, 4)
    assert deep.apply(params, x[:, :0]).shape == (2, 0, 4)


def test_dropout_is_between_layers_only(key):
    x, one, two = normal(2, 4, 3), nf.lstm(3, 5, dropout=0.5), nf.lstm(3, 5, layers=2, dropout=0.5)
    params = two.init(key)
    np.testing.assert_array_equal(one.apply(one.init(key), x, key=key), one.apply(one.init(key), x))
    np.testing.assert_array_equal(two.apply(params, x), nf.lstm(3, 5, layers=2).apply(params, x))
    assert not np.allclose(two.apply(params, x, key=key), two.apply(params, x))
    dark = nf.lstm(3, 5, layers=2, dropout=1.0).apply(params, x, key=key)
    alone = nf.lstm(5, 5).apply({"layer_0": params["layer_1"]}, jnp.zeros((2, 4, 5)))
    np.testing.assert_allclose(dark, alone, rtol=1e-5, atol=1e-6)


def test_initial_parameters(key):
    params = nf.lstm(3, 4, forget_bias=2.0, peepholes=True).init(key)["layer_0"]
    np.testing.assert_array_equal(params["bias"], np.repeat([0, 2, 0, 0], 4))
    assert not params["peephole"].any()
    for gate in np.split(np.asarray(params["recurrent_weight"]), 4, axis=-1):
        np.testing.assert_allclose(gate @ gate.T, np.eye(4), atol=1e-5)
    assert sorted(nf.gru(3, 4, bias=False).init(key)["layer_0"]) == ["recurrent_weight", "weight"]
    assert "recurrent_bias" not in nf.gru(3, 4, reset="before").init(key)["layer_0"]


# While a sequence is generated


@pytest.mark.parametrize("name", [pytest.param(n, marks=[SLOW] * (n in ("relu", "before", "peepholes"))) for n in MAKE])
def test_cache_step_by_step_is_the_whole(name, key):
    """Through repeat, in a while loop; the state keeps its kinds."""
    model = nf.serial(body=nf.repeat(MAKE[name](3, 3, layers=2), 2), head=nf.linear(3, 2))
    params, x = model.init(key), jnp.asarray(normal(2, 6, 3))

    @jax.jit
    def both(params, x):
        y, (state, _) = model.forward(params, x[:, :2], nf.Context(cache=6))

        def step(loop):
            t, y, state = loop
            new = jax.lax.dynamic_slice_in_dim(x, t, 2, 1)
            part, (state, _) = model.forward(params, new, nf.Context(cache=6, state=state))
            return t + 2, jax.lax.dynamic_update_slice_in_dim(y, part, t, 1), state

        room = jnp.zeros((2, 6, 2)).at[:, :2].set(y)
        return jax.lax.while_loop(lambda loop: loop[0] < 6, step, (2, room, state))[1], model.apply(params, x)

    np.testing.assert_allclose(*both(params, x), rtol=1e-5, atol=1e-6)


def test_layers_that_look_ahead_refuse_to_generate(key):
    for model in (nf.gru(3, 2, bidirectional=True), nf.gru(3, 2, reverse=True)):
        params = jax.eval_shape(model.init, key)
        with pytest.raises(ValueError, match=r"layer_0: gru: .* run forward only"):
            model.forward(params, normal(1, 4, 3), nf.Context(cache=4))


# Errors

X = np.ones((2, 4, 3), "f4")


@pytest.mark.parametrize(
    "x, words",
    [
        (np.ones((2, 4, 5), "f4"), r"layer_0: lstm: the last axis of x should be 3 \(in_dim\)"),
        (np.ones(3, "f4"), r"lstm: x should be \[..., time, in_dim\], got shape \(3,\)"),
        (
            {"x": X, "lengths": np.ones(2, "i4")},
            r"x should be an array or an nf.RecurrentInput, got a dict with \['lengths', 'x'\]. "
            r"Write nf.RecurrentInput\(x, lengths=..., carry=...\)",
        ),
        (nf.RecurrentInput(X, np.ones(4, "i4")), r"lengths should have shape \(2,\)"),
        (nf.RecurrentInput(X, np.ones(2, "f4")), "lengths should hold integers"),
        (nf.RecurrentInput(X, carry={}), r"carry should be a dict with \['layer_0'\]"),
        (nf.RecurrentInput(X, carry={"layer_0": np.ones((2, 2), "f4")}), r"a pair \(h, c\)"),
        (
            nf.RecurrentInput(X, carry={"layer_0": (np.ones((2, 2), "f4"), np.ones(2, "f4"))}),
            r"c should have shape \(2, 2\), got shape \(2,\)",
        ),
    ],
)
def test_wrong_inputs_say_what_is_wrong(x, words, key):
    model = nf.lstm(3, 2)
    with pytest.raises((ValueError, TypeError), match=words):
        model.apply(jax.eval_shape(model.init, key), x)


def test_wrong_arguments_say_what_is_wrong(key):
    with pytest.raises(ValueError, match="only one of reverse and bidirectional should be set, got both"):
        nf.lstm(3, 2, bidirectional=True, reverse=True)
    with pytest.raises(ValueError, match="reset should be one of 'after', 'before'"):
        nf.gru(3, 2, reset="later")
    with pytest.raises(ValueError, match="embedding_dim should be dim when tied, got 4 and 3"):
        nf.rnn_lm(5, dim=3, embedding_dim=4, tied=True)
    cell = nf.gru_cell(3, 2)
    with pytest.raises(TypeError, match=r"gru_cell: x should be a pair \(carry, x\)"):
        cell.apply(cell.init(key), jnp.ones((4, 3)))
    layer = nf.gru(3, 2)
    with pytest.raises(ValueError, match="return_carry=True"):
        nf.initial_carry(layer, layer.init(key), jnp.ones((2, 4, 3)))


# Models


@pytest.mark.parametrize("pool", ["last", "mean"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_classifier_reads_the_real_steps_only(cell, pool, key):
    model = nf.rnn_classifier(3, 2, dim=4, cell=cell, layers=2, bidirectional=True, pool=pool)
    params, x = model.init(key), normal(2, 5, 3)
    apply = jax.jit(model.apply)
    y = apply(params, nf.RecurrentInput(x, jnp.array([5, 2])))
    np.testing.assert_allclose(y[0], apply(params, x)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(y[1], apply(params, x[:, :2])[1], rtol=1e-5, atol=1e-6)


def test_language_model_looks_back_only_and_ties(key):
    model = nf.rnn_lm(7, dim=4, cell="gru", layers=2, tied=True)
    params = model.init(key)
    assert sorted(params) == ["body", "head", "tokens"]
    assert sorted(params["head"]) == ["bias"]
    x = jnp.array([[1, 2, 3, 4]])
    changed = model.apply(params, x.at[0, 2].set(6))
    y = model.apply(params, x)
    np.testing.assert_array_equal(y[:, :2], changed[:, :2])
    assert not np.allclose(y[:, 2:], changed[:, 2:])
    free = nf.rnn_lm(7, dim=4, embedding_dim=3)
    assert free.apply(free.init(key), x).shape == (1, 4, 7)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_layer_is_pytorchs_of_now(name):
    """By rename and transpose, where PyTorch is installed."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(5, 8, num_layers=2, batch_first=True)
    own = {key: value.detach().numpy() for key, value in theirs.named_parameters()}
    params = {}
    for i in range(2):
        one, two = own[f"bias_ih_l{i}"], own[f"bias_hh_l{i}"].copy()
        params[f"layer_{i}"] = {"weight": own[f"weight_ih_l{i}"].T, "recurrent_weight": own[f"weight_hh_l{i}"].T}
        if name == "GRU":
            params[f"layer_{i}"]["recurrent_bias"] = two[16:].copy()
            two[16:] = 0
        params[f"layer_{i}"]["bias"] = one + two
    x = normal(3, 9, 5)
    model = getattr(nf, name.lower())(5, 8, layers=2)
    expected = theirs(torch.tensor(x))[0].detach().numpy()
    np.testing.assert_allclose(model.apply(params, x), expected, rtol=1e-4, atol=1e-6)
