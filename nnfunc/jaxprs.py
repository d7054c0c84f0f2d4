"""Parts of traced programs: the programs that equations call, and the operands of loops."""

from collections.abc import Sequence
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
