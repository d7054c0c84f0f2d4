"""Splits of tokens: windows at any position for training, consecutive windows for validation and test."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.data.batch_transforms import next_tokens
from nnfunc.data.download import fail_damaged
from nnfunc.data.fingerprint import split_fingerprint
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.splits import Splits

MAX_CHECKED = 1 << 26  # tokens; those of a larger split are checked batch by batch


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
    """`Splits` of arrays of tokens.

    where, source: the function and the file, for messages.
    splits: the tokens of train, validation and test.
    block_size, vocab_size, codec: see `tokens`.
    counts: of `cut_tokens`, if the splits were one array.
    """
    check.size(where, block_size=block_size)
    window = block_size + 1
    present = {name: part for name, part in splits.items() if part is not None}
    for name, part in present.items():
        label = "training" if name == "train" else name
        if len(part) < window:
            expected = f"{source} should have at least block_size + 1 = {window} {label} tokens"
            check.fail(where, expected=expected, actual=len(part), hint="Set a smaller block_size.")
        if vocab_size is not None and len(part) <= MAX_CHECKED:
            largest, least = int(part.max()), int(part.min())
            if largest >= vocab_size or least < 0:
                wrong = largest if largest >= vocab_size else least
                problem = f"{label} tokens should be in the vocabulary, [0, {vocab_size})"
                problem += f", got {wrong} at index {int(np.argmax(part == wrong))}"
                fail_damaged(where, source, problem, "Check the dtype, and that the codec is the one of the file.")
    train = present["train"]
    rows = {name: _windows(part, window) for name, part in present.items() if name != "train"}
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


def _windows(tokens: np.ndarray, window: int) -> np.ndarray:
    """[n, window]: a copy of the windows; each begins with the last token of the one before."""
    stop = len(tokens) - (len(tokens) - 1) % (window - 1)
    return np.lib.stride_tricks.sliding_window_view(tokens[:stop], window)[:: window - 1].copy()


def cut_tokens(
    where: str, tokens: Any, validation: float, preprocessing: Preprocessing | None
) -> tuple[Any, Any, dict[str, int]]:
    """(the training tokens, the validation tokens after them or None, the counts of tokens).

    where: begins the message of an error.
    tokens: a sequence.
    validation: the fraction to hold out.
    preprocessing: of a run whose counts are used again; tokens beyond them are in no split.
    """
    check.number(where, 0, 1, open_high=True, validation=validation)
    total = len(tokens)
    counts = {"cut": int(total * (1 - validation)), "used": total}  # as nanoGPT rounds
    if preprocessing is not None:
        preprocessing.check_factory(where)
        counts = {name: preprocessing.facts[name] for name in counts}
    train, held_out = tokens[: counts["cut"]], tokens[counts["cut"] : counts["used"]]
    return train, held_out if validation and len(held_out) else None, counts | {"total": total}
