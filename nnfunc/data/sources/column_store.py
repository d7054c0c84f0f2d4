"""Columns of numbers and of strings, filled block by block, in the smallest dtypes that fit."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

DTYPES = [np.dtype(name) for name in ("uint8", "int16", "float32", "float64")]
GROUPS = 256  # arrays for the columns: each has a dtype, and can be freed separately


@dataclass(frozen=True, eq=False)
class StringColumn:
    """A column of strings, whose row i is `distinct[codes[i]]`.

    codes: [rows] integers.
    distinct: the strings.
    """

    codes: np.ndarray
    distinct: list[str]

    @staticmethod
    def from_strings(values: Iterable[str]) -> "StringColumn":
        """The column of the strings in `values`."""
        known: dict[str, int] = {}
        codes = np.array([known.setdefault(value, len(known)) for value in values], np.int32)
        return StringColumn(codes, list(known))

    def stripped(self) -> "StringColumn":
        """The column without whitespace at both ends of the strings."""
        stripped = StringColumn.from_strings(string.strip() for string in self.distinct)
        codes = stripped.codes.astype(np.min_scalar_type(len(stripped.distinct)))
        return StringColumn(codes[self.codes], stripped.distinct)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str:
        return self.distinct[int(self.codes[row])]

    def __iter__(self) -> Iterator[str]:
        return (self.distinct[int(code)] for code in self.codes)


class ColumnStore:
    """Columns that grow block by block; the memory is used as they fill.

    columns: how many.
    most: the largest number of rows.
    """

    def __init__(self, columns: int, most: int):
        self.width = -(-columns // GROUPS) or 1  # columns in a group
        sizes = [min(self.width, columns - start) for start in range(0, columns, self.width)]
        self.groups = [np.empty((size, most), DTYPES[0]) for size in sizes]
        self.known: dict[int, dict[str, int]] = {}
        self.count = 0

    def encode(self, column: int, text: Sequence[str]) -> np.ndarray:
        """The codes [rows] of the strings `text` in a `column`; new strings get new codes."""
        known = self.known.setdefault(column, {})
        return np.array([known.setdefault(word, len(known)) for word in text], np.float64)

    def add(self, values: np.ndarray) -> None:
        """Append rows. values: float64 [rows, columns], with codes in columns of strings."""
        start, self.count = self.count, self.count + len(values)
        for i, group in enumerate(self.groups):
            block = values[:, i * self.width : i * self.width + len(group)] + 0.0  # no -0.0
            dtype = next(d for d in DTYPES[DTYPES.index(group.dtype) :] if _fits(d, block))
            if dtype != group.dtype:
                self.groups[i] = np.empty(group.shape, dtype)
                self.groups[i][:, :start] = group[:, :start]
            self.groups[i][:, start : self.count] = block.T

    def column(self, index: int) -> "np.ndarray | StringColumn":
        """The column at an `index`."""
        values = self.groups[index // self.width][index % self.width, : self.count]
        if index not in self.known:
            return values
        integers = values if values.dtype.kind in "iu" else values.astype(np.int32)  # beside columns of floats
        return StringColumn(integers, list(self.known[index]))


def _fits(dtype: np.dtype, values: np.ndarray) -> bool:
    with np.errstate(invalid="ignore", over="ignore"):
        return np.array_equal(values.astype(dtype), values)
