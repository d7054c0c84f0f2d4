"""The lock of a run's folder, so that one process at a time writes to it."""

import os
import socket
import time
from pathlib import Path
from typing import Any

from nnfunc import check

try:
    import fcntl
except ImportError:  # Windows: there are no locks
    fcntl = None

WAIT = 0.3  # seconds; `is_locked` of another process locks the file for a moment


class FolderLock:
    """A lock on `folder/lock`, until it is closed or the process ends; a context manager.

    folder: of a run or a sweep.
    shared: whether one more FolderLock of this process may use the lock, as `nf.train` does inside a command that
        writes to the folder after the training.
    Raises: BlockingIOError when another process, or another run in this one, has the lock.
    """

    _locks: dict[str, "FolderLock"] = {}

    def __init__(self, folder: Path, *, shared: bool = False):
        self.path = folder.resolve() / "lock"
        self.file: Any = None
        self.shared, self.borrowed = shared, False
        existing = FolderLock._locks.get(str(self.path))
        if existing is not None and existing.shared:
            existing.shared, self.borrowed = False, True
            return
        deadline = time.monotonic() + WAIT
        while self.file is None:
            try:
                self.file = self._open_locked()
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        FolderLock._locks[str(self.path)] = self

    def _open_locked(self) -> Any:
        """The locked file; None when the process that had it locked has just removed it."""
        file = self.path.open("a+")
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            hint = "Wait until it ends, or choose another folder."
            where = str(self.path.parent)
            check.fail(where, f"{owner} is training in this folder.", hint=hint, exc_type=BlockingIOError)
        if not self.path.exists() or os.fstat(file.fileno()).st_ino != self.path.stat().st_ino:
            file.close()
            return None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        return file

    def close(self) -> None:
        """Release the lock."""
        if self.borrowed and str(self.path) in FolderLock._locks:
            FolderLock._locks[str(self.path)].shared = True
        if self.file is not None:
            FolderLock._locks.pop(str(self.path), None)
            self.path.unlink(missing_ok=True)
            self.file.close()
            self.file = None

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def is_locked(folder: Path) -> bool:
    """Whether a process has locked a folder; always False on Windows. folder: of a run or a sweep."""
    if fcntl is None:
        return False
    try:
        with (folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # released when the file is closed
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
