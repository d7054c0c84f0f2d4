"""Traced programs: how they are run equation by equation, the programs that equations call, and loops."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn

CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}
"""The primitives that call a program, and the parameter that holds it."""


def run_equations(
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    args: Sequence[Any],
    run: Callable[[JaxprEqn, list[Any]], Sequence[Any]],
    equations: Iterable[JaxprEqn] | None = None,
) -> list[Any]:
    """The outputs of a program, each of whose equations is run by `run(equation, inputs)`, which returns its outputs.

    consts, args: the values of its constants and arguments.
    equations: those to run, all by default.
    """
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= dict(zip(jaxpr.invars, args, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if hasattr(variable, "val") else values[variable]

    for eqn in jaxpr.eqns if equations is None else equations:
        values.update(zip(eqn.outvars, run(eqn, [read(variable) for variable in eqn.invars]), strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def run_scan(
    eqn: JaxprEqn,
    inputs: list[Any],
    step: Callable[[int, list[Any]], Sequence[Any]],
    row: Callable[[Any, int], Any] = lambda x, i: x[i],
) -> tuple[list[Any], list[Sequence[Any]]]:
    """A scan written out: the last carry, and the outputs of each step in the order of their axis.

    eqn, inputs: the equation and its inputs.
    step: (i, inputs of the body) -> outputs of the body.
    row: (x, i) -> the part of an array over the steps that step i gets.
    """
    consts, carry, xs = scan_operands(eqn, inputs)
    rows = []
    order = range(eqn.params["length"])
    for i in reversed(order) if eqn.params["reverse"] else order:
        outputs = step(i, [*consts, *carry, *(row(x, i) for x in xs)])
        carry = list(outputs[: len(carry)])
        rows.append(outputs[len(carry) :])
    return carry, rows[::-1] if eqn.params["reverse"] else rows


def called(eqn: JaxprEqn) -> tuple[Jaxpr, Sequence[Any]] | None:
    """The program that an equation calls, and its constants; None if it calls none."""
    if eqn.primitive.name not in CALLS:
        return None
    inner = eqn.params[CALLS[eqn.primitive.name]]
    return getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())


def scan_operands(eqn: JaxprEqn, inputs: list[Any]) -> tuple[list[Any], list[Any], list[Any]]:
    """The constants, the carry and the arrays over the steps among the inputs of an equation of a scan."""
    body = eqn.params["jaxpr"]
    # what is stacked over the steps has one axis more outside; the parameters that say so differ by version of JAX
    last = sum(_ndim(x) == _ndim(v) for x, v in zip(eqn.invars, body.jaxpr.invars, strict=True))
    pairs = zip(eqn.outvars, body.jaxpr.outvars, strict=True)
    first = last - sum(_ndim(v) == _ndim(inner) for v, inner in pairs)
    return inputs[:first], inputs[first:last], inputs[last:]


def _ndim(variable: Any) -> int:
    return np.ndim(variable.val) if hasattr(variable, "val") else len(getattr(variable.aval, "shape", ()))
