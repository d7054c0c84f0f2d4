"""Sweeps whose trials run in processes that were started together."""

import threading

import pandas
import pytest
from helpers.command_line import main

from nnfunc.commands import process_setup
from nnfunc.distributed import processes
from nnfunc.sweeps import worker_processes

CONFIG = """
seed = 0
data = { name = "digits", batch_size = 64 }
model = { name = "mlp", widths = [64, 8, 10] }
objective = { name = "classification" }
optimizer = { name = "adam", learning_rate = 1e-2 }
train = { steps = 20 }
sweep = { "optimizer.learning_rate" = { log = [1e-3, 1e-1] }, trials = 8 }
"""


@pytest.fixture
def two_processes(monkeypatch):
    """This process counts as two: the main thread is process 0, and a thread that runs `work` is process 1."""
    texts, changed = {}, threading.Condition()
    number = threading.local()

    def send(name, text):
        with changed:
            assert name not in texts
            texts[name] = text
            changed.notify_all()

    def receive(name):
        with changed:
            assert changed.wait_for(lambda: name in texts, timeout=120)
            return texts[name]

    monkeypatch.setattr(processes, "send", send)
    monkeypatch.setattr(processes, "receive", receive)
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(process_setup, "count", lambda: 1)  # stdout stays that of the tests
    monkeypatch.setattr(processes, "index", lambda: getattr(number, "index", 0))
    jobs = []

    def run():
        number.index = 1
        worker_processes.work()

    def run_part(*arguments):
        jobs.append((processes.index(), arguments[2]))
        return original(*arguments)

    original = worker_processes.run_part
    monkeypatch.setattr(worker_processes, "run_part", run_part)
    thread = threading.Thread(target=run)
    thread.start()
    yield jobs
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_the_processes_share_the_trials(two_processes, tmp_path, monkeypatch):
    (tmp_path / "config.toml").write_text(CONFIG)
    assert main("sweep", tmp_path / "config.toml", "--run", tmp_path / "two") == 0
    assert {index for index, _ in two_processes} == {0, 1}
    assert sorted(trial for _, part in two_processes for trial in part) == list(range(8))
    monkeypatch.setattr(processes, "count", lambda: 1)
    assert main("sweep", tmp_path / "config.toml", "--run", tmp_path / "one") == 0
    one, two = (pandas.read_csv(tmp_path / name / "table.csv") for name in ("one", "two"))
    columns = [column for column in one.columns if not column.startswith("seconds")]
    pandas.testing.assert_frame_equal(one[columns], two[columns], rtol=1e-4)


def test_the_error_of_a_process_ends_the_sweep(two_processes, tmp_path, monkeypatch):
    def fail(*arguments):
        raise ValueError(f"trials {arguments[2]} failed")

    monkeypatch.setattr(worker_processes, "run_part", fail)
    (tmp_path / "config.toml").write_text(CONFIG)
    with pytest.raises(ValueError, match=r"trials \[.*\] failed"):
        main("sweep", tmp_path / "config.toml", "--run", tmp_path / "two")


def test_a_population_is_refused(two_processes, tmp_path, capsys):
    (tmp_path / "config.toml").write_text(CONFIG.replace("trials = 8", 'trials = 8, search = "population"'))
    assert main("sweep", tmp_path / "config.toml", "--run", tmp_path / "two") == 2
    assert "a population search runs in one process. Start one process." in capsys.readouterr().err
    processes.send("sweep/1/0", worker_processes.END)
