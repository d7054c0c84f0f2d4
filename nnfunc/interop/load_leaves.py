"""The arrays of a model from published tensors, once every name and shape fits."""

import fnmatch
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, paths
from nnfunc.base import DType, Key, Model
from nnfunc.interop.name_table import Entry
from nnfunc.interop.published_config import Family
from nnfunc.interop.tensor_files import FileTensor

Patterns = str | Sequence[str]
PARAMETER_DTYPES = tuple(map(jnp.dtype, ("float16", "bfloat16", "float32", "float64")))
THREADS = min(8, os.cpu_count() or 1)
"""That copy tensors at once; each has the pages of one tensor in memory."""


def load_leaves(
    family: Family,
    model: Model,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    entries: Sequence[Entry],
    tensors: Mapping[str, FileTensor],
    dtype: DType | None,
    unused: Patterns,
    unfilled: Patterns,
    key: Key | None,
    where: str,
    note: str = "",
) -> tuple[dict[str, jax.Array], tuple[tuple[str, ...], ...]]:
    """({path: array}, (ignored, unused, unfilled)), once every shape and name fits.

    note: what else to say where they do not.
    """
    for entry in entries:
        if entry.name in tensors and tensors[entry.name].shape != entry.shape:
            tensor, path = tensors[entry.name], " and ".join(entry.paths)
            problem = f"{entry.name} should have shape {entry.shape} for {path}"
            hint = "The sizes of the model and of the file differ."
            check.fail(str(tensor.file), expected=problem, actual=f"shape {tensor.shape}", hint=hint)
    names = {entry.name for entry in entries}
    rest = [name for name in tensors if name not in names]
    ignored = tuple(name for name in rest if _matches_any(name, family.ignored))
    remaining = tuple(name for name in rest if name not in ignored)
    missing = {path: entry.name for entry in entries if entry.name not in tensors for path in entry.paths}
    covered = {path for entry in entries for path in entry.paths}
    missing |= dict.fromkeys((path for path in leaves if path not in covered), "")
    _check_coverage(where, remaining, missing, unused, unfilled, note)
    _check_dtype(tensors, names, dtype)
    values = _initial_values(model, missing, key)
    arrays = {path: _destination(path, leaves, entries, tensors, dtype, values) for path in leaves}

    def fill(entry: Entry) -> None:
        tensor = tensors[entry.name]
        for path, part in entry.split(tensor.read(), leaves):
            target = arrays[path][entry.layer] if entry.layer else arrays[path]
            if entry.change.added:
                target += part.astype(target.dtype)
            else:
                _copy(part, target)
        tensor.release()

    present = [entry for entry in entries if entry.name in tensors]
    with ThreadPoolExecutor(THREADS) as pool:  # NumPy copies without the lock of the interpreter
        list(pool.map(fill, [entry for entry in present if not entry.change.added]))
    for entry in present:
        if entry.change.added:  # several tensors have one target
            fill(entry)
    loaded = {path: jax.device_put(array) for path, array in arrays.items()}
    return loaded, (ignored, remaining, tuple(missing))


def _matches_any(name: str, patterns: Patterns) -> bool:
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_coverage(
    where: str, remaining: Sequence[str], missing: Mapping[str, str], unused: Patterns, unfilled: Patterns, note: str
) -> None:
    """Every tensor is in the model and every parameter in the file, but for those that patterns allow."""
    extra = [name for name in remaining if not _matches_any(name, unused)]
    allowed = (unfilled,) if isinstance(unfilled, str) else tuple(unfilled)
    empty = [path for path in missing if not any(paths.matches(pattern, path) for pattern in allowed)]
    lines = [f"\n  tensor {text}: no parameter" for _, text in _by_number(extra)]
    lines += [f"\n  parameter {text}: no tensor {missing[path]}".rstrip() for path, text in _by_number(empty)]
    if lines:
        hints = ['unused="name.*"'] * bool(extra) + ['unfilled="path/**"'] * bool(empty)
        counts = [check.counted(len(extra), "tensor") + " without a parameter"] * bool(extra)
        counts += [check.counted(len(empty), "parameter") + " without a tensor"] * bool(empty)
        problem = f"it has {' and '.join(counts)}.{note}"
        check.fail(where, problem, hint=f"To allow it: {' and '.join(hints)}.{''.join(lines)}")


def _by_number(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(the first name, all names as text) of the names that differ in their numbers alone, such as those of layers."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\d+", "0", name), []).append(name)
    for group in groups.values():
        first, *rest = sorted(group, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
        yield first, f"{first} to {rest[-1]} ({len(group)})" if rest else first


def _check_dtype(tensors: Mapping[str, FileTensor], names: set[str], dtype: DType | None) -> None:
    if dtype is not None and not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
        check.fail("pretrained", expected="dtype should be of floats", actual=jnp.dtype(dtype))
    for name in sorted(names & {*tensors}):
        if dtype is None and tensors[name].dtype not in PARAMETER_DTYPES:
            hint = "Pass dtype=jnp.float32 to convert all parameters."
            check.fail(str(tensors[name].file), f"{name} is {tensors[name].dtype}, no dtype of parameters.", hint=hint)
        result = jnp.dtype(tensors[name].dtype if dtype is None else dtype)
        if jax.dtypes.canonicalize_dtype(result) != result:
            hint = 'Pass dtype=jnp.float32, or enable it: jax.config.update("jax_enable_x64", True).'
            check.fail(str(tensors[name].file), f"{name} is {result}, which needs x64.", hint=hint)


def _initial_values(model: Model, missing: Mapping[str, str], key: Key | None) -> dict[str, np.ndarray]:
    """The initial values of parameters without a tensor, and of no others."""
    if not missing:
        return {}
    if key is None:
        expected, actual = "key should be given, for the initial values of parameters without a tensor", "none"
        check.fail("pretrained", expected=expected, actual=actual, hint="Pass key=jax.random.key(0).")

    def draw(key: Key) -> dict[str, jax.Array]:
        both = paths.flatten(model.init(key)) | paths.flatten(model.init_state(key))
        return {path: both[path] for path in missing}

    return {path: np.asarray(value) for path, value in jax.jit(draw)(key).items()}


def _destination(
    path: str,
    leaves: Mapping[str, Any],
    entries: Sequence[Entry],
    tensors: Mapping[str, FileTensor],
    dtype: DType | None,
    values: Mapping[str, np.ndarray],
) -> np.ndarray:
    """An array for a leaf, of the dtype of its tensors, aligned so that JAX on a CPU uses it without a copy."""
    parts = [entry for entry in entries if path in entry.paths and entry.name in tensors]
    dtypes = {tensors[entry.name].dtype for entry in parts} or {values[path].dtype}
    result = jnp.dtype(dtype) if dtype is not None else jnp.result_type(*dtypes)
    if any(entry.change.widen for entry in parts):
        result = jnp.promote_types(result, jnp.float32)
    array = _aligned(leaves[path].shape, result)
    if path in values or any(entry.change.added for entry in parts):
        array[...] = values.get(path, 0)
    return array


ALIGNMENT = 64
"""Bytes; XLA on a CPU copies arrays that do not start at a multiple of it."""


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


BLOCK = 64


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """target[...] = source; a transposed matrix in blocks of columns, five times as fast."""
    if source.ndim == 2 and source.strides[0] < source.strides[1]:
        for start in range(0, source.shape[1], BLOCK):
            target[:, start : start + BLOCK] = source[:, start : start + BLOCK]
    else:
        target[...] = source
