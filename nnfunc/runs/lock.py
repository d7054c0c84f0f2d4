"""One process at a time writes into a run's folder."""

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

__all__ = ["FolderLock"]


PATIENCE = 0.3  # seconds: whoever only looks whether a run goes on holds the file for a moment


class FolderLock:
    """Holds `folder/lock` until it is closed or the process ends, however it ends.

    lent: whether one run in this process may use it, as a program does that has more to write there
    when the training is over.
    Raises: BlockingIOError when another process, or another run in this one, holds it.
    """

    held: dict[str, "FolderLock"] = {}

    def __init__(self, folder: Path, *, shared: bool = False):
        self.path = folder.resolve() / "lock"
        self.file: Any = None
        self.lent, self.borrowed = shared, False
        owner = FolderLock.held.get(str(self.path))
        if owner is not None and owner.lent:
            owner.lent, self.borrowed = False, True
            return
        until = time.monotonic() + PATIENCE
        while self.file is None:
            try:
                self.file = self._taken()
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)
        FolderLock.held[str(self.path)] = self

    def _taken(self) -> Any:
        """The locked file, or None when its last holder removed it meanwhile."""
        file = self.path.open("a+")
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            problem = f"{holder} is training in this folder. Wait for it, or give another folder"
            raise BlockingIOError(errno.EAGAIN, problem, str(self.path.parent)) from error
        if not self.path.exists() or os.fstat(file.fileno()).st_ino != self.path.stat().st_ino:
            file.close()
            return None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        return file

    def close(self) -> None:
        """Let the next one in."""
        if self.borrowed and str(self.path) in FolderLock.held:
            FolderLock.held[str(self.path)].lent = True
        if self.file is not None:
            FolderLock.held.pop(str(self.path), None)
            self.path.unlink(missing_ok=True)
            self.file.close()
            self.file = None

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
