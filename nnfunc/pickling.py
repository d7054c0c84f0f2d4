"""Functions and models as the call that made them, so that they pickle."""

import functools
import importlib
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple


class _Name(NamedTuple):
    """A function by its module and name, as `jax.nn.relu`, which does not pickle itself."""

    module: str
    name: str


class _NamedPartial(NamedTuple):
    """A functools.partial whose function and arguments are by name."""

    function: Any
    args: tuple[Any, ...]
    keywords: dict[str, Any]


class _Call(NamedTuple):
    """A function that a factory returned, such as `nf.initializers.normal(0.02)`, as this call."""

    factory: Any
    args: tuple[Any, ...]
    keywords: dict[str, Any]


def unpacked_pair(pair: tuple[Any, ...]) -> Any:
    """The model whose `init, apply` the pair is, or None."""
    owner = getattr(pair[1], "__self__", None) if len(pair) == 2 else None
    return owner if owner is not None and hasattr(owner, "factory_call") and pair[0] is owner.init else None


def by_name(value: Any) -> Any:
    """The arguments of a call, with the functions that stand in a module as names."""
    if isinstance(value, dict):
        return {name: by_name(one) for name, one in value.items()}
    if isinstance(value, tuple) and (model := unpacked_pair(value)) is not None:
        return model
    if type(value) in (tuple, list):
        return type(value)(map(by_name, value))
    if type(value) is functools.partial:
        return _NamedPartial(by_name(value.func), by_name(value.args), by_name(value.keywords))
    call = getattr(value, "factory_call", None) if isinstance(value, FunctionType) else None
    if call is not None and call is not getattr(getattr(value, "__wrapped__", None), "factory_call", None):
        return _Call(*map(by_name, call))  # functools.wraps copies the call of the function that it wraps
    module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
    is_public = callable(value) and getattr(sys.modules.get(str(module)), str(name), None) is value
    return _Name(str(module), str(name)) if is_public else value


def _from_names(value: Any) -> Any:
    """The inverse of `by_name`."""
    if isinstance(value, _Name):
        return getattr(importlib.import_module(value.module), value.name)
    if isinstance(value, _NamedPartial):
        return functools.partial(_from_names(value.function), *_from_names(value.args), **_from_names(value.keywords))
    if isinstance(value, _Call):
        return _from_names(value.factory)(*_from_names(value.args), **_from_names(value.keywords))
    if isinstance(value, dict):
        return {name: _from_names(one) for name, one in value.items()}
    return type(value)(map(_from_names, value)) if type(value) in (tuple, list) else value


def call_by_names(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The factory's result, of arguments from `by_name`."""
    return factory(*_from_names(args), **_from_names(kwargs))
