"""One process at a time writes into a run's folder."""

import errno
import os
import socket
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: nothing is refused there
    fcntl = None

__all__ = ["Lock"]


class Lock:
    """Holds `folder/lock` until it is closed or the process ends, however it ends.

    Raises: BlockingIOError when another process, or another run in this one, holds it.
    """

    def __init__(self, folder: Path):
        self.path = folder / "lock"
        self.file: Any = None
        while self.file is None:
            self.file = self._taken()

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
        if self.file is not None:
            self.path.unlink(missing_ok=True)
            self.file.close()
            self.file = None
