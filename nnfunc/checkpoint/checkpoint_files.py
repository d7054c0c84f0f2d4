"""The files of checkpoints: tensors and manifests with checksums, which are renamed into place when complete."""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from nnfunc import device_memory, documents
from nnfunc.errors import CheckpointError, NnfuncError

MANIFEST = "manifest.json"
SAFETENSORS_DTYPES = {
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
}


def serialize(tensors: dict[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file; unsupported dtypes are stored as bytes [..., itemsize]."""
    import safetensors.numpy

    def as_supported(array: np.ndarray) -> np.ndarray:
        array = np.array(array, order="C", copy=None)
        return array if array.dtype.name in SAFETENSORS_DTYPES else array[..., None].view(np.uint8)

    return safetensors.numpy.save({path: as_supported(array) for path, array in tensors.items()})


def read_tensors(file: Path, expected: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{path: {"shape": ..., "data": bytes}} of a file, whose size and checksum are checked first."""
    from safetensors import SafetensorError, deserialize

    size = expected["bytes"]
    if file.is_file() and file.stat().st_size != size:  # before any of it is read
        refuse(file, f"it has {file.stat().st_size} bytes, but {size} were saved")
    raw = documents.read_bytes(file, most=size)
    if hashlib.sha256(raw).hexdigest() != expected["sha256"]:
        refuse(file, "its content does not match its checksum")
    try:
        return dict(deserialize(raw))
    except SafetensorError as error:
        refuse(file, f"it is not a safetensors file ({error})")


def sealed(manifest: dict[str, Any]) -> bytes:
    """The manifest as JSON, with its SHA-256 at the end; equal manifests give equal bytes."""
    digest = hashlib.sha256(_json(manifest).encode()).hexdigest()
    return (_json(manifest | {"sha256": digest}) + "\n").encode()


def _json(value: Any, levels: int = 2) -> str:
    """Readable JSON, with a line for each entry of the outer levels."""
    if not (levels and isinstance(value, dict) and value):
        return json.dumps(value)
    space = "  " * (3 - levels)
    lines = [f"{space}{json.dumps(k)}: {_json(entry, levels - 1)}" for k, entry in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{space[2:]}" + "}"


def write_synced(file: Path, content: bytes) -> None:
    with open(file, "xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync(folder: Path) -> None:
    """Sync the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(temporary: Path, folder: Path, tensors: str) -> None:
    """Move a complete checkpoint to its folder; a single rename makes it the current one."""
    if not folder.exists():
        temporary.rename(folder)
        sync(folder.parent)
        return
    os.replace(temporary / tensors, folder / tensors)
    sync(folder)
    os.replace(temporary / MANIFEST, folder / MANIFEST)
    sync(folder)
    for old in (*folder.glob("tensors-*.safetensors"), *folder.glob("arrays-*")):
        if old.name != tensors:
            shutil.rmtree(old) if old.is_dir() else old.unlink()


_HOST = re.sub(r"\W", "_", socket.gethostname())
_PROCESS = secrets.token_hex(4)  # distinguishes this process from an earlier one with the same id


def temporary_path(folder: Path) -> Path:
    """A new hidden path beside the folder, with the id of the process that writes to it."""
    return folder.with_name(f".{folder.name}.saving-{_HOST}-{os.getpid()}-{_PROCESS}-{secrets.token_hex(4)}")


def remove_interrupted(parent: Path) -> None:
    """Remove the temporary folders of interrupted saves, but not those that a process may still write to."""
    for entry in parent.glob(".*.saving-*"):
        match = re.fullmatch(r"\..+\.saving-(\w+)-(\d+)-(\w+)-\w+", entry.name)
        if match and not _may_be_writing(entry, match[1], int(match[2]), match[3]):
            shutil.rmtree(entry, ignore_errors=True)


def _may_be_writing(entry: Path, host: str, number: int, process: str) -> bool:
    if host != _HOST:  # another machine with a shared disk; no save takes a day
        with contextlib.suppress(OSError):
            return time.time() - entry.stat().st_mtime < 24 * 3600
        return True
    if number == os.getpid():
        return process == _PROCESS
    try:
        os.kill(number, 0)  # only checks whether the process exists
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def check_inside(path: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Raise a CheckpointError if `path` is outside `folder` after links are resolved."""
    if os.path.lexists(path) and not documents.is_inside(Path(path), Path(folder)):
        refuse(Path(path), "it is a link out of its folder, which is not followed")


@contextlib.contextmanager
def damage(file: Path, folder: Path) -> Iterator[Path]:
    """Turn errors of reading a file in a folder into a CheckpointError."""
    check_inside(file, folder)
    try:
        yield file
    except FileNotFoundError:
        refuse(file, "there is no such file, so the folder is not a complete checkpoint")
    except OSError as error:
        refuse(file, f"it cannot be read ({error.strerror})")
    except ValueError as error:
        if isinstance(error, CheckpointError) or not isinstance(error, NnfuncError):
            raise
        refuse(file, error.body().removesuffix("."))


def refuse(file: Path, problem: str) -> NoReturn:
    hint = "Load another checkpoint, such as an earlier step's or the best."
    raise CheckpointError(f"{problem}.", where=str(file), hint=hint) from None


def explain(error: OSError, folder: Path, needed: int) -> NoReturn:
    space = ""
    with contextlib.suppress(OSError):
        free = device_memory.format_bytes(shutil.disk_usage(folder.parent).free)
        space = f" ({device_memory.format_bytes(needed)} to write, {free} free on that disk)"
    problem = f"save: {folder} could not be written: {error.strerror}{space}."
    hint = "Earlier checkpoints are not damaged. Free some space, or choose another folder; then save again."
    raise OSError(error.errno, f"{problem} {hint}") from error
