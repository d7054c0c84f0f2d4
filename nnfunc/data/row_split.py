"""The split of each row of the files, the same as in an earlier run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.data.fingerprint import NO_SPLIT, SPLIT_BITS, are_same_rows, fold_ids, row_ids, split_fingerprint
from nnfunc.data.preprocessing import PARTS, Preprocessing
from nnfunc.data.splits import BLOCK, BUCKETS, cut_splits


@dataclass(frozen=True, eq=False)
class SplitRows:
    """The indices of the rows of a split, which are computed block by block, because they may be as large as the file.

    ids: `Preprocessing.rows`, whose two lowest bits are the split of each row.
    split: of these rows.
    count: how many.
    listed: the indices in another order than that of the file, or None.
    """

    ids: np.ndarray
    split: int
    count: int
    listed: np.ndarray | None = None

    def __len__(self) -> int:
        return self.count

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """(their positions in the split, the indices) of a block of rows after the other."""
        filled = 0
        for start in range(0, len(self.ids if self.listed is None else self.listed), BLOCK):
            block = slice(start, start + BLOCK)
            if self.listed is None:
                rows = start + np.flatnonzero((self.ids[block] & SPLIT_BITS) == self.split)
            else:
                rows = self.listed[block]
            yield slice(filled, filled := filled + len(rows)), rows

    def indices(self) -> np.ndarray:
        """All indices [count]."""
        indices = np.empty(self.count, np.int32 if len(self.ids) < 2**31 else np.int64)
        for position, rows in self.blocks():
            indices[position] = rows
        return indices


def _number(ids: np.ndarray) -> None:
    """Make ids of equal examples differ by their order in the file, and clear the split bits, in place."""
    for bucket in range(BUCKETS):  # sorted one after another, because ids may be as large as the file
        at = np.concatenate([*_in_bucket(ids, bucket)])
        part = ids[at]
        order = np.argsort(part, kind="stable")
        ranked = part[order]
        again = np.flatnonzero(ranked[1:] == ranked[:-1]) + 1
        first = np.arange(len(at))
        first[again] = 0
        rank = again - np.maximum.accumulate(first)[again]
        rows = order[again]
        part[rows] = fold_ids(part[rows], rank.astype(np.uint64))
        ids[at] = part & ~SPLIT_BITS


def _in_bucket(ids: np.ndarray, bucket: int) -> Iterator[np.ndarray]:
    """The indices of the ids with these highest bits, block by block."""
    shift = np.uint64(65 - BUCKETS.bit_length())
    for start in range(0, len(ids) or 1, BLOCK):
        yield start + np.flatnonzero(ids[start : start + BLOCK] >> shift == bucket)


def assign_rows(
    where: str,
    row_ids: Callable[[], np.ndarray],
    y: np.ndarray,
    preprocessing: Preprocessing | None,
    *,
    stratify: bool,
    cut: Callable[..., tuple[np.ndarray | None, ...]] | None = None,
    **fractions: float,
) -> tuple[dict[str, SplitRows | None], np.ndarray | None]:
    """(the rows of each split, the `Preprocessing.rows` or None if nothing was split).

    where: begins the message of an error.
    row_ids: () -> the ids, as of `fingerprint.row_ids`, which are changed into the rows; it is called after the
        cut, because both need memory.
    y: labels [n], for stratify: whether each split gets the same fraction of every class.
    fractions: by split, as for `cut_splits`.
    cut: (**fractions) -> the indices of each split in the order of the file, in place of `cut_splits`.
    preprocessing: of an earlier run, or None. The examples that it knows are in the splits and the order that they
        had there, other examples in none. If it knows none of them, they are split anew.
    """
    if preprocessing is not None and preprocessing.rows is None:  # all held-out splits were in the files
        return {"train": SplitRows(np.zeros(len(y), np.uint64), 0, len(y))}, None

    def cut_anew() -> np.ndarray:
        cuts = cut(**fractions) if cut else cut_splits(where, len(y), y, stratify=stratify, **fractions)
        split = np.full(len(y), NO_SPLIT, np.uint8)
        for name, at in zip(("train", *fractions), cuts, strict=True):
            if at is not None:
                split[at] = PARTS.index(name)
        return split

    split = cut_anew() if preprocessing is None else None
    ids = row_ids()
    _number(ids)
    order = None
    if preprocessing is not None and preprocessing.rows is not None:
        split, order = _earlier_split(where, ids, preprocessing.rows)
    split = cut_anew() if split is None else split
    np.bitwise_or(ids, split, out=ids)
    counts = [int(np.count_nonzero(split == i)) for i in range(len(PARTS))]
    listed = (None if order is None else order[split[order] == i] for i in range(len(PARTS)))
    parts = [SplitRows(ids, i, counts[i], at) for i, at in enumerate(listed)]
    return {name: part if len(part) else None for name, part in zip(PARTS, parts, strict=True)}, ids


def _earlier_split(where: str, ids: np.ndarray, before: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(the split of each row, the indices in the order of an earlier run, None for that of the file).

    The split is None if the earlier run has none of the rows.
    ids: of the rows.
    before: its `Preprocessing.rows`.
    """
    if are_same_rows(before, ids):
        split = np.empty(len(ids), np.uint8)
        return np.bitwise_and(before, SPLIT_BITS, out=split, casting="unsafe"), None
    _, here, there = np.intersect1d(ids, before & ~SPLIT_BITS, return_indices=True)
    if not len(here):
        return None, None
    split = np.full(len(ids), NO_SPLIT, np.uint8)
    split[here] = before[there] & SPLIT_BITS
    if not (split == 0).any():
        hint = "Use the file that the run was trained on."
        check.fail(where, "the data has none of the training examples of the run.", hint=hint)
    return split, here[np.argsort(there)]


def split_pairs(
    where: str,
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]],
    preprocessing: Preprocessing | None,
    *,
    stratify: bool,
    cut: Callable[..., tuple[np.ndarray | None, ...]] | None = None,
    **fractions: float,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], np.ndarray | None]:
    """(the pair (x, y) or None of every split, `Preprocessing.parts`, `Preprocessing.rows`).

    parts: the pairs that were in the files, "train" among them, of which the missing splits are cut off.
    where, preprocessing, stratify, cut, fractions: as for `assign_rows`.
    """
    fractions = {name: fraction for name, fraction in fractions.items() if name not in parts}
    splits, rows = {name: parts.get(name) for name in PARTS}, None
    if fractions:
        x, y = parts["train"]
        options: dict[str, Any] = {"stratify": stratify, "cut": cut} | fractions
        cuts, rows = assign_rows(where, lambda: row_ids(x, y), y, preprocessing, **options)
        for name in ("train", *fractions):
            at = cuts.get(name)
            splits[name] = None if at is None else (x[at.indices()], y[at.indices()])
    fingerprints = {name: split_fingerprint(*pair) for name, pair in parts.items() if rows is None or name != "train"}
    return splits, fingerprints, rows
