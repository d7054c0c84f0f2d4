"""The runs below a folder, read again only where their files have changed."""

import os
import threading
from pathlib import Path

from nnfunc.commands.list_runs.collect_runs import RunEntry, collect_runs, read_run
from nnfunc.runs.tail import LogFollower

FILES = ("config.toml", "metrics.jsonl", "result.json", "merged.json")
Stamp = tuple[tuple[int, int] | None, ...]


class LiveRuns:
    """Follows the runs below a folder. folder: that contains runs, at any depth."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._cache: dict[Path, tuple[Stamp, RunEntry]] = {}
        self._followers: dict[Path, LogFollower] = {}
        self._lock = threading.Lock()  # requests are answered by threads

    def entries(self) -> list[RunEntry]:
        """Every run and sweep, as of `collect_runs`."""
        with self._lock:
            return collect_runs(self.folder, self._read)

    def find(self, name: str) -> tuple[Path, RunEntry] | None:
        """The folder and the entry of a run by its name in `entries`; None without one."""
        for entry in self.entries():
            if entry.name == name and entry.state != "no run":
                inside = self.folder / name
                return (inside if inside.is_dir() else self.folder), entry
        return None

    def _read(self, path: Path, name: str) -> RunEntry:
        stamp = tuple(_stamp(path / file) for file in FILES)
        cached = self._cache.get(path)
        if cached is not None and cached[0] == stamp and cached[1].state != "running":
            return cached[1]
        follower = self._followers.setdefault(path, LogFollower(path / "metrics.jsonl", layers=0))
        follower.poll()
        entry = read_run(path, name, [row for row in follower.rows if row["split"] != "layers"])
        if entry.state != "running":
            self._followers.pop(path)
        self._cache[path] = stamp, entry
        return entry


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size
