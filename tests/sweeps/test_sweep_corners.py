"""Corners of sweeps, each of which once gave a wrong result or an error that helped nobody."""

import functools
import pickle
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.sweep_tasks import CLASSES, DATA, DIM, KEY, SPACE, blobs, plain, swept

import nnfunc as nf
from nnfunc.sweeps import compiled_trials, engine, strategy

pytestmark = pytest.mark.usefixtures("no_report")


def line(h):
    return nf.Task(nf.linear(DIM, CLASSES), nf.classification(), nf.optimizers.sgd(h["lr"]))


def ran(build, space, **options):
    own = {"steps": 10, "key": KEY, "execution": "loop", **options}
    if isinstance(space, dict) and "trials" not in own:
        own["method"] = "grid"
    return nf.sweep(build, space, own.pop("data", DATA), **own)


def weight(state):
    return np.asarray(state.params["weight"])


def as_alone(build, result, i, steps=10, key=KEY):
    own = jax.random.fold_in(key, i)
    state, _ = nf.train(build, result.hypers[i], DATA, steps=steps, key=own)
    np.testing.assert_allclose(weight(result.trial(i).state), weight(state), rtol=1e-5, atol=1e-6)


# --------------------------------------------------------------------------------------------
# Values that look alike


@pytest.mark.slow
@pytest.mark.parametrize("pair", [(1, True), ((1, 2), (True, 2)), ({"a": [1]}, {"a": [True]})], ids=str)
def test_equal_values_of_two_types_compile_two_programs(pair):
    def build(h):
        strange = h["v"] is True or (isinstance(h["v"], tuple) and h["v"][0] is True)
        strange |= isinstance(h["v"], dict) and h["v"]["a"][0] is True
        return line({"lr": 0.5 if strange else 0.05})

    result = ran(build, {"v": list(pair)})
    assert len(result.plan.groups) == 2
    for i in (0, 1):
        as_alone(build, result, i)


@pytest.mark.slow
def test_long_arrays_inside_of_containers_are_told_apart():
    one = np.full(3000, 0.1, np.float32)
    other = one.copy()
    other[1500] = 500.0
    build = lambda h: line({"lr": h["o"]["lr"].mean()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nor do they count as duplicates
        result = ran(build, {"o": [{"lr": one}, {"lr": other}]})
    for i in (0, 1):
        as_alone(build, result, i)
    ran(build, [{"o": {"lr": one}}, {"o": {"lr": other}}])


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["loop", "vmap", "auto"])
def test_arrays_of_two_shapes_are_two_groups(execution):
    build = lambda h: line({"lr": 0.1 * jnp.sum(jnp.asarray(h["w"])) * h["lr"]})
    space = {"w": [np.ones(2, np.float32), np.ones(3, np.float32)], "lr": [0.1, 0.2, 0.3]}
    result = ran(build, space, execution=execution)
    assert [len(group.trials) for group in result.plan.groups] == [3, 3]
    as_alone(build, result, 4)


def test_numbers_with_and_without_a_point_are_one_group():
    build = lambda h: line({"lr": h["lr"] + 0.1})
    result = ran(build, {"lr": [0, 0.1, np.float32(0.5)]})
    assert len(result.plan.groups) == 1
    assert [type(h["lr"]) for h in result.hypers] == [float] * 3
    pytest.importorskip("optuna")
    search = nf.sweeps.optuna("random", batch=3)
    assert len(ran(build, {"lr": [0, 0.1, 0.2]}, trials=6, search=search).plan.groups) == 1


def test_keys_of_the_kind_rbg_run_one_by_one():
    """Side by side JAX draws the same for all of them."""
    key = jax.random.key(3, impl="rbg")
    result = ran(plain, SPACE, trials=3, key=key, execution="auto")
    assert result.plan.groups[0].execution.chunk == 1
    own, _ = nf.train(plain, result.hypers[2], DATA, steps=10, key=jax.random.fold_in(key, 2))
    for a, b in zip(jax.tree.leaves(own.params), jax.tree.leaves(result.trial(2).state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    for options in ({"execution": "vmap"}, {"execution": "devices"}, {"execution": "threads", "chunk": 2}):
        with pytest.raises(ValueError, match="keys of the implementation rbg draw other numbers under"):
            ran(plain, SPACE, trials=3, key=key, **options)


# --------------------------------------------------------------------------------------------
# Populations


@pytest.fixture
def saving(monkeypatch):
    monkeypatch.setattr(engine, "SAVE_EVERY", 0.0)


def test_a_population_that_breaks_late_resumes_to_the_same_table(tmp_path, saving):
    def late(h, step):
        lr = jnp.where((step >= 37) & (h["lr"] > 0.05), 1e38, h["lr"])
        return nf.Task(nf.mlp([DIM, 5, CLASSES]), nf.classification(), nf.optimizers.sgd(lr))

    def go(**options):
        return nf.sweep(
            late,
            {"lr": nf.log_uniform(1e-3, 1.0)},
            DATA,
            steps=40,
            trials=8,
            key=KEY,
            execution="loop",
            evaluate_every=5,
            log_every=5,
            folder=tmp_path / "s",
            search=nf.sweeps.population(rounds=8, factor=3.0, quantile=0.4),
            **options,
        )

    first, again = go(), go(resume=True)
    assert first.diverged
    assert first.diverged == again.diverged
    assert repr(first.table()) == repr(again.table())


def test_a_population_that_lost_a_part_begins_anew(tmp_path, saving):
    """Trials copy each other, so what is saved of them counts only together."""
    asked = []

    def stop():
        asked.append(None)
        return len(asked) > 4

    space = {"lr": nf.log_uniform(1e-3, 1.0), "width": [3, 4]}

    def build(h):
        model = nf.mlp([DIM, h["width"], CLASSES])
        return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["lr"]))

    options = {"build": build, "space": space, "trials": 10, "folder": tmp_path / "s"}
    search = nf.sweeps.population(rounds=5, quantile=0.4)
    assert not swept(**options, search=search, should_stop=stop).complete
    segment = max((tmp_path / "s" / "segments").iterdir())
    file = next(segment.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.warns(UserWarning, match="run again"):
        again = swept(**options, search=search, resume=True)
    whole = swept(build=build, space=space, trials=10, search=search)
    assert repr(again.table()) == repr(whole.table())
    assert again.lineage == whole.lineage


@pytest.mark.slow
def test_what_a_copy_says_is_what_it_runs():
    """Orders of the data and shapes stay a trial's own."""
    space = {"lr": nf.log_uniform(0.01, 1.0), "data.seed": list(range(100))}
    result = ran(line, space, trials=6, search=nf.sweeps.population(rounds=5))
    drawn = [h["data.seed"] for h in ran(line, space, trials=6, steps=1).hypers]
    assert result.lineage
    assert [h["data.seed"] for h in result.hypers] == drawn
    assert all(row["data.seed"] == drawn[row["trial"]] for row in result.lineage)

    def build(h):
        model = nf.mlp([DIM, h["width"], CLASSES])
        return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["lr"]))

    space = {"lr": nf.log_uniform(0.01, 1.0), "width": lambda h: 4 if h["lr"] < 0.1 else 8}
    result = ran(build, space, trials=8, search=nf.sweeps.population(rounds=5))
    for i, own in enumerate(result.hypers):
        assert result.trial(i).state.params["head"]["weight"].shape[0] == own["width"]
    nf.ensemble_from(result, 8)


def test_a_population_has_no_more_rounds_than_evaluations():
    options = {"trials": 8, "evaluate_every": 5, "search": nf.sweeps.population(rounds=10)}
    assert {row["step"] for row in ran(line, {"lr": nf.log_uniform(0.01, 1.0)}, **options).lineage} == {5}
    short = ran(line, {"lr": nf.log_uniform(0.01, 1.0)}, **options | {"steps": 1, "evaluate_every": 1})
    assert short.lineage == []


def test_a_population_over_options_that_are_arrays():
    space = {"lr": [np.float32(0.1) * np.ones(1, np.float32), np.ones(1, np.float32)]}
    build = lambda h: line({"lr": h["lr"][0]})
    assert ran(build, space, trials=4, search=nf.sweeps.population(rounds=4)).lineage


# --------------------------------------------------------------------------------------------
# Folders


@pytest.mark.parametrize(
    "change",
    [
        {"evaluate_every": 2},
        {"log_every": 3},
        {"data": nf.data.arrays(blobs(), batch_size=8, validation=blobs(20, 1), seed=9)},
    ],
    ids=["evaluate", "log", "order"],
)
def test_what_would_give_another_table_is_refused(change, tmp_path):
    ran(line, {"lr": [0.1]}, folder=tmp_path)
    with pytest.raises(ValueError, match="a resumed sweep should have the same"):
        ran(line, {"lr": [0.1]}, folder=tmp_path, resume=True, **change)


def test_resuming_tells_functions_and_arrays_apart(tmp_path):
    build = lambda h: line({"lr": h["f"](0.1)})
    double, half = [lambda x: 2 * x], [lambda x: 0.5 * x]
    ran(build, {"f": double}, folder=tmp_path)
    with pytest.raises(ValueError, match=r"trial . should have its saved settings"):
        ran(build, {"f": half}, folder=tmp_path, resume=True)
    partial = [functools.partial(jax.nn.elu, alpha=1.0)]
    build = lambda h: line({"lr": 0.1 * h["f"](1.0)})
    ran(build, {"f": partial}, folder=tmp_path / "p")
    again = [functools.partial(jax.nn.elu, alpha=1.0)]  # at another address
    ran(build, {"f": again}, folder=tmp_path / "p", resume=True)


def test_a_mistake_leaves_the_folder_free(tmp_path):
    with pytest.raises(ValueError, match="execution should be one of"):
        ran(line, {"lr": [0.1]}, folder=tmp_path / "s", execution="lop")
    with pytest.raises(ValueError, match="it reads hypers"):
        ran(line, {"rate": [0.1]}, folder=tmp_path / "s")
    ran(line, {"lr": [0.1]}, folder=tmp_path / "s")


# --------------------------------------------------------------------------------------------
# Ranking


def test_without_validation_training_metrics_select():
    bare = nf.data.arrays(blobs(), batch_size=8)
    space = {"lr": [1e-5, 1e-4, 1e-3, 0.3]}
    options = {"data": bare, "steps": 40, "log_every": 10, "evaluate_every": 4}
    halved = ran(line, space, search=nf.sweeps.halving(2), **options)
    assert halved.best == 3
    assert set(halved.stopped_at.values()) <= {10, 20, 30}
    waited = ran(line, space, search=nf.sweeps.patience(2), **options)
    assert waited.best == 3


def test_rank_of_refused_broken_and_given_up_settings():
    def late(h, step):
        lr = jnp.where((h["lr"] > 0.2) & (step > 15), 1e38, h["lr"])
        model = nf.serial(nf.dropout(h["bad"]), nf.linear(DIM, CLASSES))  # refuses what is no share
        return nf.Task(model, nf.classification(), nf.optimizers.sgd(lr))

    space = [{"lr": lr, "bad": bad} for lr, bad in ((0.3, 2.0), (0.01, 0.0), (0.02, 0.0), (0.05, 0.0), (0.3, 0.0))]
    result = ran(late, space, steps=20, evaluate_every=5, log_every=5, search=nf.sweeps.halving(2, rungs=1))
    order = [row["trial"] for row in result.table()]
    assert order[-1] == 0
    assert order[-2] == 4
    assert 4 in result.diverged
    assert result.best == order[0] not in (0, 4)


def test_a_name_that_build_never_reads_is_told():
    space = {"lr": [0.01, 0.1], "momentum": nf.uniform(0.0, 0.9)}
    with pytest.warns(UserWarning, match="no step reads 'momentum', so it changes nothing"):
        ran(line, space, trials=2, method="random")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ran(line, {"lr": [0.01, 0.1], "momentum": 0.9})  # the same for all of them

        def scheduled(h, step):
            return line({"lr": jnp.where(step < 5, h["lr"], h["later"])})

        ran(scheduled, {"lr": [0.01, 0.1], "later": [0.1, 0.2]})
        ran(line, {"base": nf.uniform(0.1, 0.2), "lr": lambda h: h["base"] / 2}, trials=2, method="random")

        def on_plateau(h):  # read after evaluations
            plateau = nf.reduce_on_plateau(factor=h["factor"], patience=0)
            return line({"lr": 0.1})._replace(plateau=plateau)

        ran(on_plateau, {"factor": [0.1, 0.2]})


def test_a_stoppable_sweep_hands_out_few_steps_at_once():
    """It would be asked ten times before the first step was done, and then no more."""
    asked = []

    def stop():
        asked.append(time.monotonic())
        return len(asked) > 2 and asked[-1] - asked[1] > 0.1  # the first part is compiled before

    def build(h):  # of what is smaller, JAX itself waits for every part
        model = nf.mlp([DIM, 16, CLASSES])
        return nf.Task(model, nf.classification(), nf.optimizers.adam(h["lr"]))

    result = ran(build, {"lr": [0.1]}, steps=300_000, should_stop=stop)
    assert not result.complete
    assert result.table()[0]["stopped_at"] < 300_000


def test_a_search_that_adds_settings_warns_of_no_read_name():
    def build(h):
        reads = h["name"] == "sgd"
        chain = nf.optimizers.sgd(0.1, momentum=h["momentum"]) if reads else nf.optimizers.adam(0.1)
        return nf.Task(nf.linear(DIM, CLASSES), nf.classification(), chain)

    def search(engine):
        for name in ("adam", "sgd"):
            engine.advance(engine.add([{"name": name, "momentum": m} for m in (0.1, 0.2)]))

    space = {"name": ["adam", "sgd"], "momentum": nf.uniform(0.0, 0.9)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ran(build, space, trials=4, method="random", search=search)


@pytest.mark.parametrize("name", ["trial", "refused", "runs", "validation/loss"])
def test_names_that_the_table_has_for_itself_are_refused(name):
    with pytest.raises(ValueError, match="is a column of the table already"):
        ran(lambda h: line({"lr": 0.1}), {name: [1.0, 2.0]})


# --------------------------------------------------------------------------------------------
# Errors


@pytest.mark.parametrize("after", [1, 2, 3, 5])
def test_stopping_while_the_execution_is_chosen(after, monkeypatch):
    monkeypatch.setattr(strategy, "cores", lambda: 2)
    asked = []

    def stop():
        asked.append(None)
        return len(asked) > after

    result = ran(lambda h: line(h), {"lr": nf.uniform(0.0, 1.0)}, trials=8, execution="auto", should_stop=stop)
    assert not result.complete
    assert len(result.table()) == 8


def test_scarce_memory_while_compiling_narrows_batches(monkeypatch):
    made = compiled_trials._compile

    def scarce(*args):
        own = made(*args)

        def run_steps(n, fresh, carry, numbers, data):
            width = carry.state.diverged_at.shape
            if width and width[0] > 2:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
            return own.run_steps(n, fresh, carry, numbers, data)

        return own._replace(run_steps=run_steps)

    monkeypatch.setattr(compiled_trials, "_cached_compile", scarce)
    with pytest.warns(UserWarning, match="do not fit into the memory"):
        result = ran(line, {"lr": nf.uniform(0.0, 1.0)}, trials=7, execution="vmap")
    assert np.isfinite(result.scores).all()


def test_halves_of_packs_on_devices_are_shared_out_evenly(monkeypatch):
    count, advance = jax.device_count(), strategy.advance

    def scarce(going, by_step):
        if going.batch.width > 2 * count:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return advance(going, by_step)

    monkeypatch.setattr(strategy, "advance", scarce)
    with pytest.warns(UserWarning, match="do not fit into the memory"):
        result = ran(line, {"lr": nf.uniform(0.0, 1.0)}, trials=3 * count, execution="devices")
    assert np.isfinite(result.scores).all()


def test_whatever_build_says_of_a_trial_disturbs_no_other():
    def build(h):
        if h["n"] == 2:
            raise AssertionError("an odd number is wanted")
        if h["n"] == 3:
            raise IndexError
        return line({"lr": 0.1 + h["n"] * 0})

    result = ran(build, {"n": [1, 2, 3, 5]})
    assert result.refused == {1: "an odd number is wanted", 2: "IndexError"}
    assert np.isfinite(result.scores[[0, 3]]).all()


def test_trials_that_do_not_fit_the_data_disturb_no_other():
    def build(h):
        return nf.Task(nf.linear(DIM, h["classes"]), nf.classification(), nf.optimizers.sgd(0.1))

    result = ran(build, {"classes": [2, 3]})
    assert "labels should be in" in result.refused[0]
    assert result.best == 1


def test_a_number_that_has_to_be_plain_makes_groups():
    build = lambda h: line({"lr": 0.1 * h["k"].bit_length()})
    result = ran(build, {"k": [1, 2]})
    assert list(result.plan.static) == ["k"]
    assert not result.refused


@pytest.mark.parametrize(
    "change, kind, words",
    [
        (
            {"space": lambda key: {"a" if int(jax.random.bits(key)) % 2 else "b": 1.0}, "trials": 9},
            ValueError,
            "all settings should have the same names",
        ),
        ({"search": "halving"}, TypeError, r"search should be a search, such as nf.sweeps.halving"),
        ({"search": nf.sweeps.population}, TypeError, "search should be a search"),
        (
            {"space": {"lr": [0.1], "data.seed": nf.uniform(0.0, 3.0)}, "trials": 2},
            TypeError,
            "data.seed should be an integer",
        ),
        ({"log_every": 0}, ValueError, "log_every should be at least 1"),
        ({"evaluate_every": 0}, ValueError, "evaluate_every should be at least 1"),
    ],
    ids=["proposals", "name", "maker", "order", "log", "evaluate"],
)
def test_mistakes_are_named(change, kind, words):
    options = {"space": {"lr": [0.1, 0.2]}, **change}
    with pytest.raises(kind, match=words):
        ran(line, options.pop("space"), **options)


def test_large_whole_numbers():
    with pytest.raises(ValueError, match="int_uniform: high should be"):
        nf.int_uniform(0, 2**40)
    plan = nf.sweep_plan(
        lambda h: line({"lr": 0.1 + 0 * (h["n"] % 7)}), {"n": [1, 2**40]}, DATA, steps=2, method="grid", key=KEY
    )
    assert "do not fit" in plan.static["n"]


def test_a_function_as_a_value_is_told_how_to_be_one():
    with pytest.raises(TypeError) as error:
        ran(lambda h: line({"lr": 0.1}), {"act": jax.nn.relu, "lr": [0.1]})
    assert "put it into a list" in "".join(error.value.__notes__)


def test_get_of_another_value_works_it_out():
    space = {"b": lambda h: h.get("lr", 7.0), "lr": lambda h: h["base"] * 2, "base": [0.1]}
    result = ran(lambda h: line({"lr": h["lr"] + 0 * h["b"] + 0 * h["base"]}), space)
    assert result.hypers[0]["b"] == 0.2


def test_an_error_of_the_users_own_is_no_lost_job(tmp_path):
    pytest.importorskip("cloudpickle")
    from helpers.sweep_tasks import Inline

    def broken(report):
        raise RuntimeError("of the user")

    jobs = nf.sweeps.through(Inline(), trials=2)
    with pytest.raises(RuntimeError, match="of the user"):
        ran(line, {"lr": [0.1, 0.2]}, jobs=jobs, folder=tmp_path, on_report=broken)
    assert jobs.lost == []


def test_a_trial_that_did_not_run_cannot_be_saved(tmp_path):
    result = ran(line, {"lr": [0.1, 0.2]}, should_stop=lambda: True)
    assert [row["stopped_at"] for row in result.table()] == [0, 0]
    with pytest.raises(ValueError, match="trial 1 has no state, because it did not run"):
        result.save_trial(1, tmp_path)
    assert pickle.loads(pickle.dumps(result)).best is None
