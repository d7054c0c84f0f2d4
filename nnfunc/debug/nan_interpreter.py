"""An interpreter that runs a plain function operation by operation, up to the first NaN or infinity."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nnfunc.jaxprs import run_equations, run_scan

LIBRARIES = (
    *(os.path.dirname(os.path.abspath(module.__file__ or "")) + os.sep for module in (jax, np)),
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
)


class Operation(NamedTuple):
    """name: of JAX's primitive, such as log.

    line: the user's line that called it, as file:line (function).

    scopes: of `jax.named_scope`.
    iterations: the 0-based iteration of each surrounding scan.
    """

    name: str
    line: str
    scopes: tuple[str, ...]
    iterations: tuple[int, ...]


class _NotFinite(Exception):
    """Leaves the program at an operation whose result is not finite. args: the operation."""


def first_operation(function: Callable[..., Any], *args: Any) -> Operation | None:
    """The first operation of function(*args) whose result is not finite; None when all are finite.

    args: finite arrays. A scan is run iteration by iteration; a `while_loop` or `cond` counts as one operation.
    """
    closed = jax.make_jaxpr(function)(*args)
    with jax.numpy_dtype_promotion("standard"):
        try:
            _run_jaxpr(closed.jaxpr, closed.consts, jax.tree.leaves(args), (), ())
        except _NotFinite as error:
            return error.args[0]
    return None


def _run_jaxpr(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], scopes: tuple[str, ...], iterations: tuple[int, ...]
) -> list[Any]:
    def run(eqn: Any, inputs: list[Any]) -> list[Any]:
        stack = re.sub(r"\w*\(|\)", "", str(eqn.source_info.name_stack))  # transpose(jvp(name))
        return _run_eqn(eqn, inputs, scopes + tuple(name for name in stack.split("/") if name), iterations)

    return run_equations(jaxpr, consts, args, run)


def _run_eqn(eqn: Any, values: list[Any], scopes: tuple[str, ...], iterations: tuple[int, ...]) -> list[Any]:
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    if eqn.primitive.name == "scan":
        return _run_scan(eqn, values, scopes, iterations)
    if inner is not None and eqn.primitive.name not in ("while", "cond", "pallas_call"):
        consts = getattr(inner, "consts", ())
        body = getattr(inner, "jaxpr", inner)
        if len(body.invars) == len(values):
            return _run_jaxpr(body, consts, values, scopes, iterations)
    bind_params = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bind_params if isinstance(bind_params, tuple) else ((), bind_params)  # before jax 0.10
    results = eqn.primitive.bind(*functions, *values, **params)
    results = list(results) if eqn.primitive.multiple_results else [results]
    if all(map(_is_finite, results)):
        return results
    raise _NotFinite(Operation(eqn.primitive.name, _user_line(eqn), scopes, iterations))


def _run_scan(eqn: Any, values: list[Any], scopes: tuple[str, ...], iterations: tuple[int, ...]) -> list[Any]:
    inner = eqn.params["jaxpr"]
    run = lambda i, args: _run_jaxpr(inner.jaxpr, inner.consts, args, scopes, (*iterations, i))
    carry, rows = run_scan(eqn, values, run)
    if rows:
        return [*carry, *(jnp.stack(ys) for ys in zip(*rows, strict=True))]
    return [*carry, *(jnp.zeros((0, *y.aval.shape), y.aval.dtype) for y in inner.jaxpr.outvars[len(carry) :])]


def _user_line(eqn: Any) -> str:
    """The innermost line that called the operation and belongs to neither JAX, NumPy nor nnfunc."""
    trace = eqn.source_info.traceback
    frame = trace.as_python_traceback() if trace is not None else None
    line = ""
    while frame is not None:
        code = frame.tb_frame.f_code
        if not code.co_filename.startswith((*LIBRARIES, "<")):
            line = f"{os.path.basename(code.co_filename)}:{frame.tb_lineno} ({code.co_name})"
        frame = frame.tb_next
    return line


def _is_finite(value: Any) -> bool:
    if not jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        return True
    return bool(jnp.isfinite(value).all())
