"""What is told of a sweep while it runs, and what telling it costs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.sweep_tasks import plain, swept

from nnfunc.runs.best_metric import BestMetric
from nnfunc.sweeps.progress import ProgressWatch

STEPS = 10


class Counted(dict):
    """A dict that counts how many of its values are looked at."""

    looks = 0

    def __getitem__(self, name):
        self.looks += 1
        return super().__getitem__(name)

    def get(self, name, default=None):
        self.looks += 1
        return super().get(name, default)

    def items(self):
        self.looks += len(self)
        return super().items()

    def values(self):
        self.looks += len(self)
        return super().values()


def track(**fields):
    known = {"step": 0, "stop_reason": None, "ranks_last": False, "metrics": {}}
    spec = SimpleNamespace(intervals=SimpleNamespace(steps=STEPS))
    return SimpleNamespace(spec=spec, **known | fields)


def watched(count, best="min loss", **fields):
    """(reports, engine, watch) of a sweep of so many trials."""
    reports = []
    engine = SimpleNamespace(
        states=Counted({m: track(**fields) for m in range(count)}),
        metric=BestMetric.parse(best),
        steps_before_jobs=None,
        specs=[SimpleNamespace(settings={"m": m}) for m in range(count)],
        changed=set(range(count)),
        rank_of=lambda track: "train/loss",
    )
    watch = ProgressWatch(reports.append, 0.0)
    watch.engine = engine
    return reports, engine, watch


def test_a_report_costs_the_same_whatever_the_number_of_trials():
    looks = {}
    for count in (100, 400):
        _, engine, watch = watched(count)
        watch([0], 1, {"train/loss": np.ones(1)})
        engine.states.looks = 0
        for trial in range(count):
            watch([trial], 2, {"train/loss": np.asarray([1.0 / (1 + trial)])})
        looks[count] = engine.states.looks
    assert looks[400] == 4 * looks[100]


@pytest.mark.parametrize("best", ["min loss", "max loss"])
def test_what_is_kept_up_to_date_is_what_counting_anew_gives(best):
    reports, engine, watch = watched(9, best)
    draw, scores, at = np.random.default_rng(0), {}, dict.fromkeys(range(9), 0)
    sign = 1 if best == "min loss" else -1
    for number in range(80):
        trial = int(draw.integers(9))
        if number in (30, 50, 55):  # a search ends a trial, two of them as worse than the others
            left = engine.states[number % 9]
            left.stop_reason, left.ranks_last, left.step = "why", number != 50, at[number % 9]
            engine.changed.add(number % 9)
        if engine.states[trial].stop_reason is not None:
            continue
        score = float(draw.choice([math.nan, *draw.normal(size=4).round(1)]))
        at[trial] = min(STEPS, at[trial] + 1)
        watch([trial], at[trial], {"train/loss": np.asarray([score])})
        scores[trial] = score
        tracks, report = engine.states, reports[-1]
        good = {m: sign * s for m, s in scores.items() if math.isfinite(s)}
        going = {m: cost for m, cost in good.items() if not tracks[m].ranks_last} or good
        assert report.best is None or going[report.best] == min(going.values())
        assert (report.best is None) == (not going)
        np.testing.assert_allclose(report.median, sign * np.median([*good.values()] or [math.nan]))
        todo = sum(t.step if t.stop_reason else STEPS for t in dict.values(tracks))
        assert report.fraction == pytest.approx(sum(at.values()) / todo)
        assert report.done == sum(bool(t.stop_reason) or at[m] == STEPS for m, t in dict.items(tracks))
        assert report.diverged == len(scores) - len(good)
        left = sum(t.stop_reason is not None for t in dict.values(tracks))
        assert report.alive == 9 - report.diverged - left


def test_the_best_is_one_that_was_not_given_up():
    """While there is one."""
    reports, engine, watch = watched(3)
    for trial, loss in enumerate([0.1, 0.3, 0.2]):
        watch([trial], 1, {"train/loss": np.asarray([loss])})
    for given_up, best in (([], 0), ([0], 2), ([1, 2], 0)):
        for trial in given_up:
            engine.states[trial].stop_reason, engine.states[trial].ranks_last = "why", True
            engine.changed.add(trial)
        watch([1], 2, {"train/loss": np.asarray([0.3])})
        assert reports[-1].best == best


def test_the_share_of_a_sweep_that_goes_on_counts_what_was_saved(tmp_path):
    options = {"folder": tmp_path / "sweep", "build": plain, "steps": STEPS}
    calls = []

    def stop():
        calls.append(None)
        return len(calls) > 2 * STEPS

    first = swept(4, should_stop=stop, **options)
    assert not first.complete
    reports = []
    swept(4, resume=True, on_report=reports.append, **options)
    assert reports[0].fraction > 0.3
    assert (reports[-1].fraction, reports[-1].done, reports[-1].trials) == (1.0, 4, 4)
