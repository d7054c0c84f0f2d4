"""Examples of any length: told apart by their content, split, and padded to one length."""

import hashlib
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check, device_memory
from nnfunc.data.preprocessing import PARTS, Preprocessing
from nnfunc.data.row_split import split_pairs
from nnfunc.data.splits import cut_splits


def drop_repeats(where: str, name: str, contents: Sequence[Any], describe_row: Callable[[int], str]) -> list[int]:
    """The indices of the examples without those that repeat an earlier one, with a warning about these.

    An example that is in two splits would make the test metrics too good.
    where, name: the function and the file, for the warning.
    contents: hashable.
    describe_row: index -> its position.
    """
    first: dict[Any, int] = {}
    for index, content in enumerate(contents):
        first.setdefault(content, index)
    distinct = list(first.values())
    if len(distinct) < len(contents):
        index = next(i for i, content in enumerate(contents) if first[content] != i)
        text = f"{describe_row(index)} repeats {describe_row(first[contents[index]])}"
        count = check.counted(len(contents) - len(distinct), "repeated example")
        warnings.warn(f"{where}: {name}: {text}; {count} left out.", stacklevel=4)
    return distinct


def repeated_rows(part: str, distinct: Sequence[int], count: int) -> dict[str, list[int]]:
    """The entry of facts["repeats"] for a file: {split: the rows that were left out}, {} without any.

    part: the split.
    distinct: the rows that are used.
    count: of the rows of the file.
    """
    return {part: sorted({*range(count)} - {*distinct})} if len(distinct) < count else {}


def split_examples(
    where: str,
    parts: Mapping[str, tuple[list[Any], np.ndarray]],
    preprocessing: Preprocessing | None,
    *,
    stratify: bool,
    input_of: Callable[[Any], Any] = lambda content: content,
    **fractions: float,
) -> tuple[dict[str, Any], dict[str, dict[str, Any]], np.ndarray | None]:
    """`split_pairs` of contents that are no arrays.

    Examples of the same input, of different classes, are in one split. Of those that two given files share, there is a
    warning.
    where, preprocessing, stratify, fractions: as for `split_pairs`.
    parts: {split: (contents, whose repr tells them apart, labels)}.
    input_of: content -> what the model reads of it.
    """
    known, pairs = {}, {}
    inputs = {part: [input_of(content) for content in contents] for part, (contents, _) in parts.items()}
    _warn_of_shared(where, inputs)
    for part, (contents, y) in parts.items():
        digests = (hashlib.blake2b(repr(content).encode(), digest_size=8).digest() for content in contents)
        ids = np.frombuffer(b"".join(digests), np.uint64)
        known |= zip(ids.tolist(), contents, strict=True)
        pairs[part] = ids, y
    cut = partial(_cut_together, where, inputs["train"], parts["train"][1], stratify)
    options: dict[str, Any] = {"stratify": stratify, "cut": cut} | fractions
    splits, fingerprints, rows = split_pairs(where, pairs, preprocessing, **options)
    splits = {
        part: None if pair is None else ([known[i] for i in pair[0].tolist()], pair[1]) for part, pair in splits.items()
    }
    return splits, fingerprints, rows


def _warn_of_shared(where: str, inputs: Mapping[str, Sequence[Any]]) -> None:
    """Warn of inputs that are in several given files. inputs: by split."""
    for first, second in combinations([part for part in PARTS if part in inputs], 2):
        known = set(inputs[first])
        if count := sum(content in known for content in inputs[second]):
            shared = f"{count} of {check.counted(len(inputs[second]), 'example')} of {second} are also in {first}"
            warnings.warn(f"{where}: {shared}, so the metrics of {second} are too good.", stacklevel=4)


def _cut_together(
    where: str, inputs: Sequence[Any], y: np.ndarray, stratify: bool, **fractions: float
) -> tuple[np.ndarray | None, ...]:
    """`cut_splits`, with the examples of the same input in one split, that of the first of them."""
    known: dict[Any, int] = {}
    groups = np.array([known.setdefault(content, len(known)) for content in inputs])
    first = np.unique(groups, return_index=True)[1]
    cuts = cut_splits(where, len(first), y[first], stratify=stratify, **fractions)
    return tuple(None if cut is None else np.flatnonzero(np.isin(groups, cut)) for cut in cuts)


def pad_rows(rows: Sequence[Sequence[Any]], length: int, fill: int = 0, shape: tuple[int, ...] = ()) -> np.ndarray:
    """int32 [n, length, *shape]: the first `length` items of each row, then `fill`.

    shape: of an item.

    Raises: ValueError when that is more than the memory.
    """
    size = 4.0 * len(rows) * length * math.prod(shape)
    problem = f"{len(rows)} examples of block_size = {length} take {device_memory.format_bytes(size)}"
    device_memory.check_fits("data", size, problem, "Make block_size smaller.")
    padded = np.full((len(rows), length, *shape), fill, np.int32)
    for i, row in enumerate(rows):
        if cut := row[:length]:
            padded[i, : len(cut)] = cut
    return padded


def find_path(where: str, item: Any, endings: Sequence[str]) -> Path | None:
    """The file or folder that an item names, None for a text: a text names one if it ends as one of the `endings`.

    where: begins the message of an error.
    endings: after which there may be .gz. A Path always names one.
    Raises: FileNotFoundError.
    """
    if isinstance(item, str):
        is_file = item.lower().removesuffix(".gz").endswith(tuple(endings))
        if not is_file and not ("/" in item and Path(item).is_dir()):
            return None
    if isinstance(item, str | Path) and not Path(item).exists():
        check.fail(where, f"The input {item} does not exist.", exc_type=FileNotFoundError)
    return Path(item) if isinstance(item, str | Path) else None
