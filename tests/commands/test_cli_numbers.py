"""Numbers on the command line that no command can take: one line, exit code 2, soon."""

import sys

import pytest

from nnfunc import cli

CONFIG = """
seed = 0
data = { name = "digits", batch_size = 64 }
model = { name = "mlp", widths = [64, 8, 10] }
objective = { name = "classification" }
optimizer = { name = "adamw", learning_rate = 1e-3 }
train = { steps = 4 }
"""
WRONG = ["-1", "99999999999999999999", "999999999999", "1e20", "nan", "inf", "2.5", "true", "9" * 5000]
OPTIONS = {
    "overfit": ("--steps", "--examples"),
    "find-lr": ("--steps", "--at-once"),
    "sweep": ("--trials", "--seeds", "--chunk", "--jobs"),
}
SETTINGS = (
    "seed",
    "data.seed",
    "data.batch_size",
    "train.steps",
    "train.log_every",
    "train.evaluate_every",
    "train.save_every",
    "train.watch_every",
    "train.eval_batch_size",
    "train.rollback",
    "task.accumulate",
)


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "of nobody")
    monkeypatch.setenv("NNFUNC_MALLOC", "default")
    (tmp_path / "small.toml").write_text(CONFIG)
    return tmp_path


def refused(capsys, monkeypatch, *words):
    """The one line that a command ends in."""
    monkeypatch.setattr(sys, "argv", ["nnfunc", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    told = capsys.readouterr().err
    assert (stop.value.code, told.count("\n")) == (2, 1), (words, told)
    assert told.startswith("nnfunc: ")
    assert len(told) < 500
    return told


@pytest.mark.parametrize("value", [*WRONG, "0"])
@pytest.mark.parametrize("command, option", [(c, option) for c, options in OPTIONS.items() for option in options])
def test_options(command, option, value, work, capsys, monkeypatch):
    more = ["optimizer.learning_rate=[1e-3, 1e-2]", "--dry-run"] if command == "sweep" else []
    refused(capsys, monkeypatch, command, "small.toml", *more, option, value)
    assert [path.name for path in work.iterdir()] == ["small.toml"]


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("key", SETTINGS)
def test_settings(key, value, work, capsys, monkeypatch):
    told = refused(capsys, monkeypatch, "train", "small.toml", f"{key}={value}")
    assert key.rpartition(".")[2] in told
    assert [path.name for path in work.iterdir()] == ["small.toml"]


@pytest.mark.parametrize("value", ["-1", "99999999999999999999", "1e20"])
@pytest.mark.parametrize(
    "command, option",
    [
        ("sample", "--seed"),
        ("sample", "--steps"),
        ("sample", "--samples"),
        ("sample", "--top-k"),
        ("evaluate", "--batch-size"),
        ("predict", "--batch-size"),
        ("sweep-best", "--trial"),
    ],
)
def test_options_of_commands_on_a_run(command, option, value, work, capsys, monkeypatch):
    """The number is looked at before the folder, or the folder is told: it is one line in any case."""
    files = ["x.csv"] if command == "predict" else []
    refused(capsys, monkeypatch, command, "runs/none", *files, option, value)
