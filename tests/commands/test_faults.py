"""Nothing is lost: runs that are stopped, killed, damaged, out of disk, or that diverge.

The law behind it: whatever happens in between, `nnfunc resume` ends with the checkpoint and the
metrics of the run that was never stopped, bit for bit.
"""

import errno
import os
import re
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.command_line import CONFIG, content, main, run_process
from helpers.killed_runs import assert_same_run, launch_command, tensors, wait_for_step

from nnfunc import checkpoint
from nnfunc.checkpoint import save_load
from nnfunc.commands import print_summary, run_training, train
from nnfunc.commands.progress_bar import TrainingProgress
from nnfunc.reports import run as run_report
from nnfunc.training.checkpointing import Saver

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_compilation_cache")]

STEPS = 40


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with small.toml and, in whole/step and whole/scan, runs that were never stopped."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "small.toml").write_text(CONFIG)
    for loop in ("step", "scan"):
        words = (f"train.loop={loop}", "--run", folder / "whole" / loop)
        assert main("train", folder / "small.toml", *words) == 0
    return folder


@pytest.fixture
def work(place, tmp_path, monkeypatch):
    """A new folder to work in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(CONFIG)
    return tmp_path


def at_step(monkeypatch, step, action):
    """Call action() when that many steps are done, once."""
    tick, done = TrainingProgress.tick, []

    def ticked(self, now):
        tick(self, now)
        if now >= step and not done:
            done.append(now)
            action()

    monkeypatch.setattr(TrainingProgress, "tick", ticked)


def stop_at(monkeypatch, step, signum=signal.SIGTERM):
    at_step(monkeypatch, step, lambda: os.kill(os.getpid(), signum))


@pytest.mark.parametrize("loop", ["step", "scan"])
@pytest.mark.parametrize(
    "signum, code, step", [(signal.SIGINT, 130, 0), (signal.SIGINT, 130, 18), (signal.SIGTERM, 143, 35)]
)
def test_a_stopped_run_goes_on_bit_for_bit(place, work, monkeypatch, capsys, loop, signum, code, step):
    with monkeypatch.context() as patch:
        stop_at(patch, step, signum)
        assert main("train", "small.toml", f"train.loop={loop}", "--run", "run") == code
    said = capsys.readouterr().err
    at = int(re.match(r"nnfunc: stopped at step (\d+) of 40; everything is saved\.", said)[1])
    assert step <= at <= step + 5
    assert "Resume with: nnfunc resume run\n" in said
    assert checkpoint.steps("run/checkpoints")[-1] == at
    assert main("resume", "run") == 0
    assert f"trained steps {at} to 40 in " in capsys.readouterr().out or at == 0
    assert_same_run(Path("run"), place / "whole" / loop)


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("where", "words", "left"),
    [
        ("load", "stopped before the training began; nothing was written", False),
        ("fit", "stopped before the training began; nothing was written", False),
        ("report", "all 40 steps are trained and saved; only the metrics and the report are missing", True),
    ],
)
def test_ctrl_c_outside_of_the_steps_says_what_is_left(work, monkeypatch, capsys, where, words, left):
    if where == "report":
        monkeypatch.setattr(run_report, "write_report", interrupt)
    else:
        monkeypatch.setattr(run_training if where == "fit" else train, where, interrupt)
    assert main("train", "small.toml", "--run", "run") == 130
    assert capsys.readouterr().err.startswith(f"nnfunc: {words}")
    assert Path("run").exists() is left


def test_a_second_ctrl_c_stops_at_once_and_says_what_was_saved(work, monkeypatch, capfd):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 18, twice)
    assert main("train", "small.toml", "--run", "run") == 130
    saved = checkpoint.steps("run/checkpoints")[-1]
    assert capfd.readouterr().err == (
        "nnfunc: stopping after this step; press Ctrl-C again to stop immediately\n"
        f"nnfunc: stopped immediately; the last saved step is {saved}. Resume with: nnfunc resume run\n"
    )


def test_ctrl_c_in_a_command_without_words_is_told(work, monkeypatch, capsys):
    monkeypatch.setattr(print_summary, "load", interrupt)
    assert main("summary", "small.toml") == 130
    assert capsys.readouterr().err == "nnfunc: stopped; nothing more is written\n"


def test_a_run_may_be_stopped_many_times(place, work, monkeypatch, capsys):
    command = ("train", "small.toml", "--run", "run")
    for step in (3, 7, 8, 26, 39):
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            assert main(*command) == 143
        command = ("resume", "run")
    assert main(*command) == 0
    assert_same_run(Path("run"), place / "whole" / "step")


def test_a_finished_run_is_not_trained_again(place, work, capsys):
    run = place / "whole" / "step"
    before = content(run)
    assert main("resume", run) == 0
    said = capsys.readouterr().out
    assert f"{run} is complete: all 40 steps were already trained" in said
    assert "test    loss" in said
    assert f"report  {run}/report.html" in said
    after = content(run)
    assert after.keys() == before.keys()
    for name in before:
        if name != "curves.png":
            assert after[name] == before[name], name


def flip(file):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


DAMAGES = {
    "one flipped bit": ("tensors-*", flip, r"does not match its checksum"),
    "cut short": ("tensors-*", cut, r"it has \d+ bytes, but \d+ were saved"),
    "a flipped bit in the manifest": ("manifest.json", flip, r"manifest\.json: its content|manifest"),
    "a manifest cut short": ("manifest.json", cut, r"manifest"),
    "a missing file": ("tensors-*", Path.unlink, r"there is no such file"),
}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_skipped(place, work, monkeypatch, capsys, damage):
    pattern, spoil, words = DAMAGES[damage]
    with monkeypatch.context() as patch:
        stop_at(patch, 29)
        assert main("train", "small.toml", "--run", "run") == 143
    capsys.readouterr()
    (file,) = Path("run/checkpoints/step-00000029").glob(pattern)
    spoil(file)
    assert main("resume", "run") == 0
    said = capsys.readouterr()
    assert said.err.startswith("nnfunc: The checkpoint of step 29 cannot be loaded. ")
    assert re.search(rf"step-00000029/\S+: .*{words}|{words}", said.err), said.err
    assert "Continuing from step 25." in said.err
    assert said.err.count("\n") == 1
    assert "trained steps 25 to 40" in said.out
    assert_same_run(Path("run"), place / "whole" / "step")


@pytest.mark.filterwarnings("default")
def test_damaged_checkpoints_of_a_finished_run(place, work, capsys):
    main("train", "small.toml", "--run", "run")
    capsys.readouterr()
    main("evaluate", "run", "--checkpoint", "last")
    expected = capsys.readouterr().out
    (file,) = Path("run/checkpoints/best").glob("tensors-*")
    flip(file)
    assert main("evaluate", "run") == 0
    said = capsys.readouterr()
    assert said.out == expected
    assert said.err.startswith(
        "nnfunc: The best checkpoint is damaged, so the last good one is used. run/checkpoints/best/"
    )
    for folder in Path("run/checkpoints").glob("step-*"):
        cut(folder / "manifest.json")
    for words in (("resume", "run"), ("evaluate", "run", "--checkpoint", "last")):
        assert main(*words) == 2
        said = capsys.readouterr().err
        known = ", ".join(map(str, checkpoint.steps("run/checkpoints")))
        assert f"it has no undamaged checkpoint among those of steps {known}" in said
        assert said.count("\n") == 1, said


def test_a_run_whose_config_was_changed(place, work, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop_at(patch, 23)
        main("train", "small.toml", "--run", "run")
    capsys.readouterr()
    config = Path("run/config.toml")
    kept, before = config.read_text(), content(Path("run/checkpoints"))
    config.write_text(kept.replace("    12,\n", "    13,\n"))
    for words in (("resume", "run"), ("evaluate", "run", "--checkpoint", "last")):
        assert main(*words) == 2
        said = capsys.readouterr().err
        assert "step-00000023 is a checkpoint of another model" in said
        assert re.search(r"hidden_0/linear/weight: expected float32\[64, 13\], got float32\[64, 12\]", said)
        assert "Traceback" not in said
    assert content(Path("run/checkpoints")) == before
    config.write_text(kept)
    assert main("resume", "run") == 0
    assert_same_run(Path("run"), place / "whole" / "step")


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_disk_at(patch, what):
    """A disk that is full for checkpoints, or for metrics.jsonl, at the 20th step."""
    if what == "checkpoint":
        at_step(patch, 18, lambda: patch.setattr(save_load, "write_synced", no_room))
    else:
        at_step(patch, 18, lambda: patch.setattr(Saver, "write", no_room))


def limited(patch, size):
    """No file may grow beyond this size from the 19th step on: the system itself refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit():
        bytes_ = size or Path("run/metrics.jsonl").stat().st_size + 60
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, hard))

    at_step(patch, 18, limit)
    return soft, hard


@pytest.mark.parametrize("what", ["checkpoint", "metrics", "a limit", "a limit within a line"])
def test_a_full_disk_loses_nothing(place, work, monkeypatch, capsys, what):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        if what.startswith("a limit"):
            limited(patch, None if "line" in what else 9000)
        else:
            full_disk_at(patch, what)
        try:
            code = main("train", "small.toml", "--run", "run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert code == 2, said
    cure = r"Free some space\. Resume with: nnfunc resume run"
    assert re.fullmatch(rf"nnfunc: run: the disk is full \(.*\)\. .* is intact\. {cure}\n", said), said
    assert checkpoint.steps("run/checkpoints")[-1] == 15
    assert not list(Path("run/checkpoints").glob(".*"))
    assert main("resume", "run") == 0
    assert_same_run(Path("run"), place / "whole" / "step")


@pytest.mark.parametrize("name", ["write_environment", "create_folder"])
def test_a_disk_that_is_full_from_the_start(work, monkeypatch, capsys, name):
    monkeypatch.setattr(f"nnfunc.runs.run_folder.{name}", no_room)
    assert main("train", "small.toml", "--run", "run") == 2
    said = capsys.readouterr().err
    assert os.strerror(errno.ENOSPC) in said
    assert said.count("\n") == 1
    assert not Path("run").exists()


def test_a_disk_that_is_full_for_the_report(place, work, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("nnfunc.reports.run.save_page", no_room)
        assert main("train", "small.toml", "--run", "run") == 2
    assert "Free some space. Resume with: nnfunc resume run" in capsys.readouterr().err
    assert main("resume", "run") == 0
    assert Path("run/report.html").exists()
    assert_same_run(Path("run"), place / "whole" / "step")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_for_predictions(place, work, capsys):
    np.save("x.npy", np.zeros((3, 64), np.float32))
    os.symlink("/dev/full", "y.csv")
    assert main("predict", place / "whole" / "step", "x.npy", "--output", "y.csv") == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"nnfunc: y\.csv: the disk is full \(.*\)\. Free some space.*\n", said)


@pytest.mark.parametrize(
    "widths, decay, where", [([64, 4, 10], 0.0, "the forward pass of layer head"), ([64, 10], 0.1, "the update")]
)
def test_a_run_that_diverges(work, capsys, widths, decay, where):
    """Weights of 1e29 in two layers give outputs of 1e58; with decay they overflow on their own."""
    model = f'model={{name="mlp", widths={widths}}}'
    words = (model, f"optimizer.weight_decay={decay}", "schedule.peak=1e30", "train.save_every=1")
    assert main("train", "small.toml", *words, "--run", "run") == 1
    said = capsys.readouterr().err
    found = re.match(
        r"nnfunc: training diverged: .* not finite at step (\d+) \(checked after steps (\d+) to (\d+)\); "
        r"the parameters are those before that step\. It began in (the .*?)[.:(]",
        said,
    )
    assert found, said
    step, first, end = map(int, found.groups()[:3])
    assert first <= step <= end
    assert re.match(where, found[4]), found[4]
    assert said.count("\n") == 1
    for folder in Path("run/checkpoints").iterdir():
        assert checkpoint.inspect(folder)["leaves"]
        assert tensors(folder)


# in processes of their own


LONG = ("train.steps=800", "train.log_every=20", "train.evaluate_every=40", "train.save_every=20")
BOTH = """
import sys
from nnfunc import cli
for words in (line.split() for line in sys.argv[1].splitlines()):
    sys.argv = ["nnfunc", *words]
    try: cli.main()
    except SystemExit as stop: assert not stop.code, stop.code
"""


def test_kill_9_at_random_steps(work, tmp_path):
    """Killed again and again, at any moment, also within a save; then gone on with."""
    draw, cache = np.random.default_rng(7), tmp_path / "cache"
    long = " ".join(LONG)
    commands = [f"train small.toml {long} train.loop={w} --run whole-{w}" for w in ("step", "scan")]
    done = run_process("-c", BOTH, "\n".join(commands), XDG_CACHE_HOME=str(cache))
    assert done.returncode == 0, done.stderr
    for loop, kills in (("step", 2), ("scan", 2)):
        run = Path(f"run-{loop}")
        command = ("train", "small.toml", *LONG, f"train.loop={loop}", "--run", run)
        for step in sorted(draw.integers(1, 700, kills)):
            process = launch_command(*command, cache=cache)
            wait_for_step(run, step, process)
            time.sleep(draw.uniform(0, 0.02))
            process.kill()
            assert process.wait() == -signal.SIGKILL
            process.communicate()
            command = ("resume", run)
    done = run_process("-c", BOTH, "resume run-step\nresume run-scan", XDG_CACHE_HOME=str(cache))
    assert done.returncode == 0, done.stderr
    for loop in ("step", "scan"):
        assert_same_run(Path(f"run-{loop}"), Path(f"whole-{loop}"))
        assert not list(Path(f"run-{loop}/checkpoints").glob(".*"))


def test_ctrl_c_in_a_process_of_its_own(work, tmp_path):
    process = launch_command("train", "small.toml", "train.steps=1000000", "--run", "run", cache=tmp_path)
    try:
        deadline = time.monotonic() + 90
        while not Path("run/metrics.jsonl").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert re.fullmatch(
        r"nnfunc: stopping after this step; press Ctrl-C again to stop immediately\n"
        r"nnfunc: stopped at step \d+ of 1000000; everything is saved\. "
        r"Resume with: nnfunc resume run\n",
        err,
    ), err
    assert "Traceback" not in out
