"""Writers that copy the rows of metrics.jsonl to TensorBoard or Weights & Biases.

A writer has `write(row)` and `close()`. A resumed run passes all rows of its metrics.jsonl once more:
rows that an earlier process wrote are skipped, and rows that it lost when it was killed are written.
After a rollback the steps are repeated with other values, which are written too.
"""

import contextlib
import json
import math
import os
import secrets
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check, documents
from nnfunc.runs import metrics_log, status

HISTOGRAMS = {"weight_histogram": "weights", "gradient_histogram": "gradients", "histogram": "activations"}
EVENT_TAG = "event/text_summary"  # that TensorBoard gives to a text named "event"
SAVED = {"id": str, "last": {str: int}, "rollbacks?": [[(int, str)]]}
"""The form of wandb.json; see `documents`."""


class Writers(contextlib.ExitStack):
    """Several writers as one; a context manager that closes all of them, even if one fails to close.

    writers: objects with `write(row)` and `close()`.
    """

    def __init__(self, writers: Sequence[Any]):
        super().__init__()
        self.writers = writers
        for writer in writers:
            self.callback(writer.close)

    def write(self, row: Mapping[str, Any]) -> None:
        """Pass a row of metrics.jsonl to every writer. row: as `parse_row` of `metrics_log` gives it."""
        for writer in self.writers:
            writer.write(row)


def open_writers(names: Sequence[str], folder: str | Path, config: Mapping[str, Any] | None = None) -> Writers:
    """The writers with the given names for the run in `folder`.

    names: of "tensorboard" and "wandb". TensorBoard's files are in `folder/tensorboard`. The run of Weights &
        Biases has the name of the folder, in the project WANDB_PROJECT or "nnfunc"; with WANDB_MODE=offline its
        files are in `folder/wandb`. A folder with earlier rows is appended to.
    config: the settings, shown beside the curves.
    Raises: ValueError for another name; ImportError, with the command to install it, for a missing package.

    >>> with open_writers([], "runs/digits-1") as writers:
    ...     writers.write({"split": "train", "step": 10, "loss": 0.5})
    """
    if isinstance(names, str):
        expected = f"names should be a list such as [{names!r}]"
        check.fail("writers", expected=expected, actual=repr(names), exc_type=TypeError)
    for name in names:
        check.choice("writers", WRITERS, name=name)
    opened: list[Any] = []
    try:
        for name in dict.fromkeys(names):
            opened.append(WRITERS[name](Path(folder), dict(config or {})))
    except BaseException:
        Writers(opened).close()
        raise
    return Writers(opened)


class TensorBoard:
    """Event files written by tensorboardX: scalars, histograms, and events as text.

    They are written by its EventsWriter, because its SummaryWriter has a thread that hangs when the disk is full.
    """

    def __init__(self, folder: Path, config: dict[str, Any]):
        check.package("writers", "tensorboardX", "nnfunc[tensorboard]")
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2, summary_pb2

        self.events: Any = event_pb2  # messages are made when these modules are imported
        self.summaries: Any = summary_pb2
        self.text = summary.text
        folder = folder / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted(folder.glob("events.out.tfevents.*"))
        self.before: dict[str, int] = {}  # the last step of each tag
        self.rollbacks: set[tuple[int, str]] = set()
        for file in files:
            for event in _events(file, self.events.Event):
                self._note(event)
        suffix = f".{len(files)}"  # otherwise two files of the same second would have the same name
        self.writer = event_file_writer.EventsWriter(str(folder / "events"), suffix)
        self.flushed = 0.0
        if config:
            text = json.dumps(config, indent=4, default=str).replace("\n", "\n    ")
            self._write(0, [*self.text("config", f"    {text}").value])

    def write(self, row: Mapping[str, Any]) -> None:
        values = [self.summaries.Summary.Value(tag=tag, simple_value=v) for tag, v in _scalars(row)]
        for tag, (low, high, counts) in _histograms(row):
            edges = np.linspace(low, high, len(counts) + 1)
            middle = (edges[1:] + edges[:-1]) / 2
            histogram = self.summaries.HistogramProto(
                min=low,
                max=high,
                num=counts.sum(),
                sum=counts @ middle,
                bucket=counts,
                sum_squares=counts @ middle**2,
                bucket_limit=edges[1:],
            )
            values.append(self.summaries.Summary.Value(tag=tag, histo=histogram))
        step = int(row["step"])
        if row["split"] == "event":
            values += self.text("event", _event_text(row)).value
        if row.get("event") == "rollback":
            if (step, _event_text(row)) in self.rollbacks:
                return
            # TensorBoard drops everything from the step of a START on
            start = self.events.SessionLog(status=self.events.SessionLog.START)
            event = self.events.Event(wall_time=time.time(), step=step + 1, session_log=start)
            self.writer.write_event(event)
            self._note(event)
            self.before.pop(EVENT_TAG, None)  # an earlier event at this step does not hide this one
        self._write(step, values)

    def _note(self, event: Any) -> None:
        """Update the last step of each tag, and the rollbacks, by an event that is in the file."""
        if event.session_log.status == self.events.SessionLog.START:
            self.before = {tag: min(last, event.step - 1) for tag, last in self.before.items()}
        for value in event.summary.value:
            self.before[value.tag] = max(event.step, self.before.get(value.tag, -1))
            if value.tag == EVENT_TAG:
                message = [text.decode() for text in value.tensor.string_val]
                self.rollbacks |= {(event.step, text) for text in message}

    def _write(self, step: int, values: list[Any]) -> None:
        new = [value for value in values if step > self.before.get(value.tag, -1)]
        if new:
            now, summary = time.time(), self.summaries.Summary(value=new)
            self.writer.write_event(self.events.Event(wall_time=now, step=step, summary=summary))
            if abs(now - self.flushed) > 2:
                self.flushed = now
                self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of Weights & Biases; `wandb.json` in the run's folder has its id and the last steps."""

    def __init__(self, folder: Path, config: dict[str, Any]):
        self.wandb = check.package("writers", "wandb", "nnfunc[wandb]")
        self.file = folder / "wandb.json"
        saved = status.read_json_table(self.file)
        if documents.find_mismatch(saved, SAVED):
            saved = {"id": f"{folder.name}-{secrets.token_hex(4)}", "last": {}}
        self.saved: dict[str, Any] = {"rollbacks": []} | saved
        self.before = dict(self.saved["last"])
        folder.mkdir(parents=True, exist_ok=True)
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", "nnfunc"),
            name=folder.name,
            id=self.saved["id"],
            resume="allow",
            dir=str(folder),
            config=config,
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")  # otherwise a repeated step is dropped
        documents.write_file(self.file, json.dumps(self.saved).encode())

    def write(self, row: Mapping[str, Any]) -> None:
        split, step = row["split"], int(row["step"])
        if row.get("event") == "rollback":
            rollback = [step, _event_text(row)]
            if rollback in self.saved["rollbacks"]:
                return
            self.saved["rollbacks"].append(rollback)
            for last in (self.saved["last"], self.before):  # the steps after it are repeated
                last |= {name: min(value, step) for name, value in last.items()}
            self.before.pop(split, None)
        if step <= self.before.get(split, -1):
            return
        values: dict[str, Any] = dict(_scalars(row))
        for tag, (low, high, counts) in _histograms(row):
            edges = np.linspace(low, high, len(counts) + 1)
            values[tag] = self.wandb.Histogram(np_histogram=(counts, edges))
        if split == "event":
            values["event"] = _event_text(row)
        self.run.log({"step": step, **values})
        self.saved["last"][split] = max(step, self.saved["last"].get(split, -1))
        documents.write_file(self.file, json.dumps(self.saved).encode())

    def close(self) -> None:
        self.run.finish()


WRITERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": Wandb}


def _scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The finite numbers of a row with their tags: `train/loss`, `gradient_norm/blocks/0/up/weight`."""
    for name, value in row.items():
        if name not in metrics_log.HEAD and math.isfinite(metrics_log.to_float(value)):
            yield f"{row['split']}/{name}", float(value)
    for path, name, value in _entries(row):
        if math.isfinite(metrics_log.to_float(value)):
            yield f"{name}/{path}", float(value)


def _histograms(row: Mapping[str, Any]) -> Iterator[tuple[str, tuple[float, float, np.ndarray]]]:
    """The histograms of a row of layers with their tags: `weights/blocks/0/up/weight`."""
    for path, name, value in _entries(row):
        if name in HISTOGRAMS and (result := metrics_log.parse_histogram(value)) is not None:
            yield f"{HISTOGRAMS[name]}/{path}", result


def _entries(row: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(path, name, value) of each statistic of each layer."""
    for part in metrics_log.LAYER_TABLES if row["split"] == "layers" else ():
        for path, entry in row.get(part, {}).items():
            yield from ((path, name, value) for name, value in entry.items())


def _event_text(row: Mapping[str, Any]) -> str:
    return f"{row.get('event')}: {row.get('message', '')}"


def _events(file: Path, message: Any) -> Iterator[Any]:
    """The events of a file of TensorFlow's records, up to the first that is incomplete or damaged.

    A record is its length (8 bytes), a checksum (4), the content, and a checksum (4).
    """
    content, start = file.read_bytes(), 0
    while start + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        if start + 16 + length > len(content):
            return
        try:
            yield message.FromString(content[start + 12 : start + 12 + length])
        except Exception:  # protobuf's DecodeError, whose module differs between its versions
            return
        start += 16 + length
