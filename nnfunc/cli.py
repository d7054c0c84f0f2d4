"""The command line: `nnfunc train`, `resume`, `watch`, `runs`, `evaluate`, `predict`, `sample`,
`merge`, `sweep`, `sweep-best`, `compare`, `summary`, and to find mistakes `doctor`, `overfit`,
`find-lr`, `find-nan`.

A user's mistake ends with one message and exit code 2, a stopped run with 128 and the signal's number,
a diverged one with 1. Anything else is a defect of ours and shows its traceback.
"""

import contextlib
import io
import os
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from nnfunc.commands import interrupts


class _Commands(typer.core.TyperGroup):
    """A Ctrl-C that no command has words for is told too, and has the exit code of the signal."""

    def invoke(self, ctx: Any) -> Any:
        with interrupts.told("stopped; nothing more is written"):
            return super().invoke(ctx)


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _version(asked: bool) -> None:
    if asked:
        print(f"nnfunc {metadata.version('nnfunc')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Train and use functional neural networks from config files.

    On Linux, memory is kept between steps, which is faster; NNFUNC_MALLOC=default leaves it to the
    system.
    """


def _programs() -> Any:
    """What the commands do, imported only now so that help is quick, and memory kept for it."""
    from nnfunc import malloc
    from nnfunc.commands import train as train_command

    malloc.keep_unless_told()
    train_command.find_device()
    return train_command


ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A TOML file such as configs/digits_mlp.toml.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings to change: schedule.peak=1e-2 seed=3.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.")]
ChangedData = Annotated[
    bool,
    typer.Option(
        "--changed-data",
        help="Go on though the data files are not what they were: with their rows of then, in the splits of then.",
    ),
]
BatchSize = Annotated[int | None, typer.Option(help="Examples at once.", show_default="as in training")]
Which = Annotated[str, typer.Option(help="Which checkpoint: best or last.")]


@app.command()
def train(
    config: ConfigFile,
    settings: Overrides = None,
    run: Annotated[Path | None, typer.Option(help="The run's folder; by default the next of runs/NAME-1, ...")] = None,
) -> None:
    """Train what a config file describes; everything goes to a folder of its own."""
    _programs().train(config, settings or [], run)


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, or of a sweep.")],
    settings: Overrides = None,
    jobs: Annotated[
        str | None, typer.Option(help="Of a sweep: run what is left elsewhere, as with nnfunc sweep.")
    ] = None,
    changed_data: ChangedData = False,
) -> None:
    """Go on with a run that was stopped, from its last good checkpoint.

    Settings may change the loop alone, such as train.rollback=2 for a run that diverged. A sweep goes
    on too, and ends with the same table.
    """
    commands = _programs()
    from nnfunc import check
    from nnfunc.commands import sweep as sweep_command

    if not sweep_command.is_sweep(run):
        if jobs is not None:
            check.fail("resume", f"jobs are for sweeps, and {run} is none. Leave --jobs out.")
        commands.resume(run, settings or [], changed_data=changed_data)
    elif settings:
        problem = f"a sweep goes on with what it was begun with, got {settings[0]!r}"
        check.fail("resume", f"{problem}. Start another sweep to change it.")
    else:
        sweep_command.resume(run, jobs=jobs, changed_data=changed_data)


@app.command()
def watch(
    run: RunFolder,
    once: Annotated[bool, typer.Option("--once", help="Show it one time and end, as into a pipe.")] = False,
) -> None:
    """Show a run while it goes on, or afterwards: figures, curves, layers, events. q ends it."""
    from nnfunc.commands import watch as watch_command

    watch_command.watch(run, once=once)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that holds runs.", show_default=False)] = Path(
        "runs"
    ),
    sort: Annotated[
        str | None, typer.Option(help="A column, best, last, test, a metric or a setting: accuracy, schedule.peak.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the validation curves together: a .png or .html file.")
    ] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, numbers in full.")] = False,
) -> None:
    """List the runs below a folder, by default runs: state, figures, settings that differ."""
    from nnfunc.commands import list_runs

    list_runs.runs(folder, sort=sort, plot=plot, csv=csv)


@app.command()
def evaluate(
    run: RunFolder,
    split: Annotated[str, typer.Option(help="Which data: test or validation.")] = "test",
    checkpoint: Which = "best",
    changed_data: ChangedData = False,
    batch_size: BatchSize = None,
) -> None:
    """Print the metrics of a trained model on data it was not trained on."""
    _programs().evaluate(run, split, checkpoint, batch_size, changed_data=changed_data)


@app.command()
def predict(
    run: RunFolder,
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT", help="A .npy, .csv or .parquet file, one row an example; of images files or a folder."
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="A .csv or .npy file; by default CSV is printed.")] = None,
    checkpoint: Which = "best",
    batch_size: BatchSize = None,
) -> None:
    """Write what the model makes of the rows of a file, raw as in the training data, or of images.

    A table's columns are taken by name. CSV holds the outputs or, of a classifier, the class and the
    probability of each; .npy holds the outputs as they are (logits). No training file is read.
    """
    _programs().predict(run, inputs, output, checkpoint, batch_size)


@app.command()
def sample(
    run: RunFolder,
    prompt: Annotated[
        str, typer.Option(help="What the text begins with; - reads standard input.", show_default="a new line")
    ] = "\n",
    steps: Annotated[int, typer.Option(help="How many tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token, 1 draws as the model says.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Only the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Only the likeliest tokens, of this probability together.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random draws.")] = 0,
    samples: Annotated[int, typer.Option(help="How many texts.")] = 1,
    stop: Annotated[str | None, typer.Option(help="A token, such as a character, that ends a text.")] = None,
    checkpoint: Which = "best",
) -> None:
    """Write text with a trained language model."""
    _programs()
    from nnfunc.commands import sample as sample_command

    sample_command.sample(
        run,
        prompt,
        steps=steps,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        samples=samples,
        stop=stop,
        which=checkpoint,
    )


@app.command()
def merge(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder, for the result.")],
    checkpoint: Which = "best",
) -> None:
    """Put the adapters of a run with lora into the weights: the run folder of a plain model."""
    _programs()
    from nnfunc.commands import merge as merge_command

    merge_command.merge(run, folder, checkpoint)


@app.command()
def sweep(
    config: ConfigFile,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUES",
            help="What to draw: schedule.peak=log(1e-4,1e-1) model.dropout=uniform(0,0.5) seed=0:8 "
            "data.batch_size=[32,64]; key=value changes it for all.",
        ),
    ] = None,
    members: Annotated[
        int | None, typer.Option(help="How many runs; of lists alone by default all combinations.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="random, grid, sobol or latin.", show_default="random")] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each setting, for intervals.")] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="halving, hyperband, patience, population, optuna; with arguments as TOML: "
            "'{name=\"halving\", eta=4}'.",
            show_default="all run to their end",
        ),
    ] = None,
    best: Annotated[
        str | None, typer.Option(help='What ranks, such as "max accuracy".', show_default="min loss")
    ] = None,
    way: Annotated[
        str | None, typer.Option(help="vmap, loop, threads or devices.", show_default="the quickest")
    ] = None,
    chunk: Annotated[int | None, typer.Option(help="Members side by side, at most.")] = None,
    jobs: Annotated[str | None, typer.Option(help="Run elsewhere: a number of processes, submitit or ray.")] = None,
    run: Annotated[Path | None, typer.Option(help="The folder; by default the next of runs/NAME-sweep-1, ...")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan, and run nothing but a probe.")] = False,
) -> None:
    """Train many settings of a config in few compiled programs: a table, curves, a report.

    What to draw may stand in the file too, as its table sweep.
    Stopped or killed, it goes on with `nnfunc resume`.
    """
    _programs()
    from nnfunc.commands import sweep as sweep_command

    options = {
        "members": members,
        "method": method,
        "seeds": seeds,
        "search": sweep_command.from_text(search),
        "best": best,
        "way": way,
        "chunk": chunk,
    }
    sweep_command.sweep(config, settings or [], options, run, jobs=jobs, dry_run=dry_run)


@app.command()
def sweep_best(
    run: Annotated[Path, typer.Argument(metavar="SWEEP", help="The folder of a sweep.")],
    member: Annotated[int | None, typer.Option(help="Another member than the best.")] = None,
    save: Annotated[Path | None, typer.Option(help="A new folder, in which it becomes a run like any other.")] = None,
) -> None:
    """Print a config that trains the winner of a sweep again: > best.toml."""
    _programs()
    from nnfunc.commands import sweep as sweep_command

    sweep_command.best(run, member, save)


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Such as configs/compare_mnist.toml.")],
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings to change: seeds=[0] every.train.steps=500."),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="The folder; one that was stopped half-way is gone on with.")] = None,
    changed_data: ChangedData = False,
) -> None:
    """Train several models on the same data, with seeds, and write tables and plots."""
    _programs()
    from nnfunc.commands import compare as comparing

    comparing.compare(config, settings or [], run, changed_data=changed_data)


@app.command()
def summary(config: ConfigFile, settings: Overrides = None) -> None:
    """Print the layers of a config's model: shapes, parameters, bytes and FLOPs."""
    _programs().summary(config, settings or [])


@app.command()
def doctor(config: ConfigFile, settings: Overrides = None) -> None:
    """Look for the usual mistakes in a config's model, data and training, before it is trained.

    The exit code is 1 when there are errors.
    """
    _programs()
    from nnfunc.commands import debug

    found = debug.doctor(config, settings or [])
    if any(finding.severity == "error" for finding in found):
        raise typer.Exit(1)


@app.command()
def overfit(
    config: ConfigFile,
    settings: Overrides = None,
    steps: Annotated[int, typer.Option(help="Of training on the one batch.")] = 200,
    examples: Annotated[int, typer.Option(help="At most so many in the batch.")] = 32,
) -> None:
    """Train on one batch alone: a sound model learns it by heart. If not, say why.

    The exit code is 1 when it does not.
    """
    _programs()
    from nnfunc.commands import debug

    found = debug.overfit(config, settings or [], steps=steps, examples=examples)
    if found.outcome != "memorised":
        raise typer.Exit(1)


@app.command()
def find_lr(
    config: ConfigFile,
    settings: Overrides = None,
    steps: Annotated[int, typer.Option(help="Of each short run.")] = 96,
    at_once: Annotated[
        int | None, typer.Option(help="Short runs at the same time.", show_default="8 on a CPU, 64 elsewhere")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="A .png or .svg file to draw.")] = None,
) -> None:
    """Suggest a learning rate, from 64 short runs in one program."""
    _programs()
    from nnfunc.commands import debug

    debug.find_lr(config, settings or [], steps=steps, at_once=at_once, plot=plot)


@app.command()
def find_nan(run: RunFolder, changed_data: ChangedData = False) -> None:
    """Find where a run that diverged stopped being finite: step, layer, forward or backward."""
    _programs()
    from nnfunc.commands import debug

    debug.find_nan(run, changed_data=changed_data)


def main() -> None:
    """Run the command line; turn mistakes and warnings into messages."""
    _open_streams()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _say
            code = _run()
    except BrokenPipeError:  # `nnfunc ... | head`
        code = 1
    try:
        sys.stdout.flush()  # what the last of it meets is told too
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):  # what is left would be tried once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and not isinstance(error, BrokenPipeError):  # such as a full disk
            _tell(f"standard output cannot be written to: {error.strerror}")
        code = code or (1 if isinstance(error, BrokenPipeError) else 2)
    sys.exit(code)


def _run() -> int:
    """The exit code of the words of the command line, whatever they come to."""
    try:
        code = app(prog_name="nnfunc", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        _tell("stopped")
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # of typer's, about the words themselves
            return _usage(error)
        from nnfunc.commands import train as train_command

        code = train_command.exit_code(error)
        if code is None:
            raise
        _tell(train_command.words(error))
        return code
    return 0


def _usage(error: Any) -> int:
    """Tell in one line what is wrong with the words of the command line; the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":  # it is no mistake, and asks for the help
        error.show()
        return error.exit_code
    words, context = " ".join(error.format_message().split()), getattr(error, "ctx", None)
    if len(words) > 300:
        words = f"{words[:150]} ... {words[-100:]}"
    command = "nnfunc" if context is None else context.command_path
    _tell(f"{words} See: {command} --help")
    return error.exit_code


def _say(message: Warning | str, *place: object) -> None:
    """A warning as one line, without the place in our code where it was given."""
    _tell(str(message))


def _tell(words: str) -> None:
    with contextlib.suppress(OSError):  # nobody listens
        print(f"nnfunc: {words}", file=sys.stderr, flush=True)


def _open_streams() -> None:
    """Standard output and error that are there, and bear every name: of a file, not of text."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started the program
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
