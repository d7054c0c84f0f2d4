"""The folder of a sweep: what its trials had come to when they were last saved.

segments/00000000-0, ...   checkpoints, each of some trials side by side; of a trial that is in
                           several the last one counts; one of which none counts is removed
plan.json                  what the sweep is of: another one is refused; and how its groups run

A segment is written whole or not at all, and a damaged one only costs what it holds.
"""

import hashlib
import json
import math
import re
import shutil
import uuid
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc import check, checkpoint, documents
from nnfunc.runs.lock import FolderLock
from nnfunc.sweeps.strategy import EXECUTIONS, Execution
from nnfunc.sweeps.trial import TrialSpec
from nnfunc.training.compiled import Carry

__all__ = ["Saved", "Store", "peak_name"]


def peak_name(trial: int) -> int:
    """What the best state of a trial is saved as, and the trial that such a name is of."""
    return -1 - trial


SEGMENT = {
    "trials": [
        {
            "trial": range(-(2**31), 2**31),
            "step": range(2**63),
            "metrics": {str: {str: (float, None)}},
            "settings": {str: str},
        }
    ],
    "execution": (list, None),
}
"""The metadata of a segment; see `documents`."""


class Saved(NamedTuple):
    """A trial as it is kept; see `TrialState`. trial: or `peak_name` of it."""

    trial: int
    carry: Any
    step: int
    metrics: dict[str, dict[int, float]]
    settings: dict[str, Any]


class _Location(NamedTuple):
    """Where a trial is: its segment and row, what is known of it, and how it ran."""

    segment: Path
    row: int
    known: dict[str, Any]
    execution: list[Any] | None


class Store:
    """Reads and writes the folder; it is the only one that does until it is closed.

    of: what a sweep must have in common with the one that it goes on with, as JSON holds it.
    shared: whether several processes write into the folder, each of them trials of its own.
    Raises: FileExistsError when the folder holds a sweep and resume is False; ValueError when it is
    another one; BlockingIOError when another process writes there.
    """

    def __init__(self, folder: str | Path, *, resume: bool, of: dict[str, Any], shared: bool = False):
        self.folder = Path(folder)
        self.segments, plan = self.folder / "segments", self.folder / "plan.json"
        if plan.exists() and not resume:
            hint = "Give another folder, or go on with resume=True."
            raise FileExistsError(f"{folder} already holds a sweep. {hint}")
        self.new = not plan.exists()
        self.segments.mkdir(parents=True, exist_ok=True)
        self.lock = None if shared else FolderLock(self.folder)
        self._suffix = f"-{uuid.uuid4().hex[:6]}" if shared else ""  # another may count alike
        try:
            self._check_identity(plan, of)
        except ValueError:
            self.close()
            raise
        if not shared:
            for removed in self.segments.glob(".gone-*"):  # a process died while it removed them
                shutil.rmtree(removed, ignore_errors=True)
        self._executions: dict[str, Any] = self._plan().get("executions", {})
        self._trees: dict[Path, Any] = {}
        self._segments_read: set[Path] = set()
        self.locations: dict[int, _Location] = {}
        self.refresh()

    def close(self) -> None:
        """Let another process go on with the folder."""
        if self.lock is not None:
            self.lock.close()

    def __contains__(self, trial: int) -> bool:
        return trial in self.locations

    def refresh(self) -> None:
        """Take note of what is new there: later segments count before earlier ones."""
        new = set(self.segments.glob("[0-9]*")) - self._segments_read
        self._segments_read |= new
        for segment in sorted(new):
            try:
                known = checkpoint.inspect(segment)["metadata"]
            except checkpoint.CheckpointError as error:
                if segment.exists():  # otherwise another process has replaced it just now
                    warnings.warn(f"{error} What it held is run again.", stacklevel=3)
                continue
            problem = documents.find_mismatch(known, SEGMENT, "metadata") or _unordered(known)
            if problem:
                warnings.warn(f"{segment}: {problem}. What it held is run again.", stacklevel=3)
                continue
            for row, entry in enumerate(known["trials"]):
                self.locations[entry["trial"]] = _Location(segment, row, entry, known["execution"])

    def forget(self, trial: int) -> None:
        """Take a trial as not saved."""
        self.locations.pop(trial, None)

    def discard(self) -> None:
        """Remove what a sweep that never began has left."""
        if self.new and not any(self.segments.iterdir()):
            (self.folder / "plan.json").unlink(missing_ok=True)
            self.segments.rmdir()

    def known(self, trial: int) -> tuple[int, dict[str, dict[int, float]]]:
        """The step that a trial was saved at, and its figures; (0, {}) where it was not."""
        if trial not in self.locations:
            return 0, {}
        known = self.locations[trial].known
        return known["step"], _decode_metrics(known)

    def execution(self, trial: int) -> Execution | None:
        """How a trial ran, or was going to, where that is known."""
        execution = self._executions.get(str(trial))
        if execution is None and trial in self.locations:
            execution = self.locations[trial].execution
        return None if execution is None else Execution(*execution)

    def record_execution(self, trial: int, execution: Execution) -> None:
        """Write down how a trial, and all of its program, are going to run; the first time counts.

        What is quickest may be another execution the next time, and its results differ by rounding.
        """
        if str(trial) in self._executions:
            return
        plan = self._plan()
        executions = plan.setdefault("executions", {})
        if str(trial) not in executions:
            executions[str(trial)] = list(execution)
            self._write_plan(plan)
        self._executions = executions

    def read(self, trial: int, like: Carry, spec: TrialSpec) -> Saved | None:
        """A trial as it was saved; None, and a warning, where that is damaged.

        like: of what structure its carry is.
        """
        segment, row, known, _ = self.locations[trial]
        if known["settings"] != _serialize_settings(spec.settings):
            actual = ", ".join(f"{k}={v}" for k, v in _serialize_settings(spec.settings).items())
            hint = "Start another folder for another space."
            check.fail("sweep", f"trial {trial} should have the settings that it was saved with, got {actual}. {hint}")
        if segment not in self._trees:  # trials come in the order of their segments, or nearly
            try:
                rows = len(checkpoint.inspect(segment)["metadata"]["trials"])
                lead = lambda leaf: np.empty((rows, *leaf.shape), leaf.dtype)
                self._trees = {segment: checkpoint.load(segment, jax.tree.map(lead, like))}
            except checkpoint.CheckpointError as error:
                warnings.warn(f"{error} What it held is run again.", stacklevel=4)
                self.locations = {m: p for m, p in self.locations.items() if p.segment != segment}
                return None
        carry = jax.tree.map(lambda leaf: leaf[row], self._trees[segment])
        return Saved(trial, carry, known["step"], _decode_metrics(known), spec.settings)

    def write(self, saved: list[Saved], execution: Execution | None) -> None:
        """Keep trials of one structure, and forget the segments that they replace."""
        carry = jax.tree.map(lambda *leaves: np.stack(leaves), *(entry.carry for entry in saved))
        known: list[dict[str, Any]] = [
            {
                "trial": entry.trial,
                "step": entry.step,
                "metrics": _encode_metrics(entry),
                "settings": _serialize_settings(entry.settings),
            }
            for entry in saved
        ]
        metadata = {"trials": known, "execution": None if execution is None else list(execution)}
        segment = self._next(min(max(entry.trial, peak_name(entry.trial)) for entry in saved))
        checkpoint.save(segment, carry, metadata=metadata)
        self._segments_read.add(segment)
        before = {self.locations[entry.trial].segment for entry in saved if entry.trial in self.locations}
        for row, entry in enumerate(known):
            self.locations[entry["trial"]] = _Location(segment, row, entry, metadata["execution"])
        self._remove(before - {location.segment for location in self.locations.values()})

    def _next(self, trial: int) -> Path:
        """A name after all others; processes that share the folder have trials of their own."""
        numbers = [int(path.name.partition("-")[0]) for path in self.segments.glob("[0-9]*")]
        return self.segments / f"{max(numbers, default=-1) + 1:08d}-{trial}{self._suffix}"

    def _remove(self, segments: Iterable[Path]) -> None:
        for segment in segments:
            removed = segment.with_name(f".gone-{segment.name}")
            try:
                segment.rename(removed)  # at once: another process may be looking
            except OSError:
                continue
            shutil.rmtree(removed, ignore_errors=True)

    def _plan(self) -> dict[str, Any]:
        """What plan.json holds. Raises: ValueError when that is nothing that was written here."""
        plan = self.folder / "plan.json"
        hint = "Start the sweep again in another folder."
        content = documents.read_json(plan, {"executions?": {str: list}}, hint)
        for execution in content.get("executions", {}).values():
            if not (
                len(execution) == len(Execution._fields)
                and execution[0] in EXECUTIONS
                and all(map(_is_size, execution[1:4]))
            ):
                check.fail(str(plan), f"an execution should be one that a sweep has, got {execution}. {hint}")
        return content

    def _write_plan(self, content: dict[str, Any]) -> None:
        temporary = self.folder / f"plan{self._suffix}.tmp"
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.folder / "plan.json")

    def _check_identity(self, plan: Path, of: dict[str, Any]) -> None:
        if not plan.exists():
            self._write_plan(of)
            return
        before = self._plan()
        for name, value in json.loads(json.dumps(of)).items():
            if before.get(name, value) != value:
                hint = "Start another folder to change it."
                problem = f"a sweep should go on with the same {name}, {before[name]}, got {value}"
                check.fail("sweep", f"{problem}. {hint}")


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _unordered(known: dict[str, Any]) -> str:
    """What is wrong with metadata of the right form: steps that are none, or an execution that is none."""
    execution = known["execution"]
    if execution is not None and len(execution) != len(Execution._fields):
        return f"metadata.execution should have {len(Execution._fields)} entries, got {len(execution)}"
    curves = [curve for entry in known["trials"] for curve in entry["metrics"].values()]
    steps = {step for curve in curves for step in curve}
    wrong = next((step for step in steps if not re.fullmatch(r"\d{1,18}", step)), None)
    return "" if wrong is None else f"metadata.metrics should be by step, got {wrong!r}"


def _decode_metrics(known: dict[str, Any]) -> dict[str, dict[int, float]]:
    """The figures of what `_plain` made."""
    return {
        name: {int(step): math.nan if v is None else v for step, v in curve.items()}
        for name, curve in known["metrics"].items()
    }


def _encode_metrics(saved: Saved) -> dict[str, dict[int, float | None]]:
    """The figures as strict JSON holds them."""
    curves = saved.metrics.items()
    good = lambda value: value if math.isfinite(value) else None
    return {name: {step: good(v) for step, v in curve.items()} for name, curve in curves}


def _serialize_settings(settings: dict[str, Any]) -> dict[str, str]:
    """Settings as JSON holds them: the same in every process, functions and arrays too."""

    def serialize_leaf(leaf: Any) -> str:
        if hasattr(leaf, "shape"):
            array = np.asarray(leaf)
            digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
            return f"{array.dtype}{list(array.shape)} {digest}"
        if code := getattr(leaf, "__code__", None):
            digest = hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()[:16]
            return f"{leaf.__module__}.{leaf.__qualname__} {digest}"
        return re.sub(r" at 0x[0-9a-f]+", "", repr(leaf))

    def serialize(value: Any) -> str:
        leaves, treedef = jax.tree.flatten(value)
        alone = len(leaves) == 1 and leaves[0] is value
        return serialize_leaf(value) if alone else f"{treedef} {[serialize_leaf(v) for v in leaves]}"

    return {name: serialize(value) for name, value in settings.items()}
