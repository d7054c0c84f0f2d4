"""Transformations of whole runs: gradients by hyperparameters, runs side by side, runs on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import nnfunc as nf

ROWS = np.random.default_rng(0).normal(size=(16, 3))
STEPS = 5


def model_of(h):
    weight_init = nf.initializers.scaled(nf.initializers.lecun_normal, h["init_scale"]) if "init_scale" in h else None
    options = {} if weight_init is None else {"weight_init": weight_init}
    return nf.serial(nf.linear(3, 4, **options), jnp.tanh, nf.dropout(h.get("dropout", 0.0)), nf.linear(4, 1))


def final_loss(optimizer, hypers, key, *, x, y):
    """The loss of the trained model on the second half of the rows, as a function of the hyperparameters."""
    init, step = nf.trainer(lambda h: nf.Task(model_of(h), nf.regression("huber"), optimizer(h)))
    wide = lambda leaf: leaf.astype(x.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
    state = init(hypers, key)
    state = state._replace(params=jax.tree.map(wide, state.params), opt_state=jax.tree.map(wide, state.opt_state))
    run = lambda state, _: (step(hypers, state, (x[:8], y[:8]))[0], None)
    state, _ = jax.lax.scan(run, state, length=STEPS)
    return jnp.mean((model_of(hypers).apply(state.params, x[8:]) - y[8:]) ** 2)


def cosine_adamw(h):
    rate = nf.schedules.warmup_cosine(h["peak"], warmup_steps=h["warmup"], total_steps=h["total"])
    return nf.optimizers.adamw(rate, b1=h["b1"], b2=h["b2"], eps=h["eps"], weight_decay=h["decay"], clip=h["clip"])


RUNS = {
    "adamw": (
        cosine_adamw,
        {"peak": 0.05, "warmup": 1.5, "total": 7.5, "b1": 0.9, "b2": 0.95, "eps": 1e-2, "decay": 0.1, "clip": 0.3},
    ),
    "no_memory": (lambda h: nf.optimizers.adam(h["rate"], b1=h["b1"], b2=0.0, eps=1e-2), {"rate": 0.05, "b1": 0.0}),
    "sgd": (lambda h: nf.optimizers.sgd(h["rate"], momentum=h["momentum"]), {"rate": 0.1, "momentum": 0.8}),
    "lamb": (lambda h: nf.optimizers.lamb(h["rate"], weight_decay=h["decay"]), {"rate": 0.05, "decay": 0.1}),
    "rmsprop": (lambda h: nf.optimizers.rmsprop(h["rate"], eps=1e-2), {"rate": 0.02}),
}


@pytest.mark.parametrize(
    "name", [name if name in ("adamw", "no_memory") else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_gradient_of_the_validation_loss_through_training(name, key):
    optimizer, numbers = RUNS[name]
    with jax.enable_x64(True):
        x = jnp.asarray(ROWS)
        y = jnp.sin(x.sum(1, keepdims=True))
        loss = jax.jit(lambda h: final_loss(optimizer, h, jax.random.key(0), x=x, y=y))
        hypers = {name: jnp.float64(value) for name, value in numbers.items()}
        gradient = jax.jit(jax.grad(loss))(hypers)
        for number, value in hypers.items():
            shift = 1e-5 * max(1, float(value))
            above, below = (loss(hypers | {number: value + sign * shift}) for sign in (1, -1))
            expected = (above - below) / (2 * shift)
            np.testing.assert_allclose(gradient[number], expected, rtol=1e-3, atol=1e-8, err_msg=number)


def test_the_gradient_by_a_dropout_rate_is_pathwise(key):
    """The masks are comparisons, without a gradient: that of E[loss] by the rate is not computed."""
    x = jnp.ones((1000,))
    output = lambda rate: nf.dropout(rate).apply({}, x, key=key)
    kept = output(0.5) > 0
    np.testing.assert_allclose(jax.jacfwd(output)(0.5)[kept], 4.0)  # of 1 / (1 - rate), at the masks of this rate
    np.testing.assert_array_equal(jax.jacfwd(output)(0.5)[~kept], 0.0)


def build(h):
    return nf.Task(model_of(h), nf.regression(), nf.optimizers.adam(h["rate"]))


def run(hypers, key, x, y, mean=lambda loss: loss):
    def objective(predict, batch):
        loss, metrics = nf.regression()(predict, batch)
        return mean(loss), jax.tree.map(mean, metrics)

    init, step = nf.trainer(lambda h: build(h)._replace(objective=objective))
    one = lambda state, _: (step(hypers, state, (x, y))[0], None)
    return jax.lax.scan(one, init(hypers, key), length=STEPS)[0].params


def arrays():
    x = jnp.asarray(ROWS, jnp.float32)
    return x, jnp.sin(x.sum(1, keepdims=True))


def test_runs_side_by_side_equal_runs_alone(key):
    hypers = {"rate": jnp.array([0.01, 0.1]), "dropout": jnp.array([0.0, 0.5])}
    keys = jax.random.split(key, 2)
    several = jax.jit(jax.vmap(run, (0, 0, None, None)))(hypers, keys, *arrays())
    for i in range(2):
        alone = jax.jit(run)({name: values[i] for name, values in hypers.items()}, keys[i], *arrays())
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(several), strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-4, atol=1e-6)


def sharded(function, in_specs, out_specs):
    mesh = Mesh(np.array(jax.devices()[:2]), ("d",))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs))


def test_runs_on_several_devices(key):
    """Half of the runs on each device, and one run with half of the batch on each."""
    hypers, keys = {"rate": jnp.array([0.01, 0.1])}, jax.random.split(key, 2)
    several = jax.vmap(run, (0, 0, None, None))
    spread = sharded(several, (P("d"), P("d"), P(), P()), P("d"))(hypers, keys, *arrays())
    together = jax.jit(several)(hypers, keys, *arrays())
    halves = sharded(
        lambda h, key, x, y: run(h, key, x, y, mean=lambda loss: jax.lax.pmean(loss, "d")),
        (P(), P(), P("d"), P("d")),
        P(),
    )({"rate": 0.1}, keys[1], *arrays())
    for a, b, c in zip(*map(jax.tree.leaves, (together, spread, halves)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(a[1], c, rtol=1e-4, atol=1e-6)
