"""Published weights in: `pretrained`."""

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nnfunc import check, documents, paths
from nnfunc.base import DType, Key, Model, Params, PyTree
from nnfunc.calls import explain_calls
from nnfunc.errors import NnfuncError
from nnfunc.interop.families.timm_configs import timm_family
from nnfunc.interop.families.torch_modules import Table, table_family
from nnfunc.interop.hub import HUB, fetch_snapshot
from nnfunc.interop.load_leaves import Patterns, load_leaves
from nnfunc.interop.name_table import Entry, expand
from nnfunc.interop.published_config import Family, PublishedConfig, arguments_of
from nnfunc.interop.registry import FAMILIES, find_family
from nnfunc.interop.tensor_files import FileTensor, open_tensors

__all__ = ["Pretrained", "pretrained"]

CONFIG = "config.json"


@dataclass(frozen=True, eq=False)
class Pretrained:
    """The result of `pretrained`; it unpacks as `model, params`.

    model, params: the model and its parameters. A model with running statistics has the published ones in
        `model.init_state()`.
    family: the name of its family.
    config: the content of config.json.
    source: as it was passed.
    folder: where config.json is.
    revision: the commit on the Hugging Face hub, None for a folder.
    ignored: tensors that no model of the family needs, such as buffers.
    unused: further tensors that no parameter holds.
    unfilled: the paths of parameters that no tensor fills, which have initial values.
    """

    model: Model
    params: Params
    family: str
    config: Mapping[str, Any] = field(repr=False)
    source: str
    folder: Path
    revision: str | None = None
    ignored: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    unfilled: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.params))

    @property
    def stateless(self) -> Model:
        """The model as its factory made it, without the published running statistics."""
        return plain_model(self.model)


def pretrained(
    source: str | os.PathLike,
    *,
    model: Model | None = None,
    family: str | Family | Table | None = None,
    dtype: DType | None = None,
    unused: Patterns = (),
    unfilled: Patterns = (),
    key: Key | None = None,
    prefix: str = "",
    revision: str | None = None,
    **changes: Any,
) -> Pretrained:
    """A published model with its weights: `model, params = nf.pretrained(folder)`.

    It reads what transformers (`save_pretrained`), torchvision, timm and PyTorch write: config.json sets the family
    and the sizes; model.safetensors, in one file or several with an index, the weights. Files are mapped into
    memory and read tensor by tensor, so that loading takes the memory of the parameters and of one tensor. No
    code of the folder is run: `trust_remote_code` is not followed, and pickled files (.bin, .pt) are read only by
    PyTorch's weights_only loader, where it is installed.

    source: a folder, a file of weights, or "hf://owner/name" for the Hugging Face hub, which needs the extra hub
        and is the only source that uses the network.
    model: the one to fill with the weights; by default config.json sets it.
    family: the name of the family of names, or a Family; by default the model_type of config.json, or the first one
        of the model that fits. For weights of another package it is a table of names, rows of (published name, path
        in the model, layer), such as [("conv{s}", "conv_{s}", "conv"), ("fc", "head", "linear")], where {s} is any
        number.
    The layers are "linear", "conv", "embedding", "norm" (of layers, groups, RMS), "batch_norm", "prelu",
    "attention" (nn.MultiheadAttention), "lstm", "gru" and "rnn" (layers or cells), and "parameter" for a single
    tensor.
    dtype: of all floating-point parameters, such as jnp.float32; by default that in the file.
    unused: patterns of tensors that may have no parameter, as in "score.*".
    unfilled: patterns of paths that may have no tensor, as in "head/**"; they get initial values from key, which is
        needed for them.
    prefix: of the names to read, which are read without it, such as "encoder.lstm."; tensors with other names are
        left alone.
    revision: a branch, tag or commit of the hub, the newest by default; the commit is in the result.
    changes: arguments of the model's factory in place of those that config.json sets, such as dropout=0.1.

    Returns: a `Pretrained` with model, params and what was read; it unpacks as model, params.
    Raises: ValueError when a tensor has no parameter, a parameter no tensor, or a tensor another shape; when a file
    is damaged or the architecture unknown; FileNotFoundError when a file is missing.

    >>> import tempfile
    >>> model = nf.gpt(65, block_size=8, layers=2, heads=2, dim=16)
    >>> folder = nf.to_pretrained(model, model.init(jax.random.key(0)), tempfile.mkdtemp() + "/gpt")
    >>> model, params = nf.pretrained(folder)
    >>> model.apply(params, jnp.array([[1, 2, 3]])).shape
    (1, 3, 65)
    """
    where = str(source)
    path, commit = _find_folder(where, revision)
    config = _read_config(path)
    if config.table("quantization_config") and model is None:
        method = config["quantization_config"].get("quant_method", "an unknown method")
        hint = "Read the model that it was made from, or pass model= and family= for tensors that are not quantized."
        check.fail(config.where, f"the weights are quantized ({method}), which is not read.", hint=hint)
    tensors = open_tensors(path)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    config.tensors = {*tensors}
    if model is None:
        chosen = _family_of_config(path, config, family)
        model = _build_model(chosen, config, changes)
    else:
        if changes:
            check.fail("pretrained", f"the model is given, so {', '.join(changes)} should be left out.")
        chosen = None if family is None else as_family(family, model)
    tensors = tensors if chosen is None else chosen.rename(tensors)
    leaves = leaf_shapes(model)
    chosen, entries = _match_names(model, chosen, leaves, tensors, config.get("model_type"))
    architecture, note = config.architecture, ""
    if architecture and chosen.architectures and architecture not in chosen.architectures:
        known = ", ".join(chosen.architectures)
        note = f" Its architecture is {architecture}; those of {chosen.name} that are read are {known}."
    values, report = load_leaves(chosen, model, leaves, entries, tensors, dtype, unused, unfilled, key, where, note)
    shapes = paths.flatten(jax.eval_shape(model.init, jax.random.key(0)))
    params = paths.unflatten({name: value for name, value in values.items() if name in shapes})
    state = {name: value for name, value in values.items() if name not in shapes}
    if state:
        model = with_state(model, paths.unflatten(state))
    return Pretrained(model, params, chosen.name, dict(config), where, Path(config.where).parent, commit, *report)


def _find_folder(source: str, revision: str | None) -> tuple[Path, str | None]:
    """(the folder or file of a source, its commit on the hub)."""
    if source.startswith(HUB):
        return fetch_snapshot(source, revision)
    if revision is not None:
        check.fail("pretrained", f"revision is that of {HUB}owner/name, got source {source!r}.")
    path = Path(source)
    if not path.exists():
        hint = f'It should be a folder, a file of weights, or "{HUB}owner/name".'
        check.fail("pretrained", f"there is no {source}.", hint=hint, exc_type=FileNotFoundError)
    return path, None


class PublishedModel(NamedTuple):
    """What config.json alone says of a model, without its weights.

    factory, arguments: those that `pretrained` calls.
    family: the name of its family.
    config: the content of config.json.
    revision: the commit on the hub, None for a folder.
    """

    factory: Callable[..., Model]
    arguments: dict[str, Any]
    family: str
    config: PublishedConfig
    revision: str | None


def published_model(source: str, revision: str | None = None) -> PublishedModel:
    """The model of a source of `pretrained`, of which only config.json is read."""
    path, commit = _find_folder(source, revision)
    config = _read_config(path)
    family = _family_of_config(path, config, None)
    arguments = arguments_of(_build_model(family, config, {}))[1]
    return PublishedModel(inspect.unwrap(family.factory), arguments, family.name, config, commit)


def _build_model(family: Family, config: PublishedConfig, changes: dict[str, Any]) -> Model:
    """The model that a config.json sets, whose file is in the error of the factory. changes: of its arguments."""
    try:
        return family.factory(**family.arguments(config) | changes)
    except NnfuncError as error:
        if not changes and not error.where.startswith(config.where):
            error.where = f"{config.where}: {error.where}"
        raise


def _read_config(path: Path) -> PublishedConfig:
    file = path / CONFIG if path.is_dir() else path.parent / CONFIG
    if not file.exists():
        return PublishedConfig({}, str(file))
    return PublishedConfig(documents.read_json(file, dict), str(file))


def as_family(family: str | Family | Table, model: Model | None = None) -> Family:
    """The family of a name, or of a table of names of the model."""
    if isinstance(family, Family):
        return family
    if isinstance(family, str):
        return find_family("pretrained", family)
    if model is None:
        expected = "model should be given with a table of names"
        check.fail("pretrained", expected=expected, actual="none", hint="Pass model=.")
    return table_family("pretrained", family, model)


def _family_of_config(path: Path, config: PublishedConfig, family: str | Family | Table | None) -> Family:
    if family is not None:
        return as_family(family)
    name = config.get("model_type") or timm_family(str(config.get("architecture", ""))) or None
    if name is None:
        hint = "Pass the model that it is, such as model=nf.resnet18()."
        problem = f"there is no {CONFIG} with a model_type, which says what model it is."
        check.fail(str(path), problem, hint=hint)
    return find_family(config.where, str(name))


def leaf_shapes(model: Model) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of parameters and state, by path; no path is in both."""
    return paths.flatten(jax.eval_shape(model.init, jax.random.key(0))) | paths.flatten(model.state_shapes)


def families_of(where: str, model: Model) -> list[Family]:
    """The families whose models have this factory; an error when there are none."""
    factory = arguments_of(model)[0]
    options = [one for one in FAMILIES.values() if inspect.unwrap(one.factory) is factory]
    if not options:
        known = sorted({one.factory.__name__ for one in FAMILIES.values()})
        hint = f"Pass family=, or one of the models {', '.join(known)}."
        check.fail(where, f"no published names are known for {model!r}.", hint=hint)
    return options


def _match_names(
    model: Model, family: Family | None, leaves: Mapping[str, Any], tensors: Mapping[str, FileTensor], name: Any
) -> tuple[Family, list[Entry]]:
    """(the family, its entries for the model, with the names of the file).

    name: in config.json. Without family it is the one that fits best, of several, such as Gemma 2 and 3, that of
        this name.
    """
    arguments = arguments_of(model)[1]
    options = families_of("pretrained", model) if family is None else [family]
    results = []
    for one in sorted(options, key=lambda one: one.name != name):
        entries = expand(one.table(arguments), leaves)
        if one.prefix and not any(name.startswith(one.prefix) for name in tensors):  # the body alone was saved
            entries = [entry._replace(name=entry.name.removeprefix(one.prefix)) for entry in entries]
        results.append((one, [_older_name(entry, one.older, tensors) for entry in entries]))
    return max(results, key=lambda result: sum(entry.name in tensors for entry in result[1]))


def _older_name(entry: Entry, older: Mapping[str, str], tensors: Mapping[str, FileTensor]) -> Entry:
    """The entry with the name in an older file, where only that one is there."""
    for new, old in older.items():
        name = f"{entry.name.removesuffix(new)}{old}"
        if entry.name.endswith(new) and entry.name not in tensors and name in tensors:
            return entry._replace(name=name)
    return entry


def with_state(model: Model, state: PyTree) -> Model:
    """The model whose `init_state()` is this state. model: with running statistics. state: nested dicts of arrays."""

    def init_state(key: Key | None = None) -> PyTree:
        return jax.tree.map(jnp.array, state)  # copies, as a train step uses up its state

    result = Model(model.init, forward=model.forward, init_state=init_state, name=model.name)
    result.factory_call = (with_state, (model, state), {})
    return result


def plain_model(model: Model) -> Model:
    """The model that `with_state` was called with, or the model itself."""
    factory, arguments = arguments_of(model)
    return arguments["model"] if factory is inspect.unwrap(with_state) else model


explain_calls(__name__)
