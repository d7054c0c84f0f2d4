"""Trials that each have several devices: equal to the runs alone, and no trial waits for another."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import nnfunc as nf
from nnfunc.distributed.collectives import collectives
from nnfunc.sweeps import batch

KEY = jax.random.key(0)
STEPS = 6


def build(h):
    return nf.Task(nf.mlp([8, 16, 4], dropout=0.1), nf.classification(), nf.optimizers.adamw(h["rate"]))


def digits():
    x = np.random.default_rng(0).normal(size=(48, 8)).astype(np.float32)
    y = x[:, :4].argmax(1).astype(np.int32)
    return nf.data.arrays((x[:32], y[:32]), batch_size=8, validation=(x[32:], y[32:]), classes=4)


def sweep(**options):
    return nf.sweep(build, {"rate": [1e-3, 1e-2, 3e-2]}, digits(), steps=STEPS, method="grid", key=KEY, **options)


def check_equal_to_runs_alone(result):
    for row in result.table():
        key = jax.random.fold_in(KEY, row["trial"])
        history = nf.train(build, {"rate": row["rate"]}, digits(), steps=STEPS, key=key)[1]
        np.testing.assert_allclose(row["validation/loss"], history.validation["loss"][-1], rtol=1e-5)


def programs(monkeypatch):
    """The functions that sweeps compile from here on, with the arguments of their steps."""
    calls, compile_trials = [], batch.compile_trials

    def record(*args):
        compiled = compile_trials(*args)
        if not compiled.vmapped:
            return compiled
        step = lambda *a: calls.append((compiled.step, jax.tree.map(as_struct, a))) or compiled.step(*a)
        run_steps = lambda *a: calls.append((compiled.run_steps, jax.tree.map(as_struct, a))) or compiled.run_steps(*a)
        return compiled._replace(step=step, run_steps=run_steps)

    monkeypatch.setattr(batch, "compile_trials", record)
    return calls


def as_struct(leaf):
    return jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=getattr(leaf, "sharding", None))


def test_trials_of_two_devices_equal_the_runs_alone(monkeypatch):
    calls = programs(monkeypatch)
    check_equal_to_runs_alone(sweep(mesh={"trials": 2, "data": 2}, shard="fsdp"))
    function, arguments = calls[-1]
    parts = collectives(function.lower(*arguments).compile())
    assert {part.group for part in parts} == {(0, 1)}  # the devices of one trial
    assert {"all-gather", "reduce-scatter"} <= {part.operation for part in parts}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mesh": {1: 2}}, r"an axis of the mesh should have a name such as 'data', got 1"),
        ({"mesh": {"data": 2}}, r"mesh should have an axis 'trials', .* got the axes data"),
        ({"mesh": {"trials": 8}}, r"trials = 8 should use at most the 4 devices"),
        ({"mesh": {"trials": 1, "data": 3}}, r"the 3 devices of the mesh axis 'data' should divide batch_size, got 8"),
        ({"mesh": {"trials": 2, "data": 2}, "shard": "fspd"}, r"did you mean 'fsdp'"),
        ({"mesh": {"trials": 2, "data": 2}, "execution": "loop"}, r"should be 'devices' with a mesh, got 'loop'"),
        ({"shard": "fsdp"}, r"there should be a mesh to place the arrays of a trial on"),
    ],
)
def test_a_mesh_that_does_not_fit_says_what_does(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        sweep(**options)


EIGHT = """
import sys
sys.path.insert(0, sys.argv[1])
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
from sweeps.test_trials_mesh import check_equal_to_runs_alone, sweep
for mesh, shard in (({"trials": 4, "data": 2}, "fsdp"), ({"trials": 4, "model": 2}, "tensor"), ({"trials": 4, "data": 2}, None)):
    check_equal_to_runs_alone(sweep(mesh=mesh, shard=shard))
    print("equal", mesh)
"""


@pytest.mark.slow
def test_four_trials_of_two_devices(tmp_path):
    (tmp_path / "eight.py").write_text(EIGHT)
    tests = str(Path(__file__).parent.parent)
    result = subprocess.run([sys.executable, str(tmp_path / "eight.py"), tests], text=True, capture_output=True)
    assert result.stdout.count("equal") == 3, result.stderr
