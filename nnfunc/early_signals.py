"""Signals in the first moments of the command line, until `nnfunc.commands.interrupts` answers them.

The package imports this first, and it imports nothing that Python has not loaded at its start.
"""

import _signal  # pyright: ignore[reportMissingImports]
import os
import sys

SIGNALS = (_signal.SIGINT, _signal.SIGTERM)


def is_command_line() -> bool:
    """Whether this process was started as `nnfunc`, or as `python -m nnfunc`."""
    # without a program, as in an embedded Python, both are empty
    text = sys.orig_argv[-len(sys.argv) :] if sys.argv else []
    program = os.path.basename(text[0].removeprefix("-m")) if text else ""
    return program in ("nnfunc", "nnfunc.exe", "nnfunc.cli")


def leave(signum: int, frame: object) -> None:
    """End the process with the message of a run that has not begun. signum, frame: as for any handler."""
    try:
        os.write(2, b"nnfunc: stopped before it began; nothing was written\n")
    finally:
        os._exit(128 + signum)


if is_command_line():
    for _signum in SIGNALS:
        _signal.signal(_signum, leave)
