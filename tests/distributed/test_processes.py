"""One run in two processes of two devices each, over loopback: its losses, its errors, and processes that die."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import jax
import numpy as np
import pandas
import pytest

import nnfunc as nf
from nnfunc.commands import process_setup
from nnfunc.commands.consolidate import consolidate
from nnfunc.commands.launch import _wait as wait_for_children
from nnfunc.commands.launch import launch
from nnfunc.commands.train import agree
from nnfunc.config import load
from nnfunc.distributed import processes

CONFIG = """
seed = 0
data = { name = "digits", batch_size = 64 }
model = { name = "mlp", widths = [64, 16, 10] }
objective = { name = "classification" }
optimizer = { name = "adamw", learning_rate = 1e-2 }
train = { steps = STEPS, log_every = 5, evaluate_every = 20, save_every = 20 }
mesh = { data = -1 }
shard = "fsdp"
"""
ENVIRONMENT = os.environ | {"NNFUNC_MALLOC": "default"}


@pytest.fixture
def config(tmp_path):
    def write(steps=20):
        (tmp_path / "run.toml").write_text(CONFIG.replace("STEPS", str(steps)))
        return tmp_path / "run.toml"

    return write


def program(*arguments, devices=2):
    return [sys.executable, "-m", "nnfunc", "launch", "--processes", "2", "--devices", str(devices), "--", *arguments]


def start(*arguments, **options):
    command = program(*map(str, arguments))
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def run(*arguments):
    with start(*arguments) as child:
        out, errors = child.communicate(timeout=240)
    return child.returncode, out, errors


def rows(folder, split):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def children_of(child):
    text = subprocess.run(["pgrep", "-P", str(child.pid)], capture_output=True, text=True).stdout
    return [int(line) for line in text.split()]


def wait_for_step(child, folder, step):
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and child.poll() is None:
        file = folder / "metrics.jsonl"
        if file.exists() and any(row["step"] >= step for row in rows(folder, "train")):
            return
        time.sleep(0.1)
    pytest.fail(f"no step {step}: {child.communicate()}")


def test_two_processes_give_the_losses_of_one(config, tmp_path):
    code, out, errors = run("train", config(), "--run", tmp_path / "two")
    assert code == 0, errors
    assert out.count("\nreport") == 1  # process 0 alone prints
    assert "Gloo" not in out
    command = [sys.executable, "-m", "nnfunc", "train", str(config()), "mesh.data=1", "--run", str(tmp_path / "one")]
    subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True)
    for split in ("train", "validation"):
        one, two = ([row["loss"] for row in rows(tmp_path / name, split)] for name in ("one", "two"))
        np.testing.assert_allclose(two, one, rtol=1e-5)
    _check_cut_checkpoints(tmp_path / "two", tmp_path / "one")


def _check_cut_checkpoints(two, one):
    """Each process has written its parts; one process reads them, and makes a file of them."""
    pytest.importorskip("orbax.checkpoint")
    (arrays,) = (two / "checkpoints" / "best").glob("arrays-*")
    x = np.random.default_rng(0).random((5, 64), np.float32)
    logits = nf.load_run(two).predict(x)
    np.testing.assert_allclose(logits, nf.load_run(one).predict(x), rtol=1e-4, atol=1e-5)
    files = {path: path.read_bytes() for path in arrays.rglob("*") if path.is_file()}
    for path, content in files.items():
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(nf.checkpoint.CheckpointError, match="its content does not match its checksum"):
            nf.checkpoint.load(two / "checkpoints" / "best", nf.load_run(one).params, part="params")
        path.write_bytes(content)
    assert consolidate(two) == 2
    assert consolidate(two) == 0
    assert not list((two / "checkpoints").rglob("arrays-*"))
    np.testing.assert_array_equal(nf.load_run(two).predict(x), logits)


@pytest.mark.slow
def test_a_run_resumes_on_other_devices(config, tmp_path):
    """60 steps on four devices of two processes are 20 there, 20 on one device of one process, and 20 there again."""
    pytest.importorskip("orbax.checkpoint")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for arguments in (
        ("train", config(20), "train.steps=60", "--run", whole),
        ("train", config(20), "--run", parts),
        ("resume", parts, "train.steps=60"),
    ):
        if arguments[-1] == "train.steps=60":
            alone = [sys.executable, "-m", "nnfunc", "resume", str(parts), "train.steps=40", "mesh.data=1"]
            subprocess.run(alone, env=ENVIRONMENT, check=True, capture_output=True)
            arguments = (*arguments, "mesh.data=-1")
        code, _, errors = run(*arguments)
        assert code == 0, errors
    one, two = ([row["loss"] for row in rows(path, "train")] for path in (whole, parts))
    np.testing.assert_allclose(two, one, rtol=1e-5)
    for step in ("00000020", "00000060"):
        assert list((parts / "checkpoints" / f"step-{step}").glob("arrays-*"))


@pytest.mark.slow
def test_sigterm_on_one_process_saves_on_all(config, tmp_path):
    folder = tmp_path / "run"
    with start("train", config(2000), "--run", folder) as child:
        wait_for_step(child, folder, 20)
        os.kill(children_of(child)[1], signal.SIGTERM)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == 143, errors
    assert "everything is saved" in errors
    assert list((folder / "checkpoints").glob("step-*"))


HANGING = """
import sys, time
from nnfunc.distributed import processes
processes.start("127.0.0.1:" + sys.argv[1], int(sys.argv[2]), 2)
for step in range(3 if processes.is_main() else 2):
    processes.report_step(step)
time.sleep(120)
"""


@pytest.mark.slow
def test_a_run_without_a_step_for_long_ends():
    """Both processes answer, but process 1 hangs one step before the other."""
    port = str(free_port())
    environment = ENVIRONMENT | {"NNFUNC_STALL_SECONDS": "5", "JAX_PLATFORMS": "cpu"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", HANGING, port, str(i)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    errors = [child.communicate(timeout=90)[1] for child in children]
    assert [child.returncode for child in children] == [1, 1]
    assert "no step for 5 s, so the run ends; process 1 is at step 1." in errors[0]


KILLED = """
import os, signal, sys, time
from nnfunc.distributed import processes
processes.start("127.0.0.1:" + sys.argv[1], int(sys.argv[2]), 2)
processes.wait_for_all()
if processes.is_main():
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""


def test_without_launch_the_others_tell_that_process_0_is_gone():
    port, environment = str(free_port()), ENVIRONMENT | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", KILLED, port]
    with subprocess.Popen([*command, "0"], env=environment):
        other = subprocess.run([*command, "1"], env=environment, capture_output=True, text=True, timeout=50)
    assert other.returncode == 1
    assert f"nnfunc: process 0 at 127.0.0.1:{port} does not answer any more, so process 1 ends.\n" in other.stderr


@pytest.mark.parametrize("reason, waits", [("UNAVAILABLE: Socket closed", True), ("DEADLINE_EXCEEDED", False)])
def test_a_process_waits_for_the_reason_of_its_end(monkeypatch, reason, waits):
    """One that began to end when process 0 was gone could hang: 2 of 48 did, beside five others."""
    slept = []
    monkeypatch.setattr(processes.time, "sleep", slept.append)
    with pytest.raises(jax.errors.JaxRuntimeError), processes._process_0_answers():
        raise jax.errors.JaxRuntimeError(reason)
    assert slept == [processes.LOST] * waits


SCRIPT = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[1]))
import nnfunc as nf
data = nf.data.arrays(nf.data.digits().train, batch_size=64)
build = lambda h: nf.Task(nf.mlp([64, 16, 10]), nf.classification(), nf.optimizers.adamw(1e-2))
mesh = nf.mesh(data=-1)
history = nf.train(build, {}, data, steps=4, key=jax.random.key(0), mesh=mesh, folder=sys.argv[3], save_every=2)[1]
print(repr(history.train["loss"][-1]))
"""


def test_a_script_that_joins_its_processes_itself(tmp_path):
    pytest.importorskip("sklearn")
    arguments, environment = [str(free_port()), str(tmp_path / "run")], ENVIRONMENT | {"JAX_PLATFORMS": "cpu"}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(i), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    results = [child.communicate(timeout=240) for child in children]
    assert [child.returncode for child in children] == [0, 0], results
    first, second = (out.splitlines()[-1] for out, _ in results)
    assert first == second
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 2  # process 0 alone has written


@pytest.mark.slow
def test_a_sweep_over_two_processes(config, tmp_path):
    """Its table is that of one process, also when a process was killed and the sweep resumed."""
    text = CONFIG.replace("STEPS", "400").split("mesh =")[0]
    (tmp_path / "sweep.toml").write_text(
        text + 'sweep = { "optimizer.learning_rate" = { log = [1e-3, 1e-1] }, trials = 12 }\n'
    )
    arguments = ["sweep", tmp_path / "sweep.toml", "--run"]
    subprocess.run(
        [sys.executable, "-m", "nnfunc", *map(str, arguments), str(tmp_path / "one")], env=ENVIRONMENT, check=True
    )
    with start(*arguments, tmp_path / "two") as child:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "two").glob("segments/*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(children_of(child)[1], signal.SIGKILL)
        child.communicate(timeout=90)
    assert child.returncode != 0
    code, _, errors = run("resume", tmp_path / "two")
    assert code == 0, errors
    one, two = (pandas.read_csv(tmp_path / name / "table.csv") for name in ("one", "two"))
    np.testing.assert_allclose(two["validation/loss"], one["validation/loss"], rtol=1e-4)


@pytest.mark.slow
def test_killed_processes_lose_nothing_that_was_saved(config, tmp_path):
    """Ten kills of one of the two at random; the run that is resumed each time ends as one that was never killed."""
    draw, folder = random.Random(0), tmp_path / "run"
    arguments, step = ["train", config(2000), "--run", folder], 0
    for _ in range(10):
        with start(*arguments) as child:
            wait_for_step(child, folder, step + draw.randrange(30, 80))
            saved = sorted((folder / "checkpoints").glob("step-*"))
            killed = time.monotonic()
            os.kill(draw.choice(children_of(child)), signal.SIGKILL)
            child.communicate(timeout=90)
        assert child.returncode != 0
        assert time.monotonic() - killed < 60
        assert sorted((folder / "checkpoints").glob("step-*"))[-1] >= saved[-1]
        step, arguments = int(saved[-1].name.split("-")[1]), ["resume", folder]
    code, _, errors = run("resume", folder, f"train.steps={step + 60}")
    assert code == 0, errors
    code, _, errors = run("train", config(step + 60), "--run", tmp_path / "whole")
    one, two = ([row["loss"] for row in rows(path, "train")] for path in (tmp_path / "whole", folder))
    np.testing.assert_array_equal(two, one)


@pytest.mark.slow
def test_an_error_in_one_process_is_told_with_its_number(config, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if os.environ.get('NNFUNC_PROCESS') == '1':\n"
        "    sys.argv.append('model.widths=[64, 8, 10]') if 'train' in sys.argv else None\n"
    )
    environment = ENVIRONMENT | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = program("train", str(config()), "--run", str(tmp_path / "run"))
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert "process 1 should have the same config as process 0" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_coordinator_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(processes, "ANSWER", 1)
    with pytest.raises(ValueError, match=r"processes: 127.0.0.1:1 did not answer within 1 s .* Are all processes"):
        processes.start("127.0.0.1:1", 1, 2)


def test_a_lost_process_is_named_before_jax_aborts(monkeypatch):
    """JAX may abort half of its timeout after the process was lost."""
    options = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: options.update(given))
    processes.start(f"127.0.0.1:{free_port()}", 0, 2)
    assert options["heartbeat_timeout_seconds"] / 2 > processes.LOST + 6  # until all have heard, and written it


def test_a_process_that_nobody_joins(monkeypatch):
    """JAX would wait longer, and then abort."""
    ended = threading.Event()
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: ended.wait(20))
    monkeypatch.setattr(processes, "ANSWER", 0.1)
    monkeypatch.setattr(processes, "_is_stuck", False)
    with pytest.raises(ValueError, match=r"did not answer within 0.1 s \(or not all processes joined\)"):
        processes.start(f"127.0.0.1:{free_port()}", 0, 2)
    ended.set()
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    processes.report_failure(2, "without JAX's service, which waits for all processes")
    assert codes == [2]


def test_a_port_that_is_in_use():
    """JAX would crash."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=rf"port {port} of coordinator should be free .* in use\. Choose another"):
            processes.start(f"127.0.0.1:{port}", 0, 2)


def test_one_other_training_row_is_other_data(tmp_path, monkeypatch):
    text = CONFIG.replace("STEPS", "1").replace('name = "digits"', 'name = "npz", path = "d.npz"')
    (tmp_path / "run.toml").write_text(text)
    facts, recorded = [], None
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "agree", facts.append)
    x, y = np.ones((90, 64), np.float32), np.arange(90) % 3
    for value in (0, 0, 1):
        x[:, 0], x[np.arange(90) % 2 == 0, 0] = value, 1 - value  # the sums stay the same
        np.savez(tmp_path / "d.npz", x=x, y=y)
        config = load(tmp_path / "run.toml")
        recorded = recorded or config.preprocessing
        vars(config)["preprocessing"] = recorded  # as when a run is resumed on changed data
        agree(config)
    assert facts[0] == facts[1]
    assert [name for name in facts[0] if facts[0][name] != facts[2][name]] == ["data"]


def test_versions_are_compared_before_any_command(monkeypatch):
    """Also before a sweep, in which the other processes read no config."""
    facts = []
    monkeypatch.setattr(process_setup, "start", lambda: None)
    monkeypatch.setattr(process_setup, "agree", facts.append)
    monkeypatch.setattr(process_setup, "_enable_compilation_cache", lambda: None)
    monkeypatch.setattr(process_setup.malloc, "keep_memory_by_default", lambda: None)
    process_setup.set_up_process({})
    (names,) = facts
    assert jax.__version__ in names["versions"]


def test_an_error_of_all_processes_is_told_once(monkeypatch):
    lines, codes = [], []
    failure = json.dumps({"process": 1, "code": 2, "message": "the same in both"})
    client = SimpleNamespace(key_value_set=lambda *_: None, blocking_key_value_get=lambda *_: failure)
    monkeypatch.setattr(processes, "_client", client)
    monkeypatch.setattr(processes, "is_main", lambda: True)
    monkeypatch.setattr(processes, "index", lambda: 0)
    monkeypatch.setattr(processes, "_write", lines.append)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(os, "_exit", codes.append)
    processes.report_failure(2, "the same in both")
    assert not lines
    processes.report_failure(1, "another")
    assert lines == ["process 1: the same in both"]
    assert codes == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator": "host:1", "process": 0}, r"processes should be given with the other two"),
        ({"coordinator": "host", "process": 0, "processes": 2}, r"coordinator should be HOST:PORT, got 'host'"),
        ({"coordinator": "host:65536", "process": 0, "processes": 2}, r"coordinator should be HOST:PORT"),
        ({"coordinator": "host:1", "process": 2, "processes": 2}, r"process should be .* got 2"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.start(**arguments)


def test_one_process_needs_no_others():
    assert (processes.count(), processes.index(), processes.is_main()) == (1, 0, True)
    assert processes.broadcast("name", lambda: "value") == "value"
    assert not processes.stops_at(3)
    processes.agree({"config": "a"})
    processes.report_failure(2, "nobody to tell")
    processes.finish()


def test_only_launchers_that_say_how_many_start_processes(monkeypatch):
    joined = []
    monkeypatch.setattr(processes, "_initialize", lambda arguments, address: joined.append(arguments))
    monkeypatch.setenv("SLURM_PROCID", "0")  # a batch script that does not call srun
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")  # a pod that may be a run of its own
    processes.start()
    assert not joined
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    processes.start()
    assert joined == [{}]


def test_a_wrong_number_of_seconds(monkeypatch):
    monkeypatch.setenv("NNFUNC_STALL_SECONDS", "soon")
    with pytest.raises(ValueError, match=r"NNFUNC_STALL_SECONDS: it should be a number of seconds, got 'soon'"):
        processes.start("host:1", 0, 2)


def test_a_process_that_is_killed_is_named(capfd):
    children = [
        subprocess.Popen(["sh", "-c", text], text=True) for text in ("sleep 0.3; kill -9 $$", "sleep 1; exit 1")
    ]
    assert wait_for_children(children) == -9
    assert capfd.readouterr().err == "nnfunc: process 0 was ended by SIGKILL, so the others end.\n"


def test_a_number_with_digits_too_many_starts_no_process():
    with pytest.raises(ValueError, match="launch: processes should be at most 1024, got 1000000"):
        launch(["train", "a.toml"], processes=10**6)
    with pytest.raises(ValueError, match="processes: workers should be at most 1024, got 1000000"):
        nf.sweeps.processes(10**6)
