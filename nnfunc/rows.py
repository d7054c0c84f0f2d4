"""The rows of a file that `predict` reads, and those that it writes."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from nnfunc import check

__all__ = ["fitting", "read", "write"]


def read(path: Path) -> np.ndarray:
    """The array of a .npy file, or the numbers of a .csv file, one row an example."""
    if not path.is_file():
        near = check.nearest(str(path), [str(p) for p in path.parent.glob("*") if p.is_file()])
        raise FileNotFoundError(f"The input {path} does not exist{near}")
    try:
        if path.suffix == ".npy":
            x = np.load(path, allow_pickle=False)
        elif path.suffix == ".csv":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an empty file: it is refused below
                x = np.loadtxt(path, delimiter=",", ndmin=2)
        else:
            check.fail("predict", f"the input should be a .npy or .csv file, got {path}.")
    except (ValueError, EOFError) as error:
        if check.is_mistake(error):
            raise
        check.fail("predict", f"{path} should hold rows of numbers, but cannot be read: {error}")
    if x.dtype.kind not in "fiub":
        check.fail("predict", f"the input should hold numbers, got type {x.dtype} in {path}.")
    return x


def fitting(x: np.ndarray, like: Any, file: Path) -> np.ndarray:
    """The rows of a file in the shape and type of the training examples."""
    shape = like.shape[1:]
    if file.suffix == ".csv" and x.shape[1:] == (math.prod(shape),):
        x = x.reshape(-1, *shape)
    if len(x.shape) == 0 or len(x) == 0 or x.shape[1:] != shape:
        wanted = f"(examples, {', '.join(map(str, shape))}), with at least one example"
        got = f"got shape {x.shape} in {file}"
        check.fail("predict", f"the input should have shape {wanted}, {got}.")
    if like.dtype.kind in "iu" and not np.array_equal(x, np.trunc(x)):
        wanted = f"the input should be whole numbers ({like.dtype}), as the training data is"
        cure = "Give raw values, such as pixels from 0 to 255; the model scales them itself."
        check.fail("predict", f"{wanted}, got fractions in {file}. {cure}")
    with np.errstate(over="ignore", invalid="ignore"):
        ready = x.astype(like.dtype)
    if like.dtype.kind in "iu" and not np.array_equal(ready, x):
        wanted = f"the input should fit {like.dtype}, as the training data does"
        check.fail("predict", f"{wanted}, got values from {x.min()} to {x.max()} in {file}.")
    if not np.isfinite(ready).all():
        at = [int(i) for i in np.argwhere(~np.isfinite(ready))[0]]
        problem = f"the input should be finite numbers as {ready.dtype}"
        check.fail("predict", f"{problem}, got {x[tuple(at)]} at index {at} of {file}.")
    return ready


def write(y: np.ndarray, output: Path | None, *, classes: bool) -> None:
    """Print the outputs, or write them as CSV or .npy; classes: with the probability of each."""
    if output is not None and output.suffix == ".npy":
        np.save(output, y)
        return
    if classes:
        shifted = np.exp(y - y.max(-1, keepdims=True))
        share = shifted / shifted.sum(-1, keepdims=True)
        names = ["class", *(f"p{i}" for i in range(y.shape[-1]))]
        best = y.argmax(-1)
        lines = [
            f"{k}," + ",".join(f"{p:.6g}" for p in row) for k, row in zip(best, share, strict=True)
        ]
    else:
        flat = y.reshape(len(y), -1)
        names = [f"y{i}" for i in range(flat.shape[-1])]
        lines = [",".join(f"{value:.9g}" for value in row) for row in flat]
    text = "\n".join([",".join(names), *lines])
    if output is None:
        print(text)
    else:
        output.write_text(text + "\n")
