"""The schema of each table of a config, from the signature and the annotations of the factory that it names."""

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

TABLES = {
    "data": 'data = { name = "digits", batch_size = 64 }',
    "model": 'model = { name = "mlp", widths = [64, 128, 10] }',
    "objective": 'objective = { name = "classification" }',
    "optimizer": 'optimizer = { name = "adamw", learning_rate = 1e-3 }',
    "schedule": 'schedule = { name = "warmup_cosine", peak = 1e-3, warmup_steps = 100 }',
    "train": "train = { steps = 1000 }",
    "log": 'log = { to = ["tensorboard"] }',
    "task": 'task = { precision = "bfloat16", accumulate = 4, metrics = ["f1"] }',
    "augment": "augment = { shift = { pixels = 2 }, mixup = { alpha = 0.2 } }",
    "plateau": 'plateau = { metric = "loss", patience = 3, factor = 0.5 }',
    "average": 'average = { name = "ema", decay = 0.999 }',
    "lora": 'lora = { run = "runs/shakespeare_gpt-1", rank = 8 }',
    "start": 'start = { run = "runs/imagenet-1", skip = ["head/**"] }',
    "clip_value": "clip_value = { limit = 1.0 }",
    "clip_adaptive": "clip_adaptive = { limit = 0.01 }",
    "groups": 'groups = { rates = { "stem/**" = 0.1 }, freeze = ["embed/**"] }',
    "lookahead": "lookahead = { every = 6, slow_rate = 0.5 }",
    "max_norm": "max_norm = { limit = 3.0 }",
    "mesh": "mesh = { data = -1, model = 2 }",
    "shard": 'shard = "fsdp"',
}
"""Every table of a config, with an example."""

WRAPPERS = ("clip_value", "clip_adaptive", "lookahead", "max_norm", "groups")
"""The tables that wrap the optimizer, in this order, the innermost first."""

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
    "start",
    *WRAPPERS,
)
MESH_TABLES: dict[str, tuple[Any, str]] = {
    "mesh": (dict[str, int], "integers by axis"),
    "shard": (str | dict[str, list[str]], "a preset, or lists of mesh axes by path pattern"),
}
"""The type and its description of the tables that are arguments of `nf.train` and have no factory."""
OPTIONAL_TABLES = {"schedule", "log", *TASK_TABLES[4:], *MESH_TABLES}
FIXED_FACTORIES = {
    "train": "train",
    "log": "log",
    "task": "options",
    "plateau": "reduce_on_plateau",
    "lora": "adapt",
    "start": "start_from",
} | {name: name for name in WRAPPERS}
"""The factory of each table that has no name."""
_LARGE = 1 << 28  # bytes of a token file, above which batches are gathered on the host
RUN_TABLES = ("lora", "start", "objective")
"""The tables that may have a key run: the folder of another run, whose checkpoint is copied."""
INJECTED = {
    "model": ("numbers", "categories"),
    "optimizer": ("learning_rate",),
    "schedule": ("total_steps",),
    "data": ("seed",),
    "augment": ("classes", "fill"),
}
"""The required arguments that a table may leave out, because they follow from other tables or the data."""


@lru_cache
def factories(table: str) -> dict[str, Callable[..., Any]]:
    """The factories that a table may name, by name.

    table: a name of TABLES.

    >>> sorted(factories("objective"))[:3]
    ['binary', 'classification', 'contrastive']
    """
    if table in MESH_TABLES:
        return {}
    if table == "data":
        return _data_sets()
    if table in FIXED_FACTORIES:
        return {FIXED_FACTORIES[table]: _fixed_factory(table)}
    if table == "model":
        package = importlib.import_module("nnfunc.models")
        modules = [f"models.{info.name}" for info in pkgutil.iter_modules(package.__path__)]
    else:
        modules = [_MODULES[table]]
    public: dict[str, Callable[..., Any]] = {}
    if table == "objective":
        public = {name: _fixed_factory(name) for name in _OBJECTIVES_OF_RUNS}
    for module in [importlib.import_module(f"nnfunc.{name}") for name in modules]:
        public = {name: getattr(module, name) for name in module.__all__} | public
    return {name: f for name, f in public.items() if inspect.isfunction(f) and _is_factory(table, name, f)}


_MODULES = {
    "objective": "training",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "augment": "data.augment",
    "average": "optimizers.averages",
}
_OBJECTIVES_OF_RUNS = ("distillation",)
"""The objectives that name the run of another model in a config, and the model itself in Python."""
_RETURNS = {"model": "Model", "objective": "Objective", "augment": "Augmentation", "average": "Average"}


def _fixed_factory(table: str) -> Callable[..., Any]:
    """The factory of a table without a name, or of an objective that names a run."""
    modules = {
        "train": "training.train_run",
        "log": "config.task_options",
        "task": "config.task_options",
        "plateau": "training.task",
        "lora": "config.adapters",
        "start": "config.adapters",
        "distillation": "config.adapters",
    }
    module = importlib.import_module(f"nnfunc.{modules.get(table, 'optimizers')}")
    return getattr(module, FIXED_FACTORIES.get(table, f"{table}_from"))


def _is_factory(table: str, name: str, function: Callable[..., Any]) -> bool:
    """Whether a public function is a factory of the table, and TOML can express its required arguments."""
    parameters, hints = inspect.signature(function).parameters, typing.get_type_hints(function)
    returned = hints.get("return")
    if table == "optimizer":
        matches = "learning_rate" in parameters and name not in ("as_optimizer", *WRAPPERS)
    elif table == "schedule":
        matches = returned == Schedule and name != "as_schedule"
    else:
        matches = getattr(returned, "__name__", "") == _RETURNS[table]
    injected = INJECTED.get(table, ())
    required = [key for key, p in parameters.items() if p.default is p.empty and key not in injected]
    return matches and all(parse_annotation(hints[key]) for key in required)


def _data_sets() -> dict[str, Callable[..., Any]]:
    """The functions of `nf.data` that return Splits, each with the arguments batch_size and seed."""
    package = importlib.import_module("nnfunc.data")
    public = {name: getattr(package, name) for name in package.__all__}
    return {
        name: _with_batches(function)
        for name, function in public.items()
        if inspect.isfunction(function) and typing.get_type_hints(function).get("return") is package.Splits
    }


def _with_batches(factory: Callable[..., Any]) -> Callable[..., Any]:
    """The function from the arguments of `factory` and of `Splits.data` to the data set.

    A large memory-mapped file becomes a Stream, which reads it batch by batch.
    """

    def data_set(*, batch_size: int = 128, seed: int = 0, **arguments: Any) -> Any:
        splits = factory(**arguments)
        large = isinstance(splits.train, np.memmap) and splits.train.nbytes > _LARGE
        return (splits.stream if large else splits.data)(batch_size, seed=seed)

    signature, hints = inspect.signature(data_set), typing.get_type_hints(factory)
    batching = [signature.parameters[name] for name in ("batch_size", "seed")]
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in inspect.signature(factory).parameters.values()]
    data_set.__dict__["__signature__"] = signature.replace(parameters=[*batching, *parameters])
    data_set.__annotations__ = hints | {"batch_size": int, "seed": int}
    data_set.__doc__ = factory.__doc__
    return data_set


class ValueType(NamedTuple):
    """The type of an argument, as a value of TOML.

    type: for pydantic.
    singular, plural: its description in errors, such as "a number" and "numbers".
    example: in TOML.
    traced: whether the argument is a Scalar, so that its numbers are hypers.
    options: the texts that it may be, if only some are allowed.
    may_be_list: whether it may be a list.
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
        raise ValueError("not a number that a float can represent")
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
    """The type of the TOML values that fit the annotation `hint`, or None when TOML has none."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        return _PLAIN.get(hint)
    if origin is Literal:
        options = tuple(option for option in args if isinstance(option, str))
        text = f"one of {', '.join(map(repr, options))}"
        return ValueType(hint, text, text, f'"{options[0]}"', options=options) if options else None
    if origin in (Union, types.UnionType):
        hints = [float if arg is int and float in args else arg for arg in args]
        parsed = [value_type for value_type in map(parse_annotation, dict.fromkeys(hints)) if value_type]
        if not parsed:
            return None
        return ValueType(
            type=Union[tuple(item.type for item in parsed)],  # noqa: UP007
            singular=" or ".join(item.singular for item in parsed),
            plural=" or ".join(item.plural for item in parsed),
            example=parsed[0].example,
            traced=(float in args and jax.Array in args) or any(item.traced for item in parsed),
            options=tuple(option for item in parsed for option in item.options),
            may_be_list=any(item.may_be_list for item in parsed),
        )
    if origin in (dict, Mapping) and args and args[0] is str:
        item = parse_annotation(args[1])
        if item is None:
            return None
        first, _, others = item.plural.partition(" or ")
        text = f"a table of {first} by path pattern" + f", or of {others}" * bool(others)
        example = f'{{ "head/**" = {item.example} }}'
        return ValueType(dict[str, item.type], text, text, example, item.traced)
    if origin in (list, tuple, Sequence):
        fixed = origin is tuple and args[-1:] != (...,)
        item, *others = [parse_annotation(arg) for arg in args if arg is not ...] or [None]
        if item is None or any(other != item for other in others):
            return None
        length = len(args) if fixed else None
        list_type = Annotated[list[item.type], Field(min_length=length, max_length=length)]
        plural = f"{length} {item.plural}" if fixed else item.plural
        example = f"[{', '.join([item.example] * (length or 2))}]"
        return ValueType(list_type, f"a list of {plural}", f"lists of {plural}", example, item.traced, may_be_list=True)
    return None


class Schema(NamedTuple):
    """The arguments of a factory that a table may have.

    types: by name.
    defaults: those that TOML can express.
    python_only: the names of the arguments that only Python can give.
    model: checks a table, by pydantic.
    """

    types: dict[str, ValueType]
    defaults: dict[str, Any]
    python_only: tuple[str, ...]
    model: type[BaseModel]


@lru_cache
def get_schema(table: str, name: str) -> Schema:
    """The schema of the factory `name` of a `table`, from its signature and annotations."""
    factory = factories(table)[name]
    # the arguments that the commands give
    skipped = {"train": ("folder", "resume", "changed_data", *MESH_TABLES), "data": ("preprocessing",)}.get(table, ())
    hints = typing.get_type_hints(factory)
    parameters = inspect.signature(factory).parameters
    if table in WRAPPERS:  # its first argument is the optimizer that it wraps
        parameters = {key: p for key, p in list(parameters.items())[1:]}
    parsed = {key: parse_annotation(hints.get(key, Any)) for key in parameters if key not in skipped}
    value_types = {key: value_type for key, value_type in parsed.items() if value_type}
    defaults: dict[str, Any] = {}
    has_name = table not in FIXED_FACTORIES and table != "augment"
    fields: dict[str, Any] = {"name_": (str, Field("", alias="name"))} if has_name else {}
    for key, value_type in value_types.items():
        default, is_injected = parameters[key].default, key in INJECTED.get(table, ())
        is_required = default is inspect.Parameter.empty and not is_injected
        fields[f"{key}_"] = (value_type.type, Field(... if is_required else None, alias=key))
        if not (is_required or is_injected or default is None):
            defaults[key] = _tuples_to_lists(default)
    settings = ConfigDict(extra="forbid", strict=True, protected_namespaces=())
    model = create_model(name, __config__=settings, **fields)
    return Schema(value_types, defaults, tuple(key for key in parsed if not parsed[key]), model)


def _tuples_to_lists(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tuples_to_lists(item) for key, item in value.items()}
    return [_tuples_to_lists(item) for item in value] if isinstance(value, list | tuple) else value
