"""One checkpoint: saving it atomically, loading it, and what it says of itself."""

import hashlib
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nnfunc import check, documents
from nnfunc.base import PyTree
from nnfunc.checkpoint import sharded_tensors
from nnfunc.checkpoint.checkpoint_files import (
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
from nnfunc.checkpoint.checkpoint_leaves import (
    flatten_leaves,
    is_in_part,
    leaf_entry,
    list_differences,
    named_leaves,
    restore_array,
    restore_leaf,
)
from nnfunc.errors import CheckpointError

FORMAT = 1
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


def save(folder: str | os.PathLike, tree: PyTree, *, metadata: Mapping[str, Any] | None = None) -> Path:
    """Write a pytree of arrays as the checkpoint `folder`, atomically, and return its path.

    folder: of the checkpoint. An existing checkpoint is replaced, other files in the folder are not changed, and
        the temporary folders of interrupted saves beside it are removed.
    tree: any pytree of JAX or NumPy arrays, random keys and Python numbers.
    metadata: a dictionary that JSON can hold; `inspect` returns it.
    Raises: TypeError when a leaf or the metadata cannot be saved; OSError when the disk is full or cannot be
    written to. Earlier checkpoints are not lost then.

    >>> import tempfile
    >>> folder = save(tempfile.mkdtemp() + "/weights", {"head": {"weight": jnp.ones((2, 3))}})
    >>> float(load(folder, {"head": {"weight": jnp.zeros((2, 3))}})["head"]["weight"].sum())
    6.0
    """
    return save_then(folder, tree, metadata)


def save_then(
    folder: str | os.PathLike, tree: PyTree, metadata: Mapping[str, Any] | None, then: Callable[[], None] = lambda: None
) -> Path:
    """Save a checkpoint. then: called, in process 0, once it is on the disk."""
    folder = Path(os.path.abspath(folder))
    leaves, tensors = flatten_leaves(tree)
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

    folder: of the checkpoint.
    like: the expected tree, of arrays or `jax.ShapeDtypeStruct`, for example `jax.eval_shape(model.init, key)`.
        Leaves are NumPy arrays or Python numbers where those of `like` are, otherwise uncommitted JAX arrays.
    part: the path of a subtree, such as "params", if `like` is the structure of that subtree only.
    Raises: CheckpointError when a file is damaged or missing; ValueError when the checkpoint has other paths,
    shapes or dtypes than `like`, with the first few of them.

    >>> load("runs/none", {})
    Traceback (most recent call last):
    nnfunc.errors.CheckpointError: runs/none/manifest.json: there is no such file...
    """
    folder = Path(folder)
    manifest = inspect(folder)
    named, treedef = named_leaves(like, part.strip("/"))
    expected = {path: leaf_entry(path, leaf) for path, leaf in named.items()}
    stored = {path: entry for path, entry in manifest["leaves"].items() if is_in_part(path, part.strip("/"))}
    differences = list_differences(expected, stored)
    if differences:
        hint = "Build the model with the settings of the checkpoint, or load another checkpoint."
        check.fail("load", f"{folder} is a checkpoint of another model.", hint=f"{hint}{differences}")
    if "arrays" in manifest:
        file = folder / manifest["arrays"]["name"]
        check_inside(file, folder)
        likes = {path: leaf for path, leaf in named.items() if "python" not in stored[path]}
        arrays = sharded_tensors.read(file, manifest["arrays"]["files"], likes)
        restored = [restore_array(file, path, stored[path], arrays.get(path), leaf) for path, leaf in named.items()]
        return jax.tree.unflatten(treedef, restored)
    with damage(folder / manifest["file"]["name"], folder) as file:
        tensors = read_tensors(file, manifest["file"])
    leaves = [restore_leaf(file, path, stored[path], tensors.get(path), leaf) for path, leaf in named.items()]
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
