"""Commands that write, explain and check configs."""

from pathlib import Path
from typing import Annotated

import typer

from nnfunc.cli.application import JaxCommand, app
from nnfunc.cli.arguments import ConfigFile, Overrides

PANEL = "Configs"


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def new(
    data_type: Annotated[
        str,
        typer.Argument(
            metavar="TYPE",
            help="table, images, text, tagging, forecasting, language, tokens or arrays.",
            show_default=False,
        ),
    ],
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILES", help="A file or folder.", show_default="the only one here")
    ] = None,
    label: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The column to predict, or several: A,B,C.", show_default="guessed"),
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="A column of texts.", show_default="guessed")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="The column of the times of a forecast or a table.", show_default="none"),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write.", show_default="FILE.toml, here")
    ] = None,
) -> None:
    """Write a commented config for your data, which trains as it is.

    It inspects the files: columns, types, classes, sizes, separators and
    missing values. A comment marks each guess, so that you can change it.
    """
    from nnfunc.commands.new_config.write_config import new_config

    new_config(data_type, files or [], label=label, output=output, text=text, time=time)


@app.command(rich_help_panel=PANEL)
def config(
    key: Annotated[
        str,
        typer.Argument(metavar="KEY", help="A table or a key, such as optimizer or model.dropout.", show_default=False),
    ] = "",
    data: Annotated[str | None, typer.Option(metavar="NAME", help="Explain the keys of this data set.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="Explain the keys of this model.")] = None,
    objective: Annotated[str | None, typer.Option(metavar="NAME", help="Explain the keys of this objective.")] = None,
    optimizer: Annotated[str | None, typer.Option(metavar="NAME", help="Explain the keys of this optimizer.")] = None,
    schedule: Annotated[str | None, typer.Option(metavar="NAME", help="Explain the keys of this schedule.")] = None,
    average: Annotated[str | None, typer.Option(metavar="NAME", help="Explain the keys of this average.")] = None,
) -> None:
    """Explain the tables and keys of config files: type, range, default, meaning and an example."""
    from nnfunc.commands.explain_config import explain_config

    names = {"data": data, "model": model, "objective": objective, "optimizer": optimizer}
    names |= {"schedule": schedule, "average": average}
    explain_config(key, {table: name for table, name in names.items() if name is not None})


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def summary(config: ConfigFile, settings: Overrides = None) -> None:
    """Print the layers of a config's model with shapes, parameters, bytes and FLOPs."""
    from nnfunc.commands.print_summary import print_summary

    print_summary(config, settings or [])


@app.command(rich_help_panel=PANEL)
def plan(
    config: ConfigFile,
    settings: Overrides = None,
    devices: Annotated[
        int | None, typer.Option(help="The number of devices to plan for.", show_default="all of the mesh")
    ] = None,
    mesh: Annotated[
        str | None, typer.Option(help="The axes, such as data=8,model=8.", show_default="as in the config, or data")
    ] = None,
    shard: Annotated[
        str | None, typer.Option(help="A preset, such as fsdp+tensor.", show_default="as in the config")
    ] = None,
    chip: Annotated[
        str | None, typer.Option(help="Print the least time of a step on h100, h200, a100, b200, tpu-v5p or tpu-v6e.")
    ] = None,
) -> None:
    """Print what a training step needs on each device of a mesh, before you have the devices.

    The step is compiled on this machine for simulated devices, from shapes.
    The output has its memory, FLOPs and collectives and, with --chip, the
    least time that it can take.
    """
    from nnfunc.commands.plan_run import plan

    plan(config, settings or [], devices=devices, axes=mesh, shard=shard, chip=chip)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def doctor(config: ConfigFile, settings: Overrides = None) -> None:
    """Check the model, data and optimizer of a config for common mistakes, before training.

    The exit code is 1 when there are errors.
    """
    from nnfunc.commands.debug import doctor

    findings = doctor(config, settings or [])
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def overfit(
    config: ConfigFile,
    settings: Overrides = None,
    steps: Annotated[int, typer.Option(help="The number of training steps.")] = 200,
    examples: Annotated[int, typer.Option(help="The largest number of examples in the batch.")] = 32,
) -> None:
    """Train on a single batch, which a sound model memorises, and explain why if it does not.

    The exit code is 1 when the batch is not memorised.
    """
    from nnfunc.commands.debug import overfit

    verdict = overfit(config, settings or [], steps=steps, examples=examples)
    if verdict.outcome != "memorised":
        raise typer.Exit(1)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def find_lr(
    config: ConfigFile,
    settings: Overrides = None,
    steps: Annotated[int, typer.Option(help="The number of steps of each short run.")] = 96,
    at_once: Annotated[
        int | None, typer.Option(help="Short runs to train together.", show_default="8 on a CPU, 64 elsewhere")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot loss against learning rate: a .png or .svg file.")] = None,
) -> None:
    """Suggest a learning rate, from 64 short runs in one compiled program."""
    from nnfunc.commands.debug import find_lr

    find_lr(config, settings or [], steps=steps, at_once=at_once, plot=plot)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def tune(
    config: ConfigFile,
    settings: Overrides = None,
    seconds: Annotated[float, typer.Option(help="The time for all measurements.")] = 20.0,
) -> None:
    """Time the forms of the operations of a config, and remember the fastest on this machine.

    Runs that begin later use the fastest forms, and keep them when they resume.
    NNFUNC_TUNING=off ignores what was measured.
    """
    from nnfunc.commands.tune import tune

    tune(config, settings or [], seconds=seconds)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def profile(
    config: ConfigFile,
    settings: Overrides = None,
    run: Annotated[
        Path | None,
        typer.Option(help="A new folder for the trace.", show_default="the next of runs/CONFIG-profile-1, ..."),
    ] = None,
) -> None:
    """Print where the time and the memory of training steps go.

    Ten steps are timed: data, host and device, the costliest operations,
    and memory by layer. Three more are traced for Perfetto and XProf.
    """
    from nnfunc.commands.profile_steps import profile

    profile(config, settings or [], run)
