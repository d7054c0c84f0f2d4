"""Wrappers of optimizers: against optax's own, algorithms by hand, and under every number traced."""

import inspect
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nnfunc import optimizers, paths, schedules

INF = math.inf


def params_and_grads(steps=6, dtype=np.float32):
    """Two linear layers, and the gradients of some steps, stacked."""
    shapes = {"up/weight": (3, 4), "up/bias": (4,), "head/weight": (4, 2), "head/bias": (2,)}
    make = lambda shape, i: np.sin(i + 1.3 * np.arange(math.prod(shape))).reshape(shape).astype(dtype)
    params = {path: make(shape, 0.3) for path, shape in shapes.items()}
    grads = {path: np.stack([3 * make(shape, i + 1) for i in range(steps)]) for path, shape in shapes.items()}
    return paths.unflatten(params), paths.unflatten(grads)


PARAMS, GRADS = params_and_grads()


def walk(optimizer, params=PARAMS, grads=GRADS):
    """The parameters after each step, stacked, and the last state."""

    def step(carry, grads):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    params = jax.tree.map(jnp.asarray, params)
    (_, state), trail = jax.lax.scan(step, (params, optimizer.init(params)), grads)
    return trail, state


def near(got, expected, rtol=1e-5):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=rtol, atol=1e-6), got, expected)


def same(got, expected):
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def once(optimizer, grads, params):
    """The first updates."""
    return jax.jit(lambda g, p: optimizer.update(g, optimizer.init(p), p)[0])(grads, params)


INNER = partial(optimizers.adam, 0.1)
# Each wrapper with everything in it at work, and switched off.
WRAPPERS = {
    "clip_value": (partial(optimizers.clip_value, limit=0.5), partial(optimizers.clip_value, limit=INF)),
    "clip_adaptive": (partial(optimizers.clip_adaptive, limit=0.1), partial(optimizers.clip_adaptive, limit=INF)),
    "max_norm": (partial(optimizers.max_norm, limit=0.8), partial(optimizers.max_norm, limit=INF)),
    "lookahead": (partial(optimizers.lookahead, every=2), partial(optimizers.lookahead, every=INF)),
    "groups": (
        partial(optimizers.groups, rates={"up/*": 0.5, "**/bias": 2.0}, freeze={"head/*": 2}),
        partial(optimizers.groups, rates={"**": 1.0}, freeze={"**": 0}),
    ),
}


def test_clip_value_is_optax_clip():
    expected, _ = walk(optax.chain(optax.clip(0.5), optax.sgd(0.1)))
    near(walk(optimizers.clip_value(optimizers.sgd(0.1), 0.5))[0], expected)


def test_clip_adaptive_is_optax_adaptive_grad_clip():
    with jax.numpy_dtype_promotion("standard"):
        expected, _ = walk(optax.chain(optax.adaptive_grad_clip(0.1, 1e-3), optax.sgd(0.1)))
        free, _ = walk(optax.sgd(0.1))
    got, _ = walk(optimizers.clip_adaptive(optimizers.sgd(0.1), 0.1))
    near(got, expected)
    assert not np.allclose(got["up"]["weight"], free["up"]["weight"], rtol=0.1)
    head_free, _ = walk(optimizers.clip_adaptive(optimizers.sgd(0.1), 0.1, on="up/*"))
    near(head_free, {"up": expected["up"], "head": free["head"]})


@pytest.mark.parametrize("kernel", [(3, 2, 4), (3, 3, 2, 4)])
def test_clip_adaptive_of_kernels_and_stacked_layers(kernel):
    """A kernel's units are its last axis, whatever it has before (timm's unitwise_norm)."""
    weight, grad = (np.sin(i + np.arange(math.prod(kernel), dtype=np.float32)).reshape(kernel) for i in (1, 2))
    most = 0.1 * np.sqrt((weight**2).reshape(-1, 4).sum(0))
    expected = grad * np.minimum(1, most / np.sqrt((grad**2).reshape(-1, 4).sum(0)))
    make = partial(optimizers.clip_adaptive, optimizers.sgd(1.0), 0.1)
    updates = once(make(), {"weight": grad}, {"weight": weight})
    np.testing.assert_allclose(-updates["weight"], expected, rtol=1e-5)

    bias = weight.reshape(-1, 4)
    layers = {"weight": weight, "bias": bias}
    slopes = {"weight": grad, "bias": bias[::-1]}
    together = once(make(stacked="**"), slopes, layers)
    for i in range(kernel[0]):
        one = lambda tree, i=i: jax.tree.map(lambda leaf: leaf[i], tree)
        alone = once(make(), one(slopes), one(layers))
        near(one(together), alone)


@pytest.mark.parametrize("every, slow_rate", [(1, 0.5), (2, 0.8), (3, 0.25)])
def test_lookahead_is_optax_lookahead(every, slow_rate):
    theirs = optax.lookahead(optax.sgd(0.1, momentum=0.9), every, slow_rate)
    pair = optax.LookaheadParams.init_synced(jax.tree.map(jnp.asarray, PARAMS))
    state, trail, slow = theirs.init(pair), [], []
    with jax.numpy_dtype_promotion("standard"):
        for i in range(6):
            grads = jax.tree.map(lambda leaf, i=i: leaf[i], GRADS)
            updates, state = theirs.update(grads, state, pair)
            pair = optax.apply_updates(pair, updates)
            trail.append(pair.fast)
            slow.append(pair.slow)
    inner = optimizers.sgd(0.1, momentum=0.9)
    got, after = walk(optimizers.lookahead(inner, every, slow_rate))
    near(got, jax.tree.map(lambda *leaves: np.stack(leaves), *trail))
    near(after.slow, slow[-1])


def test_max_norm_by_hand():
    """Srivastava et al. 2014: project each unit's incoming weights onto the ball."""
    free, _ = walk(optimizers.sgd(0.1))
    first = jax.tree.map(lambda leaf: leaf[0], GRADS)
    got = once(optimizers.max_norm(optimizers.sgd(0.1), 0.8), first, PARAMS)
    for layer in ("up", "head"):
        weight = np.asarray(free[layer]["weight"][0])
        norms = np.sqrt((weight**2).sum(0))
        assert norms.max() > 0.8
        expected = weight * np.minimum(1, 0.8 / norms)
        new = PARAMS[layer]["weight"] + got[layer]["weight"]
        np.testing.assert_allclose(new, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(got[layer]["bias"], once(optimizers.sgd(0.1), first, PARAMS)[layer]["bias"])
    trail, _ = walk(optimizers.max_norm(INNER(), 0.8))
    norms = np.sqrt((np.asarray(trail["up"]["weight"]) ** 2).sum(1))
    assert norms.max() < 0.8 * (1 + 1e-6)
    stacked = {"blocks": {"weight": jnp.ones((2, 3, 2)) * jnp.array([1.0, 0.1])[:, None, None]}}
    zeros = jax.tree.map(jnp.zeros_like, stacked)
    updates = once(optimizers.max_norm(optimizers.sgd(1.0), 1.0, stacked="blocks/**"), zeros, stacked)
    new = stacked["blocks"]["weight"] + updates["blocks"]["weight"]
    np.testing.assert_allclose(new[0], np.full((3, 2), 3**-0.5), rtol=1e-6)
    np.testing.assert_array_equal(new[1], stacked["blocks"]["weight"][1])


def test_rates_scale_the_updates_of_the_first_pattern_that_fits():
    free, _ = walk(optimizers.sgd(0.1))
    rates = {"head/bias": 3.0, "head/*": 0.0, "**/bias": 0.5}
    got, _ = walk(optimizers.groups(optimizers.sgd(0.1), rates=rates))
    moved = lambda trail: jax.tree.map(lambda leaf, start: leaf - start, trail, PARAMS)
    factors = {"head": {"bias": 3.0, "weight": 0.0}, "up": {"bias": 0.5, "weight": 1.0}}
    near(moved(got), jax.tree.map(lambda leaf, factor: leaf * factor, moved(free), factors))
    same(got["up"]["weight"], free["up"]["weight"])


def test_frozen_leaves_never_move_and_are_not_seen():
    inner = optimizers.adamw(0.1, weight_decay=0.5, clip=1.0)
    optimizer = optimizers.groups(inner, freeze=("head/*", "up/bias"))
    got, state = walk(optimizer)
    for layer, name in [("head", "weight"), ("head", "bias"), ("up", "bias")]:
        same(got[layer][name], np.broadcast_to(PARAMS[layer][name], got[layer][name].shape))
    only = lambda tree: {"up": {"weight": tree["up"]["weight"]}}
    alone, its = walk(inner, only(PARAMS), only(GRADS))
    same(got["up"]["weight"], alone["up"]["weight"])
    sizes = lambda state: sum(leaf.size for leaf in jax.tree.leaves(state))
    assert sizes(state) == sizes(its) + 1
    assert optimizer.frozen == ("head/*", "up/bias")
    bad = {**GRADS, "head": jax.tree.map(lambda leaf: leaf * np.nan, GRADS["head"])}
    same(walk(optimizer, grads=bad)[0], got)


def test_the_gradients_of_frozen_leaves_are_dead_code():
    optimizer = optimizers.groups(INNER(), freeze=("up/*",))

    def loss(params, x):
        hidden = jnp.sin(x @ params["up"]["weight"] + params["up"]["bias"])
        return jnp.sum(jnp.tanh(hidden @ params["head"]["weight"] + params["head"]["bias"]))

    def step(params, state, x):
        return optimizer.update(jax.grad(loss)(params, x), state, params)

    params = jax.tree.map(jnp.asarray, PARAMS)
    state = optimizer.init(params)
    program = jax.jit(step).lower(params, state, jnp.ones((5, 3))).compile().as_text()
    assert "cosine" not in program  # the derivative of the frozen layer's sine
    free = jax.jit(lambda p, s, x: INNER().update(jax.grad(loss)(p, x), s, p))
    assert "cosine" in free.lower(params, INNER().init(params), jnp.ones((5, 3))).compile().as_text()


@pytest.mark.parametrize("wrapper", ["max_norm", "lookahead", "clip_adaptive", "clip_value", "groups"])
def test_frozen_leaves_stay_inside_of_every_wrapper(wrapper):
    frozen = optimizers.groups(optimizers.adamw(0.1, weight_decay=0.5), freeze=("head/*",))
    optimizer = WRAPPERS[wrapper][0](frozen)
    got, _ = walk(optimizer)
    same(got["head"], jax.tree.map(lambda leaf: np.broadcast_to(leaf, (6, *leaf.shape)), PARAMS["head"]))
    assert optimizer.frozen == ("head/*",)


def test_leaves_that_move_later_have_the_moments_of_any_other():
    inner = optimizers.adamw(0.1, weight_decay=0.5)
    got, _ = walk(optimizers.groups(inner, freeze={"head/*": 3, "up/bias": INF}))
    still = np.broadcast_to(PARAMS["up"]["bias"], (6, 4))
    same(got["up"]["bias"], still)
    same(got["up"]["weight"], walk(inner)[0]["up"]["weight"])
    same(got["head"]["weight"][:3], np.broadcast_to(PARAMS["head"]["weight"], (3, 4, 2)))
    # by hand: Adam's averages of all four gradients, and a decay of the weights where they began
    grads, weight = GRADS["head"]["weight"], PARAMS["head"]["weight"]
    mean = sum(0.1 * 0.9 ** (3 - i) * grads[i] for i in range(4)) / (1 - 0.9**4)
    square = sum(0.001 * 0.999 ** (3 - i) * grads[i] ** 2 for i in range(4)) / (1 - 0.999**4)
    expected = weight - 0.1 * (mean / (np.sqrt(square) + 1e-8) + 0.5 * weight)
    np.testing.assert_allclose(got["head"]["weight"][3], expected, rtol=1e-4)


@pytest.mark.parametrize("name", WRAPPERS)
def test_off_is_off_bit_for_bit(name):
    same(walk(WRAPPERS[name][1](INNER()))[0], walk(INNER())[0])


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
@pytest.mark.parametrize("name", WRAPPERS)
def test_no_wrapper_hides_a_gradient_that_is_not_finite(name, bad):
    grads = jax.tree.map(lambda leaf: jnp.array(leaf[0]), GRADS)
    grads["up"]["weight"] = grads["up"]["weight"].at[1, 2].set(bad)
    limits = [0] if name == "groups" else [0, 1]
    for off in limits:
        updates = once(WRAPPERS[name][off](optimizers.sgd(0.1)), grads, PARAMS)
        assert not np.isfinite(updates["up"]["weight"][1, 2])
        assert np.isfinite(updates["head"]["weight"]).all()


@pytest.mark.parametrize("bad", [math.nan, INF])
def test_a_unit_whose_gradient_is_not_finite_stays_as_it_is(bad):
    grads = jax.tree.map(lambda leaf: jnp.array(leaf[0]), GRADS)
    grads["up"]["weight"] = grads["up"]["weight"].at[1, 2].set(bad)
    updates = once(WRAPPERS["clip_adaptive"][0](optimizers.sgd(1.0)), grads, PARAMS)
    np.testing.assert_array_equal(updates["up"]["weight"][:, 2], -grads["up"]["weight"][:, 2])
    assert (abs(updates["up"]["weight"][:, 0]) < abs(grads["up"]["weight"][:, 0])).all()


TWO = {  # two values of every number, for all leaves at work at once
    "clip_value": {"limit": (0.5, INF)},
    "clip_adaptive": {"limit": (0.1, INF), "eps": (1e-3, 2.0)},
    "max_norm": {"limit": (0.8, INF)},
    "lookahead": {"every": (2.0, 3.0), "slow_rate": (0.5, 0.9)},
    "groups": {"up": (0.5, 0.0), "head": (2.0, INF)},
}


def with_numbers(name, numbers):
    if name == "groups":
        return optimizers.groups(INNER(), rates={"up/*": numbers["up"]}, freeze={"head/*": numbers["head"]})
    return getattr(optimizers, name)(INNER(), **numbers)


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_number_may_be_traced(name):
    values = TWO[name]
    if name != "groups":
        assert set(values) == {
            p.name
            for p in inspect.signature(getattr(optimizers, name)).parameters.values()
            if "float" in str(p.annotation)
        }
    first = {number: pair[0] for number, pair in values.items()}
    points = [first, *(first | {number: pair[1]} for number, pair in values.items())]
    columns = {number: jnp.array([p[number] for p in points]) for number in values}

    @jax.jit
    def run(columns):
        alone = [walk(with_numbers(name, point))[0] for point in points]
        return alone, jax.vmap(lambda numbers: walk(with_numbers(name, numbers))[0])(columns)

    trails, members = run(columns)
    for i, trail in enumerate(trails):
        near(jax.tree.map(lambda leaf, i=i: leaf[i], members), trail)
    for trail in trails[1:]:
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), trail, trails[0])
        assert any(jax.tree.leaves(moved))


@pytest.mark.parametrize("name", WRAPPERS)
def test_gradients_of_numbers_and_params_are_finite(name):
    zero = jax.tree.map(lambda leaf: leaf.copy(), PARAMS)
    zero["up"]["weight"][:, 0] = 0  # a unit of length 0, without a gradient
    grads = jax.tree.map(lambda leaf: leaf[:2].copy(), GRADS)
    grads["up"]["weight"][:, :, 0] = 0

    def total(numbers, params):
        return sum(leaf.sum() for leaf in jax.tree.leaves(walk(with_numbers(name, numbers), params, grads)[0]))

    slopes = jax.jit(jax.grad(total, (0, 1)))
    for place in (0, 1):
        numbers = {number: jnp.float32(pair[place]) for number, pair in TWO[name].items()}
        for leaf in jax.tree.leaves(slopes(numbers, zero)):
            assert np.isfinite(leaf).all()


@pytest.mark.parametrize("name", WRAPPERS)
def test_types_and_state(name):
    """float32 state under bfloat16, for optax's too; the same kinds after a step; the rate is kept."""
    schedule = schedules.cosine(0.1, 10)
    kinds = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    params = {
        "up": {"weight": jnp.ones((2, 2), jnp.bfloat16), "bias": jnp.ones(2)},
        "head": {"bias": jnp.ones(3, jnp.bfloat16)},
    }
    for inner in (optimizers.adam(schedule), optax.adam(0.1)):
        optimizer = WRAPPERS[name][0](inner)
        state = optimizer.init(params)
        updates, after = jax.eval_shape(optimizer.update, params, state, params)
        assert kinds(updates) == kinds(params)
        assert kinds(after) == kinds(state)
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}
        assert optimizer.learning_rate is getattr(inner, "learning_rate", None)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        optimizer = WRAPPERS[name][0](optimizers.adam(schedule))
        state = optimizer.init(wide)
        updates, after = jax.eval_shape(optimizer.update, wide, state, wide)
        assert (kinds(updates), kinds(after)) == (kinds(wide), kinds(state))


def test_trainer_arguments_reach_the_inner_optimizer():
    optimizer = optimizers.clip_value(optimizers.lookahead(optax.polyak_sgd(), 2), 1.0)
    params = {"weight": jnp.ones((2, 2))}
    state = optimizer.init(params)
    updates, _ = optimizer.update(params, state, params, value=jnp.float32(1.0))
    np.testing.assert_allclose(updates["weight"], np.full((2, 2), -0.25), rtol=1e-6)


@pytest.mark.parametrize(
    "name",
    ["adadelta", "adagrad", "adam", "adamax", "adamw", "lamb", "lion", "muon", "nadam", "radam", "rmsprop", "sgd"],
)
def test_decay_by_pattern(name):
    make = partial(getattr(optimizers, name), 0.1)
    grads = jax.tree.map(lambda leaf: leaf[0], GRADS)
    by_pattern = {"head/bias": 0.3, "**/weight": 0.2, "head/*": 9.0}
    with pytest.raises(ValueError, match=rf"{name}: weight_decay: the pattern 'head/\*' should decide"):
        once(make(weight_decay=by_pattern), grads, PARAMS)
    by_pattern.pop("head/*")

    @jax.jit
    def updates(decay):
        one = lambda **arguments: once(make(**arguments), grads, PARAMS)
        return [
            one(weight_decay=decay),
            one(weight_decay=0.2, decay_on="**/weight"),
            one(weight_decay=0.3, decay_on="head/bias"),
            one(weight_decay={}),
            one(weight_decay=0.0),
        ]

    got, weights, biases, none, zero = updates(by_pattern)
    expected = {"up": weights["up"], "head": {"weight": weights["head"]["weight"], "bias": biases["head"]["bias"]}}
    near(got, expected)
    near(none, zero)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: optimizers.clip_value(INNER(), 0), r"clip_value: limit should be above 0, got 0"),
        (lambda: optimizers.clip_adaptive(INNER(), -1), r"clip_adaptive: limit should be above 0, got -1"),
        (lambda: optimizers.max_norm(INNER(), 0.0), r"max_norm: limit should be above 0, got 0.0"),
        (lambda: optimizers.lookahead(INNER(), 0), r"lookahead: every should be at least 1, got 0"),
        (lambda: optimizers.lookahead(INNER(), 2, 1.5), r"lookahead: slow_rate should be in \[0, 1\], got 1.5"),
        (lambda: optimizers.groups(INNER(), rates={"up/*": -1}), r"groups: rates of 'up/\*' should be at least 0"),
        (lambda: optimizers.groups(INNER(), freeze={"up/*": -1}), r"groups: freeze of 'up/\*' should be at least 0"),
        (
            lambda: walk(optimizers.groups(INNER(), freeze=("body/*",))),
            r"groups: freeze: the pattern 'body/\*' should match",
        ),
        (
            lambda: walk(optimizers.groups(INNER(), rates={"body": 1})),
            r"groups: rates: the pattern 'body' should match",
        ),
        (
            lambda: walk(optimizers.groups(INNER(), rates={"**": 1, "up/*": 2})),
            r"groups: rates: the pattern 'up/\*' should decide at least one leaf, got none: '\*\*', which is before",
        ),
        (
            lambda: walk(optimizers.groups(INNER(decay_on="up/*"), freeze=("up/*",))),
            r"adam: decay_on: the pattern 'up/\*' should .* groups hides the leaves that it freezes",
        ),
        (lambda: walk(optimizers.max_norm(INNER(), 1.0, stacked="x/**")), r"max_norm: stacked: the pattern 'x/\*\*'"),
        (lambda: walk(optimizers.clip_adaptive(INNER(), on="x")), r"clip_adaptive: on: the pattern 'x' should"),
        (
            lambda: optimizers.clip_value(INNER(), 1.0).update({}, (), None),
            r"clip_value: update should be called with the parameters",
        ),
        (
            lambda: optimizers.adamw(0.1, weight_decay={"**": 0.1}, decay_on="**"),
            r"adamw: decay_on should be left out where weight_decay is by pattern, got '\*\*'",
        ),
        (lambda: optimizers.sgd(0.1, weight_decay={"**": -1}), r"sgd: weight_decay of '\*\*' should be at least 0"),
        (lambda: walk(optimizers.sgd(0.1, weight_decay={"x": 1})), r"sgd: weight_decay: the pattern 'x' should match"),
    ],
)
def test_errors_have_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: optimizers.lookahead("adam"), r"lookahead: an optimizer should be"),
        (lambda: optimizers.groups(INNER(), rates=("up/*",)), r"groups: rates should be a dict by pattern"),
        (lambda: optimizers.groups(INNER(), freeze=(1,)), r"groups: freeze: a pattern should be a path"),
    ],
)
def test_errors_of_kind_have_words(make, words):
    with pytest.raises(TypeError, match=words):
        make()


LAYERED = {"blocks": {"weight": jnp.ones((3, 2, 2)), "bias": jnp.ones((3, 2))}, "head": jnp.ones(2)}


@pytest.mark.parametrize("rates", [[0.0, 1.0, 2.0], jnp.array([0.0, 1.0, 2.0])])
def test_groups_have_a_rate_for_each_layer(rates):
    optimizer = optimizers.groups(optimizers.sgd(1.0), rates={"blocks/**": rates, "head": 4.0})

    @jax.jit
    def update(rates):
        optimizer = optimizers.groups(optimizers.sgd(1.0), rates={"blocks/**": rates})
        return optimizer.update(LAYERED, optimizer.init(LAYERED), LAYERED)[0]

    updates, _ = optimizer.update(LAYERED, optimizer.init(LAYERED), LAYERED)
    for leaf in (updates["blocks"]["weight"][:, 0, 0], updates["blocks"]["bias"][:, 1]):
        np.testing.assert_array_equal(leaf, [0, -1, -2])
    np.testing.assert_array_equal(updates["head"], [-4, -4])
    np.testing.assert_array_equal(update(jnp.array([0.0, 1.0, 2.0]))["blocks"]["bias"][:, 0], [0, -1, -2])


def test_groups_unfreeze_layer_by_layer():
    optimizer = optimizers.groups(optimizers.sgd(1.0), freeze={"blocks/**": [math.inf, 1, 0]})
    state, moved = optimizer.init(LAYERED), []
    for _ in range(2):
        updates, state = optimizer.update(LAYERED, state, LAYERED)
        moved.append((updates["blocks"]["weight"][:, 0, 0] != 0).tolist())
    assert moved == [[False, False, True], [False, True, True]]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rates": {"nothing/*": 2.0}}, "groups: rates: the pattern 'nothing/\\*' should match at least one path"),
        ({"freeze": {"nothing/*": 2}}, "groups: freeze: the pattern 'nothing/\\*' should match at least one path"),
        ({"freeze": ("nothing/*",)}, "groups: freeze: the pattern 'nothing/\\*' should match at least one path"),
        (
            {"rates": {"blocks/**": [1.0, 2.0]}},
            "groups: rates: blocks/bias should have one number, or one for each of its layers",
        ),
    ],
)
def test_groups_fail_at_init(options, message):
    with pytest.raises(ValueError, match=message):
        optimizers.groups(optimizers.sgd(1.0), **options).init(LAYERED)


def test_groups_refuse_a_rate_below_zero_of_any_layer():
    with pytest.raises(ValueError, match="rates of 'blocks/\\*\\*' should be at least 0"):
        optimizers.groups(optimizers.sgd(1.0), rates={"blocks/**": [1.0, -1.0, 1.0]})
