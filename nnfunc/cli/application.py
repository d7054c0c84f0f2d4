"""The application that the commands are registered in, and how a command runs."""

from importlib import metadata
from typing import Annotated, Any

import typer
import typer.core

from nnfunc.commands import interrupts


class _Group(typer.core.TyperGroup):
    """A group of commands in which Ctrl-C always ends with a message and the signal's exit code."""

    def invoke(self, ctx: Any) -> Any:
        with interrupts.interrupt_message("stopped; nothing more is written"):
            return super().invoke(ctx)


class JaxCommand(typer.core.TyperCommand):
    """A command that computes with JAX. It sets up the process when it runs, so its help is quick."""

    def invoke(self, ctx: Any) -> Any:
        from nnfunc.commands.process_setup import set_up_process
        from nnfunc.distributed import processes

        names = [name for name in ("coordinator", "process", "processes") if name in ctx.params]
        set_up_process({name: ctx.params.pop(name) for name in names} if names else None)
        result = super().invoke(ctx)
        processes.finish()
        return result


app = typer.Typer(cls=_Group, no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"nnfunc {metadata.version('nnfunc')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train and use functional neural networks from config files.

    On Linux, nnfunc keeps memory between training steps, which is faster.
    NNFUNC_MALLOC=default turns this off; NNFUNC_MALLOC=large suits steps
    with more than 64 MB of temporary memory.
    """
