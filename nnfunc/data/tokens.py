"""Sequences of tokens: windows of one long array, and the memory-mapped files that hold such arrays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import Array
from nnfunc.data.arrays import on_host
from nnfunc.data.codecs import Codec, load_codec
from nnfunc.data.files import below, damaged, given, regular
from nnfunc.data.learned import Learned, part_of
from nnfunc.data.splits import Splits

__all__ = ["Windows", "divided", "next_tokens", "token_splits", "tokens"]

WHOLE = 1 << 26  # tokens that are looked at before training begins


def next_tokens(window: Array) -> tuple[Array, Array]:
    """(tokens, the tokens that follow them), int32 [..., block], of windows [..., block + 1].

    >>> x, y = next_tokens(jnp.array([[5, 6, 7]], jnp.uint8))
    >>> x.tolist(), y.tolist()
    ([[5, 6]], [[6, 7]])
    """
    window = window.astype(jnp.int32)
    return window[..., :-1], window[..., 1:]


def tokens(
    path: str | Path,
    *,
    block_size: int,
    validation: float = 0.1,
    dtype: Literal["uint8", "uint16", "uint32", "int32"] = "uint16",
    vocabulary: int | None = None,
    codec: str | Path | Codec | None = None,
    learned: Learned | None = None,
) -> Splits:
    """Token files, memory-mapped: windows of block_size tokens and those that follow them.

    path: a folder with train.bin and val.bin (or validation.bin), as nanoGPT writes them, or with
    train.npy and so on; or one file, whose last part, `validation`, is held out.
    dtype: of .bin files, which hold nothing but tokens, lowest byte first; .npy files tell theirs.
    vocabulary: how many tokens there are; by default the codec's. codec: a saved codec or a
    tokenizer.json, to turn tokens into text. learned: what an earlier run learned
    (`splits.learned`): the vocabulary, and how many tokens it trained on; those added since are in no
    split.
    Batches are (x, y), int32 [batch, block_size], y one token further. Of what is too large for the
    device, `splits.stream(batch_size)` reads only what a batch needs.
    Raises: FileNotFoundError; ValueError when a file is cut short, or has a token not in the
    vocabulary.
    Source of the .bin form: Karpathy's nanoGPT, data/openwebtext/prepare.py.
    """
    where = "data.tokens"
    check.choice(where, ("uint8", "uint16", "uint32", "int32"), dtype=dtype)
    place = given(where, path)
    own = load_codec(codec) if isinstance(codec, str | Path) else codec
    own = own if learned is None else learned.codec
    vocabulary = own.size if vocabulary is None and own is not None else vocabulary
    vocabulary = vocabulary if learned is None else learned.classes
    if not place.is_dir():
        whole = _mapped(where, place, dtype)
        train, held, counts = divided(where, whole, validation, learned)
        own_args = (train, held, block_size, vocabulary, own, str(place))
        return token_splits(where, *own_args, counts=counts)
    stems = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
    found: dict[str, Any] = {}
    for split, names in stems.items():
        file = below(place, [f"{name}{end}" for name in names for end in (".bin", ".npy")])
        found[split] = None if file is None else _mapped(where, file, dtype)
    if found["train"] is None:
        problem = f"{place} should hold train.bin or train.npy, but does not."
        check.fail(where, problem, kind=FileNotFoundError)
    counts = None
    if found["validation"] is None:
        parts = divided(where, found["train"], validation, learned)
        found["train"], found["validation"], counts = parts
    args = (found["train"], found["validation"], block_size, vocabulary, own, str(place))
    return token_splits(where, *args, test=found["test"], counts=counts)


def token_splits(
    where: str, train: np.ndarray, held: np.ndarray | None, block_size: int,
    vocabulary: int | None, codec: Any, source: str, *, test: np.ndarray | None = None,
    counts: Mapping[str, int] | None = None,
) -> Splits:  # fmt: skip
    """Arrays of tokens as `Splits`: windows at any place to train on, end to end to hold out.

    counts: of `divided`, where the splits were cut from one array.
    """
    check.size(where, block_size=block_size)
    window = block_size + 1
    for name, part in {"training": train, "validation": held, "test": test}.items():
        if part is not None and len(part) < window:
            problem = (
                f"{source} has {len(part)} {name} tokens, too few for block_size + 1 = {window}"
            )
            check.fail(where, f"{problem}. Set a smaller block_size.")
        if part is not None and vocabulary is not None and len(part) <= WHOLE:
            largest, least = int(part.max()), int(part.min())
            if largest >= vocabulary or least < 0:
                wrong = largest if largest >= vocabulary else least
                at = int(np.argmax(part == wrong))
                problem = (
                    f"token {wrong}, at place {at} of the {name} tokens, is not in the vocabulary"
                )
                cure = "Is the dtype right, and the codec the one that it was made with?"
                damaged(where, source, f"{problem}, [0, {vocabulary})", cure)
    rows = [None if part is None else Windows(part, window).rows() for part in (held, test)]
    facts = {"classes": vocabulary, "window": window, "dtype": train.dtype.name, **(counts or {})}
    parts = {"train": train, "validation": held, "test": test}
    parts = {name: part_of(part) for name, part in parts.items() if part is not None}
    return Splits(
        train, *rows, classes=vocabulary, transform=next_tokens, window=window, codec=codec,
        learned=Learned(where.removeprefix("data."), facts, parts, codec=codec),
    )  # fmt: skip


class Windows:
    """The windows of an array of tokens that lie end to end, each from the other's last token on."""

    def __init__(self, tokens: np.ndarray, window: int):
        self.tokens, self.window = tokens, window

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // (self.window - 1)

    def rows(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """[n, window]: a copy of some of them."""
        step = self.window - 1
        stop = len(self) if stop is None else min(stop, len(self))
        part = np.asarray(self.tokens[start * step : stop * step + 1])
        return np.lib.stride_tricks.sliding_window_view(part, self.window)[::step].copy()


def divided(
    where: str, tokens: Any, validation: float, learned: Learned | None
) -> tuple[Any, Any, dict[str, int]]:
    """The first part to train on, the last part to hold out or None, and how they were cut.

    validation: the fraction to hold out. learned: of a run whose cut is taken; what comes after it is
    in no part.
    """
    check.number(where, 0, 1, open_high=True, validation=validation)
    total = len(tokens)
    counts = {"cut": int(total * (1 - validation)), "used": total}  # as nanoGPT rounds
    if learned is not None:
        learned.check_factory(where)
        counts = {name: learned.facts[name] for name in counts}
    train, held = tokens[: counts["cut"]], tokens[counts["cut"] : counts["used"]]
    return train, held if validation and len(held) else None, counts | {"total": total}


def _mapped(where: str, file: Path, dtype: str) -> np.ndarray:
    """The tokens of a file, mapped into memory and not read yet."""
    size, width = regular(where, file), np.dtype(dtype).itemsize
    try:
        if file.suffix == ".npy":
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            if not isinstance(array, np.ndarray):
                array.close()
                raise ValueError("it is an archive, not one array")
        else:
            if size == 0 or size % width:
                problem = (
                    f"it should be tokens of {width} bytes each ({dtype}), but has {size} bytes"
                )
                damaged(where, file, problem, "It is cut short, or of another dtype.")
            array = np.memmap(file, np.dtype(dtype).newbyteorder("<"), mode="r")
    except Exception as error:  # a head that is damaged fails in any way at all
        if check.is_mistake(error):
            raise
        damaged(where, file, f"it cannot be read ({' '.join(str(error).split())})")
    if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) == 0:
        got = f"{array.dtype} {list(array.shape)}"
        damaged(where, file, f"it should hold one row of whole numbers, got {got}", "Flatten it.")
    return array if array.dtype.isnative else on_host(where, str(file), array)
