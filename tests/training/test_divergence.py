"""Runs that diverge and go back, and folders that two want at once."""

import json
import multiprocessing
import subprocess
import sys

import jax
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.runs.lock import FolderLock

KEY = jax.random.key(2)
X = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
DATA = nf.data.arrays((X, 3 * X), batch_size=8, validation=(X, 3 * X))
OPTIONS = {"steps": 40, "key": KEY, "save_every": 5, "evaluate_every": 5, "log_every": 5, "loop": "step"}


def build(h, step):
    """A rate that jumps at step 12: too much from there on, unless it is an eighth of it."""
    model = nf.linear(1, 1)
    rate = jax.numpy.where(step < 12, 0.05, h["later"])
    explode = lambda predict, batch: (nf.losses.mse(predict(batch[0]), batch[1]).mean() ** 2, {})
    return nf.Task(model, explode, nf.optimizers.sgd(rate))


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_diverges_goes_back_with_a_smaller_rate(tmp_path):
    h = {"later": 1e4}
    with pytest.raises(nf.training.Diverged):
        nf.train(build, h, DATA, **OPTIONS)
    state, _ = nf.train(build, h, DATA, folder=tmp_path, rollback=9, rollback_factor=0.1, **OPTIONS)
    assert int(state.step) == 40
    assert int(state.diverged_at) == -1
    told = rows(tmp_path)
    events = [row for row in told if row["split"] == "event"]
    assert [e["event"] for e in events] == ["rollback"] * len(events)
    assert 2 <= len(events) <= 7
    assert float(state.rate_scale) == pytest.approx(0.1 ** len(events), rel=1e-3)
    assert "diverged at step" in events[0]["message"]
    assert "back to step 10 with 0.1 of the rate" in events[0]["message"]
    steps = [row["step"] for row in told if row["split"] == "train"]
    assert steps == list(range(5, 41, 5))  # each once, whatever was gone back
    assert told[-1]["loss"] < 1e-3


def test_rollback_may_be_used_up_and_needs_a_folder(tmp_path):
    with pytest.raises(nf.training.Diverged) as caught:
        nf.train(build, {"later": 1e9}, DATA, folder=tmp_path, rollback=1, **OPTIONS)
    assert "It rolled back 1 time before, the limit that rollback sets." in caught.value.__notes__
    with pytest.raises(ValueError, match="rollback returns to a checkpoint, so it needs a folder"):
        nf.train(build, {"later": 1.0}, DATA, rollback=1, **OPTIONS)


def test_a_run_that_went_back_is_resumed_bit_for_bit(tmp_path):
    h, options = {"later": 1e4}, OPTIONS | {"rollback": 9, "rollback_factor": 0.1}
    whole, _ = nf.train(build, h, DATA, folder=tmp_path / "whole", **options)
    for stop in (7, 14, 22):
        nf.train(
            build,
            h,
            DATA,
            folder=tmp_path / "parts",
            resume=stop > 7,
            should_stop=lambda step, stop=stop: step >= stop,
            **options,
        )
    parts, _ = nf.train(build, h, DATA, folder=tmp_path / "parts", resume=True, **options)
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(whole._replace(key=0)), jax.device_get(parts._replace(key=0))
    )


def test_a_second_process_is_refused(tmp_path):
    lock = FolderLock(tmp_path)
    code = (
        "import sys; from pathlib import Path; from nnfunc.runs.lock import FolderLock; FolderLock(Path(sys.argv[1]))"
    )
    second = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True)
    assert second.returncode == 1
    assert f"process {multiprocessing.current_process().pid} on " in second.stderr
    assert "is training in this folder. Wait until it ends, or choose another folder" in second.stderr
    with pytest.raises(BlockingIOError, match="is training in this folder"):
        nf.train(build, {"later": 0.1}, DATA, folder=tmp_path, **OPTIONS)
    lock.close()
    FolderLock(tmp_path).close()
    assert not (tmp_path / "lock").exists()


def test_a_killed_holder_lets_the_next_one_in(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from nnfunc.runs.lock import FolderLock\n"
        "kept = FolderLock(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True)
    assert killed.returncode == -9
    assert (tmp_path / "lock").exists()
    FolderLock(tmp_path).close()


def test_a_run_that_diverged_is_resumed_with_rollback(tmp_path):
    """When one wants it; and without it again as long as the rate is what it was."""
    h = {"later": 1e4}
    with pytest.raises(nf.training.Diverged):
        nf.train(build, h, DATA, folder=tmp_path, **OPTIONS)
    assert rows(tmp_path)[-1]["event"] == "diverged"
    told = []
    state, _ = nf.train(
        build, h, DATA, folder=tmp_path, resume=True, rollback=9, rollback_factor=0.1, on_row=told.append, **OPTIONS
    )
    assert int(state.step) == 40
    assert told == [row for row in rows(tmp_path) if row.get("event") != "diverged"] or len(told) > 8
    with pytest.raises(ValueError, match=r"rolled back to another learning rate before"):
        nf.train(build, h, DATA, folder=tmp_path, resume=True, **OPTIONS)


def test_resume_wants_the_same_static_hypers(tmp_path):
    def of(h):
        task = build({"later": 0.05}, 0)
        return task._replace(accumulate=h["parts"])

    options = OPTIONS | {"steps": 10}
    nf.train(of, {"parts": 1}, DATA, folder=tmp_path, **options)
    with pytest.raises(ValueError, match="resume should continue with the same static"):
        nf.train(of, {"parts": 2}, DATA, folder=tmp_path, resume=True, **options)


def test_rows_are_strict_json_though_a_figure_is_not_finite(tmp_path):
    def of(h):
        loss = lambda predict, b: (nf.losses.mse(predict(b[0]), b[1]).mean(), {"odd": jax.numpy.inf})
        return nf.Task(nf.linear(1, 1), loss, nf.optimizers.sgd(0.1))

    _, history = nf.train(of, {}, DATA, folder=tmp_path, watch_every=5, **OPTIONS | {"steps": 10})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert np.isinf(history.train["odd"]).all()


def test_the_message_says_which_layers_it_looked_at():
    loss = lambda predict, batch: (jax.vmap(predict)(batch[0]).sum() / 0.0, {})
    with pytest.raises(nf.training.Diverged, match="and the like is finite"):
        nf.train(lambda h: nf.Task(nf.mlp([1, 1]), loss, nf.optimizers.sgd(0.1)), {}, DATA, **OPTIONS)
