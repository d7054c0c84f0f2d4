"""Commands that use the model of a run, or make a run of a published one."""

from pathlib import Path
from typing import Annotated

import typer

from nnfunc.cli.application import JaxCommand, app
from nnfunc.cli.arguments import BatchSize, ChangedData, Checkpoint, RunFolder, complete_runs

PANEL = "Trained models"


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def evaluate(
    run: RunFolder,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE", help="A file of labelled rows like those of the training data.", show_default=False
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

    Prints each metric with its 95 % bootstrap interval and its value for a
    constant prediction, the metrics of each class, the confusion matrix, the
    calibration and the worst examples.
    """
    from nnfunc.commands.evaluate_run import evaluate

    names = [name.strip() for name in metrics.split(",") if name.strip()] if metrics else ()
    evaluate(run, split, checkpoint, batch_size, file=file, metrics=names, json_file=json, changed_data=changed_data)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
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


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
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
    page with a form, GET /schema describes the columns, GET /health the state.
    Requests that arrive together are predicted in one batch. SIGTERM and Ctrl-C
    finish what was accepted. It needs: pip install 'nnfunc\\[serve]'
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


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def export(
    run: RunFolder,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to write; for numpy a .py file, for hf a folder.")
    ],
    to: Annotated[str, typer.Option("--to", help="The format: stablehlo, onnx, litert, numpy or hf.")],
    checkpoint: Checkpoint = "best",
    quantize: Annotated[
        str | None,
        typer.Option(
            help="For onnx, 8-bit weights: weights computes in float32, dynamic partly in integers.",
            show_default="float32",
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="The largest difference of an output, as a fraction of the largest output.")
    ] = 1e-4,
) -> None:
    """Write the model of a run as a file for another runtime.

    stablehlo is a file for nf.load_exported, which needs JAX alone; onnx is for
    ONNX Runtime and others; litert is a .tflite file for phones; numpy is a
    page of Python and a .safetensors file; hf is a folder for transformers, or
    for PEFT if the run trains adapters, with a model card.

    The preprocessing of images and tables is a part of the file. Before it is
    written, it runs on 100 held-out examples; if its outputs differ from those
    of the model, nothing is written.
    """
    if to == "hf":
        from nnfunc.commands.export_pretrained import export_pretrained

        export_pretrained(run, file, checkpoint, tolerance=tolerance)
        return
    from nnfunc.commands.export import export

    export(run, file, to, checkpoint, quantize=quantize, tolerance=tolerance)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
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


@app.command("import", cls=JaxCommand, rich_help_panel=PANEL)
def import_weights(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A folder as transformers or timm writes it, or hf://owner/name.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="A new folder for the run.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="What to evaluate on: a text, a table of texts with labels, or a folder of images for each class.",
            show_default="none",
        ),
    ] = None,
    block_size: Annotated[int | None, typer.Option(help="Tokens per example.", show_default="as the model")] = None,
    revision: Annotated[str | None, typer.Option(help="The branch, tag or commit on the hub.")] = None,
) -> None:
    """Make a run of a published model of text or images, such as Llama, BERT or ViT."""
    from nnfunc.commands.import_weights import import_weights

    import_weights(source, folder, data, block_size=block_size, revision=revision)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def merge(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a run with adapters.", autocompletion=complete_runs)
    ],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder for the merged run.")],
    checkpoint: Checkpoint = "best",
) -> None:
    """Merge the LoRA adapters of a run into its weights; write a plain run."""
    from nnfunc.commands.merge import merge

    merge(run, folder, checkpoint)


@app.command(cls=JaxCommand, rich_help_panel=PANEL)
def consolidate(run: RunFolder) -> None:
    """Join the parts of each checkpoint that several processes wrote into one file."""
    from nnfunc.commands.consolidate import consolidate

    consolidate(run)
