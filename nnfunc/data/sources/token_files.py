"""Sequences of tokens: windows of one long array, and the memory-mapped files that hold such arrays."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnfunc import check
from nnfunc.data.dataset import as_numpy
from nnfunc.data.download import fail_damaged, file_size, first_existing, resolve
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.token_splits import build_token_splits, cut_tokens
from nnfunc.data.splits import Splits
from nnfunc.data.tokenizers import Codec, load_codec
from nnfunc.errors import NnfuncError

__all__ = ["tokens"]


def tokens(
    path: str | Path,
    *,
    block_size: int,
    validation: float = 0.1,
    dtype: Literal["uint8", "uint16", "uint32", "int32"] = "uint16",
    vocab_size: int | None = None,
    codec: str | Path | Codec | None = None,
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """Token files, memory-mapped: windows of block_size tokens and those that follow them.

    path: a folder with train.bin and val.bin (or validation.bin), as nanoGPT writes them, or with
    train.npy and so on; or one file, whose last part, `validation`, is held out.
    dtype: of .bin files, which hold nothing but tokens, lowest byte first; .npy files tell theirs.
    vocabulary: how many tokens there are; by default the codec's. codec: a saved codec or a
    tokenizer.json, to turn tokens into text. learned: what an earlier run learned
    (`splits.preprocessing`): the vocabulary, and how many tokens it trained on; those added since are in no
    split.
    Batches are (x, y), int32 [batch, block_size], y one token further. Of what is too large for the
    device, `splits.stream(batch_size)` reads only what a batch needs.
    Raises: FileNotFoundError; ValueError when a file is cut short, or has a token not in the
    vocabulary.
    Source of the .bin form: Karpathy's nanoGPT, data/openwebtext/prepare.py.
    """
    where = "data.tokens"
    check.choice(where, ("uint8", "uint16", "uint32", "int32"), dtype=dtype)
    place = resolve(where, path)
    own = load_codec(codec) if isinstance(codec, str | Path) else codec
    own = own if preprocessing is None else preprocessing.codec
    vocab_size = own.size if vocab_size is None and own is not None else vocab_size
    vocab_size = vocab_size if preprocessing is None else preprocessing.classes
    if not place.is_dir():
        whole = _mapped(where, place, dtype)
        train, held, counts = cut_tokens(where, whole, validation, preprocessing)
        own_args = (train, held, block_size, vocab_size, own, str(place))
        return build_token_splits(where, *own_args, counts=counts)
    stems = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
    found: dict[str, Any] = {}
    for split, names in stems.items():
        file = first_existing(place, [f"{name}{end}" for name in names for end in (".bin", ".npy")])
        found[split] = None if file is None else _mapped(where, file, dtype)
    if found["train"] is None:
        problem = f"{place} should hold train.bin or train.npy, but does not."
        check.fail(where, problem, exc_type=FileNotFoundError)
    counts = None
    if found["validation"] is None:
        parts = cut_tokens(where, found["train"], validation, preprocessing)
        found["train"], found["validation"], counts = parts
    args = (found["train"], found["validation"], block_size, vocab_size, own, str(place))
    return build_token_splits(where, *args, test=found["test"], counts=counts)


def _mapped(where: str, file: Path, dtype: str) -> np.ndarray:
    """The tokens of a file, mapped into memory and not read yet."""
    size, width = file_size(where, file), np.dtype(dtype).itemsize
    try:
        if file.suffix == ".npy":
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            if not isinstance(array, np.ndarray):
                array.close()
                raise ValueError("it is an archive, not one array")
        else:
            if size == 0 or size % width:
                problem = f"it should be tokens of {width} bytes each ({dtype}), but has {size} bytes"
                fail_damaged(where, file, problem, "It is cut short, or of another dtype.")
            array = np.memmap(file, np.dtype(dtype).newbyteorder("<"), mode="r")
    except Exception as error:  # a head that is damaged fails in any way at all
        if isinstance(error, NnfuncError):
            raise
        fail_damaged(where, file, f"it cannot be read ({' '.join(str(error).split())})")
    if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) == 0:
        got = f"{array.dtype} {list(array.shape)}"
        fail_damaged(where, file, f"it should hold one row of integers, got {got}", "Flatten it.")
    return array if array.dtype.isnative else as_numpy(where, str(file), array)
