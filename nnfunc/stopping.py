"""What ends a program before its time: signals, and disks that are full; and what is told of it."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Stopped", "answer", "full_disk", "signals", "told"]


class Stopped(Exception):
    """A signal asked the run to stop, and it has saved."""

    def __init__(self, signum: int, words: str):
        super().__init__(words)
        self.signum = signum


def answer(words: str) -> None:
    """Write to standard error, from within the handler of a signal too."""
    # not print: its buffer may be in use where the signal arrives
    os.write(2, f"nnfunc: {words}\n".encode())


@contextmanager
def signals(tell: Callable[[str], None] = answer) -> Iterator[list[int]]:
    """The signals caught while the block runs; the second Ctrl-C interrupts at once.

    tell: what answers the first, for the step in hand, or its compilation, may take a while; by
    default on standard error.
    """
    caught: list[int] = []

    def note(signum, frame):
        if caught:
            raise KeyboardInterrupt
        caught.append(signum)
        again = "; Ctrl-C again stops at once" if signum == signal.SIGINT else ""
        tell(f"stopping after this step{again}")

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def told(words: str) -> Iterator[None]:
    """A Ctrl-C while the block runs is a `Stopped` with these words."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, words) from None


@contextmanager
def full_disk(folder: Path, cure: str) -> Iterator[None]:
    """Say of a full disk that nothing is lost, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        begun = (folder / "metrics.jsonl").exists()
        whole = "What was saved before is whole. Make room." if begun else "Make room."
        problem = f"the disk is full ({os.strerror(error.errno)}). {whole} {cure}"
        raise OSError(error.errno, problem, str(folder)) from error
