"""The lock of a run's folder: one process at a time writes there."""

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: nothing is refused there
    fcntl = None

__all__ = ["FolderLock", "is_locked"]


WAIT = 0.3  # seconds: a process that only checks whether a run is running holds the file for a moment


class FolderLock:
    """Locks `folder/lock` until it is closed or the process ends, however it ends.

    folder: of a run or a sweep. shared: whether one run in this process may use the lock too, for a
    command that writes more when the training has ended.
    Raises: BlockingIOError when another process, or another run in this one, holds the lock.
    """

    _locks: dict[str, "FolderLock"] = {}

    def __init__(self, folder: Path, *, shared: bool = False):
        self.path = folder.resolve() / "lock"
        self.file: Any = None
        self.shared, self.borrowed = shared, False
        owner = FolderLock._locks.get(str(self.path))
        if owner is not None and owner.shared:
            owner.shared, self.borrowed = False, True
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
        """The locked file, or None when its last owner removed it meanwhile."""
        file = self.path.open("a+")
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            owner = file.read().strip() or "another process"
            file.close()
            problem = f"{owner} is training in this folder. Wait for it, or give another folder"
            raise BlockingIOError(errno.EAGAIN, problem, str(self.path.parent)) from error
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
    """Whether a process holds the lock of a folder. Without the file, or on Windows, no.

    folder: of a run or a sweep.
    """
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
