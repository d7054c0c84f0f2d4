"""A plain function run operation by operation, to find the first result that is not finite."""

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Operation", "first_operation"]

OURS = tuple(os.path.dirname(os.path.abspath(m.__file__ or "")) + os.sep for m in (jax, np)) + (
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
)


class Operation(NamedTuple):
    """name: of JAX's primitive, such as log. line: file:line (function) of the user's that called it.

    scopes: those of `jax.named_scope`. turns: how often each surrounding scan had gone round before.
    """

    name: str
    line: str
    scopes: tuple[str, ...]
    turns: tuple[int, ...]


def first_operation(function: Callable[..., Any], *args: Any) -> Operation | None:
    """The first operation of function(*args) with a result that is not finite, from finite inputs.

    Scans are gone through turn by turn; what is inside a `while_loop` or `cond` counts as one
    operation. None when all results are finite.
    """
    closed = jax.make_jaxpr(function)(*args)
    with jax.numpy_dtype_promotion("standard"):
        found, _ = _walk(closed.jaxpr, closed.consts, jax.tree.leaves(args), (), ())
    return found


def _walk(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], scopes: tuple[str, ...], turns: tuple[int, ...]
) -> tuple[Operation | None, list[Any]]:
    """The first such operation of a jaxpr, or None and its results."""
    known: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else known[atom]

    known.update(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        values = [read(atom) for atom in eqn.invars]
        stack = re.sub(r"\w*\(|\)", "", str(eqn.source_info.name_stack))  # transpose(jvp(name))
        here = scopes + tuple(name for name in stack.split("/") if name)
        found, results = _operation(eqn, values, here, turns)
        if found is not None:
            return found, []
        known.update(zip(eqn.outvars, results, strict=True))
    return None, [read(atom) for atom in jaxpr.outvars]


def _operation(
    eqn: Any, values: list[Any], scopes: tuple[str, ...], turns: tuple[int, ...]
) -> tuple[Operation | None, list[Any]]:
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
    if eqn.primitive.name == "scan":
        return _scan(eqn, values, scopes, turns)
    if inner is not None and eqn.primitive.name not in ("while", "cond", "pallas_call"):
        consts = getattr(inner, "consts", ())
        body = getattr(inner, "jaxpr", inner)
        if len(body.invars) == len(values):
            return _walk(body, consts, values, scopes, turns)
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # before jax 0.10
    results = eqn.primitive.bind(*functions, *values, **params)
    results = list(results) if eqn.primitive.multiple_results else [results]
    if all(map(_finite, results)):
        return None, results
    return Operation(eqn.primitive.name, _line(eqn), scopes, turns), []


def _scan(
    eqn: Any, values: list[Any], scopes: tuple[str, ...], turns: tuple[int, ...]
) -> tuple[Operation | None, list[Any]]:
    """A scan, turn by turn."""
    params, inner = eqn.params, eqn.params["jaxpr"]
    consts, body = getattr(inner, "consts", ()), getattr(inner, "jaxpr", inner)
    # what is not stacked over the turns has as many axes outside as inside: versions of JAX differ
    # in how else they say it
    alike = lambda out, own: len(out.aval.shape) == len(own.aval.shape)
    carry = sum(map(alike, eqn.outvars, body.outvars))
    held = sum(map(alike, eqn.invars, body.invars))
    fixed, carried = values[: held - carry], values[held - carry : held]
    given, length, rows = values[held:], params["length"], []
    order = range(length - 1, -1, -1) if params["reverse"] else range(length)
    for i in order:
        own = [*fixed, *carried, *(x[i] for x in given)]
        found, results = _walk(body, consts, own, scopes, (*turns, i))
        if found is not None:
            return found, []
        carried = results[:carry]
        rows.append(results[carry:])
    rows = rows[::-1] if params["reverse"] else rows
    made = body.outvars[carry:]
    if rows:
        stacked = [jnp.stack(column) for column in zip(*rows, strict=True)]
    else:
        stacked = [jnp.zeros((0, *v.aval.shape), v.aval.dtype) for v in made]
    return None, [*carried, *stacked]


def _line(eqn: Any) -> str:
    """The innermost line that called the operation and is neither JAX's nor ours."""
    trace = eqn.source_info.traceback
    frame = trace.as_python_traceback() if trace is not None else None
    line = ""
    while frame is not None:
        code = frame.tb_frame.f_code
        if not code.co_filename.startswith((*OURS, "<")):
            line = f"{os.path.basename(code.co_filename)}:{frame.tb_lineno} ({code.co_name})"
        frame = frame.tb_next
    return line


def _finite(value: Any) -> bool:
    if not jnp.issubdtype(jnp.result_type(value), jnp.inexact):
        return True
    return bool(jnp.isfinite(value).all())
