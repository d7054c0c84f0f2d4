"""Runs in processes that are killed, and whether two runs are the same."""

import os
import subprocess
import sys
import time

from helpers.command_line import rows
from helpers.project import ROOT
from nnfunc import checkpoint
from nnfunc.training import throughput

__all__ = []


def tensors(folder):
    """The arrays of a checkpoint as the bytes of its file, whose name is their hash."""
    (file,) = folder.glob("tensors-*.safetensors")
    return file.name, file.read_bytes()


def last_checkpoint(run):
    return run / "checkpoints" / f"step-{checkpoint.steps(run / 'checkpoints')[-1]:08d}"


def assert_same_run(one, other):
    """The last state, the best state and the metrics, without the times, are equal bit for bit."""
    assert last_checkpoint(one).name == last_checkpoint(other).name
    assert tensors(last_checkpoint(one)) == tensors(last_checkpoint(other))
    assert tensors(one / "checkpoints" / "best") == tensors(other / "checkpoints" / "best")
    untimed = ("seconds", *throughput.SPEED_METRICS)
    expected, actual = (
        [{k: v for k, v in row.items() if k not in untimed} for row in rows(run)] for run in (one, other)
    )
    assert expected == actual


def launch_command(*words, cache):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "nnfunc.cli", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def wait_for_step(run, step, process):
    """Wait until the run has saved a checkpoint of that step or a later one."""
    deadline = time.monotonic() + 90
    while max(checkpoint.steps(run / "checkpoints"), default=-1) < step:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.001)
