"""Attention and positions against PyTorch's values and gradients (tests/golden/attention.npz), by hand,
and token by token against all at once.

The golden numbers are float64, made with PyTorch 2.13 by scripts/golden/attention.py.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import GOLDEN as GOLDEN_FILES

import nnfunc as nf
from nnfunc.layers.attention.backends import choose_implementation
from nnfunc.layers.attention.masks import AttendOptions

GOLDEN = np.load(GOLDEN_FILES / "attention.npz")
SLOPES = np.array([0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125])  # of six heads, by hand
CASES = {
    "plain": {},
    "causal": {"causal": True},
    "grouped": {"causal": True},
    "one_key_head": {},
    "scale": {"scale": 0.3},
    "mask": {},
    "mask_of_heads": {},
    "lengths": {},
    "bias": {},
    "last_queries": {"causal": True},
    "window": {"causal": True, "window": 2},
    "window_both_sides": {"window": 3},
    "soft_cap": {"causal": True, "soft_cap": 0.7},
    "alibi": {"causal": True, "slopes": SLOPES},
}
KEY = jax.random.key(0)
LAYERS = {
    "layer/self": nf.attention(6, 3),
    "layer/causal": nf.attention(6, 3, causal=True),
    "layer/cross": nf.attention(6, 3, context_dim=5),
}
ROTARIES = {"half": {}, "part": {"base": 500.0, "dim": 4}, "interleaved": {"interleaved": True}}


def normal(*shape, dtype=jnp.float32):
    """Standard normal numbers, drawn without compiling anything."""
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape), dtype)


def golden(case):
    names = [name for name in GOLDEN.files if name.rpartition("/")[0] == case]
    assert names, case
    return {name.rpartition("/")[2]: GOLDEN[name] for name in names}


@functools.cache
def errors(dtype, implementation=None):
    """For each case the largest error of y and the gradients, as a share of the largest expected
    value of each. All cases are one compiled program.
    """
    with jax.enable_x64(dtype == "float64"):
        cases = {name: (function, golden(name)) for name, function in FUNCTIONS.items()}
        if implementation is not None:
            names = ("grouped", "mask", "mask_of_heads", "lengths", "bias", "window", "alibi")
            with_it = functools.partial(functools.partial, implementation=implementation)
            cases = {name: (with_it(FUNCTIONS[name]), golden(name)) for name in names}
        inputs = {
            name: {n: jnp.asarray(v, dtype) for n, v in its.items() if f"d{n}" in its}
            for name, (_, its) in cases.items()
        }

        def run(name, floats):
            function, its = cases[name]
            others = {n: v for n, v in its.items() if n in ("mask", "lengths", "positions")}
            floats = dict(floats)
            dy = jnp.asarray(its["dy"], dtype)
            floats.pop("y")
            y, back = jax.vjp(lambda floats: function(**floats, **others), floats)
            return {"y": y} | back(dy)[0]

        got = jax.jit(lambda inputs: {name: run(name, its) for name, its in inputs.items()})(inputs)
        assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype(dtype)}
    found = {}
    for name, leaves in jax.tree.map(np.asarray, got).items():
        its = golden(name)
        expected = {n: its["y" if n == "y" else f"d{n}"] for n in leaves}
        apart = {n: np.abs(leaves[n] - expected[n]).max() for n in leaves}
        least = {"key_bias": 1.0}  # every score of a query alike: its gradient is 0
        size = {n: max(np.abs(expected[n]).max(), least.get(n, 1e-3)) for n in leaves}
        found[name] = max(apart[n] / size[n] for n in leaves)
    return found


def nested(**flat):
    """query_weight=w -> {"query": {"weight": w}}."""
    params = {}
    for name, leaf in flat.items():
        params.setdefault(name.rpartition("_")[0], {})[name.rpartition("_")[2]] = leaf
    return params


def layer_of(model, x, context=None, lengths=None, **flat):
    inputs = x if context is None else nf.AttentionInput(x, context, lengths=lengths)
    return model.apply(nested(**flat), inputs)


FUNCTIONS = (
    {name: functools.partial(nf.attend, **settings) for name, settings in CASES.items()}
    | {name: functools.partial(layer_of, model) for name, model in LAYERS.items()}
    | {f"rotary/{name}": functools.partial(nf.rotary, **its) for name, its in ROTARIES.items()}
)


@pytest.mark.parametrize("case", FUNCTIONS)
def test_values_and_gradients_are_pytorchs(case):
    assert errors("float64")[case] < 1e-12
    # the angle of position 5000 is known to 2e-4 in float32
    assert errors("float32")[case] < (5e-4 if "rotary" in case else 3e-6)


def test_jaxs_own_form_gives_the_same():
    """What a GPU would run."""
    found = errors("float32", "xla")
    assert len(found) == 7
    assert max(found.values()) < 3e-6, found


def test_attend_is_pytorchs_live(key):
    torch = pytest.importorskip("torch")
    q, k, v = normal(2, 6, 4, 8), normal(2, 6, 2, 8), normal(2, 6, 2, 8) + 1
    its = [torch.tensor(np.asarray(x)).transpose(1, 2) for x in (q, k, v)]
    call = torch.nn.functional.scaled_dot_product_attention
    expected = call(*its, is_causal=True, enable_gqa=True).transpose(1, 2)
    y = jax.jit(functools.partial(nf.attend, causal=True))(q, k, v)
    np.testing.assert_allclose(y, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("heads", [1, 4, 6, 12])
def test_alibi_slopes_are_the_authors(heads):
    np.testing.assert_allclose(nf.alibi_slopes(heads), GOLDEN[f"slopes/{heads}"], rtol=1e-6)


def test_sinusoidal_positions_are_the_papers():
    y = nf.sinusoidal_positions(6).apply({}, jnp.ones((2, 40, 6)))
    expected = np.broadcast_to(1 + GOLDEN["sinusoidal"], (2, 40, 6))
    np.testing.assert_allclose(y, expected, atol=5e-6)


def test_learned_positions_by_hand():
    model = nf.learned_positions(3, 2)
    weight = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    y = model.apply({"weight": weight}, jnp.full((2, 2, 2), 10.0))
    np.testing.assert_array_equal(y, [[[11, 12], [13, 14]]] * 2)


def test_rotary_depends_on_the_distance_only():
    q, k = normal(1, 1, 8), normal(1, 1, 8) + 1

    @jax.jit
    def product(at, by):
        turn = lambda x, place: nf.rotary(x, place[None])
        return (turn(q, at) * turn(k, at - by)).sum()

    here, there, nearer = (float(product(jnp.array(at), by)) for at, by in ((7, 3), (107, 3), (7, 4)))
    assert here == pytest.approx(there, abs=1e-4)
    assert here != pytest.approx(nearer, abs=1e-2)


# What a query may attend to.


def test_masks_combine_and_broadcast():
    """Where the gradient by v is not 0: [batch, heads, time, source]."""
    places, distance = np.arange(5), np.arange(2, 5)[:, None] - np.arange(5)
    mask = np.arange(30).reshape(2, 3, 5) % 4 > 0
    per_head = np.arange(12).reshape(4, 3, 1) % 5 > 0
    lengths = np.array([4, 2])
    short = (places < lengths[:, None])[:, None, None]
    cases = [
        ({}, True),
        ({"causal": True}, distance >= 0),
        ({"causal": True, "window": 2}, (distance >= 0) & (distance < 2)),
        ({"window": jnp.array(2.0)}, abs(distance) < 2),
        ({"causal": True, "start": 0}, distance >= 2),
        ({"lengths": lengths}, short),
        ({"lengths": jnp.array(3)}, places < 3),
        ({"mask": mask, "causal": True, "lengths": lengths}, mask[:, None] & (distance >= 0) & short),
        ({"mask": mask[0]}, mask[0]),
        ({"mask": mask[:, :1]}, mask[:, None, :1]),
        ({"mask": per_head[None]}, per_head),
    ]
    q, k = normal(2, 3, 4, 4), normal(2, 5, 2, 4)
    v = jnp.broadcast_to(jnp.eye(5)[None, :, None], (2, 5, 2, 5))
    found = jax.jit(lambda: [nf.attend(q, k, v, **settings) > 0 for settings, _ in cases])()
    for y, (_, expected) in zip(found, cases, strict=True):
        expected = np.broadcast_to(expected, (2, 4, 3, 5))
        np.testing.assert_array_equal(np.asarray(y).transpose(0, 2, 1, 3), expected)


def test_groups_share_key_heads_in_order():
    q, k, v = normal(2, 3, 6, 4), normal(2, 5, 2, 4), normal(2, 5, 2, 7)
    wide = [jnp.repeat(x, 3, axis=2) for x in (k, v)]
    attend = jax.jit(nf.attend)
    np.testing.assert_allclose(attend(q, k, v), attend(q, *wide), atol=1e-6)


def test_a_query_is_as_good_alone_and_under_vmap():
    q, k, v = normal(2, 3, 3, 2, 4), normal(2, 3, 5, 2, 4), normal(2, 3, 5, 2, 4)
    mask = np.arange(90).reshape(2, 3, 3, 5) % 4 > 0
    run = lambda q, k, v, mask: nf.attend(q, k, v, mask=mask)
    together, single = jax.jit(lambda *a: (run(*a), jax.vmap(jax.vmap(run))(*a)))(q, k, v, mask)
    np.testing.assert_allclose(together, single, atol=1e-6)


@pytest.mark.parametrize("implementation", ["plain", "xla"])
def test_rows_with_nothing_to_attend_to_are_zero(implementation):
    """And their gradients: all finite, those of the row itself 0."""
    q, k, v = normal(2, 3, 2, 4), normal(2, 4, 2, 4), normal(2, 4, 2, 4)
    mask = jnp.ones((2, 3, 4), bool).at[1, 2].set(False)

    @jax.jit
    def run(q, k, v):
        found = []
        for settings in ({"mask": mask}, {"lengths": jnp.array([0, 4])}, {"causal": True, "start": -1}):
            attend = lambda *a, s=settings: nf.attend(*a, implementation=implementation, **s)
            y, back = jax.vjp(attend, q, k, v)
            found.append((y, *back(jnp.ones_like(y))))
        return found

    found = run(q, k, v)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    masked, short, early = [[np.asarray(leaf) for leaf in leaves] for leaves in found]
    for y_or_dq in masked[:2]:
        assert (y_or_dq[1, 2] == 0).all()
        assert (y_or_dq[0] != 0).all()
    assert all((leaf[0] == 0).all() for leaf in short)
    assert (short[0][1] != 0).all()
    for y_or_dq in early[:2]:
        assert (y_or_dq[:, 0] == 0).all()
    assert (early[0][:, 1:] != 0).all()


def test_nasty_inputs_stay_finite():
    q, k, v = normal(1, 3, 2, 4), normal(1, 3, 2, 4), normal(1, 3, 2, 4)
    alone = jnp.array([[True, False, False]])  # one source that counts: its value, no gradient

    @jax.jit
    def run(q, k, v, mask):
        y, back = jax.vjp(lambda q, k, v: nf.attend(q, k, v, mask=mask), q, k, v)
        return y, *back(y)

    for inputs in ((100 * q, 100 * q, v), (1e8 * q, 1e8 * k, v), (0 * q, k, v)):
        for mask in (alone, jnp.ones((3, 3), bool)):
            mask = jnp.broadcast_to(mask, (3, 3))
            assert all(np.isfinite(leaf).all() for leaf in run(*inputs, mask))
    y, dq, _, _ = run(q, k, v, jnp.broadcast_to(alone, (3, 3)))
    np.testing.assert_allclose(y, jnp.broadcast_to(v[:, :1], y.shape), rtol=1e-6)
    assert (dq == 0).all()


def test_one_position_and_none():
    q, v = normal(1, 3, 2, 4), normal(1, 3, 2, 4)
    attend = jax.jit(nf.attend)
    np.testing.assert_allclose(attend(q[:, :1], q[:, :1], v[:, :1]), v[:, :1], rtol=1e-6)
    np.testing.assert_allclose(attend(q, q[:, :1], v[:, :1]), np.repeat(v[:, :1], 3, 1), rtol=1e-6)
    np.testing.assert_array_equal(attend(q, q[:, :0], v[:, :0]), 0 * q)
    assert attend(q[:, :0], q, v).shape == (1, 0, 2, 4)


def test_bias_of_minus_infinity_is_a_mask():
    q, k, v = normal(1, 3, 2, 4), normal(1, 3, 2, 4), normal(1, 3, 2, 4)
    mask = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    bias = np.where(mask, 0.0, -np.inf).astype(np.float32)

    @jax.jit
    def run(q, k, v):
        y, back = jax.vjp(lambda q, bias: nf.attend(q, k, v, bias=bias), q, jnp.asarray(bias))
        return y, nf.attend(q, k, v, mask=mask), back(y)

    y, expected, grads = run(q, k, v)
    np.testing.assert_array_equal(y, expected)
    assert all(np.isfinite(leaf).all() for leaf in grads)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_calculates_the_softmax_in_float32(dtype):
    q, k, v = (normal(2, 64, 2, 8, dtype=dtype) for _ in range(3))
    attend = jax.jit(functools.partial(nf.attend, causal=True))
    y, wide = attend(q, k, v), attend(*(x.astype(jnp.float32) for x in (q, k, v)))
    assert y.dtype == dtype
    assert np.abs(np.asarray(y, np.float32) - wide).max() < (0.02 if dtype == "bfloat16" else 3e-3)


def test_soft_cap_infinity_is_off():
    q, k, v = normal(1, 3, 2, 4), normal(1, 3, 2, 4), normal(1, 3, 2, 4)
    attend = jax.jit(lambda cap: nf.attend(q, k, v, soft_cap=cap))
    expected = jax.jit(nf.attend)(q, k, v)
    for y in (attend(jnp.inf), jax.jit(lambda: nf.attend(q, k, v, soft_cap=float("inf")))()):
        np.testing.assert_allclose(y, expected, rtol=1e-6)
    slope = jax.jit(jax.grad(lambda cap: nf.attend(q, k, v, soft_cap=cap).sum()))
    assert slope(jnp.inf) == 0
    assert jnp.isfinite(slope(1e-3))


def test_dropout_drops_weights_and_needs_a_key(key):
    q, k = jnp.zeros((8, 32, 2, 4)), jnp.zeros((8, 32, 2, 4))
    v = jnp.broadcast_to(jnp.eye(32)[:, None], (8, 32, 2, 32))
    attend = jax.jit(functools.partial(nf.attend, dropout=0.25))
    np.testing.assert_allclose(attend(q, k, v), 1 / 32, rtol=1e-6)
    shares = np.asarray(attend(q, k, v, key=key)) * 32
    assert abs((shares == 0).mean() - 0.25) < 4 * (0.25 * 0.75 / shares.size) ** 0.5
    np.testing.assert_allclose(shares[shares > 0], 1 / 0.75, rtol=1e-5)
    assert (shares[:, :, 0] != shares[:, :, 1]).any()  # each head its own


def test_derivatives_of_every_kind(key):
    q, k, v = normal(1, 3, 2, 4), normal(1, 3, 1, 4), normal(1, 3, 1, 4)
    mask = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool)
    bias = normal(2, 3, 3)
    nf.testing.check_gradients(
        lambda q, k, v, bias: nf.attend(q, k, v, bias=bias, mask=mask, soft_cap=2.0), q, k, v, bias
    )


# Which implementation, on a machine that is not here.


def chosen(q=(2, 8, 4, 64), k=None, dtype=jnp.bfloat16, platform="gpu", capability=9.0, **options):
    q = jax.ShapeDtypeStruct(q, dtype)
    k = q if k is None else jax.ShapeDtypeStruct(k, dtype)
    return choose_implementation(platform, q, k, k, AttendOptions(**options), capability)


def test_the_implementation_is_chosen_by_platform_type_and_shape(monkeypatch):
    assert chosen(causal=True) == "cudnn"
    assert chosen(dtype=jnp.float16, window=4, causal=True, scale=0.5) == "cudnn"
    assert chosen(k=(2, 8, 2, 64)) == "cudnn"
    assert chosen(platform="cpu") == "plain"
    assert chosen(platform="tpu") == "plain"
    assert chosen(soft_cap=2.0) == chosen(dropout=jax.random.key(0)) == "plain"
    mask = jnp.ones((2, 8, 8), bool)
    for other in (
        {"dtype": jnp.float32},
        {"capability": 7.5},
        {"capability": 0.0},
        {"q": (2, 8, 4, 36)},
        {"q": (2, 8, 4, 160)},
        {"causal": True, "k": (2, 9, 4, 64)},
        {"scale": jnp.array(0.5)},
        {"causal": True, "window": jnp.array(4)},
        {"window": 4},
        {"start": jnp.array(3)},
        {"slopes": jnp.ones(4)},
        {"bias": jnp.ones((8, 8))},
    ):
        assert chosen(**other) == "xla", other
    for version, expected in (((0, 11, 1), "xla"), ((0, 11, 2), "cudnn")):
        monkeypatch.setattr(jax, "__version_info__", version)
        assert chosen(mask=mask) == expected
        assert chosen(lengths=jnp.array([3, 8])) == expected
    assert chosen(mask=mask[:, :7], q=(2, 7, 4, 64), k=(2, 8, 4, 64)) == "xla"


def test_on_a_gpu_cudnn_is_called_with_what_it_understands(monkeypatch):
    """The call itself, with everything of the machine replaced."""
    calls = []

    def recorded(q, k, v, **settings):
        calls.append(settings)
        return jnp.ones_like(q)

    monkeypatch.setattr(jax.nn, "dot_product_attention", recorded)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    monkeypatch.setattr("nnfunc.layers.attention.functional.gpu_compute_capability", lambda: 9.0)
    x = jnp.ones((3, 2, 4, 2, 8), jnp.bfloat16)
    assert nf.attend(x, x, x, causal=True, window=3).shape == x.shape
    assert calls[-1] == {"scale": None, "is_causal": True, "local_window_size": (2, 0), "implementation": "cudnn"}
    y = nf.attend(x, x, x, lengths=jnp.array([[0, 1], [2, 3], [4, 4]]))
    assert calls[-1]["key_value_seq_lengths"].tolist() == [1, 1, 2, 3, 4, 4]
    assert (y[0, 0] == 0).all()
    assert (y[0, 1] == 1).all()
    y = nf.attend(x, x, x, mask=jnp.zeros((2, 4, 1), bool).at[1].set(True))
    assert calls[-1]["mask"].shape == (6, 1, 4, 4)
    assert (y[:, 0] == 0).all()
    assert (y[:, 1] == 1).all()
    nf.attend(*(x.astype(jnp.float32),) * 3, causal=True)
    assert calls[-1]["implementation"] == "xla"


def test_capability_of_this_machine():
    from nnfunc.layers.attention.backends import gpu_compute_capability

    assert gpu_compute_capability() >= 0


# Token by token.

DIM, TIME, ROOM = 8, 7, 10
CACHED = {
    "multi_head": {},
    "grouped": {"kv_heads": 2},
    "one_key_head": {"kv_heads": 1, "head_dim": 4},
    "rotary": {"positions": "rotary", "kv_heads": 2},
    "window": {"window": 3, "positions": "rotary", "interleaved": True},
    "alibi": {"positions": "alibi", "soft_cap": 2.0},
    "normed": {"qk_norm": True, "positions": "rotary", "rotary_dim": 2, "head_dim": 4, "bias": False},
}


@functools.cache
def cached(name):
    """A model, its parameters, an input, and y of all at once."""
    layer = nf.attention(DIM, 4, kv_heads=2, causal=True, positions="rotary")
    model = {
        "layers": nf.parallel(**{n: nf.attention(DIM, 4, causal=True, **its) for n, its in CACHED.items()}),
        "repeat": nf.repeat(nf.residual(layer), 3),
        "remat": nf.repeat(nf.remat(nf.residual(layer)), 2),
        "positions": nf.serial(
            learned=nf.learned_positions(ROOM, DIM), waves=nf.sinusoidal_positions(DIM), attend=layer
        ),
    }[name]
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: normal(*leaf.shape) * 0.4, shapes)
    x = normal(2, TIME, DIM)
    return model, params, x, jax.jit(model.apply)(params, x)


@functools.cache
def pieces(name, sizes):
    """y of the sequence given in pieces, the first one without a state; and the last state."""
    model, params, x, _ = cached(name)

    @jax.jit
    def run(params, x, state):
        y, out = model.forward(params, x, nf.Context(cache=ROOM, state=state))
        return y, out.state

    ys, state, at = [], {}, 0
    for size in sizes:
        y, new = run(params, x[:, at : at + size], state)
        if state:
            assert jax.tree.map(nf.base.shape_struct, new) == jax.tree.map(nf.base.shape_struct, state)
        ys, state, at = [*ys, y], new, at + size
    return jax.tree.map(lambda *ys: np.concatenate(ys, 1), *ys), state


def near(found, expected):
    for name, value in nf.paths.flatten({"y": expected}).items():
        got = nf.paths.flatten({"y": found})[name]
        np.testing.assert_allclose(got, value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "name, sizes",
    [
        ("layers", (3, 1, 1, 2)),
        ("repeat", (3, 1, 1, 2)),
        ("remat", (6, 1)),
        ("positions", (1, 2, 4)),
        ("positions", (7,)),
    ],
)
def test_the_cache_gives_what_all_at_once_gives(name, sizes):
    near(pieces(name, sizes)[0], cached(name)[3])


@pytest.mark.parametrize("name", ["layers", "repeat", "positions"])
def test_the_cache_lives_in_a_while_loop(name):
    model, params, x, expected = cached(name)

    @jax.jit
    def run(params, x):
        y, out = model.forward(params, x[:, :2], nf.Context(cache=ROOM))
        ys = jax.tree.map(lambda y: jnp.zeros_like(x).at[:, :2].set(y), y)

        def step(carry):
            i, ys, state = carry
            new = jax.lax.dynamic_slice_in_dim(x, i, 1, 1)
            y, out = model.forward(params, new, nf.Context(cache=ROOM, state=state))
            insert = lambda ys, y: jax.lax.dynamic_update_slice_in_dim(ys, y, i, 1)
            return i + 1, jax.tree.map(insert, ys, y), out.state

        return jax.lax.while_loop(lambda carry: carry[0] < TIME, step, (2, ys, out.state))[1]

    near(run(params, x), expected)


def test_the_state_is_as_described():
    model, params, x, _ = cached("layers")
    run = lambda x, **kwargs: model.forward(params, x, nf.Context(**kwargs))[1].state
    state = jax.eval_shape(lambda x: run(x, cache=ROOM), x)["grouped"]
    assert {n: leaf.shape for n, leaf in state.items()} == {
        "key": (2, ROOM, 2, 2),
        "value": (2, ROOM, 2, 2),
        "position": (),
    }
    assert pieces("layers", (3, 1, 1, 2))[1]["grouped"]["position"] == TIME
    assert state["position"].dtype == jnp.int32
    assert jax.eval_shape(run, x) == {}


def test_a_full_cache_gives_nan():
    """While traced it cannot be known; the last places are not written over in silence."""
    layer = nf.attention(DIM, 2, causal=True)
    model = nf.parallel(attend=layer, learned=nf.learned_positions(3, DIM))
    params = jax.tree.map(lambda leaf: normal(*leaf.shape), jax.eval_shape(model.init, jax.random.key(0)))
    run = jax.jit(lambda x, state: model.forward(params, x, nf.Context(cache=3, state=state)))
    x = normal(2, 2, DIM)
    _, out = run(x, {})
    assert all(jnp.isfinite(y).all() for y in run(x[:, :1], out.state)[0].values())
    y, out = run(x, out.state)
    assert jnp.isnan(y["attend"]).all()
    assert jnp.isfinite(y["learned"][:, 0]).all()
    assert jnp.isnan(y["learned"][:, 1]).all()
    assert jnp.isnan(run(x[:, :1], out.state)[0]["attend"]).all()


def test_a_context_is_remembered():
    model = nf.attention(DIM, 2, context_dim=5)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: normal(*leaf.shape), shapes)
    x, context, lengths = normal(2, 4, DIM), normal(2, 3, 5), jnp.array([2, 3])
    given = lambda x: nf.AttentionInput(x, context, lengths=lengths)

    @jax.jit
    def run(params, x):
        first, out = model.forward(params, given(x[:, :3]), nf.Context(cache=8))
        last, new = model.forward(params, given(x[:, 3:]), nf.Context(cache=8, state=out.state))
        return model.apply(params, given(x)), first, last, new

    whole, first, last, new = run(params, x)
    np.testing.assert_allclose(jnp.concatenate([first, last], 1), whole, atol=1e-5)
    assert jax.tree.map(jnp.shape, new.state) == {"key": (2, 3, 2, 4), "value": (2, 3, 2, 4)}


# The layer.


def test_parameters_of_the_layer():
    model = nf.attention(6, 2, kv_heads=1, head_dim=4, context_dim=5, qk_norm=True, out_bias=False)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(model.init, jax.random.key(0)))
    assert shapes == {
        "query": {"weight": (6, 8), "bias": (8,)},
        "key": {"weight": (5, 4), "bias": (4,)},
        "value": {"weight": (5, 4), "bias": (4,)},
        "out": {"weight": (8, 6)},
        "query_norm": {"scale": (4,)},
        "key_norm": {"scale": (4,)},
    }


def test_the_layer_is_its_parts():
    model = nf.attention(6, 2, kv_heads=1, head_dim=4, qk_norm=True, positions="rotary", causal=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: normal(*leaf.shape), shapes)
    x, bias = normal(2, 5, 6), normal(2, 5, 5)

    @jax.jit
    def expected(params):
        split = {}
        for name, count in (("query", 2), ("key", 1), ("value", 1)):
            y = (x @ params[name]["weight"] + params[name]["bias"]).reshape(2, 5, count, 4)
            if name != "value":
                y = nf.rotary(nf.rms_norm(4).apply(params[f"{name}_norm"], y))
            split[name] = y
        y = nf.attend(*split.values(), causal=True, bias=bias).reshape(2, 5, 8)
        return y @ params["out"]["weight"] + params["out"]["bias"]

    np.testing.assert_allclose(
        jax.jit(model.apply)(params, nf.AttentionInput(x, bias=bias)), expected(params), atol=1e-5
    )


def test_the_parts_of_the_layer_can_be_captured():
    model = nf.serial(attend=nf.attention(6, 2))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    captured = nf.capture(model, "attend/query")
    _, taps = jax.eval_shape(captured, shapes, normal(2, 5, 6))
    assert jax.tree.map(jnp.shape, taps) == {"attend/query": (2, 5, 6)}


def test_dropout_of_the_layer(key):
    model, x = nf.attention(6, 2, dropout=0.5), normal(2, 5, 6)
    params = jax.jit(model.init)(key)
    apply = jax.jit(model.apply)
    np.testing.assert_array_equal(apply(params, x), jax.jit(nf.attention(6, 2).apply)(params, x))
    dropped = apply(params, x, key=key)
    assert (dropped != apply(params, x)).any()
    assert (dropped != apply(params, x, key=jax.random.key(5))).any()


# Errors.

Q = jnp.ones((2, 3, 4, 8))
K = jnp.ones((2, 5, 2, 8))
WRONG = {
    "axes": (
        lambda: nf.attend(Q[0, 0], K, K),
        ValueError,
        r"^attend: q should be \[\.\.\., time, heads, head_dim\].*got q \(4, 8\), k \(2, 5, 2, 8\)",
    ),
    "leading": (
        lambda: nf.attend(Q, K[:1], K[:1]),
        ValueError,
        r"attend: q should be .*got q \(2, 3, 4, 8\), k \(1, 5, 2, 8\)",
    ),
    "head_dim": (lambda: nf.attend(Q, K[..., :4], K), ValueError, r"attend: q should be .*k \(2, 5, 2, 4\)"),
    "values": (lambda: nf.attend(Q, K, K[:, :3]), ValueError, r"attend: q should be .*v \(2, 3, 2, 8\)"),
    "groups": (
        lambda: nf.attend(Q[:, :, :3], K, K),
        ValueError,
        r"attend: the heads of k should divide those of q, got 2 and 3\.",
    ),
    "types": (
        lambda: nf.attend(Q, K.astype(jnp.bfloat16), K),
        TypeError,
        r"attend: q, k and v should have one dtype, got float32, bfloat16 and float32",
    ),
    "integers": (lambda: nf.attend(Q.astype(int), K, K), TypeError, r"attend: q should hold floats, got int"),
    "mask_shape": (
        lambda: nf.attend(Q, K, K, mask=jnp.ones((3, 4), bool)),
        ValueError,
        r"attend: mask should be \[\.\.\., time, source\], here \(2, 3, 5\) or with axes of 1, got shape \(3, 4\)\.",
    ),
    "mask_heads": (
        lambda: nf.attend(Q, K, K, mask=jnp.ones((2, 3, 3, 5), bool)),
        ValueError,
        r"attend: mask should be \[\.\.\., heads, time, source\], here \(2, 4, 3, 5\)",
    ),
    "mask_vector": (
        lambda: nf.attend(Q, K, K, mask=jnp.ones(5, bool)),
        ValueError,
        r"attend: mask should be .*got shape \(5,\)",
    ),
    "mask_axes": (
        lambda: nf.attend(Q, K, K, mask=jnp.ones((1, 1, 1, 3, 5), bool)),
        ValueError,
        r"attend: mask should be .*got shape \(1, 1, 1, 3, 5\)",
    ),
    "mask_type": (
        lambda: nf.attend(Q, K, K, mask=jnp.ones((3, 5))),
        TypeError,
        r"attend: mask should hold booleans, got float32",
    ),
    "bias": (
        lambda: nf.attend(Q, K, K, bias=jnp.ones((2, 3, 5))),
        ValueError,
        r"attend: bias should be \[\.\.\., heads, time, source\], here \(2, 4, 3, 5\) .*got shape \(2, 3, 5\)",
    ),
    "lengths": (
        lambda: nf.attend(Q, K, K, lengths=jnp.ones(3, int)),
        ValueError,
        r"attend: lengths should be \[\.\.\.\], here \(2,\) or with axes of 1, got shape \(3,\)",
    ),
    "slopes": (
        lambda: nf.attend(Q, K, K, slopes=jnp.ones(3)),
        ValueError,
        r"attend: slopes should have shape \(4,\), got shape \(3,\)",
    ),
    "window": (lambda: nf.attend(Q, K, K, window=0), ValueError, r"attend: window should be at least 1, got 0\."),
    "soft_cap": (lambda: nf.attend(Q, K, K, soft_cap=0.0), ValueError, r"attend: soft_cap should be above 0, got 0\.0"),
    "dropout": (
        lambda: nf.attend(Q, K, K, dropout=1.5),
        ValueError,
        r"attend: dropout should be in \[0, 1\], got 1\.5",
    ),
    "key": (lambda: nf.attend(Q, K, K, dropout=0.5, key=3), TypeError, r"attend: key should be one random key, got 3"),
    "word": (
        lambda: nf.attend(Q, K, K, implementation="flash"),
        ValueError,
        r"attend: implementation should be one of .*got 'flash'",
    ),
    "cudnn": (
        lambda: nf.attend(Q, K, K, implementation="cudnn"),
        ValueError,
        r"attend: .* implementation 'cudnn' supports, got the dtype float32\. Leave implementation= out\.",
    ),
    "xla": (
        lambda: nf.attend(Q, K, K, implementation="xla", soft_cap=3.0),
        ValueError,
        r"attend: .* implementation 'xla' supports, got soft_cap\.",
    ),
    "divide": (
        lambda: nf.attention(10, 4),
        ValueError,
        r"^attention: heads should divide dim, got 4 and 10\. Give head_dim=",
    ),
    "kv_heads": (
        lambda: nf.attention(8, 4, kv_heads=3),
        ValueError,
        r"^attention: kv_heads should divide heads, got 3 and 4\.",
    ),
    "cross_causal": (
        lambda: nf.attention(8, 4, context_dim=8, causal=True),
        ValueError,
        r"^attention: causal, window and positions should be left out with context_dim",
    ),
    "positions": (
        lambda: nf.attention(8, 4, positions="rope"),
        ValueError,
        r"^attention: positions should be one of 'rotary', 'alibi', got 'rope'",
    ),
    "odd": (
        lambda: nf.attention(6, 2, positions="rotary"),
        ValueError,
        r"rotary: dim should be even and at most the last axis of x, 3, got 3",
    ),
    "rotary_base": (
        lambda: nf.attention(8, 2, positions="rotary", rotary_base=0.0),
        ValueError,
        r"rotary: base should be above 0, got 0\.0",
    ),
    "rotary_axes": (
        lambda: nf.rotary(jnp.ones((3, 4))),
        ValueError,
        r"^rotary: x should be \[\.\.\., time, heads, head_dim\], got shape \(3, 4\)",
    ),
    "rotary_places": (
        lambda: nf.rotary(Q, jnp.arange(4)),
        ValueError,
        r"^rotary: positions should be \[\.\.\., time\] with time 3, got shape \(4,\)",
    ),
    "sinusoidal": (
        lambda: nf.sinusoidal_positions(5),
        ValueError,
        r"^sinusoidal_positions: dim should be even, got 5\.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_named(case):
    make, kind, words = WRONG[case]
    with pytest.raises(kind, match=words):
        make()


X = jnp.ones((2, 3, 8))
WRONG_INPUT = {
    "width": (
        nf.attention(6, 2),
        X,
        ValueError,
        r"attention: the last axis of x should be 6 \(dim\), got shape \(2, 3, 8\)",
    ),
    "axes": (
        nf.attention(8, 2),
        X[0, 0],
        ValueError,
        r"attention: x should be \[\.\.\., time, dim\], got shape \(8,\)",
    ),
    "dict": (
        nf.attention(8, 2),
        {"x": X, "mask": X},
        TypeError,
        r"attention: x should be an array or an nf.AttentionInput, got a dict with \['mask', 'x'\]\. Write nf.Att",
    ),
    "no_context": (
        nf.attention(8, 2, context_dim=5),
        X,
        ValueError,
        r"attention: x should be an AttentionInput with a context if and only if .*got no context and context_dim=5",
    ),
    "context": (
        nf.attention(8, 2),
        nf.AttentionInput(X, X),
        ValueError,
        r"attention: x should be .*got a context and context_dim=None",
    ),
    "context_width": (
        nf.attention(8, 2, context_dim=5),
        nf.AttentionInput(X, X),
        ValueError,
        r"attention: context: the last axis of x should be 5 \(context_dim\)",
    ),
    "context_batch": (
        nf.attention(8, 2, context_dim=8),
        nf.AttentionInput(X, X[:1]),
        ValueError,
        r"attention: x and context should have the same leading axes, got \(2, 3, 8\) and \(1, 3, 8\)",
    ),
    "mask": (
        nf.attention(8, 2),
        nf.AttentionInput(X, mask=jnp.ones((2, 3, 4), bool)),
        ValueError,
        r"attend: mask should be .*got shape \(2, 3, 4\)",
    ),
    "learned": (
        nf.learned_positions(2, 8),
        X,
        ValueError,
        r"learned_positions: the sequence should be at most 2, got 3\. Make it learned_positions\(3, 8\)",
    ),
    "learned_axes": (
        nf.learned_positions(2, 8),
        X[0, 0],
        ValueError,
        r"learned_positions: x should be \[\.\.\., time, dim\]",
    ),
}


@pytest.mark.parametrize("case", WRONG_INPUT)
def test_wrong_input_is_named_with_the_path(case):
    layer, x, kind, words = WRONG_INPUT[case]
    model = nf.serial(body=nf.serial(inner=layer))
    params = jax.eval_shape(model.init, jax.random.key(0))
    with pytest.raises(kind, match=f"^body/inner: .*{words}"):
        jax.eval_shape(model.apply, params, x)


def test_a_prompt_that_does_not_fit_is_refused():
    model, params, x, _ = cached("positions")
    with pytest.raises(ValueError, match=r"attend: attention: the cache should hold 7 positions, got 5"):
        model.forward(params, x, nf.Context(cache=5))
    with pytest.raises(ValueError, match=r"learned_positions: the sequence should be at most 10, got 11"):
        model.forward(params, x, nf.Context(cache=11))
    layer = nf.attention(DIM, 2)
    with pytest.raises(ValueError, match=r"attention: generation should use causal=True"):
        layer.forward(jax.eval_shape(layer.init, jax.random.key(0)), x, nf.Context(cache=11))


# values inside


def small_models():
    ids, size = jnp.arange(12).reshape(2, 6) % 11, {"layers": 3, "heads": 2, "dim": 8}
    block = nf.transformer_block(8, nf.attention(8, 2, implementation="xla"), nf.feed_forward(8, 8))
    return {
        "gpt": (nf.gpt(11, block_size=6, **size), ids),
        "llama": (nf.llama(11, **size), ids),
        "bert": (nf.bert(11, block_size=6, **size), ids),
        "vit": (nf.vit(3, image_size=4, patch=2, in_dim=1, **size), jnp.ones((2, 4, 4, 1))),
        "xla": (nf.serial(blocks=nf.remat_repeats(nf.repeat(block, 3))), jax.random.normal(KEY, (2, 6, 8))),
    }


@pytest.mark.parametrize("name", small_models())
def test_weights_scores_and_heads_are_captured(name):
    model, x = small_models()[name]
    params = jax.jit(model.init)(KEY)
    names = ["scores", "weights", "heads", "value"]
    y, taps = jax.jit(nf.capture(model, [f"blocks/*/attend/{value}" for value in names]))(params, x)
    scores, weights, heads, value = (taps[f"blocks/*/attend/{value}"] for value in names)
    assert scores.shape == weights.shape == (3, 2, 2, value.shape[2], value.shape[2])
    np.testing.assert_allclose(weights, jax.nn.softmax(scores, -1), rtol=1e-5, atol=1e-7)
    value = value.reshape(heads.shape)  # as many heads
    np.testing.assert_allclose(heads, jnp.einsum("lbhts,lbshd->lbthd", weights, value), rtol=1e-4, atol=1e-6)
    if name in ("gpt", "llama"):
        assert (scores[..., 0, 1:] == -jnp.inf).all()
    np.testing.assert_allclose(y, jax.jit(model.apply)(params, x), rtol=1e-4, atol=1e-5)


def test_weights_of_groups_of_heads_and_of_a_context():
    net = nf.serial(a=nf.attention(8, 4, kv_heads=2), b=jnp.tanh)
    x = jax.random.normal(KEY, (2, 5, 8))
    params = net.init(KEY)
    _, taps = nf.capture(net, ["a/weights", "a/value", "a/heads"])(params, x)
    value = jnp.repeat(taps["a/value"].reshape(2, 5, 2, 2), 2, axis=2)  # [batch, source, heads, head_dim]
    heads = jnp.einsum("bhts,bshd->bthd", taps["a/weights"], value)
    np.testing.assert_allclose(taps["a/heads"], heads, rtol=1e-4, atol=1e-6)
    net = nf.serial(a=nf.attention(8, 2, context_dim=4))
    for source in (3, 0):
        inputs = nf.AttentionInput(x, jnp.ones((2, source, 4)))
        _, taps = nf.capture(net, ["a/weights", "a/scores"])(net.init(KEY), inputs)
        assert taps["a/weights"].shape == taps["a/scores"].shape == (2, 2, 5, source)


def test_weights_are_computed_only_on_request(monkeypatch):
    """`**` and the statistics of all layers ask for no weights: the call is that of apply."""
    from nnfunc.layers.attention import layer

    observers, attend = [], layer.attend

    def spy(*args, **kwargs):
        observers.append(kwargs["observe"])
        return attend(*args, **kwargs)

    monkeypatch.setattr(layer, "attend", spy)
    net = nf.serial(attend=nf.attention(8, 2))
    params, x = net.init(KEY), jnp.ones((2, 5, 8))
    net.apply(params, x)
    _, taps = nf.capture(net, ["**", "attend/*", "**/out"])(params, x)
    assert not {"attend/weights", "attend/scores", "attend/heads"} & set(taps)
    nf.patch(net, {"**": lambda value: value}).apply(params, x)
    nf.summary(net, x.shape)
    nf.capture(net, "attend/heads")(params, x)
    assert observers
    assert not any(observers)
    _, taps = nf.capture(net, ["**", "**/weights"])(params, x)
    assert "attend/weights" in taps
    assert "attend/scores" not in taps
    assert observers[-1] is not None
    for pattern in ("attend/weigths", "attend/w*"):
        with pytest.raises(ValueError, match=f"the pattern '{re.escape(pattern)}' should match at least one path"):
            nf.capture(net, pattern)(params, x)


def test_heads_weights_and_scores_are_patched():
    model, x = small_models()["gpt"]
    params = jax.jit(model.init)(KEY)

    def off(heads):
        return heads.at[..., 1, :].set(0)  # [batch, time, heads, head_dim]

    ablated = nf.patch(model, {"blocks/2/attend/heads": off})
    weight = params["blocks"]["attend"]["out"]["weight"].at[2, 4:].set(0)  # the rows of the second head
    by_hand = jax.tree.map(lambda leaf: leaf, params)
    by_hand["blocks"]["attend"]["out"]["weight"] = weight
    np.testing.assert_allclose(jax.jit(ablated.apply)(params, x), model.apply(by_hand, x), rtol=1e-4, atol=1e-5)
    assert not np.allclose(ablated.apply(params, x), model.apply(params, x), atol=1e-4)
    blind = {"weights": jnp.zeros_like, "scores": lambda scores: jnp.full_like(scores, -jnp.inf)}
    for name, change in blind.items():
        _, taps = nf.capture(nf.patch(model, {f"**/{name}": change}), "**/heads")(params, x)
        np.testing.assert_array_equal(taps["blocks/*/attend/heads"], 0)
    everything = nf.patch(model, {"blocks/0/**": lambda value: 0 * value, "**/weights": lambda value: value})
    _, taps = nf.capture(everything, "**/weights")(params, x)
    np.testing.assert_allclose(taps["blocks/*/attend/weights"].sum(-1), 1, rtol=1e-5)


def test_attend_observed():
    q = jax.random.normal(KEY, (3, 1, 2))
    names = []

    def uniform(name, value):
        names.append((name, value.shape))
        return jnp.full_like(value, 1 / 3) if name == "weights" else value

    y = nf.attend(q, q, q, implementation="xla", observe=uniform)
    np.testing.assert_allclose(y, jnp.broadcast_to(q.mean(0), q.shape), rtol=1e-5)
    assert names == [("scores", (1, 3, 3)), ("weights", (1, 3, 3))]
