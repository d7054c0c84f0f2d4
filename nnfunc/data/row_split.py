"""Which rows of the files are in which split, now and when a run began."""

import numpy as np

from nnfunc import check
from nnfunc.data.fingerprint import NO_SPLIT, SPLIT_BITS, fold_ids
from nnfunc.data.preprocessing import PARTS, Preprocessing
from nnfunc.data.splits import cut_splits

__all__ = ["assign_rows"]


def _number(ids: np.ndarray) -> None:
    """Make the ids of equal examples different by their order in the file, and the low bits 0, in place."""
    buckets = np.empty(len(ids), np.uint8)  # a part at a time: ids alone may take as much as the file
    np.right_shift(ids, np.uint64(60), out=buckets, casting="unsafe")
    for bucket in range(16):
        at = np.flatnonzero(buckets == bucket)
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


def assign_rows(
    where: str, ids: np.ndarray, y: np.ndarray, preprocessing: Preprocessing | None, *, stratify: bool, **shares: float
) -> tuple[dict[str, np.ndarray | None], np.ndarray | None]:
    """(the indices of the examples of each split, `Preprocessing.rows` or None where nothing was cut).

    ids: of `row_ids`; they become the rows, in place. Examples that `preprocessing` knows are in the splits and the
    order that they were in, the others in none. Where it knows none of them, they are cut anew, by the shares.
    """
    if preprocessing is not None and preprocessing.rows is None:
        return {"train": np.arange(len(ids))}, None  # files had brought all that was held out
    _number(ids)
    then = None if preprocessing is None else preprocessing.rows
    here, past = (), ()
    if then is not None:
        _, here, past = np.intersect1d(ids, then & ~SPLIT_BITS, return_indices=True)
    if then is None or not len(here):
        cuts = cut_splits(where, len(ids), y, stratify=stratify, **shares)
        parts = dict(zip(("train", *shares), cuts, strict=True))
    else:
        order = np.argsort(past)
        here, split = here[order], then[past[order]] & SPLIT_BITS
        parts = {name: here[split == i] for i, name in enumerate(PARTS)}
        parts = {name: at if len(at) else None for name, at in parts.items()}
        if parts["train"] is None:
            hint = "Give the file that it was trained on."
            check.fail(where, "none of the run's training examples is in the data now.", hint=hint)
    split = np.full(len(ids), NO_SPLIT, np.uint8)
    for i, name in enumerate(PARTS):
        if (at := parts.get(name)) is not None:
            split[at] = i
    np.bitwise_or(ids, split, out=ids)
    return parts, ids
