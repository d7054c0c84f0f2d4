"""`nnfunc watch`: a run in the terminal while it goes on, or afterwards."""

import io
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live

from nnfunc import runlog
from nnfunc.dashboard.frame import View, frame

__all__ = ["terminal", "watch"]

PAUSE = 0.5  # seconds between looks


def watch(folder: Path, *, once: bool = False, console: Console | None = None) -> None:
    """Show a run until it is complete, or until q or Ctrl-C; once, or into a pipe, show it one time.

    Raises: FileNotFoundError when the folder holds no run.
    """
    console = console or terminal()
    view = View(runlog.find(folder))
    view.poll()
    if not once and console.is_terminal:
        _follow(view, console)
    console.print(frame(view, console))


def terminal() -> Console:
    """The console of standard output, which bears names that its encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False)


def _follow(view: View, console: Console) -> None:
    """Show the run on a screen of its own until it ends or a key is pressed."""
    with Live(console=console, screen=True, auto_refresh=False) as live, _keys() as pressed:
        try:
            while True:
                view.poll()
                live.update(frame(view, console, fit=True), refresh=True)
                if view.state.name == "complete" or pressed() in ("q", "Q", "\x1b"):
                    return
        except KeyboardInterrupt:
            return


@contextmanager
def _keys() -> Iterator[Callable[[], str]]:
    """A function that waits a moment for a key, and returns it or ""."""

    def sleep() -> str:
        time.sleep(PAUSE)
        return ""

    def key() -> str:
        ready, _, _ = select.select([sys.stdin], [], [], PAUSE)
        return sys.stdin.read(1) if ready else ""

    try:
        import termios
        import tty

        before = termios.tcgetattr(sys.stdin)
    except (ImportError, OSError, ValueError):  # no terminal to read from
        yield sleep
        return
    except Exception as error:
        if type(error).__name__ != "error":  # termios.error
            raise
        yield sleep
        return
    tty.setcbreak(sys.stdin)
    try:
        yield key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
