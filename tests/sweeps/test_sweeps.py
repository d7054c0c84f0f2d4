"""Sweeps: a trial is the run alone, whatever the execution, the chunk and the others; tables; groups."""

import csv
import math
import pickle
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.sweep_tasks import blobs
from scipy import stats

import nnfunc as nf
from nnfunc import device_memory
from nnfunc.sweeps import strategy
from nnfunc.sweeps.batch import device_data
from nnfunc.sweeps.compiled_trials import compile_trials
from nnfunc.sweeps.grouping import Group

DIM, CLASSES, STEPS = 6, 3, 20
KEY = jax.random.key(5)


DATA = nf.data.arrays(
    blobs(),
    batch_size=8,
    validation=blobs(20, 1),
    augment=lambda key, batch: (batch[0] + 0.01 * jax.random.normal(key, batch[0].shape), batch[1]),
)


def jitter(key, batch):
    return batch[0] + 0.05 * jax.random.normal(key, batch[0].shape), batch[1]


def full(h, step):
    """Everything that keeps state or draws at random."""
    rate = nf.schedules.linear(0.0, STEPS, final=h["dropout"])(step)
    model = nf.serial(
        up=nf.linear(DIM, 8, bias=False),
        norm=nf.batch_norm(8),
        act=jnp.tanh,
        drop=nf.dropout(rate),
        head=nf.linear(8, CLASSES),
    )
    schedule = nf.schedules.warmup_cosine(h["lr"], h["warmup"], STEPS)
    return nf.Task(
        model,
        nf.classification(label_smoothing=0.1),
        nf.optimizers.adamw(schedule, weight_decay=h["decay"], clip=1.0),
        augment=jitter,
        average=nf.averages.ema(0.9),
        plateau=nf.reduce_on_plateau("loss", patience=0, threshold=0.1),
        accumulate=2,
    )


def normed(h):
    """Adam makes whole steps of a gradient that is rounding alone, so no bias before batch norm."""
    model = nf.mlp([DIM, 8, CLASSES], norm="batch")
    return nf.Task(model, nf.classification(), nf.optimizers.adamw(h["lr"]))


SPACE = {"lr": nf.log_uniform(1e-3, 1e-1), "dropout": nf.uniform(0.1, 0.6), "warmup": [2, 4], "decay": 0.01}
EVERY = {"log_every": 5, "evaluate_every": 4}


def swept(trials=3, build=full, space=SPACE, **options):
    options = {"steps": STEPS, "key": KEY, **EVERY, **options}
    if not isinstance(space, list):
        options["trials"] = trials
    return nf.sweep(build, space, DATA, **options)


def close(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jax.dtypes.issubdtype(left.dtype, jax.dtypes.prng_key):
            left, right = map(jax.random.key_data, (left, right))
        assert left.dtype == right.dtype
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def packed():
    return swept(execution="vmap")


def test_a_trial_is_the_run_alone(packed):
    """Batch norm, dropout, augmentation of data and task, EMA, accumulation, schedules and plateau."""
    for i in (0, 2):
        hypers, state, curves = packed.trial(i)
        own, history = nf.train(full, hypers, DATA, steps=STEPS, key=jax.random.fold_in(KEY, i), **EVERY)
        close(state, own)
        for name, curve in curves.items():
            split, _, figure = name.partition("/")
            np.testing.assert_allclose(curve, getattr(history, split)[figure], rtol=1e-5, atol=1e-5)
        assert history.validation["step"].tolist() == packed.steps["validation"].tolist()
        assert history.train["step"].tolist() == packed.steps["train"].tolist()
    assert float(packed.trial(0).state.plateau.value) < 1  # it had something to do


def test_a_trial_of_an_mlp_with_batch_norm_is_the_run_alone():
    result = swept(2, build=normed, space={"lr": [1e-2, 3e-2]}, method="grid", execution="vmap")
    for i in (0, 1):
        hypers, state, _ = result.trial(i)
        own, _ = nf.train(normed, hypers, DATA, steps=STEPS, key=jax.random.fold_in(KEY, i), **EVERY)
        close(state.params, own.params)


@pytest.mark.parametrize(
    "options",
    [
        {"execution": "vmap", "chunk": 2},
        {"execution": "threads"},
        {"execution": "threads", "chunk": 2},
        {"execution": "vmap", "trials": 5, "chunk": 3},  # the last of the second pack is a copy
        {"execution": "loop"},
        {"execution": "devices"},  # one trial a device, the fourth a copy
        {"execution": "devices", "trials": 9, "chunk": 8},
    ],
    ids=str,
)
def test_it_does_not_matter_how_trials_run_and_beside_whom(packed, options):
    other = swept(**options)
    for i in range(3):
        assert other.hypers[i] == packed.hypers[i]
        close(other.trial(i).state, packed.trial(i).state)
        close(other.trial(i).curves, packed.trial(i).curves)


def test_whole_numbers_trace_and_all_trials_are_one_program(packed):
    assert packed.plan.traced == ["lr", "dropout", "warmup"]
    assert packed.plan.static == {}
    assert len(packed.plan.groups) == 1


def plain(h):
    model = nf.mlp([DIM, 5, CLASSES], gain=h.get("gain", 1.0))
    return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["lr"]))


def test_a_trial_that_diverges_disturbs_no_other():
    lrs = [0.1, 1e30, 0.2]
    result = swept(build=plain, space=[{"lr": lr} for lr in lrs], execution="vmap")
    whole = swept(build=plain, space=[{"lr": lr} for lr in (0.1, 0.3, 0.2)], execution="vmap")
    for i in (0, 2):
        close(result.trial(i).state, whole.trial(i).state)
    assert list(result.diverged) == [1]
    with pytest.raises(nf.training.Diverged) as error:
        nf.train(plain, {"lr": 1e30}, DATA, steps=STEPS, key=jax.random.fold_in(KEY, 1))
    assert result.diverged[1] == error.value.step
    assert np.isnan(result.scores[1])
    table = result.table()
    assert table[-1]["lr"] == 1e30
    assert table[-1]["diverged_at"] == error.value.step
    assert math.isnan(table[-1]["validation/loss"])
    assert np.isnan(result.curves["validation/loss"][1, -1])
    assert result.best in (0, 2)
    assert swept(build=plain, space=[{"lr": lr} for lr in lrs], best="max accuracy").best in (0, 2)


def test_a_trial_that_makes_one_nan_is_latched_there():
    """What it has until then is kept, its parameters too; its curves say nothing from there on."""

    def build(h, step):
        whole = plain(h)

        def objective(predict, batch):
            loss, metrics = whole.objective(predict, batch)
            return jnp.where((step == 5) & (h["bad"] > 0.5), jnp.nan, loss), metrics

        return whole._replace(objective=objective)

    result = swept(build=build, space=[{"lr": 0.1, "bad": bad} for bad in (0.0, 1.0)], execution="vmap")
    assert result.diverged == {1: 5}
    validation, train = (result.curves[f"{split}/loss"][1] for split in ("validation", "train"))
    assert np.isfinite(validation).tolist() == [True, False, False, False, False]  # of step 4, 8, ...
    assert np.isfinite(train).tolist() == [True, False, False, False]  # of step 5, 10, ...
    assert np.isfinite(result.trial(1).state.params["head"]["weight"]).all()
    assert result.best == 0


def test_a_sweep_of_which_all_diverge_has_no_best():
    result = swept(build=plain, space=[{"lr": 1e30}, {"lr": 2e30}], execution="loop")
    assert result.best is None
    assert len(result.table()) == 2


# --------------------------------------------------------------------------------------------
# Groups


def shaped(h):
    model = nf.mlp([DIM, *h["widths"], CLASSES], activation=h["act"])
    nesterov = h["lr"] if h["fast"] else 0.5 * h["lr"]
    return nf.Task(model, nf.classification(), nf.optimizers.sgd(nesterov))


def test_what_sets_shapes_makes_groups_and_says_why():
    small, large = {"widths": (4,), "act": "relu"}, {"widths": (5, 5), "act": "tanh"}
    space = [{**own, "lr": lr, "fast": True} for lr in (0.1, 0.2) for own in (small, large)]
    result = swept(build=shaped, space=space, steps=3, execution="vmap")
    assert result.plan.traced == ["lr"]
    assert "(4,) (tuple) is not a number" in result.plan.static["widths"]
    assert "'relu' (str) is not a number" in result.plan.static["act"]
    assert [g.trials for g in result.plan.groups] == [(0, 2), (1, 3)]
    hypers, state, _ = result.trial(3)
    close(state, nf.train(shaped, hypers, DATA, steps=3, key=jax.random.fold_in(KEY, 3))[0])
    words = "group 1 (widths=(5, 5), act='tanh'), 2 trials: 2 trials side by side"
    assert words in str(result.plan)


def test_a_width_and_a_branch_are_found_by_following_a_step():
    def build(h):
        rate = h["lr"] * 2 if h["boost"] > 0.5 else h["lr"]  # a branch on a number
        return nf.Task(nf.mlp([DIM, h["width"], CLASSES]), nf.classification(), nf.optimizers.sgd(rate))

    space = {"width": [3, 4], "boost": [0.2, 0.9], "lr": [0.1, 0.3]}
    plan = nf.sweep_plan(build, space, DATA, steps=2, method="grid", key=KEY)
    assert plan.traced == ["lr"]
    assert "width" in plan.static["width"]
    assert plan.static["boost"] == "build, or the model, needs its value while the program is traced"
    assert len(plan.groups) == 4
    assert "a probe will choose the execution" in str(plan)


def test_a_whole_number_that_changes_the_parameters_makes_groups():
    """Traced it would be another model, without a word: the shapes are compared to those of a run alone."""

    def build(h):
        width = h["n"] if isinstance(h["n"], int) else 7
        return plain(h)._replace(model=nf.mlp([DIM, width, CLASSES]))

    space = [{"lr": 0.1, "n": n} for n in (2, 3)]
    plan = nf.sweep_plan(build, space, DATA, steps=2, key=KEY)
    assert plan.static == {"n": "it sets a shape or a type"}


def test_a_trial_that_build_refuses_disturbs_no_other():
    def build(h):
        return nf.Task(nf.mlp([DIM, 4, CLASSES], dropout=h["drop"]), nf.classification(), nf.optimizers.sgd(0.1))

    result = swept(build=build, space=[{"drop": 0.1}, {"drop": 1.5}, {"drop": 0.2}], steps=2, execution="loop")
    assert "rate should be in [0, 1], got 1.5" in result.refused[1]
    assert result.trial(1).state is None
    assert result.table()[-1]["trial"] == 1
    assert "trial 1 is refused: " in str(result.plan)
    close(result.trial(2).state, nf.train(build, {"drop": 0.2}, DATA, steps=2, key=jax.random.fold_in(KEY, 2))[0])


def test_zero_among_fractions_is_a_fraction():
    result = swept(build=plain, space=[{"lr": 0}, {"lr": 0.1}], steps=2, execution="loop")
    assert result.plan.traced == ["lr"]
    assert result.hypers[0] == {"lr": 0.0}


# --------------------------------------------------------------------------------------------
# Programs


def test_compiles_once_whatever_the_number_of_packs():
    def build(h):
        return plain(h)

    result = swept(build=build, space={"lr": nf.uniform(0.0, 1.0)}, trials=5, execution="vmap", chunk=2)
    assert result.scores.shape == (5,)
    own = compile_trials(build, _group(build, result), vmapped=True)
    assert (own.init._cache_size(), own.run_steps._cache_size(), own.evaluate._cache_size()) == (1, 1, 1)


def _group(build, result):
    from nnfunc.sweeps.grouping import group_trials

    (group,) = group_trials(build, result.hypers, KEY, device_data(DATA).for_training()).groups
    assert isinstance(group, Group)
    return group


def test_trials_share_the_batch_and_the_step():
    """One gather and one count for all trials: neither has an axis of trials in the program."""
    result = swept(build=plain, space={"lr": nf.uniform(0.0, 1.0)}, trials=7, steps=2, execution="vmap")
    group = _group(plain, result)
    own = compile_trials(plain, group, vmapped=True)
    numbers, keys = group.select(list(range(7))), jax.random.split(KEY, 7)
    bare = nf.data.arrays(blobs(), batch_size=8)
    carry = jax.eval_shape(own.init, numbers, keys, bare)
    assert carry.state.step.shape == ()
    text = str(jax.make_jaxpr(own.run_steps)(2, True, carry, numbers, bare))
    gathers = [line for line in text.splitlines() if " gather[" in line]
    assert any(f"f32[8,{DIM}]" in line for line in gathers)
    assert not any(f"f32[7,8,{DIM}]" in line for line in gathers)


def test_devices_exchange_nothing():
    """No collective in any of the compiled programs, and each device holds its own trials."""
    count = jax.device_count()
    assert count > 1
    result = swept(build=plain, space={"lr": nf.uniform(0.0, 1.0)}, trials=2 * count, execution="loop")
    group, data = _group(plain, result), device_data(DATA)
    train_data = data.for_training()
    own = compile_trials(plain, group, vmapped=True, devices=count)
    numbers = group.select(list(range(2 * count)))
    keys = jax.random.split(KEY, 2 * count)
    carry = own.init(numbers, keys, train_data)
    weight = carry.state.params["head"]["weight"]
    assert [s.data.shape[0] for s in weight.addressable_shards] == [2] * count
    programs = [
        own.init.lower(numbers, keys, train_data),
        own.run_steps.lower(np.int32(2), np.bool_(True), carry, numbers, train_data),
        own.step.lower(np.int32(1), np.bool_(True), carry, numbers, train_data),
        own.evaluate.lower(carry, numbers, data),
    ]
    exchanges = ("all-reduce", "all-gather", "all-to-all", "collective", "reduce-scatter", "send(")
    for program in programs:
        text = program.compile().as_text()
        assert "num_partitions=" in text
        assert not [word for word in exchanges if word in text]


@pytest.mark.parametrize("execution", ["vmap", "loop", "devices"])
def test_the_order_of_the_data_may_be_swept(execution):
    space = [{"lr": 0.2, "data.seed": seed} for seed in (3, 0, 7)]
    result = swept(build=plain, space=space, execution=execution)
    assert result.plan.traced == ["data.seed"]
    for i in (1, 2):
        data = replace(DATA, seed=jnp.uint32(space[i]["data.seed"]))
        own, _ = nf.train(plain, {"lr": 0.2}, data, steps=STEPS, key=jax.random.fold_in(KEY, i), **EVERY)
        close(result.trial(i).state, own)


def test_a_plan_with_a_probe_expects_time_and_memory():
    space = {"lr": nf.uniform(0.0, 1.0)}
    plan = nf.sweep_plan(plain, space, DATA, steps=20, trials=8, key=KEY, probe=True)
    (group,) = plan.groups
    assert group.execution is not None
    assert plan.seconds == pytest.approx(8 / group.execution.runs_per_second)
    state = nf.trainer(plain).init({"lr": 0.1}, KEY)
    size = sum(leaf.size * 4 for leaf in jax.tree.leaves(state.params))
    at_a_time = group.execution.chunk * group.execution.threads
    assert 2 * size * at_a_time < group.memory < 20 * size * at_a_time
    assert "expected: " in str(plan)


def test_the_layer_in_which_a_trial_diverged_is_named():
    result = swept(build=plain, space=[{"lr": 0.1}, {"lr": 1e30}], execution="vmap")
    fault = result.fault(1)
    with pytest.raises(nf.training.Diverged) as error:
        nf.train(plain, {"lr": 1e30}, DATA, steps=STEPS, key=jax.random.fold_in(KEY, 1))
    assert str(fault) == error.value.layer
    assert (fault.trial, fault.step) == (1, error.value.step)
    assert result.fault(0) is None


@pytest.mark.parametrize("cores, fastest", [(2, "loop 1 1"), (2, "threads 1 2"), (2, "threads 2 2"), (1, "vmap 4 1")])
def test_auto_takes_the_quickest_execution_and_remembers_it(monkeypatch, cores, fastest):
    tried = []

    def speed(job, execution, steps):
        tried.append(execution.name)
        return 2.0 + execution.name.startswith(fastest)

    monkeypatch.setattr(strategy, "_speed", speed)
    monkeypatch.setattr(strategy, "cores", lambda: cores)
    monkeypatch.setattr(strategy, "SHORT", 0.0)
    monkeypatch.setattr(strategy, "COMPILES", 0.0)
    build = lambda h: plain(h)
    options = {"build": build, "space": {"lr": nf.uniform(0.0, 1.0)}, "trials": 4, "steps": 2}
    result = swept(**options)
    execution = result.plan.groups[0].execution
    assert execution.name.startswith(fastest)
    assert execution.runs_per_second == 1.5
    count = len(tried)
    assert count == len(set(tried)) >= 3
    swept(**options)
    assert len(tried) == count


def test_a_further_program_is_compiled_once_it_can_be_worth_it(monkeypatch):
    """When sweeps of a build have taken several times as long as compiling one did."""
    monkeypatch.setattr(strategy, "cores", lambda: 2)
    build = lambda h: plain(h)
    options = {"build": build, "space": {"lr": nf.uniform(0.0, 1.0)}, "trials": 8, "steps": 2}
    group = swept(**options).plan.groups[0]
    assert group.execution.chunk == 1
    own = compile_trials(build, _group(build, swept(**options)), vmapped=False)
    (timings,) = own.timings.values()
    assert timings["spent"] < strategy.COMPILES * timings["compile"]
    timings["spent"] = 10 * strategy.COMPILES * timings["compile"]
    swept(**options)
    assert any(name.startswith("threads 4 2") for name in timings)


@pytest.mark.parametrize("short", [0.0, 60.0])
def test_auto_really_probes(monkeypatch, short):
    """In a long sweep for some steps, in a short one by its own first trials."""
    monkeypatch.setattr(strategy, "SHORT", short)
    monkeypatch.setattr(strategy, "cores", lambda: 2)
    result = swept(build=plain, space={"lr": nf.uniform(0.0, 1.0)}, trials=7)
    assert result.plan.groups[0].execution.runs_per_second > 0
    assert "probe: " in str(result.plan)
    other = swept(build=plain, space={"lr": nf.uniform(0.0, 1.0)}, trials=7, execution="loop")
    np.testing.assert_allclose(result.scores, other.scores, rtol=1e-5)


def test_little_memory_makes_packs_narrower(monkeypatch):
    monkeypatch.setattr(device_memory, "free_bytes", lambda: 60_000.0)
    space = {"lr": nf.uniform(0.0, 1.0)}
    with pytest.warns(UserWarning, match="9 trials side by side may not fit into the free memory"):
        plan = nf.sweep_plan(plain, space, DATA, steps=2, trials=9, execution="vmap", key=KEY)
    assert 1 < plan.groups[0].execution.chunk < 9


def test_a_pack_that_does_not_fit_is_halved(monkeypatch):
    """As many times as it takes; what comes out is the same."""
    whole, widths, advance = [], [], strategy.advance

    def scarce(going, by_step):
        width = going.batch.width
        (whole if width > 2 else widths).append(width)
        if width > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return advance(going, by_step)

    space = {"lr": nf.uniform(0.0, 1.0)}
    expected = swept(build=plain, space=space, trials=7, steps=2, execution="loop")
    monkeypatch.setattr(strategy, "advance", scarce)
    with pytest.warns(UserWarning, match="trials side by side do not fit into the memory"):
        result = swept(build=plain, space=space, trials=7, steps=2, execution="vmap")
    assert (whole, widths) == ([7, 4], [2, 2, 2, 2])
    np.testing.assert_allclose(result.scores, expected.scores, rtol=1e-5)


def test_reports_tell_how_it_goes():
    seen = []
    swept(build=plain, space={"lr": nf.uniform(0.0, 1.0)}, execution="vmap", chunk=2, on_report=seen.append)
    assert [(r.running, r.step) for r in seen] == [(own, step) for own in ([0, 1], [2]) for step in (4, 8, 12, 16, 20)]
    assert [r.done for r in seen] == 4 * [0] + 5 * [2] + [3]
    last = seen[-1]
    assert last.best is not None
    assert (last.trials, last.diverged, math.isfinite(last.score)) == (3, 0, True)
    assert set(last.hypers) == {"lr"}


def test_a_convolution_in_a_scan_is_timed_against_steps():
    def build(h):
        def conv(params, x):
            y = jax.lax.conv(x.reshape(-1, 1, 2, 3), params["w"], (1, 1), "SAME")
            return y.reshape(x.shape)

        layer = nf.Model(lambda key: {"w": jax.random.normal(key, (1, 1, 2, 2))}, conv)
        model = nf.serial(conv=layer, head=nf.linear(DIM, CLASSES))
        return nf.Task(model, nf.classification(), nf.optimizers.sgd(h["lr"]))

    one = swept(build=build, space={"lr": [0.1, 0.2]}, trials=2, steps=4, execution="loop")
    assert _group(build, one).scanned is False
    own, _ = nf.train(build, one.hypers[0], DATA, steps=4, key=jax.random.fold_in(KEY, 0))
    close(one.trial(0).state, own)


# --------------------------------------------------------------------------------------------
# Results


def test_seeds_are_statistics(tmp_path):
    space = [{"lr": 0.3}, {"lr": 0.01}]
    result = swept(build=plain, space=space, seeds=3, execution="loop")
    assert result.scores.shape == (6,)
    for i in (1, 4):  # keys depend on the seed alone
        key = jax.random.fold_in(KEY, 1)
        close(result.trial(i).state, nf.train(plain, space[i // 3], DATA, steps=STEPS, key=key)[0])
    table = result.table()
    assert [row["lr"] for row in table] == [0.3, 0.01]
    values = result.curves["validation/loss"][:3, -1].astype(np.float64)
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    np.testing.assert_allclose(table[0]["validation/loss"], values.mean(), rtol=1e-6)
    np.testing.assert_allclose(table[0]["validation/loss low"], low, rtol=1e-6)
    np.testing.assert_allclose(table[0]["validation/loss high"], high, rtol=1e-6)
    assert table[0]["runs"] == 3
    assert result.best == 0
    assert len(result.table("trial")) == 6
    result.save(tmp_path)
    with open(tmp_path / "trials.csv", newline="") as file:
        assert [row["seed"] for row in csv.DictReader(file)].count("2") == 2


def test_table_is_saved(tmp_path, packed):
    packed.save(tmp_path / "sweep")
    with open(tmp_path / "sweep" / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == [row["trial"] for row in packed.table()]
    assert float(rows[0]["lr"]) == packed.hypers[packed.best]["lr"]
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(tmp_path / "sweep" / "table.parquet")
    assert table.column("lr").to_pylist() == [row["lr"] for row in packed.table()]


def test_scores_are_the_last_figures(packed):
    np.testing.assert_array_equal(packed.scores, packed.curves["validation/loss"][:, -1])
    losses = [row["validation/loss"] for row in packed.table()]
    assert losses == sorted(losses)
    assert packed.table()[0]["trial"] == packed.best == int(np.argmin(packed.scores))


def test_without_validation_the_training_loss_ranks():
    data = nf.data.arrays(blobs(), batch_size=8)
    result = nf.sweep(plain, [{"lr": 0.1}, {"lr": 0.3}], data, steps=4, key=KEY, execution="loop")
    np.testing.assert_array_equal(result.scores, result.curves["train/loss"][:, -1])


@pytest.mark.parametrize(
    "options, words",
    [
        ({"best": "max acuracy"}, "best should name a validation metric, got 'acuracy'; did you mean 'accuracy'"),
        ({"execution": "pmap"}, "execution should be one of"),
        ({"chunk": 0}, "chunk should be at least 1"),
        ({"steps": 0}, "steps should be at least 1"),
        ({"seeds": 0}, "seeds should be at least 1"),
        ({"seeds": 3, "trials": 4}, "trials should be a multiple of seeds, 3, got 4. Use 3"),
        ({"trials": 0}, "trials should be at least 1"),
        ({"space": {"rate": [0.1, 0.2]}}, r"it reads hypers\['lr'\], but hypers has \['rate'\]"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        swept(**{"build": plain, "space": {"lr": [0.1, 0.2]}, **options})


def test_data_that_is_no_data_set():
    with pytest.raises(TypeError, match="data should be a data set in memory"):
        nf.sweep(plain, {"lr": [0.1]}, np.ones(3), steps=2, trials=2, key=KEY)


def test_labels_are_looked_at_before_anything_runs():
    x, labels = blobs()
    data = nf.data.arrays((x, labels + 1), batch_size=8)
    with pytest.raises(ValueError, match=r"labels should be in \[0, 3\)"):
        nf.sweep(plain, [{"lr": 0.1}], data, steps=2, key=KEY)


def test_keys_of_the_old_style_and_pickles():
    raw = jax.random.key_data(KEY)
    result = pickle.loads(pickle.dumps(swept(build=plain, space=[{"lr": 0.1}, {"lr": 0.2}], key=raw, execution="loop")))
    own, _ = nf.train(plain, {"lr": 0.2}, DATA, steps=STEPS, key=jax.random.fold_in(raw, 1))
    close(result.trial(1).state, own)


def test_a_trial_is_saved_as_a_run_that_goes_on(packed, tmp_path):
    packed.save_trial(1, tmp_path / "run")
    own = {"key": jax.random.fold_in(KEY, 1), **EVERY}
    more, history = nf.train(full, packed.hypers[1], DATA, steps=28, folder=tmp_path / "run", resume=True, **own)
    whole, expected = nf.train(full, packed.hypers[1], DATA, steps=28, **own)
    close(more, whole)
    for name in ("loss", "accuracy", "step"):
        np.testing.assert_allclose(history.validation[name], expected.validation[name], rtol=1e-5, atol=1e-6)
    with pytest.raises(FileExistsError):
        packed.save_trial(2, tmp_path / "run")


def test_no_such_trial(packed):
    with pytest.raises(ValueError, match=r"i should be in \[0, 3\), got None.*no trial has a score"):
        packed.trial(None)  # the best of trials that all diverged
    with pytest.raises(IndexError, match=r"i should be in \[0, 3\), got 3"):
        packed.trial(3)
    assert packed.trial(-1).hypers == packed.hypers[2]
