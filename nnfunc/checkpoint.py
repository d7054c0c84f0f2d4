"""Checkpoints that are whole or refused: safetensors, a manifest with checksums, atomic saves.

A checkpoint is a folder with `tensors-<hash>.safetensors` and `manifest.json`, which names that
file and holds its size and SHA-256, each leaf's path, shape and type, the versions of the
libraries, the caller's metadata, and the SHA-256 of itself. Any flipped bit, in either file, is
found on loading.

A save writes a hidden folder beside its target, forces it to the disk, and then renames: the
folder, or, over an older checkpoint, the manifest. Whenever it is cut off, the old or the new one
is there, whole.
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

from nnfunc import check, documents
from nnfunc.base import PyTree
from nnfunc.calls import explain_calls
from nnfunc.errors import InvalidValueError, NnfuncError

__all__ = [
    "CheckpointError",
    "Found",
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
"""What a manifest holds; see `documents`."""


class CheckpointError(InvalidValueError):
    """A checkpoint is damaged or missing; the message names the file, the damage and what to do."""


class Found(NamedTuple):
    """The result of `latest_good`.

    step: of the checkpoint. tree, metadata: as they were saved. warnings: one for each newer checkpoint
    that was refused, with the reason.
    """

    step: int
    tree: PyTree
    metadata: dict[str, Any]
    warnings: tuple[str, ...]


def save(folder: str | os.PathLike, tree: PyTree, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a pytree of arrays as the checkpoint `folder`, atomically, and return its path.

    folder: of the checkpoint. tree: any pytree of JAX or NumPy arrays, random keys and plain Python
    numbers. metadata: a dictionary that JSON can hold; read it with `inspect`. A checkpoint already there is replaced,
    other files in the folder are left alone, and what crashed saves left beside it is removed.
    Raises: TypeError when a leaf or the metadata cannot be kept; OSError when the disk is full or
    refuses. Nothing saved before is lost then.

    >>> import tempfile
    >>> folder = save(tempfile.mkdtemp() + "/weights", {"head": {"weight": jnp.ones((2, 3))}})
    >>> float(load(folder, {"head": {"weight": jnp.zeros((2, 3))}})["head"]["weight"].sum())
    6.0
    """
    folder = Path(os.path.abspath(folder))
    leaves, tensors = _pack(tree)
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
    """Read a checkpoint into the structure of `like`, bit for bit as it was saved.

    folder: of the checkpoint. like: the expected tree, of arrays or `jax.ShapeDtypeStruct`s, for example
    `jax.eval_shape(model.init, key)`. Where it holds NumPy arrays, NumPy arrays come back, where
    plain numbers, plain numbers, else uncommitted JAX arrays. part: the path of a subtree, such as
    "params", of which `like` is the structure.
    Raises: CheckpointError when a file is damaged or missing; ValueError when the checkpoint has
    other paths, shapes or types than `like`, with the first few of them.

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
        hint = "Build the model with the settings it was saved with, or load another checkpoint."
        check.fail("load", f"{folder} is a checkpoint of another model. {hint}{differences}")
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
        problem = f"{file}: its format should be {FORMAT}, got {manifest.get('format')}."
        raise CheckpointError(f"{problem} Load it with the version of nnfunc that saved it.")
    problem = documents.find_mismatch(manifest, FORM)
    if not problem and not re.fullmatch(NAME, name := manifest["file"]["name"]):
        problem = f"file.name should be such as tensors-<hash>.safetensors, got {name!r}"
    if problem:
        _refuse(file, problem)
    return manifest


def save_step(
    root: str | os.PathLike, step: int, tree: PyTree, *, metadata: Mapping[str, Any] | None = None, keep: int = 3
) -> Path:
    """Save the checkpoint of a step as `root/step-<step>`, then remove the oldest beyond `keep`.

    root: the folder of the checkpoints. step: at least 0. tree, metadata: as for `save`. keep: how many
    checkpoints to keep, this one and the ones before it; at least 1. The new one is on the
    disk before an old one goes. `best`, and checkpoints of later steps, are never removed.
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


def remove(root: str | os.PathLike, gone: Iterable[int]) -> None:
    """Remove the checkpoints of some steps, each atomically. root: their folder. gone: the steps.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> _ = nf.checkpoint.save_step(folder, 20, {"weight": jnp.ones(2)})
    >>> nf.checkpoint.remove(folder, [20])
    >>> nf.checkpoint.steps(folder)
    []
    """
    for step in gone:
        with contextlib.suppress(OSError):
            temporary = _temporary(_folder(root, step))
            _folder(root, step).rename(temporary)
            shutil.rmtree(temporary)


def save_best(root: str | os.PathLike, tree: PyTree, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Save the best checkpoint so far as `root/best`, in place of the former one.

    root: the folder of the checkpoints. tree, metadata: as for `save`.
    Raises: as `save`.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> nf.checkpoint.save_best(folder, {"weight": jnp.ones(2)}).name
    'best'
    """
    return save(Path(root) / BEST, tree, metadata=metadata)


def steps(root: str | os.PathLike) -> list[int]:
    """The steps that have a checkpoint, good or damaged, in order. root: the folder of the checkpoints.

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


def latest_good(root: str | os.PathLike, like: PyTree, *, part: str = "") -> Found:
    """The newest undamaged checkpoint of `save_step`, with a warning for each newer, refused one.

    root: the folder of the checkpoints. like, part: as for `load`.
    Raises: CheckpointError when there is none, and why the newest is not; ValueError, as `load`, when
    the newest one that is undamaged belongs to another model.

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
            return Found(step, tree, inspect(folder)["metadata"], tuple(refused))
        except CheckpointError as error:
            refused.append(f"The checkpoint of step {step} was refused. {error}")
    hint = f"Start again, or look for weights in {Path(root) / BEST}."
    problem = f"{root}: there is no good checkpoint"
    if not refused:
        raise CheckpointError(f"{problem}. {hint}")
    known = ", ".join(map(str, steps(root)))
    raise CheckpointError(f"{problem} among those of steps {known}. {hint} {refused[0]}")


def _folder(root: str | os.PathLike, step: int) -> Path:
    return Path(root) / f"step-{step:08d}"


# Trees into named arrays and back.


def named_leaves(tree: PyTree, part: str = "") -> tuple[dict[str, Any], Any]:
    """The leaves by readable path, `opt_state/0/mu/head/weight`, and the structure of the tree."""
    result, treedef = jax.tree_util.tree_flatten_with_path(tree)
    start = [part] if part else []
    named = {"/".join([*start, *map(_word, path)]) or "value": leaf for path, leaf in result}
    if len(named) < len(result):
        check.fail("checkpoint", "two leaves of the tree have the same path. Rename one of them.")
    return named, treedef


def _inside(path: str, part: str) -> bool:
    return not part or path == part or path.startswith(f"{part}/")


def _word(entry: Any) -> str:
    """One step of a path: a key, an index or a field's name."""
    for field in ("key", "idx", "name"):
        if hasattr(entry, field):
            text = str(getattr(entry, field))
            # Only safetensors' own word, the separator and the escape itself need escaping.
            text = text.replace("%", "%25").replace("/", "%2F")
            return text.replace("__metadata__", "%5F_metadata__") or "%"
    return str(entry)


def _entry(path: str, leaf: Any) -> dict[str, Any]:
    """What the manifest says of a leaf: its shape and type, or the value of a plain number."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return {"python": type(leaf).__name__, "value": leaf}
    dtype = getattr(leaf, "dtype", None)
    kinds = (np.number, np.bool_, jax.dtypes.prng_key)
    if dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in kinds):
        return {"shape": list(leaf.shape), "dtype": dtype.name}
    problem = f"{path} should be an array of numbers or a number, got {check.describe(leaf)}."
    check.fail("checkpoint", f"{problem} Keep other values in metadata.", exc_type=TypeError)


def _pack(tree: PyTree) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """The manifest's entries and, for all leaves but plain numbers, arrays on the host."""
    named, _ = named_leaves(tree)
    entries = {path: _entry(path, leaf) for path, leaf in named.items()}
    data = {}
    for path, leaf in named.items():
        if "python" in entries[path]:
            continue
        if check.is_traced(leaf) or isinstance(leaf, jax.ShapeDtypeStruct):
            problem = f"{path} has no value, got {check.describe(leaf)}."
            check.fail("checkpoint", f"{problem} Save arrays, outside of jit.", exc_type=TypeError)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            hint = "Gather it first, or save with orbax-checkpoint."
            check.fail("checkpoint", f"{path} is spread over several processes. {hint}")
        if _is_key(leaf):
            entries[path]["impl"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        data[path] = leaf
    host = {path: np.asarray(leaf) for path, leaf in jax.device_get(data).items()}
    return entries, {path: np.asarray(x, x.dtype.newbyteorder("<")) for path, x in host.items()}


def _restore(file: Path, path: str, entry: dict[str, Any], tensor: Any, like: Any) -> Any:
    """The leaf as it was saved, in the kind that `like` has. entry: of the form that `like` has."""
    if "python" in entry:
        value = entry.get("value")
        if type(value).__name__ != entry["python"]:
            _refuse(file, f"{path} should be a Python {entry['python']}, but the manifest differs")
        return value
    try:
        flat = np.frombuffer(tensor["data"], np.uint8)
        if "impl" in entry:
            data = jnp.asarray(flat.view(np.uint32).reshape(tensor["shape"]))
            key = jax.random.wrap_key_data(data, impl=entry["impl"])
            if _type_name(_entry(path, key)) != _type_name(entry):
                raise ValueError
            return key
        array = flat.view(jnp.dtype(entry["dtype"])).reshape(entry["shape"])
    except (ValueError, TypeError):
        _refuse(file, f"{path} is not in it as {_type_name(entry)}, which the manifest says")
    if isinstance(like, np.ndarray | np.generic):
        return array.copy() if isinstance(like, np.ndarray) else array[()]
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        hint = 'Switch it on: jax.config.update("jax_enable_x64", True).'
        check.fail("load", f"{file}: {path} is {array.dtype}, which needs x64. {hint}")
    return jnp.asarray(array)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def list_differences(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> str:
    """The first few paths at which two trees differ in shape or type, one a line; "" without any.

    expected, actual: an entry of a manifest for each path, as `leaf_entries` makes them.

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
    """The entry of a manifest for each leaf, by path: shape and dtype, or the value of a Python number.

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

SAFETENSORS_TYPES = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
)


def _serialize(tensors: dict[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file; types it does not know go in as bytes, one axis more."""
    import safetensors.numpy

    def known(array: np.ndarray) -> np.ndarray:
        array = np.array(array, order="C", copy=None)
        return array if array.dtype.name in SAFETENSORS_TYPES else array[..., None].view(np.uint8)

    return safetensors.numpy.save({path: known(array) for path, array in tensors.items()})


def _read(file: Path, expected: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The tensors of a checked file, by path: {"shape": ..., "data": bytes}."""
    from safetensors import SafetensorError, deserialize

    size = expected["bytes"]
    if file.is_file() and file.stat().st_size != size:  # before any of it is read
        _refuse(file, f"it has {file.stat().st_size} bytes where {size} were saved")
    raw = documents.read_bytes(file, most=size)
    if hashlib.sha256(raw).hexdigest() != expected["sha256"]:
        _refuse(file, "its content does not match its checksum, so some bits have changed")
    try:
        return dict(deserialize(raw))
    except SafetensorError as error:
        _refuse(file, f"it is no file of tensors ({error})")


def _sealed(manifest: dict[str, Any]) -> bytes:
    """The manifest as JSON with its own SHA-256 at the end: the same bytes for the same content."""
    digest = hashlib.sha256(_json(manifest).encode()).hexdigest()
    return (_json(manifest | {"sha256": digest}) + "\n").encode()


def _json(value: Any, levels: int = 2) -> str:
    """JSON with a line for each entry of the outer levels, so that people can read it."""
    if not (levels and isinstance(value, dict) and value):
        return json.dumps(value)
    space = "  " * (3 - levels)
    lines = [f"{space}{json.dumps(k)}: {_json(entry, levels - 1)}" for k, entry in value.items()]
    return "{\n" + ",\n".join(lines) + f"\n{space[2:]}" + "}"


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata as JSON gives it back; numbers of NumPy and JAX become Python's."""

    def number(value: Any) -> Any:
        if np.ndim(value) == 0 and hasattr(value, "item"):
            return value.item()
        problem = f"metadata should be what JSON can hold, got {check.describe(value)}."
        check.fail("save", f"{problem} Arrays belong into the tree.", exc_type=TypeError)

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
    """Force the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put(temporary: Path, folder: Path, tensors: str) -> None:
    """Move a whole, written checkpoint to its place; one rename makes it the one that counts."""
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
_PROCESS = secrets.token_hex(4)  # tells this process from an earlier one of the same number


def _temporary(folder: Path) -> Path:
    """A new hidden name beside folder that says which process is writing there."""
    return folder.with_name(f".{folder.name}.saving-{_HOST}-{os.getpid()}-{_PROCESS}-{secrets.token_hex(4)}")


def _clean(parent: Path) -> None:
    """Remove what saves that were cut off have left, and nothing that may still be written to."""
    for entry in parent.glob(".*.saving-*"):
        match = re.fullmatch(r"\..+\.saving-(\w+)-(\d+)-(\w+)-\w+", entry.name)
        if match and not _may_be_writing(entry, match[1], int(match[2]), match[3]):
            shutil.rmtree(entry, ignore_errors=True)


def _may_be_writing(entry: Path, host: str, number: int, process: str) -> bool:
    if host != _HOST:  # another machine on a shared disk: no save takes a day
        with contextlib.suppress(OSError):
            return time.time() - entry.stat().st_mtime < 24 * 3600
        return True
    if number == os.getpid():
        return process == _PROCESS
    try:
        os.kill(number, 0)  # sends nothing; asks whether there is such a process
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def check_inside(path: str | os.PathLike, folder: str | os.PathLike) -> None:
    """Refuse a path that does not lie in the folder once links are followed. Raises: CheckpointError."""
    if os.path.lexists(path) and not documents.is_inside(Path(path), Path(folder)):
        _refuse(Path(path), "it is a link out of its folder, which is not followed")


@contextlib.contextmanager
def _damage(file: Path, folder: Path) -> Iterator[Path]:
    """Turn errors of reading a file of a folder into a CheckpointError."""
    check_inside(file, folder)
    try:
        yield file
    except FileNotFoundError:
        _refuse(file, "there is no such file, so this is no checkpoint, or not a whole one")
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
    room = ""
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder.parent).free
        room = f" ({needed / 1e6:.1f} MB to write, {free / 1e6:.1f} MB free on that disk)"
    problem = f"save: {folder} could not be written: {error.strerror}{room}."
    hint = "Checkpoints saved before are whole. Make room, or choose another folder; save again."
    raise OSError(error.errno, f"{problem} {hint}") from error


explain_calls(__name__)
