"""Which values a program is given, and which make groups: integers, conditional values, what no tracer does."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.sweep_tasks import DATA, KEY, plain

import nnfunc as nf
from nnfunc.sweeps.int_overflow import overflows

X = np.linspace(-1, 1, 16, dtype=np.float32)[:, None]
LINE = nf.data.arrays((X, 3 * X), batch_size=8)


@pytest.fixture(autouse=True)
def _as_users_have_it():
    """Strict promotion alone would refuse most arithmetic of integers and numbers with a point."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def line(rate):
    """A build of a line whose rate is a function of h."""
    return lambda h: nf.Task(nf.linear(1, 1), nf.regression(), nf.optimizers.sgd(rate(h)))


def plan_of(rate, space, **options):
    options = {"steps": 2, "key": KEY, "execution": "loop", **options}
    if not isinstance(space, list) and "trials" not in options:
        options["method"] = "grid"
    return nf.sweep_plan(line(rate), space, LINE, **options)


THOUSANDS = [1000, 3000]


@pytest.mark.parametrize(
    "function, ends",
    [
        (lambda k: k * 1_000_000, (1000, 3000)),
        (lambda k: 1e-12 * k**3, (1000, 3000)),
        (lambda k: k << 20, (1000, 3000)),
        (lambda k: -(k * 70_000), (-40_000, -30_000)),
        (lambda k: k + 1, (5, 2**31 - 1)),
        (lambda k: k - 2, (-(2**31) + 1, 0)),
        (lambda k: abs(k), (-(2**31), 2)),
        (lambda k: 10**k, (1, 12)),
        (lambda k: 10**-k, (1, 3)),
        (lambda k: jnp.where(k > 3, 2, 5) * 2_000_000_000, (1, 9)),
        (lambda k: jnp.sum(jnp.full(10**6, k)), (1, 3000)),
        (lambda k: jnp.cumsum(jnp.full(10**6, k)), (1, 3000)),
        (lambda k: jnp.cumprod(jnp.full(9, k)), (1, 30)),
        (lambda k: jnp.dot(jnp.full(10, k), np.full(10, 10**8)), (1, 3)),
        (lambda k: jax.jit(lambda x: x + k * 1_000_000 / 5)(1.0), (1000, 3000)),
        (lambda k: jax.grad(lambda x: x * (k * 1_000_000))(1.0), (1000, 3000)),
        (lambda k: jax.checkpoint(lambda x: x * (k * 1_000_000))(1.0), (1000, 3000)),
        (lambda k: jax.lax.fori_loop(0, 3, lambda i, c: c + k * 1_000_000 / 5, 0.0), (1000, 3000)),
        (lambda k: jax.lax.while_loop(lambda i: i < k * 1_000_000, lambda i: i + 1, 0), (1000, 3000)),
        (lambda k: jax.lax.cond(k > 5, lambda: k * 1_000_000, lambda: 0), (1000, 3000)),
    ],
)
def test_arithmetic_that_leaves_int32_is_known(function, ends):
    assert overflows(jax.make_jaxpr(function)(jnp.int32(1)), [ends])


@pytest.mark.parametrize(
    "function, ends",
    [
        (lambda k: k * 1_000, (1000, 3000)),
        (lambda k: 1e-12 * k**3, (1, 1000)),
        (lambda k: k * 1_000_000.0, (1000, 3000)),
        (lambda k: 2.0**k, (1, 200)),
        (lambda k: (k // 7, k % 7, k / 7, k > 3, k & 1, k >> 2, jnp.clip(k, 0, 5)), (-5, 2**31 - 1)),
        (lambda k: jax.random.normal(jax.random.fold_in(jax.random.key(k), k)), (1, 2**31 - 1)),
        (lambda k: jnp.arange(10)[k], (0, 9)),
        (lambda k: jnp.arange(10) * k, (0, 9)),
        (lambda k: jax.nn.one_hot(k, 5), (0, 4)),
        (lambda k: jax.lax.fori_loop(0, k, lambda i, x: x + k, 0.0), (1, 2**31 - 1)),
        # the step of a run is an array in a run alone too
        (lambda k: jnp.zeros((), jnp.int32).at[()].set(7) - k, (1, 2**31 - 1)),
    ],
)
def test_arithmetic_that_stays_in_int32_is_known(function, ends):
    assert not overflows(jax.make_jaxpr(function)(jnp.int32(1)), [ends])


@pytest.mark.parametrize(
    "rate, values",
    [
        (lambda h: 1 / (h["k"] * 1_000_000 / 500_000), [1000, 3000]),
        (lambda h: 1e-12 * h["k"] ** 3, [1000, 3000]),
        (lambda h: 10 ** -h["k"], [1, 2, 3]),
        (lambda h: -0.1 / (h["k"] - 2**31 + 5), [-9, 3]),
    ],
)
def test_an_integer_that_may_overflow_makes_groups(rate, values):
    build = line(rate)
    options = {"steps": 2, "method": "grid", "key": KEY, "execution": "loop", "log_every": 1}
    result = nf.sweep(build, {"k": values}, LINE, **options)
    assert "may overflow" in result.plan.static["k"] or min(values) < 1000
    assert len(result.plan.groups) == len(values)
    for i, hypers in enumerate(result.hypers):
        key = jax.random.fold_in(KEY, i)
        _, history = nf.train(build, hypers, LINE, steps=2, key=key, log_every=1)
        for name in ("learning_rate", "loss"):
            np.testing.assert_allclose(result.curves[f"train/{name}"][i], history.train[name], rtol=1e-5)


def test_an_integer_that_cannot_overflow_is_an_argument():
    build = line(lambda h: 1e-9 * h["k"] ** 3 / h["n"])
    space = {"k": [100, 300], "n": [np.int32(3), 5]}
    result = nf.sweep(build, space, LINE, steps=2, method="grid", key=KEY, execution="vmap")
    assert result.plan.static == {}
    for i, hypers in enumerate(result.hypers):
        _, history = nf.train(build, hypers, LINE, steps=2, key=jax.random.fold_in(KEY, i))
        expected = history.train["learning_rate"][-1]
        np.testing.assert_allclose(result.curves["train/learning_rate"][i, -1], expected, rtol=1e-5)


def test_integers_that_overflow_together_share_no_program():
    plan = plan_of(lambda h: 1 / (h["a"] * h["b"]), {"a": [2, 50_000], "b": [3, 60_000]})
    assert list(plan.static) == ["b"]
    assert plan.traced == ["a"]


def test_options_that_come_later_count_too():
    """Of two trials drawn of a thousand, a population may come to any."""
    plan = plan_of(lambda h: h["k"] ** 2 / 1e12, {"k": nf.int_uniform(1, 10**6)}, trials=2)
    assert "k" in plan.static
    plan = plan_of(lambda h: h["k"] ** 2 / 1e12, {"k": nf.int_uniform(1, 10**4)}, trials=2)
    assert plan.traced == ["k"]


def test_integers_beyond_int32_make_groups():
    build = line(lambda h: 1.0 / h["k"])
    result = nf.sweep(build, {"k": [2**31, 2**40]}, LINE, steps=2, method="grid", key=KEY, execution="loop")
    assert "do not fit the program's integers" in result.plan.static["k"]
    np.testing.assert_allclose(result.curves["train/learning_rate"][:, -1], [2.0**-31, 2.0**-40])


@pytest.mark.parametrize(
    "rate",
    [
        lambda h: 0.1 * len(range(h["k"])),
        lambda h: 0.1 if h["k"] > 3 else 0.2,
        lambda h: 0.1 * float(h["k"]),
        lambda h: 0.1 * int(h["k"] // 2 + 1),
        lambda h: 0.1 * math.log(h["k"]),
        lambda h: float(f"1e-{h['k']:d}"),
        lambda h: {2: 0.1, 5: 0.2}[h["k"]],
        lambda h: 0.2 if h["k"] in (2, 3) else 0.3,
        lambda h: [0.1, 0.2, 0.3, 0.4, 0.5, 0.6][h["k"]],
        lambda h: float(np.log(h["k"])),
        lambda h: 0.1 * float(np.zeros(h["k"]).size),
        lambda h: h["k"].bit_length() * 0.1,
    ],
)
def test_what_no_tracer_does_makes_groups(rate):
    """A build that fails with a tracer, and not with a plain value, makes that value static."""
    result = nf.sweep(line(rate), {"k": [2, 5]}, LINE, steps=1, method="grid", key=KEY, execution="loop")
    assert list(result.plan.static) == ["k"]
    assert not result.refused
    rates = result.curves["train/learning_rate"][:, -1]
    np.testing.assert_allclose(rates, [rate({"k": 2}), rate({"k": 5})], rtol=1e-6)


def test_what_no_array_does_makes_groups():
    """Shapes can be followed, but a number that is known is refused: the sweep does not end there."""

    def rate(h):
        if isinstance(h["k"], jax.Array) and not isinstance(h["k"], jax.core.Tracer):
            raise RuntimeError("no arrays, please")
        return 0.1 * h["k"]

    result = nf.sweep(line(rate), {"k": [1, 2]}, LINE, steps=1, method="grid", key=KEY, execution="loop")
    assert result.plan.static == {"k": "no arrays, please"}


def test_a_group_whose_data_does_not_fit_ends_no_other():
    """Whatever error it is: the group is refused, in the words of the error."""

    class Objective:
        def __init__(self, name):
            self.name = name

        def __call__(self, predict, batch):
            return nf.regression()(predict, batch)

        def inspect(self, outputs, arrays):
            if self.name == "odd":
                raise RuntimeError("odd data")

    def build(h):
        return nf.Task(nf.linear(1, 1), Objective(h["name"]), nf.optimizers.sgd(0.1))

    space = {"name": ["even", "odd"]}
    plan = nf.sweep_plan(build, space, LINE, steps=1, method="grid", key=KEY, execution="loop")
    assert plan.refused == {1: "odd data"}
    with pytest.raises(RuntimeError, match="odd data"):
        nf.sweep_plan(build, {"name": ["odd"]}, LINE, steps=1, method="grid", key=KEY, execution="loop")


# --------------------------------------------------------------------------------------------
# Values that are None for some


def conditional(h):
    rate = 0.01 if h["momentum"] is None else h["momentum"] * 0.01
    return plain({"lr": rate + h["lr"], "dropout": 0.0})


CONDITIONAL = {
    "use": [True, False],
    "momentum": lambda h: 0.5 + h["lr"] if h["use"] else None,
    "lr": nf.log_uniform(1e-3, 1e-1),
}


def test_a_value_that_may_be_none_makes_two_groups():
    def build(h):
        return conditional(h)

    options = {"steps": 4, "key": KEY, "execution": "loop"}
    result = nf.sweep(build, CONDITIONAL, DATA, trials=12, **options)
    plan = result.plan
    assert len(plan.groups) == 2
    assert set(plan.traced) == {"momentum", "lr"}
    assert plan.static["momentum"] == "None (NoneType) is not a number"
    assert "use" in plan.static
    labels = [group.static for group in plan.groups]
    assert {"use": False, "momentum": None} in labels
    for i in (group.trials[0] for group in plan.groups):
        hypers = result.hypers[i]
        _, history = nf.train(build, hypers, DATA, steps=4, key=jax.random.fold_in(KEY, i))
        np.testing.assert_allclose(result.curves["validation/loss"][i, -1], history.validation["loss"][-1], rtol=1e-4)


def test_mixed_values_are_grouped_by_type_and_shape():
    rows = [{"k": 0.1}, {"k": "auto"}, {"k": 0.2}, {"k": None}, {"k": 0.3}, {"k": "auto"}]
    rows = [row | {"i": float(i)} for i, row in enumerate(rows)]
    rate = lambda h: 1e-3 * h["i"] + (0.1 if h["k"] in ("auto", None) else h["k"])

    def read(h):
        return rate(h) if isinstance(h["k"], str | None) else 1e-3 * h["i"] + h["k"]

    plan = plan_of(read, rows)
    assert [group.trials for group in plan.groups] == [(0, 2, 4), (1, 5), (3,)]
    rows = [{"w": np.ones(n, np.float32) * (i + 1)} for i, n in enumerate([2, 3, 2, 3])]
    plan = plan_of(lambda h: 0.1 * h["w"].sum(), rows)
    assert [group.trials for group in plan.groups] == [(0, 2), (1, 3)]
    assert plan.static == {"w": "its values differ in shape"}


def test_data_sets_of_different_sizes_are_timed_apart():
    """They share programs, and what a step takes of one says nothing of the other."""
    from nnfunc.sweeps.batch import Job, device_data
    from nnfunc.sweeps.grouping import group_trials
    from nnfunc.training.intervals import Intervals

    small = device_data(DATA)
    large = device_data(nf.data.arrays((DATA.arrays[0], DATA.arrays[1]), batch_size=40))
    rows = [{"lr": 0.1, "dropout": 0.0}, {"lr": 0.2, "dropout": 0.0}]
    build = lambda h: plain(h)  # timings are kept by build, and other tests run plain
    (group,) = group_trials(build, rows, KEY, small.for_training()).groups
    job = Job(build, group, lambda m: KEY, small, Intervals.from_arguments(4, 4, 4, 4), 4, {})
    job.timings()["loop"] = 1.0
    assert job._replace(data=large).timings() == {}
    assert job._replace(data=device_data(DATA)).timings() == {"loop": 1.0}
