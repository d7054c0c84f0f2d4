"""Which rows of the files are in which split, now and when a run began."""

import numpy as np

from nnfunc import check
from nnfunc.data.fingerprint import NO_SPLIT, SPLIT_BITS, fold_ids
from nnfunc.data.preprocessing import PARTS, Preprocessing
from nnfunc.data.splits import cut_splits

__all__ = ["assign_rows"]


def _numbered(ids: np.ndarray) -> np.ndarray:
    """The ids, those of equal examples made different by their order in the file; low bits are 0."""
    order = np.argsort(ids, kind="stable")
    ranked = ids[order]
    again = ranked[1:] == ranked[:-1]
    del ranked
    index = np.arange(len(ids), dtype=np.int32 if len(ids) < 1 << 31 else np.int64)
    first = index[1:].copy()
    first[again] = 0
    rank = (index[1:] - np.maximum.accumulate(first, out=first))[again]
    del index, first
    rows = order[1:][again]
    del order  # as large as ids; a table may have more rows than its file has words
    result = ids & ~SPLIT_BITS
    result[rows] = fold_ids(ids[rows], rank.astype(np.uint64)) & ~SPLIT_BITS
    return result


def assign_rows(
    where: str, ids: np.ndarray, y: np.ndarray, preprocessing: Preprocessing | None, *, stratify: bool, **shares: float
) -> tuple[dict[str, np.ndarray | None], np.ndarray | None]:
    """(the indices of the examples of each split, `Preprocessing.rows` or None where nothing was cut).

    ids: of `row_ids`. Examples that `preprocessing` knows are in the splits and the order that they were in,
    the others in none. Where it knows none of them, they are cut anew, by the shares, as `cut` does.
    """
    if preprocessing is not None and preprocessing.rows is None:
        return {"train": np.arange(len(ids))}, None  # files had brought all that was held out
    ids = _numbered(ids)
    then = None if preprocessing is None else preprocessing.rows
    here, past = (), ()
    if then is not None:
        _, here, past = np.intersect1d(ids, then & ~SPLIT_BITS, return_indices=True)
    if then is None or not len(here):
        pairs = cut_splits(where, np.arange(len(ids)), y, stratify=stratify, **shares)
        cuts = [None if pair is None else pair[0] for pair in pairs]
        parts = dict(zip(("train", *shares), cuts, strict=True))
    else:
        order = np.argsort(past)
        here, split = here[order], then[past[order]] & SPLIT_BITS
        parts = {name: here[split == i] for i, name in enumerate(PARTS)}
        parts = {name: at if len(at) else None for name, at in parts.items()}
        if parts["train"] is None:
            hint = "Give the file that it was trained on."
            check.fail(where, "none of the run's training examples is in the data now.", hint=hint)
    rows = ids | NO_SPLIT
    for i, name in enumerate(PARTS):
        at = parts.get(name)
        if at is not None:
            rows[at] = ids[at] | np.uint64(i)
    return parts, rows
