"""Checkpoints with checksums and atomic saves: a damaged checkpoint is never loaded.

A checkpoint is a folder with `tensors-<hash>.safetensors` and `manifest.json`. The manifest has the
name, size and SHA-256 of that file, the path, shape and dtype of each leaf, the versions of the
libraries, the caller's metadata, and the SHA-256 of itself. Loading detects any flipped bit in either file.

A save writes a hidden folder beside its target, syncs it to the disk, and then renames the folder, or, over
an older checkpoint, the manifest. If it is interrupted, the old or the new checkpoint is complete.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, device_memory, documents
from nnfunc.base import PyTree, to_device
from nnfunc.calls import explain_calls
from nnfunc.errors import InvalidValueError, NnfuncError

__all__ = [
    "CheckpointError",
    "LoadedCheckpoint",
    "inspect",
    "latest_good",
    "leaf_entries",
    "list_differences",
    "load",
    "remove",
    "save",
    "save_best",
    "save_step",
    "steps",
]

FORMAT = 1
MANIFEST = "manifest.json"
BEST = "best"
NAME = r"tensors-[0-9a-f]{16}\.safetensors"
FORM = {
    "metadata": dict,
    "file": {"name": str, "bytes": range(2**63), "sha256": str},
    "leaves": {str: {"shape?": [range(2**63)], "dtype?": str, "impl?": str, "python?": str, "value?": object}},
}
"""The form of a manifest; see `documents`."""


class CheckpointError(InvalidValueError):
    """A checkpoint is damaged or missing; the message has the file, the damage, and what to do."""


class LoadedCheckpoint(NamedTuple):
    """The result of `latest_good`.

    step: of the checkpoint. tree, metadata: as they were saved. warnings: one for each newer checkpoint that
    is damaged, with the reason.
    """

    step: int
    tree: PyTree
    metadata: dict[str, Any]
    warnings: tuple[str, ...]


def save(folder: str | os.PathLike, tree: PyTree, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a pytree of arrays as the checkpoint `folder`, atomically, and return its path.

    folder: of the checkpoint. An existing checkpoint is replaced, other files in the folder are not changed,
    and the temporary folders of interrupted saves beside it are removed. tree: any pytree of JAX or NumPy
    arrays, random keys and Python numbers. metadata: a dictionary that JSON can hold; `inspect` returns it.
    Raises: TypeError when a leaf or the metadata cannot be saved; OSError when the disk is full or cannot be
    written to. Earlier checkpoints are not lost then.

    >>> import tempfile
    >>> folder = save(tempfile.mkdtemp() + "/weights", {"head": {"weight": jnp.ones((2, 3))}})
    >>> float(load(folder, {"head": {"weight": jnp.zeros((2, 3))}})["head"]["weight"].sum())
    6.0
    """
    folder = Path(os.path.abspath(folder))
    leaves, tensors = _flatten(tree)
    content = _serialize(tensors)
    digest = hashlib.sha256(content).hexdigest()
    name = f"tensors-{digest[:16]}.safetensors"
    manifest = {
        "format": FORMAT,
        "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": _versions(),
        "metadata": _plain(metadata or {}),
        "file": {"name": name, "bytes": len(content), "sha256": digest},
        "leaves": leaves,
    }
    files = {name: content, MANIFEST: _sealed(manifest)}
    temporary = _temporary(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _clean(folder.parent)
        temporary.mkdir()
        for file, data in files.items():
            _write(temporary / file, data)
        _sync(temporary)
        _put(temporary, folder, name)
    except OSError as error:
        _explain(error, folder, sum(map(len, files.values())))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load(folder: str | os.PathLike, like: PyTree, *, part: str = "") -> PyTree:
    """Load a checkpoint into the structure of `like`, bit for bit as it was saved.

    folder: of the checkpoint. like: the expected tree, of arrays or `jax.ShapeDtypeStruct`, for example
    `jax.eval_shape(model.init, key)`. Leaves are NumPy arrays or Python numbers where those of `like` are,
    otherwise uncommitted JAX arrays. part: the path of a subtree, such as "params", if `like` is the structure
    of that subtree only.
    Raises: CheckpointError when a file is damaged or missing; ValueError when the checkpoint has other paths,
    shapes or dtypes than `like`, with the first few of them.

    >>> load("runs/none", {})
    Traceback (most recent call last):
    nnfunc.checkpoint.CheckpointError: runs/none/manifest.json: there is no such file...
    """
    folder = Path(folder)
    manifest = inspect(folder)
    named, treedef = named_leaves(like, part.strip("/"))
    expected = {path: _entry(path, leaf) for path, leaf in named.items()}
    stored = {path: entry for path, entry in manifest["leaves"].items() if _inside(path, part.strip("/"))}
    differences = list_differences(expected, stored)
    if differences:
        hint = "Build the model with the settings of the checkpoint, or load another checkpoint."
        check.fail("load", f"{folder} is a checkpoint of another model.", hint=f"{hint}{differences}")
    with _damage(folder / manifest["file"]["name"], folder) as file:
        tensors = _read(file, manifest["file"])
    leaves = [_restore(file, path, stored[path], tensors.get(path), leaf) for path, leaf in named.items()]
    return jax.tree.unflatten(treedef, leaves)


def inspect(folder: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a checkpoint: leaves (shape and type by path), metadata, versions, file.

    folder: of the checkpoint. The tensors are not read.
    Raises: CheckpointError when it is missing or damaged.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> path = nf.checkpoint.save(folder + "/it", {"weight": jnp.ones(2)}, metadata={"epoch": 3})
    >>> nf.checkpoint.inspect(path)["metadata"]
    {'epoch': 3}
    """
    file = Path(folder) / MANIFEST
    with _damage(file, Path(folder)):
        raw = documents.read_bytes(file)
    try:
        manifest = json.loads(raw)
        result = manifest.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        _refuse(file, f"it cannot be read as a manifest ({type(error).__name__})")
    if _sealed(manifest) != raw:
        _refuse(file, f"its content does not match its checksum {str(result)[:16]}...")
    if manifest.get("format") != FORMAT:
        hint = "Load it with the version of nnfunc that saved it."
        expected, actual = f"its format should be {FORMAT}", manifest.get("format")
        check.fail(str(file), expected=expected, actual=actual, hint=hint, exc_type=CheckpointError)
    problem = documents.find_mismatch(manifest, FORM)
    if not problem and not re.fullmatch(NAME, name := manifest["file"]["name"]):
        problem = f"file.name should be such as tensors-<hash>.safetensors, got {name!r}"
    if problem:
        _refuse(file, problem)
    return manifest


def save_step(
    root: str | os.PathLike, step: int, tree: PyTree, *, metadata: Mapping[str, Any] | None = None, keep: int = 3
) -> Path:
    """Save the checkpoint of a step as `root/step-<step>`, then remove the oldest ones.

    root: the folder of the checkpoints. step: at least 0. tree, metadata: as for `save`. keep: the number of
    checkpoints to keep, this one and those before it; at least 1. An old checkpoint is removed once the new one
    is on the disk. `best`, and checkpoints of later steps, are not removed.
    Raises: as `save`.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> nf.checkpoint.save_step(folder, 20, {"weight": jnp.ones(2)}).name
    'step-00000020'
    """
    check.size("save_step", 0, step=step)
    check.size("save_step", keep=keep)
    folder = save(_folder(root, step), tree, metadata=metadata)
    remove(root, [result for result in steps(root) if result <= step][:-keep])
    return folder


def remove(root: str | os.PathLike, removed_steps: Iterable[int]) -> None:
    """Remove the checkpoints of some steps, each atomically. root: their folder. removed_steps: the steps.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = nf.checkpoint.save_step(folder, 20, {"weight": jnp.ones(2)})
    >>> nf.checkpoint.remove(folder, [20])
    >>> nf.checkpoint.steps(folder)
    []
    """
    for step in removed_steps:
        with contextlib.suppress(OSError):
            temporary = _temporary(_folder(root, step))
            _folder(root, step).rename(temporary)
            shutil.rmtree(temporary)


def save_best(root: str | os.PathLike, tree: PyTree, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Save the best checkpoint so far as `root/best`, which it replaces.

    root: the folder of the checkpoints. tree, metadata: as for `save`.
    Raises: as `save`.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> nf.checkpoint.save_best(folder, {"weight": jnp.ones(2)}).name
    'best'
    """
    return save(Path(root) / BEST, tree, metadata=metadata)


def steps(root: str | os.PathLike) -> list[int]:
    """The steps that have a checkpoint, which may be damaged, in order. root: the folder of the checkpoints.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = nf.checkpoint.save_step(folder, 20, {"weight": jnp.ones(2)})
    >>> nf.checkpoint.steps(folder)
    [20]
    """
    root = Path(root)
    names = [entry.name for entry in root.iterdir() if entry.is_dir()] if root.is_dir() else []
    result = (re.fullmatch(r"step-(\d+)", name) for name in names)
    return sorted(int(match[1]) for match in result if match)


def latest_good(root: str | os.PathLike, like: PyTree, *, part: str = "") -> LoadedCheckpoint:
    """The newest undamaged checkpoint of `save_step`, with a warning for each newer one.

    root: the folder of the checkpoints. like, part: as for `load`.
    Raises: CheckpointError when there is none; ValueError, as `load`, when the newest undamaged checkpoint is
    of another model.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = nf.checkpoint.save_step(folder, 20, {"weight": jnp.ones(2)})
    >>> nf.checkpoint.latest_good(folder, {"weight": jnp.ones(2)}).step
    20
    """
    refused = []
    for step in reversed(steps(root)):
        folder = _folder(root, step)
        try:
            check_inside(folder, root)
            tree = load(folder, like, part=part)
            return LoadedCheckpoint(step, tree, inspect(folder)["metadata"], tuple(refused))
        except CheckpointError as error:
            refused.append(f"The checkpoint of step {step} cannot be loaded. {error}")
    problem, hint = "it has no checkpoint", f"Start again, or use the weights in {Path(root) / BEST}."
    if refused:
        problem = f"it has no undamaged checkpoint among those of steps {', '.join(map(str, steps(root)))}"
        hint = f"{hint} {refused[0]}"
    check.fail(str(root), f"{problem}.", hint=hint, exc_type=CheckpointError)


def _folder(root: str | os.PathLike, step: int) -> Path:
    return Path(root) / f"step-{step:08d}"


# Trees into named arrays and back.


def named_leaves(tree: PyTree, part: str = "") -> tuple[dict[str, Any], Any]:
    """({path: leaf}, the structure of the tree), with paths such as `opt_state/0/mu/head/weight`."""
    result, treedef = jax.tree_util.tree_flatten_with_path(tree)
    start = [part] if part else []
    named = {"/".join([*start, *map(_name, path)]) or "value": leaf for path, leaf in result}
    if len(named) < len(result):
        check.fail("checkpoint", "two leaves of the tree have the same path.", hint="Rename one of them.")
    return named, treedef


def _inside(path: str, part: str) -> bool:
    return not part or path == part or path.startswith(f"{part}/")


def _name(entry: Any) -> str:
    """One part of a path: a key, an index or the name of a field."""
    for field in ("key", "idx", "name"):
        if hasattr(entry, field):
            text = str(getattr(entry, field))
            # only the separator, the escape itself and the reserved name of safetensors
            text = text.replace("%", "%25").replace("/", "%2F")
            return text.replace("__metadata__", "%5F_metadata__") or "%"
    return str(entry)


def _entry(path: str, leaf: Any) -> dict[str, Any]:
    """The entry of a leaf in the manifest: its shape and dtype, or the value of a Python number."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return {"python": type(leaf).__name__, "value": leaf}
    dtype = getattr(leaf, "dtype", None)
    supported = (np.number, np.bool_, jax.dtypes.prng_key)
    if dtype is not None and any(jnp.issubdtype(dtype, parent) for parent in supported):
        return {"shape": list(leaf.shape), "dtype": dtype.name}
    expected, hint = f"{path} should be an array of numbers or a number", "Save other values as metadata."
    check.fail("checkpoint", expected=expected, actual=check.describe(leaf), hint=hint, exc_type=TypeError)


def _flatten(tree: PyTree) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """(the entries of the manifest, arrays on the host of all leaves but Python numbers), by path."""
    named, _ = named_leaves(tree)
    entries = {path: _entry(path, leaf) for path, leaf in named.items()}
    data = {}
    for path, leaf in named.items():
        if "python" in entries[path]:
            continue
        if check.is_traced(leaf) or isinstance(leaf, jax.ShapeDtypeStruct):
            expected, hint = f"{path} should have a value", "Save arrays, outside of jit."
            check.fail("checkpoint", expected=expected, actual=check.describe(leaf), hint=hint, exc_type=TypeError)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            hint = "Gather it first, or save with orbax-checkpoint."
            check.fail("checkpoint", f"{path} is distributed over several processes.", hint=hint)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            entries[path]["impl"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        data[path] = leaf
    host = {path: np.asarray(leaf) for path, leaf in jax.device_get(data).items()}
    return entries, {path: np.asarray(x, x.dtype.newbyteorder("<")) for path, x in host.items()}


def _restore(file: Path, path: str, entry: dict[str, Any], tensor: Any, like: Any) -> Any:
    """The leaf as it was saved: a NumPy array, JAX array or Python number, as `like`. entry: of the manifest."""
    if "python" in entry:
        value = entry.get("value")
        if type(value).__name__ != entry["python"]:
            _refuse(file, f"{path} should be a Python {entry['python']}, got {value!r} in the manifest")
        return value
    try:
        flat = np.frombuffer(tensor["data"], np.uint8)
        if "impl" in entry:
            data = to_device(flat.view(np.uint32).reshape(tensor["shape"]))
            key = jax.random.wrap_key_data(data, impl=entry["impl"])
            if _type_name(_entry(path, key)) != _type_name(entry):
                raise ValueError
            return key
        array = flat.view(jnp.dtype(entry["dtype"])).reshape(entry["shape"])
    except (ValueError, TypeError):
        _refuse(file, f"it should have {path} as {_type_name(entry)}, as the manifest says, but does not")
    if isinstance(like, np.ndarray | np.generic):
        return array.copy() if isinstance(like, np.ndarray) else array[()]
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        hint = 'Enable it: jax.config.update("jax_enable_x64", True).'
        check.fail("load", f"{file}: {path} is {array.dtype}, which needs x64.", hint=hint)
    return to_device(array)


def list_differences(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> str:
    """The first few paths at which two trees differ in shape or dtype, one on each line; "" if there are none.

    expected, actual: the results of `leaf_entries` for the two trees.

    >>> entries = nf.checkpoint.leaf_entries({"weight": jnp.ones(2)})
    >>> nf.checkpoint.list_differences(entries, entries)
    ''
    """
    lines = []
    for path in [*expected, *(path for path in actual if path not in expected)]:
        types = _type_name(expected.get(path)), _type_name(actual.get(path))
        if types[0] != types[1]:
            lines.append(f"\n  {path}: expected {types[0]}, got {types[1]}")
    return "".join(lines[:5]) + (f"\n  and {len(lines) - 5} more" if lines[5:] else "")


def leaf_entries(tree: PyTree) -> dict[str, dict[str, Any]]:
    """The manifest's entry of each leaf, by path: shape and dtype, or the value of a Python number.

    tree: any pytree of arrays, shapes and Python numbers.

    >>> nf.checkpoint.leaf_entries({"weight": jnp.ones(2)})
    {'weight': {'shape': [2], 'dtype': 'float32'}}
    """
    return {path: _entry(path, leaf) for path, leaf in named_leaves(tree)[0].items()}


def _type_name(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "nothing"
    if "python" in entry:
        return f"a Python {entry['python']}"
    return f"{entry.get('dtype')}[{', '.join(map(str, entry.get('shape', ())))}]"


# Files.

SAFETENSORS_DTYPES = {
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"),
}


def _serialize(tensors: dict[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file; unsupported dtypes are stored as bytes [..., itemsize]."""
    import safetensors.numpy

    def as_supported(array: np.ndarray) -> np.ndarray:
        array = np.array(array, order="C", copy=None)
        return array if array.dtype.name in SAFETENSORS_DTYPES else array[..., None].view(np.uint8)

    return safetensors.numpy.save({path: as_supported(array) for path, array in tensors.items()})


def _read(file: Path, expected: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{path: {"shape": ..., "data": bytes}} of a file, whose size and checksum are checked first."""
    from safetensors import SafetensorError, deserialize

    size = expected["bytes"]
    if file.is_file() and file.stat().st_size != size:  # before any of it is read
        _refuse(file, f"it has {file.stat().st_size} bytes, but {size} were saved")
    raw = documents.read_bytes(file, most=size)
    if hashlib.sha256(raw).hexdigest() != expected["sha256"]:
        _refuse(file, "its content does not match its checksum")
    try:
        return dict(deserialize(raw))
    except SafetensorError as error:
        _refuse(file, f"it is not a safetensors file ({error})")


def _sealed(manifest: dict[str, Any]) -> bytes:
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


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata after a round trip through JSON; numbers of NumPy and JAX become Python numbers."""

    def number(value: Any) -> Any:
        if np.ndim(value) == 0 and hasattr(value, "item"):
            return value.item()
        expected, hint = "metadata should have only values that JSON can hold", "Put arrays into the tree."
        check.fail("save", expected=expected, actual=check.describe(value), hint=hint, exc_type=TypeError)

    return json.loads(json.dumps(dict(metadata), default=number))


def _versions() -> dict[str, str]:
    import safetensors

    modules = sys.modules["nnfunc"], jax, np, safetensors
    result = {module.__name__: getattr(module, "__version__", "unknown") for module in modules}
    return result | {"python": platform.python_version()}


def _write(file: Path, content: bytes) -> None:
    with open(file, "xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    """Sync the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put(temporary: Path, folder: Path, tensors: str) -> None:
    """Move a complete checkpoint to its folder; a single rename makes it the current one."""
    if not folder.exists():
        temporary.rename(folder)
        _sync(folder.parent)
        return
    os.replace(temporary / tensors, folder / tensors)
    _sync(folder)
    os.replace(temporary / MANIFEST, folder / MANIFEST)
    _sync(folder)
    for old in folder.glob("tensors-*.safetensors"):
        if old.name != tensors:
            old.unlink()


_HOST = re.sub(r"\W", "_", socket.gethostname())
_PROCESS = secrets.token_hex(4)  # distinguishes this process from an earlier one with the same id


def _temporary(folder: Path) -> Path:
    """A new hidden path beside the folder, with the id of the process that writes to it."""
    return folder.with_name(f".{folder.name}.saving-{_HOST}-{os.getpid()}-{_PROCESS}-{secrets.token_hex(4)}")


def _clean(parent: Path) -> None:
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
        _refuse(Path(path), "it is a link out of its folder, which is not followed")


@contextlib.contextmanager
def _damage(file: Path, folder: Path) -> Iterator[Path]:
    """Turn errors of reading a file in a folder into a CheckpointError."""
    check_inside(file, folder)
    try:
        yield file
    except FileNotFoundError:
        _refuse(file, "there is no such file, so the folder is not a complete checkpoint")
    except OSError as error:
        _refuse(file, f"it cannot be read ({error.strerror})")
    except ValueError as error:
        if isinstance(error, CheckpointError) or not isinstance(error, NnfuncError):
            raise
        _refuse(file, error.body().removesuffix("."))


def _refuse(file: Path, problem: str) -> NoReturn:
    hint = "Load another checkpoint, such as an earlier step's or the best."
    raise CheckpointError(f"{problem}.", where=str(file), hint=hint) from None


def _explain(error: OSError, folder: Path, needed: int) -> NoReturn:
    space = ""
    with contextlib.suppress(OSError):
        free = device_memory.format_bytes(shutil.disk_usage(folder.parent).free)
        space = f" ({device_memory.format_bytes(needed)} to write, {free} free on that disk)"
    problem = f"save: {folder} could not be written: {error.strerror}{space}."
    hint = "Earlier checkpoints are not damaged. Free some space, or choose another folder; then save again."
    raise OSError(error.errno, f"{problem} {hint}") from error


explain_calls(__name__)
