"""The mixture of experts against a loop in numpy, its losses by hand, and how objectives read them.

Values and gradients against PyTorch are in test_transformer.py.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf


def drawn(model, seed=0):
    """Parameters of the model's shapes in numpy, and not small."""
    draw = np.random.RandomState(seed)
    made = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: draw.standard_normal(leaf.shape).astype("f4"), made)


def tokens(*shape):
    return np.random.RandomState(1).standard_normal(shape).astype("f4")


@functools.cache
def captured(model):
    return jax.jit(nf.capture(model, "router/*"))


def in_a_loop(params, x, *, top_k, weighing, gated, most=math.inf):
    """Token by token: y [tokens, dim], and the choices made."""
    logits = x @ params["router"]["weight"]
    order = np.argsort(-logits, axis=-1)[:, :top_k]
    taken = np.zeros(logits.shape[-1], int)
    y = np.zeros_like(x)
    for choice in range(top_k):  # first choices come before second ones
        for token, its in enumerate(order):
            e = its[choice]
            taken[e] += 1
            if taken[e] > most:
                continue
            among = logits[token, its] if weighing == "chosen" else logits[token]
            weight = np.exp(logits[token, e]) / np.exp(among).sum()
            up, gate, down = (params.get(name, {}) for name in ("up", "gate", "down"))
            inner = x[token] @ up["weight"][e] + up["bias"][e]
            if gated:
                inner = inner * np.maximum(x[token] @ gate["weight"][e] + gate["bias"][e], 0)
            else:
                inner = np.maximum(inner, 0)
            y[token] += weight * (inner @ down["weight"][e] + down["bias"][e])
    return y, order


CASES = [
    ({"top_k": 1, "weighing": "all"}, "relu", None),
    ({"top_k": 2, "weighing": "chosen"}, "reglu", None),
    ({"top_k": 2, "weighing": "chosen"}, "relu", 0.6),
    ({"top_k": 3, "weighing": "all"}, "reglu", 1.0),
    ({"top_k": 2, "weighing": "all"}, "relu", 2.0),
    ({"top_k": 5, "weighing": "chosen"}, "relu", None),
]


@pytest.mark.parametrize("choice, activation, capacity", CASES)
def test_experts_are_a_loop_over_tokens(choice, activation, capacity):
    model = nf.mixture_of_experts(4, 6, 5, activation=activation, capacity=capacity, **choice)
    params, x = drawn(model), tokens(3, 7, 4)
    most = math.inf if capacity is None else math.ceil(capacity * choice["top_k"] * 21 / 5)
    rows, gated = x.reshape(21, 4), activation == "reglu"
    expected, order = in_a_loop(params, rows, gated=gated, most=most, **choice)
    y, taps = captured(model)(params, x)
    np.testing.assert_allclose(y, expected.reshape(3, 7, 4), rtol=1e-4, atol=1e-4)
    shares = np.bincount(order.ravel(), minlength=5) / order.size
    np.testing.assert_allclose(taps["router/fraction"], shares, rtol=1e-6)


def test_room_for_all_drops_none():
    """At capacity num_experts / top_k the queues hold every token, and just below it they are still used."""
    whole = nf.mixture_of_experts(4, 6, 5, top_k=2)
    params, x = drawn(whole), tokens(6, 4)
    x = np.concatenate([x[:1]] * 6)  # all want the same two experts

    def value_and_gradients(capacity):
        model = nf.mixture_of_experts(4, 6, 5, top_k=2, capacity=capacity)
        loss = lambda params, x: jnp.sum(jnp.sin(model.apply(params, x)))
        return jax.jit(jax.value_and_grad(loss, (0, 1)))(params, x)

    expected = value_and_gradients(None)
    for capacity in (2.5, 2.49):  # ceil(2.49 * 2 * 6 / 5) = 6
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
        jax.tree.map(close, value_and_gradients(capacity), expected)


def test_what_is_over_adds_nothing():
    model = nf.mixture_of_experts(4, 6, 3, top_k=1, capacity=0.5)  # ceil(0.5 * 4 / 3) = 1 of 4 tokens each
    x = np.concatenate([tokens(1, 4)] * 4)
    y = np.asarray(model.apply(drawn(model), x))
    assert np.abs(y[0]).max() > 0
    np.testing.assert_array_equal(y[1:], np.zeros((3, 4), "f4"))


def test_losses_by_hand():
    """Two tokens, two experts, k = 1: probabilities (3/4, 1/4) and (1/4, 3/4), then both (3/4, 1/4)."""
    model = nf.mixture_of_experts(2, 3, 2, top_k=1)
    params = {**drawn(model), "router": {"weight": np.eye(2, dtype="f4") * math.log(3)}}
    for x, balance, share in (
        ([[1.0, 0.0], [0.0, 1.0]], 1.0, [0.5, 0.5]),  # 2 * (1/2 * 1/2 + 1/2 * 1/2)
        ([[1.0, 0.0], [1.0, 0.0]], 1.5, [1.0, 0.0]),  # 2 * (1 * 3/4 + 0 * 1/4)
    ):
        _, taps = captured(model)(params, jnp.array(x))
        assert float(taps["router/balance_loss"]) == pytest.approx(balance)
        assert float(taps["router/z_loss"]) == pytest.approx(math.log(4) ** 2)  # log(3 + 1)
        np.testing.assert_allclose(taps["router/fraction"], share)


def test_one_expert_is_a_feed_forward():
    model, one = nf.mixture_of_experts(4, 6, 1, top_k=1), nf.feed_forward(4, 6)
    params, x = drawn(model), tokens(2, 3, 4)
    own = {name: jax.tree.map(lambda leaf: leaf[0], params[name]) for name in ("up", "down")}
    np.testing.assert_allclose(model.apply(params, x), one.apply(own, x), rtol=1e-5, atol=1e-5)


def test_no_tokens_are_no_trouble():
    for capacity in (None, 1.0):
        model = nf.mixture_of_experts(4, 6, 3, capacity=capacity)
        y, taps = nf.capture(model, "router/*")(drawn(model), jnp.ones((2, 0, 4)))
        assert y.shape == (2, 0, 4)
        assert all(np.isfinite(tap).all() for tap in taps.values())


def test_each_expert_is_drawn_for_its_own_fan_in(key):
    params = jax.jit(nf.mixture_of_experts(64, 32, 16).init)(key)
    up = np.asarray(params["up"]["weight"])
    assert up.std() == pytest.approx(64**-0.5, rel=0.02)
    assert np.asarray(params["down"]["weight"]).std() == pytest.approx(32**-0.5, rel=0.02)
    assert len(np.unique(up[:, 0, 0])) == 16


def test_router_stays_in_float32_under_precision():
    """Two logits that bfloat16 cannot tell apart: the larger one is chosen all the same."""
    model = nf.mixture_of_experts(2, 3, 2, top_k=1)
    params = drawn(model)
    params["router"]["weight"] = np.array([[1.0, 1.001], [0.0, 0.0]], "f4")
    _, taps = nf.capture(nf.precision(model), "router/fraction")(params, jnp.array([[1.0, 0.0]]))
    np.testing.assert_array_equal(taps["router/fraction"], [0.0, 1.0])


def test_the_balance_loss_spreads_the_tokens():
    """Of eight experts, most tokens want one at first; the loss as a tap of a repeated layer undoes it."""
    model = nf.repeat(nf.residual(nf.mixture_of_experts(4, 4, 8, top_k=1, weighing="all")), 2)
    inside = nf.capture(model, ["**/router/balance_loss", "**/router/fraction"])
    x = tokens(256, 4) + 2

    def objective(predict, batch):
        ctx = predict.ctx
        _, taps = inside(predict.params, batch, key=ctx.key, state=ctx.state, train=ctx.train)
        loss = taps["*/body/router/balance_loss"].mean()
        return loss, {"most": taps["*/body/router/fraction"].max()}

    build = lambda hypers: nf.Task(model, objective, nf.optimizers.adam(hypers["rate"]))
    init, step = nf.trainer(build)
    hypers = {"rate": 0.03}
    state, many = init(hypers, jax.random.key(0)), []
    step = jax.jit(step)
    for _ in range(100):
        state, metrics = step(hypers, state, x)
        many.append((float(metrics["loss"]), float(metrics["most"])))
    assert many[0][0] > 1.5
    assert many[0][1] > 0.4
    assert many[-1][0] < 1.1
    assert many[-1][1] < 0.25


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"top_k": 4}, r"mixture_of_experts: top_k should be in \[1, 3\], got 4. Each token"),
        ({"weighing": "top"}, "weighing should be one of 'chosen', 'all'"),
        ({"capacity": 0.0}, "capacity should be above 0"),
        ({"activation": "swigul"}, "did you mean 'swiglu'"),
    ],
)
def test_experts_say_what_is_wrong(settings, words):
    with pytest.raises(ValueError, match=words):
        nf.mixture_of_experts(4, 6, 3, **settings)


def test_wrong_width_is_named():
    model = nf.serial(mix=nf.mixture_of_experts(4, 6, 3))
    with pytest.raises(ValueError, match=r"mix: mixture_of_experts: .* 4 \(dim\), got shape \(2, 5\)"):
        model.apply(drawn(model), jnp.ones((2, 5)))
