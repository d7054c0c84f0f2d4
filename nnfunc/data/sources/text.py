"""A text file as windows of tokens."""

import codecs
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check
from nnfunc.data.download import Source, decode_utf8, fail_damaged, find, find_text_problem, read_bytes, resolve
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.token_splits import build_token_splits, cut_tokens
from nnfunc.data.splits import Splits
from nnfunc.data.tokenizers import Bytes, Characters, Codec, load_codec

__all__ = ["text"]

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
    """A text, to predict the next token from up to block_size before it.

    path: a text file in UTF-8 (gzip or not; a byte order mark is left out), or "tinyshakespeare",
    which is found or fetched.
    codec: "characters" (those of this text, sorted), "bytes", a file (tokenizer.json of the library
    `tokenizers`, or a saved codec), or a codec; `splits.codec` turns text into tokens and back.
    validation: the share, at the end of the text, that is held out, as nanoGPT does: windows end to
    end, so that each token is predicted once but for a rest of less than a block. 0 for none. learned:
    what an earlier run learned (`splits.preprocessing`): its codec, and how much of the text is in which
    split; what was added at the end is in none.
    Training windows begin anywhere, each place once an epoch. Batches are (x, y), int32 [batch,
    block_size], y one token further; the tokens lie on the device in the smallest type that holds
    them.
    Raises: FileNotFoundError, ValueError when the text is not UTF-8 or too short.

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
        whole = ""
    else:
        whole = decode_utf8(WHERE, file, raw, ' Or leave it as it is: codec = "bytes".')
        raw = raw.removeprefix(codecs.BOM_UTF8)
    if not raw:
        fail_damaged(WHERE, file, "it is empty")
    own = _codec(codec, whole) if preprocessing is None else preprocessing.codec
    units: Any = np.frombuffer(raw, np.uint8) if isinstance(own, Bytes) else whole
    if isinstance(own, Characters):  # their places are enough, and take no memory
        units = range(len(whole))
    small = np.min_scalar_type(own.size - 1)
    kind = small if small.itemsize < 4 else np.dtype(np.int32)
    del raw
    first, last, counts = cut_tokens(WHERE, units, validation, preprocessing)
    if isinstance(own, Bytes):
        parts = first, last
    elif isinstance(own, Characters):
        tokens = own.encode(whole[: counts["used"]], kind)
        parts = tokens[: len(first)], None if last is None else tokens[len(first) :]
    else:  # a token must not reach from one part into the other
        parts = own.encode(first), None if last is None else own.encode(last)
    train, held = parts[0].astype(kind, copy=False), parts[1]
    held = None if held is None else held.astype(kind, copy=False)
    args = (train, held, block_size, own.size, own, str(file))
    return build_token_splits(WHERE, *args, counts=counts)


def _codec(codec: str | Path | Codec, whole: str) -> Codec:
    if codec == "characters":
        return Characters.of(whole)
    if codec == "bytes":
        return Bytes()
    if isinstance(codec, str) and not Path(codec).suffix and not Path(codec).exists():
        check.choice(WHERE, ("characters", "bytes", "a JSON file"), codec=codec)
    return load_codec(codec) if isinstance(codec, str | Path) else codec
