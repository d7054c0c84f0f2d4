"""The command `nnfunc predict`: a model's outputs for new rows or images."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nnfunc import check
from nnfunc.commands.interrupts import explain_full_disk
from nnfunc.config.restore import load_run

__all__ = ["predict"]


def predict(
    folder: Path,
    inputs: Path | Sequence[Path],
    output: Path | None = None,
    checkpoint: str = "best",
    batch_size: int | None = None,
) -> np.ndarray:
    """Write the model's outputs for the rows of a file or for images, and return them [rows, ...].

    folder: of the run. inputs: one path, or several image files; see `nnfunc.config.restore.Run.predict`.
    output: a .csv or .npy file; None prints CSV. checkpoint: "best" or "last". batch_size: rows per
    batch, at least 1; by default as in the run's evaluations, which fit the memory.
    Raises: ValueError when an input does not fit the model, or the output is neither .csv nor .npy.
    """
    if output is not None and output.suffix not in (".csv", ".npy"):
        check.fail("predict", expected="output should be a .csv or .npy file", actual=output)
    paths = [inputs] if isinstance(inputs, Path) else list(inputs)
    run = load_run(folder, checkpoint)
    facts = run.config.preprocessing.facts
    if len(paths) > 1 and "image" not in facts:
        expected = "inputs should be one path, because the run was not trained on image files"
        check.fail("predict", expected=expected, actual=f"{len(paths)} paths")
    y, files = run.predict_named(paths if len(paths) > 1 else paths[0], batch_size=batch_size)
    with explain_full_disk(output or folder, "Predict again."):
        if output is not None and output.suffix == ".npy":
            np.save(output, y)
            return y
        if run.config.tables["objective"]["name"] == "classification":
            header, rows = _class_table(y, run.names)
        else:
            header, rows = _value_table(y, facts.get("label"))
        if files is not None:
            header, rows = ["file", *header], [[file, *row] for file, row in zip(files, rows, strict=True)]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        if output is None:
            print(text.getvalue(), end="")
        else:
            output.write_text(text.getvalue(), encoding="utf-8")
    return y


def _class_table(logits: np.ndarray, names: Sequence[str] | None) -> tuple[list[str], list[list[object]]]:
    """The header and the rows of a classifier: the most likely class and each class's probability."""
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = exponentials / exponentials.sum(-1, keepdims=True)
    count = logits.shape[-1]
    if names is not None and len(names) == count:
        header, classes = [f"p_{name}" for name in names], list(names)
    else:
        header, classes = [f"p{i}" for i in range(count)], list(range(count))
    best = logits.argmax(-1)
    rows = [[classes[i], *(f"{p:.6g}" for p in row)] for i, row in zip(best, probabilities, strict=True)]
    return ["class", *header], rows


def _value_table(y: np.ndarray, label: str | None) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of outputs that are numbers. label: the name of the only one."""
    values = y.reshape(len(y), -1)  # [rows, outputs]
    count = values.shape[-1]
    header = [label] if count == 1 and label is not None else [f"y{i}" for i in range(count)]
    return header, [[f"{value:.9g}" for value in row] for row in values]
