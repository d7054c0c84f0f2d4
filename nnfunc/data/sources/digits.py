"""Scikit-learn's handwritten digits: 1797 images of 8 x 8 pixels, without a download."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from nnfunc import check
from nnfunc.data.fingerprint import split_fingerprint
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.image_layout import Layout, apply_layout
from nnfunc.data.splits import Splits, split


def digits(*, layout: Layout = "flat", preprocessing: Preprocessing | None = None) -> Splits:
    """The digits, stratified by class: 1257 images for training, 180 for validation, 360 for testing.

    x: float32 in [0, 1]; y: int32 in [0, 10). The split is always the same, so that results can be compared.
    layout: "flat" [64], "image" [8, 8, 1] or "rows" [8, 8].
    preprocessing: of an earlier run; it has no effect, because nothing is fitted to these images.
    Raises: ModuleNotFoundError when scikit-learn, which contains the images, is not installed.
    Source: Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits", UCI, the test set.

    >>> x, y = digits().train
    >>> x.shape, y.shape, x.dtype, float(x.max())
    ((1257, 64), (1257,), dtype('float32'), 1.0)
    """
    table = _table()
    pixels, y = table[:, :-1], table[:, -1]
    x = pixels.astype(np.float32) / np.float32(16)  # exact: pixels are in [0, 16]
    x = apply_layout(x.reshape(-1, 8, 8, 1), layout)
    parts = split((x, y), [0.7, 0.1, 0.2], stratify=y)
    image_shape = None if layout == "image" else (8, 8, 1)
    facts = {"classes": 10, "image_shape": image_shape, "dtype": "float32", "shape": [*x.shape[1:]]}
    record = Preprocessing("digits", facts, {"train": split_fingerprint(x, y)})
    return Splits(*parts, classes=10, image_shape=image_shape, preprocessing=record)


def _table() -> np.ndarray:
    """[1797, 65] int32: 64 pixels in [0, 16], then the label.

    The file is read directly, because importing scikit-learn takes longer than training on it.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        problem = "scikit-learn, which contains the images, is not installed."
        hint = "Install it: pip install 'nnfunc[programs]'."
        check.fail("data.digits", problem, hint=hint, exc_type=ModuleNotFoundError)
    file = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if file.is_file():
        text = gzip.decompress(file.read_bytes()).replace(b"\n", b",").rstrip(b",")
        return np.array(text.split(b","), np.float32).astype(np.int32).reshape(-1, 65)
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return np.column_stack([pixels, labels]).astype(np.int32)
