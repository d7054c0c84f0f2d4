"""The program `nnfunc`: runs a command, and turns errors and warnings into a line and an exit code."""

import atexit
import contextlib
import io
import os
import signal
import sys
import traceback
import warnings
from typing import Any

from nnfunc import early_signals
from nnfunc.cli.application import app
from nnfunc.commands import interrupts

RED, YELLOW, RESET = "\x1b[1;31m", "\x1b[1;33m", "\x1b[0m"


def main() -> None:
    """Run the command line; errors of the user and warnings become one line each."""
    _prepare_streams()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            code = _run()
    except BrokenPipeError:  # `nnfunc ... | head`
        code = 1
    try:
        sys.stdout.flush()  # here, to report an error of it too
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # Python would flush once more at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and not isinstance(error, BrokenPipeError):  # such as a full disk
            _print_error(f"standard output cannot be written to: {error.strerror}")
        code = code or (1 if isinstance(error, BrokenPipeError) else 2)
    if early_signals.is_command_line():  # the command has ended, but Python and JAX take a while to end
        signal.signal(signal.SIGINT, lambda *_: os._exit(code))
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # handlers of Python are gone by then
    sys.exit(code)


def _run() -> int:
    """Run the command of the command line, and return its exit code."""
    try:
        code = app(prog_name="nnfunc", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        _print_error("stopped")
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's, for wrong arguments
            return _print_usage_error(error)
        from nnfunc.commands.exit_codes import error_message, exit_code
        from nnfunc.distributed import processes

        code, first_line = exit_code(error), next(iter(str(error).splitlines()), "")
        if processes.lost_contact(error):
            processes.wait_for_failure()
            code = 1
        elif code is not None:
            _print_error(error_message(error))
        if isinstance(error, interrupts.Stopped):
            processes.finish()
        else:  # the other processes end too
            known = code is not None and not isinstance(error, RuntimeError)
            message = error_message(error) if known else f"{type(error).__name__}: {first_line}"
            if code is None and processes.count() > 1:
                traceback.print_exc()
            processes.report_failure(code or 1, message)
        if code is None:
            raise
        return code


def _print_usage_error(error: Any) -> int:
    """Print in one line what is wrong with the arguments, and return the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":  # no mistake: it shows the help
        error.show()
        return error.exit_code
    message, context = " ".join(error.format_message().split()), getattr(error, "ctx", None)
    if len(message) > 300:
        message = f"{message[:150]} ... {message[-100:]}"
    command = "nnfunc" if context is None else context.command_path
    _print_error(f"{message} See: {command} --help")
    return error.exit_code


def _print_warning(message: Warning | str, *location: object) -> None:
    """Print a warning as one line, without the location in the code of nnfunc."""
    _print_error(str(message), YELLOW)


def _print_error(message: str, color: str = RED) -> None:
    processes = sys.modules.get("nnfunc.distributed.processes")
    if processes is not None and not processes.is_main():
        return  # process 0 tells it
    with contextlib.suppress(OSError):  # standard error is closed
        has_color = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        start = f"{color}nnfunc:{RESET}" if has_color else "nnfunc:"
        print(f"{start} {message}", file=sys.stderr, flush=True)


def _prepare_streams() -> None:
    """Make standard output and error exist, and accept file names that are not valid text."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the parent process closed it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
