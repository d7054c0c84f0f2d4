"""The command `nnfunc watch`: a run in the terminal, live or finished."""

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

from rich.console import Console
from rich.live import Live

from nnfunc.commands.terminal import open_console
from nnfunc.commands.watch.dashboard import RunView, render_dashboard
from nnfunc.runs import run_folder

POLL_SECONDS = 0.5
REDRAW_SECONDS = 5.0  # without new rows, to update the age of the last row


def watch(folder: Path, *, once: bool = False, console: Console | None = None) -> None:
    """Show a run until it is complete, or until q or Ctrl-C.

    folder: of the run.
    once: show it a single time, as when standard output is no terminal.
    console: to print to; by default standard output.
    Raises: FileNotFoundError when the folder is not a run.
    """
    console = console or open_console()
    view = RunView(run_folder.check_folder(folder))
    view.poll()
    if not once and console.is_terminal:
        _follow(view, console)
    console.print(render_dashboard(view, console))


def _follow(view: RunView, console: Console) -> None:
    """Show the run full-screen until it is complete or the user quits."""
    with (
        Live(console=console, screen=True, auto_refresh=False) as live,
        _key_reader() as read_keys,
        _catch_interrupts() as interrupts,
    ):
        last_draw, size = -math.inf, None
        while not interrupts:
            changed, now = view.poll(), time.monotonic()
            if changed or now - last_draw > REDRAW_SECONDS or console.size != size:
                live.update(render_dashboard(view, console, fit=True), refresh=True)
                last_draw, size = now, console.size
            if view.state.name == "complete" or "q" in read_keys().lower():
                return


@contextmanager
def _catch_interrupts() -> Iterator[list[int]]:
    """Collect Ctrl-C while the block runs; as an exception it may be lost in a finalizer."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread has signals
        yield caught
        return
    handler = signal.signal(signal.SIGINT, lambda signum, frame: caught.append(signum))
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _key_reader() -> Iterator[Callable[[], str]]:
    """A function that waits a moment for keys and returns them; "q" when the terminal was closed."""

    def sleep() -> str:
        time.sleep(POLL_SECONDS)
        return ""

    def read_keys() -> str:
        ready, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
        return os.read(sys.stdin.fileno(), 256).decode(errors="replace") or "q" if ready else ""

    try:
        import termios
        import tty

        settings = termios.tcgetattr(sys.stdin)
    except ImportError:  # Windows: Ctrl-C quits
        yield sleep
        return
    except (termios.error, OSError, ValueError):  # standard input is no terminal
        yield sleep
        return
    tty.setcbreak(sys.stdin)
    try:
        yield read_keys
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)
