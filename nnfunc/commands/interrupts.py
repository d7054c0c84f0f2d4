"""Signals and full disks, which end a command early, and the messages for the user.

A signal ends the process inside its handler, with the message of the innermost `interrupt_message`. It is
never raised, because an exception inside a compiler callback or a finalizer may be lost or come out as
another error. Only the training loop handles signals differently: it saves first (`catch_signals`).
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

_messages: list[tuple[str, Callable[[], object]]] = [("stopped before it began; nothing was written", lambda: None)]
"""(message, undo) of each `interrupt_message` block that runs, the innermost last."""


class Stopped(Exception):
    """A signal stopped the run after it had saved. signum: of the signal. message: for the user."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


def write_message(message: str) -> None:
    """Write a message as one line to standard error, also from within a signal handler."""
    # print is not safe here: its buffer may be in use when the signal arrives
    os.write(2, f"nnfunc: {message}\n".encode())


def _exit_on_signal(signum: int, frame: object) -> NoReturn:
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    message, undo = _messages[-1]
    with suppress(Exception):
        undo()
    with suppress(Exception):  # standard output may be in use when the signal arrives
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h")  # a live panel hides the cursor
        sys.stdout.flush()
    with suppress(OSError):
        write_message(message)
    os._exit(128 + signum)


@contextmanager
def catch_signals(notify: Callable[[str], None] = write_message, *, together: bool = False) -> Iterator[list[int]]:
    """Collect the signals that arrive while the block runs; a second one raises KeyboardInterrupt.

    notify: shows the message after the first signal, because the current step or its compilation may take a while;
        by default on standard error.
    together: whether several processes have to stop at the same step: JAX then answers SIGTERM, as which Ctrl-C
        counts (`nnfunc.distributed.processes.stops_at`).
    """
    caught: list[int] = []

    def handle(signum, frame):
        if caught:
            raise KeyboardInterrupt
        caught.append(signum)
        again = "; press Ctrl-C again to stop immediately" if signum == signal.SIGINT else ""
        notify(f"stopping after this step{again}")

    answers = (
        {signal.SIGINT: lambda *_: os.kill(os.getpid(), signal.SIGTERM)} if together else dict.fromkeys(SIGNALS, handle)
    )
    handlers = {signum: signal.signal(signum, answer) for signum, answer in answers.items()}
    try:
        yield caught
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)


@contextmanager
def interrupt_message(message: str, undo: Callable[[], object] = lambda: None) -> Iterator[None]:
    """End the program with `message` when a signal arrives while the block runs.

    message: also the text of the `Stopped` that a KeyboardInterrupt becomes.
    undo: removes what the block has written, before the program ends.
    """
    _messages.append((message, undo))
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(signal.SIGINT, message) from None
    finally:
        _messages.pop()


@contextmanager
def explain_full_disk(folder: Path, hint: str) -> Iterator[None]:
    """Explain in the error of a full disk what is saved, and what to do.

    folder: of the run that the block writes.
    hint: how to continue once there is space.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        saved = " Everything saved before is intact." if (folder / "metrics.jsonl").exists() else ""
        problem = f"the disk is full ({os.strerror(error.errno)}).{saved} Free some space. {hint}"
        raise OSError(error.errno, problem, str(folder)) from error


for _signum in SIGNALS if early_signals.is_command_line() else ():
    signal.signal(_signum, _exit_on_signal)
