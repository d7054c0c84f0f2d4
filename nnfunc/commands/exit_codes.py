"""The exit code and the one-line message of an error that ends a command."""

import re

import jax

from nnfunc.commands.interrupts import Stopped
from nnfunc.errors import NnfuncError
from nnfunc.training.divergence import Diverged


def exit_code(error: Exception) -> int | None:
    """The exit code for an error, or None when the error is a defect of nnfunc.

    error: a stopped run gives 128 plus the signal's number, a diverged one 1, a mistake of the user 2.
    """
    if isinstance(error, Stopped):
        return 128 + error.signum
    if isinstance(error, Diverged):
        return 1
    mistake = isinstance(error, NnfuncError | OSError | ImportError) or _is_out_of_memory(error)
    return 2 if mistake else None


def error_message(error: Exception) -> str:
    """The message of an error for the user. error: one that has an `exit_code`."""
    if isinstance(error, OSError) and error.errno is not None:
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{error.strerror}"
    if _is_out_of_memory(error):
        problem = str(error).splitlines()[0] if str(error) else "the machine has no more"
        return f"out of memory ({problem}). Use a smaller model, batch_size or data set."
    return str(error)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out in spite of the checks: other programs allocate theirs meanwhile."""
    if isinstance(error, jax.errors.JaxRuntimeError):  # XLA has no class of its own for it
        return re.search("RESOURCE_EXHAUSTED|[Oo]ut of memory", str(error)) is not None
    return isinstance(error, MemoryError)
