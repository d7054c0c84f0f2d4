"""The terminal that programs write to."""

import io
import sys

from rich.console import Console

__all__ = ["terminal"]


def terminal() -> Console:
    """The console of standard output, which bears names that its encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False)
