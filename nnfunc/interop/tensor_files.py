"""The tensors of published files, read one at a time: safetensors, mapped into memory, and PyTorch's archives."""

import ctypes
import json
import math
import mmap
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax.numpy as jnp
import numpy as np

from nnfunc import check, documents
from nnfunc.errors import ERRORS, NnfuncError

DTYPES = {
    **{"BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32"},
    **{"U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}
"""The dtypes of safetensors, by their names in a header."""
MAX_HEADER = 10**8  # that of the safetensors library
INDEX_FORM = {"weight_map": {str: str}}
TORCH_FILES = (".bin", ".pt", ".pth", ".ckpt")


class FileTensor(NamedTuple):
    """A tensor of a file, which is read when `read` is called.

    shape, dtype: from the header.

    buffer: the mapped file, or an array of PyTorch.
    mapped: whether that array is a view of the mapped file.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    buffer: Any
    start: int
    mapped: bool = False

    def read(self) -> np.ndarray:
        """The array, a view of the mapped file."""
        count = math.prod(self.shape)
        return np.frombuffer(self.buffer, self.dtype, count, self.start).reshape(self.shape)

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def release(self) -> None:
        """Give the pages back that were read; views stay valid."""
        if not hasattr(mmap, "MADV_DONTNEED") or not self.nbytes:
            return
        if isinstance(self.buffer, mmap.mmap):
            first = self.start - self.start % mmap.PAGESIZE
            self.buffer.madvise(mmap.MADV_DONTNEED, first, self.start + self.nbytes - first)
        elif self.mapped:  # Python has no madvise for the mapping of PyTorch
            address = self.buffer.ctypes.data
            first = address - address % mmap.PAGESIZE
            length = ctypes.c_size_t(address + self.nbytes - first)
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), length, mmap.MADV_DONTNEED)


def open_tensors(path: Path) -> dict[str, FileTensor]:
    """The tensors of a file, or of all files that the index of a folder names, by their published names.

    path: a safetensors file, its index, a file of PyTorch, or a folder with one of them.
    Raises: FileNotFoundError when there is none; ValueError when a file is damaged or not as the index says.
    """
    if path.is_dir():
        path = _weights_file(path)
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    if path.suffix in TORCH_FILES:
        return _open_torch(path)
    return _open_file(path)


def _weights_file(folder: Path) -> Path:
    """The file in a folder that holds the weights, or the index of several."""
    names = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]
    for name in names:
        if (folder / name).exists():
            return folder / name
    for suffix in (".safetensors", *TORCH_FILES):
        files = sorted(folder.glob(f"*{suffix}"))
        if len(files) == 1:
            return files[0]
        if files:
            hint = f"Pass the path of one: {', '.join(file.name for file in files[:3])}."
            check.fail(str(folder), f"it has {len(files)} files of weights and no index.", hint=hint)
    hint = f"It should hold one of {', '.join(names)}."
    check.fail(str(folder), "it has no file of weights.", hint=hint, exc_type=FileNotFoundError)


def _open_shards(index: Path) -> dict[str, FileTensor]:
    names = documents.read_json(index, INDEX_FORM)["weight_map"]
    tensors: dict[str, FileTensor] = {}
    for shard in sorted({*names.values()}):
        file = index.parent / shard
        if Path(shard).name != shard:
            check.fail(str(index), f"it names {shard!r}, which is not a file in its folder.")
        if not file.exists():
            hint = "Fetch the missing file, or save the model again."
            check.fail(str(index), f"it names {shard}, which is missing.", hint=hint, exc_type=FileNotFoundError)
        tensors |= _open_torch(file) if file.suffix in TORCH_FILES else _open_file(file)
    for name, shard in names.items():
        if name not in tensors or tensors[name].file.name != shard:
            check.fail(str(index), f"it says that {shard} holds {name}, which it does not.")
    return tensors


def _open_file(file: Path) -> dict[str, FileTensor]:
    """The tensors of a safetensors file, whose header is checked against its size."""
    try:
        with open(file, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(MAX_HEADER, size - 8):
                problem = f"it has {size} bytes, and its header claims to have {length}"
                _refuse(file, problem)
            raw = stream.read(length)
            buffer = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        _fail_unreadable(file, error)
    try:
        header = json.loads(raw, object_pairs_hook=partial(_refuse_repeats, file))
    except NnfuncError:
        raise
    except (ValueError, RecursionError):
        _refuse(file, "its header is not JSON")
    if not isinstance(header, dict):
        _refuse(file, "its header is not a table")
    data = 8 + length
    header.pop("__metadata__", None)
    tensors = {name: _tensor(file, name, entry, buffer, data, size) for name, entry in header.items()}
    in_order = sorted(tensors.items(), key=lambda item: (item[1].start, item[1].nbytes))
    for (name, tensor), (other, after) in pairwise(in_order):
        if tensor.start + tensor.nbytes > after.start:
            _refuse(file, f"its header gives {name} and {other} the same bytes")
    return tensors


def _refuse_repeats(file: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        _refuse(file, f"its header has {next(name for name in names if names.count(name) > 1)} twice")
    return table


def _fail_unreadable(file: Path, error: OSError) -> NoReturn:
    exc_type = type(error) if type(error) in ERRORS else OSError
    check.fail(str(file), f"it cannot be read ({error.strerror}).", exc_type=exc_type)


def _tensor(file: Path, name: str, entry: Any, buffer: Any, data: int, size: int) -> FileTensor:
    form = {"dtype": str, "shape": [range(2**63)], "data_offsets": [range(2**63)]}
    mismatch = documents.find_mismatch(entry, form)
    if mismatch or len(entry["data_offsets"]) != 2:
        _refuse(file, f"its header has no valid entry for {name}")
    if entry["dtype"] not in DTYPES:
        known = ", ".join(DTYPES)
        check.fail(str(file), f"{name} has the dtype {entry['dtype']}; those that can be read are {known}.")
    dtype, (start, end) = jnp.dtype(DTYPES[entry["dtype"]]), entry["data_offsets"]
    if end - start != dtype.itemsize * math.prod(entry["shape"]):
        problem = f"{name} is {entry['dtype']}{entry['shape']}, but its header gives it {end - start} bytes"
        _refuse(file, problem)
    if data + end > size:
        _refuse(file, f"it has {size} bytes, but its header says that {name} ends at byte {data + end}")
    return FileTensor(file, tuple(entry["shape"]), dtype, buffer, data + start)


def _refuse(file: Path, problem: str) -> NoReturn:
    hint = "It is cut short or damaged: fetch it again."
    check.fail(str(file), f"{problem}.", hint=hint)


def _open_torch(file: Path) -> dict[str, FileTensor]:
    """The tensors of PyTorch's archive, through its loader that runs no code from the file."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        hint = (
            "Pickled files are read only by PyTorch's weights_only loader. Convert it where PyTorch is installed: "
            'safetensors.torch.save_file(torch.load(file, weights_only=True), "model.safetensors").'
        )
        check.fail(str(file), "the package torch is not installed.", hint=hint, exc_type=ModuleNotFoundError)
    try:
        mapped = zipfile.is_zipfile(file)  # not the form before PyTorch 1.6
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        _fail_unreadable(file, error)
    except Exception as error:  # of PyTorch's unpickler: it names what it refuses
        reason = _unpickler_reason(error)
        hint = "Only a dictionary of tensors is read, as torch.save(model.state_dict(), file) writes it."
        check.fail(str(file), f"PyTorch's weights_only loader refuses it ({reason}).", hint=hint)
    for name in ("state_dict", "model_state_dict", "model_state", "model"):  # of a training run
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        check.fail(str(file), expected="it should hold a dictionary of tensors", actual=type(state).__name__)
    tensors = {}
    for name, value in state.items():
        is_view = mapped and value.is_contiguous()
        value = value.detach().contiguous()
        dtype = jnp.dtype(str(value.dtype).removeprefix("torch."))
        data = value.reshape(-1).view(torch.uint8).numpy()
        tensors[name] = FileTensor(file, tuple(value.shape), dtype, data, 0, is_view)
    return tensors


def _unpickler_reason(error: Exception) -> str:
    """What PyTorch refuses, without its advice to run the code of the file."""
    match = re.search(r"WeightsUnpickler error:\s*(.+?)(?= was not an allowed|\n|$)", str(error))
    if match:
        return match[1]
    return ": ".join(filter(None, (type(error).__name__, str(error).split("\n")[0].split(". ")[0])))


def write_tensors(folder: Path, tensors: Iterable[tuple[str, np.ndarray]], shard_bytes: int) -> list[Path]:
    """Write model.safetensors, or several files of at most shard_bytes with an index. tensors: (name, array)."""
    shards: list[list[str]] = []
    shard: dict[str, np.ndarray] = {}
    total = 0

    def write() -> None:
        save_tensors(folder / f"shard-{len(shards)}.tmp", shard)
        shards.append([*shard])
        shard.clear()

    for name, array in tensors:
        if shard and array.nbytes + sum(part.nbytes for part in shard.values()) > shard_bytes:
            write()
        shard[name] = array
        total += array.nbytes
    write()
    count = len(shards)
    files = (
        ["model.safetensors"] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    )
    for i, file in enumerate(files):
        (folder / f"shard-{i}.tmp").replace(folder / file)
    if count > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        documents.write_file(folder / "model.safetensors.index.json", (json.dumps(index, indent=2) + "\n").encode())
    return [folder / file for file in files]


def save_tensors(file: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write one safetensors file. tensors: arrays by name, with any order of their axes in memory."""
    from safetensors.numpy import save_file

    # ascontiguousarray makes a vector of a number
    contiguous = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in tensors.items()}
    file.touch()
    mode = file.stat().st_mode
    save_file(contiguous, file, metadata={"format": "pt"})
    file.chmod(mode)  # safetensors lets nobody else read it
