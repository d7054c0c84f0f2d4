"""The command line `nnfunc`: every command with its arguments and its help.

A mistake of the user ends with a message and exit code 2, a stopped run with 128 plus the signal's number,
and a diverged run with 1. Any other exception is a defect of nnfunc and shows its traceback.
"""

import contextlib
import io
import os
import sys
import traceback
import warnings
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from nnfunc.commands import interrupts

RED, YELLOW, RESET = "\x1b[1;31m", "\x1b[1;33m", "\x1b[0m"


class _Group(typer.core.TyperGroup):
    """A group of commands in which Ctrl-C always ends with a message and the signal's exit code."""

    def invoke(self, ctx: Any) -> Any:
        with interrupts.interrupt_message("stopped; nothing more is written"):
            return super().invoke(ctx)


class _JaxCommand(typer.core.TyperCommand):
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


def _runs(incomplete: str) -> list[str]:
    """The folders of runs and sweeps that begin so, for the completion of the shell."""
    return _matches(
        incomplete, [f"{depth}{name}.toml" for depth in ("*/", "*/*/") for name in ("config", "sweep")], True
    )


def _configs(incomplete: str) -> list[str]:
    """The configs that begin so, for the completion of the shell."""
    return _matches(incomplete, ["*.toml", "*/*.toml"], False)


def _matches(incomplete: str, patterns: list[str], folders: bool) -> list[str]:
    start = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    files = [path for pattern in patterns for path in sorted(start.glob(pattern))]
    return [text for path in files if (text := str(path.parent if folders else path)).startswith(incomplete)]


ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="A TOML file such as configs/digits_mlp.toml.", autocompletion=_configs)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to override, such as schedule.peak=1e-2 seed=3."),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run.", autocompletion=_runs)]
ChangedData = Annotated[
    bool,
    typer.Option(
        "--changed-data",
        help="Accept data files that changed since the run began. The original rows keep their splits.",
    ),
]
Coordinator = Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Several processes: of process 0.")]
Process = Annotated[int | None, typer.Option(help="Several processes: the number of this one, from 0.")]
Processes = Annotated[int | None, typer.Option(help="Several processes: how many there are.")]
BatchSize = Annotated[int | None, typer.Option(help="Examples per batch.", show_default="as in training")]
Checkpoint = Annotated[str, typer.Option(help="The checkpoint to use: best or last.")]


@app.command(cls=_JaxCommand)
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


@app.command()
def launch(
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="Such as: -- train CONFIG mesh.data=-1")],
    processes: Annotated[int, typer.Option(help="The number of processes.")],
    devices: Annotated[
        int | None, typer.Option(help="Simulated CPU devices of each process.", show_default="its part of the GPUs")
    ] = None,
) -> None:
    """Run a command in several processes on this machine.

    They train one run over all their devices; its config has a table mesh.
    When one of them fails, all end.
    """
    from nnfunc.commands.launch import launch

    raise typer.Exit(launch(command, processes=processes, devices=devices))


@app.command(cls=_JaxCommand)
def resume(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a run or of a sweep.", autocompletion=_runs)
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


@app.command()
def watch(
    run: RunFolder,
    once: Annotated[
        bool, typer.Option("--once", help="Show the run once and exit, as when the output is piped.")
    ] = False,
) -> None:
    """Show a run live in the terminal: metrics, curves, layers and events. Press q to quit."""
    from nnfunc.commands.watch.watch_run import watch

    watch(run, once=once)


@app.command()
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


@app.command()
def ui(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that contains runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 is any free one.")] = 8080,
) -> None:
    """Serve the pages of all runs below a folder to a browser: they grow while the runs train.

    It needs: pip install 'nnfunc[serve]'
    """
    from nnfunc.commands.ui.serve_ui import serve_ui

    serve_ui(folder, host=host, port=port)


@app.command(cls=_JaxCommand)
def evaluate(
    run: RunFolder,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="A file of labelled rows like those of the training data.", show_default=""
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="The examples to use: test, validation or train.")] = "test",
    checkpoint: Checkpoint = "best",
    metrics: Annotated[
        str | None,
        typer.Option(help="Names with commas between them, such as f1,roc_auc.", show_default="the usual ones"),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the whole result as JSON.")] = None,
    changed_data: ChangedData = False,
    batch_size: BatchSize = None,
) -> None:
    """Evaluate a trained model on the rows of a split, or of a file.

    Prints each metric with its 95 % bootstrap interval and what always giving
    the same answer would get, the metrics of each class, the confusion matrix,
    the calibration and the worst examples.
    """
    from nnfunc.commands.evaluate_run import evaluate

    names = [name.strip() for name in metrics.split(",") if name.strip()] if metrics else ()
    evaluate(run, split, checkpoint, batch_size, file=file, metrics=names, json_file=json, changed_data=changed_data)


@app.command(cls=_JaxCommand)
def predict(
    run: RunFolder,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES...",
            help="Files of the type that the run was trained on: .csv, .jsonl, .parquet or .npy with one example per "
            "row, text files, images or folders of images; - is standard input.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="A .csv, .jsonl, .parquet or .npy file.", show_default="CSV, printed"),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="A column of the input to write too; all keeps all. May be repeated."),
    ] = None,
    format_name: Annotated[
        str | None, typer.Option("--format", help="csv, jsonl, parquet or npy.", show_default="by the file's ending")
    ] = None,
    checkpoint: Checkpoint = "best",
    batch_size: BatchSize = None,
) -> None:
    """Predict the outputs for the rows of files, or for images.

    The inputs are raw, as in the training data, which is not needed; the
    columns of a table are matched by name. The result has a row for each
    example: class names and the probability of each class, or the values. A
    .npy file has the raw outputs, which are logits for a classifier. Files are
    read in pieces, so they may be larger than the memory.
    """
    from nnfunc.commands.predict import predict

    predict(run, inputs, output, checkpoint, batch_size, keep=keep or (), format_name=format_name)


@app.command(cls=_JaxCommand)
def serve(
    run: RunFolder,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 is any free one.")] = 8000,
    checkpoint: Checkpoint = "best",
    batch_size: BatchSize = None,
    megabytes: Annotated[float, typer.Option(help="The largest size of a request.")] = 16.0,
    rows: Annotated[int, typer.Option(help="The most rows of a request.")] = 1000,
    seconds: Annotated[float, typer.Option(help="The longest time of a request.")] = 30.0,
    waiting: Annotated[int, typer.Option(help="The most rows that may wait for their batch.")] = 4096,
) -> None:
    """Serve the predictions of a run over HTTP, with a page to try it.

    POST /predict takes {"rows": [...]} as JSON, or uploaded files; GET / is a
    page with a form, GET /schema tells the columns, GET /health the state.
    Requests that arrive together are predicted in one batch. SIGTERM and Ctrl-C
    finish what was accepted. It needs: pip install 'nnfunc[serve]'
    """
    from nnfunc.commands.serve.serve_run import serve

    serve(
        run,
        host=host,
        port=port,
        checkpoint=checkpoint,
        batch_size=batch_size,
        megabytes=megabytes,
        rows=rows,
        seconds=seconds,
        waiting=waiting,
    )


@app.command(cls=_JaxCommand)
def export(
    run: RunFolder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write; of numpy, one that ends with .py.")],
    to: Annotated[str, typer.Option("--to", help="The format: stablehlo, onnx, litert or numpy.")],
    checkpoint: Checkpoint = "best",
    quantize: Annotated[
        str | None,
        typer.Option(
            help="Of onnx, weights of 8 bits: weights computes in float32, dynamic also in integers.",
            show_default="float32",
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="The largest difference of an output, as a part of the largest one.")
    ] = 1e-4,
) -> None:
    """Write the model of a run as a file for another runtime.

    stablehlo is a file for nf.load_exported, which needs JAX alone; onnx is for
    ONNX Runtime and others; litert is a .tflite file for phones; numpy is a
    page of Python and a .safetensors file.

    The preprocessing of images and tables is a part of the file. It is run on
    100 held-out examples first: where its outputs differ, nothing is written.
    """
    from nnfunc.commands.export import export

    export(run, file, to, checkpoint, quantize=quantize, tolerance=tolerance)


@app.command(cls=_JaxCommand)
def sample(
    run: RunFolder,
    prompt: Annotated[
        str, typer.Option(help="The text to continue; - reads it from standard input.", show_default="a new line")
    ] = "\n",
    steps: Annotated[int, typer.Option(help="The number of tokens to generate.")] = 200,
    temperature: Annotated[
        float, typer.Option(help="0 takes the most likely token; 1 samples from the model's probabilities.")
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k most likely tokens only.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the most likely tokens whose probabilities add up to p.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of the random draws.")] = 0,
    samples: Annotated[int, typer.Option(help="The number of texts.")] = 1,
    stop: Annotated[str | None, typer.Option(help="A token that ends a text, such as one character.")] = None,
    checkpoint: Checkpoint = "best",
) -> None:
    """Generate text with a trained language model."""
    from nnfunc.commands.sample import sample

    sample(
        run,
        prompt,
        steps=steps,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        samples=samples,
        stop=stop,
        checkpoint=checkpoint,
    )


@app.command("import", cls=_JaxCommand)
def import_weights(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A folder with config.json, weights and tokenizer.json, or hf://owner/name."
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A new folder for the run.")],
    text: Annotated[Path, typer.Option(help="A text file, whose last tenth is the validation split.")],
    block_size: Annotated[int | None, typer.Option(help="Tokens per example.", show_default="as the model")] = None,
    revision: Annotated[str | None, typer.Option(help="The branch, tag or commit on the hub.")] = None,
) -> None:
    """Make a run of a published language model, such as GPT-2 or Llama."""
    from nnfunc.commands.import_weights import import_weights

    import_weights(source, folder, text, block_size=block_size, revision=revision)


@app.command(cls=_JaxCommand)
def merge(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a run with adapters.", autocompletion=_runs)
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the merged run.")],
    checkpoint: Checkpoint = "best",
) -> None:
    """Merge the LoRA adapters of a run into its weights; write a plain run."""
    from nnfunc.commands.merge import merge

    merge(run, folder, checkpoint)


@app.command(cls=_JaxCommand)
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
            show_default="every trial runs to its end",
        ),
    ] = None,
    best: Annotated[
        str | None, typer.Option(help='The metric that ranks trials, such as "max accuracy".', show_default="min loss")
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
) -> None:
    """Train many settings of a config in few compiled programs; write tables and a report.

    The config may also say what to vary, in its table sweep. nnfunc resume
    continues a sweep that was stopped or killed.
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


@app.command(cls=_JaxCommand)
def sweep_best(
    run: Annotated[Path, typer.Argument(metavar="SWEEP", help="The folder of a sweep.", autocompletion=_runs)],
    trial: Annotated[int | None, typer.Option(help="The index of a trial.", show_default="the best trial")] = None,
    save: Annotated[Path | None, typer.Option(help="A new folder, in which to save the trial as a run.")] = None,
) -> None:
    """Print the config of the best trial of a sweep, ready for nnfunc train."""
    from nnfunc.commands.sweep.sweep_best import sweep_best

    sweep_best(run, trial, save)


@app.command(cls=_JaxCommand)
def compare(
    config: Annotated[
        Path,
        typer.Argument(
            metavar="CONFIG", help="A TOML file such as configs/compare_mnist.toml.", autocompletion=_configs
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


@app.command(cls=_JaxCommand)
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
        str | None, typer.Option(metavar="COLUMN", help="The column to predict.", show_default="guessed")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The config.", show_default="FILE.toml, here")
    ] = None,
) -> None:
    """Write a commented config for your data, which trains as it is.

    It looks at the files: columns and their types, classes, sizes, separators,
    missing values. What it guesses is in the comments, to be changed.
    """
    from nnfunc.commands.new_config.write_config import new_config

    new_config(data_type, files or [], label=label, output=output)


@app.command()
def config(
    key: Annotated[
        str,
        typer.Argument(metavar="KEY", help="A table or a key, such as optimizer or model.dropout.", show_default=False),
    ] = "",
    data: Annotated[str | None, typer.Option(metavar="NAME", help="The data set that the key is of.")] = None,
    model: Annotated[str | None, typer.Option(metavar="NAME", help="The model that the key is of.")] = None,
    objective: Annotated[str | None, typer.Option(metavar="NAME", help="The objective that the key is of.")] = None,
    optimizer: Annotated[str | None, typer.Option(metavar="NAME", help="The optimizer that the key is of.")] = None,
    schedule: Annotated[str | None, typer.Option(metavar="NAME", help="The schedule that the key is of.")] = None,
    average: Annotated[str | None, typer.Option(metavar="NAME", help="The average that the key is of.")] = None,
) -> None:
    """Explain the tables and keys of config files: type, range, default, meaning and an example."""
    from nnfunc.commands.explain_config import explain_config

    names = {"data": data, "model": model, "objective": objective, "optimizer": optimizer}
    names |= {"schedule": schedule, "average": average}
    explain_config(key, {table: name for table, name in names.items() if name is not None})


@app.command(cls=_JaxCommand)
def summary(config: ConfigFile, settings: Overrides = None) -> None:
    """Print the layers of a config's model with shapes, parameters, bytes and FLOPs."""
    from nnfunc.commands.print_summary import print_summary

    print_summary(config, settings or [])


@app.command()
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
    """Print what a training step takes on each of many devices, without having them.

    The step is compiled here for simulated devices, from shapes: its memory,
    FLOPs and collectives, and the least time that it takes on a chip.
    """
    from nnfunc.commands.plan_run import plan

    plan(config, settings or [], devices=devices, axes=mesh, shard=shard, chip=chip)


@app.command(cls=_JaxCommand)
def doctor(config: ConfigFile, settings: Overrides = None) -> None:
    """Check the model, data and optimizer of a config for common mistakes, before training.

    The exit code is 1 when there are errors.
    """
    from nnfunc.commands.debug import doctor

    findings = doctor(config, settings or [])
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


@app.command(cls=_JaxCommand)
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


@app.command(cls=_JaxCommand)
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


@app.command(cls=_JaxCommand)
def tune(
    config: ConfigFile,
    settings: Overrides = None,
    seconds: Annotated[float, typer.Option(help="The time for all measurements.")] = 20.0,
) -> None:
    """Measure which form of each convolution of a config is the fastest on this machine.

    Runs that begin later use the fastest forms, and keep them when they resume.
    NNFUNC_TUNING=off ignores what was measured.
    """
    from nnfunc.commands.tune import tune

    tune(config, settings or [], seconds=seconds)


@app.command(cls=_JaxCommand)
def find_nan(run: RunFolder, changed_data: ChangedData = False) -> None:
    """Find the step and the layer where a diverged run first became non-finite."""
    from nnfunc.commands.debug import find_nan

    find_nan(run, changed_data=changed_data)


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


if __name__ == "__main__":
    main()
