"""The IDX format, and the two data sets of digits and of clothes that come in it."""

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np

from nnfunc import check
from nnfunc.data.dataset import check_labels
from nnfunc.data.download import Source, fail_damaged, find, first_existing, read_bytes, resolve
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.image_layout import build_image_splits
from nnfunc.data.splits import Splits

__all__ = ["fashion_mnist", "mnist", "read_idx"]

TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}

_MNIST = {
    "train-images": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels": "ec29112dd5afa0611ce80d1b7f02629c",
}
_FASHION = {
    "train-images": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels": "bb300cfdad3c16e7a12a480ee83cd310",
}
_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_FASHION_MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def mnist(
    *,
    layout: Literal["image", "flat", "rows"] = "image",
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
    validation: the number of the 60,000 training images to hold out, by class, always the same; 0 for
    none. The test images are the official ones. shift: move each training image by up to so many pixels,
    at random. shuffle_pixels: permute the pixels of all images alike, by shuffle_seed: a model cannot rely
    on neighbourhood then. path: the folder of the four IDX files, gzip or not; by default they are looked
    for in NNFUNC_DATA and the cache, and downloaded.
    preprocessing: that of an earlier run (`splits.preprocessing`), used instead of fitting a new one.
    Raises: FileNotFoundError with where to get the files; ValueError for damaged or exchanged ones.
    Source: LeCun, Cortes and Burges, CC BY-SA 3.0.
    """
    folders = ("mnist", "MNIST/raw", "MNIST", ".")
    parts = _load_splits("data.mnist", folders, _MNIST, _MNIST_MIRRORS, path)
    return build_image_splits(
        "data.mnist",
        parts,
        layout=layout,
        names=tuple("0123456789"),
        mean=(0.1307,),
        std=(0.3081,),
        shares={"validation": validation},
        shuffle_pixels=shuffle_pixels,
        shuffle_seed=shuffle_seed,
        shift=shift,
        preprocessing=preprocessing,
    )


def fashion_mnist(
    *,
    layout: Literal["image", "flat", "rows"] = "image",
    validation: int = 5000,
    shift: int = 0,
    flip: bool = False,
    shuffle_pixels: bool = False,
    shuffle_seed: int = 0,
    path: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
) -> Splits:
    """Fashion-MNIST's pieces of clothing, in the form of `mnist`.

    x becomes (x / 255 - 0.2860) / 0.3530. flip: mirror each training image with probability 1/2. layout,
    validation, shift, shuffle_pixels, shuffle_seed, path, preprocessing: as in `mnist`.
    Raises: as `mnist`.
    Source: Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747, MIT licence.
    """
    folders = ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST", "fashion")
    parts = _load_splits("data.fashion_mnist", folders, _FASHION, _FASHION_MIRRORS, path)
    return build_image_splits(
        "data.fashion_mnist",
        parts,
        layout=layout,
        names=_CLOTHES,
        mean=(0.2860,),
        std=(0.3530,),
        shares={"validation": validation},
        shuffle_pixels=shuffle_pixels,
        shuffle_seed=shuffle_seed,
        shift=shift,
        flip=flip,
        preprocessing=preprocessing,
    )


def read_idx(path: str | Path) -> np.ndarray:
    """The array of the IDX file at `path`, gzip or not, of any of its six types.

    Raises: OSError when it cannot be read, ValueError when it is no such file or cut short.
    Source: the description beside MNIST's files: two zero bytes, the type, the number of axes, their
    sizes, the values, all with the highest byte first.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with open(folder + "/it", "wb") as file:
    ...     _ = file.write(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    >>> nf.data.read_idx(folder + "/it").tolist()
    [7, 8, 9]
    """
    return _parse_idx("data.read_idx", resolve("data.read_idx", path))


def _load_splits(
    where: str, folders: tuple[str, ...], sums: dict[str, str], mirrors: tuple[str, ...], path: str | Path | None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{"train": ..., "test": ...}, each (images [n, 28, 28, 1] uint8, labels [n] int32)."""
    root = None if path is None else resolve(where, path)
    files = []
    for stem, md5 in sums.items():
        axes = 3 if "images" in stem else 1
        name = f"{stem}-idx{axes}-ubyte"
        forms = [f"{n}{end}" for n in (name, f"{stem}.idx{axes}-ubyte") for end in ("", ".gz")]
        if root is None:
            source = Source(tuple(f"{mirror}{name}.gz" for mirror in mirrors), f"md5:{md5}")
            save = f"{folders[0]}/{name}.gz"
            names = [save, *(f"{inside}/{form}" for inside in folders for form in forms)]
            files.append(find(where, names, source))
            continue
        file = first_existing(root, forms)
        if file is None:
            problem = f"{root} should hold {name}.gz, or the same unzipped"
            check.fail(where, f"{problem}, but does not.", exc_type=FileNotFoundError)
        files.append(file)
    with ThreadPoolExecutor(4) as pool:  # unzipping leaves the interpreter free
        arrays = list(pool.map(lambda file: _parse_idx(where, file), files))
    train, test = _pair(where, *files[:2], *arrays[:2]), _pair(where, *files[2:], *arrays[2:])
    return {"train": train, "test": test}


def _pair(
    where: str, image_file: Path, label_file: Path, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 28, 28, 1] and labels [n], of files that fit together."""
    for file, array, axes, content in ((image_file, x, 3, "images"), (label_file, y, 1, "labels")):
        if array.ndim != axes or array.dtype != np.uint8:
            guess = {3: "images, it seems", 1: "labels, it seems"}.get(array.ndim, "neither")
            actual = f"{array.dtype} with {array.ndim} axes ({guess})"
            problem = f"it should hold {content}, uint8 with {axes} axes, but holds {actual}"
            fail_damaged(where, file, problem, "Were two files exchanged?")
    if x.shape[1:] != (28, 28):
        fail_damaged(where, image_file, f"images should be 28 x 28, got {x.shape[1]} x {x.shape[2]}")
    if len(x) != len(y) or len(x) == 0:
        problem = f"it holds {len(x)} images, but {label_file} {len(y)} labels"
        fail_damaged(where, image_file, problem, "Both should have the same length and be of the same set.")
    check_labels(f"{where}: {label_file}", y, 10)
    return x[..., None], y.astype(np.int32)


def _parse_idx(where: str, file: Path) -> np.ndarray:
    data = read_bytes(where, file)
    start = data[:4]
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in TYPES or start[3] == 0:
        web = b"<" in data[:64].lstrip()[:1]
        actual = "a web page" if web else start.hex(" ") if start else "nothing"
        problem = "it should begin with the magic number of IDX, such as 00 00 08 03 for images"
        fail_damaged(where, file, f"{problem}, but holds {actual}")
    head = 4 + 4 * start[3]
    if len(data) < head:
        fail_damaged(where, file, f"its head should be {head} bytes long, but the file has {len(data)}")
    shape = tuple(int(n) for n in np.frombuffer(data, ">u4", start[3], 4))
    dtype = np.dtype(TYPES[start[2]])
    size = head + math.prod(shape) * dtype.itemsize
    if len(data) != size:
        form = " x ".join(map(str, shape))
        problem = f"it should be {size} bytes long, for {form} values, but is {len(data)}"
        fail_damaged(where, file, problem)
    array = np.frombuffer(data, dtype, offset=head).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)
