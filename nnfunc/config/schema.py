"""What a table may hold, read from the signature and the annotations of the factory that it names."""

import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Union

import jax
import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from nnfunc.base import Schedule

__all__ = [
    "FIXED_FACTORIES",
    "INJECTED",
    "OPTIONAL_TABLES",
    "TABLES",
    "TASK_TABLES",
    "WRAPPERS",
    "Schema",
    "ValueType",
    "factories",
    "get_schema",
    "parse_annotation",
]

TABLES = {
    "data": 'data = { name = "digits", batch_size = 64 }',
    "model": 'model = { name = "mlp", widths = [64, 128, 10] }',
    "objective": 'objective = { name = "classification" }',
    "optimizer": 'optimizer = { name = "adamw", learning_rate = 1e-3 }',
    "schedule": 'schedule = { name = "warmup_cosine", peak = 1e-3, warmup_steps = 100 }',
    "train": "train = { steps = 1000 }",
    "log": 'log = { to = ["tensorboard"] }',
    "task": 'task = { precision = "bfloat16", remat = true, accumulate = 4 }',
    "augment": "augment = { shift = { pixels = 2 }, mixup = { alpha = 0.2 } }",
    "plateau": 'plateau = { metric = "loss", patience = 3, factor = 0.5 }',
    "average": 'average = { name = "ema", decay = 0.999 }',
    "lora": 'lora = { run = "runs/shakespeare_gpt-1", rank = 8 }',
    "clip_value": "clip_value = { limit = 1.0 }",
    "clip_adaptive": "clip_adaptive = { limit = 0.01 }",
    "groups": 'groups = { rates = { "stem/**" = 0.1 }, freeze = ["embed/**"] }',
    "lookahead": "lookahead = { every = 6, slow_rate = 0.5 }",
    "max_norm": "max_norm = { limit = 3.0 }",
}
"""Every table of a config, and how it is written."""

WRAPPERS = ("clip_value", "clip_adaptive", "lookahead", "max_norm", "groups")
"""What changes the optimizer, in this order, from the inside out."""

TASK_TABLES = (
    "model",
    "objective",
    "optimizer",
    "schedule",
    "task",
    "augment",
    "plateau",
    "average",
    "lora",
    *WRAPPERS,
)
OPTIONAL_TABLES = {"schedule", "log", *TASK_TABLES[4:]}
FIXED_FACTORIES = {
    "train": "train",
    "log": "log",
    "task": "options",
    "plateau": "reduce_on_plateau",
    "lora": "adapt",
} | {name: name for name in WRAPPERS}
"""The tables without a name: the one factory that each is of."""
_LARGE = 1 << 28  # bytes of a token file, above which batches are gathered on the host
INJECTED = {
    "optimizer": ("learning_rate",),
    "schedule": ("total_steps",),
    "data": ("seed",),
    "augment": ("classes", "fill"),
}
"""The arguments that a table need not give: they follow from elsewhere."""


@lru_cache
def factories(table: str) -> dict[str, Callable[..., Any]]:
    """The factories that a table may name: public functions of what the table holds.

    >>> sorted(factories("objective"))
    ['classification', 'language_modelling', 'regression']
    """
    if table == "data":
        return _data_sets()
    if table in FIXED_FACTORIES:
        return {FIXED_FACTORIES[table]: _sole(table)}
    if table == "model":
        package = importlib.import_module("nnfunc.models")
        modules = [f"nnfunc.models.{result.name}" for result in pkgutil.iter_modules(package.__path__)]
    else:
        modules = [f"nnfunc.{_MODULES[table]}"]
    matches = {}
    for module in map(importlib.import_module, modules):
        for name in module.__all__:
            function = getattr(module, name)
            if inspect.isfunction(function) and _makes(table, name, function):
                matches[name] = function
    return matches


_MODULES = {
    "objective": "training.objectives",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "augment": "data.augment",
    "average": "optimizers.averages",
}
_RETURNS = {"model": "Model", "objective": "Objective", "augment": "Augmentation", "average": "Average"}


def _sole(table: str) -> Callable[..., Any]:
    """The factory of a table without a name."""
    if table in WRAPPERS:
        return getattr(importlib.import_module("nnfunc.optimizers"), table)
    if table == "plateau":
        return importlib.import_module("nnfunc.training.task").reduce_on_plateau
    if table == "train":
        return importlib.import_module("nnfunc.training.train_run").train
    module = "adapters" if table == "lora" else "task_options"
    return getattr(importlib.import_module(f"nnfunc.config.{module}"), FIXED_FACTORIES[table])


def _makes(table: str, name: str, function: Callable[..., Any]) -> bool:
    """Whether a function makes what the table holds, of what TOML can express."""
    parameters = inspect.signature(function).parameters
    returned = typing.get_type_hints(function).get("return")
    if table == "optimizer":
        right = "learning_rate" in parameters and name not in ("as_optimizer", *WRAPPERS)
    elif table == "schedule":
        right = returned == Schedule and name != "as_schedule"
    else:
        right = getattr(returned, "__name__", "") == _RETURNS[table]
    free = INJECTED.get(table, ())
    kinds = {key: parse_annotation(hint) for key, hint in typing.get_type_hints(function).items()}
    needed = [key for key, p in parameters.items() if p.default is p.empty and key not in free]
    return right and all(kinds[key] for key in needed)


def _data_sets() -> dict[str, Callable[..., Any]]:
    """The functions of `nf.data` that return Splits, each with batch_size and seed of `Splits.data`."""
    package = importlib.import_module("nnfunc.data")
    result = {name: getattr(package, name) for name in package.__all__}
    return {
        name: _batched(function)
        for name, function in result.items()
        if inspect.isfunction(function) and typing.get_type_hints(function).get("return") is package.Splits
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


class ValueType(NamedTuple):
    """What a value may be. type: for pydantic; one, many: in words; traced: it is a Scalar.

    listed: it may be a list.
    """

    type: Any
    singular: str
    plural: str
    example: str
    traced: bool = False
    options: tuple[str, ...] = ()
    may_be_list: bool = False


def _finite(value: float) -> float:
    if value != value or (isinstance(value, int) and abs(value) > 10**300):
        raise ValueError("not a number that floats can hold")
    return value


_INT = Annotated[int, Field(ge=-(2**31), lt=2**32)]  # what 32 bits hold: sizes, counts, seeds
_NUMBER = ValueType(Annotated[int | float, AfterValidator(_finite)], "a number", "numbers", "0.1")
_PLAIN = {
    float: _NUMBER,
    int: ValueType(_INT, "an integer", "integers", "10"),
    bool: ValueType(bool, "true or false", "trues and falses", "true"),
    str: ValueType(str, "text", "texts", '"..."'),
}


def parse_annotation(hint: Any) -> ValueType | None:
    """The kind of values that TOML can give for an annotation, or None when it can give none."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        return _PLAIN.get(hint)
    if origin is Literal:
        options = tuple(option for option in args if isinstance(option, str))
        text = f"one of {', '.join(map(repr, options))}"
        return ValueType(hint, text, text, f'"{options[0]}"', options=options) if options else None
    if origin in (Union, types.UnionType):
        members = [float if member is int and float in args else member for member in args]
        kinds = [kind for kind in map(parse_annotation, dict.fromkeys(members)) if kind]
        if not kinds:
            return None
        traced = (float in args and jax.Array in args) or any(kind.traced for kind in kinds)
        union = Union[tuple(kind.type for kind in kinds)]  # noqa: UP007
        one, many = (" or ".join(message) for message in zip(*(k[1:3] for k in kinds), strict=True))
        options = tuple(option for kind in kinds for option in kind.options)
        listed = any(kind.may_be_list for kind in kinds)
        return ValueType(union, one, many, kinds[0].example, traced, options, listed)
    if origin in (dict, Mapping) and args and args[0] is str:
        item = parse_annotation(args[1])
        if item is None:
            return None
        text = f"a table of {item.plural} by path pattern"
        example = f'{{ "head/**" = {item.example} }}'
        return ValueType(dict[str, item.type], text, text, example, item.traced)
    if origin in (list, tuple, Sequence):
        fixed = origin is tuple and args[-1:] != (...,)
        kinds = [parse_annotation(arg) for arg in args if arg is not ...]
        item = kinds[0] if kinds else None
        if item is None or any(kind != item for kind in kinds):
            return None
        length = (len(args), len(args)) if fixed else (0, None)
        many = f"{len(args)} {item.plural}" if fixed else item.plural
        type_ = Annotated[list[item.type], Field(min_length=length[0], max_length=length[1])]
        example = f"[{', '.join([item.example] * (length[0] or 2))}]"
        text = (f"a list of {many}", f"lists of {many}")
        return ValueType(type_, *text, example, item.traced, may_be_list=True)
    return None


class Schema(NamedTuple):
    """What a table may hold. model: pydantic's; python: arguments that only Python can give."""

    types: dict[str, ValueType]
    defaults: dict[str, Any]
    python_only: tuple[str, ...]
    model: type[BaseModel]


@lru_cache
def get_schema(table: str, name: str) -> Schema:
    """The schema of a factory, from its signature and annotations."""
    factory = factories(table)[name]
    # what commands give: they know the run
    skipped = {"train": ("folder", "resume", "changed_data"), "data": ("preprocessing",)}.get(table, ())
    hints = typing.get_type_hints(factory)
    parameters = inspect.signature(factory).parameters
    if table in WRAPPERS:  # its first argument is the optimizer that it wraps
        parameters = {key: p for key, p in list(parameters.items())[1:]}
    every = {key: parse_annotation(hints.get(key, Any)) for key in parameters}
    kinds = {key: kind for key, kind in every.items() if kind and key not in skipped}
    free = INJECTED.get(table, ())
    defaults = {
        key: _list(parameters[key].default)
        for key in kinds
        if parameters[key].default is not inspect.Parameter.empty and key not in free
    }
    defaults = {key: value for key, value in defaults.items() if value is not None}
    named = table not in FIXED_FACTORIES and table != "augment"
    fields: dict[str, Any] = {"name_": (str, Field("", alias="name"))} if named else {}
    for key, kind in kinds.items():
        needed = parameters[key].default is inspect.Parameter.empty and key not in free
        fields[f"{key}_"] = (kind.type, Field(... if needed else None, alias=key))
    settings = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    model = create_model(name, __config__=settings, **fields)
    python = tuple(key for key in every if not every[key] and key not in skipped)
    return Schema(kinds, defaults, python, model)


def _list(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _list(item) for key, item in value.items()}
    return [_list(item) for item in value] if isinstance(value, list | tuple) else value
