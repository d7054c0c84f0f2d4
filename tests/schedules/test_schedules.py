"""Schedules: against PyTorch's (tests/golden/schedules.json, made by scripts/golden/schedules.py),
against worked examples, and under every number traced."""

import inspect
import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.project import GOLDEN as GOLDEN_FILES

from nnfunc import schedules
from nnfunc.base import Scalar

pytestmark = pytest.mark.slow

GOLDEN = json.loads((GOLDEN_FILES / "schedules.json").read_text())
STEPS = jnp.arange(60)


def at(schedule, steps=STEPS):
    """The values at the steps, in one program: faster to test than one operation at a time."""
    return jax.jit(schedule)(steps)


OF_PYTORCH = {
    "step": schedules.step(0.5, every=7, factor=0.3),
    "multistep": schedules.multistep(0.5, (5, 20, 21), factor=0.3),
    "exponential": schedules.exponential(0.5, factor=0.9),
    "polynomial": schedules.polynomial(0.5, 40, power=1.7),
    "linear": schedules.linear(0.1, 40, final=0.4),
    "cosine": schedules.cosine(0.5, 60, final=0.01),
    "restarts_1": schedules.cosine_restarts(0.5, 7, final=0.01),
    "restarts_2": schedules.cosine_restarts(0.5, 7, multiplier=2, final=0.01),
    "restarts_3": schedules.cosine_restarts(0.5, 7, multiplier=3, final=0.01),
    "cyclic": schedules.cyclic(0.1, 0.5, rise_steps=7),
    "cyclic_2": schedules.cyclic(0.1, 0.5, rise_steps=5, fall_steps=8, mode="triangular2"),
    "cyclic_exp": schedules.cyclic(0.1, 0.5, rise_steps=5, fall_steps=8, mode="exp_range", factor=0.97),
    "warmup_start": schedules.warmup(0.5, 12, start=0.1),
    "sequential": schedules.join(
        [schedules.warmup(0.5, 8, start=0.125), schedules.exponential(0.5, factor=0.9), schedules.cosine(0.5, 30)],
        (8, 20),
    ),
    "one_cycle": schedules.one_cycle(0.5, 60),
    "one_cycle_linear": schedules.one_cycle(0.5, 50, rise=0.2, anneal="linear"),
    "one_cycle_three": schedules.one_cycle(0.5, 60, rise=0.25, start_factor=10, final_factor=100, three_phase=True),
    "one_cycle_three_linear": schedules.one_cycle(
        0.5, 50, rise=0.4, start_factor=10, final_factor=100, three_phase=True, anneal="linear"
    ),
}


@pytest.mark.parametrize("name", OF_PYTORCH)
def test_like_pytorch(name):
    expected = GOLDEN[name]
    values = at(OF_PYTORCH[name], STEPS[: len(expected)])
    np.testing.assert_allclose(values, expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["step", "polynomial", "restarts_2", "one_cycle_three", "cyclic_exp", "sequential"])
def test_like_pytorch_in_float64(name):
    expected = GOLDEN[name]
    with jax.enable_x64(True):
        values = at(OF_PYTORCH[name], jnp.arange(len(expected)))
        assert values.dtype == jnp.float64
        np.testing.assert_allclose(values, expected, rtol=1e-10)


def test_a_cycle_may_only_rise_or_only_fall():
    rise, fall = (
        schedules.cyclic(1.0, 5.0, rise_steps=4, fall_steps=0),
        schedules.cyclic(1.0, 5.0, rise_steps=0, fall_steps=4),
    )
    assert at(rise, jnp.arange(6)).tolist() == [1, 2, 3, 4, 1, 2]
    assert at(fall, jnp.arange(6)).tolist() == [5, 4, 3, 2, 5, 4]


@pytest.mark.parametrize("name", ["warmup_cosine", "warmup_linear", "warmup_stable_decay"])
def test_a_warm_up_from_a_start_changes_the_rise_alone(name):
    more = {"decay_steps": 5} if name == "warmup_stable_decay" else {}
    factory = partial(getattr(schedules, name), 1.0, 4, 20, **more)
    plain, from_start = at(factory(), STEPS[:25]), at(factory(start=0.2), STEPS[:25])
    np.testing.assert_allclose(from_start[:4], [0.2, 0.4, 0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(from_start[4:], plain[4:])


def test_joined_boundaries_may_be_traced():
    parts = [schedules.linear(1.0, 6), 0.25, schedules.cosine(2.0, 8)]
    run = lambda boundaries: schedules.join(parts, boundaries)(jnp.arange(12))
    traced = jax.jit(jax.vmap(run))(jnp.array([[3, 5], [0, 9]]))
    np.testing.assert_allclose(traced, jnp.stack([run((3, 5)), run((0, 9))]), rtol=1e-6)


@pytest.mark.parametrize(
    "make, exc_type, message",
    [
        (lambda: schedules.join([1.0, 2.0], (1, 2)), ValueError, "2 schedules should have 1 boundaries, got 2"),
        (
            lambda: schedules.join([1.0] * 3, (5, 2)),
            ValueError,
            r"boundaries\[0\] should be at most boundaries\[1\], got 5",
        ),
        (lambda: schedules.join([1.0, "cosine"], (2,)), TypeError, r"join: schedules\[1\]: it should be a number"),
        (lambda: schedules.join(1.0, ()), TypeError, "schedules should be a list of them, got 1.0"),
        (lambda: schedules.cyclic(0.1, 1.0, rise_steps=0), ValueError, "rise_steps . fall_steps should be above 0"),
        (
            lambda: schedules.cyclic(0.1, 1.0, rise_steps=3, mode="tri"),
            ValueError,
            "mode should be one of 'triangular'",
        ),
        (lambda: schedules.warmup(1.0, 3, start="low"), TypeError, "warmup: start should be a number"),
    ],
)
def test_messages_of_cycles_and_joins(make, exc_type, message):
    with pytest.raises(exc_type, match=message):
        make()


PLATEAUS = {
    "plateau_min_rel": (lambda m: m + 2, partial(schedules.plateau, factor=0.5, patience=2, threshold=1e-3)),
    "plateau_min_abs": (
        lambda m: m,
        partial(schedules.plateau, factor=0.7, patience=1, threshold=0.05, threshold_mode="absolute", cooldown=3),
    ),
    "plateau_max_rel": (
        lambda m: 4 - m,
        partial(schedules.plateau, mode="max", factor=0.5, patience=3, cooldown=2, floor=0.1),
    ),
    "plateau_max_abs": (
        lambda m: m,
        partial(
            schedules.plateau,
            mode="max",
            factor=0.2,
            patience=0,
            threshold=0.3,
            threshold_mode="absolute",
            cooldown=1,
            floor=1e-3,
        ),
    ),
}


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("best", [-5.0, -1.0, 0.0, 1.0, 5.0])
def test_plateau_compares_with_a_fraction_of_the_best(mode, best):
    """PyTorch's rule, best * (1 - threshold), is a step for the worse where the best is negative."""
    sign = 1 if mode == "max" else -1
    schedule = schedules.plateau(1.0, mode=mode, patience=1, factor=0.5, threshold=0.1)
    state = schedule.update(schedule.init(), best)
    for other in (best, best - sign * 0.05, best + sign * 0.099 * abs(best), np.nan):
        assert float(schedule.update(state, other).best) == best
    better = best + sign * 0.101 * abs(best) + sign * 1e-3
    assert float(schedule.update(state, better).best) == np.float32(better)
    for _ in range(2):
        state = schedule.update(state, best)
    assert float(state.value) == 0.5


@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_survives_infinite_metrics(mode):
    sign = 1 if mode == "max" else -1
    schedule = schedules.plateau(1.0, mode=mode, patience=0, factor=0.5)
    state = schedule.update(schedule.init(), -sign * np.inf)
    state = schedule.update(state, np.nan)
    assert (float(state.best), float(state.value)) == (-sign * np.inf, 0.25)
    state = schedule.update(state, sign * np.inf)
    assert (float(state.best), float(state.value)) == (sign * np.inf, 0.25)
    assert float(schedule.update(state, 1.0).value) == 0.125


def plateau_values(schedule, metrics):
    def update(state, metric):
        state = schedule.update(state, metric)
        return state, state.value

    return jax.lax.scan(update, schedule.init(), metrics)[1]


@pytest.mark.parametrize("name", PLATEAUS)
def test_plateau_like_pytorch(name):
    moved, make = PLATEAUS[name]
    metrics = moved(jnp.array([math.nan if m is None else m for m in GOLDEN["metrics"]]))
    values = jax.jit(lambda metrics: plateau_values(make(0.5), metrics))(metrics)
    np.testing.assert_allclose(values, GOLDEN[name], rtol=2e-6)


def test_plateau_with_plain_numbers_and_off():
    metrics = jnp.ones(30)
    off = [{"factor": 1.0}, {"patience": math.inf}, {"floor": 0.5}, {"floor": 7.0}]
    for arguments in off:
        values = plateau_values(schedules.plateau(0.5, **arguments), metrics)
        np.testing.assert_array_equal(values, jnp.full(30, 0.5))
    never_again = schedules.plateau(1.0, factor=0.5, patience=0, cooldown=math.inf)
    np.testing.assert_array_equal(plateau_values(never_again, metrics)[1:], jnp.full(29, 0.5))
    schedule = schedules.plateau()
    state = schedule.update(schedule.init(), 3)
    assert (float(state.value), float(state.best), float(state.bad)) == (1.0, 3.0, 0.0)


def test_warmup_first_step_is_positive():
    schedule = schedules.warmup_cosine(0.8, warmup_steps=3, total_steps=7, final=0.2)
    # 0.8 * (1, 2, 3) / 4, then 0.2 + 0.6 * (1 + cos(pi * (0, 1, 2, 3, 4) / 4)) / 2
    root = math.sqrt(0.5)
    falling = [0.8, 0.5 + 0.3 * root, 0.5, 0.5 - 0.3 * root, 0.2, 0.2]
    np.testing.assert_allclose(at(schedule, jnp.arange(9)), [0.2, 0.4, 0.6, *falling], rtol=1e-6)


def test_warmup_linear_by_hand():
    schedule = schedules.warmup_linear(1.0, warmup_steps=1, total_steps=5)
    np.testing.assert_allclose(at(schedule, jnp.arange(7)), [0.5, 1, 0.75, 0.5, 0.25, 0, 0])


def test_warmup_then_anything():
    then = schedules.multistep(2.0, (2, 3), factor=0.5)
    schedule = schedules.warmup(then, warmup_steps=3)
    np.testing.assert_allclose(at(schedule, jnp.arange(8)), [0.5, 1, 1.5, 2, 2, 1, 0.5, 0.5])
    same = schedules.warmup(schedules.cosine(0.5, 40, final=0.1), 10)
    cosine = schedules.warmup_cosine(0.5, 10, 50, final=0.1)
    np.testing.assert_allclose(at(same), at(cosine), rtol=1e-6)
    np.testing.assert_allclose(at(schedules.warmup(0.5, 1), jnp.arange(3)), [0.25, 0.5, 0.5])


def test_warmup_off_is_the_schedule_itself():
    then = schedules.exponential(0.5, factor=0.9)
    np.testing.assert_array_equal(at(schedules.warmup(then, 0)), at(then))
    cosine = schedules.cosine(0.5, 50)
    np.testing.assert_array_equal(at(schedules.warmup_cosine(0.5, 0, 50)), at(cosine))
    line = schedules.linear(0.5, 50)
    np.testing.assert_array_equal(at(schedules.warmup_linear(0.5, 0, 50)), at(line))


def test_inverse_sqrt_is_the_transformers():
    # Vaswani et al. 2017, equation 3, with step_num = step + 1 and warmup_steps = 8 there
    number, width = np.arange(1, 61), 512
    paper = width**-0.5 * np.minimum(number**-0.5, number * 8**-1.5)
    schedule = schedules.inverse_sqrt((8 * width) ** -0.5, warmup_steps=7)
    np.testing.assert_allclose(at(schedule), paper, rtol=1e-6)
    off = at(schedules.inverse_sqrt(1.0, 0), jnp.arange(4))
    np.testing.assert_allclose(off, [1, 2**-0.5, 3**-0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    "shape,falling",
    [
        ("linear", [1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0]),
        ("sqrt", [1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5, 0]),
    ],
)
def test_warmup_stable_decay_by_hand(shape, falling):
    schedule = schedules.warmup_stable_decay(1.0, 1, 8, decay_steps=4, shape=shape)
    expected = [0.5, 1, 1, 1, *falling, 0]
    np.testing.assert_allclose(at(schedule, jnp.arange(10)), expected, atol=1e-7)


def test_by_epoch():
    schedule = schedules.by_epoch(schedules.step(1.0, every=2, factor=0.5), steps_per_epoch=3)
    np.testing.assert_allclose(at(schedule, jnp.arange(13)), [1] * 6 + [0.5] * 6 + [0.25])


def test_a_multiplier_that_is_no_whole_number():
    # cycles of 10, 15 and 22.5 steps begin at 0, 10, 25 and 47.5
    schedule = schedules.cosine_restarts(1.0, 10, multiplier=1.5)
    steps = jnp.array([0.0, 5.0, 10.0, 17.5, 25.0, 36.25, 47.5])
    np.testing.assert_allclose(at(schedule, steps), [1, 0.5, 1, 0.5, 1, 0.5, 1], atol=1e-6)


@pytest.mark.parametrize("multiplier", [2, 3, 5, 7, 10])
def test_restarts_come_at_the_exact_step(multiplier):
    period, starts = 5, [0]
    while starts[-1] + period < 2**24:
        starts.append(starts[-1] + period)
        period *= multiplier
    starts = jnp.array(starts)

    @jax.jit
    def run(traced, starts):  # not constants, with which XLA would calculate beforehand, and exactly
        both = [schedules.cosine_restarts(1.0, 5, multiplier=m) for m in (multiplier, traced)]
        return [(schedule(starts), schedule(starts[1:] - 1)) for schedule in both]

    for first, last in run(jnp.float32(multiplier), starts):
        np.testing.assert_array_equal(first, 1.0)
        assert (last < 0.2).all()


def test_whole_steps_are_exact_where_float32_is_not():
    # float32 has no 2**24 + 1, so that in floats the last two steps would be one
    far = 2**24
    after = jnp.array([far - 1, far, far + 1, far + 2], jnp.int32)
    rising = schedules.warmup_linear(1.0, far, far + 2)
    np.testing.assert_allclose(at(rising, after), [1, 1, 0.5, 0])
    stable = schedules.warmup_stable_decay(1.0, 10, far + 2, decay_steps=2)
    np.testing.assert_allclose(at(stable, after), [1, 1, 0.5, 0])
    np.testing.assert_allclose(at(schedules.multistep(1.0, (far + 1,), factor=0.5), after), [1, 1, 0.5, 0.5])
    np.testing.assert_allclose(at(schedules.cosine_restarts(1.0, 2), after), [0.5, 1, 0.5, 1])
    np.testing.assert_allclose(at(schedules.warmup(schedules.linear(1.0, 2), far), after), [1, 1, 0.5, 0])


# Two values for every number of every schedule; a number that is not here fails its test.
VALUES = {
    "value": (0.5, 0.1),
    "start": (0.5, 0.1),
    "peak": (0.5, 0.1),
    "final": (0.01, 0.2),
    "total_steps": (40, 50),
    "warmup_steps": (0, 10),
    "decay_steps": (0, 12),
    "period": (7, 12),
    "multiplier": (1.0, 2.0),
    "every": (3, 20),
    "factor": (0.1, 0.7),
    "power": (1.0, 2.5),
    "rise": (0.3, 0.5),
    "start_factor": (25.0, 3.0),
    "final_factor": (1e4, 2.0),
    "then": (0.5, 0.1),
    "steps_per_epoch": (3, 10),
    "rise_steps": (6, 9),
    "fall_steps": (4, 11),
}
BASE = {
    "then": schedules.cosine(0.5, 30),
    "milestones": (3, 30),
    "schedules": [schedules.linear(0.5, 20), 0.25],
    "boundaries": (30,),
    "rise_steps": 6,
    "total_steps": 40,
    "period": 7,
    "value": 0.5,
    "start": 0.4,
    "peak": 0.5,
    "final": 0.01,
    "every": 7,
    "factor": 0.3,
    "warmup_steps": 5,
    "decay_steps": 12,
    "steps_per_epoch": 3,
}
NOT_FACTORIES = {"as_schedule", "plateau", "Plateau", "PlateauState"}
FACTORIES = [name for name in schedules.__all__ if name not in NOT_FACTORIES]


def numbers(factory):
    """The arguments of a factory that may be traced, by their annotation."""
    parameters = inspect.signature(factory).parameters.values()
    scalar = set(Scalar.__args__)
    return [p.name for p in parameters if scalar <= set(getattr(p.annotation, "__args__", ()))]


def required(factory):
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: BASE[p.name] for p in parameters if p.default is p.empty}


SWEPT = [(name, n) for name in FACTORIES for n in numbers(getattr(schedules, name))]


def test_every_schedule_is_swept():
    assert len(SWEPT) > 40
    assert {name for name, _ in SWEPT} == set(FACTORIES) - {"join"}  # test_joined_boundaries_may_be_traced


def of_number(factory, number, value, steps=STEPS):
    return factory(**{**required(factory), number: value})(steps)


@pytest.mark.parametrize("name", FACTORIES)
def test_every_number_may_be_traced(name):
    factory = getattr(schedules, name)

    def run(number, swept):
        at = partial(of_number, factory, number)
        alone = jnp.stack([at(value) for value in VALUES[number]])
        floats = jax.vmap(partial(at, steps=STEPS.astype(jnp.float32)))(swept[0])
        return alone, [floats, *map(jax.vmap(at), swept)]

    swept = {}
    for number in numbers(factory):
        whole = all(isinstance(value, int) for value in VALUES[number])
        dtypes = (jnp.float32, *((jnp.int32, jnp.uint8) if whole else ()))
        swept[number] = [jnp.array(VALUES[number], dtype) for dtype in dtypes]
    results = jax.jit(lambda swept: {number: run(number, swept[number]) for number in swept})(swept)
    for number, (alone, traced) in results.items():
        assert alone.shape == (2, 60)
        assert alone.dtype == jnp.float32
        of_a_mode = (name, number) == ("cyclic", "factor")  # of exp_range alone: the roster has it
        assert of_a_mode or not np.array_equal(alone[0], alone[1]), number
        for both in traced:
            np.testing.assert_allclose(both, alone, rtol=1e-6, atol=1e-7, err_msg=number)


OFF = {
    "total_steps": 0.0,
    "warmup_steps": 0.0,
    "decay_steps": 0.0,
    "multiplier": 1.0,
    "rise": 0.0,
    "factor": 0.0,
    "every": math.inf,
    "steps_per_epoch": math.inf,
    "power": 0.5,
}


@pytest.mark.parametrize("name", FACTORIES)
def test_gradients_with_respect_to_every_number_are_finite(name):
    factory = getattr(schedules, name)
    steps = jnp.array([0, 1, 4, 5, 6, 7, 39, 40, 41, 59])

    def run(number, point):
        at = partial(of_number, factory, number, steps=steps)
        value, forward = jax.jvp(at, (point,), (jnp.ones_like(point),))
        return value, forward, jax.grad(lambda value: at(value).sum())(point)

    points = {n: jnp.array([*VALUES[n], OFF.get(n, 0.3)], jnp.float32) for n in numbers(factory)}
    results = jax.jit(lambda p: {n: jax.vmap(partial(run, n))(p[n]) for n in p})(points)
    for number, (value, forward, backward) in results.items():
        assert np.isfinite(value).all(), number
        assert np.isfinite(backward).all(), number
        np.testing.assert_allclose(forward.sum(-1), backward, rtol=1e-4, atol=1e-4, err_msg=number)


@pytest.mark.parametrize("name", FACTORIES)
def test_every_kind_of_step(name):
    factory = getattr(schedules, name)
    schedule = factory(**required(factory))
    dtypes = (jnp.int8, jnp.int32, jnp.uint8, jnp.uint32, jnp.float16, jnp.bfloat16, jnp.float32)
    plain = (0, 41, np.int64(41), 41.0, np.float64(41), np.uint8(41), -3, -3.0)

    @jax.jit
    def run(steps, weak):
        traced = [schedule(step) for step in steps]
        return schedule(STEPS), traced, [schedule(step) for step in (*plain, weak)]

    expected, traced, alone = run([jnp.array([0, 3, 41], dtype) for dtype in dtypes], 41)
    assert {(value.dtype, value.shape) for value in traced} == {(jnp.dtype("float32"), (3,))}
    assert {(value.dtype, value.shape) for value in alone} == {(jnp.dtype("float32"), ())}
    for values in traced:
        np.testing.assert_allclose(values, expected[jnp.array([0, 3, 41])], rtol=1e-6, atol=1e-8)
    picked = expected[jnp.array([0, 41, 41, 41, 41, 41, 0, 0, 41])]
    np.testing.assert_allclose(jnp.stack(alone), picked, rtol=1e-6, atol=1e-8)
    assert jax.eval_shape(schedule, STEPS.reshape(6, 10)).shape == (6, 10)


@pytest.mark.parametrize("name", ["linear", "polynomial", "cosine", "warmup_cosine", "one_cycle"])
def test_after_the_end_the_last_value_stays(name):
    factory = getattr(schedules, name)
    schedule = factory(**required(factory))
    np.testing.assert_array_equal(at(schedule, jnp.array([41, 1000, 2**30])), at(schedule, jnp.int32(40)))


def test_a_schedule_compiles_once_for_all_numbers():
    compiled = []

    @jax.jit
    def value(peak, warmup_steps, total_steps, step):
        compiled.append(1)
        return schedules.warmup_cosine(peak, warmup_steps, total_steps)(step)

    for peak, warmup_steps, total_steps in [(0.1, 0, 10), (1.0, 5, 20), (0.3, 7, 9)]:
        for step in range(3):
            value(peak, warmup_steps, total_steps, step)
    assert len(compiled) == 1


PLATEAU_VALUES = {
    "start": (1.0, 0.3),
    "factor": (1.0, 0.5),
    "patience": (0, 2),
    "cooldown": (0, 3),
    "threshold": (0.0, 0.1),
    "floor": (0.0, 0.2),
}


@pytest.mark.parametrize("number", numbers(schedules.plateau))
def test_every_number_of_plateau_may_be_traced(number):
    metrics = jnp.array([1.0, 0.95, 0.9, 0.9, 0.9, 0.9, 0.8, 0.8, 0.8, 0.8, 0.8, 0.8])

    def values(value):
        arguments = {"patience": 1, "factor": 0.5, number: value}
        return plateau_values(schedules.plateau(**arguments), metrics)

    pair = PLATEAU_VALUES[number]
    both = jax.jit(jax.vmap(values))(jnp.array(pair, jnp.float32))
    alone = jax.jit(lambda: jnp.stack([values(value) for value in pair]))()
    np.testing.assert_allclose(both, alone, rtol=1e-6)


@pytest.mark.parametrize(
    "make,words",
    [
        (
            lambda: schedules.warmup_cosine(1.0, 10, 10),
            r"warmup_cosine: total_steps should be above 10.*, got 10\..*make warmup_steps smaller",
        ),
        (lambda: schedules.warmup_linear(1.0, -1, 10), r"warmup_linear: warmup_steps should be at least 0, got -1"),
        (
            lambda: schedules.warmup_stable_decay(1.0, 4, 10, decay_steps=7),
            r"warmup_steps \+ decay_steps should be at most total_steps, got 11 and 10",
        ),
        (lambda: schedules.step(1.0, every=0), r"step: every should be above 0, got 0"),
        (lambda: schedules.polynomial(1.0, 9, power=0), r"polynomial: power should be above 0"),
        (lambda: schedules.cosine_restarts(1.0, 5, multiplier=0.5), r"multiplier should be at least 1"),
        (lambda: schedules.one_cycle(1.0, 9, rise=1.1), r"one_cycle: rise should be in \[0, 1\], got"),
        (
            lambda: schedules.one_cycle(1.0, 9, rise=0.6, three_phase=True),
            r"one_cycle: rise should be in \[0, 0.5\], got 0.6",
        ),
        (
            lambda: schedules.one_cycle(1.0, 9, anneal="cos"),
            r"anneal should be one of 'cosine', 'linear', got 'cos'; did you mean 'cosine'\?",
        ),
        (lambda: schedules.plateau(mode="low"), r"plateau: mode should be one of 'min', 'max'"),
        (lambda: schedules.plateau(factor=1.5), r"plateau: factor should be in \[0, 1\], got 1.5"),
        (lambda: schedules.multistep(1.0, (3, -1)), r"multistep: milestones should be at least 0, got -1"),
    ],
)
def test_errors_have_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    "make,words",
    [
        (lambda: schedules.warmup("cosine", 3), r"warmup: then: it should be a number or a schedule"),
        (lambda: schedules.constant("0.1"), r"constant: value should be a number, got '0.1' \(str\)"),
        (lambda: schedules.multistep(1.0, 30), r"milestones should be a tuple of steps, got 30"),
        (lambda: schedules.cosine(jnp.ones(3), 10), r"cosine: start should be a number, got an array"),
        (lambda: schedules.as_schedule(None), r"should be a number or a schedule.*got None"),
    ],
)
def test_errors_of_kind_have_words(make, words):
    with pytest.raises(TypeError, match=words):
        make()
