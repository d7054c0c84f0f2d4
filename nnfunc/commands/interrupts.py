"""What ends a program before its time: signals, and disks that are full; and what is told of it.

A signal ends the command line in its handler, with the words of the innermost `told`, and is never
raised: an exception inside a callback of the compiler, or in a finalizer, may be lost, or come out as
another error. Only the loop of training answers otherwise, by saving first (`signals`).
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from nnfunc import early_signals
from nnfunc.early_signals import SIGNALS

__all__ = ["Stopped", "answer", "full_disk", "signals", "told"]

_Told = tuple[str, Callable[[], object]]
_told: list[_Told] = [("stopped before it began; nothing was written", lambda: None)]


class Stopped(Exception):
    """A signal asked the run to stop, and it has saved."""

    def __init__(self, signum: int, words: str):
        super().__init__(words)
        self.signum = signum


def answer(words: str) -> None:
    """Write to standard error, from within the handler of a signal too."""
    # not print: its buffer may be in use where the signal arrives
    os.write(2, f"nnfunc: {words}\n".encode())


def _leave(signum: int, frame: object) -> NoReturn:
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    words, undo = _told[-1]
    with suppress(Exception):
        undo()
    with suppress(Exception):  # it may be in use where the signal arrives
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h")  # a live panel hides the cursor
        sys.stdout.flush()
    with suppress(OSError):
        answer(words)
    os._exit(128 + signum)


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

    before = {signum: signal.signal(signum, note) for signum in SIGNALS}
    try:
        yield caught
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


@contextmanager
def told(words: str, undo: Callable[[], object] = lambda: None) -> Iterator[None]:
    """A Ctrl-C while the block runs ends the program with these words, or is a `Stopped` with them.

    undo: what removes what the block has left, when the program ends there.
    """
    _told.append((words, undo))
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, words) from None
    finally:
        _told.pop()


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


for _signum in SIGNALS if early_signals.is_command_line() else ():
    signal.signal(_signum, _leave)
