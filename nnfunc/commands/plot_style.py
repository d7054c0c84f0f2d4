"""The style of the plots that several commands draw."""

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["COLOURS", "create_figure", "save_figure"]

COLOURS = ("#1f5fbf", "#d9782d", "#3a9a5b", "#a24fb0", "#6b7580", "#c23b4b", "#2aa3a3", "#9a8a2a")
TITLE: dict[str, Any] = {"fontsize": 10, "loc": "left"}


def create_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, np.ndarray]:
    """A figure and its axes [rows * columns]. width, height: in inches. rows, columns: of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.grid(alpha=0.25, lw=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG file whole or not at all. figure: of matplotlib. path: of the file."""
    temporary = path.with_name(f"{path.name}.tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)
