"""Matplotlib figures of the reports and commands: colours, panels, labels and PNGs."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.documents import write_file

__all__ = [
    "ACCENTS",
    "ALERT",
    "COLOURS",
    "HIGH",
    "LOW",
    "TITLE",
    "TRAIN",
    "VALIDATION",
    "escape_label",
    "make_figure",
    "png_bytes",
    "save_figure",
]

TRAIN, VALIDATION, ALERT = "#8a96a3", "#1f5fbf", "#c23b4b"
ACCENTS = ("#d9782d", "#a24fb0", "#2aa3a3", "#9a8a2a", ALERT)
COLOURS = (VALIDATION, "#d9782d", "#3a9a5b", "#a24fb0", "#6b7580", ALERT, "#2aa3a3", "#9a8a2a")
"""The colours of curves of equal rank, such as those of several models."""
TITLE: dict[str, Any] = {"fontsize": 10, "loc": "left"}
"""The style of a panel's title."""
LOW, HIGH = 1e-45, 1e39  # a little beyond float32; matplotlib fails near the ends of float64


def make_figure(
    count: int, *, columns: int, height: float, width: float = 10, xlabel: str = ""
) -> tuple[Any, np.ndarray]:
    """A Figure with `count` panels, and the panels in rows of `columns`; spare ones are hidden.

    height: of a row, in inches. width: of the figure, in inches. xlabel: of every panel.
    """
    from matplotlib.figure import Figure

    rows = max(-(-count // columns), 1)
    figure = Figure(figsize=(width, height * rows), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for i, panel in enumerate(panels):
        panel.set_xlabel(xlabel, fontsize=8)
        panel.tick_params(labelsize=8)
        panel.grid(alpha=0.25, lw=0.6)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_visible(i < count)
    return figure, panels


def png_bytes(figure: Any) -> bytes:
    """A matplotlib `figure` as a PNG."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font does not have
        figure.savefig(file, format="png")
    return file.getvalue()


def save_figure(figure: Any, path: Path) -> None:
    """Write the `figure` to the PNG file `path` completely or not at all."""
    write_file(path, png_bytes(figure))


def escape_label(text: str, limit: int = 40) -> str:
    """The text as a label of at most `limit` characters that matplotlib neither hides nor reads as mathematics.

    >>> escape_label("_a$b"), escape_label("abcdef", 4)
    ('a\\\\$b', 'abc…')
    """
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text.replace("$", r"\$").lstrip("_") or "…"
