"""The rows of a metrics.jsonl that grows while it is read."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.runs.metrics_log import LAYER_TABLES, Row, parse_rows


class LogFollower:
    """Follows a file that another process writes to: `poll` reads the new lines into `rows`.

    A last line without its newline is read once it is complete. A file that was truncated or replaced, as
    by a resume, is read again from its start.
    path: of metrics.jsonl.
    layers: the most rows of layers to keep in memory, without their histograms; half of them are the latest. None
        keeps all, with histograms.
    """

    def __init__(self, path: Path, *, layers: int | None = None):
        self.path, self.layers = path, layers
        self.rows: list[Row] = []
        self._file: tuple[int, int] | None = None  # device and inode
        self._offset, self._end = 0, b""  # the number of bytes read, and the last of them

    def poll(self) -> bool:
        """Read the new lines; returns whether the rows changed."""
        try:
            with self.path.open("rb") as file:
                return self._read(file)
        except OSError:
            changed = bool(self.rows)
            self.rows, self._file, self._offset, self._end = [], None, 0, b""
            return changed

    def _read(self, file: Any) -> bool:
        stat, changed = os.fstat(file.fileno()), False
        file.seek(max(self._offset - len(self._end), 0))
        if (stat.st_dev, stat.st_ino) != self._file or file.read(len(self._end)) != self._end:
            changed = bool(self.rows)
            self.rows, self._offset, self._end = [], 0, b""
            self._file = stat.st_dev, stat.st_ino
        file.seek(self._offset)
        lines, newline, _ = file.read().rpartition(b"\n")
        if newline:
            new = parse_rows(lines.split(b"\n"))
            self.rows = [*self.rows, *new]
            if self.layers is not None:
                _drop_histograms(new)
                self.rows = _thin_out(self.rows, self.layers)
            self._offset += len(lines) + 1
            self._end = (self._end + lines[-256:] + b"\n")[-256:]
            changed |= bool(new)
        return changed


def _drop_histograms(rows: list[Row]) -> None:
    for row in rows:
        for part in LAYER_TABLES if row["split"] == "layers" else ():
            entries = row[part].items()
            row[part] = {path: {k: v for k, v in entry.items() if not isinstance(v, list)} for path, entry in entries}


def _thin_out(rows: list[Row], count: int) -> list[Row]:
    """The rows with at most `count` of layers: the latest half of them, and earlier ones evenly spaced."""
    indices = [i for i, row in enumerate(rows) if row["split"] == "layers"]
    if len(indices) <= count:
        return rows
    early, late = indices[: -(count // 2)], indices[-(count // 2) :]
    chosen = np.linspace(0, len(early) - 1, count - len(late)).round().astype(int)
    dropped = set(early) - {early[i] for i in chosen}
    return [row for i, row in enumerate(rows) if i not in dropped]
