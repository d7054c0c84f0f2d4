"""The rows of a metrics.jsonl that grows while it is read."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.runs.metrics_log import Row, parse_rows

__all__ = ["LogFollower"]


class LogFollower:
    """The rows of a file that another process writes to. Call `poll`, read `rows`.

    A last line without its end is waited for. A file that was cut back or replaced, as by a resume, is
    read again from its start. layers: how many of the long rows of layers are kept, half of them
    the last ones, without their histograms; None keeps all.
    """

    def __init__(self, path: Path, *, layers: int | None = None):
        self.path, self.layers = path, layers
        self.rows: list[Row] = []
        self._file: tuple[int, int] | None = None  # device and inode
        self._place, self._end = 0, b""  # bytes read, and the last of them

    def poll(self) -> bool:
        """Read what is new; whether the rows changed."""
        try:
            with self.path.open("rb") as file:
                return self._read(file)
        except OSError:
            changed = bool(self.rows)
            self.rows, self._file, self._place, self._end = [], None, 0, b""
            return changed

    def _read(self, file: Any) -> bool:
        about = os.fstat(file.fileno())
        changed = False
        file.seek(max(self._place - len(self._end), 0))
        same = (about.st_dev, about.st_ino) == self._file and file.read(len(self._end)) == self._end
        if not same:
            changed = bool(self.rows)
            self.rows, self._place, self._end = [], 0, b""
            self._file = about.st_dev, about.st_ino
        file.seek(self._place)
        whole, newline, _ = file.read().rpartition(b"\n")
        if newline:
            new = parse_rows(whole.split(b"\n"))
            self.rows = self.rows + new if self.layers is None else _slim(self.rows + new, self.layers)
            self._place += len(whole) + 1
            self._end = (self._end + whole[-256:] + b"\n")[-256:]
            changed |= bool(new)
        return changed


def _slim(rows: list[Row], most: int) -> list[Row]:
    """The rows with only so many of layers, half of them the last ones, and only their numbers."""
    places = [i for i, row in enumerate(rows) if row["split"] == "layers"]
    if len(places) > most:
        old, late = places[: -(most // 2)], places[-(most // 2) :]
        chosen = np.linspace(0, len(old) - 1, most - len(late)).round().astype(int)
        dropped = set(old) - {old[i] for i in chosen}
        rows = [row for i, row in enumerate(rows) if i not in dropped]
    for row in rows:
        for part in ("parameters", "activations") if row["split"] == "layers" else ():
            entries = row.get(part)
            for entry in entries.values() if isinstance(entries, dict) else ():
                if isinstance(entry, dict):
                    for name in [name for name, value in entry.items() if isinstance(value, list)]:
                        del entry[name]
    return rows
