"""CIFAR-10, in its binary or its Python version, as the archive or unpacked."""

import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc.data.check_arrays import check_labels
from nnfunc.data.download import Source, check_unpacked_size, fail_damaged, fail_unreadable, find, read_bytes, resolve
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.image_layout import Layout, build_image_splits
from nnfunc.data.splits import Splits

WHERE = "data.cifar10"
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN, TEST = [f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]
ARCHIVES = {
    "cifar-10-binary.tar.gz": "md5:c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a",
}
MIRRORS = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")


def cifar10(
    *,
    layout: Layout = "image",
    validation: int = 5000,
    shift: int = 0,
    flip: bool = False,
    shuffle_pixels: bool = False,
    shuffle_seed: int = 0,
    path: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """CIFAR-10's photographs: 45,000 images for training, 5,000 for validation, 10,000 for testing.

    x is uint8, and becomes (x / 255 - mean) / std of each channel in every batch, with mean (0.4914, 0.4822,
    0.4465) and std (0.2470, 0.2435, 0.2616); y is int32 in [0, 10).
    layout: "image" [32, 32, 3], "flat" [3072], or "rows" [32, 96].
    shift: the most pixels by which each training image is shifted at random; 4 is usual.
    flip: flip each training image with probability 1/2.
    validation, shuffle_pixels, shuffle_seed, preprocessing: as for `mnist`.
    path: an archive (cifar-10-binary.tar.gz or cifar-10-python.tar.gz) or its unpacked folder; by default it is
        searched in NNFUNC_DATA and the cache, and downloaded.
    Raises: FileNotFoundError, with the URL of the file; ValueError when a file is damaged.
    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    if path is None:
        first, other = ARCHIVES
        inside = ("cifar-10-batches-bin", "cifar-10-batches-py", other, first)
        names = [f"{folder}{name}" for folder in ("cifar10/", "") for name in inside]
        names += ["cifar10/data_batch_1.bin", "cifar10/data_batch_1"]
        urls = tuple(mirror + first for mirror in MIRRORS)
        path = find(WHERE, [f"cifar10/{first}", *names], Source(urls, ARCHIVES[first]))
        path = path.parent if path.name.startswith("data_batch_1") else path
    else:
        path = resolve(WHERE, path)
    return build_image_splits(
        WHERE,
        _load(path),
        layout=layout,
        names=NAMES,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        fractions={"validation": validation},
        shuffle_pixels=shuffle_pixels,
        shuffle_seed=shuffle_seed,
        shift=shift,
        flip=flip,
        preprocessing=preprocessing,
    )


def _load(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"train": ..., "test": ...}, each (images [n, 32, 32, 3], labels [n]), of an archive or a folder."""
    if path.is_dir():
        for inner in ("cifar-10-batches-bin", "cifar-10-batches-py", "."):
            files = {p.name: p for p in (path / inner).glob("*_batch*")}
            if files:
                break
        contents = {name: read_bytes(WHERE, file) for name, file in files.items()}
    else:
        contents = _unpack(path)
    parts = {}
    for part, batch_names in (("train", TRAIN), ("test", TEST)):
        pairs = []
        for name in batch_names:
            if f"{name}.bin" in contents:
                pairs.append(_binary(path / f"{name}.bin", contents[f"{name}.bin"]))
            elif name in contents:
                pairs.append(_pickled(path / name, contents[name]))
            else:
                problem = f"it should contain {name}.bin, or {name} of the Python version, but does not"
                fail_damaged(WHERE, path, problem)
        x, y = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        images = np.ascontiguousarray(x.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))  # from [n, channels, 32, 32]
        parts[part] = images, y.astype(np.int32)
    return parts


def _unpack(path: Path) -> dict[str, bytes]:
    """{name: content} of the batches in an archive."""
    contents = {}
    try:
        unzipped = read_bytes(WHERE, path)
        with tarfile.open(fileobj=io.BytesIO(unzipped), mode="r:") as archive:
            for entry in archive:
                name = entry.name.rpartition("/")[2]
                if name.removesuffix(".bin") in (*TRAIN, *TEST) and entry.isreg():
                    check_unpacked_size(WHERE, path / name, len(unzipped), entry.size)
                    file = archive.extractfile(entry)
                    contents[name] = file.read() if file else b""
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, MemoryError) as error:
        fail_unreadable(WHERE, path, "it is not an archive that can be unpacked", error)
    return contents


def _binary(file: Path, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 3073 bytes: the label, then the image."""
    if len(data) == 0 or len(data) % 3073:
        fail_damaged(WHERE, file, f"it should have rows of 3073 bytes (10,000 rows), got {len(data)} bytes")
    rows = np.frombuffer(data, np.uint8).reshape(-1, 3073)
    check_labels(f"{WHERE}: {file}", rows[:, 0], 10)
    return rows[:, 1:], rows[:, 0]


def _pickled(file: Path, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A dict with b"data" [n, 3072] and b"labels". No function that the file names is called."""
    try:
        table = _SafeUnpickler(io.BytesIO(data), encoding="bytes").load()
        table = {k.decode() if isinstance(k, bytes) else k: v for k, v in table.items()}
        x, y = table["data"], table["labels"]
        x = x.values() if isinstance(x, _Array) else np.asarray(x)
        y = np.asarray(y)
        is_valid = x.dtype == np.uint8 and x.shape == (len(y), 3072) and len(y) > 0
    except Exception as error:  # a damaged pickle can raise any exception
        fail_unreadable(WHERE, file, "it is not a batch of the Python version", error)
    if not is_valid:
        problem = f"images should be uint8 [{len(y)}, 3072], got {x.dtype} {list(x.shape)}"
        fail_damaged(WHERE, file, problem)
    check_labels(f"{WHERE}: {file}", y, 10)
    return x, y


class _Array:
    """Stands for a NumPy array in a pickle, and reads its state without running code of NumPy."""

    state: Any = None

    def __init__(self, *parts: Any):
        self.parts = parts

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def values(self) -> np.ndarray:
        _, shape, dtype, fortran, raw = self.state
        if fortran or dtype.parts[0] not in (b"u1", "u1"):
            raise ValueError("not rows of uint8")
        return np.frombuffer(raw, np.uint8).reshape(shape)


class _SafeUnpickler(pickle._Unpickler):
    """Reads dicts, lists, strings, numbers and arrays; refuses everything else.

    It is based on Python's implementation in Python, because that in C allocates gigabytes for a damaged file.
    """

    def find_class(self, module: str, name: str) -> Any:
        arrays = {"_reconstruct", "ndarray", "dtype"}
        if module.split(".")[0] == "numpy" and name in arrays:
            return _Array
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding="latin1": text.encode("latin1")
        raise pickle.UnpicklingError(f"it names {module}.{name}")
