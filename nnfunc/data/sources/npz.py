"""NumPy files: the named arrays of an .npz file, or .npy files in a folder."""

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from nnfunc import check
from nnfunc.data.check_arrays import as_numpy, check_labels, warn_if_coarse_in_float32
from nnfunc.data.download import check_unpacked_size, fail_damaged, fail_unreadable, file_size, resolve
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.row_split import split_pairs
from nnfunc.data.splits import Splits

WHERE = "data.npz"
UNREADABLE = "it cannot be read as a NumPy file"
SUFFIXES = {"train": ("train",), "validation": ("validation", "val", "valid"), "test": ("test",)}


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
    x, y: the names of the arrays, whose first axis is the examples. If there are x_train and y_train (and
        x_validation or x_val, and x_test), they are the splits.
    validation, test: splits that are not there are cut off the training examples; below 1 a fraction of them, from
        1 on a number of examples, 0 for none. x in uint8 is divided by 255 in every batch. Integers y are classes
        in [0, classes); other y [n] become [n, 1].
    classes: by default the largest y plus 1.
    preprocessing: of an earlier run (`splits.preprocessing`), which fixes the number of classes and the split of
        each example.
    Only these arrays are read, and only if the file has as much data as their headers say; an array may unpack to
    250 times its size, or to 256 MiB.
    Raises: FileNotFoundError; ValueError for a file that is damaged or does not have the arrays.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> np.savez(folder + "/it.npz", x=np.ones((20, 3), np.float32), y=np.arange(20) % 2)
    >>> splits = nf.data.npz(folder + "/it.npz")
    >>> splits.train[0].shape, splits.classes
    ((16, 3), 2)
    """
    path = resolve(WHERE, path)
    stored = _Arrays(path)
    parts: dict[str, Any] = {}
    for part, suffixes in SUFFIXES.items():
        suffix = next((suffix for suffix in suffixes if f"{x}_{suffix}" in stored), None)
        if suffix is not None:
            parts[part] = (stored[f"{x}_{suffix}"], _get(stored, f"{y}_{suffix}"))
    if "train" not in parts:
        parts = {"train": (_get(stored, f"{x}_train" if parts else x), _get(stored, y))}
    parts = {name: _check_pair(path, name, *pair) for name, pair in parts.items()}
    train_x, train_y = parts["train"]
    form = {"dtype": train_x.dtype.name, "shape": list(train_x.shape[1:])}
    is_classes = train_y.ndim == 1 and train_y.dtype.kind in "iu"
    if preprocessing is not None:
        preprocessing.check_factory(WHERE)
        _check_form(path, form | {"classes": is_classes}, preprocessing)
        classes = preprocessing.classes
        for _, y_part in parts.values():
            if classes is not None:
                check_labels(f"{WHERE}: {path}", y_part, classes)
    elif is_classes and classes is None:
        classes = 1 + max(int(y_part.max()) for _, y_part in parts.values())
    stratify = is_classes and (classes or 0) <= len(train_y) // 2
    splits, fingerprints, rows = split_pairs(
        WHERE, parts, preprocessing, stratify=stratify, validation=validation, test=test
    )
    for name, array in (("x", train_x), ("y", train_y)):
        warn_if_coarse_in_float32(f"{name} of {path}", array)
    pixels = {"pixels": {"mean": [0.0], "std": [1.0], "scale": 255.0}}
    record = Preprocessing(
        "npz",
        {"classes": classes if is_classes else None, **form} | (pixels if train_x.dtype == np.uint8 else {}),
        fingerprints,
        rows,
    )
    return Splits(*splits.values(), classes=record.classes, transform=record.transform, preprocessing=record)


def _check_form(path: Path, form: dict[str, Any], preprocessing: Preprocessing) -> None:
    """Refuse arrays that do not fit the model of the earlier run."""
    before = {name: preprocessing.facts[name] for name in ("dtype", "shape")}
    before["classes"] = preprocessing.classes is not None
    if form != before:
        expected, actual = (
            f"{x['dtype']} {x['shape']} with {'classes' if x['classes'] else 'numbers to predict'}"
            for x in (before, form)
        )
        hint = "Use arrays of that form, or train a new run."
        expected = f"{path}: examples should be as in the run, {expected}"
        check.fail(WHERE, expected=expected, actual=actual, hint=hint)


def _check_pair(path: Path, name: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for array, word in ((x, "x"), (y, "y")):
        if array.dtype.kind not in "biuf" or array.ndim == 0 or len(array) == 0:
            problem = f"{word} of {name} should be numbers with one row for each example"
            actual = f"{array.dtype} {list(array.shape)}"
            fail_damaged(WHERE, path, f"{problem}, got {actual}", "Save it as an array of numbers.")
    if len(x) != len(y):
        problem = f"x and y of {name} should have the same length, got {len(x)} and {len(y)}"
        fail_damaged(WHERE, path, problem)
    if y.dtype.kind == "b" or (y.dtype.kind in "iu" and y.ndim == 1):
        return x, y.astype(np.int64 if y.dtype.itemsize > 4 else np.int32)
    return x, y[:, None] if y.ndim == 1 else y


def _get(stored: "_Arrays", name: str) -> np.ndarray:
    if name not in stored:
        check.fail(WHERE, f"{stored.path} has no array {name!r}{check.nearest(name, stored)}")
    return stored[name]


class _Arrays(Mapping[str, np.ndarray]):
    """The arrays of an .npz file, or of the .npy files of a folder, each read when it is looked up."""

    def __init__(self, path: Path):
        self.path = path
        if path.is_dir():
            self.files = {file.stem: file for file in sorted(path.glob("*.npy"))}
            return
        file_size(WHERE, path)
        try:
            with zipfile.ZipFile(path) as archive:
                self.files = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        except Exception as error:  # a damaged file can raise any exception
            with path.open("rb") as opened:
                is_npy = opened.read(6) == np.lib.format.MAGIC_PREFIX
            if is_npy:
                hint = "Pass the folder that contains x.npy and y.npy."
                fail_damaged(WHERE, path, "it should be an .npz file, but is an .npy file", hint)
            fail_unreadable(WHERE, path, UNREADABLE, error)

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, name: str) -> np.ndarray:
        file = self.files[name]
        if isinstance(file, Path):
            return load_npy(WHERE, file)
        with zipfile.ZipFile(self.path) as archive:
            info = archive.getinfo(file)
            return _read_array(WHERE, self.path, info.compress_size, info.file_size, lambda: archive.open(info))


def load_npy(where: str, file: Path) -> np.ndarray:
    """The array of an .npy file. where: begins the message of an error. file: its path. Raises: OSError, ValueError."""
    size = file_size(where, file)
    if zipfile.is_zipfile(file):
        hint = "Save one of its arrays: np.save(file, np.load(archive)[name])."
        check.fail(where, f"{file} should be an .npy file, but is an archive of arrays.", hint=hint)
    return _read_array(where, file, size, size, lambda: file.open("rb"))


def _read_array(where: str, file: Path, packed: int, size: int, open_file: Callable[[], IO[bytes]]) -> np.ndarray:
    """An array, if the file has as much data as its header says. packed, size: bytes before and after unpacking."""
    try:
        with open_file() as opened:
            is_version_1 = np.lib.format.read_magic(opened) == (1, 0)
            read_header = np.lib.format.read_array_header_1_0 if is_version_1 else np.lib.format.read_array_header_2_0
            shape, _, dtype = read_header(opened)
            check_unpacked_size(where, file, packed, size)
            if math.prod(shape) * dtype.itemsize > size:
                problem = f"its header says {dtype} {list(shape)}, but it has only {size} bytes"
                fail_damaged(where, file, problem)
        with open_file() as opened:
            array = np.lib.format.read_array(opened, allow_pickle=False)
    except Exception as error:  # a damaged file can raise any exception
        fail_unreadable(where, file, UNREADABLE, error)
    return as_numpy(where, str(file), array)
