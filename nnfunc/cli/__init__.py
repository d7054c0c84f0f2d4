"""The command line `nnfunc`: every command with its arguments and its help.

A mistake of the user ends with a message and exit code 2, a stopped run with 128 plus the signal's number,
and a diverged run with 1. Any other exception is a defect of nnfunc and shows its traceback.
"""

from nnfunc.cli import config_commands, training_commands, use_commands  # they register themselves, in this order
from nnfunc.cli.entry import main

__all__ = ["main"]
