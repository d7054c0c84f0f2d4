"""Checkpoints with checksums and atomic saves: a damaged checkpoint is never loaded.

A checkpoint is a folder with `tensors-<hash>.safetensors` and `manifest.json`. The manifest has the
name, size and SHA-256 of that file, the path, shape and dtype of each leaf, the versions of the
libraries, the caller's metadata, and the SHA-256 of itself. Loading detects any flipped bit in either file.

A save writes a hidden folder beside its target, syncs it to the disk, and then renames the folder, or, over
an older checkpoint, the manifest. If it is interrupted, the old or the new checkpoint is complete.

Arrays that are cut over several processes are in a folder `arrays-<hash>` of orbax-checkpoint instead, and the
manifest has the sizes and SHA-256 of its files. All processes save them together, and `save` returns before they are
on the disk; `wait` waits for that. They may be loaded by one process, or with another sharding.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, documents, sharded_tensors
from nnfunc.base import PyTree, to_device
from nnfunc.calls import explain_calls
from nnfunc.checkpoint_files import (
    MANIFEST,
    check_inside,
    damage,
    explain,
    put,
    read_tensors,
    refuse,
    remove_interrupted,
    sealed,
    serialize,
    sync,
    temporary_path,
    write_synced,
)
from nnfunc.errors import CheckpointError

__all__ = [
    "CheckpointError",
    "LoadedCheckpoint",
    "consolidate",
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
    "wait",
]

FORMAT = 1
BEST = "best"
NAMES = {"file": r"tensors-[0-9a-f]{16}\.safetensors", "arrays": r"arrays-[0-9a-f]{16}"}
"""What holds the tensors: a file, or the folder of arrays that are cut over processes (`sharded_tensors`)."""
CHECKSUM = {"bytes": range(2**63), "sha256": str}
FORM = {
    "metadata": dict,
    "file?": {"name": str, **CHECKSUM},
    "arrays?": {"name": str, "files": {str: CHECKSUM}},
    "leaves": {str: {"shape?": [range(2**63)], "dtype?": str, "impl?": str, "python?": str, "value?": object}},
}
"""The form of a manifest; see `documents`."""


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
    return _save(folder, tree, metadata)


def _save(
    folder: str | os.PathLike, tree: PyTree, metadata: Mapping[str, Any] | None, then: Callable[[], None] = lambda: None
) -> Path:
    """Save a checkpoint. then: called, in process 0, once it is on the disk."""
    folder = Path(os.path.abspath(folder))
    leaves, tensors = _flatten(tree)
    manifest = {
        "format": FORMAT,
        "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": _versions(),
        "metadata": _plain(metadata or {}),
        "leaves": leaves,
    }
    if any(map(sharded_tensors.is_cut, tensors.values())):
        _save_together(folder, manifest, tensors, then)
    else:
        _save_file(folder, manifest, tensors)
        then()
    return folder


def wait() -> None:
    """Wait until the checkpoint of arrays that are cut over processes is on the disk; others are there at once.

    Raises: the error of that save.

    >>> nf.checkpoint.wait()
    """
    sharded_tensors.wait()


def _save_file(folder: Path, manifest: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    """Write a checkpoint with its tensors in one file."""
    content = serialize(tensors)
    digest = hashlib.sha256(content).hexdigest()
    name = f"tensors-{digest[:16]}.safetensors"
    manifest |= {"file": {"name": name, "bytes": len(content), "sha256": digest}}
    files = {name: content, MANIFEST: sealed(manifest)}
    temporary = temporary_path(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_interrupted(folder.parent)
        temporary.mkdir()
        for file, data in files.items():
            write_synced(temporary / file, data)
        sync(temporary)
        put(temporary, folder, name)
    except OSError as error:
        explain(error, folder, sum(map(len, files.values())))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save_together(folder: Path, manifest: dict[str, Any], tensors: dict[str, Any], then: Callable[[], None]) -> None:
    """Begin to write a checkpoint whose arrays are cut over processes, which all call it. then: as for `_save`."""
    sharded_tensors.wait()
    temporary = folder.with_name(f".{folder.name}.saving-together")  # in all processes, whose run has a lock
    arrays = temporary / "arrays"

    def finish() -> None:
        files = sharded_tensors.checksums(arrays)
        name = f"arrays-{hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]}"
        try:
            arrays.rename(temporary / name)
            write_synced(temporary / MANIFEST, sealed(manifest | {"arrays": {"name": name, "files": files}}))
            sync(temporary)
            put(temporary, folder, name)
        except OSError as error:
            explain(error, folder, sum(file["bytes"] for file in files.values()))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        then()

    if jax.process_index() == 0:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_interrupted(folder.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
    sharded_tensors.write(arrays, tensors, finish)


def consolidate(folder: str | os.PathLike) -> bool:
    """Write the arrays of a checkpoint that were cut over processes into one file, as one process saves them.

    folder: of the checkpoint. Returns: whether they were cut; another checkpoint stays as it is.
    Raises: CheckpointError when it is missing or damaged; ImportError without orbax-checkpoint.

    >>> import tempfile
    >>> nf.checkpoint.consolidate(nf.checkpoint.save(tempfile.mkdtemp() + "/it", {"weight": jnp.ones(2)}))
    False
    """
    folder = Path(folder)
    manifest = inspect(folder)
    arrays = manifest.pop("arrays", None)
    if arrays is None:
        return False
    paths = [path for path, entry in manifest["leaves"].items() if "python" not in entry]
    tensors = sharded_tensors.read(folder / arrays["name"], arrays["files"], dict.fromkeys(paths))
    _save_file(Path(os.path.abspath(folder)), manifest, tensors)
    return True


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
    nnfunc.errors.CheckpointError: runs/none/manifest.json: there is no such file...
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
    if "arrays" in manifest:
        file = folder / manifest["arrays"]["name"]
        check_inside(file, folder)
        likes = {path: leaf for path, leaf in named.items() if "python" not in stored[path]}
        arrays = sharded_tensors.read(file, manifest["arrays"]["files"], likes)
        restored = [_restore_array(file, path, stored[path], arrays.get(path), leaf) for path, leaf in named.items()]
        return jax.tree.unflatten(treedef, restored)
    with damage(folder / manifest["file"]["name"], folder) as file:
        tensors = read_tensors(file, manifest["file"])
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
    with damage(file, Path(folder)):
        raw = documents.read_bytes(file)
    try:
        manifest = json.loads(raw)
        result = manifest.pop("sha256")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        refuse(file, f"it cannot be read as a manifest ({type(error).__name__})")
    if sealed(manifest) != raw:
        refuse(file, f"its content does not match its checksum {str(result)[:16]}...")
    if manifest.get("format") != FORMAT:
        hint = "Load it with the version of nnfunc that saved it."
        expected, actual = f"its format should be {FORMAT}", manifest.get("format")
        check.fail(str(file), expected=expected, actual=actual, hint=hint, exc_type=CheckpointError)
    problem = documents.find_mismatch(manifest, FORM)
    part = "arrays" if "arrays" in manifest else "file"
    if not problem and part not in manifest:
        problem = "file is missing"
    if not problem and not re.fullmatch(NAMES[part], name := manifest[part]["name"]):
        problem = f"{part}.name should be such as tensors-<hash>.safetensors or arrays-<hash>, got {name!r}"
    if problem:
        refuse(file, problem)
    return manifest


def save_step(
    root: str | os.PathLike,
    step: int,
    tree: PyTree,
    *,
    metadata: Mapping[str, Any] | None = None,
    keep: int = 3,
    replaced: Collection[int] = (),
) -> Path:
    """Save the checkpoint of a step as `root/step-<step>`, then remove the oldest ones.

    root: the folder of the checkpoints. step: at least 0. tree, metadata: as for `save`. keep: the number of
    checkpoints to keep, this one and those before it; at least 1. replaced: earlier steps to remove whatever their
    number. An old checkpoint is removed once the new one is on the disk. `best`, and checkpoints of later steps, are
    not removed.
    Raises: as `save`.

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> nf.checkpoint.save_step(folder, 20, {"weight": jnp.ones(2)}).name
    'step-00000020'
    """
    check.size("save_step", 0, step=step)
    check.size("save_step", keep=keep)

    def remove_old() -> None:
        others = [result for result in steps(root) if result <= step and result not in replaced]
        remove(root, [*others[:-keep], *replaced])

    return _save(_folder(root, step), tree, metadata, remove_old)


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
            temporary = temporary_path(_folder(root, step))
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


def _flatten(tree: PyTree) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """(the entries of the manifest, arrays of all leaves but Python numbers), by path.

    The arrays are on the host, but for those that are cut over processes.
    """
    named, _ = named_leaves(tree)
    entries = {path: _entry(path, leaf) for path, leaf in named.items()}
    data = {}
    for path, leaf in named.items():
        if "python" in entries[path]:
            continue
        if check.is_traced(leaf) or isinstance(leaf, jax.ShapeDtypeStruct):
            expected, hint = f"{path} should have a value", "Save arrays, outside of jit."
            check.fail("checkpoint", expected=expected, actual=check.describe(leaf), hint=hint, exc_type=TypeError)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and leaf.is_fully_replicated:
            leaf = leaf.addressable_data(0)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            entries[path]["impl"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        data[path] = leaf
    cut = {path: leaf for path, leaf in data.items() if sharded_tensors.is_cut(leaf)}
    host = jax.device_get({path: leaf for path, leaf in data.items() if path not in cut})
    host = {path: np.asarray(leaf) for path, leaf in host.items()}
    return entries, cut | {path: np.asarray(x, x.dtype.newbyteorder("<")) for path, x in host.items()}


def _restore(file: Path, path: str, entry: dict[str, Any], tensor: Any, like: Any) -> Any:
    """The leaf as it was saved: a NumPy array, JAX array or Python number, as `like`. entry: of the manifest."""
    if "python" in entry:
        value = entry.get("value")
        if type(value).__name__ != entry["python"]:
            refuse(file, f"{path} should be a Python {entry['python']}, got {value!r} in the manifest")
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
        refuse(file, f"it should have {path} as {_type_name(entry)}, as the manifest says, but does not")
    if isinstance(like, np.ndarray | np.generic):
        return array.copy() if isinstance(like, np.ndarray) else array[()]
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        hint = 'Enable it: jax.config.update("jax_enable_x64", True).'
        check.fail("load", f"{file}: {path} is {array.dtype}, which needs x64.", hint=hint)
    return to_device(array)


def _restore_array(file: Path, path: str, entry: dict[str, Any], array: Any, like: Any) -> Any:
    """The leaf of an array that `sharded_tensors` has read: with the sharding of `like`, or on the host."""
    if isinstance(array, jax.Array):
        return array
    tensor = None if array is None else {"data": array.tobytes(), "shape": array.shape}
    return _restore(file, path, entry, tensor, like)


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


explain_calls(__name__)
