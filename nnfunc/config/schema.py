"""What a table may hold, read from the signature and the annotations of the factory that it names."""

import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Union

import jax
import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from nnfunc.base import Schedule

__all__ = ["INJECTED", "TABLES", "TASK", "Kind", "Schema", "factories", "kind_of", "schema"]

TABLES = {
    "data": 'data = { name = "digits", batch_size = 64 }',
    "model": 'model = { name = "mlp", widths = [64, 128, 10] }',
    "objective": 'objective = { name = "classification" }',
    "optimizer": 'optimizer = { name = "adamw", rate = 1e-3 }',
    "schedule": 'schedule = { name = "warmup_cosine", peak = 1e-3, warmup_steps = 100 }',
    "train": "train = { steps = 1000 }",
}
TASK = ("model", "objective", "optimizer", "schedule")
_LARGE = 1 << 28  # bytes of a token file, above which batches are gathered on the host
INJECTED = {"optimizer": "rate", "schedule": "total_steps", "data": "seed"}


@lru_cache
def factories(table: str) -> dict[str, Callable[..., Any]]:
    """The factories that a table may name: public functions of what the table holds.

    >>> sorted(factories("objective"))
    ['classification', 'language_modelling', 'regression']
    """
    if table == "data":
        return _data_sets()
    if table == "model":
        package = importlib.import_module("nnfunc.models")
        modules = [
            f"nnfunc.models.{found.name}" for found in pkgutil.iter_modules(package.__path__)
        ]
    else:
        training = {"objective": "training.objectives", "optimizer": "optimizers"}
        modules = [f"nnfunc.{training.get(table, 'schedules')}"]
    found = {}
    for module in map(importlib.import_module, modules):
        for name in module.__all__:
            function = getattr(module, name)
            if inspect.isfunction(function) and _makes(table, name, function):
                found[name] = function
    return found


def _makes(table: str, name: str, function: Callable[..., Any]) -> bool:
    """Whether a function makes what the table holds, of what TOML can express."""
    parameters = inspect.signature(function).parameters
    returned = typing.get_type_hints(function).get("return")
    if table == "optimizer":
        right = "rate" in parameters and name != "as_optimizer"
    elif table == "schedule":
        right = returned == Schedule and name != "as_schedule"
    else:
        right = getattr(returned, "__name__", "") == {"model": "Model"}.get(table, "Objective")
    free = {INJECTED.get(table)}
    kinds = {key: kind_of(hint) for key, hint in typing.get_type_hints(function).items()}
    needed = [key for key, p in parameters.items() if p.default is p.empty and key not in free]
    return right and all(kinds[key] for key in needed)


def _data_sets() -> dict[str, Callable[..., Any]]:
    """The functions of `nf.data` that return Splits, each with batch_size and seed of `Splits.data`."""
    package = importlib.import_module("nnfunc.data")
    found = {name: getattr(package, name) for name in package.__all__}
    return {
        name: _batched(function)
        for name, function in found.items()
        if inspect.isfunction(function)
        and typing.get_type_hints(function).get("return") is package.Splits
    }


def _batched(factory: Callable[..., Any]) -> Callable[..., Any]:
    """arguments -> Data: the factory's arguments and those of `Splits.data`.

    What is memory-mapped and large stays where it is: a Stream.
    """

    def data_set(*, batch_size: int = 128, seed: int = 0, **arguments: Any) -> Any:
        splits = factory(**arguments)
        large = isinstance(splits.train, np.memmap) and splits.train.nbytes > _LARGE
        return (splits.stream if large else splits.data)(batch_size, seed=seed)

    signature, hints = inspect.signature(data_set), typing.get_type_hints(factory)
    batching = [signature.parameters[name] for name in ("batch_size", "seed")]
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(factory).parameters.values()]
    data_set.__dict__["__signature__"] = signature.replace(parameters=[*batching, *own])
    data_set.__annotations__ = hints | {"batch_size": int, "seed": int}
    return data_set


class Kind(NamedTuple):
    """What a value may be. type: for pydantic; one, many: in words; traced: it is a Scalar."""

    type: Any
    one: str
    many: str
    example: str
    traced: bool = False
    options: tuple[str, ...] = ()


def _finite(value: float) -> float:
    if value != value or (isinstance(value, int) and abs(value) > 10**300):
        raise ValueError("not a number that floats can hold")
    return value


_INT = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_NUMBER = Kind(Annotated[int | float, AfterValidator(_finite)], "a number", "numbers", "0.1")
_PLAIN = {
    float: _NUMBER,
    int: Kind(_INT, "a whole number", "whole numbers", "10"),
    bool: Kind(bool, "true or false", "trues and falses", "true"),
    str: Kind(str, "text", "texts", '"..."'),
}


def kind_of(hint: Any) -> Kind | None:
    """The kind of values that TOML can give for an annotation, or None when it can give none."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        return _PLAIN.get(hint)
    if origin is Literal:
        options = tuple(option for option in args if isinstance(option, str))
        words = f"one of {', '.join(map(repr, options))}"
        return Kind(hint, words, words, f'"{options[0]}"', options=options) if options else None
    if origin in (Union, types.UnionType):
        members = [float if member is int and float in args else member for member in args]
        kinds = [kind for kind in map(kind_of, dict.fromkeys(members)) if kind]
        if not kinds:
            return None
        traced = (float in args and jax.Array in args) or any(kind.traced for kind in kinds)
        union = Union[tuple(kind.type for kind in kinds)]  # noqa: UP007
        one, many = (" or ".join(words) for words in zip(*(k[1:3] for k in kinds), strict=True))
        options = tuple(option for kind in kinds for option in kind.options)
        return Kind(union, one, many, kinds[0].example, traced, options)
    if origin in (list, tuple, Sequence):
        fixed = origin is tuple and args[-1:] != (...,)
        kinds = [kind_of(arg) for arg in args if arg is not ...]
        item = kinds[0] if kinds else None
        if item is None or any(kind != item for kind in kinds):
            return None
        length = (len(args), len(args)) if fixed else (0, None)
        many = f"{len(args)} {item.many}" if fixed else item.many
        type_ = Annotated[list[item.type], Field(min_length=length[0], max_length=length[1])]
        example = f"[{', '.join([item.example] * (length[0] or 2))}]"
        return Kind(type_, f"a list of {many}", f"lists of {many}", example, item.traced)
    return None


class Schema(NamedTuple):
    """What a table may hold. model: pydantic's; python: arguments that only Python can give."""

    kinds: dict[str, Kind]
    defaults: dict[str, Any]
    python: tuple[str, ...]
    model: type[BaseModel]


@lru_cache
def schema(table: str, name: str) -> Schema:
    """The schema of a factory, from its signature and annotations."""
    if table == "train":
        from nnfunc.training.loop import train as factory

        skipped = ("folder", "resume")  # the command line's business
    else:
        factory, skipped = factories(table)[name], ()
    hints = typing.get_type_hints(factory)
    parameters = inspect.signature(factory).parameters
    every = {key: kind_of(hints.get(key, Any)) for key in parameters}
    kinds = {key: kind for key, kind in every.items() if kind and key not in skipped}
    free = INJECTED.get(table)
    defaults = {
        key: _list(parameters[key].default)
        for key in kinds
        if parameters[key].default not in (None, inspect.Parameter.empty) and key != free
    }
    fields: dict[str, Any] = {"name_": (str, Field("", alias="name"))} if table != "train" else {}
    for key, kind in kinds.items():
        needed = parameters[key].default is inspect.Parameter.empty and key != free
        fields[f"{key}_"] = (kind.type, Field(... if needed else None, alias=key))
    settings = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    model = create_model(name, __config__=settings, **fields)
    return Schema(kinds, defaults, tuple(key for key in every if not every[key]), model)


def _list(value: Any) -> Any:
    return [_list(item) for item in value] if isinstance(value, list | tuple) else value
