"""Wrong calls of public functions: the error names the function and the argument that was meant."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, NoReturn, ParamSpec, TypeVar

from nnfunc import check

P = ParamSpec("P")
R = TypeVar("R")

SYNONYMS = {
    "lr": "learning_rate",
    "step_size": "learning_rate",
    "use_bias": "bias",
    "p": "rate",
    "dropout_rate": "dropout",
    "in_features": "in_dim",
    "out_features": "out_dim",
    "in_channels": "in_dim",
    "out_channels": "out_dim",
    "features": "out_dim",
    "hidden_size": "dim",
    "num_features": "dim",
    "num_classes": "classes",
    "num_heads": "heads",
    "n_heads": "heads",
    "num_layers": "layers",
    "n_layers": "layers",
    "kernel_size": "kernel",
    "epsilon": "eps",
    "betas": "b1",
    "max_len": "block_size",
    "rng": "key",
    "seed": "key",
    "members": "trials",
    "way": "execution",
}
"""What other libraries call an argument -> what it is called here, where the function has it."""


def explain_call(function: Callable[P, R], name: str = "") -> Callable[P, R]:
    """The function, whose TypeError for wrong arguments names the ones that it takes.

    function: any Python function. A TypeError from inside of it is left alone.
    name: what the error calls it; by default its own name.

    Raises: InvalidTypeError when the arguments do not fit the signature.

    >>> explain_call(lambda in_dim, out_dim, *, bias=True: None)(3, 2, use_bias=False)
    Traceback (most recent call last):
    nnfunc.errors.InvalidTypeError: <lambda>: there is no argument 'use_bias'; did you mean 'bias'? ...
    """

    inner = f"{function.__qualname__}.<locals>."

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = function(*args, **kwargs)
            is_inner = isinstance(result, FunctionType) and result.__qualname__.startswith(inner)
            if (is_inner or hasattr(result, "factory_call")) and not any(
                _holds(arg, result) for arg in (*args, *kwargs.values())
            ):
                object.__setattr__(result, "factory_call", (called, _copied(args), _copied(kwargs)))  # also if frozen
            return result
        except TypeError:
            signature = inspect.signature(function)
            if _fits(signature, args, kwargs):  # it comes from inside of the function
                raise
        _refuse(name or function.__name__, signature, args, kwargs)

    return called


class Described:
    """What prints as the call of the factory that returned it, which `explain_call` records."""

    factory_call: Any = None

    def __repr__(self) -> str:
        return describe_call(*self.factory_call) if self.factory_call else f"<{type(self).__name__}>"


def describe_call(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """A call as short text, such as `gpt(vocab_size=65, block_size=64, activation=gelu)`.

    function: what was called.
    args, kwargs: the arguments.
    """
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return f"{function.__name__}(...)"
    parts = []
    for name, value in bound.arguments.items():
        parameter = bound.signature.parameters[name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            parts += map(_short, value)
        elif parameter.kind is parameter.VAR_KEYWORD:
            parts += [f"{key}={_short(one)}" for key, one in value.items()]
        else:
            parts.append(f"{name}={_short(value)}")
    return f"{function.__name__}({', '.join(parts)})"


def factory_hint(value: Any, result: Any = None) -> str:
    """The hint for a factory that came instead of its result: `Call it: adam(learning_rate, ...).`, or "".

    value: what came.
    result: the type that the factory says it returns; None for any function.
    """
    if not isinstance(value, FunctionType):
        return ""
    returned = value.__annotations__.get("return")
    if result is not None and returned not in (result, getattr(result, "__name__", result)):
        return ""
    return f"Call it: {value.__name__}({_shape_of(inspect.signature(value))})."


def _holds(arg: Any, model: Any) -> bool:
    """Whether an argument is the model, or the pair `init, apply` that it unpacks as."""
    return arg is model or (isinstance(arg, tuple) and any(getattr(one, "__self__", None) is model for one in arg))


def _copied(value: Any) -> Any:
    """Arguments as they are now: lists and dicts may be changed later."""
    if type(value) is dict:
        return {name: _copied(one) for name, one in value.items()}
    return type(value)(map(_copied, value)) if type(value) in (list, tuple) else value


def _short(value: Any) -> str:
    if not isinstance(value, type) and getattr(value, "factory_call", None):  # a Model inside another
        factory = value.factory_call[0]
        return f"{value.name if isinstance(factory, type) else factory.__name__}(...)"
    if isinstance(value, bool | int | float | str | None):
        return repr(value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return f"[{', '.join(map(_short, value[:8]))}{', ...' if len(value) > 8 else ''}]"
    if isinstance(value, dict) and len(value) < 9 and not any(isinstance(one, dict) for one in value.values()):
        return f"{{{', '.join(f'{key!r}: {_short(one)}' for key, one in value.items())}}}"
    return getattr(value, "__name__", type(value).__name__)


def explain_method(method: Callable[P, R]) -> Callable[P, R]:
    """`explain_call` for a method of an object with a `name`: the error calls it `linear.apply`.

    method: a function whose first parameter is self.
    """

    @functools.wraps(method)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except TypeError:
            whole = inspect.signature(method)
            if _fits(whole, args, kwargs):
                raise
        signature = whole.replace(parameters=[*whole.parameters.values()][1:])
        owner: Any = args[0]
        _refuse(f"{owner.name}.{method.__name__}", signature, args[1:], kwargs)

    return called


def explain_calls(module: str) -> None:
    """Do so for every function in `__all__` of a package, here and in the module that defines it.

    `dir` and completion then list the names of `__all__` alone.


    module: the `__name__` of the package, at the end of whose `__init__.py` this is called.
    """
    namespace = sys.modules[module].__dict__
    namespace.setdefault("__dir__", lambda: sorted(namespace["__all__"]))
    for name in namespace["__all__"]:
        function = namespace.get(name)
        if not isinstance(function, FunctionType) or function in _EXPLAINED.values():
            continue
        if function not in _EXPLAINED:
            _EXPLAINED[function] = explain_call(function)
        namespace[name] = _EXPLAINED[function]
        home = sys.modules[function.__module__].__dict__
        if home.get(function.__name__) is function:
            home[function.__name__] = namespace[name]


_EXPLAINED: dict[FunctionType, Any] = {}
"""The function as it was defined -> what users are given; aliases share one."""


def _fits(signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _refuse(where: str, signature: inspect.Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> NoReturn:
    parameters = signature.parameters
    hint = f"Call it as {where}({_shape_of(signature)})."
    for name in kwargs:
        if name not in parameters:
            meant = SYNONYMS.get(name, "")
            near = f"; did you mean {meant!r}?" if meant in parameters else check.nearest(name, parameters)
            check.fail(where, f"there is no argument {name!r}{near}", hint=hint, exc_type=TypeError)
    positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(args) > len(positional) and not any(p.kind is p.VAR_POSITIONAL for p in parameters.values()):
        expected = f"it should get at most {check.counted(len(positional), 'positional argument')}"
        check.fail(where, expected=expected, actual=len(args), hint=f"Name the others. {hint}", exc_type=TypeError)
    for parameter in positional[: len(args)]:
        if parameter.name in kwargs:
            check.fail(where, f"it got {parameter.name!r} twice.", hint=hint, exc_type=TypeError)
    values = {*kwargs, *(p.name for p in positional[: len(args)])}
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.name not in values and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    check.fail(where, f"it needs {' and '.join(missing)}.", hint=hint, exc_type=TypeError)


def _shape_of(signature: inspect.Signature) -> str:
    """The arguments that a call needs, and `...` for those that it may leave out."""
    parts, named = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            parts.append(f"*{parameter.name}")
            named = True
        elif parameter.kind is not parameter.VAR_KEYWORD and parameter.default is parameter.empty:
            by_name = named or parameter.kind is parameter.KEYWORD_ONLY
            parts.append(f"{parameter.name}=..." if by_name else parameter.name)
    rest = any(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    return ", ".join([*parts, *(["..."] if rest else [])])
