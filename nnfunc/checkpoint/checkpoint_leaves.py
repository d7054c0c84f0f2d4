"""The leaves of a checkpoint: trees into named arrays with their entries in the manifest, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check
from nnfunc.base import PyTree, to_device
from nnfunc.checkpoint import sharded_tensors
from nnfunc.checkpoint.checkpoint_files import refuse


def named_leaves(tree: PyTree, part: str = "") -> tuple[dict[str, Any], Any]:
    """({path: leaf}, the structure of the tree), with paths such as `opt_state/0/mu/head/weight`."""
    result, treedef = jax.tree_util.tree_flatten_with_path(tree)
    start = [part] if part else []
    named = {"/".join([*start, *map(_name, path)]) or "value": leaf for path, leaf in result}
    if len(named) < len(result):
        check.fail("checkpoint", "two leaves of the tree have the same path.", hint="Rename one of them.")
    return named, treedef


def is_in_part(path: str, part: str) -> bool:
    """Whether a leaf is in a part of a tree.

    path: of the leaf, such as "params/head/weight".
    part: the path of the part, or "" for the whole tree.

    >>> is_in_part("params/head/weight", "params/head"), is_in_part("params/header", "params/head")
    (True, False)
    """
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


def leaf_entry(path: str, leaf: Any) -> dict[str, Any]:
    """The entry of a leaf in the manifest: its shape and dtype, or the value of a Python number."""
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return {"python": type(leaf).__name__, "value": leaf}
    dtype = getattr(leaf, "dtype", None)
    supported = (np.number, np.bool_, jax.dtypes.prng_key)
    if dtype is not None and any(jnp.issubdtype(dtype, parent) for parent in supported):
        return {"shape": list(leaf.shape), "dtype": dtype.name}
    expected, hint = f"{path} should be an array of numbers or a number", "Save other values as metadata."
    check.fail("checkpoint", expected=expected, actual=check.describe(leaf), hint=hint, exc_type=TypeError)


def flatten_leaves(tree: PyTree) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """(the entries of the manifest, arrays of all leaves but Python numbers), by path.

    The arrays are on the host, but for those that are cut over processes.
    """
    named, _ = named_leaves(tree)
    entries = {path: leaf_entry(path, leaf) for path, leaf in named.items()}
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


def restore_leaf(file: Path, path: str, entry: dict[str, Any], tensor: Any, like: Any) -> Any:
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
            if _type_name(leaf_entry(path, key)) != _type_name(entry):
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


def restore_array(file: Path, path: str, entry: dict[str, Any], array: Any, like: Any) -> Any:
    """The leaf of an array that `sharded_tensors` has read: with the sharding of `like`, or on the host."""
    if isinstance(array, jax.Array):
        return array
    tensor = None if array is None else {"data": array.tobytes(), "shape": array.shape}
    return restore_leaf(file, path, entry, tensor, like)


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
    return {path: leaf_entry(path, leaf) for path, leaf in named_leaves(tree)[0].items()}


def _type_name(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return "nothing"
    if "python" in entry:
        return f"a Python {entry['python']}"
    return f"{entry.get('dtype')}[{', '.join(map(str, entry.get('shape', ())))}]"
