"""The preprocessing that a data set fitted to its files, saved with a run so that it can be repeated."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nnfunc import check, documents
from nnfunc.data.fingerprint import SPLIT_BITS, are_same_rows, digest
from nnfunc.errors import NnfuncError

PARTS = ("train", "validation", "test")
FILES = ("data.json", "data_rows.npy", "codec.json")
"""The files that `Preprocessing.save` writes; the last two only if there are rows and a codec."""
WITH_CODEC = ("text", "text_classification")
"""The factories that always have a codec."""
VERSION = 1


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """The preprocessing that a data set fitted to its files, to treat other files in the same way.

    factory: the name of the function of `nf.data`.
    facts: class names, means, sizes, ..., as JSON.
    parts: count and digest of the splits that were in the files.
    rows: uint64 [n], a hash of each example that was split at random, in the order of the file, with the index of
        its split in the two lowest bits (3: in none); or None.
    codec: of text, or None.
    describe: by split that is in the files, index -> the file or the line of an example; of data that was just
        read, since it is not saved.
    """

    factory: str
    facts: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rows: np.ndarray | None = None
    codec: Any = None
    describe: Mapping[str, Callable[[int], str]] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"describe": {}}  # functions that do not pickle

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the classes, or None."""
        names = self.facts.get("names")
        return None if names is None else tuple(names)

    @property
    def classes(self) -> int | None:
        """The number of classes, or of tokens in the vocabulary; None for regression."""
        return self.facts.get("classes")

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(height, width, channels) of images that x holds in another layout, or None."""
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
        """The value that a pixel or feature of 0 has in a batch."""
        scaling = self.facts.get("pixels") or self.facts.get("standardise")
        if scaling is None:
            return 0.0
        return [-m / s for m, s in zip(scaling["mean"], scaling["std"], strict=True)]

    @cached_property
    def transformer(self) -> Any:
        """scikit-learn's ColumnTransformer of a table that has more than numbers, as it was fitted."""
        from nnfunc.data.table_features import build_transformer

        return build_transformer(self.facts["features"])

    def restore_target(self, y: Any, output_type: str = "values") -> Any:
        """Outputs or targets in the units of the file: `scale_target` and `log_target` of `nf.data.table` are undone.

        y: outputs of the model or targets, NumPy's or JAX's.
        output_type: how they read, that of the objective. "values" and "quantiles" are restored one by one;
            "deviation", means and log-deviations [n, 2k] or as a pair, become those of the restored distribution,
            which is log-normal after a log target. Other outputs stay as they are.
        """
        target = self.facts.get("target")
        return y if target is None else restore_targets(y, target, output_type)

    def file_rows(self, part: str, rows: np.ndarray) -> np.ndarray:
        """The positions in the file of a split of rows among those that are used: repeated ones may be left out.

        part: the split that the file is, "train" of one that was split at random.
        rows: their indices.
        """
        repeats = np.array(self.facts.get("repeats", {}).get(part, []), np.int64)
        return rows + np.searchsorted(repeats - np.arange(len(repeats)), rows, side="right")

    def check_factory(self, where: str) -> None:
        """Refuse the preprocessing of another function than `where`, such as "data.table"."""
        if where != f"data.{self.factory}":
            expected, actual = f"preprocessing should be of nf.{where}", f"that of nf.data.{self.factory}"
            check.fail(where, expected=expected, actual=actual, hint="Pass that of the same splits.")

    def describe_changes(self, now: "Preprocessing") -> list[str]:
        """How the files have changed, as clauses; [] if the examples are the same.

        now: fitted to the files now.

        The order of columns and examples may have changed.
        """
        messages = []
        for name in PARTS:
            before, after = self.parts.get(name), now.parts.get(name)
            if before == after:
                continue
            counts = ["none" if part is None else check.counted(part["count"], "example") for part in (before, after)]
            is_same_size = counts[0] == counts[1]
            changes = "the values have changed" if is_same_size else f"{counts[0]} before, {counts[1]} now"
            messages.append(f"{name}: {changes}")
        before, after = (record.facts.get("total") for record in (self, now))
        if before != after:
            messages.append(f"{before:,} tokens before, {after:,} now")
        return messages + _row_changes(self.rows, now.rows)

    def overlaps(self, now: "Preprocessing") -> bool:
        """Whether the files still have any of the examples that were split at random. now: fitted to the files now."""
        if self.rows is None or now.rows is None:
            return True
        return bool(np.isin(self.rows | SPLIT_BITS, now.rows | SPLIT_BITS).any())

    def save(self, folder: Path) -> None:
        """Write data.json into `folder`, and data_rows.npy and codec.json if there are rows and a codec."""
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
        documents.write_file(folder / FILES[0], f"{json.dumps(table, indent=1, ensure_ascii=False)}\n".encode())

    @staticmethod
    def load(folder: Path) -> "Preprocessing | None":
        """The preprocessing that `save` wrote into `folder`; None if there is none.

        Raises: ValueError when a file is damaged.
        """
        from nnfunc.data.tokenizers import load_codec

        file = folder / FILES[0]
        if not file.is_file():
            return None
        try:
            table = json.loads(file.read_text("utf-8"))
            if table.pop("digest") != _text_digest(table) or table["version"] != VERSION:
                _refuse(file, "its content does not match its checksum")
            rows, saved = None, table["rows"]
            if saved is not None:
                file = folder / FILES[1]
                rows = np.load(file, allow_pickle=False)
                if not isinstance(rows, np.ndarray):
                    rows.close()
                    _refuse(file, "it is an archive, not one array")
                if rows.dtype != np.uint64 or digest(rows) != saved["digest"]:
                    _refuse(file, "its content does not match the checksum in data.json")
        except NnfuncError:
            raise
        except Exception as error:  # a damaged file can raise any exception
            _refuse(file, f"it cannot be read ({type(error).__name__})")
        codec = load_codec(folder / FILES[2]) if (folder / FILES[2]).is_file() else None
        if codec is None and table["factory"] in WITH_CODEC:
            _refuse(folder / FILES[2], "it is missing, or not a file")
        return Preprocessing(table["factory"], table["facts"], table["parts"], rows, codec)


def scale_targets(y: np.ndarray, target: Mapping[str, Any]) -> np.ndarray:
    """The targets as the model learns them, in float64.

    y: [n, targets] in the units of the file.
    target: {"mean", "std", "log"}, of which log is whether log(1 + y) is scaled.
    """
    y = np.log1p(y) if target["log"] else y
    return (y - np.array(target["mean"])) / np.array(target["std"])


def restore_targets(y: Any, target: Mapping[str, Any], output_type: str = "values") -> Any:
    """The inverse of `scale_targets`.

    y, output_type: as for `Preprocessing.restore_target`.
    target: as for `scale_targets`.
    """
    if output_type == "deviation":
        mean, log_deviation = y if isinstance(y, tuple | list) else _halves(y)
        restored = _restore_normal(mean, log_deviation, target)
        return restored if isinstance(y, tuple | list) else _numpy_of(y).concatenate(restored, axis=-1)
    if output_type not in ("values", "quantiles"):
        return y
    y, mean, std = _in_floats(y, target)
    if output_type == "quantiles":  # those of the first target first
        mean, std = (part.repeat(y.shape[-1] // len(part)) for part in (mean, std))
    y = y * std + mean
    return _numpy_of(y).expm1(y) if target["log"] else y


def _restore_normal(mean: Any, log_deviation: Any, target: Mapping[str, Any]) -> tuple[Any, Any]:
    """Mean and log-deviation of a scaled normal distribution, or of the exponential of one, less 1."""
    xp = _numpy_of(mean)
    mean, center, std = _in_floats(mean, target)
    mean, log_deviation = mean * std + center, log_deviation + xp.log(std)
    if not target["log"]:
        return mean, log_deviation
    variance = xp.exp(2 * log_deviation)  # of a log-normal: Johnson, Kotz and Balakrishnan 1994, chapter 14
    log_mean = mean + variance / 2
    return xp.expm1(log_mean), log_mean + xp.log(xp.expm1(variance)) / 2


def _numpy_of(y: Any) -> Any:
    """NumPy, or jax.numpy for an array of JAX."""
    import jax

    return jax.numpy if isinstance(y, jax.Array) else np


def _in_floats(y: Any, target: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """y, mean and std as arrays, in float64 for NumPy's and in y's dtype for JAX's."""
    xp = _numpy_of(y)
    dtype = np.float64 if xp is np else y.dtype
    return xp.asarray(y, dtype), xp.asarray(target["mean"], dtype), xp.asarray(target["std"], dtype)


def _halves(y: Any) -> tuple[Any, Any]:
    width = y.shape[-1] // 2
    return y[..., :width], y[..., width:]


def _text_digest(table: Any) -> str:
    return hashlib.blake2b(json.dumps(table).encode(), digest_size=16).hexdigest()


def _refuse(file: Path, problem: str) -> NoReturn:
    check.fail(str(file), f"{problem}.", hint="It was edited or cut short: restore it, or train a new run.")


def _row_changes(before: np.ndarray | None, now: np.ndarray | None) -> list[str]:
    if before is None or now is None or are_same_rows(before, now):  # np.isin needs seven times the memory
        return []
    new = np.flatnonzero(~np.isin(now | SPLIT_BITS, before | SPLIT_BITS))
    missing = int((~np.isin(before | SPLIT_BITS, now | SPLIT_BITS)).sum())
    if missing == len(before):
        return [f"none of the {missing:,} examples before is among the {len(now):,} now"]
    if not len(new) and not missing:
        return []
    first = f"the first is example {new[0] + 1:,} of the file" if len(new) else ""
    if len(new) == missing and len(before) == len(now):
        return [f"{missing:,} of {len(before):,} examples have changed; {first}"]
    message = f"{check.counted(len(before), 'example')} before, {len(now):,} now"
    if len(new):
        message += f"; {len(new):,} are new and in no split, {first}"
    return [message + (f"; {missing:,} are missing" if missing else "")]
