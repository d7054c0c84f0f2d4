"""Searches on top of sweeps: what they keep and give up follows from the curves of whole runs."""

import importlib
import math
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.sweep_tasks import CLASSES, DATA, DIM, KEY, SPACE, STEPS, plain, swept

import nnfunc as nf
from nnfunc.sweeps.compiled_trials import compile_trials
from nnfunc.sweeps.engine import Engine


@pytest.fixture(scope="module")
def whole():
    return swept(18)


def losses(result, step):
    """[trials] at a step; what is not finite last."""
    at = result.steps["validation"].tolist().index(step)
    loss = result.curves["validation/loss"][:, at]
    return np.where(np.isfinite(loss), loss, np.inf)


def ranked(result, trials, step):
    loss = losses(result, step)
    return sorted(trials, key=lambda m: loss[m])


def close(one, other):
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


# --------------------------------------------------------------------------------------------
# Successive halving, Hyperband, patience


@pytest.mark.parametrize("options", [{}, {"execution": "vmap"}, {"execution": "threads", "chunk": 3}], ids=str)
def test_halving_keeps_the_best_of_whole_runs(whole, options):
    """Selections at 40 / 9 and 40 / 3 steps; evaluations are at 4, 8, 12, ..."""
    result = swept(18, search=nf.sweeps.halving(3), **options)
    second = ranked(whole, range(18), 4)[:6]
    last = ranked(whole, second, 12)[:2]
    expected = {m: 4 for m in range(18) if m not in second} | {m: 12 for m in second if m not in last}
    assert result.stopped_at == expected
    assert result.ranks_last == set(expected)  # however good they were
    for trial in range(18):
        reached = expected.get(trial, STEPS)
        kept = whole.steps["validation"] <= reached
        own = result.curves["validation/loss"][trial]
        close(own[kept], whole.curves["validation/loss"][trial][kept])
        assert np.isnan(own[~kept]).all()
    for trial in last:
        close(result.trial(trial).state.params, whole.trial(trial).state.params)
    assert [row["trial"] for row in result.table()] == [
        *ranked(whole, last, STEPS),
        *(m for m in ranked(whole, second, 12) if m not in last),
        *(m for m in ranked(whole, range(18), 4) if m not in second),
    ]
    assert result.best == ranked(whole, last, STEPS)[0]


def test_rungs_and_eta_say_how_many_are_left():
    result = swept(8, search=nf.sweeps.halving(2.0, rungs=1))
    assert sorted(result.stopped_at.values()) == [20, 20, 20, 20]


def test_halving_judges_settings_by_the_mean_of_their_seeds():
    space = [{"lr": lr, "dropout": 0.0} for lr in (0.1, 1e-4, 0.03, 2e-4)]
    result = swept(space=space, seeds=3, search=nf.sweeps.halving(2, rungs=1))
    assert sorted(result.stopped_at) == [3, 4, 5, 9, 10, 11]
    assert [row["lr"] for row in result.table()][:2] in ([0.1, 0.03], [0.03, 0.1])


def test_a_setting_costs_the_mean_of_its_runs():
    engine = SimpleNamespace(cost=lambda trial, fraction: trial / fraction)
    assert Engine.setting_cost(engine, [1, 2, 6], 0.5) == 6


def test_those_that_diverged_or_were_refused_are_given_up_first():
    space = [{"lr": lr, "dropout": d} for lr, d in ((0.1, 0.0), (1e30, 0.0), (0.05, 7.0), (0.2, 0.1))]
    result = swept(space=space, search=nf.sweeps.halving(2, rungs=1))
    assert list(result.refused) == [2]
    assert list(result.diverged) == [1]
    assert not {0, 3} & set(result.stopped_at)
    assert {row["trial"] for row in result.table()[:2]} == {0, 3}


def test_hyperband_shares_out_its_trials(whole):
    """eta = 3, three brackets over 18: shares of 3, 1.5 and 1 give 10, 5 and 3 trials."""
    result = swept(18, search=nf.sweeps.hyperband(3))
    groups = [range(10), range(10, 15), range(15, 18)]
    first = ranked(whole, groups[0], 4)[:3]
    kept = [*ranked(whole, first, 12)[:1], *ranked(whole, groups[1], 12)[:2], *groups[2]]
    assert set(result.stopped_at) == set(range(18)) - set(kept)
    assert {result.stopped_at[m] for m in groups[1] if m in result.stopped_at} == {12}


def test_patience_ends_what_does_not_improve(whole):
    result = swept(18, search=nf.sweeps.patience(2))
    at = whole.steps["validation"]
    for trial in range(18):
        best, waited, ended = math.inf, 0, None
        for step, loss in zip(at, whole.curves["validation/loss"][trial], strict=True):
            waited = 0 if loss < best else waited + 1
            best = min(best, loss)
            if waited == 2 and step < STEPS:
                ended = int(step)
                break
        assert result.stopped_at.get(trial) == ended
    assert result.stopped_at  # it had something to do
    assert not result.ranks_last
    assert result.best == int(np.nanargmin(result.scores))
    assert set(result.best_at) == set(np.flatnonzero(np.isfinite(result.scores)))
    for trial, step in result.best_at.items():
        curve = result.curves["validation/loss"][trial]
        assert step == int(at[np.nanargmin(curve)])
        assert result.scores[trial] == np.nanmin(curve)
        assert int(result.trial(trial).state.step) == step
    past = next(m for m in result.stopped_at if result.best_at[m] < result.stopped_at[m])
    rows = {row["trial"]: row for row in result.table()}
    assert rows[past]["validation/loss"] == result.scores[past]
    assert rows[past]["best_at"] == result.best_at[past]
    key = jax.random.fold_in(KEY, past)
    alone, _ = nf.train(
        plain, result.hypers[past], DATA, steps=STEPS, key=key, should_stop=lambda step: step >= result.best_at[past]
    )
    close(result.trial(past).state.params, alone.params)


@pytest.mark.parametrize("lost", [False, True])
def test_the_best_state_is_there_again_when_a_sweep_goes_on(lost, tmp_path, monkeypatch):
    """Saved beside the last one; where that is lost, the trial is run again to its best."""
    from nnfunc.sweeps import engine

    sweep = importlib.import_module("nnfunc.sweeps.sweep")  # the package exports a function of that name

    monkeypatch.setattr(sweep, "REPORT", None)
    monkeypatch.setattr(engine, "SAVE_EVERY", 0.0)
    options = {"search": nf.sweeps.patience(2), "folder": tmp_path / "s"}
    first = swept(6, **options)
    assert any(first.best_at[m] < first.stopped_at.get(m, STEPS) for m in first.best_at)
    if lost:
        monkeypatch.setattr(engine.Store, "__contains__", lambda store, m: m >= 0 and m in store.locations)
    again = swept(6, resume=True, **options)
    assert again.best_at == first.best_at
    assert again.table() == first.table()
    for trial in range(6):
        left, right = first.trial(trial).state, again.trial(trial).state
        assert int(left.step) == int(right.step)
        close(left.params, right.params)


def test_warmup_and_threshold_of_patience():
    late = swept(9, search=nf.sweeps.patience(1, warmup=0.5))
    assert min(late.stopped_at.values(), default=STEPS) >= 20
    strict = swept(9, search=nf.sweeps.patience(1, threshold=1e9))
    assert set(strict.stopped_at.values()) == {8}


# --------------------------------------------------------------------------------------------
# Population based training


def test_the_lineage_is_what_happened():
    """The run by hand: every trial's own steps, copies and settings as the lineage tells them."""
    result = swept(8, search=nf.sweeps.population(rounds=5), execution="vmap")
    drawn = swept(8, steps=1).hypers
    assert len(result.lineage) == 4 * 2
    init, step = nf.trainer(plain)
    advance = jax.jit(lambda h, s, data: jax.lax.fori_loop(0, 8, lambda i, s: step(h, s, data.batch(s.step))[0], s))
    settings = [dict(h) for h in drawn]
    states = [init(h, jax.random.fold_in(KEY, i)) for i, h in enumerate(settings)]
    for number in range(1, 6):
        arrays = [{n: jnp.float32(v) for n, v in h.items()} for h in settings]
        states = [advance(h, s, DATA) for h, s in zip(arrays, states, strict=True)]
        loss = [nf.evaluate(plain(h), s, DATA.validation)["loss"] for h, s in zip(settings, states, strict=True)]
        order = np.argsort(loss)
        before = list(states)
        for row in (r for r in result.lineage if r["step"] == 8 * number):
            trial, source = row["trial"], row["source"]
            assert source in order[:2]
            assert trial in order[-2:]
            settings[trial] = {name: row[name] for name in SPACE}
            states[trial] = before[source]._replace(key=states[trial].key)
    for i in range(8):
        assert result.hypers[i] == settings[i]
        close(result.trial(i).state.params, states[i].params)


@pytest.mark.slow
def test_numbers_move_by_the_factor_or_are_drawn_anew():
    space = SPACE | {"dropout": [0.0, 0.1, 0.2], "n": nf.int_uniform(1, 50)}
    build = lambda h: plain(h)._replace(optimizer=nf.optimizers.adam(h["lr"] / h["n"]))
    options = {"build": build, "space": space, "trials": 8}
    moved = swept(**options, search=nf.sweeps.population(rounds=4, resample=0.0)).lineage
    now = {m: dict(h) for m, h in enumerate(swept(**options, steps=1).hypers)}
    for row in moved:
        before = now[row["source"]]
        ratio = row["lr"] / before["lr"]
        assert min(abs(ratio - 1.25), abs(ratio - 0.8)) < 1e-5 or row["lr"] in (1e-4, 1.0)
        assert abs(space["dropout"].index(row["dropout"]) - space["dropout"].index(before["dropout"])) <= 1
        assert row["n"] != before["n"] or row["n"] in (1, 50)
        assert isinstance(row["n"], int)
        now[row["trial"]] = {n: row[n] for n in space}
    anew = swept(**options, search=nf.sweeps.population(rounds=4, resample=1.0)).lineage
    ratios = [row["lr"] for row in anew]
    assert len(set(ratios)) == len(ratios)
    assert all(1e-4 <= rate <= 1.0 for rate in ratios)


def test_a_population_is_one_program_and_revives_the_diverged():
    def build(h):
        return plain({"lr": h["lr"], "dropout": 0.0})

    space = {"lr": nf.log_uniform(1e-2, 1e30)}  # most of them break at once
    result = swept(12, build=build, space=space, search=nf.sweeps.population(rounds=5), execution="vmap")
    broken = swept(12, build=build, space=space, execution="vmap").diverged
    assert len(broken) > 4
    assert len(result.diverged) < len(broken)
    assert np.isfinite(result.scores).sum() > 12 - len(broken)
    (group,) = result.plan.groups
    assert group.trials == tuple(range(12))
    from nnfunc.sweeps.batch import device_data
    from nnfunc.sweeps.grouping import group_trials

    (own,) = group_trials(build, result.hypers, KEY, device_data(DATA).for_training()).groups
    made = compile_trials(build, own, vmapped=True)
    assert (made.init._cache_size(), made.run_steps._cache_size(), made.evaluate._cache_size()) == (1, 1, 1)


@pytest.mark.parametrize("quantile, replaced", [(0.25, {1, 2, 3}), (0.5, {2, 3})])
def test_a_population_copies_only_trials_with_a_score(quantile, replaced):
    """And replaces those without one, but for the best ones."""
    copies = set()
    engine = SimpleNamespace(
        draws=SimpleNamespace(space={"lr": nf.uniform(0.0, 1.0)}, runs=1, key=KEY, constraint=None),
        begin=lambda: None,
        fractions=lambda: [0.25, 0.5, 0.75, 1.0],
        states=dict.fromkeys(range(4)),
        groups=[(None, SimpleNamespace(trials=[0, 1, 2, 3], traced={"lr"}))],
        advance=lambda *arguments, **options: None,
        cost=lambda trial, fraction: 0.1 if trial == 0 else math.inf,
        specs=[SimpleNamespace(settings={"lr": 0.1 * i}) for i in range(4)],
        replace=lambda trial, source, settings, fraction: copies.add((trial, source)),
    )
    nf.sweeps.population(rounds=4, quantile=quantile)(engine)
    assert copies == {(trial, 0) for trial in replaced}


def test_a_constraint_holds_for_what_a_population_explores():
    fair = lambda h: h["lr"] * (1 + h["dropout"]) < 0.3
    result = swept(8, search=nf.sweeps.population(rounds=5), constraint=fair)
    assert all(fair(h) for h in result.hypers)
    assert result.lineage


# --------------------------------------------------------------------------------------------
# Optuna


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp", "random", "qmc"])
def test_optuna_proposes_batch_by_batch(sampler):
    pytest.importorskip("optuna")
    if sampler == "gp":
        pytest.importorskip("torch")
    space = SPACE | {"dropout": [0.0, 0.3]}
    result = swept(14, space=space, search=nf.sweeps.optuna(sampler, batch=5))
    again = swept(14, space=space, search=nf.sweeps.optuna(sampler, batch=5))
    assert result.hypers == again.hypers
    assert len(result.hypers) == 14
    assert all(1e-4 <= h["lr"] <= 1.0 and h["dropout"] in (0.0, 0.3) for h in result.hypers)
    assert len(result.plan.groups) == 1
    for i in (0, 13):
        alone, _ = nf.train(plain, result.hypers[i], DATA, steps=STEPS, key=jax.random.fold_in(KEY, i))
        close(result.trial(i).state.params, alone.params)


@pytest.mark.parametrize("sampler, package", [("tpe", "optuna"), ("cmaes", "cmaes"), ("gp", "torch")])
def test_a_package_that_is_missing_is_named_before_anything_runs(sampler, package, monkeypatch):
    pytest.importorskip("optuna")
    monkeypatch.setitem(sys.modules, package, None)
    reports = []
    with pytest.raises(ModuleNotFoundError, match=f"optuna: the package {package} is not installed"):
        swept(14, search=nf.sweeps.optuna(sampler, batch=5), on_report=reports.append)
    assert reports == []


def test_optuna_is_told_what_came_of_it():
    """A sampler that is told 14 losses looks where they were least."""
    optuna = pytest.importorskip("optuna")
    told = []

    class Spy(optuna.samplers.RandomSampler):
        def after_trial(self, study, trial, state, values):
            told.append((trial.params, state, values))
            super().after_trial(study, trial, state, values)

    space = {"lr": nf.choice([0.1, 1e30]), "dropout": 0.0}
    result = swept(6, space=space, search=nf.sweeps.optuna(lambda seed: Spy(seed), batch=4))
    assert len(told) == 6
    for i, (params, state, values) in enumerate(told):
        if params["lr"] == 1:
            assert state == optuna.trial.TrialState.FAIL
            assert i in result.diverged
        else:
            assert values == [pytest.approx(result.scores[i], rel=1e-6)]


def test_optuna_with_maximum_constraint_and_structure():
    pytest.importorskip("optuna")

    def build(h):
        model = nf.mlp([DIM, h["width"], CLASSES])
        return nf.Task(model, nf.classification(), nf.optimizers.adam(h["lr"]))

    space = {"lr": nf.log_uniform(1e-3, 1.0), "width": nf.int_uniform(3, 4)}
    fair = lambda h: h["lr"] < 0.3 or h["width"] == 4
    result = swept(8, build=build, space=space, search=nf.sweeps.optuna(batch=3), constraint=fair, best="max accuracy")
    assert all(map(fair, result.hypers))
    assert {g.static["width"] for g in result.plan.groups} <= {3, 4}
    assert result.scores[result.best] == np.nanmax(result.scores)


@pytest.mark.parametrize(
    "search, words",
    [
        (lambda: nf.sweeps.halving(1), "halving: eta should be"),
        (lambda: nf.sweeps.halving(rungs=0), "halving: rungs should be at least 1"),
        (lambda: nf.sweeps.hyperband(brackets=0), "hyperband: brackets should be at least 1"),
        (lambda: nf.sweeps.patience(0), "patience: evaluations should be at least 1"),
        (lambda: nf.sweeps.population(rounds=1), "population: rounds should be at least 2"),
        (lambda: nf.sweeps.population(quantile=0.7), "population: quantile should be"),
        (lambda: nf.sweeps.optuna("tp"), "sampler should be one of"),
        (
            lambda: swept(space=[{"lr": 1.0, "dropout": 0.0}], search=nf.sweeps.population()),
            "population: space should be a dict",
        ),
        (lambda: swept(4, seeds=2, search=nf.sweeps.population()), "Leave seeds out"),
    ],
)
def test_mistakes_are_named(search, words):
    with pytest.raises(ValueError, match=words):
        search()


def test_a_custom_distribution_is_searched_by_its_inverse():
    """Optuna, and population based training, know only `at` of it."""
    own = nf.sweeps.Distribution(lambda u: 0.01 * (1 + u), None, "mine")
    space = {"lr": own, "dropout": 0.0}
    explored = swept(4, space=space, search=nf.sweeps.population(rounds=2, resample=0.0), steps=4)
    assert explored.lineage
    assert all(0.01 <= h["lr"] < 0.02 for h in explored.hypers)
    pytest.importorskip("optuna")
    result = swept(5, space=space, search=nf.sweeps.optuna("tpe", batch=3), steps=2)
    rates = [h["lr"] for h in result.hypers]
    assert all(0.01 <= rate < 0.02 for rate in rates)
    assert len(set(rates)) == 5


def test_optuna_says_what_runs_a_space_that_is_a_function():
    pytest.importorskip("optuna")
    with pytest.raises(ValueError, match=r"space should be a dict .* Leave search out to run"):
        swept(2, space=lambda key: {"lr": 0.1}, search=nf.sweeps.optuna())
