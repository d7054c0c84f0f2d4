"""Rows of tokens, cut into splits of windows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.data.batch_transforms import next_tokens
from nnfunc.data.download import fail_damaged
from nnfunc.data.fingerprint import split_fingerprint
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.splits import Splits
from nnfunc.data.token_windows import Windows

__all__ = ["build_token_splits", "cut_tokens"]

SCANNED = 1 << 26  # tokens of a split up to which all are checked before training begins


def build_token_splits(
    where: str,
    splits: Mapping[str, np.ndarray | None],
    block_size: int,
    vocab_size: int | None,
    codec: Any,
    source: str,
    *,
    counts: Mapping[str, int] | None = None,
) -> Splits:
    """Arrays of tokens as `Splits`: windows at any position for training, end to end in the other splits.

    splits: the tokens of train, validation and test. block_size, vocab_size, codec: see `tokens`. where,
    source: for messages. counts: of `cut_tokens`, if the splits were cut from one array.
    """
    check.size(where, block_size=block_size)
    window = block_size + 1
    present = {name: part for name, part in splits.items() if part is not None}
    for name, part in present.items():
        label = "training" if name == "train" else name
        if len(part) < window:
            problem = f"{source} has {len(part)} {label} tokens, too few for block_size + 1 = {window}."
            check.fail(where, problem, hint="Set a smaller block_size.")
        if vocab_size is not None and len(part) <= SCANNED:
            largest, least = int(part.max()), int(part.min())
            if largest >= vocab_size or least < 0:
                wrong = largest if largest >= vocab_size else least
                index = int(np.argmax(part == wrong))
                problem = f"token {wrong}, at index {index} of the {label} tokens, is not in the vocabulary"
                hint = "Is the dtype right, and the codec the one that the file was made with?"
                fail_damaged(where, source, f"{problem}, [0, {vocab_size})", hint)
    train = present["train"]
    rows = {name: Windows(part, window).rows() for name, part in present.items() if name != "train"}
    facts = {"classes": vocab_size, "window": window, "dtype": train.dtype.name, **(counts or {})}
    fingerprints = {name: split_fingerprint(part) for name, part in present.items()}
    return Splits(
        train,
        rows.get("validation"),
        rows.get("test"),
        classes=vocab_size,
        transform=next_tokens,
        window=window,
        codec=codec,
        preprocessing=Preprocessing(where.removeprefix("data."), facts, fingerprints, codec=codec),
    )


def cut_tokens(
    where: str, tokens: Any, validation: float, preprocessing: Preprocessing | None
) -> tuple[Any, Any, dict[str, int]]:
    """(the first part for training, the last part for validation or None, the counts of the cut).

    where: begins the message of an error. tokens: a sequence. validation: the fraction to hold out.
    preprocessing: of a run whose cut is repeated; tokens after it are in no split.
    """
    check.number(where, 0, 1, open_high=True, validation=validation)
    total = len(tokens)
    counts = {"cut": int(total * (1 - validation)), "used": total}  # as nanoGPT rounds
    if preprocessing is not None:
        preprocessing.check_factory(where)
        counts = {name: preprocessing.facts[name] for name in counts}
    train, held_out = tokens[: counts["cut"]], tokens[counts["cut"] : counts["used"]]
    return train, held_out if validation and len(held_out) else None, counts | {"total": total}
