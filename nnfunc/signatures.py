"""The signatures of functions: the names of their parameters, and names for the functions themselves."""

import functools
import inspect
import re
from collections.abc import Callable, Collection
from types import FunctionType
from typing import Any, TypeVar

from nnfunc import check

R = TypeVar("R")


def factory_name(function: Any) -> str:
    """The name of the factory in which a function was defined: `linear` for linear.<locals>.apply."""
    parts = getattr(function, "__qualname__", "layer").split(".<locals>.")
    return _clean(parts[-2] if len(parts) > 1 else parts[-1])


def function_name(function: Any) -> str:
    """The name of a plain function, as part of a path."""
    function = getattr(function, "func", function)  # a functools.partial
    return _clean(getattr(function, "__name__", type(function).__name__))


def _clean(name: str) -> str:
    return re.sub(r"\W+", "", name.rsplit(".", 1)[-1]).strip("_") or "layer"


def parameter_names(function: Callable[..., Any]) -> tuple[Collection[str], bool]:
    """The names of a function's parameters, and whether it takes any other keyword."""
    if (plain := _plain_function(function)) is not None:
        code = plain.__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        return names, bool(code.co_flags & inspect.CO_VARKEYWORDS)
    parameters = inspect.signature(function).parameters
    return parameters, any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def named_parameters(function: Any) -> Collection[str]:
    """The names of the parameters of a function, a callable object or a partial, without those it binds."""
    try:
        names, _ = parameter_names(function)
    except (TypeError, ValueError):  # a builtin without a signature
        return ()
    bound = function.keywords if isinstance(function, functools.partial) else {}
    return [name for name in names if name not in bound]


def required_parameters(function: Any) -> list[str]:
    """The names of the positional parameters of a function without default values."""
    if (plain := _plain_function(function)) is not None:
        code, defaults = plain.__code__, plain.__defaults__ or ()
        return list(code.co_varnames[: code.co_argcount - len(defaults)])
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return []
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty]


def is_required(function: Any, name: str) -> bool:
    """Whether a parameter of a function has no default value. name: of one that it has."""
    if (plain := _plain_function(function)) is not None:
        positional = plain.__code__.co_varnames[: plain.__code__.co_argcount]
        return name in required_parameters(plain) or name not in {*positional, *(plain.__kwdefaults__ or {})}
    return inspect.signature(function).parameters[name].default is inspect.Parameter.empty


def _plain_function(function: Any) -> FunctionType | None:
    """The function whose code tells the parameters, ten times as quick as `inspect.signature`; None without one."""
    while type(function) is FunctionType and "__signature__" not in function.__dict__:
        if "__wrapped__" not in function.__dict__:
            return function
        function = function.__dict__["__wrapped__"]
    return None


def unpack_parts(function: Callable[..., R], where: str, *, skip: int = 0) -> Callable[..., R]:
    """The function of one x; one with several required parameters gets the parts of x, a tuple of that length.

    where: the name for the error.
    skip: the number of parameters before x.
    """
    names = required_parameters(function)[skip:]
    if len(names) < 2:
        return function

    def unpacked(*args: Any) -> R:
        *before, x = args
        if not isinstance(x, tuple) or len(x) != len(names):
            expected = f"x should be a tuple ({', '.join(names)})"
            actual = f"a tuple of {len(x)}" if isinstance(x, tuple) else check.describe(x)
            check.fail(where, expected=expected, actual=actual, exc_type=TypeError)
        return function(*before, *x)

    return unpacked
