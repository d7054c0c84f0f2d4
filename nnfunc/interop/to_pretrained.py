"""Published weights out: `to_pretrained`."""

import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from nnfunc import check, documents, paths
from nnfunc.base import DType, Model, Params, PyTree
from nnfunc.calls import explain_calls
from nnfunc.interop.families.torch_modules import Table
from nnfunc.interop.name_table import expand
from nnfunc.interop.pretrained import CONFIG, as_family, leaf_shapes, plain_model
from nnfunc.interop.published_config import Family, arguments_of
from nnfunc.interop.registry import FAMILIES
from nnfunc.interop.tensor_files import write_tensors

__all__ = ["to_pretrained"]


def to_pretrained(
    model: Model,
    params: Params,
    folder: str | os.PathLike,
    *,
    state: PyTree | None = None,
    family: str | Family | Table | None = None,
    dtype: DType | None = None,
    names: Sequence[str] | None = None,
    shard_bytes: int = 5 * 10**9,
) -> Path:
    """Write a folder that the reference library loads: config.json and model.safetensors.

    The table of names is that of `pretrained`, read in the other direction, so that transformers' AutoModel finds
    every tensor under its name.

    model, params: of a factory of nnfunc whose published names are known, such as `nf.gpt` or `nf.llama`.
    folder: to write; it should be new or empty.
    state: running statistics, those of `model.init_state()` by default.
    family: the name of the family, a Family, or a table of names as in `pretrained`; by default the first that has
        such a model.
    dtype: of the weights in the file, by default that of the parameters.
    names: of the classes, for config.json.
    shard_bytes: the largest size of a file, above 0; more weights are written to several files with an index.
    Returns: the path of the folder.
    Raises: ValueError when no family has such a model, naming the argument that differs; FileExistsError when the
    folder is not empty.

    >>> import tempfile
    >>> model = nf.llama(65, dim=16, layers=2, heads=4, hidden=40, qk_norm=True)
    >>> folder = nf.to_pretrained(model, model.init(jax.random.key(0)), tempfile.mkdtemp() + "/qwen3", family="qwen3")
    >>> sorted(file.name for file in folder.iterdir())
    ['config.json', 'model.safetensors']
    """
    check.size("to_pretrained", high=2**63 - 1, shard_bytes=shard_bytes)
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        check.fail("to_pretrained", f"{folder} is not empty.", hint="Choose another.", exc_type=FileExistsError)
    state = model.init_state() if state is None and not model.draws_state else state
    model = plain_model(model)
    factory, arguments = arguments_of(model)
    chosen, config = _family_to_write(factory, arguments, None if family is None else as_family(family, model))
    if str(config.get("architectures", "")).endswith(("LMHeadModel']", "ForCausalLM']")):
        # the defaults of transformers name tokens of the first vocabulary, at which generation would stop
        config |= {"bos_token_id": None, "eos_token_id": None}
    if names is not None and chosen.architectures:
        config |= _class_names(config, names)
    leaves = paths.flatten(params) | paths.flatten(state or {})
    expected = leaf_shapes(model)
    if {*leaves} != {*expected}:
        path = sorted({*leaves} ^ {*expected})[0]
        check.fail("to_pretrained", f"params and state should be those of the model; they differ at {path!r}.")
    entries = expand(chosen.table(arguments), expected)
    uncovered = [path for path in leaves if not any(path in entry.paths for entry in entries)]
    if uncovered:
        check.fail("to_pretrained", f"{chosen.name} has no name for {', '.join(sorted(uncovered)[:5])}.")
    folder.mkdir(parents=True, exist_ok=True)

    def tensors() -> Iterator[tuple[str, np.ndarray]]:
        host: dict[str, np.ndarray] = {}
        for entry in entries:
            host = {path: host[path] if path in host else np.asarray(leaves[path]) for path in entry.paths}
            array = entry.join(host)
            stored = jnp.dtype(dtype) if dtype is not None else leaves[entry.paths[0]].dtype
            yield entry.name, array.astype(stored, copy=False)
            if entry.name.endswith(".running_var"):  # PyTorch's count of batches, which only a momentum of None reads
                yield f"{entry.name.removesuffix('running_var')}num_batches_tracked", np.zeros((), np.int64)

    write_tensors(folder, tensors(), shard_bytes)
    if not chosen.architectures:  # a state dict of a program that has no config.json
        return folder
    stored = {str(jnp.dtype(dtype) if dtype is not None else leaf.dtype) for leaf in leaves.values()}
    config |= {"dtype": min(stored, key=lambda name: jnp.dtype(name).itemsize)}
    documents.write_file(folder / CONFIG, (json.dumps(config, indent=2, sort_keys=True) + "\n").encode())
    return folder


def _class_names(config: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The names of the classes as config.json has them."""
    count = len(config.get("id2label", ()))
    if count != len(names):
        expected = f"names should be those of the {count} classes of the model"
        check.fail("to_pretrained", expected=expected, actual=check.counted(len(names), "name"))
    labels = dict(enumerate(map(str, names)))
    return {"id2label": labels, "label2id": {name: i for i, name in labels.items()}}


def _family_to_write(
    factory: Any, arguments: Mapping[str, Any], family: Family | None
) -> tuple[Family, dict[str, Any]]:
    """(the family, its config.json) of a model: the first that has one with these arguments."""
    if family is not None:
        options = [family]
    else:
        options = [one for one in FAMILIES.values() if inspect.unwrap(one.factory) is factory]
    if not options or inspect.unwrap(options[0].factory) is not factory:
        known = sorted({one.factory.__name__ for one in FAMILIES.values()})
        expected = f"model should be the result of {', '.join(known)}"
        hint = "If it is inside another model, pass the inner model."
        check.fail("to_pretrained", expected=expected, actual=getattr(factory, "__name__", factory), hint=hint)
    problems = []
    for one in options:
        try:
            return one, one.config(arguments)
        except ValueError as error:
            problems.append((one.name, error))
    if len(problems) == 1:
        raise problems[0][1]
    lines = "".join(f"\n  {name}: {str(error).removeprefix('to_pretrained: ')}" for name, error in problems)
    check.fail("to_pretrained", f"no family has such a model.{lines}")


explain_calls(__name__)
