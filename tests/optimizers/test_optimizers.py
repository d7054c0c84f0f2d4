"""Optimizers: against PyTorch's, against the papers' algorithms in NumPy, and under every number traced.

PyTorch's numbers are in tests/golden/optimizers.json, made by scripts/golden/optimizers.py.
"""

import inspect
import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.project import GOLDEN as GOLDEN_FILES

from nnfunc import optimizers, schedules
from nnfunc.base import Scalar

pytestmark = pytest.mark.slow

GOLDEN = json.loads((GOLDEN_FILES / "optimizers.json").read_text())
FACTORIES = ["adadelta", "adagrad", "adam", "adamax", "adamw", "lamb", "lion", "nadam", "radam", "rmsprop", "sgd"]


def problem():
    """The problem of scripts/golden/optimizers.py."""
    x = np.sin(np.arange(18.0)).reshape(6, 3)
    y = np.cos(3 * np.arange(12.0)).reshape(6, 2)
    weight = np.sin(5 * np.arange(6.0)).reshape(3, 2)
    return x, y, {"weight": weight, "bias": np.array([0.5, -0.5])}


def loss(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["weight"] + params["bias"]) - y) ** 2)


def once(optimizer, grads, params):
    """The first updates, in one program: faster to test than one operation at a time."""
    return jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])(grads, params)


def fit(optimizer, steps=20, dtype=jnp.float32):
    """The parameters after some steps on the problem."""
    x, y, params = jax.tree.map(partial(jnp.asarray, dtype=dtype), problem())

    def step(carry, _):
        params, state = carry
        grads = jax.grad(loss)(params, x, y)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), length=steps)[0][0]


OF_PYTORCH = {
    "sgd": lambda: optimizers.sgd(0.5),
    "sgd_momentum": lambda: optimizers.sgd(0.1, momentum=0.8, weight_decay=0.1, decay_on="**"),
    "sgd_nesterov": lambda: optimizers.sgd(0.1, momentum=0.8, nesterov=True),
    "adam": lambda: optimizers.adam(0.05, b1=0.8, b2=0.95, eps=1e-3),
    "adam_decay": lambda: optimizers.adam(0.05, weight_decay=0.1, decay_on=("weight", "bias")),
    "adamw": lambda: optimizers.adamw(0.05, decay_on="**"),
    "adamw_decay": lambda: optimizers.adamw(0.05, b1=0.7, b2=0.9, weight_decay=0.3, decay_on="**"),
    "rmsprop": lambda: optimizers.rmsprop(0.02),
    "rmsprop_all": lambda: optimizers.rmsprop(
        0.02, decay=0.9, eps=1e-4, momentum=0.7, centered=True, weight_decay=0.1, decay_on="**"
    ),
    "adamw_clip": lambda: optimizers.adamw(0.05, clip=0.05, decay_on="**"),
    "sgd_dampening": lambda: optimizers.sgd(0.1, momentum=0.8, dampening=0.4, weight_decay=0.1, decay_on="**"),
    "adam_amsgrad": lambda: optimizers.adam(0.05, b1=0.8, b2=0.7, amsgrad=True),
    "adamw_amsgrad": lambda: optimizers.adamw(0.05, b1=0.8, b2=0.7, weight_decay=0.3, decay_on="**", amsgrad=True),
    "adagrad": lambda: optimizers.adagrad(0.2),
    "adagrad_all": lambda: optimizers.adagrad(0.2, initial_accumulator=0.3, eps=1e-3, weight_decay=0.1, decay_on="**"),
    "adadelta": lambda: optimizers.adadelta(),
    "adadelta_all": lambda: optimizers.adadelta(0.7, decay=0.8, eps=1e-3, weight_decay=0.1, decay_on="**"),
    "adamax": lambda: optimizers.adamax(0.05),
    "adamax_all": lambda: optimizers.adamax(0.05, b1=0.7, b2=0.8, eps=1e-3, weight_decay=0.1, decay_on="**"),
    "nadam": lambda: optimizers.nadam(0.05),
    "nadam_all": lambda: optimizers.nadam(
        0.05, b1=0.7, b2=0.9, eps=1e-3, momentum_decay=0.1, weight_decay=0.1, decay_on="**"
    ),
    "radam": lambda: optimizers.radam(0.05),
    "radam_all": lambda: optimizers.radam(0.05, b1=0.7, b2=0.8, eps=1e-3, weight_decay=0.1, decay_on="**"),
    "sgd_clip": lambda: optimizers.sgd(0.5, momentum=0.5, clip=0.05),
}


@pytest.mark.parametrize("name", OF_PYTORCH)
def test_like_pytorch(name):
    # PyTorch divides by the norm + 1e-6 when it clips
    tolerance = 1e-4 if "clip" in name else 1e-9
    with jax.enable_x64(True):
        params = jax.jit(lambda: fit(OF_PYTORCH[name](), dtype=jnp.float64))()
        for leaf in params:
            np.testing.assert_allclose(params[leaf], GOLDEN[name][leaf], rtol=tolerance, err_msg=leaf)


def test_float32_is_near_float64():
    for name in ("sgd", "adamw_decay", "rmsprop_all"):
        params = jax.jit(lambda name=name: fit(OF_PYTORCH[name]()))()
        for leaf in params:
            np.testing.assert_allclose(params[leaf], GOLDEN[name][leaf], rtol=1e-3, err_msg=name)


def by_hand(step, state, steps=20):
    """20 steps of a NumPy rule: step(grad, param, state, t) -> new param, for each leaf."""
    x, y, params = problem()
    states = {name: dict(state) for name in params}
    for t in range(1, steps + 1):
        error = np.tanh(x @ params["weight"] + params["bias"])
        back = 2 * (error - y) / y.size * (1 - error**2)
        grads = {"weight": x.T @ back, "bias": back.sum(0)}
        params = {n: step(grads[n], params[n], states[n], t) for n in params}
    return params


def test_lion_like_the_paper():
    # Chen et al. 2023, arXiv:2302.06675, algorithm 2
    rate, b1, b2, decay = 0.02, 0.8, 0.9, 0.3

    def step(grad, param, state, t):
        update = np.sign(b1 * state["m"] + (1 - b1) * grad) + decay * param
        state["m"] = b2 * state["m"] + (1 - b2) * grad
        return param - rate * update

    expected = by_hand(step, {"m": 0.0})
    optimizer = optimizers.lion(rate, b1=b1, b2=b2, weight_decay=decay, decay_on="**")
    params = jax.jit(lambda: fit(optimizer))()
    for leaf in params:
        np.testing.assert_allclose(params[leaf], expected[leaf], rtol=1e-4)


def test_lamb_like_the_paper():
    # You et al. 2020, arXiv:1904.00962, algorithm 2 with phi(z) = z
    rate, b1, b2, eps, decay = 0.05, 0.8, 0.95, 1e-4, 0.3

    def step(grad, param, state, t):
        state["m"] = b1 * state["m"] + (1 - b1) * grad
        state["v"] = b2 * state["v"] + (1 - b2) * grad**2
        ratio = state["m"] / (1 - b1**t) / (np.sqrt(state["v"] / (1 - b2**t)) + eps)
        update = ratio + decay * param
        return param - rate * np.linalg.norm(param) / np.linalg.norm(update) * update

    expected = by_hand(step, {"m": 0.0, "v": 0.0})
    optimizer = optimizers.lamb(rate, b1=b1, b2=b2, eps=eps, weight_decay=decay, decay_on="**")
    params = jax.jit(lambda: fit(optimizer))()
    for leaf in params:
        np.testing.assert_allclose(params[leaf], expected[leaf], rtol=1e-4)


def stacked_params():
    """What a `repeat` of three linear layers and norms holds, and a head beside it."""
    rows = jnp.arange(1.0, 4.0)[:, None]
    block = {
        "linear": {"weight": rows[..., None] * jnp.ones((2, 2)), "bias": rows * jnp.ones(2)},
        "norm": {"scale": rows * jnp.ones(2), "bias": rows * jnp.ones(2)},
    }
    return {"blocks": block, "head": {"weight": jnp.ones((2, 1)), "bias": jnp.ones(1)}}


def decayed(optimizer, params):
    """The paths of the leaves that move when the gradient is 0."""
    grads = jax.tree.map(jnp.zeros_like, params)
    updates = once(optimizer, grads, params)
    moved = jax.tree.map(lambda u: bool((u != 0).any()), updates)
    leaves, _ = jax.tree.flatten_with_path(moved)
    return {jax.tree_util.keystr(keys, simple=True, separator="/") for keys, on in leaves if on}


@pytest.mark.parametrize("name", FACTORIES)
def test_decay_is_for_matrices_inside_repeat_too(name):
    make = partial(getattr(optimizers, name), 0.1, weight_decay=0.5)
    assert decayed(make(), stacked_params()) == {"blocks/linear/weight", "head/weight"}
    assert decayed(make(weight_decay=0.0), stacked_params()) == set()


def test_decay_on_patterns_masks_and_lists():
    params = stacked_params()
    make = partial(optimizers.adamw, 0.1)
    assert decayed(make(decay_on="head/*"), params) == {"head/weight", "head/bias"}
    assert decayed(make(decay_on=("**/scale", "head/bias")), params) == {"blocks/norm/scale", "head/bias"}
    assert decayed(make(decay_on=()), params) == set()
    assert len(decayed(make(decay_on="**"), params)) == 6
    big = lambda params: jax.tree.map(lambda leaf: leaf.size > 10, params)
    assert decayed(make(decay_on=big), params) == {"blocks/linear/weight"}
    assert decayed(make(), [jnp.ones((2, 2)), jnp.ones(2)]) == {"0"}
    named = {"kernel": 0, "embedding": 0, "input_weight": 0, "weighting": 0, "slope": 0}
    named = {name: jnp.ones((2, 2)) for name in named}
    assert decayed(make(), named) == {"kernel", "embedding", "input_weight"}


def test_decay_moves_by_rate_times_decay_times_parameter():
    params = stacked_params()
    grads = jax.tree.map(jnp.zeros_like, params)
    for name in ("sgd", "adamw", "lion"):
        optimizer = getattr(optimizers, name)(0.5, weight_decay=0.25)
        updates = once(optimizer, grads, params)
        weight = params["blocks"]["linear"]["weight"]
        np.testing.assert_allclose(updates["blocks"]["linear"]["weight"], -0.125 * weight)


def test_lamb_gives_every_stacked_layer_its_own_norm():
    params = {"blocks": {"weight": jnp.arange(1.0, 13.0).reshape(3, 2, 2)}}
    grads = {"blocks": {"weight": jnp.sin(jnp.arange(12.0)).reshape(3, 2, 2)}}

    def updates(params, grads, **arguments):
        return once(optimizers.lamb(0.1, **arguments), grads, params)

    together = updates(params, grads, stacked="blocks/**")
    alone = [updates(*jax.tree.map(lambda a, i=i: a[i], (params, grads))) for i in range(3)]
    expected = jnp.stack([update["blocks"]["weight"] for update in alone])
    np.testing.assert_allclose(together["blocks"]["weight"], expected, rtol=1e-6)
    assert not np.allclose(updates(params, grads)["blocks"]["weight"], expected, rtol=1e-2)


# Two values for every number of every optimizer; a number that is not here fails its test.
VALUES = {
    "learning_rate": (0.01, 0.1),
    "momentum": (0.0, 0.9),
    "b1": (0.0, 0.98),
    "b2": (0.0, 0.95),
    "eps": (0.0, 1e-3),
    "weight_decay": (0.0, 0.3),
    "decay": (0.5, 0.9),
    "dampening": (0.0, 0.3),
    "initial_accumulator": (0.0, 0.5),
    "momentum_decay": (0.0, 0.5),
    "clip": (math.inf, 0.05),
}


def numbers(factory):
    """The arguments of a factory that may be traced, by their annotation."""
    parameters = inspect.signature(factory).parameters.values()
    scalar = set(Scalar.__args__)
    return [p.name for p in parameters if scalar <= set(getattr(p.annotation, "__args__", ()))]


def walk(optimizer, params, grads):
    """The parameters after given gradients, stacked along a first axis of steps."""

    def step(carry, grads):
        updates, state = optimizer.update(grads, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    return jax.lax.scan(step, (params, optimizer.init(params)), grads)[0][0]


# The last column of the weight never has a gradient.
WALK = (
    {"weight": jnp.array([[0.5, -1.0, 2.0]])},
    {"weight": jnp.array([[[1.0, -0.3, 0.0]], [[0.5, 0.2, 0.0]], [[-0.1, 0.3, 0.0]]])},
)


UNMOVED = {
    ("lion", "clip"),
    ("radam", "b2"),  # the first five steps have no variance
    ("radam", "eps"),
    ("sgd", "dampening"),  # of momentum, which is 0 here
}


@pytest.mark.parametrize("name", FACTORIES)
def test_every_number_may_be_traced(name):
    factory = getattr(optimizers, name)
    parameters = inspect.signature(factory).parameters.values()
    static = {p.name: True for p in parameters if p.annotation is bool}
    swept = numbers(factory)
    assert {"learning_rate", "clip", "weight_decay"} <= set(swept)
    base = {"learning_rate": 0.05, **{p.name: p.default for p in parameters if p.default is not p.empty}}
    rows = [base | static | {number: value} for number in swept for value in VALUES[number]]
    columns = {number: jnp.array([row[number] for row in rows], jnp.float32) for number in swept}

    def run(columns):
        alone = [walk(factory(**row), *WALK)["weight"] for row in rows]
        member = lambda values: walk(factory(**static, **values), *WALK)["weight"]
        return jnp.stack(alone), jax.vmap(member)(columns)

    alone, together = jax.jit(run)(columns)
    for i, row in enumerate(rows):
        np.testing.assert_allclose(together[i], alone[i], rtol=2e-5, atol=1e-6, err_msg=str(row))
    for number, low, high in zip(swept, alone[::2], alone[1::2], strict=True):
        assert (low != high).any() or (name, number) in UNMOVED, number


@pytest.mark.parametrize("name", FACTORIES)
def test_gradients_with_respect_to_every_number_are_finite(name):
    factory = getattr(optimizers, name)
    slopes_of = jax.jit(jax.grad(lambda values: walk(factory(**values), *WALK)["weight"].sum()))
    off = {number: VALUES[number][0] for number in numbers(factory)}
    for values in (off, off | {"clip": 1e-3}):
        slopes = slopes_of({number: jnp.float32(value) for number, value in values.items()})
        assert all(np.isfinite(slope) for slope in slopes.values()), slopes
        assert slopes["learning_rate"] != 0


def test_numbers_of_radam_and_dampening_may_be_traced():
    """On the problem, where they count: after the fifth step, and with momentum."""
    for make, values in (
        (lambda v: optimizers.radam(0.05, b2=v), (0.5, 0.8)),
        (lambda v: optimizers.radam(0.05, b2=0.8, eps=v), (0.0, 0.1)),
        (lambda v: optimizers.sgd(0.05, momentum=0.9, dampening=v), (0.0, 0.3)),
    ):
        run = jax.jit(
            lambda traced, make=make, values=values: (
                jax.vmap(lambda v: fit(make(v)))(traced),
                [*map(lambda v: fit(make(v)), values)],
            )
        )
        traced, (low, high) = run(jnp.array(values))
        assert (low["weight"] != high["weight"]).any()
        for i, plain in enumerate((low, high)):
            np.testing.assert_allclose(traced["weight"][i], plain["weight"], rtol=1e-5)


def test_momentum_0_is_plain_descent():
    x, y, params = jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), problem())
    grads = jax.grad(loss)(params, x, y)
    for nesterov in (False, True):
        optimizer = optimizers.sgd(0.5, momentum=0.0, nesterov=nesterov)
        updates = once(optimizer, grads, params)
        for leaf in params:
            np.testing.assert_array_equal(updates[leaf], -0.5 * grads[leaf])


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e25, math.inf, math.nan])
def test_clip_inf_is_no_clipping(scale):
    # 1e25: the squares are beyond float32. Infinite and NaN gradients stay so, to be seen.
    params = {"a": jnp.ones(2), "b": jnp.ones(())}
    grads = {"a": jnp.array([3.0, 0.5]) * scale, "b": jnp.float32(4.0) * scale}
    for clip in (math.inf, jnp.float32(math.inf)):
        optimizer = optimizers.sgd(1.0, clip=clip)
        updates = once(optimizer, grads, params)
        for leaf in params:
            np.testing.assert_array_equal(updates[leaf], -grads[leaf])


EXTREME = [1e20, 1e-25]


@pytest.mark.parametrize("scale", EXTREME)
def test_clip_where_squares_are_out_of_range(scale):
    params = {"a": jnp.ones(1), "b": jnp.ones(())}
    grads = {"a": jnp.array([3.0]) * scale, "b": jnp.float32(4.0) * scale}
    updates = once(optimizers.sgd(1.0, clip=scale), grads, params)
    np.testing.assert_allclose(updates["a"], [-0.6 * scale], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], -0.8 * scale, rtol=1e-6)


@pytest.mark.parametrize("scale", EXTREME)
def test_wrappers_where_squares_are_out_of_range(scale):
    params, grads = ({"weight": jnp.array([[3.0], [4.0]]) * scale} for _ in range(2))
    at_most = optimizers.max_norm(optimizers.sgd(0.0), scale)
    new = params["weight"] + once(at_most, grads, params)["weight"]
    np.testing.assert_allclose(new[:, 0], [0.6 * scale, 0.8 * scale], rtol=1e-5)
    adaptive = optimizers.clip_adaptive(optimizers.sgd(1.0), 0.1, eps=0.0)
    updates = once(adaptive, grads, params)["weight"]
    np.testing.assert_allclose(updates[:, 0], [-0.3 * scale, -0.4 * scale], rtol=1e-5)


@pytest.mark.parametrize("scale", EXTREME)
def test_lamb_where_squares_are_out_of_range(scale):
    params = {"weight": jnp.array([[3.0, 4.0]]) * scale}
    optimizer = optimizers.lamb(1.0, weight_decay=0.0)
    updates = once(optimizer, {"weight": jnp.ones((1, 2))}, params)["weight"]
    np.testing.assert_allclose(updates, [[-(12.5**0.5) * scale] * 2], rtol=1e-5)


@pytest.mark.parametrize("name", ["adagrad", "adam", "adamw", "lamb", "nadam", "rmsprop"])
def test_a_gradient_with_an_infinite_square_updates_its_entry(name):
    make, params = getattr(optimizers, name), {"weight": jnp.ones((1, 2))}
    optimizer = make(1.0, weight_decay=0.0)
    huge, unit = ({"weight": jnp.array([[-1.0, 1.0]]) * scale} for scale in (1e25, 1.0))
    updates, state = optimizer.update(huge, optimizer.init(params), params)
    np.testing.assert_allclose(updates["weight"], once(optimizer, unit, params)["weight"], rtol=1e-5)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
    updates = once(optimizer, {"weight": jnp.array([[jnp.inf, jnp.nan]])}, params)["weight"]
    assert not jnp.isfinite(updates).any()  # infinite and NaN gradients stay so, to be seen


def test_clip_by_hand():
    params = {"a": jnp.ones(1), "b": jnp.ones(())}
    grads = {"a": jnp.array([3.0]), "b": jnp.float32(4.0)}  # of norm 5
    for clip, factor in [(2.5, 0.5), (5.0, 1.0), (6.0, 1.0)]:
        optimizer = optimizers.sgd(1.0, clip=clip)
        updates = once(optimizer, grads, params)
        np.testing.assert_allclose(updates["a"], [-3.0 * factor])
        np.testing.assert_allclose(updates["b"], -4.0 * factor)
    zeros = jax.tree.map(jnp.zeros_like, grads)
    updates = once(optimizer, zeros, params)
    assert all((update == 0).all() for update in updates.values())


@pytest.mark.parametrize("name", FACTORIES)
def test_bfloat16_parameters(name):
    # float32 state, bfloat16 updates, and the same types after every step
    factory = getattr(optimizers, name)
    params = {"weight": jnp.ones((2, 2), jnp.bfloat16), "bias": jnp.ones(2)}

    def step(rate, carry):
        params, state = carry
        grads = jax.tree.map(lambda p: 0.5 * p, params)
        updates, state = factory(rate).update(grads, state, params)
        return updates, (optax.apply_updates(params, updates), state)

    carry = (params, factory(0.1).init(params))
    updates, after = jax.eval_shape(step, jnp.float32(0.1), carry)
    assert updates["weight"].dtype == jnp.bfloat16
    assert updates["bias"].dtype == jnp.float32
    types = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]
    assert types(after) == types(carry)
    assert set(types(carry[1])) <= {jnp.dtype("float32"), jnp.dtype("int32")}


@pytest.mark.parametrize("name", FACTORIES)
def test_types_stay_under_x64(name):
    factory = getattr(optimizers, name)
    with jax.enable_x64(True):
        params = {"weight": jnp.ones((2, 2), jnp.float32), "bias": jnp.ones(2, jnp.float32)}
        optimizer = factory(schedules.cosine(0.1, 10))
        state = optimizer.init(params)
        updates, after = jax.eval_shape(optimizer.update, params, state, params)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype("float32")}
        types = lambda tree: [leaf.dtype for leaf in jax.tree.leaves(tree)]
        assert types(after) == types(state)


def test_a_schedule_is_the_rate_of_its_step():
    schedule = schedules.warmup_linear(1.0, 2, 6)
    optimizer = optimizers.sgd(schedule)
    params = {"bias": jnp.zeros(1)}
    state = optimizer.init(params)
    for step in range(8):
        updates, state = optimizer.update({"bias": jnp.ones(1)}, state, params)
        np.testing.assert_allclose(-updates["bias"], schedule(step)[None], rtol=1e-6)
        np.testing.assert_allclose(optimizer.learning_rate(step), schedule(step))
    number = optimizers.sgd(0.5)
    assert float(number.learning_rate(3)) == 0.5
    structures = [jax.tree.structure(o.init(params)) for o in (optimizer, number)]
    assert structures[0] == structures[1]


def test_it_is_a_pair_that_optax_takes():
    x, y, params = jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), problem())
    optimizer = optimizers.adamw(0.05)
    init, update = optimizer
    assert init is optimizer.init
    assert update is optimizer.update
    assert isinstance(optimizer, optax.GradientTransformation)
    chained = optax.chain(optax.scale(1.0), optimizer)
    split = optax.partition({"a": optimizer, "b": optax.set_to_zero()}, {"weight": "a", "bias": "b"})
    often = optimizers.as_optimizer(optax.MultiSteps(optimizer, 1))
    grads = jax.grad(loss)(params, x, y)
    expected = once(optimizer, grads, params)
    for other in (chained, split, often):
        updates = once(other, grads, params)
        np.testing.assert_allclose(updates["weight"], expected["weight"], rtol=1e-6)


def test_as_optimizer():
    assert optimizers.as_optimizer(kept := optimizers.sgd(0.1)) is kept
    params = {"weight": jnp.ones((2, 2), jnp.bfloat16), "bias": jnp.ones(2)}
    wrapped = optimizers.as_optimizer(optax.adam(0.1))
    updates, _ = jax.jit(wrapped.update)(params, wrapped.init(params), params)
    assert updates["weight"].dtype == jnp.bfloat16
    np.testing.assert_allclose(updates["bias"], [-0.1, -0.1], rtol=1e-5)
    assert wrapped.learning_rate is None
    assert float(optimizers.as_optimizer(optax.adam(0.1), learning_rate=0.1).learning_rate(0)) == np.float32(0.1)

    pair = (lambda params: (), lambda grads, state, params=None: (grads, state))
    updates, _ = optimizers.as_optimizer(pair).update(params, (), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)

    line_search = optimizers.as_optimizer(optax.polyak_sgd())  # needs more than the gradients
    updates, _ = line_search.update(
        {"bias": params["bias"]}, line_search.init(params), {"bias": params["bias"]}, value=jnp.float32(1.0)
    )
    np.testing.assert_allclose(updates["bias"], [-0.5, -0.5])


def test_it_compiles_once_for_all_numbers():
    params, compiled = {"weight": jnp.ones((2, 2))}, []

    @jax.jit
    def update(values):
        compiled.append(1)
        optimizer = optimizers.adamw(**values)
        return optimizer.update(params, optimizer.init(params), params)[0]

    for rate, decay, clip in [(0.1, 0.0, math.inf), (0.2, 0.1, 1.0)]:
        update({"learning_rate": rate, "weight_decay": decay, "clip": clip, "b1": 0.9})
    assert len(compiled) == 1


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: optimizers.sgd(-0.1), r"sgd: learning_rate should be at least 0, got -0.1"),
        (lambda: optimizers.sgd(0.1, momentum=1.0), r"sgd: momentum should be in \[0, 1\), got 1.0"),
        (lambda: optimizers.adamw(0.1, b2=1.5), r"adamw: b2 should be in \[0, 1\), got 1.5"),
        (lambda: optimizers.adam(0.1, eps=-1), r"adam: eps should be at least 0, got -1"),
        (lambda: optimizers.lion(0.1, clip=0), r"lion: clip should be above 0, got 0"),
        (lambda: optimizers.lamb(0.1, weight_decay=-1), r"lamb: weight_decay should be at least 0"),
        (
            lambda: optimizers.rmsprop(0.1).update({}, (), None),
            r"rmsprop: update should be called with the parameters, optimizer.update\(grads, state, params\)",
        ),
        (
            lambda: decayed(optimizers.adamw(0.1, decay_on="heads/*"), stacked_params()),
            r"adamw: decay_on: the pattern 'heads/\*' should match .*; did you mean 'head/",
        ),
        (
            lambda: decayed(optimizers.lamb(0.1, stacked="block/**"), stacked_params()),
            r"lamb: stacked: the pattern 'block/\*\*' should match",
        ),
    ],
)
def test_errors_have_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: optimizers.adam("0.1"), r"adam: learning_rate: it should be a number or a schedule.*got '0.1'"),
        (lambda: optimizers.adam(None), r"adam: learning_rate: it should be a number or a schedule.*got None"),
        (lambda: optimizers.sgd(jnp.ones(2)), r"sgd: learning_rate: it should be .* an array of shape \(2,\)"),
        (lambda: optimizers.as_optimizer("adam"), r"an optimizer should be .*adamw.*, got 'adam'"),
        (lambda: optimizers.as_optimizer(optax.adam), r"as_optimizer: an optimizer should be"),
    ],
)
def test_errors_of_kind_have_words(make, words):
    with pytest.raises(TypeError, match=words):
        make()
