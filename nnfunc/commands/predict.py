"""The command `nnfunc predict`: a model's predictions for the rows of files, in the order of the rows."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from nnfunc import check
from nnfunc.commands.interrupts import explain_full_disk
from nnfunc.commands.prediction_columns import name_columns, prediction_columns
from nnfunc.commands.prediction_writers import choose_format, open_writer
from nnfunc.config.restore import load_run
from nnfunc.data.prediction_files import read_pieces
from nnfunc.data.prediction_inputs import load_inputs, sentence_lengths

ROWS_AT_ONCE = 2048


def predict(
    folder: Path,
    inputs: Sequence[Path | str],
    output: Path | None = None,
    checkpoint: str = "best",
    batch_size: int | None = None,
    *,
    keep: Sequence[str] = (),
    format_name: str | None = None,
) -> None:
    """Write the predictions for the rows of files, one row for each.

    The files are read and written in pieces of some batches, so that they may be larger than the memory.
    folder: of the run.
    inputs: files, folders of images, or "-" for standard input; see `read_pieces`.
    output: the file to write, or None for standard output; it appears when all rows are predicted.
    checkpoint: "best" or "last".
    batch_size: rows per batch, at least 1; by default as in the run's evaluations, which fit the memory.
    keep: the columns of the inputs to write before the predictions; "all" keeps all.
    format_name: csv, jsonl, parquet or npy (the raw outputs of the model); by default by the ending of output.
    Raises: ValueError when an input does not fit the model, with the file, line and column.
    """
    output = None if output is None or str(output) == "-" else output
    format_name = choose_format(output, format_name)
    run = load_run(folder, checkpoint)
    batch_size = run.config.eval_batch_size if batch_size is None else batch_size
    check.size("predict", batch_size=batch_size)
    width, preprocessing, header = None, run.config.preprocessing, None
    limit = batch_size * max(1, ROWS_AT_ONCE // batch_size)
    pieces = read_pieces(preprocessing, inputs, limit)
    with (
        closing(pieces),  # pyright: ignore[reportArgumentType]
        explain_full_disk(output or folder, "Predict again."),
        open_writer(output, format_name) as write,
        _show_progress(output is not None or not sys.stdout.isatty()) as show,
    ):
        for piece in pieces:
            x, names = load_inputs(preprocessing, piece.rows)
            first = _keep_columns(piece.columns, keep, names is not None)
            first |= name_columns(preprocessing, names)
            lengths, start = sentence_lengths(preprocessing, x), 0
            for y in run.predict_batches(x, batch_size=batch_size, width=width):
                width = width or len(y)
                end = start + len(y)
                columns = {name: column[start:end] for name, column in first.items()}
                predicted = prediction_columns(
                    run, y, names and names[start:end], None if lengths is None else lengths[start:end]
                )
                columns = _join_columns(columns, predicted)
                if format_name in ("csv", "parquet"):
                    header = header or list(columns)
                    columns = _order_columns(columns, header)
                write(columns, y)
                show(len(y), piece.done)
                start = end


def _keep_columns(columns: Mapping[str, Sequence[Any]], keep: Sequence[str], have_names: bool) -> dict[str, Any]:
    """The columns of the input to write before the predictions."""
    if have_names and keep:
        check.fail("predict", "--keep is for tables. Each prediction of these inputs has the name of its input.")
    for name in keep:
        if name not in (*columns, "all"):
            hint = check.nearest(name, columns).removeprefix("; ")
            problem = f"the input has no column {name!r} to keep."
            check.fail("predict", problem, hint=f"{hint[:1].upper()}{hint[1:]}")
    return dict(columns) if "all" in keep else {name: columns[name] for name in keep}


def _join_columns(columns: Mapping[str, Any], predicted: Mapping[str, Any]) -> dict[str, Any]:
    """Columns of the input, then those of the predictions, with another name where the input has the same."""
    renamed = {f"predicted_{name}" if name in columns else name: column for name, column in predicted.items()}
    return {**columns, **renamed}


def _order_columns(columns: Mapping[str, Any], header: Sequence[str]) -> dict[str, Any]:
    """The columns in the order of those of the first rows, which a table has for all of its rows."""
    if other := set(columns) ^ set(header):
        name = min(other)
        problem = f"the rows of some inputs have a column {name!r}, and those of others have none."
        check.fail("predict", problem, hint="Predict them apart, or write JSON lines: --format jsonl.")
    return {name: columns[name] for name in header}


@contextmanager
def _show_progress(is_visible: bool) -> Iterator[Callable[[int, float | None], None]]:
    """Yield a function of (rows, the part that is done) that shows both in a terminal, on standard error."""
    if not (is_visible and sys.stderr.isatty()):
        yield lambda rows, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        BarColumn(bar_width=30),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task, total = progress.add_task("", total=None, rows=0), 0

        def show(rows: int, done: float | None) -> None:
            nonlocal total
            total += rows
            progress.update(task, rows=total, total=None if done is None else 1.0, completed=done)

        yield show
