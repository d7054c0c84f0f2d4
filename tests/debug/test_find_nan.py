"""find_nan: the member, the step, the layer and the direction, under jit, vmap and scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.training.divergence import find_non_finite

DIM, LAYERS = 4, 5


@jax.custom_vjp
def fine(x, factor):
    return x


fine.defvjp(lambda x, factor: (x, factor), lambda factor, g: (g * factor, jnp.zeros_like(factor)))


def faulty(kind):
    """A layer that counts the steps and breaks at its own place `at`: state and parameters agree."""

    def forward(params, x, ctx):
        count = ctx.state["count"]
        broken = jnp.where(count >= params["at"], jnp.inf, 1.0)
        y = broken * x if kind == "forward" else fine(x, broken)
        return y, nf.Out(state={"count": count + 1})

    return nf.Model(lambda key: {"at": jnp.full((), 1e9)}, forward=forward, init_state=lambda: {"count": jnp.zeros(())})


def build_of(kind):
    def build(h):
        block = nf.residual(nf.serial(up=nf.linear(DIM, DIM), fault=faulty(kind), act=jnp.tanh))
        model = nf.serial(stem=nf.linear(DIM, DIM), blocks=nf.repeat(block, LAYERS), head=nf.linear(DIM, 1))
        return nf.Task(model, nf.regression(), nf.optimizers.sgd(h["rate"]))

    return build


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).normal(size=(32, DIM)).astype(np.float32)
    return nf.data.arrays((x, x[:, :1]), batch_size=8)


RATES = jnp.array([0.01, 0.02, 0.03, 0.04])
STEPS = 6


def many(build, data):
    """Four runs inside jit(vmap) inside fori_loop; members 1 and 3 break, at blocks 3 and 0."""
    init, step = nf.trainer(build)
    hypers = {"rate": RATES}
    state = jax.vmap(init)(hypers, jax.random.split(jax.random.key(0), 4))
    at = state.params["blocks"]["body"]["fault"]["at"]
    state.params["blocks"]["body"]["fault"]["at"] = at.at[1, 3].set(2.0).at[3, 0].set(4.0)

    @jax.jit
    def run(hypers, state, data):
        def one(i, state):
            return jax.vmap(step, in_axes=(0, 0, None))(hypers, state, data.batch(i))[0]

        return jax.lax.fori_loop(0, STEPS, one, state)

    return hypers, run(hypers, state, data)


@pytest.mark.parametrize("kind", ["forward", "backward"])
def test_members_of_a_sweep(data, kind):
    build = build_of(kind)
    hypers, state = many(build, data)
    assert np.asarray(state.diverged_at).tolist() == [-1, 2, -1, 4]
    found = nf.debug.find_nan(build, hypers, state, data)
    told = [(fault.trial, fault.step, fault.path, fault.phase) for fault in found]
    assert told == [(1, 2, "blocks/3/body/fault", kind), (3, 4, "blocks/0/body/fault", kind)]
    assert found[0].message.startswith(f"trial 1: at step 2, in the {kind} pass of layer blocks/*/body/fault")
    assert "number 3 of 5" in found[0].message
    alone = jax.tree.map(lambda leaf: leaf[1], state)
    (one,) = nf.debug.find_nan(build, {"rate": RATES[1]}, alone, data)
    assert (one.trial, one.step, one.path) == (None, 2, "blocks/3/body/fault")
    well = jax.tree.map(lambda leaf: leaf[0], state)
    assert nf.debug.find_nan(build, {"rate": RATES[0]}, well, data) == []


def test_batch_loss_and_update(data):
    """What no layer is to blame for."""

    def state_of(build, batches):
        init, step = nf.trainer(build)
        state = init({}, jax.random.key(0))
        return jax.jit(lambda s: jax.lax.scan(lambda s, b: (step({}, s, b)[0], None), s, batches)[0])(state)

    def of(objective, rate=0.1):
        model = nf.serial(body=nf.linear(DIM, 1))
        return lambda h: nf.Task(model, objective, nf.optimizers.sgd(rate))

    x = jnp.ones((3, 2, DIM))
    bad = (x.at[1].set(jnp.nan), jnp.ones((3, 2, 1)))
    build = of(nf.regression())
    (fault,) = nf.debug.find_nan(build, {}, state_of(build, bad), lambda i: jax.tree.map(lambda b: b[i], bad))
    assert (fault.step, fault.phase, fault.path) == (1, "batch", "0")

    good = (x, jnp.ones((3, 2, 1)))

    def batch(i):
        return jax.tree.map(lambda b: b[i], good)

    def root(predict, batch):
        return jnp.sqrt(0 * jnp.sum(predict(batch[0]))), {}

    build = of(root)
    (fault,) = nf.debug.find_nan(build, {}, state_of(build, good), batch)
    assert (fault.step, fault.phase) == (0, "loss")  # the derivative of the root at 0

    build = of(lambda predict, batch: (jnp.log(-jnp.ones(())) + 0 * predict(batch[0]).sum(), {}))
    (fault,) = nf.debug.find_nan(build, {}, state_of(build, good), batch)
    assert (fault.phase, fault.step) == ("loss", 0)

    build = of(lambda predict, batch: (-predict(batch[0]).sum(), {}), 2e38)
    (fault,) = nf.debug.find_nan(build, {}, state_of(build, good), batch)
    assert fault.phase == "update"


def test_build_of_the_step_is_asked_at_the_step(data):
    """The noise is not a number from step 3 on, which only build(h, step) knows."""

    def build(h, step):
        factor = jnp.where(step >= 3, jnp.nan, 1.0)
        model = nf.serial(a=nf.linear(DIM, DIM), b=lambda x: x * factor, c=nf.linear(DIM, 1))
        return nf.Task(model, nf.regression(), nf.optimizers.sgd(0.1))

    state = nf.trainer(lambda h: build(h, 0)).init({}, jax.random.key(0))
    state = state._replace(step=jnp.array(5), diverged_at=jnp.array(3))
    (fault,) = nf.debug.find_nan(build, {}, state, data)
    assert (fault.path, fault.step, fault.phase) == ("b", 3, "forward")


def test_a_model_alone():
    model = nf.serial(a=nf.linear(2, 2), root=lambda x: jnp.sqrt(jnp.abs(x)), c=nf.linear(2, 1))
    params = model.init(jax.random.key(0))
    assert nf.debug.find_nan_in(model, params, jnp.ones((3, 2))) is None
    fault = nf.debug.find_nan_in(model, params, jnp.zeros((3, 2)))  # d sqrt at 0
    assert (fault.path, fault.phase) == ("root", "backward")
    fault = nf.debug.find_nan_in(model, params, jnp.full((3, 2), 1e38) * 10)
    assert fault.phase == "batch"
    fault = nf.debug.find_nan_in(
        tuple(model), {**params, "c": {**params["c"], "bias": jnp.full(1, jnp.nan)}}, jnp.ones((3, 2))
    )
    assert (fault.path, fault.phase) == ("c/bias", "parameters")


def cumulative(params, x):
    def turn(total, value):
        total = total - value
        return total, jnp.log(total)  # the line that is to be named

    return jax.lax.scan(turn, params["start"], x)[1]


def test_a_plain_function_names_the_line():
    x = jnp.array([1.0, 1.0, 1.0, 1.0])
    assert nf.debug.find_nan_in(cumulative, {"start": jnp.array(9.0)}, x) is None
    for wrap in (lambda f: f, jax.jit, lambda f: jax.vmap(f, in_axes=(None, 0))):
        many = jnp.stack([x, x]) if wrap is not jax.jit and wrap(cumulative) is not cumulative else x
        fault = nf.debug.find_nan_in(wrap(cumulative), {"start": jnp.array(2.5)}, many)
        line = cumulative.__code__.co_firstlineno + 3
        assert fault.path == f"log at test_find_nan.py:{line} (turn)"
        assert fault.message == f"the forward pass: {fault.path}, in iteration 2 of its loop"


def test_a_plain_function_backward():
    def norm(params, x):
        with jax.named_scope("norm"):
            return jnp.sqrt(jnp.sum((params * x) ** 2))

    fault = nf.debug.find_nan_in(norm, jnp.zeros(()), jnp.ones(3))
    assert fault.phase == "backward"
    assert "test_find_nan.py" in fault.path
    assert "norm" in fault.path


def test_mistakes(data):
    build = build_of("forward")
    with pytest.raises(TypeError, match=r"find_nan: state should be a train state"):
        nf.debug.find_nan(build, {}, {}, data)
    with pytest.raises(TypeError, match=r"find_nan_in: a function should take two arguments"):
        nf.debug.find_nan_in(lambda x: x, {}, jnp.ones(2))
    with pytest.raises(TypeError, match=r"find_nan_in: model should be a model or a function"):
        nf.debug.find_nan_in(3, {}, jnp.ones(2))
    state = nf.trainer(build).init({"rate": 0.1}, jax.random.key(0))
    state = state._replace(diverged_at=jnp.array(3))
    with pytest.raises(TypeError, match=r"find_nan: data should be a data set or a function"):
        nf.debug.find_nan(build, {"rate": 0.1}, state, 3)


def test_the_micro_batch_is_told(data):
    """The third part of four, for it goes on from the state that the two before it left."""

    def build(h):
        model = nf.serial(stem=nf.linear(DIM, DIM), fault=faulty("forward"), head=nf.linear(DIM, 1))
        return nf.Task(model, nf.regression(), nf.optimizers.sgd(0.1), accumulate=4)

    init, step = nf.trainer(build)
    state = init({}, jax.random.key(0))
    state.params["fault"]["at"] = jnp.full((), 2.0)
    state, _ = jax.jit(step)({}, state, data.batch(0))
    (fault,) = nf.debug.find_nan(build, {}, state, data)
    assert (fault.step, fault.path, fault.phase) == (0, "fault", "forward")
    assert fault.message.endswith("the forward pass of layer fault, in micro-batch 3 of 4")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_breaks_uphill_is_told(data, accumulate):
    """exp of a number that is finite at the parameters, and not where SAM climbs to."""

    def build(h):
        model = nf.serial(stem=nf.linear(DIM, 1), power=lambda x: jnp.exp(x**2))
        objective = lambda predict, batch: (jnp.log1p(predict(batch[0])).mean(), {})
        return nf.Task(model, objective, nf.optimizers.sgd(0.1), sharpness=1e3, accumulate=accumulate)

    init, step = nf.trainer(build)
    state, _ = jax.jit(step)({}, init({}, jax.random.key(0)), data.batch(0))
    (fault,) = nf.debug.find_nan(build, {}, state, data)
    assert (fault.path, fault.phase) == ("power", "forward")
    part = "" if accumulate == 1 else ", in micro-batch 1 of 2"
    where = ", at the parameters uphill (sharpness = 1000); all is finite below"
    assert fault.message.endswith(f"the forward pass of layer power{part}{where}")


def test_batches_that_do_not_split_are_looked_at_whole():
    model = nf.serial(stem=nf.linear(DIM, 1), root=jnp.sqrt)
    task = nf.Task(model, nf.regression(), nf.optimizers.sgd(0.1), accumulate=3)
    params, key = model.init(jax.random.key(0)), jax.random.key(1)
    params["stem"]["bias"] -= 99
    fault = find_non_finite(task, params, {}, (np.ones((4, DIM)), np.ones((4, 1))), key)
    assert (fault.path, fault.phase) == ("root", "forward")
    assert str(fault) == "the forward pass of layer root"
