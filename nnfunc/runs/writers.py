"""The rows of metrics.jsonl in other programs: TensorBoard, and Weights & Biases.

A writer has `write(row)` and `close()`. A run that is gone on with repeats the steps since its last
checkpoint; rows that an earlier process wrote are not written again. So a resumed run may hand in all
rows of its metrics.jsonl: what that process lost, if it was killed, is then filled in. After a
rollback the steps come again, with other values: those are written.
"""

import importlib
import json
import math
import os
import secrets
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from nnfunc import check
from nnfunc.runs import metrics_log

__all__ = ["Writer", "Writers", "open_writers"]

HISTOGRAMS = {"weight_histogram": "weights", "gradient_histogram": "gradients", "histogram": "activations"}
EVENT = "event/text_summary"  # TensorBoard's tag of a text that is called "event"


class Writer(Protocol):
    """What takes the rows of a run."""

    def write(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Writers:
    """Several writers as one; a context manager that closes them."""

    def __init__(self, writers: Sequence[Writer]):
        self.writers = list(writers)

    def write(self, row: Mapping[str, Any]) -> None:
        """Hand a row of metrics.jsonl to every writer."""
        for writer in self.writers:
            writer.write(row)

    def close(self) -> None:
        """Close every writer, though one of them fails."""
        while self.writers:
            try:
                self.writers.pop().close()
            except BaseException:
                self.close()
                raise

    def __enter__(self) -> "Writers":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_writers(names: Sequence[str], folder: str | Path, config: Mapping[str, Any] | None = None) -> Writers:
    """The writers of these names for the run in `folder`: "tensorboard", "wandb".

    TensorBoard's files go to `folder/tensorboard`. Weights & Biases gets a run named like the folder,
    in the project of WANDB_PROJECT or "nnfunc"; WANDB_MODE=offline keeps all in `folder/wandb`. config:
    the settings, shown beside the curves. A folder that was written to before is appended to.
    Raises: ValueError for a name that is none; ImportError naming the extra for a missing package.

    >>> with open_writers([], "runs/digits-1") as writers:
    ...     writers.write({"split": "train", "step": 10, "loss": 0.5})
    """
    if isinstance(names, str):
        check.fail("writers", f"give a list of names, [{names!r}], got {names!r}.", exc_type=TypeError)
    for name in names:
        check.choice("writers", KINDS, name=name)
    opened = Writers([])
    try:
        for name in dict.fromkeys(names):
            opened.writers.append(KINDS[name](Path(folder), dict(config or {})))
    except BaseException:
        opened.close()
        raise
    return opened


class TensorBoard:
    """Event files, by tensorboardX: scalars, histograms, events as text; an event a row.

    Its own SummaryWriter writes in a thread, and hangs when the disk is full: so its parts are used.
    """

    def __init__(self, folder: Path, config: dict[str, Any]):
        _package("tensorboardX", "tensorboard")
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2, summary_pb2

        self.events: Any = event_pb2  # messages are made when these modules are imported
        self.summaries: Any = summary_pb2
        self.text = summary.text
        place = folder / "tensorboard"
        place.mkdir(parents=True, exist_ok=True)
        files = sorted(place.glob("events.out.tfevents.*"))
        self.before: dict[str, int] = {}  # the last step of each tag
        self.rollbacks: set[tuple[int, str]] = set()
        for file in files:
            for event in _events(file, self.events.Event):
                self._note(event)
        # a name of its own: two files of one second would else be one
        suffix = f".{len(files)}"
        self.writer = event_file_writer.EventsWriter(str(place / "events"), suffix)
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
            values += self.text("event", _words(row)).value
        if row.get("event") == "rollback":
            if (step, _words(row)) in self.rollbacks:
                return
            # to TensorBoard, a start drops all from its step on
            start = self.events.SessionLog(status=self.events.SessionLog.START)
            event = self.events.Event(wall_time=time.time(), step=step + 1, session_log=start)
            self.writer.write_event(event)
            self._note(event)
            self.before.pop(EVENT, None)  # an earlier event at this step does not hide this one
        self._write(step, values)

    def _note(self, event: Any) -> None:
        """What an event that was written says of those that may follow."""
        if event.session_log.status == self.events.SessionLog.START:
            self.before = {tag: min(last, event.step - 1) for tag, last in self.before.items()}
        for value in event.summary.value:
            self.before[value.tag] = max(event.step, self.before.get(value.tag, -1))
            if value.tag == EVENT:
                words = [text.decode() for text in value.tensor.string_val]
                self.rollbacks |= {(event.step, text) for text in words}

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
    """A run of Weights & Biases; `wandb.json` in the run's folder keeps its id and the last steps."""

    def __init__(self, folder: Path, config: dict[str, Any]):
        self.wandb = _package("wandb", "wandb")
        self.file = folder / "wandb.json"
        fresh = {"id": f"{folder.name}-{secrets.token_hex(4)}", "last": {}, "rollbacks": []}
        self.kept = _kept(self.file) or fresh
        self.before = dict(self.kept["last"])
        folder.mkdir(parents=True, exist_ok=True)
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", "nnfunc"),
            name=folder.name,
            id=self.kept["id"],
            resume="allow",
            dir=str(folder),
            config=config,
        )
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")  # else a step that comes twice is dropped
        self._keep()

    def write(self, row: Mapping[str, Any]) -> None:
        split, step = row["split"], int(row["step"])
        if row.get("event") == "rollback":
            told = [step, _words(row)]
            if told in self.kept["rollbacks"]:
                return
            self.kept["rollbacks"].append(told)
            for last in (self.kept["last"], self.before):  # the steps after it come again
                last |= {name: min(value, step) for name, value in last.items()}
            self.before.pop(split, None)
        if step <= self.before.get(split, -1):
            return
        values: dict[str, Any] = dict(_scalars(row))
        for tag, (low, high, counts) in _histograms(row):
            edges = np.linspace(low, high, len(counts) + 1)
            values[tag] = self.wandb.Histogram(np_histogram=(counts, edges))
        if split == "event":
            values["event"] = _words(row)
        self.run.log({"step": step, **values})
        self.kept["last"][split] = max(step, self.kept["last"].get(split, -1))
        self._keep()

    def close(self) -> None:
        self.run.finish()

    def _keep(self) -> None:
        temporary = self.file.with_name("wandb.json.tmp")
        temporary.write_text(json.dumps(self.kept))
        temporary.replace(self.file)


KINDS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": Wandb}


def _package(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        _missing(name, extra, error)


def _missing(name: str, extra: str, error: ImportError) -> NoReturn:
    problem = f"the writer {extra!r} needs the package {name}, which cannot be imported ({error})."
    raise ImportError(f"{problem} Install it: pip install 'nnfunc[{extra}]'") from error


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
        if name in HISTOGRAMS and (found := metrics_log.parse_histogram(value)) is not None:
            yield f"{HISTOGRAMS[name]}/{path}", found


def _entries(row: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(path, name, value) of each figure of each layer."""
    for part in ("parameters", "activations") if row["split"] == "layers" else ():
        layers = row.get(part)
        for path, entry in layers.items() if isinstance(layers, dict) else ():
            if isinstance(entry, dict):
                yield from ((path, name, value) for name, value in entry.items())


def _words(row: Mapping[str, Any]) -> str:
    return f"{row.get('event')}: {row.get('message', '')}"


def _events(file: Path, message: Any) -> Iterator[Any]:
    """The events of a file of TensorFlow's records, as far as they are whole.

    A record is its length in eight bytes, a checksum of four, the content, a checksum of four.
    """
    content, place = file.read_bytes(), 0
    while place + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        if place + 16 + length > len(content):
            return  # it was cut short when the process died
        try:
            yield message.FromString(content[place + 12 : place + 12 + length])
        except Exception:  # protobuf's DecodeError, whose place differs between its versions
            return
        place += 16 + length


def _kept(file: Path) -> dict[str, Any] | None:
    """What wandb.json holds, when it is whole."""
    try:
        kept = json.loads(file.read_text())
        last = {str(k): int(v) for k, v in kept["last"].items()}
        rollbacks = [[int(step), str(words)] for step, words in kept.get("rollbacks", [])]
        return {"id": str(kept["id"]), "last": last, "rollbacks": rollbacks}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
