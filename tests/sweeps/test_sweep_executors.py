"""Trials of a sweep as jobs of other processes: lost ones are handed in again, finished ones are not."""

import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers.project import TESTS
from helpers.sweep_tasks import DATA, DIM, KEY, SPACE, Inline, swept

import nnfunc as nf
from nnfunc.sweeps import engine, executors, strategy
from nnfunc.sweeps.checkpoints import Store

pytestmark = pytest.mark.usefixtures("no_report")

pytest.importorskip("cloudpickle")


@pytest.fixture
def runs(monkeypatch):
    """The trials that really ran, in order."""
    seen, advance = [], strategy.advance

    def counted(going, by_step):
        seen.extend(going.batch.trials)
        return advance(going, by_step)

    monkeypatch.setattr(strategy, "advance", counted)
    return seen


@pytest.mark.parametrize("search", [None, nf.sweeps.halving(2)], ids=["everything", "halving"])
def test_jobs_give_what_one_process_gives(search, tmp_path):
    whole = swept(7, search=search)
    jobs = nf.sweeps.through(Inline(), trials=3)
    result = swept(7, search=search, jobs=jobs, folder=tmp_path)
    np.testing.assert_array_equal(whole.scores, result.scores)
    assert whole.table() == result.table()
    assert not list(tmp_path.glob("*.pickle"))


def test_a_lost_job_is_resubmitted_and_a_finished_one_is_not(tmp_path, runs):
    executor = Inline(before=(0,), after=(1,))
    jobs = nf.sweeps.through(executor, trials=3)
    result = swept(7, jobs=jobs, folder=tmp_path)
    assert executor.count == 5
    assert sorted(runs) == list(range(7))
    assert jobs.lost == ["trials 0 to 2: ConnectionError", "trials 3 to 5: ConnectionError"]
    assert np.isfinite(result.scores).all()


def test_a_job_that_is_always_lost_is_given_up(tmp_path, runs):
    jobs = nf.sweeps.through(Inline(before=(1, 2, 3)), trials=4)
    with pytest.raises(ConnectionError, match="the machine is gone"):
        swept(8, jobs=jobs, folder=tmp_path)
    assert not list(tmp_path.glob("*.pickle"))
    again = swept(8, jobs=nf.sweeps.through(Inline(), trials=4), folder=tmp_path, resume=True)
    assert sorted(runs) == list(range(8))
    np.testing.assert_array_equal(again.scores, swept(8).scores)


def test_a_stopped_sweep_hands_in_no_more(tmp_path):
    jobs = nf.sweeps.through(Inline(), trials=2)
    result = swept(4, jobs=jobs, folder=tmp_path, should_stop=lambda: True)
    assert not result.complete


@pytest.mark.parametrize(
    "options, words",
    [
        ({"search": nf.sweeps.population()}, "trials that copy from each other run in one process"),
        ({"folder": None}, "jobs need a folder"),
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
    build, options = mortal(str(mark)), {"steps": 8, "key": KEY, "trials": 4, "execution": "loop"}
    whole = nf.sweep(build, SPACE, DATA, **options)
    jobs = nf.sweeps.processes(1, trials=2)
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
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, [TESTS, *sys.path])))
    jobs = nf.sweeps.submitit(tmp_path / "logs", cluster="local", trials=4, timeout_min=5)
    result = swept(4, steps=8, jobs=jobs, folder=tmp_path / "sweep")
    np.testing.assert_allclose(result.scores, swept(4, steps=8).scores, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray forks, and warns of its own packages
def test_ray_on_this_machine(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, [TESTS, *sys.path])))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        jobs = nf.sweeps.ray(trials=2, num_cpus=1)
        result = swept(4, steps=8, jobs=jobs, folder=tmp_path / "sweep")
        np.testing.assert_allclose(result.scores, swept(4, steps=8).scores, rtol=1e-5)
    finally:
        ray.shutdown()


class Later(Inline):
    """Runs jobs in a thread, so that they go on while the sweep looks."""

    def __init__(self):
        super().__init__()
        self.pool = ThreadPoolExecutor(1)

    def submit(self, function, *args):
        self.count += 1
        return self.pool.submit(function, *args)


def test_what_jobs_have_saved_is_told_before_they_end(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "LISTEN_EVERY", 0.0)
    monkeypatch.setattr(executors, "POLL", 0.01)
    monkeypatch.setattr(engine, "SAVE_EVERY", 0.0)
    write, told = Store.write, []

    def slowly(*args):
        write(*args)
        time.sleep(0.2)  # so that somebody looks

    monkeypatch.setattr(Store, "write", slowly)
    executor = Later()
    swept(
        2,
        steps=40,
        log_every=20,
        jobs=nf.sweeps.through(executor, trials=2),
        folder=tmp_path,
        execution="loop",
        on_report=lambda report: told.append((*report.running, report.step)),
    )
    assert executor.count == 1
    assert len(set(told)) == len(told)
    assert {(0, 40), (1, 40)} < set(told)
    for trial in (0, 1):
        steps = [step for own, step in told if own == trial]
        assert steps == sorted(steps)


def test_a_stopped_sweep_lets_its_jobs_save(tmp_path, monkeypatch, runs):
    """They see that what they were given is gone, and end at their next report."""
    began, asked = threading.Event(), threading.Event()
    advance = strategy.advance

    def slow(going, by_step):
        if not asked.is_set():
            began.set()
            asked.wait(30)
        return advance(going, by_step)

    whole = swept(4, steps=40)
    monkeypatch.setattr(strategy, "advance", slow)
    executor = Later()
    stops = lambda: began.is_set() and (asked.set() or True)
    options = {"steps": 40, "folder": tmp_path}
    jobs = nf.sweeps.through(executor, trials=4)
    stopped = swept(4, jobs=jobs, should_stop=stops, **options)
    executor.pool.shutdown()
    assert not stopped.complete
    assert not list(tmp_path.glob("*.pickle"))
    again = swept(4, resume=True, **options)
    assert again.complete
    np.testing.assert_array_equal(again.scores, whole.scores)


SCRIPT = """
import sys
import numpy as np, jax, nnfunc as nf
sys.path.insert(0, {tests!r})
from helpers.sweep_tasks import swept
{guard}swept(2, steps=8, jobs=nf.sweeps.processes(1), folder={folder!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize("guard", ["", 'if __name__ == "__main__": '], ids=["bare", "guarded"])
def test_a_script_without_a_main_guard_is_told_so(guard, tmp_path):
    script, tests = tmp_path / "script.py", str(TESTS)
    script.write_text(SCRIPT.format(tests=tests, guard=guard, folder=str(tmp_path / "sweep")))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert (done.returncode == 0) == bool(guard)
    if not guard:
        assert "should do its work under if __name__" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at processes in /proc")
def test_processes_end_with_their_parent(tmp_path):
    """A sweep that is killed leaves none behind that goes on with its trials."""
    script, tests = tmp_path / "script.py", str(TESTS)
    text = SCRIPT.format(tests=tests, guard='if __name__ == "__main__": ', folder=str(tmp_path / "sweep"))
    script.write_text(text.replace("steps=8", "steps=2_000_000"))
    parent = subprocess.Popen([sys.executable, script])
    try:
        worker = _child(parent.pid)
        parent.kill()
        parent.wait()
        _until(lambda: not Path(f"/proc/{worker}").exists(), "the worker to end")
    finally:
        parent.kill()


def _child(pid):
    """The process that a process has begun to work for it."""
    of = lambda: [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if _parent(path.parent) == pid and b"spawn_main" in _text(path)
    ]
    return _until(of, "a worker to begin")[0]


def _parent(process):
    found = re.search(rb"^PPid:\s*(\d+)", _text(process / "status"), re.MULTILINE)
    return int(found[1]) if found else None


def _text(path):
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""


def _until(found, what):
    for _ in range(1200):
        if value := found():
            return value
        time.sleep(0.1)
    raise TimeoutError(f"waited for {what}")


def test_an_error_of_a_job_is_told_and_what_others_saved_is_kept(tmp_path):
    class Failing(Inline):
        def submit(self, function, *args):
            future = super().submit(function, *args)
            if self.count > 1:
                future = Future()
                future.set_exception(OSError("its own error"))
            return future

    jobs = nf.sweeps.through(Failing(), trials=2, retries=0)
    with pytest.raises(OSError, match="its own error"):
        swept(4, jobs=jobs, folder=tmp_path)
    with pytest.raises(ValueError, match="the same steps"):  # it is known still what it is of
        swept(4, steps=41, folder=tmp_path, resume=True)
    assert swept(4, folder=tmp_path, resume=True).complete


def test_a_folder_is_unlocked_though_closing_is_interrupted(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    jobs = nf.sweeps.through(Inline(), trials=2)
    jobs.close = interrupted
    with pytest.raises(KeyboardInterrupt):
        swept(2, jobs=jobs, folder=tmp_path)
    assert swept(2, folder=tmp_path, resume=True).complete


def test_a_job_that_sees_no_folder_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not see the sweep's folder"):
        executors.run_part(str(tmp_path / "elsewhere"), "jobs-1.pickle", [0], 1.0)
    (tmp_path / "plan.json").write_text("{}")
    executors.run_part(str(tmp_path), "jobs-1.pickle", [0], 1.0)  # it was told to end


def test_jobs_that_wait_in_a_queue_are_cancelled_at_once():
    class Queued:
        state, cancelled = "PENDING", False

        def done(self):
            return False

        def cancel(self):
            self.cancelled = True
            return True

    queued, start = Queued(), time.monotonic()
    executors._await([queued])
    assert queued.cancelled
    assert time.monotonic() - start < 0.5 * executors.GRACE
