"""Codecs, which convert between text and tokens: characters, bytes, or a file of the library `tokenizers`.

Codecs that encode equally compare equal. They are saved as JSON.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nnfunc import check
from nnfunc.data.download import WRONG_FILE, decode_utf8, fail_damaged, read_bytes, resolve
from nnfunc.errors import NnfuncError

BLOCK = 2**20  # characters that are encoded at once


class Codec(Protocol):
    """encode(text) -> ids int32 in [0, size); decode(ids) -> text; save(path) writes a file for `load_codec`."""

    @property
    def size(self) -> int: ...
    def encode(self, text: str) -> np.ndarray: ...
    def decode(self, ids: Any) -> str: ...
    def save(self, path: str | Path) -> None: ...


@dataclass(frozen=True)
class Characters:
    """One token for each character: its index in `characters`, which are sorted and distinct.

    >>> codec = Characters.of("banana")
    >>> codec.encode("nab").tolist(), codec.decode([1, 0, 2]), codec.size
    ([2, 0, 1], 'ban', 3)
    """

    characters: str

    @staticmethod
    def of(text: str) -> "Characters":
        """The codec of the characters that `text` has."""
        return Characters("".join(sorted(set(text))))

    @property
    def size(self) -> int:
        return len(self.characters)

    def encode(self, text: str, dtype: Any = np.int32) -> np.ndarray:
        """The ids of a text: [len(text)], of `dtype`. Raises: ValueError for an unknown character."""
        ids, known = np.empty(len(text), dtype), self._known
        for start in range(0, len(text), BLOCK):
            points = _points(text[start : start + BLOCK])
            at = np.minimum(np.searchsorted(known, points), len(known) - 1)
            if len(wrong := np.flatnonzero(known[at] != points)):
                first = start + int(wrong[0])
                expected = f"the characters of text should be among the {self.size} of the codec"
                hint = f"They begin with {self.characters[:100]!r}."
                check.fail("codec.encode", expected=expected, actual=f"{text[first]!r} at index {first}", hint=hint)
            ids[start : start + BLOCK] = at
        return ids

    def decode(self, ids: Any) -> str:
        """The text of integer `ids` [n]. Raises: ValueError for an id that is not in [0, size)."""
        points = self._known[_check_ids(ids, self.size)]
        return points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def save(self, path: str | Path) -> None:
        """Write the codec to the file at `path`, for `load_codec`."""
        _write(path, {"codec": "characters", "characters": self.characters})

    @cached_property
    def _known(self) -> np.ndarray:
        known = _points(self.characters)
        if len(known) == 0 or (known[1:] <= known[:-1]).any():
            hint = "Make the codec by Characters.of(text)."
            check.fail("Characters", "characters should be sorted and distinct, and at least one.", hint=hint)
        return known


@dataclass(frozen=True)
class Bytes:
    """One token for each byte of the text in UTF-8: there are 256 tokens, and every text can be encoded.

    >>> Bytes().encode("é").tolist(), Bytes().decode([195, 169])
    ([195, 169], 'é')
    """

    @property
    def size(self) -> int:
        return 256

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text: int32 [bytes]."""
        return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int32)

    def decode(self, ids: Any) -> str:
        """The text of `ids` [n]; incomplete characters become the replacement character."""
        return _check_ids(ids, 256).astype(np.uint8).tobytes().decode("utf-8", "replace")

    def save(self, path: str | Path) -> None:
        """Write the codec to the file at `path`, for `load_codec`."""
        _write(path, {"codec": "bytes"})


LONG = re.compile(r"(\S{1000}|\s{1000})")
"""A part of a word that is learned from alone: the time of learning grows with the square of the length."""


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer of the `tokenizers` library.

    text: the content of its file (tokenizer.json).
    """

    text: str

    @staticmethod
    def train(texts: Iterable[str], vocab_size: int) -> "Tokenizer":
        """Byte-pair encoding that is learned from `texts`: it encodes every text, and no text has the id 0.

        vocab_size: the most ids, at least 257, of which 0 is for padding and 256 are single bytes; pairs that occur
            only once get no id.
        Source: Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019 (GPT-2) for bytes.

        >>> codec = Tokenizer.train(["banana bandana"] * 2, 300)
        >>> codec.decode(codec.encode("a new banana")), len(codec.encode("banana")) < 6
        ('a new banana', True)
        """
        check.size("Tokenizer.train", 257, vocab_size=vocab_size)
        check.package("Tokenizer.train", "tokenizers", "nnfunc[data]")
        from tokenizers import Tokenizer as Untrained
        from tokenizers import decoders, models, pre_tokenizers, trainers

        pieces = pre_tokenizers.ByteLevel
        tokenizer = Untrained(models.BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = pieces(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=["[PAD]"],
            initial_alphabet=sorted(pieces.alphabet()),
            show_progress=False,
        )
        parts = chain.from_iterable(map(LONG.split, texts))
        tokenizer.train_from_iterator(filter(None, parts), trainer)
        table = json.loads(tokenizer.to_str())
        table["added_tokens"] = []  # the padding has an id, but the characters [PAD] in a text are no padding
        return Tokenizer(json.dumps(table, ensure_ascii=False))

    @property
    def size(self) -> int:
        """The largest id plus 1."""
        return 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(self, text: str) -> np.ndarray:
        """The ids of a text, int32 [tokens], without special tokens. Raises: ValueError."""
        return np.array(self._encode(text).ids, np.int32)

    def _encode(self, text: str) -> Any:
        """The `Encoding` of a text, without special tokens. Raises: ValueError."""
        tokenizer = self._tokenizer
        try:
            return tokenizer.encode(text, add_special_tokens=False)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic of its Rust code is not an Exception
            check.fail("codec.encode", f"the tokenizer cannot encode this text: {error}")

    def start(self) -> np.ndarray:
        """The special tokens that it puts before a text, such as the <s> of Llama: int32 [tokens], often none."""
        one = self._tokenizer.encode("a", add_special_tokens=True)
        count = next((i for i, special in enumerate(one.special_tokens_mask) if not special), 0)
        return np.array(one.ids[:count], np.int32)

    def _encode_batch(self, texts: list[str]) -> list[Any]:
        """The `Encoding` of each text, without special tokens, computed on all cores. Raises: ValueError."""
        tokenizer = self._tokenizer
        try:
            return tokenizer.encode_batch(texts, add_special_tokens=False)
        except (UnicodeError, TypeError):  # half of a pair that is a character only together
            return [self._encode(text) for text in texts]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, without special tokens, computed on all cores."""
        return [one.ids for one in self._encode_batch(texts)]

    def encode_whole(self, texts: list[str], length: int) -> tuple[list[list[int]], list[int]]:
        """(the ids of each text with the special tokens around it, how many these were before the end was cut off).

        texts: of any lengths.
        length: the most ids of a text, above the number of special tokens.
        Raises: ValueError when no token of the text would be left.
        """
        special = self._tokenizer.num_special_tokens_to_add(False)
        check.size("codec.encode_whole", special + 1, length=length)
        encoded = self._encode_batch(texts)
        lengths = [len(one) + special for one in encoded]
        for one in encoded:
            one.truncate(length - special)
        return [self._tokenizer.post_process(one).ids for one in encoded], lengths

    @property
    def padding(self) -> int:
        """The id of the token [PAD] or <pad>, 0 without one."""
        ids = map(self._tokenizer.token_to_id, ("[PAD]", "<pad>"))
        return next((one for one in ids if one is not None), 0)

    def decode(self, ids: Any) -> str:
        """The text of `ids` [n], special tokens included."""
        ids = _check_ids(ids, self.size).tolist()
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def save(self, path: str | Path) -> None:
        """Write the codec to the file at `path`, for `load_codec`."""
        Path(path).write_text(self.text, encoding="utf-8")

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizers = check.package("Tokenizer", "tokenizers", "nnfunc[data]")
        try:
            tokenizer = tokenizers.Tokenizer.from_str(self.text)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            check.fail("Tokenizer", f"the text is not that of a tokenizer file: {error}.")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def load_codec(path: str | Path) -> Codec:
    """The codec in the file at `path`: a saved codec, or a tokenizer.json of the library `tokenizers`.

    Raises: FileNotFoundError; ValueError when the file is neither.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> nf.data.Characters("abc").save(folder + "/codec.json")
    >>> nf.data.load_codec(folder + "/codec.json").encode("cab").tolist()
    [2, 0, 1]
    """
    where = "data.load_codec"
    file = resolve(where, path)
    try:
        text = decode_utf8(where, file, read_bytes(where, file))
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, NnfuncError):
            raise
        fail_damaged(where, file, f"it is not JSON ({error})")
    codec_name = table.get("codec") if isinstance(table, dict) else None
    try:
        if codec_name == "bytes":
            return Bytes()
        if codec_name == "characters" and isinstance(table.get("characters"), str):
            codec = Characters(table["characters"])
            codec.encode(codec.characters)
            return codec
        if isinstance(table, dict) and "model" in table:
            codec = Tokenizer(text)
            codec.encode("")
            return codec
    except ValueError as error:
        fail_damaged(where, file, str(error).rstrip("."))
    problem = "it should be a saved codec or a tokenizer (tokenizer.json), but is neither"
    fail_damaged(where, file, problem, WRONG_FILE)


def _points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _check_ids(ids: Any, size: int) -> np.ndarray:
    """The ids as an array [n], each in [0, size)."""
    ids = np.asarray(list(ids) if isinstance(ids, Iterable) and not hasattr(ids, "dtype") else ids)
    ids = ids.astype(np.int64) if ids.size == 0 else ids.reshape(-1)
    check.integers("codec.decode", ids=ids)
    wrong = np.flatnonzero((ids < 0) | (ids >= size))
    if len(wrong):
        actual = f"{ids[wrong[0]]} at index {wrong[0]}"
        check.fail("codec.decode", expected=f"ids should be in [0, {size})", actual=actual)
    return ids.astype(np.int64)


def _write(path: str | Path, table: dict[str, Any]) -> None:
    Path(path).write_text(json.dumps(table) + "\n", encoding="utf-8")
