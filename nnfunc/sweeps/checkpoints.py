"""The folder of a sweep: what its members had come to when they were last saved.

segments/00000000-0, ...   checkpoints, each of some members side by side; of a member that is in
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
from nnfunc.sweeps.strategy import WAYS, Way
from nnfunc.sweeps.trial import Trial
from nnfunc.training.compiled import Carry

__all__ = ["Saved", "Store", "peak_name"]


def peak_name(member: int) -> int:
    """What the best state of a member is saved as, and the member that such a name is of."""
    return -1 - member


SEGMENT = {
    "members": [
        {
            "member": range(-(2**31), 2**31),
            "step": range(2**63),
            "figures": {str: {str: (float, None)}},
            "settings": {str: str},
        }
    ],
    "way": (list, None),
}
"""The metadata of a segment; see `documents`."""


class Saved(NamedTuple):
    """A member as it is kept; see `Track`. member: or `peak_name` of it."""

    member: int
    carry: Any
    step: int
    figures: dict[str, dict[int, float]]
    settings: dict[str, Any]


class _Place(NamedTuple):
    """Where a member is: its segment and row, what is known of it, and how it ran."""

    segment: Path
    row: int
    known: dict[str, Any]
    way: list[Any] | None


class Store:
    """Reads and writes the folder; it is the only one that does until it is closed.

    of: what a sweep must have in common with the one that it goes on with, as JSON holds it.
    shared: whether several processes write into the folder, each of them members of its own.
    Raises: FileExistsError when the folder holds a sweep and resume is False; ValueError when it is
    another one; BlockingIOError when another process writes there.
    """

    def __init__(self, folder: str | Path, *, resume: bool, of: dict[str, Any], shared: bool = False):
        self.folder = Path(folder)
        self.segments, plan = self.folder / "segments", self.folder / "plan.json"
        if plan.exists() and not resume:
            cure = "Give another folder, or go on with resume=True."
            raise FileExistsError(f"{folder} already holds a sweep. {cure}")
        self.new = not plan.exists()
        self.segments.mkdir(parents=True, exist_ok=True)
        self.lock = None if shared else FolderLock(self.folder, shared=False)
        self._own = f"-{uuid.uuid4().hex[:6]}" if shared else ""  # another may count alike
        try:
            self._agree(plan, of)
        except ValueError:
            self.close()
            raise
        if not shared:
            for gone in self.segments.glob(".gone-*"):  # a process died while it removed them
                shutil.rmtree(gone, ignore_errors=True)
        self._ways: dict[str, Any] = self._plan().get("ways", {})
        self._trees: dict[Path, Any] = {}
        self._seen: set[Path] = set()
        self.places: dict[int, _Place] = {}
        self.look()

    def close(self) -> None:
        """Let another process go on with the folder."""
        if self.lock is not None:
            self.lock.close()

    def __contains__(self, member: int) -> bool:
        return member in self.places

    def look(self) -> None:
        """Take note of what is new there: later segments count before earlier ones."""
        new = set(self.segments.glob("[0-9]*")) - self._seen
        self._seen |= new
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
            for row, own in enumerate(known["members"]):
                self.places[own["member"]] = _Place(segment, row, own, known["way"])

    def forget(self, member: int) -> None:
        """Take a member as not saved."""
        self.places.pop(member, None)

    def discard(self) -> None:
        """Remove what a sweep that never began has left."""
        if self.new and not any(self.segments.iterdir()):
            (self.folder / "plan.json").unlink(missing_ok=True)
            self.segments.rmdir()

    def known(self, member: int) -> tuple[int, dict[str, dict[int, float]]]:
        """The step that a member was saved at, and its figures; (0, {}) where it was not."""
        if member not in self.places:
            return 0, {}
        known = self.places[member].known
        return known["step"], _figures(known)

    def way(self, member: int) -> Way | None:
        """How a member ran, or was going to, where that is known."""
        way = self._ways.get(str(member))
        if way is None and member in self.places:
            way = self.places[member].way
        return None if way is None else Way(*way)

    def note_way(self, member: int, way: Way) -> None:
        """Write down how a member, and all of its program, are going to run; the first time counts.

        What is quickest may be another way the next time, and its results differ by rounding.
        """
        if str(member) in self._ways:
            return
        plan = self._plan()
        ways = plan.setdefault("ways", {})
        if str(member) not in ways:
            ways[str(member)] = list(way)
            self._write_plan(plan)
        self._ways = ways

    def read(self, member: int, like: Carry, trial: Trial) -> Saved | None:
        """A member as it was saved; None, and a warning, where that is damaged.

        like: of what structure its carry is.
        """
        segment, row, known, _ = self.places[member]
        if known["settings"] != _words(trial.settings):
            got = ", ".join(f"{k}={v}" for k, v in _words(trial.settings).items())
            cure = "Start another folder for another space."
            check.fail("sweep", f"member {member} should have the settings that it was saved with, got {got}. {cure}")
        if segment not in self._trees:  # members come in the order of their segments, or nearly
            try:
                rows = len(checkpoint.inspect(segment)["metadata"]["members"])
                lead = lambda leaf: np.empty((rows, *leaf.shape), leaf.dtype)
                self._trees = {segment: checkpoint.load(segment, jax.tree.map(lead, like))}
            except checkpoint.CheckpointError as error:
                warnings.warn(f"{error} What it held is run again.", stacklevel=4)
                self.places = {m: p for m, p in self.places.items() if p.segment != segment}
                return None
        carry = jax.tree.map(lambda leaf: leaf[row], self._trees[segment])
        return Saved(member, carry, known["step"], _figures(known), trial.settings)

    def write(self, saved: list[Saved], way: Way | None) -> None:
        """Keep members of one structure, and forget the segments that they replace."""
        carry = jax.tree.map(lambda *leaves: np.stack(leaves), *(own.carry for own in saved))
        known: list[dict[str, Any]] = [
            {"member": own.member, "step": own.step, "figures": _plain(own), "settings": _words(own.settings)}
            for own in saved
        ]
        metadata = {"members": known, "way": None if way is None else list(way)}
        segment = self._next(min(max(own.member, peak_name(own.member)) for own in saved))
        checkpoint.save(segment, carry, metadata=metadata)
        self._seen.add(segment)
        before = {self.places[own.member].segment for own in saved if own.member in self.places}
        for row, own in enumerate(known):
            self.places[own["member"]] = _Place(segment, row, own, metadata["way"])
        self._remove(before - {place.segment for place in self.places.values()})

    def _next(self, member: int) -> Path:
        """A name after all others; processes that share the folder have members of their own."""
        numbers = [int(path.name.partition("-")[0]) for path in self.segments.glob("[0-9]*")]
        return self.segments / f"{max(numbers, default=-1) + 1:08d}-{member}{self._own}"

    def _remove(self, segments: Iterable[Path]) -> None:
        for segment in segments:
            gone = segment.with_name(f".gone-{segment.name}")
            try:
                segment.rename(gone)  # at once: another process may be looking
            except OSError:
                continue
            shutil.rmtree(gone, ignore_errors=True)

    def _plan(self) -> dict[str, Any]:
        """What plan.json holds. Raises: ValueError when that is nothing that was written here."""
        plan = self.folder / "plan.json"
        hint = "Start the sweep again in another folder."
        content = documents.read_json(plan, {"ways?": {str: list}}, hint)
        for way in content.get("ways", {}).values():
            if not (len(way) == len(Way._fields) and way[0] in WAYS and all(map(_is_size, way[1:4]))):
                check.fail(str(plan), f"a way should be one that a sweep has, got {way}. {hint}")
        return content

    def _write_plan(self, content: dict[str, Any]) -> None:
        temporary = self.folder / f"plan{self._own}.tmp"
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.folder / "plan.json")

    def _agree(self, plan: Path, of: dict[str, Any]) -> None:
        if not plan.exists():
            self._write_plan(of)
            return
        before = self._plan()
        for name, value in json.loads(json.dumps(of)).items():
            if before.get(name, value) != value:
                cure = "Start another folder to change it."
                words = f"a sweep should go on with the same {name}, {before[name]}, got {value}"
                check.fail("sweep", f"{words}. {cure}")


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _unordered(known: dict[str, Any]) -> str:
    """What is wrong with metadata of the right form: steps that are none, or a way that is none."""
    way = known["way"]
    if way is not None and len(way) != len(Way._fields):
        return f"metadata.way should have {len(Way._fields)} entries, got {len(way)}"
    curves = [curve for own in known["members"] for curve in own["figures"].values()]
    steps = {step for curve in curves for step in curve}
    wrong = next((step for step in steps if not re.fullmatch(r"\d{1,18}", step)), None)
    return "" if wrong is None else f"metadata.figures should be by step, got {wrong!r}"


def _figures(known: dict[str, Any]) -> dict[str, dict[int, float]]:
    """The figures of what `_plain` made."""
    return {
        name: {int(step): math.nan if v is None else v for step, v in curve.items()}
        for name, curve in known["figures"].items()
    }


def _plain(saved: Saved) -> dict[str, dict[int, float | None]]:
    """The figures as strict JSON holds them."""
    curves = saved.figures.items()
    good = lambda value: value if math.isfinite(value) else None
    return {name: {step: good(v) for step, v in curve.items()} for name, curve in curves}


def _words(settings: dict[str, Any]) -> dict[str, str]:
    """Settings as JSON holds them: the same in every process, functions and arrays too."""

    def word(leaf: Any) -> str:
        if hasattr(leaf, "shape"):
            array = np.asarray(leaf)
            digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
            return f"{array.dtype}{list(array.shape)} {digest}"
        if code := getattr(leaf, "__code__", None):
            made = hashlib.sha256(code.co_code + repr(code.co_consts).encode()).hexdigest()[:16]
            return f"{leaf.__module__}.{leaf.__qualname__} {made}"
        return re.sub(r" at 0x[0-9a-f]+", "", repr(leaf))

    def words(value: Any) -> str:
        leaves, treedef = jax.tree.flatten(value)
        alone = len(leaves) == 1 and leaves[0] is value
        return word(value) if alone else f"{treedef} {[word(v) for v in leaves]}"

    return {name: words(value) for name, value in settings.items()}
