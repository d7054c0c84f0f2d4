"""NumPy's own files: arrays by their names in an .npz file, or .npy files in a folder."""

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from nnfunc import check
from nnfunc.data.dataset import as_numpy, check_labels, warn_if_coarse_in_float32
from nnfunc.data.download import check_unpacked_size, fail_damaged, fail_unreadable, file_size, resolve
from nnfunc.data.fingerprint import row_ids, split_fingerprint
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.row_split import assign_rows
from nnfunc.data.splits import Splits

__all__ = ["load_npy", "npz"]

WHERE = "data.npz"
FORM = "it cannot be read as NumPy's file"
PARTS = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


def npz(
    path: str | Path,
    *,
    x: str = "x",
    y: str = "y",
    classes: int | None = None,
    validation: float = 0.1,
    test: float = 0.1,
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """The arrays x and y of an .npz file, or x.npy and y.npy of a folder.

    path: the file, or the folder of .npy files.
    Where there are x_train and y_train (and, if they are there, x_validation or x_val, and x_test),
    those are the splits; what is missing is cut off: `validation` and `test` are parts of the whole
    below 1, counts of examples from 1 on, 0 for none.
    x, y: the arrays' names, before `_train`. Examples are along the first axis. x of type uint8 is
    divided by 255 in every batch. y in integers are classes in [0, classes), by default one more
    than the largest; a row of other numbers becomes [n, 1]. preprocessing: that of an earlier run
    (`splits.preprocessing`): how many classes, and which example is in which split.
    Only these arrays are read, each once its head says no more than the file holds; one may unpack to
    250 times its size, or to 256 MiB.
    Raises: FileNotFoundError, ValueError for a file that is damaged or has no such arrays.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> np.savez(folder + "/it.npz", x=np.ones((20, 3), np.float32), y=np.arange(20) % 2)
    >>> splits = nf.data.npz(folder + "/it.npz")
    >>> splits.train[0].shape, splits.classes
    ((16, 3), 2)
    """
    place = resolve(WHERE, path)
    result = _Arrays(place)
    parts: dict[str, Any] = {}
    for part, text in PARTS.items():
        name = next((word for word in text if f"{x}_{word}" in result), None)
        if name is not None:
            parts[part] = (result[f"{x}_{name}"], _named(place, result, f"{y}_{name}"))
    if "train" not in parts:
        name = f"{x}_train" if parts else x
        parts = {"train": (_named(place, result, name), _named(place, result, y))}
    parts = {name: _pair(place, name, *pair) for name, pair in parts.items()}
    first = parts["train"]
    form = {"dtype": first[0].dtype.name, "shape": list(first[0].shape[1:])}
    is_classes = first[1].ndim == 1 and first[1].dtype.kind in "iu"
    if preprocessing is not None:
        preprocessing.check_factory(WHERE)
        _check_form(place, form | {"classes": is_classes}, preprocessing)
        classes = preprocessing.classes
        for _, y_part in parts.values():
            if classes is not None:
                check_labels(f"{WHERE}: {place}", y_part, classes)
    elif is_classes and classes is None:
        classes = 1 + max(int(y_part.max()) for _, y_part in parts.values())
    shares = {"validation": validation, "test": test}
    shares = {name: fraction for name, fraction in shares.items() if name not in parts}
    splits, rows = dict(parts), None
    if shares:
        stratify = is_classes and (classes or 0) <= len(first[1]) // 2
        cuts, rows = assign_rows(WHERE, row_ids(*first), first[1], preprocessing, stratify=stratify, **shares)
        for name in ("train", *shares):
            at = cuts.get(name)
            splits[name] = None if at is None else (first[0][at], first[1][at])
    for name, array in (("x", first[0]), ("y", first[1])):
        warn_if_coarse_in_float32(f"{name} of {place}", array)
    pixels = {"pixels": {"mean": [0.0], "std": [1.0], "scale": 255.0}}
    record = Preprocessing(
        "npz",
        {"classes": classes if is_classes else None, **form} | (pixels if first[0].dtype == np.uint8 else {}),
        {name: split_fingerprint(*pair) for name, pair in parts.items() if rows is None or name != "train"},
        rows,
    )
    return Splits(
        *(splits.get(name) for name in PARTS), classes=record.classes, transform=record.transform, preprocessing=record
    )


def _check_form(place: Path, form: dict[str, Any], preprocessing: Preprocessing) -> None:
    """Refuse arrays that the run's model cannot take."""
    then = {name: preprocessing.facts[name] for name in ("dtype", "shape")}
    then["classes"] = preprocessing.classes is not None
    if form != then:
        texts = [
            f"{x['dtype']} {x['shape']} with {'classes' if x['classes'] else 'numbers to predict'}"
            for x in (then, form)
        ]
        hint = "Give arrays of that form, or train anew."
        problem = f"{place}: examples should be {texts[0]}, as the run had, got {texts[1]}"
        check.fail(WHERE, f"{problem}.", hint=hint)


def _pair(place: Path, name: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for array, word in ((x, "x"), (y, "y")):
        if array.dtype.kind not in "biuf" or array.ndim == 0 or len(array) == 0:
            problem = f"{word} of {name} should be numbers, an example a row"
            actual = f"{array.dtype} {list(array.shape)}"
            fail_damaged(WHERE, place, f"{problem}, got {actual}", "Save it as an array of numbers.")
    if len(x) != len(y):
        problem = f"x and y of {name} should be of one length, got {len(x)} and {len(y)}"
        fail_damaged(WHERE, place, problem)
    if y.dtype.kind == "b" or (y.dtype.kind in "iu" and y.ndim == 1):
        return x, y.astype(np.int64 if y.dtype.itemsize > 4 else np.int32)
    return x, y[:, None] if y.ndim == 1 else y


def _named(place: Path, result: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in result:
        check.fail(WHERE, f"{place} has no array {name!r}{check.nearest(name, result)}")
    return result[name]


class _Arrays(Mapping[str, np.ndarray]):
    """The arrays of an .npz file, or of the .npy files of a folder, each read when it is asked for."""

    def __init__(self, place: Path):
        self.place = place
        if place.is_dir():
            self.files = {file.stem: file for file in sorted(place.glob("*.npy"))}
            return
        file_size(WHERE, place)
        try:
            with zipfile.ZipFile(place) as packed:
                members = [name for name in packed.namelist() if name.endswith(".npy")]
        except Exception as error:  # a damaged file fails in any way at all
            with place.open("rb") as opened:
                single = opened.read(6) == np.lib.format.MAGIC_PREFIX
            if single:
                hint = "Give the folder that holds x.npy and y.npy."
                fail_damaged(WHERE, place, "it should be an .npz file, but holds one array", hint)
            fail_unreadable(WHERE, place, FORM, error)
        self.files = {name.removesuffix(".npy"): name for name in members}

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, name: str) -> np.ndarray:
        file = self.files[name]
        if isinstance(file, Path):
            return load_npy(WHERE, file)
        with zipfile.ZipFile(self.place) as packed:
            member = packed.getinfo(file)
            sizes = member.compress_size, member.file_size
            return _array(WHERE, self.place, *sizes, lambda: packed.open(member))


def load_npy(where: str, file: Path) -> np.ndarray:
    """The array of an .npy file. Raises: OSError, ValueError."""
    size = file_size(where, file)
    if zipfile.is_zipfile(file):
        hint = "Take one of its arrays: np.save(file, np.load(archive)[name])."
        check.fail(where, f"{file} cannot be read: it is an archive, not one array.", hint=hint)
    return _array(where, file, size, size, lambda: file.open("rb"))


def _array(where: str, file: Path, packed: int, size: int, begin: Callable[[], IO[bytes]]) -> np.ndarray:
    """One array, if it holds what its head says. packed, size: its bytes before and after."""
    try:
        with begin() as opened:
            shape, dtype = _head(opened)
            check_unpacked_size(where, file, packed, size)
            if math.prod(shape) * dtype.itemsize > size:
                problem = f"its head says {dtype} {list(shape)}, but there are {size} bytes"
                fail_damaged(where, file, problem)
        with begin() as opened:
            array = np.lib.format.read_array(opened, allow_pickle=False)
    except Exception as error:  # a damaged file fails in any way at all
        fail_unreadable(where, file, FORM, error)
    return as_numpy(where, str(file), array)


def _head(opened: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(opened)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(opened)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(opened)
    return shape, dtype
