"""Rows of tokens, cut into splits of windows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.data.download import fail_damaged
from nnfunc.data.fingerprint import split_fingerprint
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.splits import Splits
from nnfunc.data.transforms import next_tokens
from nnfunc.data.windows import Windows

__all__ = ["build_token_splits", "cut_tokens"]

WHOLE = 1 << 26  # tokens that are looked at before training begins


def build_token_splits(
    where: str,
    train: np.ndarray,
    held: np.ndarray | None,
    block_size: int,
    vocab_size: int | None,
    codec: Any,
    source: str,
    *,
    test: np.ndarray | None = None,
    counts: Mapping[str, int] | None = None,
) -> Splits:
    """Arrays of tokens as `Splits`: windows at any place to train on, end to end to hold out.

    counts: of `divided`, where the splits were cut from one array.
    """
    check.size(where, block_size=block_size)
    window = block_size + 1
    for name, part in {"training": train, "validation": held, "test": test}.items():
        if part is not None and len(part) < window:
            problem = f"{source} has {len(part)} {name} tokens, too few for block_size + 1 = {window}"
            check.fail(where, f"{problem}. Set a smaller block_size.")
        if part is not None and vocab_size is not None and len(part) <= WHOLE:
            largest, least = int(part.max()), int(part.min())
            if largest >= vocab_size or least < 0:
                wrong = largest if largest >= vocab_size else least
                at = int(np.argmax(part == wrong))
                problem = f"token {wrong}, at place {at} of the {name} tokens, is not in the vocabulary"
                cure = "Is the dtype right, and the codec the one that it was made with?"
                fail_damaged(where, source, f"{problem}, [0, {vocab_size})", cure)
    rows = [None if part is None else Windows(part, window).rows() for part in (held, test)]
    facts = {"classes": vocab_size, "window": window, "dtype": train.dtype.name, **(counts or {})}
    parts = {"train": train, "validation": held, "test": test}
    parts = {name: split_fingerprint(part) for name, part in parts.items() if part is not None}
    return Splits(
        train,
        *rows,
        classes=vocab_size,
        transform=next_tokens,
        window=window,
        codec=codec,
        preprocessing=Preprocessing(where.removeprefix("data."), facts, parts, codec=codec),
    )


def cut_tokens(
    where: str, tokens: Any, validation: float, preprocessing: Preprocessing | None
) -> tuple[Any, Any, dict[str, int]]:
    """The first part to train on, the last part to hold out or None, and how they were cut.

    validation: the fraction to hold out. learned: of a run whose cut is taken; what comes after it is
    in no part.
    """
    check.number(where, 0, 1, open_high=True, validation=validation)
    total = len(tokens)
    counts = {"cut": int(total * (1 - validation)), "used": total}  # as nanoGPT rounds
    if preprocessing is not None:
        preprocessing.check_factory(where)
        counts = {name: preprocessing.facts[name] for name in counts}
    train, held = tokens[: counts["cut"]], tokens[counts["cut"] : counts["used"]]
    return train, held if validation and len(held) else None, counts | {"total": total}
