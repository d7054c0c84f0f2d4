"""LoRA adapters in the format of PEFT: adapter_config.json and adapter_model.safetensors."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc import check, documents, paths
from nnfunc.base import Model, Params
from nnfunc.calls import explain_calls
from nnfunc.interop.name_table import Entry, expand
from nnfunc.interop.pretrained import as_family, families_of, leaf_shapes
from nnfunc.interop.published_config import Family, arguments_of
from nnfunc.interop.tensor_files import FileTensor, open_tensors, save_tensors
from nnfunc.layers.lora import Adapted, lora

__all__ = ["lora_from_peft", "lora_to_peft"]

CONFIG, WEIGHTS, START = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
PARTS = {"down": "lora_A", "up": "lora_B"}
"""Our two matrices of an adapter and PEFT's, which are their transposes."""
MERGE = "Merge them first: nnfunc merge RUN FOLDER, or nf.merge_lora(...) and nf.to_pretrained(...)."
FIXED: dict[str, Any] = {
    **{"peft_type": "LORA", "bias": "none", "use_dora": False, "modules_to_save": None, "layer_replication": None},
    **{"target_parameters": None, "trainable_token_indices": None},
}
"""Settings with one value here."""


def lora_from_peft(
    folder: str | os.PathLike, model: Model, base: Params, *, family: str | Family | None = None
) -> tuple[Model, Params]:
    """Adapters that PEFT saved, as `nf.lora` of the model: `adapted, params = nf.lora_from_peft(folder, model, base)`.

    Where the published model has query, key and value in one matrix, each of the three here begins with a copy of
    the first matrix of the adapter, or with its part of one that `lora_to_peft` joined.

    folder: with adapter_config.json and adapter_model.safetensors.
    model, base: the model and its parameters, as `nf.pretrained` returns them.
    family: the name of the family of names, or a Family; by default the first one of the model that fits.
    Raises: ValueError when an adapter is of a weight that the model does not have, when only some layers have one,
    or when the config has settings that `nf.lora` does not have; FileNotFoundError when a file is missing.

    >>> import tempfile
    >>> model = nf.llama(65, dim=16, layers=2, heads=4, hidden=40)
    >>> base = model.init(jax.random.key(0))
    >>> adapted = nf.lora(model, base, "**/query/weight", rank=2)
    >>> folder = nf.lora_to_peft(adapted, adapted.init(jax.random.key(1)), tempfile.mkdtemp() + "/adapter")
    >>> adapted, params = nf.lora_from_peft(folder, model, base)
    >>> params["blocks"]["attend"]["query"]["weight"]["down"].shape
    (2, 16, 2)
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            check.fail(str(folder), f"it has no {name}.", exc_type=FileNotFoundError)
    config = documents.read_json(folder / CONFIG, {"r": int, "lora_alpha": float})
    for name, value in FIXED.items():
        if config.get(name) not in (value, None):
            expected = f"{name} should be {value!r}, the only value that nf.lora supports"
            check.fail(str(folder / CONFIG), expected=expected, actual=repr(config[name]))
    tensors = {name.removeprefix(START): tensor for name, tensor in open_tensors(folder / WEIGHTS).items()}
    rank = config["r"]
    alpha = config["lora_alpha"] * (math.sqrt(rank) if config.get("use_rslora") else 1)
    shapes = leaf_shapes(model)
    entries = max(
        (
            _weights(one, model, shapes)
            for one in ([as_family(family)] if family else families_of("lora_from_peft", model))
        ),
        key=lambda entries: sum(_tensor_name(entry, "down") in tensors for entry in entries),
    )
    chosen = [entry for entry in entries if _tensor_name(entry, "down") in tensors]
    names = {_tensor_name(entry, part) for entry in chosen for part in PARTS}
    for name in sorted({*tensors} ^ names):
        problem = "no weight of the model" if name in tensors else "no tensor"
        check.fail(
            str(folder / WEIGHTS), f"{name} has {problem}.", hint="Pass family=, or the model it was trained for."
        )
    adapters: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    joined = _joined(config, chosen, str(folder / CONFIG))
    for entry in chosen:
        parts = len(entry.paths) if _target(entry) in joined else 1
        down, up = (_read(tensors[_tensor_name(entry, part)], entry, part, parts * rank) for part in PARTS)
        ends = np.cumsum([shapes[path].shape[-1] for path in entry.paths])[:-1]
        ups = np.split(up, ends, axis=-1)
        downs = [down] * len(ups)
        if parts > 1:
            blocks = [np.split(part, parts) for part in ups]
            if any(block.any() for i, row in enumerate(blocks) for j, block in enumerate(row) if i != j):
                problem = f"{entry.name} has an adapter of rank {parts * rank} that is not {parts} of rank {rank}."
                check.fail(str(folder / WEIGHTS), problem)
            downs, ups = np.split(down, parts, axis=-1), [row[i] for i, row in enumerate(blocks)]
        for path, down, part in zip(entry.paths, downs, ups, strict=True):
            if parts > 1 and not down.any():  # the weight has no adapter
                continue
            stack = shapes[path].shape[: len(entry.layer)]
            for name, array in (("down", down), ("up", part)):
                whole = adapters.setdefault(f"{path}/{name}", np.zeros((*stack, *array.shape), array.dtype))
                whole[entry.layer] = array
            counts[path] = counts.get(path, 0) + 1
    for path, count in counts.items():
        if count < math.prod(shapes[path].shape[:-2]):
            expected = f"every layer of {path} should have an adapter"
            check.fail(str(folder / WEIGHTS), expected=expected, actual=f"{count} of them")
    adapted = lora(model, base, tuple(counts), rank=rank, alpha=alpha)
    return adapted, paths.unflatten({path: jnp.array(array) for path, array in adapters.items()})


def lora_to_peft(
    model: Model,
    params: Params,
    folder: str | os.PathLike,
    *,
    family: str | Family | None = None,
    base_name: str | None = None,
) -> Path:
    """Write the adapters of `nf.lora` in the format of PEFT, for `PeftModel.from_pretrained(model, folder)`.

    model: the result of `nf.lora`, of a model whose published names are known.
    params: its adapters.
    folder: to write; it should be new or empty.
    family: as for `nf.to_pretrained`.
    base_name: of the base model, a folder or a name on the hub, for `AutoPeftModel`; None, the default, leaves it
        open.
    Returns: the path of the folder.
    Where the published model has query, key and value in one matrix, their adapters are joined: one of three times
    the rank and the same factor, by rank_pattern and alpha_pattern, with zeros for those without an adapter.
    Raises: TypeError when the model is no result of `nf.lora`; ValueError when it has other trained parameters, or
    adapters of some layers alone.

    >>> import tempfile
    >>> model = nf.llama(65, dim=16, layers=2, heads=4, hidden=40)
    >>> adapted = nf.lora(model, model.init(jax.random.key(0)), "**/query/weight", rank=2)
    >>> folder = nf.lora_to_peft(adapted, adapted.init(jax.random.key(1)), tempfile.mkdtemp() + "/adapter")
    >>> sorted(file.name for file in folder.iterdir())
    ['adapter_config.json', 'adapter_model.safetensors']
    """
    where, folder = "lora_to_peft", Path(folder)
    if not isinstance(model, Adapted):
        expected = "model should be the result of nf.lora"
        check.fail(where, expected=expected, actual=check.describe(model), exc_type=TypeError)
    if folder.exists() and any(folder.iterdir()):
        check.fail(where, f"{folder} is not empty.", hint="Choose another.", exc_type=FileExistsError)
    arguments = arguments_of(model)[1]
    inner, rank, alpha = arguments["model"], arguments["rank"], arguments["alpha"]
    shapes = leaf_shapes(inner)
    leaves = {path: np.asarray(leaf) for path, leaf in paths.flatten(params).items()}
    adapted = {path.rpartition("/")[0] for path in leaves if path.endswith(("/down", "/up"))}
    others = [path for path in leaves if path.rpartition("/")[0] not in adapted]
    if others:
        check.fail(where, f"PEFT's format holds only adapters, but {others[0]} is trained fully.", hint=MERGE)
    options = [as_family(family)] if family else families_of(where, inner)
    entries = [entry for entry in _weights(options[0], inner, shapes) if adapted & {*entry.paths}]
    for path in adapted:
        stack = next((shapes[path].shape[: len(entry.layer)] for entry in entries if path in entry.paths), None)
        if stack is None or leaves[f"{path}/down"].shape[: len(stack)] != stack:
            expected = f"{path} should be a weight of {options[0].name} with an adapter in every layer"
            check.fail(where, expected=expected, actual=f"shape {leaves[f'{path}/down'].shape}")

    different = {_target(entry) for entry in entries if not _shares_down(entry, leaves)}
    joined: dict[str, int] = {}

    def matrix(path: str, part: str, layer: tuple[int, ...]) -> np.ndarray:
        """That of an adapter, zeros where a weight has none."""
        if path in adapted:
            return leaves[f"{path}/{part}"][layer]
        in_dim, out_dim = shapes[path].shape[-2:]
        return np.zeros((in_dim, rank) if part == "down" else (rank, out_dim), np.float32)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        for entry in entries:
            downs, ups = ([matrix(path, part, entry.layer) for path in entry.paths] for part in PARTS)
            if _target(entry) in different:
                joined[_target(entry)] = len(downs)
                down = np.concatenate(downs, axis=-1)
                rows = [[up if i == j else np.zeros_like(up) for j, up in enumerate(ups)] for i in range(len(ups))]
                up = np.block(rows)
            else:
                down, up = downs[0], np.concatenate(ups, axis=-1)
            for part, array in (("down", down), ("up", up)):
                yield f"{START}{_tensor_name(entry, part)}", np.swapaxes(array, -1, -2)

    arrays = dict(tensors())
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / WEIGHTS, arrays)
    targets = sorted({*map(_target, entries)})
    config = FIXED | {
        "r": rank,
        "lora_alpha": float(alpha),
        "rank_pattern": {name: count * rank for name, count in joined.items()},
        "alpha_pattern": {name: count * float(alpha) for name, count in joined.items()},
        "lora_dropout": 0.0,
        "target_modules": targets,
        "fan_in_fan_out": not _is_transposed(entries[0]),
        "base_model_name_or_path": base_name,
        "task_type": None,
        "inference_mode": True,
    }
    documents.write_file(folder / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    return folder


def _weights(family: Family, model: Model, shapes: Mapping[str, jax.ShapeDtypeStruct]) -> list[Entry]:
    """The published matrices of a model."""
    entries = expand(family.table(arguments_of(model)[1]), shapes)
    return [entry for entry in entries if entry.name.endswith(".weight") and len(entry.shape) == 2]


def _target(entry: Entry) -> str:
    """The module of a published matrix, in target_modules and the patterns of PEFT."""
    return ".".join(entry.name.split(".")[-3:-1])


def _shares_down(entry: Entry, leaves: Mapping[str, np.ndarray]) -> bool:
    """Whether all matrices of a published one have adapters with the same first matrix."""
    downs = [leaves[name] for path in entry.paths if (name := f"{path}/down") in leaves]
    return len(downs) == len(entry.paths) and all(np.array_equal(down, downs[0]) for down in downs)


def _joined(config: Mapping[str, Any], entries: list[Entry], where: str) -> set[str]:
    """The modules with the adapters of several matrices here, as `lora_to_peft` joins them."""
    counts = {_target(entry): len(entry.paths) for entry in entries}
    patterns = {name: config.get(name) or {} for name in ("rank_pattern", "alpha_pattern")}
    for name, value in (("rank_pattern", config["r"]), ("alpha_pattern", config["lora_alpha"])):
        for target, actual in patterns[name].items():
            count = counts.get(target, 1)
            if count == 1 or actual != count * value or target not in patterns["rank_pattern"]:
                expected = f"{name} should be {{}}, as nf.lora has one rank and one alpha"
                check.fail(where, expected=expected, actual=repr(patterns[name]))
    if {*patterns["rank_pattern"]} != {*patterns["alpha_pattern"]}:
        expected = "rank_pattern and alpha_pattern should have the same modules"
        check.fail(where, expected=expected, actual=repr(patterns))
    return {*patterns["rank_pattern"]}


def _tensor_name(entry: Entry, part: str) -> str:
    return f"{entry.name.removesuffix('.weight')}.{PARTS[part]}.weight"


def _is_transposed(entry: Entry) -> bool:
    return entry.change.to_ours(np.empty((1, 2))).shape == (2, 1)


def _read(tensor: FileTensor, entry: Entry, part: str, rank: int) -> np.ndarray:
    """A matrix of an adapter: down [in_dim, rank] or up [rank, out_dim]."""
    in_dim, out_dim = entry.change.to_ours(np.broadcast_to(np.zeros((), np.int8), entry.shape)).shape
    expected = (rank, in_dim) if part == "down" else (out_dim, rank)
    if tensor.shape != expected:
        name = _tensor_name(entry, part)
        check.fail(str(tensor.file), expected=f"{name} should have shape {expected}", actual=f"shape {tensor.shape}")
    return np.array(tensor.read().T)


explain_calls(__name__)
