"""Data sets as pure functions of the step: `batch(step)`, the same for the same seed and step."""

from nnfunc.data.arrays import Data, Splits, arrays, labels, split, take
from nnfunc.data.digits import digits
from nnfunc.data.order import indices, permute, positions

__all__ = [
    "Data", "Splits", "arrays", "digits", "indices", "labels", "permute", "positions", "split",
    "take",
]  # fmt: skip
