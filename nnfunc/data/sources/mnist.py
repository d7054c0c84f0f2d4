"""MNIST, Fashion-MNIST, and the IDX format of their files."""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nnfunc import check
from nnfunc.data.check_arrays import check_labels
from nnfunc.data.download import Source, fail_damaged, find, first_existing, read_bytes, resolve
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.image_layout import Layout, build_image_splits
from nnfunc.data.splits import Splits

TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


class _IdxDataSet(NamedTuple):
    """folders: that may have the files. md5: of each gzip file. names: of the classes. mean, std: of the pixels."""

    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    md5: dict[str, str]
    names: Sequence[str]
    mean: float
    std: float


_MNIST = _IdxDataSet(
    ("mnist", "MNIST/raw", "MNIST", "."),
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    {
        "train-images": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    "0123456789",
    0.1307,
    0.3081,
)
_FASHION_MNIST = _IdxDataSet(
    ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion"),
    (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    {
        "train-images": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    0.2860,
    0.3530,
)


def mnist(
    *,
    layout: Layout = "image",
    validation: int = 5000,
    shift: int = 0,
    shuffle_pixels: bool = False,
    shuffle_seed: int = 0,
    path: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """MNIST's handwritten digits: 55,000 images for training, 5,000 for validation, 10,000 for testing.

    x is uint8, and becomes (x / 255 - 0.1307) / 0.3081 in every batch; y is int32 in [0, 10).
    layout: "image" [28, 28, 1], "flat" [784], or "rows" [28, 28], a sequence of 28 rows.
    validation: the number of the 60,000 training images to hold out, stratified by class and always the same; 0 for
        none.
    The test images are the official ones.
    shift: the most pixels by which each training image is shifted at random.
    shuffle_pixels: permute the pixels of all images in the same way, so that a model cannot use their
        neighbourhood.
    shuffle_seed: of this permutation, an integer.
    path: the folder of the four IDX files, gzip or not; by default they are searched in NNFUNC_DATA and the cache,
        and downloaded.
    preprocessing: of an earlier run (`splits.preprocessing`), used instead of fitting a new one.
    Raises: FileNotFoundError, with the URL of the files; ValueError for damaged or exchanged files.
    Source: LeCun, Cortes and Burges, CC BY-SA 3.0.
    """
    return _load("data.mnist", _MNIST, **locals())


def fashion_mnist(
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
    """Fashion-MNIST's images of clothing, in the form of `mnist`.

    x becomes (x / 255 - 0.2860) / 0.3530.
    flip: flip each training image with probability 1/2.
    layout, validation, shift, shuffle_pixels, shuffle_seed, path, preprocessing: as for `mnist`.
    Raises: as `mnist`.
    Source: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747, MIT licence.
    """
    return _load("data.fashion_mnist", _FASHION_MNIST, **locals())


def _load(where: str, data_set: _IdxDataSet, *, path: str | Path | None, validation: int, **options: Any) -> Splits:
    return build_image_splits(
        where,
        _load_parts(where, data_set, path),
        names=tuple(data_set.names),
        mean=(data_set.mean,),
        std=(data_set.std,),
        fractions={"validation": validation},
        **options,
    )


def read_idx(path: str | Path) -> np.ndarray:
    """The array in the IDX file at `path`, gzip or not, of any of the six dtypes.

    Raises: OSError when it cannot be read; ValueError when it is not an IDX file, or cut short.
    Source: the description beside MNIST's files: two zero bytes, the dtype, the number of axes, their
    sizes, the values, all big-endian.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with open(folder + "/it", "wb") as file:
    ...     _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    >>> nf.data.read_idx(folder + "/it").tolist()
    [7, 8, 9]
    """
    return _parse_idx("data.read_idx", resolve("data.read_idx", path))


def _load_parts(where: str, data_set: _IdxDataSet, path: str | Path | None) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"train": ..., "test": ...}, each (images [n, 28, 28, 1] uint8, labels [n] int32)."""
    root = None if path is None else resolve(where, path)
    files = []
    for stem, md5 in data_set.md5.items():
        axes = 3 if "images" in stem else 1
        name = f"{stem}-idx{axes}-ubyte"
        variants = [f"{n}{end}" for n in (name, f"{stem}.idx{axes}-ubyte") for end in ("", ".gz")]
        if root is None:
            source = Source(tuple(f"{mirror}{name}.gz" for mirror in data_set.mirrors), f"md5:{md5}")
            download = f"{data_set.folders[0]}/{name}.gz"
            names = [download, *(f"{folder}/{variant}" for folder in data_set.folders for variant in variants)]
            files.append(find(where, names, source))
            continue
        file = first_existing(root, variants)
        if file is None:
            problem = f"{root} should contain {name}.gz or {name}, but does not."
            check.fail(where, problem, exc_type=FileNotFoundError)
        files.append(file)
    with ThreadPoolExecutor(4) as pool:  # unzipping releases the interpreter lock
        arrays = list(pool.map(lambda file: _parse_idx(where, file), files))
    train, test = _pair(where, *files[:2], *arrays[:2]), _pair(where, *files[2:], *arrays[2:])
    return {"train": train, "test": test}


def _pair(
    where: str, image_file: Path, label_file: Path, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 28, 28, 1] and labels [n], checked to belong together."""
    for file, array, axes, content in ((image_file, x, 3, "images"), (label_file, y, 1, "labels")):
        if array.ndim != axes or array.dtype != np.uint8:
            guess = {3: " (images?)", 1: " (labels?)"}.get(array.ndim, "")
            problem = f"it should contain {content}, uint8 with {axes} axes"
            problem += f", got {array.dtype} with {array.ndim} axes{guess}"
            fail_damaged(where, file, problem, "Check whether two files were exchanged.")
    if x.shape[1:] != (28, 28):
        fail_damaged(where, image_file, f"images should be 28 x 28, got {x.shape[1]} x {x.shape[2]}")
    if len(x) != len(y) or len(x) == 0:
        problem = f"it has {len(x)} images, but {label_file} has {len(y)} labels"
        fail_damaged(where, image_file, problem, "Use two files of the same set, with at least one image.")
    check_labels(f"{where}: {label_file}", y, 10)
    return x[..., None], y.astype(np.int32)


def _parse_idx(where: str, file: Path) -> np.ndarray:
    data = read_bytes(where, file)
    start = data[:4]
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in TYPES or start[3] == 0:
        is_web_page = b"<" in data[:64].lstrip()[:1]
        actual = "a web page" if is_web_page else start.hex(" ") if start else "nothing"
        problem = "it should begin with the magic number of IDX, such as 00 00 08 03 for images"
        fail_damaged(where, file, f"{problem}, got {actual}")
    head = 4 + 4 * start[3]
    if len(data) < head:
        fail_damaged(where, file, f"its header should have {head} bytes, but the file has {len(data)}")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", start[3], 4))
    dtype = np.dtype(TYPES[start[2]])
    size = head + math.prod(shape) * dtype.itemsize
    if len(data) != size:
        form = " x ".join(map(str, shape))
        fail_damaged(where, file, f"it should have {size} bytes, for {form} values, got {len(data)}")
    array = np.frombuffer(data, dtype, offset=head).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)
