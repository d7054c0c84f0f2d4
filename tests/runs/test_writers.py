"""Rows in TensorBoard's files, read back with its own messages, and in a stand-in for wandb."""

import builtins
import importlib
import json
import math
import struct
import sys
import tempfile
import tomllib
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import sample_runs
from helpers.metric_rows import ROWS
from helpers.project import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from nnfunc.runs import metrics_log, writers
from nnfunc.runs.writers import open_writers

TRAIN = {"split": "train", "step": 10, "seconds": 0.5, "loss": 0.5, "odd": math.nan, "word": "x"}


def written(folder):
    """tag -> [(step, value)] of all event files of a run, in order."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = {}
    for file in sorted((folder / "tensorboard").iterdir(), key=lambda f: int(f.suffix[1:])):
        with file.open("rb") as stream:
            while header := stream.read(12):
                (length,) = struct.unpack("<Q", header[:8])
                event = event_pb2.Event.FromString(stream.read(length))
                assert len(stream.read(4)) == 4
                for value in event.summary.value:
                    kind = value.WhichOneof("value")
                    found.setdefault(value.tag, []).append((event.step, getattr(value, kind)))
    return found


def test_scalars_histograms_and_events_of_tensorboard(tmp_path):
    pytest.importorskip("tensorboardX")
    layers = {
        "split": "layers",
        "step": 10,
        "parameters": {"a/w": {"gradient_norm": 0.25, "weight_histogram": [-1, 1, [1, 3]], "bad": "x"}},
        "activations": {"a@1": {"dead": 0.125, "histogram": [0, 4, [0, 2, 0, 2]]}},
    }
    event = {"split": "event", "step": 11, "event": "rollback", "message": "back to 5"}
    with open_writers(["tensorboard"], tmp_path, {"model": {"name": "mlp"}}) as opened:
        for row in (TRAIN, layers, event):
            opened.write(row)
    found = written(tmp_path)
    scalars = {tag: [(step, v) for step, v in values if isinstance(v, float)] for tag, values in found.items()}
    assert {tag: values for tag, values in scalars.items() if values} == {
        "train/loss": [(10, 0.5)],
        "gradient_norm/a/w": [(10, 0.25)],
        "dead/a@1": [(10, 0.125)],
    }
    ((step, histogram),) = found["weights/a/w"]
    assert (step, histogram.min, histogram.max, histogram.num) == (10, -1, 1, 4)
    assert list(histogram.bucket_limit) == [0, 1]
    assert list(histogram.bucket) == [1, 3]
    assert histogram.sum == pytest.approx(-0.5 + 3 * 0.5)
    assert histogram.sum_squares == pytest.approx(4 * 0.25)
    assert list(found["activations/a@1"][0][1].bucket) == [0, 2, 0, 2]
    ((step, text),) = found["event/text_summary"]
    assert (step, text.string_val[0]) == (11, b"rollback: back to 5")
    assert b'"name": "mlp"' in found["config/text_summary"][0][1].string_val[0]
    assert len(found) == 7


def test_tensorboard_goes_on_without_repeating_steps(tmp_path):
    pytest.importorskip("tensorboardX")
    rows = sample_runs.metrics(100, watch_every=20, sick=True)
    half = [row for row in rows if row["step"] <= 60]
    with open_writers(["tensorboard"], tmp_path, {"seed": 0}) as opened:
        for row in half:
            opened.write(row)
    first = written(tmp_path)
    for _ in range(2):  # the second has nothing new to say
        with open_writers(["tensorboard"], tmp_path, {"seed": 0}) as opened:
            for row in rows:
                if row["step"] > 40:  # from the last checkpoint
                    opened.write(row)
    found = written(tmp_path)
    assert [step for step, _ in found["train/loss"]] == [*range(10, 101, 10)]
    assert [step for step, _ in found["weights/head/weight"]] == [20, 40, 60, 80, 100]
    for tag, values in found.items():
        steps = [step for step, _ in values]
        assert steps == sorted(set(steps)), tag
        assert [step for step, _ in first.get(tag, [])] == steps[: len(first.get(tag, []))]
    assert len(found["config/text_summary"]) == len(found["event/text_summary"]) == 1


def as_shown(folder):
    """step -> train/loss as TensorBoard shows them: it drops all from the step of a start on.

    tensorboard/backend/event_processing/event_accumulator.py, _CheckForRestartAndMaybePurge.
    """
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    shown = {}
    for file in sorted((folder / "tensorboard").iterdir(), key=lambda f: int(f.suffix[1:])):
        for event in writers._events(file, event_pb2.Event):
            if event.session_log.status == event_pb2.SessionLog.START:
                shown = {step: loss for step, loss in shown.items() if step < event.step}
            for value in event.summary.value:
                if value.tag == "train/loss":
                    assert event.step not in shown
                    shown[event.step] = value.simple_value
    return shown


def branches():
    """Rows to step 30, back to 10, and what metrics.jsonl holds once steps 20 and 30 came again."""
    rows = [TRAIN | {"step": step, "loss": 1.0} for step in (10, 20, 30)]
    back = {"split": "event", "step": 10, "event": "rollback", "message": "with 0.5 of the rate"}
    again = [TRAIN | {"step": step, "loss": 2.0} for step in (20, 30)]
    return rows, back, again


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_after_a_rollback_tensorboard_shows_what_came_again(tmp_path, lost):
    """lost: of the last rows, by the process that was killed; those that follow hand in all."""
    pytest.importorskip("tensorboardX")
    rows, back, again = branches()
    later = back | {"message": "with 0.25 of the rate"}
    written_first = [*rows, back, *again]
    for handed in (written_first[: 6 - lost], [rows[0], back, *again], [rows[0], back, *again]):
        with open_writers(["tensorboard"], tmp_path) as opened:
            for row in handed:
                opened.write(row)
    assert as_shown(tmp_path) == {10: 1.0, 20: 2.0, 30: 2.0}
    events = written(tmp_path)["event/text_summary"]
    assert [step for step, _ in events] == [10], "once, though it is handed in three times"
    with open_writers(["tensorboard"], tmp_path) as opened:
        for row in [rows[0], back, later, TRAIN | {"step": 20, "loss": 3.0}]:
            opened.write(row)
    assert as_shown(tmp_path) == {10: 1.0, 20: 3.0}
    assert len(written(tmp_path)["event/text_summary"]) == 2


def test_a_file_that_was_cut_short_is_gone_on_from(tmp_path):
    pytest.importorskip("tensorboardX")
    with open_writers(["tensorboard"], tmp_path) as opened:
        opened.write(TRAIN)
        opened.write(TRAIN | {"step": 20})
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-3])
    with open_writers(["tensorboard"], tmp_path) as opened:
        for step in (10, 20, 30):
            opened.write(TRAIN | {"step": step})
    (tmp_path / "tensorboard" / file.name).unlink()
    assert [step for step, _ in written(tmp_path)["train/loss"]] == [20, 30]


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX")
    opened = open_writers(["tensorboard"], tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(opened.writers[0].writer._py_recordio_writer, "write", full)
    with pytest.raises(OSError, match="No space left"):
        opened.write(TRAIN)
    opened.close()
    opened.close()


# wandb


class FakeWandb(types.ModuleType):
    """As much of wandb as is used; it refuses what wandb would refuse."""

    def __init__(self):
        super().__init__("wandb")
        self.started, self.logged, self.defined, self.finished = [], [], [], 0

    def init(self, **options):
        assert set(options) == {"project", "name", "id", "resume", "dir", "config"}
        assert Path(options["dir"]).is_dir()
        self.started.append(options)
        return self

    def define_metric(self, name, step_metric=None):
        self.defined.append((name, step_metric))

    def log(self, values):
        assert all(not isinstance(value, dict | list) for value in values.values())
        self.logged.append(values)

    def finish(self):
        self.finished += 1

    class Histogram:
        def __init__(self, np_histogram):
            self.counts, self.edges = np_histogram
            assert len(self.edges) == len(self.counts) + 1


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_gets_the_rows_and_goes_on(tmp_path, wandb, monkeypatch):
    rows = sample_runs.metrics(100, watch_every=50, sick=True)
    folder = tmp_path / "runs" / "digits-1"
    with open_writers(["wandb"], folder, {"seed": 3}) as opened:
        for row in rows:
            if row["step"] <= 60:
                opened.write(row)
    assert wandb.finished == 1
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with open_writers(["wandb"], folder, {"seed": 3}) as opened:
        for row in rows:
            if row["step"] > 40:
                opened.write(row)
    one, two = wandb.started
    assert (one["project"], two["project"]) == ("nnfunc", "mine")
    assert one["id"] == two["id"]
    assert one["id"].startswith("digits-1-")
    assert (one["name"], one["resume"], one["config"]) == ("digits-1", "allow", {"seed": 3})
    assert ("*", "step") in wandb.defined
    steps = [values["step"] for values in wandb.logged if "train/loss" in values]
    assert steps == [*range(10, 101, 10)]
    (layers,) = [v for v in wandb.logged if v["step"] == 50 and "weights/head/weight" in v]
    source = next(row for row in rows if row["split"] == "layers" and row["step"] == 50)
    low, high, counts = source["parameters"]["head/weight"]["weight_histogram"]
    histogram = layers["weights/head/weight"]
    np.testing.assert_array_equal(histogram.counts, counts)
    assert (histogram.edges[0], histogram.edges[-1]) == (low, high)
    assert layers["gradient_norm/head/weight"] == source["parameters"]["head/weight"]["gradient_norm"]
    (event,) = [values for values in wandb.logged if "event" in values]
    assert event["event"].startswith("rollback: loss is nan")


def test_after_a_rollback_wandb_gets_what_came_again(tmp_path, wandb):
    rows, back, again = branches()
    for handed in ([*rows], [rows[0], back, again[0]], [rows[0], back, *again]):
        with open_writers(["wandb"], tmp_path) as opened:
            for row in handed:
                opened.write(row)
    losses = [(v["step"], v["train/loss"]) for v in wandb.logged if "train/loss" in v]
    assert losses == [(10, 1.0), (20, 1.0), (30, 1.0), (20, 2.0), (30, 2.0)]
    assert [values["step"] for values in wandb.logged if "event" in values] == [10]


@pytest.mark.parametrize("content", ["", "[]", '{"id": 3}', '{"id": "x", "last": {"train": "y"}}'])
def test_a_damaged_note_begins_a_new_run_of_wandb(tmp_path, wandb, content):
    (tmp_path / "wandb.json").write_text(content)
    with open_writers(["wandb"], tmp_path) as opened:
        opened.write(TRAIN)
    assert wandb.started[0]["id"].startswith(tmp_path.name)
    assert json.loads((tmp_path / "wandb.json").read_text())["last"] == {"train": 10}


# what goes wrong


@pytest.mark.parametrize("name, package", [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, name, package):
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    real = builtins.__import__

    def without(wanted, *rest, **more):
        if wanted.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {wanted!r}")
        return real(wanted, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(importlib, "import_module", without)
    words = rf"the package {package} is not installed.*pip install 'nnfunc\[{name}\]'"
    with pytest.raises(ImportError, match=words):
        open_writers([name], tmp_path)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(line.startswith(package) for line in extras[name])


def test_names_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"'tensorboard', 'wandb', got 'tensorbord'.* mean 'tensorboard'"):
        open_writers(["tensorbord"], tmp_path)
    with pytest.raises(TypeError, match=r"\['wandb'\], got 'wandb'"):
        open_writers("wandb", tmp_path)


def test_when_one_fails_the_others_are_closed(tmp_path, wandb, monkeypatch):
    def fails(*_):
        raise OSError("no room")

    monkeypatch.setitem(writers.WRITERS, "tensorboard", fails)
    with pytest.raises(OSError, match="no room"):
        open_writers(["wandb", "tensorboard"], tmp_path)
    assert wandb.finished == 1
    pair = [open_writers(["wandb"], tmp_path).writers[0] for _ in range(2)]
    monkeypatch.setattr(pair[1], "close", fails)
    with pytest.raises(OSError, match="no room"):
        writers.Writers(pair).close()
    assert wandb.finished == 2


@settings(max_examples=30)
@given(st.lists(ROWS, max_size=4))
def test_no_row_makes_a_writer_fail(rows):
    pytest.importorskip("tensorboardX")
    rows = [row for row in map(metrics_log.parse_row, map(json.dumps, rows)) if row is not None]
    for row in rows:
        dict(writers._scalars(row))
    with tempfile.TemporaryDirectory() as folder, open_writers(["tensorboard"], folder) as opened:
        for row in rows:
            opened.write(row)


@pytest.mark.slow
def test_a_run_writes_to_tensorboard_where_its_config_says_so(tmp_path, monkeypatch):
    """Every training row once, though the finished run is resumed, which hands in all of them again."""
    from helpers import command_line
    from tensorboardX.proto import event_pb2

    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "of nobody")
    monkeypatch.setenv("NNFUNC_MALLOC", "default")
    config = tmp_path / "small.toml"
    config.write_text(command_line.CONFIG + 'log = { to = ["tensorboard"] }\n')
    assert command_line.main("train", config, "--run", tmp_path / "run") == 0
    assert command_line.main("resume", tmp_path / "run") == 0
    files = sorted((tmp_path / "run" / "tensorboard").glob("events*"))
    steps = [
        event.step
        for file in files
        for event in writers._events(file, event_pb2.Event)
        for value in event.summary.value
        if value.tag == "train/loss"
    ]
    assert steps == list(range(4, 41, 4))
