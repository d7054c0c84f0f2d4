"""The folder of a sweep, with the saved progress of its trials.

segments/00000000-0, ...   checkpoints, each of several trials; the last one that has a trial counts, and
                           a segment is removed when later ones have all its trials
plan.json                  the identity of the sweep, so that another one is refused, and the executions

A segment is written whole or not at all. A damaged one only loses its own trials.
"""

import hashlib
import json
import math
import re
import shutil
import uuid
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from nnfunc import check, checkpoint, documents
from nnfunc.runs.lock import FolderLock
from nnfunc.sweeps.strategy import EXECUTIONS, Execution
from nnfunc.sweeps.trial import TrialState
from nnfunc.training.compiled import Carry


def best_name(trial: int) -> int:
    """The name under which the best state of a trial is saved; the trial for such a name. trial: either."""
    return -1 - trial


RUN_AGAIN = "Its trials run again from an earlier step."
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


class _Location(NamedTuple):
    """Where a trial is saved: its segment and row, its entry in the metadata, and how it ran."""

    segment: Path
    row: int
    entry: dict[str, Any]
    execution: list[Any] | None


class Store:
    """Reads and writes the folder, which is locked until `close`.

    folder: made if it is missing.
    resume: whether the folder may hold a sweep already.
    of: the identity of the sweep, which has to be the same when it is resumed; as JSON holds it.
    shared: whether several processes write into the folder, each of them different trials.
    Raises: FileExistsError when the folder holds a sweep and resume is False; ValueError when that is another
    sweep; BlockingIOError when another process writes there.
    """

    def __init__(self, folder: str | Path, *, resume: bool, of: dict[str, Any], shared: bool = False):
        self.folder = Path(folder)
        self.segments, plan = self.folder / "segments", self.folder / "plan.json"
        if plan.exists() and not resume:
            hint = "Give another folder, or continue with resume=True."
            check.fail("sweep", f"{folder} already holds a sweep.", hint=hint, exc_type=FileExistsError)
        self.new = not plan.exists()
        self.segments.mkdir(parents=True, exist_ok=True)
        self.lock = None if shared else FolderLock(self.folder)
        self._suffix = f"-{uuid.uuid4().hex[:6]}" if shared else ""  # another process may take the same number
        try:
            self._check_identity(plan, of)
        except ValueError:
            self.close()
            raise
        if not shared:
            for removed in self.segments.glob(".gone-*"):  # left by a process that died
                shutil.rmtree(removed, ignore_errors=True)
        self._executions: dict[str, Any] = self._plan().get("executions", {})
        self._trees: dict[Path, Any] = {}
        self._segments_read: set[Path] = set()
        self.locations: dict[int, _Location] = {}
        self.refresh()

    def close(self) -> None:
        """Unlock the folder."""
        if self.lock is not None:
            self.lock.close()

    def __contains__(self, trial: int) -> bool:
        return trial in self.locations

    def refresh(self) -> None:
        """Read which segments are new. Later segments replace earlier ones."""
        new = set(self.segments.glob("[0-9]*")) - self._segments_read
        self._segments_read |= new
        for segment in sorted(new):
            try:
                metadata = checkpoint.inspect(segment)["metadata"]
            except checkpoint.CheckpointError as error:
                if segment.exists():  # otherwise another process has just replaced it
                    warnings.warn(f"{error} {RUN_AGAIN}", stacklevel=3)
                continue
            problem = documents.find_mismatch(metadata, SEGMENT, "metadata") or _find_invalid(metadata)
            if problem:
                warnings.warn(f"{segment}: {problem}. {RUN_AGAIN}", stacklevel=3)
                continue
            for row, entry in enumerate(metadata["trials"]):
                self.locations[entry["trial"]] = _Location(segment, row, entry, metadata["execution"])

    def forget(self, trial: int) -> None:
        """Treat a trial as not saved. trial: its name."""
        self.locations.pop(trial, None)

    def discard(self) -> None:
        """Remove the files of a sweep of which no step was saved."""
        if self.new and not any(self.segments.iterdir()):
            (self.folder / "plan.json").unlink(missing_ok=True)
            self.segments.rmdir()

    def known(self, trial: int) -> tuple[int, dict[str, dict[int, float]]]:
        """The step at which a trial was saved, and its metrics; (0, {}) if it was not. trial: its name."""
        if trial not in self.locations:
            return 0, {}
        entry = self.locations[trial].entry
        return entry["step"], _decode_metrics(entry)

    def execution(self, trial: int) -> Execution | None:
        """The execution that was recorded for a trial, or None. trial: its index."""
        execution = self._executions.get(str(trial))
        if execution is None and trial in self.locations:
            execution = self.locations[trial].execution
        return None if execution is None else Execution(*execution)

    def record_execution(self, trial: int, execution: Execution) -> None:
        """Record the execution of a trial, and so of its program; the first one stays.

        When the sweep is resumed, another execution may be the fastest, but its results differ by rounding.
        trial: its index.
        execution: how it runs.
        """
        if str(trial) in self._executions:
            return
        plan = self._plan()
        executions = plan.setdefault("executions", {})
        if str(trial) not in executions:
            executions[str(trial)] = list(execution)
            self._write_plan(plan)
        self._executions = executions

    def read(
        self, trial: int, like: Carry, settings: dict[str, Any]
    ) -> tuple[Any, int, dict[str, dict[int, float]]] | None:
        """(carry, step, metrics) of a trial as saved; None, with a warning, if it is damaged.

        trial: its name.
        like: the shapes and dtypes of its carry.
        settings: of the trial.
        Raises: ValueError when it was saved with other settings.
        """
        segment, row, entry, _ = self.locations[trial]
        saved, actual = entry["settings"], _serialize_settings(settings)
        if saved != actual:
            differing = [name for name in saved | actual if saved.get(name) != actual.get(name)]
            text = lambda settings: ", ".join(f"{name}={settings.get(name)}" for name in differing)
            expected, hint = f"trial {trial} should have its saved settings, {text(saved)}", "Use another folder."
            check.fail("sweep", expected=expected, actual=text(actual), hint=hint)
        if segment not in self._trees:  # only the last one is cached: trials are read in about the order of segments
            try:
                rows = len(checkpoint.inspect(segment)["metadata"]["trials"])
                lead = lambda leaf: np.empty((rows, *leaf.shape), leaf.dtype)
                self._trees = {segment: checkpoint.load(segment, jax.tree.map(lead, like))}
            except checkpoint.CheckpointError as error:
                warnings.warn(f"{error} {RUN_AGAIN}", stacklevel=4)
                self.locations = {m: p for m, p in self.locations.items() if p.segment != segment}
                return None
        carry = jax.tree.map(lambda leaf: leaf[row], self._trees[segment])
        return carry, entry["step"], _decode_metrics(entry)

    def write(self, states: dict[int, TrialState], execution: Execution | None) -> None:
        """Write a segment, and remove those that it replaces.

        states: of trials whose carries have the same structure, by name.
        execution: how they ran.
        """
        carry = jax.tree.map(lambda *leaves: np.stack(leaves), *(state.carry for state in states.values()))
        entries: list[dict[str, Any]] = [
            {
                "trial": trial,
                "step": state.step,
                "metrics": _encode_metrics(state.metrics),
                "settings": _serialize_settings(state.initial_setting),
            }
            for trial, state in states.items()
        ]
        metadata = {"trials": entries, "execution": None if execution is None else list(execution)}
        numbers = [int(path.name.partition("-")[0]) for path in self.segments.glob("[0-9]*")]
        first = min(max(trial, best_name(trial)) for trial in states)  # processes have different trials
        segment = self.segments / f"{max(numbers, default=-1) + 1:08d}-{first}{self._suffix}"
        checkpoint.save(segment, carry, metadata=metadata)
        self._segments_read.add(segment)
        before = {self.locations[trial].segment for trial in states if trial in self.locations}
        for row, entry in enumerate(entries):
            self.locations[entry["trial"]] = _Location(segment, row, entry, metadata["execution"])
        for replaced in before - {location.segment for location in self.locations.values()}:
            removed = replaced.with_name(f".gone-{replaced.name}")
            with suppress(OSError):
                replaced.rename(removed)  # in one step, because another process may be reading
                shutil.rmtree(removed, ignore_errors=True)

    def _plan(self) -> dict[str, Any]:
        """The content of plan.json. Raises: ValueError when it is invalid."""
        plan = self.folder / "plan.json"
        hint = "Start the sweep again in another folder."
        content = documents.read_json(plan, {"executions?": {str: list}}, hint)
        for execution in content.get("executions", {}).values():
            is_valid = len(execution) == len(Execution._fields) and execution[0] in EXECUTIONS
            if not is_valid or not all(type(size) is int and size > 0 for size in execution[1:4]):
                expected = f"executions should be lists of {', '.join(Execution._fields)}"
                check.fail(str(plan), expected=expected, actual=execution, hint=hint)
        return content

    def _write_plan(self, content: dict[str, Any]) -> None:
        documents.write_file(self.folder / "plan.json", f"{json.dumps(content, indent=2)}\n".encode())

    def _check_identity(self, plan: Path, of: dict[str, Any]) -> None:
        if not plan.exists():
            self._write_plan(of)
            return
        before = self._plan()
        for name, value in json.loads(json.dumps(of)).items():
            if before.get(name, value) != value:
                expected = f"a resumed sweep should have the same {name}, {before[name]}"
                check.fail("sweep", expected=expected, actual=value, hint="Use another folder to change it.")


def _find_invalid(metadata: dict[str, Any]) -> str:
    """What is wrong with the values of metadata that has the right form, or ""."""
    execution = metadata["execution"]
    if execution is not None and len(execution) != len(Execution._fields):
        return f"metadata.execution should have {len(Execution._fields)} entries, got {len(execution)}"
    curves = [curve for entry in metadata["trials"] for curve in entry["metrics"].values()]
    steps = {step for curve in curves for step in curve}
    wrong = next((step for step in steps if not re.fullmatch(r"\d{1,18}", step)), None)
    return "" if wrong is None else f"the keys of metadata.metrics should be steps, got {wrong!r}"


def _decode_metrics(entry: dict[str, Any]) -> dict[str, dict[int, float]]:
    """The metrics of a trial from its entry in the metadata."""
    return {
        name: {int(step): math.nan if v is None else v for step, v in curve.items()}
        for name, curve in entry["metrics"].items()
    }


def _encode_metrics(metrics: dict[str, dict[int, float]]) -> dict[str, dict[int, float | None]]:
    """The metrics as strict JSON holds them: None for what is not finite."""
    finite = lambda value: value if math.isfinite(value) else None
    return {name: {step: finite(v) for step, v in curve.items()} for name, curve in metrics.items()}


def _serialize_settings(settings: dict[str, Any]) -> dict[str, str]:
    """The settings as text that is the same in every process, for functions and arrays too."""

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
        is_leaf = len(leaves) == 1 and leaves[0] is value
        return serialize_leaf(value) if is_leaf else f"{treedef} {[serialize_leaf(v) for v in leaves]}"

    return {name: serialize(value) for name, value in settings.items()}
