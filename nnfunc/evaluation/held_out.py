"""The outputs of a model for the examples of a split, and their targets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nnfunc.evaluation.readings import Reading, read


class HeldOut(NamedTuple):
    """The raw outputs of a model for the rows of a split, in their order.

    output_type: how outputs are read, a value of `Objective.output_type`.
    output: [n, ...]; of a pair of a mean and a log-deviation, [n, 2 * outputs].
    target: [n, ...]; labels that do not count are -100.
    names: of the classes, labels or tags, or None.
    ids: [n], of the rows in the data, or None.
    threshold: of the probability, or of each label's, from which on the answer is yes; None for 1/2.
    weight: [n], how much each row counts; None for 1.
    describe: an id -> the file or line of the row, or None.
    """

    output_type: str
    output: np.ndarray
    target: np.ndarray
    names: tuple[str, ...] | None = None
    ids: np.ndarray | None = None
    threshold: Any = None
    weight: np.ndarray | None = None
    describe: Callable[[int], str] | None = None

    def row_name(self, index: int) -> str:
        """The file, the line or the number of a row. index: among the rows."""
        row = index if self.ids is None else int(self.ids[index])
        return f"row {row}" if self.describe is None else self.describe(row)

    def reading(self) -> Reading:
        """The probabilities, predictions and errors of every row, in float64."""
        with np.errstate(invalid="ignore", over="ignore"):  # of outputs that are not finite
            return read(np, self.output_type, self.output, self.target, self.threshold, self.names)

    def finite(self) -> np.ndarray:
        """[n], whether all outputs of a row are finite."""
        return np.all(np.isfinite(self.output).reshape(len(self.output), -1), axis=1, keepdims=True)[:, 0]

    def take(self, rows: np.ndarray) -> "HeldOut":
        """Some of the rows. rows: their indices, or a mask [n]."""
        part = lambda array: None if array is None else array[rows]
        chosen = {name: part(getattr(self, name)) for name in ("output", "target", "ids", "weight")}
        return self._replace(**chosen)
