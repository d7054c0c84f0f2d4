"""What a data set learned from its files: a run keeps it, and no longer depends on the files."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nnfunc import check
from nnfunc.data.fingerprint import SPLIT_BITS, digest
from nnfunc.errors import NnfuncError

__all__ = ["FILES", "Preprocessing"]

PARTS = ("train", "validation", "test")
FILES = ("data.json", "data_rows.npy", "codec.json")
"""What `Preprocessing.save` writes into a folder; the last two only where there are such things."""
VERSION = 1


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """What a data set learned from its files, enough to treat other files in the same way.

    factory: the function of `nf.data`. facts: names, means, sizes and the like, all of it JSON.
    parts: count and digest of the splits that files brought themselves. rows: uint64 [n] or None, an id
    of the content of each example that was cut into splits at random, in the order of the file, with
    the number of its split in the two lowest bits (3: in none). codec: of text, or None.
    """

    factory: str
    facts: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: np.ndarray | None = None
    codec: Any = None

    @property
    def names(self) -> tuple[str, ...] | None:
        """The classes' names, or None."""
        names = self.facts.get("names")
        return None if names is None else tuple(names)

    @property
    def classes(self) -> int | None:
        """How many classes there are, or tokens in the vocabulary; None for numbers to predict."""
        return self.facts.get("classes")

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(height, width, channels) of images that x lays out otherwise, or None."""
        shape = self.facts.get("image_shape")
        return None if shape is None else (shape[0], shape[1], shape[2])

    @property
    def transform(self) -> Any:
        """batch -> batch, after every gather, as in `Splits.transform`."""
        from nnfunc.data.batch_transforms import Normalise, next_tokens

        pixels = self.facts.get("pixels")
        if pixels is not None:
            return Normalise(tuple(pixels["mean"]), tuple(pixels["std"]), pixels["scale"])
        return next_tokens if self.facts.get("window") else None

    @property
    def background(self) -> float | list[float]:
        """What a pixel or value of 0 becomes in a batch."""
        scaling = self.facts.get("pixels") or self.facts.get("standardise")
        if scaling is None:
            return 0.0
        return [-m / s for m, s in zip(scaling["mean"], scaling["std"], strict=True)]

    def check_factory(self, where: str) -> None:
        """Refuse the record of another data set."""
        if where != f"data.{self.factory}":
            problem = f"preprocessing should be of nf.{where}, got that of nf.data.{self.factory}"
            check.fail(where, f"{problem}. Pass the preprocessing of the same splits.")

    def describe_changes(self, now: "Preprocessing") -> list[str]:
        """What is other in the files now, in words; nothing where the examples are the same.

        Columns and examples may stand in another order: they are taken as they were.
        """
        messages = []
        for name in PARTS:
            then, today = self.parts.get(name), now.parts.get(name)
            counts = [None if part is None else part["count"] for part in (then, today)]
            if then is not None and today is not None and then == today:
                continue
            if counts[0] == counts[1] and then is not None:
                messages.append(f"{name}: other values than then")
            elif then is not None or today is not None:
                messages.append(f"{name}: {_examples(counts[0])} then, {_examples(counts[1])} now")
        total, today = (record.facts.get("total") for record in (self, now))
        if total != today:
            messages.append(f"{total:,} tokens then, {today:,} now")
        return messages + _row_changes(self.rows, now.rows)

    def overlaps(self, now: "Preprocessing") -> bool:
        """Whether any example of then is still there, of those that were cut into splits."""
        if self.rows is None or now.rows is None:
            return True
        return bool(np.isin(self.rows | SPLIT_BITS, now.rows | SPLIT_BITS).any())

    def save(self, folder: Path) -> None:
        """Write data.json, and data_rows.npy and codec.json where there are rows and a codec."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = None
        if self.rows is not None:
            np.save(folder / FILES[1], self.rows)
            rows = {"count": len(self.rows), "digest": digest(self.rows)}
        if self.codec is not None:
            self.codec.save(folder / FILES[2])
        table = {"version": VERSION, "factory": self.factory, "facts": self.facts}
        table |= {"parts": self.parts, "rows": rows}
        table |= {"digest": _text_digest(table)}
        temporary = folder / f"{FILES[0]}.tmp"
        temporary.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", "utf-8")
        temporary.replace(folder / FILES[0])

    @staticmethod
    def load(folder: Path) -> "Preprocessing | None":
        """What `save` wrote into a folder, None where it wrote nothing. Raises: ValueError."""
        from nnfunc.data.tokenizers import load_codec

        file = folder / FILES[0]
        if not file.is_file():
            return None
        try:
            table = json.loads(file.read_text("utf-8"))
            if table.pop("digest") != _text_digest(table) or table["version"] != VERSION:
                _refuse(file, "it is not as it was written")
            rows, saved = None, table["rows"]
            if saved is not None:
                file = folder / FILES[1]
                rows = np.load(file, allow_pickle=False)
                if not isinstance(rows, np.ndarray):
                    rows.close()
                    _refuse(file, "it is an archive, not one array")
                if rows.dtype != np.uint64 or digest(rows) != saved["digest"]:
                    _refuse(file, "it does not hold the rows that data.json tells of")
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            EOFError,
            RecursionError,
            MemoryError,
        ) as error:
            if isinstance(error, NnfuncError):
                raise
            _refuse(file, f"it cannot be read ({type(error).__name__})")
        codec = load_codec(folder / FILES[2]) if (folder / FILES[2]).is_file() else None
        return Preprocessing(table["factory"], table["facts"], table["parts"], rows, codec)


def _text_digest(table: Any) -> str:
    return hashlib.blake2b(json.dumps(table).encode(), digest_size=16).hexdigest()


def _refuse(file: Path, problem: str) -> NoReturn:
    hint = "It was edited or cut short: put it back, or train anew."
    check.fail(str(file), f"{problem}.", hint=hint)


def _examples(count: int | None) -> str:
    return "none" if count is None else check.counted(count, "example")


def _row_changes(then: np.ndarray | None, now: np.ndarray | None) -> list[str]:
    if then is None or now is None:
        return []
    new = np.flatnonzero(~np.isin(now | SPLIT_BITS, then | SPLIT_BITS))
    missing = int((~np.isin(then | SPLIT_BITS, now | SPLIT_BITS)).sum())
    if missing == len(then):
        return [f"none of the {missing:,} examples then is among the {len(now):,} now"]
    if not len(new) and not missing:
        return []
    first = f"the first is example {new[0] + 1:,} of the file" if len(new) else ""
    if len(new) == missing and len(then) == len(now):
        return [f"{missing:,} of {len(then):,} examples have other values now; {first}"]
    message = f"{check.counted(len(then), 'example')} then, {len(now):,} now"
    if len(new):
        message += f"; {len(new):,} are new and in no split, {first}"
    return [message + (f"; {missing:,} are missing" if missing else "")]
