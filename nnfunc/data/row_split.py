"""The split of each row of the files, the same as in an earlier run."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.data.fingerprint import NO_SPLIT, SPLIT_BITS, fold_ids, row_ids, split_fingerprint
from nnfunc.data.preprocessing import PARTS, Preprocessing
from nnfunc.data.splits import cut_splits


def _number(ids: np.ndarray) -> None:
    """Make ids of equal examples differ by their order in the file, and clear the split bits, in place."""
    buckets = np.empty(len(ids), np.uint8)  # sorted bucket by bucket, because ids may be as large as the file
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
    where: str,
    row_ids: Callable[[], np.ndarray],
    y: np.ndarray,
    preprocessing: Preprocessing | None,
    *,
    stratify: bool,
    cut: Callable[..., tuple[np.ndarray | None, ...]] | None = None,
    **fractions: float,
) -> tuple[dict[str, np.ndarray | None], np.ndarray | None]:
    """(the indices of the examples of each split, the `Preprocessing.rows` or None if nothing was split).

    where: begins the message of an error. row_ids: () -> the ids, as of `fingerprint.row_ids`, which are changed into
    the rows; it is called after the cut, because both need memory. y: labels [n], for stratify: whether each split gets
    the same fraction of every class. fractions: by split, as for `cut_splits`.
    cut: (**fractions) -> the indices of each split, in place of `cut_splits`. preprocessing: of an earlier run, or
    None. The examples that it knows are in the splits and the order that they had there, other examples in none. If it
    knows none of them, they are split anew.
    """
    if preprocessing is not None and preprocessing.rows is None:
        return {"train": np.arange(len(y))}, None  # all held-out splits were in the files

    def cut_anew() -> dict[str, np.ndarray | None]:
        cuts = cut(**fractions) if cut else cut_splits(where, len(y), y, stratify=stratify, **fractions)
        return dict(zip(("train", *fractions), cuts, strict=True))

    parts = cut_anew() if preprocessing is None else None
    ids = row_ids()
    _number(ids)
    if preprocessing is not None and preprocessing.rows is not None:
        parts = _earlier_parts(where, ids, preprocessing.rows)
    parts = parts or cut_anew()
    split = np.full(len(ids), NO_SPLIT, np.uint8)
    for i, name in enumerate(PARTS):
        if (at := parts.get(name)) is not None:
            split[at] = i
    np.bitwise_or(ids, split, out=ids)
    return parts, ids


def _earlier_parts(where: str, ids: np.ndarray, before: np.ndarray) -> dict[str, np.ndarray | None] | None:
    """The indices of the rows in each split of an earlier run, in the order that they had there; None if it has none.

    ids: of the rows. before: `Preprocessing.rows` of the run.
    """
    _, here, there = np.intersect1d(ids, before & ~SPLIT_BITS, return_indices=True)
    if not len(here):
        return None
    order = np.argsort(there)
    here, split = here[order], before[there[order]] & SPLIT_BITS
    parts = {name: here[split == i] for i, name in enumerate(PARTS)}
    parts = {name: at if len(at) else None for name, at in parts.items()}
    if parts["train"] is None:
        hint = "Use the file that the run was trained on."
        check.fail(where, "the data has none of the training examples of the run.", hint=hint)
    return parts


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

    parts: the pairs that were in the files, "train" among them, of which the missing splits are cut off. where,
    preprocessing, stratify, cut, fractions: as for `assign_rows`.
    """
    fractions = {name: fraction for name, fraction in fractions.items() if name not in parts}
    splits, rows = {name: parts.get(name) for name in PARTS}, None
    if fractions:
        x, y = parts["train"]
        options: dict[str, Any] = {"stratify": stratify, "cut": cut} | fractions
        cuts, rows = assign_rows(where, lambda: row_ids(x, y), y, preprocessing, **options)
        for name in ("train", *fractions):
            at = cuts.get(name)
            splits[name] = None if at is None else (x[at], y[at])
    fingerprints = {name: split_fingerprint(*pair) for name, pair in parts.items() if rows is None or name != "train"}
    return splits, fingerprints, rows
