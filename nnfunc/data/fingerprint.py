"""Fingerprints of data: digests of whole splits, and an id of each row."""

import hashlib
import math
from typing import Any

import numpy as np

SPLIT_BITS = NO_SPLIT = np.uint64(3)  # the split of a row, in the two lowest bits of its id

_SAMPLED, _BLOCKS, _BLOCK = 1 << 26, 64, 1 << 16  # bytes

_ROWS = 1 << 16  # at a time


def split_fingerprint(*arrays: np.ndarray) -> dict[str, Any]:
    """The entry of `Preprocessing.parts` for a split that was in the files. arrays: of the split, each [n, ...]."""
    return {"count": len(arrays[0]), "digest": digest(*arrays)}


def digest(*arrays: np.ndarray) -> str:
    """A hash of the dtypes, shapes and values of arrays.

    arrays: of memory-mapped ones above 64 MiB, only 64 evenly spaced blocks of 64 KiB are read.
    """
    total = hashlib.blake2b(digest_size=16)
    for array in arrays:
        total.update(f"{array.dtype.newbyteorder('=').str}{array.shape}".encode())
        if isinstance(array, np.memmap) and array.nbytes > _SAMPLED:
            flat, width = array.reshape(-1), _BLOCK // array.itemsize
            starts = np.linspace(0, len(flat) - width, _BLOCKS).astype(np.int64)
            for start in starts:
                total.update(np.ascontiguousarray(flat[start : start + width]).data)
        else:
            total.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return total.hexdigest()


def row_ids(*arrays: np.ndarray) -> np.ndarray:
    """uint64 [n]: a hash of each example. arrays: each [n, ...], with one row for each example."""
    ids = np.zeros(len(arrays[0]), np.uint64)
    for array in arrays:
        width = array.itemsize * int(np.prod(array.shape[1:]))
        count = -(-width // 8)  # 64-bit numbers in a row
        keys = _mixed(np.arange(1, count + 1, dtype=np.uint64))
        step = max(1, (1 << 22) // max(1, 8 * count))  # rows that fit into a cache
        hashes = np.empty(len(array), np.uint64)
        for start in range(0, len(array), step):
            part = np.ascontiguousarray(array[start : start + step])
            raw = np.zeros((len(part), 8 * count), np.uint8)
            raw[:, :width] = part.reshape(len(part), -1).view(np.uint8)
            hashes[start : start + step] = _mixed(raw.view(np.uint64) ^ keys).sum(1)
        ids = fold_ids(ids, hashes)
    return ids


def are_same_rows(before: np.ndarray, now: np.ndarray) -> bool:
    """Whether two arrays of ids are of the same rows in the same order, whatever the splits in the lowest bits."""
    blocks = (slice(start, start + _ROWS) for start in range(0, len(now), _ROWS))
    return len(before) == len(now) and all(((before[b] ^ now[b]) <= SPLIT_BITS).all() for b in blocks)


def fold_ids(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Make ids also depend on one more column, in place. ids: uint64 [n]. values: [n], uint64 or any numbers."""
    for start in range(0, len(ids), _ROWS):
        block = slice(start, start + _ROWS)
        part = values[block]
        if part.dtype != np.uint64:
            part = part.astype(np.float64) + 0.0  # -0.0 becomes 0.0
            part[np.isnan(part)] = math.nan  # NaN has many forms
            part = part.view(np.uint64)
        ids[block] = _mixed(_mixed(ids[block]) ^ part)
    return ids


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64: each bit of x changes about half of the bits (Steele et al. 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
