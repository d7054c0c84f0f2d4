"""An interpreter that runs a plain function operation by operation, up to the first NaN or infinity."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LIBRARIES = (
    *(os.path.dirname(os.path.abspath(module.__file__ or "")) + os.sep for module in (jax, np)),
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
)


class Operation(NamedTuple):
    """name: of JAX's primitive, such as log. line: the user's line that called it, as file:line (function).

    scopes: of `jax.named_scope`. iterations: the 0-based iteration of each surrounding scan.
    """

    name: str
    line: str
    scopes: tuple[str, ...]
    iterations: tuple[int, ...]


Result = tuple[Operation | None, list[Any]]
"""The operation whose result is not finite, and []; or None, and the results."""


def first_operation(function: Callable[..., Any], *args: Any) -> Operation | None:
    """The first operation of function(*args) whose result is not finite; None when all are finite.

    args: finite arrays. A scan is run iteration by iteration; a `while_loop` or `cond` counts as one
    operation.
    """
    closed = jax.make_jaxpr(function)(*args)
    with jax.numpy_dtype_promotion("standard"):
        operation, _ = _run_jaxpr(closed.jaxpr, closed.consts, jax.tree.leaves(args), (), ())
    return operation


def _run_jaxpr(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], scopes: tuple[str, ...], iterations: tuple[int, ...]
) -> Result:
    values: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    values.update(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        stack = re.sub(r"\w*\(|\)", "", str(eqn.source_info.name_stack))  # transpose(jvp(name))
        eqn_scopes = scopes + tuple(name for name in stack.split("/") if name)
        operation, results = _run_eqn(eqn, [read(atom) for atom in eqn.invars], eqn_scopes, iterations)
        if operation is not None:
            return operation, []
        values.update(zip(eqn.outvars, results, strict=True))
    return None, [read(atom) for atom in jaxpr.outvars]


def _run_eqn(eqn: Any, values: list[Any], scopes: tuple[str, ...], iterations: tuple[int, ...]) -> Result:
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
        return None, results
    return Operation(eqn.primitive.name, _user_line(eqn), scopes, iterations), []


def _run_scan(eqn: Any, values: list[Any], scopes: tuple[str, ...], iterations: tuple[int, ...]) -> Result:
    params, inner = eqn.params, eqn.params["jaxpr"]
    consts, body = getattr(inner, "consts", ()), getattr(inner, "jaxpr", inner)
    # Constants and carry have as many axes inside the body as outside, stacked arrays one less. Other
    # ways to tell them apart differ between versions of JAX.
    same_ndim = lambda outer, inner: len(outer.aval.shape) == len(inner.aval.shape)
    num_carry = sum(map(same_ndim, eqn.outvars, body.outvars))
    num_unstacked = sum(map(same_ndim, eqn.invars, body.invars))
    fixed, carry = values[: num_unstacked - num_carry], values[num_unstacked - num_carry : num_unstacked]
    xs, ys = values[num_unstacked:], []
    order = range(params["length"])
    for i in reversed(order) if params["reverse"] else order:
        args = [*fixed, *carry, *(x[i] for x in xs)]
        operation, results = _run_jaxpr(body, consts, args, scopes, (*iterations, i))
        if operation is not None:
            return operation, []
        carry = results[:num_carry]
        ys.append(results[num_carry:])
    ys = ys[::-1] if params["reverse"] else ys
    if ys:
        stacked = [jnp.stack(column) for column in zip(*ys, strict=True)]
    else:
        stacked = [jnp.zeros((0, *y.aval.shape), y.aval.dtype) for y in body.outvars[num_carry:]]
    return None, [*carry, *stacked]


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
