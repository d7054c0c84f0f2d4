"""Columns of numbers and of words, gathered block by block in the smallest types that hold them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["ColumnStore", "StringColumn"]

TYPES = [np.dtype(name) for name in ("uint8", "int16", "float32", "float64")]
GROUPS = 256  # arrays that hold the columns: each may have another type, and be given back alone


@dataclass(frozen=True, eq=False)
class StringColumn:
    """A column of words: word number `codes[row]` of the distinct ones is that of a row."""

    codes: np.ndarray
    distinct: list[str]

    @staticmethod
    def from_strings(values: Iterable[str]) -> "StringColumn":
        known: dict[str, int] = {}
        codes = np.array([known.setdefault(word, len(known)) for word in values], np.int32)
        return StringColumn(codes, list(known))

    def stripped(self) -> "StringColumn":
        """Without the blanks around the words."""
        again = StringColumn.from_strings(word.strip() for word in self.distinct)
        codes = again.codes.astype(np.min_scalar_type(len(again.distinct)))
        return StringColumn(codes[self.codes], again.distinct)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str:
        return self.distinct[int(self.codes[row])]

    def __iter__(self) -> Iterator[str]:
        return (self.distinct[int(code)] for code in self.codes)


class ColumnStore:
    """Columns of at most so many rows; memory is only used as they fill."""

    def __init__(self, columns: int, most: int):
        self.width = -(-columns // GROUPS) or 1  # columns in a group
        sizes = [min(self.width, columns - start) for start in range(0, columns, self.width)]
        self.groups = [np.empty((size, most), TYPES[0]) for size in sizes]
        self.known: dict[int, dict[str, int]] = {}
        self.count = 0

    def encode(self, column: int, text: Sequence[str]) -> np.ndarray:
        """The codes of the words among those that the column has had so far."""
        known = self.known.setdefault(column, {})
        return np.array([known.setdefault(word, len(known)) for word in text], np.float64)

    def add(self, values: np.ndarray) -> None:
        """values: float64 [rows, columns], of columns of words the codes."""
        start, self.count = self.count, self.count + len(values)
        for i, group in enumerate(self.groups):
            block = values[:, i * self.width : i * self.width + len(group)] + 0.0  # no -0.0
            dtype = next(d for d in TYPES[TYPES.index(group.dtype) :] if _holds(d, block))
            if dtype != group.dtype:
                self.groups[i] = np.empty(group.shape, dtype)
                self.groups[i][:, :start] = group[:, :start]
            self.groups[i][:, start : self.count] = block.T

    def column(self, index: int) -> "np.ndarray | StringColumn":
        values = self.groups[index // self.width][index % self.width, : self.count]
        if index not in self.known:
            return values
        integers = values if values.dtype.kind in "iu" else values.astype(np.int32)  # beside columns of floats
        return StringColumn(integers, list(self.known[index]))


def _holds(dtype: np.dtype, values: np.ndarray) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.array_equal(values.astype(dtype), values)
