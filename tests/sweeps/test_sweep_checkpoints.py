"""Sweeps that are saved: killed, stopped or damaged, they go on and end with the same table."""

import importlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest
from helpers.project import ROOT
from helpers.sweep_tasks import SEARCHES, SPACE, same, swept

from nnfunc.sweeps import engine

pytestmark = pytest.mark.usefixtures("no_report")


KILLED = [("halving", "threads"), ("population", "vmap")]

ALONE = """
import sys, time
sys.path[:0] = [{tests!r}, {root!r}]
import jax
import nnfunc as nf
from nnfunc.sweeps import engine
from helpers.sweep_tasks import SEARCHES, same, swept
engine.SAVE_EVERY = 0.0
slowly = lambda report: time.sleep(0.02)
options = dict(search=SEARCHES[{search!r}](), folder={folder!r}, resume=True)
again = swept(9, execution={execution!r}, on_report=slowly, **options)
again = swept(9, **options)
assert again.complete
same(swept(9, search=SEARCHES[{search!r}](), execution={execution!r}), again)
"""


@pytest.fixture
def saving(monkeypatch):
    """Every report is saved."""
    monkeypatch.setattr(engine, "SAVE_EVERY", 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("search, execution", KILLED)
def test_a_sweep_killed_repeatedly_ends_with_the_same_table(search, execution, tmp_path):
    if search == "optuna":
        pytest.importorskip("optuna")
    draw = random.Random(f"{search} {execution}")
    root, folder = ROOT, tmp_path / "sweep"
    code = ALONE.format(
        tests=str(root / "tests"), root=str(root), search=search, execution=execution, folder=str(folder)
    )
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | cache
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", code], env=environment)
        seen = _segments(folder)
        while process.poll() is None and _segments(folder) <= seen:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.15))
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def _segments(folder):
    names = [p.name.partition("-")[0] for p in folder.glob("segments/[0-9]*")]
    return max(map(int, names), default=-1)


@pytest.mark.parametrize("search", SEARCHES)
def test_a_sweep_that_is_stopped_at_every_report_gets_on(search, tmp_path, saving):
    if search == "optuna":
        pytest.importorskip("optuna")
    asked = []

    def stop():
        asked.append(None)
        return len(asked) % 23 == 0

    folder, times = tmp_path / "sweep", 0
    while True:
        times += 1
        result = swept(9, search=SEARCHES[search](), folder=folder, resume=times > 1, should_stop=stop)
        if result.complete:
            break
        assert times < 100
    same(swept(9, search=SEARCHES[search]()), result)
    if search != "population":  # which is asked once a round
        assert times > 1


def test_what_is_finished_is_not_run_again(tmp_path, saving):
    first = swept(6, folder=tmp_path / "sweep")
    reports = []
    again = swept(6, folder=tmp_path / "sweep", resume=True, on_report=reports.append)
    assert reports == []
    same(first, again)


def test_a_damaged_segment_costs_what_it_holds(tmp_path, saving):
    folder = tmp_path / "sweep"
    first = swept(4, folder=folder)
    segment = sorted((folder / "segments").iterdir())[1]
    file = next(segment.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    reports = []
    with pytest.warns(UserWarning, match="Its trials run again from an earlier step"):
        again = swept(4, folder=folder, resume=True, on_report=reports.append)
    assert {trial for report in reports for trial in report.running} == {1}
    same(first, again)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"steps": 41}, "should have the same steps, 40, got 41"),
        ({"key": jax.random.key(6)}, "should have the same key"),
        ({"space": SPACE | {"dropout": 0.1}}, "should have its saved settings"),
    ],
)
def test_another_sweep_is_refused(options, words, tmp_path):
    swept(2, folder=tmp_path)
    with pytest.raises(ValueError, match=words):
        swept(2, folder=tmp_path, resume=True, **options)


def test_a_folder_that_holds_a_sweep_is_not_begun_again(tmp_path):
    swept(2, folder=tmp_path)
    with pytest.raises(FileExistsError, match="already holds a sweep"):
        swept(2, folder=tmp_path)
    with pytest.raises(ValueError, match="resume=True needs the folder"):
        swept(2, resume=True)


def test_two_at_once_are_refused(tmp_path):
    def another(report):
        with pytest.raises(BlockingIOError):
            swept(2, folder=tmp_path, resume=True)

    swept(2, folder=tmp_path, on_report=another)


def test_a_full_disk_loses_nothing_that_was_saved(tmp_path, saving, monkeypatch):
    folder, writes = tmp_path / "sweep", []
    from nnfunc.checkpoint import save_load

    write = save_load.write_synced

    def full(file, content):
        writes.append(file)
        if len(writes) > 6:
            raise OSError(28, "No space left on device")
        return write(file, content)

    with monkeypatch.context() as patch:
        patch.setattr(save_load, "write_synced", full)
        with pytest.raises(OSError, match="No space left"):
            swept(6, folder=folder)
    kept = len(list((folder / "segments").iterdir()))
    assert kept == 1  # of the first trial, written again as it went on
    again = swept(6, folder=folder, resume=True)
    same(swept(6), again)
    shutil.rmtree(folder)


def test_the_execution_is_saved_before_a_trial_runs(tmp_path, monkeypatch):
    """What is quickest may be another execution the next time, whose results differ by rounding."""
    import json

    from nnfunc.sweeps import strategy

    reports = []
    options = {"on_report": reports.append, "should_stop": lambda: bool(reports)}
    assert not swept(4, folder=tmp_path / "s", execution="vmap", chunk=2, **options).complete
    plan = json.loads((tmp_path / "s/plan.json").read_text())
    assert plan["executions"]["0"][:2] == ["vmap", 2]
    monkeypatch.setattr(strategy, "choose_execution", None)  # nothing is chosen again
    again = swept(4, folder=tmp_path / "s", execution="auto", resume=True)
    (group,) = again.plan.groups
    assert (group.execution.mode, group.execution.chunk) == ("vmap", 2)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"executions": 3}', '{"executions": {"0": ["lop", 1]}}', '{"executions": {"0": ["vmap", -1]}}'],
)
def test_a_plan_that_was_changed_is_refused_in_one_sentence(content, tmp_path):
    swept(2, steps=2, folder=tmp_path / "s")
    (tmp_path / "s/plan.json").write_text(content)
    with pytest.raises(ValueError, match=r"plan.json: .* Start the sweep again in another folder"):
        swept(2, steps=2, folder=tmp_path / "s", resume=True)


def test_a_folder_gets_tables_and_a_report(tmp_path, monkeypatch):
    """The report is of a row above sweeps, and of packages that may be missing."""
    sweep = importlib.import_module("nnfunc.sweeps.sweep")  # the package exports a function of that name

    assert sweep.REPORT is None  # by this file's fixture
    swept(2, steps=2, folder=tmp_path / "bare")
    assert {"table.csv", "curves.csv"} <= {path.name for path in (tmp_path / "bare").iterdir()}
    monkeypatch.setattr(sweep, "REPORT", ("nnfunc.reports.sweep.sweep_page", "write_page"))
    result = swept(2, steps=2, folder=tmp_path / "full", resume=False)
    assert (tmp_path / "full/table.csv").read_text().count("\n") == 1 + len(result.table())
    assert "<h1>full</h1>" in (tmp_path / "full/report.html").read_text()
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.inspection", None)
    with pytest.warns(UserWarning, match=r"report.html needs .*the tables are in .*nnfunc\[programs\]"):
        swept(6, steps=2, folder=tmp_path / "tables")  # so many that a forest tells the importances
    assert (tmp_path / "tables/table.csv").exists()
