"""`nnfunc watch`: a run in the terminal while it goes on, or afterwards."""

import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live

from nnfunc.commands.terminal import open_console
from nnfunc.commands.watch.dashboard import View, frame
from nnfunc.runs import run_folder

__all__ = ["watch"]

PAUSE = 0.5  # seconds between looks
REDRAW = 5.0  # and between frames without news, for "so many seconds ago"


def watch(folder: Path, *, once: bool = False, console: Console | None = None) -> None:
    """Show a run until it is complete, or until q or Ctrl-C; once, or into a pipe, show it one time.

    Raises: FileNotFoundError when the folder holds no run.
    """
    console = console or open_console()
    view = View(run_folder.find(folder))
    view.poll()
    if not once and console.is_terminal:
        _follow(view, console)
    console.print(frame(view, console))


def _follow(view: View, console: Console) -> None:
    """Show the run on a screen of its own until it ends or a key is pressed."""
    with (
        Live(console=console, screen=True, auto_refresh=False) as live,
        _keys() as pressed,
        _interrupted() as interrupted,
    ):
        drawn: tuple[float, Any] = -math.inf, None
        while not interrupted:
            news, now = view.poll(), time.monotonic()
            if news or now - drawn[0] > REDRAW or console.size != drawn[1]:
                live.update(frame(view, console, fit=True), refresh=True)
                drawn = now, console.size
            if view.state.name == "complete" or "q" in pressed().lower():
                return


@contextmanager
def _interrupted() -> Iterator[list[int]]:
    """The Ctrl-C's while the block runs: as an exception one may be lost, as in a finalizer."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # which alone has signals
        yield caught
        return
    before = signal.signal(signal.SIGINT, lambda signum, frame: caught.append(signum))
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """A function that waits a moment for keys, and returns them, "q" when the terminal is gone."""

    def sleep() -> str:
        time.sleep(PAUSE)
        return ""

    def keys() -> str:
        ready, _, _ = select.select([sys.stdin], [], [], PAUSE)
        return os.read(sys.stdin.fileno(), 256).decode(errors="replace") or "q" if ready else ""

    try:
        import termios
        import tty
    except ImportError:  # Windows: Ctrl-C ends it
        yield sleep
        return
    try:
        before = termios.tcgetattr(sys.stdin)
    except (termios.error, OSError, ValueError):  # no terminal to read from
        yield sleep
        return
    tty.setcbreak(sys.stdin)
    try:
        yield keys
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
