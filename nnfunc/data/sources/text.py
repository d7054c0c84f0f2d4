"""A text file as windows of tokens, for language models."""

import codecs
from pathlib import Path

import numpy as np

from nnfunc import check
from nnfunc.data.download import Source, decode_utf8, fail_damaged, find, find_text_problem, read_bytes, resolve
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.token_splits import build_token_splits, cut_tokens
from nnfunc.data.splits import Splits
from nnfunc.data.tokenizers import Bytes, Characters, Codec, load_codec

WHERE = "data.text"
KNOWN = {
    "tinyshakespeare": (
        ("tinyshakespeare/input.txt", "tinyshakespeare.txt", "shakespeare_char/input.txt"),
        Source(
            ("https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",),
            "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
    )
}


def text(
    path: str | Path = "tinyshakespeare",
    *,
    block_size: int,
    codec: str | Path | Codec = "characters",
    validation: float = 0.1,
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """A text, to predict the next token from up to block_size tokens before it.

    Batches are (x, y), int32 [batch, block_size], where y is x shifted by one token. A training window may begin
    at any token, once per epoch. The tokens are stored in the smallest dtype that fits.
    path: a text file in UTF-8 (gzip or not; a byte order mark is dropped), or "tinyshakespeare", which is
        downloaded if it is not on the disk.
    block_size: tokens per example, at least 1.
    codec: "characters" (the sorted characters of this text), "bytes", a file (tokenizer.json of the library
        `tokenizers`, or a saved codec), or a codec; `splits.codec` converts between text and tokens.
    validation: the fraction at the end of the text that is held out, in [0, 1), as in nanoGPT; its windows predict
        each token once, except for a remainder of less than a block.
    preprocessing: of an earlier run (`splits.preprocessing`), which fixes the codec and the splits; text that was
        appended later is in no split.
    Raises: FileNotFoundError; ValueError when the text is not in UTF-8, or too short.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "text")
    >>> _ = file.write_text("to be or not to be, " * 20)
    >>> data = text(file, block_size=8).data(4)
    >>> x, y = data.batch(0)
    >>> x.shape, data.codec.decode(x[0, 1:]) == data.codec.decode(y[0, :-1]), data.codec.size
    ((4, 8), True, 8)
    """
    if isinstance(path, str) and path in KNOWN and not Path(path).is_file():
        file = find(WHERE, *KNOWN[path])
    else:
        file = resolve(WHERE, path, KNOWN)
    raw = read_bytes(WHERE, file)
    is_bytes = codec == "bytes" if preprocessing is None else isinstance(preprocessing.codec, Bytes)
    if is_bytes and find_text_problem(raw):
        content = ""
    else:
        content = decode_utf8(WHERE, file, raw, ' Or use its bytes as tokens: codec = "bytes".')
        raw = raw.removeprefix(codecs.BOM_UTF8)
    if not raw:
        fail_damaged(WHERE, file, "it is empty")
    encoder: Codec = _build_codec(codec, content) if preprocessing is None else preprocessing.codec
    smallest = np.min_scalar_type(encoder.size - 1)
    dtype = smallest if smallest.itemsize < 4 else np.dtype(np.int32)
    if isinstance(encoder, Bytes):
        train, held_out, counts = cut_tokens(WHERE, np.frombuffer(raw, np.uint8), validation, preprocessing)
    elif isinstance(encoder, Characters):  # split as a range, which copies no tokens
        del raw
        first, last, counts = cut_tokens(WHERE, range(len(content)), validation, preprocessing)
        tokens = encoder.encode(content[: counts["used"]], dtype)
        train, held_out = tokens[: len(first)], None if last is None else tokens[len(first) :]
    else:  # encoded separately, so that no token spans both parts
        first, last, counts = cut_tokens(WHERE, content, validation, preprocessing)
        train, held_out = encoder.encode(first), None if last is None else encoder.encode(last)
    splits = {"train": train, "validation": held_out}
    splits = {name: None if part is None else part.astype(dtype, copy=False) for name, part in splits.items()}
    return build_token_splits(WHERE, splits, block_size, encoder.size, encoder, str(file), counts=counts)


def _build_codec(codec: str | Path | Codec, content: str) -> Codec:
    if codec == "characters":
        return Characters.of(content)
    if codec == "bytes":
        return Bytes()
    if isinstance(codec, str) and not Path(codec).suffix and not Path(codec).exists():
        check.choice(WHERE, ("characters", "bytes", "a JSON file"), codec=codec)
    return load_codec(codec) if isinstance(codec, str | Path) else codec
