"""Members of a sweep as jobs of other processes: lost ones are handed in again, finished ones are not."""

import os
import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
from sweep_tasks import DATA, DIM, KEY, SPACE, swept

import nnfunc as nf
from nnfunc.sweeps import ways

pytest.importorskip("cloudpickle")


class Inline:
    """Runs jobs here, and loses those of these numbers, before or after they have run."""

    def __init__(self, before=(), after=()):
        self.before, self.after, self.count = before, after, 0

    def submit(self, function, *args):
        future, number = Future(), self.count
        self.count += 1
        if number not in self.before:
            function(*args)
        if number in (*self.before, *self.after):
            future.set_exception(ConnectionError("the machine is gone"))
        else:
            future.set_result(None)
        return future


@pytest.fixture
def runs(monkeypatch):
    """The members that really ran, in order."""
    seen, advance = [], ways.advance

    def counted(going, by_step):
        seen.extend(going.pack.members)
        return advance(going, by_step)

    monkeypatch.setattr(ways, "advance", counted)
    return seen


@pytest.mark.parametrize("search", [None, nf.sweeps.halving(2)], ids=["everything", "halving"])
def test_jobs_give_what_one_process_gives(search, tmp_path):
    whole = swept(7, search=search)
    jobs = nf.sweeps.through(Inline(), members=3)
    result = swept(7, search=search, jobs=jobs, folder=tmp_path)
    np.testing.assert_array_equal(whole.scores, result.scores)
    assert whole.table() == result.table()
    assert not list(tmp_path.glob("*.pickle"))


def test_a_lost_job_is_handed_in_again_and_a_finished_one_is_not_run_twice(tmp_path, runs):
    executor = Inline(before=(0,), after=(1,))
    jobs = nf.sweeps.through(executor, members=3)
    result = swept(7, jobs=jobs, folder=tmp_path)
    assert executor.count == 5
    assert sorted(runs) == list(range(7))
    assert jobs.lost == ["members 0 to 2: ConnectionError", "members 3 to 5: ConnectionError"]
    assert np.isfinite(result.scores).all()


def test_a_job_that_is_always_lost_is_given_up(tmp_path, runs):
    jobs = nf.sweeps.through(Inline(before=(1, 2, 3)), members=4)
    with pytest.raises(ConnectionError, match="the machine is gone"):
        swept(8, jobs=jobs, folder=tmp_path)
    assert not list(tmp_path.glob("*.pickle"))
    again = swept(8, jobs=nf.sweeps.through(Inline(), members=4), folder=tmp_path, resume=True)
    assert sorted(runs) == list(range(8))
    np.testing.assert_array_equal(again.scores, swept(8).scores)


def test_a_stopped_sweep_hands_in_no_more(tmp_path):
    jobs = nf.sweeps.through(Inline(), members=2)
    result = swept(4, jobs=jobs, folder=tmp_path, should_stop=lambda: True)
    assert not result.complete


@pytest.mark.parametrize(
    "options, words",
    [
        (
            {"search": nf.sweeps.population()},
            "members that learn from each other run in one process",
        ),
        ({"folder": None}, "jobs share a folder, so they need one"),
    ],
)
def test_mistakes_are_named(options, words, tmp_path):
    jobs = nf.sweeps.through(Inline())
    with pytest.raises(ValueError, match=words):
        swept(4, **{"jobs": jobs, "folder": tmp_path, **options})
    with pytest.raises(TypeError, match=r"an object with submit\(function"):
        nf.sweeps.through(3)


def mortal(mark):
    """A build that ends the first process that follows it."""

    def build(h):
        if not Path(mark).exists():
            Path(mark).touch()
            os._exit(9)
        model = nf.mlp([DIM, 5, 3], dropout=h["dropout"])
        return nf.Task(model, nf.classification(), nf.optimizers.adam(h["lr"]))

    return build


@pytest.mark.slow
def test_processes_of_which_one_dies(tmp_path):
    mark = tmp_path / "mark"
    mark.touch()
    build, options = mortal(str(mark)), {"steps": 8, "key": KEY, "members": 4, "way": "loop"}
    whole = nf.sweep(build, SPACE, DATA, **options)
    jobs = nf.sweeps.processes(1, members=2)
    submit, pending = jobs.submit, [mark]

    def dying(*args):
        if pending:
            pending.pop().unlink()
        return submit(*args)

    jobs.submit = dying
    result = nf.sweep(build, SPACE, DATA, folder=tmp_path / "sweep", jobs=jobs, **options)
    assert jobs.lost
    np.testing.assert_allclose(result.scores, whole.scores, rtol=1e-5)


@pytest.mark.slow
def test_submitit_on_this_machine(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, [Path(__file__).parent, *sys.path])))
    jobs = nf.sweeps.submitit(tmp_path / "logs", cluster="local", members=4, timeout_min=5)
    result = swept(4, steps=8, jobs=jobs, folder=tmp_path / "sweep")
    np.testing.assert_allclose(result.scores, swept(4, steps=8).scores, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray forks, and warns of its own packages
def test_ray_on_this_machine(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, [Path(__file__).parent, *sys.path])))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        jobs = nf.sweeps.ray(members=2, num_cpus=1)
        result = swept(4, steps=8, jobs=jobs, folder=tmp_path / "sweep")
        np.testing.assert_allclose(result.scores, swept(4, steps=8).scores, rtol=1e-5)
    finally:
        ray.shutdown()
