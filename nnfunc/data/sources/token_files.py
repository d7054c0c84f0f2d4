"""Memory-mapped files of tokens, as windows for language models."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnfunc import check
from nnfunc.data.check_arrays import as_numpy
from nnfunc.data.download import fail_damaged, fail_unreadable, file_size, first_existing, resolve
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.token_splits import build_token_splits, cut_tokens
from nnfunc.data.splits import Splits
from nnfunc.data.tokenizers import Codec, load_codec


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
    """Memory-mapped files of tokens, to predict the next token from up to block_size tokens before it.

    Batches are (x, y), int32 [batch, block_size], where y is x shifted by one token. For files that are too
    large for the device, `splits.stream(batch_size)` reads only the tokens of a batch.
    path: a folder with train.bin and val.bin (or validation.bin), as nanoGPT writes them, or with train.npy and so
        on; or one file.
    block_size: tokens per example, at least 1.
    validation: the fraction at the end of train that is held out if there is no file for it, in [0, 1).
    dtype: of .bin files, which are little-endian without a header.
    vocab_size: the number of different tokens, by default that of the codec.
    codec: a codec, or the file of one (tokenizer.json or a saved codec), to convert tokens to text.
    preprocessing: of an earlier run (`splits.preprocessing`), which fixes the vocabulary and the splits; tokens
        that were appended later are in no split.
    Raises: FileNotFoundError; ValueError when a file is cut short, or has a token outside the vocabulary.
    Source of the .bin format: Karpathy's nanoGPT, data/openwebtext/prepare.py.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> np.arange(100, dtype=np.uint16).tofile(folder + "/it.bin")
    >>> splits = nf.data.tokens(folder + "/it.bin", block_size=8)
    >>> splits.data(batch_size=2).batch(0)[0].shape
    (2, 8)
    """
    where = "data.tokens"
    check.choice(where, ("uint8", "uint16", "uint32", "int32"), dtype=dtype)
    root = resolve(where, path)
    codec = load_codec(codec) if isinstance(codec, str | Path) else codec
    if preprocessing is not None:
        codec, vocab_size = preprocessing.codec, preprocessing.classes
    elif vocab_size is None and codec is not None:
        vocab_size = codec.size
    splits: dict[str, Any] = {"train": None, "validation": None, "test": None}
    counts = None
    if root.is_dir():
        for split, stems in {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}.items():
            file = first_existing(root, [f"{stem}{end}" for stem in stems for end in (".bin", ".npy")])
            splits[split] = None if file is None else _map_tokens(where, file, dtype)
        if splits["train"] is None:
            problem = f"{root} should contain train.bin or train.npy, but does not."
            check.fail(where, problem, exc_type=FileNotFoundError)
    else:
        splits["train"] = _map_tokens(where, root, dtype)
    if splits["validation"] is None:
        splits["train"], splits["validation"], counts = cut_tokens(where, splits["train"], validation, preprocessing)
    return build_token_splits(where, splits, block_size, vocab_size, codec, str(root), counts=counts)


def _map_tokens(where: str, file: Path, dtype: str) -> np.ndarray:
    """The memory-mapped tokens of a file."""
    size, width = file_size(where, file), np.dtype(dtype).itemsize
    try:
        if file.suffix == ".npy":
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            if not isinstance(array, np.ndarray):
                array.close()
                raise ValueError("it is an archive, not one array")
        else:
            if size == 0 or size % width:
                problem = f"it should have tokens of {width} bytes each ({dtype}), got {size} bytes"
                fail_damaged(where, file, problem, "It is cut short, or has another dtype.")
            array = np.memmap(file, np.dtype(dtype).newbyteorder("<"), mode="r")
    except Exception as error:  # a damaged header can raise any exception
        fail_unreadable(where, file, "it cannot be read", error)
    if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) == 0:
        actual = f"{array.dtype} {list(array.shape)}"
        fail_damaged(where, file, f"it should be one row of integers, got {actual}", "Flatten it.")
    return array if array.dtype.isnative else as_numpy(where, str(file), array)  # a memmap stays one
