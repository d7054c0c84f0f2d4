"""What a trained model is asked about, in the form that its training examples had."""

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnfunc import check
from nnfunc.data.dataset import as_numpy
from nnfunc.data.download import file_size, read_bytes
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.columns import check_columns, parse_numbers, read_columns
from nnfunc.data.sources.image_class_folders import ENDINGS, find_images
from nnfunc.data.sources.image_files import ImageReader
from nnfunc.data.sources.image_layout import apply_layout
from nnfunc.data.sources.npz import load_npy
from nnfunc.errors import NnfuncError

__all__ = ["load_inputs"]

WHERE = "predict"


def load_inputs(preprocessing: Preprocessing, source: Any) -> tuple[np.ndarray, list[str] | None]:
    """(x [n, ...] as the arrays of the data set hold it, the names of the image files or None).

    source: an array [n, ...] of raw values; of a table also columns by name, in any order and with
    others between: a data frame, a dict of columns, a list of dicts; of images one file, a folder or a
    list of files; or a .npy, .csv or .parquet file, whose first line may name the columns of a table.
    Raises: FileNotFoundError; ValueError with the line and column of what is missing or no number.
    """
    files = _image_files(source) if "image" in preprocessing.facts else []
    if files:
        x = ImageReader.of(preprocessing).read(files)
        return apply_layout(x, preprocessing.facts["layout"]), [str(file) for file in files]
    name = "the rows"
    if isinstance(source, str | Path):
        name, source = str(source), _from_file(preprocessing, Path(source))
    if isinstance(source, Sequence) and source and all(isinstance(s, Mapping) for s in source):
        source = _by_column(source)
    if isinstance(source, Mapping | Path) or hasattr(source, "columns"):
        x = _from_columns(preprocessing, name, source)
    else:
        try:
            x = as_numpy(WHERE, name, source)
        except ValueError as error:
            if isinstance(error, NnfuncError):
                raise
            check.fail(WHERE, f"{name} should be rows of one length: {error}")
    return _fitting(x, preprocessing, name), None


def _image_files(source: Any) -> list[Path]:
    """The image files that a path, a folder or a list of paths names."""
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            _absent(path)
        if path.is_dir():
            files = sorted(find_images(path))
            if not files:
                check.fail(WHERE, f"{path} should hold images, but there are none.")
            return files
        return [path] if path.suffix.lower() in ENDINGS else []
    if isinstance(source, Sequence) and source and all(isinstance(s, str | Path) for s in source):
        return [file for path in source for file in _image_files(path)]
    return []


def _absent(path: Path) -> None:
    near = check.nearest(str(path), [str(p) for p in path.parent.glob("*") if p.is_file()])
    raise FileNotFoundError(f"The input {path} does not exist{near}")


def _from_file(preprocessing: Preprocessing, path: Path) -> Any:
    """An array, or the path of a file whose columns have names."""
    if not path.exists():
        _absent(path)
    file_size(WHERE, path)
    kinds = ".npy, .csv or .parquet file" if "columns" in preprocessing.facts else ".npy or .csv file"
    kinds += ", an image or a folder of images" if "image" in preprocessing.facts else ""
    separator = preprocessing.facts.get("separator", ",")
    try:
        if path.suffix == ".npy":
            return load_npy(WHERE, path)
        if path.name.lower().endswith((".csv", ".csv.gz")):
            names = _column_names(path, separator)
            if names is not None and "columns" not in preprocessing.facts:
                problem = f"its first line has names, such as {names[0]!r}"
                hint = "Leave that line out: the run has no names of columns."
                expected = f"{path} should hold rows of numbers, but cannot be read"
                check.fail(WHERE, f"{expected}: {problem}.", hint=hint)
            if names is None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of an empty file: it is refused below
                    return np.loadtxt(
                        path, delimiter=separator, ndmin=2, comments=None, quotechar='"', encoding="utf-8-sig"
                    )
        elif path.suffix.lower() not in (".parquet", ".pq") or "columns" not in preprocessing.facts:
            check.fail(WHERE, expected=f"the input should be a {kinds}", actual=path)
    except (ValueError, EOFError, MemoryError, OSError) as error:
        if isinstance(error, NnfuncError):
            raise
        check.fail(WHERE, f"{path} should hold rows of numbers, but cannot be read: {error}")
    return path


def _column_names(path: Path, separator: str) -> list[str] | None:
    """The words of a CSV file's first line where one of them is no number, or None."""
    line = read_bytes(WHERE, path)[: 1 << 20].decode("utf-8-sig", "replace").lstrip().partition("\n")[0]
    text = [word.strip().strip('"') for word in line.split(separator)]
    try:
        _ = [float(word) for word in text if word]
    except ValueError:
        return [word for word in text if not word.replace(".", "").isdigit()]
    return None


def _by_column(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows by name as columns; None for what a row has not."""
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _from_columns(preprocessing: Preprocessing, name: str, source: Any) -> np.ndarray:
    """[n, columns] float64, the columns of the training data by name."""
    columns = preprocessing.facts.get("columns")
    if columns is None:
        problem = f"{name} should be an array, for the run has no names of columns"
        check.fail(WHERE, f"{problem}, got {check.describe(source)}.", exc_type=TypeError)
    if isinstance(source, Mapping):
        values, first = ({str(key): np.atleast_1d(np.asanyarray(v)) for key, v in source.items()}, None)
    else:
        _, values, first = read_columns(source, preprocessing.facts.get("separator", ","), columns)
    check_columns(name, columns, values)
    lengths = {column: len(values[column]) for column in columns}
    if len(set(lengths.values())) > 1:
        check.fail(WHERE, expected=f"the columns of {name} should be of one length", actual=lengths)
    numbers = [parse_numbers(name, column, values[column], first) for column in columns]
    return np.stack(numbers, axis=1, dtype=np.float64)


def _fitting(x: np.ndarray, preprocessing: Preprocessing, name: str) -> np.ndarray:
    """The rows in the shape and type of the training examples, standardised where those are."""
    if x.dtype.kind not in "fiub":
        check.fail(WHERE, expected="the input should hold numbers", actual=f"type {x.dtype} in {name}")
    if "window" in preprocessing.facts:
        return _tokens(x, preprocessing, name)
    dtype, shape = np.dtype(preprocessing.facts["dtype"]), tuple(preprocessing.facts["shape"])
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if x.ndim == 2 and x.shape[1] == math.prod(shape):
        x = x.reshape(-1, *shape)
    if x.ndim == 0 or len(x) == 0 or x.shape[1:] != shape:
        expected = f"(examples, {', '.join(map(str, shape))}), with at least one example"
        check.fail(WHERE, expected=f"the input should have shape {expected}", actual=f"shape {x.shape} in {name}")
    if dtype.kind in "iu" and not np.array_equal(x, np.trunc(x)):
        expected = f"the input should be integers ({dtype}), as the training data is"
        hint = "Give raw values, such as pixels from 0 to 255; the model scales them itself."
        check.fail(WHERE, f"{expected}, got fractions in {name}.", hint=hint)
    scaling = preprocessing.facts.get("standardise")
    raw = x
    with np.errstate(over="ignore", invalid="ignore"):
        if scaling is not None:
            x = (x.astype(np.float64) - np.array(scaling["mean"])) / np.array(scaling["std"])
        ready = x.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(ready, x):
        expected = f"the input should fit {dtype}, as the training data does"
        check.fail(WHERE, expected=expected, actual=f"values from {x.min()} to {x.max()} in {name}")
    if not np.isfinite(ready).all():
        at = [int(i) for i in np.argwhere(~np.isfinite(ready))[0]]
        problem = f"the input should be finite numbers as {ready.dtype}"
        check.fail(WHERE, f"{problem}, got {raw[tuple(at)]} at index {at} of {name}.")
    return ready


def _tokens(x: np.ndarray, preprocessing: Preprocessing, name: str) -> np.ndarray:
    if x.ndim != 2 or x.dtype.kind not in "iu" or not x.size:
        hint = "For text: nnfunc sample."
        expected = "the input should be rows of tokens, integers [n, time]"
        check.fail(WHERE, expected=expected, actual=f"{x.dtype} {list(x.shape)} in {name}", hint=hint)
    if preprocessing.classes is not None:
        check.within(WHERE, 0, preprocessing.classes - 1, tokens=x)
    return x.astype(np.int32)
