"""What ranks before what: each clause of the order of a table, by a result that hangs on it."""

import math

import numpy as np
import pytest

from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.plan import Plan
from nnfunc.sweeps.result import Result

AT = np.asarray([10, 20, 30])


def result(scores, figure="min loss", *, seeds=1, diverged=(), refused=(), stopped=None, behind=(), unranked=()):
    """Trials with these scores. stopped: trial -> step. unranked: those without validation."""
    scores, stopped = np.asarray(scores, np.float64), stopped or {}
    curve = np.repeat(scores[:, None], 3, axis=1).astype(np.float32)
    for trial, step in stopped.items():
        curve[trial, step < AT] = np.nan
    curve[[*refused, *unranked]] = np.nan
    scores[[*diverged, *refused]] = np.nan
    count = len(scores)
    return Result(
        hypers=[{"lr": float(i)} for i in range(count)],
        metric=BestMetric.parse(figure),
        seeds=seeds,
        plan=Plan(count // seeds, seeds, 30, ["lr"], {}, {}, []),
        steps={"train": AT, "validation": AT},
        curves={f"validation/{BestMetric.parse(figure).name}": curve, "train/loss": np.zeros_like(curve)},
        scores=scores,
        diverged=dict.fromkeys(diverged, 5),
        refused=dict.fromkeys(refused, "no"),
        stopped_at=stopped,
        ranks_last=set(behind),
        seed=[i % seeds for i in range(count)],
        lineage=[],
        complete=True,
        seconds=1.0,
        _carries={},
        _impl=None,
    )


def order(ranked):
    return [row["trial"] for row in ranked.table("trial")]


@pytest.mark.parametrize("figure, expected", [("min loss", [1, 2, 0]), ("max accuracy", [0, 2, 1])])
def test_the_figure_ranks_by_its_mode(figure, expected):
    ranked = result([0.3, 0.1, 0.2], figure)
    assert order(ranked) == expected
    assert ranked.best == expected[0]


def test_ties_stay_as_they_were_drawn():
    assert order(result([0.2, 0.1, 0.2, 0.1])) == [1, 3, 0, 2]


def test_what_was_given_up_is_behind_what_went_further():
    """However good it was when it was given up."""
    ranked = result([0.3, 0.1, 0.2], stopped={1: 10, 2: 20}, behind={1, 2})
    assert order(ranked) == [0, 2, 1]
    assert ranked.best == 0


def test_what_was_stopped_and_not_given_up_ranks_by_its_figure():
    assert order(result([0.3, 0.1, 0.2], stopped={1: 10, 2: 20})) == [1, 2, 0]


def test_those_given_up_at_one_step_rank_by_their_figure():
    ranked = result([0.3, 0.2, 0.1], stopped={1: 10, 2: 10}, behind={1, 2})
    assert order(ranked) == [0, 2, 1]


def test_those_judged_by_another_split_are_behind_those_given_up():
    """A training loss says nothing beside validation losses."""
    ranked = result([0.0, 0.3, 0.1], unranked=[0], stopped={2: 10}, behind={2})
    assert order(ranked) == [1, 2, 0]


def test_diverged_trials_rank_behind_those_of_another_split():
    ranked = result([0.1, 0.0, 0.3], diverged=[0], unranked=[1])
    assert order(ranked) == [2, 1, 0]


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("figure", ["min loss", "max accuracy"])
def test_a_figure_that_is_no_number_is_behind_all_that_have_one(score, figure):
    ranked = result([score, 0.3, 0.1], figure, stopped={2: 10}, behind={2})
    assert order(ranked) == [1, 2, 0]


def test_those_refused_are_last():
    ranked = result([0.1, 0.2, 0.3], refused=[0], diverged=[1])
    assert order(ranked) == [2, 1, 0]


def test_those_refused_are_behind_those_without_an_evaluation():
    ranked = result([0.1, 0.2, 0.3], refused=[0], diverged=[1], unranked=[1])
    assert order(ranked) == [2, 1, 0]


def test_there_is_no_best_where_none_has_a_score():
    assert result([0.1, 0.2], diverged=[0], refused=[1]).best is None


def settings(ranked):
    return [row["setting"] for row in ranked.table("setting")]


def test_settings_rank_by_the_mean_of_their_seeds():
    ranked = result([0.0, 0.9, 0.4, 0.4, 0.5, 0.6], seeds=2)
    assert settings(ranked) == [1, 0, 2]
    assert ranked.best == 2


def test_a_setting_with_a_failed_run_ranks_last():
    ranked = result(
        [0.0, 0.0, 0.0, 0.0, 0.9, 0.8, 0.7, 0.9],
        seeds=2,
        diverged=[1],
        refused=[3],
        stopped={4: 10, 5: 10},
        behind={4, 5},
    )
    assert settings(ranked) == [3, 2, 0, 1]


def test_a_setting_with_a_refused_run_ranks_behind_failed_ones():
    ranked = result([0.1, 0.1, 0.2, 0.2, 0.3, 0.3], seeds=2, refused=[0], diverged=[2, 3], unranked=[1, 2, 3])
    assert settings(ranked) == [2, 1, 0]


def test_a_setting_with_a_run_of_another_split_is_behind():
    assert settings(result([0.0, 0.0, 0.5, 0.5], seeds=2, unranked=[0])) == [1, 0]


def test_a_setting_is_given_up_with_its_first_run():
    ranked = result([0.1, 0.1, 0.5, 0.5], seeds=2, stopped={0: 10, 1: 20, 2: 20, 3: 20}, behind={0, 1, 2, 3})
    assert settings(ranked) == [1, 0]


def test_a_table_of_settings_says_what_was_stopped_and_refused():
    ranked = result([0.1, 0.1, 0.2, 0.2, 0.3, 0.3], seeds=2, stopped={0: 20, 1: 10}, behind={0, 1}, refused=[5])
    rows = {row["setting"]: row for row in ranked.table()}
    assert [rows[s]["stopped_at"] for s in range(3)] == [10, None, None]
    assert [rows[s]["stopped"] for s in range(3)] == [2, 0, 0]
    assert [rows[s]["refused"] for s in range(3)] == [None, None, "no"]
