"""Commands that train: one run, several processes, sweeps and comparisons; and that show runs."""

from pathlib import Path
from typing import Annotated

import typer

from nnfunc.cli.application import JaxCommand, app
from nnfunc.cli.arguments import (
    ChangedData,
    ConfigFile,
    Coordinator,
    Overrides,
    Process,
    Processes,
    RunFolder,
    complete_configs,
    complete_runs,
)

PANEL = "Training"


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def train(
    config: ConfigFile,
    settings: Overrides = None,
    run: Annotated[
        Path | None, typer.Option(help="The folder of the new run.", show_default="the next of runs/CONFIG-1, ...")
    ] = None,
    coordinator: Coordinator = None,
    process: Process = None,
    processes: Processes = None,
) -> None:
    """Train the model of a config file in a new run folder.

    With a table mesh in the config, it trains over several devices. SLURM,
    Open MPI and Kubernetes start several processes, and so does
    nnfunc launch on one machine.
    """
    from nnfunc.commands.train import train

    train(config, settings or [], run)


@app.command(rich_help_panel=PANEL)
def launch(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="Such as: -- train CONFIG mesh.data=-1")],
    processes: Annotated[int, typer.Option(help="The number of processes.")],
    devices: Annotated[
        int | None, typer.Option(help="Simulated CPU devices of each process.", show_default="its share of the GPUs")
    ] = None,
) -> None:
    """Run a command in several processes on this machine.

    They train one run over all their devices; its config has a table mesh.
    When one of them fails, all end.
    """
    from nnfunc.commands.launch import launch

    raise typer.Exit(launch(command, processes=processes, devices=devices))


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def resume(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a run or of a sweep.", autocompletion=complete_runs)
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of the training loop to change, such as train.rollback=2."),
    ] = None,
    jobs: Annotated[
        str | None, typer.Option(help="Sweeps only: where to run the remaining trials, as in nnfunc sweep.")
    ] = None,
    changed_data: ChangedData = False,
    coordinator: Coordinator = None,
    process: Process = None,
    processes: Processes = None,
) -> None:
    """Resume a stopped run or sweep from its last checkpoint.

    Only settings of the training loop may change, such as train.rollback=2
    after a divergence. A sweep keeps all its settings, and ends with the same
    table as if it had never stopped.
    """
    from nnfunc import check
    from nnfunc.commands import sweep as sweep_commands
    from nnfunc.commands.resume import resume

    if not sweep_commands.is_sweep(run):
        if jobs is not None:
            check.fail("resume", f"--jobs is for sweeps, and {run} is not a sweep.", hint="Leave --jobs out.")
        resume(run, settings or [], changed_data=changed_data)
    elif settings:
        expected, hint = "a sweep should resume with its original settings", "Start a new sweep to change them."
        check.fail("resume", expected=expected, actual=repr(settings[0]), hint=hint)
    else:
        sweep_commands.resume(run, jobs=jobs, changed_data=changed_data)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def sweep(
    config: ConfigFile,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUES",
            help="What to vary: schedule.peak=log(1e-4,1e-1) model.dropout=uniform(0,0.5) seed=0:8 "
            "data.batch_size=[32,64]. A single value overrides the setting of all trials.",
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="The number of trials, with all seeds.", show_default="all combinations of lists")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="How to draw: random, grid, sobol or latin.", show_default="random")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Seeds per setting, for means and intervals.")] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="halving, hyperband, patience, population or optuna; with arguments as TOML: "
            "'{name=\"halving\", eta=4}'.",
            show_default="every trial runs to its end, or as train.patience",
        ),
    ] = None,
    best: Annotated[
        str | None,
        typer.Option(
            help='The metric that ranks trials, such as "max accuracy".', show_default="as train.best, or min loss"
        ),
    ] = None,
    execution: Annotated[
        str | None, typer.Option(help="How trials run: vmap, loop, threads or devices.", show_default="the fastest")
    ] = None,
    chunk: Annotated[int | None, typer.Option(help="The largest number of trials to run together.")] = None,
    jobs: Annotated[str | None, typer.Option(help="Run in other processes: their number, submitit or ray.")] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="The folder of the new sweep.", show_default="the next of runs/CONFIG-sweep-1, ..."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and exit, after a short probe.")] = False,
    coordinator: Coordinator = None,
    process: Process = None,
    processes: Processes = None,
) -> None:
    """Train many settings of a config in few compiled programs; write tables and a report.

    The config may also say what to vary, in its table sweep. nnfunc resume
    continues a sweep that was stopped or killed. Several processes, as those
    of nnfunc launch, share the trials.
    """
    from nnfunc.commands import sweep as sweep_commands

    options = {
        "trials": trials,
        "method": method,
        "seeds": seeds,
        "search": sweep_commands.parse_search_text(search),
        "best": best,
        "execution": execution,
        "chunk": chunk,
    }
    sweep_commands.sweep(config, settings or [], options, run, jobs=jobs, dry_run=dry_run)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def sweep_best(
    run: Annotated[Path, typer.Argument(metavar="SWEEP", help="The folder of a sweep.", autocompletion=complete_runs)],
    trial: Annotated[int | None, typer.Option(help="The index of a trial.", show_default="the best trial")] = None,
    save: Annotated[Path | None, typer.Option(help="A new folder, in which to save the trial as a run.")] = None,
) -> None:
    """Print the config of the best trial of a sweep, ready for nnfunc train."""
    from nnfunc.commands.sweep.sweep_best import sweep_best

    sweep_best(run, trial, save)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def compare(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", help="A TOML file such as configs/compare_mnist.toml.", autocompletion=complete_configs
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings to override, such as seeds=[0] every.train.steps=500."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="A new folder, or that of a stopped comparison to resume.",
            show_default="the next of runs/CONFIG-1, ...",
        ),
    ] = None,
    changed_data: ChangedData = False,
) -> None:
    """Train several models on the same data with several seeds; write tables and plots."""
    from nnfunc.commands.compare import compare

    compare(config, settings or [], run, changed_data=changed_data)


@app.command(rich_help_panel=PANEL)
def watch(
    run: RunFolder,
    once: Annotated[
        bool, typer.Option("--once", help="Show the run once and exit, as when the output is piped.")
    ] = False,
) -> None:
    """Show a run live in the terminal: metrics, curves, layers and events. Press q to quit."""
    from nnfunc.commands.watch.watch_run import watch

    watch(run, once=once)


@app.command(rich_help_panel=PANEL)
def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that contains runs.")] = Path("runs"),
    sort: Annotated[
        str | None,
        typer.Option(help="Sort by a column, best, last, test, a metric or a setting, such as schedule.peak."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Plot the validation curves of all runs: a .png file.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with the curves, the table and the settings: an .html file.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV with numbers in full precision.")] = False,
) -> None:
    """List the runs below a folder: state, metrics and the settings that differ."""
    from nnfunc.commands.list_runs.list_runs import list_runs

    list_runs(folder, sort=sort, plot=plot, html=html, csv=csv)


@app.command(rich_help_panel=PANEL)
def ui(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that contains runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 is any free one.")] = 8080,
) -> None:
    """Serve the pages of all runs below a folder to a browser, and update them while the runs train.

    It needs: pip install 'nnfunc\\[serve]'
    """
    from nnfunc.commands.ui.serve_ui import serve_ui

    serve_ui(folder, host=host, port=port)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def find_nan(run: RunFolder, changed_data: ChangedData = False) -> None:
    """Find the step and the layer where a diverged run first became non-finite."""
    from nnfunc.commands.debug import find_nan

    find_nan(run, changed_data=changed_data)
