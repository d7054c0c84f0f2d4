"""The outputs that `predict` writes."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["write"]


def write(
    y: np.ndarray,
    output: Path | None,
    *,
    classes: bool,
    names: Sequence[str] | None = None,
    label: str | None = None,
    files: Sequence[str] | None = None,
) -> None:
    """Print the outputs, or write them as CSV or .npy.

    classes: with the probability of each; names: of the classes. label: of the number to predict.
    files: of the examples, for a first column.
    """
    if output is not None and output.suffix == ".npy":
        np.save(output, y)
        return
    if classes:
        shifted = np.exp(y - y.max(-1, keepdims=True))
        shares = shifted / shifted.sum(-1, keepdims=True)
        known = names is not None and len(names) == y.shape[-1]
        head = ["class", *(f"p_{n}" for n in names or ())] if known else ["class"]
        head += [] if known else [f"p{i}" for i in range(y.shape[-1])]
        best = [names[i] if names is not None and known else int(i) for i in y.argmax(-1)]
        lines = [[k, *(f"{p:.6g}" for p in row)] for k, row in zip(best, shares, strict=True)]
    else:
        flat = y.reshape(len(y), -1)
        one = flat.shape[-1] == 1 and label is not None
        head = [label] if one else [f"y{i}" for i in range(flat.shape[-1])]
        lines = [[f"{value:.9g}" for value in row] for row in flat]
    if files is not None:
        head, lines = ["file", *head], [[f, *row] for f, row in zip(files, lines, strict=True)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *lines])
    if output is None:
        print(text.getvalue(), end="")
    else:
        output.write_text(text.getvalue(), encoding="utf-8")
