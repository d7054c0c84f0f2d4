"""Inputs for predictions, in the form of the training examples."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnfunc import check
from nnfunc.data.check_arrays import as_numpy
from nnfunc.data.prediction_files import image_files, read_pieces
from nnfunc.data.preprocessing import Preprocessing
from nnfunc.data.sources.columns import as_column, check_columns, parse_numbers, read_columns
from nnfunc.data.sources.forecasting import read_series, restore_series
from nnfunc.data.sources.image_files import ImageReader
from nnfunc.data.sources.image_layout import apply_layout
from nnfunc.data.sources.number_style import NumberStyle
from nnfunc.data.sources.tagging import PADDING, read_sentences
from nnfunc.data.sources.text_classification import read_texts
from nnfunc.data.table_features import SPECIAL, encode, parse_cells
from nnfunc.errors import NnfuncError

WHERE = "predict"
READERS = {"forecasting": read_series, "tagging": read_sentences, "text_classification": read_texts}


def load_inputs(preprocessing: Preprocessing, source: Any) -> tuple[Any, list[str] | None]:
    """(x in the form of the data set's arrays [n, ...], the names of the examples or None).

    The names are those of files of images or texts, the words of sentences, or the names of series.

    preprocessing: of the run.
    source: an array [n, ...] of raw values, or a .npy, .csv, .jsonl or .parquet file. For tables also columns by
        name, in any order and possibly with others: a data frame, a dict of columns, a list of dicts, or a file
        whose first line names the columns. For images a file, a folder or a list of files.
    Raises: FileNotFoundError; ValueError, with line and column, for a value that is missing or not a number.
    """
    if preprocessing.factory in READERS:
        return READERS[preprocessing.factory](preprocessing, source)
    files = _image_files(source) if "image" in preprocessing.facts else []
    if files:
        x = ImageReader.of(preprocessing).read(files)
        return apply_layout(x, preprocessing.facts["layout"]), [str(file) for file in files]
    name = "the input"
    if isinstance(source, str | Path):
        name = str(source)
        (source,) = (piece.rows for piece in read_pieces(preprocessing, [source]))
    name = getattr(source, "source", name)
    if isinstance(source, Sequence) and source and all(isinstance(s, Mapping) for s in source):
        names = dict.fromkeys(str(name) for row in source for name in row)
        source = {name: [row.get(name) for row in source] for name in names}
    if isinstance(source, Mapping) or hasattr(source, "columns"):
        columns, describe_row = _read_columns(preprocessing, name, source)
        if "features" in preprocessing.facts:
            return _encode(preprocessing, name, columns, describe_row), None
        numbers = [parse_numbers(name, column, values, describe_row, where=WHERE) for column, values in columns.items()]
        x = np.stack(numbers, axis=1, dtype=np.float64)
    else:
        try:
            x = as_numpy(WHERE, name, source)
        except ValueError as error:
            if isinstance(error, NnfuncError):
                raise
            check.fail(WHERE, f"{name} should be rows of the same length: {error}")
    if "features" in preprocessing.facts:
        names = preprocessing.facts["columns"]
        if x.ndim != 2 or x.shape[1] != len(names) or not len(x):
            expected, hint = f"{name} should have {len(names)} columns", f"In this order: {', '.join(names)}."
            check.fail(WHERE, expected=expected, actual=f"shape {x.shape}", hint=hint)
        return _encode(preprocessing, name, dict(zip(names, x.T, strict=True)), None), None
    return _prepare(x, preprocessing, name), None


def restore_outputs(preprocessing: Preprocessing, y: Any, output_type: str, names: list[str] | None) -> Any:
    """The outputs of the model in the units of the data.

    preprocessing: of the run.
    y: [n, ...], or a pair of such.
    output_type: of the objective.
    names: of `load_inputs`.
    """
    if preprocessing.factory == "forecasting":
        return restore_series(preprocessing, y, output_type, names or [])
    return preprocessing.restore_target(y, output_type)


def sentence_lengths(preprocessing: Preprocessing, x: Any) -> np.ndarray | None:
    """[n], the number of words of each sentence in the inputs of `load_inputs`; None for other inputs.

    preprocessing: of the run.
    x: [n, ...], as `load_inputs` gives it.
    """
    return np.sum(x[..., 0] != PADDING, axis=-1) if preprocessing.factory == "tagging" else None


def _encode(preprocessing: Preprocessing, name: str, columns: dict[str, Any], describe_row: Any) -> Any:
    """The inputs of a network from the raw columns of a table that has more than numbers."""
    features = preprocessing.facts["features"]
    cells = parse_cells(name, features, columns, describe_row, WHERE)
    return encode(preprocessing.transformer, features, cells, np.arange(len(next(iter(columns.values())))))


def _image_files(source: Any) -> list[Path]:
    """The image files of a path, a folder or a list of paths."""
    if isinstance(source, str | Path):
        return image_files(source)
    if isinstance(source, Sequence) and source and all(isinstance(s, str | Path) for s in source):
        return [file for path in source for file in image_files(path)]
    return []


def _read_columns(preprocessing: Preprocessing, name: str, source: Any) -> tuple[dict[str, Any], Any]:
    """(the columns of the training data by name, row -> its position or None for an index)."""
    columns = preprocessing.facts.get("columns")
    if columns is None:
        expected, hint = f"{name} should be an array", "The columns of the run have no names."
        check.fail(WHERE, expected=expected, actual=check.describe(source), hint=hint, exc_type=TypeError)
    if isinstance(source, Mapping):
        describe_row = getattr(source, "describe_row", None)
        values = {str(key): as_column(column) for key, column in source.items()}
    else:
        _, values, describe_row = read_columns(source, ",", columns, where=WHERE)
    check_columns(name, columns, values, where=WHERE)
    lengths = {column: len(values[column]) for column in columns}
    if len(set(lengths.values())) > 1:
        check.fail(WHERE, expected=f"the columns of {name} should have the same length", actual=lengths)
    if not lengths[columns[0]]:
        check.fail(WHERE, expected=f"{name} should have at least one row", actual="none")
    facts = preprocessing.facts
    special = {c for group in SPECIAL for c in facts.get("features", {}).get(group, {}).get("columns", ())}
    used = {column: values[column] for column in columns}
    return NumberStyle.of(facts).convert(WHERE, name, used, used.keys() - special, describe_row), describe_row


def _prepare(x: np.ndarray, preprocessing: Preprocessing, name: str) -> np.ndarray:
    """The rows in the shape and dtype of the training examples, standardised if those are."""
    if x.dtype.kind not in "fiub":
        check.fail(WHERE, expected="the input should be numbers", actual=f"dtype {x.dtype} in {name}")
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
        expected = f"the input should be integers ({dtype}), as the training data"
        hint = "Pass raw values, such as pixels from 0 to 255, which the model scales."
        check.fail(WHERE, expected=expected, actual=f"fractions in {name}", hint=hint)
    scaling = preprocessing.facts.get("standardise")
    raw = x
    with np.errstate(over="ignore", invalid="ignore"):
        if scaling is not None:
            x = (x.astype(np.float64) - np.array(scaling["mean"])) / np.array(scaling["std"])
        ready = x.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(ready, x):
        expected = f"the input should fit {dtype}, the dtype of the training data"
        check.fail(WHERE, expected=expected, actual=f"values from {x.min()} to {x.max()} in {name}")
    if not np.isfinite(ready).all():
        at = [int(i) for i in np.argwhere(~np.isfinite(ready))[0]]
        expected = f"the input should be finite as {ready.dtype}"
        check.fail(WHERE, expected=expected, actual=f"{raw[tuple(at)]} at index {at} of {name}")
    return ready


def _tokens(x: np.ndarray, preprocessing: Preprocessing, name: str) -> np.ndarray:
    if x.ndim != 2 or x.dtype.kind not in "iu" or not x.size:
        hint = "For text use nnfunc sample."
        expected = "the input should be rows of tokens, integers [n, time]"
        check.fail(WHERE, expected=expected, actual=f"{x.dtype} {list(x.shape)} in {name}", hint=hint)
    if preprocessing.classes is not None:
        check.within(WHERE, 0, preprocessing.classes - 1, tokens=x)
    return x.astype(np.int32)
